"""decode is total: a message, or MalformedError that says where (RFC 9810 §5.1)."""

import dataclasses
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpd import asn1
from cmpd.asn1 import MalformedError, der, oids
from cmpd.asn1.text import describe, render
from tests.asn1.vectors import LIMITS, MESSAGES

IR = MESSAGES["rustcrypto-cmpv2/ir_req_01.bin"]
NULL_DN = der.explicit(4, der.sequence())
PKICONF = der.explicit(19, der.null())


def _header(*fields: bytes) -> bytes:
    return der.sequence(der.integer(2), NULL_DN, NULL_DN, *fields)


def _message(*parts: bytes) -> bytes:
    return der.sequence(*(parts or (_header(), PKICONF)))


def test_smallest_message() -> None:
    message = asn1.decode(_message(), LIMITS)
    assert message.body_type is asn1.BodyType.pkiconf
    assert isinstance(message.decode_body(), asn1.Null)
    assert message.protection is None
    assert message.extraCerts == []
    assert message.header.transactionID is None
    assert message.der == asn1.encode(message.header_der, message.body_der, None)


def test_repr_shows_no_content() -> None:
    assert repr(asn1.decode(IR, LIMITS)) == "<PKIMessage ir, 493 octets>"


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"", "message"),
        (b"\x30", "message"),
        (b"POST / HTTP/1.1", "message"),
        (_message() + b"\x00", "message"),
        (_message()[:-1], "message"),
        (_message(_header()), "body"),
        (_message(_header(), PKICONF, der.null()), "message"),
        (_message(_header(), PKICONF, der.explicit(0, der.octet_string(b"x"))), "protection"),
        (_message(_header(), PKICONF, der.explicit(0, der.bit_string(b"\xf0", 4))), "protection"),
        (_message(_header(), PKICONF, der.explicit(1, der.sequence(b"\x30\x05"))), "extraCerts"),
        (_message(_header(), der.null()), "body"),
        (_message(_header(), der.explicit(27, der.null())), "body"),
        (_message(_header(), b"\x83\x00"), "body"),
        (_message(_header(), b"\xbf\x1f\x02\x05\x00"), "body"),
        (_message(der.sequence(), PKICONF), "header"),
        (_message(der.null(), PKICONF), "header"),
        (_message(der.sequence(der.octet_string(b"2"), NULL_DN, NULL_DN), PKICONF), "header"),
        (_message(_header(der.explicit(5, der.integer(1))), PKICONF), "header"),
        (
            _message(
                _header(der.explicit(5, der.octet_string(b"a")), der.explicit(4, der.octet_string(b"b"))), PKICONF
            ),
            "header",
        ),
        (_message(_header(der.explicit(7, der.sequence(der.tlv(der.UTF8_STRING, b"\xff")))), PKICONF), "header"),
        (_message(_header(der.explicit(9, der.null())), PKICONF), "header"),
        (_message(_header(der.explicit(8, der.sequence(der.sequence()))), PKICONF), "header"),
    ],
)
def test_malformed_message_says_where(data: bytes, where: str) -> None:
    with pytest.raises(MalformedError, match=rf"^{where}: "):
        asn1.decode(data, LIMITS)


def test_malformed_message_says_what_in_words() -> None:
    """The text goes to the peer as statusString."""
    with pytest.raises(MalformedError, match=r"^message: an element is longer than what is there$"):
        asn1.decode(IR[:-1], LIMITS)
    with pytest.raises(MalformedError, match=r"^header: an unexpected tag$"):
        asn1.decode(_message(der.sequence(der.null()), PKICONF), LIMITS)
    with pytest.raises(MalformedError, match=r"^body \(ir\): SEQUENCE OF has size 0$"):
        asn1.decode_body(asn1.BodyType.ir, der.explicit(0, der.sequence()))


def test_pvno_of_any_size_is_decoded() -> None:
    """Whether it is supported is for RFC 9483 §3.5 to say: unsupportedVersion, not badDataFormat."""
    for pvno in (1, 4, -1, 2**70):
        header = der.sequence(der.integer(pvno), NULL_DN, NULL_DN)
        assert asn1.decode(_message(header, PKICONF), LIMITS).header.pvno == pvno


def test_unreadable_extra_cert_does_not_lose_the_message() -> None:
    certs = [der.octet_string(b"no certificate"), der.sequence()]
    data = asn1.encode(_header(), PKICONF, b"mac", certs)
    assert asn1.decode(data, LIMITS).extraCerts == certs
    assert asn1.decode(data, LIMITS).protection == b"mac"


