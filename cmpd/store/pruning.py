"""What has ended long ago is deleted, in small steps: each is a commit of its own, and others write in between.

Ended transactions are deleted by `forget`. Here is the rest. What is walked begins with the oldest and ends where
nothing is old enough, so that a walk costs what it deletes, however much is kept.
"""

from datetime import datetime

from cmpd.store import Pruned
from cmpd.store.conditions import DAY
from cmpd.store.group_commit import Row
from cmpd.store.operators import Connections
from cmpd.store.rows import FINISHED, seconds_of

STEP = 100
"""How many rows a step deletes, or looks at."""

_DROP_CERTIFICATES = (
    "DELETE FROM certificate WHERE rowid IN (SELECT rowid FROM certificate"
    " WHERE status <> 'unconfirmed' AND reason IS NOT 1 AND not_after < ? ORDER BY not_after LIMIT ?)"
)
"""In the words of the index of their ends."""
_OLDEST_ORDERS = "SELECT id, created FROM cert_order WHERE id > ? ORDER BY id LIMIT ?"
_DROP_ORDERS = (
    f"DELETE FROM cert_order WHERE id > ? AND id <= ? AND updated < ? AND transaction_row IS NULL AND {FINISHED}"  # noqa: S608  constants only
)
_NEXT_PROFILE = "SELECT min(profile) FROM issued_per_day WHERE profile > ?"
_DROP_COUNTERS = "DELETE FROM issued_per_day WHERE profile = ? AND day < ?"


class Pruning:
    """The part of a store that deletes what is kept long enough."""

    _connections: Connections

    async def prune(
        self, *, certificates: datetime | None = None, orders: datetime | None = None, counters: datetime | None = None
    ) -> Pruned:
        """See `AdminStore`."""
        return Pruned(
            0 if certificates is None else await self._prune_certificates(seconds_of(certificates)),
            0 if orders is None else await self._prune_orders(seconds_of(orders)),
            0 if counters is None else await self._prune_counters(seconds_of(counters) // DAY),
        )

    async def _prune_certificates(self, before: int) -> int:
        count = 0
        while step := await self._delete(_DROP_CERTIFICATES, (before, STEP)):
            count += step
        return count

    async def _prune_orders(self, before: int) -> int:
        count = last = 0
        while True:
            rows = await self._connections.read(_OLDEST_ORDERS, (last, STEP))
            if not any(created < before for _, created in rows):
                return count
            count += await self._delete(_DROP_ORDERS, (last, rows[-1][0], before))
            last = rows[-1][0]

    async def _prune_counters(self, before: int) -> int:
        count, profile = 0, ""
        while True:
            ((following,),) = await self._connections.read(_NEXT_PROFILE, (profile,))
            if following is None:
                return count
            count += await self._delete(_DROP_COUNTERS, (following, before))
            profile = following

    async def _delete(self, statement: str, parameters: Row) -> int:
        return await self._connections.write(lambda cursor: cursor.execute(statement, parameters).rowcount)
