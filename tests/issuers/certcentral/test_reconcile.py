"""Orders whose answer was lost are found by key and mark, and nothing else is taken for them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cmpd.exchange import Approved
from cmpd.issuers.certcentral import CertCentralClient, CertCentralConfig, ProfileFacts, orders
from cmpd.issuers.certcentral.answers import NotDone, Ordered, OrderInfo, Unknown
from cmpd.issuers.certcentral.client import CallFailed
from cmpd.issuers.certcentral.reconcile import Sought, find, find_again, is_it, key_of, stamps
from tests.certcentral import CertCentral
from tests.certcentral.catalogue import DIVISION, STAMP_FIELD
from tests.issuers.certcentral import world
from tests.issuers.certcentral.world import approved, csr, mark, new_key, placed, prepared, profile, rsa_key, spki


def sought(request: Approved, product: str = "secure_email_mailbox", **more: object) -> Sought:
    return replace(Sought(product, request.spki, mark(request), datetime.now(UTC)), **more)  # type: ignore[arg-type]


async def lose(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig, **more: object
) -> Approved:
    """An order that exists and whose answer never came."""
    request = approved("mailbox")
    ready = prepared(request, "mailbox", connector, **more)
    central.faults.add("commit_then_drop", endpoint="order")
    assert isinstance(await client.order(ready.product, ready.body), Unknown)
    return request


async def test_a_lost_order_is_found(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig
) -> None:
    for _ in range(3):
        await placed(client, prepared(approved("mailbox"), "mailbox", connector))
    request = await lose(client, central, connector)
    for _ in range(3):
        await placed(client, prepared(approved("mailbox"), "mailbox", connector))
    (found,) = await find(client, [sought(request)])
    assert found.order is not None
    assert [found.order.order_id] == [order.id for order in central.orders(stamp=mark(request))]
    assert found.complete


async def test_an_order_that_was_never_placed_is_not_found(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig
) -> None:
    await placed(client, prepared(approved("mailbox"), "mailbox", connector))
    (found,) = await find(client, [sought(approved("mailbox"))])
    assert (found.orders, found.complete, found.order, found.is_alarming) == ((), True, None, False)


async def test_what_one_sweep_cannot_finish_the_next_one_does(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig
) -> None:
    """An account with more orders than are looked at in one go."""
    request = await lose(client, central, connector)
    for _ in range(5):
        await placed(client, prepared(approved("mailbox"), "mailbox", connector))
    seen: dict[int, OrderInfo] = {}
    for incomplete in (True, True):
        (found,) = await find(client, [sought(request)], seen=seen, most=2)
        assert (found.order, found.complete) == (None, not incomplete)
    before = len(central.journal.calls(endpoint="order_info"))
    (found,) = await find(client, [sought(request)], seen=seen, most=2)
    assert found.order is not None
    assert found.complete
    assert len(central.journal.calls(endpoint="order_info")) == before + 2


async def test_one_sweep_serves_many(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig
) -> None:
    requests = [await lose(client, central, connector) for _ in range(4)]
    client.breaker.leave(failed=False, tries=False)
    unplaced = approved("mailbox")
    calls = len(central.journal.calls())
    found = await find(client, [sought(one) for one in (*requests, unplaced)])
    assert [one.order is not None for one in found] == [True] * 4 + [False]
    assert len(central.journal.calls()) - calls == 5


@pytest.mark.parametrize("hidden", ["hide_csr", "hide_custom_fields", "none"])
async def test_key_or_mark_alone_is_enough(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig, hidden: str
) -> None:
    marked = connector.model_copy(update={"stamp_field": STAMP_FIELD})
    if hidden != "none":
        central.set(order=None, **{hidden: True})  # type: ignore[arg-type]
    request = await lose(client, central, marked)
    (found,) = await find(client, [sought(request)])
    assert found.order is not None


async def test_the_mark_tells_two_orders_of_the_same_key_apart(
    client: CertCentralClient, connector: CertCentralConfig
) -> None:
    key = new_key()
    first, second = approved("mailbox", key), approved("mailbox", key)
    one = await placed(client, prepared(first, "mailbox", connector))
    other = await placed(client, prepared(second, "mailbox", connector))
    found = await find(client, [sought(first), sought(second)])
    assert [row.order.order_id for row in found if row.order] == [one.order_id, other.order_id]


async def test_several_are_an_alarm(client: CertCentralClient, connector: CertCentralConfig) -> None:
    request = approved("mailbox")
    ready = prepared(request, "mailbox", connector)
    numbers = [(await placed(client, ready)).order_id for _ in range(2)]
    (found,) = await find(client, [sought(request)])
    assert found.is_alarming
    assert found.order is None
    assert [order.order_id for order in found.orders] == numbers
    (less,) = await find(client, [sought(request)], known={numbers[0]})
    assert less.order is not None
    assert less.order.order_id == numbers[1]


async def test_only_orders_since_the_call_are_looked_at(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig
) -> None:
    for _ in range(5):
        await placed(client, prepared(approved("mailbox"), "mailbox", connector))
    central.advance(timedelta(hours=2))
    request = approved("mailbox")
    since = datetime.now(UTC) + timedelta(hours=2)
    (found,) = await find(client, [sought(request, since=since)])
    assert found.complete
    assert central.journal.calls(endpoint="order_info") == []


async def test_what_was_not_looked_at_is_said(client: CertCentralClient, connector: CertCentralConfig) -> None:
    for _ in range(3):
        await placed(client, prepared(approved("mailbox"), "mailbox", connector))
    (found,) = await find(client, [sought(approved("mailbox"))], most=2)
    assert (found.order, found.complete) == (None, False)


async def test_lists_are_read_to_their_end(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmpd.issuers.certcentral.reconcile._PAGE", 2)
    request = await lose(client, central, connector)
    for _ in range(5):
        await placed(client, prepared(approved("mailbox"), "mailbox", connector))
    (found,) = await find(client, [sought(request)])
    assert found.order is not None
    assert len(central.journal.calls(endpoint="order_list")) == 4


async def test_other_products_and_divisions_are_left_alone(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig
) -> None:
    await placed(client, prepared(approved("private"), "private", connector))
    request = await lose(client, central, connector.model_copy(update={"division": DIVISION}))
    (found,) = await find(client, [sought(request, container=DIVISION)])
    assert found.order is not None
    assert found.order.container_id == DIVISION
    assert len(central.journal.calls(endpoint="order_info")) == 1


def test_keys_in_every_spelling() -> None:
    key = rsa_key()
    pem = orders._pem("CERTIFICATE REQUEST", csr(key))
    bare = orders._pem("PUBLIC KEY", spki(key))
    spellings = [pem, pem.replace("\n", "\r\n"), pem.replace("\n", ""), bare, bare.replace("\n", "")]
    spellings += ["".join(one.splitlines()[1:-1]) for one in (pem, bare)]
    assert {key_of(one) for one in spellings} == {spki(key)}
    assert [key_of(one) for one in ("", "x", "AAAA", "-----BEGIN X-----\nAA==\n-----END X-----")] == [None] * 4


def test_a_mark_outweighs_the_key() -> None:
    key = new_key()
    request = approved("mailbox", key)
    info = OrderInfo(1, "issued", csr=orders._pem("PUBLIC KEY", spki(key)))
    assert is_it(info, sought(request))
    foreign = replace(info, custom_fields={1: "cmpd:" + "0" * 40})
    assert not is_it(foreign, sought(request))
    ours = replace(info, csr="", comments=(f"please: {mark(request)}",))
    assert stamps(ours) == {mark(request)}
    assert is_it(ours, sought(request))


async def test_lost_reissues_and_duplicates_are_found(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig
) -> None:
    facts, given = ProfileFacts.of(profile("private")), world.options("private")
    first = await placed(client, prepared(approved("private"), "private", connector))
    again = approved("private")
    assert await find_again(client, first.order_id, again.spki, mark(again)) == []
    body = orders.reissue(again, facts, given, connector, mark=mark(again))
    central.faults.add("commit_then_500", endpoint="reissue")
    assert isinstance(await client.reissue(first.order_id, body), Unknown)
    (found,) = await find_again(client, first.order_id, again.spki, mark(again))
    assert found.certificate_id not in {None, first.certificate_id}
    copy = approved("private")
    body = orders.duplicate(copy, facts, given, connector, await client.order_info(first.order_id), mark=mark(copy))
    done = await client.duplicate(first.order_id, body)
    assert isinstance(done, Ordered)
    (found,) = await find_again(client, first.order_id, copy.spki, mark(copy))
    assert (found.certificate_id, found.status) == (done.certificate_id, "approved")


async def test_a_lost_reissue_that_waits_for_approval_is_found_by_its_mark(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig
) -> None:
    first = await placed(client, prepared(approved("private"), "private", connector))
    standard = world.client(connector, key=central.key("orders"))
    again = approved("private")
    body = orders.reissue(
        again, ProfileFacts.of(profile("private")), world.options("private"), connector, mark=mark(again)
    )
    central.faults.add("commit_then_drop", endpoint="reissue")
    assert isinstance(await standard.reissue(first.order_id, body), Unknown)
    await standard.close()
    (found,) = await find_again(client, first.order_id, again.spki, mark(again))
    assert (found.certificate_id, found.status) == (None, "pending")


async def test_with_faults_at_every_call_each_transaction_has_one_order_in_the_end(
    central: CertCentral, connector: CertCentralConfig
) -> None:
    """Whatever becomes of a call: known, repeated only when nothing was done, looked for when nobody can tell."""
    timeline = world.Timeline()
    client = world.client(connector, timeline)
    central.set(rate_windows=((100_000, 5.0),))
    central.faults.randomly(seed=20261123, probability=0.35)
    waiting, placed_ = {mark(one): one for one in (approved("mailbox") for _ in range(40))}, dict[str, int]()
    unknown: set[str] = set()
    for _ in range(200):
        if len(placed_) == len(waiting):
            break
        timeline.now += 60
        for stamp, request in waiting.items():
            if stamp in placed_ or stamp in unknown:
                continue
            ready = prepared(request, "mailbox", connector)
            outcome = await client.order(ready.product, ready.body)
            if isinstance(outcome, Ordered):
                placed_[stamp] = outcome.order_id
            elif isinstance(outcome, Unknown):
                unknown.add(stamp)
            else:
                assert isinstance(outcome, NotDone), outcome
                break
        lost = [stamp for stamp in waiting if stamp in unknown]
        try:
            found = await find(client, [sought(waiting[stamp]) for stamp in lost], known=placed_.values())
        except CallFailed:
            continue
        for stamp, one in zip(lost, found, strict=True):
            assert not one.is_alarming
            if one.order is not None:
                placed_[stamp] = one.order.order_id
            if one.order is not None or one.complete:
                unknown.discard(stamp)
    await client.close()
    assert len(placed_) == len(waiting)
    assert central.ledger.paid_twice() == {}
    assert {stamp: order.id for stamp in waiting for order in central.orders(stamp=stamp)} == placed_
    assert len(central.ledger) == len(waiting)
    assert client.counters.unknown > 5
