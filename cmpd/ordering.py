"""Certificates on order: what is asked of issuers that are paid or take their time (RFC 9483 §5.1.5).

    intended ──► submitting ──► ordered ──► issued
        ▲            │  │          │
        │ not done   │  └► unknown ┤ found      failed: refused, rejected or cancelled by the issuer
        └────────────┘      │      │            held:   an operator must decide
                            └──────┴──► held

An order is kept before the issuer hears of it, and each step before the next one is taken. What was sent and never
answered is looked for at the issuer, and not sent again: there is one order for each that was kept, whatever happens.

For each issuer two tasks work side by side, so that thousands of orders to look at do not keep new ones waiting: one
places, one sees to what has been placed. A submission that takes long keeps nobody waiting but its own place.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

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
AT_ONCE = 32
"""Orders that are submitted to one issuer side by side: ten a second, if each takes three seconds."""
LOOKS = 25
"""Orders that are looked at one by one before there is a look at what else is due."""
HELD = 8
"""Requests that are held open at a time, for orders that are perhaps settled at once."""
QUICK_SECONDS = 1.0
"""After a submission that took longer no request is held open, until one has been as quick again."""
OVERLAP = timedelta(minutes=2)
"""By so much more than the time since the last look changes are asked for: clocks differ, and answers take time."""
LONGEST_PAUSE = 300.0
"""Between two attempts at an issuer that cannot be reached, in seconds."""
LOST_SECONDS = 30.0
"""An order that is still being submitted so long after it could have ended has lost its process."""

Observe = Callable[[str, str], None]
"""Called with the issuer's name and what an order has become, or `unavailable`."""


def _ignore(issuer: str, outcome: str) -> None:
    """Nobody counts."""


def _always(_issuer: str) -> bool:
    """There is no other process."""
    return True


@dataclass(slots=True)
class _Waiter:
    """A request that is held open."""

    left: int
    """Orders of it that have not been answered yet."""
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Place:
    """What is being submitted to one issuer."""

    news: asyncio.Event = field(default_factory=asyncio.Event)
    """There is something to do at once."""
    ours: set[str] = field(default_factory=set)
    """The stamps of what was ordered of this process, and not begun."""
    queue: deque[Order] = field(default_factory=deque)
    """Read from the store, and not begun."""
    running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """By stamp."""
    quick: bool = True
    """The last submission was, or there was none."""


