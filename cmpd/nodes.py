"""The processes on one store: each says that it is there, and one of them sees to what must be done once.

    lease       a name and who has it: `sweep` (what is overdue or old), `issuer NAME` (what becomes of its orders and
                certificates)
    node        what a process says of itself: host, pid, version, fingerprints of its configuration, counts

Who is known to be dead (a process of this machine that is no more) loses its leases at once; who is only silent, when
they end. A process that was paused and goes on has lost them, and learns of it before it begins anything else; what it
had begun is compared and set in the store like everything else.
"""

import asyncio
import hashlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cmpd.ports import Node, NodeStore, StoreUnavailable

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often a process looks who else is there, and tells what others must know."""
BEAT_SECONDS = 10.0
"""How often it says that it is there, and extends its leases."""
LEASE_SECONDS = 30.0
"""How long a lease lasts unless it is extended; a process that was silent for so long does not count any more."""
FORGET_SECONDS = 600.0
"""So long after its last word a process is forgotten."""
SETTLE_SECONDS = 10.0
"""So long configurations may differ before anybody is told: a reload does not reach all at the same moment."""
SWEEP = "sweep"
"""The lease of who ends overdue transactions and forgets old ones."""

_here: set[str] = set()
"""The ids of this process: one, outside of tests."""


def issuer_lease(issuer: str) -> str:
    """The name of the lease of who asks an issuer what has become of its orders and certificates."""
    return f"issuer {issuer}"


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a process says of its configuration: fingerprints of all but the profiles, and of each profile."""

    whole: str = ""
    profiles: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Membership:
    """The place of this process among those on its store."""

    store: NodeStore
    version: str
    share: Callable[[int], Mapping[str, float]] = lambda _: {}
    """Given how many processes there are: what others must know of what was counted here."""
    hear: Callable[[Sequence[Node]], None] = lambda _: None
    """Called with the other processes whenever they have been looked at."""
    differ: Callable[[Mapping[str, str]], None] = lambda _: None
    """Called when it has changed where configurations differ: by profile ("": the rest), who has which."""
    settle_seconds: float = SETTLE_SECONDS
    others: tuple[Node, ...] = ()
    """The other processes that are there."""
    id: str = ""
    _configuration: Configuration = field(default_factory=Configuration)
    _wanted: tuple[str, ...] = ()
    _held: dict[str, float] = field(default_factory=dict)
    """By lease: until when it is certainly ours, by `_now`."""
    _started: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    _beat_at: float = 0.0
    _known: bool = False
    """Whether it has said that it is there."""
    _said: Mapping[str, float] = field(default_factory=dict)
    _differing: Mapping[str, str] = field(default_factory=dict)
    _differing_since: float = 0.0
    _told: Mapping[str, str] = field(default_factory=dict)
    _host: str = field(default_factory=socket.gethostname)
    _place: str = ""

    def __post_init__(self) -> None:
        self._place = _place_of_pids()
        self.id = f"{self._host}-{os.getpid()}-{secrets.token_hex(4)}"
        _here.add(self.id)

    def configure(self, configuration: Configuration, leases: Iterable[str]) -> None:
        """Say from now on what is in use, and see to these if nobody else does."""
        self._configuration = configuration
        self._wanted = tuple(leases)
        self._beat_at = 0.0

    def holds(self, lease: str) -> bool:
        """Whether it is this process that sees to something now."""
        return self._held.get(lease, 0.0) > _now()

    @property
    def held(self) -> dict[str, bool]:
        """All leases that are wanted, and whether they are held."""
        return {name: self.holds(name) for name in self._wanted}

    async def run(self) -> None:
        """Look, and say, for as long as it serves."""
        reported = False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
                reported = False
            except StoreUnavailable as error:
                if not reported:
                    logger.warning("what other processes do is not known: %s", error)
                reported = True
            except Exception:
                logger.exception("looking after the other processes has failed")

    async def look(self) -> None:
        """See who is there, and say what is due. Raises StoreUnavailable."""
        begins = not self._known
        if begins:  # before it looks: of two that begin at once, one has heard of the other
            await self._keep({})
            self._known = True
        others = [one for one in await self.store.nodes() if one.id != self.id]
        gone = [one.id for one in others if one.silent > FORGET_SECONDS or self._is_dead(one)]
        if gone:
            await self.store.forget_nodes(gone)
        self.others = tuple(one for one in others if one.id not in gone and one.silent <= LEASE_SECONDS)
        self.hear(self.others)
        counts = self.share(1 + len(self.others))
        taken = {lease for one in self.others for lease in one.leases}
        now = _now()
        due = now >= self._beat_at
        free = [name for name in self._wanted if not self.holds(name) and name not in taken]
        jobs = [self._lease(name) for name in (self._wanted if due else free)]
        jobs += [self._release(name) for name in list(self._held) if name not in self._wanted]
        if (due and not begins) or counts != self._said:
            jobs.append(self._keep(counts))
        if jobs:
            for outcome in await asyncio.gather(*jobs, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
        if due:
            self._beat_at = now + BEAT_SECONDS
        self._compare(now)

    async def leave(self) -> None:
        """Let others take over at once; the store may be unavailable."""
        _here.discard(self.id)
        self._held.clear()
        try:
            await self.store.forget_nodes([self.id])
        except StoreUnavailable as error:
            logger.warning("leases cannot be given back, they end by themselves: %s", error)

    def node(self, counts: Mapping[str, float] | None = None) -> Node:
        """What this process says of itself."""
        return Node(
            id=self.id,
            host=self._host,
            pid=os.getpid(),
            version=self.version,
            started=self._started,
            configuration=self._configuration.whole,
            profiles=self._configuration.profiles,
            counts={} if counts is None else counts,
            place=self._place,
        )

    async def _keep(self, counts: Mapping[str, float]) -> None:
        await self.store.keep_node(self.node(counts))
        self._said = dict(counts)

    async def _lease(self, name: str) -> None:
        before = _now()
        if await self.store.lease(name, self.id, LEASE_SECONDS):
            if not self.holds(name):
                logger.info("this process sees to %s from now on", name)
            self._held[name] = before + LEASE_SECONDS
        elif self._held.pop(name, None) is not None:
            logger.warning("another process sees to %s now: this one was silent for too long", name)

    async def _release(self, name: str) -> None:
        self._held.pop(name, None)
        await self.store.release(name, self.id)

    def _is_dead(self, node: Node) -> bool:
        """Whether it is a process of this machine that is no more."""
        if not node.place or node.place != self._place:
            return False
        if node.pid == os.getpid():
            return node.id not in _here
        try:
            os.kill(node.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def _compare(self, now: float) -> None:
        """Tell where the configurations differ, when they have done so for a while."""
        found = differences([self.node(), *self.others])
        if found != self._differing:
            self._differing, self._differing_since = found, now
        if found != self._told and now - self._differing_since >= self.settle_seconds:
            self._told = found
            self.differ(found)


def differences(nodes: Sequence[Node]) -> dict[str, str]:
    """By profile ("" for what is in no profile) where nodes have different configurations, and who has which."""
    found = {}
    for profile in sorted({"", *(name for one in nodes for name in one.profiles)}):
        by_fingerprint: dict[str, list[str]] = {}
        for one in nodes:
            mine = one.profiles.get(profile, "none") if profile else one.configuration
            by_fingerprint.setdefault(mine, []).append(one.id)
        if len(by_fingerprint) > 1:
            found[profile] = "; ".join(
                sorted(f"{mine}: {', '.join(sorted(ids))}" for mine, ids in by_fingerprint.items())
            )
    return found


def is_silent(node: Node) -> bool:
    """Whether a node is shown as gone: silent for longer than a lease lasts."""
    return node.silent > LEASE_SECONDS


def _now() -> float:
    """Seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _place_of_pids() -> str:
    """What processes have in common whose pids can be compared: one boot of one machine, one pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return hashlib.sha256(f"{boot} {Path('/proc/self/ns/pid').readlink()}".encode()).hexdigest()[:16]
    except OSError:
        return ""
