"""From BER to DER, for the devices that send indefinite lengths, long lengths, pieced strings, or a wrong raVerified.

Two stages, both bounded before they begin. `transcode` works without knowing any type: one pass over the elements
puts lengths and the universal types into their DER form (X.690 §10, §11). That is all a message and its header can
need. What may be left in a body, such as a string in pieces under an implicit tag, only somebody who knows the types
can mend: pyasn1's BER decoder with the PKIBody of RFC 9810. It is slow, and so it sees bodies only, which are decoded
once their sender is known. DER is also what protection and POP are computed over (RFC 9810 §5.1.3, RFC 4211 §4.1).
"""

from functools import cache
from typing import Any

from cmpd.asn1 import der
from cmpd.asn1.codec import DECODE_ERRORS, reason
from cmpd.asn1.der import MalformedError

MAX_ELEMENTS = 4000
"""The most elements `transcode` goes through, about 1 µs each; ten certificates have some 1000."""
MAX_TYPED_ELEMENTS = 1000
"""The most elements that pyasn1 gets, which takes some 50 µs for each."""
MAX_OID = 128
"""The longest OBJECT IDENTIFIER, in octets; pyasn1's time grows with the square of it."""

_ENUMERATED = 0x0A
_OIDS = frozenset({0x06, 0x0D, 0x88})
"""OBJECT IDENTIFIER, RELATIVE-OID, and registeredID of a GeneralName (RFC 5280 §4.2.1.6)."""

_STRINGS = frozenset({0x03, 0x04, 0x0C, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1E})
"""Universal types that BER may cut into pieces (X.690 §8.6, §8.7, §8.23)."""
_CERT_REQ_MESSAGES = frozenset({0xA0, 0xA2, 0xA7, 0xA9, 0xAD})
"""ir, cr, kur, krr, ccr."""


def transcode(data: bytes, nesting: int, elements: int = MAX_ELEMENTS) -> bytes:
    """Write the one BER element that `data` is with definite, shortest lengths and its universal types as DER.

    Raises MalformedError for anything that is not BER, for more than `nesting` levels and more than `elements`.
    """
    # one entry for each open constructed element: its tag, where it must end (-1: at its end-of-contents), its children
    stack: list[tuple[int, int, list[bytes]]] = [(0, len(data), [])]
    pos = 0
    while True:
        tag, end, parts = stack[-1]
        if pos == end and len(stack) > 1:
            done = _constructed(tag, parts)
            stack.pop()
            stack[-1][2].append(done)
            continue
        if len(stack) == 1 and parts:
            if pos != len(data):
                raise MalformedError("trailing octets")
            return parts[0]
        elements -= 1
        if elements < 0:
            raise MalformedError("too many elements")
        tag, start, stop = _read(data, pos, end if end >= 0 else _enclosing(stack))
        if tag == 0:
            if stop != start:
                raise MalformedError("end-of-contents with content")
            if end >= 0:
                raise MalformedError("end-of-contents without an indefinite length")
            done = _constructed(stack[-1][0], parts)
            stack.pop()
            stack[-1][2].append(done)
            pos = stop
        elif tag & 0x20:
            if len(stack) > nesting:
                raise MalformedError(f"more than {nesting} levels")
            stack.append((tag, stop, []))
            pos = start
        else:
            parts.append(_primitive(tag, data[start:stop]))
            pos = stop


def _enclosing(stack: list[tuple[int, int, list[bytes]]]) -> int:
    """Return where the innermost element of definite length ends."""
    return next(end for _, end, _ in reversed(stack) if end >= 0)


def _read(data: bytes, pos: int, limit: int) -> tuple[int, int, int]:
    """Read a tag and a BER length within `limit`: the tag, where the content starts and ends (-1: indefinite)."""
    if pos + 2 > limit:
        raise MalformedError("the data ends within a tag or length")
    tag = data[pos]
    if tag & 0x1F == 0x1F:
        raise MalformedError("a tag number above 30")
    length = data[pos + 1]
    start = pos + 2
    if length == 0x80:
        if not tag & 0x20:
            raise MalformedError("indefinite length of a primitive element")
        return tag, start, -1
    if length > 0x80:
        start += length & 0x7F
        if start > limit:
            raise MalformedError("the data ends within a tag or length")
        length = int.from_bytes(data[pos + 2 : start], "big")
    if start + length > limit:
        raise MalformedError("an element is longer than what is there")
    return tag, start, start + length


