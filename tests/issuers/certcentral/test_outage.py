"""CertCentral cannot be reached for a week: who asks is told to wait, nothing is ordered twice, and all drains."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from cmpd.asn1 import BodyType, PKIStatus
from cmpd.enrollment import waiting as waiting_module
from cmpd.exchange import OrderState
from cmpd.issuers.certcentral import CertCentralClient, CertCentralIssuer
from cmpd.ordering import LONGEST_PAUSE
from cmpd.ports import IssuerUnavailable
from tests.certcentral import CertCentral
from tests.ee import EE, Answer, new_key
from tests.issuers.certcentral import world as simulated
from tests.issuers.certcentral.enrolling import ask, order_of, poll
from tests.world import World

DAY = 86400.0
STEP = 6 * 3600.0


@asynccontextmanager
async def unreachable(central: CertCentral, how: str) -> AsyncIterator[None]:
    """No call has an effect."""
    if how == "nobody listens":
        port = int(central.origin.rpartition(":")[2])
        await central.stop()
        yield
        await central.start(port=port)
    else:
        central.faults.add(how, times=None, status=403)
        yield
        central.faults.clear()


@pytest.fixture
async def timeline(issuer: CertCentralIssuer, world: World) -> simulated.Timeline:
    """The client's own clock, on which pauses take no real time."""
    made = simulated.Timeline()
    await issuer.client.close()
    issuer.client = CertCentralClient(
        issuer.config, issuer.config.read_api_key(), clock=made.clock, sleep=made.sleep, chance=lambda: 0.5
    )
    return made


async def work(world: World, central: CertCentral, timeline: simulated.Timeline, seconds: float = 0.0) -> None:
    """Let time pass for all, and the desk try once."""
    central.advance(timedelta(seconds=seconds))
    world.clock.tick(seconds=seconds)
    timeline.now += seconds
    assert world.desk is not None
    try:
        await world.desk.once("local")
    except IssuerUnavailable:
        world.desk._back_off(("local", True))
    else:
        world.desk._failures.clear()


@pytest.mark.parametrize("kind", ["nobody listens", "error_500", "html"])
async def test_a_week_without_certcentral(
    world: World, central: CertCentral, issuer: CertCentralIssuer, timeline: simulated.Timeline, kind: str
) -> None:
    central.set(delay=3600.0)
    placed = await ask(world, await world.code("placed", profile="mail"))
    await work(world, central, timeline)
    lost_ee = await world.code("lost", profile="mail")
    central.faults.add("commit_then_drop", endpoint="order")
    lost = await ask(world, lost_ee)
    await work(world, central, timeline)
    assert (await order_of(world, lost)).state is OrderState.unknown
    before = len(central.ledger)
    waiting: list[tuple[EE, Answer]] = []
    async with unreachable(central, kind):
        await work(world, central, timeline, 61.0)
        for day in range(7):
            ee = await world.code(f"day-{day}", profile="mail")
            answer = await ask(world, ee)
            assert answer.status is PKIStatus.waiting, "an outage is a wait for who asks"
            waiting.append((ee, answer))
            for _ in range(4):
                await work(world, central, timeline, STEP)
            for number, (one, last) in enumerate(waiting):
                rep = await poll(world, one, last)
                assert rep.type is BodyType.pollRep
                assert 60 <= rep.body[0].checkAfter <= 900, "the longer the wait, the seldomer, and never for long"
                waiting[number] = one, rep
        assert len(central.ledger) == before, "nothing got through"
        assert (await order_of(world, placed)).state is OrderState.ordered
        assert (await order_of(world, lost)).state is OrderState.unknown, "nobody can say that it is not there"
    for _ in range(4):
        await work(world, central, timeline, LONGEST_PAUSE)
    for _ in range(2):
        await work(world, central, timeline, 3600.0)
    for ee, last in waiting:
        final = await poll(world, ee, last)
        assert final.type is BodyType.ip, final.body
        done = await world.send(ee, ee.cert_conf(final, hash_name="sha256"), profile="mail")
        assert done.type is BodyType.pkiconf
    assert (await order_of(world, placed)).state is OrderState.issued
    assert (await order_of(world, lost)).state is OrderState.issued
    assert len(central.ledger.orders()) == 2 + 7
    assert central.ledger.paid_twice() == {}


@pytest.fixture
def no_polling(world: World, issuer: CertCentralIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients of the profile cannot poll."""
    monkeypatch.setattr(waiting_module, "NO_POLLING_SECONDS", 0.0)
    world.profiles["mail"] = replace(world.profiles["mail"], polling=False)
    world.restart()


@pytest.mark.usefixtures("no_polling")
async def test_who_cannot_poll_is_refused_while_nobody_can_be_reached(
    world: World, central: CertCentral, issuer: CertCentralIssuer, timeline: simulated.Timeline
) -> None:
    """Nothing is kept and nothing is used up: later the same code is good for the same request."""
    ee = await world.code(profile="mail")
    async with unreachable(central, "nobody listens"):
        await work(world, central, timeline)
        other = await ask(world, await world.code("other", profile="mail"))
        await work(world, central, timeline)
        refused = await ask(world, ee)
        assert (refused.status, refused.fail_info) == (PKIStatus.rejection, "systemUnavail"), refused.text
        assert refused.text == "the issuing CA is not available; try again later"
        assert await world.used(profile="mail") == 0
        assert await world.store.orders_of(refused.message.header.transactionID or b"") == ()
    assert other.fail_info == "systemUnavail", "that CertCentral is not there was not known yet"
    for _ in range(3):
        await work(world, central, timeline, LONGEST_PAUSE)
    assert (await order_of(world, other)).state is OrderState.issued, "and it is kept for who asks again"
    assert (await ask(world, ee)).text == "the certificate is on order; ask for it again later, with the same key"
    assert await world.used(profile="mail") == 1


@pytest.mark.usefixtures("no_polling")
async def test_who_cannot_poll_gets_by_the_same_request_what_was_ordered(
    world: World, central: CertCentral, issuer: CertCentralIssuer, timeline: simulated.Timeline
) -> None:
    """In a new transaction, by a code that has no other use left; nothing is ordered a second time."""
    central.set(delay=3600.0)
    ee, key = await world.code(profile="mail"), new_key("rsa-2048")
    for _ in range(3):
        answer = await ask(world, ee, key=key)
        assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "systemUnavail"), answer.text
        await work(world, central, timeline, 61.0)
    await work(world, central, timeline, 3600.0)
    final = await ask(world, ee, key=key)
    assert final.status in {PKIStatus.accepted, PKIStatus.grantedWithMods}, final.text
    done = await world.send(ee, ee.cert_conf(final, hash_name="sha256"), profile="mail")
    assert done.type is BodyType.pkiconf
    assert len(central.ledger.orders()) == 1
    assert await world.used(profile="mail") == 1


@pytest.mark.usefixtures("no_polling")
async def test_a_code_without_a_use_left_orders_nothing_else(
    world: World, central: CertCentral, issuer: CertCentralIssuer, timeline: simulated.Timeline
) -> None:
    ee = await world.code(profile="mail")
    await ask(world, ee)
    answer = await ask(world, ee)
    assert (answer.fail_info, answer.text) == ("notAuthorized", "enrollment code has been used up")
    await work(world, central, timeline)
    assert len(central.ledger.orders()) == 1
