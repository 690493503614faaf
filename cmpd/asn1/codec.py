"""Any wire type from and to DER, behind the one boundary at which every decoder error becomes MalformedError."""

import re
from typing import Any, TypeVar

from cryptography.hazmat.asn1 import TLV, Null, decode_der, encode_der

from cmpd.asn1.der import MalformedError

T = TypeVar("T")

DECODE_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, KeyError, IndexError, AttributeError)
"""What the Rust decoder and pyasn1 raise on hostile input (UnicodeDecodeError is a ValueError)."""


def parse(cls: type[T], data: bytes) -> T:
    """Decode a wire type, or int, str, bytes, BitString, ObjectIdentifier, TLV … Raises MalformedError."""
    try:
        return decode_der(cls, data)
    except DECODE_ERRORS as exc:
        raise MalformedError(f"{cls.__name__}: {reason(exc)}") from None


def dump(value: Any) -> bytes:
    """Encode a wire type as DER. Raises ValueError or TypeError when a field is not what its type says."""
    return encode_der(value)


def opaque(data: bytes) -> TLV:
    """Wrap one DER element of whatever type, for a field that is an ANY, a Name or a GeneralName."""
    return parse(TLV, data)


def raw(value: TLV | Null) -> bytes:
    """Return the whole DER of an opaque field."""
    return encode_der(value)


def reason(exc: BaseException) -> str:
    """Say in one short line what a decoder did not like."""
    if isinstance(exc, RecursionError):
        return "nested too deep"
    text = (str(exc).splitlines() or [""])[0]
    text = text.replace(", expected size in [1, 18446744073709551615]", "")
    kind = _KIND.search(text)
    if kind is None:
        return text[:160] or type(exc).__name__
    return _KINDS.get(kind[1], kind[1])


_KIND = re.compile(r"^error parsing asn1 value: ParseError \{ kind: (\w+)")
_KINDS = {
    "ExtraData": "more octets or fields than there should be",
    "InvalidLength": "a length that is not DER",
    "InvalidSetOrdering": "a SET OF that is not sorted",
    "InvalidTag": "a tag that is not DER",
    "InvalidValue": "a value that its type does not have",
    "ShortData": "the data or a field ends too soon",
    "UnexpectedTag": "an unexpected tag",
}
"""What the Rust decoder's errors mean; it does not say where."""
