"""The TLS listener: which certificates reach the profile, that their keys are proven, and why handshakes fail."""

import asyncio
import contextlib
import dataclasses
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from cmpd.exchange import TLSClient
from cmpd.http_transfer import Listener, TLSContext, server_tls
from cmpd.http_transfer.tls import FAILURES, is_for
from tests.ee import new_key
from tests.http_client import Serving, both_loops, post, serving
from tests.interop.openssl import key_pem
from tests.world import certificate

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
versions = pytest.mark.parametrize("version", VERSIONS)


def der(one: x509.Certificate) -> bytes:
    return one.public_bytes(Encoding.DER)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


class PKI:
    """A vendor's root, two CAs below it, and clients with certificates of the lower one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        root_key, upper_key, self.key = new_key(), new_key(), new_key()
        self.root = certificate(root_key, "Vendor Root", ca=True)
        self.upper = certificate(upper_key, "Vendor CA 1", root_key, self.root, ca=True)
        self.lower = certificate(self.key, "Vendor CA 2", upper_key, self.upper, ca=True)
        self.client("client", self.lower, self.upper)
        key = new_key()
        names: list[x509.GeneralName] = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("*.example.com")]
        self.server = certificate(key, "server", extensions=[(x509.SubjectAlternativeName(names), False)])
        (folder / "server.pem").write_bytes(pem(self.server))
        (folder / "server.key").write_bytes(key_pem(key))

    def client(self, name: str, *chain: x509.Certificate, **fields: Any) -> x509.Certificate:
        """Make NAME.pem, with the chain, and NAME.key."""
        key = new_key()
        made = certificate(key, name, self.key, self.lower, **fields)
        (self.folder / f"{name}.pem").write_bytes(pem(made, *chain))
        (self.folder / f"{name}.key").write_bytes(key_pem(key))
        return made

    def context(self, anchors: Sequence[x509.Certificate] = (), **options: Any) -> TLSContext:
        """What the server has."""
        return server_tls(
            self.folder / "server.pem", self.folder / "server.key", [der(one) for one in anchors], **options
        )

    def of_client(self, name: str | None = None, version: str | None = None) -> ssl.SSLContext:
        """What a client has."""
        context = ssl.create_default_context(cafile=self.folder / "server.pem")
        if version is not None:
            context.minimum_version = context.maximum_version = VERSIONS[version]
        if name is not None:
            context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return context

    def named(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificates((self.folder / f"{name}.pem").read_bytes())[0]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> PKI:
    return PKI(tmp_path_factory.mktemp("tls"))


async def client_seen(server: Serving, context: ssl.SSLContext) -> TLSClient | None:
    """Ask twice over one connection; the client that the service was told of."""
    async with server.connect(ssl=context) as client:
        for _ in range(2):
            assert (await client.ask(post())).status == 200
    first, second = server.arrivals[-2:]
    assert first.client is second.client, "taken once, when the connection is made"
    assert first.address == "127.0.0.1"
    return first.client


# -------------------------------------------------------------------------------------------- the client's certificate


@versions
@both_loops
async def test_the_clients_certificate_and_all_it_sent_above_it_arrive(pki: PKI, version: str) -> None:
    """RFC 8446 §4.4.2, RFC 5246 §7.4.6: octet by octet, the end entity's apart from the others."""
    async with serving(tls=pki.context([pki.root])) as server:
        client = await client_seen(server, pki.of_client("client", version))
        assert client == TLSClient(der(pki.named("client")), (der(pki.lower), der(pki.upper)))


@versions
@both_loops
async def test_a_client_without_a_certificate_is_served(pki: PKI, version: str) -> None:
    """It has an enrollment code, or signs its messages."""
    async with serving(tls=pki.context([pki.root])) as server:
        assert await client_seen(server, pki.of_client(None, version)) is None


@both_loops
async def test_without_tls_there_is_no_client() -> None:
    async with serving() as server:
        assert (await server.ask(post())).status == 200
        assert server.arrivals[0].client is None


@versions
@both_loops
async def test_no_certificate_is_asked_for_when_nobody_trusts_any(pki: PKI, version: str) -> None:
    async with serving(tls=pki.context()) as server:
        assert await client_seen(server, pki.of_client("client", version)) is None


