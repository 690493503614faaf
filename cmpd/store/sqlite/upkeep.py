"""The upkeep of an SQLite store: see `maintenance`.

Everything is done on connections of this module's own, in the caller's thread: a command has nothing else to do. A
daemon goes on meanwhile: readers of a WAL do not hold up its writer.
"""

import os
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cmpd.ports import StoreUnavailable
from cmpd.store import StoreRefused
from cmpd.store.backups import SIDE_FILES, beside, copy_pages, new_file, note, own_as, pragma, seal, sync, unpack
from cmpd.store.copying import TABLES, UNFINISHED, Row, Shelf
from cmpd.store.counting import count
from cmpd.store.group_commit import primary_code, unavailable
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
from cmpd.store.schema import (
    LOCK_SECONDS,
    MIGRATIONS,
    check_key,
    migrate,
    octets_on_disk,
    open_database,
    refuse_foreign,
    size_of,
)
from cmpd.store.sealing import Sealing
from cmpd.store.sqlite.shelf import SQLiteShelf

PATIENCE_SECONDS = 600
"""How long another process may hold the write lock: an index over millions of rows takes its time."""
CACHE_KIB = 65536
"""The page cache of a connection that reads or writes everything."""
_WAL_LOCK = "128"
"""The byte of the -shm file that whoever has a database in WAL mode open holds a lock on."""


