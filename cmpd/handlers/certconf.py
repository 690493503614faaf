"""certConf: the EE accepts or rejects what it was issued (RFC 9483 §4.1.1, §5.1.2; RFC 9810 §5.3.18)."""

import hmac

from cmpd import asn1
from cmpd.asn1 import PKIStatus
from cmpd.enrollment import Operation, conclude
from cmpd.errors import BadCertId, BadRequest, UnsupportedVersion
from cmpd.exchange import IssuedCertificate
from cmpd.protection.signature import certificate_hash
from cmpd.validation import CMP2021


async def handle(operation: Operation) -> bytes:
    """Answer with a pkiconf. Raises BadCertId, BadRequest, BadAlg, UnsupportedVersion; then nothing has changed.

    A certificate that the message leaves out is rejected: "omission of a CertStatus structure ... indicates rejection"
    (RFC 9810 §5.3.18). A rejected certificate is revoked, or kept, in the same commit that records the answer.
    """
    statuses = operation.body
    assert isinstance(statuses, list)
    waiting = {one.cert_req_id: one for one in await operation.certificates()}
    accepted: dict[int, IssuedCertificate] = {}
    seen: set[int] = set()
    for status in statuses:
        certificate = waiting.get(status.certReqId)
        if certificate is None:
            raise BadCertId("certConf: no certificate was issued for this certReqId")
        if status.certReqId in seen:
            raise BadRequest(f"certConf: certReqId {status.certReqId} occurs twice")
        seen.add(status.certReqId)
        _check_hash(status, certificate, operation.received.message.header.pvno)
        if _is_accepted(status):
            accepted[status.certReqId] = certificate
        elif status.statusInfo is not None:
            texts = status.statusInfo.statusString or ()
            operation.exchange.private = asn1.printable("; ".join(texts))[:200]
    rejected = [one for cert_req_id, one in waiting.items() if cert_req_id not in accepted]
    return await conclude(operation, [one.serial for one in accepted.values()], rejected)


def _check_hash(status: asn1.CertStatus, certificate: IssuedCertificate, pvno: int) -> None:
    """certHash must be that of the certificate (RFC 9483 §4.1.1); hashAlg needs cmp2021(3)."""
    if status.hashAlg is not None and pvno < CMP2021:
        raise UnsupportedVersion("certConf: hashAlg needs pvno cmp2021(3)")
    expected = certificate_hash(certificate.der, status.hashAlg)
    if not hmac.compare_digest(expected, status.certHash):
        raise BadCertId(f"certConf: certHash is not that of the certificate issued for certReqId {status.certReqId}")


def _is_accepted(status: asn1.CertStatus) -> bool:
    """Omission of statusInfo indicates acceptance; allowed are "accepted" and "rejection" (RFC 9483 §4.1.1)."""
    if status.statusInfo is None or status.statusInfo.status == PKIStatus.accepted:
        return True
    if status.statusInfo.status == PKIStatus.rejection:
        return False
    raise BadRequest("certConf: status is neither accepted nor rejection")
