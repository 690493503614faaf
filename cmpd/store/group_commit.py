"""Group commit over one SQLite database: WAL, synchronous=FULL, one writing connection.

How a write goes: the caller's statements wait in a queue; when the connection is free and the event loop has nothing
more urgent to do, everything that waits becomes one group. BEGIN IMMEDIATE and the statements run on the event loop's
thread, the COMMIT (the one part that waits for the disk) in a worker thread; meanwhile the next group gathers. A call
that is refused (`TransactionExists`, `TransactionMoved`, `CodeUnusable`, `Unmet` …) leaves nothing behind, and
the others of its group do not notice; when the group itself fails (disk full, I/O error, locked for too long) it is
rolled back and each of its callers gets `StoreUnavailable`; the next group starts afresh.

A read is a query on the spot: on the writing connection, whose cache is warm, while that is free; otherwise on a second
one, which sees what has been committed but has to read its pages anew after every commit (30 µs a query).

Why the statements are not in the thread too: each one would let go of the GIL and queue for it again behind a busy
loop, with the write lock held. With sixteen clients that costs no CPU, with sixty-four 60 µs per transaction.

Measured on two shared cores, CPU of all threads per transaction (two reads and `issued`, two reads and `advance`):
140 µs in groups of sixteen, of which reading 45, writing 50, committing 45. A bare loop of the same statements and
commits without the reads takes 59 µs in groups of sixteen, 75 in groups of eight, 300 alone. So groups are worth a
moment's wait: waiting for two quiet turns of the loop makes them half as large again under load, which saves 20 to
60 µs per transaction; a lone client does not feel it (0.5 ms a request either way).
"""

import asyncio
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cmpd.ports import CodeUnusable, OrderMoved, StoreUnavailable, TransactionExists, TransactionMoved, Unmet
from cmpd.store import ReferenceTaken
from cmpd.store.schema import CACHE_KIB, LOCK_SECONDS, connect

T = TypeVar("T")
Row = tuple[Any, ...]
Work = Callable[[sqlite3.Cursor], Any]
"""The statements of one caller; run inside the group's transaction."""
Group = list[tuple[Work, asyncio.Future[Any]]]
"""Those who share a commit."""
Outcome = tuple[Any, Exception | None]
"""What one caller's statements have come to: their result, or the refusal."""

GATHER_TURNS = 2
"""A group begins when so many turns of the event loop have brought it nobody new …"""
GATHER_SECONDS = 0.003
"""… or when it has gathered for so long."""
COURTESY_SECONDS = 0.002
"""How often a busy event loop steps aside for the thread that commits."""
GROUP_SIZE = 64
"""The most callers that share a commit: bounds how long the statements of a group hold the event loop (some 2 ms)."""

_REFUSALS = (TransactionExists, TransactionMoved, OrderMoved, CodeUnusable, ReferenceTaken, Unmet)

_ADVICE = {
    sqlite3.SQLITE_BUSY: "another process has held the write lock for too long: see who has the file open",
    sqlite3.SQLITE_LOCKED: "another process has held the write lock for too long: see who has the file open",
    sqlite3.SQLITE_FULL: "the file system is full: make room",
    sqlite3.SQLITE_IOERR: "the file system reports an error: see that it has room and is sound",
    sqlite3.SQLITE_READONLY: "not writable: the user cmpd runs as must own the file and its folder",
    sqlite3.SQLITE_PERM: "not accessible: the user cmpd runs as must own the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: the folder must exist and belong to the user cmpd runs as",
    sqlite3.SQLITE_CORRUPT: "damaged: stop cmpd and restore a backup, or save what is left with sqlite3's .recover",
    sqlite3.SQLITE_NOTADB: "not an SQLite database, or damaged: check [store] url, or restore a backup",
}


