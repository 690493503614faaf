"""The whole of it: a cluster, its clients and its faults, then the check."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmpd.exchange import OrderState
from cmpd.store import AdminStore
from tests.certcentral import CertCentral
from tests.chaos import contents
from tests.chaos.checker import Violation, check, report
from tests.chaos.clients import Client, Office, settle
from tests.chaos.cluster import Backend, SQLite, cluster
from tests.chaos.faults import Fault, cause, schedule
from tests.chaos.history import DIGITS, History
from tests.chaos.postgresql import PostgreSQL

CLIENTS = 12
CENTRAL_FAULTS = 0.05
"""The share of its answers that are lost, or calls that fail."""
PATIENT_FROM = 100.0
"""From so many seconds on, a run waits at the end until every order has come to its end."""
PATIENCE_SECONDS = 150.0
UNDER_WAY = (OrderState.intended, OrderState.submitting, OrderState.unknown, OrderState.ordered)
STORES: dict[str, Callable[[Path], Backend]] = {"sqlite": SQLite, "postgresql": PostgreSQL}


@dataclass(slots=True)
class Outcome:
    """What a run has come to."""

    history: History
    faults: list[Fault]
    done: Counter[str]
    violations: list[Violation]

    def summary(self) -> str:
        """In a few lines: how much was done, and how it ended."""
        attempts = self.history.attempts
        replies = [one.reply for one in attempts if one.reply is not None]
        kinds = Counter(act.kind for act in self.history.acts)
        certificates = {reply.serial for reply in replies if reply.certificate}
        return (
            f"seed {self.history.seed}: {len(self.history.messages)} messages sent {len(attempts)} times, of which "
            f"{len(attempts) - len(replies)} without an answer; {len(certificates)} certificates\n"
            f"  work     {_counted(self.done)}\n"
            f"  faults   {_counted(kinds)}\n"
            f"  answers  {_counted(Counter(reply.fail_info or reply.body for reply in replies))}\n"
            f"  {len(self.violations)} violations"
        )

    def write(self, folder: Path) -> None:
        """The history, the schedule, and what is wrong, beside the logs of the nodes."""
        self.history.write(folder / "history.jsonl")
        (folder / "schedule.txt").write_text("".join(f"{fault}\n" for fault in self.faults))
        (folder / "report.txt").write_text(f"{self.summary()}\n\n{report(self.history, self.violations)}\n")


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counter.items()))


def backend(name: str, folder: Path) -> Backend:
    """The store of this name; raises ValueError for one that is not known."""
    if name not in STORES:
        raise ValueError(f"no store {name!r}; there are {', '.join(STORES)}")
    return STORES[name](folder)


async def run(
    folder: Path, store: Backend, *, seed: int, seconds: float, nodes: int, clients: int = CLIENTS
) -> Outcome:
    """Let clients and faults go on for so many seconds, then let all come to rest, and check."""
    zero = time.monotonic()
    history = History(seed, time.time() - zero)
    async with CertCentral().running() as central, cluster(folder, store, nodes, history, central) as running:
        central.faults.randomly(seed, CENTRAL_FAULTS)
        operator = await running.operator()
        try:
            faults = schedule(seed, seconds, [node.name for node in running.nodes], store.faults)
            began = time.monotonic()
            office = Office(running, history, operator, central, began + seconds)
            workers = [Client(office, f"client-{number}", f"{seed} {number}") for number in range(clients)]
            async with asyncio.TaskGroup() as group:
                group.create_task(cause(faults, running, history, began))
                for worker in workers:
                    group.create_task(worker.run())
            await asyncio.gather(*(node.ready() for node in running.nodes))
            central.faults.clear()
            await settle(office, Client(office, "afterwards", f"{seed} afterwards"))
            if seconds >= PATIENT_FROM:
                history.patient = await orders_settled(operator)
            for node in running.nodes:
                await node.end(signal.SIGTERM)
            found = await contents.read(operator, history)
        finally:
            await operator.close()
        await store.read_rest(found)
        found.paid = [entry.spki[:DIGITS] for entry in central.ledger.orders() if entry.spki is not None]
        history.notes += running.notes()
        return Outcome(history, faults, office.done, check(history, found))


async def orders_settled(store: AdminStore) -> bool:
    """Wait until no order is under way any more, and at most for `PATIENCE_SECONDS`; always true, to be noted."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and await store.orders(1, UNDER_WAY):
        await asyncio.sleep(1.0)
    return True
