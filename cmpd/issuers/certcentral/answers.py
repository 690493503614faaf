"""What the API answers, read leniently: unknown fields are passed over, ids may be strings, dates may be missing.

The words of an order's status, and what they mean here, are in `STANDINGS` (Services API, "Order status").
"""

import enum
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

JSON = dict[str, Any]
_SHOWN: Final = 200
_MOST_CERTIFICATES: Final = 16


class Standing(enum.StrEnum):
    """What an order's status means for whoever waits for its certificate."""

    issued = "issued"
    """The certificate is there."""
    waiting = "waiting"
    """It will come: validation, processing."""
    approval = "approval"
    """Somebody of the account has to approve: for an automaton, a mistake in its set-up."""
    dead = "dead"
    """It will never come."""
    ended = "ended"
    """It was there, and is revoked or has expired."""
    unknown = "unknown"
    """A word that is not known: wait and tell the operator, never order again."""


STANDINGS: Final = {
    "issued": Standing.issued,
    "approved": Standing.issued,  # of a certificate in the lists of reissues and duplicates
    "pending": Standing.waiting,
    "processing": Standing.waiting,
    "reissue_pending": Standing.waiting,
    "waiting_pickup": Standing.waiting,
    "needs_csr": Standing.waiting,
    "needs_approval": Standing.approval,
    "rejected": Standing.dead,
    "denied": Standing.dead,
    "canceled": Standing.dead,
    "revoked": Standing.ended,
    "expired": Standing.ended,
}


def standing(status: str) -> Standing:
    """The meaning of a status."""
    return STANDINGS.get(status.lower(), Standing.unknown)


# ── how a call that changes something has ended ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Ordered:
    """An order, reissue or duplicate is placed, and paid for."""

    order_id: int
    request_ids: tuple[int, ...] = ()
    """What has to be approved, if anything."""
    certificate_id: int | None = None
    chain: tuple[bytes, ...] | None = None
    """Certificates, DER, in whatever order; None: not issued at once."""


@dataclass(frozen=True, slots=True)
class Done:
    """Something else has been done."""

    answer: JSON = field(default_factory=dict)
    asked: bool = False
    """It is a request that somebody has to approve, and not done yet."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The API has refused: nothing was done, and the same call would be refused again."""

    status: int
    code: str
    message: str

    @property
    def of_key(self) -> bool:
        """Whether the API key is at fault, and not what was ordered."""
        return self.status == 401 or self.code.partition("|")[0] == "access_denied"

    def __str__(self) -> str:
        return f"HTTP {self.status}, {self.code or 'no code'}: {self.message or 'no message'}"


@dataclass(frozen=True, slots=True)
class NotDone:
    """Nothing has been done: not a byte was sent, or it was refused for its rate. It may be repeated."""

    reason: str
    retry_after: float = 0.0
    """Not before so many seconds."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can tell whether it was done: it must be looked for, and not be repeated."""

    reason: str


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse(content: bytes) -> JSON | None:
    """The JSON object, or None when it is none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def refusal(status: int, answer: Mapping[str, Any]) -> Refused | None:
    """The first error of an error answer; None when it has none. `errors` may be a list or an object."""
    errors = answer.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else errors
    if not isinstance(first, dict):
        return None
    return Refused(status, shown(first.get("code")), shown(first.get("message")))


def shown(value: object) -> str:
    """A text from outside for logs and people: one line, bounded."""
    text = "".join(char if char.isprintable() else " " for char in str(value if value is not None else ""))
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def number(value: object) -> int | None:
    """An id: a positive number, or a string of its digits."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    return value if isinstance(value, int) and value > 0 else None


def amount(value: object) -> float | None:
    """An amount of money: a number, or a string of one, with commas between thousands."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value.replace(",", "") if isinstance(value, str) else value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def text(value: object) -> str:
    """A string, or the empty one."""
    return value if isinstance(value, str) else ""


def rows(value: object) -> list[JSON]:
    """The objects of a list; empty when there is none."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def table(value: object) -> JSON:
    """An object; empty when there is none."""
    return value if isinstance(value, dict) else {}


def texts(value: object) -> tuple[str, ...]:
    """The strings of a list."""
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def day(value: object) -> date | None:
    """A date `YYYY-MM-DD`, also at the beginning of a longer text."""
    try:
        return date.fromisoformat(text(value)[:10])
    except ValueError:
        return None


def moment(value: object) -> datetime | None:
    """A time such as `2014-08-19T18:16:07+00:00`; without a zone it is taken as UTC."""
    try:
        found = datetime.fromisoformat(text(value))
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]{1,100000}-----END CERTIFICATE-----")


