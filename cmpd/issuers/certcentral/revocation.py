"""Certificates are revoked, and those found that others have revoked (Services API, "Revoke certificate").

A revocation is looked for before it is asked for: an answer may have been lost, somebody may have been faster, and a
request that waits for approval must not become two. Certificates are revoked one by one, never with their order, which
may have others. What a certificate's own status is, the API says in three places, each of them read leniently: with the
order when that is revoked as a whole, with the order's own certificate, and in the lists of reissues and duplicates.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cmpd.exchange import IssuedCertificate, OutsideState, RevocationReason
from cmpd.issuers.certcentral import answers
from cmpd.issuers.certcentral.answers import Done, NotDone, OrderInfo, Refused, Unknown
from cmpd.issuers.certcentral.client import (
    LONGEST_CHANGES,
    PAGE,
    CallRefused,
    CertCentralClient,
    reason_of,
    reason_word,
)
from cmpd.issuers.certcentral.config import CertCentralConfig
from cmpd.ports import IssuerUnavailable, Revocation, RevocationRefused

logger = logging.getLogger(__name__)

LATER: Final = 900.0
"""Seconds until a certificate is asked for again whose order waits for a reissue."""
_MOST_PAGES: Final = 50
_REVOKED: Final = "revoked"
_MAY_BE_REVOKED: Final = frozenset({"revoked", "issued", "reissue_pending"})
"""An order keeps its status when one of its certificates is revoked, and with some accounts when all are."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What the API says of a certificate."""

    revoked: bool
    reason: str = ""
    """The API's word; empty when it says none."""
    number: int | None = None
    """The certificate's id; None when it has not been seen."""


async def revoke(client: CertCentralClient, config: CertCentralConfig, certificate: IssuedCertificate) -> str | None:
    """See `ports.Revoker`. Raises CallRefused, CallFailed too."""
    outside = certificate.outside
    if outside is not None and outside.state is OutsideState.asked and outside.ticket.isdecimal():
        return await _asked(client, certificate, int(outside.ticket))
    info = await _order(client, certificate)
    found = None if info is None else await _find(client, certificate, info)
    if found is not None and found.revoked:
        return None
    mark = f"{certificate.serial:x}"
    for request in () if info is None else info.requests:
        if request.type == "revoke" and mark in request.comments:
            if request.is_open and request.id is not None:
                return str(request.id)
            if request.status == "approved":
                return None
    if info is not None and info.status.lower() == "reissue_pending":
        raise RevocationRefused(f"order {info.order_id} waits for a reissue: nothing of it can be revoked now", LATER)
    which = f"{certificate.serial:032x}" if found is None or found.number is None else found.number
    try:
        return await _ask(client, config, certificate, which, mark)
    except RevocationRefused:
        info = await _order(client, certificate)
        found = None if info is None else await _find(client, certificate, info)
        if found is not None and found.revoked:  # somebody was faster
            return None
        raise


async def _ask(
    client: CertCentralClient, config: CertCentralConfig, certificate: IssuedCertificate, which: int | str, mark: str
) -> str | None:
    reason = (certificate.reason or RevocationReason.unspecified).name
    word = reason_word(config, reason)
    comments = f"cmpd: certificate {mark}, {reason}"
    outcome = await client.revoke(which, word=word, comments=comments)
    if isinstance(outcome, Refused) and word is not None and outcome.status == 400:
        plain = await client.revoke(which, comments=comments)
        if isinstance(plain, Done):
            logger.warning(
                "certificate %s is asked to be revoked without a reason, for %s as a reason is refused (%s);"
                " set revocation_reasons in [issuers.%s]",
                mark,
                word,
                outcome,
                certificate.issuer,
            )
            outcome = plain
    match outcome:
        case Refused():
            if outcome.of_key:
                raise IssuerUnavailable(f"the API key is refused: {outcome}; see `cmpd doctor`")
            raise RevocationRefused(f"CertCentral does not revoke it: {outcome}")
        case NotDone() | Unknown():
            raise IssuerUnavailable(outcome.reason)
        case Done(asked=False):
            return None
    return str(answers.number(outcome.answer.get("id")) or "")


