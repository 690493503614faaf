"""Certificates on order: what is asked of issuers that are paid or take their time (RFC 9483 §5.1.5).

    intended ──► submitting ──► ordered ──► issued
        ▲            │  │          │
        │ not done   │  └► unknown ┤ found      failed: refused, rejected or cancelled by the issuer
        └────────────┘      │      │            held:   an operator must decide
                            └──────┴──► held

An order is kept before the issuer hears of it, and each step before the next one is taken. What was sent and never
answered is looked for at the issuer, and not sent again: there is one order for each that was kept, whatever happens.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cmpd import asn1
from cmpd.asn1 import PKIFailureInfo
from cmpd.exchange import CertificateStatus, IssuedCertificate, Order, OrderState
from cmpd.ports import (
    Clock,
    Issued,
    IssuerUnavailable,
    OnOrder,
    Ordering,
    OrderMoved,
    OrderNotDone,
    OrderRefused,
    OrderStore,
    OrderUnknown,
    StoreUnavailable,
)

logger = logging.getLogger(__name__)

BATCH = 500
"""Orders that are taken up at a time."""
IDLE_SECONDS = 5.0
"""How often the store is asked for orders that are due, when nobody has said that there are some."""
AT_ONCE = 8
"""Orders that are submitted to one issuer side by side."""
OVERLAP = timedelta(minutes=2)
"""By so much more than the time since the last look changes are asked for: clocks differ, and answers take time."""
FIRST_LOOK = timedelta(days=1)
"""How far back changes are asked for at the start; what changed before that, the sweep finds."""
LONGEST_PAUSE = 300.0
"""Between two attempts at an issuer that cannot be reached, in seconds."""
LOST_SECONDS = 30.0
"""An order that is still being submitted so long after it could have ended has lost its process."""

Observe = Callable[[str, str], None]
"""Called with the issuer's name and what an order has become, or `unavailable`."""


def _ignore(issuer: str, outcome: str) -> None:
    """Nobody counts."""


