"""`cmpd cert`: the certificates that have been issued."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.cli.operation import confirm, faults, issuer_of, now, store_of, who
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json, write_table
from cmpd.exchange import CertificateStatus, IssuedCertificate, OutsideRevocation, OutsideState, RevocationReason
from cmpd.ports import OutsideEffects, Revocation, Revoker
from cmpd.revoking import IDLE_SECONDS, Fate
from cmpd.settings import Settings
from cmpd.store import AdminStore

REASONS = (
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
)
"""Why an EE's certificate may be revoked for good (RFC 5280 §5.3.1)."""
LONGEST_BEFORE = 1000
OUTSIDE = {
    OutsideState.due: "to be revoked",
    OutsideState.asked: "waits for somebody's approval",
    OutsideState.done: "revoked",
    OutsideState.held: "refused, and not tried again",
    OutsideState.left: "left to the operator",
}
_NEXT = {
    Fate.here: "It is on the next CRL, where its issuer has one.",
    Fate.there: f"A running daemon has its issuer revoke it too, within about {IDLE_SECONDS:.0f} seconds or as soon as"
    " that can be reached; `cmpd cert show` says how it stands.",
    Fate.kept: "Its issuer is not asked: relying parties go on accepting it unless it is revoked there.",
}


def show_all(path: Path, *, profile: str | None, status: str | None, limit: int, json: bool) -> None:
    """Print the latest certificates."""
    if status is not None and status not in list(CertificateStatus):
        raise OperatorError(f"--status {plain(status)}: not a status; write {', '.join(CertificateStatus)}")

    async def read() -> list[IssuedCertificate]:
        async with store_of(Settings.load(path)) as store:
            wanted = None if status is None else CertificateStatus(status)
            return list(await store.certificates(limit, profile=profile, status=wanted))

    with faults():
        found = asyncio.run(read())
    if json:
        write_json([public(certificate) for certificate in found])
        return
    write_table(
        ("SERIAL", "SUBJECT", "PROFILE", "STATUS", "ISSUED", "NOT AFTER"),
        (
            (
                f"{certificate.serial:x}",
                plain(certificate.subject),
                certificate.profile,
                status_text(certificate),
                time_text(certificate.issued_at),
                time_text(certificate.not_after),
            )
            for certificate in found
        ),
        empty="No certificates have been issued.",
    )


def show(path: Path, *, serial: str, json: bool) -> None:
    """Print one certificate: what the store knows, then PEM."""

    async def read() -> IssuedCertificate:
        async with store_of(settings) as store:
            return await _find(store, serial)

    with faults():
        settings = Settings.load(path)
        found = asyncio.run(read())
    pem = x509.load_der_x509_certificate(found.der).public_bytes(Encoding.PEM).decode()
    if json:
        write_json(public(found) | {"pem": pem})
        return
    lines = public(found) | {"outside": _outside_text(found, known=found.issuer in settings.issuers)}
    write(*(f"{key:<14} {plain(str(value))}" for key, value in lines.items() if value))
    write(pem.rstrip())


def revoke(path: Path, *, serial: str, reason: str, local: bool, yes: bool, json: bool) -> None:
    """Revoke a certificate here, and have its issuer do the same where that is over there."""
    if reason not in REASONS:
        raise OperatorError(f"--reason {plain(reason)}: not a reason; write one of {', '.join(REASONS)}")

    async def read() -> tuple[IssuedCertificate, Fate]:
        async with store_of(settings) as store:
            found = await _find(store, serial)
        return found, await _may(settings, found, local=local)

    async def change(seen: IssuedCertificate, fate: Fate) -> IssuedCertificate:
        async with store_of(settings) as store:
            private = f"wanted by {who()} at {time_text(now())}"
            state = {Fate.there: OutsideState.due, Fate.kept: OutsideState.left}.get(fate)
            if seen.status is CertificateStatus.revoked:
                assert seen.outside is not None
                assert state is not None
                before = f"; before, {seen.outside.state.value}: {seen.outside.private}"[:LONGEST_BEFORE]
                again = replace(seen.outside, state=state, due=now(), private=private + before)
                again = replace(again, attempts=seen.outside.attempts + 1)
                if not await store.move_outside(seen.serial, again, seen=seen.outside):
                    raise _moved(seen)
            elif not await store.revoke(Revocation(seen.serial, RevocationReason[reason], now(), state, private)):
                raise _moved(seen)
            return await _find(store, f"{seen.serial:x}")

    with faults():
        settings = Settings.load(path)
        seen, fate = asyncio.run(read())
        if not yes:
            _confirm(seen, reason, fate)
        found = asyncio.run(change(seen, fate))
    if json:
        write_json(public(found))
        return
    write(f"{found.serial:x} is revoked ({found.reason.name if found.reason is not None else reason}). {_NEXT[fate]}")


