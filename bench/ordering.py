"""Certificates on order: the daemon between its clients and a simulator of CertCentral, each in its own process.

open-orders   10,000 orders that the CA has not decided: what they cost while nothing happens, and what polls cost
new-orders    200 new ones a minute: from a CA that answers at once, then from one that takes its time
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import uvloop
from cryptography.x509 import ObjectIdentifier

from bench.end_entity import MacCredential, Operation, Wanted, mailbox
from bench.load import SETTLE_SECONDS, Connection, cpu_seconds, median
from bench.report import Figure
from bench.server import Daemon
from cmpd.asn1 import BodyType, der
from cmpd.enrollment.waiting import PROMPT_SECONDS
from cmpd.exchange import CertificateRequest, Order, OrderState, RequestedExtension, Transaction, TransactionState
from cmpd.ordering import HELD
from cmpd.profile import Profile, parse_duration
from cmpd.settings import Settings
from cmpd.store import AdminStore, open_store
from tests.certcentral.process import Simulator

PROFILE = "mail"
CLIENTS = 16
PER_MINUTE = 200
BUDGET = 700 / 3 / PER_MINUTE
"""Calls of the API that each of so many orders may take: requests_per_3_minutes as it is by default."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done."""

    open: int = 10_000
    """Orders that are open."""
    live: int = 200
    """Of these so many were asked for by clients, who poll for them; the others are as such orders are kept."""
    polls: int = 3_000
    seconds: int = 40
    """For so long new orders come in, from each kind of CA."""
    poll_interval: str = "60s"
    """The connector's; this is its default."""


QUICK = Size(open=400, live=20, polls=40, seconds=6, poll_interval="5s")
SLOW_SECONDS = 3.0
"""What the CA that takes its time takes for each order."""
HELD_SECONDS = 0.5
"""A request that takes longer was held open."""
PATIENCE = 150.0
MAIL = """
id = "@ID@"
base_template = "public-smime"
issuer = "digicert"
lint = "off"
[certificate_type]
validation_type = "mailbox"
[enrollment]
authentication_method = "enrollment_code"
[san.email]
allowed_domains = ["example.com"]
"""
CONNECTOR = """
[issuers.digicert]
type = "certcentral"
base_url = "@URL@"
api_key_file = "secrets/certcentral.key"
poll_interval = "@POLL@"
"""


class OrderingDaemon(Daemon):
    """The daemon with a connector to a simulator; `before` is done with its store before it starts."""

    def __init__(
        self,
        folder: Path,
        url: str,
        size: Size,
        before: Callable[["OrderingDaemon"], Coroutine[Any, Any, None]] | None = None,
        *,
        profile: bool = False,
    ) -> None:
        super().__init__(folder, profile=profile)
        self.folder = folder
        self._url = url
        self.size = size
        self._before = before

    def start(self) -> None:
        """Give it a connector, and what it is to find."""
        key = self.folder / "secrets" / "certcentral.key"
        key.write_text("sim-admin-key")
        key.chmod(0o600)
        file = self.folder / "cmpd.toml"
        text = file.read_text()
        file.write_text(text + CONNECTOR.replace("@URL@", self._url).replace("@POLL@", self.size.poll_interval))
        (self.folder / "profiles" / f"{PROFILE}.toml").write_text(MAIL.replace("@ID@", os.urandom(16).hex()))
        self.codes[PROFILE] = self._code(PROFILE)
        if self._before is not None:
            uvloop.run(self._before(self))
        super().start()

    async def store(self) -> AdminStore:
        settings = Settings.load(self.folder / "cmpd.toml")
        return await open_store(settings.store.url, base=settings.base, key=settings.store.key())


async def keep_open_orders(daemon: OrderingDaemon) -> None:
    """Keep orders that the CA has and does not decide, as the daemon itself keeps them; they are due within a day."""
    size = daemon.size
    store = await daemon.store()
    profile = Profile.load(daemon.folder / "profiles" / f"{PROFILE}.toml")
    reference = daemon.codes[PROFILE][0]
    (code,) = [one for one in await store.codes(PROFILE) if one.reference == reference]
    now = datetime.now(UTC)

    async def keep(number: int) -> None:
        wanted, identifier = mailbox(), os.urandom(16)
        names = RequestedExtension(ObjectIdentifier("2.5.29.17"), False, der.children(wanted.extensions[0])[1][2:])
        request = CertificateRequest(0, der.sequence(*wanted.rdns), wanted.spki, (names,))
        approved = profile.approve(request, transaction_id=identifier, now=now)
        due = now + timedelta(minutes=5, seconds=86_000 * number / size.open)
        order = Order(
            stamp=f"cmpd-{os.urandom(12).hex()}",
            transaction_id=identifier,
            cert_req_id=0,
            issuer="digicert",
            approved=approved,
            state=OrderState.ordered,
            created=now,
            updated=now,
            due=due,
            ticket=str(900_000_000 + number),
            text="the issuing CA is validating the request",
        )
        answer = os.urandom(700)
        transaction = Transaction(
            transaction_id=identifier,
            profile=PROFILE,
            operation="ir",
            credential=f"code:{code.id}",
            state=TransactionState.waiting,
            nonce=os.urandom(16),
            first_request=sha256(answer).digest(),
            first_reply=answer,
            created=now,
        )
        await store.intend(transaction, [order], code=None, now=now)

    try:
        for at in range(0, size.open - size.live, 100):
            await asyncio.gather(*map(keep, range(at, min(at + 100, size.open - size.live))))
    finally:
        await store.close()


