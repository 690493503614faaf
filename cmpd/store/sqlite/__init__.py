"""The store in one SQLite file: how calls share commits is in `group_commit`, the tables are in `schema`."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Self

from cmpd.ports import StoreUnavailable
from cmpd.store import REFUSALS, StoreRefused
from cmpd.store.group_commit import GroupCommit, primary_code, unavailable
from cmpd.store.schema import open_database, size_of
from cmpd.store.sealing import Sealing
from cmpd.store.serving import Serving

_REFUSE_AT_OPEN = {
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
}
"""The primary result codes that do not pass by themselves."""


class SQLiteStore(Serving):
    """`ports.Store` and `AdminStore` over one SQLite file. Made by `open`, used from one event loop."""

    _connections: GroupCommit

    def __init__(self, path: Path, sealing: Sealing, connections: GroupCommit, refusals: int = REFUSALS) -> None:
        super().__init__(str(path), sealing, connections, refusals)
        self._path = path
        self._identity = _identity(path)

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._path)!r})"

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

    async def ready(self) -> None:
        """See `ports.Store`. Commits a change of one fixed-size value, and sees that the file is still in its place."""
        if _identity(self._path) != self._identity:
            raise StoreUnavailable(f"{self._path}: has been removed or replaced while cmpd had it open: restart cmpd")

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.execute("UPDATE store SET value = 1 - value WHERE name = 'ready'")

        await self._write(work)

    async def size(self) -> int:
        """See `AdminStore`. With the write-ahead log."""
        return size_of(self._path) or 0

    async def close(self) -> None:
        """See `ports.Store`. Writes that wait are still done; whatever is called later gets `StoreUnavailable`."""
        await self._connections.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is that the path leads to."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
