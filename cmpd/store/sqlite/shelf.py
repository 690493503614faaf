"""The rows of an SQLite store, as they are copied: see `copying.Shelf`."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from cmpd.store.backups import note
from cmpd.store.copying import Row, Table


class SQLiteShelf:
    """See `copying.Shelf`. What the key `id` of a certificate is called in the file is rowid."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._columns: dict[str, tuple[str, ...]] = {}

    @property
    def place(self) -> str:
        """The path."""
        return str(self._path)

    async def columns(self, table: Table) -> tuple[str, ...]:
        """See `copying.Shelf`."""
        if table.name not in self._columns:
            found = {row[1] for row in self._connection.execute(f"PRAGMA table_info({table.name})")}
            self._columns[table.name] = (*table.key, *sorted(found.difference(table.key)))
        return self._columns[table.name]

    async def count(self, table: Table) -> int:
        """See `copying.Shelf`."""
        return int(self._connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0])  # noqa: S608  constants only

    async def rows(self, table: Table, after: Row | None, upto: Row | None, limit: int) -> list[Row]:
        """See `copying.Shelf`."""
        columns = ", ".join(_columns_of(table, await self.columns(table)))
        where, parameters = _between(table, after, upto)
        return self._connection.execute(
            f"SELECT {columns} FROM {table.name}{where} ORDER BY {', '.join(_columns_of(table, table.key))} LIMIT ?",  # noqa: S608  constants only
            (*parameters, limit),
        ).fetchall()

    async def last(self, table: Table) -> Row | None:
        """See `copying.Shelf`."""
        key = _columns_of(table, table.key)
        found: Row | None = self._connection.execute(
            f"SELECT {', '.join(key)} FROM {table.name} ORDER BY {', '.join(f'{one} DESC' for one in key)} LIMIT 1"  # noqa: S608  constants only
        ).fetchone()
        return found

    async def replace(self, table: Table, after: Row | None, upto: Row | None, rows: Sequence[Row]) -> None:
        """See `copying.Shelf`."""
        columns = _columns_of(table, await self.columns(table))
        where, parameters = _between(table, after, upto)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.execute(f"DELETE FROM {table.name}{where}", parameters)  # noqa: S608  constants only
            self._connection.executemany(
                f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",  # noqa: S608  constants only
                rows,
            )
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    async def note(self, name: str) -> bytes | str | int | None:
        """See `copying.Shelf`."""
        found: bytes | str | int | None = note(self._connection, name)
        return found

    async def set_note(self, name: str, value: bytes | str | int | None) -> None:
        """See `copying.Shelf`."""
        if value is None:
            self._connection.execute("DELETE FROM store WHERE name = ?", (name,))
        else:
            self._connection.execute("INSERT OR REPLACE INTO store (name, value) VALUES (?, ?)", (name, value))

    def fit(self, table: Table, rows: list[Row]) -> list[Row]:
        """See `copying.Shelf`. SQLite keeps whatever there is."""
        del table
        return rows

    async def finish(self) -> None:
        """See `copying.Shelf`. SQLite numbers rows above the greatest by itself."""
        self._connection.execute("DELETE FROM crl")


def _columns_of(table: Table, columns: Sequence[str]) -> list[str]:
    return ["rowid" if table.name == "certificate" and one == "id" else one for one in columns]


def _between(table: Table, after: Row | None, upto: Row | None) -> tuple[str, Row]:
    key = f"({', '.join(_columns_of(table, table.key))})"
    places = f"({', '.join('?' * len(table.key))})"
    bounds = [f"{key} {sign} {places}" for sign, bound in ((">", after), ("<=", upto)) if bound is not None]
    return (f" WHERE {' AND '.join(bounds)}" if bounds else ""), (*(after or ()), *(upto or ()))
