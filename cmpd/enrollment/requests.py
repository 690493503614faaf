"""Reading what is asked for: CertReqMsgs and PKCS #10 requests (RFC 4211 §3, §5; RFC 2986 §4)."""

from collections.abc import Sequence
from datetime import datetime

from cmpd import asn1, pop
from cmpd.asn1 import der, oids
from cmpd.enrollment.operation import Operation, Wanted
from cmpd.errors import (
    BadCertTemplate,
    BadDataFormat,
    BadRequest,
)
from cmpd.exchange import (
    CertificateRequest,
    RequestedExtension,
)

NULL_NAME = der.sequence()
"""The NULL-DN (RFC 9483 §1.4)."""

_REFUSED_CONTROLS = {
    oids.REG_CTRL_REG_TOKEN: "regToken is not supported; protect the message with the enrollment code instead",
    oids.REG_CTRL_AUTHENTICATOR: "authenticator is not supported; protect the message with the enrollment code instead",
    oids.REG_CTRL_PKI_ARCHIVE_OPTIONS: "pkiArchiveOptions is not supported: private keys are not escrowed here",
}
"""Controls that must not be ignored, since a client that sends them counts on them (RFC 4211 §6)."""


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
        pkcs10=asn1.dump(request) if operation.realm.orders else None,
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
