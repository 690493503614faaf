"""`cmpd service-user`: named sets of certificates that alone may use a profile; the running daemon asks the store.

A certificate belongs to a service user by its fingerprint, or because one issuer has issued it to one subject: then
every renewal of it does too.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from cmpd.asn1 import MalformedError, name_text
from cmpd.asn1.compare import same_name
from cmpd.cli.draft import node
from cmpd.cli.names import encodings
from cmpd.cli.operation import faults, now, profiles_of, store_of
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json, write_table
from cmpd.exchange import ServiceUserCertificate
from cmpd.profile import Profile, ProfileError, parse_name
from cmpd.settings import Settings
from cmpd.store import AdminStore

_NAME = re.compile(node(("enrollment", "service_user"))["pattern"])
_LABEL = 200
_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")

Which = tuple[str | None, str, str]
"""A certificate as it is listed: fingerprint, issuer and subject."""


def add(
    path: Path,
    name: str,
    *,
    certificates: Sequence[Path],
    by: str,
    fingerprint: str | None,
    label: str | None,
    issuer: str | None,
    subject: str | None,
    json: bool,
) -> None:
    """Add certificates to a service user, made by its first one."""
    _check_name(name)
    _check_way(certificates, fingerprint, issuer, subject)
    if label is not None and not (label.isprintable() and len(label) <= _LABEL):
        raise OperatorError(f"--label: write up to {_LABEL} printable characters")
    moment = now()
    notices: list[str] = []
    entries: list[ServiceUserCertificate] = []
    with faults():
        settings = Settings.load(path)
        for file in certificates:
            entry, found = _of_file(name, file, by)
            entries.append(entry)
            notices += found
        if fingerprint is not None:
            entries.append(ServiceUserCertificate(name, moment, fingerprint=_fingerprint(fingerprint)))
        elif issuer is not None and subject is not None:
            entries += _of_names(name, issuer, subject)
        if label is not None:
            entries = [replace(entry, label=label) for entry in entries]

        async def change() -> list[bool]:
            async with store_of(settings) as store:
                return [await store.add_service_user(entry) for entry in entries]

        added = asyncio.run(change())
        notices += _profile_notices(settings, name)
    outcome: dict[Which, tuple[ServiceUserCertificate, bool]] = {}
    for entry, new in zip(entries, added, strict=True):
        before = outcome.get(_which(entry))
        outcome[_which(entry)] = (entry, new or (before is not None and before[1]))
    if json:
        shown = [_public(entry) | {"added": new} for entry, new in outcome.values()]
        write_json({"user": name, "certificates": shown, "notices": notices})
        return
    write(
        *(
            f"{_text(entry)}: {'is one of' if new else 'was there already, and stays one of'} {name}"
            for entry, new in outcome.values()
        ),
        *(f"note: {plain(notice)}" for notice in notices),
    )


def show_all(path: Path, *, name: str | None, json: bool) -> None:
    """Print the certificates of one service user, or of all."""

    async def read() -> list[ServiceUserCertificate]:
        async with store_of(Settings.load(path)) as store:
            return await store.service_users(name)

    with faults():
        rows: dict[tuple[str, Which], ServiceUserCertificate] = {}
        for entry in asyncio.run(read()):
            rows.setdefault((entry.user, _which(entry)), entry)
    if json:
        write_json([_public(entry) for entry in rows.values()])
        return
    write_table(
        ("USER", "BY", "CERTIFICATE", "LABEL", "ADDED"),
        (
            (
                plain(entry.user),
                "name" if entry.fingerprint is None else "fingerprint",
                entry.fingerprint or plain(_names(entry)),
                plain(entry.label),
                time_text(entry.added),
            )
            for entry in rows.values()
        ),
        empty="There are no service users." if name is None else f"{plain(name)} has no certificates.",
    )


def remove(
    path: Path,
    name: str,
    *,
    certificates: Sequence[Path],
    fingerprint: str | None,
    issuer: str | None,
    subject: str | None,
    everything: bool,
    json: bool,
) -> None:
    """Take certificates from a service user; a fault when it has none of them."""
    if everything and (certificates or fingerprint or issuer or subject):
        raise OperatorError("--all: takes all certificates away; leave out the other options")
    if not everything:
        _check_way(certificates, fingerprint, issuer, subject, or_all=True)
    with faults():
        settings = Settings.load(path)
        digests = {_fingerprint(fingerprint)} if fingerprint is not None else set()
        names: list[tuple[bytes, bytes]] = []
        for file in certificates:  # by whatever it is known: afterwards it is none of the service user's
            found, _ = _certificate(file)
            digests.add(found.fingerprint(hashes.SHA256()).hex())
            names.append((found.issuer.public_bytes(), found.subject.public_bytes()))
        if issuer is not None and subject is not None:
            names.append((_name("--issuer", issuer).public_bytes(), _name("--subject", subject).public_bytes()))

        def is_meant(entry: ServiceUserCertificate) -> bool:
            if everything:
                return True
            if entry.fingerprint is not None:
                return entry.fingerprint in digests
            assert entry.issuer is not None
            assert entry.subject is not None
            return any(same_name(entry.issuer, one) and same_name(entry.subject, other) for one, other in names)

        async def change() -> dict[Which, ServiceUserCertificate]:
            async with store_of(settings) as store:
                return await _remove(store, [entry for entry in await store.service_users(name) if is_meant(entry)])

        removed = asyncio.run(change())
        if not removed:
            raise OperatorError(
                f"service user {plain(name)} has no such certificate; see `cmpd service-user list {plain(name)}`"
            )
        notices = _profile_notices(settings, name, only_left=True)
    if json:
        write_json({"user": name, "removed": [_public(entry) for entry in removed.values()], "notices": notices})
        return
    write(
        *(f"{_text(entry)}: is no longer one of {plain(name)}" for entry in removed.values()),
        *(f"note: {plain(notice)}" for notice in notices),
    )


async def _remove(store: AdminStore, entries: Sequence[ServiceUserCertificate]) -> dict[Which, ServiceUserCertificate]:
    removed = {}
    for entry in entries:
        if entry.fingerprint is not None:
            count = await store.remove_service_user(entry.user, entry.fingerprint)
        else:
            count = await store.remove_service_user(entry.user, issuer=entry.issuer, subject=entry.subject)
        if count:
            removed[_which(entry)] = entry
    return removed


# ------------------------------------------------------------------------------------------------------------- reading


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise OperatorError(
            f"{plain(name)}: not a name of a service user; write 1 to 64 characters of A-Z a-z 0-9 . _ -, the first a "
            "letter or digit, as in enrollment.service_user of the profile"
        )


def _check_way(
    certificates: Sequence[Path],
    fingerprint: str | None,
    issuer: str | None,
    subject: str | None,
    *,
    or_all: bool = False,
) -> None:
    """See that one way of naming certificates is used, and that one whole."""
    if (issuer is None) != (subject is None):
        missing = "--issuer" if issuer is None else "--subject"
        raise OperatorError(f"{missing}: is missing; a certificate is known by issuer and subject together")
    ways = [bool(certificates), fingerprint is not None, issuer is not None]
    if sum(ways) != 1:
        raise OperatorError(
            "name the certificate in one way: --certificate FILE, --fingerprint HEX, or --issuer DN with --subject DN"
            + ("; or --all" if or_all else "")
        )


def _certificate(file: Path) -> tuple[x509.Certificate, int]:
    """The first certificate of a PEM file, the end entity's, and how many there are."""
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except ValueError:
        raise OperatorError(f"--certificate {plain(str(file))}: not a PEM file with a certificate") from None
    return found[0], len(found)


