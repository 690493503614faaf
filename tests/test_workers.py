"""`cmpd serve --workers N`: several real processes on the same addresses; watched over, killed, reloaded, stopped."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cmpd.admin import COMMAND_HEADER, COMMAND_HOST
from cmpd.asn1 import BodyType
from cmpd.settings import Settings
from cmpd.workers import supervisor
from cmpd.workers.totals import Totals, families_of
from tests.daemon import ROOT, Daemon, FreePort, Site
from tests.ee import EE
from tests.http_client import WAIT
from tests.test_daemon import Notifications
from tests.test_tls_daemon import with_tls, write_pair

pytestmark = pytest.mark.long

COMMAND: dict[str, Any] = {COMMAND_HEADER: "1", "Host": COMMAND_HOST}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("workers") / "cmpd")


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    return made.copy(tmp_path / "cmpd")


@contextlib.contextmanager
def serving(site: Site, workers: int = 2) -> Iterator[Daemon]:
    with site.serve(None, "--workers", str(workers)) as daemon:
        yield daemon


def enroll(daemon: Daemon, ee: EE, number: int = 0) -> None:
    """ir and certConf, each over a connection of its own: the kernel chooses who answers."""
    draft = ee.ir(subject=f"CN=device-{number}")
    answer = ee.read(daemon.ask(ee.seal(draft)), draft)
    assert answer.type is BodyType.ip, answer.text
    confirmation = ee.cert_conf(answer)
    assert ee.read(daemon.ask(ee.seal(confirmation)), confirmation).type is BodyType.pkiconf


def workers_of(daemon: Daemon) -> dict[str, psutil.Process]:
    """The workers that run, by number."""
    found = {}
    for child in psutil.Process(daemon.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            number = re.search(r'"number": (\d+)', " ".join(child.cmdline()))
            assert number is not None
            found[number[1]] = child
    return found


def metrics(daemon: Daemon) -> dict[str, float]:
    """What /metrics says, by sample as it is written."""
    status, body = daemon.admin_get("/metrics")
    assert status == 200
    pairs = (line.rpartition(" ") for line in body.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def answered(found: dict[str, float]) -> float:
    """How many messages have been answered."""
    return sum(value for name, value in found.items() if name.startswith("cmpd_exchanges_total"))


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until something holds."""
    deadline = time.monotonic() + WAIT
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def who_answered(daemon: Daemon) -> list[int]:
    """The workers of the exchanges so far."""
    return [record["worker"] for record in daemon.records if record["event"] == "exchange"]


def test_all_workers_serve_and_are_seen_as_one(site: Site) -> None:
    ee = site.code("ref", uses=None)
    with serving(site) as daemon:
        number = 0
        while len(set(who_answered(daemon))) < 2:
            assert number < 100
            enroll(daemon, ee, number)
            number += 1
        found = metrics(daemon)
        assert answered(found) == 2 * number
        assert found['cmpd_exchange_seconds_count{operation="ir",profile="device"}'] == number
        assert found["cmpd_workers"] == 2
        assert {f'process_cpu_seconds_total{{worker="{name}"}}' for name in ("1", "2", "supervisor")} <= set(found)
        assert daemon.admin_get("/readyz") == (200, b"ready\n")
        assert daemon.admin_get("/healthz") == (200, b"ok\n")
        assert daemon.http("POST", "/reload", address=daemon.admin)[0] == 403
        workers = list(workers_of(daemon).values())
        assert len(workers) == 2
        daemon.stop()
        assert not [one for one in workers if one.is_running()]
    assert site.used("ref") == number


def test_a_code_with_one_use_is_used_once(site: Site) -> None:
    ee = site.code("ref")
    with serving(site) as daemon, ThreadPoolExecutor(16) as pool:
        drafts = [ee.ir(subject=f"CN=device-{number}") for number in range(16)]
        answers = list(pool.map(lambda draft: ee.read(daemon.ask(ee.seal(draft)), draft), drafts))
        assert [answer.fail_info for answer in answers].count(None) == 1
    assert site.used("ref") == 1


