"""TLS and plain HTTP of the running daemon: what it refuses to serve, and its certificate's life."""

import asyncio
import signal
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import daemon
from cmpd.http_transfer import NO_PROXIES
from cmpd.settings import Settings, SettingsError
from tests.daemon import Site
from tests.ee import new_key
from tests.http_client import WAIT, post
from tests.interop.openssl import key_pem
from tests.test_daemon import connect, edit, metrics
from tests.world import certificate

LISTEN = 'listen = "127.0.0.1:0"'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("init") / "cmpd")


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    return made.copy(tmp_path / "cmpd")


def write_pair(site: Site, *, host: str = "127.0.0.1", **fields: Any) -> x509.Certificate:
    """Make tls.pem and tls.key."""
    key = new_key()
    try:
        name: x509.GeneralName = x509.IPAddress(ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    made = certificate(key, "server", extensions=[(x509.SubjectAlternativeName([name]), False)], **fields)
    for file, data in (("tls.key", key_pem(key)), ("tls.pem", made.public_bytes(Encoding.PEM))):
        (site.folder / f"{file}.new").write_bytes(data)
        (site.folder / f"{file}.new").rename(site.folder / file)
    return made


def with_tls(site: Site, more: str = "") -> Site:
    site.append(f'[server.tls]\nlisten = "127.0.0.1:0"\ncertificate = "tls.pem"\nkey = "tls.key"\n{more}')
    return site


def faults_of(site: Site) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        daemon.check(site.config)
    return caught.value.faults


class Running:
    """The daemon in this process, so that its clock can be made to run faster."""

    def __init__(self, site: Site, **options: Any) -> None:
        self._listening = asyncio.Event()
        self._daemon = daemon.Daemon(site.config, ready=self._ready, **options)
        self._task = asyncio.create_task(self._daemon.run())

    def _ready(self, addresses: daemon.Addresses) -> None:
        self.addresses = addresses
        self._listening.set()

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(WAIT):
            await self._listening.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._daemon.stop()
        await self._task

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT):
            while not condition():
                await asyncio.sleep(0.01)

    async def shown(self) -> x509.Certificate:
        """The certificate that the TLS listener shows at present."""
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        async with connect(str(self.addresses.tls), ssl=trusting) as client:
            assert (await client.ask(post("/.well-known/cmp/p/device", b"x"))).status == 200
            shown = client.writer.get_extra_info("ssl_object").getpeercert(True)
            return x509.load_der_x509_certificate(shown)

    async def expiry(self) -> float | None:
        found = await metrics(str(self.addresses.admin))
        return found.get(("cmpd_tls_certificate_expiry_timestamp_seconds",))


# ------------------------------------------------------------------------------------------------------- allow_http


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_plain_http_beyond_this_machine_is_refused(site: Site, listen: str) -> None:
    """With the reason and the three ways out, unless the operator says that it may be."""
    edit(site.config, (LISTEN, f'listen = "{listen}"'))
    (fault,) = faults_of(site)
    assert fault.startswith(f"{site.config}: server.listen: {listen}: other machines reach it, over plain HTTP. ")
    for part in ("RFC 9483 §6.1", "reverse proxy", "[server.tls]", "server.allow_http = true"):
        assert part in fault
    edit(site.config, ("[server]", "[server]\nallow_http = true"))
    assert daemon.check(site.config).settings.server.allow_http


def test_localhost_is_this_machine_by_whatever_name(site: Site) -> None:
    edit(site.config, (LISTEN, 'listen = "localhost:0"'))
    daemon.check(site.config)


def test_a_host_that_is_none_is_named(site: Site) -> None:
    edit(site.config, (LISTEN, 'listen = "no-such-host.invalid:0"'))
    (fault,) = faults_of(site)
    assert fault.endswith("no-such-host.invalid:0: no such host; write an address")


def test_tls_may_listen_anywhere(site: Site) -> None:
    write_pair(site)
    with_tls(site)
    edit(site.config, ('[server.tls]\nlisten = "127.0.0.1:0"', '[server.tls]\nlisten = "0.0.0.0:0"'))
    assert daemon.check(site.config).tls is not None


# ----------------------------------------------------------------------------------------------------- certificates


