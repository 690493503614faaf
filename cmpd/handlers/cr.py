"""cr: enrolling an end entity to a known PKI (RFC 9483 §4.1.2)."""

from cmpd.enrollment import Operation, crmf_requests, enroll, same_identity


async def handle(operation: Operation) -> bytes:
    """Answer with an cp. Raises CMPError."""
    return await enroll(operation, crmf_requests(operation), same_identity)
