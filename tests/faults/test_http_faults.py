"""What strangers do to an HTTP port: each case ends in a status or a closed connection, in time, and nothing else."""

import asyncio
import dataclasses
import gc
import logging
import random
import ssl
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from cmpd import http_transfer
from cmpd.exchange import Arrival
from cmpd.http_transfer import server_tls
from tests.http_client import SERVICE, both_loops, echo, post, self_signed, serving

SHORT: dict[str, Any] = {"request_seconds": 0.2, "idle_seconds": 0.2}

GARBAGE = {
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 with version": b"GET / HTTP/0.9\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.7": b"POST / HTTP/3.7\r\nHost: x\r\n\r\n",
    "TLS ClientHello": bytes.fromhex("16030100c8010000c40303") + bytes(range(200)),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "CMP over TCP": bytes.fromhex("000001230a0000") + b"0\x82\x01\x1e" + bytes(300),
    "zeros": bytes(500),
    "newlines": b"\r\n" * 40 + b"\x00",
    "no host": b"POST / HTTP/1.1\r\n\r\n",
    "broken header": b"POST / HTTP/1.1\r\nHost x\r\n\r\n",
    "folded header": b"POST / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n",
    "NUL in header": b"POST / HTTP/1.1\r\nHost: x\x00y\r\n\r\n",
    "negative length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "text length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
    "length beyond 64 bits": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunked": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown transfer coding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: foo\r\n\r\n",
    "markup in the method": b"<script>alert(1)</script> / HTTP/1.1\r\n\r\n",
    "markup in the version": b"POST / <b>HTTP</b>\r\n\r\n",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
@both_loops
async def test_what_is_not_http_gets_one_line_that_repeats_none_of_it(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as server:
        async with server.connect() as client:
            reply = await client.ask(data)
            assert reply.status in {400, 505}
            assert reply.is_plain_refusal()
            assert reply.headers["connection"] == "close"
            assert b"script" not in reply.body
            assert await client.closed() == b""
        assert len(server.refusals) == 1
        assert (await server.ask(post())).status == 200
    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []


@both_loops
async def test_tls_on_the_plain_port_is_named_to_the_operator() -> None:
    async with serving() as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with server.connect(ssl=ssl.create_default_context()):
                pass
        await server.until(lambda: bool(server.refusals))
        assert server.refusals[0][::3] == (400, "TLS on a port without TLS")


@pytest.mark.parametrize(
    "data",
    [
        b"POST /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100_000,
        b"\r\n" * 100_000,
    ],
    ids=["line", "field", "fields", "endless fields", "endless newlines"],
)
@both_loops
async def test_an_over_long_head_is_refused(data: bytes) -> None:
    async with serving() as server:
        async with server.connect() as client:
            reply = await client.ask(data)
            assert reply.status in {400, 431}
            assert reply.is_plain_refusal()
            await client.closed()
        assert (await server.ask(post())).status == 200


@both_loops
async def test_an_endless_head_in_small_pieces_is_refused_at_its_limit() -> None:
    async with serving() as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        while not server.refusals:
            client.send(b"X: y\r\n" * 100)
            sent += 600
            await asyncio.sleep(0.001)
        assert (await client.reply()).status in {400, 431}
        assert sent < 4 * http_transfer.HEAD_SIZE


@both_loops
async def test_a_body_over_the_limit_is_refused_unread() -> None:
    """100 MB announced: the answer comes before any of it has been sent."""
    async with serving(body_size=1024) as server:
        async with server.connect() as client:
            reply = await client.ask(post("/cmp/4f2a9c", None, "Content-Length: 100000000"))
            assert reply.status == 413
            assert reply.is_plain_refusal()
            assert reply.headers["connection"] == "close"
        assert (await server.ask(post("/cmp/4f2a9c", b"x" * 1025))).status == 413
        assert (await server.ask(post("/cmp/4f2a9c", b"x" * 300_000))).status == 413


@pytest.mark.parametrize("chunked", [False, True])
@both_loops
async def test_a_100_mb_body_costs_neither_memory_nor_a_connection(chunked: bool) -> None:
    """The client sends on without reading; it is cut off, and what was buffered stays small."""
    piece = b"x" * 100_000
    head = post("/cmp/4f2a9c", None, "Transfer-Encoding: chunked" if chunked else "Content-Length: 100000000")
    async with serving() as server:
        async with server.connect() as client:
            gc.collect()
            tracemalloc.start()
            try:
                client.send(head)
                for _ in range(1000):
                    client.send(b"186a0\r\n%b\r\n" % piece if chunked else piece)
                    try:
                        await client.writer.drain()
                    except ConnectionError:
                        break
                    if client.writer.transport.get_write_buffer_size():
                        await asyncio.sleep(0.001)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert server.refusals[0][0] == 413
            await server.empty()
        assert peak < 8_000_000
        assert server.transfer.unfinished == 0
        assert (await server.ask(post())).status == 200


@both_loops
async def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    """Closing with unread octets would make TCP reset the connection and lose the answer."""
    for _ in range(5):
        async with serving(body_size=1024) as server, server.connect() as client:
            client.send(post("/cmp/4f2a9c", b"x" * 3_000_000))
            reply = await client.reply()
            assert reply.status == 413
            assert await client.closed() == b""


@pytest.mark.parametrize(
    "rest", [b"zz\r\n", b"5\r\nabcdefgh\r\n", b"-1\r\nx\r\n", b"5\r\nab", b"ffffffffffffffffff\r\nx"], ids=repr
)
@both_loops
async def test_a_broken_chunk_ends_the_request_at_once(rest: bytes) -> None:
    async with serving() as server:
        async with server.connect() as client:
            client.send(post("/cmp/4f2a9c", None, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
            await server.until(lambda: server.transfer.unfinished == 3)
            if rest == b"5\r\nab":
                client.send(rest)
                client.writer.write_eof()
                assert await client.closed() == b""
            else:
                reply = await client.ask(rest)
                assert reply.status == 400
                assert reply.is_plain_refusal()
                assert await client.closed() == b""
        await server.empty()
        assert server.transfer.unfinished == 0


@pytest.mark.parametrize("cut", [5, 60, -3])
@both_loops
async def test_a_request_that_does_not_arrive_in_time_is_408(cut: int) -> None:
    """Whether it stops in the request line, in the head or in the body."""
    async with serving(request_seconds=0.2, idle_seconds=60) as server, server.connect() as client:
        client.send(post()[:cut])
        reply = await client.reply()
        assert reply.status == 408
        assert reply.is_plain_refusal()
        assert await client.closed() == b""
        assert [status for status, *_ in server.refusals] == [408]


@pytest.mark.parametrize("chunked", [False, True])
@both_loops
async def test_a_sender_of_single_octets_is_cut_off(chunked: bool) -> None:
    """Each octet is progress, but the whole must arrive in `request_seconds`."""
    request = post("/cmp/4f2a9c", None, "Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 999 if chunked else post()
    async with serving(request_seconds=0.3, idle_seconds=60) as server, server.connect() as client:
        for octet in request * 20:
            client.send(bytes([octet]))
            await asyncio.sleep(0.01)
            if server.refusals:
                break
        assert (await client.reply()).status == 408
        await server.empty()
        assert server.transfer.unfinished == 0


@both_loops
async def test_an_idle_connection_is_closed() -> None:
    """Before the first request, and between two; RFC 9811 §5, item 1."""
    async with serving(**SHORT) as server, server.connect() as fresh, server.connect() as used:
        assert (await used.ask(post())).status == 200
        assert await fresh.closed() == b""
        assert await used.closed() == b""


@both_loops
async def test_a_request_that_begins_before_the_connection_is_idle_too_long_is_not_cut_off() -> None:
    async with serving(request_seconds=60, idle_seconds=0.4) as server, server.connect() as client:
        assert (await client.ask(post())).status == 200
        for part in (post()[:10], post()[10:50], post()[50:]):
            await asyncio.sleep(0.25)
            client.send(part)
        assert (await client.reply()).status == 200


@both_loops
async def test_a_slow_responder_is_not_the_clients_fault() -> None:
    """The client's time is over when its request is here; pipelined octets meanwhile change nothing."""

    async def slow(message: bytes, arrival: Arrival) -> bytes:
        await asyncio.sleep(0.8)
        return await echo(message, arrival)

    async with (
        serving(dataclasses.replace(SERVICE, respond=slow), **SHORT) as server,
        server.connect() as client,
    ):
        client.send(post())
        await server.busy()
        client.send(post()[:10])
        assert (await client.reply()).status == 200
        assert (await client.reply()).status == 408


@both_loops
async def test_a_client_that_does_not_read_is_cut_off() -> None:
    """Its answers would otherwise pile up and hold the connection for ever."""

    async def large() -> bytes:
        return b"x" * 8_000_000

    for fields in ((), ("Connection: close",)):
        async with (
            serving(dataclasses.replace(SERVICE, crls={"local": large}), **SHORT) as server,
            server.connect() as client,
        ):
            client.pause()
            client.send(post("/crl/local.crl", None, *fields, method="GET"))
            await server.connected()
            await server.empty()


@both_loops
async def test_connections_beyond_the_limit_are_refused_and_come_again_when_others_end() -> None:
    async with serving(connections=3) as server:
        async with server.connect() as one, server.connect() as two, server.connect() as three:
            for client in (one, two, three):
                assert (await client.ask(post())).status == 200
            async with server.connect() as four:
                reply = await four.reply()
                assert reply.status == 503
                assert reply.is_plain_refusal()
                assert await four.closed() == b""
            assert (await one.ask(post())).status == 200
        await server.empty()
        assert (await server.ask(post())).status == 200


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    self_signed(folder)
    return folder


@both_loops
async def test_tls_handshakes_that_never_end_count_and_time_out(
    certificate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    context = server_tls(certificate / "cert.pem", certificate / "key.pem")
    trusting = ssl.create_default_context(cafile=certificate / "cert.pem")
    async with serving(tls=context, connections=2, request_seconds=0.3) as server:
        async with server.connect() as one, server.connect() as two:
            two.send(b"\x16\x03\x01")
            await server.until(lambda: not server.transfer.has_room)
            async with server.connect() as three:
                assert await three.closed() == b""
            assert await one.closed() == b""
            assert await two.closed() == b""
        await server.until(lambda: server.transfer.has_room)
        async with server.connect(ssl=trusting) as client:
            assert (await client.ask(post())).status == 200


@both_loops
async def test_garbage_on_the_tls_port(certificate: Path) -> None:
    context = server_tls(certificate / "cert.pem", certificate / "key.pem")
    trusting = ssl.create_default_context(cafile=certificate / "cert.pem")
    async with serving(tls=context) as server:
        for data in (post(), b"\x00" * 100, b"\x16\x03\x01\x00\x05hello"):
            async with server.connect() as client:
                client.send(data)
                assert b"HTTP" not in await client.closed()
        async with server.connect() as client:
            client.reset()
        async with server.connect(ssl=trusting) as client:
            assert (await client.ask(post())).status == 200
            client.send(b"garbage\r\n\r\n")
            assert (await client.reply()).status == 400


@both_loops
async def test_an_exception_behind_the_door_is_500_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_message: bytes, _arrival: Arrival) -> bytes:
        raise RuntimeError("the secret is 1234")

    async with serving(dataclasses.replace(SERVICE, respond=broken)) as server, server.connect() as client:
        for _ in range(2):
            reply = await client.ask(post())
            assert (reply.status, reply.body) == (500, b"internal error\n")
            assert reply.is_plain_refusal()
    assert "the secret is 1234" in caplog.text


@both_loops
async def test_a_client_that_resets_at_any_moment(caplog: pytest.LogCaptureFixture) -> None:
    request = post("/cmp/4f2a9c", b"x" * 2000)
    async with serving() as server:
        for cut in (0, 10, 100, 500, len(request)):
            async with server.connect() as client:
                client.send(request[:cut])
                await asyncio.sleep(0.005)
                client.reset()
        await server.empty()
        assert server.transfer.unfinished == 0
        assert (await server.ask(post())).status == 200
    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []


@both_loops
async def test_unfinished_requests_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_transfer, "UNFINISHED_SIZE", 100_000)
    async with serving() as server:
        async with server.connect() as one, server.connect() as two:
            for client in (one, two):
                client.send(post("/cmp/4f2a9c", b"x" * 100_000)[:-1])
            await server.until(lambda: server.transfer.unfinished > 190_000)
            async with server.connect() as three:
                reply = await three.ask(post("/cmp/4f2a9c", None, "Content-Length: 10") + b"x")
                assert (reply.status, reply.headers["retry-after"]) == (503, "10")
            assert (await server.ask(post())).status == 200, "a request that is whole at once is served"
            one.send(b"x")
            assert (await one.reply()).status == 200
        await server.until(lambda: server.transfer.unfinished == 0)


@both_loops
async def test_random_requests_never_break_it(caplog: pytest.LogCaptureFixture) -> None:
    """Mutations of a valid request, seeded: each connection ends or answers with a status."""
    source = random.Random(9811)
    request = post("/.well-known/cmp/p/device", b"x" * 50, "Expect: 100-continue", "Connection: keep-alive")
    async with serving(request_seconds=5) as server:
        for _ in range(300):
            data = bytearray(request)
            for _ in range(source.randrange(1, 6)):
                place = source.randrange(len(data))
                match source.randrange(3):
                    case 0:
                        data[place] = source.randrange(256)
                    case 1:
                        del data[place : place + source.randrange(1, 20)]
                    case _:
                        data[place:place] = source.randbytes(source.randrange(1, 20))
            async with server.connect() as client:
                client.send(bytes(data))
                client.writer.write_eof()
                answer = await client.closed()
                assert answer == b"" or answer.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))
                assert b"Traceback" not in answer
                assert b"<html" not in answer
        await server.empty()
        assert (await server.ask(post())).status == 200
    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []
