"""The state machines of orders, their certificates, and requests.

    POST order ─► needs_approval ─► pending ─► processing ─► issued ─► revoked | expired
                       │ reject         │ cancel                 │ ▲
                       ▼                ▼                reissue ▼ │ issued, rejected, or withdrawn
                    rejected         canceled              reissue_pending

Nothing runs in the background: `settle` makes what is due, at the time at which it was due.
"""

import heapq
import itertools
import secrets
from datetime import timedelta
from typing import Final

from tests.certcentral import pki, terms
from tests.certcentral.catalogue import (
    CLIENT,
    PRODUCTS,
    ROOT_CONTAINER,
    Account,
    ApiKey,
    Container,
    Domain,
    Organization,
    Product,
    User,
    reuse_days,
)
from tests.certcentral.clock import Clock, moment
from tests.certcentral.errors import invalid, invalid_approver, missing_permission, not_found
from tests.certcentral.journal import Ledger
from tests.certcentral.settings import Settings, Switches
from tests.certcentral.state import Certificate, EmailProof, Order, Register, Request, RequestKind
from tests.certcentral.terms import JSON, Terms

EMAIL_TOKEN_LIFE: Final = 86_400
"""Seconds in which a validation mail can be answered."""
MAILBOX_PROOF_LIFE: Final = 30 * 86_400
"""Seconds for which an answered mail proves control over the address."""
REASONS: Final = frozenset(
    {
        "unspecified",
        "superseded",
        "key_compromise",
        "keyCompromise",
        "affiliation_changed",
        "affiliationChanged",
        "cessation_of_operation",
        "cessationOfOperation",
    }
)
"""Both spellings that clients use; which of them is right is not known."""


