"""RFC 9811 and RFC 9483 §6.1: where CMP is found over HTTP, and what is answered to everything else."""

import asyncio
import contextlib
import dataclasses
import ssl
import subprocess
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from cmpd.exchange import Arrival, TooManyRequests
from cmpd.http_transfer import Connection, Service, segments, server_tls
from tests.http_client import SERVICE, WAIT, both_loops, echo, post, self_signed, serving

OPERATIONS = [
    "initialization",
    "certification",
    "keyupdate",
    "pkcs10",
    "revocation",
    "getcacerts",
    "getrootupdate",
    "getcertreqtemplate",
    "getcrls",
    "nested",
]


@both_loops
async def test_a_message_is_answered_with_200_and_the_media_type() -> None:
    """RFC 9811 §3.1: the status MUST be 200; RFC 9811 §3.2: the media type MUST be application/pkixcmp."""
    async with serving() as server:
        reply = await server.ask(post())
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/pkixcmp"
        assert reply.headers["cache-control"] == "no-store"
        assert "server" not in reply.headers
        assert abs(parsedate_to_datetime(reply.headers["date"]) - datetime.now(UTC)).total_seconds() < 60
        assert reply.body == b"127.0.0.1|device|None|PKIMessage"
        assert server.refusals == []


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/.well-known/cmp", "None|None"),
        ("/.well-known/cmp/", "None|None"),
        ("/.well-known/cmp/initialization", "None|initialization"),
        ("/.well-known/cmp/p/device", "device|None"),
        ("/.well-known/cmp/p/device/", "device|None"),
        ("/.well-known/cmp/p/device/keyupdate", "device|keyupdate"),
        ("/.well-known/cmp/p/device/keyupdate/", "device|keyupdate"),
        ("/cmp/4f2a9c", "device|None"),
        ("/cmp/4f2a9c/pkcs10", "device|pkcs10"),
        ("/cmp/4f2a9c/ref-1", "device|None|ref-1"),
        ("/cmp/4f2a9c/ref-1/", "device|None|ref-1"),
        ("/cmp/4f2a9c/ref-1/keyupdate", "device|keyupdate|ref-1"),
        ("/cmp/4f2a9c/pkcs10/pkcs10", "device|pkcs10|pkcs10"),
        ("/cmp/4f2a9c/%47er%C3%A4t%2F1?x", "device|None|Gerät/1"),
        ("/cmp/4f2a9c/" + "%C3%A4" * 64, "device|None|" + "ä" * 64),
        ("/.well-known/cmp/p/device?x=/../y", "device|None"),
        ("/.well-known/cmp/p/device?", "device|None"),
        ("/.well-known/cmp/p/d%65vice", "device|None"),
        ("/%2ewell-known/cmp/p/device", "device|None"),
        ("/.well-known/cmp/p/Ger%C3%A4t%201", "Gerät 1|None"),
        ("/.well-known/cmp/p/a%2Fb", "a/b|None"),
        ("http://ca.example.com/.well-known/cmp/p/device", "device|None"),
        ("http://ca.example.com:8829/cmp/4f2a9c?a=b", "device|None"),
    ],
)
@both_loops
async def test_the_paths_of_cmp(path: str, found: str) -> None:
    """RFC 9811 §3.4, RFC 9483 §6.1; the absolute form is what clients send to a proxy (RFC 9112 §3.2.2)."""
    async with serving() as server:
        reply = await server.ask(post(path))
        profile, operation, *code = found.split("|")
        assert (reply.status, reply.body.decode()) == (200, f"127.0.0.1|{profile}|{operation}|PKIMessage")
        assert server.arrivals[0].code == (code[0] if code else None)


