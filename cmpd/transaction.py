"""What may follow what: the state machine of a PKI management operation, seen from this side (RFC 9483 §4, §3.5).

Rule: everything that affects which message is allowed next is in TABLE. A pair that is not in it is refused, and a
refusal changes nothing: only an authenticated message that is allowed moves a transaction.

    state         meaning
    (none)        no transaction of this transactionID is known
    waiting       the issuer has not delivered yet, the EE polls (RFC 9483 §4.4)
    unconfirmed   the certificate is handed out and its certConf awaited
    confirmed     ended: confirmed by certConf, or implicitly
    rejected      ended: the EE refused the certificate
    expired       ended: the certConf never came
    refused       ended: the request was refused
"""

import enum

from cmpd.asn1 import BodyType
from cmpd.errors import BadRequest, CertConfirmed, CMPError, TransactionIdInUse
from cmpd.exchange import TransactionState


class Event(enum.Enum):
    """What an allowed message does."""

    begin = "begin"
    """It begins a transaction."""
    poll = "poll"
    """It asks whether what was ordered is there."""
    confirm = "confirm"
    """It confirms, or rejects, what was issued."""
    abandon = "abandon"
    """The EE reports an error of its own and ends the transaction (RFC 9810 §5.3.21)."""


_S = TransactionState
REQUESTS = (BodyType.ir, BodyType.cr, BodyType.p10cr, BodyType.kur)
"""The bodies that begin a transaction here."""
SUPPORTED = frozenset({*REQUESTS, BodyType.certConf, BodyType.pollReq, BodyType.error})
"""The bodies that this service answers with anything but a refusal."""

TABLE: dict[TransactionState | None, dict[BodyType, Event]] = {
    None: dict.fromkeys(REQUESTS, Event.begin),
    _S.waiting: {BodyType.pollReq: Event.poll},
    _S.unconfirmed: {BodyType.certConf: Event.confirm, BodyType.error: Event.abandon},
    _S.confirmed: {},
    _S.rejected: {},
    _S.expired: {},
    _S.refused: {},
}


def expect(state: TransactionState | None, body: BodyType) -> Event:
    """Say what `body` does in `state`; raises BadRequest, TransactionIdInUse or CertConfirmed (RFC 9483 §3.5)."""
    event = TABLE[state].get(body)
    if event is not None:
        return event
    raise _refusal(state, body)


def _refusal(state: TransactionState | None, body: BodyType) -> CMPError:
    if body not in SUPPORTED:
        return BadRequest(f"a PKIMessage with body {body.name} is not supported here")
    if state is None:
        return BadRequest(f"no transaction with this transactionID waits for a message with body {body.name}")
    if body in REQUESTS:
        return TransactionIdInUse("the transactionID is in use for another request; begin again with a new one")
    if state is _S.confirmed:
        return CertConfirmed("the certificate has been confirmed before")
    return BadRequest(f"the transaction has ended ({state.value}); body {body.name} is not expected")
