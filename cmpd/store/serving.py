"""What each call of `ports.Store` is in SQL, for every store whose database speaks it.

Rows are in `rows`, what is asked before a commit in `conditions`, what is on order in `orders`, what is revoked over
there in `outside`, CRLs in `crls`, who else is there in `nodes`, the operator's verbs in `operators`, the encryption of
secrets in `sealing`. The statements are in SQLite's words; `postgres/dialect` says them in PostgreSQL's.
"""

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from cmpd.exchange import (
    Device,
    EnrollmentCode,
    IssuedCertificate,
    OutsideState,
    Refusal,
    RevocationReason,
    Transaction,
    TransactionState,
)
from cmpd.ports import (
    Conditions,
    Expired,
    Known,
    Named,
    Revocation,
    TransactionExists,
    TransactionMoved,
    Unmet,
)
from cmpd.store import REFUSALS
from cmpd.store.conditions import INSERT_TRANSACTION, TRANSACTION, UNCONDITIONAL, Beginning, Wanted, looks_at
from cmpd.store.crls import CRLs
from cmpd.store.nodes import Nodes
from cmpd.store.operators import Connections, Operators
from cmpd.store.orders import Orders
from cmpd.store.outside import Outside
from cmpd.store.pruning import Pruning
from cmpd.store.rows import (
    CERTIFICATE_COLUMNS,
    CODE,
    CODE_COLUMNS,
    OPEN,
    SERIAL_SIZE,
    certificate_of,
    certificate_row_of,
    confirm_row,
    datetime_of,
    device_of,
    insert_certificate,
    keep_row,
    octets_of,
    refusal_row_of,
    revoke_row,
    seconds_of,
    serials_of,
    transaction_of,
    transaction_row_of,
)
from cmpd.store.sealing import Sealing

SWEEP = 100
"""How many rows one call of `expire` ends and one step of `forget` deletes."""

