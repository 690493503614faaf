"""The real daemon in a process of its own, for tests that are its clients: started, read, stopped, killed.

site = Site.make(folder)                    what `cmpd init` makes, on free ports
with site.serve() as daemon:                ready when it is entered
    daemon.ask(octets)                      one PKIMessage over HTTP
    daemon.until("exchange", outcome=...)   its next such record
    daemon.stop()                           SIGTERM, and the exit status is 0
"""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from cryptography import x509

from cmpd.cli import setup
from cmpd.exchange import CertificateStatus, IssuedCertificate
from cmpd.ports import Revocation
from cmpd.settings import Listen, Settings
from cmpd.store import AdminStore, open_store
from tests.ee import EE
from tests.http_client import WAIT

ROOT = Path(__file__).parents[1]
SECRET = "correct-horse-battery"
DEVICE = "/.well-known/cmp/p/device"

T = TypeVar("T")


class FreePort:
    """A TCP port of 127.0.0.1 that nobody else is given: it stays bound, and who sets SO_REUSEADDR can listen on it."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.listen = Listen(*self._socket.getsockname())

    def close(self) -> None:
        self._socket.close()


class Site:
    """A configuration with all that belongs to it, and its database as an operator's command sees it."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.folder = config.parent

    @classmethod
    def make(cls, folder: Path, listen: Listen | None = None, store_url: str | None = None) -> "Site":
        """What `cmpd init` makes; without `listen` the system chooses the port anew at each start.

        `store_url` is that of an empty store; None: SQLite beside cmpd.toml.
        """
        anywhere = Listen("127.0.0.1", 0)
        url = None if listen else "http://127.0.0.1:8829"
        config = setup.make(folder, listen=listen or anywhere, admin_listen=anywhere, url=url)
        if store_url is not None:
            config.write_text(config.read_text().replace("sqlite:///cmpd.db", store_url))
        return cls(config)

    def copy(self, folder: Path) -> "Site":
        """A copy that a test may change."""
        shutil.copytree(self.folder, folder)
        return Site(folder / self.config.name)

    def append(self, text: str) -> None:
        """Add sections to cmpd.toml."""
        self.config.write_text(f"{self.config.read_text()}\n{text}\n")

    def profile(self, name: str, *changes: tuple[str, str]) -> str:
        """Write a profile, the one of `cmpd init` with changes; return its id."""
        text = (self.folder / "profiles" / "device.toml").read_text()
        identifier = f"an-id-for-{name}-{'x' * 22}"
        old = next(line for line in text.splitlines() if line.startswith("id = "))
        for before, after in ((old, f'id = "{identifier}"'), *changes):
            assert before in text
            text = text.replace(before, after, 1)
        (self.folder / "profiles" / f"{name}.toml").write_text(text)
        return identifier

    def store(self, job: Callable[[AdminStore], Awaitable[T]]) -> T:
        """Do something with the database, beside the daemon."""

        async def run() -> T:
            settings = Settings.load(self.config)
            store = await open_store(
                settings.store.url, base=settings.base, key=settings.store.key(), database=settings.store.database()
            )
            try:
                return await job(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def code(
        self,
        reference: str,
        *,
        profile: str = "device",
        uses: int | None = 1,
        secret: str = SECRET,
        valid: timedelta | None = None,
    ) -> EE:
        """Make an enrollment code; an end entity that holds it."""
        now = datetime.now(UTC)
        expires = None if valid is None else now + valid
        self.store(lambda store: store.create_code(profile, reference, secret.encode(), uses, expires, now))
        return EE.with_code(reference, secret)

    def used(self, reference: str, profile: str = "device") -> int:
        """How often a code has been used."""
        (code,) = [code for code in self.store(lambda store: store.codes(profile)) if code.reference == reference]
        return code.used

    def certificates(self, **which: Any) -> Sequence[IssuedCertificate]:
        """The issued certificates, newest first."""
        return self.store(lambda store: store.certificates(10_000, **which))

    def status(self, certificate: x509.Certificate) -> CertificateStatus | None:
        """What the database says of a certificate."""
        found = self.store(lambda store: store.certificate(certificate.serial_number))
        return None if found is None else found.status

    def revoke(self, certificate: x509.Certificate, reason: Any) -> None:
        revocation = Revocation(certificate.serial_number, reason, datetime.now(UTC))
        assert self.store(lambda store: store.revoke(revocation))

    @contextlib.contextmanager
    def serve(self, process: "Process | None" = None, *arguments: str) -> Iterator["Daemon"]:
        """Run `python -m cmpd serve`, or have another process do it; enter when it listens, kill it at the end."""
        daemon = Daemon(
            process
            or subprocess.Popen(
                [sys.executable, "-m", "cmpd", "serve", "--config", str(self.config), *arguments],
                cwd=ROOT,
                stderr=subprocess.PIPE,
            )
        )
        try:
            daemon.wait_until_ready()
            yield daemon
        finally:
            daemon.kill()


class Process(Protocol):
    """What a daemon's process must be able to do; `subprocess.Popen` can."""

    pid: int

    @property
    def stderr(self) -> IO[bytes] | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class Daemon:
    """One process, with the records that it has written so far."""

    def __init__(self, process: Process) -> None:
        assert process.stderr is not None
        self.process = process
        self.records: list[dict[str, Any]] = []
        self.cmp = self.tls = self.admin = ""
        self._stderr = process.stderr
        self._seen = 0
        self._caught_up = 0
        self._over = False
        self._status: int | None = None
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._stderr:
            try:
                record = json.loads(line)
            except ValueError:
                record = {"event": line.decode(errors="replace")}
            with self._changed:
                self.records.append(record)
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def wait_until_ready(self) -> None:
        """Wait until it listens; learn its addresses."""
        started = self.until("started")
        self.cmp, self.tls, self.admin = started["cmp"], started["tls"], started["admin"]

    def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """Wait for the next record of an event, with these fields; those before it are passed over."""

        def found() -> bool:
            while self._seen < len(self.records):
                record = self.records[self._seen]
                self._seen += 1
                if record["event"] == event and all(record.get(name, "") == value for name, value in fields.items()):
                    matches.append(record)
                    return True
            return self._over

        matches: list[dict[str, Any]] = []
        with self._changed:
            self._changed.wait_for(found, WAIT)
        assert matches, f"no {event} with {fields}; the latest records: {self.records[-5:]}"
        return matches[0]

    def catch_up(self) -> None:
        """Pass over all records of what has been asked so far."""
        self._caught_up += 1
        target = f"/caught-up/{self._caught_up}"
        assert self.http("GET", target)[0] == 404
        self.until("refused", target=target)

    def exchange(self, **fields: Any) -> dict[str, Any]:
        """The record of the next exchange with these fields."""
        return self.until("exchange", **fields)

    def http(
        self, method: str, path: str, body: bytes | None = None, *, address: str | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """One HTTP request on a connection of its own: status and body."""
        connection = http.client.HTTPConnection(address or self.cmp, timeout=WAIT)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ask(self, message: bytes, path: str = DEVICE) -> bytes:
        """Send a PKIMessage; the answer's octets. Raises OSError or HTTPException when none comes."""
        status, answer = self.http("POST", path, message, **{"Content-Type": "application/pkixcmp"})
        assert status == 200, answer
        return answer

    def admin_get(self, path: str) -> tuple[int, bytes]:
        """GET on the admin listener."""
        return self.http("GET", path, address=self.admin)

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if not self.ended:
            os.kill(self.process.pid, number)

    @property
    def ended(self) -> bool:
        """Whether its end has been waited for."""
        return self._status is not None

    def wait(self) -> int:
        """Wait for its end: the exit status, negative for the signal that ended it."""
        if self._status is None:
            self._status = self.process.wait(WAIT)
        return self._status

    def stop(self) -> None:
        """SIGTERM: it says that it has stopped, and its exit status is 0."""
        self.signal(signal.SIGTERM)
        self.until("stopped")
        assert self.wait() == 0

    def kill(self) -> None:
        """SIGKILL, if it still runs; then all of its records are here."""
        self.signal(signal.SIGKILL)
        self.wait()
        self._reader.join()
        self._stderr.close()
