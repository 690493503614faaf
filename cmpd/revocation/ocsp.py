"""OCSP: asking a responder for one certificate, and whether its answer may be believed (RFC 6960).

The request has no nonce, so that responders may answer from what they have signed before (RFC 5019 §2.1.1): an answer
is as fresh as its thisUpdate and nextUpdate say. Who may sign is the certificate's issuer, or a responder to which that
issuer itself has given a certificate with id-kp-OCSPSigning; whether that one has been revoked is not asked, with or
without id-pkix-ocsp-nocheck: it would be asked of the same issuer's sources.
"""

import hashlib
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from cmpd import asn1
from cmpd.asn1 import certificate as fields
from cmpd.asn1 import der
from cmpd.errors import BadAlg, CMPError
from cmpd.limits import Limits
from cmpd.protection import certpath, signature
from cmpd.revocation.answer import SKEW, Answer, State, Unusable, until

MAX_SIZE = 64 * 1024
"""The largest response, in octets: one status and some certificates."""
MAX_CERTIFICATES = 4
"""Certificates in a response that are tried as the responder's."""
FRESH = timedelta(minutes=10)
"""How old thisUpdate may be when there is no nextUpdate: the responder has newer information all the time."""
_UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    signature.UnsupportedAlgorithm,
)


def responders(certificate: x509.Certificate) -> list[str]:
    """The OCSP responders that a certificate names: the http URLs of authorityInfoAccess (RFC 6960 §3.1)."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return []
    return [
        one.access_location.value
        for one in access
        if one.access_method == AuthorityInformationAccessOID.OCSP
        and isinstance(one.access_location, x509.UniformResourceIdentifier)
        and one.access_location.value.lower().startswith("http://")
    ]


def request(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """OCSPRequest (DER) for one certificate, by SHA-1 as all responders know it (RFC 5019 §2.1.1)."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1())  # noqa: S303  an ID only
    return builder.build().public_bytes(Encoding.DER)


def read(data: bytes, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime, limits: Limits) -> Answer:
    """Read what an OCSPResponse (DER) says of a certificate. Raises Unusable (RFC 6960 §3.2)."""
    try:
        response = ocsp.load_der_ocsp_response(data)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise Unusable(f"the OCSP responder answers {response.response_status.name.lower()}")
        _check_signature(response, data, issuer, now, limits)
        for extension in response.extensions:
            if extension.critical:
                raise Unusable(f"the OCSP response has the critical extension {extension.oid.dotted_string}")
        single = _single(response, certificate, issuer)
        for extension in response.single_extensions:
            if extension.critical:
                raise Unusable(f"the OCSP response has the critical extension {extension.oid.dotted_string}")
        return _status(single, now)
    except Unusable:
        raise
    except _UNREADABLE as exc:
        raise Unusable(f"the OCSP response cannot be read: {exc}") from exc


def _status(single: ocsp.OCSPSingleResponse, now: datetime) -> Answer:
    this, following = single.this_update_utc, single.next_update_utc
    if this > now + SKEW:
        raise Unusable(f"the OCSP response is not valid before {this:%Y-%m-%dT%H:%M:%SZ}")
    if now >= (this + FRESH if following is None else following):
        raise Unusable(f"the OCSP response of {this:%Y-%m-%dT%H:%M:%SZ} is out of date")
    match single.certificate_status:
        case ocsp.OCSPCertStatus.GOOD:
            return Answer(State.good, "", until(following, now))
        case ocsp.OCSPCertStatus.REVOKED:
            reason = single.revocation_reason or x509.ReasonFlags.unspecified
            when = single.revocation_time_utc
            at = "" if when is None else f"at {when:%Y-%m-%dT%H:%M:%SZ}, "
            return Answer(State.revoked, f"{at}{reason.value}", until(following, now))
    raise Unusable("the OCSP responder does not know the certificate")


def _single(
    response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate
) -> ocsp.OCSPSingleResponse:
    """The one for the certificate: by serial number, issuer's name and issuer's key (RFC 6960 §4.1.1)."""
    number = fields.serial(certificate.public_bytes(Encoding.DER))
    name, key = certificate.issuer.public_bytes(), _key_octets(issuer)
    for single in response.responses:
        if single.serial_number != number:
            continue
        algorithm = single.hash_algorithm.name
        if (single.issuer_name_hash, single.issuer_key_hash) == (
            hashlib.new(algorithm, name).digest(),
            hashlib.new(algorithm, key).digest(),
        ):
            return single
    raise Unusable("the OCSP response is about another certificate")


def _check_signature(
    response: ocsp.OCSPResponse, data: bytes, issuer: x509.Certificate, now: datetime, limits: Limits
) -> None:
    """The issuer's, or that of a responder it has delegated this to (RFC 6960 §4.2.2.2)."""
    algorithm = _algorithm(data)
    candidates = [issuer, *response.certificates[:MAX_CERTIFICATES]]
    why = "no certificate in it fits its responderID"
    for candidate in candidates:
        if not _is_responder(response, candidate):
            continue
        if candidate is not issuer and candidate != issuer:
            try:
                candidate = certpath.load(candidate.public_bytes(Encoding.DER))  # noqa: PLW2901  readable as a whole
                _check_delegated(candidate, issuer, now, limits)
            except (Unusable, ValueError) as exc:
                why = str(exc)
                continue
        try:
            key = signature.accept_public_key(candidate.public_key(), limits)
            signature.verify(algorithm, key, response.signature, response.tbs_response_bytes)
        except (signature.InvalidSignature, BadAlg) as exc:
            why = f"its signature does not verify {exc}".rstrip()
            continue
        return
    raise Unusable(f"the OCSP response is signed by nobody who may: {why}")


def _is_responder(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    if response.responder_name is not None:
        return response.responder_name.public_bytes() == certificate.subject.public_bytes()
    return response.responder_key_hash == hashlib.sha1(_key_octets(certificate), usedforsecurity=False).digest()


def _check_delegated(responder: x509.Certificate, issuer: x509.Certificate, now: datetime, limits: Limits) -> None:
    """A responder's certificate: issued by that very CA, valid, for id-kp-OCSPSigning. Raises Unusable."""
    try:
        purposes = frozenset(responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        purposes = frozenset()
    if ExtendedKeyUsageOID.OCSP_SIGNING not in purposes:
        raise Unusable("the responder's certificate is not for OCSP (id-kp-OCSPSigning)")
    try:
        usage = responder.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        pass
    else:
        if not usage.digital_signature:
            raise Unusable("the keyUsage of the responder's certificate lacks digitalSignature")
    try:
        path = certpath.validate(responder, (), (issuer,), limits, now, what="the OCSP responder's certificate")
    except CMPError as exc:
        raise Unusable(f"{exc}: {exc.private}") from exc
    if len(path.certificates) != len((responder, issuer)):
        raise Unusable("the responder's certificate is not one that the issuer has issued")


def _algorithm(data: bytes) -> asn1.AlgorithmIdentifier:
    """The signatureAlgorithm of BasicOCSPResponse; the library does not give its parameters (RFC 6960 §4.2.1)."""
    response_bytes = der.children(der.children(data, 2)[1], 1)[0]
    basic = der.content(der.children(response_bytes, 2)[1], der.OCTET_STRING)
    return signature.signature_algorithm(basic)


def _key_octets(certificate: x509.Certificate) -> bytes:
    """The octets of the subjectPublicKey BIT STRING, without tag, length and unused bits."""
    info = der.children(fields.spki(certificate.public_bytes(Encoding.DER)), 2)
    return der.content(info[1], 0x03)[1:]
