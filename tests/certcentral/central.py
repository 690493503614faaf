"""The simulator as an object: what a test holds in its hands."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from aiohttp import web
from cryptography.hazmat.primitives import serialization

from tests.certcentral import app, pki
from tests.certcentral.catalogue import Account, Domain, User, Validation, default_account
from tests.certcentral.clock import Clock
from tests.certcentral.control import control
from tests.certcentral.faults import Faults, RateWindows
from tests.certcentral.journal import Journal, Ledger
from tests.certcentral.orders import Desk
from tests.certcentral.settings import Settings, Switches, checked
from tests.certcentral.state import Certificate, Order


class CertCentral:
    """One simulated account: `async with CertCentral().running() as central: … central.url …`.

    The parts may be used directly: `account`, `clock`, `faults`, `journal`, `ledger`, `desk.register`.
    """

    def __init__(self, *, region: Literal["us", "eu"] = "us", at: datetime | None = None) -> None:
        self.region = region
        self.clock = Clock(at)
        self.switches = Switches()
        self.faults = Faults()
        self.rates = RateWindows()
        self.journal = Journal()
        self.ledger = Ledger()
        self.account: Account = default_account(self.clock.now())
        self.desk = Desk(self.clock, self.account, self.switches, self.ledger)
        self.origin = ""
        self._runner: web.AppRunner | None = None

    # Running

    async def start(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> Self:
        """Listen; port 0 takes a free one."""
        whole = app.application(self)
        control(self, whole)
        self._runner = web.AppRunner(whole, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=tls)
        await site.start()
        bound = self._runner.addresses[0][1]
        self.origin = f"http{'s' if tls else ''}://{host}:{bound}"
        return self

    async def stop(self) -> None:
        """Let go of all who wait, and listen no more."""
        self.faults.clear()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Self]:
        """Listen on 127.0.0.1 for the length of a block."""
        await self.start(port=port)
        try:
            yield self
        finally:
            await self.stop()

    @property
    def url(self) -> str:
        """The base URL, that of the US host."""
        return self.origin + app.PREFIX

    @property
    def eu_url(self) -> str:
        """The base URL of the EU host."""
        return self.origin + app.EU_PREFIX

    def key(self, name: str = "admin") -> str:
        """The value of an API key."""
        return self.account.key(name).value

    @staticmethod
    def roots_pem() -> bytes:
        """Both roots."""
        return b"".join(root.public_bytes(serialization.Encoding.PEM) for root in pki.roots())

    # Switches

    def set(
        self,
        *,
        key: str | None = None,
        product: str | None = None,
        order: int | None = None,
        times: int | None = None,
        **changes: Any,
    ) -> None:
        """Set switches (`settings.Settings`) for an order, for the next `times` orders, a product, a key, or all."""
        if order is None:
            self.switches.set(key=key, product=product, times=times, **changes)
        else:
            checked(changes)
            self.order(order).own.update(changes)

    def settings(self, key: str = "admin") -> Settings:
        """What holds for the calls of a key."""
        return self.switches.of(key)

    # Orders

    def order(self, number: int) -> Order:
        """An order. Raises KeyError."""
        return self.desk.register.orders[number]

    def orders(self, spki: str | None = None, stamp: str | None = None) -> list[Order]:
        """Orders by SHA-256 of their SPKI (hex), by a custom field's value or comment, or all; oldest first."""
        return [self.order(entry.order_id) for entry in self.ledger.orders(spki=spki, stamp=stamp)]

    def approve(self, number: int) -> None:
        """An administrator approves whatever of this order waits for it."""
        self._decide(number, "approved")

    def reject(self, number: int) -> None:
        """An administrator rejects what waits; if nothing waits for approval, the CA rejects the open order."""
        if not self._decide(number, "rejected"):
            self.desk.reject(self.order(number))

    def _decide(self, number: int, status: str) -> bool:
        self.desk.settle()
        waiting = [request for request in self.order(number).requests if request.open]
        for request in waiting:
            self.desk.decide(request, status, self._administrator())
        return bool(waiting)

    def _administrator(self) -> User:
        return self.account.users[0]

    def issue(self, number: int) -> None:
        """Issue now what is held back by delay, polls, or by hand."""
        self.desk.settle()
        self.desk.release(self.order(number))

    def cancel(self, number: int) -> None:
        """Somebody cancels it on the web site. Raises ApiError."""
        self.desk.cancel(self.order(number), "canceled")

    def revoke(self, number: int, certificate: Certificate | None = None) -> None:
        """The CA revokes a certificate, or all of the order."""
        self.desk.revoke_now(self.order(number), certificate)

    def click(self, number: int, email: str | None = None) -> None:
        """The recipients click the links in their validation mails. Raises ApiError."""
        order = self.order(number)
        for proof in order.emails:
            if email in {None, proof.email} and proof.validated is None:
                self.desk.click(order, proof)

    def mails(self, number: int) -> dict[str, str]:
        """The tokens that were mailed: address → token."""
        return {proof.email: proof.token for proof in self.order(number).emails}

    # Account

    def domain(self, name: str) -> Domain:
        """A domain, made if there is none."""
        for domain in self.account.domains.values():
            if domain.name == name:
                return domain
        return self.desk.add_domain(name, next(iter(self.account.organizations)))

    def validate_domain(self, name: str) -> None:
        """Control over the domain is proven now; orders that waited for it go on."""
        self.desk.validate_domain(self.domain(name))

    def invalidate_domain(self, name: str) -> None:
        """Control over the domain is not proven."""
        self.domain(name).validated = None

    def publish(self, name: str) -> None:
        """Put the token into the DNS, where check-dcv and validate-token will find it."""
        self.account.published.add(name)

    def validate_organization(self, number: int, type_: str, days: int = 825) -> None:
        """Validate for `ov`, `ev`, `smime`, …; orders that waited for it go on."""
        now = self.clock.now()
        self.account.organizations[number].validations[type_] = Validation(type_, now, now + timedelta(days=days))
        self.desk.recheck()

    def invalidate_organization(self, number: int, type_: str) -> None:
        """Take a validation away."""
        self.account.organizations[number].validations.pop(type_, None)

    def forbid_by_caa(self, domain: str) -> None:
        """The domain's CAA records forbid issuance."""
        self.account.caa_failures.add(domain)

    # Time

    def advance(self, step: timedelta | float) -> None:
        """Go forward in time, and let everything happen that becomes due on the way."""
        self.clock.advance(step)
        self.desk.settle()
