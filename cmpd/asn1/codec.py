"""Any wire type from and to DER, behind the one boundary at which every decoder error becomes MalformedError."""

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
    text = (str(exc).splitlines() or [""])[0].strip()
    return text.removeprefix("error parsing asn1 value: ")[:160] or type(exc).__name__
