"""The store in one SQLite file: what each call of `ports.Store` and `AdminStore` is in SQL.

How calls share commits is in `group_commit`, the tables are in `schema`, the encryption of secrets in `sealing`.
"""

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cmpd import asn1
from cmpd.asn1 import der
from cmpd.exchange import (
    CertificateStatus,
    EnrollmentCode,
    IssuedCertificate,
    RevocationReason,
    Transaction,
    TransactionState,
)
from cmpd.ports import CodeUnusable, Expired, Revocation, StoreUnavailable, TransactionExists, TransactionMoved
from cmpd.store import ReferenceTaken, StoreRefused
from cmpd.store.group_commit import GroupCommit, Row, primary_code, unavailable
from cmpd.store.schema import open_database
from cmpd.store.sealing import Sealing, WrongKey

SWEEP = 100
"""How many rows one call of `expire` ends and one step of `forget` deletes."""
SERIAL_SIZE = 20
"""Octets of a serial number in the database (RFC 5280 §4.1.2.2)."""

_REFUSE_AT_OPEN = {
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
}
"""The primary result codes that do not pass by themselves."""

_TRANSACTION = (
    "SELECT transaction_id, profile, operation, credential, state, nonce, first_request, first_reply, created,"
    " confirm_by, last_request, last_reply FROM cmp_transaction WHERE transaction_id = ?"
)
_CERTIFICATE_COLUMNS = (
    "c.serial, c.der, c.issuer, c.profile, c.subject, c.not_after, c.transaction_id, c.cert_req_id, c.status,"
    " c.issued_at, c.revoked_at, c.reason"
)
_CERTIFICATE = f"SELECT {_CERTIFICATE_COLUMNS} FROM certificate c WHERE c.serial = ?"  # noqa: S608  constants only
_FIRST_CERTIFICATE = (
    f"SELECT {_CERTIFICATE_COLUMNS}, t.serials FROM cmp_transaction t"  # noqa: S608  constants only
    f" JOIN certificate c ON c.serial = substr(t.serials, 1, {SERIAL_SIZE}) WHERE t.transaction_id = ?"
)
_CODE_COLUMNS = "id, profile, reference, uses, used, created, expires, revoked_at IS NOT NULL"
_CODE = f"SELECT {_CODE_COLUMNS}, sealed FROM enrollment_code WHERE profile = ? AND reference = ?"  # noqa: S608  constants only

_INSERT_TRANSACTION = (
    "INSERT INTO cmp_transaction (transaction_id, state, created, confirm_by, profile, operation, credential, serials,"
    " nonce, first_request, first_reply, last_request, last_reply) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (transaction_id) DO NOTHING"
)
_CONSUME_CODE = (
    "UPDATE enrollment_code SET used = used + 1 WHERE id = ? AND revoked_at IS NULL"
    " AND (expires IS NULL OR expires > ?) AND (uses IS NULL OR used < uses)"
)
_INSERT_CERTIFICATE = (
    "INSERT INTO certificate (serial, status, issuer, profile, subject, issued_at, not_after, transaction_id,"
    " cert_req_id, revoked_at, reason, spki_sha256, der) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ADVANCE = (
    "UPDATE cmp_transaction SET state = ?, nonce = ?, last_request = ?, last_reply = ?"
    " WHERE transaction_id = ? AND state = ?"
)
_CONFIRM = "UPDATE certificate SET status = 'valid' WHERE serial = ? AND status = 'unconfirmed'"
_REVOKE = (
    "UPDATE certificate SET status = 'revoked', revoked_at = ?, reason = ? WHERE serial = ? AND status <> 'revoked'"
)
_DUE = (
    "SELECT id, transaction_id, profile, serials FROM cmp_transaction"
    " WHERE state = 'unconfirmed' AND confirm_by <= ? ORDER BY confirm_by LIMIT ?"
)
_REVOKED = (
    "SELECT serial, reason, revoked_at FROM certificate"
    " WHERE status = 'revoked' AND issuer = ? AND not_after >= ? ORDER BY revoked_at, rowid"
)
_COUNT_REVOCATION = (
    "INSERT INTO issuer (name, revocations) SELECT issuer, 1 FROM certificate WHERE serial = ?"
    " ON CONFLICT (name) DO UPDATE SET revocations = revocations + 1"
)