def test_a_worker_that_is_killed_is_replaced_and_no_counter_goes_back(site: Site) -> None:
    ee = site.code("ref", uses=None)
    with serving(site) as daemon:
        for number in range(10):
            enroll(daemon, ee, number)
        before = metrics(daemon)
        assert answered(before) == 20
        killed = workers_of(daemon)["2"]
        killed.kill()
        record = daemon.until("worker ended, it is replaced", worker=2)
        assert record["how"] == "was ended by signal 9"
        enroll(daemon, ee)  # there is one left
        after = metrics(daemon)
        counters = [name for name in before if "_total" in name or "_bucket" in name or "_count" in name]
        assert [name for name in counters if "process_" not in name and after[name] < before[name]] == []
        assert answered(after) == 22
        assert after["cmpd_worker_ends_total"] == 1
        daemon.until("worker started", worker=2)
        wait_for(lambda: metrics(daemon)["cmpd_workers"] == 2)
        assert workers_of(daemon)["2"].pid != killed.pid
        assert answered(metrics(daemon)) == 22
        daemon.stop()


def test_the_last_worker_that_can_not_be_replaced_ends_the_service(site: Site) -> None:
    """As long as another one serves, the attempts go on."""
    with serving(site) as daemon:
        profile = site.folder / "profiles" / "device.toml"
        profile.write_text(profile.read_text().replace("issuer =", "isuer =", 1))
        workers_of(daemon)["1"].kill()
        daemon.until("worker ended, it is replaced", how="was ended by signal 9")
        failed = daemon.until("worker ended, it is replaced", how="ended with status 0")
        assert any("isuer" in fault for fault in failed["faults"])
        assert failed["seconds"] > 0.5
        assert daemon.admin_get("/readyz")[0] == 200
        workers_of(daemon)["2"].kill()
        assert daemon.wait() == 1
        wait_for(lambda: any("isuer" in record["event"] for record in daemon.records))