@dataclass(slots=True)
class OrderDesk:
    """Takes orders to their issuers and sees to them until they are settled. One for a process."""

    store: OrderStore
    issuers: Mapping[str, Ordering]
    clock: Clock
    observe: Observe = _ignore
    _news: dict[str, asyncio.Event] = field(default_factory=dict)
    """By issuer: there is something to do at once."""
    _waiting: dict[bytes, asyncio.Event] = field(default_factory=dict)
    """By transactionID: somebody waits for its orders to settle."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _failures: dict[str, int] = field(default_factory=dict)
    _polled: dict[str, datetime] = field(default_factory=dict)
    """By issuer: when it was asked last which orders have changed."""

    def start(self) -> None:
        """Begin to work, one task for each issuer."""
        for name in self.issuers:
            self._news[name] = asyncio.Event()
            self._tasks.append(asyncio.get_running_loop().create_task(self._work(name)))

    async def stop(self) -> None:
        """Stop working; an order that is being submitted is found as such at the next start, and looked for."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def nudge(self, issuer: str) -> None:
        """There are new orders."""
        if issuer in self._news:
            self._news[issuer].set()

    async def settled(self, transaction_id: bytes, seconds: float) -> None:
        """Return when an order of a transaction has been settled, or after `seconds`."""
        event = self._waiting.setdefault(transaction_id, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting.pop(transaction_id, None)

    async def _work(self, name: str) -> None:
        while True:
            pause = IDLE_SECONDS
            self._news[name].clear()
            try:
                more = await self.once(name)
                pause = 0.0 if more else IDLE_SECONDS
            except StoreUnavailable as error:
                logger.warning("orders of %s: the store is not available: %s", name, error)
            except IssuerUnavailable as error:
                pause = self._back_off(name)
                self.observe(name, "unavailable")
                logger.warning("orders of %s: %s; next attempt in %.0f s", name, error, pause)
                await asyncio.sleep(pause)
                continue
            except Exception:
                logger.exception("orders of %s: an internal error occurred", name)
            else:
                self._failures.pop(name, None)
            if pause:
                try:
                    async with asyncio.timeout(pause):
                        await self._news[name].wait()
                except TimeoutError:
                    pass

    def _back_off(self, name: str) -> float:
        """Twice as long after each failure, with jitter, so that nodes do not come back all at once."""
        self._failures[name] = failures = self._failures.get(name, 0) + 1
        return min(2.0 ** min(failures, 9), LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311  no secret

    async def once(self, name: str) -> bool:
        """Do what is due for one issuer; True when there may be more. Raises IssuerUnavailable, StoreUnavailable."""
        issuer, now = self.issuers[name], self.clock()
        due = await self.store.orders_due(name, now, BATCH)
        for order in due:
            if order.state is OrderState.submitting:
                await self._move(order, OrderState.unknown, now, private="nobody came back from submitting it")
        gate = asyncio.Semaphore(AT_ONCE)

        async def submit(order: Order) -> None:
            async with gate:
                await self._submit(issuer, order)

        fresh = [one for one in due if one.state is OrderState.intended]
        outcomes = await asyncio.gather(*map(submit, fresh), return_exceptions=True)
        if lost := [one for one in due if one.state is OrderState.unknown]:
            await self._reconcile(name, issuer, lost)
        if overdue := [one for one in due if one.state is OrderState.ordered]:
            await self._look(issuer, overdue)
        await self._poll(name, issuer)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return len(due) == BATCH

    async def _poll(self, name: str, issuer: Ordering) -> None:
        """Ask for all orders at once which have changed, and look at those."""
        now = self.clock()
        before = self._polled.get(name)
        if before is not None and now < before + timedelta(seconds=issuer.poll_seconds):
            return
        placed = await self.store.tickets(name)
        if placed:
            since = (now - FIRST_LOOK if before is None else before) - OVERLAP
            changed = await issuer.changes(since)
            stamps = [stamp for stamp, ticket in placed if changed is None or ticket.partition(":")[0] in changed]
            for at in range(0, len(stamps), BATCH):
                orders = [await self.store.order(stamp) for stamp in stamps[at : at + BATCH]]
                await self._look(issuer, [one for one in orders if one is not None and one.state is OrderState.ordered])
        self._polled[name] = now

    # ------------------------------------------------------------------------------------------ the steps

    async def _submit(self, issuer: Ordering, order: Order) -> None:
        now = self.clock()
        try:
            hint = await issuer.prepare(order)
        except OrderRefused as error:
            await self._fail(order, error)
            return
        except OrderNotDone as error:
            await self._later(order, error)
            raise IssuerUnavailable(str(error)) from error
        lost = now + timedelta(seconds=issuer.submit_seconds + LOST_SECONDS)
        sent = replace(order, state=OrderState.submitting, updated=now, due=lost, ticket=hint)
        try:
            sent = await self.store.move_order(sent, seen=OrderState.intended)
        except OrderMoved:
            return  # another node has it
        try:
            answer = await issuer.submit(sent)
        except OrderRefused as error:
            await self._fail(sent, error)
        except OrderNotDone as error:
            await self._later(sent, error)
            raise IssuerUnavailable(str(error)) from error
        except OrderUnknown as error:
            await self._move(sent, OrderState.unknown, self.clock(), private=str(error))
        except Exception as error:
            logger.exception("order %s: an internal error occurred", order.stamp)
            await self._move(sent, OrderState.unknown, self.clock(), private=f"internal error: {type(error).__name__}")
        else:
            await self._progress(issuer, sent, answer)

    async def _later(self, order: Order, error: OrderNotDone) -> None:
        """Nothing was done: the same once more, after a while."""
        due = self.clock() + timedelta(seconds=error.seconds)
        await self._move(order, OrderState.intended, due, private=str(error), attempts=order.attempts + 1)

    async def _reconcile(self, name: str, issuer: Ordering, lost: Sequence[Order]) -> None:
        known = {ticket for _, ticket in await self.store.tickets(name)}
        found = await issuer.reconcile(lost, known)
        now = self.clock()
        for order in lost:
            answer = found.get(order.stamp)
            if isinstance(answer, OrderRefused):
                await self._hold(order, answer.private or answer.text)
            elif answer is not None:
                await self._progress(issuer, order, answer)
            elif now - order.updated < timedelta(seconds=issuer.settle_seconds):
                await self._due(order, now + timedelta(seconds=min(issuer.poll_seconds, issuer.settle_seconds)))
            elif issuer.on_unknown == "resubmit":
                await self._move(order, OrderState.intended, now, private="not found at the issuer; submitted again")
            else:
                await self._hold(order, "not found at the issuer; release it to submit it again, or adopt or cancel it")

    async def _look(self, issuer: Ordering, orders: Sequence[Order]) -> None:
        found = await issuer.look(orders)
        for order in orders:
            answer = found.get(order.stamp)
            if answer is None:
                if order.due <= self.clock():
                    await self._due(order, self.clock() + timedelta(seconds=issuer.sweep_seconds))
            elif isinstance(answer, OrderRefused):
                await self._fail(order, answer)
            else:
                await self._progress(issuer, order, answer)

    async def _progress(self, issuer: Ordering, order: Order, answer: OnOrder | Issued) -> None:
        now = self.clock()
        if isinstance(answer, OnOrder):
            if (order.state, order.ticket, order.text) == (OrderState.ordered, answer.ticket, answer.text):
                if order.due <= now:
                    await self._due(order, now + timedelta(seconds=issuer.sweep_seconds))
                return
            await self._move(
                order,
                OrderState.ordered,
                now + timedelta(seconds=issuer.sweep_seconds),
                ticket=answer.ticket,
                text=answer.text,
                private=answer.private,
            )
            return
        wrong = issuer.difference(order.approved, answer)
        if wrong is not None:
            await self._hold(order, f"the issuer issued something other than was approved: {wrong}")
            return
        certificate = IssuedCertificate(
            serial=answer.serial,
            der=answer.der,
            issuer=order.issuer,
            profile=order.approved.profile,
            not_after=answer.not_after,
            transaction_id=order.transaction_id,
            cert_req_id=order.cert_req_id,
            status=CertificateStatus.unconfirmed,
            issued_at=now,
            seat=order.approved.seat,
            ticket=answer.ticket or order.ticket,
        )
        await self._move(
            order,
            OrderState.issued,
            now,
            certificate,
            ticket=certificate.ticket,
            serial=answer.serial,
            chain=answer.chain,
            text="",
        )

    async def _fail(self, order: Order, error: OrderRefused) -> None:
        fail_info = PKIFailureInfo.notAuthorized.name
        await self._move(
            order, OrderState.failed, self.clock(), text=error.text, private=error.private, fail_info=fail_info
        )

    async def _hold(self, order: Order, private: str) -> None:
        logger.error(
            "order %s is held: %s; see `cmpd order show %s`", order.stamp, asn1.printable(private), order.stamp
        )
        await self._move(order, OrderState.held, self.clock(), private=private)

    async def _due(self, order: Order, due: datetime) -> None:
        """Nothing has changed; look again then."""
        with_due = replace(order, due=due, attempts=order.attempts + 1)
        try:
            await self.store.move_order(with_due, seen=order.state)
        except OrderMoved:
            logger.info("order %s was moved by somebody else", order.stamp)

    async def _move(
        self,
        order: Order,
        state: OrderState,
        due: datetime,
        certificate: IssuedCertificate | None = None,
        **changes: object,
    ) -> None:
        changes.setdefault("attempts", 0)
        moved = replace(order, state=state, updated=self.clock(), due=due, **changes)  # type: ignore[arg-type]
        try:
            await self.store.move_order(moved, seen=order.state, certificate=certificate)
        except OrderMoved:
            logger.info("order %s was moved by somebody else", order.stamp)
            return
        self.observe(order.issuer, state.value)
        logger.info(
            "order %s: %s (profile %s, transaction %s)%s",
            order.stamp,
            state.value,
            order.approved.profile,
            order.transaction_id.hex(),
            f": {asn1.printable(moved.private)}" if moved.private else "",
        )
        if state in {OrderState.issued, OrderState.failed} and (event := self._waiting.get(order.transaction_id)):
            event.set()
