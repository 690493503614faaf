"""`cmpd code`: enrollment codes are made, looked at, revoked and unlocked in the store, beside a running daemon."""

import asyncio
import getpass
import hmac
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from cmpd.cli import new_code, secret
from cmpd.cli.operation import faults, now, profiles_of, store_of, url_of
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json, write_table
from cmpd.cli.secret import new_reference, new_secret
from cmpd.exchange import EnrollmentCode
from cmpd.profile import Profile
from cmpd.settings import Settings
from cmpd.store import ReferenceTaken

T = TypeVar("T")

STATES = ("usable", "not yet valid", "locked", "used up", "expired", "revoked")
"""What can be said of a code; the first three may begin a transaction, now or later."""
GOOD = frozenset(STATES[:3])
COST = (
    "a global code is one secret for the whole fleet: whoever learns it can enroll any name that the profile allows,"
    " until it is revoked"
)


def create(
    path: Path,
    *,
    profile: str,
    uses: str | None,
    expires: str,
    valid_from: str | None,
    reference: str | None,
    seat: str | None,
    subject: str | None,
    san: Sequence[str],
    key_fingerprint: str | None,
    key: Path | None,
    is_global: bool,
    json: bool,
) -> None:
    """Make a code and print it with its secret, once."""
    at = now()
    with faults():
        settings = Settings.load(path)
        if is_global and (seat or key_fingerprint or key):
            raise OperatorError(
                "--global: is for a whole fleet, and --seat and --key for one device; leave one of them"
            )
        if key is not None and key_fingerprint is not None:
            raise OperatorError("--key: is given beside --key-fingerprint; leave one of them")
        begins = None if valid_from is None else _option("from", valid_from, lambda t: new_code.valid_from_of(t, at))
        fingerprint = (
            _option("key", str(key), lambda _: new_code.fingerprint_in(key))
            if key is not None
            else _option("key-fingerprint", key_fingerprint, new_code.fingerprint_of)
        )
        code, text, url = asyncio.run(
            make(
                settings,
                profile=profile,
                uses=_option("uses", uses or ("unlimited" if is_global else "1"), new_code.uses_of),
                expires=_option("expires", expires, lambda t: new_code.expires_of(t, at, begins)),
                reference=reference,
                valid_from=begins,
                seat=_option("seat", seat, new_code.seat_of),
                subject=_option("subject", subject, new_code.expression_of),
                san=[one for one in (_option("san", text, new_code.san_of) for text in san) if one is not None],
                key=fingerprint,
                is_global=is_global,
            )
        )
    if is_global:
        sys.stderr.write(f"cmpd: {COST}\n")
    if json:
        write_json(public(code) | {"secret": text, "url": url, "code_url": code_url(url, code)})
        return
    write(
        f"reference  {code.reference}",
        f"secret     {text}",
        f"url        {url}",
        f"           {code_url(url, code)}",
        "           for clients whose reference value cannot be set",
        f"good for   {uses_text(code)}, {validity_text(code)}",
        *(f"bound to   {plain(one)}" for one in bounds(code)),
        "Only `cmpd code export` shows the secret again.",
    )


async def make(
    settings: Settings,
    *,
    profile: str,
    uses: int | None,
    expires: datetime | None,
    reference: str | None,
    valid_from: datetime | None = None,
    seat: str | None = None,
    subject: str | None = None,
    san: Sequence[str] = (),
    key: str | None = None,
    is_global: bool = False,
) -> tuple[EnrollmentCode, str, str]:
    """Keep a new code; the code, its secret and the URL of its profile. Raises OperatorError."""
    known = profile_with_codes(settings, profiles_of(settings), profile, is_global=is_global)
    name = _option("reference", reference, new_code.reference_of) or new_reference()
    text = new_secret()
    async with store_of(settings) as store:
        try:
            code = await store.create_code(
                profile,
                name,
                text.encode(),
                uses,
                expires,
                now(),
                valid_from=valid_from,
                seat=seat,
                subject=subject,
                san=san,
                key=key,
                is_global=is_global,
            )
        except ReferenceTaken:
            raise OperatorError(
                f"--reference {name}: profile {profile} has a code of this reference; choose another"
            ) from None
    return code, text, url_of(settings, known)


def _option(name: str, text: str | None, read: Callable[[str], T]) -> T | None:
    """Read an option's value, if there is one. Raises OperatorError naming the option."""
    if text is None:
        return None
    try:
        return read(text)
    except ValueError as error:
        raise OperatorError(f"--{name} {plain(text) or '(empty)'}: {error}") from None