def serve(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cmpd", "serve", "--config", str(site.config), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * WAIT)


@pytest.mark.parametrize("kind", ["profile", "store", "dies"])
def test_what_keeps_the_workers_from_starting_is_said_once(
    site: Site, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    match kind:
        case "profile":
            profile = site.folder / "profiles" / "device.toml"
            profile.write_text(profile.read_text().replace("issuer =", "isuer =", 1))
            expected = "isuer"
        case "store":
            (site.folder / "cmpd.db").write_bytes(b"#!/bin/sh\necho not a database\n" * 500)
            expected = "not an SQLite database"
        case _:
            (site.folder / "sitecustomize.py").write_text(
                "import os, sys\nif 'cmpd.workers' in sys.orig_argv: os.kill(os.getpid(), 9)\n"
            )
            monkeypatch.setenv("PYTHONPATH", str(site.folder))
            expected = "worker 1 was ended by signal 9 before it served"
    done = serve(site, "--workers", "2")
    assert done.returncode == 1
    assert done.stderr.count(expected) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_of_another_service_is_not_shared(site: Site) -> None:
    port = FreePort()
    try:
        site = Site.make(site.folder.parent / "other", port.listen)
        with serving(site):
            done = serve(site, "--workers", "2")
            assert done.returncode == 1
            assert f"server.listen: {port.listen}: address already in use" in done.stderr
    finally:
        port.close()


def test_a_reload_reaches_every_worker_and_says_what_is_wrong_once(site: Site) -> None:
    site.config.write_text(site.config.read_text().replace("[server]\n", "[server]\nworkers = 3\n", 1))
    with site.serve() as daemon:
        assert len(workers_of(daemon)) == 3
        site.profile("mail")
        status, body = daemon.http("POST", "/reload", address=daemon.admin, **COMMAND)
        assert status == 200, body
        assert b'"profiles": ["device", "mail"]' in body
        reloaded = {record["worker"] for record in daemon.records if record["event"] == "reloaded"}
        assert reloaded == {1, 2, 3}
        for _ in range(20):  # whichever worker is asked
            assert daemon.http("POST", "/.well-known/cmp/p/mail", b"x")[0] == 415
        for worker in workers_of(daemon).values():
            worker.send_signal(signal.SIGHUP)  # as `killall -HUP` does: theirs is the supervisor's
        site.config.write_text(site.config.read_text().replace("workers = 3", "workers = 2", 1))
        status, body = daemon.http("POST", "/reload", address=daemon.admin, **COMMAND)
        assert status == 200
        assert b'"at_next_start": ["server.workers"]' in body
        assert len(workers_of(daemon)) == 3
        (site.folder / "profiles" / "mail.toml").write_text("broken")
        status, body = daemon.http("POST", "/reload", address=daemon.admin, **COMMAND)
        assert status == 409
        assert body.count(b"mail.toml") == 1
        daemon.signal(signal.SIGHUP)
        daemon.until("reload failed, the old configuration stays")
        daemon.until("reload failed, the old configuration stays")
        for _ in range(20):
            assert daemon.http("POST", "/.well-known/cmp/p/mail", b"x")[0] == 415
        wait_for(lambda: metrics(daemon)['cmpd_reloads_total{result="failure"}'] == 2)
        assert metrics(daemon)['cmpd_reloads_total{result="success"}'] == 2
        failed = [record for record in daemon.records if record["event"].startswith("reload failed")]
        assert len(failed) == 2
        daemon.stop()


def test_tls_is_served_by_all_on_one_port(site: Site) -> None:
    write_pair(with_tls(site))
    with serving(site) as daemon:
        assert daemon.tls
        host, _, port = daemon.tls.rpartition(":")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        answered = set()
        for _ in range(60):
            with (
                socket.create_connection((host, int(port)), WAIT) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as client,
            ):
                client.sendall(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(1 << 16).startswith(b"HTTP/1.1 404")
            answered = {record["worker"] for record in daemon.records if record["event"] == "refused"}
            if len(answered) == 2:
                break
        assert answered == {1, 2}
        daemon.stop()


def test_a_stop_lets_all_workers_finish(site: Site) -> None:
    ee = site.code("ref", uses=None)
    with serving(site) as daemon:
        host, _, port = daemon.cmp.rpartition(":")
        message = ee.seal(ee.ir(subject="CN=device-1"))
        head = (
            f"POST /.well-known/cmp/p/device HTTP/1.1\r\nHost: {daemon.cmp}\r\nContent-Type: application/pkixcmp\r\n"
            f"Content-Length: {len(message)}\r\n\r\n"
        )
        with contextlib.ExitStack() as stack:
            halves = [stack.enter_context(socket.create_connection((host, int(port)), WAIT)) for _ in range(8)]
            for one in halves:
                one.sendall(head.encode())
            time.sleep(0.3)  # until they have been accepted
            daemon.signal(signal.SIGTERM)
            daemon.until("stopping")
            for one in halves:
                one.sendall(message)
            answers = [one.recv(1 << 16) for one in halves]
        assert [answer.split(b"\r\n", 1)[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * 8
        daemon.until("stopped")
        assert daemon.wait() == 0


def test_workers_end_when_nobody_watches_over_them_any_more(site: Site) -> None:
    with serving(site) as daemon:
        workers = list(workers_of(daemon).values())
        daemon.kill()
        gone, alive = psutil.wait_procs(workers, WAIT)
        assert (len(gone), alive) == (2, [])


def test_refusals_of_all_workers_are_merged(site: Site) -> None:
    with serving(site) as daemon:
        stranger = EE.with_code("nobody", "wrong-wrong-wrong")
        for number in range(40):
            draft = stranger.ir(subject=f"CN=device-{number}")
            stranger.read(daemon.ask(stranger.seal(draft)), draft)
        assert len(set(who_answered(daemon))) == 2
        status, body = daemon.http("GET", "/refusals?limit=30", address=daemon.admin, **COMMAND)
        assert status == 200
        assert body.count(b'"fail_info"') == 30
        status, body = daemon.http("GET", "/refusals", address=daemon.admin, **COMMAND)
        assert body.count(b'"fail_info"') == 40


def test_systemd_hears_of_all_or_nothing(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notifications = Notifications(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", notifications.path)
    monkeypatch.setenv("WATCHDOG_USEC", "100000")

    async def hear(daemon: Daemon) -> None:
        await notifications.until("READY=1")
        assert {record["worker"] for record in daemon.records if record["event"] == "worker started"} == {1, 2}
        assert await notifications.next() == "WATCHDOG=1"
        daemon.signal(signal.SIGHUP)
        await notifications.until("RELOADING=1", "READY=1")
        daemon.signal(signal.SIGTERM)
        await notifications.until("STOPPING=1")

    with notifications.socket, serving(site) as daemon:
        asyncio.run(hear(daemon))
        daemon.until("stopped")
        assert daemon.wait() == 0


async def test_a_worker_that_hangs_is_killed_and_replaced(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "PING_SECONDS", 0.2)
    monkeypatch.setattr(supervisor, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(supervisor, "HUNG_SECONDS", 1.0)
    ready = asyncio.get_running_loop().create_future()
    watching = supervisor.Supervisor(site.config, 2, settings=Settings.load(site.config), ready=ready.set_result)
    task = asyncio.create_task(watching.run())
    try:
        async with asyncio.timeout(2 * WAIT):
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
            first = watching._workers[0].process
            assert first is not None
            os.kill(first.pid, signal.SIGSTOP)
            assert await first.wait() == -signal.SIGKILL
            assert await watching.unready() is None
            while watching._workers[0].process is first or not watching._workers[0].serving.is_set():
                await asyncio.sleep(0.05)
    finally:
        watching._stop.set()
        await task
    assert '"event": "worker does not answer"' in capfd.readouterr().err


class TestTotals:
    @staticmethod
    def counted(total: int) -> CollectorRegistry:
        registry = CollectorRegistry()
        Counter("things", "Things.", ["kind"], registry=registry).labels("good").inc(total)
        Histogram("seconds", "Seconds.", buckets=(1, 2), registry=registry).observe(total)
        Gauge("loaded_timestamp_seconds", "When.", registry=registry).set(total)
        Gauge("held", "Held.", registry=registry).set(total)
        Gauge("process_threads", "Threads.", registry=registry).set(total)
        return registry

    @staticmethod
    def written(totals: Totals) -> dict[str, float]:
        registry = CollectorRegistry()
        registry.register(totals)
        lines = generate_latest(registry).decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def test_counters_are_summed_over_the_dead_too(self) -> None:
        totals = Totals()
        totals.heard("1", families_of(self.counted(1)))
        totals.heard("2", families_of(self.counted(2)))
        found = self.written(totals)
        assert found['things_total{kind="good"}'] == 3
        assert found['seconds_bucket{le="1.0"}'] == 1
        assert (found["seconds_count"], found["seconds_sum"]) == (2, 3)
        assert (found["loaded_timestamp_seconds"], found["held"]) == (1, 2)
        assert (found['process_threads{worker="1"}'], found['process_threads{worker="2"}']) == (1, 2)
        totals.ended("2")
        totals.ended("2")
        found = self.written(totals)
        assert (found['things_total{kind="good"}'], found["held"]) == (3, 1)
        assert 'process_threads{worker="2"}' not in found
        totals.heard("2", families_of(self.counted(4)))
        assert self.written(totals)['things_total{kind="good"}'] == 7

    def test_what_the_supervisor_counts_itself_is_left_out(self) -> None:
        totals = Totals(without=["things"])
        totals.heard("1", families_of(self.counted(1)))
        assert 'things_total{kind="good"}' not in self.written(totals)
