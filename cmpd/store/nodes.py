"""Who else works on the store, and who sees to what, in SQL: leases and the processes that hold them.

Times are in milliseconds since 1970, by the database's clock: in SQLite that of the machine.
"""

import json
import sqlite3
from collections.abc import Collection

from cmpd.ports import Node
from cmpd.store.group_commit import Row
from cmpd.store.operators import Connections
from cmpd.store.rows import datetime_of, seconds_of

NOW = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
_LEASE = "SELECT holder, ends FROM lease WHERE name = ?"
_KEEP_LEASE = (
    "INSERT INTO lease (name, holder, ends) VALUES (?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, ends = excluded.ends"
)
_COLUMNS = "id, host, pid, place, version, started, seen, configuration, profiles, counts"
_KEEP_NODE = (
    f"INSERT INTO node ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  constants only
    " ON CONFLICT (id) DO UPDATE SET version = excluded.version, seen = excluded.seen,"
    " configuration = excluded.configuration, profiles = excluded.profiles, counts = excluded.counts"
)
_NODES = f"SELECT {_COLUMNS} FROM node ORDER BY started, id"  # noqa: S608  constants only


class Nodes:
    """The part of `SQLiteStore` that is about processes."""

    _connections: Connections

    async def lease(self, name: str, holder: str, seconds: float, /) -> bool:
        """See `ports.NodeStore`."""

        def is_free(row: Row | None, now: int) -> bool:
            return row is None or row[0] == holder or not now < row[1] <= now + int(2 * seconds * 1000)

        def work(cursor: sqlite3.Cursor) -> bool:
            ((now,),) = cursor.execute(NOW).fetchall()
            if not is_free(cursor.execute(_LEASE, (name,)).fetchone(), now):
                return False
            cursor.execute(_KEEP_LEASE, (name, holder, now + int(seconds * 1000)))
            return True

        rows = await self._connections.read(_LEASE, (name,))
        if rows and not is_free(rows[0], await self._now()):
            return False
        return await self._connections.write(work)

    async def release(self, name: str, holder: str, /) -> None:
        """See `ports.NodeStore`."""

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.execute("DELETE FROM lease WHERE name = ? AND holder = ?", (name, holder))

        await self._connections.write(work)

    async def keep_node(self, node: Node, /) -> None:
        """See `ports.NodeStore`."""
        row = (
            node.id,
            node.host,
            node.pid,
            node.place,
            node.version,
            seconds_of(node.started),
            node.configuration,
            json.dumps(dict(node.profiles)),
            json.dumps(dict(node.counts)),
        )

        def work(cursor: sqlite3.Cursor) -> None:
            ((now,),) = cursor.execute(NOW).fetchall()
            cursor.execute(_KEEP_NODE, (*row[:6], now, *row[6:]))

        await self._connections.write(work)

    async def nodes(self) -> tuple[Node, ...]:
        """See `ports.NodeStore`."""
        rows = await self._connections.read(_NODES, ())
        now = await self._now()
        held: dict[str, list[str]] = {}
        for name, holder in await self._connections.read(
            "SELECT name, holder FROM lease WHERE ends > ? ORDER BY name", (now,)
        ):
            held.setdefault(holder, []).append(name)
        return tuple(
            Node(
                id=id,
                host=host,
                pid=pid,
                place=place,
                version=version,
                started=datetime_of(started),
                configuration=configuration,
                profiles=json.loads(profiles),
                counts=json.loads(counts),
                silent=max(now - seen, 0) / 1000,
                leases=tuple(held.get(id, ())),
            )
            for id, host, pid, place, version, started, seen, configuration, profiles, counts in rows
        )

    async def forget_nodes(self, ids: Collection[str], /) -> None:
        """See `ports.NodeStore`."""
        rows = [(one,) for one in ids]

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.executemany("DELETE FROM node WHERE id = ?", rows)
            cursor.executemany("DELETE FROM lease WHERE holder = ?", rows)

        if rows:
            await self._connections.write(work)

    async def _now(self) -> int:
        ((now,),) = await self._connections.read(NOW, ())
        return int(now)
