"""Domain objects as rows of the SQLite tables, and back: times in seconds since 1970, serial numbers in 20 octets."""

import hashlib
import json
import sqlite3
from datetime import UTC, datetime

from cmpd import asn1
from cmpd.asn1.certificate import spki
from cmpd.exchange import (
    CertificateStatus,
    Device,
    EnrollmentCode,
    Finding,
    IssuedCertificate,
    Refusal,
    RevocationReason,
    Seat,
    Transaction,
    TransactionState,
)
from cmpd.store.group_commit import Row

SERIAL_SIZE = 20
"""Octets of a serial number in the database (RFC 5280 §4.1.2.2)."""

CERTIFICATE_COLUMNS = (
    "c.serial, c.der, c.issuer, c.profile, c.not_after, c.transaction_id, c.cert_req_id, c.status,"
    " c.issued_at, c.revoked_at, c.reason, c.seat"
)
CODE_COLUMNS = (
    "id, profile, reference, uses, used, created, expires, revoked_at IS NOT NULL, valid_from, seat, subject, san,"
    " spki_sha256, is_global, locked_until, locks"
)
CODE = f"SELECT {CODE_COLUMNS}, sealed FROM enrollment_code WHERE profile = ? AND reference = ?"  # noqa: S608  constants only
REFUSAL_COLUMNS = (
    "id, at, profile, operation, transaction_id, credential, address, fail_info, reason, private, findings"
)
COUNT_REVOCATION = (
    "INSERT INTO issuer (name, revocations) SELECT issuer, 1 FROM certificate WHERE serial = ?"
    " ON CONFLICT (name) DO UPDATE SET revocations = revocations + 1"
)


_REVOKE = (
    "UPDATE certificate SET status = 'revoked', revoked_at = ?, reason = ? WHERE serial = ? AND status <> 'revoked'"
)


def seconds_of(moment: datetime) -> int:
    """Whole seconds since 1970."""
    return int(moment.timestamp() // 1)


def datetime_of(seconds: int) -> datetime:
    """A time, aware."""
    return datetime.fromtimestamp(seconds, UTC)


def octets_of(serial: int) -> bytes:
    """A serial number as it is kept."""
    return serial.to_bytes(SERIAL_SIZE)


def serials_of(octets: bytes) -> list[bytes]:
    """Take apart the serial numbers of a transaction's certificates."""
    return [octets[at : at + SERIAL_SIZE] for at in range(0, len(octets), SERIAL_SIZE)]


def revoke_row(cursor: sqlite3.Cursor, serial: bytes, at: int, reason: RevocationReason) -> bool:
    """Mark a certificate revoked and count it for its issuer's CRL; False when there was nothing to do."""
    cursor.execute(_REVOKE, (at, int(reason), serial))
    if cursor.rowcount == 0:
        return False
    cursor.execute(COUNT_REVOCATION, (serial,))
    return True


def transaction_row_of(transaction: Transaction, serials: bytes) -> Row:
    """A transaction, its serial numbers in `serials`."""
    return (
        transaction.transaction_id,
        transaction.state.value,
        seconds_of(transaction.created),
        None if transaction.confirm_by is None else seconds_of(transaction.confirm_by),
        transaction.profile,
        transaction.operation,
        transaction.credential,
        serials,
        transaction.nonce,
        transaction.first_request,
        transaction.first_reply,
        transaction.last_request,
        transaction.last_reply,
    )


def transaction_of(row: Row) -> Transaction:
    """A transaction."""
    (
        transaction_id,
        profile,
        operation,
        credential,
        state,
        nonce,
        first,
        reply,
        created,
        confirm_by,
        last,
        last_reply,
    ) = row
    return Transaction(
        transaction_id,
        profile,
        operation,
        credential,
        TransactionState(state),
        nonce,
        first,
        reply,
        datetime_of(created),
        None if confirm_by is None else datetime_of(confirm_by),
        last,
        last_reply,
    )


def certificate_row_of(certificate: IssuedCertificate) -> Row:
    """A certificate."""
    return (
        octets_of(certificate.serial),
        certificate.status.value,
        certificate.issuer,
        certificate.profile,
        seconds_of(certificate.issued_at),
        seconds_of(certificate.not_after),
        certificate.transaction_id,
        certificate.cert_req_id,
        None if certificate.revoked_at is None else seconds_of(certificate.revoked_at),
        None if certificate.reason is None else int(certificate.reason),
        spki_sha256_of(certificate.der),
        certificate.der,
        certificate.seat,
    )


def spki_sha256_of(certificate: bytes) -> bytes | None:
    """SHA-256 of the subjectPublicKeyInfo of a certificate (RFC 5280 §4.1); None when it is not to be found."""
    try:
        return hashlib.sha256(spki(certificate)).digest()
    except asn1.MalformedError:
        return None


def certificate_of(row: Row) -> IssuedCertificate:
    """A certificate."""
    (
        serial,
        der,
        issuer,
        profile,
        not_after,
        transaction_id,
        cert_req_id,
        status,
        issued_at,
        revoked_at,
        reason,
        seat,
    ) = row[:12]
    return IssuedCertificate(
        int.from_bytes(serial),
        der,
        issuer,
        profile,
        datetime_of(not_after),
        transaction_id,
        cert_req_id,
        CertificateStatus(status),
        datetime_of(issued_at),
        None if revoked_at is None else datetime_of(revoked_at),
        None if reason is None else RevocationReason(reason),
        seat,
    )


def seat_of(row: Row) -> Seat:
    """A seat."""
    profile, seat, created, last_issued, certificates = row
    return Seat(profile, seat, datetime_of(created), datetime_of(last_issued), certificates)


def refusal_row_of(refusal: Refusal) -> Row:
    """A refusal; its findings in JSON."""
    return (
        seconds_of(refusal.at),
        refusal.profile,
        refusal.operation,
        refusal.transaction_id,
        refusal.credential,
        refusal.address,
        refusal.fail_info,
        refusal.reason,
        refusal.private,
        json.dumps([[one.rule, one.field, one.ok, one.text] for one in refusal.findings]),
        refusal.request,
    )


def refusal_of(row: Row) -> Refusal:
    """A refusal."""
    number, at, profile, operation, transaction_id, credential, address, fail_info, reason, private, findings = row[:11]
    return Refusal(
        at=datetime_of(at),
        address=address,
        profile=profile,
        operation=operation,
        transaction_id=transaction_id,
        credential=credential,
        fail_info=fail_info,
        reason=reason,
        private=private,
        findings=tuple(Finding(*one) for one in json.loads(findings)),
        request=row[11],
        id=number,
    )


def code_of(row: Row, secret: bytes) -> EnrollmentCode:
    """An enrollment code, its secret opened elsewhere."""
    (
        number,
        profile,
        reference,
        uses,
        used,
        created,
        expires,
        revoked,
        valid_from,
        seat,
        subject,
        san,
        spki_sha256,
        is_global,
        locked_until,
        locks,
    ) = row[:16]
    return EnrollmentCode(
        number,
        profile,
        reference,
        secret,
        uses,
        used,
        datetime_of(created),
        None if expires is None else datetime_of(expires),
        bool(revoked),
        None if valid_from is None else datetime_of(valid_from),
        seat,
        subject,
        () if san is None else tuple(json.loads(san)),
        None if spki_sha256 is None else spki_sha256.hex(),
        bool(is_global),
        None if locked_until is None else datetime_of(locked_until),
        locks,
    )


def device_of(row: Row) -> Device:
    """A device."""
    profile, serial, added, seat, subject = row
    return Device(profile, serial, datetime_of(added), seat, subject)