@both_loops
async def test_every_operation_label_of_rfc_9483_6_1() -> None:
    """RFC 9483 §6.1, Table 1."""
    async with serving() as server, server.connect() as client:
        for operation in OPERATIONS:
            for path in (
                f"/.well-known/cmp/{operation}",
                f"/.well-known/cmp/p/device/{operation}",
                f"/cmp/4f2a9c/{operation}",
            ):
                reply = await client.ask(post(path))
                assert reply.body.decode().split("|")[2] == operation


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "/favicon.ico",
        "/.well-known",
        "/.well-known/est",
        "/.well-known/cmp/p",
        "/.well-known/cmp/p/",
        "/.well-known/cmp/p/other",
        "/.well-known/cmp/p/Device",
        "/.well-known/cmp/p/device/frobnicate",
        "/.well-known/cmp/p/device/initialization/x",
        "/.well-known/cmp/p/device//",
        "/.well-known/cmp/frobnicate",
        "/.well-known/cmp/Initialization",
        "/.well-known//cmp",
        "/.well-known/cmp/p/../p/device",
        "/.well-known/cmp/p/a/b",
        "/.well-known/cmp/p/%C3",
        "/.well-known/cmp/p/%ff%fe",
        "/.well-known/cmp/p/%00",
        "/.well-known/cmp/p/device%",
        "/.well-known/cmp/p/device%2Fkeyupdate",
        "/cmp",
        "/cmp/",
        "/cmp/device",
        "/cmp/4f2a9c//",
        "/cmp/4f2a9c//keyupdate",
        "/cmp/4f2a9c/x/y",
        "/cmp/4f2a9c/x/keyupdate/y",
        "/cmp/4f2a9c/" + "x" * 65,
        "/.well-known/cmp/p/device/x",
        "/cmp/4f2a9",
        "/crl",
        "/crl/",
        "/crl/local",
        "/crl/other.crl",
        "/crl/x/local.crl",
        "http://ca.example.com",
        "/" + "x" * 4000,
    ],
)
@both_loops
async def test_an_unknown_path_is_404_in_one_line(path: str) -> None:
    """RFC 9483 §6.1: the HTTP status tells a client whether a URI is supported."""
    async with serving() as server, server.connect() as client:
        reply = await client.ask(post(path))
        assert reply.status == 404
        assert reply.is_plain_refusal()
        assert (await client.ask(post())).status == 200
        assert [(status, target) for status, _, target, _ in server.refusals] == [(404, path)]


@both_loops
async def test_without_a_default_profile_a_name_is_needed() -> None:
    async with serving(dataclasses.replace(SERVICE, default=False)) as server:
        assert (await server.ask(post("/.well-known/cmp"))).status == 404
        assert (await server.ask(post("/.well-known/cmp/keyupdate"))).status == 404
        assert (await server.ask(post("/.well-known/cmp/p/device"))).status == 200


@both_loops
async def test_the_service_is_replaced_from_one_request_to_the_next() -> None:
    """A reload counts from the next request on, on open connections too."""
    async with serving() as server, server.connect() as client:
        assert (await client.ask(post("/cmp/4f2a9c"))).status == 200
        server.transfer.service = Service(echo, frozenset({"mail"}), {"77": "mail"})
        assert (await client.ask(post("/cmp/4f2a9c"))).status == 404
        assert (await client.ask(post("/cmp/77"))).body == b"127.0.0.1|mail|None|PKIMessage"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"])
@both_loops
async def test_another_method_is_405_and_says_which_is_right(method: str) -> None:
    """RFC 9811 §3.1: POST; RFC 9110 §15.5.6: 405 comes with Allow."""
    async with serving() as server, server.connect() as client:
        client.send(post(body=None, method=method))
        reply = await client.reply(head=method == "HEAD")
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
        assert (await client.ask(post())).status == 200


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/pkixcmp", 200),
        ("Application/PKIXCMP", 200),
        ("application/pkixcmp; charset=binary", 200),
        ("application/pkixcmp ;q=1", 200),
        ("application/pkixcmp-poll", 200),
        (None, 415),
        ("", 415),
        ("application/pkixcmpx", 415),
        ("application/pkcs10", 415),
        ("text/html", 415),
        ("application/pkix-cmp", 415),
        ("x; application/pkixcmp", 415),
    ],
)
@both_loops
async def test_the_media_type(media_type: str | None, status: int) -> None:
    """RFC 9811 §3.2; application/pkixcmp-poll MAY be handled like it (RFC 9811 §4)."""
    async with serving() as server:
        reply = await server.ask(post(media_type=media_type))
        assert reply.status == status
        if status == 415:
            assert reply.is_plain_refusal()
            assert reply.headers["accept"] == "application/pkixcmp"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "compress", "x"])
@both_loops
async def test_a_content_coding_is_refused_and_never_unpacked(coding: str) -> None:
    """A few octets of gzip can become megabytes."""
    async with serving() as server:
        reply = await server.ask(post("/.well-known/cmp", b"\x1f\x8b\x08\x00", f"Content-Encoding: {coding}"))
        assert (reply.status, reply.headers["accept-encoding"]) == (415, "identity")


