"""The samples for nginx and HAProxy with the real ones, before a service that shows what it is told of its clients."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from cmpd.exchange import TLSClient
from cmpd.http_transfer import Proxies
from cmpd.http_transfer.proxy import HEADERS, Form
from tests.http_client import Client, Reply, Serving, post, serving
from tests.interop import proxies
from tests.test_tls import PKI, der, resume

FORMS: dict[str, Form] = {"nginx": "nginx", "haproxy": "haproxy"}
"""By proxy, how its sample passes certificates on."""
named = pytest.mark.parametrize("name", FORMS)

Start = Callable[[str], contextlib.AbstractAsyncContextManager["Behind"]]


class Behind:
    """A service behind a proxy."""

    def __init__(self, server: Serving, address: str, pki: PKI) -> None:
        self.server = server
        self.pki = pki
        self.host, _, port = address.rpartition(":")
        self.port = int(port)

    @contextlib.asynccontextmanager
    async def connect(self, name: str | None = None, version: str | None = None) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.pki.of_client(name, version))
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    async def ask(self, data: bytes, name: str | None = None, version: str | None = None) -> Reply:
        async with self.connect(name, version) as client:
            return await client.ask(data)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> PKI:
    return PKI(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path, pki: PKI) -> Start:
    @contextlib.asynccontextmanager
    async def start(name: str) -> AsyncIterator[Behind]:
        ready = proxies.program(name, Path(request.config.cache.mkdir("proxies")))
        (tmp_path / "cas.pem").write_bytes(pki.server.public_bytes(proxies.PEM))  # a CA that no client is from
        rules = Proxies.of([ip_network("127.0.0.1")], FORMS[name], address_header="X-Forwarded-For")
        async with serving(proxies=rules) as server:
            running = proxies.run(
                name,
                ready,
                tmp_path / name,
                f"127.0.0.1:{server.port}",
                certificate=pki.folder / "server.pem",
                key=pki.folder / "server.key",
                cas=tmp_path / "cas.pem",
            )
            address = await asyncio.to_thread(running.__enter__)
            try:
                yield Behind(server, address, pki)
            finally:
                await asyncio.to_thread(running.__exit__, None, None, None)

    return start


@named
async def test_certificate_chain_and_address_arrive(start: Start, name: str) -> None:
    """Octet by octet, with TLS 1.2 and 1.3; nginx passes on the client's certificate alone."""
    async with start(name) as behind:
        for version in ("1.2", "1.3"):
            reply = await behind.ask(post("/cmp/4f2a9c/ref-1", b"x"), "client", version)
            assert (reply.status, reply.body) == (200, b"127.0.0.1|device|None|x")
            arrival = behind.server.arrivals[-1]
            chain = (der(behind.pki.lower), der(behind.pki.upper)) if name == "haproxy" else ()
            assert arrival.client == TLSClient(der(behind.pki.named("client")), chain, "127.0.0.1")
            assert arrival.code == "ref-1"


@named
async def test_a_client_without_a_certificate(start: Start, name: str) -> None:
    async with start(name) as behind, behind.connect() as client:
        for _ in range(2):
            assert (await client.ask(post())).status == 200
        assert [arrival.client for arrival in behind.server.arrivals] == [None, None]


@named
async def test_an_expired_certificate_is_passed_on_for_cmpd_to_judge(start: Start, name: str, pki: PKI) -> None:
    """The body too: nginx has an answer of its own to such certificates, which the sample leads around."""
    now = datetime.now(UTC)
    made = pki.client("expired", not_before=now - timedelta(days=20), not_after=now - timedelta(days=10))
    async with start(name) as behind:
        reply = await behind.ask(post("/cmp/4f2a9c", b"x" * 100_000), "expired")
        assert (reply.status, len(reply.body)) == (200, 100_000 + len(b"127.0.0.1|device|None|"))
        client = behind.server.arrivals[-1].client
        assert client is not None
        assert client.certificate == der(made)


@named
async def test_what_a_client_writes_into_the_fields_itself_does_not_get_through(start: Start, name: str) -> None:
    """The proxy's own fields are overwritten; those of other forms make cmpd refuse the request."""
    mine = HEADERS[FORMS[name]]
    async with start(name) as behind:
        for field in filter(None, mine):
            spoofed = post("/cmp/4f2a9c", b"x", f"{field}: AAAA", f"{field}: AAAA", "X-Forwarded-For: 192.0.2.66")
            for user in (None, "client"):
                assert (await behind.ask(spoofed, user)).status == 200
                arrival = behind.server.arrivals[-1]
                assert arrival.address == "127.0.0.1"
                found = arrival.client and arrival.client.certificate
                assert found == (None if user is None else der(behind.pki.named(user)))
        assert behind.server.suspicions == []
        for field in {name for names in HEADERS.values() for name in names if name} - set(mine):
            assert (await behind.ask(post("/cmp/4f2a9c", b"x", f"{field}: AAAA"), "client")).status == 403
            assert behind.server.suspicions[-1][1] == "127.0.0.1"


@named
async def test_a_session_is_not_resumed(start: Start, name: str) -> None:
    """So that each connection proves its client's key anew, here too."""
    async with start(name) as behind:
        for version in ("1.2", "1.3"):
            assert await asyncio.to_thread(resume, behind.pki, behind, version, 3) == [False] * 3
