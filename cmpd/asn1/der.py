"""DER by hand: the writer that replies and certificates are built with, and the smallest possible reader (X.690 §10).

Everything here works on complete encodings (`bytes` in, `bytes` out) and knows single-octet tags only, which is all
that CMP, CRMF and X.509 use.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache

from cryptography.hazmat.asn1 import encode_der
from cryptography.x509 import ObjectIdentifier

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
TELETEX_STRING = 0x14
IA5_STRING = 0x16
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
UNIVERSAL_STRING = 0x1C
BMP_STRING = 0x1E
SEQUENCE = 0x30
SET = 0x31

_TAG = [bytes((n,)) for n in range(256)]
_SHORT = _TAG[:128]
_PRINTABLE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")


class MalformedError(ValueError):
    """The octets are not what the ASN.1 says; the text says where. Nothing else leaves the codec's decoders."""


# ── writer ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def tlv(tag: int, *parts: bytes) -> bytes:
    """Encode one element from its tag octet and its content, given in parts."""
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    size = len(content)
    if size < 0x80:
        return _TAG[tag] + _SHORT[size] + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return b"".join((_TAG[tag], _TAG[0x80 | len(octets)], octets, content))


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE or SEQUENCE OF."""
    return tlv(SEQUENCE, *parts)


def set_of(*parts: bytes) -> bytes:
    """SET OF, sorted as DER wants it (X.690 §11.6)."""
    return tlv(SET, *sorted(parts))


def explicit(n: int, *parts: bytes) -> bytes:
    """`[n] EXPLICIT`, or the constructed `[n] IMPLICIT` of a SEQUENCE when given its content; n is 0..30."""
    return tlv(0xA0 | n, *parts)


def integer(value: int) -> bytes:
    """INTEGER of any size."""
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    return tlv(INTEGER, value.to_bytes(size, "big", signed=True))


def boolean(value: bool) -> bytes:
    """BOOLEAN."""
    return b"\x01\x01\xff" if value else b"\x01\x01\x00"


def null() -> bytes:
    """NULL."""
    return b"\x05\x00"


@lru_cache(maxsize=1024)
def oid(value: ObjectIdentifier | str) -> bytes:
    """OBJECT IDENTIFIER, from the object or the dotted text."""
    return encode_der(ObjectIdentifier(value) if isinstance(value, str) else value)


def octet_string(value: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(OCTET_STRING, value)


def bit_string(value: bytes, unused: int = 0) -> bytes:
    """BIT STRING; the last `unused` bits (0..7) of `value` do not belong to it and must be zero."""
    if not 0 <= unused <= 7 or (unused and not value) or (value and value[-1] & ((1 << unused) - 1)):
        raise ValueError("the unused bits of a BIT STRING must be at most 7, and zero")
    return tlv(BIT_STRING, _TAG[unused], value)


def named_bits(bits: Iterable[int]) -> bytes:
    """BIT STRING with named bits: the numbers of those that are set; no trailing zeros (X.690 §11.2.2)."""
    numbers = set(bits)
    if not numbers:
        return b"\x03\x01\x00"
    size = max(numbers) + 1
    octets = bytearray((size + 7) // 8)
    for number in numbers:
        octets[number // 8] |= 0x80 >> number % 8
    return tlv(BIT_STRING, _TAG[-size % 8], bytes(octets))


def utf8_string(value: str) -> bytes:
    """UTF8String."""
    return tlv(UTF8_STRING, value.encode())


def printable_string(value: str) -> bytes:
    """PrintableString; raises ValueError for a character outside its alphabet (X.680 §41.4)."""
    if not _PRINTABLE.issuperset(value):
        raise ValueError("not a PrintableString")
    return tlv(PRINTABLE_STRING, value.encode())


def ia5_string(value: str) -> bytes:
    """IA5String; raises ValueError (UnicodeEncodeError) for anything outside ASCII."""
    return tlv(IA5_STRING, value.encode("ascii"))


def generalized_time(value: datetime) -> bytes:
    """GeneralizedTime in UTC, whole seconds (RFC 5280 §4.1.2.5.2); `value` must be aware."""
    if value.tzinfo is None:
        raise ValueError("a time without a time zone")
    t = value.astimezone(UTC)
    text = f"{t.year:04}{t.month:02}{t.day:02}{t.hour:02}{t.minute:02}{t.second:02}Z"
    return tlv(GENERALIZED_TIME, text.encode())


def x509_time(value: datetime) -> bytes:
    """Time of certificates and CRLs: UTCTime from 1950 through 2049, else GeneralizedTime (RFC 5280 §4.1.2.5)."""
    encoded = generalized_time(value)
    return tlv(UTC_TIME, encoded[4:]) if b"1950" <= encoded[2:6] <= b"2049" else encoded


# ── reader ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(data: bytes, pos: int = 0) -> tuple[int, int, int]:
    """Read the tag and length at `pos`: (tag octet, where the content starts, where the element ends).

    Raises MalformedError for anything but DER that lies wholly within `data`.
    """
    size = len(data)
    if pos < 0 or pos + 2 > size:
        raise MalformedError("the data ends within a tag or length")
    tag = data[pos]
    if tag & 0x1F == 0x1F:
        raise MalformedError("a tag number above 30")
    length = data[pos + 1]
    start = pos + 2
    if length >= 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4:
            raise MalformedError("indefinite length" if count == 0 else "a length of more than four octets")
        start += count
        if start > size:
            raise MalformedError("the data ends within a tag or length")
        length = int.from_bytes(data[pos + 2 : start], "big")
        if length < 0x80 or length >> 8 * (count - 1) == 0:
            raise MalformedError("a length in more octets than it needs")
    end = start + length
    if end > size:
        raise MalformedError("an element is longer than what is there")
    return tag, start, end


def children(data: bytes, limit: int | None = None) -> list[bytes]:
    """Split the one constructed element that `data` is into the elements inside it, at most `limit`.

    Raises MalformedError.
    """
    tag, pos, end = read(data)
    if not tag & 0x20:
        raise MalformedError("a primitive element where a constructed one is due")
    if end != len(data):
        raise MalformedError("trailing octets")
    found: list[bytes] = []
    while pos < end:
        if limit is not None and len(found) >= limit:
            raise MalformedError(f"more than {limit} elements in a list")
        stop = read(data, pos)[2]
        found.append(data[pos:stop])
        pos = stop
    return found


def content(data: bytes, tag: int) -> bytes:
    """Return the content of the one element that `data` is; raises MalformedError when it is not of `tag`."""
    found, start, end = read(data)
    if found != tag:
        raise MalformedError(f"tag {found:#04x} where {tag:#04x} is due")
    if end != len(data):
        raise MalformedError("trailing octets")
    return data[start:end]
