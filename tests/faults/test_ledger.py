"""CertCentral's bill against cmpd's book: with faults at every call and the daemon killed, nothing is lost or doubled.

The daemon is the real one, in a process of its own that SIGKILL ends again and again; end entities send ir, p10cr and
kur and repeat the same octets until they are answered; every call of the API may end badly, before or after it had its
effect. In the end each transaction has its order, each order its transaction, and each client its certificate.

CMPD_LEDGER_SEED=N repeats the faults of a run, CMPD_LEDGER_TRANSACTIONS=N makes it longer or shorter.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cmpd.asn1 import BodyType
from cmpd.cli import orders as operator
from cmpd.exchange import CertificateStatus, OrderState
from cmpd.issuers.certcentral.orders import mark_of
from tests.certcentral import CertCentral
from tests.certcentral.faults import BY_CHANCE
from tests.daemon import SECRET, Daemon, FreePort, Site
from tests.ee import EE
from tests.faults.buying import KINDS, Client, Wire, site_of
from tests.faults.hasty import Hasty

pytestmark = pytest.mark.long

TRANSACTIONS = int(os.environ.get("CMPD_LEDGER_TRANSACTIONS", "500"))
SEED = int(os.environ.get("CMPD_LEDGER_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
FAULTS = (*BY_CHANCE, "rate_limited", "slow_commit", "slow_answer")
PROBABILITY = 0.2
SLOW = 2.5
"""Longer than a call may take: it has its effect when nobody waits for it any more."""
AT_ONCE = 128
"""Clients side by side."""
KILLS = 5
WITHIN = 300.0
"""Seconds for all of it: who is not done by then has been lost."""
CONNECTORS = {"one": "hold", "two": "hold", "three": "resubmit"}
"""With their `on_unknown`."""
MORE = 'requests_per_5_seconds = 100\nrequests_per_3_minutes = 1000\non_unknown = "{}"'
NOT_FOUND = "not found at the issuer; release it to submit it again, or adopt or cancel it"
"""The only reason here for which an order may be held: `on_unknown`."""


async def journey(client: Client, gate: asyncio.Semaphore, *, renews: bool) -> None:
    """One end entity's life; every second one comes with a PKCS #10."""
    async with gate:
        holder = await client.enroll(BodyType.p10cr if client.number % 3 == 0 else BodyType.ir)
        if renews:
            await client.renew(holder)


async def trouble(site: Site, central: CertCentral, chance: random.Random, done: asyncio.Event) -> None:
    """Kill the daemon some times at moments of chance, then leave it and the API in peace until all is done."""
    for number in range(KILLS + 1):
        with ExitStack() as stack:
            daemon: Daemon = await asyncio.to_thread(stack.enter_context, site.serve(Hasty(site.config)))
            if number < KILLS:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), chance.uniform(2.0, 8.0))
            else:
                central.faults.clear()
                await done.wait()
            await asyncio.to_thread(daemon.kill)


async def release_held(site: Site, central: CertCentral, everybody: "asyncio.Future[Any]") -> int:
    """What an operator does: release what is held, after a look at the issuer; how many there were."""
    released = 0
    while not everybody.done():
        await asyncio.wait([everybody], timeout=3.0)
        held = await asyncio.to_thread(site.store, lambda store: store.orders(10_000, [OrderState.held]))
        for order in held:
            assert CONNECTORS[order.issuer] == "hold", f"on_unknown says otherwise: {order}"
            assert order.private == NOT_FOUND, order
            assert not central.ledger.entries(stamp=mark_of(order)), "it is there, and was to be found"
            await asyncio.to_thread(operator.release, site.config, order.stamp, yes=True, json=False)
            released += 1
    return released


@pytest.fixture
async def central() -> AsyncIterator[CertCentral]:
    async with CertCentral().running() as running:
        yield running


async def test_nothing_is_lost_and_nothing_doubled(central: CertCentral, tmp_path: Path) -> None:
    print(f"CMPD_LEDGER_SEED={SEED} CMPD_LEDGER_TRANSACTIONS={TRANSACTIONS}")  # noqa: T201  shown when it fails
    chance = random.Random(SEED)
    with contextlib.closing(FreePort()) as port:
        connectors = {name: MORE.format(on_unknown) for name, on_unknown in CONNECTORS.items()}
        site = await asyncio.to_thread(site_of, tmp_path / "cmpd", central, port, connectors)
        clients_wanted = TRANSACTIONS * 2 // 3
        renewing = TRANSACTIONS - clients_wanted
        profiles = [f"{kind}-{name}" for kind in KINDS for name in CONNECTORS]
        assigned = [profiles[number % len(profiles)] for number in range(clients_wanted)]

        async def codes(store: Any) -> None:
            for number, profile in enumerate(assigned):
                await store.create_code(profile, f"ee-{number}", SECRET.encode(), 1, None, datetime.now(UTC))

        await asyncio.to_thread(site.store, codes)
        central.set(rate_windows=((100_000, 5.0),), retry_after=1)  # that the budget is kept is another test's
        for profile in ("secure_email_mailbox", "private_ssl_flex"):
            central.set(product=profile, delay=2.0)
        central.faults.randomly(SEED, PROBABILITY, FAULTS, seconds=SLOW)
        done, gate = asyncio.Event(), asyncio.Semaphore(AT_ONCE)
        timeout = aiohttp.ClientTimeout(total=15.0)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            wire = Wire(port, session)
            clients = [
                Client(wire, EE.with_code(f"ee-{number}", SECRET), profile, number)
                for number, profile in enumerate(assigned)
            ]
            order_of_arrival = list(clients)
            chance.shuffle(order_of_arrival)
            troubling = asyncio.create_task(trouble(site, central, chance, done))
            everybody = asyncio.gather(
                *(journey(one, gate, renews=place < renewing) for place, one in enumerate(order_of_arrival))
            )
            try:
                async with asyncio.timeout(WITHIN):
                    released = await release_held(site, central, everybody)
                    await everybody
            finally:
                everybody.cancel()
                done.set()
                await asyncio.gather(troubling, everybody, return_exceptions=True)
            await troubling
        orders = await asyncio.to_thread(site.store, lambda store: store.orders(10_000))
        certificates = {one.serial: one for one in await asyncio.to_thread(site.certificates)}
    promised = [transaction for one in clients for transaction in one.promised]
    confirmed = {key: serial for one in clients for key, serial in one.serials.items()}
    assert len(promised) == len(set(promised)) == TRANSACTIONS
    assert Counter(one.transaction_id for one in orders) == Counter(promised), "each transaction has one order"
    bill = {mark_of(order): central.ledger.entries(stamp=mark_of(order)) for order in orders}
    assert {mark: len(entries) for mark, entries in bill.items()} == dict.fromkeys(bill, 1), "each order is paid once"
    assert len(central.ledger) == len(orders), "and nothing else is"
    assert central.ledger.paid_twice() == {}
    assert {one.state for one in orders} == {OrderState.issued}
    assert {one.transaction_id: one.serial for one in orders} == confirmed, "who was promised one has it"
    assert {certificates[serial].status for serial in confirmed.values()} == {CertificateStatus.valid}
    unanswered = [call for call in central.journal.calls() if call.fault]
    assert len({call.fault for call in unanswered}) == len(FAULTS), "all kinds of faults have occurred"
    print(  # noqa: T201
        f"{len(orders)} orders, {len(central.journal.calls())} calls of which {len(unanswered)} ended badly,"
        f" {released} released, {wire.repeated} messages repeated, bill {Counter(e[0].kind for e in bill.values())}"
    )
