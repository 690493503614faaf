"""What the simulator remembers: orders, their certificates, requests, and an index of what changed when."""

import itertools
import secrets
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.certcentral import pki
from tests.certcentral.catalogue import Product, User
from tests.certcentral.terms import JSON, Terms

CertificateKind = Literal["new", "reissue", "duplicate"]
RequestKind = Literal["new_request", "reissue", "duplicate", "revoke"]
OPEN = frozenset({"needs_approval", "pending", "processing", "waiting_pickup", "needs_csr"})
"""A certificate that is not there yet; `processing` may be spelt otherwise by the setting `waiting_status`."""


@dataclass(slots=True, eq=False)
class Request:
    """Something that is, or was, to be approved."""

    id: int
    order: "Order"
    type: RequestKind
    status: str
    created: float
    requester: User
    comments: str
    certificate: "Certificate | None"
    """What it asks for, or what is to be revoked; None: all of the order."""
    reason: str = ""
    processor: User | None = None
    processor_comment: str = ""
    processed: float | None = None

    @property
    def open(self) -> bool:
        """Whether nobody has decided."""
        return self.status in {"pending", "submitted"}


@dataclass(slots=True, eq=False)
class Certificate:
    """A certificate of an order, issued or to be issued."""

    order: "Order"
    kind: CertificateKind
    terms: Terms
    body: JSON
    """`certificate` as it was ordered."""
    created: float
    request: Request | None = None
    id: int | None = None
    """Given at approval."""
    status: str = "needs_approval"
    due: float = 0.0
    polls_left: int = 0
    released: bool = False
    """It is no longer held back for delay, polls, or by hand."""
    sub_id: str = "000"
    issued: float | None = None
    revoked: float | None = None
    revocation_reason: str = ""
    leaf: x509.Certificate | None = None
    serial: str = ""
    """Hex with its leading zeros, without separators, upper case."""
    thumbprint: str = ""
    """SHA-1 of the certificate, hex."""

    @property
    def is_open(self) -> bool:
        """Whether it will be issued yet."""
        return self.leaf is None and self.status not in {"rejected", "canceled"}

    @property
    def is_live(self) -> bool:
        """Whether it is issued and not revoked."""
        return self.leaf is not None and self.revoked is None

    def chain(self) -> list[x509.Certificate]:
        """Leaf, issuing CA, root."""
        assert self.leaf is not None
        ca = pki.by_id(self.terms.product.family, self.terms.ca_id)
        return [self.leaf, ca.certificate, ca.root]


@dataclass(slots=True)
class EmailProof:
    """A mail to an address, and whether its link was clicked."""

    email: str
    token: str
    sent: float
    validated: float | None = None


@dataclass(slots=True, eq=False)
class Order:
    """An order."""

    id: int
    product: Product
    key: str
    """The name of the key that placed it."""
    user: User
    body: JSON
    own: dict[str, Any]
    """Its own settings."""
    container_id: int
    organization_id: int | None
    created: float
    until: float
    """Its last second."""
    status: str = ""
    changed: float = 0.0
    renewal_of: int = 0
    renewed_by: int = 0
    certificates: list[Certificate] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    emails: list[EmailProof] = field(default_factory=list)
    dcv_token: str = ""

    @property
    def certificate(self) -> Certificate:
        """The one that counts: the last one issued that is no duplicate, before issuance the first."""
        for certificate in reversed(self.certificates):
            if certificate.kind != "duplicate" and certificate.leaf is not None:
                return certificate
        return self.certificates[0]

    @property
    def reissue(self) -> Certificate | None:
        """The reissue that is not done."""
        return next((one for one in self.certificates if one.kind == "reissue" and one.is_open), None)


class Register:
    """All orders, with the ways to find them."""

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        self.certificates: dict[int, Certificate] = {}
        self.requests: dict[int, Request] = {}
        self.tokens: dict[str, tuple[Order, EmailProof]] = {}
        self._by_hex: dict[str, Certificate] = {}
        self._changes: list[tuple[float, int]] = []
        self._order_ids = itertools.count(540_000_001)
        self._certificate_ids = itertools.count(112_000_001)
        self._request_ids = itertools.count(922_001)

    def next_order_id(self) -> int:
        """An id; they grow."""
        return next(self._order_ids)

    def add_order(self, order: Order, at: float) -> None:
        """Keep it."""
        self.orders[order.id] = order
        order.created = at

    def add_request(
        self, order: Order, type_: RequestKind, certificate: Certificate | None, user: User, at: float, comments: str
    ) -> Request:
        """A new request, pending."""
        request = Request(next(self._request_ids), order, type_, "pending", at, user, comments, certificate)
        order.requests.append(request)
        self.requests[request.id] = request
        return request

    def number(self, certificate: Certificate) -> None:
        """Give a certificate its id."""
        if certificate.id is None:
            certificate.id = next(self._certificate_ids)
            self.certificates[certificate.id] = certificate

    def issued(self, certificate: Certificate, made: x509.Certificate) -> None:
        """Note what was issued."""
        certificate.leaf = made
        certificate.serial = f"{made.serial_number:032X}"
        certificate.thumbprint = made.fingerprint(hashes.SHA1()).hex().upper()
        self._by_hex[certificate.serial] = self._by_hex[certificate.thumbprint] = certificate

    def email_proof(self, order: Order, email: str, at: float) -> None:
        """Send a mail, once per address."""
        if any(proof.email == email for proof in order.emails):
            return
        proof = EmailProof(email, secrets.token_hex(16), at)
        order.emails.append(proof)
        self.tokens[proof.token] = (order, proof)

    def find_certificate(self, text: str) -> Certificate | None:
        """By id, serial number, or thumbprint."""
        if text.isdecimal() and (found := self.certificates.get(int(text))) is not None:
            return found
        return self._by_hex.get(text.upper())

    def find_order(self, text: str, *, old_serials: bool = False) -> Order | None:
        """By id, or by serial number or thumbprint of its certificate, duplicates excepted."""
        if text.isdecimal() and (found := self.orders.get(int(text))) is not None:
            return found
        certificate = self._by_hex.get(text.upper())
        if certificate is None or certificate.kind == "duplicate":
            return None
        return certificate.order if old_serials or certificate.order.certificate is certificate else None

    def touch(self, order: Order, at: float) -> None:
        """Note that the order changed."""
        order.changed = at
        if not self._changes or self._changes[-1] <= (at, order.id):
            self._changes.append((at, order.id))
        else:
            insort(self._changes, (at, order.id))

    def changed(self, start: float, end: float) -> Iterator[Order]:
        """Orders whose last change lies between two times (both included), oldest change first."""
        first = bisect_left(self._changes, (start, 0))
        last = bisect_right(self._changes, (end, 1 << 62))
        seen: set[int] = set()
        for index in range(first, last):
            at, order_id = self._changes[index]
            order = self.orders[order_id]
            if order.changed == at and order_id not in seen:
                seen.add(order_id)
                yield order
