"""Delayed delivery: certificates that are ordered, and the EE that polls for them (RFC 9483 §4.4, §5.1.5)."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from cmpd import reply
from cmpd.asn1 import BodyType, PKIFailureInfo, PKIStatus
from cmpd.asn1.certificate import subject, tbs
from cmpd.enrollment.issuing import ending, refusal
from cmpd.enrollment.operation import Decided, Operation, digest
from cmpd.errors import BadRequest, CMPError, SystemUnavail
from cmpd.exchange import OPEN_ORDERS, CertificateStatus, Order, OrderState, TransactionState
from cmpd.ports import Conditions, OrderStore, TransactionMoved, Unmet
from cmpd.protection import MacCredential

PROMPT_SECONDS = 2.0
"""How long a request is held open at most for an issuer that answers at once; then the EE is told to wait."""
_ASK_AGAIN = "the certificate is on order; ask for it again later, with the same key"
NO_POLLING_SECONDS = 10.0
"""The same where the EE cannot poll, so that there is more that it need not ask for again."""
_STAMP_OCTETS = 12


async def place(operation: Operation, decided: Sequence[tuple[int, Decided | CMPError]], *, implicit: bool) -> bytes:
    """Keep what is to be ordered, and only then have it ordered; answer `waiting`, or what came at once.

    The same request in another transaction orders nothing: it waits for what was ordered before. Where EEs cannot poll
    the answer is systemUnavail instead of `waiting`, and nothing is ordered from who cannot be reached.

    Raises CMPError.
    """
    store, desk = _orders(operation), operation.desk
    assert desk is not None
    orders = [_order(operation, cert_req_id, one, implicit=implicit) for cert_req_id, one in decided]
    conditions = [one.conditions if isinstance(one, Decided) else Conditions() for _, one in decided]
    polls = operation.realm.profile.polling
    answer = _waiting(operation, orders) if polls else _later(operation, orders)
    transaction = operation.transaction(TransactionState.waiting, answer)
    before = await _placed_before(operation, store, orders)
    if before:
        await store.hand_over(before, transaction)
    else:
        if not polls and any(desk.unreachable(one.issuer) for one in orders):
            raise SystemUnavail("the issuing CA is not available; try again later", private="nothing was ordered")
        code = operation.credential.code.id if isinstance(operation.credential, MacCredential) else None
        try:
            await store.intend(transaction, orders, code=code, now=operation.now, conditions=conditions)
        except Unmet as unmet:
            raise refusal(unmet, operation.realm.conditions) from unmet
    operation.exchange.outcome = "waiting"
    operation.exchange.seat = ",".join(one.approved.seat for one in orders if one.approved.seat)
    if not before:
        issuer = operation.realm.profile.issuer
        desk.nudge(issuer, (one.stamp for one in orders))
        seconds = PROMPT_SECONDS if polls else NO_POLLING_SECONDS
        await desk.settled(issuer, operation.received.transaction_id, len(orders), seconds)
    kept = await store.orders_of(operation.received.transaction_id)
    late = polls and (desk.clock() - operation.now).total_seconds() > 1.25 * PROMPT_SECONDS
    if late or any(one.state in OPEN_ORDERS for one in kept):
        if not polls:
            operation.exchange.outcome = "rejection"
            operation.exchange.fail_info, operation.exchange.reason = PKIFailureInfo.systemUnavail.name, _ASK_AGAIN
        return answer
    try:
        return await _deliver(operation, store, kept, first=True)
    except TransactionMoved:  # it was polled for meanwhile
        return answer


async def poll(operation: Operation) -> bytes:
    """Answer a pollReq: with what was ordered, or when to ask again (RFC 9483 §4.4). Raises BadRequest."""
    store = _orders(operation)
    asked = operation.body
    assert isinstance(asked, list)
    kept = await store.orders_of(operation.received.transaction_id)
    known = {one.cert_req_id for one in kept}
    if not asked or not {one.certReqId for one in asked} <= known | {-1}:
        raise BadRequest("pollReq: certReqId is not that of a certificate that is waited for")
    open_orders = [one for one in kept if one.state in OPEN_ORDERS]
    if not open_orders:
        return await _deliver(operation, store, kept)
    texts = "; ".join(dict.fromkeys(one.text for one in open_orders if one.text))
    seconds = check_after(open_orders[0].created, operation.now)
    answer = operation.replier.message(reply.poll_rep([one.certReqId for one in asked], seconds, texts))
    await store.deliver(
        operation.received.transaction_id,
        seen=_seen(operation),
        state=TransactionState.waiting,
        nonce=operation.replier.nonce,
        request=operation.digest,
        reply=answer,
    )
    operation.exchange.outcome = "waiting"
    return answer


def still_prompt(created: datetime, now: datetime) -> float:
    """For how many seconds the first answer may still become another one than `waiting`; see `place`."""
    return max(0.0, 2.5 * PROMPT_SECONDS - (now - created).total_seconds())


def _seen(operation: Operation) -> bytes:
    """The nonce of the answer that the message follows; of a first request, that of `waiting`."""
    transaction = operation.received.transaction
    return operation.replier.nonce if transaction is None else transaction.nonce


def check_after(since: datetime, now: datetime) -> int:
    """When to ask again, in seconds: soon at first, later as the wait gets longer; validation may take days."""
    age = max((now - since).total_seconds(), 0)
    return int(min(max(5, age / 4), 900))


def _orders(operation: Operation) -> OrderStore:
    if operation.desk is None:
        raise SystemUnavail("certificates cannot be ordered here now; try again later", private="no order desk")
    return operation.desk.store


def _order(operation: Operation, cert_req_id: int, one: Decided | CMPError, *, implicit: bool) -> Order:
    now = operation.now
    if isinstance(one, CMPError):
        raise one  # several requests are ordered together or not at all
    return Order(
        stamp=f"cmpd-{secrets.token_hex(_STAMP_OCTETS)}",
        transaction_id=operation.received.transaction_id,
        cert_req_id=cert_req_id,
        issuer=operation.realm.profile.issuer,
        approved=one.approved,
        state=OrderState.intended,
        created=now,
        updated=now,
        due=now,
        implicit=implicit,
    )


async def _placed_before(operation: Operation, store: OrderStore, orders: Sequence[Order]) -> tuple[Order, ...]:
    """What the same sender has on order for just this, one by one; empty when anything differs."""
    found: list[Order] = []
    for order in orders:
        same = [
            one
            for one in await store.same_order(
                order.approved.profile, operation.credential.id, digest(order.approved.spki)
            )
            if _alike(one, order) and one.approved.not_after > operation.now and one not in found
        ]
        if not same:
            return ()
        found.append(same[0])
    return tuple(found)


def _alike(one: Order, other: Order) -> bool:
    """Whether two orders ask for the same certificate, but for when."""
    same = {"transaction_id": b"", "not_before": other.approved.not_before, "not_after": other.approved.not_after}
    return (
        one.cert_req_id == other.cert_req_id
        and one.implicit == other.implicit
        and replace(one.approved, **same) == replace(other.approved, **same)  # type: ignore[arg-type]
    )


def _waiting(operation: Operation, orders: Sequence[Order]) -> bytes:
    """The response of the request's kind with the status waiting for each certificate (RFC 9483 §4.4)."""
    status = reply.status_info(PKIStatus.waiting, "the certificate is on order")
    body = reply.RESPONSE_OF[operation.received.message.body_type]
    return operation.replier.message(
        reply.cert_rep(body, [reply.cert_response(one.cert_req_id, status) for one in orders])
    )