@pytest.mark.parametrize("count", [32, 33, 5000])
def test_extra_certs_are_counted(count: int) -> None:
    data = asn1.encode(_header(), PKICONF, None, [der.sequence()] * count)
    if count <= LIMITS.extra_certs:
        assert len(asn1.decode(data, LIMITS).extraCerts) == count
    else:
        with pytest.raises(MalformedError, match="extraCerts: more than 32"):
            asn1.decode(data, LIMITS)


@pytest.mark.parametrize(("tag", "one"), [(7, der.utf8_string("")), (8, der.sequence(der.oid(oids.IMPLICIT_CONFIRM)))])
def test_lists_in_the_header_are_counted(tag: int, one: bytes) -> None:
    limits = dataclasses.replace(LIMITS, list_length=20)
    for count in (20, 21, 10_000):
        data = _message(_header(der.explicit(tag, der.sequence(*[one] * count))), PKICONF)
        if count <= 20:
            asn1.decode(data, limits)
        else:
            with pytest.raises(MalformedError, match="more than 20 elements"):
                asn1.decode(data, limits)


def test_parse_names_the_type() -> None:
    with pytest.raises(MalformedError, match=r"^PBMParameter: "):
        asn1.parse(asn1.PBMParameter, der.null())


def test_opaque_values_keep_their_octets() -> None:
    for data in (der.null(), der.integer(5), der.explicit(4, der.sequence())):
        assert asn1.raw(asn1.opaque(data)) == data
    with pytest.raises(MalformedError):
        asn1.opaque(der.null() + b"\x00")


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=400))
def test_random_octets_raise_nothing_but_malformed_error(data: bytes) -> None:
    for start in (b"", b"\x30\x80", _header()):
        with pytest.raises(MalformedError):
            asn1.decode(start + data, LIMITS)


def _show_all(data: bytes) -> None:
    """Everything that can be done with a message, as long as it is one."""
    try:
        message = asn1.decode(data, LIMITS)
    except MalformedError:
        return
    assert asn1.decode(message.der, LIMITS).protected_part() == message.protected_part()
    try:
        content = message.decode_body()
    except MalformedError as exc:
        assert str(exc).startswith("body (")  # noqa: PT017  the others are welcome
    else:
        asn1.encode_body(message.body_type, content)
    describe(message)
    for line in render(message):
        assert not [char for char in line if unicodedata.category(char) in {"Cc", "Cf"}]


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(sorted(MESSAGES)), st.data())
def test_damaged_message_raises_nothing_but_malformed_error(path: str, data: st.DataObject) -> None:
    damaged = bytearray(MESSAGES[path])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        what = data.draw(st.sampled_from(["set", "flip", "cut", "insert", "delete"]))
        if what == "set":
            damaged[at] = data.draw(st.integers(0, 255))
        elif what == "flip":
            damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        elif what == "cut":
            del damaged[at + 1 :]
        elif what == "insert":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        elif len(damaged) > 1:
            del damaged[at]
    _show_all(bytes(damaged))


def test_every_single_flipped_bit_of_an_ir_is_survived() -> None:
    for position in range(len(IR)):
        for bit in range(8):
            damaged = bytearray(IR)
            damaged[position] ^= 1 << bit
            _show_all(bytes(damaged))


def test_every_truncation_of_an_ir_is_malformed() -> None:
    for size in range(len(IR)):
        with pytest.raises(MalformedError):
            asn1.decode(IR[:size], LIMITS)


def test_hostile_text_is_shown_escaped() -> None:
    name = der.sequence(der.set_of(der.sequence(der.oid(oids.COMMON_NAME), der.utf8_string("\x1b[2Jroot\u202e\n"))))
    header = der.sequence(
        der.integer(2),
        der.explicit(4, name),
        der.tlv(0x86, b"http://x/\x07\xff"),
        der.explicit(2, der.octet_string(b"\x1b[0m")),
        der.explicit(7, der.sequence(der.utf8_string("line\r\nmessage: ip"))),
        der.explicit(8, der.sequence(der.sequence(der.oid("1.2.3"), der.utf8_string("\u2066bell\x07")))),
    )
    message = asn1.decode(_message(header, PKICONF), LIMITS)
    lines = render(message)
    assert r"  sender: directoryName:CN=\x1B[2Jroot\u202E\x0A" in lines
    assert r"  recipient: URI:http://x/\x07\xff" in lines
    assert r"    - line\x0D\x0Amessage: ip" in lines
    assert r"    - 1.2.3: \u2066bell\x07" in lines
    assert "  senderKID: 1b5b306d" in lines


def test_malformed_body_is_shown_with_its_header() -> None:
    lines = render(asn1.decode(_message(_header(), der.explicit(0, der.null())), LIMITS))
    assert "  sender: NULL-DN" in lines
    assert [line for line in lines if line.startswith("body: (malformed: body (ir): ")]
