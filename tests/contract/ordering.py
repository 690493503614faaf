"""What every issuer that is ordered from must do. Subclass `OrderingContract` as `Test…` and give it a `market`."""

from abc import ABC, abstractmethod
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cmpd.exchange import Approved, Order, OrderState
from cmpd.ports import (
    Issued,
    IssuerUnavailable,
    OnOrder,
    Ordering,
    OrderNotDone,
    OrderRefused,
    OrderUnknown,
)

DAY = timedelta(days=1)


class Market(ABC):
    """An issuer with the CA behind it, which a test has in its hands."""

    issuer: Ordering

    @abstractmethod
    def approved(self) -> Approved:
        """A request for a new key that can be ordered."""

    @abstractmethod
    def lose_the_next_answer(self) -> None:
        """The CA takes the next order, and its answer never arrives."""

    @abstractmethod
    async def go_away(self) -> None:
        """The CA cannot be reached any more."""

    @abstractmethod
    async def issue(self, ticket: str) -> None:
        """The CA issues what is on order; until then it issues nothing."""

    @property
    @abstractmethod
    def bought(self) -> int:
        """How many orders the CA has."""

    def order(self) -> Order:
        """An order that is about to be submitted."""
        approved, now = self.approved(), datetime.now(UTC).replace(microsecond=0)
        stamp = f"cmpd-{approved.transaction_id.hex()}"
        return Order(stamp, approved.transaction_id, 0, "ca", approved, OrderState.submitting, now, now, now + DAY)

    async def placed(self) -> Order:
        """One that the CA has."""
        order = self.order()
        order = replace(order, ticket=await self.issuer.prepare(order))
        answer = await self.issuer.submit(order)
        assert isinstance(answer, OnOrder)
        return replace(order, state=OrderState.ordered, ticket=answer.ticket)


class OrderingContract:
    """See the module."""

    def test_it_says_how_it_is_to_be_treated(self, market: Market) -> None:
        issuer = market.issuer
        assert isinstance(issuer, Ordering)
        assert issuer.outside_effects
        assert 0 < issuer.poll_seconds <= issuer.sweep_seconds
        assert issuer.settle_seconds > 0
        assert issuer.submit_seconds > 0
        assert issuer.on_unknown in {"hold", "resubmit"}

    async def test_an_order_has_a_ticket_of_its_own(self, market: Market) -> None:
        tickets = {(await market.placed()).ticket for _ in range(3)}
        assert len(tickets) == 3
        assert "" not in tickets
        assert market.bought == 3

    async def test_it_is_on_order_until_it_is_issued(self, market: Market) -> None:
        order = await market.placed()
        answer = (await market.issuer.look([order]))[order.stamp]
        assert isinstance(answer, OnOrder)
        assert answer.ticket == order.ticket
        await market.issue(order.ticket)
        issued = (await market.issuer.look([order]))[order.stamp]
        assert isinstance(issued, Issued)
        assert market.issuer.difference(order.approved, issued) is None

    async def test_whoever_asks_hears_of_all_of_them(self, market: Market) -> None:
        orders = [await market.placed() for _ in range(3)]
        assert set(await market.issuer.look(orders)) == {one.stamp for one in orders}

    async def test_a_change_is_told(self, market: Market) -> None:
        order, _ = await market.placed(), await market.placed()
        await market.issue(order.ticket)
        changed = await market.issuer.changes(datetime.now(UTC) - DAY)
        assert changed is None or order.ticket.partition(":")[0] in changed

    async def test_a_certificate_for_another_key_differs(self, market: Market) -> None:
        order, other = await market.placed(), await market.placed()
        await market.issue(order.ticket)
        issued = (await market.issuer.look([order]))[order.stamp]
        assert isinstance(issued, Issued)
        assert market.issuer.difference(other.approved, issued) is not None

    async def test_an_order_whose_answer_was_lost_is_found(self, market: Market) -> None:
        others = [await market.placed() for _ in range(2)]
        order = market.order()
        market.lose_the_next_answer()
        with pytest.raises(OrderUnknown):
            await market.issuer.submit(order)
        lost = replace(order, state=OrderState.unknown)
        found = await market.issuer.reconcile([lost], {one.ticket for one in others})
        answer = found[order.stamp]
        assert isinstance(answer, OnOrder)
        assert answer.ticket not in {"", *(one.ticket for one in others)}
        assert market.bought == 3

    async def test_it_is_found_also_when_another_transaction_has_taken_it_over(self, market: Market) -> None:
        order = market.order()
        market.lose_the_next_answer()
        with pytest.raises(OrderUnknown):
            await market.issuer.submit(order)
        taken = replace(order.approved, transaction_id=b"another")
        lost = replace(order, state=OrderState.unknown, transaction_id=b"another", approved=taken)
        assert isinstance((await market.issuer.reconcile([lost], ()))[order.stamp], OnOrder)

    async def test_an_order_that_was_never_placed_is_not_found(self, market: Market) -> None:
        await market.placed()
        lost = replace(market.order(), state=OrderState.unknown)
        assert await market.issuer.reconcile([lost], ()) == {}

    async def test_what_is_withdrawn_is_refused(self, market: Market) -> None:
        order = await market.placed()
        await market.issuer.withdraw(order)
        assert isinstance((await market.issuer.look([order]))[order.stamp], OrderRefused)

    async def test_who_cannot_be_reached_has_not_taken_the_order(self, market: Market) -> None:
        """Certainly not: it may be submitted again. About the others nobody knows."""
        placed, order = await market.placed(), market.order()
        await market.go_away()
        with pytest.raises(OrderNotDone):
            await market.issuer.submit(order)
        for _ in range(9):  # that it is not one order only, an issuer may need some calls to see
            if placed.stamp in await _looked(market, placed):
                raise AssertionError("nobody can know")
        with pytest.raises(IssuerUnavailable):
            await market.issuer.look([placed])
        with pytest.raises(IssuerUnavailable):
            await market.issuer.reconcile([replace(order, state=OrderState.unknown)], ())
        with pytest.raises(IssuerUnavailable):
            await market.issuer.changes(datetime.now(UTC) - DAY)
        assert market.bought == 1


async def _looked(market: Market, order: Order) -> set[str]:
    try:
        return set(await market.issuer.look([order]))
    except IssuerUnavailable:
        return set()
