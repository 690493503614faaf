"""The process that watches over the workers: starts, replaces, asks and stops them; see the package."""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sdnotify
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from structlog.typing import FilteringBoundLogger

from cmpd.admin import Outcome, Reloads, administer
from cmpd.daemon import DRAIN_SECONDS, Addresses, listen_fault
from cmpd.http_transfer import Listener
from cmpd.observe import ServiceMetrics, set_up_logging
from cmpd.ports import StoreUnavailable
from cmpd.settings import Listen, Settings, SettingsError
from cmpd.workers.link import Link, LinkLost
from cmpd.workers.totals import SUPERVISOR, Totals, families_of, of_process
from cmpd.workers.worker import Assignment

PING_SECONDS = 5.0
"""How often each worker is asked what it has counted; what one that is killed counts after that is lost."""
HUNG_SECONDS = 30.0
"""A worker that has not answered for so long is killed, and replaced."""
ANSWER_SECONDS = 3.0
"""How long a worker is waited for when somebody asks for metrics or refusals."""
READY_SECONDS = 7.0
"""How long it is when somebody asks whether it is ready: it asks the store."""
RELOAD_SECONDS = 110.0
"""How long a reload may take."""
START_SECONDS = 60.0
"""How long a worker may take to serve."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Before a worker that ended is replaced, in seconds; twice as long each time it ends soon after its start."""
STEADY_SECONDS = 60.0
"""A worker that has served so long did not fail because of its start."""
STOP_SECONDS = DRAIN_SECONDS + 5.0
"""How long the workers have to stop."""


@dataclass(eq=False, slots=True)
class _Worker:
    """One of the workers, and whoever takes its place when it has ended."""

    number: int
    process: asyncio.subprocess.Process | None = None
    link: Link | None = None
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    answered: float = 0.0
    """When it last said anything, monotonic."""
    faults: list[str] = field(default_factory=list)
    """Why it could not start."""
    store_fault: bool = False
    failures: int = 0
    """How often in a row it ended soon after its start."""

    @property
    def name(self) -> str:
        return str(self.number)


