"""The running daemon when its disk is full, its database locked, its configuration broken, its clients rude."""

import concurrent.futures
import contextlib
import resource
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cmpd.asn1 import BodyType, PKIStatus
from cmpd.exchange import CertificateStatus
from tests.daemon import DEVICE, Daemon, Site
from tests.ee import EE, Answer, Draft
from tests.http_client import WAIT, post

LIMITS = "[limits]\nrequest_seconds = 1.0\nidle_seconds = 1.0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("faults") / "cmpd")


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    return made.copy(tmp_path / "cmpd")


def send(daemon: Daemon, ee: EE, draft: Draft, message: bytes | None = None) -> Answer:
    """Ask, and check the answer; it is protected in any case."""
    answer = ee.read(daemon.ask(message or ee.seal(draft)), draft)
    assert answer.protected
    return answer


def enroll(daemon: Daemon, ee: EE) -> EE:
    """A whole enrollment; an end entity with the certificate."""
    draft = ee.ir(subject="CN=device-1")
    answer = send(daemon, ee, draft)
    assert send(daemon, ee, ee.cert_conf(answer)).type is BodyType.pkiconf
    return EE.with_certificate(draft.key, answer.certificate_der())


@contextlib.contextmanager
def connection(address: str) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), WAIT) as opened:
        yield opened


