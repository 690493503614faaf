"""What must hold at the moment of a commit (`ports.Conditions`): the questions to the database, and who judges them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from cmpd.exchange import (
    RevocationReason,
)
from cmpd.ports import (
    Condition,
    Conditions,
    Unmet,
)
from cmpd.store.group_commit import Row
from cmpd.store.rows import datetime_of, octets_of

DAY = 86400
"""Seconds of a day."""
_SAME_KEY = (
    "SELECT serial, not_after, status, reason FROM certificate WHERE substr(spki_sha256, 1, 8) = ? AND spki_sha256 = ?"
)
_SAME_SEAT = (
    "SELECT count(*), min(not_after), serial FROM certificate"
    " WHERE profile = ? AND seat = ? AND status <> 'revoked' AND not_after >= ? AND serial <> ?"
)
_SPENT = "SELECT certificates FROM issued_per_day WHERE profile = ? AND day = ?"


UNCONDITIONAL = Conditions()


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
        yield _Look(_SAME_KEY, (spki[:8], spki), partial(_judge_key, conditions.new_key, now))
    if seat is not None and (conditions.alone_in_seat or conditions.per_seat is not None):
        updates = b"" if conditions.updates is None else octets_of(conditions.updates)
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
            unmet = Unmet(Condition.new_key, serial=int.from_bytes(serial), until=datetime_of(not_after))
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
    return Unmet(condition, seat=seat, serial=int.from_bytes(serial), until=datetime_of(first_end))


def _judge_day(most: int, day: int, rows: list[Row]) -> Unmet | None:
    if (rows[0][0] if rows else 0) < most:
        return None
    return Unmet(Condition.per_day, until=datetime_of((day + 1) * DAY) if most > 0 else None)


def same_key_twice(wanted: Sequence[tuple[bytes | None, Conditions]]) -> Unmet | None:
    """Hold the certificates of one call against each other: of the others the database does not know yet."""
    seen: set[bytes | None] = {None}
    for key, conditions in wanted:
        if conditions.new_key and key is not None and key in seen:
            return Unmet(Condition.new_key)
        seen.add(key)
    return None
