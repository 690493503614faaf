"""The store in a PostgreSQL database, which several nodes may share: no leader, no sticky sessions.

What a request reads is one statement, its commit is another; see `connections` for how they share their way, and for
everything else. Tables and migrations are in `schema`, what is one commit in the server in `functions`.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Self

import asyncpg

from cmpd.exchange import CertificateStatus, IssuedCertificate, Refusal, Transaction, TransactionState
from cmpd.ports import (
    CodeUnusable,
    Condition,
    Conditions,
    Known,
    Named,
    Revocation,
    TransactionExists,
    TransactionMoved,
    Unmet,
)
from cmpd.store import REFUSALS, Database, StoreRefused
from cmpd.store.conditions import UNCONDITIONAL, Wanted, contested, same_key_twice
from cmpd.store.group_commit import Row
from cmpd.store.postgres.connections import Connections, Together, connect, fitting, lock_number
from cmpd.store.postgres.schema import prepare
from cmpd.store.rows import (
    CERTIFICATE_COLUMNS,
    CODE_COLUMNS,
    SERIAL_SIZE,
    certificate_of,
    certificate_row_of,
    datetime_of,
    octets_of,
    refusal_row_of,
    seconds_of,
    serials_of,
    transaction_of,
    transaction_row_of,
)
from cmpd.store.sealing import Sealing
from cmpd.store.serving import Serving

_PLACES = ", ".join(f"${number}" for number in range(1, 41))
_ISSUE = f"SELECT r_outcome, r_in_the_way, r_until, r_seat FROM cmpd_issue_1({_PLACES})"  # noqa: S608  constants only
_UNMET = "SELECT condition, in_the_way, until FROM cmpd_unmet_1($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, $10)"
_LOOK_UP = f"""
SELECT q.n, t.*, e.*, c.*
  FROM unnest($1::bytea[], $2::text[], $3::text[], $4::boolean[], $5::bytea[], $6::bytea[])
       WITH ORDINALITY AS q (transaction_id, profile, reference, global_code, signer, client, n)
  LEFT JOIN LATERAL (
      SELECT transaction_id, profile, operation, credential, state, nonce, first_request, first_reply, created,
             confirm_by, last_request, last_reply, serials
        FROM cmp_transaction t WHERE t.transaction_id = q.transaction_id
  ) t ON true
  LEFT JOIN LATERAL (
      SELECT * FROM (
          SELECT {CODE_COLUMNS}, sealed, 1 FROM enrollment_code
           WHERE profile = q.profile AND reference = q.reference
          UNION ALL (
              SELECT {CODE_COLUMNS}, sealed, 2 FROM enrollment_code
               WHERE q.global_code AND profile = q.profile AND is_global = 1 AND revoked_at IS NULL
               ORDER BY id DESC LIMIT 1
          )
      ) both_kinds ORDER BY 18 LIMIT 1
  ) e ON true
  LEFT JOIN LATERAL (
      SELECT {CERTIFICATE_COLUMNS}
        FROM (
            SELECT substr(t.serials, 1 + at, {SERIAL_SIZE}) AS serial
              FROM generate_series(0, octet_length(t.serials) - 1, {SERIAL_SIZE}) AS at
            UNION ALL VALUES (q.signer), (q.client)
            UNION ALL SELECT decode(lpad(split_part(t.credential, ':', 3), {SERIAL_SIZE * 2}, '0'), 'hex')
             WHERE starts_with(t.credential, 'cert:')
        ) wanted
        JOIN certificate c ON c.serial = wanted.serial
  ) c ON true