async def _find(store: AdminStore, serial: str) -> IssuedCertificate:
    """The certificate of a serial number in hexadecimal. Raises OperatorError."""
    try:
        number = int(serial.replace(":", ""), 16)
    except ValueError:
        raise OperatorError(
            f"{plain(serial)}: not a serial number; write it in hexadecimal as `cmpd cert list` does"
        ) from None
    found = await store.certificate(number)
    if found is None:
        raise OperatorError(f"{plain(serial)}: no certificate of this serial number; see `cmpd cert list`")
    return found


async def _may(settings: Settings, found: IssuedCertificate, *, local: bool) -> Fate:
    """What revoking a certificate comes to. Raises OperatorError when it cannot be revoked, and says why."""
    it, outside = f"certificate {found.serial:x}", found.outside
    if found.status is CertificateStatus.revoked:
        is_open = outside is not None and outside.state not in {OutsideState.done, OutsideState.left}
        if not is_open or (outside is not None and outside.state is OutsideState.due and not local):
            waits = "; its issuer is being asked" if is_open else ""
            raise OperatorError(f"{it}: has been revoked already, at {time_text(found.revoked_at)}{waits}")
    elif found.not_after < now():
        raise OperatorError(f"{it}: expired at {time_text(found.not_after)}; there is nothing to revoke any more")
    if found.issuer not in settings.issuers:
        if local:
            return Fate.kept
        raise OperatorError(
            f"{it}: its issuer {found.issuer} is not configured in {settings.path}, and nobody would hear of it;"
            " configure it again, or write --local to have it revoked here only"
        )
    async with issuer_of(settings, found.issuer) as issuer:
        if not isinstance(issuer, Revoker | OutsideEffects):
            return Fate.here
        if local:
            return Fate.kept
        if isinstance(issuer, Revoker):
            return Fate.there
    raise OperatorError(
        f"{it}: its issuer {found.issuer} cannot be asked to revoke from here, and relying parties would go on"
        " accepting it; have it revoked there, then write --local to have it revoked here too"
    )


def _moved(seen: IssuedCertificate) -> OperatorError:
    return OperatorError(
        f"certificate {seen.serial:x}: has changed meanwhile, nothing was done; see `cmpd cert show {seen.serial:x}`"
    )


def _confirm(seen: IssuedCertificate, reason: str, fate: Fate) -> None:
    """Have the operator type `revoke`. Raises OperatorError for anything else."""
    where = {
        Fate.here: "It goes on the next CRL",
        Fate.there: f"It is revoked at {plain(seen.issuer)} too, and has to be bought again if it was not meant",
        Fate.kept: "It is revoked here only: relying parties go on accepting it unless its issuer has revoked it",
    }[fate]
    sys.stderr.write(
        f"cmpd: certificate {seen.serial:x} ({plain(seen.subject) or 'no subject'}), {seen.status.value}, valid until"
        f" {time_text(seen.not_after)}, is to be revoked: {reason}.\n"
        f"cmpd: {where}. That cannot be undone.\n"
        "To revoke it type `revoke`: "
    )
    if not confirm("revoke"):
        raise OperatorError(f"certificate {seen.serial:x} is not revoked; type `revoke` when asked, or write --yes")


def status_text(certificate: IssuedCertificate) -> str:
    """Its status, and where its revocation stands over there as long as that is not done."""
    outside = certificate.outside
    if outside is None or outside.state is OutsideState.done:
        return certificate.status.value
    return f"{certificate.status.value}, {outside.state.value} at {plain(certificate.issuer)}"


def _outside_text(certificate: IssuedCertificate, *, known: bool) -> str:
    outside = certificate.outside
    if outside is None:
        return ""
    text = f"{OUTSIDE[outside.state]} at {certificate.issuer}"
    if outside.state in {OutsideState.due, OutsideState.asked}:
        text += f", next step {time_text(outside.due)}" if known else ", which is not configured: nobody works on it"
    return f"{text}; {outside.private}" if outside.private else text


def public(certificate: IssuedCertificate) -> dict[str, Any]:
    """A certificate as it is printed."""
    return {
        "serial": f"{certificate.serial:x}",
        "subject": certificate.subject,
        "profile": certificate.profile,
        "issuer": certificate.issuer,
        "seat": certificate.seat,
        "status": certificate.status.value,
        "issued_at": time_text(certificate.issued_at),
        "not_after": time_text(certificate.not_after),
        "revoked_at": time_text(certificate.revoked_at) or None,
        "reason": None if certificate.reason is None else certificate.reason.name,
        "transaction_id": certificate.transaction_id.hex(),
        "ticket": certificate.ticket or None,
        "outside": _outside(certificate.outside),
    }


def _outside(outside: OutsideRevocation | None) -> dict[str, Any] | None:
    if outside is None:
        return None
    return {
        "state": outside.state.value,
        "due": time_text(outside.due) if outside.state in {OutsideState.due, OutsideState.asked} else None,
        "attempts": outside.attempts,
        "ticket": outside.ticket or None,
        "private": outside.private,
    }
