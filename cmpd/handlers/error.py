"""error: an EE that gives up (RFC 9810 §5.3.21).

RFC 9483 §3.6.1 forbids an EE to send one; those written to RFC 9810 do, and are answered with a pkiconf as it says.
"""

from cmpd import asn1
from cmpd.enrollment import Operation, conclude


async def handle(operation: Operation) -> bytes:
    """End the transaction like a rejection by certConf and answer with a pkiconf."""
    content = operation.body
    assert isinstance(content, asn1.ErrorMsgContent)
    texts = content.pKIStatusInfo.statusString or ()
    operation.exchange.private = asn1.printable("; ".join(texts))[:200]
    certificates = await operation.certificates()
    return await conclude(operation, [], certificates)