_CERTIFICATE = f"SELECT {CERTIFICATE_COLUMNS} FROM certificate c WHERE c.serial = ?"  # noqa: S608  constants only
_FIRST_CERTIFICATE = (
    f"SELECT {CERTIFICATE_COLUMNS}, t.serials FROM cmp_transaction t"  # noqa: S608  constants only
    f" JOIN certificate c ON c.serial = substr(t.serials, 1, {SERIAL_SIZE}) WHERE t.transaction_id = ?"
)
_GLOBAL_CODE = (
    f"SELECT {CODE_COLUMNS}, sealed FROM enrollment_code"  # noqa: S608  constants only
    " WHERE profile = ? AND is_global = 1 AND revoked_at IS NULL ORDER BY id DESC LIMIT 1"
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
_INSERT_REFUSAL = (
    "INSERT INTO refusal (at, profile, operation, transaction_id, credential, address, fail_info, reason, private,"
    " findings, request) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_DROP_REFUSALS = "DELETE FROM refusal WHERE id IN (SELECT id FROM refusal WHERE id <= ? ORDER BY id LIMIT ?)"
_ADVANCE = (
    "UPDATE cmp_transaction SET state = ?, nonce = ?, last_request = ?, last_reply = ?"
    " WHERE transaction_id = ? AND state = ?"
)
_DUE = (
    "SELECT id, transaction_id, profile, serials FROM cmp_transaction"
    " WHERE state = 'unconfirmed' AND confirm_by <= ? ORDER BY confirm_by LIMIT ?"
)
_FORGET = (
    "DELETE FROM cmp_transaction WHERE id > ?1 AND id <= ?2 AND created < ?3 AND state <> 'unconfirmed'"  # noqa: S608  constants only
    " AND NOT EXISTS (SELECT 1 FROM cert_order WHERE transaction_row = cmp_transaction.id"
    f" AND (updated >= ?3 OR {OPEN}))"
)
_REVOKED = (
    "SELECT serial, reason, revoked_at FROM certificate"
    " WHERE status = 'revoked' AND issuer = ? AND not_after >= ? ORDER BY revoked_at, rowid"
)


_ISSUER_OF = "SELECT issuer FROM certificate WHERE serial = ?"
_UNCOLLECT = "UPDATE cert_order SET collected = 0 WHERE transaction_row = ? AND serial = ? AND state = 'issued'"
"""Whoever asks for the same again gets the same."""


class Serving(Operators, Orders, Outside, Pruning, CRLs, Nodes, ABC):
    """What a running server asks of a store whose database speaks SQL; the rest of `AdminStore` is inherited.

    A kind of store says how it is opened, when it is ready, and what of all this it can do faster in a way of its own.
    """

    def __init__(self, name: str, sealing: Sealing, connections: Connections, refusals: int = REFUSALS) -> None:
        super().__init__(name, sealing, connections)
        self._refusals = refusals
        self._ca_certificates = {}

    @property
    def commits(self) -> int:
        """How many writes, or groups of them, have been committed."""
        return self._connections.commits

    # What a server asks

    async def look_up(self, transaction_id: bytes, _: Callable[[], Named], /) -> Known:
        """See `ports.Store`. The rest is asked for when it is needed, and answered on the spot."""
        return Known(await self.transaction(transaction_id))

    async def transaction(self, transaction_id: bytes, /) -> Transaction | None:
        """See `ports.Store`."""
        rows = await self._read(TRANSACTION, (transaction_id,))
        return transaction_of(rows[0]) if rows else None

    async def code(self, profile: str, reference: bytes, /) -> EnrollmentCode | None:
        """See `ports.Store`."""
        try:
            name = reference.decode()
        except UnicodeDecodeError:
            return None
        rows = await self._read(CODE, (profile, name))
        return self._open(rows[0]) if rows else None

    async def global_code(self, profile: str, /) -> EnrollmentCode | None:
        """See `ports.Store`."""
        rows = await self._read(_GLOBAL_CODE, (profile,))
        return self._open(rows[0]) if rows else None

    async def lock_code(self, code: int, /, *, until: datetime, locks: int) -> None:
        """See `ports.Store`."""
        await self._change(_LOCK_CODE, (seconds_of(until), locks, code))

    async def wrong_mac(self, code: int, /, *, most: int, until: datetime, locks: int, count: int = 1) -> bool:
        """See `ports.Store`."""
        end = seconds_of(until)

        def work(cursor: sqlite3.Cursor) -> bool:
            row = cursor.execute(
                "SELECT wrong_macs, locked_until FROM enrollment_code WHERE id = ?", (code,)
            ).fetchone()
            if row is None or (row[1] or 0) >= end:
                return row is not None
            wrong = row[0] + count
            cursor.execute(
                "UPDATE enrollment_code SET wrong_macs = ? WHERE id = ?", (0 if wrong >= most else wrong, code)
            )
            if wrong >= most:
                cursor.execute(_LOCK_CODE, (end, locks, code))
            return bool(wrong >= most)

        return await self._write(work)

    async def is_service_user(self, user: str, fingerprint: str, issuer: bytes, subject: bytes, /) -> bool:
        """See `ports.Store`."""
        return bool(await self._read(_IS_SERVICE_USER, (user, bytes.fromhex(fingerprint), user, issuer, subject)))

    async def device(self, profile: str, serial: str, /) -> Device | None:
        """See `ports.Store`."""
        rows = await self._read(_DEVICE, (profile, serial))
        return device_of(rows[0]) if rows else None

    async def certificate(self, serial: int, /) -> IssuedCertificate | None:
        """See `ports.Store`."""
        if not 0 <= serial < 1 << 8 * SERIAL_SIZE:
            return None
        rows = await self._read(_CERTIFICATE, (octets_of(serial),))
        return certificate_of(rows[0]) if rows else None

    async def certificates_of(self, transaction_id: bytes, /) -> tuple[IssuedCertificate, ...]:
        """See `ports.Store`."""
        rows = await self._read(_FIRST_CERTIFICATE, (transaction_id,))
        if not rows:
            return ()
        for serial in serials_of(rows[0][-1])[1:]:
            rows += await self._read(_CERTIFICATE, (serial,))
        return tuple(map(certificate_of, rows))

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
        for look in looks_at(profile, seat, spki_sha256, conditions, seconds_of(now), others=others):
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
        subject_to = conditions or (UNCONDITIONAL,) * len(certificates)
        both = sorted(zip(certificates, subject_to, strict=True), key=lambda one: one[0].cert_req_id)
        rows = [certificate_row_of(one) for one, _ in both]
        beginning = Beginning(
            transaction,
            b"".join(row[0] for row in rows),
            [Wanted(one.profile, one.seat, row[10], subject) for row, (one, subject) in zip(rows, both, strict=True)],
            code=code,
            now=seconds_of(now),
        )

        def work(cursor: sqlite3.Cursor) -> None:
            beginning.write(cursor)
            for row in rows:
                insert_certificate(cursor, row)

        await self._write(work)

    async def refused(self, transaction: Transaction, refusal: Refusal | None = None, /) -> None:
        """See `ports.Store`."""
        row = transaction_row_of(transaction, b"")

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.execute(INSERT_TRANSACTION, row)
            if cursor.rowcount == 0:
                raise TransactionExists
            if refusal is not None:
                self._keep(cursor, refusal)

        await self._write(work)

    async def refusal(self, refusal: Refusal, /) -> None:
        """See `ports.Store`."""
        await self._write(lambda cursor: self._keep(cursor, refusal))

    def _keep(self, cursor: sqlite3.Cursor, refusal: Refusal) -> None:
        cursor.execute(_INSERT_REFUSAL, refusal_row_of(refusal))
        cursor.execute(_DROP_REFUSALS, ((cursor.lastrowid or 0) - self._refusals, SWEEP))

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
        kept: Sequence[int] = (),
        give_back: int | None = None,
    ) -> None:
        """See `ports.Store`. A certificate that was revoked meanwhile stays revoked."""

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.execute(_ADVANCE, (state.value, nonce, request, reply, transaction_id, seen.value))
            if cursor.rowcount == 0:
                raise TransactionMoved
            for serial in confirmed:
                confirm_row(cursor, octets_of(serial))
            for revocation in revoked:
                _revoke(cursor, revocation)
            for serial in kept:
                keep_row(cursor, octets_of(serial))
            if give_back is not None:
                cursor.execute(_GIVE_BACK, (len(revoked) + len(kept), give_back))

        await self._write(work)

    async def expire(
        self, now: datetime, /, *, outside: Collection[str] = (), keep: Collection[str] = ()
    ) -> tuple[Expired, ...]:
        """See `ports.Store`. Ends at most 100 transactions a call; fewer than that means that none is left."""
        seconds = seconds_of(now)
        if not await self._read(_DUE, (seconds, 1)):
            return ()

        def work(cursor: sqlite3.Cursor) -> tuple[Expired, ...]:
            expired = []
            for row, transaction_id, profile, serials in cursor.execute(_DUE, (seconds, SWEEP)).fetchall():
                cursor.execute("UPDATE cmp_transaction SET state = 'expired' WHERE id = ?", (row,))
                revoked, kept = [], []
                for serial in serials_of(serials):
                    issuer = cursor.execute(_ISSUER_OF, (serial,)).fetchone()[0] if outside or keep else ""
                    if issuer in keep:
                        if keep_row(cursor, serial):
                            kept.append(serial)
                            cursor.execute(_UNCOLLECT, (row, serial))
                    elif revoke_row(
                        cursor, serial, seconds, RevocationReason.unspecified,
                        outside=OutsideState.due if issuer in outside else None, private="no certConf came",
                    ):  # fmt: skip
                        revoked.append(serial)
                serials_revoked, serials_kept = tuple(map(int.from_bytes, revoked)), tuple(map(int.from_bytes, kept))
                expired.append(Expired(transaction_id, profile, serials_revoked, serials_kept))
            return tuple(expired)

        return await self._write(work)

    async def forget(self, before: datetime, /) -> int:
        """See `ports.Store`. Works in steps of 100 rows from the oldest on, so that other writers get their turn.

        One that waits has ended when its orders have; it stays as long after that as others after their beginning.
        """
        seconds = seconds_of(before)
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
                return cursor.execute(_FORGET, step).rowcount

            forgotten += await self._write(work)
            last = step[1]

    async def revoke(self, revocation: Revocation, /) -> bool:
        """See `ports.Store`."""
        if not 0 <= revocation.serial < 1 << 8 * SERIAL_SIZE:
            return False
        return await self._write(lambda cursor: _revoke(cursor, revocation))

    async def revoked(self, issuer: str, /) -> tuple[Revocation, ...]:
        """See `ports.Store`. "Not yet expired" is by the clock of this machine."""
        rows = await self._read(_REVOKED, (issuer, int(time.time())))
        return tuple(
            Revocation(int.from_bytes(serial), RevocationReason(reason), datetime_of(at)) for serial, reason, at in rows
        )

    @abstractmethod
    async def ready(self) -> None:
        """See `ports.Store`."""

    @abstractmethod
    async def size(self) -> int:
        """See `AdminStore`."""

    @abstractmethod
    async def close(self) -> None:
        """See `ports.Store`."""


def _revoke(cursor: sqlite3.Cursor, revocation: Revocation) -> bool:
    return revoke_row(
        cursor,
        octets_of(revocation.serial),
        seconds_of(revocation.at),
        revocation.reason,
        outside=revocation.outside,
        private=revocation.private,
    )