class Desk:
    """Where orders are placed and worked on."""

    def __init__(self, clock: Clock, account: Account, switches: Switches, ledger: Ledger) -> None:
        self.clock = clock
        self.account = account
        self.switches = switches
        self.ledger = ledger
        self.register = Register()
        self._events: list[tuple[float, int, str, Certificate | Order]] = []
        self._event_numbers = itertools.count()
        self._polled: dict[int, Certificate] = {}
        self._held: dict[int, Certificate] = {}
        self._mailboxes: dict[str, float] = {}

    def settings(self, order: Order) -> Settings:
        """The settings of an order."""
        return self.switches.of(order.key, order.product.name_id, order.own)

    # Orders

    def product(self, name_id: str, container: Container | None = None) -> Product:
        """A product that can be ordered here. Raises ApiError."""
        product = PRODUCTS.get(name_id)
        if product is None:
            raise not_found("product")
        disabled = name_id not in self.account.enabled
        if disabled or (container is not None and container.products is not None and name_id not in container.products):
            raise invalid("product", f"{product.name} is not enabled for this account or division.")
        return product

    def container(self, key: ApiKey, body: JSON) -> Container:
        """The division of an order: the one it names, or the key's own. Raises ApiError."""
        given = body.get("container")
        if given is None:
            return self.account.containers[key.user.container_id]
        if not isinstance(given, dict):
            raise invalid("container", "container is an object.")
        found = self.account.containers.get(terms.number(given.get("id"), "container"))
        if found is None:
            raise invalid("container", "There is no such division.")
        if key.user.containers is not None and found.id not in key.user.containers:
            raise missing_permission()
        return found

    def place(self, key: ApiKey, name_id: str, body: JSON) -> Certificate:
        """A new order, on the bill from now on. Raises ApiError."""
        at = self.clock.timestamp()
        if name_id not in PRODUCTS:
            raise not_found("product")
        container = self.container(key, body)
        product = self.product(name_id, container)
        own = self.switches.of_next_order(key.name, name_id)
        settings = self.switches.of(key.name, name_id, own)
        agreed = terms.read(body, product, self.account, container, settings, at)
        renewal_of = terms.number(body.get("renewal_of_order_id") or 0, "renewal_of_order_id")
        renewed = self.register.orders.get(renewal_of)
        if renewal_of and (renewed is None or renewed.certificate.leaf is None):
            raise invalid("renewal_of_order_id", "There is no such order to renew.")
        organization = self._organization(agreed.organization_id)
        if settings.unvalidated_organization == "reject" and self._organization_lacks(product, organization, at):
            raise invalid("organization", f"The organization is not validated for {product.validation}.")
        order = Order(
            self.register.next_order_id(),
            product,
            key.name,
            key.user,
            body,
            own,
            container.id,
            agreed.organization_id,
            at,
            pki.lifetime(at, agreed.order_days)[1].timestamp(),
            renewal_of=renewal_of,
        )
        self.switches.ordered(key.name, name_id)
        if renewed is not None:
            renewed.renewed_by = order.id
        self.register.add_order(order, at)
        self.ledger.add("order", order.id, at, key.name, name_id, agreed.key.sha256 if agreed.key else None, body)
        return self._begin(order, "new_request", agreed, body["certificate"], key, body, at)

    def reissue(self, key: ApiKey, order: Order, body: JSON) -> Certificate:
        """A new certificate in place of the order's. Raises ApiError."""
        at = self.clock.timestamp()
        settings = self.settings(order)
        if order.status not in {"issued", "reissue_pending"}:
            raise invalid("order_status", "Only issued orders are reissued.")
        agreed, certificate = self._again(order, body, settings, at)
        if agreed.key is None:
            raise invalid("csr", "The CSR is missing.")
        pending = order.reissue
        if pending is not None:
            if settings.second_reissue == "reject":
                raise invalid("order_status", "A reissue is pending.")
            self._drop(pending, "canceled", at)
        self.ledger.add("reissue", order.id, at, key.name, order.product.name_id, agreed.key.sha256, body)
        return self._begin(order, "reissue", agreed, certificate, key, body, at)

    def duplicate(self, key: ApiKey, order: Order, body: JSON) -> Certificate:
        """One more certificate of the order, the same but for its key. Raises ApiError."""
        at = self.clock.timestamp()
        settings, product = self.settings(order), order.product
        if order.status not in {"issued", "reissue_pending"}:
            raise invalid("order_status", "Only issued orders have duplicates.")
        mail = product.is_mail and product.group != CLIENT and settings.smime_duplicates
        if not (product.duplicates or mail):
            raise invalid("product", "The product has no duplicates.")
        agreed, certificate = self._again(order, body, settings, at)
        if agreed.key is None:
            raise invalid("csr", "The CSR is missing.")
        first = order.certificate.terms
        added = set(agreed.names) - set(first.names)
        if "*" in first.common_name:
            below = first.common_name.removeprefix("*")
            added = {name for name in added if not name.endswith(below)}
        if added or set(first.names) - set(agreed.names) or set(agreed.emails) != set(first.emails):
            raise invalid("dns_names", "A duplicate has the names of the original.")
        for name in ("ca_id", "profile_type", "usage", "additional_usages", "client_auth"):
            if getattr(agreed, name) != getattr(first, name):
                raise invalid(name, "A duplicate equals the original but for its key.")
        self.ledger.add("duplicate", order.id, at, key.name, product.name_id, agreed.key.sha256, body)
        return self._begin(order, "duplicate", agreed, certificate, key, body, at)

    def _again(self, order: Order, body: JSON, settings: Settings, at: float) -> tuple[Terms, JSON]:
        """The terms of a reissue or duplicate: those of the order, with what the body says otherwise."""
        certificate = body.get("certificate")
        if not isinstance(certificate, dict):
            raise invalid("certificate", "certificate is missing.")
        merged = {name: value for name, value in order.certificate.body.items() if name not in {"csr", "cert_validity"}}
        merged |= certificate
        remaining = max(1, int((order.until - at) // 86_400) + 1)
        whole = {
            "certificate": merged,
            "order_validity": {"days": remaining},
            "organization": order.body.get("organization"),
            "subject": order.body.get("subject"),
            "disable_ct": order.body.get("disable_ct"),
            "custom_fields": order.body.get("custom_fields"),
        }
        anywhere = Container(order.container_id, "")
        return terms.read(whole, order.product, self.account, anywhere, settings, at), merged

    def _begin(
        self, order: Order, type_: RequestKind, agreed: Terms, body: JSON, key: ApiKey, whole: JSON, at: float
    ) -> Certificate:
        settings = self.settings(order)
        kind = "new" if type_ == "new_request" else type_
        assert kind in {"new", "reissue", "duplicate"}
        certificate = Certificate(order, kind, agreed, body, at)
        if kind == "duplicate":
            certificate.sub_id = f"{1 + sum(one.kind == 'duplicate' for one in order.certificates):03d}"
        order.certificates.append(certificate)
        skipped = bool(whole.get("skip_approval")) and key.may_manage
        comments = str(whole.get("comments") or "")
        if settings.approval != "none":
            certificate.request = self.register.add_request(order, type_, certificate, key.user, at, comments)
        if settings.approval in {"none", "auto"} or skipped:
            if certificate.request is not None:
                self._decide(certificate.request, "approved", key.user, "", at)
            self._approved(certificate, at)
        else:
            self._show(certificate, at)
        return certificate

    # From approval to issuance

    def _approved(self, certificate: Certificate, at: float) -> None:
        settings = self.settings(certificate.order)
        self.register.number(certificate)
        assert certificate.id is not None
        certificate.due, certificate.polls_left = at + settings.delay, settings.polls
        if settings.delay > 0:
            self._at(certificate.due, "advance", certificate)
        if settings.polls > 0:
            self._polled[certificate.id] = certificate
        certificate.status = "pending"
        self.advance(certificate, at)

    def advance(self, certificate: Certificate, at: float) -> None:
        """Go as far as possible."""
        if not certificate.is_open or certificate.status == "needs_approval":
            return
        assert certificate.id is not None
        order, settings = certificate.order, self.settings(certificate.order)
        missing = self.missing(certificate, at)
        held = settings.by_hand or certificate.polls_left > 0 or certificate.due > at
        if certificate.terms.key is None:
            certificate.status = settings.without_csr
        elif missing:
            certificate.status = "pending"
        elif held and not certificate.released:
            certificate.status = settings.waiting_status
        else:
            self._held.pop(certificate.id, None)
            self._polled.pop(certificate.id, None)
            self._issue(certificate, at, settings)
            return
        if missing:
            self._held[certificate.id] = certificate
        self._show(certificate, at)
        if order.product.is_mail:
            for mail in [what.removeprefix("email:") for what in missing if what.startswith("email:")]:
                self.register.email_proof(order, mail, at)

    def missing(self, certificate: Certificate, at: float) -> list[str]:
        """What is not validated: `organization`, `domain:NAME`, `email:ADDRESS`."""
        order, agreed = certificate.order, certificate.terms
        found = []
        if self._organization_lacks(order.product, self._organization(order.organization_id), at):
            found.append("organization")
        found += [f"domain:{host}" for host in terms.hosts(agreed) if not self._controls(order.product, host, at)]
        if order.product.mail_kind is not None:
            found += [f"email:{mail}" for mail in agreed.emails if not self._reaches(order, mail, at)]
        return list(dict.fromkeys(found))

    def _organization(self, number: int | None) -> Organization | None:
        return None if number is None else self.account.organizations[number]

    def _organization_lacks(self, product: Product, organization: Organization | None, at: float) -> bool:
        if product.validation is None or organization is None:
            return False
        validation = organization.validations.get(product.validation)
        return validation is None or not validation.active(moment(at))

    def _controls(self, product: Product, host: str, at: float) -> bool:
        now = moment(at)
        days = timedelta(days=reuse_days(product, now.date()))
        return any(
            domain.covers(host) and domain.validated is not None and now < domain.validated + days
            for domain in self.account.domains.values()
        )

    def _reaches(self, order: Order, mail: str, at: float) -> bool:
        if self._controls(order.product, terms.mail_domain(mail), at):
            return True
        answered = self._mailboxes.get(mail.lower())
        return answered is not None and at < answered + MAILBOX_PROOF_LIFE

    def _issue(self, certificate: Certificate, at: float, settings: Settings) -> None:
        order = certificate.order
        if certificate.kind == "new" and not certificate.terms.fixed_end:
            order.until = pki.lifetime(at, certificate.terms.order_days)[1].timestamp()
        if order.until <= at:
            self._drop(certificate, "rejected", at)
            return
        organization = self._organization(order.organization_id)
        wanted = terms.shape(certificate.terms, organization, at, order.until, wrong=settings.misissue)
        self.register.issued(certificate, pki.issue(wanted))
        certificate.issued, certificate.status = at, "issued"
        if certificate.kind == "new":
            self._at(order.until + 1, "expire", order)
        if certificate.kind != "duplicate":
            order.status = "issued"
            self.register.touch(order, at)
        elif settings.duplicates_in_status_changes:
            self.register.touch(order, at)

    def _show(self, certificate: Certificate, at: float) -> None:
        """Let the order's status follow that of the certificate it waits for."""
        order = certificate.order
        if certificate.kind == "duplicate" or order.status in {"revoked", "expired"}:
            return
        status = certificate.status if certificate.kind == "new" else "reissue_pending"
        if certificate.kind == "reissue" and not certificate.is_open:
            status = "issued"
        if order.status != status:
            order.status = status
            self.register.touch(order, at)

    # Time, looks, and proofs

    def _at(self, at: float, what: str, subject: Certificate | Order) -> None:
        heapq.heappush(self._events, (at, next(self._event_numbers), what, subject))

    def settle(self) -> None:
        """Do all that has become due."""
        now = self.clock.timestamp()
        while self._events and self._events[0][0] <= now:
            at, _, what, subject = heapq.heappop(self._events)
            if isinstance(subject, Certificate):
                self.advance(subject, at)
            elif what == "expire" and subject.status in {"issued", "reissue_pending"}:
                self._end(subject, "expired", at)

    def looked(self, order: Order | None = None) -> None:
        """Somebody has looked at an order, or (None) at all of them."""
        if not self._polled:
            return
        at = self.clock.timestamp()
        seen = list(self._polled.values()) if order is None else [one for one in order.certificates if one.polls_left]
        for certificate in seen:
            if certificate.polls_left > 0:
                certificate.polls_left -= 1
            if certificate.polls_left == 0:
                self.advance(certificate, at)
                self._polled.pop(certificate.id or 0, None)

    def release(self, order: Order) -> None:
        """Issue what is only held back by delay, polls, or by hand; missing approval and proofs remain missing."""
        for certificate in order.certificates:
            if certificate.is_open:
                certificate.released = True
                self.advance(certificate, self.clock.timestamp())

    def recheck(self) -> None:
        """Somewhere something has been validated: go on with what waits for it."""
        at = self.clock.timestamp()
        for certificate in list(self._held.values()):
            if not certificate.is_open:
                self._held.pop(certificate.id or 0, None)
            else:
                self.advance(certificate, at)

    def validate_domain(self, domain: Domain) -> None:
        """Control over the domain is proven, from now on."""
        domain.validated, domain.token, domain.token_expires = self.clock.now(), "", None
        self.recheck()

    def new_token(self, domain: Domain, method: str) -> None:
        """A new token for the DNS, good for thirty days."""
        domain.token, domain.dcv_method = secrets.token_hex(16), method
        domain.token_expires = self.clock.now() + timedelta(days=30)

    def check_dns(self, domain: Domain) -> bool:
        """Look for the token where a test may have published it; whether it is there and not too old."""
        now = self.clock.now()
        fresh = bool(domain.token) and domain.token_expires is not None and now < domain.token_expires
        if fresh and domain.name in self.account.published:
            self.validate_domain(domain)
            return True
        return False

    def check_order(self, order: Order) -> bool:
        """Check the domains of an order; whether all are proven now."""
        at = self.clock.timestamp()
        for host in terms.hosts(order.certificate.terms):
            domain = self.account.domain(host)
            if not self._controls(order.product, host, at) and (
                (domain is not None and domain.name in self.account.published) or host in self.account.published
            ):
                if domain is None:
                    domain = self.add_domain(host, order.organization_id or 0, order.container_id)
                self.validate_domain(domain)
        for certificate in order.certificates:
            if certificate.is_open and not self.missing(certificate, at):
                self.advance(certificate, at)
        return all(self._controls(order.product, host, at) for host in terms.hosts(order.certificate.terms))

    def add_domain(self, name: str, organization_id: int, container_id: int = ROOT_CONTAINER) -> Domain:
        """A new domain, not validated."""
        domain = Domain(max(self.account.domains, default=2000) + 1, name, organization_id, container_id)
        self.account.domains[domain.id] = domain
        return domain

    def click(self, order: Order, proof: EmailProof) -> None:
        """The link in a validation mail is clicked. Raises ApiError when it is too late."""
        at = self.clock.timestamp()
        if at > proof.sent + EMAIL_TOKEN_LIFE:
            raise invalid("token", "The link has expired.")
        proof.validated = self._mailboxes[proof.email.lower()] = at
        self.recheck()

    # Requests

    def decide(self, request: Request, status: str, user: User, comment: str = "") -> None:
        """Approve or reject. Raises ApiError."""
        at = self.clock.timestamp()
        if status not in {"approved", "rejected"}:
            raise invalid("status", "A request can be approved or rejected.")
        if not request.open:
            raise invalid("request_status", "The request has been processed.")
        self._decide(request, status, user, comment, at)
        certificate = request.certificate
        if request.type == "revoke":
            if status == "approved":
                self._revoke(request.order, certificate, request.reason, at)
        elif certificate is not None and status == "approved":
            self._approved(certificate, at)
        elif certificate is not None:
            self._drop(certificate, "rejected", at)

    def may_decide(self, key: ApiKey) -> None:
        """Refuse keys that may not approve."""
        if not key.may_manage:
            raise invalid_approver()

    @staticmethod
    def _decide(request: Request, status: str, user: User, comment: str, at: float) -> None:
        request.status, request.processor, request.processor_comment, request.processed = status, user, comment, at

    def _drop(self, certificate: Certificate, status: str, at: float) -> None:
        certificate.status = status
        self._held.pop(certificate.id or 0, None)
        self._polled.pop(certificate.id or 0, None)
        if certificate.request is not None and certificate.request.open:
            certificate.request.status = "rejected" if status == "rejected" else "canceled"
        self._show(certificate, at)

    def cancel(self, order: Order, status: object) -> None:
        """Cancel an order that is not issued, or withdraw a reissue. Raises ApiError."""
        at = self.clock.timestamp()
        if status != "canceled":  # CANCELED and cancelled are not it
            raise invalid("status", "An order can be set to canceled.")
        pending = order.reissue
        if order.status == "reissue_pending" and pending is not None:
            self._drop(pending, "canceled", at)
        elif order.status in {"pending", "waiting_pickup"}:
            self._drop(order.certificates[0], "canceled", at)
        else:
            raise invalid("status", f"An order that is {order.status} cannot be canceled.")

    def reject(self, order: Order) -> None:
        """The CA refuses an order that is not issued, whatever it waits for."""
        for certificate in order.certificates:
            if certificate.is_open:
                self._drop(certificate, "rejected", self.clock.timestamp())

    # Revocation

    def revoke(self, key: ApiKey, order: Order, certificate: Certificate | None, body: JSON) -> Request | None:
        """Revoke a certificate, or (None) all of the order: done at once, or a request. Raises ApiError."""
        at = self.clock.timestamp()
        reason = body.get("revocation_reason") or body.get("reason") or "unspecified"
        if reason not in REASONS:
            raise invalid("revocation_reason", "The reason is not known.")
        if order.reissue is not None:
            raise invalid("certificate", "A reissue is pending.")
        targets = [certificate] if certificate is not None else order.certificates
        if not any(target.is_live for target in targets):
            raise invalid("certificate", "There is nothing to revoke.")
        if body.get("skip_approval") and key.may_manage:
            self._revoke(order, certificate, reason, at)
            return None
        comments = str(body.get("comments") or body.get("comment") or "")
        request = self.register.add_request(order, "revoke", certificate, key.user, at, comments)
        request.status, request.reason = self.settings(order).revoke_request_status, reason
        return request

    def revoke_now(self, order: Order, certificate: Certificate | None = None, reason: str = "unspecified") -> None:
        """The CA revokes, for reasons of its own."""
        self._revoke(order, certificate, reason, self.clock.timestamp())

    def _revoke(self, order: Order, certificate: Certificate | None, reason: str, at: float) -> None:
        for target in order.certificates if certificate is None else [certificate]:
            if target.is_live:
                target.revoked, target.revocation_reason, target.status = at, reason, "revoked"
        follows = self.settings(order).order_follows_revocation
        if certificate is None or (follows and not any(one.is_live for one in order.certificates)):
            self._end(order, "revoked", at)
        else:
            self.register.touch(order, at)

    def _end(self, order: Order, status: str, at: float) -> None:
        """The order is over; what was still to be issued will not be."""
        order.status = status
        self.register.touch(order, at)
        for certificate in order.certificates:
            if certificate.is_open:
                self._drop(certificate, "canceled", at)
