"""One worker: a daemon whose admin listener and signals are the supervisor's."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmpd import daemon
from cmpd.ports import StoreUnavailable
from cmpd.settings import Listen, Settings, SettingsError
from cmpd.workers.link import Link
from cmpd.workers.totals import families_of


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is started with, as the one argument of its command line: nothing in it is secret."""

    config: str
    number: int
    socket: int
    """The file descriptor of its end of the socket pair."""
    cmp: str
    """HOST:PORT, the port resolved."""
    tls: str | None

    def text(self) -> str:
        """As the command line has it."""
        return json.dumps(asdict(self))

    def adjust(self, settings: Settings) -> Settings:
        """Take the ports that the supervisor was given where the file leaves them to the system."""
        server = settings.server
        changes: dict[str, Any] = {}
        if server.listen.port == 0:
            changes["listen"] = Listen.parse(self.cmp)
        if self.tls is not None and server.tls is not None and server.tls.listen.port == 0:
            changes["tls"] = server.tls.model_copy(update={"listen": Listen.parse(self.tls)})
        return settings.model_copy(update={"server": server.model_copy(update=changes)})


class Worker:
    """A daemon, and what the supervisor asks of it."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._link: Link
        self._daemon = daemon.Daemon(
            Path(assignment.config), adjust=assignment.adjust, ready=self._ready, worker=assignment.number
        )

    async def run(self) -> None:
        """Serve until the supervisor says so, or has gone."""
        sock = socket.socket(fileno=self._assignment.socket)
        self._link = await Link.open(sock, answer=self._answer)
        hearing = asyncio.get_running_loop().create_task(self._hear())
        try:
            await self._daemon.run()
            self._link.tell("ended", metrics=families_of(self._daemon.metrics.registry))
        except SettingsError as error:
            self._link.tell("fault", kind="settings", faults=list(error.faults))
        except StoreUnavailable as error:
            self._link.tell("fault", kind="store", faults=[str(error)])
        finally:
            await self._link.flush()
            hearing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await hearing

    async def _hear(self) -> None:
        await self._link.run()
        self._daemon.stop()  # nobody watches over us any more

    def _ready(self, _addresses: daemon.Addresses) -> None:
        self._link.tell("serving")

    async def _answer(self, kind: str) -> Any:
        match kind:
            case "metrics":
                return families_of(self._daemon.metrics.registry)
            case "refusals":
                return await self._daemon.latest_refusals()
            case "ready":
                return await self._daemon.unready()
            case "reload":
                return asdict(await self._daemon.reloads.outcome())
            case "stop":
                self._daemon.stop()
        return None


def main() -> None:
    """Run the worker that the command line describes."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor says when to reload
    worker = Worker(Assignment(**json.loads(sys.argv[1])))
    daemon.run(worker.run)
