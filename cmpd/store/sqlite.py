"""The store in one SQLite file: what each call of `ports.Store` and `AdminStore` is in SQL.

How calls share commits is in `group_commit`, the tables are in `schema`, the encryption of secrets in `sealing`.
"""

import asyncio
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from cmpd import asn1
from cmpd.asn1.certificate import spki
from cmpd.exchange import (
    CertificateStatus,
    Device,
    EnrollmentCode,
    Finding,
    IssuedCertificate,
    NewCode,
    Refusal,
    RevocationReason,
    Seat,
    ServiceUserCertificate,
    Transaction,
    TransactionState,
)
from cmpd.ports import (
    CodeUnusable,
    Condition,
    Conditions,
    Expired,
    Revocation,
    StoreUnavailable,
    TransactionExists,
    TransactionMoved,
    Unmet,
)
from cmpd.store import REFUSALS, ReferencesTaken, ReferenceTaken, StoreRefused
from cmpd.store.group_commit import GroupCommit, Row, primary_code, unavailable
from cmpd.store.schema import open_database
from cmpd.store.sealing import Sealing, WrongKey

SWEEP = 100
"""How many rows one call of `expire` ends and one step of `forget` deletes."""
DAY = 86400
"""Seconds of a day."""
STEP = 500
"""After so many rows of a great many the caller hears how far it is."""
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
    "c.serial, c.der, c.issuer, c.profile, c.not_after, c.transaction_id, c.cert_req_id, c.status,"
    " c.issued_at, c.revoked_at, c.reason, c.seat"
)
_CERTIFICATE = f"SELECT {_CERTIFICATE_COLUMNS} FROM certificate c WHERE c.serial = ?"  # noqa: S608  constants only
_FIRST_CERTIFICATE = (
    f"SELECT {_CERTIFICATE_COLUMNS}, t.serials FROM cmp_transaction t"  # noqa: S608  constants only
    f" JOIN certificate c ON c.serial = substr(t.serials, 1, {SERIAL_SIZE}) WHERE t.transaction_id = ?"
)
_CODE_COLUMNS = (
    "id, profile, reference, uses, used, created, expires, revoked_at IS NOT NULL, valid_from, seat, subject, san,"
    " spki_sha256, is_global, locked_until, locks"
)
_CODE = f"SELECT {_CODE_COLUMNS}, sealed FROM enrollment_code WHERE profile = ? AND reference = ?"  # noqa: S608  constants only
_GLOBAL_CODE = (
    f"SELECT {_CODE_COLUMNS}, sealed FROM enrollment_code"  # noqa: S608  constants only
    " WHERE profile = ? AND is_global = 1 AND revoked_at IS NULL ORDER BY id DESC LIMIT 1"
)
_INSERT_CODE = (
    "INSERT INTO enrollment_code (profile, reference, sealed, uses, created, expires, valid_from, seat, subject, san,"
    " spki_sha256, is_global) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_IS_TAKEN = "SELECT 1 FROM enrollment_code WHERE profile = ? AND reference = ?"

_INSERT_TRANSACTION = (
    "INSERT INTO cmp_transaction (transaction_id, state, created, confirm_by, profile, operation, credential, serials,"
    " nonce, first_request, first_reply, last_request, last_reply) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (transaction_id) DO NOTHING"
)
_CONSUME_CODE = (
    "UPDATE enrollment_code SET used = used + ?, locks = 0, locked_until = NULL WHERE id = ? AND revoked_at IS NULL"
    " AND (valid_from IS NULL OR valid_from <= ?) AND (expires IS NULL OR expires > ?)"
    " AND (uses IS NULL OR used + ? <= uses)"
)
_GIVE_BACK = "UPDATE enrollment_code SET used = max(used - ?, 0) WHERE id = ?"
_LOCK_CODE = (
    "UPDATE enrollment_code SET locked_until = max(ifnull(locked_until, 0), ?), locks = max(locks, ?) WHERE id = ?"
)
_IS_SERVICE_USER = (
    "SELECT 1 FROM service_user WHERE user = ? AND fingerprint = ?"
    " UNION ALL SELECT 1 FROM service_user WHERE user = ? AND issuer = ? AND subject = ? AND fingerprint IS NULL"
)
_DEVICE = "SELECT profile, serial, added, seat, subject FROM device WHERE profile = ? AND serial = ?"
_PUT_DEVICE = (
    "INSERT INTO device (profile, serial, seat, subject, added) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (profile, serial) DO UPDATE SET seat = excluded.seat, subject = excluded.subject"
    " WHERE seat IS NOT excluded.seat OR subject IS NOT excluded.subject"
)
_INSERT_CERTIFICATE = (
    "INSERT INTO certificate (serial, status, issuer, profile, issued_at, not_after, transaction_id,"
    " cert_req_id, revoked_at, reason, spki_sha256, der, seat) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SAME_KEY = (
    "SELECT serial, not_after, status, reason FROM certificate WHERE substr(spki_sha256, 1, 8) = ? AND spki_sha256 = ?"
)
_SAME_SEAT = (
    "SELECT count(*), min(not_after), serial FROM certificate"
    " WHERE profile = ? AND seat = ? AND status <> 'revoked' AND not_after >= ? AND serial <> ?"
)
_SPENT = "SELECT certificates FROM issued_per_day WHERE profile = ? AND day = ?"
_SPEND = (
    "INSERT INTO issued_per_day (profile, day, certificates) VALUES (?, ?, ?)"
    " ON CONFLICT (profile, day) DO UPDATE SET certificates = certificates + excluded.certificates"
)
_SEATS = (
    "SELECT g.profile, g.seat, f.issued_at, l.issued_at, g.certificates FROM"
    " (SELECT profile, seat, min(rowid) AS first, max(rowid) AS last, count(*) AS certificates FROM certificate"
    " WHERE seat IS NOT NULL AND (?1 IS NULL OR profile = ?1) AND (?2 IS NULL OR seat = ?2)"
    " GROUP BY profile, seat ORDER BY last DESC LIMIT ?3) g"
    " JOIN certificate f ON f.rowid = g.first JOIN certificate l ON l.rowid = g.last ORDER BY g.last DESC"
)
"""From the index of seats alone but for the times."""
_INSERT_REFUSAL = (
    "INSERT INTO refusal (at, profile, operation, transaction_id, credential, address, fail_info, reason, private,"
    " findings, request) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_REFUSAL_COLUMNS = (
    "id, at, profile, operation, transaction_id, credential, address, fail_info, reason, private, findings"
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

    def __init__(self, path: Path, sealing: Sealing, connections: GroupCommit, refusals: int = REFUSALS) -> None:
        self._path = path
        self._refusals = refusals
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
    async def open(cls, path: Path, key: bytes, *, refusals: int = REFUSALS) -> Self:
        """Open the database, make or migrate it; the latest `refusals` are kept.

        Raises `StoreRefused` or, when it is locked, `StoreUnavailable`.
        """
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
        return cls(path, sealing, GroupCommit(path, writer, reader), refusals)

    # What a server asks

    async def transaction(self, transaction_id: bytes, /) -> Transaction | None:
        """See `ports.Store`."""
        rows = await self._read(_TRANSACTION, (transaction_id,))
        return _transaction(rows[0]) if rows else None

    async def code(self, profile: str, reference: bytes, /) -> EnrollmentCode | None:
        """See `ports.Store`."""
        try:
            name = reference.decode()
        except UnicodeDecodeError:
            return None
        rows = await self._read(_CODE, (profile, name))
        return self._open(rows[0]) if rows else None

    async def global_code(self, profile: str, /) -> EnrollmentCode | None:
        """See `ports.Store`."""
        rows = await self._read(_GLOBAL_CODE, (profile,))
        return self._open(rows[0]) if rows else None

    def _open(self, row: Row) -> EnrollmentCode:
        """Decrypt a code's secret. Raises StoreUnavailable when it is not the one of its profile and reference."""
        try:
            secret = self._sealing.unseal(row[16], row[1], row[2])
        except WrongKey:
            raise StoreUnavailable(
                f"{self._path}: enrollment code {row[0]} does not open with the key of [store] key_file:"
                " somebody has changed it; revoke it and make another"
            ) from None
        return _code(row, secret)

    async def lock_code(self, code: int, /, *, until: datetime, locks: int) -> None:
        """See `ports.Store`."""
        await self._change(_LOCK_CODE, (_seconds(until), locks, code))

    async def is_service_user(self, user: str, fingerprint: str, issuer: bytes, subject: bytes, /) -> bool:
        """See `ports.Store`."""
        return bool(await self._read(_IS_SERVICE_USER, (user, bytes.fromhex(fingerprint), user, issuer, subject)))

    async def device(self, profile: str, serial: str, /) -> Device | None:
        """See `ports.Store`."""
        rows = await self._read(_DEVICE, (profile, serial))
        return _device(rows[0]) if rows else None

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

    async def unmet(
        self,
        profile: str,
        seat: str | None,
        spki_sha256: bytes,
        conditions: Conditions,
        now: datetime,
        /,
        *,
        others: int = 0,
    ) -> Unmet | None:
        """See `ports.Store`."""
        for look in _looks(profile, seat, spki_sha256, conditions, _seconds(now), others=others):
            found = look.judge(await self._read(look.query, look.parameters))
            if found is not None:
                return found
        return None

    async def issued(
        self,
        transaction: Transaction,
        certificates: Sequence[IssuedCertificate],
        /,
        *,
        code: int | None,
        now: datetime,
        conditions: Sequence[Conditions] = (),
    ) -> None:
        """See `ports.Store`."""
        seconds = _seconds(now)
        subject_to = conditions or (_UNCONDITIONAL,) * len(certificates)
        both = sorted(zip(certificates, subject_to, strict=True), key=lambda one: one[0].cert_req_id)
        transaction_row = _transaction_row(transaction, b"".join(_octets(one.serial) for one, _ in both))
        rows = [_certificate_row(one) for one, _ in both]
        seats = [one.seat for one, _ in both]
        looks = [
            look
            for number, (row, (one, subject)) in enumerate(zip(rows, both, strict=True))
            for look in _looks(
                one.profile,
                one.seat,
                row[10],
                subject,
                seconds,
                others=len(both) - 1,
                seat_mates=seats[:number].count(one.seat),
            )
        ]
        same_key = (
            None if len(both) < 2 else _same_key_twice([(row[10], one[1]) for row, one in zip(rows, both, strict=True)])
        )
        consume = (len(rows), code, seconds, seconds, len(rows))
        spend = (transaction.profile, seconds // DAY, len(rows))

        def work(cursor: sqlite3.Cursor) -> None:
            unmet = same_key
            for look in looks:
                unmet = unmet or look.judge(cursor.execute(look.query, look.parameters).fetchall())
            if unmet is not None:
                # nothing is written yet; the same request a second time is to hear of the first
                if cursor.execute(_TRANSACTION, transaction_row[:1]).fetchone() is not None:
                    raise TransactionExists
                raise unmet
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
            if rows:
                cursor.execute(_SPEND, spend)

        await self._write(work)

    async def refused(self, transaction: Transaction, refusal: Refusal | None = None, /) -> None:
        """See `ports.Store`."""
        row = _transaction_row(transaction, b"")

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.execute(_INSERT_TRANSACTION, row)
            if cursor.rowcount == 0:
                raise TransactionExists
            if refusal is not None:
                self._keep(cursor, refusal)

        await self._write(work)

    async def refusal(self, refusal: Refusal, /) -> None:
        """See `ports.Store`."""
        await self._write(lambda cursor: self._keep(cursor, refusal))

    def _keep(self, cursor: sqlite3.Cursor, refusal: Refusal) -> None:
        cursor.execute(_INSERT_REFUSAL, _refusal_row(refusal))
        cursor.execute("DELETE FROM refusal WHERE id <= ?", ((cursor.lastrowid or 0) - self._refusals,))

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
        give_back: int | None = None,
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
            if give_back is not None:
                cursor.execute(_GIVE_BACK, (len(revoked) or 1, give_back))

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
        self,
        profile: str,
        reference: str,
        secret: bytes,
        uses: int | None,
        expires: datetime | None,
        now: datetime,
        *,
        valid_from: datetime | None = None,
        seat: str | None = None,
        subject: str | None = None,
        san: Sequence[str] = (),
        key: str | None = None,
        is_global: bool = False,
    ) -> EnrollmentCode:
        """See `AdminStore`."""
        new = NewCode(
            profile, reference, secret, uses, expires, valid_from, seat, subject, tuple(san), key, is_global=is_global
        )
        row = self._code_row(new, _seconds(now))

        def work(cursor: sqlite3.Cursor) -> None:
            if cursor.execute(_IS_TAKEN, row[:2]).fetchone() is not None:
                raise ReferenceTaken(f"profile {profile} has an enrollment code {reference!r} already")
            cursor.execute(_INSERT_CODE, row)

        await self._write(work)
        (kept,) = await self._read(_CODE, row[:2])
        return _code(kept, secret)

    async def create_codes(
        self, codes: Sequence[NewCode], now: datetime, *, progress: Callable[[int], None] | None = None
    ) -> None:
        """See `AdminStore`."""
        at = _seconds(now)
        rows = [self._code_row(one, at) for one in codes]

        def work(cursor: sqlite3.Cursor) -> None:
            seen: set[Row] = set()
            taken = []
            for row in rows:
                if row[:2] in seen or cursor.execute(_IS_TAKEN, row[:2]).fetchone() is not None:
                    taken.append((row[0], row[1]))
                seen.add(row[:2])
            if taken:  # nothing is written yet
                raise ReferencesTaken(taken)
            for begin in range(0, len(rows), STEP):
                step = rows[begin : begin + STEP]
                cursor.executemany(_INSERT_CODE, step)
                if progress is not None:
                    progress(begin + len(step))

        await self._write(work)

    def _code_row(self, new: NewCode, created: int) -> Row:
        return (
            new.profile,
            new.reference,
            self._sealing.seal(new.secret, new.profile, new.reference),
            new.uses,
            created,
            None if new.expires is None else _seconds(new.expires),
            None if new.valid_from is None else _seconds(new.valid_from),
            new.seat,
            new.subject,
            json.dumps(new.san) if new.san else None,
            None if new.key is None else bytes.fromhex(new.key),
            int(new.is_global),
        )

    async def codes(self, profile: str | None = None) -> list[EnrollmentCode]:
        """See `AdminStore`."""
        rows = await self._read(
            f"SELECT {_CODE_COLUMNS} FROM enrollment_code WHERE ? IS NULL OR profile = ? ORDER BY id",  # noqa: S608  constants only
            (profile, profile),
        )
        return [_code(row, b"") for row in rows]

    async def codes_with_secrets(
        self, profile: str | None = None, *, wanted: Callable[[EnrollmentCode], bool] | None = None
    ) -> list[EnrollmentCode]:
        """See `AdminStore`."""
        rows = await self._read(
            f"SELECT {_CODE_COLUMNS}, sealed FROM enrollment_code WHERE ? IS NULL OR profile = ? ORDER BY id",  # noqa: S608  constants only
            (profile, profile),
        )
        return [self._open(row) for row in rows if wanted is None or wanted(_code(row, b""))]

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

    async def unlock_code(self, profile: str, reference: str) -> bool:
        """See `AdminStore`."""
        return (
            await self._change(
                "UPDATE enrollment_code SET locked_until = NULL, locks = 0"
                " WHERE profile = ? AND reference = ? AND (locked_until IS NOT NULL OR locks > 0)",
                (profile, reference),
            )
            > 0
        )

    async def _change(self, statement: str, parameters: tuple[Any, ...]) -> int:
        """Run one statement; how many rows it has changed."""
        return await self._write(lambda cursor: cursor.execute(statement, parameters).rowcount)

    async def add_service_user(self, entry: ServiceUserCertificate) -> bool:
        """See `AdminStore`."""
        if entry.fingerprint is None and (entry.issuer is None or entry.subject is None):
            raise ValueError("a service user's certificate is known by its fingerprint, or by issuer and subject")
        fingerprint = None if entry.fingerprint is None else bytes.fromhex(entry.fingerprint)
        return (
            await self._change(
                "INSERT INTO service_user (user, fingerprint, issuer, subject, label, added) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (entry.user, fingerprint, entry.issuer, entry.subject, entry.label, _seconds(entry.added)),
            )
            > 0
        )

    async def remove_service_user(
        self,
        user: str,
        fingerprint: str | None = None,
        *,
        issuer: bytes | None = None,
        subject: bytes | None = None,
    ) -> int:
        """See `AdminStore`."""
        parameters: tuple[Any, ...]
        if fingerprint is not None:
            which, parameters = " AND fingerprint = ?", (user, bytes.fromhex(fingerprint))
        elif issuer is not None or subject is not None:
            which, parameters = " AND fingerprint IS NULL AND issuer = ? AND subject = ?", (user, issuer, subject)
        else:
            which, parameters = "", (user,)
        return await self._change(f"DELETE FROM service_user WHERE user = ?{which}", parameters)  # noqa: S608  constants only

    async def service_users(self, user: str | None = None) -> list[ServiceUserCertificate]:
        """See `AdminStore`."""
        rows = await self._read(
            "SELECT user, added, fingerprint, issuer, subject, label FROM service_user"
            " WHERE ?1 IS NULL OR user = ?1 ORDER BY user, id",
            (user,),
        )
        return [
            ServiceUserCertificate(
                user, _datetime(added), None if fingerprint is None else fingerprint.hex(), issuer, subject, label
            )
            for user, added, fingerprint, issuer, subject, label in rows
        ]

    async def import_devices(self, profile: str, devices: Sequence[Device]) -> tuple[int, int]:
        """See `AdminStore`."""
        rows = [(profile, one.serial, one.seat, one.subject, _seconds(one.added)) for one in devices]
        count = "SELECT count(*) FROM device WHERE profile = ?"

        def work(cursor: sqlite3.Cursor) -> tuple[int, int]:
            (before,) = cursor.execute(count, (profile,)).fetchone()
            touched = cursor.executemany(_PUT_DEVICE, rows).rowcount if rows else 0
            (after,) = cursor.execute(count, (profile,)).fetchone()
            return after - before, touched - (after - before)

        return await self._write(work)

    async def devices(self, profile: str, limit: int) -> list[Device]:
        """See `AdminStore`."""
        rows = await self._read(
            "SELECT profile, serial, added, seat, subject FROM device WHERE profile = ? ORDER BY serial LIMIT ?",
            (profile, limit),
        )
        return [_device(row) for row in rows]

    async def remove_device(self, profile: str, serial: str) -> bool:
        """See `AdminStore`."""
        return await self._change("DELETE FROM device WHERE profile = ? AND serial = ?", (profile, serial)) > 0

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

    async def seats(self, limit: int, profile: str | None = None) -> list[Seat]:
        """See `AdminStore`."""
        return [_seat(row) for row in await self._read(_SEATS, (profile, None, limit))]

    async def seat(self, profile: str, id: str) -> tuple[Seat, list[IssuedCertificate]] | None:
        """See `AdminStore`."""
        found = await self._read(_SEATS, (profile, id, 1))
        if not found:
            return None
        rows = await self._read(
            f"SELECT {_CERTIFICATE_COLUMNS} FROM certificate c WHERE c.profile = ? AND c.seat = ?"  # noqa: S608  constants only
            " ORDER BY c.rowid DESC",
            (profile, id),
        )
        return _seat(found[0]), [_certificate(row) for row in rows]

    async def refusals(self, limit: int, profile: str | None = None) -> list[Refusal]:
        """See `AdminStore`."""
        rows = await self._read(
            f"SELECT {_REFUSAL_COLUMNS} FROM refusal WHERE ?1 IS NULL OR profile = ?1 ORDER BY id DESC LIMIT ?2",  # noqa: S608  constants only
            (profile, limit),
        )
        return [_refusal((*row, None)) for row in rows]

    async def refusal_of(self, number: int) -> Refusal | None:
        """See `AdminStore`."""
        rows = await self._read(
            f"SELECT {_REFUSAL_COLUMNS}, request FROM refusal WHERE id = ?",  # noqa: S608  constants only
            (number,),
        )
        return _refusal(rows[0]) if rows else None


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is that the path leads to."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


# Conditions

_UNCONDITIONAL = Conditions()


class _Look(NamedTuple):
    """A question to the database about one condition, and who judges what it finds."""

    query: str
    parameters: tuple[Any, ...]
    judge: Callable[[list[Row]], Unmet | None]


def _looks(
    profile: str,
    seat: str | None,
    spki: bytes | None,
    conditions: Conditions,
    now: int,
    *,
    others: int = 0,
    seat_mates: int = 0,
) -> Iterator[_Look]:
    """All that must be asked about one certificate, issued with `others`, of which `seat_mates` are of its seat."""
    if spki is not None:
        yield _Look(_SAME_KEY, (spki[:8], spki), partial(_judge_key, conditions.new_key, now))
    if seat is not None and (conditions.alone_in_seat or conditions.per_seat is not None):
        updates = b"" if conditions.updates is None else _octets(conditions.updates)
        most = None if conditions.per_seat is None else conditions.per_seat - seat_mates
        judge = partial(_judge_seat, seat, conditions.alone_in_seat, seat_mates, most)
        yield _Look(_SAME_SEAT, (profile, seat, now, updates), judge)
    if conditions.per_day is not None:
        day = now // DAY
        yield _Look(_SPENT, (profile, day), partial(_judge_day, conditions.per_day - others, day))


def _judge_key(new_key: bool, now: int, rows: list[Row]) -> Unmet | None:
    unmet = None
    for serial, not_after, status, reason in rows:
        if status == "revoked":
            if reason == RevocationReason.keyCompromise:
                return Unmet(Condition.compromised_key, serial=int.from_bytes(serial))
        elif new_key and not_after >= now:
            unmet = Unmet(Condition.new_key, serial=int.from_bytes(serial), until=_datetime(not_after))
    return unmet


def _judge_seat(seat: str, alone: bool, mates: int, most: int | None, rows: list[Row]) -> Unmet | None:
    number, first_end, serial = rows[0]
    condition = None
    if alone and number + mates:
        condition = Condition.alone_in_seat
    elif most is not None and number >= most:
        condition = Condition.per_seat
    if condition is None or not number:  # when none is in force, it is those issued with it that are too many
        return None if condition is None else Unmet(condition, seat=seat)
    return Unmet(condition, seat=seat, serial=int.from_bytes(serial), until=_datetime(first_end))


def _judge_day(most: int, day: int, rows: list[Row]) -> Unmet | None:
    if (rows[0][0] if rows else 0) < most:
        return None
    return Unmet(Condition.per_day, until=_datetime((day + 1) * DAY) if most > 0 else None)


def _same_key_twice(wanted: Sequence[tuple[bytes | None, Conditions]]) -> Unmet | None:
    """Hold the certificates of one call against each other: of the others the database does not know yet."""
    seen: set[bytes | None] = {None}
    for key, conditions in wanted:
        if conditions.new_key and key is not None and key in seen:
            return Unmet(Condition.new_key)
        seen.add(key)
    return None


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
        _seconds(certificate.issued_at),
        _seconds(certificate.not_after),
        certificate.transaction_id,
        certificate.cert_req_id,
        None if certificate.revoked_at is None else _seconds(certificate.revoked_at),
        None if certificate.reason is None else int(certificate.reason),
        _spki_sha256(certificate.der),
        certificate.der,
        certificate.seat,
    )


def _spki_sha256(certificate: bytes) -> bytes | None:
    """SHA-256 of the subjectPublicKeyInfo of a certificate (RFC 5280 §4.1); None when it is not to be found."""
    try:
        return hashlib.sha256(spki(certificate)).digest()
    except asn1.MalformedError:
        return None


def _certificate(row: Row) -> IssuedCertificate:
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
        _datetime(not_after),
        transaction_id,
        cert_req_id,
        CertificateStatus(status),
        _datetime(issued_at),
        None if revoked_at is None else _datetime(revoked_at),
        None if reason is None else RevocationReason(reason),
        seat,
    )


def _seat(row: Row) -> Seat:
    profile, seat, created, last_issued, certificates = row
    return Seat(profile, seat, _datetime(created), _datetime(last_issued), certificates)


def _refusal_row(refusal: Refusal) -> Row:
    return (
        _seconds(refusal.at),
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


def _refusal(row: Row) -> Refusal:
    number, at, profile, operation, transaction_id, credential, address, fail_info, reason, private, findings = row[:11]
    return Refusal(
        at=_datetime(at),
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


def _code(row: Row, secret: bytes) -> EnrollmentCode:
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
        _datetime(created),
        None if expires is None else _datetime(expires),
        bool(revoked),
        None if valid_from is None else _datetime(valid_from),
        seat,
        subject,
        () if san is None else tuple(json.loads(san)),
        None if spki_sha256 is None else spki_sha256.hex(),
        bool(is_global),
        None if locked_until is None else _datetime(locked_until),
        locks,
    )


def _device(row: Row) -> Device:
    profile, serial, added, seat, subject = row
    return Device(profile, serial, _datetime(added), seat, subject)