@pytest.mark.parametrize("anchor", ["root", "upper", "lower", "client"])
@both_loops
async def test_any_certificate_may_be_an_anchor(pki: PKI, anchor: str) -> None:
    """A profile may trust an intermediate CA alone, or one certificate."""
    trusted = pki.named("client") if anchor == "client" else getattr(pki, anchor)
    async with serving(tls=pki.context([trusted])) as server:
        client = await client_seen(server, pki.of_client("client"))
        assert client is not None
        assert client.certificate == der(pki.named("client"))


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [("expired", -20, -10), ("early", 10, 20)],
)
@versions
@both_loops
async def test_dates_are_for_the_profile_to_judge(pki: PKI, version: str, name: str, begin: int, end: int) -> None:
    """An expired certificate may be good enough to renew it, and its client must be able to read why it is not."""
    now = datetime.now(UTC)
    begins, ends = now + timedelta(days=begin), now + timedelta(days=end)
    made = pki.client(name, pki.lower, pki.upper, not_before=begins, not_after=ends)
    async with serving(tls=pki.context([pki.root])) as server:
        client = await client_seen(server, pki.of_client(name, version))
        assert client is not None
        assert client.certificate == der(made)


def alert_of(server: Serving, context: ssl.SSLContext) -> str:
    """The alert that a client is told, if only after it has sent its request; asyncio's client does not say it."""
    try:
        with (
            socket.create_connection((server.host, server.port)) as plain,
            context.wrap_socket(plain, server_hostname=server.host) as secured,
        ):
            secured.sendall(post())
            secured.recv(1000)
    except ssl.SSLError as error:
        return error.reason
    raise AssertionError


@versions
@both_loops
async def test_a_certificate_from_nowhere_is_refused_in_the_handshake(pki: PKI, version: str) -> None:
    """Nobody could judge it. The client may come again without it."""
    stranger = certificate(new_key(), "Somebody else", ca=True)
    async with serving(tls=pki.context([stranger])) as server:
        alert = await asyncio.to_thread(alert_of, server, pki.of_client("client", version))
        assert alert == "TLSV1_ALERT_UNKNOWN_CA"
        assert server.failures == [("127.0.0.1", "certificate", "unable to get local issuer certificate")]
        assert await client_seen(server, pki.of_client(None, version)) is None


@both_loops
async def test_a_certificate_for_something_else_is_refused_in_the_handshake(pki: PKI) -> None:
    """OpenSSL holds extendedKeyUsage against clientAuth (RFC 5280 §4.2.1.12), and Python cannot tell it not to."""
    pki.client("mail", pki.lower, pki.upper, eku=[ExtendedKeyUsageOID.EMAIL_PROTECTION])
    async with serving(tls=pki.context([pki.root])) as server:
        alert = await asyncio.to_thread(alert_of, server, pki.of_client("mail"))
        assert alert == "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"
        address, kind, reason = server.failures[0]
        assert (address, kind) == ("127.0.0.1", "certificate")
        assert reason.replace("unsuitable", "unsupported") == "unsupported certificate purpose"


# --------------------------------------------------------------------------------------------------- no resumption


def resume(pki: PKI, server: Any, version: str, count: int) -> list[bool | None]:
    """Connect again and again with the session of the connection before; whether each was resumed."""
    context = pki.of_client("client", version)
    session, resumed = None, []
    for _ in range(count):
        with (
            socket.create_connection((server.host, server.port)) as plain,
            context.wrap_socket(plain, server_hostname=server.host, session=session) as secured,
        ):
            secured.sendall(post(version="1.0"))
            assert b" 200 OK\r\n" in secured.recv(1000)
            session = secured.session
            resumed.append(secured.session_reused)
            with contextlib.suppress(OSError):
                secured.unwrap()
    return resumed


@versions
@both_loops
async def test_every_connection_proves_its_clients_key_anew(pki: PKI, version: str) -> None:
    """No session is resumed: by no ticket (RFC 5077, RFC 8446 §2.2) and by no session ID (RFC 5246 §7.3)."""
    async with serving(tls=pki.context([pki.root])) as server:
        assert await asyncio.to_thread(resume, pki, server, version, 4) == [False] * 4
        assert {arrival.client and arrival.client.certificate for arrival in server.arrivals} == {
            der(pki.named("client"))
        }


