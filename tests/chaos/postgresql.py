"""PostgreSQL as the store of the nodes: a server of its own, and between it and each node a proxy that cuts."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from tests.chaos.contents import Contents, counted
from tests.postgres import Server

COMMIT_OCTETS = 1000
"""A statement so long carries certificates: it is a commit by itself."""
ARMED_SECONDS = 2.0
"""So long a proxy waits for a commit to swallow."""
_TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
_CHECK_INDEXES = (
    "SELECT c.relname, bt_index_check(c.oid, true)::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " JOIN pg_am a ON a.oid = c.relam JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE a.amname = 'btree' AND n.nspname = 'public' AND i.indisvalid"
)


class Proxy:
    """Passes octets on between a node and the server, until it is told not to."""

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self.swallowed = 0
        """How many commits were sent whose answer nobody got."""
        self._upstream = upstream
        self._armed = False
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], Callable[[], None]] = {}

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._connections)

    def cut(self) -> None:
        """Break all connections."""
        for end in list(self._connections.values()):
            end()

    async def swallow(self) -> None:
        """Let the next commit through and its answer not: the connection is gone."""
        self._armed = True
        before = self.swallowed
        for _ in range(int(ARMED_SECONDS / 0.01)):
            if self.swallowed > before:
                break
            await asyncio.sleep(0.01)
        self._armed = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs, to_server = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        swallowing = False

        def end() -> None:
            writer.transport.abort()
            to_server.transport.abort()

        async def ask() -> None:
            nonlocal swallowing
            while data := await reader.read(65536):
                if self._armed and (b"COMMIT" in data or len(data) > COMMIT_OCTETS):
                    self._armed = False
                    swallowing = True
                to_server.write(data)
                await to_server.drain()

        async def answer() -> None:
            while data := await theirs.read(65536):
                if swallowing:
                    self.swallowed += 1
                    return
                writer.write(data)
                await writer.drain()

        async def passed(one: Callable[[], object]) -> None:
            with contextlib.suppress(OSError):
                await one()  # type: ignore[misc]
            end()

        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = end
        try:
            await asyncio.gather(passed(ask), passed(answer))
        finally:
            del self._connections[task]


class PostgreSQL:
    """A server that is killed and stalled, and connections to it that break."""

    faults = ("crash", "stall", "terminate", "cut", "swallow")

    def __init__(self, folder: Path) -> None:
        self._server = Server(folder / "postgresql")
        self._proxies: dict[str, Proxy] = {}
        self._busy = False

    async def start(self, nodes: list[str]) -> None:
        await asyncio.to_thread(self._server.start)
        for name in nodes:
            self._proxies[name] = Proxy(self._server.port)
            await self._proxies[name].start()

    async def stop(self) -> None:
        for proxy in self._proxies.values():
            await proxy.stop()
        await asyncio.to_thread(self._server.kill)

    def url(self, node: str) -> str:
        url = self._server.url()
        return url.replace(f":{self._server.port}/", f":{self._proxies[node].port}/") if node else url

    async def apply(self, kind: str, node: str, seconds: float) -> None:
        match kind:
            case "cut":
                self._proxies[node].cut()
            case "swallow":
                await self._proxies[node].swallow()
            case _ if self._busy:
                return
            case "terminate":
                await asyncio.to_thread(self._server.query, _TERMINATE)
            case "crash" | "stall":
                self._busy = True
                try:
                    await asyncio.to_thread(self._server.kill if kind == "crash" else self._server.pause)
                    await asyncio.sleep(seconds)
                    await asyncio.to_thread(self._server.start if kind == "crash" else self._server.resume)
                finally:
                    self._busy = False

    async def read_rest(self, found: Contents) -> None:
        counted(found, self._server.query)
        if self._server.query("SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'"):
            self._server.query("CREATE EXTENSION amcheck")
            self._server.query(_CHECK_INDEXES)