class Gateway:
    """Clients with one enrollment code, which ask for mailboxes and poll."""

    def __init__(self, daemon: OrderingDaemon) -> None:
        self._port = daemon.port
        self._path = daemon.path(PROFILE)
        self._code = MacCredential(*daemon.codes[PROFILE])
        self._idle: list[Connection] = []
        self.open = self.most_open = 0
        """HTTP requests that have not been answered, now and at the worst."""

    async def post(self, body: bytes) -> tuple[bytes, float]:
        """The answer, and how long it took in seconds."""
        connection = self._idle.pop() if self._idle else Connection(self._port, keep_alive=True)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        started = time.perf_counter()
        try:
            answer = await connection.post(self._path, body)
        finally:
            self.open -= 1
        self._idle.append(connection)
        return answer, time.perf_counter() - started

    def operation(self, wanted: Wanted) -> Operation:
        return Operation(self._code, BodyType.ir, wanted, implicit=True)

    def prepare(self, messages: int) -> None:
        self._code.prepare(messages)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


async def side_by_side(jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]], clients: int) -> None:
    """Do all jobs, so many at a time."""
    left = list(reversed(jobs))

    async def client() -> None:
        while left:
            await left.pop()()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


def status_calls(central: Simulator) -> list[float]:
    """When the CA was asked which orders have changed, in seconds on some clock."""
    return [float(call["elapsed"]) for call in central.control("GET", "/journal?endpoint=status_changes")]


def open_orders(folder: Path, size: Size, say: Callable[[str], None], *, profile: bool = False) -> list[Figure]:
    """Measure what 10,000 open orders cost."""
    with Simulator(by_hand=True) as central:
        daemon = OrderingDaemon(folder / "open-orders", central.url, size, keep_open_orders, profile=profile)
        with daemon:
            if profile:
                daemon.start_profile()
            figures = uvloop.run(_open_orders(daemon, central, say))
        if profile:
            say(daemon.top_functions(size.polls))
    return figures