@dataclass(slots=True)
class OrderDesk:
    """Takes orders to their issuers and sees to them until they are settled. One for a process.

    Of several processes, each submits at once what was ordered of it; who `sees_to` an issuer does all the rest.
    """

    store: OrderStore
    issuers: Mapping[str, Ordering]
    clock: Clock
    observe: Observe = _ignore
    sees_to: Callable[[str], bool] = _always
    """Whether this process asks an issuer what has become of its orders."""
    _places: dict[str, _Place] = field(default_factory=dict)
    """By issuer."""
    _waiting: dict[bytes, _Waiter] = field(default_factory=dict)
    """By transactionID: somebody waits for its orders to be answered."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _failures: dict[tuple[str, bool], int] = field(default_factory=dict)
    """In a row, of an issuer: at placing, and at seeing to what has been placed."""
    _polled: dict[str, datetime] = field(default_factory=dict)
    """By issuer: when it was asked last which orders have changed."""

    def start(self) -> None:
        """Begin to work, two tasks for each issuer."""
        loop = asyncio.get_running_loop()
        for name in self.issuers:
            self._tasks.append(loop.create_task(self._work(name, self._submit_due, self._at(name).news)))
            self._tasks.append(loop.create_task(self._work(name, self._see_to, asyncio.Event())))

    async def stop(self) -> None:
        """Stop working; an order that is being submitted is found as such at the next start, and looked for."""
        tasks = [*self._tasks, *(task for place in self._places.values() for task in place.running.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._places.clear()

    def nudge(self, issuer: str, stamps: Iterable[str]) -> None:
        """There are new orders, of this process."""
        self._at(issuer).ours.update(stamps)
        self._at(issuer).news.set()

    def unreachable(self, issuer: str) -> bool:
        """Whether the last attempt at an issuer has failed."""
        return (issuer, True) in self._failures or (issuer, False) in self._failures

    async def settled(self, issuer: str, transaction_id: bytes, orders: int, seconds: float) -> None:
        """Return when the orders of a transaction have been submitted and answered, or after `seconds`.

        At once when the issuer was not quick of late, or as many wait as may: a request is held open only where its
        certificate is likely to come of it.
        """
        place = self._at(issuer)
        if not place.quick or len(self._waiting) >= HELD:
            return
        waiter = self._waiting.setdefault(transaction_id, _Waiter(orders))
        try:
            async with asyncio.timeout(seconds):
                await waiter.over.wait()
        except TimeoutError:
            place.quick = False
        finally:
            self._waiting.pop(transaction_id, None)

    def _at(self, issuer: str) -> _Place:
        return self._places.setdefault(issuer, _Place())

    async def _work(self, name: str, job: Callable[[str], Awaitable[bool]], news: asyncio.Event) -> None:
        which = (name, job == self._submit_due)
        while True:
            pause = IDLE_SECONDS
            news.clear()
            try:
                more = await job(name)
                pause = 0.0 if more else IDLE_SECONDS
            except StoreUnavailable as error:
                logger.warning("orders of %s: the store is not available: %s", name, error)
            except IssuerUnavailable as error:
                pause = self._back_off(which)
                self.observe(name, "unavailable")
                logger.warning("orders of %s: %s; next attempt in %.0f s", name, error, pause)
                await asyncio.sleep(pause)
                continue
            except Exception:
                logger.exception("orders of %s: an internal error occurred", name)
            else:
                if job != self._submit_due:  # which only begins what may fail
                    self._failures.pop(which, None)
            if pause:
                try:
                    async with asyncio.timeout(pause):
                        await news.wait()
                except TimeoutError:
                    pass

    def _back_off(self, which: tuple[str, bool]) -> float:
        """Twice as long after each failure, with jitter, so that nodes do not come back all at once."""
        self._failures[which] = failures = self._failures.get(which, 0) + 1
        return min(2.0 ** min(failures, 9), LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311  no secret

    async def once(self, name: str) -> bool:
        """Do all that is due for one issuer, and wait for it; True when there may be more.

        Raises IssuerUnavailable, StoreUnavailable.
        """
        more = await self._see_to(name)
        place = self._at(name)
        try:
            while await self._submit_due(name) or place.running:
                await asyncio.wait(place.running.values())
        finally:
            await asyncio.gather(*place.running.values(), return_exceptions=True)
        return more

    async def _submit_due(self, name: str) -> bool:
        """Begin to submit what is due, as much at a time as may be; its end is news. Raises what ended one before.

        Returns False: whoever waits for more waits for that news.
        """
        place, issuer, now = self._at(name), self.issuers[name], self.clock()
        ended = [stamp for stamp, task in place.running.items() if task.done()]
        faults = [fault for stamp in ended if (fault := place.running.pop(stamp).exception()) is not None]
        if faults:
            place.queue.clear()  # what is read anew after the pause is up to date
            raise faults[0]
        if ended:
            self._failures.pop((name, True), None)
        if not place.running and self.unreachable(name):
            place.queue.clear()
            await issuer.changes(now - OVERLAP)  # whether it is back is tried by asking, and never by an order
        if not place.queue:
            before = set(place.ours)
            found = await self.store.orders_open(name, (OrderState.intended,), BATCH)
            if not found and not place.running:
                self._failures.pop((name, True), None)  # there is nothing left that could fail
            mine = {one.stamp for one in found} if self.sees_to(name) else place.ours
            place.queue += (
                one for one in found if one.due <= now and one.stamp in mine and one.stamp not in place.running
            )
            place.ours -= before.difference(one.stamp for one in found)  # another process has moved those
        while place.queue and len(place.running) < AT_ONCE:
            order = place.queue.popleft()
            place.ours.discard(order.stamp)
            task = asyncio.get_running_loop().create_task(self._carry(place, issuer, order))
            place.running[order.stamp] = task
            task.add_done_callback(lambda _: place.news.set())
        return False

    async def _carry(self, place: _Place, issuer: Ordering, order: Order) -> None:
        """Submit one, and let go of the request that is held open for it, whatever has become of it."""
        began = time.monotonic()
        try:
            await self._submit(issuer, order)
        finally:
            place.quick = time.monotonic() - began <= QUICK_SECONDS
            waiter = self._waiting.get(order.transaction_id)
            if waiter is not None:
                waiter.left -= 1
                if waiter.left <= 0:
                    waiter.over.set()

    async def _see_to(self, name: str) -> bool:
        """See to what has been submitted, and ask what has changed; True when there may be more."""
        issuer, now = self.issuers[name], self.clock()
        if not self.sees_to(name):
            return False
        astray = await self.store.orders_open(name, (OrderState.submitting, OrderState.unknown), BATCH)
        lost = [one for one in astray if one.due <= now and one.state is OrderState.unknown]
        for order in astray:
            if order.due <= now and order.state is OrderState.submitting:
                await self._move(order, OrderState.unknown, now, private="nobody came back from submitting it")
        due = await self.store.orders_due(name, now, BATCH)
        overdue = [one for one in due if one.state is OrderState.ordered]
        trouble: list[Exception] = []

        async def attempt(step: Coroutine[Any, Any, None]) -> None:
            """What cannot be done keeps nothing else from being done."""
            try:
                await step
            except Exception as error:  # noqa: BLE001  raised in the end
                trouble.append(error)

        async def search() -> None:
            if lost:
                await attempt(self._reconcile(name, issuer, lost))

        async def see() -> None:
            if overdue:
                await attempt(self._look(issuer, overdue[:LOOKS]))
            await attempt(self._poll(name, issuer))

        await asyncio.gather(search(), see())
        for error in trouble:
            raise error
        return len(overdue) > LOOKS

    async def _poll(self, name: str, issuer: Ordering) -> None:
        """Ask for all orders at once which have changed, and look at those."""
        now = self.clock()
        before = self._polled.get(name)
        if before is not None and now < before + timedelta(seconds=issuer.poll_seconds):
            return
        placed = await self.store.tickets(name)
        if placed:
            # at the start as far back as a sweep: what changed before that has been looked at, or is due
            since = (now - timedelta(seconds=issuer.sweep_seconds) if before is None else before) - OVERLAP
            changed = await issuer.changes(since)
            stamps = [stamp for stamp, ticket in placed if changed is None or ticket.partition(":")[0] in changed]
            for at in range(0, len(stamps), LOOKS):
                orders = [await self.store.order(stamp) for stamp in stamps[at : at + LOOKS]]
                await self._look(issuer, [one for one in orders if one is not None and one.state is OrderState.ordered])
        self._polled[name] = now

    # ------------------------------------------------------------------------------------------ the steps

    async def _submit(self, issuer: Ordering, order: Order) -> None:
        try:
            hint = await issuer.prepare(order)
        except OrderRefused as error:
            await self._fail(order, error)
            return
        except OrderNotDone as error:
            await self._later(order, error)
            return
        now = self.clock()
        lost = now + timedelta(seconds=issuer.submit_seconds + LOST_SECONDS)
        sent = replace(order, state=OrderState.submitting, updated=now, due=lost, ticket=hint)
        try:
            sent = await self.store.move_order(sent, seen=OrderState.intended)
        except OrderMoved:
            return  # another node has it
        if self.clock() >= lost - timedelta(seconds=issuer.submit_seconds):
            return  # we were paused, and it counts as lost: whoever sees to it looks for it, and may submit it again
        try:
            answer = await issuer.submit(sent)
        except OrderRefused as error:
            await self._fail(sent, error)
        except OrderNotDone as error:
            await self._later(sent, error)
        except OrderUnknown as error:
            await self._move(sent, OrderState.unknown, self.clock(), private=str(error))
        except Exception as error:
            logger.exception("order %s: an internal error occurred", order.stamp)
            await self._move(sent, OrderState.unknown, self.clock(), private=f"internal error: {type(error).__name__}")
        else:
            await self._progress(issuer, sent, answer)

    async def _later(self, order: Order, error: OrderNotDone) -> None:
        """Nothing was done: the same once more, after a while. Raises IssuerUnavailable when others must wait too."""
        due = self.clock() + timedelta(seconds=error.seconds)
        await self._move(order, OrderState.intended, due, private=str(error), ticket="", attempts=order.attempts + 1)
        if not error.alone:
            raise IssuerUnavailable(str(error)) from error

    async def _reconcile(self, name: str, issuer: Ordering, lost: Sequence[Order]) -> None:
        known = {ticket for _, ticket in await self.store.tickets(name)}
        found = await issuer.reconcile(lost, known)
        now = self.clock()
        for order in lost:
            answer = found.get(order.stamp)
            if isinstance(answer, OrderUnknown):
                logger.warning("order %s could not be looked for: %s", order.stamp, answer)
                await self._due(order, now + timedelta(seconds=issuer.poll_seconds))
            elif isinstance(answer, OrderRefused):
                await self._hold(order, answer.private or answer.text, ticket="")
            elif answer is not None:
                await self._progress(issuer, order, answer, found=True)
            elif now - order.updated < timedelta(seconds=issuer.settle_seconds):
                await self._due(order, now + timedelta(seconds=min(issuer.poll_seconds, issuer.settle_seconds)))
            elif issuer.on_unknown == "resubmit":
                private = "not found at the issuer; submitted again"
                await self._move(order, OrderState.intended, now, private=private, ticket="")
            else:
                reason = "not found at the issuer; release it to submit it again, or adopt or cancel it"
                await self._hold(order, reason, ticket="")

    async def _look(self, issuer: Ordering, orders: Sequence[Order]) -> None:
        found = await issuer.look(orders)
        for order in orders:
            answer = found.get(order.stamp)
            if answer is None:
                await self._due(order, self.clock() + timedelta(seconds=issuer.poll_seconds))
            elif isinstance(answer, OrderRefused):
                await self._fail(order, answer)
            else:
                await self._progress(issuer, order, answer)

    async def _progress(self, issuer: Ordering, order: Order, answer: OnOrder | Issued, *, found: bool = False) -> None:
        """Keep what has become of an order; one that was `found` again is looked at next.

        It may have changed while it was lost, and of that nobody is told a second time.
        """
        now = self.clock()
        if isinstance(answer, OnOrder):
            if (order.state, order.ticket, order.text) == (OrderState.ordered, answer.ticket, answer.text):
                if order.due <= now:
                    await self._due(order, now + timedelta(seconds=issuer.sweep_seconds))
                return
            await self._move(
                order,
                OrderState.ordered,
                now if found else now + timedelta(seconds=issuer.sweep_seconds),
                ticket=answer.ticket,
                text=answer.text,
                private=answer.private,
            )
            return
        wrong = issuer.difference(order.approved, answer)
        if wrong is not None:
            reason = f"the issuer issued something other than was approved: {wrong}"
            await self._hold(order, reason, ticket=answer.ticket or order.ticket)
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

    async def _hold(self, order: Order, private: str, *, ticket: str) -> None:
        logger.error(
            "order %s is held: %s; see `cmpd order show %s`", order.stamp, asn1.printable(private), order.stamp
        )
        await self._move(order, OrderState.held, self.clock(), private=private, ticket=ticket)

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