class SQLiteUpkeep:
    """See `maintenance.Upkeep`."""

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._key = key

    @property
    def place(self) -> str:
        """The path."""
        return str(self._path)

    # ------------------------------------------------------------------------------------------ looking

    async def status(self, *, check: bool = True) -> Status:
        """See `maintenance.Upkeep`."""
        faults: list[str] = []
        holders = await self.holders()
        version: int | None = None
        facts: dict[str, str | int | None] = {"SQLite": sqlite3.sqlite_version}
        size = size_of(self._path)
        if not self._path.exists():
            faults.append(f"{self._path}: no such file; `cmpd store migrate` makes a new store, `restore` an old one")
        else:
            try:
                with self._connected() as connection:
                    refuse_foreign(self._path, connection)
                    version = pragma(connection, "user_version")
                    faults += self._look(connection, facts, version, check=check)
            except StoreUnavailable as error:
                faults.append(str(error))
        return Status("sqlite", str(self._path), version, len(MIGRATIONS), size, facts, holders, tuple(faults))

    def _look(
        self, connection: sqlite3.Connection, facts: dict[str, str | int | None], version: int, *, check: bool
    ) -> Iterator[str]:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        facts["journal mode"] = mode
        facts["synchronous"] = "full"
        facts["page size"] = pragma(connection, "page_size")
        facts["free pages"] = pragma(connection, "freelist_count")
        facts["write-ahead log"] = octets_on_disk(self._path.with_name(f"{self._path.name}-wal"))
        facts["free on the file system"] = shutil.disk_usage(self._path).free
        if version == 0:
            yield f"{self._path}: is empty; `cmpd store migrate` makes a new store in it"
            return
        if mode != "wal":
            yield f"{self._path}: journal mode {mode}, not wal; `cmpd store migrate` sets it"
        permissions = stat.S_IMODE(self._path.stat().st_mode)
        if permissions & 0o077:
            yield f"{self._path}: mode {permissions:04o} opens it to other users; chmod 600 it"
        try:
            check_key(self._path, connection, Sealing(self._key))
        except StoreRefused as error:
            yield str(error)
        if note(connection, UNFINISHED) is not None:
            yield f"{self._path}: a copy into it has not been finished; run the same `cmpd store copy` again"
        if check:
            found = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
            facts["integrity"] = "ok" if found == ["ok"] else "damaged"
            if found != ["ok"]:
                yield (
                    f"{self._path}: damaged: stop cmpd and restore a backup, or save what is left with sqlite3's"
                    f" .recover ({'; '.join(found)})"
                )

    async def holders(self) -> tuple[Holder, ...] | None:
        """See `maintenance.Upkeep`: whoever has the -shm file locked, by the system's list of locks."""
        return _holders(self._path)

    async def stats(self, retention: Retention, now: datetime) -> Stats:
        """See `maintenance.Upkeep`."""
        with self._connected() as connection:
            refuse_foreign(self._path, connection)

            async def ask(query: str, parameters: Row) -> list[Row]:
                return connection.execute(query, parameters).fetchall()

            return await count(ask, _sizes(connection), retention, now)

    # ------------------------------------------------------------------------------------------ migrating

    async def migrate(self, *, dry_run: bool = False) -> Migrated:
        """See `maintenance.Upkeep`. Waits ten minutes for another process that migrates."""
        before = 0
        there = size_of(self._path)
        if dry_run:
            if there:
                with self._connected() as connection:
                    refuse_foreign(self._path, connection)
                    before = pragma(connection, "user_version")
            return Migrated(before, len(MIGRATIONS))
        if there:
            with self._connected(write=True) as connection:
                connection.execute("BEGIN IMMEDIATE")
                refuse_foreign(self._path, connection)
                before = migrate(connection, self._sealing())
                check_key(self._path, connection, self._sealing())
                connection.execute("COMMIT")
        with self._faults():
            for connection in open_database(self._path, self._sealing(), unfinished=True):
                connection.close()
        return Migrated(before, len(MIGRATIONS))

    # ------------------------------------------------------------------------------------------ backup, restore

    async def backup(self, file: Path, now: datetime, progress: Progress = no_progress) -> Kept:
        """See `maintenance.Upkeep`. SQLite's own copying of pages, all as of the moment that it begins."""
        with self._connected() as source, new_file(file) as part:
            refuse_foreign(self._path, source)
            if pragma(source, "user_version") == 0:
                raise StoreRefused(f"{self._path}: is empty; there is nothing to back up")
            if note(source, UNFINISHED) is not None:
                raise StoreRefused(
                    f"{self._path}: a copy into it has not been finished; back up what it is copied from"
                )
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # what is committed later is not seen
            with self._faults(part), closing(sqlite3.connect(part, isolation_level=None)) as target:
                copy_pages(source, target, progress)
                return seal(target, part, now, progress)

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
        """See `maintenance.Upkeep`. Beside the old file, then in its place; the old one is kept under another name."""
        self._refuse_in_use(await self.holders())
        self._refuse_filled(force=force)
        with beside(self._path) as part:
            restored = unpack(file, part, self._key, now, issuers, revoke_codes=revoke_codes, progress=progress)
            own_as(part, self._path if self._path.exists() else self._path.parent)
            sync(part)
            replaced = self._put_aside(now)
            part.rename(self._path)
            sync(self._path.parent)
        with self._faults():
            for connection in open_database(self._path, self._sealing()):
                connection.close()
        return replace(restored, replaced=replaced)

    def _refuse_in_use(self, holders: Sequence[Holder] | None) -> None:
        if holders:
            who = ", ".join(f"process {holder.pid} ({holder.name})" for holder in holders)
            raise StoreRefused(f"{self._path}: is open: {who}; stop it first")
        if self._path.exists() and _is_open(self._path):
            raise StoreRefused(f"{self._path}: is open in another process; stop it first")

    def _refuse_filled(self, *, force: bool) -> None:
        if force or not self._path.exists():
            return
        try:
            filled = self._filled()
        except StoreUnavailable as error:
            raise StoreRefused(f"{error}; with --force it is kept under another name") from None
        if filled:
            raise StoreRefused(
                f"{self._path}: has something in it ({', '.join(filled)}) and is not overwritten; with --force it is"
                " kept under another name"
            )

    def _filled(self) -> list[str]:
        """The tables that have rows."""
        with self._connected() as connection:
            refuse_foreign(self._path, connection)
            known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            return [
                table.name
                for table in TABLES
                if table.name in known and connection.execute(f"SELECT 1 FROM {table.name} LIMIT 1").fetchone()  # noqa: S608  constants only
            ]

    def _put_aside(self, now: datetime) -> Path | None:
        """Keep the old database, with what belongs to it, under another name."""
        if not self._path.exists():
            return None
        with suppress(StoreUnavailable), self._connected() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        aside = self._path.with_name(f"{self._path.name}.replaced-{now:%Y%m%dT%H%M%SZ}")
        if aside.exists():
            raise StoreRefused(f"{aside}: exists already; move it away")
        self._path.rename(aside)
        for side in SIDE_FILES:
            with suppress(FileNotFoundError):
                Path(f"{self._path}{side}").rename(f"{aside}{side}")
        return aside

    # ------------------------------------------------------------------------------------------ copying

    @asynccontextmanager
    async def read(self, *, alone: bool) -> AsyncIterator[Shelf]:
        """See `maintenance.Upkeep`. The schema must be up to date."""
        if alone:
            self._refuse_in_use(await self.holders())
        with self._connected(write=alone) as connection:
            refuse_foreign(self._path, connection)
            version = pragma(connection, "user_version")
            if version != len(MIGRATIONS):
                raise StoreRefused(
                    f"{self._path}: schema {version}, and this cmpd knows up to {len(MIGRATIONS)}; run"
                    " `cmpd store migrate` first"
                )
            check_key(self._path, connection, self._sealing())
            if note(connection, UNFINISHED) is not None:
                raise StoreRefused(f"{self._path}: a copy into it has not been finished; it cannot be copied from")
            connection.execute("BEGIN IMMEDIATE" if alone else "BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            yield SQLiteShelf(self._path, connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Shelf]:
        """See `maintenance.Upkeep`."""
        self._refuse_in_use(await self.holders())
        await self.migrate()
        with self._connected(write=True) as connection:
            yield SQLiteShelf(self._path, connection)

    # ------------------------------------------------------------------------------------------ connections

    def _sealing(self) -> Sealing:
        try:
            return Sealing(self._key)
        except ValueError as error:
            raise StoreRefused(f"[store] key_file: {error}") from None

    @contextmanager
    def _faults(self, path: Path | None = None) -> Iterator[None]:
        """Phrase what SQLite and the system say."""
        try:
            yield
        except sqlite3.Error as error:
            raise unavailable(path or self._path, error) from error

    @contextmanager
    def _connected(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection to a database that is there."""
        if not self._path.exists():
            raise StoreRefused(f"{self._path}: no such file; `cmpd store migrate` makes a new store")
        with self._faults(), closing(connected(self._path, write=write)) as connection:
            yield connection


def connected(path: Path, *, write: bool = False) -> sqlite3.Connection:
    """A connection to a database that is there, for one command; waits as long as another process migrates."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=PATIENCE_SECONDS if write else LOCK_SECONDS, isolation_level=None
    )
    try:
        connection.execute(f"PRAGMA cache_size = {-CACHE_KIB}")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if not write:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


# Counting


def _sizes(connection: sqlite3.Connection) -> dict[str, int]:
    """Octets of each table with its indexes; nothing where SQLite was built without dbstat."""
    try:
        rows = connection.execute(
            "SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_master USING (name)"
            " WHERE aggregate = TRUE GROUP BY tbl_name"
        ).fetchall()
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_ERROR:
            raise
        return {}
    return dict(rows)


def _is_open(path: Path) -> bool:
    """Whether another process has a database open: then it cannot be had for oneself alone."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            return primary_code(error) == sqlite3.SQLITE_BUSY
    return False


def _holders(path: Path) -> tuple[Holder, ...] | None:
    """Whoever has the -shm file of a database locked."""
    try:
        locks = Path("/proc/locks").read_text()
    except OSError:
        return None
    try:
        inode = path.with_name(f"{path.name}-shm").stat().st_ino
    except OSError:
        return ()
    pids = set()
    for line in locks.splitlines():
        fields = line.replace("-> ", "").split()
        if len(fields) == 8 and fields[5].rpartition(":")[2] == str(inode) and fields[6] == _WAL_LOCK:
            pids.add(int(fields[4]))
    return tuple(Holder(pid, _command(pid)) for pid in sorted(pids - {os.getpid()}))


def _command(pid: int) -> str:
    """The command line of a process, as far as we may see it."""
    try:
        octets = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "unknown"
    return octets.replace(b"\0", b" ").decode(errors="replace").strip()[:200] or "unknown"
