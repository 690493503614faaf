"""The daemon as systemd and an operator meet it: a real process, real signals, real sockets, a real configuration."""

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from cmpd import daemon
from cmpd.asn1 import BodyType
from cmpd.cli import setup
from cmpd.http_transfer import Answer, Listener, Request
from cmpd.limits import Limits
from cmpd.ports import StoreUnavailable
from cmpd.settings import Listen, Settings, SettingsError
from cmpd.store import open_store
from tests.ee import EE
from tests.http_client import WAIT, Client, Reply, post, self_signed

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "systemd" / "cmpd.service"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cmpd init` makes."""
    folder = tmp_path_factory.mktemp("init") / "cmpd"
    return setup.make(
        folder, listen=Listen("127.0.0.1", 0), admin_listen=Listen("127.0.0.1", 0), url="http://127.0.0.1:8829"
    )


@pytest.fixture
def config(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    shutil.copytree(made.parent, tmp_path / "cmpd")
    return tmp_path / "cmpd" / "cmpd.toml"


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    path.write_text(text)


@contextlib.asynccontextmanager
async def connect(address: str, **options: Any) -> AsyncIterator[Client]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), **options)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def get(address: str, path: str, method: str = "GET") -> Reply:
    async with connect(address) as client:
        return await client.ask(post(path, None, method=method, media_type=None))


async def metrics(address: str) -> dict[tuple[str, ...], float]:
    reply = await get(address, "/metrics")
    assert reply.status == 200
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


@dataclass
class Process:
    """`cmpd serve` in a process of its own, with its records."""

    process: asyncio.subprocess.Process
    records: list[dict[str, Any]] = field(default_factory=list)
    cmp: str = ""
    tls: str = ""
    admin: str = ""

    async def next(self) -> dict[str, Any]:
        assert self.process.stderr is not None
        async with asyncio.timeout(WAIT):
            line = await self.process.stderr.readline()
        if not line:
            raise EOFError([*self.records, await self.process.wait()])
        self.records.append(json.loads(line))
        return self.records[-1]

    async def until(self, event: str) -> dict[str, Any]:
        while (entry := await self.next())["event"] != event:
            pass
        return entry

    async def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        await self.until("stopped")
        async with asyncio.timeout(WAIT):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def served(config: Path, **environment: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "cmpd", "serve", "--config", str(config)),
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        running = Process(process)
        started = await running.until("started")
        running.cmp, running.tls, running.admin = started["cmp"], started["tls"], started["admin"]
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def code_for(config: Path, *, profile: str = "device", reference: str = "ref-1") -> EE:
    """An enrollment code made beside the running daemon."""
    settings = Settings.load(config)
    store = await open_store(settings.store.url, base=settings.base, key=settings.store.key())
    try:
        await store.create_code(profile, reference, b"secret", 1, None, datetime.now(UTC))
    finally:
        await store.close()
    return EE.with_code(reference, "secret")


async def enroll(
    address: str, ee: EE, *, confirm: bool = True, path: str = "/.well-known/cmp/p/device"
) -> x509.Certificate:
    async with connect(address) as client:
        draft = ee.ir(subject="CN=device-1")
        reply = await client.ask(post(path, ee.seal(draft)))
        answer = ee.read(reply.body, draft)
        assert answer.type is BodyType.ip, answer.text
        if confirm:
            draft = ee.cert_conf(answer)
            reply = await client.ask(post(path, ee.seal(draft)))
            assert ee.read(reply.body, draft).type is BodyType.pkiconf
        return answer.certificate()


async def test_a_certificate_is_enrolled_and_everything_is_seen(config: Path) -> None:
    async with served(config) as running:
        assert (await get(running.admin, "/healthz")).body == b"ok\n"
        assert (await get(running.admin, "/readyz")).body == b"ready\n"
        certificate = await enroll(running.cmp, await code_for(config))
        first, second = await running.until("exchange"), await running.until("exchange")
        assert (first["operation"], first["profile"], first["outcome"]) == ("ir", "device", "accepted")
        assert first["serial"] == f"{certificate.serial_number:x}"
        assert (second["operation"], second["outcome"]) == ("certConf", "confirmed")
        assert first["transaction_id"] == second["transaction_id"]
        assert b"secret" not in json.dumps(running.records).encode()
        assert (await get(running.cmp, "/metrics")).status == 404
        refused = await running.until("refused")
        assert (refused["status"], refused["target"]) == (404, "/metrics")
        found = await metrics(running.admin)
        assert found["cmpd_exchanges_total", "", "ir", "accepted", "device"] == 1
        assert found["cmpd_exchanges_total", "", "certConf", "confirmed", "device"] == 1
        assert found["cmpd_exchange_seconds_count", "ir", "device"] == 1
        assert found["cmpd_http_refusals_total", "404"] == 1
        assert "other" not in {name[3] for name in found if name[0] == "cmpd_exchanges_total"}
        crl = x509.load_der_x509_crl((await get(running.cmp, "/crl/local.crl")).body)
        assert crl.issuer == certificate.issuer
        assert list(crl) == []
        assert await running.stop() == 0


async def test_what_is_no_cmp_message_gets_a_cmp_answer(config: Path) -> None:
    async with served(config) as running, connect(running.cmp) as client:
        for data in (b"\x00", b"0\x80", b"GET / HTTP/1.1\r\n\r\n", bytes(1000)):
            reply = await client.ask(post("/.well-known/cmp", data))
            assert (reply.status, reply.headers["content-type"]) == (200, "application/pkixcmp")
            entry = await running.until("exchange")
            assert (entry["outcome"], entry["fail_info"]) == ("error", "badDataFormat")
        assert await running.stop(signal.SIGINT) == 0


async def test_sigterm_answers_what_is_in_flight(config: Path) -> None:
    """A request of which half is here when the signal comes is read, answered and kept; then the exit status is 0."""
    async with served(config) as running:
        ee = await code_for(config)
        draft = ee.ir(subject="CN=device-1")
        request = post("/.well-known/cmp/p/device", ee.seal(draft))
        async with connect(running.cmp) as client, connect(running.cmp) as idle, connect(running.admin) as admin:
            assert (await idle.ask(post("/.well-known/cmp", b"x"))).status == 200
            client.send(request[:200])
            await get(running.admin, "/healthz")
            running.process.send_signal(signal.SIGTERM)
            await running.until("stopping")
            assert await idle.closed() == b""
            reply = await admin.ask(post("/readyz", None, method="GET"))
            assert (reply.status, reply.body) == (503, b"stopping\n")
            with pytest.raises(ConnectionError):
                async with connect(running.cmp):
                    pass
            reply = await client.ask(request[200:])
            assert reply.headers["connection"] == "close"
            assert ee.read(reply.body, draft).type is BodyType.ip
            await running.until("stopped")
            assert await running.process.wait() == 0


async def test_sighup_puts_a_new_configuration_into_use_on_open_connections(config: Path) -> None:
    profiles = config.parent / "profiles"
    async with served(config) as running, connect(running.cmp) as client:
        assert (await client.ask(post("/.well-known/cmp/p/device", b"x"))).status == 200
        assert (await client.ask(post("/.well-known/cmp/p/mail", b"x"))).status == 404
        text = (profiles / "device.toml").read_text()
        identifier = next(line for line in text.splitlines() if line.startswith("id = "))
        (profiles / "mail.toml").write_text(text.replace(identifier, 'id = "another-unguessable-id-123456"'))
        (profiles / "device.toml").unlink()
        edit(config, ('default = "device"', 'default = "mail"\n[limits]\nbody_size = 2000'))
        loaded = (await metrics(running.admin))["cmpd_config_loaded_timestamp_seconds",]
        running.process.send_signal(signal.SIGHUP)
        assert (await running.until("reloaded"))["profiles"] == "mail"
        assert (await client.ask(post("/.well-known/cmp/p/device", b"x"))).status == 404
        assert (await client.ask(post("/cmp/another-unguessable-id-123456", b"x"))).status == 200
        await enroll(running.cmp, await code_for(config, profile="mail"), path="/.well-known/cmp")
        assert (await client.ask(post("/.well-known/cmp/p/mail", bytes(3000)))).status == 413
        found = await metrics(running.admin)
        assert found["cmpd_reloads_total", "success"] == 1
        assert found["cmpd_config_loaded_timestamp_seconds",] > loaded
        assert found["cmpd_exchanges_total", "", "ir", "accepted", "mail"] == 1
        assert await running.stop() == 0


async def test_sighup_with_a_broken_configuration_keeps_the_old_and_says_why(config: Path) -> None:
    original = config.read_text()
    profile = config.parent / "profiles" / "device.toml"
    key = config.parent / "secrets" / "store.key"

    def issuer_gone() -> None:
        edit(config, ("[issuers.local]", "[issuers.other]"))

    faults: list[tuple[Callable[[], object], str]] = [
        (lambda: config.write_text("[server"), "cmpd.toml"),
        (lambda: edit(config, ("[server]", "[server]\nlissten = 1")), "server.lissten: unknown key"),
        (lambda: edit(profile, ("id = ", "idd = ")), "device.toml"),
        (issuer_gone, "device.toml: issuer: 'local' is no section"),
        (lambda: edit(config, ('default = "device"', 'default = "nobody"')), "profiles.default: 'nobody'"),
        (lambda: edit(config, ("ca/issuing.key", "ca/nothing.key")), "issuers.local.key"),
        (lambda: key.write_text("x"), "store.key_file"),
        (config.unlink, "no such file"),
    ]
    kept, kept_profile, kept_key = original, profile.read_text(), key.read_text()
    async with served(config) as running, connect(running.cmp) as client:
        for count, (break_it, named) in enumerate(faults, 1):
            break_it()
            running.process.send_signal(signal.SIGHUP)
            entry = await running.until("reload failed, the old configuration stays")
            assert any(named in fault for fault in entry["faults"]), entry
            assert (await client.ask(post("/.well-known/cmp/p/device", b"x"))).status == 200
            assert (await metrics(running.admin))["cmpd_reloads_total", "failure"] == count
            config.write_text(kept)
            profile.write_text(kept_profile)
            key.write_text(kept_key)
        running.process.send_signal(signal.SIGHUP)
        await running.until("reloaded")
        await enroll(running.cmp, await code_for(config))
        assert await running.stop() == 0


async def test_sighup_names_what_only_a_restart_can_change(config: Path) -> None:
    async with served(config) as running:
        edit(
            config,
            ('[server]\nlisten = "127.0.0.1:0"', '[server]\nlisten = "127.0.0.1:1"'),
            ('[admin]\nlisten = "127.0.0.1:0"', '[admin]\nlisten = "127.0.0.1:2"'),
            ("sqlite:///cmpd.db", "sqlite:///other.db"),
        )
        running.process.send_signal(signal.SIGHUP)
        await running.until("reloaded")
        keys = [entry["key"] for entry in running.records if "next start only" in entry["event"]]
        assert keys == ["server.listen", "admin.listen", "store.url"]
        assert not (config.parent / "other.db").exists()
        assert (await get(running.admin, "/readyz")).status == 200
        assert await running.stop() == 0


async def test_many_sighups_at_once(config: Path) -> None:
    async with served(config) as running, connect(running.cmp) as client:
        for _ in range(50):
            running.process.send_signal(signal.SIGHUP)
        await running.until("reloaded")
        assert (await client.ask(post("/.well-known/cmp/p/device", b"x"))).status == 200
        assert await running.stop() == 0


def run_serve(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cmpd", "serve", "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("section", ["server", "admin"])
def test_a_port_in_use_is_one_line_and_exit_status_1(config: Path, section: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        edit(config, (f'[{section}]\nlisten = "127.0.0.1:0"', f'[{section}]\nlisten = "{address}"'))
        done = run_serve(config)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert f"{config}: {section}.listen: {address}: address already in use" in line


@pytest.mark.parametrize(
    ("address", "reason"),
    [("192.0.2.1:8829", "no such address on this machine")],
)
def test_an_address_that_is_not_ours(config: Path, address: str, reason: str) -> None:
    edit(config, ('[server]\nlisten = "127.0.0.1:0"', f'[server]\nallow_http = true\nlisten = "{address}"'))
    done = run_serve(config)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert f"server.listen: {address}: {reason}" in line


def test_a_broken_configuration_is_exit_status_1_with_a_line_for_each_fault(config: Path) -> None:
    edit(config, ("ca/issuing.key", "ca/nothing.key"), ('default = "device"', 'default = "nobody"'))
    (config.parent / "secrets" / "store.key").unlink()
    done = run_serve(config)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert "Traceback" not in done.stderr
    for line, named in zip(lines, ["store.key_file", "issuers.local.key", "profiles.default"], strict=True):
        assert named in line


def faults_of(config: Path) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        daemon.check(config)
    return caught.value.faults


def test_check_loads_as_serve_does(config: Path) -> None:
    loaded = daemon.check(config)
    assert set(loaded.profiles) == {"device"}
    assert set(loaded.issuers) == {"local"}
    assert loaded.tls is None


def test_check_names_a_profile_whose_issuer_is_missing(config: Path) -> None:
    edit(config.parent / "profiles" / "device.toml", ('issuer = "local"', 'issuer = "remote"'))
    [fault] = faults_of(config)
    assert fault.startswith(f"{config.parent}/profiles/device.toml: issuer: 'remote'")
    assert fault.endswith("there are: local")


def test_check_names_a_folder_without_profiles(config: Path) -> None:
    (config.parent / "profiles" / "device.toml").unlink()
    [fault] = faults_of(config)
    assert fault.startswith(f"{config}: profiles.directory: {config.parent}/profiles has no profile")


@pytest.mark.parametrize("break_it", ["missing", "garbage", "other key"])
def test_check_names_a_tls_certificate_that_cannot_be_used(config: Path, tls_files: Path, break_it: str) -> None:
    folder = config.parent
    shutil.copy(tls_files / "cert.pem", folder / "tls.pem")
    shutil.copy(tls_files / "key.pem", folder / "tls.key")
    config.write_text(
        config.read_text() + '[server.tls]\nlisten = "127.0.0.1:0"\ncertificate = "tls.pem"\nkey = "tls.key"\n'
    )
    assert daemon.check(config).tls is not None
    match break_it:
        case "missing":
            (folder / "tls.pem").unlink()
        case "garbage":
            (folder / "tls.pem").write_text("garbage")
        case _:
            subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", folder / "tls.key"], check=True)
    [fault] = faults_of(config)
    assert fault.startswith(f"{config}: server.tls: {folder}/tls.pem with {folder}/tls.key: ")


@pytest.fixture
def tls_files(tmp_path: Path) -> Path:
    folder = tmp_path / "tls"
    folder.mkdir()
    self_signed(folder, "old")
    return folder


async def test_tls_and_a_renewed_certificate_after_sighup(config: Path, tls_files: Path) -> None:
    config.write_text(
        config.read_text()
        + f'[server.tls]\nlisten = "127.0.0.1:0"\ncertificate = "{tls_files}/cert.pem"\nkey = "{tls_files}/key.pem"\n'
    )
    old = ssl.create_default_context(cafile=tls_files / "cert.pem")
    async with served(config) as running:
        async with connect(running.tls, ssl=old) as client:
            assert (await client.ask(post("/.well-known/cmp/p/device", b"x"))).status == 200
        self_signed(tls_files, "new")
        running.process.send_signal(signal.SIGHUP)
        await running.until("reloaded")
        new = ssl.create_default_context(cafile=tls_files / "cert.pem")
        async with connect(running.tls, ssl=new) as client:
            assert (await client.ask(post("/.well-known/cmp/p/device", b"x"))).status == 200
        with pytest.raises(ssl.SSLError):
            async with connect(running.tls, ssl=old):
                pass
        edit(config, ("[server.tls]", "[server.tlx]"))
        edit(config, (config.read_text()[config.read_text().index("[server.tlx]") :], ""))
        running.process.send_signal(signal.SIGHUP)
        await running.until("reloaded")
        async with connect(running.tls, ssl=new) as client:
            assert (await client.ask(post("/.well-known/cmp/p/device", b"x"))).status == 200
        assert await running.stop() == 0


class Notifications:
    """systemd's side of sd_notify(3)."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)

    async def next(self) -> str:
        async with asyncio.timeout(WAIT):
            return (await asyncio.get_running_loop().sock_recv(self.socket, 4096)).decode()

    async def until(self, *expected: str) -> None:
        """The next messages, watchdog keep-alives left out."""
        found: list[str] = []
        while len(found) < len(expected):
            message = await self.next()
            if message != "WATCHDOG=1":
                found.append(message.partition("\n")[0])
        assert found == list(expected)


async def test_systemd_is_told_of_every_step(config: Path, tmp_path: Path) -> None:
    notifications = Notifications(tmp_path / "notify")
    with notifications.socket:
        async with served(config, NOTIFY_SOCKET=notifications.path, WATCHDOG_USEC="100000") as running:
            await notifications.until("READY=1")
            for _ in range(3):
                assert await notifications.next() == "WATCHDOG=1"
            running.process.send_signal(signal.SIGHUP)
            await notifications.until("RELOADING=1", "READY=1")
            config.write_text("broken")
            running.process.send_signal(signal.SIGHUP)
            await notifications.until("RELOADING=1", "READY=1")
            running.process.send_signal(signal.SIGTERM)
            await notifications.until("STOPPING=1")
            await running.until("stopped")
            assert await running.process.wait() == 0


async def test_the_watchdog_of_another_process_is_left_alone(config: Path, tmp_path: Path) -> None:
    notifications = Notifications(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": notifications.path, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    with notifications.socket:
        async with served(config, **environment) as running:
            assert await notifications.next() == "READY=1"
            assert await running.stop() == 0
            assert await notifications.next() == "STOPPING=1"


# ------------------------------------------------------------------------------------------------ in this process


@pytest.fixture
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "aiohttp")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)


@contextlib.asynccontextmanager
async def inside(config: Path, **options: Any) -> AsyncIterator[tuple[daemon.Daemon, daemon.Addresses]]:
    """A daemon in the test's own event loop."""
    ready = asyncio.get_running_loop().create_future()
    running = daemon.Daemon(config, ready=ready.set_result, **options)
    task = asyncio.create_task(running.run())
    try:
        async with asyncio.timeout(WAIT):
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            yield running, ready.result()
    finally:
        running.stop()
        await task


@pytest.mark.usefixtures("_restore_logging")
async def test_the_sweep_ends_and_revokes_what_is_never_confirmed(
    config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """RFC 9483 §4.1.1: without a certConf in time the certificate is revoked; the CRL says so."""
    edit(config.parent / "profiles" / "device.toml", ('confirm_wait = "10m"', 'confirm_wait = "1s"'))
    async with inside(config, sweep_seconds=0.05) as (running, addresses):
        ee = await code_for(config)
        certificate = await enroll(str(addresses.cmp), ee, confirm=False)
        async with asyncio.timeout(WAIT):
            while (await metrics(str(addresses.admin)))["cmpd_expired_transactions_total",] == 0:
                await asyncio.sleep(0.05)
        crl = x509.load_der_x509_crl((await get(str(addresses.cmp), "/crl/local.crl")).body)
        assert [entry.serial_number for entry in crl] == [certificate.serial_number]
        assert running.metrics is not None
    entries = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    [expired] = [entry for entry in entries if entry["event"] == "transaction expired"]
    assert (expired["profile"], expired["serial"]) == ("device", f"{certificate.serial_number:x}")


@pytest.mark.usefixtures("_restore_logging")
async def test_not_ready_while_the_store_is_not(
    config: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async with inside(config) as (running, addresses):
        admin = str(addresses.admin)
        assert (await get(admin, "/readyz")).status == 200

        async def unavailable(*_: object) -> None:
            raise StoreUnavailable("disk full at /var/lib/cmpd")

        monkeypatch.setattr(running._store, "ready", unavailable)
        reply = await get(admin, "/readyz")
        assert (reply.status, reply.body) == (503, b"the store is not available\n")
        assert (await get(admin, "/healthz")).status == 200

        async def stuck() -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(running._store, "ready", stuck)
        monkeypatch.setattr(daemon, "READY_SECONDS", 0.05)
        reply = await get(admin, "/readyz")
        assert (reply.status, reply.body) == (503, b"the store does not answer\n")
    assert "disk full at /var/lib/cmpd" in capfd.readouterr().err


@pytest.mark.usefixtures("_restore_logging")
async def test_a_failing_sweep_is_reported_and_tried_again(
    config: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async with inside(config, sweep_seconds=0.01) as (running, _):
        failures = [StoreUnavailable("locked"), RuntimeError("a bug")]
        again = asyncio.Event()

        async def expire(_now: object, **_: object) -> tuple[()]:
            if failures:
                raise failures.pop(0)
            again.set()
            return ()

        monkeypatch.setattr(running._store, "expire", expire)
        async with asyncio.timeout(WAIT):
            await again.wait()
    entries = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [entry["reason"] for entry in entries if entry["level"] == "warning" and "reason" in entry] == ["locked"]
    assert any("a bug" in entry.get("exception", "") for entry in entries)


@pytest.mark.usefixtures("_restore_logging")
async def test_old_transactions_are_deleted_and_certificates_stay(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "FORGET_SECONDS", 0.02)
    edit(config, ('key_file = "secrets/store.key"', 'key_file = "secrets/store.key"\nretention = "1s"'))
    async with inside(config) as (running, addresses):
        certificate = await enroll(str(addresses.cmp), await code_for(config))
        issued = await running._store.certificate(certificate.serial_number)
        assert issued is not None
        async with asyncio.timeout(WAIT):
            while await running._store.transaction(issued.transaction_id) is not None:
                await asyncio.sleep(0.05)
        assert await running._store.certificate(certificate.serial_number) == issued


@pytest.mark.usefixtures("_restore_logging")
async def test_what_does_not_end_is_cut_off(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with inside(config, drain_seconds=0.1) as (running, addresses), connect(str(addresses.cmp)) as client:
        client.send(post("/.well-known/cmp/p/device", b"x" * 100)[:-1])
        while all(connection.idle for connection in running._transfer.connections):
            await asyncio.sleep(0.01)
        running.stop()
        await client.closed()
    assert "requests were cut off" in capfd.readouterr().err


@pytest.mark.usefixtures("_restore_logging")
async def test_a_record_that_cannot_be_made_does_not_cost_the_answer(
    config: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async with inside(config) as (_, addresses):

        def broken(*_: object) -> None:
            raise RuntimeError("a bug in the log")

        monkeypatch.setattr(daemon, "record", broken)
        async with connect(str(addresses.cmp)) as client:
            assert (await client.ask(post("/.well-known/cmp", b"x"))).status == 200
    assert "a bug in the log" in capfd.readouterr().err


@pytest.mark.usefixtures("_restore_logging")
async def test_the_admin_listener_answers_only_its_paths(config: Path) -> None:
    async with inside(config) as (_, addresses):
        admin = str(addresses.admin)
        for path in ("/", "/metrics/x", "/.well-known/cmp", "/crl/local.crl", "/debug"):
            reply = await get(admin, path)
            assert reply.status == 404
            assert reply.is_plain_refusal()
        assert (await get(admin, "/metrics", "POST")).headers["allow"] == "GET, HEAD"
        async with connect(admin) as client:
            assert (await client.ask(b"garbage\r\n\r\n")).is_plain_refusal()


@pytest.mark.usefixtures("_restore_logging")
async def test_a_second_daemon_on_the_same_port_leaves_the_first_alone(config: Path, tmp_path: Path) -> None:
    async with inside(config) as (_, addresses):
        edit(config, ('[server]\nlisten = "127.0.0.1:0"', f'[server]\nlisten = "{addresses.cmp}"'))
        with pytest.raises(SettingsError, match="already in use"):
            async with inside(config):
                pass
        assert (await get(str(addresses.admin), "/readyz")).status == 200


@pytest.mark.usefixtures("_restore_logging")
async def test_a_host_name_that_does_not_resolve(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unresolved(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(Listener, "listen", unresolved)
    with pytest.raises(SettingsError, match=r"server\.listen: 127\.0\.0\.1:0: no such host"):
        async with inside(config):
            pass


async def test_listeners_on_ipv6() -> None:
    async def never(_: Request) -> Answer:
        raise AssertionError

    listener = Listener(never, Limits(), lambda *_: None)
    try:
        host, port = await listener.listen("::1", 0)
        assert (host, Listen.parse(f"[{host}]:{port}").port) == ("::1", port)
    finally:
        await listener.stop(1)


# ------------------------------------------------------------------------------------------------ the unit file


def unit() -> dict[str, dict[str, list[str]]]:
    """Sections, their settings, and the values of each in order."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in UNIT.read_text().splitlines():
        if found := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(found[1], {})
        elif line and not line.startswith("#"):
            key, separator, value = line.partition("=")
            assert separator
            assert re.fullmatch(r"[A-Z][A-Za-z]+", key)
            section.setdefault(key, []).append(value)
    return sections


def test_the_unit_file_is_what_this_daemon_needs() -> None:
    service = unit()["Service"]
    assert service["Type"] == ["notify"]
    assert service["ExecStart"] == ["/usr/bin/env cmpd serve --config /etc/cmpd/cmpd.toml"]
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert float(service["TimeoutStopSec"][0].removesuffix("s")) > daemon.DRAIN_SECONDS
    assert {value.partition(":")[0] for value in service["LoadCredential"]} >= {"store.key", "passphrase"}
    assert int(service["LimitNOFILE"][0]) > Limits().connections + daemon.SPARE_FILES
    for key in ("NoNewPrivileges", "DynamicUser", "PrivateDevices", "MemoryDenyWriteExecute", "RestrictSUIDSGID"):
        assert service[key] == ["yes"]
    assert service["ProtectSystem"] == ["strict"]
    assert service["CapabilityBoundingSet"] == [""]
    assert service["StateDirectory"] == ["cmpd"]


def test_systemd_accepts_the_unit_file() -> None:
    """systemd's own check; where there is no systemd, at least every line is a section, a setting or a comment."""
    if shutil.which("systemd-analyze") is None:
        assert set(unit()) == {"Unit", "Service", "Install"}
        return
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(UNIT)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_profile_that_names_another_ca_than_its_issuers(config: Path) -> None:
    """issuer_ca is held against the issuer at start, check and reload: a certificate of another CA is no surprise."""
    file = config.parent / "profiles" / "device.toml"
    written = file.read_text()
    file.write_text(f'issuer_ca = "Elsewhere CA"\n{written}')
    (fault,) = faults_of(config)
    assert "device.toml: issuer_ca: 'Elsewhere CA' is not the CA of [issuers.local]" in fault
    (issuing,) = x509.load_pem_x509_certificates((config.parent / "ca" / "issuing.pem").read_bytes())
    (name,) = issuing.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    file.write_text(f'issuer_ca = "{name.value!s}"\n{written}')
    assert daemon.check(config).profiles["device"].issuer_ca == name.value