@pytest.mark.parametrize("size", [1, 2047, 2048])
@both_loops
async def test_a_body_up_to_the_limit_is_taken(size: int) -> None:
    async with serving(body_size=2048) as server:
        assert (await server.ask(post("/cmp/4f2a9c", b"x" * size))).body.endswith(b"|" + b"x" * size)
        chunks = b"".join(b"1\r\nx\r\n" for _ in range(size)) + b"0\r\n\r\n"
        reply = await server.ask(post("/cmp/4f2a9c", None, "Transfer-Encoding: chunked") + chunks)
        assert reply.body.endswith(b"|" + b"x" * size)


@both_loops
async def test_an_empty_body_is_400_and_one_without_length_411() -> None:
    async with serving() as server, server.connect() as client:
        assert (await client.ask(post(body=b""))).status == 400
        assert (await client.ask(post(body=None))).status == 411
        assert (await client.ask(post("/cmp/4f2a9c", None, "Transfer-Encoding: chunked") + b"0\r\n\r\n")).status == 400
        assert (await client.ask(post())).status == 200
    async with serving() as server:
        assert (await server.ask(post(body=None, version="1.0"))).status == 411


@both_loops
async def test_a_message_in_many_pieces_and_chunks() -> None:
    body = bytes(range(256)) * 20
    chunked = post("/cmp/4f2a9c", None, "Transfer-Encoding: chunked") + b"".join(
        b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (body[:1], body[1:700], body[700:])
    )
    async with serving() as server, server.connect() as client:
        for request in (post("/cmp/4f2a9c", body), chunked + b"0\r\nTrailer: x\r\n\r\n"):
            for start in range(0, len(request), 97):
                client.send(request[start : start + 97])
                await asyncio.sleep(0)
            assert (await client.reply()).body == b"127.0.0.1|device|None|" + body


@both_loops
async def test_too_many_requests_are_429_and_told_when_to_come_again() -> None:
    """RFC 6585 §4, RFC 9110 §10.2.3; the connection stays."""

    async def busy(_message: bytes, _arrival: Arrival) -> TooManyRequests:
        return TooManyRequests(17)

    async with serving(dataclasses.replace(SERVICE, respond=busy)) as server, server.connect() as client:
        for _ in range(2):
            reply = await client.ask(post())
            assert (reply.status, reply.headers["retry-after"]) == (429, "17")
            assert reply.is_plain_refusal()
        assert [refusal[0] for refusal in server.refusals] == [429, 429]


@both_loops
async def test_keep_alive_and_close_in_http_1_1() -> None:
    async with serving() as server, server.connect() as client:
        for _ in range(3):
            reply = await client.ask(post())
            assert reply.version == "HTTP/1.1"
            assert "connection" not in reply.headers
        reply = await client.ask(post("/cmp/4f2a9c", b"x", "Connection: close"))
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await client.closed() == b""


@both_loops
async def test_keep_alive_and_close_in_http_1_0() -> None:
    """OpenSSL's client and routers speak HTTP/1.0; they look for `Connection: keep-alive` in the answer."""
    async with serving() as server, server.connect() as client:
        for _ in range(2):
            reply = await client.ask(post("/cmp/4f2a9c", b"x", "Connection: Keep-Alive", version="1.0"))
            assert (reply.version, reply.status, reply.headers["connection"]) == ("HTTP/1.0", 200, "keep-alive")
        reply = await client.ask(
            b"POST /cmp/4f2a9c HTTP/1.0\r\nContent-Type: application/pkixcmp\r\nContent-Length: 1\r\n\r\nx"
        )
        assert (reply.version, reply.status, reply.headers["connection"]) == ("HTTP/1.0", 200, "close")
        assert await client.closed() == b""


@both_loops
async def test_expect_100_continue() -> None:
    """RFC 9110 §10.1.1: the body is called for only when its announcement is acceptable."""
    async with serving(body_size=1024) as server, server.connect() as client:
        head = post("/cmp/4f2a9c", None, "Expect: 100-Continue", "Content-Length: 4")
        reply = await client.ask(head)
        assert reply.status == 100
        assert (await client.ask(b"body")).body.endswith(b"|body")
        assert (await client.ask(head + b"body")).body.endswith(b"|body"), "a body that is here is not called for"
        reply = await client.ask(post("/cmp/4f2a9c", None, "Expect: 100-continue", "Content-Length: 4000"))
        assert reply.status == 413
    async with serving() as server:
        assert (await server.ask(post("/nowhere", None, "Expect: 100-continue", "Content-Length: 4"))).status == 404
        assert (await server.ask(post("/cmp/4f2a9c", b"x", "Expect: a-miracle"))).status == 417


