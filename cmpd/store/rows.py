"""Domain objects as rows of the tables, and back: times in seconds since 1970, serial numbers in 20 octets."""

import hashlib
import json
import sqlite3
from base64 import b64decode, b64encode
from datetime import UTC, datetime

from cryptography.x509 import ObjectIdentifier

from cmpd import asn1
from cmpd.asn1.certificate import spki
from cmpd.exchange import (
    Approved,
    CertificateStatus,
    Device,
    EnrollmentCode,
    Finding,
    IssuedCertificate,
    Order,
    OrderState,
    OutsideRevocation,
    OutsideState,
    Refusal,
    RequestedExtension,
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
    " c.issued_at, c.revoked_at, c.reason, c.seat, c.ticket, c.outside_state, c.outside_due, c.outside_attempts,"
    " c.outside_ticket, c.outside_private"
)
CODE_COLUMNS = (
    "id, profile, reference, uses, used, created, expires, revoked_at IS NOT NULL, valid_from, seat, subject, san,"
    " spki_sha256, is_global, locked_until, locks"
)
CODE = f"SELECT {CODE_COLUMNS}, sealed FROM enrollment_code WHERE profile = ? AND reference = ?"  # noqa: S608  constants only
REFUSAL_COLUMNS = (
    "id, at, profile, operation, transaction_id, credential, address, fail_info, reason, private, findings"
)
ORDER_COLUMNS = (
    "o.stamp, o.transaction_id, o.cert_req_id, o.profile, o.issuer, o.seat, o.state, o.created, o.updated, o.due,"
    " o.ticket, o.attempts, o.serial, o.implicit, o.text, o.fail_info, o.private, o.note, o.step, o.chain, o.approved"
)
FINISHED = "state IN ('issued', 'failed')"
OPEN = "state NOT IN ('issued', 'failed')"
"""`OPEN_ORDERS` as the partial indexes have it: SQLite uses them where it finds the same words."""
COUNT_REVOCATION = (
    "INSERT INTO issuer (name, revocations) SELECT issuer, 1 FROM certificate WHERE serial = ?"
    " ON CONFLICT (name) DO UPDATE SET revocations = issuer.revocations + 1"
)

_INSERT_CERTIFICATE = (
    "INSERT INTO certificate (serial, status, issuer, profile, issued_at, not_after, transaction_id,"
    " cert_req_id, revoked_at, reason, spki_sha256, der, seat, ticket)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_CONFIRM = "UPDATE certificate SET status = 'valid' WHERE serial = ? AND status = 'unconfirmed'"
_REVOKE = (
    "UPDATE certificate SET status = 'revoked', revoked_at = ?, reason = ? WHERE serial = ? AND status <> 'revoked'"
)
_REVOKE_OUTSIDE = (
    "UPDATE certificate SET outside_state = ?, outside_due = ?, outside_attempts = 0, outside_ticket = '',"
    " outside_private = ? WHERE serial = ?"
)
_KEEP = "UPDATE certificate SET status = 'kept' WHERE serial = ? AND status = 'unconfirmed'"


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


def revoke_row(
    cursor: sqlite3.Cursor,
    serial: bytes,
    at: int,
    reason: RevocationReason,
    *,
    outside: OutsideState | None = None,
    private: str = "",
) -> bool:
    """Mark a certificate revoked and count it for its issuer's CRL; False when there was nothing to do.

    `outside` is where it stands at its issuer, as of now.
    """
    cursor.execute(_REVOKE, (at, int(reason), serial))
    if cursor.rowcount == 0:
        return False
    cursor.execute(COUNT_REVOCATION, (serial,))
    if outside is not None:
        cursor.execute(_REVOKE_OUTSIDE, (outside.value, at, private, serial))
    return True


def keep_row(cursor: sqlite3.Cursor, serial: bytes) -> bool:
    """Mark a certificate kept; False when it was confirmed or revoked meanwhile."""
    return cursor.execute(_KEEP, (serial,)).rowcount == 1


def insert_certificate(cursor: sqlite3.Cursor, row: Row) -> None:
    """Keep a certificate, and count it for its issuer's CRL when it is revoked already."""
    cursor.execute(_INSERT_CERTIFICATE, row)
    if row[1] == "revoked":
        cursor.execute(COUNT_REVOCATION, row[:1])


def confirm_row(cursor: sqlite3.Cursor, serial: bytes) -> None:
    """Mark a certificate valid unless it was revoked meanwhile."""
    cursor.execute(_CONFIRM, (serial,))


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
        certificate.ticket or None,
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
        ticket,
        state,
        due,
        attempts,
        asked_as,
        private,
    ) = row[:18]
    outside = None
    if state is not None:
        outside = OutsideRevocation(OutsideState(state), datetime_of(due), attempts, asked_as, private)
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
        ticket or "",
        outside,
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


