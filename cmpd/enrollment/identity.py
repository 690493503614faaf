"""Who may ask for whom (RFC 9483 §4.1, §4.1.3)."""

from dataclasses import replace

from cmpd import asn1
from cmpd.asn1 import der, oids
from cmpd.asn1.certificate import spki, tbs
from cmpd.asn1.compare import same_name
from cmpd.enrollment.certificate import is_named, names
from cmpd.enrollment.operation import Operation, Wanted
from cmpd.enrollment.requests import NULL_NAME
from cmpd.errors import (
    BadCertTemplate,
    BadRequest,
    CertRevoked,
    NotAuthorized,
)
from cmpd.exchange import (
    CertificateStatus,
    IssuedCertificate,
)
from cmpd.protection import CertificateCredential, KnownSigner, MacCredential, Role


async def same_identity(operation: Operation, one: Wanted) -> Wanted:
    """Bind the requested names to the sender (RFC 9483 §4.1): who signs with a certificate of ours asks for itself.

    An RA that the profile lists may ask for anybody; a certificate of another PKI that the profile trusts, and an
    enrollment code, get what the profile's rules allow.
    """
    credential = operation.credential
    if isinstance(credential, MacCredential) or credential.is_ra:
        return one
    if credential.role is Role.vendor:
        return _of_device(operation, credential, one)
    if credential.issued is None:
        return one
    _usable(credential.issued, operation)
    return _of_certificate(one, credential.signer.der, fill=False)


def _of_device(operation: Operation, credential: CertificateCredential, one: Wanted) -> Wanted:
    """A device asks for itself: for the configured subject, or one with its serial number (RFC 9483 §1.6)."""
    rules = operation.realm.profile.vendor
    assert rules is not None
    try:
        configured = rules.subject_of(credential.serial, credential.device)
    except ValueError as exc:
        raise BadCertTemplate(
            "subject: the device's serial number does not fit into the configured subject", private=str(exc)
        ) from exc
    request = one.request
    if request.subject == NULL_NAME:
        if configured is None:
            raise BadCertTemplate("subject: is absent, and none is configured for devices (enrollment.vendor.subject)")
        request = replace(request, subject=configured)
    elif not rules.may_have(request.subject, credential.serial, configured):
        raise BadCertTemplate("subject: is not that of the device (enrollment.vendor)")
    seat = None
    if rules.seat_from_serial:
        seat = credential.serial if credential.device is None else credential.device.seat or credential.serial
    return replace(one, request=request, seat=seat)


async def updated_identity(operation: Operation, one: Wanted) -> Wanted:
    """The rules of kur (RFC 9483 §4.1.3): in time, same subject, same SAN, a new key if the profile says so."""
    credential = operation.credential
    if not isinstance(credential, CertificateCredential):
        raise NotAuthorized("a kur must be signed with the certificate that it updates")
    old, issued = credential.signer.der, credential.issued
    if one.old_certificate is not None and not is_named(old, one.old_certificate):
        # RFC 9483 §4.1.3: the kur is protected with the certificate that it updates; only an RA may update another's
        issued = await operation.store.certificate(one.old_certificate[1])
        if not credential.is_ra or issued is None or not is_named(issued.der, one.old_certificate):
            raise NotAuthorized("oldCertID is not the certificate that the kur is signed with")
        old = issued.der
    elif credential.is_ra and one.old_certificate is None:
        raise NotAuthorized("a kur from an RA must name the certificate to be updated in oldCertID")
    if issued is not None:
        _usable(issued, operation)
    _in_time(old, operation)
    one = _of_certificate(one, old, fill=True)
    keeps_key = one.request.spki == spki(old)
    if keeps_key and operation.realm.profile.require_new_key:
        raise BadCertTemplate("publicKey: the profile asks for a new key in an update (renewal.require_new_key)")
    return replace(
        one,
        updates=None if issued is None else issued.serial,
        keeps_key=keeps_key,
        seat=None if issued is None else issued.seat,
    )


def _in_time(certificate: bytes, operation: Operation) -> None:
    """Hold the time against the renewal window and the grace of the profile; raises BadRequest."""
    profile, now = operation.realm.profile, operation.now
    end = asn1.read_time(der.children(tbs(certificate)[3], 2)[1])
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
    if issued.status is not CertificateStatus.valid:
        raise NotAuthorized("the certificate that the request builds on has not been confirmed")
    if issued.profile != operation.realm.profile.name:
        raise NotAuthorized("the certificate that the request builds on was issued by another profile")


def _of_certificate(one: Wanted, certificate: bytes, *, fill: bool) -> Wanted:
    """Hold the requested names against those of a certificate; `fill` takes over what the request leaves out."""
    subject, _, extensions = names(certificate)
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


def is_authorised_ra(known: KnownSigner, listed: frozenset[str]) -> bool:
    """Whether a signer, trusted by what the profile lists for RAs, is an RA: by cmcRA (RFC 9483 §3.4), or as listed."""
    return oids.KP_CMC_RA in known.extended_key_usage or known.fingerprint in listed