@both_loops
async def test_a_client_that_has_closed_its_side_still_gets_the_answer() -> None:
    gate = asyncio.Event()

    async def slow(message: bytes, arrival: Arrival) -> bytes:
        await gate.wait()
        return await echo(message, arrival)

    for request in (post(), post(version="1.0")):
        gate.clear()
        async with serving(dataclasses.replace(SERVICE, respond=slow)) as server, server.connect() as client:
            client.send(request)
            client.writer.write_eof()
            await server.busy()
            await asyncio.sleep(0.02)
            gate.set()
            assert (await client.reply()).body.endswith(b"|PKIMessage")
            assert await client.closed() == b""


@both_loops
async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async with serving() as server, server.connect() as client:
        client.send(b"".join(post("/cmp/4f2a9c", b"%d" % n) for n in range(100)))
        for n in range(100):
            assert (await client.reply()).body.endswith(b"|%d" % n)


@both_loops
async def test_the_crl_is_served_to_get_and_head() -> None:
    """RFC 2585 §4: application/pkix-crl."""
    async with serving() as server, server.connect() as client:
        reply = await client.ask(post("/crl/local.crl", None, method="GET", media_type=None))
        assert (reply.status, reply.headers["content-type"], reply.body) == (200, "application/pkix-crl", b"a CRL")
        client.send(post("/crl/local.crl", None, method="HEAD"))
        reply = await client.reply(head=True)
        assert (reply.status, reply.headers["content-length"]) == (200, "5")
        reply = await client.ask(post("/crl/local.crl"))
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


