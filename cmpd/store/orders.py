"""Certificates on order in a store in SQL: what each call of `ports.OrderStore`, and of an operator's, is in SQL.

An order begins with its transaction and stays for good. Which transaction waits for it is in `transaction_row`: a
transactionID may come a second time when the first transaction is forgotten. `collected` is set when a final answer
has said what became of it; until then the sender who asks for the same again gets this one.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from cmpd.exchange import (
    OPEN_ORDERS,
    CertificateStatus,
    IssuedCertificate,
    Order,
    OrderState,
    Transaction,
    TransactionState,
)
from cmpd.ports import Conditions, OrderMoved, TransactionExists, TransactionMoved
from cmpd.store.conditions import INSERT_TRANSACTION, TRANSACTION, UNCONDITIONAL, Beginning, Wanted
from cmpd.store.group_commit import Row
from cmpd.store.operators import Connections
from cmpd.store.rows import (
    FINISHED,
    OPEN,
    ORDER_COLUMNS,
    approved_text_of,
    certificate_row_of,
    confirm_row,
    insert_certificate,
    octets_of,
    order_of,
    seconds_of,
    transaction_row_of,
)

_DIGEST_SIZE = 32
_LAST_CHARACTER = "\U0010ffff"

_ORDERS_OF = (
    f"SELECT {ORDER_COLUMNS} FROM cmp_transaction t JOIN cert_order o ON o.transaction_row = t.id"  # noqa: S608  constants only
    " WHERE t.transaction_id = ? ORDER BY o.cert_req_id, o.id"
)
_ORDER = f"SELECT {ORDER_COLUMNS} FROM cert_order o WHERE o.stamp = ?"  # noqa: S608  constants only
_BEGINS_WITH = f"SELECT {ORDER_COLUMNS} FROM cert_order o WHERE stamp >= ? AND stamp < ? ORDER BY stamp LIMIT 2"  # noqa: S608  constants only
_SAME_ORDER = (
    f"SELECT {ORDER_COLUMNS} FROM cert_order o"  # noqa: S608  constants only
    " WHERE spki_sha256 = ? AND collected = 0 AND profile = ? AND credential = ? AND state <> 'failed'"
    " AND NOT EXISTS (SELECT 1 FROM certificate c WHERE c.serial = o.serial AND c.status = 'revoked') ORDER BY o.id"
)
_ORDERS_DUE = (
    f"SELECT {ORDER_COLUMNS} FROM cert_order o"  # noqa: S608  constants only
    " WHERE state IN ('intended', 'submitting', 'unknown', 'ordered') AND issuer = ? AND due <= ?"
    " ORDER BY due, id LIMIT ?"
)
_INSERT_ORDER = (
    "INSERT INTO cert_order (stamp, transaction_row, transaction_id, cert_req_id, profile, issuer, credential, seat,"
    " spki_sha256, approved, implicit, created, collected, state, updated, due, ticket, attempts, serial, text,"
    " fail_info, private, note, chain, step)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_MOVE_ORDER = (
    "UPDATE cert_order SET state = ?, updated = ?, due = ?, ticket = ?, attempts = ?, serial = ?, text = ?,"
    " fail_info = ?, private = ?, note = ?, chain = ?, step = step + 1, collected = collected * ?"
    " WHERE stamp = ? AND state = ? AND step = ?"
)
_WHOSE = "SELECT transaction_row, transaction_id, cert_req_id FROM cert_order WHERE stamp = ?"
_SERIALS = (
    "SELECT serial FROM cert_order WHERE transaction_row = ? AND state = 'issued' AND serial IS NOT NULL"
    " ORDER BY cert_req_id, id"
)
_SET_SERIALS = "UPDATE cmp_transaction SET serials = ? WHERE id = ?"
_TAKE_ORDER = (
    "UPDATE cert_order SET transaction_row = ?, transaction_id = ?, cert_req_id = ?, credential = ? WHERE id = ?"
)
_TAKE_CERTIFICATE = "UPDATE certificate SET transaction_id = ?, cert_req_id = ? WHERE serial = ?"
_END = "UPDATE cmp_transaction SET state = 'refused' WHERE id = ? AND state = 'waiting'"
_DELIVER = (
    "UPDATE cmp_transaction SET state = ?, nonce = ?, confirm_by = ?, last_request = ?, last_reply = ?"
    " WHERE transaction_id = ? AND state = 'waiting' AND nonce = ?"
)
_DELIVER_FIRST = (
    "UPDATE cmp_transaction SET state = ?, nonce = ?, confirm_by = ?, first_reply = ?"
    " WHERE transaction_id = ? AND state = 'waiting' AND nonce = ?"
)
_HAND_OUT = (
    "UPDATE certificate SET status = 'unconfirmed' WHERE status = 'kept' AND serial IN"
    " (SELECT o.serial FROM cmp_transaction t JOIN cert_order o ON o.transaction_row = t.id"
    " WHERE t.transaction_id = ? AND o.state = 'issued')"
)
"""What was kept for whoever would still come is handed out like any other."""
_COLLECT = (
    "UPDATE cert_order SET collected = 1 WHERE transaction_row ="  # noqa: S608  constants only
    f" (SELECT id FROM cmp_transaction WHERE transaction_id = ?) AND {FINISHED}"
)

_TICKETS = (
    "SELECT stamp, ticket FROM cert_order WHERE state IN ('intended', 'submitting', 'unknown', 'ordered')"
    " AND issuer = ? AND state = 'ordered' ORDER BY due"
)
"""In the words of the index of what is due."""


class Orders:
    """The half of a store that is about certificates on order."""

    _connections: Connections
    _ca_certificates: dict[bytes, bytes]
    """By SHA-256: they are few, and never change."""

    async def intend(
        self,
        transaction: Transaction,
        orders: Sequence[Order],
        /,
        *,
        code: int | None,
        now: datetime,
        conditions: Sequence[Conditions] = (),
    ) -> None:
        """See `ports.OrderStore`."""
        subject_to = conditions or (UNCONDITIONAL,) * len(orders)
        both = sorted(zip(orders, subject_to, strict=True), key=lambda one: one[0].cert_req_id)
        keys = [sha256(one.approved.spki).digest() for one, _ in both]
        beginning = Beginning(
            transaction,
            b"",
            [
                Wanted(one.approved.profile, one.approved.seat, key, subject)
                for key, (one, subject) in zip(keys, both, strict=True)
                if one.state is not OrderState.failed
            ],
            code=code,
            now=seconds_of(now),
        )
        rows = [
            (
                transaction.transaction_id,
                one.cert_req_id,
                one.approved.profile,
                one.issuer,
                transaction.credential,
                one.approved.seat,
                key,
                approved_text_of(one.approved),
                int(one.implicit),
                seconds_of(one.created),
                *_changing(one),
                one.step,
            )
            for key, (one, _) in zip(keys, both, strict=True)
        ]
        above = [certificate for one in orders for certificate in one.chain]

        def work(cursor: sqlite3.Cursor) -> None:
            beginning.write(cursor)
            row_of_transaction = _row_of(cursor, transaction.transaction_id)
            for (one, _), row in zip(both, rows, strict=True):
                cursor.execute(_INSERT_ORDER, (one.stamp, row_of_transaction, *row))
            _keep_above(cursor, above)

        await self._connections.write(work, beginning.contested)

    async def orders_of(self, transaction_id: bytes, /) -> tuple[Order, ...]:
        """See `ports.OrderStore`."""
        return await self._orders(_ORDERS_OF, (transaction_id,))

    async def order(self, stamp: str, /) -> Order | None:
        """See `ports.OrderStore`."""
        return next(iter(await self._orders(_ORDER, (stamp,))), None)

    async def same_order(self, profile: str, credential: str, spki_sha256: bytes, /) -> tuple[Order, ...]:
        """See `ports.OrderStore`. Not one whose certificate has been revoked meanwhile."""
        return await self._orders(_SAME_ORDER, (spki_sha256, profile, credential))

    async def orders_due(self, issuer: str, now: datetime, limit: int, /) -> tuple[Order, ...]:
        """See `ports.OrderStore`. Nothing is ever due about those that are held, issued or failed."""
        return await self._orders(_ORDERS_DUE, (issuer, seconds_of(now), limit))

    async def tickets(self, issuer: str, /) -> tuple[tuple[str, str], ...]:
        """See `ports.OrderStore`."""
        return tuple((stamp, ticket) for stamp, ticket in await self._connections.read(_TICKETS, (issuer,)))

    async def orders_open(self, issuer: str, states: Sequence[OrderState], limit: int, /) -> tuple[Order, ...]:
        """See `ports.OrderStore`. Of states that are not open there are none."""
        wanted = [one.value for one in dict.fromkeys(states) if one in OPEN_ORDERS]
        if not wanted:
            return ()
        # each from its own stretch of the index, which is in the order of arrival
        one = (
            f"SELECT * FROM (SELECT id FROM cert_order WHERE issuer = ? AND state = ? AND {OPEN}"  # noqa: S608  constants only
            " ORDER BY id LIMIT ?) subquery"
        )
        return await self._orders(
            f"SELECT {ORDER_COLUMNS} FROM cert_order o WHERE o.id IN"  # noqa: S608  constants only
            f" (SELECT id FROM ({' UNION ALL '.join([one] * len(wanted))}) subquery ORDER BY id LIMIT ?) ORDER BY o.id",
            (*(value for state in wanted for value in (issuer, state, limit)), limit),
        )

    async def move_order(
        self, order: Order, /, *, seen: OrderState, certificate: IssuedCertificate | None = None
    ) -> Order:
        """See `ports.OrderStore`. A certificate is unconfirmed until it is delivered, and belongs to who waits now."""
        row: Row | None = None
        if certificate is not None:
            order = replace(order, serial=certificate.serial)
            if certificate.status is CertificateStatus.valid:
                certificate = replace(certificate, status=CertificateStatus.unconfirmed)
            row = certificate_row_of(certificate)
        change = (*_changing(order), int(order.state not in OPEN_ORDERS), order.stamp, seen.value, order.step)

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.execute(_MOVE_ORDER, change)
            if cursor.rowcount == 0:
                raise OrderMoved
            _keep_above(cursor, order.chain)
            if row is not None:
                row_of_transaction, transaction_id, cert_req_id = cursor.execute(_WHOSE, (order.stamp,)).fetchone()
                insert_certificate(cursor, (*row[:6], transaction_id, cert_req_id, *row[8:]))
                _set_serials(cursor, row_of_transaction)

        await self._connections.write(work)
        return replace(order, step=order.step + 1)

    async def hand_over(self, orders: Sequence[Order], transaction: Transaction, /) -> None:
        """See `ports.OrderStore`. Their certReqId becomes what `orders` say."""
        new = transaction_row_of(transaction, b"")

        def work(cursor: sqlite3.Cursor) -> None:
            found = [
                cursor.execute(
                    "SELECT id, transaction_row, serial FROM cert_order WHERE stamp = ? AND collected = 0", (one.stamp,)
                ).fetchone()
                for one in orders
            ]
            if None in found:  # nothing is written yet; the same request a second time is to hear of the first
                if cursor.execute(TRANSACTION, new[:1]).fetchone() is not None:
                    raise TransactionExists
                raise OrderMoved
            cursor.execute(INSERT_TRANSACTION, new)
            if cursor.rowcount == 0:
                raise TransactionExists
            row_of_transaction = _row_of(cursor, transaction.transaction_id)
            for one, (number, _, serial) in zip(orders, found, strict=True):
                whose = (transaction.transaction_id, one.cert_req_id)
                cursor.execute(_TAKE_ORDER, (row_of_transaction, *whose, transaction.credential, number))
                if serial is not None:
                    cursor.execute(_TAKE_CERTIFICATE, (*whose, serial))
            for before in {row for _, row, _ in found if row is not None}:
                cursor.execute(_END, (before,))
                _set_serials(cursor, before)
            _set_serials(cursor, row_of_transaction)

        await self._connections.write(work)

    async def deliver(
        self,
        transaction_id: bytes,
        /,
        *,
        seen: bytes,
        state: TransactionState,
        nonce: bytes,
        request: bytes,
        reply: bytes,
        confirm_by: datetime | None = None,
        confirmed: Sequence[int] = (),
        first: bool = False,
    ) -> None:
        """See `ports.OrderStore`. A certificate that was revoked meanwhile stays revoked."""
        until = None if confirm_by is None else seconds_of(confirm_by)
        answer = (state.value, nonce, until, *(() if first else (request,)), reply, transaction_id, seen)

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.execute(_DELIVER_FIRST if first else _DELIVER, answer)
            if cursor.rowcount == 0:
                raise TransactionMoved
            if state is not TransactionState.waiting:
                cursor.execute(_HAND_OUT, (transaction_id,))
                cursor.execute(_COLLECT, (transaction_id,))
            for serial in confirmed:
                confirm_row(cursor, octets_of(serial))

        await self._connections.write(work)

    # For the operator

    async def orders(
        self,
        limit: int,
        states: Iterable[OrderState] | None = None,
        profile: str | None = None,
        issuer: str | None = None,
    ) -> list[Order]:
        """See `AdminStore`."""
        wanted = list(OrderState) if states is None else list(dict.fromkeys(states))
        if not wanted:
            return []
        is_open = f" INDEXED BY open_order WHERE {OPEN} AND" if set(wanted) <= OPEN_ORDERS else " WHERE"
        return list(
            await self._orders(
                f"SELECT {ORDER_COLUMNS} FROM cert_order o{is_open} state IN ({', '.join('?' * len(wanted))})"  # noqa: S608  constants only
                " AND (? IS NULL OR profile = ?) AND (? IS NULL OR issuer = ?) ORDER BY o.id DESC LIMIT ?",
                (*(one.value for one in wanted), profile, profile, issuer, issuer, limit),
            )
        )

    async def order_of(self, stamp: str) -> Order | None:
        """See `AdminStore`."""
        found = await self._orders(_BEGINS_WITH, (stamp, stamp + _LAST_CHARACTER))
        return found[0] if len(found) == 1 or (found and found[0].stamp == stamp) else None

    async def _orders(self, query: str, parameters: tuple[Any, ...]) -> tuple[Order, ...]:
        return tuple(
            [order_of(row, await self._chain(row[-2])) for row in await self._connections.read(query, parameters)]
        )

    async def _chain(self, digests: bytes) -> tuple[bytes, ...]:
        """The CA certificates of a chain; each is read once."""
        chain = []
        for at in range(0, len(digests), _DIGEST_SIZE):
            one = digests[at : at + _DIGEST_SIZE]
            if one not in self._ca_certificates:
                ((self._ca_certificates[one],),) = await self._connections.read(
                    "SELECT der FROM ca_certificate WHERE sha256 = ?", (one,)
                )
            chain.append(self._ca_certificates[one])
        return tuple(chain)


def _changing(order: Order) -> Row:
    """What may change while it is on order."""
    return (
        order.state.value,
        seconds_of(order.updated),
        seconds_of(order.due),
        order.ticket,
        order.attempts,
        None if order.serial is None else octets_of(order.serial),
        order.text,
        order.fail_info,
        order.private,
        order.note,
        b"".join(sha256(one).digest() for one in order.chain),
    )


def _keep_above(cursor: sqlite3.Cursor, chain: Iterable[bytes]) -> None:
    """Keep CA certificates, each once."""
    for one in chain:
        cursor.execute(
            "INSERT INTO ca_certificate (sha256, der) VALUES (?, ?) ON CONFLICT DO NOTHING", (sha256(one).digest(), one)
        )


def _row_of(cursor: sqlite3.Cursor, transaction_id: bytes) -> int:
    """The row of a transaction that is there."""
    found = cursor.execute("SELECT id FROM cmp_transaction WHERE transaction_id = ?", (transaction_id,)).fetchone()
    return int(found[0])


def _set_serials(cursor: sqlite3.Cursor, row: int | None) -> None:
    """Have a transaction name the certificates of its orders, in the order of certReqId."""
    serials = b"".join(serial for (serial,) in cursor.execute(_SERIALS, (row,)).fetchall())
    cursor.execute(_SET_SERIALS, (serials, row))
