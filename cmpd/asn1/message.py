"""PKIMessage: the whole of it, with the body still opaque (RFC 9810 §5.1)."""

from collections.abc import Sequence
from typing import Any, Protocol

from cryptography.hazmat.asn1 import decode_der

from cmpd.asn1 import der
from cmpd.asn1.ber import transcode
from cmpd.asn1.bodies import decode_body
from cmpd.asn1.cmp import BodyType, PKIHeader
from cmpd.asn1.codec import DECODE_ERRORS, reason
from cmpd.asn1.der import MalformedError


class DecodeLimits(Protocol):
    """What decoding needs of `cmpd.limits.Limits`."""

    @property
    def ber_size(self) -> int:
        """The largest message, in octets, that is normalised when it is not DER; 0 refuses them all."""

    @property
    def nesting(self) -> int:
        """The deepest nesting in such a message."""

    @property
    def list_length(self) -> int:
        """The most elements in a SEQUENCE OF."""

    @property
    def extra_certs(self) -> int:
        """The most elements in extraCerts."""


class PKIMessage:
    """A decoded message. Header and body are also kept as the octets that were received, for these are protected."""

    __slots__ = (
        "body_der",
        "body_type",
        "der",
        "extraCerts",
        "header",
        "header_der",
        "limits",
        "protection",
        "was_ber",
    )

    def __init__(self, encoded: bytes, limits: DecodeLimits, *, was_ber: bool) -> None:
        header_der, body_der, protection, extra_certs = _split(encoded)
        tag = body_der[0]
        if not 0xA0 <= tag <= 0xBA:
            raise MalformedError("body: not a tag of PKIBody")
        try:
            if len(header_der) > 2 * limits.list_length:
                _count_header_lists(header_der, limits.list_length)
            header = decode_der(PKIHeader, header_der)
        except DECODE_ERRORS as exc:
            raise MalformedError(f"header: {reason(exc)}") from None
        self.der: bytes = encoded
        """The whole message, normalised to DER when it was BER."""
        self.was_ber: bool = was_ber
        self.header: PKIHeader = header
        self.header_der: bytes = header_der
        self.body_type: BodyType = _BODY_TYPES[tag - 0xA0]
        self.body_der: bytes = body_der
        """The whole body with its `[n]` tag, not yet looked into."""
        self.protection: bytes | None = protection
        self.extraCerts: list[bytes] = _extra_certs(extra_certs, limits.extra_certs)
        """The DER of each extraCert; whether it is a certificate is for the reader to find out."""
        self.limits = limits

    def __repr__(self) -> str:
        return f"<PKIMessage {self.body_type.name}, {len(self.der)} octets>"

    def protected_part(self) -> bytes:
        """DER of ProtectedPart (RFC 9810 §5.1.3)."""
        return der.tlv(der.SEQUENCE, self.header_der, self.body_der)

    def decode_body(self) -> Any:
        """Decode the body under the limits that the message was decoded with, normalised if it is not DER inside.

        Raises MalformedError.
        """
        limits = self.limits
        return decode_body(
            self.body_type, self.body_der, limits.list_length, ber_size=limits.ber_size, nesting=limits.nesting
        )


_BODY_TYPES = tuple(BodyType)


def _split(encoded: bytes) -> tuple[bytes, bytes, bytes | None, bytes | None]:
    """Take a message apart: header, body, the octets of the protection, and the `[1]` element of extraCerts.

    PKIMessage ::= SEQUENCE { header PKIHeader, body PKIBody, protection [0] PKIProtection OPTIONAL,
    extraCerts [1] SEQUENCE SIZE (1..MAX) OF CMPCertificate OPTIONAL } (RFC 9810 §5.1)

    By hand, since header and body are wanted as the very octets that are protected.
    """
    where = "message"
    try:
        tag, start, end = der.read(encoded)
        if tag != der.SEQUENCE or end != len(encoded):
            raise MalformedError("not one SEQUENCE")
        middle = der.read(encoded, start)[2]
        where = "body"
        pos = der.read(encoded, middle)[2]
        header, body, protection, extra_certs = encoded[start:middle], encoded[middle:pos], None, None
        where = "protection"
        if pos < end and encoded[pos] == 0xA0:
            stop = der.read(encoded, pos)[2]
            octets = der.content(b"".join(der.children(encoded[pos:stop], 1)), der.BIT_STRING)
            if octets[:1] != b"\x00":
                raise MalformedError("not whole octets")
            protection, pos = octets[1:], stop
        where = "extraCerts"
        if pos < end and encoded[pos] == 0xA1:
            stop = der.read(encoded, pos)[2]
            extra_certs, pos = encoded[pos:stop], stop
        where = "message"
        if pos != end:
            raise MalformedError("an element that does not belong there")
    except MalformedError as exc:
        raise MalformedError(f"{where}: {exc}") from None
    return header, body, protection, extra_certs


def _extra_certs(element: bytes | None, limit: int) -> list[bytes]:
    if element is None:
        return []
    try:
        certificates = b"".join(der.children(element, 1))
        if certificates[:1] != b"\x30":
            raise MalformedError("not a SEQUENCE OF")
        return der.children(certificates, limit)
    except MalformedError as exc:
        raise MalformedError(f"extraCerts: {exc}") from None


def decode(data: bytes, limits: DecodeLimits) -> PKIMessage:
    """Decode a message up to its still opaque body; one that is BER and not DER is normalised first.

    Raises MalformedError, whose text says where.
    """
    try:
        return PKIMessage(data, limits, was_ber=False)
    except MalformedError as exc:
        if len(data) > limits.ber_size:
            raise
        strict = exc
    try:
        normalised = transcode(data, limits.nesting)
    except MalformedError:
        raise strict from None
    if normalised == data:
        raise strict
    return PKIMessage(normalised, limits, was_ber=True)


def encode(header_der: bytes, body_der: bytes, protection: bytes | None, extraCerts: Sequence[bytes] = ()) -> bytes:
    """Put a message together from DER; `protection` are the octets of the BIT STRING."""
    parts = [header_der, body_der]
    if protection is not None:
        parts.append(der.explicit(0, der.bit_string(protection)))
    if extraCerts:
        parts.append(der.explicit(1, der.sequence(*extraCerts)))
    return der.tlv(der.SEQUENCE, *parts)


def protected_part(header_der: bytes, body_der: bytes) -> bytes:
    """DER of ProtectedPart ::= SEQUENCE { header PKIHeader, body PKIBody } (RFC 9810 §5.1.3)."""
    return der.tlv(der.SEQUENCE, header_der, body_der)


def _count_header_lists(header_der: bytes, limit: int) -> None:
    """Refuse a freeText or generalInfo of more than `limit` elements, before any of them is decoded."""
    for field in der.children(header_der, 16):
        if field[0] in {0xA7, 0xA8}:
            for content in der.children(field, 1):
                der.children(content, limit)
