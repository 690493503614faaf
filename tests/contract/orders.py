"""What every store must do with certificates on order. Subclass `OrderContract` as `Test…` and override `url`."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import ObjectIdentifier

from cmpd.exchange import (
    OPEN_ORDERS,
    Approved,
    CertificateStatus,
    IssuedCertificate,
    Order,
    OrderState,
    RequestedExtension,
    RevocationReason,
    Transaction,
    TransactionState,
)
from cmpd.ports import (
    CodeUnusable,
    Condition,
    Conditions,
    Expired,
    OrderMoved,
    Revocation,
    StoreUnavailable,
    TransactionExists,
    TransactionMoved,
    Unmet,
)
from cmpd.store import AdminStore, Pruned, open_store
from tests.contract.store import (
    ALONE,
    CA,
    FAR,
    KEY,
    NOW,
    ONE_KEY_ONCE,
    SECOND,
    Open,
    certificate_der,
    issue,
    make_code,
    seated,
    spki_of,
    spki_sha256,
    transaction,
)

ANYWHERE = Path("/")
DAY = timedelta(days=1)
FINISHED = frozenset(OrderState) - OPEN_ORDERS
SEAT = "user@example.com"
IN_ORDER = sorted(OPEN_ORDERS)


def waiting(transaction_id: bytes | None = None, **changes: Any) -> Transaction:
    """A transaction that waits for its issuer; any field can be given."""
    return transaction(transaction_id, **({"state": TransactionState.waiting, "confirm_by": None} | changes))


def order(of: Transaction, key: str = "", **changes: Any) -> Order:
    """An order of a transaction for a key, its own unless given; fields of it and of what is approved can be given."""
    approved: dict[str, Any] = {
        "profile": of.profile,
        "transaction_id": of.transaction_id,
        "cert_req_id": changes.get("cert_req_id", 0),
        "subject": b"0\x00",
        "spki": spki_of(key or os.urandom(8).hex()),
        "not_before": NOW,
        "not_after": FAR,
        "extensions": (),
    }
    approved |= {name: changes.pop(name) for name in {one.name for one in fields(Approved)} & set(changes)}
    given: dict[str, Any] = {
        "stamp": f"cmpd-{os.urandom(8).hex()}",
        "transaction_id": of.transaction_id,
        "cert_req_id": approved["cert_req_id"],
        "issuer": "upstream",
        "state": OrderState.intended,
        "created": of.created,
        "updated": of.created,
        "due": of.created,
    }
    return Order(approved=Approved(**approved), **(given | changes))


async def intend(
    store: AdminStore,
    key: str = "",
    *,
    code: int | None = None,
    conditions: Conditions | None = None,
    now: datetime = NOW,
    of: dict[str, Any] | None = None,
    **changes: Any,
) -> Order:
    """Keep a new transaction with one order."""
    new = waiting(created=now, **(of or {}))
    one = order(new, key, **changes)
    await store.intend(new, [one], code=code, now=now, conditions=[] if conditions is None else [conditions])
    return one


def made_of(one: Order, key: str = "", **changes: Any) -> IssuedCertificate:
    """The certificate that an order leads to."""
    fields: dict[str, Any] = {
        "serial": int.from_bytes(os.urandom(16)),
        "der": certificate_der(key or os.urandom(8).hex()),
        "issuer": one.issuer,
        "profile": one.approved.profile,
        "not_after": FAR,
        "transaction_id": one.transaction_id,
        "cert_req_id": one.cert_req_id,
        "status": CertificateStatus.unconfirmed,
        "issued_at": NOW,
        "seat": one.approved.seat,
    }
    return IssuedCertificate(**(fields | changes))


async def come(store: AdminStore, one: Order, key: str = "", **changes: Any) -> tuple[Order, IssuedCertificate]:
    """Have the certificate of an order arrive."""
    made = made_of(one, key, **changes)
    arrived = replace(one, state=OrderState.issued, serial=made.serial)
    return await store.move_order(arrived, seen=one.state, certificate=made), made


async def deliver(store: AdminStore, transaction_id: bytes, state: TransactionState, **changes: Any) -> None:
    """Answer a transaction that waits, as its latest answer is known."""
    found = await store.transaction(transaction_id)
    fields: dict[str, Any] = {
        "seen": b"" if found is None else found.nonce,
        "nonce": b"N" * 16,
        "request": b"Q" * 32,
        "reply": b"P" * 900,
    }
    await store.deliver(transaction_id, state=state, **(fields | changes))


async def outcomes(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """What calls made at the same time have come to."""
    return await asyncio.gather(*calls, return_exceptions=True)


class OrderContract:
    """The suite."""

    @pytest.fixture
    def url(self) -> str:
        """The `[store] url` of an empty store, good for absolute use."""
        raise NotImplementedError

    @pytest.fixture
    async def reopen(self, url: str) -> AsyncIterator[Open]:
        """Opens the store, as often as asked; all are closed in the end."""
        opened: list[AdminStore] = []

        async def another() -> AdminStore:
            opened.append(await open_store(url, base=ANYWHERE, key=KEY))
            return opened[-1]

        yield another
        for store in opened:
            await store.close()

    @pytest.fixture
    async def store(self, reopen: Open) -> AdminStore:
        return await reopen()

    # intend

    async def test_what_is_unknown_is_none(self, store: AdminStore) -> None:
        assert await store.order("cmpd-1") is None
        assert await store.orders_of(b"x" * 16) == ()
        assert await store.same_order("device", "code:1", bytes(32)) == ()
        assert await store.orders_due("upstream", FAR, 9) == ()
        assert await store.orders_open("upstream", IN_ORDER, 9) == ()

    async def test_an_order_comes_back_whole(self, store: AdminStore, reopen: Open) -> None:
        new = waiting(profile="Gerät", operation="p10cr", credential="cert:" + "ab" * 32)
        one = order(
            new,
            "k",
            stamp="cmpd-1",
            cert_req_id=-1,
            subject=b"0\x0c" + os.urandom(12),
            not_before=NOW - SECOND,
            not_after=datetime(2051, 2, 3, 4, 5, 6, tzinfo=UTC),
            extensions=(
                RequestedExtension(ObjectIdentifier("2.5.29.17"), True, os.urandom(40)),
                RequestedExtension(ObjectIdentifier("2.999.1.18446744073709551616"), False, b""),
            ),
            modified=("subject: O was „set“", "validity: shorter"),
            seat="Müller@example.com",
            lint="enforce",
            request=os.urandom(500),
            updates=2**159 + 1,
            state=OrderState.held,
            created=NOW - DAY,
            updated=NOW - SECOND,
            due=FAR,
            ticket="4711",
            attempts=3,
            serial=2**159,
            chain=(b"issuing CA", b"root"),
            implicit=True,
            text="waits for the domain's owner",
            fail_info="systemFailure",
            private="request 7, nobody has “approved” it\n",
            note="released (by „root“)",
            step=3,
        )
        await store.intend(new, [one], code=None, now=NOW)
        plain = await intend(store)
        for reader in (store, await reopen()):
            assert await reader.transaction(new.transaction_id) == new
            assert await reader.order("cmpd-1") == one
            assert await reader.orders_of(new.transaction_id) == (one,)
            assert await reader.order(plain.stamp) == plain
            assert await reader.certificates_of(new.transaction_id) == ()

    def test_every_field_is_tried_above(self) -> None:
        """A new field of Order or Approved must be kept too: add it to the test above, and to this number."""
        assert (len(fields(Order)), len(fields(Approved))) == (19, 13)

    @pytest.mark.parametrize("state", OrderState)
    async def test_an_order_of_every_state_comes_back(self, store: AdminStore, state: OrderState) -> None:
        one = await intend(store, state=state)
        assert await store.order(one.stamp) == one

    async def test_orders_come_in_the_order_of_cert_req_id(self, store: AdminStore) -> None:
        new = waiting()
        many = [order(new, cert_req_id=number) for number in (3, 0, 2, 1)]
        await store.intend(new, many, code=None, now=NOW)
        await intend(store)
        assert await store.orders_of(new.transaction_id) == tuple(sorted(many, key=lambda one: one.cert_req_id))

    async def test_times_are_whole_seconds(self, store: AdminStore) -> None:
        late = NOW + timedelta(milliseconds=999)
        one = await intend(store, created=late, updated=late, due=late)
        assert await store.order(one.stamp) == replace(one, created=NOW, updated=NOW, due=NOW)
        assert await store.orders_due("upstream", NOW, 9) != ()

    async def test_a_code_is_consumed_by_each_order_that_has_not_failed(self, store: AdminStore) -> None:
        code = await make_code(store, uses=3)
        await store.lock_code(code.id, until=NOW, locks=2)
        new = waiting()
        many = [order(new, cert_req_id=number) for number in range(3)]
        many[1] = replace(many[1], state=OrderState.failed, text="refused at once")
        await store.intend(new, many, code=code.id, now=NOW)
        assert await store.code("device", b"ref") == replace(code, used=2)
        assert await store.orders_of(new.transaction_id) == tuple(many)
        pair = waiting()
        with pytest.raises(CodeUnusable):
            await store.intend(pair, [order(pair), order(pair, cert_req_id=1)], code=code.id, now=NOW)
        await store.intend(pair, [order(pair)], code=code.id, now=NOW)

    async def test_nothing_of_a_call_that_is_refused_is_kept(self, store: AdminStore) -> None:
        used_up = await make_code(store, "used", uses=1)
        taken = await intend(store, "k", code=used_up.id)
        early = await make_code(store, "early", valid_from=NOW + SECOND)
        code = await make_code(store, "good", uses=5)
        before = await store.codes()
        for number, conditions, refusal in (
            (used_up.id, None, CodeUnusable),
            (early.id, None, CodeUnusable),
            (4711, None, CodeUnusable),
            (code.id, ONE_KEY_ONCE, Unmet),
        ):
            new = waiting()
            one = order(new, "k")
            with pytest.raises(refusal):
                await store.intend(
                    new, [one], code=number, now=NOW, conditions=[conditions] if conditions is not None else []
                )
            assert await store.transaction(new.transaction_id) is None
            assert await store.order(one.stamp) is None
        with pytest.raises(TransactionExists):
            await intend(store, code=code.id, of={"transaction_id": taken.transaction_id})
        assert await store.codes() == before
        assert await store.orders(9) == [taken]
        assert await store.unmet("device", None, bytes(32), Conditions(per_day=2), NOW) is None

    async def test_the_same_transaction_a_second_time_hears_of_the_first(self, store: AdminStore) -> None:
        """And not that its own key is on order, or its code used up."""
        code = await make_code(store)
        new = waiting()
        call: dict[str, Any] = {"code": code.id, "now": NOW, "conditions": [ONE_KEY_ONCE]}
        await store.intend(new, [order(new, "k")], **call)
        with pytest.raises(TransactionExists):
            await store.intend(new, [order(new, "k")], **call)

    async def test_a_stamp_is_taken_once(self, store: AdminStore, reopen: Open) -> None:
        """Of many at once one gets it; the others leave nothing, and their codes are not used."""
        code = await make_code(store, uses=50)
        both = (store, await reopen())
        results = await outcomes(*(intend(both[number % 2], stamp="cmpd-1", code=code.id) for number in range(20)))
        assert sum(isinstance(result, StoreUnavailable) for result in results) == 19
        (winner,) = (result for result in results if isinstance(result, Order))
        assert await store.orders(100) == [winner]
        assert (await store.codes())[0].used == 1
        assert await store.transaction(winner.transaction_id) is not None

    async def test_a_code_is_good_for_so_many_orders_and_certificates_at_once(
        self, store: AdminStore, reopen: Open
    ) -> None:
        code = await make_code(store, uses=3)
        both = (store, await reopen())
        results = await outcomes(
            *(intend(both[number % 2], code=code.id) for number in range(20)),
            *(issue(both[number % 2], code.id) for number in range(20)),
        )
        assert sum(isinstance(result, CodeUnusable) for result in results) == 37
        assert (await store.codes())[0].used == 3
        assert len(await store.orders(100)) + len(await store.certificates(100)) == 3

    # Conditions

    @pytest.mark.parametrize("state", OrderState)
    async def test_a_key_that_is_on_order_gets_no_other_certificate(
        self, store: AdminStore, reopen: Open, state: OrderState
    ) -> None:
        """Whatever profile, sender and issuer it has, while the order is open."""
        await intend(store, "k", state=state, of={"profile": "server", "credential": "other"}, issuer="other")
        for reader in (store, await reopen()):
            unmet = await reader.unmet("device", None, spki_sha256("k"), ONE_KEY_ONCE, NOW)
            assert await reader.unmet("device", None, spki_sha256("k"), Conditions(), NOW) is None
            assert await reader.unmet("device", None, spki_sha256("other"), ONE_KEY_ONCE, NOW) is None
            if state in OPEN_ORDERS:
                assert unmet is not None
                assert (unmet.condition, unmet.serial, unmet.until) == (Condition.new_key, None, None)
                with pytest.raises(Unmet, match="new_key"):
                    await intend(reader, "k", conditions=ONE_KEY_ONCE)
                with pytest.raises(Unmet, match="new_key"):
                    await seated(reader, key="k")
            else:
                assert unmet is None
        await intend(store, "k", conditions=Conditions())
        await seated(store, key="k", conditions=Conditions())

    async def test_a_key_in_force_is_not_ordered_for(self, store: AdminStore) -> None:
        one = await seated(store, key="k")
        with pytest.raises(Unmet, match="new_key") as raised:
            await intend(store, "k", conditions=ONE_KEY_ONCE)
        assert raised.value.serial == one.serial
        await store.revoke(Revocation(one.serial, RevocationReason.keyCompromise, NOW))
        with pytest.raises(Unmet, match="compromised_key"):
            await intend(store, "k")

    async def test_a_compromised_key_is_that_before_it_is_one_on_order(self, store: AdminStore) -> None:
        await intend(store, "k")
        one = await seated(store, key="k", conditions=Conditions())
        await store.revoke(Revocation(one.serial, RevocationReason.keyCompromise, NOW))
        unmet = await store.unmet("device", None, spki_sha256("k"), ONE_KEY_ONCE, NOW)
        assert unmet is not None
        assert unmet.condition is Condition.compromised_key

    async def test_a_key_is_free_again_when_its_order_has_failed(self, store: AdminStore) -> None:
        one = await intend(store, "k", conditions=ONE_KEY_ONCE)
        await store.move_order(replace(one, state=OrderState.failed), seen=one.state)
        await intend(store, "k", conditions=ONE_KEY_ONCE)

    async def test_a_seat_alone_has_one_certificate_or_order(self, store: AdminStore) -> None:
        one = await intend(store, seat=SEAT, conditions=ALONE)
        with pytest.raises(Unmet, match="alone_in_seat") as raised:
            await intend(store, seat=SEAT, conditions=ALONE)
        assert (raised.value.seat, raised.value.serial, raised.value.until) == (SEAT, None, None)
        with pytest.raises(Unmet, match="alone_in_seat"):
            await seated(store, SEAT, ALONE)
        assert await store.unmet("device", SEAT, bytes(32), ALONE, NOW) is not None
        assert await store.unmet("device", "other", bytes(32), ALONE, NOW) is None
        assert await store.unmet("server", SEAT, bytes(32), ALONE, NOW) is None
        _, made = await come(store, one)
        with pytest.raises(Unmet, match="alone_in_seat") as raised:
            await intend(store, seat=SEAT, conditions=ALONE)
        assert (raised.value.serial, raised.value.until) == (made.serial, FAR)
        update = replace(ALONE, updates=made.serial)
        other = await intend(store, seat=SEAT, updates=made.serial, conditions=update)
        with pytest.raises(Unmet) as raised:  # it is being updated already
            await intend(store, seat=SEAT, conditions=update)
        assert raised.value.until is None
        with pytest.raises(Unmet) as raised:  # the end of the certificate would not be enough
            await intend(store, seat=SEAT, conditions=ALONE)
        assert (raised.value.serial, raised.value.until) == (made.serial, None)
        await store.move_order(replace(other, state=OrderState.failed), seen=other.state)
        await intend(store, seat=SEAT, conditions=update)

    async def test_a_seat_has_so_many_certificates_and_orders(self, store: AdminStore) -> None:
        three = Conditions(per_seat=3)
        await intend(store, seat=SEAT, conditions=three)
        made = await seated(store, SEAT, three, not_after=FAR - SECOND)
        failed = await intend(store, seat=SEAT, conditions=three)
        for call in (intend(store, seat=SEAT, conditions=three), seated(store, SEAT, three)):
            with pytest.raises(Unmet, match="per_seat") as raised:
                await call
            assert (raised.value.serial, raised.value.until) == (made.serial, FAR - SECOND)
        await intend(store, seat=SEAT, conditions=replace(three, updates=made.serial))
        await store.move_order(replace(failed, state=OrderState.failed), seen=failed.state)
        with pytest.raises(Unmet):
            await intend(store, seat=SEAT, conditions=three)
        await store.revoke(Revocation(made.serial, RevocationReason.superseded, NOW))
        await intend(store, seat=SEAT, conditions=three)

    async def test_the_day_is_charged_when_it_is_ordered(self, store: AdminStore, reopen: Open) -> None:
        """Not again when the certificate comes, and a failure gives nothing back."""
        two = Conditions(per_day=2)
        midnight = datetime(2026, 7, 2, tzinfo=UTC)
        new = waiting()
        failed = order(new, cert_req_id=1, state=OrderState.failed)
        one = order(new)
        await store.intend(new, [one, failed], code=None, now=NOW, conditions=[two, Conditions(per_day=0)])
        await come(store, one, issued_at=midnight)
        other = await intend(store, conditions=two)
        await store.move_order(replace(other, state=OrderState.failed), seen=other.state)
        for reader in (store, await reopen()):
            for call in (intend(reader, conditions=two), seated(reader, conditions=two)):
                with pytest.raises(Unmet, match="per_day") as raised:
                    await call
                assert raised.value.until == midnight
        await intend(store, conditions=two, now=midnight)
        await intend(store, conditions=two, now=midnight)
        with pytest.raises(Unmet):
            await intend(store, conditions=two, now=midnight)

    async def test_the_orders_of_one_call_count_for_each_other(self, store: AdminStore) -> None:
        async def pair(conditions: Conditions, keys: str = "ab", seats: str = "ab", failed: bool = False) -> None:
            new = waiting()
            state = OrderState.failed if failed else OrderState.intended
            one = order(new, f"{new.nonce!r}{keys[0]}", seat=seats[0])
            other = order(new, f"{new.nonce!r}{keys[1]}", seat=seats[1], cert_req_id=1, state=state)
            await store.intend(new, [other, one], code=None, now=NOW, conditions=[conditions] * 2)

        several: tuple[tuple[Conditions, dict[str, Any]], ...] = (
            (ONE_KEY_ONCE, {"keys": "aa"}),
            (ALONE, {"seats": "cc"}),
            (Conditions(per_seat=1), {"seats": "cc"}),
            (Conditions(per_day=1), {}),
        )
        for conditions, kind in several:
            with pytest.raises(Unmet):
                await pair(conditions, **kind)
        assert await store.orders(10) == []
        everything = Conditions(new_key=True, alone_in_seat=True, per_seat=1, per_day=1)
        await pair(everything, "aa", "cc", failed=True)
        await pair(replace(everything, per_day=3))
        assert len(await store.orders(10)) == 4

    @pytest.mark.parametrize(
        "conditions",
        [ONE_KEY_ONCE, ALONE, Conditions(per_seat=1), Conditions(per_day=1)],
        ids=["key", "alone", "seat", "day"],
    )
    async def test_of_many_at_once_one_is_let(self, store: AdminStore, reopen: Open, conditions: Conditions) -> None:
        """Ordered or issued."""
        both = (store, await reopen())
        results = await outcomes(
            *(intend(both[number % 2], "k", seat=SEAT, conditions=conditions) for number in range(20)),
            *(seated(both[number % 2], SEAT, conditions, key="k") for number in range(20)),
        )
        assert sum(isinstance(result, Unmet) for result in results) == 39
        assert len(await store.orders(100)) + len(await store.certificates(100)) == 1

    # Finding

    async def test_the_same_sender_finds_what_is_on_order_for_a_key(self, store: AdminStore, reopen: Open) -> None:
        one = await intend(store, "k")
        again = await intend(store, "k")
        await intend(store, "other")
        await intend(store, "k", of={"credential": "code:2"})
        await intend(store, "k", of={"profile": "server"})
        failed = await intend(store, "k", state=OrderState.failed)
        for reader in (store, await reopen()):
            assert await reader.same_order("device", "code:1", spki_sha256("k")) == (one, again)
            assert await reader.same_order("device", "code:3", spki_sha256("k")) == ()
        await store.move_order(replace(again, state=OrderState.failed), seen=again.state)
        assert await store.same_order("device", "code:1", spki_sha256("k")) == (one,)
        await store.move_order(replace(failed, state=OrderState.intended), seen=OrderState.failed)
        assert len(await store.same_order("device", "code:1", spki_sha256("k"))) == 2

    async def test_an_issued_order_is_found_until_it_is_collected(self, store: AdminStore) -> None:
        one = await intend(store, "k")
        arrived, _ = await come(store, one, "k")
        assert await store.same_order("device", "code:1", spki_sha256("k")) == (arrived,)
        await deliver(store, one.transaction_id, TransactionState.waiting)
        assert await store.same_order("device", "code:1", spki_sha256("k")) == (arrived,)
        await deliver(store, one.transaction_id, TransactionState.unconfirmed)
        assert await store.same_order("device", "code:1", spki_sha256("k")) == ()
        assert await store.orders_of(one.transaction_id) == (arrived,)

    async def test_an_open_order_whose_transaction_has_ended_is_still_found(self, store: AdminStore) -> None:
        """It is paid for: nobody loses it, and nobody pays again."""
        one = await intend(store, "k")
        await deliver(store, one.transaction_id, TransactionState.refused)
        assert await store.same_order("device", "code:1", spki_sha256("k")) == (one,)
        arrived, _ = await come(store, one, "k")
        assert await store.same_order("device", "code:1", spki_sha256("k")) == (arrived,)

    async def test_a_failed_order_that_an_operator_takes_up_again_is_found(self, store: AdminStore) -> None:
        """Also when the EE has been told that it failed."""
        one = await intend(store, "k", seat=SEAT)
        failed = replace(one, state=OrderState.failed)
        failed = await store.move_order(failed, seen=one.state)
        await deliver(store, one.transaction_id, TransactionState.refused)
        assert await store.same_order("device", "code:1", spki_sha256("k")) == ()
        again = await store.move_order(replace(failed, state=one.state), seen=failed.state)
        assert await store.same_order("device", "code:1", spki_sha256("k")) == (again,)
        assert await store.unmet("device", None, spki_sha256("k"), ONE_KEY_ONCE, NOW) is not None
        assert await store.unmet("device", SEAT, bytes(32), ALONE, NOW) is not None

    async def test_what_was_revoked_is_not_found_again(self, store: AdminStore) -> None:
        _, made = await come(store, await intend(store, "k"), "k")
        await store.revoke(Revocation(made.serial, RevocationReason.superseded, NOW))
        assert await store.same_order("device", "code:1", spki_sha256("k")) == ()

    async def test_due_orders_come_with_the_longest_due_first(self, store: AdminStore) -> None:
        states = [OrderState.submitting, OrderState.ordered, OrderState.intended, OrderState.unknown]
        due = [await intend(store, state=state, due=NOW - at * SECOND) for at, state in enumerate(states)]
        for state in (OrderState.held, *FINISHED):
            await intend(store, state=state, due=NOW - DAY)
        await intend(store, due=NOW + SECOND)
        elsewhere = await intend(store, issuer="other")
        assert await store.orders_due("upstream", NOW, 99) == tuple(reversed(due))
        assert await store.orders_due("upstream", NOW, 2) == tuple(reversed(due))[:2]
        assert await store.orders_due("upstream", NOW - 3 * SECOND, 99) == (due[3],)
        assert await store.orders_due("upstream", NOW - 4 * SECOND, 99) == ()
        assert await store.orders_due("other", NOW, 99) == (elsewhere,)
        later = replace(due[3], due=NOW + DAY, attempts=1)
        await store.move_order(later, seen=later.state)
        assert await store.orders_due("upstream", NOW, 1) == (due[2],)
        same = await intend(store, due=NOW)
        assert await store.orders_due("upstream", NOW, 99) == (due[2], due[1], due[0], same)

    async def test_the_tickets_of_what_an_issuer_has_and_has_not_settled(self, store: AdminStore, reopen: Open) -> None:
        for state in OrderState:
            await intend(store, stamp=f"cmpd-{state}", state=state, ticket=f"7:{state}")
            await intend(store, state=state, ticket="8", issuer="other")
        await intend(store, stamp="cmpd-1", state=OrderState.ordered, ticket="9", due=NOW - SECOND)
        for reader in (store, await reopen()):
            assert await reader.tickets("upstream") == (("cmpd-1", "9"), ("cmpd-ordered", "7:ordered"))
            assert await reader.tickets("nobody") == ()

    async def test_open_orders_come_oldest_first(self, store: AdminStore, reopen: Open) -> None:
        kept = [
            await intend(store, state=state, now=NOW + number * SECOND)
            for number, state in enumerate([*OrderState] * 3)
        ]
        elsewhere = await intend(store, issuer="other")

        def those(*states: OrderState) -> tuple[Order, ...]:
            return tuple(one for one in kept if one.state in states)

        for reader in (store, await reopen()):
            assert await reader.orders_open("upstream", list(OPEN_ORDERS), 99) == those(*OPEN_ORDERS)
            assert await reader.orders_open("upstream", list(OPEN_ORDERS), 7) == those(*OPEN_ORDERS)[:7]
            two = (OrderState.unknown, OrderState.held)
            assert await reader.orders_open("upstream", [*two, *two], 99) == those(*two)
            assert await reader.orders_open("upstream", two, 3) == those(*two)[:3]
            assert await reader.orders_open("other", list(OPEN_ORDERS), 99) == (elsewhere,)
            assert await reader.orders_open("upstream", [], 99) == ()
            assert await reader.orders_open("upstream", list(FINISHED), 99) == ()

    async def test_ended_orders_are_deleted_when_they_are_not_kept(self, store: AdminStore) -> None:
        """Those whose transaction is forgotten, and that ended long enough ago; open ones never."""
        stamps = []
        for number in range(230):
            one = await intend(store, now=NOW - DAY)
            stamps.append(one.stamp)
            if number >= 3:
                ended = replace(one, state=OrderState.failed, updated=NOW - (timedelta() if number == 5 else DAY))
                await store.move_order(ended, seen=OrderState.intended)
                if number != 4:
                    await deliver(store, one.transaction_id, TransactionState.refused)
        assert await store.forget(NOW - SECOND) == 226
        assert await store.prune(orders=NOW - DAY) == Pruned()
        assert await store.prune(orders=NOW - DAY + SECOND) == Pruned(orders=226)
        assert sorted(one.stamp for one in await store.orders(1000)) == sorted([*stamps[:3], stamps[5]])
        await store.forget(NOW + SECOND)
        assert await store.prune(orders=NOW + SECOND) == Pruned(orders=1)

    async def test_the_operator_lists_the_latest_orders(self, store: AdminStore) -> None:
        kept = [
            await intend(store, state=state, issuer=issuer, of={"profile": profile})
            for state in OrderState
            for issuer in ("upstream", "other")
            for profile in ("device", "server")
        ]
        kept.reverse()

        def those(wanted: Callable[[Order], bool]) -> list[Order]:
            return [one for one in kept if wanted(one)]

        assert await store.orders(99) == kept
        assert await store.orders(5) == kept[:5]
        assert await store.orders(99, []) == []
        held = {OrderState.held}
        assert await store.orders(99, held) == those(lambda one: one.state in held)
        assert await store.orders(1, held) == those(lambda one: one.state in held)[:1]
        assert await store.orders(99, OPEN_ORDERS) == those(lambda one: one.state in OPEN_ORDERS)
        assert await store.orders(99, FINISHED) == those(lambda one: one.state in FINISHED)
        assert await store.orders(99, profile="server") == those(lambda one: one.approved.profile == "server")
        assert await store.orders(99, issuer="other") == those(lambda one: one.issuer == "other")
        assert await store.orders(99, OPEN_ORDERS, "server", "other") == those(
            lambda one: one.state in OPEN_ORDERS and one.approved.profile == "server" and one.issuer == "other"
        )

    async def test_the_operator_need_not_type_a_whole_stamp(self, store: AdminStore) -> None:
        first = await intend(store, stamp="cmpd-12")
        longer = await intend(store, stamp="cmpd-123")
        other = await intend(store, stamp="cmpd-2_%")
        for typed, found in (
            ("cmpd-12", first),
            ("cmpd-123", longer),
            ("cmpd-2", other),
            ("cmpd-2_%", other),
            ("cmpd-1", None),
            ("cmpd-", None),
            ("", None),
            ("cmpd-124", None),
            ("%", None),
            ("CMPD-2", None),
        ):
            assert await store.order_of(typed) == found, typed

    # move_order

    async def test_an_order_moves_from_the_state_that_was_seen(self, store: AdminStore, reopen: Open) -> None:
        one = await intend(store, "k", seat=SEAT)
        moved = replace(
            one,
            state=OrderState.ordered,
            updated=NOW + SECOND,
            due=NOW + DAY,
            ticket="4711",
            attempts=2,
            text="waits for approval",
            private="request 7",
            fail_info="systemUnavail",
            note="released",
        )
        with pytest.raises(OrderMoved):
            await store.move_order(moved, seen=OrderState.submitting)
        with pytest.raises(OrderMoved):
            await store.move_order(replace(moved, stamp="unknown"), seen=OrderState.intended)
        assert await store.order(one.stamp) == one
        kept = await store.move_order(moved, seen=OrderState.intended)
        assert kept == replace(moved, step=1)
        moved = kept
        with pytest.raises(OrderMoved):
            await store.move_order(replace(moved, state=OrderState.failed), seen=OrderState.intended)
        for reader in (store, await reopen()):
            assert await reader.order(one.stamp) == moved
        again = replace(moved, due=NOW + 2 * DAY, attempts=0)
        again = await store.move_order(again, seen=OrderState.ordered)
        assert again.step == 2
        assert await store.orders_of(one.transaction_id) == (again,)

    async def test_a_step_of_whoever_saw_an_earlier_one_is_not_kept(self, store: AdminStore, reopen: Open) -> None:
        """An order that has come back to the same state is another: one of two processes was fast, and one slow.

        The slow one would ask the issuer a second time, or say that an order was not taken which the fast one placed.
        """
        slow, fast = store, await reopen()
        one = await intend(store)
        sent = await slow.move_order(replace(one, state=OrderState.submitting), seen=one.state)
        lost = await fast.move_order(replace(sent, state=OrderState.unknown), seen=sent.state)
        again = await fast.move_order(replace(lost, state=OrderState.intended), seen=lost.state)
        for late in (one, sent, lost):
            with pytest.raises(OrderMoved):
                await slow.move_order(replace(late, state=OrderState.submitting), seen=OrderState.intended)
        sent_again = await fast.move_order(replace(again, state=OrderState.submitting), seen=again.state)
        for what in (replace(sent, state=OrderState.intended), replace(sent, state=OrderState.failed)):
            with pytest.raises(OrderMoved):
                await slow.move_order(what, seen=OrderState.submitting)
        with pytest.raises(OrderMoved):
            await come(slow, sent)
        assert await store.order(one.stamp) == sent_again
        assert await store.certificates(9) == []

    async def test_of_many_who_move_an_order_at_once_one_does(self, store: AdminStore, reopen: Open) -> None:
        """So that one of two servers asks the issuer, and a certificate is kept once."""
        both = (store, await reopen())
        one = await intend(store)
        results = await outcomes(
            *(
                both[number % 2].move_order(replace(one, state=OrderState.submitting, attempts=number), seen=one.state)
                for number in range(20)
            )
        )
        assert sum(isinstance(result, OrderMoved) for result in results) == 19
        (sent,) = [result for result in results if not isinstance(result, OrderMoved)]
        assert await store.order(one.stamp) == sent
        results = await outcomes(*(come(both[number % 2], sent) for number in range(20)))
        assert sum(isinstance(result, OrderMoved) for result in results) == 19
        assert len(await store.certificates(100)) == 1

    async def test_a_certificate_comes_with_its_order(self, store: AdminStore, reopen: Open) -> None:
        code = await make_code(store, uses=2)
        chain = (os.urandom(900), os.urandom(900))
        one = await intend(store, "k", code=code.id, seat=SEAT)
        other = await intend(store, seat="other")
        made = made_of(one, "k")
        arrived = replace(one, state=OrderState.issued, serial=made.serial, chain=chain, updated=NOW + SECOND)
        arrived = await store.move_order(arrived, seen=one.state, certificate=made)
        also, _ = await come(store, replace(other, chain=chain))
        for reader in (store, await reopen()):
            assert await reader.order(one.stamp) == arrived
            assert await reader.order(other.stamp) == also
            assert await reader.certificate(made.serial) == made
            assert await reader.certificates_of(one.transaction_id) == (made,)
            assert await reader.seat("device", SEAT) is not None
            kept = await reader.transaction(one.transaction_id)
            assert kept is not None
            assert kept.state is TransactionState.waiting
        assert (await store.codes())[0].used == 1
        unmet = await store.unmet("device", None, spki_sha256("k"), ONE_KEY_ONCE, NOW)
        assert unmet is not None
        assert unmet.serial == made.serial

    async def test_certificates_are_in_the_order_of_cert_req_id_however_they_come(self, store: AdminStore) -> None:
        new = waiting()
        many = [order(new, cert_req_id=number) for number in range(4)]
        await store.intend(new, many, code=None, now=NOW)
        made = {}
        await store.move_order(replace(many[1], state=OrderState.failed, serial=7), seen=many[1].state)
        for number in (2, 0, 3):
            _, made[number] = await come(store, many[number])
            assert await store.certificates_of(new.transaction_id) == tuple(made[key] for key in sorted(made))

    async def test_what_is_not_delivered_is_not_valid(self, store: AdminStore) -> None:
        _, made = await come(store, await intend(store), status=CertificateStatus.valid)
        assert await store.certificate(made.serial) == replace(made, status=CertificateStatus.unconfirmed)

    async def test_a_certificate_may_come_revoked(self, store: AdminStore) -> None:
        _, made = await come(
            store,
            await intend(store),
            status=CertificateStatus.revoked,
            revoked_at=NOW,
            reason=RevocationReason.superseded,
        )
        assert await store.certificate(made.serial) == made
        assert (await store.crl_state("upstream", CA)).revocations == 1

    async def test_a_serial_number_that_is_there_already_moves_nothing(self, store: AdminStore) -> None:
        _, there = await issue(store)
        one = await intend(store)
        with pytest.raises(StoreUnavailable):
            await come(store, one, serial=there.serial)
        assert await store.order(one.stamp) == one
        assert await store.certificates_of(one.transaction_id) == ()
        assert await store.certificates(9) == [there]

    async def test_after_a_crash_an_order_is_where_it_was(self, url: str) -> None:
        """The store is opened anew and the old one never closed: what has returned is kept."""
        crashed = await open_store(url, base=ANYWHERE, key=KEY)
        one = await intend(crashed, "k")
        sent = await crashed.move_order(replace(one, state=OrderState.submitting, attempts=1), seen=one.state)
        again = await open_store(url, base=ANYWHERE, key=KEY)
        try:
            assert await again.orders_due("upstream", NOW, 9) == (sent,)
            arrived, made = await come(again, sent, "k")
            with pytest.raises(OrderMoved):
                await crashed.move_order(replace(sent, state=OrderState.ordered), seen=sent.state)
            assert await crashed.orders_of(one.transaction_id) == (arrived,)
            assert await crashed.certificates_of(one.transaction_id) == (made,)
        finally:
            await again.close()
            await crashed.close()

    # hand_over

    async def test_a_new_transaction_takes_over(self, store: AdminStore, reopen: Open) -> None:
        """Open orders and issued ones, with their certificates; nothing is spent or consumed again."""
        code = await make_code(store)
        old = waiting()
        one = order(old, "a")
        await store.intend(old, [one], code=code.id, now=NOW, conditions=[Conditions(new_key=True, per_day=1)])
        new = waiting(operation="cr", created=NOW + SECOND)
        await store.hand_over([one], new)
        newest = waiting(created=NOW + 2 * SECOND)
        arrived, made = await come(store, one, "a")  # who has asked the issuer knows the old transaction still
        await store.hand_over([replace(arrived, cert_req_id=5)], newest)
        taken: dict[str, Any] = {"transaction_id": newest.transaction_id, "cert_req_id": 5}
        for reader in (store, await reopen()):
            for ended in (old, new):
                assert await reader.transaction(ended.transaction_id) == replace(ended, state=TransactionState.refused)
                assert await reader.orders_of(ended.transaction_id) == ()
                assert await reader.certificates_of(ended.transaction_id) == ()
            assert await reader.transaction(newest.transaction_id) == newest
            assert await reader.orders_of(newest.transaction_id) == (
                replace(arrived, **taken, approved=replace(arrived.approved, **taken)),
            )
            assert await reader.certificates_of(newest.transaction_id) == (replace(made, **taken),)
        assert (await store.codes())[0].used == 1
        assert await store.unmet("device", None, bytes(32), Conditions(per_day=2), NOW) is None
        with pytest.raises(TransactionMoved):
            await deliver(store, new.transaction_id, TransactionState.unconfirmed)
        await deliver(store, newest.transaction_id, TransactionState.unconfirmed)

    async def test_a_late_certificate_goes_to_who_waits_now(self, store: AdminStore) -> None:
        one = await intend(store, "k", cert_req_id=3)
        new = waiting()
        await store.hand_over([replace(one, cert_req_id=0)], new)
        _, made = await come(store, one, "k")
        taken = replace(made, transaction_id=new.transaction_id, cert_req_id=0)
        assert await store.certificates_of(new.transaction_id) == (taken,)
        assert await store.certificate(made.serial) == taken
        assert await store.certificates_of(one.transaction_id) == ()

    async def test_several_orders_of_several_transactions_are_taken_over(self, store: AdminStore) -> None:
        pair, single = waiting(), waiting()
        orders = [order(pair), order(pair, cert_req_id=1), order(single, cert_req_id=2)]
        await store.intend(pair, orders[:2], code=None, now=NOW)
        await store.intend(single, orders[2:], code=None, now=NOW)
        (first, _), (left, its_own) = await come(store, orders[0]), await come(store, orders[1])
        new = waiting()
        await store.hand_over([first, orders[2]], new)
        assert [one.stamp for one in await store.orders_of(new.transaction_id)] == [orders[0].stamp, orders[2].stamp]
        assert [one.serial for one in await store.certificates_of(new.transaction_id)] == [first.serial]
        assert await store.orders_of(pair.transaction_id) == (left,)
        assert await store.certificates_of(pair.transaction_id) == (its_own,)
        for ended in (pair, single):
            assert await store.transaction(ended.transaction_id) == replace(ended, state=TransactionState.refused)
        key = hashlib.sha256(left.approved.spki).digest()
        assert await store.same_order("device", "code:1", key) == (left,), "it may still be asked for"

    async def test_what_was_collected_is_not_taken_over(self, store: AdminStore) -> None:
        one = await intend(store)
        arrived, made = await come(store, one)
        other = await intend(store)
        await deliver(store, one.transaction_id, TransactionState.unconfirmed)
        new = waiting()
        for orders in ([arrived], [other, arrived], [other, order(new)]):
            with pytest.raises(OrderMoved):
                await store.hand_over(orders, new)
            assert await store.transaction(new.transaction_id) is None
        assert await store.orders_of(other.transaction_id) == (other,)
        assert await store.certificates_of(one.transaction_id) == (made,)

    async def test_a_transaction_takes_over_once(self, store: AdminStore) -> None:
        one = await intend(store)
        new = waiting()
        await store.hand_over([one], new)
        with pytest.raises(TransactionExists):
            await store.hand_over([one], new)
        await come(store, one)
        await deliver(store, new.transaction_id, TransactionState.unconfirmed)
        with pytest.raises(TransactionExists):
            await store.hand_over([one], new)
        assert len(await store.orders_of(new.transaction_id)) == 1

    async def test_an_open_order_is_taken_over_from_a_transaction_that_has_ended(self, store: AdminStore) -> None:
        one = await intend(store)
        await deliver(store, one.transaction_id, TransactionState.rejected)
        new = waiting()
        await store.hand_over([one], new)
        assert len(await store.orders_of(new.transaction_id)) == 1
        ended = await store.transaction(one.transaction_id)
        assert ended is not None
        assert ended.state is TransactionState.rejected

    async def test_an_order_is_delivered_or_taken_over(self, store: AdminStore, reopen: Open) -> None:
        """Never both, whoever is first."""
        both = (store, await reopen())
        for number in range(10):
            arrived, _ = await come(store, await intend(store))
            new = waiting()
            calls = [
                deliver(both[number % 2], arrived.transaction_id, TransactionState.confirmed),
                both[1 - number % 2].hand_over([arrived], new),
            ]
            first, second = await outcomes(*calls)
            assert (first is None) != (second is None)
            if first is None:
                assert isinstance(second, OrderMoved)
                assert await store.transaction(new.transaction_id) is None
            else:
                assert isinstance(first, TransactionMoved)
                assert len(await store.certificates_of(new.transaction_id)) == 1

    # deliver

    async def test_a_poll_that_is_answered_with_waiting(self, store: AdminStore, reopen: Open) -> None:
        new = waiting()
        one = order(new)
        await store.intend(new, [one], code=None, now=NOW)
        await deliver(store, new.transaction_id, TransactionState.waiting)
        for reader in (store, await reopen()):
            assert await reader.transaction(new.transaction_id) == replace(
                new, nonce=b"N" * 16, last_request=b"Q" * 32, last_reply=b"P" * 900
            )
        await deliver(store, new.transaction_id, TransactionState.waiting, nonce=b"M" * 16)
        assert await store.orders_of(new.transaction_id) == (one,)

    async def test_of_two_that_answer_the_same_poll_one_does(self, store: AdminStore, reopen: Open) -> None:
        """What the other one said would be an answer that the next poll cannot follow."""
        new = waiting()
        await store.intend(new, [order(new)], code=None, now=NOW)
        for first in (False, True):
            await deliver(store, new.transaction_id, TransactionState.waiting)
            with pytest.raises(TransactionMoved):
                await deliver(
                    await reopen(),
                    new.transaction_id,
                    TransactionState.waiting,
                    seen=new.nonce,
                    nonce=b"M" * 16,
                    first=first,
                )
        found = await store.transaction(new.transaction_id)
        assert found is not None
        assert (found.nonce, found.first_reply) == (b"N" * 16, new.first_reply)

    async def test_what_was_ordered_is_delivered_and_confirmed_later(self, store: AdminStore, reopen: Open) -> None:
        new = waiting()
        await store.intend(new, [one := order(new)], code=None, now=NOW)
        _, made = await come(store, one)
        await deliver(store, new.transaction_id, TransactionState.unconfirmed, confirm_by=NOW + 60 * SECOND)
        delivered = replace(
            new,
            state=TransactionState.unconfirmed,
            nonce=b"N" * 16,
            last_request=b"Q" * 32,
            last_reply=b"P" * 900,
            confirm_by=NOW + 60 * SECOND,
        )
        for reader in (store, await reopen()):
            assert await reader.transaction(new.transaction_id) == delivered
            assert await reader.certificates_of(new.transaction_id) == (made,)
        await store.advance(
            new.transaction_id,
            seen=TransactionState.unconfirmed,
            state=TransactionState.confirmed,
            nonce=b"C" * 16,
            request=b"R" * 32,
            reply=b"pkiconf",
            confirmed=[made.serial],
        )
        assert await store.certificates_of(new.transaction_id) == (replace(made, status=CertificateStatus.valid),)

    async def test_what_is_delivered_and_never_confirmed_expires(self, store: AdminStore) -> None:
        """An undelivered one does not, however old it is."""
        one = await intend(store)
        _, made = await come(store, one)
        assert await store.expire(FAR) == ()
        await deliver(store, one.transaction_id, TransactionState.unconfirmed, confirm_by=NOW + 60 * SECOND)
        assert await store.expire(NOW + 59 * SECOND) == ()
        assert await store.expire(NOW + 60 * SECOND) == (Expired(one.transaction_id, "device", (made.serial,)),)
        kept = await store.certificate(made.serial)
        assert kept is not None
        assert kept.status is CertificateStatus.revoked

    async def test_certificates_are_valid_with_the_delivery_when_it_says_so(self, store: AdminStore) -> None:
        """implicitConfirm; one that was revoked while it waited stays revoked."""
        new = waiting()
        pair = [order(new), order(new, cert_req_id=1)]
        await store.intend(new, pair, code=None, now=NOW)
        made = [(await come(store, one))[1] for one in pair]
        revocation = Revocation(made[1].serial, RevocationReason.superseded, NOW)
        assert await store.revoke(revocation) is True
        assert await store.revoked("upstream") == (revocation,)
        await deliver(store, new.transaction_id, TransactionState.confirmed, confirmed=[one.serial for one in made])
        kept = await store.certificates_of(new.transaction_id)
        assert [one.status for one in kept] == [CertificateStatus.valid, CertificateStatus.revoked]

    async def test_the_first_answer_may_have_it_already(self, store: AdminStore) -> None:
        """Then it is what a repetition of the first request is answered with."""
        new = waiting()
        await store.intend(new, [one := order(new)], code=None, now=NOW)
        _, made = await come(store, one)
        change: dict[str, Any] = {"first": True, "request": new.first_request, "confirmed": [made.serial]}
        await deliver(store, new.transaction_id, TransactionState.confirmed, **change)
        assert await store.transaction(new.transaction_id) == replace(
            new, state=TransactionState.confirmed, nonce=b"N" * 16, first_reply=b"P" * 900
        )
        assert await store.certificates_of(new.transaction_id) == (replace(made, status=CertificateStatus.valid),)

    async def test_only_what_waits_is_delivered(self, store: AdminStore) -> None:
        new, made = await issue(store)
        for transaction_id in (new.transaction_id, b"unknown"):
            for first in (False, True):
                with pytest.raises(TransactionMoved):
                    await deliver(
                        store, transaction_id, TransactionState.confirmed, first=first, confirmed=[made.serial]
                    )
        assert await store.transaction(new.transaction_id) == new
        assert await store.certificate(made.serial) == made

    async def test_of_many_that_deliver_at_once_one_does(self, store: AdminStore, reopen: Open) -> None:
        both = (store, await reopen())
        one = await intend(store)
        await come(store, one)
        results = await outcomes(
            *(
                deliver(
                    both[number % 2],
                    one.transaction_id,
                    TransactionState.unconfirmed,
                    reply=b"%d" % number,
                    first=number % 4 == 0,
                )
                for number in range(20)
            )
        )
        assert sum(isinstance(result, TransactionMoved) for result in results) == 19
        kept = await store.transaction(one.transaction_id)
        assert kept is not None
        winner = results.index(None)
        assert (kept.first_reply if winner % 4 == 0 else kept.last_reply) == b"%d" % winner

    # forget

    @pytest.mark.parametrize("state", OrderState)
    async def test_a_transaction_is_not_forgotten_while_an_order_of_it_is_open(
        self, store: AdminStore, state: OrderState
    ) -> None:
        """Nor is it at once when the order has ended: the EE must have the time to hear of it."""
        new = waiting(created=NOW - 30 * DAY)
        old, recent = order(new), order(new, cert_req_id=1, updated=NOW - DAY, state=OrderState.failed)
        await store.intend(new, [replace(old, state=state), recent], code=None, now=NOW)
        assert await store.forget(NOW - DAY) == 0
        assert await store.transaction(new.transaction_id) == new
        gone = state not in OPEN_ORDERS
        assert await store.forget(NOW) == gone
        assert (await store.transaction(new.transaction_id) is None) is gone

    async def test_an_ended_transaction_with_an_open_order_is_not_forgotten_either(self, store: AdminStore) -> None:
        one = await intend(store)
        await deliver(store, one.transaction_id, TransactionState.refused)
        assert await store.forget(FAR) == 0
        await store.move_order(replace(one, state=OrderState.failed), seen=one.state)
        assert await store.forget(FAR) == 1

    async def test_orders_and_certificates_outlive_their_transaction(self, store: AdminStore) -> None:
        """And what was never collected is still found, and can be taken over."""
        arrived, made = await come(store, await intend(store, "k"), "k")
        collected, _ = await come(store, await intend(store, "l"), "l")
        await deliver(store, collected.transaction_id, TransactionState.confirmed)
        assert await store.forget(FAR) == 2
        assert await store.orders_of(arrived.transaction_id) == ()
        assert await store.order(arrived.stamp) == arrived
        assert await store.orders(9) == [collected, arrived]
        assert await store.certificate(made.serial) == made
        assert await store.same_order("device", "code:1", spki_sha256("l")) == ()
        assert await store.same_order("device", "code:1", spki_sha256("k")) == (arrived,)
        new = waiting()
        await store.hand_over([arrived], new)
        taken = replace(made, transaction_id=new.transaction_id)
        assert await store.certificates_of(new.transaction_id) == (taken,)

    async def test_a_transaction_id_that_comes_again_has_its_own_orders(self, store: AdminStore) -> None:
        old = await intend(store, of={"transaction_id": b"t" * 16})
        await come(store, old)
        await store.forget(FAR)
        new = await intend(store, of={"transaction_id": b"t" * 16})
        assert await store.orders_of(b"t" * 16) == (new,)
        _, made = await come(store, new)
        assert await store.certificates_of(b"t" * 16) == (made,)
        await store.forget(FAR)
        plain, _ = await issue(store, transaction_id=b"t" * 16)
        assert await store.orders_of(plain.transaction_id) == ()