def certificates(pem: str) -> tuple[bytes, ...]:
    """The certificates of a PEM text, DER, whatever its line ends. Raises ValueError: none, or unreadable."""
    blocks = _PEM.findall(pem)
    if not blocks or len(blocks) > _MOST_CERTIFICATES:
        raise ValueError(f"{len(blocks)} certificates")
    loaded = [x509.load_pem_x509_certificate(block.replace("\r", "").encode()) for block in blocks]
    return tuple(dict.fromkeys(one.public_bytes(Encoding.DER) for one in loaded))


def chain(value: object) -> tuple[bytes, ...] | None:
    """The certificates of `certificate_chain` or `intermediates`, DER; None when there are none, or unreadable."""
    pem = "\n".join(text(row.get("pem")) for row in rows(value))
    try:
        return certificates(pem)
    except ValueError:
        return None


def ordered(answer: Mapping[str, Any]) -> Ordered | None:
    """The answer to an order, reissue or duplicate; None when the order's id is not in it."""
    order = number(answer.get("id"))
    if order is None:
        return None
    requests = (number(row.get("id")) for row in rows(answer.get("requests")))
    return Ordered(
        order,
        tuple(one for one in requests if one is not None),
        number(answer.get("certificate_id")),
        chain(answer.get("certificate_chain")),
    )


@dataclass(frozen=True, slots=True)
class Request:
    """Something that is, or was, to be approved."""

    id: int | None
    type: str
    """new_request, reissue, duplicate, revoke …"""
    status: str
    """pending, submitted, approved, rejected."""
    comments: str = ""

    @property
    def is_open(self) -> bool:
        """Whether somebody still has to decide."""
        return self.status in {"pending", "submitted"}


@dataclass(frozen=True, slots=True)
class OrderInfo:
    """An order (Services API, "Order info")."""

    order_id: int
    status: str
    product: str = ""
    certificate_id: int | None = None
    certificate_status: str = ""
    """That of the certificate itself, where it is said; empty where it is not."""
    revocation_reason: str = ""
    """The API's word, where it is said."""
    serial_number: str = ""
    """Hexadecimal, lower case, leading zeros kept."""
    csr: str = ""
    """As it was sent, or what has been made of it."""
    common_name: str = ""
    dns_names: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    container_id: int | None = None
    created: datetime | None = None
    order_valid_till: date | None = None
    valid_till: date | None = None
    custom_fields: Mapping[int, str] = field(default_factory=dict)
    comments: tuple[str, ...] = ()
    """Those of its requests, and its notes."""
    requests: tuple[Request, ...] = ()

    @property
    def standing(self) -> Standing:
        """What its status means."""
        return standing(self.status)


def order_info(answer: Mapping[str, Any]) -> OrderInfo | None:
    """Read an order info, or a row of the list of orders; None when the id is not in it."""
    order = number(answer.get("id"))
    if order is None:
        return None
    certificate = table(answer.get("certificate"))
    fields = {
        known: text(row.get("value"))
        for row in rows(answer.get("custom_fields"))
        if (known := number(row.get("metadata_id"))) is not None
    }
    requests = tuple(
        Request(number(row.get("id")), text(row.get("type")), text(row.get("status")), text(row.get("comments")))
        for row in rows(answer.get("requests"))
    )
    notes = tuple(text(row.get("note") or row.get("text")) for row in rows(answer.get("notes")))
    given = text(answer.get("comments"))
    return OrderInfo(
        order_id=order,
        status=text(answer.get("status")),
        product=text(table(answer.get("product")).get("name_id")),
        certificate_id=number(certificate.get("id")),
        certificate_status=text(certificate.get("status")).lower(),
        revocation_reason=text(certificate.get("revocation_reason")),
        serial_number=text(certificate.get("serial_number")).lower(),
        csr=text(certificate.get("csr")),
        common_name=text(certificate.get("common_name")),
        dns_names=texts(certificate.get("dns_names")),
        emails=texts(certificate.get("emails")),
        container_id=number(table(answer.get("container")).get("id")),
        created=moment(answer.get("date_created")),
        order_valid_till=day(answer.get("order_valid_till")),
        valid_till=day(certificate.get("valid_till")),
        custom_fields=fields,
        comments=tuple(one for one in (given, *(request.comments for request in requests), *notes) if one),
        requests=requests,
    )


@dataclass(frozen=True, slots=True)
class Change:
    """An order that has changed."""

    order_id: int
    status: str
    certificate_id: int | None = None


def changes(answer: Mapping[str, Any]) -> list[Change]:
    """The answer to status-changes, which is an empty object when there are none."""
    return [
        Change(order, text(row.get("status")), number(row.get("certificate_id")))
        for row in rows(answer.get("orders"))
        if (order := number(row.get("order_id"))) is not None
    ]