@both_loops
async def test_a_session_that_is_resumed_all_the_same_is_cut_off(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    """As could be when two connections begin at once; the client may come again."""
    monkeypatch.setattr(Listener, "replace_tls", lambda *_: None)
    async with serving(tls=pki.context([pki.root])) as server:
        with pytest.raises((AssertionError, OSError)):
            await asyncio.to_thread(resume, pki, server, "1.2", 2)
        assert len(server.arrivals) == 1
        assert server.failures == [("127.0.0.1", "resumed", "a session was resumed")]
        assert await client_seen(server, pki.of_client("client")) is not None


# ---------------------------------------------------------------------------------------------- failing handshakes


async def fails(server: Serving, context: ssl.SSLContext) -> tuple[str, str]:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        async with server.connect(ssl=context) as client:
            await client.closed()
    await server.until(lambda: bool(server.failures))
    ((address, kind, reason),) = server.failures
    assert address == "127.0.0.1"
    assert kind in FAILURES
    return kind, reason


@both_loops
async def test_a_client_that_does_not_trust_us_is_told_from_others(pki: PKI) -> None:
    def ask(server: Serving) -> None:  # asyncio's client goes away without a word
        with (
            socket.create_connection((server.host, server.port)) as plain,
            contextlib.suppress(ssl.SSLCertVerificationError),
        ):
            ssl.create_default_context().wrap_socket(plain, server_hostname=server.host)

    async with serving(tls=pki.context()) as server:
        await asyncio.to_thread(ask, server)
        await server.until(lambda: bool(server.failures))
        assert server.failures == [("127.0.0.1", "alert", "tlsv1 alert unknown ca")]


@both_loops
async def test_the_oldest_version_can_be_set(pki: PKI) -> None:
    async with serving(tls=pki.context(minimum_version="1.3")) as server:
        alert = await asyncio.to_thread(alert_of, server, pki.of_client(None, "1.2"))
        assert alert == "TLSV1_ALERT_PROTOCOL_VERSION"
        assert [kind for _, kind, _ in server.failures] == ["version"]
        assert await client_seen(server, pki.of_client(None, "1.3")) is None


@both_loops
async def test_cipher_suites_of_tls_1_2_can_be_set(pki: PKI) -> None:
    async with serving(tls=pki.context(ciphers="ECDHE-ECDSA-AES256-GCM-SHA384")) as server:
        other = pki.of_client(None, "1.2")
        other.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        assert await fails(server, other) == ("parameters", "no shared cipher")
        assert await client_seen(server, pki.of_client(None, "1.2")) is None


def test_cipher_suites_that_do_not_exist_are_named(pki: PKI) -> None:
    with pytest.raises(ValueError, match="ciphers"):
        pki.context(ciphers="ROT13")


@pytest.mark.parametrize(
    ("data", "kind"), [(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not_tls"), (b"\0" * 100, "not_tls"), (b"", "closed")]
)
@both_loops
async def test_what_is_not_tls(pki: PKI, data: bytes, kind: str) -> None:
    async with serving(tls=pki.context()) as server, server.connect() as client:
        client.send(data)
        if not data:
            client.writer.write_eof()
        await client.closed()
        await server.until(lambda: bool(server.failures))
        assert server.failures[0][:2] == ("127.0.0.1", kind)


@both_loops
async def test_a_handshake_that_does_not_end(pki: PKI) -> None:
    async with serving(tls=pki.context(), request_seconds=0.2) as server, server.connect() as client:
        await client.closed()
        await server.until(lambda: bool(server.failures))
        assert server.failures == [("127.0.0.1", "timeout", "the handshake took too long")]


# --------------------------------------------------------------------------------------------------- server's names


@pytest.mark.parametrize(
    ("host", "right"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", False),
        ("a.example.com", True),
        ("A.Example.COM.", True),
        ("a.b.example.com", False),
        ("example.com", False),
        ("server", False),
        ("", False),
    ],
)
def test_which_hosts_a_certificate_is_for(pki: PKI, host: str, right: bool) -> None:
    """RFC 9525 §6.3: a wildcard is one label; the common name is no host."""
    assert is_for(pki.server, host) is right


def test_a_certificate_without_names_is_for_nobody() -> None:
    assert not is_for(certificate(new_key(), "localhost"), "localhost")


def test_a_context_is_made_again_from_the_same(pki: PKI) -> None:
    first = pki.context([pki.root, pki.root, pki.lower], minimum_version="1.3")
    again = first.again()
    assert again is not first
    assert again.config == first.config
    assert again.minimum_version is ssl.TLSVersion.TLSv1_3
    assert again.verify_mode is ssl.CERT_OPTIONAL
    assert again.cert_store_stats()["x509"] == 2
    assert dataclasses.astuple(again.config)[:2] == (pki.folder / "server.pem", pki.folder / "server.key")