def _later(operation: Operation, orders: Sequence[Order]) -> bytes:
    """The same for an EE that cannot poll: a refusal that is none for good (RFC 9483 §3.6.4)."""
    body = reply.RESPONSE_OF[operation.received.message.body_type]
    refused = reply.rejection(SystemUnavail(_ASK_AGAIN))
    return operation.replier.message(
        reply.cert_rep(body, [reply.cert_response(one.cert_req_id, refused) for one in orders])
    )


async def _deliver(operation: Operation, store: OrderStore, kept: Sequence[Order], *, first: bool = False) -> bytes:
    """The final response (RFC 9483 §4.4): certificates, or why there are none. Raises TransactionMoved."""
    realm = operation.realm
    transaction = operation.received.transaction
    request = operation.received.message.body_type if transaction is None else BodyType[transaction.operation]
    certificates = {
        one.cert_req_id: one
        for one in await operation.store.certificates_of(kept[0].transaction_id)
        if one.status is not CertificateStatus.revoked
    }
    issued = [one for one in kept if one.state is OrderState.issued and one.cert_req_id in certificates]
    responses: list[bytes] = []
    chain: tuple[bytes, ...] = ()
    changed = False
    for one in kept:
        certificate = certificates.get(one.cert_req_id)
        if one.state is not OrderState.issued or certificate is None:
            bit = PKIFailureInfo[one.fail_info or "notAuthorized"]
            text = one.text or "the issuing CA has refused"
            if one.state is OrderState.issued:
                bit, text = PKIFailureInfo.certRevoked, "the certificate was revoked before it was collected"
            responses.append(reply.cert_response(one.cert_req_id, reply.status_info(PKIStatus.rejection, text, bit)))
            operation.exchange.fail_info, operation.exchange.reason = bit.name, text
            operation.exchange.private = one.private
            continue
        modified = one.approved.modified
        if certificate.not_after < one.approved.not_after:
            modified = (*modified, f"validity: ends {certificate.not_after:%Y-%m-%dT%H:%M:%SZ}")
        changed = changed or bool(modified)
        responses.append(reply.cert_response(one.cert_req_id, reply.granted(modified), certificate.der))
        chain = (*chain, *(above for above in one.chain or realm.handed_chain if above not in chain))
    implicit = bool(issued) and all(one.implicit for one in issued)
    state, info, confirm_by = ending(operation, granted=bool(issued), implicit=implicit)
    answer = operation.replier.message(
        reply.cert_rep(reply.RESPONSE_OF[request], responses), general_info=info, extra_certs=_without_root(chain)
    )
    serials = [one.serial for one in issued if one.serial is not None]
    await store.deliver(
        operation.received.transaction_id,
        seen=_seen(operation),
        state=state,
        nonce=operation.replier.nonce,
        request=operation.digest,
        reply=answer,
        confirm_by=confirm_by,
        confirmed=serials if implicit else (),
        first=first,
    )
    operation.exchange.outcome = "rejection" if not issued else "grantedWithMods" if changed else "accepted"
    operation.exchange.serial = ",".join(f"{serial:x}" for serial in serials)
    return answer


def _without_root(chain: Sequence[bytes]) -> tuple[bytes, ...]:
    """RFC 9483 §3.3: self-signed certificates should be left out of extraCerts."""
    return tuple(one for one in chain if subject(one) != tbs(one)[2])
