"""The upkeep of a PostgreSQL store: see `maintenance`.

Each command has one connection of its own, beside the nodes that serve. A backup is taken row by row in one snapshot
of the whole (REPEATABLE READ), into the SQLite file that a backup is; nothing but cmpd is needed for it.
"""

import hashlib
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from cmpd.ports import StoreUnavailable
from cmpd.store import Database, StoreRefused, copying
from cmpd.store.backups import new_file, note, seal, unpack
from cmpd.store.copying import TABLES, UNFINISHED, Row, Shelf
from cmpd.store.counting import count
from cmpd.store.group_commit import unavailable as sqlite_unavailable
from cmpd.store.maintenance import (
    Holder,
    Kept,
    Migrated,
    Progress,
    Restored,
    Retention,
    Stats,
    Status,
    no_progress,
)
from cmpd.store.postgres.connections import CONNECT_SECONDS, FAULTS, REFUSED, unavailable
from cmpd.store.postgres.dialect import postgres_of
from cmpd.store.postgres.schema import MIGRATIONS, prepare
from cmpd.store.postgres.shelf import Connection, PostgresShelf
from cmpd.store.schema import migrate as migrate_sqlite
from cmpd.store.sealing import Sealing
from cmpd.store.sqlite.shelf import SQLiteShelf
from cmpd.store.url import read_server_url

APPLICATION = "cmpd store"
"""application_name of these connections; that of nodes begins with cmpd too."""

_TABLES = """
SELECT relname, pg_total_relation_size(oid) FROM pg_class
 WHERE relkind = 'r' AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('cmp_transaction'))
"""
_SESSIONS = """
SELECT coalesce(host(client_addr), 'a socket of the server'), usename, application_name, count(*)
  FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
   AND application_name LIKE 'cmpd%' AND application_name <> $1
 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
_FACTS = """
SELECT current_setting('server_version'), current_user::text, current_database()::text, current_schema()::text,
       current_setting('synchronous_commit'), pg_is_in_recovery(), current_setting('max_connections')::int,
       (SELECT count(*) FROM pg_stat_activity)::int,
       (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()),
       has_schema_privilege(current_schema(), 'CREATE')