def _primitive(tag: int, content: bytes) -> bytes:
    if tag == der.BOOLEAN:
        if content not in {b"\x00", b"\xff"} and len(content) == 1:
            content = b"\xff"
    elif tag in {der.INTEGER, _ENUMERATED}:
        if content[:1] in {b"\x00", b"\xff"}:
            value = int.from_bytes(content, "big", signed=True)
            content = value.to_bytes((value if value >= 0 else ~value).bit_length() // 8 + 1, "big", signed=True)
    elif tag == der.BIT_STRING and len(content) > 1 and 0 < content[0] < 8:
        content = content[:-1] + bytes((content[-1] & 0xFF << content[0] & 0xFF,))
    elif tag in _OIDS and len(content) > MAX_OID:
        raise MalformedError(f"an OBJECT IDENTIFIER of more than {MAX_OID} octets")
    return der.tlv(tag, content)


def _constructed(tag: int, parts: list[bytes]) -> bytes:
    kind = tag & ~0x20
    if kind in _STRINGS:
        return _joined(kind, parts)
    if tag == der.SET:
        parts.sort()
    return der.tlv(tag, *parts)


def _joined(kind: int, parts: list[bytes]) -> bytes:
    """Put the pieces of a string together; each of them is DER by now."""
    contents = []
    for part in parts:
        tag, start, _ = der.read(part)
        if tag != kind and (tag != der.OCTET_STRING or kind == der.BIT_STRING):
            raise MalformedError("a string with pieces of another type")
        contents.append(part[start:])
    if kind == der.BIT_STRING:
        if not all(contents) or any(one[0] for one in contents[:-1]):
            raise MalformedError("a BIT STRING with unused bits in the middle")
        unused = contents[-1][:1] if contents else b"\x00"
        return der.tlv(kind, unused, *(one[1:] for one in contents))
    return der.tlv(kind, *contents)


def mend_ra_verified(body: bytes) -> bytes:
    """Replace a constructed or filled raVerified (`A0 02 05 00`, `A0 00`, `80 01 00`) by the right `80 00`.

    Devices exist that tag it explicitly. `body` must be DER; anything that is not a request comes back as it is.
    Raises MalformedError.
    """
    if body[0] not in _CERT_REQ_MESSAGES:
        return body
    messages = [_with_ra_verified(message) for content in der.children(body, 1) for message in der.children(content)]
    return der.tlv(body[0], der.sequence(*messages))


def _with_ra_verified(message: bytes) -> bytes:
    parts = der.children(message, 3)
    if len(parts) > 1 and parts[1][0] in {0x80, 0xA0}:
        parts[1] = b"\x80\x00"
    return der.sequence(*parts)


@cache
def _pki_body() -> Any:
    from pyasn1_alt_modules.rfc9810 import PKIBody  # noqa: PLC0415  most servers never see a message that needs it

    return PKIBody()


def normalise_body(data: bytes, nesting: int) -> bytes:
    """Write a PKIBody as DER by its types. Raises MalformedError."""
    from pyasn1.codec.ber.decoder import decode  # noqa: PLC0415  as above
    from pyasn1.codec.der.encoder import encode  # noqa: PLC0415  as above
    from pyasn1.error import PyAsn1Error  # noqa: PLC0415  as above

    data = transcode(data, nesting, MAX_TYPED_ELEMENTS)
    try:
        value, rest = decode(data, asn1Spec=_pki_body())
        if rest:
            raise MalformedError("trailing octets")
        return bytes(encode(value))
    except (*DECODE_ERRORS, PyAsn1Error) as exc:
        raise MalformedError(reason(exc)) from None
