"""Names as DER, walked leniently: an unsorted SET OF or any string type is let pass (RFC 5280 §4.1.2.4)."""

import unicodedata
from functools import lru_cache
from ipaddress import ip_address

from cryptography.x509 import ObjectIdentifier

from cmpd.asn1 import der, oids
from cmpd.asn1.codec import parse
from cmpd.asn1.der import MalformedError

MAX_RDNS = 64
"""More RDNs than any name has; a bound for what a hostile one costs."""
MAX_AVAS = 16
"""The same for the attributes of a multi-valued RDN."""

_CHARSETS = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    der.IA5_STRING: "ascii",
    0x12: "ascii",  # NumericString
    0x1A: "ascii",  # VisibleString
    der.TELETEX_STRING: "latin-1",  # what everybody puts there
    der.BMP_STRING: "utf-16-be",
    der.UNIVERSAL_STRING: "utf-32-be",
}


@lru_cache(maxsize=256)
def _kind(attribute_type: bytes) -> ObjectIdentifier:
    """Read an attribute type; few are in use, and reading one anew takes longer than all the rest of an attribute."""
    return parse(ObjectIdentifier, attribute_type)


def name_rdns(name_der: bytes) -> list[list[tuple[ObjectIdentifier, int, bytes]]]:
    """Walk a Name: per RDN, per attribute its type, the tag octet of its value, and the value's octets.

    Raises MalformedError.
    """
    tag, pos, end = der.read(name_der)
    if tag != der.SEQUENCE:
        raise MalformedError("name: not a SEQUENCE")
    if end != len(name_der):
        raise MalformedError("name: trailing octets")
    rdns: list[list[tuple[ObjectIdentifier, int, bytes]]] = []
    while pos < end:
        if len(rdns) >= MAX_RDNS:
            raise MalformedError(f"name: more than {MAX_RDNS} RDNs")
        tag, pos, rdn_end = _inside(name_der, pos, end)
        if tag != der.SET:
            raise MalformedError("name: an RDN is not a SET")
        attributes: list[tuple[ObjectIdentifier, int, bytes]] = []
        while pos < rdn_end:
            if len(attributes) >= MAX_AVAS:
                raise MalformedError(f"name: more than {MAX_AVAS} attributes in an RDN")
            tag, pos, attribute_end = _inside(name_der, pos, rdn_end)
            if tag != der.SEQUENCE or pos == attribute_end:
                raise MalformedError("name: an attribute is not a type and a value")
            _, _, kind_end = _inside(name_der, pos, attribute_end)
            if kind_end == attribute_end:
                raise MalformedError("name: an attribute is not a type and a value")
            tag, start, value_end = _inside(name_der, kind_end, attribute_end)
            if value_end != attribute_end:
                raise MalformedError("name: an attribute is not a type and a value")
            attributes.append((_kind(name_der[pos:kind_end]), tag, name_der[start:value_end]))
            pos = attribute_end
        rdns.append(attributes)
    return rdns


def _inside(data: bytes, pos: int, limit: int) -> tuple[int, int, int]:
    """Read the tag and length at `pos` of an element that ends at `limit` or before. Raises MalformedError."""
    found = der.read(data, pos)
    if found[2] > limit:
        raise MalformedError("name: an element is longer than what it is in")
    return found


def text_of(tag: int, value: bytes) -> str | None:
    """Decode a directory string; None when it is no string type or not in its character set."""
    charset = _CHARSETS.get(tag)
    if charset is None:
        return None
    try:
        return value.decode(charset)
    except UnicodeDecodeError:
        return None


def printable(text: str) -> str:
    r"""Escape what could disturb a terminal or deceive a reader: control, format and bidi characters (`\u202E`)."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if _harmless(one) else _escape(one) for one in text)


def _harmless(char: str) -> bool:
    return char == " " or (char.isprintable() and unicodedata.category(char)[0] not in "CZ" and not _reorders(char))


def _reorders(char: str) -> bool:
    return unicodedata.bidirectional(char) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def name_text(name_der: bytes) -> str:
    """Show a Name in the style of RFC 4514, last RDN first; `NULL-DN` is the empty text. Raises MalformedError."""
    return ",".join("+".join(_attribute_text(*one) for one in rdn) for rdn in reversed(name_rdns(name_der)))


def _attribute_text(kind: ObjectIdentifier, tag: int, value: bytes) -> str:
    text = text_of(tag, value)
    if text is None:
        return f"{oids.name(kind)}=#{der.tlv(tag, value).hex()}"
    quoted = "".join("\\" + char if char in '\\,+"<>;=' else char for char in text)
    if quoted.startswith(("#", " ")):
        quoted = "\\" + quoted
    if len(text) > 1 and text.endswith(" "):
        quoted = quoted[:-1] + "\\ "
    return f"{oids.name(kind)}={printable(quoted)}"


def common_name(name_der: bytes) -> str | None:
    """Return the value of the last, most specific commonName, or None; not escaped. Raises MalformedError."""
    for rdn in reversed(name_rdns(name_der)):
        for kind, tag, value in rdn:
            if kind == oids.COMMON_NAME:
                return text_of(tag, value)
    return None


def directory_name(general_name_der: bytes) -> bytes | None:
    """Return the DER of the Name when the GeneralName is a directoryName, else None (RFC 5280 §4.2.1.6).

    Raises MalformedError when it says that it is one and is not.
    """
    if general_name_der[:1] != b"\xa4":
        return None
    inside = der.children(general_name_der, 1)
    if len(inside) != 1:
        raise MalformedError("directoryName: empty")
    return inside[0]


_GENERAL_NAMES = {
    0xA0: "otherName",
    0x81: "email",
    0x82: "DNS",
    0xA3: "x400Address",
    0xA4: "directoryName",
    0xA5: "ediPartyName",
    0x86: "URI",
    0x87: "IP",
    0x88: "registeredID",
}


def general_name_text(general_name_der: bytes) -> str:
    """Show a GeneralName, e.g. `DNS:device.example` (RFC 5280 §4.2.1.6). Raises MalformedError."""
    tag, start, end = der.read(general_name_der)
    kind = _GENERAL_NAMES.get(tag)
    value = general_name_der[start:end]
    if kind is None or end != len(general_name_der):
        raise MalformedError("not a GeneralName")
    if tag == 0xA4:
        return f"{kind}:{name_text(value)}"
    if tag in {0x81, 0x82, 0x86}:
        return f"{kind}:{printable(value.decode('utf-8', 'backslashreplace'))}"
    if tag == 0x87 and len(value) in {4, 16}:
        return f"{kind}:{ip_address(value)}"
    if tag == 0x88:
        return f"{kind}:{oids.name(parse(ObjectIdentifier, der.tlv(der.OBJECT_IDENTIFIER, value)))}"
    if tag == 0xA0:
        parts = der.children(general_name_der, 2)
        if len(parts) == 2:
            inside = der.children(parts[1], 1)
            inner_tag, inner_start, inner_end = der.read(inside[0]) if inside else (0, 0, 0)
            text = text_of(inner_tag, inside[0][inner_start:inner_end]) if inside else ""
            shown = f"#{inside[0].hex()}" if text is None else printable(text)
            return f"{kind}:{oids.name(parse(ObjectIdentifier, parts[0]))}:{shown}"
    return f"{kind}:#{value.hex()}"
