"""What the desk and CertCentral do with what goes wrong for one order, while the others go on."""

from dataclasses import replace
from datetime import timedelta

import pytest

from cmpd.asn1 import BodyType, PKIStatus
from cmpd.exchange import Order, OrderState
from cmpd.issuers.certcentral import CertCentralIssuer
from cmpd.issuers.certcentral.orders import NotNow
from cmpd.issuers.certcentral.pacing import BreakerState
from cmpd.ports import IssuerUnavailable
from tests.certcentral import CertCentral
from tests.ee import EE, Answer, new_key
from tests.issuers.certcentral.enrolling import ask, hosts, order_of, poll, work
from tests.world import World

HOUR = 3600.0


async def states(world: World) -> list[OrderState]:
    """Of all orders, the oldest first."""
    return [one.state for one in reversed(await world.store.orders(100))]


async def several(world: World, count: int) -> list[Answer]:
    return [await ask(world, await world.code(f"mail-{number}", profile="mail")) for number in range(count)]


async def test_a_lost_order_is_found_for_the_transaction_that_has_taken_it_over(
    world: World, central: CertCentral, issuer: CertCentralIssuer
) -> None:
    """The answer of the API is lost, the client gives up, and asks for the same key again in a new transaction."""
    central.faults.add("commit_then_drop", endpoint="order")
    central.faults.add("error_500", endpoint="order_list", times=None)
    key = new_key("rsa-2048")
    ee = await world.code(profile="mail", uses=2)
    await ask(world, ee, key=key)
    await work(world, central)
    with pytest.raises(IssuerUnavailable):
        await work(world, central)
    again = await ask(world, ee, key=key)
    assert again.status is PKIStatus.waiting, again.text
    central.faults.clear()
    issuer.client.breaker._pause = 0.0  # its clock is the real one
    for _ in range(12):
        await work(world, central, 61)
    final = await poll(world, ee, again)
    assert final.type is BodyType.ip, (await order_of(world, again)).private
    assert len(central.ledger.orders()) == 1


async def test_an_order_that_was_found_again_is_looked_at_next(
    world: World, central: CertCentral, issuer: CertCentralIssuer
) -> None:
    """It was issued while it was lost: nobody says so a second time, and the sweep comes once a day."""
    central.faults.add("commit_then_drop", endpoint="order")
    central.set(hide_chain=True)
    answer = await ask(world, await world.code(profile="mail"))
    await work(world, central)
    assert (await order_of(world, answer)).state is OrderState.unknown
    assert world.desk is not None
    world.desk._polled["local"] = world.clock() + timedelta(hours=1)  # changes have been asked for since
    await work(world, central, 1)
    await work(world, central, 1)
    assert (await order_of(world, answer)).state is OrderState.issued


async def test_one_order_that_cannot_be_looked_at_holds_up_no_other(
    world: World, central: CertCentral, issuer: CertCentralIssuer
) -> None:
    central.set(delay=HOUR)
    answers = await several(world, 3)
    await work(world, central)
    sick = central.ledger.orders()[0].order_id
    central.faults.add("error_500", endpoint="order_info", order=sick, times=None)
    await work(world, central, HOUR)
    assert await states(world) == [OrderState.ordered, OrderState.issued, OrderState.issued]
    later = await ask(world, await world.code("later", profile="mail"))
    await work(world, central)
    assert (await order_of(world, later)).state is not OrderState.intended, "and nobody who comes"
    central.faults.clear()
    await work(world, central, 61)
    assert (await order_of(world, answers[0])).state is OrderState.issued


async def test_what_a_failing_api_leaves_over_is_looked_at_when_it_is_back(
    world: World, central: CertCentral, issuer: CertCentralIssuer
) -> None:
    """Not a day later: that something has changed is told once."""
    central.set(delay=HOUR)
    await several(world, 4)
    await work(world, central)
    central.faults.add("error_500", endpoint="order_info", skip=1, times=None)
    issuer.client.breaker._most = 3  # it opens in the middle of the first orders that fail
    await work(world, central, HOUR + 600)
    assert issuer.client.breaker.state is BreakerState.open
    assert sorted(await states(world)) == [OrderState.issued, *[OrderState.ordered] * 3]
    central.faults.clear()
    issuer.client.breaker._pause = 0.0
    for _ in range(3):  # the first call only tries
        await work(world, central, 600)
    assert await states(world) == [OrderState.issued] * 4