class SQLiteStore:
    """`ports.Store` and `AdminStore` over one SQLite file. Made by `open`, used from one event loop."""

    def __init__(self, path: Path, sealing: Sealing, connections: GroupCommit) -> None:
        self._path = path
        self._identity = _identity(path)
        self._sealing = sealing
        self._connections = connections
        self._read = connections.read
        self._write = connections.write

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._path)!r})"

    @property
    def commits(self) -> int:
        """How many groups of writes have been committed."""
        return self._connections.commits

    @classmethod
    async def open(cls, path: Path, key: bytes) -> Self:
        """Open the database, make or migrate it. Raises `StoreRefused` or, when it is locked, `StoreUnavailable`."""
        try:
            sealing = Sealing(key)
        except ValueError as exc:
            raise StoreRefused(f"[store] key_file: {exc}") from None
        path = path.absolute()  # noqa: ASYNC240  asks nothing of the disk
        try:
            writer, reader = await asyncio.to_thread(open_database, path, sealing)
        except sqlite3.Error as exc:
            raise unavailable(
                path, exc, StoreRefused if primary_code(exc) in _REFUSE_AT_OPEN else StoreUnavailable
            ) from exc
        except OSError as exc:
            raise StoreRefused(
                f"{path}: {exc.strerror}: the folder must exist and belong to the user cmpd runs as"
            ) from exc
        return cls(path, sealing, GroupCommit(path, writer, reader))

    # What a server asks

    async def transaction(self, transaction_id: bytes, /) -> Transaction | None:
        """See `ports.Store`."""
        rows = await self._read(_TRANSACTION, (transaction_id,))
        return _transaction(rows[0]) if rows else None

    async def code(self, profile: str, reference: bytes, /) -> EnrollmentCode | None:
        """See `ports.Store`. The one place where a secret is decrypted."""
        try:
            name = reference.decode()
        except UnicodeDecodeError:
            return None
        rows = await self._read(_CODE, (profile, name))
        if not rows:
            return None
        row = rows[0]
        try:
            secret = self._sealing.unseal(row[8], row[1], row[2])
        except WrongKey:
            raise StoreUnavailable(
                f"{self._path}: enrollment code {row[0]} does not open with the key of [store] key_file:"
                " somebody has changed it; revoke it and make another"
            ) from None
        return _code(row, secret)

    async def certificate(self, serial: int, /) -> IssuedCertificate | None:
        """See `ports.Store`."""
        if not 0 <= serial < 1 << 8 * SERIAL_SIZE:
            return None
        rows = await self._read(_CERTIFICATE, (_octets(serial),))
        return _certificate(rows[0]) if rows else None

    async def certificates_of(self, transaction_id: bytes, /) -> tuple[IssuedCertificate, ...]:
        """See `ports.Store`."""
        rows = await self._read(_FIRST_CERTIFICATE, (transaction_id,))
        if not rows:
            return ()
        for serial in _serials(rows[0][-1])[1:]:
            rows += await self._read(_CERTIFICATE, (serial,))
        return tuple(map(_certificate, rows))

    async def issued(
        self, transaction: Transaction, certificates: Sequence[IssuedCertificate], /, *, code: int | None, now: datetime
    ) -> None:
        """See `ports.Store`."""
        certificates = sorted(certificates, key=lambda certificate: certificate.cert_req_id)
        transaction_row = _transaction_row(
            transaction, b"".join(_octets(certificate.serial) for certificate in certificates)
        )
        rows = [_certificate_row(certificate) for certificate in certificates]
        consume = (code, _seconds(now))

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.execute(_INSERT_TRANSACTION, transaction_row)
            if cursor.rowcount == 0:
                raise TransactionExists
            if code is not None:
                cursor.execute(_CONSUME_CODE, consume)
                if cursor.rowcount == 0:
                    cursor.execute("DELETE FROM cmp_transaction WHERE transaction_id = ?", transaction_row[:1])
                    raise CodeUnusable
            for row in rows:
                cursor.execute(_INSERT_CERTIFICATE, row)
                if row[1] == "revoked":
                    cursor.execute(_COUNT_REVOCATION, row[:1])

        await self._write(work)

    async def refused(self, transaction: Transaction, /) -> None:
        """See `ports.Store`."""
        row = _transaction_row(transaction, b"")

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.execute(_INSERT_TRANSACTION, row)
            if cursor.rowcount == 0:
                raise TransactionExists

        await self._write(work)

    async def advance(
        self,
        transaction_id: bytes,
        /,
        *,
        seen: TransactionState,
        state: TransactionState,
        nonce: bytes,
        request: bytes,
        reply: bytes,
        confirmed: Sequence[int] = (),
        revoked: Sequence[Revocation] = (),
    ) -> None:
        """See `ports.Store`. A certificate that was revoked meanwhile stays revoked."""

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.execute(_ADVANCE, (state.value, nonce, request, reply, transaction_id, seen.value))
            if cursor.rowcount == 0:
                raise TransactionMoved
            for serial in confirmed:
                cursor.execute(_CONFIRM, (_octets(serial),))
            for revocation in revoked:
                _revoke(cursor, _octets(revocation.serial), _seconds(revocation.at), revocation.reason)

        await self._write(work)

    async def expire(self, now: datetime, /) -> tuple[Expired, ...]:
        """See `ports.Store`. Ends at most 100 transactions a call; fewer than that means that none is left."""
        seconds = _seconds(now)
        if not await self._read(_DUE, (seconds, 1)):
            return ()

        def work(cursor: sqlite3.Cursor) -> tuple[Expired, ...]:
            expired = []
            for row, transaction_id, profile, serials in cursor.execute(_DUE, (seconds, SWEEP)).fetchall():
                cursor.execute("UPDATE cmp_transaction SET state = 'expired' WHERE id = ?", (row,))
                revoked = [
                    serial
                    for serial in _serials(serials)
                    if _revoke(cursor, serial, seconds, RevocationReason.unspecified)
                ]
                expired.append(Expired(transaction_id, profile, tuple(map(int.from_bytes, revoked))))
            return tuple(expired)

        return await self._write(work)

    async def forget(self, before: datetime, /) -> int:
        """See `ports.Store`. Works in steps of 100 rows from the oldest on, so that other writers get their turn."""
        seconds = _seconds(before)
        last = 0
        forgotten = 0
        while True:
            rows = await self._read(
                "SELECT id, created FROM cmp_transaction WHERE id > ? ORDER BY id LIMIT ?", (last, SWEEP)
            )
            # Rows are in the order of arrival, which is that of `created` but for clocks that were set back.
            if not any(created < seconds for _, created in rows):
                return forgotten
            step = (last, rows[-1][0], seconds)

            def work(cursor: sqlite3.Cursor, step: tuple[int, int, int] = step) -> int:
                cursor.execute(
                    "DELETE FROM cmp_transaction WHERE id > ? AND id <= ? AND created < ? AND state <> 'unconfirmed'",
                    step,
                )
                return cursor.rowcount

            forgotten += await self._write(work)
            last = step[1]

    async def revoke(self, revocation: Revocation, /) -> bool:
        """See `ports.Store`."""
        if not 0 <= revocation.serial < 1 << 8 * SERIAL_SIZE:
            return False
        row = _octets(revocation.serial), _seconds(revocation.at), revocation.reason
        return await self._write(lambda cursor: _revoke(cursor, *row))

    async def revoked(self, issuer: str, /) -> tuple[Revocation, ...]:
        """See `ports.Store`. "Not yet expired" is by the clock of this machine."""
        rows = await self._read(_REVOKED, (issuer, int(time.time())))
        return tuple(
            Revocation(int.from_bytes(serial), RevocationReason(reason), _datetime(at)) for serial, reason, at in rows
        )

    async def revocation_count(self, issuer: str, /) -> int:
        """See `ports.Store`."""
        rows = await self._read("SELECT revocations FROM issuer WHERE name = ?", (issuer,))
        return int(rows[0][0]) if rows else 0

    async def next_crl_number(self, issuer: str, /) -> int:
        """See `ports.Store`. Begins with 1."""

        def work(cursor: sqlite3.Cursor) -> int:
            cursor.execute(
                "INSERT INTO issuer (name, crl_number) VALUES (?, 1)"
                " ON CONFLICT (name) DO UPDATE SET crl_number = crl_number + 1",
                (issuer,),
            )
            return int(cursor.execute("SELECT crl_number FROM issuer WHERE name = ?", (issuer,)).fetchone()[0])

        return await self._write(work)

    async def ready(self) -> None:
        """See `ports.Store`. Commits a change of one fixed-size value, and sees that the file is still in its place."""
        if _identity(self._path) != self._identity:
            raise StoreUnavailable(f"{self._path}: has been removed or replaced while cmpd had it open: restart cmpd")

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.execute("UPDATE store SET value = 1 - value WHERE name = 'ready'")

        await self._write(work)

    async def close(self) -> None:
        """See `ports.Store`. Writes that wait are still done; whatever is called later gets `StoreUnavailable`."""
        await self._connections.close()

    # What an operator asks

    async def create_code(
        self, profile: str, reference: str, secret: bytes, uses: int | None, expires: datetime | None, now: datetime
    ) -> EnrollmentCode:
        """See `AdminStore`."""
        sealed = self._sealing.seal(secret, profile, reference)
        ends = None if expires is None else _seconds(expires)
        row = (profile, reference, sealed, uses, _seconds(now), ends)

        def work(cursor: sqlite3.Cursor) -> int | None:
            cursor.execute(
                "INSERT INTO enrollment_code (profile, reference, sealed, uses, created, expires)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (profile, reference) DO NOTHING",
                row,
            )
            if cursor.rowcount == 0:
                raise ReferenceTaken(f"profile {profile} has an enrollment code {reference!r} already")
            return cursor.lastrowid

        number = await self._write(work)
        return _code((number, profile, reference, uses, 0, _seconds(now), ends, 0), secret)

    async def codes(self, profile: str | None = None) -> list[EnrollmentCode]:
        """See `AdminStore`."""
        rows = await self._read(
            f"SELECT {_CODE_COLUMNS} FROM enrollment_code WHERE ? IS NULL OR profile = ? ORDER BY id",  # noqa: S608  constants only
            (profile, profile),
        )
        return [_code(row, b"") for row in rows]

    async def revoke_code(self, profile: str, reference: str, now: datetime) -> bool:
        """See `AdminStore`."""
        row = (_seconds(now), profile, reference)

        def work(cursor: sqlite3.Cursor) -> bool:
            cursor.execute(
                "UPDATE enrollment_code SET revoked_at = ? WHERE profile = ? AND reference = ? AND revoked_at IS NULL",
                row,
            )
            return cursor.rowcount == 1

        return await self._write(work)

    async def certificates(
        self, limit: int, profile: str | None = None, status: CertificateStatus | None = None
    ) -> Sequence[IssuedCertificate]:
        """See `AdminStore`."""
        rows = await self._read(
            f"SELECT {_CERTIFICATE_COLUMNS} FROM certificate c WHERE (?1 IS NULL OR c.profile = ?1)"  # noqa: S608  constants only
            " AND (?2 IS NULL OR c.status = ?2) ORDER BY c.rowid DESC LIMIT ?3",
            (profile, None if status is None else status.value, limit),
        )
        return [_certificate(row) for row in rows]


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is that the path leads to."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