_APPROVED_VERSION = 1
"""Of the JSON of approved requests; one that is missing in it has the default that `Approved` gives it."""


def approved_text_of(approved: Approved) -> str:
    """What columns of `cert_order` do not say of an approved request: in JSON, octets in base64, times in seconds."""
    return json.dumps(
        {
            "version": _APPROVED_VERSION,
            "subject": b64encode(approved.subject).decode(),
            "spki": b64encode(approved.spki).decode(),
            "not_before": seconds_of(approved.not_before),
            "not_after": seconds_of(approved.not_after),
            "extensions": [
                [one.oid.dotted_string, one.critical, b64encode(one.value).decode()] for one in approved.extensions
            ],
            "modified": approved.modified,
            "lint": approved.lint,
            "request": None if approved.request is None else b64encode(approved.request).decode(),
            "updates": None if approved.updates is None else f"{approved.updates:x}",
        }
    )


def approved_of(text: str, profile: str, transaction_id: bytes, cert_req_id: int, seat: str | None) -> Approved:
    """An approved request. Raises ValueError for JSON of another version."""
    kept = json.loads(text)
    if kept["version"] != _APPROVED_VERSION:
        raise ValueError(f"an approved request of version {kept['version']} cannot be read")
    return Approved(
        profile=profile,
        transaction_id=transaction_id,
        cert_req_id=cert_req_id,
        subject=b64decode(kept["subject"]),
        spki=b64decode(kept["spki"]),
        not_before=datetime_of(kept["not_before"]),
        not_after=datetime_of(kept["not_after"]),
        extensions=tuple(
            RequestedExtension(ObjectIdentifier(oid), critical, b64decode(value))
            for oid, critical, value in kept["extensions"]
        ),
        modified=tuple(kept["modified"]),
        seat=seat,
        lint=kept["lint"],
        request=None if kept["request"] is None else b64decode(kept["request"]),
        updates=None if kept["updates"] is None else int(kept["updates"], 16),
    )


def order_of(row: Row, chain: tuple[bytes, ...]) -> Order:
    """An order; the CA certificates of its chain are looked up elsewhere."""
    (
        stamp,
        transaction_id,
        cert_req_id,
        profile,
        issuer,
        seat,
        state,
        created,
        updated,
        due,
        ticket,
        attempts,
        serial,
        implicit,
        text,
        fail_info,
        private,
        note,
        step,
        _,
        approved,
    ) = row
    return Order(
        stamp=stamp,
        transaction_id=transaction_id,
        cert_req_id=cert_req_id,
        issuer=issuer,
        approved=approved_of(approved, profile, transaction_id, cert_req_id, seat),
        state=OrderState(state),
        created=datetime_of(created),
        updated=datetime_of(updated),
        due=datetime_of(due),
        ticket=ticket,
        attempts=attempts,
        serial=None if serial is None else int.from_bytes(serial),
        chain=chain,
        implicit=bool(implicit),
        text=text,
        fail_info=fail_info,
        private=private,
        note=note,
        step=step,
    )