async def _open_orders(daemon: OrderingDaemon, central: Simulator, say: Callable[[str], None]) -> list[Figure]:
    size, gateway = daemon.size, Gateway(daemon)
    gateway.prepare(size.live + size.polls)
    operations = [gateway.operation(mailbox(ready=True)) for _ in range(size.live)]

    async def ask(operation: Operation) -> None:
        operation.waits((await gateway.post(operation.request()))[0])

    async def poll(operation: Operation) -> None:
        operation.polled((await gateway.post(operation.poll()))[0])

    await side_by_side([partial(ask, each) for each in operations], 4)
    store = await daemon.store()
    try:
        end = time.monotonic() + PATIENCE
        while (found := len(await store.tickets("digicert"))) < size.open:
            if time.monotonic() > end:
                raise RuntimeError(f"{found} orders have been placed, and not {size.open}:\n{daemon.log()}")
            await asyncio.sleep(0.5)
    finally:
        await store.close()
    say(f"open-orders: {size.open} orders are open")
    polls = [partial(poll, each) for each in operations * (size.polls // size.live)]
    await asyncio.sleep(1.0)
    before = cpu_seconds(daemon.pid)
    # one transaction's polls follow each other: its clients wait for their answers as clients do
    for at in range(0, len(polls), size.live):
        await side_by_side(polls[at : at + size.live], CLIENTS)
    await asyncio.sleep(SETTLE_SECONDS)
    cost = (cpu_seconds(daemon.pid) - before) / len(polls)
    gateway.close()
    quiet, started = cpu_seconds(daemon.pid), time.monotonic()
    end = started + PATIENCE
    while len(calls := status_calls(central)) < 2:
        if time.monotonic() > end:
            raise RuntimeError(f"the CA is not asked what has changed:\n{daemon.log()}")
        await asyncio.sleep(1.0)
    await asyncio.sleep(1.0)
    idle = (cpu_seconds(daemon.pid) - quiet) / (time.monotonic() - started) * 60
    resident = psutil.Process(daemon.pid).memory_info().rss
    every = parse_duration(size.poll_interval).total_seconds()
    return [
        Figure(
            f"{size.open:,} open orders: calls a minute that ask what has changed",
            round(60 / (calls[1] - calls[0]), 1),
            "",
            most=60 / every,
        ),
        Figure(f"{size.open:,} open orders: resident memory of the daemon", resident / 1e6, "MB", most=200),
        Figure(f"{size.open:,} open orders: server CPU of a pollReq and its answer", cost * 1e3, "ms", most=2.0),
        Figure(f"{size.open:,} open orders: server CPU a minute beside requests", idle * 1e3, "ms"),
    ]


@dataclass(slots=True)
class Phase:
    """What came of the orders of one kind of CA. Seconds."""

    asked: int
    elapsed: float
    took: list[float]
    most_open: int
    at_once: int
    """Answers with the certificate; the others said `waiting`."""
    placed: int
    placing: float
    """From the first request until the CA had the last order."""
    calls: int
    cpu: float


def new_orders(folder: Path, size: Size, say: Callable[[str], None], *, profile: bool = False) -> list[Figure]:
    """Measure 200 new orders a minute."""
    with Simulator() as central:
        daemon = OrderingDaemon(folder / "new-orders", central.url, size, profile=profile)
        with daemon:
            if profile:
                daemon.start_profile()
            quick = uvloop.run(_new_orders(daemon, central))
            say(f"new-orders: quick: {quick.asked} asked, {quick.at_once} answered at once")
            fault = {"kind": "slow_answer", "endpoint": "order", "times": None, "seconds": SLOW_SECONDS}
            central.control("POST", "/faults", fault)
            slow = uvloop.run(_new_orders(daemon, central))
            say(f"new-orders: slow: {slow.asked} asked, {slow.at_once} answered at once")
        if profile:
            say(daemon.top_functions(quick.asked + slow.asked))
    return [*_figures("the CA answers at once", quick), *_figures(f"it takes {SLOW_SECONDS:.0f} s", slow)]


def _figures(ca: str, phase: Phase) -> list[Figure]:
    share = sum(each > HELD_SECONDS for each in phase.took) / phase.asked

    def figure(
        text: str, value: float, unit: str = "", most: float | None = None, least: float | None = None
    ) -> Figure:
        return Figure(f"{PER_MINUTE} new orders a minute: {text}", value, unit, most, least, ca)

    return [
        figure("accepted a minute", phase.asked / phase.elapsed * 60, least=PER_MINUTE * 0.99),
        figure("placed a minute", phase.placed / phase.placing * 60, least=PER_MINUTE * 0.9),
        figure("API calls an order", phase.calls / phase.placed, most=BUDGET),
        figure("longest request", max(phase.took) * 1e3, "ms", most=PROMPT_SECONDS * 1e3 + 100),
        figure("median request", median(phase.took) * 1e3, "ms", most=HELD_SECONDS * 1e3),
        figure("HTTP requests open at a time, at the worst", phase.most_open, most=HELD),
        figure(f"requests held longer than {HELD_SECONDS} s", share * 100, "%", most=10),
        figure("answers with the certificate", phase.at_once / phase.asked * 100, "%"),
        figure("server CPU an order", phase.cpu / phase.asked * 1e3, "ms"),
    ]


async def _new_orders(daemon: OrderingDaemon, central: Simulator) -> Phase:
    """Ask at an even pace, whatever the answers take, and wait until all orders have been placed."""
    asked = PER_MINUTE * daemon.size.seconds // 60
    gateway = Gateway(daemon)
    gateway.prepare(asked)
    wanted = [mailbox(ready=True) for _ in range(asked)]
    took: list[float] = []
    at_once = 0

    async def ask(one: Wanted) -> None:
        nonlocal at_once
        operation = gateway.operation(one)
        answer, seconds = await gateway.post(operation.request())
        took.append(seconds)
        if operation.is_waiting(answer):
            operation.waits(answer)
        else:
            operation.certified(answer)
            at_once += 1

    ledger = len(central.control("GET", "/ledger?kind=order"))
    journal = len(central.control("GET", "/journal"))
    before, started = cpu_seconds(daemon.pid), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, one in enumerate(wanted):
            await asyncio.sleep(max(0.0, started + number * 60 / PER_MINUTE - time.perf_counter()))
            group.create_task(ask(one))
        await asyncio.sleep(max(0.0, started + asked * 60 / PER_MINUTE - time.perf_counter()))
    elapsed = time.perf_counter() - started
    end = time.monotonic() + PATIENCE
    placed = 0
    while placed < asked and time.monotonic() < end:
        placed = len(central.control("GET", "/ledger?kind=order")) - ledger
        await asyncio.sleep(0.2)
    placing = time.perf_counter() - started
    await asyncio.sleep(SLOW_SECONDS)
    cpu = cpu_seconds(daemon.pid) - before
    calls = len(central.control("GET", "/journal")) - journal
    gateway.close()
    return Phase(asked, elapsed, took, gateway.most_open, at_once, placed, placing, calls, cpu)


ROWS: dict[str, Callable[..., list[Figure]]] = {"open-orders": open_orders, "new-orders": new_orders}
"""By the name that `--rows` takes."""
