"""The store as a whole, as an operator sees to it: looked at, migrated, backed up, restored, copied, counted.

`Upkeep` is the face that each kind of store has for that; it opens connections of its own, beside daemons that serve.
A backup is always one SQLite file of cmpd's own schema, whichever store it was taken from, and any is restored from it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from cmpd.store import Database, StoreRefused
from cmpd.store.copying import Shelf
from cmpd.store.url import SCHEMES

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much it is in all."""

GROWTH_DAYS = 7
"""Growth is the average of so many days before now."""


def no_progress(_what: str, _done: int, _total: int, /) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has the store open."""

    pid: int | None
    """On this machine; None when it is on another."""
    name: str
    """Its command line, or what else is known of it."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a store is."""

    kind: str
    place: str
    """Path or URL, without a password."""
    version: int | None
    """Of its schema: how many migrations it has had; None when there is no store."""
    known: int
    """How many migrations this cmpd knows."""
    size: int | None
    """Octets on the disk."""
    facts: Mapping[str, str | int | None]
    """What else is known, by a name for people."""
    holders: tuple[Holder, ...] | None
    """Who else has it open; None when that cannot be told."""
    faults: tuple[str, ...]
    """What is wrong, one line each, with what to do."""

    @property
    def pending(self) -> int:
        """How many migrations it has not had."""
        return 0 if self.version is None else max(self.known - self.version, 0)


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration has done, or would do."""

    before: int
    """The schema's version; 0: there was no store."""
    after: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A backup: how much is in it."""

    at: datetime
    """What was committed before is in it."""
    version: int
    """Of the schema."""
    certificates: int
    size: int
    """Octets."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore has come to."""

    at: datetime | None
    """When the backup was taken; None when it does not say."""
    certificates: int
    confirmed: int
    """Certificates whose confirmation was awaited: it may have come after the backup, so they count as confirmed."""
    orders: int
    """Orders that may have been placed after the backup: they are looked for at their issuers."""
    codes: int
    """Enrollment codes that were revoked because it was asked for."""
    replaced: Path | None
    """Where the former database is now; None when there was none."""


@dataclass(frozen=True, slots=True)
class TableStats:
    """One table."""

    name: str
    rows: int
    size: int | None
    """Octets with its indexes; None when this database cannot tell."""
    oldest: datetime | None = None
    newest: datetime | None = None
    per_day: float | None = None
    """Rows that came in a day, on average of `GROWTH_DAYS`."""


@dataclass(frozen=True, slots=True)
class Due:
    """What the retention of one kind of rows deletes next."""

    name: str
    setting: str
    keep: timedelta | None
    """None: for good."""
    now: int
    """Rows whose time has come."""
    next: datetime | None
    """When the oldest row's time comes, or came."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What `[store]` says about how long things are kept; None is for good."""

    transactions: timedelta
    certificates: timedelta | None
    orders: timedelta | None


@dataclass(frozen=True, slots=True)
class Stats:
    """All tables, the largest first, and what will be deleted."""

    tables: tuple[TableStats, ...]
    due: tuple[Due, ...]


class Upkeep(Protocol):
    """A store as a whole. Every method may raise `StoreUnavailable`, of which `StoreRefused` is for the operator."""

    @property
    def place(self) -> str:
        """Path or URL, without a password."""

    async def status(self, *, check: bool = True) -> Status:
        """Look, and change nothing; `check` reads the whole of it to see whether it is sound, where that can be."""

    async def migrate(self, *, dry_run: bool = False) -> Migrated:
        """Bring the schema up to date, or make the store."""

    async def backup(self, file: Path, now: datetime, progress: Progress = no_progress) -> Kept:
        """Write a backup to a new file: what has been committed when it begins, and nothing else."""

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
        """Make the store what a backup has; one that has anything in it only with `force`.

        `issuers` are the sections [issuers.NAME]: the next CRL of each has a number above all before.
        """

    async def stats(self, retention: Retention, now: datetime) -> Stats:
        """Count."""

    async def holders(self) -> tuple[Holder, ...] | None:
        """Who else has it open; None when that cannot be told."""

    def read(self, *, alone: bool) -> AbstractAsyncContextManager[Shelf]:
        """All rows as of one moment; `alone` keeps others from writing meanwhile."""

    def write(self) -> AbstractAsyncContextManager[Shelf]:
        """A store, made if there is none, to be filled."""


def upkeep_of(url: str, *, base: Path, key: bytes, database: Database) -> Upkeep:
    """The upkeep of the store of `[store] url`. Raises `StoreRefused` for one that is none."""
    scheme, separator, rest = url.partition(":")
    if scheme == "sqlite" and separator and rest.startswith("///") and rest != "///":
        from cmpd.store.sqlite.upkeep import SQLiteUpkeep  # noqa: PLC0415  only the chosen store's driver is loaded

        return SQLiteUpkeep((base / rest[3:]).absolute(), key)
    if scheme in SCHEMES and separator:
        from cmpd.store.postgres.upkeep import PostgresUpkeep  # noqa: PLC0415  only the chosen store's driver is loaded

        return PostgresUpkeep(url, key, database)
    raise StoreRefused(f"{scheme!r} is not a store that cmpd knows; write sqlite:///cmpd.db")
