"""Distinguished names as operators write them."""

import re
from typing import Final

from cryptography import x509

from cmpd import asn1
from cmpd.asn1 import der

_UTF8_STRING: Final = 0x0C
_PRINTABLE_STRING: Final = 0x13
_PRINTABLE: Final = re.compile(rb"[A-Za-z0-9 '()+,./:=?-]*")


def encodings(name: x509.Name) -> tuple[bytes, ...]:
    """How CAs encode a name (DER): in UTF8Strings, or in PrintableStrings where that is possible (RFC 5280 §4.1.2.4).

    A name that was read from text does not say which; whoever compares octets compares with all of them.
    """
    usual = name.public_bytes()
    old = der.sequence(
        *(
            der.set_of(*(der.sequence(der.oid(oid), der.tlv(_old(tag, value), value)) for oid, tag, value in rdn))
            for rdn in asn1.name_rdns(usual)
        )
    )
    return tuple(dict.fromkeys((usual, old)))


def _old(tag: int, value: bytes) -> int:
    return _PRINTABLE_STRING if tag == _UTF8_STRING and _PRINTABLE.fullmatch(value) else tag
