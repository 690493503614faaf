"""All rows of one store copied into another, of whatever kind, so that it can be cut off anywhere and goes on.

A store is a `Shelf`: tables whose rows are read and replaced in the order of their keys. Values are what SQLite keeps:
int, str, bytes and None. `synchronise` walks a table on both sides, a stretch at a time, and replaces the stretches
that differ, each in one commit. Cut off, the next run finds the stretches before equal. The target is marked as
unfinished all the while, and no daemon serves from it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from cmpd.store import StoreRefused

Row = tuple[Any, ...]

STRETCH = 1000
"""Rows that are compared, and replaced in one commit."""
UNFINISHED = "unfinished"
"""The name in the table `store` that marks a store which is being filled."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the schema."""

    name: str
    key: tuple[str, ...]
    """The columns whose order is that of the rows; they come first in a row."""


TABLES = (
    Table("issuer", ("name",)),
    Table("enrollment_code", ("id",)),
    Table("service_user", ("id",)),
    Table("device", ("profile", "serial")),
    Table("issued_per_day", ("profile", "day")),
    Table("certificate", ("id",)),
    Table("cmp_transaction", ("id",)),
    Table("ca_certificate", ("sha256",)),
    Table("cert_order", ("id",)),  # names transactions
    Table("refusal", ("id",)),
)
"""All tables but `store`, of which only the sealed probe of the key is copied, in the order of copying; and but
those of the moment."""
MOMENTARY = ("crl", "lease", "node")
"""Tables that are neither copied nor restored: `lease` and `node` are about processes that serve from the one store and
not from the other, and the next `crl` is made where it is served, with a greater number."""


class Shelf(Protocol):
    """One store, as it is copied from or to."""

    @property
    def place(self) -> str:
        """Path or URL, without a password."""

    async def columns(self, table: Table) -> tuple[str, ...]:
        """The columns in the order of the rows: the key's, then all others by name."""

    async def count(self, table: Table) -> int:
        """How many rows there are."""

    async def rows(self, table: Table, after: Row | None, upto: Row | None, limit: int) -> list[Row]:
        """The first rows whose key is greater than `after` and not greater than `upto`, in the key's order."""

    async def last(self, table: Table) -> Row | None:
        """The greatest key."""

    async def replace(self, table: Table, after: Row | None, upto: Row | None, rows: Sequence[Row]) -> None:
        """Have these rows between two keys instead of those that are there, in one commit."""

    async def note(self, name: str) -> bytes | str | int | None:
        """A value of the table `store`."""

    async def set_note(self, name: str, value: bytes | str | int | None) -> None:
        """Set a value of the table `store`, or remove it."""

    def fit(self, table: Table, rows: list[Row]) -> list[Row]:
        """Rows as this store can keep them. Raises `StoreRefused` when it cannot."""

    async def finish(self) -> None:
        """Have new rows get numbers above those that are there, and serve no CRL of before."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What has become of one table."""

    table: str
    rows: int
    written: int
    """Of them, those that were not there, or not the same."""
    digest: str
    """SHA-256 over all rows, hexadecimal; of both sides."""


Report = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much it is in all."""


async def begin(source: Shelf, target: Shelf, *, columns: bool = True) -> None:
    """See that one may be copied into the other, and mark the target. Raises `StoreRefused`."""
    key = await source.note("key")
    if not isinstance(key, bytes):
        raise StoreRefused(f"{source.place}: has no key in its table store: it is not a whole store of cmpd")
    mark = hashlib.sha256(key).hexdigest()
    found = await target.note(UNFINISHED)
    if found is None:
        filled = [table.name for table in TABLES if await target.count(table)]
        if filled:
            raise StoreRefused(
                f"{target.place}: has something in it ({', '.join(filled)}) and is not overwritten; name an empty store"
            )
    elif found != mark:
        raise StoreRefused(f"{target.place}: is being filled from another store; finish that, or name an empty store")
    for table in TABLES if columns else ():
        ours, theirs = await source.columns(table), await target.columns(table)
        if ours != theirs:
            differing = ", ".join(sorted(set(ours) ^ set(theirs)))
            raise StoreRefused(f"{target.place}: table {table.name} has other columns than {source.place}: {differing}")
    await target.set_note(UNFINISHED, mark)
    await target.set_note("key", key)


async def synchronise(source: Shelf, target: Shelf, table: Table, report: Report) -> int:
    """Make a table the same on both sides; how many rows had to be written."""
    total = await source.count(table)
    width = len(table.key)
    last = await source.last(table)
    target.fit(table, [] if last is None else [last])
    await target.replace(table, last, None, ())  # what the source no longer has; it might be in the way
    written = done = 0
    after: Row | None = None
    while rows := target.fit(table, await source.rows(table, after, None, STRETCH)):
        upto = rows[-1][:width]
        if await target.rows(table, after, upto, STRETCH + 1) != rows:
            await target.replace(table, after, upto, rows)
            written += len(rows)
        after = upto
        done += len(rows)
        report(table.name, done, total)
    return written


async def digest(shelf: Shelf, table: Table, report: Report, *, of: Shelf | None = None) -> tuple[int, str]:
    """How many rows a table has, and the SHA-256 over all of them in the order of their keys, as `of` keeps them."""
    total = await shelf.count(table)
    digest = hashlib.sha256()
    after: Row | None = None
    done = 0
    while rows := (of or shelf).fit(table, await shelf.rows(table, after, None, STRETCH)):
        digest.update("".join(map(repr, rows)).encode())
        after = rows[-1][: len(table.key)]
        done += len(rows)
        report(table.name, done, total)
    return done, digest.hexdigest()


async def copy(source: Shelf, target: Shelf, report: Report, *, finish: bool = True) -> list[Copied]:
    """Copy everything, and compare. Raises `StoreRefused` when the sides are not equal in the end.

    Without `finish` the target stays marked.
    """
    copying, verifying = partial(_report, report, "copy"), partial(_report, report, "verify")
    await begin(source, target)
    written = {table.name: await synchronise(source, target, table, copying) for table in TABLES}
    await target.finish()
    found = []
    for table in TABLES:
        ours = await digest(source, table, verifying, of=target)
        theirs = await digest(target, table, verifying)
        if ours != theirs:
            raise StoreRefused(
                f"{target.place}: table {table.name} has {theirs[0]} rows with SHA-256 {theirs[1]}, and {ours[0]} with"
                f" {ours[1]} in {source.place}: somebody has written to it; run the same command again"
            )
        found.append(Copied(table.name, ours[0], written[table.name], ours[1]))
    if finish:
        await target.set_note(UNFINISHED, None)
    return found


def _report(report: Report, what: str, table: str, done: int, total: int) -> None:
    report(f"{what} {table}", done, total)
