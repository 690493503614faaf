"""pyasn1 with pyasn1-alt-modules as the independent second opinion: building, and comparing field by field."""

import dataclasses
from typing import Any

from cryptography.x509 import ObjectIdentifier
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1.type import univ
from pyasn1_alt_modules import rfc9810

from cmpd import asn1
from cmpd.asn1 import der

_SPELLING = {"subjectPublicKeyInfo": "subjectPKInfo"}
"""Their CertificationRequestInfo is the one of CMC, which spells this field otherwise than RFC 2986 §4.1."""


class Der:
    """A value to be decoded from DER with the type of the field it is put into."""

    def __init__(self, data: bytes) -> None:
        self.data = data


def message_of(data: bytes) -> Any:
    value, rest = decode(data, asn1Spec=rfc9810.PKIMessage())
    assert not rest
    return value


def body_of(data: bytes) -> Any:
    value, rest = decode(data, asn1Spec=rfc9810.PKIBody())
    assert not rest
    return value


def build(target: Any, value: Any) -> Any:
    """Fill a pyasn1 object: dict for SEQUENCE and CHOICE, list for SEQUENCE OF, Der for whole encodings."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list):
            build(target[key], inner)
            if not inner:
                target[key].clear()
        elif isinstance(inner, Der):
            target[key] = _decoded(target[key], inner.data)
        else:
            target[key] = inner
    return target


def _decoded(field: Any, data: bytes) -> Any:
    for outer in (data, *(der.explicit(n, data) for n in range(27))):
        try:
            return decode(outer, asn1Spec=field.clone())[0]
        except Exception:  # noqa: BLE001  pyasn1 raises many things; the next tag may fit
            continue
    raise AssertionError(f"{data.hex()} fits no tag of {type(field)}")


def encoded(value: Any) -> bytes:
    return bytes(encode(value))


def compare(ours: Any, theirs: Any, where: str = "") -> None:
    """Compare a decoded wire value with pyasn1's, in all their fields."""
    if ours is None:
        default = isinstance(theirs, univ.Boolean) and not theirs
        assert theirs is None or not theirs.isValue or default, where
    elif isinstance(ours, asn1.Variant):
        assert ours.tag == theirs.getName(), where
        compare(ours.value, theirs.getComponent(), f"{where}.{ours.tag}")
    elif isinstance(ours, bool):
        assert ours == bool(theirs), where
    elif isinstance(ours, int):
        assert ours == int(theirs), where
    elif isinstance(ours, bytes) and isinstance(theirs, univ.OctetString):
        assert ours == bytes(theirs), where
    elif isinstance(ours, bytes):
        _compare_encoded(ours, theirs, where)
    elif isinstance(ours, str):
        assert ours == str(theirs), where
    elif isinstance(ours, ObjectIdentifier):
        assert ours.dotted_string == str(theirs), where
    elif isinstance(ours, asn1.BitString):
        assert len(theirs) == 8 * len(ours.as_bytes()) - ours.padding_bits(), where
        assert ours.as_bytes() == (int(theirs) << ours.padding_bits()).to_bytes(len(ours.as_bytes()), "big"), where
    elif isinstance(ours, asn1.Null):
        assert isinstance(theirs, univ.Null), where
    elif isinstance(ours, asn1.TLV):
        _compare_encoded(asn1.raw(ours), theirs, where)
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            compare(one, other, f"{where}[{number}]")
    else:
        _compare_fields(ours, theirs, where)


def _compare_fields(ours: Any, theirs: Any, where: str) -> None:
    if isinstance(theirs, univ.Choice):
        theirs = theirs.getComponent()
    names = [field.name for field in dataclasses.fields(ours)]
    assert names == [_SPELLING.get(name, name) for name in theirs.keys()], where  # noqa: SIM118  not a dict
    for position, name in enumerate(names):
        inner = getattr(ours, name)
        if name == "certReq":
            inner = asn1.parse(asn1.CertRequest, asn1.raw(inner))
        elif name == "certificationRequestInfo":
            inner = asn1.parse(asn1.CertificationRequestInfo, asn1.raw(inner))
        compare(inner, theirs.getComponentByPosition(position, default=None, instantiate=False), f"{where}.{name}")


def _compare_encoded(ours: bytes, theirs: Any, where: str) -> None:
    """Compare an opaque field: pyasn1's encoding, or what is inside its explicit tag."""
    whole = encoded(theirs)
    assert ours == whole or [ours] == der.children(whole), where
