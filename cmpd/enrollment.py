"""What ir, cr, p10cr and kur have in common: from a request with its POP to a certificate (RFC 9483 §4.1, §5.1.1).

    POP ─► who may ask for whom ─► Profile.approve ─► what the store knows ─► issuer.issue ─► the answer ─► store.issued

Everything up to the approval is decided before anything is issued. The certificate, the transaction's state and the
exact answer become durable in one commit before the answer leaves; whether a key, a seat or a budget is still free is
decided in that commit.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

from cryptography.x509 import ObjectIdentifier

from cmpd import asn1, pop, reply
from cmpd.asn1 import BodyType, der, oids
from cmpd.asn1.compare import same_name
from cmpd.errors import (
    BadCertTemplate,
    BadDataFormat,
    BadRequest,
    CertRevoked,
    CMPError,
    DuplicateCertReq,
    NotAuthorized,
    SystemFailure,
    SystemUnavail,
)
from cmpd.exchange import (
    Approved,
    CertificateRequest,
    CertificateStatus,
    Exchange,
    IssuedCertificate,
    RequestedExtension,
    RevocationReason,
    Transaction,
    TransactionState,
)
from cmpd.limits import Limits
from cmpd.lint import Kind, LinterMissing, Previewer, Severity, complaint, lint_preview
from cmpd.ports import (
    Condition,
    Conditions,
    Issued,
    Issuer,
    IssuerFailure,
    IssuerUnavailable,
    OutsideEffects,
    Revocation,
    Store,
    Unmet,
)
from cmpd.profile import Profile
from cmpd.protection import CertificateCredential, Credential, MacCredential, SignerCache
from cmpd.reply import Identity, Replier
from cmpd.validation import Received

T = TypeVar("T")
NULL_NAME = der.sequence()
"""The NULL-DN (RFC 9483 §1.4)."""

_REFUSED_CONTROLS = {
    oids.REG_CTRL_REG_TOKEN: "regToken is not supported; protect the message with the enrollment code instead",
    oids.REG_CTRL_AUTHENTICATOR: "authenticator is not supported; protect the message with the enrollment code instead",
    oids.REG_CTRL_PKI_ARCHIVE_OPTIONS: "pkiArchiveOptions is not supported: private keys are not escrowed here",
}
"""Controls that must not be ignored, since a client that sends them counts on them (RFC 4211 §6)."""


@dataclass(frozen=True, slots=True)
class Realm:
    """A profile with everything that serving it needs, made once at start or reload."""

    profile: Profile
    issuer: Issuer
    chain: tuple[bytes, ...]
    """CA certificates above what is issued, DER, issuing CA first, root last."""
    identity: Identity
    """What our answers to signed requests are signed with."""
    signers: SignerCache
    """Who may sign requests: the profile's trust anchors and our own CA."""
    ra_signers: SignerCache | None
    """RA certificates that may vouch for others."""
    conditions: Conditions
    """What the profile asks of the store for every certificate."""

    @property
    def looks_ahead(self) -> bool:
        """Whether the store is asked before the issuer, and not in the commit alone.

        A key that is in use is rare, and a certificate of ours that nobody got to see costs a signature only.
        """
        conditions = self.conditions
        return (
            conditions.alone_in_seat
            or conditions.per_seat is not None
            or conditions.per_day is not None
            or isinstance(self.issuer, OutsideEffects)
        )

    @property
    def handed_chain(self) -> tuple[bytes, ...]:
        """The chain as it goes into extraCerts: without the root (RFC 9483 §3.3)."""
        return self.chain[:-1] if len(self.chain) > 1 else self.chain


