"""The issuer that CertCentral is: `ports.Ordering` over the API client. What all such issuers share is in `ordering`.

A ticket is the order's number; of a reissue or duplicate it is `ORDER:CERTIFICATE`, or `ORDER:` until that is known.
What is about to be the renewal of an order has `+ORDER`, until it has a number of its own.
"""

import asyncio
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

from cryptography import x509

from cmpd.asn1.certificate import serial
from cmpd.exchange import Approved, IssuedCertificate, Order, RevocationPolicy
from cmpd.issuers import IssuerConfigError, validate
from cmpd.issuers.certcentral import answers, doctor, orders, revocation
from cmpd.issuers.certcentral.answers import Done, NotDone, OrderInfo, Refused, Standing, Unknown
from cmpd.issuers.certcentral.checking import Checked, check
from cmpd.issuers.certcentral.client import PATIENCE, CallFailed, CallRefused, CertCentralClient
from cmpd.issuers.certcentral.collecting import collect
from cmpd.issuers.certcentral.config import CertCentralConfig
from cmpd.issuers.certcentral.options import Family, ProfileFacts, ProfileOptions, profile_faults
from cmpd.issuers.certcentral.pacing import BreakerState, Open, Overloaded
from cmpd.issuers.certcentral.reconcile import Sought, find, find_again
from cmpd.ports import (
    Diagnosis,
    Issued,
    IssuerUnavailable,
    OnOrder,
    OrderNotDone,
    OrderRefused,
    OrderUnknown,
    Revocation,
    Store,
)
from cmpd.profile import Profile

logger = logging.getLogger(__name__)

LONGEST_WINDOW = timedelta(days=7)
"""As far back as CertCentral tells what has changed."""
KEY_PAUSE = 60.0
"""Seconds until the next attempt when the API key is refused: the operator has to act, the orders wait."""
_AT_ONCE = 8
"""Orders that are looked at side by side."""
_NOT_DONE_PAUSE = 10.0
_WAITS = {
    Standing.waiting: "the issuing CA is validating the request",
    Standing.approval: "the order has to be approved at the issuing CA",
    Standing.unknown: "the issuing CA has not decided yet",
}