def profile_with_codes(
    settings: Settings, known: Mapping[str, Profile], name: str, *, is_global: bool = False
) -> Profile:
    """The profile of `--profile`, which takes enrollment codes. Raises OperatorError."""
    if name not in known:
        raise OperatorError(
            f"--profile {plain(name)}: no such profile; there are: {', '.join(sorted(known)) or 'none'}"
        )
    profile = known[name]
    if profile.authentication_method != "enrollment_code":
        raise OperatorError(
            f'--profile {name}: takes no enrollment codes; its authentication_method is "tls_certificate"'
        )
    if is_global and not profile.code.allow_global:
        raise OperatorError(
            f"--global: profile {name} does not allow it, because {COST};"
            f" if that is wanted write allow_global = true under [enrollment.code] in"
            f" {settings.profiles.directory / f'{name}.toml'}"
        )
    return profile


def show_all(path: Path, *, profile: str | None, states: Sequence[str], json: bool) -> None:
    """Print the codes, oldest first."""

    async def read() -> list[EnrollmentCode]:
        async with store_of(Settings.load(path)) as store:
            return await store.codes(profile)

    wanted = states_of(states) or set(STATES)
    with faults():
        codes = [code for code in asyncio.run(read()) if state(code) in wanted]
    if json:
        write_json([public(code) for code in codes])
        return
    write_table(
        ("PROFILE", "REFERENCE", "USED", "EXPIRES", "STATE", "FOR"),
        (
            (
                code.profile,
                plain(code.reference),
                f"{code.used}/{'∞' if code.uses is None else code.uses}",
                time_text(code.expires) or "never",
                state(code),
                "every client" if code.is_global else plain(code.seat or "-"),
            )
            for code in codes
        ),
        empty="There are no enrollment codes." if not states and not profile else "There are no such enrollment codes.",
    )


def show(path: Path, *, profile: str, reference: str, json: bool) -> None:
    """Print everything about a code but its secret."""
    with faults():
        settings = Settings.load(path)
        code = asyncio.run(_find(settings, profile, reference))
        known = profiles_of(settings).get(profile)
    url = "" if known is None else url_of(settings, known)
    if json:
        urls = {"url": url or None, "code_url": code_url(url, code) if url else None}
        write_json(public(code) | urls)
        return
    write(
        f"profile    {plain(code.profile)}",
        f"reference  {plain(code.reference)}",
        f"state      {state_text(code)}",
        f"good for   {uses_text(code)}, {validity_text(code)}",
        f"used       {code.used}",
        f"created    {time_text(code.created)}",
        *(f"bound to   {plain(one)}" for one in bounds(code)),
        *([f"url        {url}", f"           {code_url(url, code)}"] if url else []),
    )


def revoke(path: Path, *, profile: str, reference: str, json: bool) -> None:
    """Revoke a code; a fault when there is none to revoke."""

    async def change() -> bool:
        async with store_of(Settings.load(path)) as store:
            return await store.revoke_code(profile, reference, now())

    with faults():
        if not asyncio.run(change()):
            raise OperatorError(
                f"profile {plain(profile)} has no code {plain(reference)} that is not revoked; see `cmpd code list`"
            )
    if json:
        write_json({"profile": profile, "reference": reference, "revoked": True})
    else:
        write(f"{plain(reference)} of profile {plain(profile)} is revoked.")


def unlock(path: Path, *, profile: str, reference: str, json: bool) -> None:
    """Forget the locks of a code; a fault when there are none."""

    async def change() -> bool:
        async with store_of(Settings.load(path)) as store:
            return await store.unlock_code(profile, reference)

    with faults():
        if not asyncio.run(change()):
            raise OperatorError(
                f"profile {plain(profile)} has no code {plain(reference)} that has been locked; see `cmpd code list`"
            )
    if json:
        write_json({"profile": profile, "reference": reference, "unlocked": True})
    else:
        write(f"{plain(reference)} of profile {plain(profile)} is not locked any more.")