"""


class PostgresUpkeep:
    """See `maintenance.Upkeep`."""

    def __init__(self, url: str, key: bytes, database: Database) -> None:
        try:
            self._server = read_server_url(url)
        except ValueError as error:
            raise StoreRefused(f"[store] url: {error}") from None
        self._key = key
        self._database = database

    @property
    def place(self) -> str:
        """The URL, without user and password."""
        return self._server.name

    # ------------------------------------------------------------------------------------------ looking

    async def status(self, *, check: bool = True) -> Status:
        """See `maintenance.Upkeep`. Whether the data are sound is for the server's own tools (pg_amcheck)."""
        del check
        faults: list[str] = []
        facts: dict[str, str | int | None] = {}
        version = size = None
        holders: tuple[Holder, ...] | None = None
        try:
            async with self._connected() as connection:
                version = await _version(connection)
                faults += await self._look(connection, facts, version)
                holders = await _holders(connection)
                if version:
                    size = sum([row[1] for row in await connection.fetch(_TABLES)])
        except StoreUnavailable as error:
            faults.append(str(error))
        return Status("postgresql", self.place, version, len(MIGRATIONS), size, facts, holders, tuple(faults))

    async def _look(self, connection: Connection, facts: dict[str, str | int | None], version: int | None) -> list[str]:
        (
            facts["PostgreSQL"],
            facts["role"],
            facts["database"],
            facts["database schema"],
            facts["synchronous commit"],
            recovering,
            most,
            used,
            encrypted,
            may_create,
        ) = await connection.fetchrow(_FACTS)
        facts["connections"] = f"{used} of {most}"
        facts["this node's limit"] = self._database.connections
        facts["TLS"] = "yes" if encrypted else "no"
        place = self.place
        faults = []
        if recovering:
            faults.append(f"{place}: is a standby, which only reads; name the primary in [store] url")
        if version is None:
            faults.append(f"{place}: there is no store; `cmpd store migrate` makes a new one, `restore` an old one")
            return faults
        if version < len(MIGRATIONS) and not may_create:
            faults.append(f"{place}: the role may not make tables, which the migration needs: GRANT CREATE ON SCHEMA")
        if used > most * 9 // 10:
            faults.append(f"{place}: {used} of {most} connections are in use: raise max_connections")
        try:
            await prepare(connection, place, self._sealing(), migrate=False)
        except StoreRefused as error:
            if version >= len(MIGRATIONS):
                faults.append(str(error))
        return faults

    async def holders(self) -> tuple[Holder, ...] | None:
        """See `maintenance.Upkeep`: sessions whose application_name begins with cmpd."""
        async with self._connected() as connection:
            return await _holders(connection)

    async def stats(self, retention: Retention, now: datetime) -> Stats:
        """See `maintenance.Upkeep`."""
        async with self._connected() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            await self._need_schema(connection)

            async def ask(query: str, parameters: Row) -> list[Row]:
                return [tuple(row) for row in await connection.fetch(postgres_of(query), *parameters)]

            return await count(ask, {row[0]: row[1] for row in await connection.fetch(_TABLES)}, retention, now)

    # ------------------------------------------------------------------------------------------ migrating

    async def migrate(self, *, dry_run: bool = False) -> Migrated:
        """See `maintenance.Upkeep`. Waits for another process that migrates."""
        async with self._connected() as connection:
            before = await _version(connection) or 0
            if not dry_run:
                await prepare(connection, self.place, self._sealing(), migrate=True, unfinished=True)
        return Migrated(before, max(before, len(MIGRATIONS)))

    # ------------------------------------------------------------------------------------------ backup, restore

    async def backup(self, file: Path, now: datetime, progress: Progress = no_progress) -> Kept:
        """See `maintenance.Upkeep`."""
        async with self.read(alone=False) as source:
            with new_file(file) as part:
                try:
                    with closing(sqlite3.connect(part, isolation_level=None)) as connection:
                        connection.execute("PRAGMA synchronous = OFF")  # it is flushed as a whole in the end
                        connection.execute("BEGIN")
                        migrate_sqlite(connection, self._sealing())
                        connection.execute("COMMIT")
                        await copying.copy(source, SQLiteShelf(part, connection), progress)
                        return seal(connection, part, now, progress)
                except sqlite3.Error as error:
                    raise sqlite_unavailable(part, error) from error

    async def restore(
        self,
        file: Path,
        now: datetime,
        issuers: tuple[str, ...],
        *,
        force: bool = False,
        revoke_codes: bool = False,
        progress: Progress = no_progress,
    ) -> Restored:
        """See `maintenance.Upkeep`. Until it is finished, no node serves from it; cut off, it is to be run again."""
        if holders := await self.holders():
            raise StoreRefused(f"{self.place}: is in use by {', '.join(one.name for one in holders)}; stop it first")
        with tempfile.TemporaryDirectory(prefix="cmpd-restore-") as folder:
            part = Path(folder) / "store.db"
            restored = unpack(file, part, self._key, now, issuers, revoke_codes=revoke_codes, progress=progress)
            try:
                with closing(sqlite3.connect(part, isolation_level=None)) as connection:
                    mark = hashlib.sha256(note(connection, "key")).hexdigest()
                    async with self.write() as target:
                        if force or await target.note(UNFINISHED) is not None:
                            await target.set_note(UNFINISHED, mark)
                        else:
                            await self._refuse_filled(target)
                        await copying.copy(SQLiteShelf(part, connection), target, progress)
            except sqlite3.Error as error:
                raise sqlite_unavailable(part, error) from error
        return restored

    async def _refuse_filled(self, target: Shelf) -> None:
        filled = [table.name for table in TABLES if await target.last(table) is not None]
        if filled:
            raise StoreRefused(
                f"{self.place}: has something in it ({', '.join(filled)}) and is not overwritten; back it up, then use"
                " --force"
            )

    # ------------------------------------------------------------------------------------------ copying

    @asynccontextmanager
    async def read(self, *, alone: bool) -> AsyncIterator[Shelf]:
        """See `maintenance.Upkeep`. The schema must be up to date."""
        async with self._connected() as connection, connection.transaction(isolation="repeatable_read"):
            if alone:
                tables = ", ".join(table.name for table in TABLES)
                await connection.execute(f"LOCK TABLE {tables}, store IN SHARE MODE")
            await self._need_schema(connection)
            await prepare(connection, self.place, self._sealing(), migrate=False)
            yield PostgresShelf(self.place, connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Shelf]:
        """See `maintenance.Upkeep`."""
        async with self._connected() as connection:
            await prepare(connection, self.place, self._sealing(), migrate=True, unfinished=True)
            yield PostgresShelf(self.place, connection)

    # ------------------------------------------------------------------------------------------ connections

    async def _need_schema(self, connection: Connection) -> None:
        version = await _version(connection)
        if version != len(MIGRATIONS):
            raise StoreRefused(
                f"{self.place}: schema {version or 'none'}, and this cmpd knows up to {len(MIGRATIONS)}; run"
                " `cmpd store migrate` first"
            )

    def _sealing(self) -> Sealing:
        try:
            return Sealing(self._key)
        except ValueError as error:
            raise StoreRefused(f"[store] key_file: {error}") from None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """One connection, for one command, whose statements may take as long as they take."""
        server = self._server
        connection: Any = None
        try:
            connection = await asyncpg.connect(
                server.dsn,
                password=self._database.password,
                timeout=server.connect_timeout or CONNECT_SECONDS,
                statement_cache_size=100 if self._database.statement_cache else 0,
                server_settings={"application_name": APPLICATION},
            )
            await connection.execute("SET statement_timeout = 0")
            yield connection
        except REFUSED as error:
            raise unavailable(self.place, error, StoreRefused) from error
        except FAULTS as error:
            raise unavailable(self.place, error) from error
        finally:
            if connection is not None:
                await connection.close()


async def _version(connection: Connection) -> int | None:
    """How many migrations the store has had; None when there is none."""
    if await connection.fetchval("SELECT to_regclass('store')") is None:
        return None
    found: int | None = await connection.fetchval("SELECT number FROM store WHERE name = 'schema'")
    return found


async def _holders(connection: Connection) -> tuple[Holder, ...]:
    return tuple(
        Holder(None, f"{application} at {address} as {user}, {number} connections")
        for address, user, application, number in await connection.fetch(_SESSIONS, APPLICATION)
    )
