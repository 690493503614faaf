"""Are two Names the same name? (RFC 5280 §7.1)"""

import unicodedata

from cryptography.x509 import ObjectIdentifier

from cmpd import asn1


def same_name(one: bytes, other: bytes) -> bool:
    """Compare two Names (DER): string types, letter case and white space make no difference (RFC 5280 §7.1).

    Clients rebuild names from text, so that a PrintableString comes back as a UTF8String. What cannot be read is equal
    to nothing but the same octets.
    """
    if one == other:
        return True
    try:
        return _normal(one) == _normal(other)
    except ValueError:
        return False


def _normal(name: bytes) -> list[list[tuple[str, object]]]:
    return [sorted((_attribute(*attribute) for attribute in rdn), key=repr) for rdn in asn1.name_rdns(name)]


def _attribute(oid: ObjectIdentifier, tag: int, value: bytes) -> tuple[str, object]:
    text = asn1.text_of(tag, value)
    if text is None:
        return oid.dotted_string, (tag, value)
    return oid.dotted_string, " ".join(unicodedata.normalize("NFKC", text).casefold().split())
