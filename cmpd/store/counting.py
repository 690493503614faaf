"""How large the tables of a store are, how they grow, and what will be deleted next: `cmpd store stats`.

The questions are in SQLite's words, as those of `serving`.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from cmpd.store.copying import TABLES, Row
from cmpd.store.maintenance import GROWTH_DAYS, Due, Retention, Stats, TableStats
from cmpd.store.rows import FINISHED, datetime_of, seconds_of

Ask = Callable[[str, Row], Awaitable[list[Row]]]
"""Answers a query."""

_DAY = 86400
_TIMES = {
    "certificate": "issued_at",
    "cmp_transaction": "created",
    "cert_order": "created",
    "enrollment_code": "created",
    "refusal": "at",
    "service_user": "added",
}
"""The column with the time at which a row came, of tables whose rows are in the order of arrival."""
_EXPIRED = "FROM certificate WHERE status <> 'unconfirmed' AND reason IS NOT 1"
_ENDED = f"FROM cert_order WHERE transaction_row IS NULL AND {FINISHED}"


async def count(ask: Ask, sizes: Mapping[str, int], retention: Retention, now: datetime) -> Stats:
    """Count the rows of all tables; `sizes` are their octets, as far as known."""
    tables = [await _table(ask, name, sizes.get(name), now) for name in (*(table.name for table in TABLES), "store")]
    due = (
        await _due_transactions(ask, retention.transactions, now),
        await _due(
            ask, "certificate", "not_after", _EXPIRED, "store.certificate_retention", retention.certificates, now
        ),
        await _due(ask, "cert_order", "updated", _ENDED, "store.order_retention", retention.orders, now),
    )
    return Stats(tuple(sorted(tables, key=lambda one: (-(one.size or 0), -one.rows))), due)


async def _table(ask: Ask, name: str, size: int | None, now: datetime) -> TableStats:
    ((rows,),) = await ask(f"SELECT count(*) FROM {name}", ())  # noqa: S608  constants only
    column = _TIMES.get(name)
    if column is None or not rows:
        return TableStats(name, rows, size)
    first, last = [
        (await ask(f"SELECT {column} FROM {name} ORDER BY rowid {way} LIMIT 1", ()))[0][0]  # noqa: S608  constants only
        for way in ("ASC", "DESC")
    ]
    seconds = seconds_of(now)
    recent = await _since(ask, name, column, seconds - GROWTH_DAYS * _DAY)
    days = max(min(GROWTH_DAYS, (seconds - first) / _DAY), 1)
    return TableStats(name, rows, size, datetime_of(first), datetime_of(last), round(recent / days, 1))


async def _since(ask: Ask, table: str, column: str, seconds: int) -> int:
    """About how many rows came since then, by halving: rows are in the order of arrival."""
    ((low,),) = await ask(f"SELECT min(rowid) FROM {table}", ())  # noqa: S608  constants only
    ((end,),) = await ask(f"SELECT max(rowid) FROM {table}", ())  # noqa: S608  constants only
    if low is None:
        return 0
    high = end + 1
    while low < high:
        middle = (low + high) // 2
        rows = await ask(
            f"SELECT rowid, {column} FROM {table} WHERE rowid >= ? ORDER BY rowid LIMIT 1",  # noqa: S608  constants only
            (middle,),
        )
        if not rows or rows[0][1] >= seconds:
            high = middle
        else:
            low = rows[0][0] + 1
    return int(end - low + 1)


async def _due_transactions(ask: Ask, keep: timedelta, now: datetime) -> Due:
    ((total,),) = await ask("SELECT count(*) FROM cmp_transaction", ())
    young = await _since(ask, "cmp_transaction", "created", seconds_of(now - keep))
    rows = await ask("SELECT created FROM cmp_transaction ORDER BY id LIMIT 1", ())
    following = datetime_of(rows[0][0]) + keep if rows else None
    return Due("cmp_transaction", "store.retention", keep, max(total - young, 0), following)


async def _due(
    ask: Ask, table: str, column: str, which: str, setting: str, keep: timedelta | None, now: datetime
) -> Due:
    if keep is None:
        return Due(table, setting, None, 0, None)
    ((number,),) = await ask(f"SELECT count(*) {which} AND {column} < ?", (seconds_of(now - keep),))
    ((oldest,),) = await ask(f"SELECT min({column}) {which}", ())
    return Due(table, setting, keep, number, None if oldest is None else datetime_of(oldest) + keep)