class GroupCommit:
    """The two connections of a store, used from one event loop, and the thread that commits."""

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._worker = _Worker(self._loop, f"cmpd store {path.name}")
        self._waiting: deque[tuple[Work, asyncio.Future[Any]]] = deque()
        self._busy = False
        """A group is on its way or about to be."""
        self._lent = False
        """The writing connection is in the hands of the worker thread."""
        self._courteous_at = 0.0
        self._gathered = self._turns = 0
        self._gather_until = 0.0
        self._ending: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self.commits = 0
        """How many groups have been committed."""

    async def read(self, query: str, parameters: tuple[Any, ...]) -> list[Row]:
        """Answer a query on the spot, without waiting for a write that is on its way to the disk."""
        patience = 0
        while self._ending is None:
            connection = self._writer
            if self._lent:
                connection = self._reader
                if time.monotonic() > self._courteous_at:
                    self._give_way()
            try:
                return connection.execute(query, parameters).fetchall()
            except sqlite3.Error as exc:
                # Another process recovers the WAL after a crash: a matter of milliseconds.
                if primary_code(exc) != sqlite3.SQLITE_BUSY or patience >= LOCK_SECONDS * 100:
                    raise unavailable(self._path, exc) from exc
            patience += 1
            await asyncio.sleep(0.01)
        raise StoreUnavailable(f"{self._path}: closed")

    def _give_way(self) -> None:
        """Let the worker thread have the GIL: a busy loop that lets go of it only for microseconds would starve it."""
        time.sleep(1e-5)
        self._courteous_at = time.monotonic() + COURTESY_SECONDS

    # Writing: write -> _next -> _gather -> _begin -> (_locked ->) _fill -> _committed -> _next …

    async def write(self, work: Callable[[sqlite3.Cursor], T], _: object = None) -> T:
        """Have statements committed with whatever else waits. Cancelled before its group begins, they are not run.

        One writer at a time: nothing is contested.
        """
        if self._ending is not None:
            raise StoreUnavailable(f"{self._path}: closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append((work, future))
        if not self._busy:
            self._busy = True
            self._next()
        elif self._lent and time.monotonic() > self._courteous_at:
            self._give_way()
        return await future

    def _next(self) -> None:
        """Let the next group gather; rest when nobody waits."""
        if self._waiting:
            self._gathered = self._turns = 0
            self._gather_until = time.monotonic() + GATHER_SECONDS
            self._loop.call_soon(self._gather)
        else:
            self._busy = False
            if self._idle is not None and not self._idle.done():
                self._idle.set_result(None)

    def _gather(self) -> None:
        """Begin when some turns of the loop have brought nobody new: then there is nothing better to do."""
        gathered = len(self._waiting)
        self._turns = self._turns + 1 if gathered == self._gathered else 0
        self._gathered = gathered
        if self._turns >= GATHER_TURNS or gathered >= GROUP_SIZE or time.monotonic() > self._gather_until:
            self._begin()
        else:
            self._loop.call_soon(self._gather)

    def _begin(self) -> None:
        """Take the write lock for the next group; wait for it, if need be, in the worker thread."""
        try:
            self._writer.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as exc:
            if primary_code(exc) == sqlite3.SQLITE_BUSY:
                self._lend(self._wait_for_lock, self._locked)
            else:
                self._failed(self._group(), exc)
            return
        self._fill()

    def _locked(self, error: Exception | None) -> None:
        """The worker thread has got the write lock, or has not."""
        if error is None:
            self._fill()
        else:
            everyone = list(self._waiting)
            self._waiting.clear()
            self._failed(everyone, error)

    def _group(self) -> Group:
        """Take from the queue who shares the next commit; leave out who has been cancelled."""
        group: Group = []
        while self._waiting and len(group) < GROUP_SIZE:
            entry = self._waiting.popleft()
            if not entry[1].done():
                group.append(entry)
        return group

    def _fill(self) -> None:
        """Run the statements of the group, and have them committed."""
        group = self._group()
        cursor = self._writer.cursor()
        try:
            try:
                results = [_outcome(work, cursor) for work, _ in group]
            except Exception as exc:
                if _concerns_all(exc):
                    raise
                # One of the group cannot be done: again, with a savepoint each, so that only its caller learns of it.
                cursor.execute("ROLLBACK")
                cursor.execute("BEGIN IMMEDIATE")
                results = [_outcome_apart(work, cursor) for work, _ in group]
        except sqlite3.Error as exc:
            self._failed(group, exc)
            return
        self._lend(self._commit, lambda error: self._committed(group, results, error))

    def _committed(self, group: Group, results: list[Outcome], error: Exception | None) -> None:
        """The group is on the disk, or the commit has failed: tell its callers and go on with the next."""
        if error is not None:
            self._failed(group, error)
            return
        self.commits += 1
        for (_, future), (result, refusal) in zip(group, results, strict=True):
            if future.done():
                continue
            if refusal is None:
                future.set_result(result)
            elif isinstance(refusal, sqlite3.Error):
                future.set_exception(unavailable(self._path, refusal))
            else:
                future.set_exception(refusal)
        self._next()

    def _failed(self, group: Group, error: Exception) -> None:
        """Nothing of the group is kept: tell its callers, and clear the way for the next."""
        for _, future in group:
            if not future.done():
                future.set_exception(unavailable(self._path, error))
        self._lend(self._recover, lambda _: self._next())

    def _lend(self, job: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """Let the worker thread do something with the writing connection, then go on with `done`."""

        def back(error: Exception | None) -> None:
            self._lent = False
            done(error)

        self._lent = True
        self._courteous_at = time.monotonic() + COURTESY_SECONDS
        self._worker.run(job, back)

    # In the worker thread, while the event loop leaves the writing connection alone

    def _commit(self) -> None:
        self._writer.execute("COMMIT")

    def _wait_for_lock(self) -> None:
        self._writer.execute(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000:.0f}")
        try:
            self._writer.execute("BEGIN IMMEDIATE")
        finally:
            self._writer.execute("PRAGMA busy_timeout = 0")

    def _recover(self) -> None:
        """Roll back; a connection that cannot even do that is replaced."""
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                self._writer.close()
            with suppress(sqlite3.Error):
                self._writer = connect(self._path, CACHE_KIB)

    def _let_go(self) -> None:
        """Close the reader first: the last connection to close copies the WAL into the database file."""
        for connection in (self._reader, self._writer):
            with suppress(sqlite3.Error):
                connection.close()

    async def close(self) -> None:
        """Do what waits, then let go of the file; whatever is called later gets `StoreUnavailable`."""
        if self._ending is None:
            self._ending = self._loop.create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        if self._busy:
            self._idle = self._loop.create_future()
            await self._idle
        closed: asyncio.Future[None] = self._loop.create_future()
        self._lend(self._let_go, lambda _: None if closed.done() else closed.set_result(None))
        await closed
        self._worker.stop()


class _Worker:
    """One thread that does one thing after another and reports to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], Callable[[Exception | None], None]] | None] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def run(self, job: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """Do `job` in the thread, then call `done` on the loop with what it raised."""
        self._jobs.put((job, done))

    def stop(self) -> None:
        """End the thread when it has done what it was given."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, done = entry
            error: Exception | None = None
            try:
                job()
            except Exception as exc:  # noqa: BLE001  it is reported, whatever it is
                error = exc
            try:
                self._loop.call_soon_threadsafe(done, error)
            except RuntimeError:  # the loop was closed without waiting for us
                return
            del entry, job, done, error


# Errors


def primary_code(exc: BaseException) -> int:
    """The primary result code of an SQLite error; 0 when it has none."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


def unavailable(path: Path, exc: Exception, kind: type[StoreUnavailable] = StoreUnavailable) -> StoreUnavailable:
    """Phrase an SQLite error for the log: which file, what to do, and SQLite's own words."""
    advice = _ADVICE.get(primary_code(exc))
    return kind(f"{path}: {advice} ({exc})" if advice else f"{path}: {exc}")


def _concerns_all(exc: Exception) -> bool:
    """Tell whether an error is the database's (disk, lock, damage) rather than that of one caller's values."""
    return isinstance(exc, sqlite3.OperationalError) or primary_code(exc) in _ADVICE


def _outcome(work: Work, cursor: sqlite3.Cursor) -> Outcome:
    """Run one caller's statements: their result, or the refusal (which has left nothing behind)."""
    try:
        return work(cursor), None
    except _REFUSALS as refusal:
        return None, refusal


def _outcome_apart(work: Work, cursor: sqlite3.Cursor) -> Outcome:
    """Run one caller's statements in a savepoint: what they raise is theirs, unless it is the database's."""
    cursor.execute("SAVEPOINT caller")
    result: Outcome
    try:
        result = work(cursor), None
    except Exception as exc:
        if _concerns_all(exc):
            raise
        cursor.execute("ROLLBACK TO caller")
        result = None, exc
    cursor.execute("RELEASE caller")
    return result