"""  # noqa: S608  constants only
_ADVANCE = """
WITH
asked AS (
    SELECT * FROM unnest(
        $2::bytea[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::bytea[], $8::bigint[], $9::bigint[]
    ) WITH ORDINALITY AS x (id, seen, state, nonce, request, reply, give_back, uses, n)
),
moved AS (
    UPDATE cmp_transaction t SET state = a.state, nonce = a.nonce, last_request = a.request, last_reply = a.reply
      FROM asked a WHERE t.transaction_id = a.id AND t.state = a.seen
    RETURNING a.n, a.give_back, a.uses
),
revoked AS (
    UPDATE certificate c SET status = 'revoked', revoked_at = x.at, reason = x.reason,
           outside_state = coalesce(x.outside, c.outside_state),
           outside_due = CASE WHEN x.outside IS NULL THEN c.outside_due ELSE x.at END,
           outside_attempts = CASE WHEN x.outside IS NULL THEN c.outside_attempts ELSE 0 END,
           outside_ticket = CASE WHEN x.outside IS NULL THEN c.outside_ticket ELSE '' END,
           outside_private = CASE WHEN x.outside IS NULL THEN c.outside_private ELSE x.private END
      FROM unnest($13::bigint[], $14::bytea[], $15::bigint[], $16::bigint[], $17::text[], $18::text[])
           AS x (of_n, serial, at, reason, outside, private)
     WHERE x.of_n IN (SELECT n FROM moved) AND c.serial = x.serial AND c.status <> 'revoked'
    RETURNING c.issuer
),
counted AS (
    INSERT INTO issuer (name, revocations) SELECT issuer, count(*) FROM revoked GROUP BY issuer ORDER BY issuer
    ON CONFLICT (name) DO UPDATE SET revocations = issuer.revocations + excluded.revocations
),
settled AS (
    UPDATE certificate c SET status = x.status
      FROM unnest($10::bigint[], $11::bytea[], $12::text[]) AS x (of_n, serial, status)
     WHERE x.of_n IN (SELECT n FROM moved) AND c.serial = x.serial AND c.status = 'unconfirmed'
       AND NOT EXISTS (
           SELECT FROM unnest($13::bigint[], $14::bytea[]) AS y (of_n, serial)
            WHERE y.of_n IN (SELECT n FROM moved) AND y.serial = x.serial
       )
),
given_back AS (
    UPDATE enrollment_code e SET used = greatest(e.used - m.uses, 0)
      FROM (SELECT give_back, sum(uses)::bigint AS uses FROM moved GROUP BY give_back) m WHERE e.id = m.give_back
)
SELECT n FROM moved
UNION
SELECT a.n FROM asked a JOIN cmp_transaction t ON t.transaction_id = a.id
 WHERE $1::boolean AND t.state = a.state AND t.last_request = a.request AND t.last_reply = a.reply
"""
_REFUSE = """
WITH
begun AS (
    INSERT INTO cmp_transaction (transaction_id, state, created, confirm_by, profile, operation, credential, serials,
        nonce, first_request, first_reply, last_request, last_reply)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (transaction_id) DO NOTHING
    RETURNING id
),
kept AS (
    INSERT INTO refusal (at, profile, operation, transaction_id, credential, address, fail_info, reason, private,
        findings, request)
    SELECT $15::bigint, $16::text, $17::text, $18::text, $19::text, $20::text, $21::text, $22::text, $23::text,
           $24::text, $25::bytea
      FROM begun WHERE $15::bigint IS NOT NULL
    RETURNING id
),
forgotten AS (DELETE FROM refusal WHERE id <= (SELECT id FROM kept) - $26::bigint)
SELECT id FROM begun
UNION ALL
SELECT id FROM cmp_transaction
 WHERE $14::boolean AND transaction_id = $1 AND first_request = $10 AND first_reply = $11
"""
_KEEP = (
    "INSERT INTO refusal (at, profile, operation, transaction_id, credential, address, fail_info, reason, private,"
    " findings, request) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_NEWEST = "SELECT max(id) FROM refusal"
_FORGET = "DELETE FROM refusal WHERE id <= ?"
_NO_REFUSAL: Row = (None,) * 11
_SIZE = """
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
 WHERE relkind = 'r' AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('cmp_transaction'))
