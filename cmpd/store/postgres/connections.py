"""How the store reaches PostgreSQL: a pool, what is tried again and what is not, and calls that go together.

Every statement costs a client 95 to 150 µs of CPU, one that carries sixteen calls 8 µs for each of them; and it costs a
way there and back. So what a request reads is one statement, its commit is another (`Together`), and while one is on
its way the calls of others gather for the next.

Everything else (orders, an operator's verbs, sweeps) is the work that SQLite does: statements one after another, in a
transaction that is serializable, so that what was written for one writer at a time stays right beside other nodes.

A commit whose outcome is unknown, because the connection was lost when it had been sent, is looked up: by the
transaction's number (`pg_xact_status`), or by what it would have kept.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from time import monotonic
from typing import Any, Generic, TypeVar, cast

import asyncpg
from greenlet import getcurrent, greenlet

from cmpd.ports import StoreUnavailable
from cmpd.store import Database, StoreRefused
from cmpd.store.group_commit import GATHER_SECONDS, GATHER_TURNS, GROUP_SIZE, Row
from cmpd.store.operators import Contested
from cmpd.store.postgres.dialect import postgres_of
from cmpd.store.url import read_server_url

logger = logging.getLogger(__name__)

T = TypeVar("T")
C = TypeVar("C")
R = TypeVar("R")
Connection = Any
"""`asyncpg.Connection`, or what its pool hands out in its place."""

CONNECT_SECONDS = 5.0
"""How long a connection may take to be made, where the URL has no connect_timeout."""
CONFLICTS = 10
"""How often what other nodes have got in the way of is tried again."""
MANY = 100
"""So many rows are sent at once."""
PATIENT_SECONDS = 0.003
"""So long a statement waits for more callers where the one before had several: with two workers and 16 clients that
saves a fifth of the CPU, and more time than it costs. Who is alone does not wait."""
GRACE_SECONDS = 1.0
"""How much longer than the server itself the client waits for the end of a statement."""

_BEGIN = (
    "SELECT pg_current_xact_id()::text,"
    " CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END"
)
_STATUS = "SELECT pg_xact_status($1::text::xid8)"
_LOCK = "SELECT pg_advisory_xact_lock(number) FROM unnest($1::bigint[]) AS number"

CONFLICT = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
"""Another transaction was in the way: this one certainly did not happen, and may be tried again."""
LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.TargetServerAttributeNotMatched,
    OSError,
    TimeoutError,
)
"""The server is gone, or is not the one that can be written to any more: another connection may find one that is."""
REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ClientConfigurationError,
    asyncpg.UnsupportedServerFeatureError,
    asyncpg.UndefinedObjectError,
    asyncpg.CantChangeRuntimeParamError,
    ssl.SSLError,
)
"""It will not be otherwise until an operator has done something."""
SERVERS = (asyncpg.QueryCanceledError, asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError)
"""Nothing that one caller's values could be the reason of."""
FAULTS = (asyncpg.PostgresError, *LOST)
"""Whatever a statement may raise."""

_ADVICE: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((asyncpg.QueryCanceledError,), "took longer than [store] statement_timeout: see what holds it up"),
    ((asyncpg.DiskFullError,), "the server's disk is full: make room"),
    ((asyncpg.ReadOnlySQLTransactionError,), "is read only: name the primary, or target_session_attrs=read-write"),
    ((asyncpg.TooManyConnectionsError,), "has no connection left: raise max_connections, or lower [store] connections"),
    ((asyncpg.InvalidAuthorizationSpecificationError,), "does not let cmpd in: see user, password and pg_hba.conf"),
    ((asyncpg.InvalidCatalogNameError,), "has no such database: make it"),
    ((ssl.SSLError,), "TLS: see sslmode, sslrootcert, sslcert and sslkey in [store] url"),
    ((asyncpg.InsufficientPrivilegeError,), "the role lacks a right that cmpd needs"),
    ((asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError), "has lost what cmpd has made in it"),
    (LOST, "cannot be reached"),
)


class Unfit(StoreUnavailable):
    """The call's own values are the reason, as far as can be told."""


