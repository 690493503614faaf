"""The nodes, each a real `cmpd serve` with a port of its own, and the store that they share."""

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

from cmpd.settings import Settings
from cmpd.store import AdminStore, open_store
from tests.certcentral import CertCentral
from tests.chaos import contents
from tests.chaos.contents import Contents
from tests.chaos.history import History, Terms
from tests.daemon import ROOT, FreePort, Site
from tests.http_client import Client

START_SECONDS = 60.0
"""How long a node may take to start, also on a busy machine."""
STOP_SECONDS = 40.0
PROFILES: dict[str, tuple[tuple[tuple[str, str], ...], Terms]] = {
    "plain": ((), Terms()),
    "giving": ((("give_back = false", "give_back = true"),), Terms(give_back=True)),
    "hasty": ((('confirm_wait = "10m"', 'confirm_wait = "3s"'),), Terms(expires=True)),
    "locking": (
        (("lock_after = 10", "lock_after = 3"), ('lock_for = "1m"', 'lock_for = "5s"'), ('"1h"', '"5s"')),
        Terms(lock_after=3, lock_for=5),
    ),
    "seats": ((("allow_duplicates = true", "allow_duplicates = true\n[budget]\nper_seat = 2"),), Terms(per_seat=2)),
    "alone": ((("allow_duplicates = true", "allow_duplicates = false"),), Terms(per_seat=1)),
}
BUDGETS = 8
"""Profiles with so small a budget a day that it is used up within seconds: each is good for one race."""
PER_DAY = 7
for _number in range(BUDGETS):
    _changes = (("allow_duplicates = true", f"allow_duplicates = true\n[budget]\nper_day = {PER_DAY}"),)
    PROFILES[f"budget-{_number}"] = _changes, Terms(per_day=PER_DAY)
TIMELESS = ('message_time_tolerance = "5m"', 'message_time_tolerance = "off"')
"""What has no answer is sent again at the end, however long the run was."""
PATIENT = ('confirm_wait = "10m"', 'confirm_wait = "2h"')
"""No run is so long that a certificate expires unconfirmed, but in the profile that is for it."""
ORDERED = "ordered"
_ORDERED = """
id = "an-id-for-what-is-ordered-x"
base_template = "public-smime"
issuer = "digicert"
lint = "off"
[certificate_type]
validation_type = "mailbox"
generation = "multipurpose"
[enrollment]
authentication_method = "enrollment_code"
message_time_tolerance = "off"
confirm_wait = "2h"
"""
_ISSUER = """
[issuers.digicert]
type = "certcentral"
base_url = "{url}"
api_key_file = "secrets/certcentral.key"
connect_timeout = "2s"
read_timeout = "3s"
poll_interval = "5s"
settle_time = "10s"
"""
LIMITS = "[limits]\naddress_requests = 0\naddress_failures = 0"


class Backend(Protocol):
    """A store that nodes share, and what can be done to it."""

    @property
    def faults(self) -> Sequence[str]:
        """The kinds of `faults.Fault` that are its own."""

    async def start(self, nodes: list[str]) -> None: ...
    async def stop(self) -> None: ...
    def url(self, node: str) -> str:
        """`[store] url` for a node, or for the operator (an empty name)."""

    async def apply(self, kind: str, node: str, seconds: float) -> None:
        """Cause a fault of its own."""

    async def read_rest(self, found: Contents) -> None:
        """Ask what only the database itself can say."""


class SQLite:
    """One file; the faults that are its own are other processes that hold its lock."""

    faults = ("lock",)

    def __init__(self, folder: Path) -> None:
        self._path = folder / "shared.db"

    async def start(self, nodes: list[str]) -> None:
        """The first node makes the file."""

    async def stop(self) -> None:
        """It needs nobody."""

    def url(self, node: str) -> str:
        return f"sqlite:///{self._path}"

    async def apply(self, kind: str, node: str, seconds: float) -> None:
        """Hold the write lock, as a backup or an administrator's shell may."""
        other = sqlite3.connect(self._path, isolation_level=None, timeout=0)
        try:
            for _ in range(1000):
                with contextlib.suppress(sqlite3.OperationalError):
                    other.execute("BEGIN IMMEDIATE")
                    break
                await asyncio.sleep(0.002)
            await asyncio.sleep(seconds)
        finally:
            other.close()

    async def read_rest(self, found: Contents) -> None:
        contents.read_sqlite(self._path, found)


class Weather:
    """Whether the store can be had."""

    def __init__(self) -> None:
        self._faults = 0
        self._until = 0.0

    @contextlib.contextmanager
    def storm(self) -> Iterator[None]:
        """A fault of the store, while it lasts."""
        self._faults += 1
        try:
            yield
        finally:
            self._faults -= 1
            self._until = time.monotonic()

    def was_bad(self, since: float) -> bool:
        return self._faults > 0 or self._until >= since