# Rows


def _seconds(moment: datetime) -> int:
    """Whole seconds since 1970."""
    return int(moment.timestamp() // 1)


def _datetime(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _octets(serial: int) -> bytes:
    return serial.to_bytes(SERIAL_SIZE)


def _serials(octets: bytes) -> list[bytes]:
    """Take apart the serial numbers of a transaction's certificates."""
    return [octets[at : at + SERIAL_SIZE] for at in range(0, len(octets), SERIAL_SIZE)]


def _revoke(cursor: sqlite3.Cursor, serial: bytes, at: int, reason: RevocationReason) -> bool:
    """Mark a certificate revoked and count it for its issuer's CRL; False when there was nothing to do."""
    cursor.execute(_REVOKE, (at, int(reason), serial))
    if cursor.rowcount == 0:
        return False
    cursor.execute(_COUNT_REVOCATION, (serial,))
    return True


def _transaction_row(transaction: Transaction, serials: bytes) -> Row:
    return (
        transaction.transaction_id,
        transaction.state.value,
        _seconds(transaction.created),
        None if transaction.confirm_by is None else _seconds(transaction.confirm_by),
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


def _transaction(row: Row) -> Transaction:
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
        _datetime(created),
        None if confirm_by is None else _datetime(confirm_by),
        last,
        last_reply,
    )


def _certificate_row(certificate: IssuedCertificate) -> Row:
    return (
        _octets(certificate.serial),
        certificate.status.value,
        certificate.issuer,
        certificate.profile,
        certificate.subject,
        _seconds(certificate.issued_at),
        _seconds(certificate.not_after),
        certificate.transaction_id,
        certificate.cert_req_id,
        None if certificate.revoked_at is None else _seconds(certificate.revoked_at),
        None if certificate.reason is None else int(certificate.reason),
        _spki_sha256(certificate.der),
        certificate.der,
    )


def _spki_sha256(certificate: bytes) -> bytes | None:
    """SHA-256 of the subjectPublicKeyInfo of a certificate (RFC 5280 §4.1); None when it is not to be found."""
    try:
        _, position, _ = der.read(certificate)
        _, position, _ = der.read(certificate, position)
        tag, _, end = der.read(certificate, position)
        # version [0] may be absent; serialNumber, signature, issuer, validity and subject come before
        for _ in range(6 if tag == 0xA0 else 5):
            position = end
            _, _, end = der.read(certificate, position)
    except asn1.MalformedError:
        return None
    return hashlib.sha256(certificate[position:end]).digest()


def _certificate(row: Row) -> IssuedCertificate:
    (
        serial,
        der,
        issuer,
        profile,
        subject,
        not_after,
        transaction_id,
        cert_req_id,
        status,
        issued_at,
        revoked_at,
        reason,
    ) = row[:12]
    return IssuedCertificate(
        int.from_bytes(serial),
        der,
        issuer,
        profile,
        subject,
        _datetime(not_after),
        transaction_id,
        cert_req_id,
        CertificateStatus(status),
        _datetime(issued_at),
        None if revoked_at is None else _datetime(revoked_at),
        None if reason is None else RevocationReason(reason),
    )


def _code(row: Row, secret: bytes) -> EnrollmentCode:
    number, profile, reference, uses, used, created, expires, revoked = row[:8]
    return EnrollmentCode(
        number,
        profile,
        reference,
        secret,
        uses,
        used,
        _datetime(created),
        None if expires is None else _datetime(expires),
        bool(revoked),
    )