async def _asked(client: CertCentralClient, certificate: IssuedCertificate, number: int) -> str | None:
    """What has become of a request that somebody has to approve."""
    try:
        status = answers.text((await client.request(number)).get("status"))
    except CallRefused as error:
        if not error.not_found:
            raise
        status = "gone"
    if status == "approved":
        return None
    if status == "rejected":
        raise RevocationRefused(f"somebody at CertCentral has rejected request {number}")
    info = await _order(client, certificate)  # somebody may have revoked it without deciding about the request
    found = None if info is None else await _find(client, certificate, info)
    if found is not None and found.revoked:
        return None
    if status == "gone":
        raise RevocationRefused(f"CertCentral knows of no request {number} any more")
    return str(number)


async def suspects(client: CertCentralClient, window: timedelta | None) -> Collection[str]:
    """See `ports.Watched`; `window` is how far back. Raises CallRefused, CallFailed."""
    if window is not None and window <= LONGEST_CHANGES:
        changes = await client.status_changes(max(window, timedelta(minutes=1)))
        return {str(change.order_id) for change in changes if change.status.lower() in _MAY_BE_REVOKED}
    found: set[str] = set()
    for page in range(_MOST_PAGES):
        rows = await client.orders({"status": _REVOKED}, limit=PAGE, offset=page * PAGE)
        found |= {str(row.order_id) for row in rows}
        if len(rows) < PAGE:
            break
    return found


async def revoked(
    client: CertCentralClient, config: CertCentralConfig, certificates: Sequence[IssuedCertificate], now: datetime
) -> list[Revocation]:
    """See `ports.Watched`. Raises CallRefused, CallFailed."""
    infos: dict[str, OrderInfo | None] = {}
    found = []
    for certificate in certificates:
        number = certificate.ticket.partition(":")[0]
        try:
            if number not in infos:
                infos[number] = await _order(client, certificate)
            info = infos[number]
            standing = None if info is None else await _find(client, certificate, info)
        except CallRefused as error:
            if error.refused.of_key:
                raise
            infos[number] = standing = None
            logger.warning(
                "whether certificate %x is revoked cannot be found out, for order %s cannot be looked at: %s",
                certificate.serial,
                number,
                error,
            )
        if standing is not None and standing.revoked:
            reason = RevocationReason[reason_of(config, standing.reason)]
            found.append(Revocation(certificate.serial, reason, now))
    return found


async def _order(client: CertCentralClient, certificate: IssuedCertificate) -> OrderInfo | None:
    """The certificate's order, by its number or else by the serial number; None when there is none."""
    number = certificate.ticket.partition(":")[0]
    try:
        return await client.order_info(int(number) if number.isdecimal() else f"{certificate.serial:032x}")
    except CallRefused as error:
        if error.not_found:
            return None
        raise


async def _find(client: CertCentralClient, certificate: IssuedCertificate, info: OrderInfo) -> _Found | None:
    """What is said of a certificate of an order; None when nothing is."""
    own = _serial(info.serial_number) == certificate.serial
    if info.status.lower() == _REVOKED:
        return _Found(True, info.revocation_reason, info.certificate_id if own else None)
    if own and (info.certificate_status == _REVOKED or ":" not in certificate.ticket):
        return _Found(info.certificate_status == _REVOKED, info.revocation_reason, info.certificate_id)
    for row in (*await client.reissues(info.order_id), *await client.duplicates(info.order_id)):
        if _serial(answers.text(row.get("serial_number"))) == certificate.serial:
            is_revoked = answers.text(row.get("status")).lower() == _REVOKED
            return _Found(is_revoked, answers.text(row.get("revocation_reason")), answers.number(row.get("id")))
    return _Found(False, number=info.certificate_id) if own else None


def _serial(text: str) -> int | None:
    """A serial number in hexadecimal, whatever stands between its digits."""
    try:
        return int(text.replace(":", "").replace(" ", ""), 16)
    except ValueError:
        return None
