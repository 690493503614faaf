"""`openssl cmp` over TLS with client certificates: to the daemon itself, and through the real nginx and HAProxy."""

import contextlib
import json
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.daemon import DEVICE, SECRET, Daemon, Site
from tests.ee import new_key
from tests.interop import proxies
from tests.interop.openssl import Done, OpenSSL, key_pem
from tests.world import certificate as certificate_of

WAYS = ("direct", "nginx", "haproxy")
every_way = pytest.mark.parametrize("way", WAYS)


class Service:
    """A daemon, and how clients reach it over TLS."""

    def __init__(self, site: Site, daemon: Daemon, address: str) -> None:
        self.site = site
        self.daemon = daemon
        self.url = f"https://{address}"
        self._count = 0

    def reference(self) -> str:
        """Make an enrollment code."""
        self._count += 1
        self.site.code(f"ref-{self._count}")
        return f"ref-{self._count}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's certificate, a site without listeners, and its CA."""
    folder = tmp_path_factory.mktemp("tls")
    key = new_key()
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
    made = certificate_of(key, "cmp.example.com", extensions=[(names, False)])
    (folder / "server.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(key_pem(key))
    site = Site.make(folder / "cmpd")
    (folder / "ca.pem").write_bytes((site.folder / "ca" / "root.pem").read_bytes())
    return folder


@pytest.fixture(scope="module")
def services(
    files: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator["Services"]:
    with contextlib.ExitStack() as stack:
        yield Services(files, tmp_path_factory, Path(request.config.cache.mkdir("proxies")), stack)


class Services:
    """Each is started when it is first asked for."""

    def __init__(
        self, files: Path, temporary: pytest.TempPathFactory, cache: Path, stack: contextlib.ExitStack
    ) -> None:
        self._files = files
        self._temporary = temporary
        self._cache = cache
        self._stack = stack
        self._started: dict[str, Service] = {}

    def __getitem__(self, way: str) -> Service:
        if way not in self._started:
            self._started[way] = self._start(way)
        self._started[way].daemon.catch_up()
        return self._started[way]

    def _start(self, way: str) -> Service:
        folder = self._temporary.mktemp(way)
        site = Site(self._files / "cmpd" / "cmpd.toml").copy(folder / "cmpd")
        if way == "direct":
            site.append(
                f'[server.tls]\nlisten = "127.0.0.1:0"\ncertificate = "{self._files}/server.pem"\n'
                f'key = "{self._files}/server.key"'
            )
            daemon = self._stack.enter_context(site.serve())
            return Service(site, daemon, daemon.tls)
        ready = proxies.program(way, self._cache)
        site.append(f'[server.proxy]\naddresses = ["127.0.0.1"]\ncertificate = "{way}"')
        daemon = self._stack.enter_context(site.serve())
        address = self._stack.enter_context(
            proxies.run(
                way,
                ready,
                folder / way,
                daemon.cmp,
                certificate=self._files / "server.pem",
                key=self._files / "server.key",
                cas=self._files / "ca.pem",
            )
        )
        return Service(site, daemon, address)


class Client(OpenSSL):
    """An end entity in a folder of its own."""

    def __init__(self, folder: Path, files: Path, service: Service) -> None:
        super().__init__(folder)
        self.service = service
        self.root = str(files / "ca.pem")
        self.tls = ("-tls_used", "-tls_trusted", str(files / "server.pem"), "-tls_host", "127.0.0.1")

    def ask(self, command: str, *options: str, tls: str | None = None, path: str = DEVICE) -> Done:
        """`openssl cmp` over TLS, with NAME.pem and NAME.key as the TLS client when `tls` names it."""
        shown = () if tls is None else ("-tls_cert", f"{tls}.pem", "-tls_key", f"{tls}.key")
        return self.cmp(f"{self.service.url}{path}", command, *self.tls, *shown, *options)

    def wanted(self, name: str) -> tuple[str, ...]:
        return ("-newkey", self.key(name), "-subject", "/CN=device-1", "-certout", f"{name}.pem")

    def enroll(self, name: str = "old", *, path: str = DEVICE) -> x509.Certificate:
        """By an enrollment code."""
        secret = ("-ref", self.service.reference(), "-secret", self.secret(SECRET))
        done = self.ask("ir", *secret, *self.wanted(name), "-extracertsout", f"{name}-chain.pem", path=path)
        assert done.ok, done
        assert (done.sent, done.received) == (["IR", "CERTCONF"], ["IP", "PKICONF"])
        return self.certificate(f"{name}.pem")

    def stranger(self, name: str = "stranger", **fields: object) -> None:
        """Make NAME.pem and NAME.key, a certificate that nobody knows."""
        key = new_key()
        self.write(f"{name}.pem", certificate_of(key, name, **fields))  # type: ignore[arg-type]  # its own keywords
        (self.folder / f"{name}.key").write_bytes(key_pem(key))


@pytest.fixture
def client(services: Services, files: Path, tmp_path: Path, way: str) -> Client:
    return Client(tmp_path, files, services[way])


@every_way
def test_ir_with_an_enrollment_code(client: Client) -> None:
    """RFC 9811 §3 over TLS: a client without a certificate has its code."""
    certificate = client.enroll()
    record = client.service.daemon.exchange(operation="ir", outcome="accepted")
    assert record["serial"] == f"{certificate.serial_number:x}"
    assert record["address"] == "127.0.0.1"


@every_way
def test_kur_with_the_certificate_as_tls_client_and_as_signer(client: Client) -> None:
    """RFC 9483 §4.1.3: one certificate for both."""
    client.enroll()
    signed = ("-cert", "old.pem", "-key", "old.key", "-trusted", client.root)
    done = client.ask("kur", *signed, *client.wanted("new"), tls="old")
    assert done.ok, done
    assert (done.sent, done.received) == (["KUR", "CERTCONF"], ["KUP", "PKICONF"])
    assert client.certificate("new.pem").public_key() != client.certificate("old.pem").public_key()
    client.service.daemon.exchange(operation="kur", outcome="accepted")


def test_a_certificate_from_nowhere_ends_the_handshake(services: Services, files: Path, tmp_path: Path) -> None:
    """The log says who and why, and the metric counts it."""
    client = Client(tmp_path, files, services["direct"])
    client.stranger()
    secret = ("-ref", client.service.reference(), "-secret", client.secret(SECRET))
    done = client.ask("ir", *secret, *client.wanted("new"), tls="stranger")
    assert not done.ok
    assert "tlsv1 alert unknown ca" in done.text, done
    record = client.service.daemon.until("TLS handshake failed")
    assert (record["address"], record["kind"], record["reason"]) == (
        "127.0.0.1",
        "certificate",
        "self-signed certificate",
    )
    _, metrics = client.service.daemon.admin_get("/metrics")
    assert b'cmpd_tls_handshake_failures_total{reason="certificate"} 1.0' in metrics
    assert client.service.site.used(f"ref-{client.service._count}") == 0


def test_who_writes_the_field_itself_is_refused(services: Services, files: Path, tmp_path: Path) -> None:
    """At the daemon itself: 403, a warning in the log, and no answer in CMP."""
    daemon = services["direct"].daemon
    headers = {"Content-Type": "application/pkixcmp", "Client-Cert": ":AAAA:"}
    status, body = daemon.http("POST", DEVICE, b"x", **headers)
    assert (status, body) == (403, b"Client-Cert from an address that is no listed proxy\n")
    record = daemon.until("refused", status=403)
    assert (record["level"], record["address"]) == ("warning", "127.0.0.1")
    assert record["reason"] == "Client-Cert from an address that is no listed proxy"
    assert b'cmpd_http_refusals_total{status="403"} 1.0' in daemon.admin_get("/metrics")[1]


def test_the_log_has_no_secret(services: Services) -> None:
    for service in services._started.values():
        assert SECRET not in json.dumps(service.daemon.records)