class Node:
    """One process at a time, started again and again on the same port."""

    def __init__(self, name: str, config: Path, port: FreePort, admin: FreePort, weather: Weather) -> None:
        self.name = name
        self._weather = weather
        self._started = 0.0
        self.life = 0
        """How often it has been started."""
        self.busy = False
        """A fault has it in hand."""
        self.died: list[str] = []
        self._config = config
        self._ports = port, admin
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.log = config.with_suffix(".log")

    @property
    def port(self) -> int:
        return self._ports[0].listen.port

    def start(self) -> None:
        self._log = self._log or self.log.open("ab")
        self.life += 1
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cmpd", "serve", "--config", str(self._config)], cwd=ROOT, stderr=self._log
        )

    async def ready(self) -> None:
        """Wait until it serves. One that could not have the store when it started is started again, as systemd does."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() == 1 and self._weather.was_bad(self._started):
                await asyncio.sleep(0.2)
                self.start()
            if self._process.poll() is not None:
                self.died.append(f"node {self.name} has ended by itself: exit status {self._process.returncode}")
                return
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[1].listen.port)
                try:
                    reply = await Client(reader, writer).ask(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                finally:
                    writer.transport.abort()
                if reply.status == 200:
                    return
            await asyncio.sleep(0.1)
        self.died.append(f"node {self.name} is not ready after {START_SECONDS:.0f} s")

    def signal(self, number: int) -> None:
        """Send a signal; one that has ended by itself is noted."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        elif not self.died:
            self.died.append(f"node {self.name} has ended by itself: exit status {self._process.returncode}")

    async def end(self, number: int) -> None:
        """Signal it to end, and wait until it has."""
        self.signal(number)
        assert self._process is not None
        status = await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        if status not in {0, -signal.SIGKILL}:
            self.died.append(f"node {self.name} has ended with exit status {status}")

    def close(self) -> None:
        """Away with it, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for port in self._ports:
            port.close()
        if self._log is not None:
            self._log.close()


class Cluster:
    """Nodes and store, and the operator's own connection to it."""

    def __init__(self, site: Site, backend: Backend, nodes: list[Node], weather: Weather) -> None:
        self.site = site
        self.backend = backend
        self.nodes = nodes
        self.weather = weather

    async def operator(self) -> AdminStore:
        """The store as an operator's command has it."""
        settings = Settings.load(self.site.config)
        return await open_store(self.backend.url(""), base=settings.base, key=settings.store.key())

    def notes(self) -> list[str]:
        """What a node had to say that it should not have to."""
        found = [note for node in self.nodes for note in node.died]
        for node in self.nodes:
            lines = node.log.read_text(errors="replace").splitlines()
            found += [f"node {node.name}: {line[:2000]}" for line in lines if "Traceback" in line]
        return found


@contextlib.asynccontextmanager
async def cluster(
    folder: Path, backend: Backend, number: int, history: History, central: CertCentral
) -> AsyncIterator[Cluster]:
    """Make a configuration for each node, start them, end them."""
    site = await asyncio.to_thread(Site.make, folder / "cmpd")
    for name, (changes, terms) in PROFILES.items():
        site.profile(name, *changes, TIMELESS, *(() if terms.expires else (PATIENT,)))
        history.terms[name] = terms
    history.terms["device"] = Terms()
    history.terms[ORDERED] = Terms(ordered=True)
    (site.folder / "profiles" / f"{ORDERED}.toml").write_text(_ORDERED)
    key = site.folder / "secrets" / "certcentral.key"
    key.write_text(central.key())
    key.chmod(0o600)
    site.append(_ISSUER.format(url=central.url))
    site.append(LIMITS)
    text = site.config.read_text()
    weather = Weather()
    nodes = []
    try:
        names = [str(one) for one in range(1, number + 1)]
        await backend.start(names)
        for name in names:
            port, admin = FreePort(), FreePort()
            config = site.folder / f"node-{name}.toml"
            nodes.append(Node(name, config, port, admin, weather))
            config.write_text(
                text.replace('listen = "127.0.0.1:0"', f'listen = "{port.listen}"', 1)
                .replace('listen = "127.0.0.1:0"', f'listen = "{admin.listen}"', 1)
                .replace('url = "sqlite:///cmpd.db"', f'url = "{backend.url(name)}"', 1)
            )
            nodes[-1].start()
            if len(nodes) == 1:
                await nodes[0].ready()  # it makes the tables
        for node in nodes:
            await node.ready()
        yield Cluster(site, backend, nodes, weather)
    finally:
        for node in nodes:
            node.close()
        await backend.stop()