async def test_a_search_that_fails_keeps_nothing_else_from_going_on(
    world: World, central: CertCentral, issuer: CertCentralIssuer
) -> None:
    central.set(delay=HOUR)
    placed = await ask(world, await world.code("placed", profile="mail"))
    await work(world, central)
    central.faults.add("commit_then_drop", endpoint="order")
    await ask(world, await world.code("lost", profile="mail"))
    await work(world, central)
    issuer.client.breaker._most = 100
    central.faults.add("html", endpoint="order_list", times=None, status=403)
    with pytest.raises(IssuerUnavailable):
        await work(world, central, HOUR)
    assert (await order_of(world, placed)).state is OrderState.issued


async def test_what_only_one_order_waits_for_is_no_outage(
    world: World, central: CertCentral, issuer: CertCentralIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kur whose order has another reissue under way, for instance."""

    def not_now(order: Order) -> None:
        raise NotNow("issuer_options.renew_strategy: another reissue is under way")

    answer = await ask(world, await world.code(profile="mail"))
    monkeypatch.setattr(CertCentralIssuer, "_use", lambda _, order: not_now(order))
    await work(world, central)
    monkeypatch.undo()
    assert (await order_of(world, answer)).state is OrderState.intended
    await work(world, central, 61)
    assert (await order_of(world, answer)).state is OrderState.issued


async def test_a_reissue_that_was_never_made_is_held_as_something_that_the_issuer_does_not_have(
    world: World, central: CertCentral, issuer: CertCentralIssuer
) -> None:
    """Whoever releases it has it made: what says where to look for it is not its number over there."""
    ee = await world.code("server", profile="server")
    key = new_key("rsa-2048")
    first = await ask(world, ee, "server", key=key, subject="CN=a.example.com", **hosts("a.example.com"))
    await work(world, central)
    final = await poll(world, ee, first, "server")
    assert (await world.send(ee, ee.cert_conf(final, hash_name="sha256"), profile="server")).type is BodyType.pkiconf
    holder = EE.with_certificate(key, final.certificate_der(), now=world.clock())
    central.faults.add("drop", endpoint="reissue")
    answer = await world.send(holder, holder.kur(new_key("rsa-2048"), subject=""), profile="server")
    assert answer.status is PKIStatus.waiting, answer.text
    for _ in range(8):
        await work(world, central, 61)
    held = await order_of(world, answer)
    assert (held.state, held.ticket) == (OrderState.held, "")
    await world.store.move_order(replace(held, state=OrderState.intended, due=world.clock()), seen=held.state)
    for _ in range(2):
        await work(world, central, 61)
    assert (await order_of(world, answer)).state is OrderState.issued
    assert [entry.kind for entry in central.ledger.entries()] == ["order", "reissue"]


@pytest.mark.parametrize("state", [OrderState.intended, OrderState.unknown, OrderState.ordered])
async def test_orders_of_a_profile_that_is_gone_hold_up_no_others(
    world: World, central: CertCentral, issuer: CertCentralIssuer, state: OrderState
) -> None:
    central.set(delay=HOUR)
    gone = await ask(world, await world.code("gone", profile="mail"))
    if state is OrderState.unknown:
        central.faults.add("commit_then_drop", endpoint="order")
    if state is not OrderState.intended:
        await work(world, central)
    assert (await order_of(world, gone)).state is state
    use = issuer._uses.pop("mail")
    ee = await world.code("other", profile="server")
    other = await ask(world, ee, "server", subject="CN=a.example.com", **hosts("a.example.com"))
    for _ in range(3):
        await work(world, central, HOUR)
    assert (await order_of(world, other)).state is OrderState.issued
    kept = await order_of(world, gone)
    assert kept.state is state
    issuer._uses["mail"] = use
    for _ in range(3):
        await work(world, central, HOUR)
    assert (await order_of(world, gone)).state is OrderState.issued


async def test_a_certificate_that_is_not_what_was_approved_is_held_under_its_number(
    world: World, central: CertCentral, issuer: CertCentralIssuer
) -> None:
    """Though it came with the answer: it is bought, and to release it must not buy another one."""
    central.set(misissue="san")
    answer = await ask(world, await world.code(profile="mail"))
    for _ in range(3):
        await work(world, central, 61)
    held = await order_of(world, answer)
    (bought,) = central.ledger.orders()
    assert (held.state, held.ticket) == (OrderState.held, str(bought.order_id))
