"""The rows of a PostgreSQL store, as they are copied: see `copying.Shelf`.

Texts are in the order of their octets, as SQLite has them, whatever the database's collation.
"""

from collections.abc import Sequence
from typing import Any

from cmpd.store import StoreRefused
from cmpd.store.copying import Row, Table
from cmpd.store.postgres.connections import fitting

Connection = Any
"""`asyncpg.Connection`."""

_TEXTS = frozenset({"name", "profile", "serial"})
"""Columns of keys that are texts."""


class PostgresShelf:
    """See `copying.Shelf`. Reads in the transaction that its maker has begun."""

    def __init__(self, place: str, connection: Connection) -> None:
        self._place = place
        self._connection = connection
        self._columns: dict[str, tuple[str, ...]] = {}

    @property
    def place(self) -> str:
        """The URL, without a password."""
        return self._place

    async def columns(self, table: Table) -> tuple[str, ...]:
        """See `copying.Shelf`."""
        if table.name not in self._columns:
            rows = await self._connection.fetch(
                "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
                table.name,
            )
            found = {row[0] for row in rows}
            # in SQLite the number of a certificate's row is no column
            named = found - {"id"} if table.name == "certificate" else found
            self._columns[table.name] = (*table.key, *sorted(named.difference(table.key)))
        return self._columns[table.name]

    async def count(self, table: Table) -> int:
        """See `copying.Shelf`."""
        return int(await self._connection.fetchval(f"SELECT count(*) FROM {table.name}"))  # noqa: S608  constants only

    async def rows(self, table: Table, after: Row | None, upto: Row | None, limit: int) -> list[Row]:
        """See `copying.Shelf`."""
        columns = ", ".join(map(_quoted, await self.columns(table)))
        where, parameters = _between(table, after, upto)
        found = await self._connection.fetch(
            f"SELECT {columns} FROM {table.name}{where} ORDER BY {', '.join(_ordered(table))} LIMIT {limit}",  # noqa: S608  constants only
            *parameters,
        )
        return [tuple(row) for row in found]

    async def last(self, table: Table) -> Row | None:
        """See `copying.Shelf`."""
        order = ", ".join(f"{one} DESC" for one in _ordered(table))
        found = await self._connection.fetchrow(
            f"SELECT {', '.join(table.key)} FROM {table.name} ORDER BY {order} LIMIT 1"  # noqa: S608  constants only
        )
        return None if found is None else tuple(found)

    async def replace(self, table: Table, after: Row | None, upto: Row | None, rows: Sequence[Row]) -> None:
        """See `copying.Shelf`."""
        where, parameters = _between(table, after, upto)
        async with self._connection.transaction():
            await self._connection.execute(f"DELETE FROM {table.name}{where}", *parameters)  # noqa: S608  constants only
            if rows:
                await self._connection.copy_records_to_table(
                    table.name, records=rows, columns=await self.columns(table)
                )

    async def note(self, name: str) -> bytes | str | int | None:
        """See `copying.Shelf`. A text is kept in octets."""
        row = await self._connection.fetchrow("SELECT number, octets FROM store WHERE name = $1", name)
        if row is None:
            return None
        number, octets = row
        if octets is None:
            return int(number)
        return bytes(octets) if name == "key" else bytes(octets).decode()

    async def set_note(self, name: str, value: bytes | str | int | None) -> None:
        """See `copying.Shelf`."""
        if value is None:
            await self._connection.execute("DELETE FROM store WHERE name = $1", name)
            return
        number = value if isinstance(value, int) else None
        octets = value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else None
        await self._connection.execute(
            "INSERT INTO store (name, number, octets) VALUES ($1, $2, $3)"
            " ON CONFLICT (name) DO UPDATE SET number = excluded.number, octets = excluded.octets",
            name,
            number,
            octets,
        )

    def fit(self, table: Table, rows: list[Row]) -> list[Row]:
        """See `copying.Shelf`. Texts have no NUL here, and those of a key cannot be changed."""
        for row in rows:
            for column, value in zip(table.key, row, strict=False):
                if fitting(value) != value:
                    raise StoreRefused(
                        f"{self._place}: table {table.name}: {column} {value!r} has a NUL, which PostgreSQL cannot"
                        " keep; remove or rename it"
                    )
        return [tuple(map(fitting, row)) for row in rows]

    async def finish(self) -> None:
        """See `copying.Shelf`."""
        await self._connection.execute("DELETE FROM crl")
        rows = await self._connection.fetch(
            "SELECT c.relname, pg_get_serial_sequence(c.oid::regclass::text, 'id') FROM pg_class c"
            " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'id' AND a.attidentity <> ''"
            " WHERE c.relkind = 'r' AND c.relnamespace ="
            " (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('cmp_transaction'))"
        )
        for name, sequence in rows:
            await self._connection.execute(
                f"SELECT setval('{sequence}', greatest((SELECT max(id) FROM {name}), 1),"  # noqa: S608  names of cmpd's own tables
                f" EXISTS (SELECT 1 FROM {name}))"
            )


def _quoted(column: str) -> str:
    return '"user"' if column == "user" else column


def _ordered(table: Table) -> list[str]:
    return [f'{one} COLLATE "C"' if one in _TEXTS else one for one in table.key]


def _between(table: Table, after: Row | None, upto: Row | None) -> tuple[str, Row]:
    bounds = []
    parameters: list[Any] = []
    for sign, bound in ((">", after), ("<=", upto)):
        if bound is not None:
            places = [f"${len(parameters) + number}" for number in range(1, len(bound) + 1)]
            bounds.append(f"({', '.join(_ordered(table))}) {sign} ({', '.join(places)})")
            parameters += bound
    return (f" WHERE {' AND '.join(bounds)}" if bounds else ""), tuple(parameters)