async def test_a_renewed_certificate_is_taken_up_without_being_asked(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also after one that was broken, which keeps the old one in use and is reported once."""
    old = write_pair(site)
    with_tls(site)
    async with Running(site, tls_seconds=0.02) as running:
        assert await running.shown() == old
        assert await running.expiry() == old.not_valid_after_utc.timestamp()
        (site.folder / "tls.key").write_bytes(key_pem(new_key()))
        text = ""

        def said(event: str) -> bool:
            nonlocal text
            text += capfd.readouterr().err
            return event in text

        await running.until(lambda: said("the TLS certificate has changed and cannot be used, the old one stays"))
        assert f"{site.folder}/tls.pem with {site.folder}/tls.key: " in text
        assert await running.shown() == old
        new = write_pair(site, not_after=datetime.now(UTC) + timedelta(days=300))
        await running.until(lambda: said("TLS certificate renewed"))
        assert await running.shown() == new
        assert await running.expiry() == new.not_valid_after_utc.timestamp()


async def test_clients_are_asked_for_certificates_after_a_renewal_too(site: Site) -> None:
    """The chain of the issuer is trusted in the handshake, since its certificates renew themselves."""
    write_pair(site)
    with_tls(site)
    async with Running(site, tls_seconds=0.02) as running:
        transfer = running._daemon._transfer
        first = transfer.tls
        assert first is not None
        assert first.verify_mode is ssl.CERT_OPTIONAL
        assert first.cert_store_stats()["x509"] == 2
        write_pair(site)
        await running.until(lambda: transfer.tls is not first)
        assert transfer.tls is not None
        assert transfer.tls.config == first.config
        assert transfer.tls.verify_mode is ssl.CERT_OPTIONAL


async def test_without_a_tls_listener_there_is_no_expiry(site: Site) -> None:
    async with Running(site) as running:
        assert await running.expiry() is None


def test_no_certificates_are_asked_for_when_no_profile_takes_any(site: Site) -> None:
    write_pair(site)
    with_tls(site)
    profile = site.folder / "profiles" / "device.toml"
    line = next(line for line in profile.read_text().splitlines() if line.startswith("allowed_operations"))
    edit(profile, (line, 'allowed_operations = ["ir"]'))
    loaded = daemon.check(site.config)
    assert loaded.tls is not None
    assert loaded.tls.verify_mode is ssl.CERT_NONE


def test_cipher_suites_that_do_not_exist_are_named(site: Site) -> None:
    write_pair(site)
    with_tls(site, 'ciphers = "ROT13"')
    (fault,) = faults_of(site)
    assert fault.startswith(f"{site.config}: server.tls: ciphers: OpenSSL knows none of them; ")


class TestNotices:
    """`cmpd check` says what an operator should see to."""

    def test_nothing_when_all_is_well(self, site: Site) -> None:
        now = datetime.now(UTC)
        assert daemon.tls_notices(daemon.check(site.config), now) == []
        write_pair(site, not_after=now + timedelta(days=90))
        assert daemon.tls_notices(daemon.check(with_tls(site).config), now) == []

    def test_a_certificate_that_ends(self, site: Site) -> None:
        now = datetime.now(UTC)
        write_pair(site, not_after=now + timedelta(days=29))
        loaded = daemon.check(with_tls(site).config)
        (notice,) = daemon.tls_notices(loaded, now)
        assert notice.startswith(f"{site.config}: server.tls: {site.folder}/tls.pem: the certificate ends at ")
        (notice,) = daemon.tls_notices(loaded, now + timedelta(days=40))
        assert "the certificate ended at " in notice

    @pytest.mark.parametrize(
        ("url", "host", "right"),
        [
            ("https://pki.example.com", "pki.example.com", True),
            ("https://PKI.example.com:8443/x", "*.example.com", True),
            ("https://pki.example.com", "www.example.com", False),
            ("https://[::1]:1", "::1", True),
        ],
    )
    def test_a_certificate_for_another_host(self, site: Site, url: str, host: str, right: bool) -> None:
        write_pair(site, host=host, not_after=datetime.now(UTC) + timedelta(days=90))
        with_tls(site)
        edit(site.config, ('url = "http://127.0.0.1:8829"', f'url = "{url}"'))
        notices = daemon.tls_notices(daemon.check(site.config), datetime.now(UTC))
        assert notices == [] if right else "is for www.example.com, not for pki.example.com of server.url" in notices[0]


# ---------------------------------------------------------------------------------------------------------- proxies


def test_a_reload_changes_who_may_speak_for_clients(site: Site) -> None:
    with site.serve() as running:
        headers = {"Content-Type": "application/pkixcmp", "Client-Cert": "x"}
        assert running.http("POST", "/.well-known/cmp/p/device", b"x", **headers)[0] == 403
        assert running.until("refused", status=403)["level"] == "warning"
        site.append('[server.proxy]\naddresses = ["127.0.0.1"]\ncertificate = "rfc9440"')
        running.signal(signal.SIGHUP)
        running.until("reloaded")
        status, body = running.http("POST", "/.well-known/cmp/p/device", b"x", **headers)
        assert (status, body) == (400, b"Client-Cert cannot be read as rfc9440 writes it\n")
        assert running.until("refused", status=400)["level"] == "warning"


def test_proxies_are_made_of_the_settings(site: Site) -> None:
    assert daemon.proxies_of(Settings.load(site.config)) is NO_PROXIES
    site.append('[server.proxy]\naddresses = ["10.0.0.0/8"]\ncertificate = "haproxy"\nchain_header = "X-Chain"')
    proxies = daemon.proxies_of(Settings.load(site.config))
    assert proxies.lists("10.200.0.1")
    assert not proxies.lists("127.0.0.1")
    assert (proxies.form, proxies.certificate_header, proxies.chain_header) == (
        "haproxy",
        "X-SSL-Client-DER",
        "X-Chain",
    )
    assert proxies.address_header == "X-Forwarded-For"
