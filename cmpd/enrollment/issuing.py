"""From an approved request to a certificate: what the store and the linter say before, and what came back."""

from collections.abc import Awaitable
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

from cryptography.x509 import ObjectIdentifier

from cmpd import asn1, reply
from cmpd.asn1 import der, oids
from cmpd.asn1.certificate import tbs
from cmpd.enrollment.operation import Decided, Operation, digest
from cmpd.errors import (
    BadCertTemplate,
    CMPError,
    DuplicateCertReq,
    NotAuthorized,
    SystemFailure,
    SystemUnavail,
)
from cmpd.exchange import (
    Approved,
    CertificateStatus,
    IssuedCertificate,
    TransactionState,
)
from cmpd.lint import Kind, LinterMissing, Previewer, Severity, complaint, lint_preview
from cmpd.ports import (
    Condition,
    Conditions,
    Issued,
    Issuer,
    IssuerFailure,
    IssuerUnavailable,
    Unmet,
)

T = TypeVar("T")


async def look_ahead(operation: Operation, decided: Decided, others: int) -> None:
    """Refuse what the store would refuse, before an issuer is asked; the commit has the last word all the same."""
    approved = decided.approved
    unmet = await operation.store.unmet(
        approved.profile, approved.seat, digest(approved.spki), decided.conditions, operation.now, others=others
    )
    if unmet is not None:
        raise refusal(unmet, operation.realm.conditions)


def refusal(unmet: Unmet, conditions: Conditions) -> CMPError:
    """Phrase for the peer which condition is not met, and when it will be."""
    private = None if unmet.serial is None else f"certificate {unmet.serial:x} is in the way"
    until = "" if unmet.until is None else f"{unmet.until:%Y-%m-%dT%H:%M:%SZ}"
    seat = f"seat {asn1.printable(unmet.seat or '')}"
    match unmet.condition:
        case Condition.compromised_key:
            return BadCertTemplate("publicKey: is known to be compromised; make a new key", private=private)
        case Condition.new_key:
            has = "already has a certificate" if unmet.serial is not None else "is that of a certificate on order"
            return BadCertTemplate(f"publicKey: {has}; make a new key (key.same_key_elsewhere)", private=private)
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


async def lint(operation: Operation, approved: Approved) -> None:
    """Lint what would be signed: enforce refuses what breaks a MUST, warn notes what was found. Raises CMPError."""
    profile, issuer = operation.realm.profile, operation.realm.issuer
    if not isinstance(issuer, Previewer):
        if approved.lint == "enforce":
            raise SystemFailure("the certificate cannot be linted", private=f"issuer {profile.issuer} shows no preview")
        return  # another's CA lints by itself
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


async def issue(issuer: Issuer, approved: Approved) -> Issued:
    """Have a certificate issued that is what was approved: the issuer's word is not taken for it."""
    issued = await _from_issuer(issuer.issue(approved))
    try:
        found = difference(approved, issued)
    except (ValueError, IndexError) as exc:
        found = f"it cannot be read: {exc}"
    if found is not None:
        raise SystemFailure(
            "the issuing CA issued something other than what was approved",
            private=f"{found}; serial number {issued.serial:x}",
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


def difference(approved: Approved, issued: Issued) -> str | None:
    """Say where a certificate is not what was approved, octet for octet; None when it is (RFC 5280 §4.1).

    Raises ValueError or IndexError when it cannot be read.
    """
    serial, _, _, validity, subject, spki, *rest = tbs(issued.der)
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


def record(operation: Operation, approved: Approved, issued: Issued, *, implicit: bool) -> IssuedCertificate:
    """The certificate as the store keeps it."""
    return IssuedCertificate(
        serial=issued.serial,
        der=issued.der,
        issuer=operation.realm.profile.issuer,
        profile=approved.profile,
        not_after=issued.not_after,
        transaction_id=approved.transaction_id,
        cert_req_id=approved.cert_req_id,
        status=CertificateStatus.valid if implicit else CertificateStatus.unconfirmed,
        issued_at=operation.now,
        seat=approved.seat,
    )


def ending(operation: Operation, *, granted: bool, implicit: bool) -> tuple[TransactionState, bytes, datetime | None]:
    """What a response leaves its transaction in, its generalInfo, and until when a certConf is awaited.

    RFC 9483 §4.1.1: refused, confirmed implicitly, or to be confirmed within the profile's time.
    """
    if not granted:
        return TransactionState.refused, b"", None
    if implicit:
        return TransactionState.confirmed, reply.implicit_confirm(), None
    confirm_by = (operation.now + operation.realm.profile.confirm_wait).replace(microsecond=0)
    return TransactionState.unconfirmed, reply.confirm_wait_time(confirm_by), confirm_by
