"""RFC 9483 §4.4, §5.1.5: the issuer takes its time, and the EE polls."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cmpd.asn1 import BodyType, PKIStatus
from cmpd.enrollment import waiting
from cmpd.exchange import CertificateStatus, OrderState, TransactionState
from cmpd.issuers.local import LocalIssuer
from cmpd.ordering import OrderDesk
from cmpd.ports import OrderNotDone, OrderRefused, OrderUnknown
from tests.ee import IMPLICIT_CONFIRM, Answer, new_key
from tests.orders import SlowCA
from tests.world import World


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not come at once is waited for by polling."""
    monkeypatch.setattr(waiting, "PROMPT_SECONDS", 0.0)


@pytest.fixture
def ca(world: World) -> SlowCA:
    assert isinstance(world.issuer, LocalIssuer)
    slow = SlowCA(world.issuer)
    world.issuer = slow
    world.desk = OrderDesk(world.store, {"local": slow}, world.clock)
    world.profile()
    return slow


async def work(world: World) -> None:
    """Let the desk do what is due now."""
    assert world.desk is not None
    await world.desk.once("local")


async def state_of(world: World, answer: Answer) -> TransactionState | None:
    found = await world.store.transaction(answer.message.header.transactionID or b"")
    return None if found is None else found.state


async def test_a_certificate_that_takes_its_time(world: World, ca: SlowCA) -> None:
    """The whole flow of the section, from the request to pkiconf."""
    ee = await world.code()
    draft = ee.ir()
    answer = await world.send(ee, draft)
    assert (answer.type, answer.status, answer.fail_info) == (BodyType.ip, PKIStatus.waiting, None)
    assert world.last.outcome == "waiting"
    assert await world.used() == 1, "the code is bound to what it has ordered"
    await work(world)
    poll = ee.poll_req(answer)
    rep = await world.send(ee, poll)
    assert rep.type is BodyType.pollRep
    (one,) = rep.body
    assert (one.certReqId, one.reason) == (0, ["the organization is being validated"])
    assert one.checkAfter >= 5
    await ca.deliver()
    world.clock.tick(seconds=one.checkAfter + 30)
    ee.now = world.clock()
    await work(world)
    final = await world.send(ee, ee.poll_req(rep))
    assert (final.type, final.status) == (BodyType.ip, PKIStatus.accepted), final.text
    assert await state_of(world, final) is TransactionState.unconfirmed
    done = await world.send(ee, ee.cert_conf(final, hash_name="sha256"))
    assert done.type is BodyType.pkiconf
    (kept,) = await world.store.certificates(10)
    assert (kept.der, kept.status) == (final.certificate_der(), CertificateStatus.valid)
    assert len(ca.orders) == 1


async def test_the_same_octets_get_the_same_answer_while_it_waits(world: World, ca: SlowCA) -> None:
    ee = await world.code()
    draft = ee.ir()
    data = ee.seal(draft)
    first = await world.post(data)
    assert await world.post(data) == first
    answer = ee.read(first, draft)
    poll = ee.poll_req(answer)
    sealed = ee.seal(poll)
    assert await world.post(sealed) == await world.post(sealed)
    world.restart()
    assert await world.post(data) == first
    await work(world)
    assert len(ca.orders) == 1


async def test_two_copies_of_a_poll_at_once_have_one_answer_and_the_next_poll_follows_it(
    world: World, ca: SlowCA
) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    await work(world)
    poll = ee.poll_req(answer)
    sealed = ee.seal(poll)
    replies = set(await asyncio.gather(*(world.post(sealed) for _ in range(3))))
    assert len(replies) == 1
    rep = ee.read(replies.pop(), poll)
    assert rep.type is BodyType.pollRep
    assert (await world.send(ee, ee.poll_req(rep))).type is BodyType.pollRep