def _of_file(name: str, file: Path, by: str) -> tuple[ServiceUserCertificate, list[str]]:
    """The entry for the certificate of a file, and what an operator should know of it."""
    found, count = _certificate(file)
    moment, where = now(), f"{file}"
    issuer, subject = found.issuer.public_bytes(), found.subject.public_bytes()
    notices = []
    if count > 1:
        notices.append(f"{where}: has {count} certificates; the first is the client's, the others were left out")
    if found.not_valid_after_utc <= moment:
        notices.append(f"{where}: expired at {time_text(found.not_valid_after_utc)}; it is not accepted")
    elif by == "fingerprint":
        notices.append(
            f"{where}: ends at {time_text(found.not_valid_after_utc)}; add its successor before, or use --by name"
        )
    label = name_text(subject)[:_LABEL]
    if by == "name":
        if not found.subject.rdns:
            raise OperatorError(f"--by name: {plain(where)} has an empty subject; use --by fingerprint")
        return ServiceUserCertificate(name, moment, issuer=issuer, subject=subject, label=label), notices
    fingerprint = found.fingerprint(hashes.SHA256()).hex()
    return ServiceUserCertificate(name, moment, fingerprint=fingerprint, label=label), notices


def _of_names(name: str, issuer: str, subject: str) -> list[ServiceUserCertificate]:
    """The entries for names that were written as text: one for each way that a CA may have encoded them."""
    moment = now()
    ways = product(encodings(_name("--issuer", issuer)), encodings(_name("--subject", subject)))
    return [ServiceUserCertificate(name, moment, issuer=one, subject=other, label=subject) for one, other in ways]