"""
_TOUCH = "UPDATE store SET number = 1 - number WHERE name = 'ready'"


class _LookUp(NamedTuple):
    """One call of `look_up`, as a row."""

    transaction_id: bytes | None = None
    profile: str | None = None
    reference: str | None = None
    global_code: bool = False
    signer: bytes | None = None
    client: bytes | None = None


_NOTHING = _LookUp()


class _Issue(NamedTuple):
    """One call of `issued`, as rows."""

    transaction: Row
    code: int | None
    now: int
    certificates: Sequence[Row]
    wanted: Sequence[Wanted]


class _Advance(NamedTuple):
    """One call of `advance`, as a row; serial numbers, each with its new status, and what is revoked."""

    row: Row
    settled: Sequence[tuple[bytes, str]]
    revoked: Sequence[Row]


class PostgresStore(Serving):
    """`ports.Store` and `AdminStore` over a PostgreSQL database. Made by `open`, used from one event loop."""

    _connections: Connections

    def __init__(self, sealing: Sealing, connections: Connections, refusals: int = REFUSALS) -> None:
        super().__init__(connections.name, sealing, connections, refusals)
        self._look_up = Together(self._look_up_all)
        self._issue = Together(self._issue_all)
        self._advance_together = Together(self._advance_all)

    def __repr__(self) -> str:
        return f"PostgresStore({self._name!r})"

    @classmethod
    async def open(cls, url: str, key: bytes, *, refusals: int = REFUSALS, database: Database) -> Self:
        """Connect, make or migrate the tables; the latest `refusals` are kept.

        Raises `StoreRefused` or, when the server cannot be reached, `StoreUnavailable`.
        """
        try:
            sealing = Sealing(key)
        except ValueError as exc:
            raise StoreRefused(f"[store] key_file: {exc}") from None
        connections = await connect(url, database)
        try:
            await connections.attempt(
                lambda connection, _: prepare(connection, connections.name, sealing, migrate=database.migrate),
                unlimited=True,
            )
        except BaseException:
            await connections.close()
            raise
        return cls(sealing, connections, refusals)

    # What a request needs, each a statement

    async def look_up(self, transaction_id: bytes, named: Callable[[], Named], /) -> Known:
        """See `ports.Store`. Everything, in one statement."""
        what = named()
        serials = [one for one in what.serials if _can_be(one)]
        signers = [*map(octets_of, serials), None, None]
        rows = await self._look_up(
            _LookUp(transaction_id, what.profile, _text(what.reference), what.global_code, signers[0], signers[1])
        )
        row = rows[0]
        kept = {bytes(one[32]): certificate_of(one[32:]) for one in rows if one[32] is not None}
        known = dict.fromkeys(what.serials, None) | {one.serial: one for one in kept.values()}
        return Known(
            None if row[1] is None else transaction_of(row[1:13]),
            True,
            None if row[14] is None else self._open(row[14:31]),
            () if row[1] is None else tuple(kept[serial] for serial in serials_of(row[13]) if serial in kept),
            known,
        )

    async def transaction(self, transaction_id: bytes, /) -> Transaction | None:
        """See `ports.Store`."""
        row = (await self._look_up(_NOTHING._replace(transaction_id=transaction_id)))[0]
        return None if row[1] is None else transaction_of(row[1:13])

    async def certificate(self, serial: int, /) -> IssuedCertificate | None:
        """See `ports.Store`."""
        if not _can_be(serial):
            return None
        row = (await self._look_up(_NOTHING._replace(signer=octets_of(serial))))[0]
        return None if row[32] is None else certificate_of(row[32:])

    async def _look_up_all(self, calls: "Sequence[_LookUp]") -> "Sequence[list[asyncpg.Record] | Exception]":
        found: list[list[asyncpg.Record]] = [[] for _ in calls]
        for row in await self._connections.fetch(_LOOK_UP, *_columns(calls, 6)):
            found[row[0] - 1].append(row)
        return found

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
        await self._issue(
            _Issue(
                transaction_row_of(transaction, b"".join(row[0] for row in rows)),
                code,
                seconds_of(now),
                rows,
                [Wanted(row[3], row[12], row[10], subject) for row, (_, subject) in zip(rows, both, strict=True)],
            )
        )

    async def _issue_all(self, calls: Sequence[_Issue]) -> Sequence[Exception | None]:
        locks: set[str] = set()
        certificates: list[Row] = []
        for n, call in enumerate(calls, 1):
            locks |= contested(call.transaction[0], call.wanted, call.code)
            seats = [one.seat for one in call.wanted]
            for position, (row, (_, seat, _, subject)) in enumerate(zip(call.certificates, call.wanted, strict=True)):
                updates = b"" if subject.updates is None else octets_of(subject.updates)
                certificates.append(
                    (
                        *(n, *row, subject.new_key, subject.alone_in_seat),
                        *(subject.per_seat, subject.per_day, updates, seats[:position].count(seat)),
                    )
                )
        transactions = [
            (*call.transaction, call.code, call.now, len(call.certificates), same_key_twice(call.wanted) is not None)
            for call in calls
        ]
        parameters = (
            sorted(map(lock_number, locks)),
            *_columns(transactions, 17),
            *_columns(certificates, 21),
        )
        rows = await self._connections.commit(
            lambda connection, again: connection.fetch(_ISSUE, parameters[0], again, *parameters[1:])
        )
        return [self._refusal_of(row) for row in rows]

    def _refusal_of(self, row: "asyncpg.Record") -> Exception | None:
        outcome, serial, until, seat = row
        if outcome is None:
            return None
        if outcome == "exists":
            return TransactionExists()
        if outcome == "code":
            return CodeUnusable()
        return _unmet_of(outcome, serial, until, seat)

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
        updates = b"" if conditions.updates is None else octets_of(conditions.updates)
        (row,) = await self._connections.fetch(
            _UNMET,
            *(profile, seat, spki_sha256, conditions.new_key, conditions.alone_in_seat, conditions.per_seat),
            *(conditions.per_day, updates, others, seconds_of(now)),
        )
        condition, serial, until = row
        return None if condition is None else _unmet_of(condition, serial, until, seat)

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
        uses = len(revoked) + len(kept)
        await self._advance_together(
            _Advance(
                (transaction_id, seen.value, state.value, nonce, request, reply, give_back, uses),
                [
                    *((octets_of(serial), CertificateStatus.valid.value) for serial in confirmed),
                    *((octets_of(serial), CertificateStatus.kept.value) for serial in kept),
                ],
                [
                    (octets_of(one.serial), seconds_of(one.at), int(one.reason), one.outside, fitting(one.private))
                    for one in revoked
                ],
            )
        )

    async def _advance_all(self, calls: Sequence[_Advance]) -> Sequence[Exception | None]:
        settled = [(n, *one) for n, call in enumerate(calls, 1) for one in call.settled]
        revoked = [(n, *one) for n, call in enumerate(calls, 1) for one in call.revoked]
        parameters = (*_columns([call.row for call in calls], 8), *_columns(settled, 3), *_columns(revoked, 6))
        rows = await self._connections.commit(lambda connection, again: connection.fetch(_ADVANCE, again, *parameters))
        moved = {row[0] for row in rows}
        return [None if n in moved else TransactionMoved() for n in range(1, len(calls) + 1)]

    async def refused(self, transaction: Transaction, refusal: Refusal | None = None, /) -> None:
        """See `ports.Store`."""
        row = transaction_row_of(transaction, b"")
        kept = _NO_REFUSAL if refusal is None else tuple(map(fitting, refusal_row_of(refusal)))
        rows = await self._connections.commit(
            lambda connection, again: connection.fetch(_REFUSE, *row, again, *kept, self._refusals)
        )
        if not rows:
            raise TransactionExists

    def _keep(self, cursor: Any, refusal: Refusal) -> None:
        cursor.execute(_KEEP, refusal_row_of(refusal))
        ((newest,),) = cursor.execute(_NEWEST).fetchall()
        cursor.execute(_FORGET, (newest - self._refusals,))

    async def ready(self) -> None:
        """See `ports.Store`. Changes one fixed-size value, so that a server which only reads is not ready."""
        await self._connections.commit(lambda connection, _: connection.execute(_TOUCH))

    async def size(self) -> int:
        """See `AdminStore`. All tables with their indexes."""
        ((size,),) = await self._connections.fetch(_SIZE)
        return int(size)

    async def close(self) -> None:
        """See `ports.Store`. Writes that wait are still done; whatever is called later gets `StoreUnavailable`."""
        for together in (self._look_up, self._issue, self._advance_together):
            await together.finish()
        await self._connections.close()


def _columns(rows: Sequence[Row], width: int) -> Sequence[Sequence[Any]]:
    """Rows as the arrays that `unnest` puts together again."""
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _can_be(serial: int) -> bool:
    """Whether it is the serial number of a certificate (RFC 5280 §4.1.2.2)."""
    return 0 <= serial < 1 << 8 * SERIAL_SIZE


def _text(reference: bytes | None) -> str | None:
    """A reference as it is kept; None when it is no text, and so nobody's."""
    try:
        text = None if reference is None else reference.decode()
    except UnicodeDecodeError:
        return None
    return None if text is None or "\0" in text else text


def _unmet_of(condition: str, serial: bytes | None, until: int | None, seat: str | None) -> Unmet:
    found = Condition(condition)
    return Unmet(
        found,
        seat=seat if found in {Condition.alone_in_seat, Condition.per_seat} else None,
        serial=None if serial is None else int.from_bytes(serial),
        until=None if until is None else datetime_of(until),
    )