def verify(path: Path, *, profile: str | None, reference: str | None, json: bool) -> None:
    """Read a secret and say whether it is written right, and whether it is that of a code; exit status 1 if not."""
    if (profile is None) != (reference is None):
        raise OperatorError("--profile and --reference: go together; write both or none")
    with faults():
        code = (
            asyncio.run(_find(Settings.load(path), profile, reference))
            if profile is not None and reference is not None
            else None
        )
        typed = _typed()
    rewritten = secret.rewritten(typed)
    own_form = secret.is_of_own_form(typed)
    fits = None if rewritten is None else secret.check_fits(rewritten)
    is_it = code is not None and hmac.compare_digest(typed.encode(), code.secret)
    would_be = code is not None and rewritten is not None and hmac.compare_digest(rewritten.encode(), code.secret)
    good = is_it if code is not None else own_form and bool(fits)
    if json:
        write_json({"form": own_form, "check_character": fits, "code": None if code is None else is_it})
    else:
        lines = []
        if fits is None:
            groups = f"{secret.GROUPS} groups of {secret.GROUP} characters of {secret.ALPHABET}"
            lines.append(f"It has no check character: secrets that cmpd has made are {groups}.")
        else:
            lines.append("The check character fits." if fits else "The check character does not fit: it is mistyped.")
            if not own_form:
                lines.append("It must be entered in capital letters, in groups of four with the hyphens between.")
        if code is not None:
            mistake = ", but it is not entered that way" if would_be and not is_it else ""
            which = f"the secret of {plain(code.reference)} of profile {plain(code.profile)}"
            lines.append(f"It is {which}{mistake}." if is_it or would_be else f"It is not {which}.")
            if is_it and state(code) != "usable":
                lines.append(f"The code is {state_text(code)}.")
        write(*lines)
    if not good:
        sys.exit(1)


def _typed() -> str:
    """A secret from the terminal, unseen, or the first line of standard input."""
    if sys.stdin.isatty():
        return getpass.getpass("Secret: ").strip()
    try:
        return sys.stdin.readline().strip()
    except UnicodeDecodeError:
        raise OperatorError("standard input: not UTF-8; write it in UTF-8") from None


async def _find(settings: Settings, profile: str, reference: str) -> EnrollmentCode:
    async with store_of(settings) as store:
        code = await store.code(profile, reference.encode())
    if code is None:
        raise OperatorError(f"profile {plain(profile)} has no code {plain(reference)}; see `cmpd code list`")
    return code


# What is said of a code


def state(code: EnrollmentCode) -> str:
    """One of STATES."""
    at = now()
    if code.revoked:
        return "revoked"
    if code.valid_from is not None and at < code.valid_from:
        return "not yet valid"
    if code.expires is not None and at >= code.expires:
        return "expired"
    if code.uses is not None and code.used >= code.uses:
        return "used up"
    return "locked" if code.locked_until is not None and at < code.locked_until else "usable"


def state_text(code: EnrollmentCode) -> str:
    """Its state, and since or until when."""
    match found := state(code):
        case "expired":
            return f"expired at {time_text(code.expires)}"
        case "not yet valid":
            return f"not valid before {time_text(code.valid_from)}"
        case "locked":
            return f"locked until {time_text(code.locked_until)}; locks in a row: {code.locks}"
    return found


def states_of(texts: Sequence[str]) -> set[str]:
    """The states of --state, with spaces or hyphens. Raises OperatorError."""
    found = {text.replace("-", " ") for text in texts}
    for text in sorted(found - set(STATES)):
        known = ", ".join(one.replace(" ", "-") for one in STATES)
        raise OperatorError(f"--state {plain(text)}: not a state; write {known}")
    return found


def uses_text(code: EnrollmentCode) -> str:
    """How many certificates it is good for."""
    if code.uses is None:
        return "any number of certificates"
    return "one certificate" if code.uses == 1 else f"{code.uses} certificates"


def validity_text(code: EnrollmentCode) -> str:
    """From when until when."""
    begins = f"from {time_text(code.valid_from)} " if code.valid_from else ""
    return f"{begins}{f'until {time_text(code.expires)}' if code.expires else 'for ever'}"


def bounds(code: EnrollmentCode) -> list[str]:
    """What it is bound to, one phrase each."""
    found = []
    if code.seat is not None:
        found.append(f"seat {code.seat}")
    if code.subject is not None:
        found.append(f"subject {code.subject}")
    found += [f"subjectAltName {one}" for one in code.san]
    if code.key is not None:
        found.append(f"public key with SHA-256 {code.key}")
    if code.is_global:
        found.append("no client: a global code, good for every reference value")
    return found


def code_url(url: str, code: EnrollmentCode) -> str:
    """The URL that names the code, so that the client need not: below the profile's own URL."""
    return f"{url}/{quote(code.reference, safe='')}"


def public(code: EnrollmentCode) -> dict[str, Any]:
    """All of a code but its secret."""
    return {
        "profile": code.profile,
        "reference": code.reference,
        "uses": code.uses,
        "used": code.used,
        "created": time_text(code.created),
        "valid_from": time_text(code.valid_from) or None,
        "expires": time_text(code.expires) or None,
        "seat": code.seat,
        "subject": code.subject,
        "san": list(code.san),
        "key_fingerprint": code.key,
        "global": code.is_global,
        "locked_until": time_text(code.locked_until) or None,
        "locks": code.locks,
        "state": state(code),
    }