def _name(option: str, text: str) -> x509.Name:
    try:
        return parse_name(text)
    except ValueError as error:
        raise OperatorError(f"{option} {plain(text)}: {error}") from None


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not _HEXADECIMAL.fullmatch(digits):
        raise OperatorError(
            f"--fingerprint {plain(text)}: not a SHA-256 fingerprint; write 64 hexadecimal digits, as "
            "`openssl x509 -noout -fingerprint -sha256` prints them"
        )
    return digits


def _profile_notices(settings: Settings, name: str, *, only_left: bool = False) -> list[str]:
    """What the profiles have to do with a service user."""
    try:
        profiles = profiles_of(settings)
    except ProfileError:
        return ["the profiles cannot be read; `cmpd check` says why"]
    using = [profile for profile in profiles.values() if profile.service_user == name]
    if only_left:
        return _without_any(settings, name, using)
    if using:
        return [f"profile {profile.name} is for this service user only" for profile in using]
    where = settings.profiles.directory
    return [f"no profile is for this service user; set enrollment.service_user = {name!r} in one of {where}"]


def _without_any(settings: Settings, name: str, using: Sequence[Profile]) -> list[str]:
    async def read() -> list[ServiceUserCertificate]:
        async with store_of(settings) as store:
            return await store.service_users(name)

    if not using or asyncio.run(read()):
        return []
    return [
        f"profile {profile.name} is for this service user only, which has no certificate now: nobody can enroll there"
        for profile in using
    ]


# ------------------------------------------------------------------------------------------------------------- showing


def _which(entry: ServiceUserCertificate) -> Which:
    return entry.fingerprint, _name_text(entry.issuer), _name_text(entry.subject)


def _name_text(name: bytes | None) -> str:
    try:
        return "" if name is None else name_text(name)
    except MalformedError:
        return name.hex() if name is not None else ""


def _names(entry: ServiceUserCertificate) -> str:
    return f"{_name_text(entry.subject)}  issued by  {_name_text(entry.issuer)}"


def _text(entry: ServiceUserCertificate) -> str:
    if entry.fingerprint is None:
        return plain(f"any certificate of {_name_text(entry.subject)} issued by {_name_text(entry.issuer)}")
    label = f" ({entry.label})" if entry.label else ""
    return plain(f"{entry.fingerprint}{label}")


def _public(entry: ServiceUserCertificate) -> dict[str, Any]:
    return {
        "user": entry.user,
        "by": "name" if entry.fingerprint is None else "fingerprint",
        "fingerprint": entry.fingerprint,
        "issuer": _name_text(entry.issuer) or None,
        "subject": _name_text(entry.subject) or None,
        "label": entry.label,
        "added": time_text(entry.added),
    }
