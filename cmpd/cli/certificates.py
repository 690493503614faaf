"""`cmpd cert`: the certificates that have been issued."""

import asyncio
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.cli.operation import faults, store_of
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json, write_table
from cmpd.exchange import CertificateStatus, IssuedCertificate
from cmpd.settings import Settings


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
                certificate.status.value,
                time_text(certificate.issued_at),
                time_text(certificate.not_after),
            )
            for certificate in found
        ),
        empty="No certificates have been issued.",
    )


def show(path: Path, *, serial: str, json: bool) -> None:
    """Print one certificate: what the store knows, then PEM."""
    try:
        number = int(serial.replace(":", ""), 16)
    except ValueError:
        raise OperatorError(
            f"{plain(serial)}: not a serial number; write it in hexadecimal as `cmpd cert list` does"
        ) from None

    async def read() -> IssuedCertificate | None:
        async with store_of(Settings.load(path)) as store:
            return await store.certificate(number)

    with faults():
        found = asyncio.run(read())
    if found is None:
        raise OperatorError(f"{plain(serial)}: no certificate of this serial number; see `cmpd cert list`")
    pem = x509.load_der_x509_certificate(found.der).public_bytes(Encoding.PEM).decode()
    if json:
        write_json(public(found) | {"pem": pem})
        return
    write(*(f"{key:<14} {plain(str(value))}" for key, value in public(found).items() if value is not None))
    write(pem.rstrip())


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
    }