async def test_a_copy_of_a_request_that_is_being_answered_waits_for_the_answer(
    world: World, ca: SlowCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was told `waiting` would poll for what the other copy has been given."""
    monkeypatch.setattr(waiting, "PROMPT_SECONDS", 5.0)
    ee = await world.code()
    draft = ee.ir()
    data = ee.seal(draft)
    first = asyncio.create_task(world.post(data))
    while not await world.store.orders(1):
        await asyncio.sleep(0)
    copy = asyncio.create_task(world.post(data))
    await work(world)
    await ca.deliver()
    world.clock.tick(seconds=1)
    await world.store.move_order(replace((await world.store.orders(1))[0], due=world.clock()), seen=OrderState.ordered)
    await work(world)
    replies = {await first, await copy}
    assert len(replies) == 1
    assert ee.read(replies.pop(), draft).status is PKIStatus.accepted


async def test_a_request_that_was_answered_late_is_polled_for(
    world: World, ca: SlowCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copies have been told to wait meanwhile."""
    monkeypatch.setattr(waiting, "PROMPT_SECONDS", 0.2)
    ca.at_once = True
    ee = await world.code()
    first = asyncio.create_task(world.send(ee, ee.ir()))
    while not await world.store.orders(1):
        await asyncio.sleep(0)
    world.clock.tick(seconds=1)
    ee.now = world.clock()
    await work(world)
    answer = await first
    assert answer.status is PKIStatus.waiting
    assert (await world.send(ee, ee.poll_req(answer))).status is PKIStatus.accepted


async def test_what_comes_at_once_is_not_waited_for(world: World, ca: SlowCA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PROMPT_SECONDS", 5.0)
    ca.at_once = True
    assert world.desk is not None
    world.desk.start()
    try:
        ee = await world.code()
        draft = ee.ir()
        data = ee.seal(draft)
        raw = await world.post(data)
        answer = ee.read(raw, draft)
        assert (answer.type, answer.status) == (BodyType.ip, PKIStatus.accepted)
        assert await world.post(data) == raw, "a retransmission gets it as well"
        assert (await world.send(ee, ee.cert_conf(answer, hash_name="sha256"))).type is BodyType.pkiconf
    finally:
        await world.desk.stop()


async def test_implicit_confirm_is_remembered(world: World, ca: SlowCA) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir(header={"general_info": IMPLICIT_CONFIRM}))
    await work(world)
    await ca.deliver()
    world.clock.tick(seconds=31)
    ee.now = world.clock()
    await work(world)
    final = await world.send(ee, ee.poll_req(answer))
    assert final.status is PKIStatus.accepted
    assert await state_of(world, final) is TransactionState.confirmed
    assert (await world.store.certificates(1))[0].status is CertificateStatus.valid


async def test_a_refusal_of_the_issuer_says_why(world: World, ca: SlowCA) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    await work(world)
    ca.refuse()
    world.clock.tick(seconds=31)
    ee.now = world.clock()
    await work(world)
    final = await world.send(ee, ee.poll_req(answer))
    assert (final.type, final.status, final.fail_info) == (BodyType.ip, PKIStatus.rejection, "notAuthorized")
    assert final.text == "the mailbox could not be validated"
    assert await state_of(world, final) is TransactionState.refused


async def test_a_poll_for_another_certificate(world: World, ca: SlowCA) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    refused = await world.send(ee, ee.poll_req(answer, 5))
    assert (refused.type, refused.fail_info) == (BodyType.error, "badRequest")
    assert (await world.send(ee, ee.poll_req(answer, -1))).type is BodyType.pollRep, "the whole message"


async def test_a_poll_where_nothing_waits(world: World) -> None:
    ee = await world.code()
    draft = ee.ir()
    answer = await world.send(ee, draft)
    refused = await world.send(ee, ee.poll_req(answer))
    assert (refused.type, refused.fail_info) == (BodyType.error, "badRequest")


async def test_somebody_else_cannot_poll(world: World, ca: SlowCA) -> None:
    ee, other = await world.code(), await world.code("device-2", secret="another")
    answer = await world.send(ee, ee.ir())
    refused = await world.send(other, other.poll_req(answer))
    assert refused.fail_info == "notAuthorized"
    assert await state_of(world, answer) is TransactionState.waiting


FAULTS: list[tuple[str, Callable[[SlowCA], Any], OrderState]] = [
    ("lost before it arrived", lambda ca: ca.before.append(OrderUnknown("reset")), OrderState.unknown),
    ("lost after it arrived", lambda ca: ca.after.append(OrderUnknown("reset")), OrderState.unknown),
    ("an internal error after it arrived", lambda ca: ca.after.append(RuntimeError("!")), OrderState.unknown),
    ("refused", lambda ca: ca.before.append(OrderRefused("no")), OrderState.failed),
]


@pytest.mark.parametrize(("name", "cause", "state"), FAULTS, ids=[name for name, *_ in FAULTS])
async def test_what_is_not_known_is_not_sent_again(world: World, ca: SlowCA, name: str, cause: Any, state: Any) -> None:
    """One order for each that was kept: it is looked for, and held when it is not to be found."""
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    cause(ca)
    await work(world)
    (order,) = await world.store.orders_of(answer.message.header.transactionID or b"")
    assert order.state is state
    arrived = len(ca.orders)
    for _ in range(8):
        world.clock.tick(seconds=31)
        await work(world)
    assert len(ca.orders) == arrived, "never a second time"
    (order,) = await world.store.orders_of(answer.message.header.transactionID or b"")
    if state is OrderState.unknown:
        assert order.state is (OrderState.ordered if arrived else OrderState.held), order.private


async def test_what_was_certainly_not_done_is_sent_again(world: World, ca: SlowCA) -> None:
    """A 429, or nobody there: the EE hears nothing of it but to wait."""
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    ca.before.append(OrderNotDone("429", 10))
    with pytest.raises(Exception, match="429"):
        await work(world)
    assert (await world.send(ee, ee.poll_req(answer))).type is BodyType.pollRep
    world.clock.tick(seconds=11)
    await work(world)
    assert len(ca.orders) == 1


async def test_the_process_dies_while_it_orders(world: World, ca: SlowCA) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    ca.after.append(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await work(world)
    (order,) = await world.store.orders_of(answer.message.header.transactionID or b"")
    assert order.state is OrderState.submitting
    world.clock.tick(minutes=3)
    await work(world)
    world.clock.tick(seconds=1)
    await work(world)
    (order,) = await world.store.orders_of(answer.message.header.transactionID or b"")
    assert (order.state, order.ticket, len(ca.orders)) == (OrderState.ordered, "order-1", 1)


async def test_what_is_not_what_was_approved_is_held_and_not_handed_out(world: World, ca: SlowCA) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir(subject="CN=device-1"))
    await work(world)
    ca.difference = lambda *_: "subject differs"  # type: ignore[method-assign]
    await ca.deliver()
    world.clock.tick(seconds=31)
    ee.now = world.clock()
    await work(world)
    assert (await world.send(ee, ee.poll_req(answer))).type is BodyType.pollRep
    (order,) = await world.store.orders_of(answer.message.header.transactionID or b"")
    assert order.state is OrderState.held
    assert "subject differs" in order.private
    assert await world.store.certificates(1) == []


async def test_the_same_request_in_another_transaction_orders_nothing(world: World, ca: SlowCA) -> None:
    """A client that lost its state begins anew: it gets what it has ordered, and no second order is paid."""
    world.profile(key={"same_key_elsewhere": False})
    ee = await world.code(uses=2)
    key = new_key()
    first = await world.send(ee, ee.ir(key, subject="CN=device-1"))
    await work(world)
    second = await world.send(ee, ee.ir(key, subject="CN=device-1"))
    assert second.status is PKIStatus.waiting, second.text
    await work(world)
    assert len(ca.orders) == 1
    await ca.deliver()
    world.clock.tick(seconds=31)
    ee.now = world.clock()
    await work(world)
    final = await world.send(ee, ee.poll_req(second))
    assert final.status is PKIStatus.accepted, final.text
    assert await state_of(world, first) is TransactionState.refused
    assert await world.used() == 1


async def test_kur_and_p10cr_wait_too(world: World, ca: SlowCA) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.p10cr(subject="CN=device-1"))
    assert (answer.type, answer.status) == (BodyType.cp, PKIStatus.waiting)
    assert answer.body.response[0].certReqId == -1
    await work(world)
    assert next(iter(ca.orders.values())).approved.request is not None, "the PKCS #10 request goes along"
    await ca.deliver()
    world.clock.tick(seconds=31)
    ee.now = world.clock()
    await work(world)
    final = await world.send(ee, ee.poll_req(answer, -1))
    assert (final.type, final.status) == (BodyType.cp, PKIStatus.accepted), final.text
