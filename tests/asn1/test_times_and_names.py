"""Times and names in the forms that real messages carry them in."""

import unicodedata
from datetime import UTC, datetime

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from cmpd import asn1
from cmpd.asn1 import MalformedError, der, oids


def _attribute(oid: x509.ObjectIdentifier, value: bytes) -> bytes:
    return der.sequence(der.oid(oid), value)


def _name(*rdns: bytes) -> bytes:
    return der.sequence(*rdns)


CN = der.set_of(_attribute(oids.COMMON_NAME, der.utf8_string("Gerät")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20260102030405Z", (2026, 1, 2, 3, 4, 5)),
        ("20260102030405.000Z", (2026, 1, 2, 3, 4, 5)),
        ("20260102030405.5Z", (2026, 1, 2, 3, 4, 5, 500_000)),
        ("20260102030405,25Z", (2026, 1, 2, 3, 4, 5, 250_000)),
        ("20260102030405+0100", (2026, 1, 2, 2, 4, 5)),
        ("20260102030405-0130", (2026, 1, 2, 4, 34, 5)),
        ("20260102030405+01", (2026, 1, 2, 2, 4, 5)),
        ("202601020304Z", (2026, 1, 2, 3, 4)),
    ],
)
def test_generalized_time_of_real_clients(text: str, expected: tuple[int, int, int, int]) -> None:
    assert asn1.read_time(der.tlv(der.GENERALIZED_TIME, text.encode())) == datetime(*expected, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "year"), [("490102030405Z", 2049), ("500102030405Z", 1950), ("9901020304Z", 1999), ("000102030405Z", 2000)]
)
def test_utc_time_has_its_century(text: str, year: int) -> None:
    """RFC 5280 §4.1.2.5.1."""
    assert asn1.read_time(der.tlv(der.UTC_TIME, text.encode())).year == year


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x18\x0f2026010203040",
        der.tlv(der.GENERALIZED_TIME, b"20260102030405"),  # whose time?
        der.tlv(der.GENERALIZED_TIME, b"20261302030405Z"),
        der.tlv(der.GENERALIZED_TIME, b"20260230030405Z"),
        der.tlv(der.GENERALIZED_TIME, b"00000102030405Z"),
        der.tlv(der.GENERALIZED_TIME, b"00010101000000+2300"),
        der.tlv(der.GENERALIZED_TIME, b"20260102030405+2400"),
        der.tlv(der.UTC_TIME, b"20260102030405Z"),
        der.tlv(der.UTC_TIME, b"260102030460Z"),
        der.tlv(der.UTF8_STRING, b"20260102030405Z"),
        der.tlv(der.GENERALIZED_TIME, b"20260102030405Z") + b"\x00",
        der.tlv(der.GENERALIZED_TIME, "２０２６0102030405Z".encode()),
    ],
)
def test_what_is_no_time_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        asn1.read_time(data)


def test_name_is_shown_as_rfc_4514_wants_it() -> None:
    name = x509.Name.from_rfc4514_string(r"CN=a\,b \+ c\=d,OU=x+OU=y,O=\#1 Ltd.,C=FI")
    assert asn1.name_text(name.public_bytes()) == r"CN=a\,b \+ c\=d,OU=x+OU=y,O=\#1 Ltd.,C=FI"
    assert x509.Name.from_rfc4514_string(asn1.name_text(name.public_bytes())) == name


def test_unsorted_multi_valued_rdn_is_read() -> None:
    """DER would have them sorted; clients exist that do not (RFC 5280 §4.1.2.4)."""
    one, other = (
        _attribute(oids.ORGANIZATION_NAME, der.utf8_string("Z")),
        _attribute(oids.COMMON_NAME, der.utf8_string("A")),
    )
    name = _name(der.tlv(der.SET, one, other))
    assert asn1.name_text(name) == "O=Z+CN=A"
    assert asn1.common_name(name) == "A"


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (der.UTF8_STRING, "Gerät".encode()),
        (der.TELETEX_STRING, "Gerät".encode("latin-1")),
        (der.BMP_STRING, "Gerät".encode("utf-16-be")),
        (der.UNIVERSAL_STRING, "Gerät".encode("utf-32-be")),
    ],
)
def test_common_name_in_any_string_type(tag: int, value: bytes) -> None:
    name = _name(der.set_of(_attribute(oids.COMMON_NAME, der.tlv(tag, value))))
    assert asn1.common_name(name) == "Gerät"
    assert asn1.name_text(name) == "CN=Gerät"
    assert asn1.name_rdns(name) == [[(oids.COMMON_NAME, tag, value)]]


