"""Orders whose answer was lost are looked for: by the key in them, and by our mark.

The API knows no key of idempotency, so a lost answer is found again by reading (Services API, "List orders", "Order
info"): the orders of the same product since the time of the call, newest first, until one has the key. A list costs one
call and each order that may be it one more; one sweep serves any number of lost orders.
"""

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from cmpd.issuers.certcentral import answers
from cmpd.issuers.certcentral.answers import OrderInfo
from cmpd.issuers.certcentral.client import CallRefused, CertCentralClient

CLOCK_SKEW: Final = timedelta(minutes=15)
"""By so much the API's clock may be behind ours."""
_PAGE: Final = 100
_MOST_PAGES: Final = 50
_MOST_SEEN: Final = _MOST_PAGES * _PAGE
_STAMP: Final = re.compile(r"cmpd:[0-9a-f]{40}")
_ARMOUR: Final = re.compile(r"-----BEGIN [A-Z ]+-----(.*?)-----END [A-Z ]+-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Sought:
    """A lost order."""

    product: str
    spki: bytes
    """DER."""
    stamp: str
    since: datetime
    """When the call was made, at the earliest."""
    container: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of a lost order."""

    orders: tuple[OrderInfo, ...] = ()
    """Those that are it, oldest first."""
    complete: bool = True
    """Everything was looked at that could be it; otherwise that none was found says nothing."""

    @property
    def order(self) -> OrderInfo | None:
        """The order, when there is exactly one."""
        return self.orders[0] if len(self.orders) == 1 else None

    @property
    def is_alarming(self) -> bool:
        """Several orders are it: somebody has paid twice."""
        return len(self.orders) > 1


@dataclass(slots=True)
class _Sweep:
    infos: list[OrderInfo] = field(default_factory=list)
    complete: bool = True


async def find(
    client: CertCentralClient,
    sought: Sequence[Sought],
    *,
    known: Collection[int] = (),
    seen: dict[int, OrderInfo] | None = None,
    most: int = 500,
) -> list[Found]:
    """Look for lost orders, one answer for each in the same order. `known` are orders of other transactions.

    At most `most` orders are looked at in detail, those that have been `seen` before aside: keys and marks never
    change, and what one call could not finish the next one does. Raises CallRefused, CallFailed.
    """
    seen = {} if seen is None else seen
    sweeps: dict[tuple[str, int | None], _Sweep] = {}
    for place in {(one.product, one.container) for one in sought}:
        since = min(one.since for one in sought if (one.product, one.container) == place)
        sweeps[place] = await _sweep(client, *place, since - CLOCK_SKEW, known, seen, most)
    while len(seen) > _MOST_SEEN:
        del seen[min(seen)]
    found = []
    for one in sought:
        sweep = sweeps[one.product, one.container]
        own = sorted((info for info in sweep.infos if is_it(info, one)), key=lambda info: info.order_id)
        found.append(Found(tuple(own), sweep.complete))
    return found


async def _sweep(
    client: CertCentralClient,
    product: str,
    container: int | None,
    since: datetime,
    known: Collection[int],
    seen: dict[int, OrderInfo],
    most: int,
) -> _Sweep:
    sweep, filters = _Sweep(), {"product_name_id": product} | ({} if container is None else {"container_id": container})
    taken: set[int] = set()
    asked = 0
    for page in range(_MOST_PAGES):
        rows = await client.orders(filters, limit=_PAGE, offset=page * _PAGE)
        numbers = [row.order_id for row in rows]
        newest_first = numbers == sorted(numbers, reverse=True)
        for row in rows:
            if row.created is not None and row.created < since:
                if newest_first:
                    return sweep
                continue
            if row.order_id in taken or row.order_id in known:
                continue
            taken.add(row.order_id)
            if row.order_id in seen:
                sweep.infos.append(seen[row.order_id])
                continue
            if asked >= most:
                sweep.complete = False
                return sweep
            asked += 1
            try:
                info = await client.order_info(row.order_id)
            except CallRefused as error:
                if not error.not_found:
                    raise
                sweep.complete = False
                continue
            sweep.infos.append(info)
            if key_of(info.csr) is not None or stamps(info):
                seen[row.order_id] = info
        if len(rows) < _PAGE:
            return sweep
    sweep.complete = False
    return sweep


def is_it(info: OrderInfo, sought: Sought) -> bool:
    """Whether an order is the lost one: our mark decides where it is shown, else the key."""
    marks = stamps(info)
    if sought.stamp in marks:
        return True
    key = key_of(info.csr)
    return not marks and key is not None and key == sought.spki


def stamps(info: OrderInfo) -> set[str]:
    """Our marks on an order: in its custom fields and comments."""
    return {found for text in (*info.custom_fields.values(), *info.comments) for found in _STAMP.findall(text)}


def key_of(csr: str) -> bytes | None:
    """The SubjectPublicKeyInfo (DER) of a CSR or bare public key; None when it cannot be read.

    PEM with or without line ends, or base64 alone.
    """
    armoured = _ARMOUR.search(csr)
    try:
        content = base64.b64decode("".join((armoured[1] if armoured else csr).split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    for load in (x509.load_der_x509_csr, load_der_public_key):
        try:
            loaded = load(content)
            key = loaded.public_key() if isinstance(loaded, x509.CertificateSigningRequest) else loaded
            return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
    return None


@dataclass(frozen=True, slots=True)
class Again:
    """A reissue or duplicate that was found again."""

    certificate_id: int | None
    """None when it has none yet."""
    status: str
    """Of the certificate, or of its order."""


async def find_again(client: CertCentralClient, order_id: int, spki: bytes, stamp: str) -> list[Again]:
    """Look for lost reissues and duplicates of an order. Raises CallRefused, CallFailed.

    Those that wait for approval have no certificate yet and are known by their request's comment alone.
    """
    rows = [*await client.reissues(order_id), *await client.duplicates(order_id)]
    found = {
        number: Again(number, answers.text(row.get("status")))
        for row in rows
        if key_of(answers.text(row.get("csr"))) == spki and (number := answers.number(row.get("id"))) is not None
    }
    if found:
        return list(found.values())
    info = await client.order_info(order_id)
    marked = [request for request in info.requests if stamp in request.comments and request.type != "new_request"]
    if key_of(info.csr) == spki and not _only_new(info.requests, stamp):
        return [Again(info.certificate_id, info.status)]
    return [Again(None, request.status) for request in marked]


def _only_new(requests: Iterable[answers.Request], stamp: str) -> bool:
    """Whether the mark is on the order itself, so that its key is no reissue's."""
    return any(request.type == "new_request" and stamp in request.comments for request in requests)
