"""The DER writer and reader, against cryptography and pyasn1."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography.x509 import ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st
from pyasn1.codec.der.decoder import decode as pyasn1_decode
from pyasn1.codec.der.encoder import encode as pyasn1_encode
from pyasn1.type import univ

from cmpd import asn1
from cmpd.asn1 import MalformedError, der, oids

MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001  hypothesis asks for naive bounds


@given(st.integers(-(2**200), 2**200))
def test_integer_reads_back(value: int) -> None:
    encoded = der.integer(value)
    assert pyasn1_decode(encoded) == (univ.Integer(value), b"")
    assert asn1.parse(int, encoded) == value  # and refuses an octet too many


@given(st.binary(max_size=70_000))
def test_octet_string_of_any_length_reads_back(value: bytes) -> None:
    encoded = der.octet_string(value)
    tag, start, end = der.read(encoded)
    assert (tag, encoded[start:end], end) == (der.OCTET_STRING, value, len(encoded))
    assert asn1.parse(bytes, encoded) == value


@pytest.mark.parametrize("size", [0, 127, 128, 255, 256, 65535, 65536])
def test_length_takes_the_fewest_octets(size: int) -> None:
    assert der.octet_string(bytes(size)) == pyasn1_encode(univ.OctetString(bytes(size)))


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_children_are_what_a_sequence_was_made_of(values: list[bytes]) -> None:
    parts = [der.octet_string(value) for value in values]
    assert der.children(der.sequence(*parts)) == parts
    assert sorted(der.children(der.set_of(*parts))) == sorted(parts)


@given(st.sets(st.integers(0, 40)))
def test_named_bits_are_minimal(bits: set[int]) -> None:
    value, _ = pyasn1_decode(der.named_bits(bits), asn1Spec=univ.BitString())
    assert {number for number, bit in enumerate(value) if bit} == bits
    assert len(value) == (max(bits) + 1 if bits else 0)


@given(st.text(max_size=50))
def test_utf8_string_reads_back(text: str) -> None:
    assert asn1.parse(str, der.utf8_string(text)) == text


@given(MOMENTS)
def test_times_read_back_in_whole_seconds(moment: datetime) -> None:
    expected = moment.replace(microsecond=0)
    assert asn1.read_time(der.generalized_time(moment)) == expected
    assert asn1.read_time(der.x509_time(moment)) == expected


def test_x509_time_is_utc_time_through_2049() -> None:
    """RFC 5280 §4.1.2.5."""
    assert der.x509_time(datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)) == b"\x17\x0d491231235959Z"
    assert der.x509_time(datetime(2050, 1, 1, tzinfo=UTC)) == b"\x18\x0f20500101000000Z"
    assert der.x509_time(datetime(1949, 12, 31, tzinfo=UTC)) == b"\x18\x0f19491231000000Z"


def test_times_are_written_in_utc() -> None:
    moment = datetime(2026, 1, 1, 0, 30, 0, 999_999, tzinfo=timezone(timedelta(hours=1)))
    assert der.generalized_time(moment) == b"\x18\x0f20251231233000Z"
    with pytest.raises(ValueError, match="time zone"):
        der.generalized_time(datetime(2026, 1, 1))  # noqa: DTZ001  what is tested


def test_writer_refuses_what_the_type_cannot_hold() -> None:
    with pytest.raises(ValueError, match="PrintableString"):
        der.printable_string("a@b")
    with pytest.raises(ValueError, match="ascii"):
        der.ia5_string("ä")
    with pytest.raises(ValueError, match="BIT STRING"):
        der.bit_string(b"\x01", 1)
    with pytest.raises(ValueError, match="BIT STRING"):
        der.bit_string(b"", 3)


def test_small_values() -> None:
    assert der.null() == b"\x05\x00"
    assert der.boolean(True) == b"\x01\x01\xff"
    assert der.boolean(False) == b"\x01\x01\x00"
    assert der.oid("1.2.840.113549") == der.oid(ObjectIdentifier("1.2.840.113549")) == bytes.fromhex("06062a864886f70d")
    assert der.bit_string(b"\xf0", 4) == b"\x03\x02\x04\xf0"
    assert der.explicit(2, der.null()) == b"\xa2\x02\x05\x00"
    assert der.set_of(b"\x02\x01\x02", b"\x02\x01\x01") == b"\x31\x06\x02\x01\x01\x02\x01\x02"
    assert der.printable_string("CMP") == b"\x13\x03CMP"
    assert der.ia5_string("a@b") == b"\x16\x03a@b"
    assert der.content(der.integer(5), der.INTEGER) == b"\x05"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("", "ends within"),
        ("30", "ends within"),
        ("3082", "ends within"),
        ("3080" + "0000", "indefinite"),
        ("308105" + "0500050005", "more octets"),
        ("30820081" + "00" * 129, "more octets"),
        ("308500000000010500", "more than four"),
        ("1f8100", "above 30"),
        ("300305", "longer"),
        ("30020500" + "00", "trailing"),
        ("0400", "primitive"),
        ("30020403", "longer"),
    ],
)
def test_reader_refuses_what_is_not_der(data: str, text: str) -> None:
    with pytest.raises(MalformedError, match=text):
        der.children(bytes.fromhex(data))


def test_reader_stops_at_the_limit() -> None:
    many = der.sequence(*[der.null()] * 5)
    assert len(der.children(many, 5)) == 5
    with pytest.raises(MalformedError, match="more than 4"):
        der.children(many, 4)


def test_reader_of_one_content() -> None:
    with pytest.raises(MalformedError, match="tag 0x05"):
        der.content(der.null(), der.INTEGER)
    with pytest.raises(MalformedError, match="trailing"):
        der.content(der.null() + b"\x00", der.NULL)
    with pytest.raises(MalformedError, match="ends within"):
        der.read(b"\x05\x00", -1)


@given(st.binary(max_size=200))
def test_reader_raises_nothing_else(data: bytes) -> None:
    for read in (der.read, der.children):
        try:
            read(data)
        except MalformedError:
            continue


def test_object_identifiers_are_the_ones_of_pyasn1() -> None:
    from pyasn1_alt_modules import rfc4211, rfc5280, rfc8018, rfc9481, rfc9810

    expected = {
        oids.PASSWORD_BASED_MAC: rfc9481.id_PasswordBasedMac,
        oids.PBMAC1: rfc9481.id_PBMAC1,
        oids.PBKDF2: rfc8018.id_PBKDF2,
        oids.HMAC_SHA256: rfc9481.id_hmacWithSHA256,
        oids.SHA512: rfc9481.id_sha512,
        oids.ECDSA_SHA384: rfc9481.ecdsa_with_SHA384,
        oids.ED448: rfc9481.id_Ed448,
        oids.IMPLICIT_CONFIRM: rfc9810.id_it_implicitConfirm,
        oids.CONFIRM_WAIT_TIME: rfc9810.id_it_confirmWaitTime,
        oids.CERT_PROFILE: rfc9810.id_it_certProfile,
        oids.REG_CTRL_OLD_CERT_ID: rfc4211.id_regCtrl_oldCertID,
        oids.REG_CTRL_REG_TOKEN: rfc4211.id_regCtrl_regToken,
        oids.SUBJECT_ALT_NAME: rfc5280.id_ce_subjectAltName,
        oids.EXTENDED_KEY_USAGE: rfc5280.id_ce_extKeyUsage,
    }
    assert {ours.dotted_string: str(theirs) for ours, theirs in expected.items()} == {
        str(theirs): str(theirs) for theirs in expected.values()
    }
    assert oids.name(oids.KP_CMC_RA) == "cmcRA"
    assert oids.name("1.2.3.4") == "1.2.3.4"