class Supervisor:
    """Serves a configuration file by so many workers."""

    def __init__(
        self, path: Path, workers: int, *, settings: Settings, ready: Callable[[Addresses], None] | None = None
    ) -> None:
        self._path = path
        self._settings = settings
        self._ready = ready
        self._workers = [_Worker(number) for number in range(1, workers + 1)]
        self._log: FilteringBoundLogger
        self._stop = asyncio.Event()
        self._systemd = sdnotify.SystemdNotifier() if "NOTIFY_SOCKET" in os.environ else None
        self._registry = CollectorRegistry()
        self._metrics = ServiceMetrics(self._registry)
        self._totals = Totals(without=["cmpd_reloads"])
        self._registry.register(self._totals)
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        self._profiles: list[str] = []
        self._addresses: Addresses
        self.reloads = Reloads(self._reload)

    async def run(self) -> None:
        """Start, watch until SIGTERM or SIGINT, stop. Raises SettingsError or StoreUnavailable as the workers do."""
        settings = self._settings
        self._log = set_up_logging(settings.log.format, settings.log.level)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reloads.begin)
        admin = Listener(functools.partial(administer, self), settings.limits, lambda *_: None)
        tasks: list[asyncio.Task[None]] = []
        with self._reserve() as (cmp, tls):
            try:
                at = settings.admin.listen
                try:
                    self._addresses = Addresses(cmp, tls, Listen(*await admin.listen(at.host, at.port)))
                except OSError as error:
                    raise listen_fault(settings.path, "admin.listen", at, error) from None
                # the first alone: it makes or migrates the database, and what is wrong is said once
                for some in (self._workers[:1], self._workers[1:]):
                    keepers = [loop.create_task(self._keep(one)) for one in some]
                    tasks += keepers
                    await self._until_served(some, keepers)
                if not self._stop.is_set():
                    keeping = list(tasks)
                    tasks += [
                        loop.create_task(job) for job in (self.reloads.run(), self._ask_around(), self._watchdog())
                    ]
                    self._say_started()
                    await self._until_over(keeping)
                self._notify("STOPPING=1")
                self._log.info("stopping")
            finally:
                self._stop.set()
                await self._stop_workers()
                for task in tasks:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                await admin.stop(1.0)
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
        self._log.info("stopped")

    # ------------------------------------------------------------------------------------------ start and stop

    @contextlib.contextmanager
    def _reserve(self) -> Iterator[tuple[Listen, Listen | None]]:
        """Find out the ports, and keep them while the service runs: workers come and go."""
        server = self._settings.server
        with contextlib.ExitStack() as held:

            def reserve(key: str, at: Listen) -> Listen:
                try:
                    return _reserve(held, at)
                except OSError as error:
                    raise listen_fault(self._settings.path, key, at, error) from None

            yield (
                reserve("server.listen", server.listen),
                None if server.tls is None else reserve("server.tls.listen", server.tls.listen),
            )

    async def _until_served(self, workers: list[_Worker], keepers: list[asyncio.Task[None]]) -> None:
        """Wait until all of them serve, one of them cannot, or it is time to stop. Raises what it raised."""
        stop = asyncio.ensure_future(self._stop.wait())
        serving = asyncio.gather(*(one.serving.wait() for one in workers))
        try:
            waiting: set[asyncio.Future[Any]] = {stop, serving, *keepers}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=START_SECONDS)
            for task in keepers:
                if task.done():
                    task.result()
            if not serving.done() and not stop.done():
                raise SettingsError(
                    [f"{self._path}: the workers do not serve after {START_SECONDS:.0f} s; the log says why"]
                )
        finally:
            stop.cancel()
            serving.cancel()
            await asyncio.gather(stop, serving, return_exceptions=True)

    def _say_started(self) -> None:
        addresses = self._addresses
        self._log.info(
            "started",
            cmp=str(addresses.cmp),
            tls=str(addresses.tls or ""),
            admin=str(addresses.admin),
            workers=len(self._workers),
        )
        self._notify("READY=1")
        if self._ready is not None:
            self._ready(addresses)

    async def _until_over(self, keepers: list[asyncio.Task[None]]) -> None:
        """Wait until it is time to stop, or there is no going on."""
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({stop, *keepers}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()

    async def _stop_workers(self) -> None:
        """Have all of them stop, and end those that do not."""
        running = [one for one in self._workers if one.process is not None and one.process.returncode is None]
        for one in running:
            if one.link is not None:
                with contextlib.suppress(LinkLost, TimeoutError):
                    await one.link.ask("stop", ANSWER_SECONDS)
        waiting = [asyncio.ensure_future(one.process.wait()) for one in running if one.process is not None]
        if waiting:
            await asyncio.wait(waiting, timeout=STOP_SECONDS)
        for one in running:
            if one.process is not None and one.process.returncode is None:
                self._log.warning("worker did not stop", worker=one.number)
                one.process.kill()
        await asyncio.gather(*waiting)

    # ------------------------------------------------------------------------------------------ one worker

    async def _keep(self, one: _Worker) -> None:
        """Have a worker of this number serve, one after another. Raises when none can, and no other one serves."""
        while not self._stop.is_set():
            began = time.monotonic()
            status = await self._one(one)
            served = one.serving.is_set()
            one.serving.clear()
            self._totals.ended(one.name)
            self._metrics.workers(self._serving)
            if self._stop.is_set():
                return
            if not served and not self._serving:
                if one.store_fault:
                    raise StoreUnavailable("\n".join(one.faults))
                raise SettingsError(
                    one.faults
                    or [f"{self._path}: worker {one.number} {_ending(status)} before it served; the log says why"]
                )
            self._metrics.ended()
            one.failures = 0 if served and time.monotonic() - began > STEADY_SECONDS else one.failures + 1
            pause = 0.0 if one.failures == 0 else min(FIRST_PAUSE * 2 ** (one.failures - 1), LONGEST_PAUSE)
            self._log.error(
                "worker ended, it is replaced",
                worker=one.number,
                how=_ending(status),
                faults=one.faults,
                seconds=pause,
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stop.wait()

    async def _one(self, one: _Worker) -> int:
        """Start a worker, and wait for its end; its exit status."""
        one.faults = []
        one.store_fault = False
        ours, theirs = socket.socketpair()
        with theirs:
            assignment = Assignment(
                config=str(self._path.absolute()),
                number=one.number,
                socket=theirs.fileno(),
                cmp=str(self._addresses.cmp),
                tls=None if self._addresses.tls is None else str(self._addresses.tls),
            )
            environment = {
                name: value
                for name, value in os.environ.items()
                if name not in {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}  # systemd is answered from here
            }
            one.link = await Link.open(ours, told=functools.partial(self._told, one))
            hearing = asyncio.ensure_future(one.link.run())
            one.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "cmpd.workers", assignment.text()),
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal is for the supervisor
            )
        one.answered = time.monotonic()
        status = await one.process.wait()
        await hearing  # what it said last
        one.link = None
        return status

    def _told(self, one: _Worker, what: str, more: dict[str, Any]) -> None:
        one.answered = time.monotonic()
        match what:
            case "serving":
                one.serving.set()
                self._metrics.workers(self._serving)
            case "fault":
                one.faults = [str(fault) for fault in more["faults"]]
                one.store_fault = more["kind"] == "store"
            case "ended":
                self._totals.heard(one.name, more["metrics"])

    @property
    def _serving(self) -> int:
        return sum(one.serving.is_set() for one in self._workers)

    # ------------------------------------------------------------------------------------------ all workers

    async def _ask(self, kind: str, seconds: float) -> dict[str, Any]:
        """Ask all that serve; the answers of those that have answered, by worker."""

        async def ask(one: _Worker) -> tuple[str, Any] | None:
            if one.link is None:
                return None
            try:
                answer = await one.link.ask(kind, seconds)
            except (LinkLost, TimeoutError):
                return None
            one.answered = time.monotonic()
            return one.name, answer

        found = await asyncio.gather(*(ask(one) for one in self._workers if one.serving.is_set()))
        return dict(one for one in found if one is not None)

    async def _ask_around(self) -> None:
        """Hear what the workers count; end those that do not answer any more."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            await self._hear_metrics()
            for one in self._workers:
                late = time.monotonic() - one.answered
                if one.process is None or one.process.returncode is not None or late < HUNG_SECONDS:
                    continue
                if one.serving.is_set() or late > START_SECONDS:
                    self._log.error("worker does not answer", worker=one.number, seconds=round(late))
                    one.process.kill()

    async def _hear_metrics(self) -> None:
        for name, families in (await self._ask("metrics", ANSWER_SECONDS)).items():
            self._totals.heard(name, families)

    async def _watchdog(self) -> None:
        """Tell systemd that this event loop turns and a worker answers (WatchdogSec=)."""
        interval = os.environ.get("WATCHDOG_USEC", "")
        if not interval.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return
        while True:
            if any(one.serving.is_set() and time.monotonic() - one.answered < HUNG_SECONDS for one in self._workers):
                self._notify("WATCHDOG=1")
            await asyncio.sleep(int(interval) / 2_000_000)

    def _notify(self, state: str) -> None:
        if self._systemd is not None:
            self._systemd.notify(state)

    async def _reload(self) -> Outcome:
        """Have all workers load anew; one of them first, so that what is wrong is said once, and stops all of them."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        outcome = await self._reload_workers()
        if not outcome.faults:
            with contextlib.suppress(SettingsError):  # it was read a moment ago
                settings = Settings.load(self._path)
                self._log = set_up_logging(settings.log.format, settings.log.level)
        self._metrics.reload(success=not outcome.faults)
        self._notify("READY=1")
        return outcome

    async def _reload_workers(self) -> Outcome:
        serving = [one for one in self._workers if one.serving.is_set() and one.link is not None]
        found: list[Outcome] = []
        for some in (serving[:1], serving[1:]):
            answers = await asyncio.gather(*(self._reload_one(one) for one in some))
            found += [answer for answer in answers if answer is not None]
            if any(one.faults for one in found):
                break
        if not found:
            return Outcome(["no worker serves at the moment; those that start read the new configuration"])
        faults = list(dict.fromkeys(fault for one in found for fault in one.faults))
        if faults and not found[0].faults:
            faults.append("some workers have the new configuration and others the old one; correct it and reload again")
        self._profiles = found[0].profiles
        waiting = list(dict.fromkeys(key for one in found for key in one.at_next_start))
        return Outcome(faults, waiting, self._profiles)

    async def _reload_one(self, one: _Worker) -> Outcome | None:
        """None of one that has ended meanwhile: who takes its place reads the new configuration."""
        assert one.link is not None
        try:
            return Outcome(**await one.link.ask("reload", RELOAD_SECONDS))
        except LinkLost:
            return None
        except TimeoutError:
            return Outcome([f"worker {one.number} has not loaded the configuration in {RELOAD_SECONDS:.0f} s"])

    # ------------------------------------------------------------------------------------------ for the operator

    async def exposition(self) -> tuple[str, bytes]:
        """See `admin.Administered`."""
        await self._hear_metrics()
        for name, families in of_process(families_of(self._own), SUPERVISOR).items():
            self._totals.heard(name, families)
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)

    async def latest_refusals(self) -> list[dict[str, Any]]:
        """See `admin.Administered`."""
        found = [one for some in (await self._ask("refusals", ANSWER_SECONDS)).values() for one in some]
        return sorted(found, key=lambda one: str(one["at"]), reverse=True)

    async def unready(self) -> str | None:
        """See `admin.Administered`. One worker that is ready is enough: the service answers."""
        if self._stop.is_set():
            return "stopping"
        answers = list((await self._ask("ready", READY_SECONDS)).values())
        if None in answers:
            return None
        return str(answers[0]) if answers else "no worker serves"


def _reserve(held: contextlib.ExitStack, at: Listen) -> Listen:
    """Bind an address without listening, as the workers will; port 0 lets the system choose. Raises OSError."""
    port = at.port
    for family, kind, protocol, _, address in socket.getaddrinfo(
        at.host, at.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        where = (address[0], port, *address[2:])
        if port:  # another service that shares its port would be given half of the connections
            with socket.socket(family, kind, protocol) as probe:
                _bind(probe, family, where)
        sock = held.enter_context(socket.socket(family, kind, protocol))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(sock, family, where)
        port = sock.getsockname()[1]
    return Listen(at.host, port)


def _bind(sock: socket.socket, family: int, where: tuple[Any, ...]) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(where)


def _ending(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def supervise(path: Path, workers: int, settings: Settings) -> None:
    """Serve by so many workers until SIGTERM or SIGINT. Raises SettingsError or StoreUnavailable as `daemon.serve`."""
    os.umask(0o077)
    asyncio.run(Supervisor(path, workers, settings=settings).run())
    sys.stderr.flush()
