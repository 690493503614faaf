"""What ir, cr, p10cr and kur have in common: from a request with its POP to a certificate (RFC 9483 §4.1, §5.1.1).

    POP ─► who may ask for whom ─► Profile.approve ─► what the store knows ─► issuer.issue ─► the answer ─► store.issued

Everything up to the approval is decided before anything is issued. The certificate, the transaction's state and the
exact answer become durable in one commit before the answer leaves; whether a key, a seat or a budget is still free is
decided in that commit.

    operation   what a handler works with           requests   reading what is asked for
    identity    who may ask for whom                issuing    from an approved request to a certificate
    binding     what an enrollment code is for      waiting    certificates on order, and polling for them
"""

from collections.abc import Sequence
from dataclasses import replace

from cmpd import reply
from cmpd.asn1 import BodyType
from cmpd.enrollment.binding import bound
from cmpd.enrollment.identity import is_authorised_ra, same_identity, updated_identity
from cmpd.enrollment.issuing import ending, issue, lint, look_ahead, record, refusal
from cmpd.enrollment.operation import Decided, OpenTransaction, Operation, Realm, Refine, Wanted, digest
from cmpd.enrollment.requests import crmf_requests, p10cr_request
from cmpd.enrollment.waiting import place, poll, still_prompt
from cmpd.errors import CMPError
from cmpd.exchange import IssuedCertificate, OutsideState, RevocationReason, TransactionState
from cmpd.ports import Conditions, Revocation, Unmet
from cmpd.protection import CertificateCredential, MacCredential, Role
from cmpd.revoking import Fate, on_rejection

__all__ = [
    "OpenTransaction",
    "Operation",
    "Realm",
    "Wanted",
    "conclude",
    "crmf_requests",
    "digest",
    "enroll",
    "is_authorised_ra",
    "p10cr_request",
    "poll",
    "same_identity",
    "still_prompt",
    "updated_identity",
]


async def enroll(operation: Operation, wanted: Sequence[Wanted], refine: Refine) -> bytes:
    """Decide, issue, record and answer (RFC 9483 §4.1.1, §5.1.1). Raises CMPError when nothing is granted."""
    decided: list[tuple[int, Decided | CMPError]] = []
    # what is ordered is kept before it is ordered: the commit that keeps it looks
    looks_ahead = (operation.realm.looks_ahead or len(wanted) > 1) and not operation.realm.orders
    for one in wanted:
        try:
            accepted = await _decide(operation, one, refine)
            if looks_ahead:
                await look_ahead(operation, accepted, sum(isinstance(other, Decided) for _, other in decided))
            if accepted.approved.lint != "off":
                await lint(operation, accepted.approved)
            decided.append((one.request.cert_req_id, accepted))
        except CMPError as exc:
            if len(wanted) == 1:
                raise
            decided.append((one.request.cert_req_id, exc))
    implicit = operation.realm.profile.implicit_confirm and reply.asks_implicit_confirm(
        operation.received.message.header
    )
    if operation.realm.orders:
        return await place(operation, decided, implicit=implicit)
    responses: list[bytes] = []
    certificates: list[IssuedCertificate] = []
    conditions: list[Conditions] = []
    changed = False
    for cert_req_id, one_decided in decided:
        if isinstance(one_decided, CMPError):
            responses.append(reply.cert_response(cert_req_id, reply.rejection(one_decided)))
            continue
        approved = one_decided.approved
        issued = await issue(operation.realm.issuer, approved)
        certificates.append(record(operation, approved, issued, implicit=implicit))
        conditions.append(one_decided.conditions)
        modified = approved.modified
        if issued.not_after < approved.not_after:
            modified = (*modified, f"validity: cut at the end of the issuing CA, {issued.not_after:%Y-%m-%dT%H:%M:%SZ}")
        changed = changed or bool(modified)
        responses.append(reply.cert_response(cert_req_id, reply.granted(modified), issued.der))
    answer = await _hand_out(operation, responses, certificates, conditions, implicit=implicit)
    refusals = [one for _, one in decided if isinstance(one, CMPError)]
    exchange = operation.exchange
    if refusals:
        exchange.fail_info, exchange.reason = refusals[0].fail_info.name, str(refusals[0])
    exchange.outcome = "rejection" if not certificates else "grantedWithMods" if changed else "accepted"
    return answer


