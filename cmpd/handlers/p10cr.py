"""p10cr: enrolling with a PKCS #10 request (RFC 9483 §4.1.4)."""

from cmpd.enrollment import Operation, enroll, p10cr_request, same_identity


async def handle(operation: Operation) -> bytes:
    """Answer with a cp whose certReqId is -1. Raises CMPError."""
    return await enroll(operation, [p10cr_request(operation)], same_identity)
