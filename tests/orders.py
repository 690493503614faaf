"""An issuer that takes its time, and all that can go wrong at one; certificates are the local CA's."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from cmpd.exchange import Approved, IssuedCertificate, Order, OutsideState, RevocationPolicy, RevocationReason
from cmpd.issuers.local import LocalIssuer
from cmpd.ports import Issued, IssuerUnavailable, OnOrder, OrderNotDone, OrderRefused, Revocation


@dataclass
class SlowCA:
    """`ports.Ordering`: what is asked of it, it keeps, and issues when it is told to."""

    ca: LocalIssuer
    outside_effects: Literal[True] = True
    poll_seconds: float = 30.0
    settle_seconds: float = 120.0
    submit_seconds: float = 60.0
    sweep_seconds: float = 86400.0
    on_unknown: Literal["hold", "resubmit"] = "hold"
    at_once: bool = False
    """Issue what is asked for while it is asked for."""
    before: list[BaseException] = field(default_factory=list)
    """Raised by the next calls of `submit`, before anything is kept."""
    after: list[BaseException] = field(default_factory=list)
    """The same, when the order has been kept: nobody hears of it."""
    orders: dict[str, Order] = field(default_factory=dict)
    """By ticket: everything that was ever ordered, and is paid."""
    done: dict[str, Issued | OrderRefused] = field(default_factory=dict)
    """By ticket: what has come of it."""
    looks: int = 0
    away: bool = False
    """It cannot be reached."""

    def cmp_credential(self) -> tuple[object, tuple[bytes, ...]]:
        return self.ca.cmp_credential()

    async def chain(self) -> tuple[bytes, ...]:
        return await self.ca.chain()

    async def issue(self, request: Approved, /) -> Issued:
        raise AssertionError("is ordered from, and never asked to issue")

    async def submit(self, order: Order, /) -> OnOrder | Issued:
        if self.away:
            raise OrderNotDone("it cannot be reached", 10.0)
        if self.before:
            raise self.before.pop(0)
        ticket = f"order-{len(self.orders) + 1}"
        self.orders[ticket] = order
        if self.at_once:
            await self.deliver(ticket)
        if self.after:
            raise self.after.pop(0)
        found = self.done.get(ticket)
        return (
            replace(found, ticket=ticket)
            if isinstance(found, Issued)
            else OnOrder(ticket, "the organization is being validated")
        )

    async def prepare(self, order: Order, /) -> str:
        return ""

    async def reconcile(
        self, orders: Sequence[Order], known: Collection[str], /
    ) -> Mapping[str, OnOrder | OrderRefused]:
        self._reach()
        found: dict[str, OnOrder | OrderRefused] = {}
        for order in orders:
            tickets = [ticket for ticket, one in self.orders.items() if one.stamp == order.stamp]
            if tickets:
                found[order.stamp] = OnOrder(tickets[0]) if len(tickets) == 1 else OrderRefused("ordered twice")
        return found

    async def changes(self, since: datetime, /) -> Collection[str] | None:
        self._reach()
        return set(self.done)

    async def look(self, orders: Sequence[Order], /) -> Mapping[str, OnOrder | Issued | OrderRefused]:
        self._reach()
        self.looks += 1
        return {one.stamp: self.done.get(one.ticket, OnOrder(one.ticket, one.text)) for one in orders}

    def difference(self, approved: Approved, issued: Issued, /) -> str | None:
        if approved.spki not in issued.der:
            return "subjectPublicKeyInfo differs"
        return None if approved.subject in issued.der else "subject differs"

    async def withdraw(self, order: Order, /) -> None:
        self.done[order.ticket] = OrderRefused("cancelled")

    def _reach(self) -> None:
        if self.away:
            raise IssuerUnavailable("it cannot be reached")

    # What a test does

    async def deliver(self, ticket: str = "order-1") -> Issued:
        """Issue what was ordered."""
        issued = await self.ca.issue(self.orders[ticket].approved)
        self.done[ticket] = issued
        return issued

    def refuse(self, ticket: str = "order-1", text: str = "the mailbox could not be validated") -> None:
        self.done[ticket] = OrderRefused(text)


@dataclass
class RevokingCA(SlowCA):
    """One that revokes: `ports.Revoker` and `ports.Watched`."""

    revocation_policy: RevocationPolicy = field(default_factory=RevocationPolicy)
    watch_seconds: float = 86400.0
    faults: list[Exception] = field(default_factory=list)
    """Raised by the next calls of `revoke`, before anything is done."""
    lost: list[Exception] = field(default_factory=list)
    """The same, when it has been done: nobody hears of it."""
    asks: bool = False
    """Somebody has to approve."""
    revoked: dict[int, RevocationReason | None] = field(default_factory=dict)
    """By serial number: everything that is revoked."""
    revocations: int = 0
    """How often something was revoked that was not yet."""
    requests: dict[str, IssuedCertificate] = field(default_factory=dict)
    """By ticket: what waits for approval."""
    asked: list[int] = field(default_factory=list)
    """The serial numbers of all calls of `revoke`."""
    windows: list[datetime | None] = field(default_factory=list)
    """Since when it was asked what has changed, each time."""
    looked_at: list[int] = field(default_factory=list)
    silent: list[Exception] = field(default_factory=list)
    """Raised by the next calls of `suspects` and `revoked_there`."""

    async def revoke(self, certificate: IssuedCertificate, /) -> str | None:
        self.asked.append(certificate.serial)
        if self.faults:
            raise self.faults.pop(0)
        outside = certificate.outside
        assert outside is not None
        if certificate.serial not in self.revoked:
            if outside.state is OutsideState.asked:
                return outside.ticket
            if self.asks:
                self.requests[f"request-{len(self.requests) + 1}"] = certificate
                return f"request-{len(self.requests)}"
            self.revoked[certificate.serial] = certificate.reason
            self.revocations += 1
        if self.lost:
            raise self.lost.pop(0)
        return None

    async def suspects(self, since: datetime | None, /) -> Collection[str]:
        self.windows.append(since)
        if self.silent:
            raise self.silent.pop(0)
        return {*self.orders, "order-of-somebody-else"}

    async def revoked_there(self, certificates: Sequence[IssuedCertificate], /) -> Sequence[Revocation]:
        if self.silent:
            raise self.silent.pop(0)
        self.looked_at += [one.serial for one in certificates]
        return [
            Revocation(one.serial, self.revoked[one.serial] or RevocationReason.unspecified, one.issued_at)
            for one in certificates
            if one.serial in self.revoked
        ]

    # What a test does

    def approve_revocation(self, ticket: str = "request-1") -> None:
        one = self.requests[ticket]
        self.revoked[one.serial] = one.reason