async def _hand_out(
    operation: Operation,
    responses: Sequence[bytes],
    certificates: Sequence[IssuedCertificate],
    conditions: Sequence[Conditions],
    *,
    implicit: bool,
) -> bytes:
    body_type = operation.received.message.body_type
    state, info, confirm_by = ending(operation, granted=bool(certificates), implicit=implicit)
    # caPubs: only in an ip, and only when a shared secret lets the EE trust what it has not seen before (RFC 9483 §4.1)
    ca_pubs: tuple[bytes, ...] = ()
    if certificates and body_type is BodyType.ir and isinstance(operation.credential, MacCredential):
        ca_pubs = operation.realm.chain[-1:]
    answer = operation.replier.message(
        reply.cert_rep(reply.RESPONSE_OF[body_type], responses, ca_pubs),
        general_info=info,
        extra_certs=_handed(operation) if certificates else (),
    )
    code = operation.credential.code.id if certificates and isinstance(operation.credential, MacCredential) else None
    transaction = operation.transaction(state, answer, confirm_by=confirm_by)
    try:
        await operation.store.issued(transaction, certificates, code=code, now=operation.now, conditions=conditions)
    except Unmet as unmet:
        raise refusal(unmet, operation.realm.conditions) from unmet
    if state is TransactionState.unconfirmed:
        ordered = tuple(sorted(certificates, key=lambda one: one.cert_req_id))
        known = operation.credential.code if isinstance(operation.credential, MacCredential) else None
        operation.opened = OpenTransaction(transaction, ordered, known)
    operation.exchange.serial = ",".join(f"{certificate.serial:x}" for certificate in certificates)
    operation.exchange.seat = ",".join(certificate.seat for certificate in certificates if certificate.seat)
    return answer


def _handed(operation: Operation) -> tuple[bytes, ...]:
    """The chain for extraCerts; with the root for a maker's device, which may have no other way to get it.

    3GPP TS 33.310 §9.5.4.3 has the operator's root in the extraCerts of an ip; clients by RFC 9483 §3.3 need not care.
    """
    credential = operation.credential
    if isinstance(credential, CertificateCredential) and credential.role is Role.vendor:
        return operation.realm.chain
    return operation.realm.handed_chain


async def conclude(operation: Operation, confirmed: Sequence[int], rejected: Sequence[IssuedCertificate]) -> bytes:
    """End a transaction after its certConf: confirm, revoke and keep the pkiconf in one commit (RFC 9483 §5.1.2).

    What is rejected is revoked, at an issuer over there too, or kept where that is the policy. When all is rejected,
    the enrollment code gets its use back where the profile says so.
    Raises `TransactionMoved`.
    """
    state = TransactionState.confirmed if confirmed else TransactionState.rejected
    credential, give_back = operation.credential, None
    if not confirmed and isinstance(credential, MacCredential) and operation.realm.profile.code.give_back:
        give_back = credential.code.id
    answer = operation.replier.pkiconf()
    fate = on_rejection(operation.realm.issuer)
    revoked, kept = (rejected, []) if fate is not Fate.kept else ([], rejected)
    await operation.store.advance(
        operation.received.transaction_id,
        seen=TransactionState.unconfirmed,
        state=state,
        nonce=operation.replier.nonce,
        request=operation.digest,
        reply=answer,
        confirmed=confirmed,
        revoked=[
            Revocation(
                one.serial,
                RevocationReason.unspecified,
                operation.now,
                outside=OutsideState.due if fate is Fate.there else None,
                private="the client has rejected it",
            )
            for one in revoked
        ],
        kept=[one.serial for one in kept],
        give_back=give_back,
    )
    operation.exchange.outcome = state.value
    operation.exchange.serial = ",".join(f"{serial:x}" for serial in [*confirmed, *(one.serial for one in rejected)])
    return answer


async def _decide(operation: Operation, one: Wanted, refine: Refine) -> Decided:
    one.check_pop()
    one = await refine(operation, one)
    operation.decided = one.request
    approved = operation.realm.profile.approve(
        one.request, transaction_id=operation.received.transaction_id, now=operation.now
    )
    if one.seat is not None:
        approved = replace(approved, seat=one.seat)
    if isinstance(operation.credential, MacCredential):
        approved = bound(operation.credential.code, approved, operation.realm.profile)
    if operation.realm.orders:
        approved = replace(approved, request=one.pkcs10, updates=one.updates)
    conditions = operation.realm.conditions
    if one.updates is not None or one.keeps_key:
        conditions = replace(conditions, new_key=conditions.new_key and not one.keeps_key, updates=one.updates)
    return Decided(approved, conditions)
