"""RFC 9483 §4.4, §5.1.5: the issuer takes its time, and the EE polls."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from cmpd import ordering
from cmpd.asn1 import BodyType, PKIStatus
from cmpd.enrollment import waiting
from cmpd.exchange import CertificateStatus, Order, OrderState, TransactionState
from cmpd.issuers.local import LocalIssuer
from cmpd.ordering import HELD, OrderDesk
from cmpd.ports import Issued, OnOrder, OrderNotDone, OrderRefused, OrderUnknown
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
    ca.at_once = True
    ee = await world.code()
    draft = ee.ir()
    data = ee.seal(draft)
    first = asyncio.create_task(world.post(data))
    while not await world.store.orders(1):
        await asyncio.sleep(0)
    copy = asyncio.create_task(world.post(data))
    await asyncio.sleep(0.05)
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


# What a request is held open for


class Gated(SlowCA):
    """One that answers when it is told to."""

    def __init__(self, ca: LocalIssuer) -> None:
        super().__init__(ca)
        self.gate = asyncio.Event()
        self.begun = 0

    async def submit(self, order: Order, /) -> OnOrder | Issued:
        self.begun += 1
        await self.gate.wait()
        return await super().submit(order)


@pytest.fixture
async def gated(world: World, ca: SlowCA, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gated]:
    """An issuer that is waited for, and a desk that works."""
    monkeypatch.setattr(waiting, "PROMPT_SECONDS", 60.0)
    slow = Gated(ca.ca)
    world.issuer = slow
    world.desk = OrderDesk(world.store, {"local": slow}, world.clock)
    world.profile()
    world.desk.start()
    yield slow
    await world.desk.stop()


async def asked(world: World, reference: str) -> asyncio.Task[Answer]:
    """A request of another EE, which is under way."""
    ee = await world.code(reference)
    draft = ee.ir(key=new_key(), subject=f"CN={reference}")
    return asyncio.get_running_loop().create_task(world.send(ee, draft))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_request_is_not_held_for_an_order_that_the_issuer_has_and_does_not_issue(
    world: World, gated: Gated
) -> None:
    """Nothing more comes of it soon."""
    gated.gate.set()
    answer = await (await asked(world, "one"))
    assert answer.status is PKIStatus.waiting
    assert len(gated.orders) == 1


async def test_only_so_many_requests_are_held_open(world: World, gated: Gated) -> None:
    """The others hear at once that they have to wait, and their orders are placed side by side all the same."""
    held = [await asked(world, f"held-{number}") for number in range(HELD)]
    await until(lambda: gated.begun == HELD)
    more = await (await asked(world, "one-more"))
    assert more.status is PKIStatus.waiting
    assert not any(task.done() for task in held)
    await until(lambda: gated.begun == HELD + 1)
    gated.at_once = True
    gated.gate.set()
    assert {(await task).status for task in held} == {PKIStatus.accepted}


async def test_nobody_is_held_open_for_an_issuer_that_is_slow_until_it_is_quick_again(
    world: World, gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PROMPT_SECONDS", 0.05)
    first = await (await asked(world, "first"))
    assert first.status is PKIStatus.waiting
    monkeypatch.setattr(waiting, "PROMPT_SECONDS", 60.0)
    second = await (await asked(world, "second"))
    assert second.status is PKIStatus.waiting
    assert gated.begun == 1 or len(gated.orders) == 0
    monkeypatch.setattr(ordering, "QUICK_SECONDS", 60.0)
    gated.at_once = True
    gated.gate.set()
    await until(lambda: len(gated.done) == 2)
    await until(lambda: world.desk is not None and world.desk._at("local").quick)
    assert (await (await asked(world, "third"))).status is PKIStatus.accepted


async def test_a_submission_that_hangs_keeps_no_other_waiting(world: World, gated: Gated) -> None:
    """Nor does it keep what has been placed before from being seen to."""
    hanging = await asked(world, "hanging")
    await until(lambda: gated.begun == 1)
    gate, gated.gate = gated.gate, asyncio.Event()
    gated.gate.set()
    gated.at_once = True
    assert (await (await asked(world, "other"))).status is PKIStatus.accepted
    assert not hanging.done()
    gate.set()
    assert (await hanging).status is PKIStatus.accepted


async def test_looking_at_many_orders_keeps_no_new_one_waiting(world: World, gated: Gated) -> None:
    looking = asyncio.Event()
    go_on = asyncio.Event()

    async def look(orders: Sequence[Order], /) -> dict[str, Any]:
        looking.set()
        await go_on.wait()
        return {}

    gated.gate.set()
    placed = await (await asked(world, "placed"))
    assert placed.status is PKIStatus.waiting
    gated.look = look  # type: ignore[method-assign]
    world.clock.tick(seconds=gated.sweep_seconds + 1)
    async with asyncio.timeout(30):
        await looking.wait()
    gated.at_once = True
    ee = await world.code("new")
    ee.now = world.clock()
    assert (await world.send(ee, ee.ir(key=new_key(), subject="CN=new"))).status is PKIStatus.accepted
    go_on.set()


async def test_pauses_grow_while_an_issuer_cannot_be_reached_and_begin_anew_when_it_can(
    world: World, gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "LONGEST_PAUSE", 0.01)
    desk = world.desk
    assert desk is not None
    gated.before += [OrderNotDone("no way there", 0.0) for _ in range(5)]
    most = 0
    back_off = OrderDesk._back_off

    def counted(self: OrderDesk, which: tuple[str, bool]) -> float:
        nonlocal most
        pause = back_off(self, which)
        most = max(most, self._failures[which])
        return pause

    monkeypatch.setattr(OrderDesk, "_back_off", counted)
    gated.gate.set()
    assert (await (await asked(world, "one"))).status is PKIStatus.waiting
    await until(lambda: len(gated.orders) == 1)
    assert most == 5
    await until(lambda: not desk._failures)