@contextmanager
def _reading() -> Iterator[None]:
    """Whatever keeps the API from answering: it is not to be had now."""
    try:
        yield
    except (CallFailed, CallRefused, Open, Overloaded) as error:
        raise IssuerUnavailable(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Use:
    """A profile that orders here."""

    facts: ProfileFacts
    options: ProfileOptions
    product: str
    kind: Family


class _NoProfile(Exception):
    """The profile of an order has been taken away; the text is for the log."""


@dataclass(slots=True)
class CertCentralIssuer:
    """DigiCert CertCentral, one account and division."""

    config: CertCentralConfig
    client: CertCentralClient = field(repr=False)
    name: str
    clock: Any = field(default=lambda: datetime.now(UTC), repr=False)
    outside_effects: Literal[True] = True
    _uses: dict[str, _Use] = field(default_factory=dict)
    _seen: dict[int, OrderInfo] = field(default_factory=dict, repr=False)
    """Orders that were looked at in search of others."""

    @classmethod
    def from_config(cls, table: Mapping[str, Any], *, base: Path, url: str, name: str) -> Self:
        """Make it from `[issuers.NAME]`. Raises IssuerConfigError."""
        del url
        config = validate(CertCentralConfig, table, base=base)
        return cls(config, CertCentralClient.from_config(config), name)

    @property
    def poll_seconds(self) -> float:
        """See `ports.Ordering`."""
        return self.config.poll_interval.total_seconds()

    @property
    def sweep_seconds(self) -> float:
        """See `ports.Ordering`."""
        return self.config.sweep_interval.total_seconds()

    @property
    def settle_seconds(self) -> float:
        """See `ports.Ordering`."""
        return self.config.settle_time.total_seconds()

    @property
    def on_unknown(self) -> Literal["hold", "resubmit"]:
        """See `ports.Ordering`."""
        return self.config.on_unknown

    def use(self, profile: Profile) -> list[str]:
        """Take on a profile: what of it cannot be ordered, one line each; see `ports.ProfileAware`."""
        try:
            options = ProfileOptions.read(profile.issuer_options)
        except IssuerConfigError as error:
            return list(error.faults)
        faults = profile_faults(profile, options)
        if faults:
            return faults
        facts = ProfileFacts.of(profile)
        self._uses[profile.name] = _Use(facts, options, *orders.kind_of(facts, options))
        return []

    async def issue(self, request: Approved, /) -> Issued:
        """Never asked: what is paid is ordered (`submit`)."""
        raise IssuerUnavailable(f"certificates of {request.profile} are ordered, not issued")

    async def chain(self) -> tuple[bytes, ...]:
        """None that is known beforehand: each certificate brings its own."""
        return ()

    async def close(self) -> None:
        """Let go of connections."""
        await self.client.close()

    def share(self, processes: int, /) -> None:
        """See `ports.Paced`: each process has its part of the calls that the configuration allows all of them."""
        if self.client.budget.share(processes) and processes > 1:
            logger.info(
                "%d processes use issuer %s: the part of this one is %d calls in 5 s and %d in 3 minutes",
                processes,
                self.name,
                max(1, self.config.requests_per_5_seconds // processes),
                max(1, self.config.requests_per_3_minutes // processes),
            )

    async def examine(self, store: Store | None, now: datetime, /) -> list[Diagnosis]:
        """Ask the account about all that orders need; see `ports.Examinable`."""
        del store
        uses = [(use.facts, use.options) for use in self._uses.values()]
        return await doctor.examine(self.client, self.config, uses, now=now)

    # ------------------------------------------------------------------------------------------ ordering

    @property
    def submit_seconds(self) -> float:
        """See `ports.Ordering`: a duplicate begins with reading its original."""
        return PATIENCE + self.client.longest_write

    async def prepare(self, order: Order, /) -> str:
        """Find out what a kur is over there, before it is asked for; see `ports.Ordering`."""
        approved = order.approved
        try:
            use = self._use(order)
            if approved.updates is None:
                return ""
            old: OrderInfo | None = None
            try:
                old = await self.client.order_info(f"{approved.updates:032x}")
            except CallRefused as error:
                if not error.not_found:
                    raise
            way = orders.renewal(approved, use.kind, use.options, old, self.clock())
        except (orders.NotNow, _NoProfile) as error:
            raise OrderNotDone(str(error), self.poll_seconds, alone=True) from error
        except orders.Unorderable as error:
            raise OrderRefused(str(error)) from error
        except CallRefused as error:
            raise self._refusal(error.refused) from error
        except (CallFailed, Open, Overloaded) as error:
            raise OrderNotDone(str(error), getattr(error, "retry_after", 0.0) or _NOT_DONE_PAUSE) from error
        if way.order_id is None:
            return ""
        return f"+{way.order_id}" if way.way == "order" else f"{way.order_id}:"

    async def submit(self, order: Order, /) -> OnOrder | Issued:
        """Place an order, or have one reissued or duplicated for a kur; see `ports.Ordering`."""
        again, approved = order.ticket.endswith(":"), order.approved
        try:
            use = self._use(order)
            outcome = await self._place(use, order)
        except (orders.NotNow, _NoProfile) as error:
            raise OrderNotDone(str(error), self.poll_seconds, alone=True) from error
        except orders.Unorderable as error:
            raise OrderRefused(str(error)) from error
        except (CallFailed, Open, Overloaded, TimeoutError) as error:  # on the way to the order, before it
            raise OrderNotDone(str(error), getattr(error, "retry_after", 0.0) or _NOT_DONE_PAUSE) from error
        except CallRefused as error:
            raise self._refusal(error.refused) from error
        match outcome:
            case Refused():
                raise self._refusal(outcome)
            case NotDone():
                raise OrderNotDone(outcome.reason, outcome.retry_after or _NOT_DONE_PAUSE)
            case Unknown():
                raise OrderUnknown(outcome.reason)
        ticket = f"{outcome.order_id}:{outcome.certificate_id or ''}" if again else str(outcome.order_id)
        if outcome.chain:
            issued = self._issued(use, approved, outcome.chain)
            if issued is not None:
                return replace(issued, ticket=ticket)
        return OnOrder(ticket, _WAITS[Standing.waiting])

    async def _place(self, use: _Use, placed: Order) -> answers.Ordered | Refused | NotDone | Unknown:
        facts, options, config, approved, hint = use.facts, use.options, self.config, placed.approved, placed.ticket
        csr, mark = approved.request, orders.mark_of(placed)
        if not hint.endswith(":"):
            renewal_of = int(hint[1:]) if hint.startswith("+") else None
            prepared = orders.order(
                approved, facts, options, config, mark=mark, now=self.clock(), csr=csr, renewal_of=renewal_of
            )
            return await self.client.order(prepared.product, prepared.body)
        number = int(hint[:-1])
        if options.renew_strategy == "duplicate":
            async with asyncio.timeout(PATIENCE):
                original = await self.client.order_info(number)
            body = orders.duplicate(approved, facts, options, config, original, mark=mark, csr=csr)
            return await self.client.duplicate(number, body)
        return await self.client.reissue(number, orders.reissue(approved, facts, options, config, mark=mark, csr=csr))

    async def reconcile(
        self, orders_: Sequence[Order], known: Collection[str], /
    ) -> Mapping[str, OnOrder | OrderRefused | OrderUnknown]:
        """Look for orders whose answer was lost, with one sweep for all; see `ports.Ordering`."""
        found: dict[str, OnOrder | OrderRefused | OrderUnknown] = {}
        try:
            for order in orders_:
                try:
                    self._use(order)
                except _NoProfile as error:
                    found[order.stamp] = OrderUnknown(str(error))
            orders_ = [one for one in orders_ if one.stamp not in found]
            new = [one for one in orders_ if not one.ticket.endswith(":")]
            numbers = {int(ticket.partition(":")[0]) for ticket in known if ticket[:1].isdigit() and ":" not in ticket}
            sought = [self._sought(one) for one in new]
            for order, result in zip(new, await find(self.client, sought, known=numbers, seen=self._seen), strict=True):
                if result.is_alarming:
                    named = ", ".join(str(one.order_id) for one in result.orders)
                    found[order.stamp] = OrderRefused(
                        "ordered more than once", f"orders {named} are all this one; cancel all but one, adopt that"
                    )
                elif result.order is not None:
                    found[order.stamp] = OnOrder(str(result.order.order_id), _WAITS[Standing.waiting])
                elif not result.complete:
                    raise IssuerUnavailable("not all orders could be looked at")
            for order in orders_:
                if order.ticket.endswith(":"):
                    number, approved = int(order.ticket[:-1]), order.approved
                    again = await find_again(self.client, number, approved.spki, orders.mark_of(order))
                    if again:
                        ticket = f"{number}:{again[0].certificate_id or ''}"
                        found[order.stamp] = OnOrder(ticket, _WAITS[Standing.waiting])
        except (CallFailed, CallRefused, Open, Overloaded) as error:
            raise IssuerUnavailable(str(error)) from error
        return found

    def _sought(self, order: Order) -> Sought:
        use, approved = self._use(order), order.approved
        return Sought(use.product, approved.spki, orders.mark_of(order), order.created, self.config.division)

    # ------------------------------------------------------------------------------------------ what has become of it

    async def changes(self, since: datetime, /) -> Collection[str] | None:
        """One call for all orders; see `ports.Ordering`."""
        window = min(max(self.clock() - since, timedelta(minutes=1)), LONGEST_WINDOW)
        try:
            return {str(change.order_id) for change in await self.client.status_changes(window)}
        except (CallFailed, CallRefused, Open, Overloaded) as error:
            raise IssuerUnavailable(str(error)) from error

    async def look(self, orders_: Sequence[Order], /) -> Mapping[str, OnOrder | Issued | OrderRefused]:
        """Order info for each, and the certificate where it is there; see `ports.Ordering`."""
        found: dict[str, OnOrder | Issued | OrderRefused] = {}
        failed: list[Exception] = []
        gate = asyncio.Semaphore(_AT_ONCE)

        async def look_at(order: Order) -> None:
            async with gate:
                if failed:
                    return
                try:
                    found[order.stamp] = await self._look(order)
                except CallRefused as error:
                    if error.refused.of_key:
                        failed.append(error)
                    else:
                        found[order.stamp] = OnOrder(order.ticket, order.text, private=str(error))
                except (_NoProfile, CallFailed) as error:
                    logger.warning("order %s could not be looked at: %s", order.stamp, error)
                    if self.client.breaker.state is not BreakerState.closed:  # it is not this one only
                        failed.append(error)
                except (Open, Overloaded) as error:
                    failed.append(error)

        await asyncio.gather(*map(look_at, orders_))
        if failed and not found:
            raise IssuerUnavailable(str(failed[0])) from failed[0]
        return found

    async def _look(self, order: Order) -> OnOrder | Issued | OrderRefused:
        use = self._use(order)
        number, colon, certificate = order.ticket.partition(":")
        info = await self.client.order_info(int(number))
        if colon:
            return await self._look_again(use, order, info, certificate)
        standing = info.standing
        if info.status.lower() == "revoked":
            return OrderRefused("the issuing CA has revoked the certificate", f"order {number} is revoked")
        if standing in {Standing.issued, Standing.ended}:
            return await self._collect(use, order, info.certificate_id, info.order_id) or OnOrder(
                order.ticket, order.text
            )
        if standing is Standing.dead:
            return OrderRefused(f"the issuing CA has refused: the order is {info.status}", f"order {number}")
        return OnOrder(order.ticket, _WAITS[standing], f"order {number} is {info.status}")

    async def _look_again(
        self, use: _Use, order: Order, info: OrderInfo, certificate: str
    ) -> OnOrder | Issued | OrderRefused:
        """A reissue or duplicate: a certificate beside others of its order."""
        for again in await find_again(self.client, info.order_id, order.approved.spki, orders.mark_of(order)):
            if again.certificate_id is None:
                if answers.standing(again.status) is Standing.dead:
                    return OrderRefused(f"the issuing CA has refused: the request is {again.status}")
                continue
            certificate = str(again.certificate_id)
            if again.status.lower() == "revoked":
                return OrderRefused("the issuing CA has revoked the certificate", f"certificate {certificate}")
            if answers.standing(again.status) is Standing.issued:
                issued = await self._collect(use, order, again.certificate_id, None)
                if issued is not None:
                    return replace(issued, ticket=f"{info.order_id}:{certificate}")
        return OnOrder(f"{info.order_id}:{certificate}", _WAITS[Standing.waiting], f"order is {info.status}")

    async def _collect(
        self, use: _Use, order: Order, certificate_id: int | None, order_id: int | None
    ) -> Issued | None:
        """What was issued; None while CertCentral says that it is issued and does not have it yet."""
        came = await collect(
            self.client,
            order.approved.spki,
            certificate_id=certificate_id,
            order_id=order_id,
            now=self.clock(),
        )
        return None if came is None else self._issued(use, order.approved, came)

    def _issued(self, use: _Use, approved: Approved, came: Sequence[bytes]) -> Issued | None:
        """The leaf by its key and its chain by signatures; whether it is the right one, `difference` says.

        Without a certificate of the key the first one stands for it, which `difference` refuses.
        """
        if not came:
            return None
        checked = self._checked(use, approved, came)
        leaf = checked.leaf or came[0]
        ends = x509.load_der_x509_certificate(leaf).not_valid_after_utc
        return Issued(leaf, serial(leaf), ends, checked.chain)

    def _checked(self, use: _Use, approved: Approved, came: Sequence[bytes]) -> Checked:
        return check(came, approved, use.facts, use.kind, now=self.clock())

    def difference(self, approved: Approved, issued: Issued, /) -> str | None:
        """See `ports.Ordering`; what CertCentral is known to add is data in `checking`."""
        use = self._uses[approved.profile]
        found = self._checked(use, approved, (issued.der, *issued.chain)).differences
        return "; ".join(found) or None

    async def withdraw(self, order: Order, /) -> None:
        """Cancel an order that is not issued; see `ports.Ordering`."""
        number = int(order.ticket.partition(":")[0])
        self._done(await self.client.cancel(number, "cancelled by the operator of cmpd"))

    async def approve(self, order: Order, /) -> None:
        """Approve what waits for somebody of the account; see `ports.Approving`."""
        try:
            info = await self.client.order_info(int(order.ticket.partition(":")[0]))
        except (CallFailed, CallRefused, Open, Overloaded) as error:
            raise IssuerUnavailable(str(error)) from error
        waiting = [request.id for request in info.requests if request.is_open and request.id is not None]
        if not waiting:
            raise OrderRefused(f"order {info.order_id} is {info.status}: nothing of it waits for approval")
        for request in waiting:
            self._done(await self.client.approve(request, "approved through cmpd"))

    # ------------------------------------------------------------------------------------------ revocation

    @property
    def revocation_policy(self) -> RevocationPolicy:
        """See `ports.Revoker`."""
        config = self.config
        return RevocationPolicy(
            config.on_certconf_reject,
            config.on_missing_certconf,
            config.on_uncollected,
            config.uncollected_after.total_seconds(),
        )

    @property
    def watch_seconds(self) -> float:
        """See `ports.Watched`."""
        return self.config.revocation_interval.total_seconds()

    async def revoke(self, certificate: IssuedCertificate, /) -> str | None:
        """Look, and ask for it where it is not revoked and not asked for; see `ports.Revoker`."""
        with _reading():
            return await revocation.revoke(self.client, self.config, certificate)

    async def suspects(self, since: datetime | None, /) -> Collection[str]:
        """The orders that have changed, in one call; see `ports.Watched`."""
        with _reading():
            return await revocation.suspects(self.client, None if since is None else self.clock() - since)

    async def revoked_there(self, certificates: Sequence[IssuedCertificate], /) -> Sequence[Revocation]:
        """Order info for each order, and its lists where that does not say it; see `ports.Watched`."""
        with _reading():
            return await revocation.revoked(self.client, self.config, certificates, self.clock())

    def _done(self, outcome: Done | Refused | NotDone | Unknown) -> None:
        match outcome:
            case Refused():
                raise OrderRefused(str(outcome))
            case NotDone() | Unknown():
                raise IssuerUnavailable(outcome.reason)

    def _refusal(self, refused: Refused) -> OrderRefused | OrderNotDone:
        """What the API has refused: the order for good, or the key, for which no EE can do anything."""
        if refused.of_key:
            return OrderNotDone(f"the API key is refused: {refused}; see `cmpd doctor`", KEY_PAUSE)
        return OrderRefused(f"the issuing CA has refused: {refused.message or refused.code}"[:300], str(refused))

    def _use(self, order: Order) -> _Use:
        try:
            return self._uses[order.approved.profile]
        except KeyError:
            raise _NoProfile(
                f"profile {order.approved.profile} orders no longer here; put it back, or cancel its orders"
            ) from None
