"""kur: updating a valid certificate (RFC 9483 §4.1.3)."""

from cmpd.enrollment import Operation, crmf_requests, enroll, updated_identity


async def handle(operation: Operation) -> bytes:
    """Answer with a kup. Raises CMPError."""
    return await enroll(operation, crmf_requests(operation), updated_identity)
