"""What must hold at the moment of a commit (`ports.Conditions`), and how a transaction begins under it.

An order that is open counts as a certificate in force.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from cmpd.exchange import (
    RevocationReason,
    Transaction,
)
from cmpd.ports import (
    CodeUnusable,
    Condition,
    Conditions,
    TransactionExists,
    Unmet,
)
from cmpd.store.group_commit import Row
from cmpd.store.rows import OPEN, datetime_of, octets_of, transaction_row_of

DAY = 86400
"""Seconds of a day."""
_SAME_KEY = (
    "SELECT serial, not_after, status, reason FROM certificate WHERE substr(spki_sha256, 1, 8) = ? AND spki_sha256 = ?"
)
_SAME_KEY_OR_ORDER = (
    f"{_SAME_KEY} UNION ALL"  # noqa: S608  constants only
    f" SELECT NULL, NULL, 'open', NULL FROM cert_order WHERE spki_sha256 = ? AND collected = 0 AND {OPEN}"
)
SAME_SEAT = (
    "SELECT count(*), min(not_after), serial FROM certificate"  # noqa: S608  constants only
    " WHERE profile = ? AND seat = ? AND status <> 'revoked' AND not_after >= ? AND serial <> ?"
    f" UNION ALL SELECT count(*), NULL, NULL FROM cert_order WHERE profile = ? AND seat = ? AND {OPEN}"
)
_SPENT = "SELECT certificates FROM issued_per_day WHERE profile = ? AND day = ?"

TRANSACTION = (
    "SELECT transaction_id, profile, operation, credential, state, nonce, first_request, first_reply, created,"
    " confirm_by, last_request, last_reply FROM cmp_transaction WHERE transaction_id = ?"
)
INSERT_TRANSACTION = (
    "INSERT INTO cmp_transaction (transaction_id, state, created, confirm_by, profile, operation, credential, serials,"
    " nonce, first_request, first_reply, last_request, last_reply) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (transaction_id) DO NOTHING"
)
_CONSUME_CODE = (
    # a lock that began when the request was on its way already stays: only one that is over is forgotten
    "UPDATE enrollment_code SET used = used + ?, locks = CASE WHEN locked_until > ? THEN locks ELSE 0 END,"
    " locked_until = CASE WHEN locked_until > ? THEN locked_until END, wrong_macs = 0"
    " WHERE id = ? AND revoked_at IS NULL"
    " AND (valid_from IS NULL OR valid_from <= ?) AND (expires IS NULL OR expires > ?)"
    " AND (uses IS NULL OR used + ? <= uses)"
)
_SPEND = (
    "INSERT INTO issued_per_day (profile, day, certificates) VALUES (?, ?, ?)"
    " ON CONFLICT (profile, day) DO UPDATE SET certificates = issued_per_day.certificates + excluded.certificates"
)

UNCONDITIONAL = Conditions()


class Wanted(NamedTuple):
    """A certificate that is to come into being, and what it is subject to."""

    profile: str
    seat: str | None
    spki: bytes | None
    """SHA-256 of its public key; None when it has none that can be read."""
    conditions: Conditions


class Beginning:
    """A new transaction with its certificates or orders: what is asked, and what is written first."""

    __slots__ = ("_code", "_consume", "_looks", "_same_key", "_spend", "_transaction", "_wanted")

    def __init__(
        self, transaction: Transaction, serials: bytes, wanted: Sequence[Wanted], *, code: int | None, now: int
    ) -> None:
        number = len(wanted)
        seats = [one.seat for one in wanted]
        self._looks = [
            look
            for position, one in enumerate(wanted)
            for look in looks_at(*one, now, others=number - 1, seat_mates=seats[:position].count(one.seat))
        ]
        self._same_key = None if number < 2 else same_key_twice(wanted)
        self._wanted = wanted
        self._transaction = transaction_row_of(transaction, serials)
        self._code = code
        self._consume = (number, now, now, code, now, now, number)
        self._spend = (transaction.profile, now // DAY, number) if number else None

    def write(self, cursor: sqlite3.Cursor) -> None:
        """Keep the transaction, consume the code, spend of the day's budget.

        Raises `TransactionExists`, `CodeUnusable` or `Unmet`, and then has left nothing behind.
        """
        unmet = self._same_key
        for look in self._looks:
            unmet = unmet or look.judge(cursor.execute(look.query, look.parameters).fetchall())
        if unmet is not None:
            # nothing is written yet; the same request a second time is to hear of the first
            if cursor.execute(TRANSACTION, self._transaction[:1]).fetchone() is not None:
                raise TransactionExists
            raise unmet
        cursor.execute(INSERT_TRANSACTION, self._transaction)
        if cursor.rowcount == 0:
            raise TransactionExists
        if self._code is not None:
            cursor.execute(_CONSUME_CODE, self._consume)
            if cursor.rowcount == 0:
                cursor.execute("DELETE FROM cmp_transaction WHERE transaction_id = ?", self._transaction[:1])
                raise CodeUnusable
        if self._spend is not None:
            cursor.execute(_SPEND, self._spend)

    def contested(self) -> set[str]:
        """See `contested`."""
        return contested(self._transaction[0], self._wanted, self._code)


def contested(transaction_id: bytes, wanted: Iterable[Wanted], code: int | None) -> set[str]:
    """Names for all that two nodes must not look at, find free and take at the same time."""
    names = {f"transaction {transaction_id.hex()}"}
    if code is not None:
        names.add(f"code {code}")
    for one in wanted:
        conditions = one.conditions
        if conditions.new_key and one.spki is not None:
            names.add(f"key {one.spki.hex()}")
        if one.seat is not None and (conditions.alone_in_seat or conditions.per_seat is not None):
            names.add(f"seat {one.profile} {one.seat}")
        if conditions.per_day is not None:
            names.add(f"day {one.profile}")
    return names


class _Look(NamedTuple):
    """A question to the database about one condition, and who judges what it finds."""

    query: str
    parameters: tuple[Any, ...]
    judge: Callable[[list[Row]], Unmet | None]


def looks_at(
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
        if conditions.new_key:
            yield _Look(_SAME_KEY_OR_ORDER, (spki[:8], spki, spki), partial(_judge_key, True, now))
        else:
            yield _Look(_SAME_KEY, (spki[:8], spki), partial(_judge_key, False, now))
    if seat is not None and (conditions.alone_in_seat or conditions.per_seat is not None):
        updates = b"" if conditions.updates is None else octets_of(conditions.updates)
        most = None if conditions.per_seat is None else conditions.per_seat - seat_mates
        judge = partial(_judge_seat, seat, conditions.alone_in_seat, seat_mates, most)
        yield _Look(SAME_SEAT, (profile, seat, now, updates, profile, seat), judge)
    if conditions.per_day is not None:
        day = now // DAY
        yield _Look(_SPENT, (profile, day), partial(_judge_day, conditions.per_day - others, day))


def _judge_key(new_key: bool, now: int, rows: list[Row]) -> Unmet | None:
    unmet = None
    for serial, not_after, status, reason in rows:
        if status == "revoked":
            if reason == RevocationReason.keyCompromise:
                return Unmet(Condition.compromised_key, serial=int.from_bytes(serial))
        elif serial is None:
            unmet = unmet or Unmet(Condition.new_key)
        elif new_key and not_after >= now:
            unmet = Unmet(Condition.new_key, serial=int.from_bytes(serial), until=datetime_of(not_after))
    return unmet


def _judge_seat(seat: str, alone: bool, mates: int, most: int | None, rows: list[Row]) -> Unmet | None:
    (number, first_end, serial), (orders, _, _) = rows
    condition = None
    if alone and number + orders + mates:
        condition = Condition.alone_in_seat
    elif most is not None and number + orders >= most:
        condition = Condition.per_seat
    if condition is None or not number:  # when none is in force, it is orders or those issued with it that are too many
        return None if condition is None else Unmet(condition, seat=seat)
    until = None if condition is Condition.alone_in_seat and orders else datetime_of(first_end)
    return Unmet(condition, seat=seat, serial=int.from_bytes(serial), until=until)


def _judge_day(most: int, day: int, rows: list[Row]) -> Unmet | None:
    if (rows[0][0] if rows else 0) < most:
        return None
    return Unmet(Condition.per_day, until=datetime_of((day + 1) * DAY) if most > 0 else None)


def same_key_twice(wanted: Sequence[Wanted]) -> Unmet | None:
    """Hold the certificates of one call against each other: of the others the database does not know yet."""
    seen: set[bytes | None] = {None}
    for one in wanted:
        if one.conditions.new_key and one.spki is not None and one.spki in seen:
            return Unmet(Condition.new_key)
        seen.add(one.spki)
    return None