def test_common_name_is_the_most_specific_one() -> None:
    first = der.set_of(_attribute(oids.COMMON_NAME, der.utf8_string("realm")))
    assert asn1.common_name(_name(first, CN)) == "Gerät"
    assert asn1.common_name(_name()) is None
    assert asn1.name_text(_name()) == ""


def test_value_that_is_no_text_is_shown_as_octets() -> None:
    name = _name(der.set_of(_attribute(oids.COMMON_NAME, der.utf8_string("x")[:1] + b"\x01\xff")))
    assert asn1.name_text(name) == "CN=#0c01ff"
    assert asn1.common_name(name) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31m", r"a\x1B[31m"),
        ("a\nb", r"a\x0Ab"),
        ("\u202egnp.exe", r"\u202Egnp.exe"),
        ("\u2066x\u2069", r"\u2066x\u2069"),
        ("\u200bx", r"\u200Bx"),
        ("\x85", r"\x85"),
        ("\U000e0041", r"\U000E0041"),
        ("Gerät 7", "Gerät 7"),
        ("東京", "東京"),
        ("\u00a0", r"\xA0"),
    ],
)
def test_control_and_bidi_characters_are_escaped(text: str, shown: str) -> None:
    assert asn1.printable(text) == shown
    assert asn1.name_text(_name(der.set_of(_attribute(oids.COMMON_NAME, der.utf8_string(text))))) == f"CN={shown}"


@given(st.text())
def test_shown_text_holds_no_character_that_moves_the_others(text: str) -> None:
    shown = asn1.printable(text)
    assert not [char for char in shown if unicodedata.category(char) in {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x31\x00",
        der.sequence(der.sequence()),
        der.sequence(der.set_of(der.null())),
        der.sequence(der.set_of(der.sequence(der.oid("2.5.4.3")))),
        der.sequence(der.set_of(der.sequence(der.null(), der.null()))),
        der.sequence(der.set_of(der.set_of(der.oid("2.5.4.3"), der.null()))),
        der.sequence(*[CN] * 65),
        der.sequence(der.tlv(der.SET, *[_attribute(oids.COMMON_NAME, der.utf8_string("x"))] * 17)),
    ],
)
def test_what_is_no_name_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        asn1.name_rdns(data)


@given(st.binary(max_size=100))
def test_names_and_times_raise_nothing_else(data: bytes) -> None:
    for read in (asn1.name_text, asn1.common_name, asn1.general_name_text, asn1.directory_name, asn1.read_time):
        for start in (b"", b"\x30", b"\xa4", b"\xa0"):
            try:
                read(start + data)
            except MalformedError:
                continue


@pytest.mark.parametrize(
    ("general_name", "shown"),
    [
        (x509.DNSName("device.example"), "DNS:device.example"),
        (x509.RFC822Name("a@example.org"), "email:a@example.org"),
        (x509.UniformResourceIdentifier("https://x.example/"), "URI:https://x.example/"),
        (x509.RegisteredID(oids.KP_CMC_RA), "registeredID:cmcRA"),
        (x509.DirectoryName(x509.Name.from_rfc4514_string("CN=x,C=FI")), "directoryName:CN=x,C=FI"),
        (x509.OtherName(oids.MS_UPN, der.utf8_string("u@x")), "otherName:msUPN:u@x"),
    ],
)
def test_general_name_is_shown(general_name: x509.GeneralName, shown: str) -> None:
    encoded = x509.SubjectAlternativeName([general_name]).public_bytes()
    assert [asn1.general_name_text(one) for one in der.children(encoded)] == [shown]


def test_ip_addresses_are_shown() -> None:
    assert asn1.general_name_text(der.tlv(0x87, bytes([192, 0, 2, 1]))) == "IP:192.0.2.1"
    assert asn1.general_name_text(der.tlv(0x87, bytes(15) + b"\x01")) == "IP:::1"
    assert asn1.general_name_text(der.tlv(0x87, b"\x01")) == "IP:#01"


def test_directory_name() -> None:
    name = _name(CN)
    assert asn1.directory_name(der.explicit(4, name)) == name
    assert asn1.directory_name(der.tlv(0x82, b"x")) is None
    with pytest.raises(MalformedError, match="empty"):
        asn1.directory_name(der.explicit(4))