def unavailable(name: str, exc: BaseException, kind: type[StoreUnavailable] = StoreUnavailable) -> StoreUnavailable:
    """Phrase an error for the log: which database, what to do, and PostgreSQL's own words."""
    words = str(exc).partition("\n")[0] or type(exc).__name__
    for kinds, advice in _ADVICE:
        if isinstance(exc, kinds):
            return kind(f"{name}: {advice} ({words})")
    return kind(f"{name}: {words}")


def lock_number(name: str) -> int:
    """The number of an advisory lock, by what it stands for."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), signed=True)


async def _as_it_is(_: Connection) -> None:
    """Nothing of a session is ever changed, so nothing is cleaned up when a connection goes back to the pool."""


async def connect(url: str, database: Database) -> "Connections":
    """Make the pool; connections are made when they are needed. Raises `StoreRefused`."""
    try:
        server = read_server_url(url)
    except ValueError as exc:
        raise StoreRefused(f"[store] url: {exc}") from None
    for parameter, file in server.files:
        try:
            file.open("rb").close()
        except OSError as exc:
            raise StoreRefused(f"[store] url: {parameter}: {file}: cannot be read: {exc.strerror}") from None
    settings = {"application_name": "cmpd"} if "application_name=" not in server.dsn else {}
    if database.statement_cache:  # pgbouncer, for which it is switched off, lets none but the usual settings through
        milliseconds = str(int(database.statement_timeout * 1000))
        settings |= {"statement_timeout": milliseconds, "idle_in_transaction_session_timeout": milliseconds}
    try:
        pool = await asyncpg.create_pool(
            server.dsn,
            password=database.password,
            min_size=0,
            max_size=database.connections,
            reset=_as_it_is,
            statement_cache_size=500 if database.statement_cache else 0,
            max_cached_statement_lifetime=0,
            timeout=server.connect_timeout or CONNECT_SECONDS,
            server_settings=settings,
        )
    except (ValueError, asyncpg.InterfaceError) as exc:
        raise StoreRefused(f"{server.name}: {exc}") from None
    return Connections(server.name, pool, database)


class Connections:
    """The connections of a store, used from one event loop."""

    def __init__(self, name: str, pool: "asyncpg.Pool[asyncpg.Record]", database: Database) -> None:
        self.name = name
        self.pool = pool
        self._patience = database.statement_timeout + GRACE_SECONDS
        """Seconds that one attempt may take, and within which a server that was lost is looked for."""
        self._closing = False
        self._working = 0
        """Attempts that have begun and not ended."""
        self._idle = asyncio.Event()
        self._line = asyncio.Lock()
        self._away = False
        """The server was lost when it was asked last."""
        self.commits = 0

    async def fetch(self, statement: str, *parameters: object) -> "list[asyncpg.Record]":
        """One statement that only reads; tried again when the connection is lost. Raises `StoreUnavailable`."""
        return await self.attempt(lambda connection, _: connection.fetch(statement, *parameters))

    async def commit(self, do: Callable[[Connection, bool], Awaitable[T]], *, unlimited: bool = False) -> T:
        """Attempt what commits, and count it."""
        result = await self.attempt(do, unlimited=unlimited)
        self.commits += 1
        return result

    async def attempt(self, do: Callable[[Connection, bool], Awaitable[T]], *, unlimited: bool = False) -> T:
        """Do something that is one commit at most; again where another transaction or a lost connection is in the way.

        It is told whether it may have happened already. `unlimited` sees to its time itself. Raises `StoreUnavailable`,
        as `Unfit` when it is not the server's fault.
        """
        if self._closing:
            raise StoreUnavailable(f"{self.name}: closed")
        self._working += 1
        try:
            return await self._attempt(do, None if unlimited else self._patience)
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()

    async def _attempt(self, do: Callable[[Connection, bool], Awaitable[T]], limit: float | None) -> T:
        deadline = monotonic() + self._patience
        conflicts, lost = 0, False
        while True:
            try:
                async with self._connection(deadline) as connection, asyncio.timeout(limit):
                    result = await do(connection, lost)
            except CONFLICT as exc:
                conflicts += 1
                if conflicts > CONFLICTS:
                    raise unavailable(self.name, exc) from exc
                await asyncio.sleep(random.uniform(0, 0.005 * conflicts))  # noqa: S311  nobody gains by guessing it
            except REFUSED as exc:
                raise unavailable(self.name, exc, StoreRefused) from exc
            except LOST as exc:
                if not lost:
                    lost = True
                    # whoever has waited as long as that for an answer need not wait as long again
                    more = GRACE_SECONDS if isinstance(exc, TimeoutError) else self._patience
                    deadline = max(deadline, monotonic() + more)
                self._heard(exc)
                if isinstance(exc, asyncpg.ReadOnlySQLTransactionError):
                    await self.pool.expire_connections()
                if monotonic() > deadline:
                    raise unavailable(self.name, exc) from exc
                await asyncio.sleep(0.05)
            except FAULTS as exc:
                raise unavailable(self.name, exc, StoreUnavailable if isinstance(exc, SERVERS) else Unfit) from exc
            else:
                self._heard(None)
                return result

    def _heard(self, exc: BaseException | None) -> None:
        """Say in the log when the server is lost, and when it is there again: once each."""
        if exc is None and self._away:
            logger.warning("the database is there again: %s", self.name)
        elif exc is not None and not self._away:
            logger.warning("the database is being looked for: %s", unavailable(self.name, exc))
        self._away = exc is not None

    @asynccontextmanager
    async def _connection(self, deadline: float) -> AsyncIterator[Connection]:
        """One of the pool; one on which something was cut short is closed, as nobody knows what it still does."""
        connection = await self.pool.acquire(timeout=max(deadline - monotonic(), 0.05))
        try:
            yield connection
        except (*LOST, asyncio.CancelledError):
            connection.terminate()
            raise
        finally:
            await self.pool.release(connection)

    # What SQLite's statements need

    async def read(self, query: str, parameters: tuple[Any, ...]) -> list[Row]:
        """See `operators.Connections`."""
        rows = await self.fetch(postgres_of(query), *map(fitting, parameters))
        return [tuple(row) for row in rows]

    async def write(self, work: Callable[[Any], T], contested: Contested | None = None) -> T:
        """See `operators.Connections`.

        Serializable; but where it is known what is contested, that is locked instead, as `issued` locks it.
        """
        pending: tuple[str, T] | None = None
        """A commit that was sent and not answered: the number of its transaction, and what it comes to."""

        async def do(connection: Connection, _: bool) -> T:
            nonlocal pending
            if pending is not None:
                if await self._was_committed(connection, pending[0]):
                    return pending[1]
                pending = None
            transaction = connection.transaction(isolation="serializable" if contested is None else "read_committed")
            await self._in_time(transaction.start())
            try:
                number = await self._in_time(connection.fetchval(_BEGIN))
                if contested is not None:
                    locks = sorted(map(lock_number, contested()))
                    await self._in_time(connection.execute(_LOCK, locks))
                result = await _run(work, connection, self._in_time)
            except Exception:
                if not connection.is_closed():
                    await self._in_time(transaction.rollback())
                raise
            pending = number, result
            await self._in_time(transaction.commit())
            return result

        if contested is not None:
            return await self.commit(do, unlimited=True)
        async with self._line:  # they would be in each other's way
            return await self.commit(do, unlimited=True)

    async def _in_time(self, asked: Awaitable[T]) -> T:
        """One statement of several: each has its time."""
        async with asyncio.timeout(self._patience):
            return await asked

    async def _was_committed(self, connection: Connection, number: str) -> bool:
        """What has become of a transaction. Raises `StoreUnavailable` when the server cannot tell."""
        while True:
            try:
                status = await self._in_time(connection.fetchval(_STATUS, number))
            except asyncpg.DataError:  # in the future: this server took over before it got there
                return False
            if status is None:
                raise StoreUnavailable(f"{self.name}: whether a commit has been made is not known any more")
            if status != "in progress":
                return bool(status == "committed")
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Finish what has begun, and let go of all connections."""
        self._closing = True
        try:
            async with asyncio.timeout(2 * self._patience):
                while self._working:
                    self._idle.clear()
                    await self._idle.wait()
                await self.pool.close()
        except TimeoutError:
            self.pool.terminate()


