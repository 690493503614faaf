"""pollReq: an EE asks whether its certificate is there (RFC 9483 §4.4, RFC 9810 §5.3.22)."""

from cmpd.enrollment import Operation, poll


async def handle(operation: Operation) -> bytes:
    """Answer with the final response, or with a pollRep that says when to ask again. Raises BadRequest."""
    return await poll(operation)