def received(sock: socket.socket) -> bytes:
    """All that comes until the end of the connection."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := sock.recv(65536):
            data += part
    return data


# ------------------------------------------------------------------------------------------------------ a full disk


@contextlib.contextmanager
def full_disk(daemon: Daemon) -> Iterator[None]:
    """Every write of the process to a file fails, as on a disk without room, until the block ends."""
    _, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (hard, hard))


def test_a_full_disk_is_systemunavail_and_nothing_acknowledged_is_lost(site: Site) -> None:
    """The refusal is protected, both of ir and of certConf; the same octets are served when there is room again."""
    with site.serve() as daemon:
        before = enroll(daemon, site.code("ref-0"))
        ee = site.code("ref-1")
        first = ee.ir(subject="CN=device-1")
        message = ee.seal(first)
        with full_disk(daemon):
            for _ in range(3):
                refused = send(daemon, ee, first, message)
                assert (refused.type, refused.fail_info) == (BodyType.error, "systemUnavail")
                assert refused.text == "the service cannot store its state; try again later"
                record = daemon.exchange(operation="ir", fail_info="systemUnavail")
                assert f"{site.folder}/cmpd.db" in record["private"]
            assert daemon.admin_get("/healthz") == (200, b"ok\n")
            assert daemon.admin_get("/readyz") == (503, b"the store is not available\n")
        assert daemon.admin_get("/readyz")[0] == 200
        assert site.used("ref-1") == 0
        assert len(site.certificates()) == 1
        answer = send(daemon, ee, first, message)
        certificate = answer.certificate()
        confirmation = ee.cert_conf(answer)
        sealed = ee.seal(confirmation)
        with full_disk(daemon):
            assert send(daemon, ee, confirmation, sealed).fail_info == "systemUnavail"
            assert send(daemon, ee, first, message).certificate() == certificate  # known, so nothing is to be written
        assert site.status(certificate) is CertificateStatus.unconfirmed
        assert send(daemon, ee, confirmation, sealed).type is BodyType.pkiconf
        kur = before.kur(subject="CN=device-1")
        with full_disk(daemon):
            assert send(daemon, before, kur).fail_info == "systemUnavail"
        renewed = send(daemon, before, kur)
        assert send(daemon, before, before.cert_conf(renewed)).type is BodyType.pkiconf
        daemon.kill()
    with site.serve() as daemon:
        assert send(daemon, ee, first, message).certificate() == certificate
        assert {one.status for one in site.certificates()} == {CertificateStatus.valid}
        assert len(site.certificates()) == 3
        assert site.used("ref-1") == 1
        daemon.stop()


# ------------------------------------------------------------------------------------------- a database that is locked


@contextlib.contextmanager
def locked(site: Site) -> Iterator[None]:
    """Hold the write lock, as a backup or an administrator's shell may."""
    other = sqlite3.connect(site.folder / "cmpd.db", isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        if other.in_transaction:
            other.execute("ROLLBACK")
        other.close()


def test_a_locked_database_is_systemunavail_after_a_while_and_all_else_goes_on(site: Site) -> None:
    """Meanwhile health, repeated answers and refusals are as quick as ever; the same octets are served afterwards."""
    with site.serve() as daemon, concurrent.futures.ThreadPoolExecutor() as pool:
        old, ee = site.code("ref-0"), site.code("ref-1")
        known = old.ir(subject="CN=device-1")
        known_message = old.seal(known)
        known_answer = daemon.ask(known_message)
        first = ee.ir(subject="CN=device-1")
        message = ee.seal(first)
        with locked(site):
            waiting = pool.submit(daemon.ask, message)
            assert daemon.admin_get("/healthz") == (200, b"ok\n")
            assert daemon.ask(known_message) == known_answer
            stranger = EE.with_code("nobody", "wrong")
            assert daemon.ask(stranger.seal(stranger.ir(subject="CN=x")))
            daemon.exchange(fail_info="badMessageCheck")
            assert not waiting.done()
            refused = ee.read(waiting.result(WAIT), first)
            assert (refused.fail_info, refused.protected) == ("systemUnavail", True)
            record = daemon.exchange(operation="ir", fail_info="systemUnavail")
            assert "another process has held the write lock for too long" in record["private"]
        assert site.used("ref-1") == 0
        assert send(daemon, ee, first, message).status is PKIStatus.accepted
        assert site.used("ref-1") == 1


def test_a_short_lock_is_waited_out_and_a_stop_answers_what_waits_for_it(site: Site) -> None:
    """SIGTERM while an ir waits for the database: it is answered and kept, then the exit status is 0."""
    with site.serve() as daemon, connection(daemon.cmp) as client:
        ee = site.code("ref-1")
        client.sendall(post(DEVICE, b"x"))
        assert b"200 OK" in client.recv(65536)
        draft = ee.ir(subject="CN=device-1")
        with locked(site):
            client.sendall(post(DEVICE, ee.seal(draft)))
            for _ in range(3):
                assert daemon.admin_get("/healthz")[0] == 200
            daemon.signal(signal.SIGTERM)
            daemon.until("stopping")
        head, _, body = received(client).partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        certificate = ee.read(body, draft).certificate()
        daemon.until("stopped")
        assert daemon.wait() == 0
    assert site.status(certificate) is CertificateStatus.unconfirmed
    assert site.used("ref-1") == 1


# ------------------------------------------------------------------------------------------------------- configuration


def test_a_broken_profile_at_reload_keeps_the_old_and_says_why(site: Site) -> None:
    """The old profile goes on deciding, until the file is right; then the new one decides."""
    profile = site.folder / "profiles" / "device.toml"
    right = profile.read_text()
    with site.serve() as daemon:
        ee = site.code("ref-1", uses=None)
        enroll(daemon, ee)
        for before, after, key in (
            ('allowed_operations = ["ir",', 'allowed_operations = ["irr",', "enrollment.allowed_operations"),
            ('default = "365d"', 'default = "a year"', "validity.default"),
            ("[subject]", "[subject", "device.toml"),
        ):
            assert before in right
            profile.write_text(right.replace(before, after, 1))
            daemon.signal(signal.SIGHUP)
            (fault,) = daemon.until("reload failed, the old configuration stays", level="error")["faults"]
            assert str(profile) in fault
            assert key in fault
            enroll(daemon, ee)
        profile.write_text(right.replace('["ir", "cr", "p10cr", "kur"]', '["p10cr"]', 1))
        daemon.signal(signal.SIGHUP)
        daemon.until("reloaded")
        assert send(daemon, ee, ee.ir(subject="CN=device-1")).fail_info == "notAuthorized"
        daemon.stop()


# -------------------------------------------------------------------------------------------------------- rude clients


def test_a_body_of_100_megabytes_is_refused_and_not_kept(site: Site) -> None:
    """Announced, or in chunks without an announcement: 413, and the process has not grown by it."""
    with site.serve() as daemon:
        ee = site.code("ref-1", uses=None)
        enroll(daemon, ee)
        process = psutil.Process(daemon.process.pid)
        before = process.memory_info().rss
        megabyte = bytes(1_000_000)
        chunk = b"%x\r\n%b\r\n" % (len(megabyte), megabyte)
        for field, part in (("Content-Length: 100000000", megabyte), ("Transfer-Encoding: chunked", chunk)):
            with connection(daemon.cmp) as client:
                client.sendall(post(DEVICE, None, field))
                with contextlib.suppress(ConnectionError):
                    for _ in range(100):
                        client.sendall(part)
                assert received(client).startswith(b"HTTP/1.1 413 ")
            daemon.until("refused", status=413)
        enroll(daemon, ee)
        assert process.memory_info().rss - before < 10_000_000


def test_slow_and_silent_clients_do_not_keep_others_from_being_served(site: Site) -> None:
    """200 that say nothing, 50 that send an octet now and then; all are let go in the end, the slow ones with 408."""
    site.append(LIMITS)
    with site.serve() as daemon, contextlib.ExitStack() as stack:
        ee = site.code("ref-1", uses=None)
        silent = [stack.enter_context(connection(daemon.cmp)) for _ in range(200)]
        slow = [stack.enter_context(connection(daemon.cmp)) for _ in range(50)]
        request = post(DEVICE, ee.seal(ee.ir(subject="CN=device-1")))
        for client in slow:
            client.sendall(request[: len(request) // 2])
        for at in range(10):
            for client in slow:
                client.sendall(request[len(request) // 2 + at :][:1])
            enroll(daemon, ee)
        for client in slow:
            assert received(client).startswith(b"HTTP/1.1 408 ")
        enroll(daemon, ee)
        for client in silent:
            assert received(client) == b""
        daemon.stop()
    assert len(site.certificates()) == 11


def test_connections_beyond_the_limit_are_told_so_and_the_others_served(site: Site) -> None:
    site.append("[limits]\nconnections = 20")
    with site.serve() as daemon, contextlib.ExitStack() as stack:
        ee = site.code("ref-1")
        mine = stack.enter_context(connection(daemon.cmp))
        mine.sendall(post(DEVICE, b"x"))
        assert b"200 OK" in mine.recv(65536)
        clients = [stack.enter_context(connection(daemon.cmp)) for _ in range(30)]
        for client in clients[19:]:
            assert received(client).startswith(b"HTTP/1.1 503 ")
        draft = ee.ir(subject="CN=device-1")
        mine.sendall(post(DEVICE, ee.seal(draft), "Connection: close"))
        assert ee.read(received(mine).partition(b"\r\n\r\n")[2], draft).status is PKIStatus.accepted
        for client in clients:
            client.close()
        daemon.stop()