class Together(Generic[C, R]):
    """Calls that go to the database in one statement: while one is on its way, the next gather.

    `run` answers a group, call by call: with a result, or with the exception that is this caller's. What it raises is
    the whole group's; a fault of values is then looked for by asking for each alone.
    """

    def __init__(self, run: Callable[[Sequence[C]], Awaitable[Sequence[R | Exception]]]) -> None:
        self._run = run
        self._waiting: list[tuple[C, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None
        self._several = False
        """The last group had more than one caller."""

    async def __call__(self, call: C) -> R:
        """Have a call answered. Raises what is this caller's, or `StoreUnavailable`."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return await future

    async def finish(self) -> None:
        """Return when nobody waits any more."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                group, self._waiting = self._waiting[:GROUP_SIZE], self._waiting[GROUP_SIZE:]
                group = [one for one in group if not one[1].done()]
                self._several = len(group) > 1
                try:
                    outcomes = await self._run([call for call, _ in group])
                except Unfit as exc:
                    await self._one_by_one(group, exc)
                except StoreUnavailable as exc:
                    # so it would be for those who have gathered meanwhile, only later
                    waiting, self._waiting = self._waiting, []
                    for _, future in (*group, *waiting):
                        _settle(future, exc)
                except Exception as exc:  # noqa: BLE001  whose it is must be found out
                    await self._one_by_one(group, exc)
                else:
                    for (_, future), outcome in zip(group, outcomes, strict=True):
                        _settle(future, outcome)
        finally:
            self._task = None

    async def _gather(self) -> None:
        """Return when some turns of the loop have brought nobody new: then there is nothing better to do."""
        if self._several and len(self._waiting) < GROUP_SIZE:
            await asyncio.sleep(PATIENT_SECONDS)
        deadline = monotonic() + GATHER_SECONDS
        gathered = turns = 0
        while turns < GATHER_TURNS and len(self._waiting) < GROUP_SIZE and monotonic() < deadline:
            await asyncio.sleep(0)
            turns = turns + 1 if len(self._waiting) == gathered else 0
            gathered = len(self._waiting)

    async def _one_by_one(self, group: Sequence[tuple[C, asyncio.Future[R]]], error: Exception) -> None:
        for call, future in group:
            outcome: R | Exception = error
            if len(group) > 1:
                try:
                    (outcome,) = await self._run([call])
                except Exception as exc:  # noqa: BLE001  it is this caller's
                    outcome = exc
            _settle(future, outcome)


def _settle(future: "asyncio.Future[R]", outcome: R | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


# Work that was written for SQLite


async def _run(
    work: Callable[[Any], T], connection: Connection, in_time: Callable[[Awaitable[Any]], Awaitable[Any]]
) -> T:
    """Run what expects its answers at once: whenever it asks, it is put aside until the answer is there."""
    child = greenlet(work)
    value = child.switch(_Cursor(connection))
    while not child.dead:
        try:
            answer = await in_time(value)
        except BaseException as exc:  # noqa: BLE001  it is raised where it was asked
            value = child.throw(exc)
        else:
            value = child.switch(answer)
    return cast("T", value)


class _Cursor:
    """What the work uses of `sqlite3.Cursor`."""

    __slots__ = ("_connection", "_rows", "rowcount")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: list[Row] = []
        self.rowcount = -1

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> "_Cursor":
        statement, values = postgres_of(statement), map(fitting, parameters)
        if statement.startswith("SELECT"):
            self._rows = [tuple(row) for row in _answer(self._connection.fetch(statement, *values))]
            self.rowcount = -1
        else:
            self._rows = []
            self.rowcount = int(_answer(self._connection.execute(statement, *values)).rpartition(" ")[2])
        return self

    def executemany(self, statement: str, parameters: Sequence[Sequence[object]]) -> "_Cursor":
        statement = f"{postgres_of(statement)} RETURNING 1"
        rows = [tuple(map(fitting, one)) for one in parameters]
        self.rowcount = 0
        for begin in range(0, len(rows), MANY):
            self.rowcount += len(_answer(self._connection.fetchmany(statement, rows[begin : begin + MANY])))
        return self

    def fetchone(self) -> Row | None:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Row]:
        rows, self._rows = self._rows, []
        return rows


def _answer(asked: Awaitable[Any]) -> Any:
    """Wait for an answer without being a coroutine; see `_run`."""
    parent = getcurrent().parent
    assert parent is not None
    return parent.switch(asked)


def fitting(value: object) -> object:
    """A value that PostgreSQL can take: its texts have no NUL."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value
