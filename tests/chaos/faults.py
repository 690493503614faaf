"""What goes wrong, and when: a schedule from a seed, and its execution.

kill       kill -9 of a node, started again after a while
restart    SIGTERM, as an update does it
reload     SIGHUP
pause      SIGSTOP, and after a while SIGCONT
lock       another process holds SQLite's write lock
crash      kill -9 of PostgreSQL, started again after a while
terminate  PostgreSQL ends all connections of a node
cut        the connections between a node and PostgreSQL break
swallow    they break when the next COMMIT has been sent and before its answer has come
"""

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.cluster import Cluster, Node
from tests.chaos.history import Act, History

WEIGHTS = {
    "kill": 5,
    "restart": 1,
    "reload": 1,
    "pause": 4,
    "lock": 3,
    "crash": 2,
    "stall": 1,
    "terminate": 3,
    "cut": 3,
    "swallow": 6,
}
LONGEST = {"kill": 1.0, "pause": 3.0, "lock": 2.0, "crash": 1.5, "stall": 2.0}
"""The longest that one lasts, in seconds; once in ten times it lasts `FAR_TOO_LONG`."""
FAR_TOO_LONG = 6.5
"""Longer than anybody waits for a lock."""
FIRST, LAST = 1.0, 3.0
"""The first fault comes so many seconds after the beginning, the last so many before the end."""
GAP = (0.2, 2.5)


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them; times in seconds from the beginning."""

    at: float
    kind: str
    node: str
    seconds: float

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.2f} s" if self.seconds else ""
        return f"{self.at:8.3f}  {self.kind} {self.node}{lasting}"


def schedule(seed: int, seconds: float, nodes: Sequence[str], own: Sequence[str]) -> list[Fault]:
    """The same seed, the same faults; `own` are the kinds that the store adds."""
    chance = random.Random(f"faults {seed}")
    kinds = ["kill", "restart", "reload", "pause", *own]
    faults = []
    at = FIRST
    while at < seconds - LAST:
        (kind,) = chance.choices(kinds, [WEIGHTS[each] for each in kinds])
        longest = LONGEST.get(kind, 0.0)
        lasting = (
            FAR_TOO_LONG
            if kind in {"pause", "lock", "stall"} and chance.random() < 0.1
            else chance.uniform(0.05, longest)
        )
        faults.append(Fault(round(at, 3), kind, chance.choice(nodes), round(lasting, 2) if longest else 0.0))
        at += chance.uniform(*GAP)
    return faults


async def cause(faults: Sequence[Fault], cluster: Cluster, history: History, began: float) -> None:
    """Let them happen at their time; one at a time to each node. Everything is mended at the end."""
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
            node = next(one for one in cluster.nodes if one.name == fault.node)
            if fault.kind in cluster.backend.faults:
                group.create_task(_at_store(fault, cluster, history))
            elif not node.busy:
                node.busy = True
                group.create_task(_at_node(fault, node, history))


async def _at_store(fault: Fault, cluster: Cluster, history: History) -> None:
    since = time.monotonic()
    with cluster.weather.storm():
        await cluster.backend.apply(fault.kind, fault.node, fault.seconds)
    history.acts.append(Act(fault.kind, fault.node, since, time.monotonic()))


async def _at_node(fault: Fault, node: Node, history: History) -> None:
    since = time.monotonic()
    try:
        match fault.kind:
            case "kill":
                await node.end(signal.SIGKILL)
                await asyncio.sleep(fault.seconds)
                node.start()
                await node.ready()
            case "restart":
                await node.end(signal.SIGTERM)
                node.start()
                await node.ready()
            case "reload":
                node.signal(signal.SIGHUP)
            case "pause":
                node.signal(signal.SIGSTOP)
                try:
                    await asyncio.sleep(fault.seconds)
                finally:
                    node.signal(signal.SIGCONT)
    finally:
        node.busy = False
        history.acts.append(Act(fault.kind, f"node {node.name}", since, time.monotonic()))