@both_loops
async def test_a_crl_that_cannot_be_made_is_503(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> bytes:
        raise OSError("/secret/path")

    async with serving(dataclasses.replace(SERVICE, crls={"local": broken})) as server:
        reply = await server.ask(post("/crl/local.crl", None, method="GET"))
        assert reply.status == 503
        assert reply.is_plain_refusal()
        assert "retry-after" in reply.headers
    assert "/secret/path" in caplog.text


@both_loops
async def test_stop_answers_what_is_in_flight_and_closes_what_is_idle() -> None:
    """Also a request of which only a part was here when the stop began."""
    gate = asyncio.Event()

    async def slow(message: bytes, arrival: Arrival) -> bytes:
        await gate.wait()
        return await echo(message, arrival)

    async with (
        serving(dataclasses.replace(SERVICE, respond=slow)) as server,
        server.connect() as idle,
        server.connect() as used,
        server.connect() as busy,
        server.connect() as partial,
        server.connect() as head_only,
    ):
        gate.set()
        assert (await used.ask(post())).status == 200
        gate.clear()
        busy.send(post())
        request = post()
        partial.send(request[:-4])
        head_only.send(request[:20])
        await server.until(
            lambda: len(server.transfer.connections) == 5 and sum(not c.idle for c in server.transfer.connections) == 3
        )
        stopping = asyncio.create_task(server.transfer.stop(WAIT))
        assert await idle.closed() == b""
        assert await used.closed() == b""
        with contextlib.suppress(ConnectionError):
            async with server.connect() as late:
                assert await late.closed() == b""
        partial.send(request[-4:])
        head_only.send(request[20:])
        await server.until(lambda: all(c.answering for c in server.transfer.connections))
        assert not stopping.done()
        gate.set()
        for client in (busy, partial, head_only):
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await client.closed() == b""
        assert await stopping is True


@both_loops
async def test_stop_does_not_wait_longer_than_it_may() -> None:
    async def never(_message: bytes, _arrival: Arrival) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(dataclasses.replace(SERVICE, respond=never)) as server, server.connect() as client:
        client.send(post())
        await server.busy()
        assert await server.transfer.stop(0.05) is False
        assert await client.closed() == b""


@both_loops
async def test_stop_waits_for_the_handler_of_a_client_that_has_gone() -> None:
    """The responder is at work on the store, which may only be closed after it."""
    gate, done = asyncio.Event(), asyncio.Event()

    async def slow(_message: bytes, _arrival: Arrival) -> bytes:
        await gate.wait()
        done.set()
        return b""

    async with serving(dataclasses.replace(SERVICE, respond=slow)) as server, server.connect() as client:
        client.send(post())
        await server.busy()
        client.reset()
        await server.until(lambda: all(c.transport is None for c in server.transfer.connections))
        stopping = asyncio.create_task(server.transfer.stop(WAIT))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        gate.set()
        assert await stopping is True
        assert done.is_set()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed server certificate made by the openssl command; the key also encrypted."""
    folder = tmp_path_factory.mktemp("tls")
    self_signed(folder)
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", "key.pem", "-out", "encrypted.pem", "-passout", "pass:x"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def trusting(folder: Path, **versions: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / "cert.pem")
    for name, version in versions.items():
        setattr(context, name, version)
    return context


@both_loops
async def test_tls(certificate: Path) -> None:
    """RFC 9811 §5, item 5; keep-alive and a large answer over TLS 1.2 and 1.3."""
    context = server_tls(certificate / "cert.pem", certificate / "key.pem")
    body = b"x" * 200_000
    async with serving(tls=context) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client_tls = trusting(certificate, minimum_version=version, maximum_version=version)
            async with server.connect(ssl=client_tls) as client:
                for _ in range(2):
                    reply = await client.ask(post("/cmp/4f2a9c", body))
                    assert reply.body == b"127.0.0.1|device|None|" + body
                reply = await client.ask(post("/cmp/4f2a9c", b"x", "Connection: close"))
                assert reply.status == 200
                assert await client.closed() == b""


@both_loops
async def test_tls_1_1_is_refused(certificate: Path) -> None:
    context = server_tls(certificate / "cert.pem", certificate / "key.pem")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    async with serving(tls=context) as server:
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old = trusting(certificate, minimum_version=ssl.TLSVersion.TLSv1_1, maximum_version=ssl.TLSVersion.TLSv1_1)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with server.connect(ssl=old):
                pass


@both_loops
async def test_a_new_tls_certificate_counts_from_the_next_handshake(certificate: Path, tmp_path: Path) -> None:
    self_signed(tmp_path, "new", "rsa:2048")
    context = server_tls(certificate / "cert.pem", certificate / "key.pem")
    async with serving(tls=context) as server:
        async with server.connect(ssl=trusting(certificate)) as client:
            server.transfer.tls = server_tls(tmp_path / "cert.pem", tmp_path / "key.pem")
            assert (await client.ask(post())).status == 200
        async with server.connect(ssl=trusting(tmp_path)) as client:
            assert (await client.ask(post())).status == 200


def test_an_encrypted_tls_key_is_refused_without_asking_on_the_terminal(certificate: Path) -> None:
    with pytest.raises(ValueError, match="encrypted"):
        server_tls(certificate / "cert.pem", certificate / "encrypted.pem")


def test_a_missing_tls_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        server_tls(tmp_path / "cert.pem", tmp_path / "key.pem")


@both_loops
async def test_an_address_in_use_is_an_os_error(certificate: Path) -> None:
    context = server_tls(certificate / "cert.pem", certificate / "key.pem")
    async with serving() as server:
        for tls in (None, context):
            with pytest.raises(OSError, match=r"in use"):
                await server.transfer.listen("127.0.0.1", server.port, tls)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("/a/b", ["a", "b"]),
        ("/a/b/", ["a", "b"]),
        ("/", []),
        ("*", []),
        ("example.com:443", []),
        ("", []),
        ("/a%2fb/%41", ["a/b", "A"]),
        ("/a?b/c", ["a"]),
        ("/a#b/c", ["a"]),
        ("/a%3Fb", ["a?b"]),
        ("https://h/a/b?c", ["a", "b"]),
        ("/\udcff/%C3%28", []),
    ],
)
def test_segments(target: str, found: list[str]) -> None:
    assert segments(target) == found


@both_loops
async def test_a_head_is_acknowledged_at_once_when_its_body_is_still_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The OpenSSL client's system holds the body back until the head is acknowledged, by default 40 ms later."""
    acknowledged: list[Connection] = []
    acknowledge = Connection.acknowledge

    def noticed(connection: Connection) -> None:
        acknowledge(connection)
        acknowledged.append(connection)

    monkeypatch.setattr(Connection, "acknowledge", noticed)
    async with serving() as server, server.connect() as client:
        assert (await client.ask(post())).status == 200
        assert acknowledged == []
        client.send(post(body=None, media_type="application/pkixcmp")[:-2] + b"Content-Length: 3\r\n\r\n")
        await server.until(lambda: len(acknowledged) == 1)
        assert (await client.ask(b"abc")).status == 200
