"""The faults themselves: the same seed, the same schedule; a proxy that loses what it is told to lose."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.chaos.cluster import SQLite
from tests.chaos.faults import FAR_TOO_LONG, LAST, WEIGHTS, schedule
from tests.chaos.postgresql import COMMIT_OCTETS, PostgreSQL, Proxy

NODES = ("1", "2", "3")


def test_a_seed_says_what_happens_and_a_longer_run_begins_like_a_shorter_one() -> None:
    long = schedule(7, 600.0, NODES, PostgreSQL.faults)
    short = schedule(7, 60.0, NODES, PostgreSQL.faults)
    assert long[: len(short)] == short
    assert short[-1].at < 60.0 - LAST
    assert schedule(8, 60.0, NODES, PostgreSQL.faults) != short


def test_in_a_long_run_everything_happens_to_everybody() -> None:
    faults = [one for own in (SQLite.faults, PostgreSQL.faults) for one in schedule(7, 600.0, NODES, own)]
    assert {fault.kind for fault in faults} == set(WEIGHTS)
    assert {(fault.kind, fault.node) for fault in faults} >= {("kill", node) for node in NODES}
    assert any(fault.kind == "pause" and fault.seconds == FAR_TOO_LONG for fault in faults)


class Answering:
    """A server that answers each message with its size, and remembers how much it has got."""

    def __init__(self) -> None:
        self.octets = 0

    @contextlib.asynccontextmanager
    async def behind_proxy(self) -> AsyncIterator[Proxy]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                self.octets += len(data)
                writer.write(f"{len(data)}\n".encode())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        proxy = Proxy(server.sockets[0].getsockname()[1])
        await proxy.start()
        try:
            yield proxy
        finally:
            await proxy.stop()
            server.close()


async def ask(proxy: Proxy, *messages: bytes) -> list[bytes]:
    """The answers on one connection; an empty one when it broke."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    answers = []
    try:
        for message in messages:
            writer.write(message)
            try:
                answers.append(await reader.readline())
            except ConnectionError:
                answers.append(b"")
    finally:
        writer.transport.abort()
    return answers


@pytest.mark.parametrize("commit", [b"x" * (COMMIT_OCTETS + 1), b"Q\0\0\0\x0cCOMMIT;\0"])
async def test_a_commit_is_made_and_nobody_hears_of_it(commit: bytes) -> None:
    server = Answering()
    async with server.behind_proxy() as proxy:
        assert await ask(proxy, b"select", commit) == [b"6\n", b"%d\n" % len(commit)], "nothing is lost unasked"
        swallowing = asyncio.create_task(proxy.swallow())
        await asyncio.sleep(0)
        before = server.octets
        assert await ask(proxy, b"select", commit) == [b"6\n", b""]
        assert server.octets == before + 6 + len(commit), "it did arrive"
        await swallowing
        assert proxy.swallowed == 1
        assert await ask(proxy, commit) == [b"%d\n" % len(commit)], "one, and no more"


async def test_connections_are_cut_and_new_ones_are_let_through() -> None:
    async with Answering().behind_proxy() as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"select")
        assert await reader.readline() == b"6\n"
        proxy.cut()
        with contextlib.suppress(ConnectionError):
            assert await reader.readline() == b""
        writer.transport.abort()
        assert await ask(proxy, b"again") == [b"5\n"]