@dataclass(slots=True)
class Operation:
    """An authenticated and authorised message with all that its handler works with."""

    received: Received
    credential: Credential
    body: object
    """The decoded body."""
    digest: bytes
    """SHA-256 of the message as received."""
    realm: Realm
    store: Store
    limits: Limits
    now: datetime
    replier: Replier
    exchange: Exchange
    decided: CertificateRequest | None = None
    """The request that the profile has decided last, in the form it was decided."""

    def transaction(self, state: TransactionState, answer: bytes, *, confirm_by: datetime | None = None) -> Transaction:
        """The record of a transaction that this message begins."""
        return Transaction(
            transaction_id=self.received.transaction_id,
            profile=self.realm.profile.name,
            operation=self.received.message.body_type.name,
            credential=self.credential.id,
            state=state,
            nonce=self.replier.nonce,
            first_request=self.digest,
            first_reply=answer,
            created=self.now,
            confirm_by=confirm_by,
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request of a message, its syntax read, nothing decided."""

    request: CertificateRequest
    check_pop: Callable[[], None]
    old_certificate: tuple[bytes, int] | None = None
    """oldCertID: issuer (GeneralName DER) and serial number."""
    updates: int | None = None
    """Serial number of the certificate of ours that it updates."""
    keeps_key: bool = False
    """Its key is that of the certificate which it updates, and the profile allows it."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A request that is granted, if the store has nothing against it."""

    approved: Approved
    conditions: Conditions


Refine = Callable[[Operation, Wanted], Awaitable[Wanted]]
"""What an operation adds to a request before it is decided, e.g. kur: the names of the certificate it updates."""


async def enroll(operation: Operation, wanted: Sequence[Wanted], refine: Refine) -> bytes:
    """Decide, issue, record and answer (RFC 9483 §4.1.1, §5.1.1). Raises CMPError when nothing is granted."""
    decided: list[tuple[int, Decided | CMPError]] = []
    looks_ahead = operation.realm.looks_ahead or len(wanted) > 1
    for one in wanted:
        try:
            accepted = await _decide(operation, one, refine)
            if looks_ahead:
                await _look_ahead(operation, accepted, sum(isinstance(other, Decided) for _, other in decided))
            if accepted.approved.lint != "off":
                await _lint(operation, accepted.approved)
            decided.append((one.request.cert_req_id, accepted))
        except CMPError as exc:
            if len(wanted) == 1:
                raise
            decided.append((one.request.cert_req_id, exc))
    responses: list[bytes] = []
    certificates: list[IssuedCertificate] = []
    conditions: list[Conditions] = []
    implicit = operation.realm.profile.implicit_confirm and reply.asks_implicit_confirm(
        operation.received.message.header
    )
    changed = False
    for cert_req_id, one_decided in decided:
        if isinstance(one_decided, CMPError):
            responses.append(reply.cert_response(cert_req_id, reply.rejection(one_decided)))
            continue
        approved = one_decided.approved
        issued = await _issue(operation.realm.issuer, approved)
        certificates.append(_record(operation, approved, issued, implicit=implicit))
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
    profile, now = operation.realm.profile, operation.now
    body_type = operation.received.message.body_type
    confirm_by = None
    if not certificates:
        info, state = b"", TransactionState.refused
    elif implicit:
        info, state = reply.implicit_confirm(), TransactionState.confirmed
    else:
        confirm_by = (now + profile.confirm_wait).replace(microsecond=0)
        info, state = reply.confirm_wait_time(confirm_by), TransactionState.unconfirmed
    # caPubs: only in an ip, and only when a shared secret lets the EE trust what it has not seen before (RFC 9483 §4.1)
    ca_pubs: tuple[bytes, ...] = ()
    if certificates and body_type is BodyType.ir and isinstance(operation.credential, MacCredential):
        ca_pubs = operation.realm.chain[-1:]
    answer = operation.replier.message(
        reply.cert_rep(reply.RESPONSE_OF[body_type], responses, ca_pubs),
        general_info=info,
        extra_certs=operation.realm.handed_chain if certificates else (),
    )
    code = operation.credential.code.id if certificates and isinstance(operation.credential, MacCredential) else None
    transaction = operation.transaction(state, answer, confirm_by=confirm_by)
    try:
        await operation.store.issued(transaction, certificates, code=code, now=now, conditions=conditions)
    except Unmet as unmet:
        raise _refusal(unmet, operation.realm.conditions) from unmet
    operation.exchange.serial = ",".join(f"{certificate.serial:x}" for certificate in certificates)
    operation.exchange.seat = ",".join(certificate.seat for certificate in certificates if certificate.seat)
    return answer


async def conclude(operation: Operation, confirmed: Sequence[int], rejected: Sequence[IssuedCertificate]) -> bytes:
    """End a transaction after its certConf: confirm, revoke and keep the pkiconf in one commit (RFC 9483 §5.1.2).

    Raises `TransactionMoved`.
    """
    state = TransactionState.confirmed if confirmed else TransactionState.rejected
    answer = operation.replier.pkiconf()
    await operation.store.advance(
        operation.received.transaction_id,
        seen=TransactionState.unconfirmed,
        state=state,
        nonce=operation.replier.nonce,
        request=operation.digest,
        reply=answer,
        confirmed=confirmed,
        revoked=[Revocation(one.serial, RevocationReason.unspecified, operation.now) for one in rejected],
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
    conditions = operation.realm.conditions
    if one.updates is not None or one.keeps_key:
        conditions = replace(conditions, new_key=conditions.new_key and not one.keeps_key, updates=one.updates)
    return Decided(approved, conditions)


async def _look_ahead(operation: Operation, decided: Decided, others: int) -> None:
    """Refuse what the store would refuse, before an issuer is asked; the commit has the last word all the same."""
    approved = decided.approved
    unmet = await operation.store.unmet(
        approved.profile, approved.seat, digest(approved.spki), decided.conditions, operation.now, others=others
    )
    if unmet is not None:
        raise _refusal(unmet, operation.realm.conditions)


def _refusal(unmet: Unmet, conditions: Conditions) -> CMPError:
    """Phrase for the peer which condition is not met, and when it will be."""
    private = None if unmet.serial is None else f"certificate {unmet.serial:x} is in the way"
    until = "" if unmet.until is None else f"{unmet.until:%Y-%m-%dT%H:%M:%SZ}"
    seat = f"seat {asn1.printable(unmet.seat or '')}"
    match unmet.condition:
        case Condition.compromised_key:
            return BadCertTemplate("publicKey: is known to be compromised; make a new key", private=private)
        case Condition.new_key:
            return BadCertTemplate(
                "publicKey: already has a certificate; make a new key (key.same_key_elsewhere)", private=private
            )
        case Condition.alone_in_seat:
            text = f"{seat}: has a valid certificate already (seat.allow_duplicates)"
            return DuplicateCertReq(f"{text}; it ends at {until}" if until else text, private=private)
        case Condition.per_seat:
            text = f"{seat}: has all the {conditions.per_seat} valid certificates that it may have (budget.per_seat)"
            return NotAuthorized(f"{text}; the first of them ends at {until}" if until else text, private=private)
        case Condition.per_day:
            text = f"the profile issues no more than {conditions.per_day} certificates a day (budget.per_day)"
            return NotAuthorized(f"{text}; the next day begins at {until}" if until else text)


_LINTERS: dict[str | None, Kind] = {None: "pkix", "smime": "smime", "tls": "tls"}
_TOLD = (Severity.fatal, Severity.error, Severity.warning)


async def _lint(operation: Operation, approved: Approved) -> None:
    """Lint what would be signed: enforce refuses what breaks a MUST, warn notes what was found. Raises CMPError."""
    profile, issuer = operation.realm.profile, operation.realm.issuer
    if not isinstance(issuer, Previewer):
        raise SystemFailure("the certificate cannot be linted", private=f"issuer {profile.issuer} shows no preview")
    try:
        findings = await _from_issuer(
            lint_preview(
                issuer,
                approved,
                _LINTERS[profile.public_trust],
                validation_type=profile.validation_type,
                generation=profile.generation,
            )
        )
    except LinterMissing as exc:
        if approved.lint == "enforce":
            raise SystemFailure("the certificate cannot be linted", private=str(exc)) from exc
        operation.exchange.lint = str(exc)
        return
    told = [str(finding) for finding in findings if finding.severity in _TOLD]
    operation.exchange.lint = "; ".join(filter(None, (operation.exchange.lint, *told)))
    if approved.lint == "enforce":
        serious = complaint(findings)
        if serious:
            raise BadCertTemplate(serious, private="; ".join(told))


async def _from_issuer(answer: Awaitable[T]) -> T:
    """Translate what an issuer raises."""
    try:
        return await answer
    except IssuerUnavailable as exc:
        raise SystemUnavail("the issuing CA is not available; try again later", private=str(exc)) from exc
    except IssuerFailure as exc:
        raise SystemFailure("the issuing CA could not issue the certificate", private=str(exc)) from exc


async def _issue(issuer: Issuer, approved: Approved) -> Issued:
    """Have a certificate issued that is what was approved: the issuer's word is not taken for it."""
    issued = await _from_issuer(issuer.issue(approved))
    try:
        difference = _difference(approved, issued)
    except (ValueError, IndexError) as exc:
        difference = f"it cannot be read: {exc}"
    if difference is not None:
        raise SystemFailure(
            "the issuing CA issued something other than what was approved",
            private=f"{difference}; serial number {issued.serial:x}",
        )
    return issued


ISSUERS_OWN = frozenset(
    (
        der.oid(oids.SUBJECT_KEY_IDENTIFIER),
        der.oid(oids.AUTHORITY_KEY_IDENTIFIER),
        der.oid(oids.CRL_DISTRIBUTION_POINTS),
        der.oid(oids.AUTHORITY_INFO_ACCESS),
        der.oid(oids.CERTIFICATE_POLICIES),
        der.oid("1.3.6.1.4.1.11129.2.4.2"),  # signed certificate timestamps (RFC 6962 §3.3)
    )
)
"""Extensions that an issuer may add to what was approved; they make nobody another and give nobody a right."""


def _difference(approved: Approved, issued: Issued) -> str | None:
    """Say where a certificate is not what was approved, octet for octet; None when it is (RFC 5280 §4.1).

    Raises ValueError or IndexError when it cannot be read.
    """
    serial, _, _, validity, subject, spki, *rest = _tbs(issued.der)
    if subject != approved.subject:
        return "subject differs"
    if spki != approved.spki:
        return "subjectPublicKeyInfo differs"
    if validity != der.sequence(der.x509_time(approved.not_before), der.x509_time(issued.not_after)):
        return "validity differs"
    if issued.not_after > approved.not_after:
        return "notAfter is later"
    if serial != der.integer(issued.serial):
        return "serialNumber is not the one that the issuer has named"
    if len(rest) != 1 or rest[0][0] != 0xA3:
        return "there is a unique identifier, or there are no extensions"
    due = {_extension(one.oid, one.critical, one.value) for one in approved.extensions}
    kinds = {der.oid(one.oid) for one in approved.extensions}
    for extension in der.children(rest[0][der.read(rest[0])[1] :]):
        if extension in due:
            due.remove(extension)
            continue
        start = der.read(extension)[1]
        kind = extension[start : der.read(extension, start)[2]]
        if kind in kinds or kind not in ISSUERS_OWN:
            return f"extension {extension.hex()} was not approved"
        kinds.add(kind)
    if due:
        return f"extensions are missing: {', '.join(sorted(extension.hex() for extension in due))}"
    return None


@lru_cache(maxsize=256)
def _extension(oid: ObjectIdentifier, critical: bool, value: bytes) -> bytes:
    """Encode an extension; most of those of a profile are always the same (RFC 5280 §4.1)."""
    return der.sequence(der.oid(oid), der.boolean(True) if critical else b"", der.octet_string(value))


def _record(operation: Operation, approved: Approved, issued: Issued, *, implicit: bool) -> IssuedCertificate:
    return IssuedCertificate(
        serial=issued.serial,
        der=issued.der,
        issuer=operation.realm.profile.issuer,
        profile=approved.profile,
        subject=asn1.name_text(approved.subject),
        not_after=issued.not_after,
        transaction_id=approved.transaction_id,
        cert_req_id=approved.cert_req_id,
        status=CertificateStatus.valid if implicit else CertificateStatus.unconfirmed,
        issued_at=operation.now,
        seat=approved.seat,
    )


# ---------------------------------------------------------------------------------------------- reading the requests


def crmf_requests(operation: Operation) -> list[Wanted]:
    """Read the CertReqMsgs of an ir, cr or kur (RFC 4211 §3, §5; RFC 9483 §4.1.1).

    Raises BadRequest for the number of requests and their certReqIds, BadCertTemplate and BadDataFormat for the rest.
    """
    messages = operation.body
    assert isinstance(messages, list)
    if not messages:
        raise BadRequest("the message contains no CertReqMsg")
    if len(messages) > 1 and not operation.realm.profile.several_requests:
        raise BadRequest(f"the message contains {len(messages)} CertReqMsgs; this profile allows one")
    wanted = [_crmf_request(operation, message) for message in messages]
    ids = [one.request.cert_req_id for one in wanted]
    if len(ids) == 1:
        if ids[0] != 0:
            raise BadRequest(f"certReqId is {ids[0]} and must be 0")
    elif len(set(ids)) != len(ids) or min(ids) < 0:
        raise BadRequest("the certReqIds of the message are not distinct numbers from 0 up")
    return wanted


def _crmf_request(operation: Operation, message: asn1.CertReqMsg) -> Wanted:
    request = asn1.parse(asn1.CertRequest, asn1.raw(message.certReq))
    template = request.certTemplate
    if template.version not in {None, 2}:
        raise BadCertTemplate("certTemplate: version must be 2 (v3)")
    if not -1 <= request.certReqId < 2**31:
        raise BadRequest("certReqId is out of range")
    if template.publicKey is None or not template.publicKey.subjectPublicKey.as_bytes():
        raise BadCertTemplate("certTemplate: publicKey is absent; central key generation is not supported")
    spki = asn1.dump(template.publicKey)
    old_certificate = _controls(request.controls)
    validity = template.validity
    credential, limits = operation.credential, operation.limits
    allow_sha1 = operation.realm.profile.sha1_signatures
    return Wanted(
        CertificateRequest(
            cert_req_id=request.certReqId,
            subject=NULL_NAME if template.subject is None else asn1.raw(template.subject),
            spki=spki,
            extensions=_extensions(template.extensions),
            not_before=None if validity is None else _time(validity.notBefore),
            not_after=None if validity is None else _time(validity.notAfter),
        ),
        lambda: pop.crmf(message, template, spki, credential, limits, allow_sha1=allow_sha1),
        old_certificate,
    )


def p10cr_request(operation: Operation) -> Wanted:
    """Read the PKCS #10 request of a p10cr; its certReqId is -1 (RFC 9483 §4.1.4, RFC 2986 §4.1)."""
    request = operation.body
    assert isinstance(request, asn1.CertificationRequest)
    info = asn1.parse(asn1.CertificationRequestInfo, asn1.raw(request.certificationRequestInfo))
    if info.version != 0:
        raise BadCertTemplate("p10cr: version must be 0 (v1)")
    spki = asn1.dump(info.subjectPKInfo)
    extensions: tuple[RequestedExtension, ...] = ()
    for attribute in info.attributes or ():
        if attribute.type == oids.EXTENSION_REQUEST:
            values = der.children(asn1.raw(attribute.values), 2)
            if len(values) != 1 or extensions:
                raise BadDataFormat("p10cr: extensionRequest must have exactly one value")
            extensions = _extensions(
                [asn1.parse(asn1.Extension, value) for value in der.children(values[0], MAX_EXTENSIONS)]
            )
    limits, allow_sha1 = operation.limits, operation.realm.profile.sha1_signatures
    return Wanted(
        CertificateRequest(cert_req_id=-1, subject=asn1.raw(info.subject), spki=spki, extensions=extensions),
        lambda: pop.p10cr(request, spki, limits, allow_sha1=allow_sha1),
    )


def _controls(controls: Sequence[asn1.AttributeTypeAndValue] | None) -> tuple[bytes, int] | None:
    """oldCertID is used (RFC 4211 §6.5); what a client would count on in vain is refused; the rest is ignored."""
    if len(controls or ()) > MAX_EXTENSIONS:
        raise BadRequest(f"controls: there are more than {MAX_EXTENSIONS}")
    old_certificate = None
    for control in controls or ():
        refusal = _REFUSED_CONTROLS.get(control.type)
        if refusal is not None:
            raise BadRequest(f"controls: {refusal}")
        if control.type == oids.REG_CTRL_OLD_CERT_ID:
            found = asn1.parse(asn1.CertId, asn1.raw(control.value))
            old_certificate = asn1.raw(found.issuer), found.serialNumber
    return old_certificate


MAX_EXTENSIONS = 64
"""More extensions or controls than any request has; what a hostile one may cost is bounded by it."""


def _extensions(extensions: Sequence[asn1.Extension] | None) -> tuple[RequestedExtension, ...]:
    if len(extensions or ()) > MAX_EXTENSIONS:
        raise BadCertTemplate(f"extensions: more than {MAX_EXTENSIONS} are requested")
    found = tuple(
        RequestedExtension(extension.extnID, bool(extension.critical), extension.extnValue)
        for extension in extensions or ()
    )
    if len({extension.oid for extension in found}) != len(found):
        raise BadCertTemplate("extensions: one extension is requested twice")
    return found


def _time(value: asn1.TLV | asn1.Null | None) -> datetime | None:
    return None if value is None else asn1.read_time(asn1.raw(value))


# ------------------------------------------------------------------------------------------- who may ask for whom


async def same_identity(operation: Operation, one: Wanted) -> Wanted:
    """Bind the requested names to the sender (RFC 9483 §4.1): who signs with a certificate of ours asks for itself.

    An RA that the profile lists may ask for anybody; a certificate of another PKI that the profile trusts, and an
    enrollment code, get what the profile's rules allow.
    """
    credential = operation.credential
    if isinstance(credential, MacCredential) or credential.is_ra or credential.issued is None:
        return one
    _usable(credential.issued, operation)
    return _of_certificate(one, credential.signer.der, fill=False)


async def updated_identity(operation: Operation, one: Wanted) -> Wanted:
    """The rules of kur (RFC 9483 §4.1.3): in time, same subject, same SAN, a new key if the profile says so."""
    credential = operation.credential
    if not isinstance(credential, CertificateCredential):
        raise NotAuthorized("a kur must be signed with the certificate that it updates")
    old, issued = credential.signer.der, credential.issued
    if one.old_certificate is not None and not _is(old, one.old_certificate):
        # RFC 9483 §4.1.3: the kur is protected with the certificate that it updates; only an RA may update another's
        issued = await operation.store.certificate(one.old_certificate[1])
        if not credential.is_ra or issued is None or not _is(issued.der, one.old_certificate):
            raise NotAuthorized("oldCertID is not the certificate that the kur is signed with")
        old = issued.der
    elif credential.is_ra and one.old_certificate is None:
        raise NotAuthorized("a kur from an RA must name the certificate to be updated in oldCertID")
    if issued is not None:
        _usable(issued, operation)
    _in_time(old, operation)
    one = _of_certificate(one, old, fill=True)
    keeps_key = one.request.spki == _spki(old)
    if keeps_key and operation.realm.profile.require_new_key:
        raise BadCertTemplate("publicKey: the profile asks for a new key in an update (renewal.require_new_key)")
    return replace(one, updates=None if issued is None else issued.serial, keeps_key=keeps_key)


def _in_time(certificate: bytes, operation: Operation) -> None:
    """Hold the time against the renewal window and the grace of the profile; raises BadRequest."""
    profile, now = operation.realm.profile, operation.now
    end = asn1.read_time(der.children(_tbs(certificate)[3], 2)[1])
    if now - profile.renewal_grace > end:
        raise BadRequest(f"renewal: the certificate expired at {end:%Y-%m-%dT%H:%M:%SZ} (renewal.grace)")
    if profile.renewal_window is not None and now < end - profile.renewal_window:
        begin = end - profile.renewal_window
        raise BadRequest(
            f"renewal: the certificate can be updated from {begin:%Y-%m-%dT%H:%M:%SZ} on (renewal.window_days)"
        )


def _usable(issued: IssuedCertificate, operation: Operation) -> None:
    if issued.status is CertificateStatus.revoked:
        raise CertRevoked("the certificate that the request builds on has been revoked")
    if issued.status is CertificateStatus.unconfirmed:
        raise NotAuthorized("the certificate that the request builds on has not been confirmed")
    if issued.profile != operation.realm.profile.name:
        raise NotAuthorized("the certificate that the request builds on was issued by another profile")


def _of_certificate(one: Wanted, certificate: bytes, *, fill: bool) -> Wanted:
    """Hold the requested names against those of a certificate; `fill` takes over what the request leaves out."""
    subject, _, extensions = _names(certificate)
    san = next((extension for extension in extensions if extension.oid == oids.SUBJECT_ALT_NAME), None)
    request = one.request
    wanted_san = next((extension for extension in request.extensions if extension.oid == oids.SUBJECT_ALT_NAME), None)
    wanted_subject, wanted_extensions = request.subject, request.extensions
    if fill and wanted_subject == NULL_NAME:
        wanted_subject = subject
    if fill and wanted_san is None and san is not None:
        wanted_extensions = (*wanted_extensions, san)
    if not same_name(wanted_subject, subject):
        raise BadCertTemplate("subject: differs from that of the certificate which signs the request")
    if wanted_san is not None:
        allowed = set() if san is None else set(der.children(san.value))
        asked = set(der.children(wanted_san.value))
        if asked != allowed if fill else not asked <= allowed:
            raise BadCertTemplate("subjectAltName: differs from that of the certificate which signs the request")
    if wanted_subject is request.subject and wanted_extensions is request.extensions:
        return one
    return replace(one, request=replace(request, subject=wanted_subject, extensions=wanted_extensions))


def _is(certificate: bytes, cert_id: tuple[bytes, int]) -> bool:
    """Hold issuer and serial number of a certificate against a CertId (RFC 4211 §6.5)."""
    issuer = asn1.directory_name(cert_id[0])
    fields = _tbs(certificate)
    return issuer is not None and _integer(fields[0]) == cert_id[1] and same_name(issuer, fields[2])


def _tbs(certificate: bytes) -> list[bytes]:
    """The fields of TBSCertificate from serialNumber on (RFC 5280 §4.1)."""
    fields = der.children(der.children(certificate)[0])
    return fields[1:] if fields[0][0] == 0xA0 else fields


def _integer(field: bytes) -> int:
    _, start, end = der.read(field)
    return int.from_bytes(field[start:end], "big", signed=True)


def _spki(certificate: bytes) -> bytes:
    return _tbs(certificate)[5]


def _names(certificate: bytes) -> tuple[bytes, bytes, list[RequestedExtension]]:
    """Subject, SubjectPublicKeyInfo and extensions of a certificate (DER)."""
    fields = _tbs(certificate)
    extensions = [
        RequestedExtension(extension.extnID, bool(extension.critical), extension.extnValue)
        for field in fields[6:]
        if field[0] == 0xA3
        for extension in (asn1.parse(asn1.Extension, raw) for raw in der.children(der.children(field)[0]))
    ]
    return fields[4], fields[5], extensions


def digest(message: bytes) -> bytes:
    """SHA-256 of a message as received: what tells a retransmission from another request."""
    return hashlib.sha256(message).digest()


def is_authorised_ra(extended_key_usage: frozenset[ObjectIdentifier]) -> bool:
    """RFC 9483 §3.4: the cmcRA purpose authorises an RA, for the trust anchors that the profile lists for RAs."""
    return oids.KP_CMC_RA in extended_key_usage
