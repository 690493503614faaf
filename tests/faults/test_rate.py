"""CertCentral refuses an API key that calls too often: it never has to, also when the daemon is killed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cmpd.asn1 import BodyType
from cmpd.exchange import OrderState
from cmpd.settings import Listen
from tests.certcentral import CertCentral
from tests.certcentral.journal import most_within
from tests.daemon import SECRET, Daemon, FreePort, Site
from tests.ee import EE
from tests.faults.buying import Client, Wire, site_of
from tests.faults.hasty import Hasty

pytestmark = pytest.mark.long

CLIENTS = 150
SMALL = 40
"""A budget that two daemons have in common."""
FIRST, SECOND = 50, 30
"""Clients of the two."""
BUDGET = 70
DIGICERT = 100
"""Calls that are admitted in any five seconds."""


@pytest.fixture
async def central() -> AsyncIterator[CertCentral]:
    async with CertCentral().running() as running:
        yield running


async def test_the_budget_is_kept_and_used_up_and_a_restart_stays_within_the_limit(
    central: CertCentral, tmp_path: Path
) -> None:
    """Many orders and faults; the first daemon is killed when its budget is used up."""
    with contextlib.closing(FreePort()) as port:
        more = {"one": f'requests_per_5_seconds = {BUDGET}\nfailures_to_open = 1000\non_unknown = "resubmit"'}
        site = await asyncio.to_thread(site_of, tmp_path / "cmpd", central, port, more)

        async def codes(store: Any) -> None:
            for number in range(CLIENTS):
                await store.create_code("mail-one", f"ee-{number}", SECRET.encode(), 1, None, datetime.now(UTC))

        await asyncio.to_thread(site.store, codes)
        central.faults.randomly(1, 0.1, ("commit_then_drop", "commit_then_500"), endpoint="order")
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            wire = Wire(port, session)
            clients = [Client(wire, EE.with_code(f"ee-{n}", SECRET), "mail-one", n) for n in range(CLIENTS)]
            everybody = asyncio.gather(*(one.enroll(BodyType.ir) for one in clients))
            try:
                before = await life(site, central, lambda: len(central.journal.calls()) >= DIGICERT)
                killed = len(before)
                central.faults.clear()
                after = await life(site, central, everybody.done)
            finally:
                everybody.cancel()
                await asyncio.gather(everybody, return_exceptions=True)
    assert BUDGET * 0.8 < most_within(before, 5.0) <= BUDGET, "it is used, and not more of it than there is"
    assert most_within(after[killed:], 5.0) <= BUDGET
    assert most_within(after, 5.0) <= DIGICERT
    assert after[killed] - before[-1] < 5.0, "the second one has begun in the window of the first"
    assert central.journal.calls(status=429) == [], "nobody was refused"
    orders = await asyncio.to_thread(site.store, lambda store: store.orders(10_000))
    assert [one.state for one in orders] == [OrderState.issued] * CLIENTS
    assert len(central.ledger) == CLIENTS


async def test_two_daemons_stay_within_one_budget_also_while_the_second_joins(
    central: CertCentral, tmp_path: Path
) -> None:
    """The second one starts when the first uses all there is, and has orders to place at once."""
    more = {"one": f"requests_per_5_seconds = {SMALL}\nrequests_per_3_minutes = 500"}
    site = await asyncio.to_thread(site_of, tmp_path / "cmpd", central, None, more)

    async def codes(store: Any) -> None:
        for number in range(FIRST + SECOND):
            await store.create_code("mail-one", f"ee-{number}", SECRET.encode(), 1, None, datetime.now(UTC))

    await asyncio.to_thread(site.store, codes)
    with contextlib.ExitStack() as stack:

        async def start() -> Place:
            daemon = Hasty(site.config, keeps_limits=True)
            return Place(await asyncio.to_thread(stack.enter_context, site.serve(daemon)))

        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.timeout(180.0):

            def enroll(place: Place, some: range) -> asyncio.Future[Any]:
                wire = Wire(place, session)
                clients = [Client(wire, EE.with_code(f"ee-{n}", SECRET), "mail-one", n) for n in some]
                return asyncio.gather(*(client.enroll(BodyType.ir) for client in clients))

            one = await start()
            everybody = [enroll(one, range(FIRST))]
            try:
                while most_within(elapsed(central), 5.0) < SMALL * 0.9:
                    await asyncio.sleep(0.05)
                two = await start()
                joined = elapsed(central)[-1]
                everybody.append(enroll(two, range(FIRST, FIRST + SECOND)))
                await asyncio.gather(*everybody)
            finally:
                for some in everybody:
                    some.cancel()
                await asyncio.gather(*everybody, return_exceptions=True)
    times = elapsed(central)
    assert most_within(times, 5.0) <= SMALL
    assert most_within([at for at in times if at > joined + 7.0], 5.0) > SMALL // 2, "both use their part"
    assert central.journal.calls(status=429) == [], "nobody was refused"
    assert len(central.ledger) == FIRST + SECOND


class Place:
    """Where a daemon listens."""

    def __init__(self, daemon: Daemon) -> None:
        self.listen = Listen.parse(daemon.cmp)


def elapsed(central: CertCentral) -> list[float]:
    """When the simulator was called."""
    return [call.elapsed for call in central.journal.calls()]


async def life(site: Site, central: CertCentral, over: Any) -> list[float]:
    """A daemon until it is over with it; when the simulator was called, since the beginning."""
    with contextlib.ExitStack() as stack:
        daemon = await asyncio.to_thread(stack.enter_context, site.serve(Hasty(site.config, keeps_limits=True)))
        async with asyncio.timeout(120.0):
            while not over():
                await asyncio.sleep(0.05)
        await asyncio.to_thread(daemon.kill)
    return [call.elapsed for call in central.journal.calls()]
