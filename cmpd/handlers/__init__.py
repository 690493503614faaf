"""One module per body type that is answered; none imports another (RFC 9810 §5.3)."""

from collections.abc import Awaitable, Callable

from cmpd.asn1 import BodyType
from cmpd.enrollment import Operation
from cmpd.handlers import certconf, cr, error, ir, kur, p10cr, pollreq

HANDLERS: dict[BodyType, Callable[[Operation], Awaitable[bytes]]] = {
    BodyType.ir: ir.handle,
    BodyType.cr: cr.handle,
    BodyType.p10cr: p10cr.handle,
    BodyType.kur: kur.handle,
    BodyType.certConf: certconf.handle,
    BodyType.pollReq: pollreq.handle,
    BodyType.error: error.handle,
}
"""Which handler answers which body; `transaction.TABLE` says when."""
