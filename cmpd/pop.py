"""Proof-of-possession of the private key (RFC 4211 §4, RFC 9810 §5.2.8, RFC 9483 §4.1.1)."""

import hmac

from cmpd import asn1
from cmpd.asn1 import der, oids
from cmpd.asn1.compare import same_name
from cmpd.errors import BadAlg, BadPOP
from cmpd.exchange import EnrollmentCode
from cmpd.limits import Limits
from cmpd.protection import CertificateCredential, Credential, MacCredential, Role, mac, signature

_SENDER_TAG = 0xA0
"""authInfo.sender is [0] EXPLICIT, since GeneralName is a CHOICE; publicKeyMAC is a SEQUENCE (RFC 4211 §4.1)."""


def crmf(
    request: asn1.CertReqMsg,
    template: asn1.CertTemplate,
    spki: bytes,
    credential: Credential,
    limits: Limits,
    *,
    allow_sha1: bool = False,
) -> None:
    """Verify the POP of a CertReqMsg; raises BadPOP, BadAlg (RFC 4211 §4, RFC 9483 §4.1.1)."""
    popo = request.popo
    if popo is None:
        raise BadPOP("the proof-of-possession is missing")
    if isinstance(popo.value, asn1.POPOSigningKey):
        _signature(popo.value, request, template, spki, credential, limits, allow_sha1=allow_sha1)
    elif popo.tag == "raVerified":
        _ra_verified(credential)
    else:
        raise BadPOP("only a signature proves possession here; keyEncipherment and keyAgreement are not supported")


def _ra_verified(credential: Credential) -> None:
    """An RA MAY use raVerified (RFC 9483 §4.1.1); from anybody else it proves nothing."""
    if not (isinstance(credential, CertificateCredential) and credential.is_ra):
        raise BadPOP("raVerified is accepted only from an authorised RA certificate")


def _signature(
    popo: asn1.POPOSigningKey,
    request: asn1.CertReqMsg,
    template: asn1.CertTemplate,
    spki: bytes,
    credential: Credential,
    limits: Limits,
    *,
    allow_sha1: bool,
) -> None:
    """POPOSigningKey (RFC 4211 §4.1)."""
    complete = template.subject is not None and template.publicKey is not None
    if popo.poposkInput is None:
        # makers' devices leave the subject out (3GPP TS 33.310 §9.5.4.2) and sign the certReq all the same, as openssl
        # does: it proves the key; who they are is proven by the signature of the message
        device = isinstance(credential, CertificateCredential) and credential.role is Role.vendor
        if not complete and not (device and template.publicKey is not None):
            raise BadPOP("poposkInput is needed when the certTemplate lacks subject or publicKey")
        signed = asn1.raw(request.certReq)
    else:
        # RFC 4211 §4.1: "If the certTemplate contains subject and publicKey, poposkInput MUST be omitted"
        if complete:
            raise BadPOP("poposkInput must be omitted when the certTemplate has subject and publicKey")
        _poposk_input(popo.poposkInput, spki, credential, limits)
        signed = asn1.dump(popo.poposkInput)
    _verify(popo.algorithmIdentifier, spki, popo.signature.as_bytes(), signed, limits, allow_sha1=allow_sha1)


def _poposk_input(given: asn1.POPOSigningKeyInput, spki: bytes, credential: Credential, limits: Limits) -> None:
    """POPOSigningKeyInput binds the key to whoever has been authenticated (RFC 4211 §4.1, RFC 9045 §3)."""
    if asn1.dump(given.publicKey) != spki:
        raise BadPOP("the publicKey of poposkInput is not that of the certTemplate")
    auth_info = asn1.raw(given.authInfo)
    if auth_info[0] == _SENDER_TAG:
        if not isinstance(credential, CertificateCredential):
            raise BadPOP("poposkInput names a sender, but no certificate has authenticated one")
        name = asn1.directory_name(b"".join(der.children(auth_info)))
        if name is None or not same_name(name, credential.signer.subject):
            raise BadPOP("the sender of poposkInput is not the authenticated sender")
        return
    if not isinstance(credential, MacCredential):
        raise BadPOP("publicKeyMAC of poposkInput needs an enrollment code as credential")
    _public_key_mac(asn1.parse(asn1.PKMACValue, auth_info), spki, credential.code, limits)


def _public_key_mac(value: asn1.PKMACValue, spki: bytes, code: EnrollmentCode, limits: Limits) -> None:
    """PKMACValue: a MAC over the SubjectPublicKeyInfo by the shared secret (RFC 4211 §4.1)."""
    if value.algId.algorithm not in {oids.PASSWORD_BASED_MAC, oids.PBMAC1}:
        raise BadPOP("publicKeyMAC uses an algorithm that is not supported")
    found = mac.parameters(value.algId, limits)
    if found.iterations > limits.inline_iterations:  # nothing else runs meanwhile, and a message may have many of these
        raise BadPOP(f"publicKeyMAC of poposkInput: iterationCount is above {limits.inline_iterations}")
    key = mac.derive(found, code.secret)
    if not hmac.compare_digest(hmac.digest(key, spki, found.mac), value.value.as_bytes()):
        raise BadPOP("publicKeyMAC of poposkInput does not verify")


def p10cr(request: asn1.CertificationRequest, spki: bytes, limits: Limits, *, allow_sha1: bool = False) -> None:
    """Verify the self-signature of a PKCS #10 request; raises BadPOP, BadAlg (RFC 2986 §4.2, RFC 9483 §4.1.4)."""
    _verify(
        request.signatureAlgorithm,
        spki,
        request.signature.as_bytes(),
        asn1.raw(request.certificationRequestInfo),
        limits,
        allow_sha1=allow_sha1,
    )


def _verify(
    algorithm: asn1.AlgorithmIdentifier, spki: bytes, value: bytes, signed: bytes, limits: Limits, *, allow_sha1: bool
) -> None:
    key = signature.load_public_key(spki, limits)
    try:
        signature.verify(algorithm, key, value, signed, allow_sha1=allow_sha1)
    except signature.InvalidSignature as exc:
        raise BadPOP("the signature of the proof-of-possession does not verify") from exc
    except BadAlg as exc:
        raise BadPOP(f"proof-of-possession: {exc}") from exc
