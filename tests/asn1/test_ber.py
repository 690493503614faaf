"""Messages that are BER and not DER, as real devices send them, and hostile ones that only look so."""

import dataclasses
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpd import asn1
from cmpd.asn1 import BodyType, MalformedError, der
from cmpd.asn1.ber import MAX_ELEMENTS, MAX_OID, normalise_body, transcode
from cmpd.limits import Limits
from tests.asn1.vectors import LIMITS, MESSAGES, vector

IR = MESSAGES["rustcrypto-cmpv2/ir_req_01.bin"]
IR_WITH_EXTENSIONS = MESSAGES["openssl/65-test_cmp_vfy_data/IR_protected_2_extraCerts.der"]

Form = Callable[[bytes], bytes]


def _rewrite(data: bytes, write: Callable[[int, bytes], bytes]) -> bytes:
    tag, start, end = der.read(data)
    if tag & 0x20:
        return write(tag, b"".join(_rewrite(one, write) for one in der.children(data)))
    return write(tag, data[start:end])


def _indefinite(tag: int, content: bytes) -> bytes:
    return bytes((tag, 0x80)) + content + b"\x00\x00" if tag & 0x20 else der.tlv(tag, content)


def _four_length_octets(tag: int, content: bytes) -> bytes:
    return bytes((tag, 0x84)) + len(content).to_bytes(4, "big") + content


def _in_pieces(tag: int, content: bytes) -> bytes:
    if tag in {der.OCTET_STRING, der.UTF8_STRING, der.PRINTABLE_STRING} and len(content) > 1:
        halves = [der.octet_string(content[:1]), der.octet_string(content[1:])]
        return bytes((tag | 0x20, 0x80)) + b"".join(halves) + b"\x00\x00"
    if tag == der.BIT_STRING and len(content) > 2:
        halves = [der.tlv(tag, b"\x00" + content[1:2]), der.tlv(tag, content[:1] + content[2:])]
        return bytes((tag | 0x20, 0x80)) + b"".join(halves) + b"\x00\x00"
    return der.tlv(tag, content)


def _true_is_one(tag: int, content: bytes) -> bytes:
    return der.tlv(tag, b"\x01" if tag == der.BOOLEAN and content == b"\xff" else content)


def _integer_with_a_zero(tag: int, content: bytes) -> bytes:
    return der.tlv(tag, (b"\xff" if content[0] & 0x80 else b"\x00") + content if tag == der.INTEGER else content)


FORMS = {
    form.__name__.strip("_"): form for form in (_indefinite, _four_length_octets, _in_pieces, _integer_with_a_zero)
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", MESSAGES)
def test_every_message_in_ber_is_normalised_to_its_der(path: str, form: str) -> None:
    data = MESSAGES[path]
    ber = _rewrite(data, FORMS[form])
    assert ber != data
    message = asn1.decode(ber, LIMITS)
    assert message.was_ber
    assert message.der == data
    assert message.protected_part() == asn1.decode(data, LIMITS).protected_part()
    assert message.decode_body() is not None


@pytest.mark.parametrize("form", ["indefinite", "four_length_octets", "in_pieces"])
def test_ber_forms_are_ber_to_openssl_too(form: str) -> None:
    command = ["openssl", "asn1parse", "-inform", "DER", "-noout"]
    subprocess.run(command, input=_rewrite(IR, FORMS[form]), check=True, capture_output=True)


def test_indefinite_lengths_within_definite_ones_and_the_other_way_round() -> None:
    header, body = asn1.decode(IR, LIMITS).header_der, asn1.decode(IR, LIMITS).body_der
    protection = der.children(IR)[2]
    mixed = [
        der.sequence(header, _rewrite(body, _indefinite), protection),
        b"\x30\x80" + header + body + protection + b"\x00\x00",
        b"\x30\x80" + header + _rewrite(body, _four_length_octets) + protection + b"\x00\x00",
    ]
    for data in mixed:
        assert asn1.decode(data, LIMITS).der == IR


def _with_body(body: bytes) -> asn1.PKIMessage:
    return asn1.decode(asn1.encode(asn1.decode(IR, LIMITS).header_der, body, None), LIMITS)


def _replace(data: bytes, old: bytes, new: bytes) -> bytes:
    """Replace an element deep within DER, lengths included."""
    if data == old:
        return new
    tag, _, _ = der.read(data)
    if not tag & 0x20:
        return data
    return der.tlv(tag, *(_replace(one, old, new) for one in der.children(data)))


def test_body_that_alone_is_ber_is_normalised_when_it_is_decoded() -> None:
    """Header and lengths of the message are DER: the protection is checked over the octets as sent."""
    request = der.children(der.children(asn1.decode(IR, LIMITS).body_der)[0])[0]
    long_body = _replace(asn1.decode(IR, LIMITS).body_der, request, _rewrite(request, _four_length_octets))
    message = _with_body(long_body)
    assert not message.was_ber
    assert message.body_der == long_body
    content = message.decode_body()
    assert asn1.encode_body(BodyType.ir, content) == asn1.decode(IR, LIMITS).body_der


def test_cert_request_that_alone_is_ber_is_normalised() -> None:
    """The innermost part that is signed and stays opaque is DER afterwards."""
    body = asn1.decode(IR, LIMITS).body_der
    template = asn1.parse(asn1.CertRequest, asn1.raw(asn1.decode_body(BodyType.ir, body)[0].certReq)).certTemplate
    encoded = asn1.dump(template)
    message = _with_body(_replace(body, encoded, _rewrite(encoded, _four_length_octets)))
    assert asn1.encode_body(BodyType.ir, message.decode_body()) == body


@pytest.mark.parametrize("sent", ["a0020500", "a000", "800100", "80020500", "a0800000", "a08005000000"])
def test_ra_verified_of_devices_is_read(sent: str) -> None:
    """raVerified [0] NULL is `80 00`; devices send it constructed, or with a content (RFC 4211 §4)."""
    body = asn1.decode(IR, LIMITS).body_der
    (message,) = der.children(der.children(body)[0])
    cert_req = der.children(message)[0]
    sent_body = der.explicit(0, der.sequence(b"\x30\x80" + cert_req + bytes.fromhex(sent) + b"\x00\x00"))
    content = asn1.decode_body(BodyType.ir, sent_body, ber_size=10_000)
    assert content[0].popo.tag == "raVerified"
    expected = der.explicit(0, der.sequence(der.sequence(cert_req, b"\x80\x00")))
    assert asn1.encode_body(BodyType.ir, content) == expected


def test_ra_verified_with_definite_lengths_leaves_the_message_as_it_is() -> None:
    body = asn1.decode(IR, LIMITS).body_der
    cert_req = der.children(der.children(der.children(body)[0])[0])[0]
    sent = der.explicit(0, der.sequence(der.sequence(cert_req, b"\xa0\x02\x05\x00")))
    message = _with_body(sent)
    assert not message.was_ber
    assert message.body_der == sent
    assert message.decode_body()[0].popo.tag == "raVerified"


def test_explicit_default_of_critical_is_read() -> None:
    """Extension.critical DEFAULT FALSE must be absent in DER; clients exist that send it (X.690 §11.5)."""
    message = asn1.decode(IR_WITH_EXTENSIONS, LIMITS)
    value = der.children(der.children(message.body_der)[0])[0]
    san = next(one for one in _all(value) if one[:1] == b"\x30" and b"\x06\x03\x55\x1d\x11" in one[:7])
    oid, octets = der.children(san)
    body = _replace(message.body_der, san, der.sequence(oid, der.boolean(False), octets))
    (request,) = asn1.decode_body(BodyType.ir, body)
    template = asn1.parse(asn1.CertRequest, asn1.raw(request.certReq)).certTemplate
    assert template.extensions is not None
    assert [one.critical for one in template.extensions] == [False]
    assert asn1.encode_body(BodyType.ir, [request]) == body


def _all(data: bytes) -> list[bytes]:
    if not data[0] & 0x20:
        return [data]
    return [data] + [inner for one in der.children(data) for inner in _all(one)]


def test_true_of_one_is_read() -> None:
    message = asn1.decode(IR_WITH_EXTENSIONS, LIMITS)
    assert transcode(_rewrite(message.der, _true_is_one), 40) == message.der
    assert transcode(b"\x30\x03\x01\x01\x01", 40) == b"\x30\x03\x01\x01\xff"


def _implicit_string_in_pieces() -> tuple[bytes, bytes]:
    """A body whose subjectUID [8] is cut in pieces, which only the types can tell from an explicit tag; and its DER."""
    whole = der.sequence(b"\x80\x01\x02", b"\x88\x03\x00\xaa\xbb")
    pieces = der.sequence(b"\x80\x01\x02", b"\xa8\x08\x03\x02\x00\xaa\x03\x02\x00\xbb")
    made = [
        der.explicit(7, der.sequence(der.sequence(der.sequence(der.integer(0), template))))
        for template in (pieces, whole)
    ]
    return made[0], made[1]


def test_string_in_pieces_under_an_implicit_tag_is_normalised_by_pyasn1() -> None:
    body, expected = _implicit_string_in_pieces()
    assert normalise_body(body, 40) == expected
    content = asn1.decode_body(BodyType.kur, body, ber_size=1000)
    assert asn1.encode_body(BodyType.kur, content) == expected


def test_body_above_ber_size_is_not_normalised() -> None:
    body, _ = _implicit_string_in_pieces()
    for size in (0, len(body) - 1):
        with pytest.raises(MalformedError, match=r"^body \(kur\)"):
            asn1.decode_body(BodyType.kur, body, ber_size=size)


def test_message_above_ber_size_is_not_normalised() -> None:
    ber = _rewrite(IR, _indefinite)
    for size in (0, len(ber) - 1):
        with pytest.raises(MalformedError, match=r"^message"):
            asn1.decode(ber, dataclasses.replace(LIMITS, ber_size=size))
    assert asn1.decode(ber, dataclasses.replace(LIMITS, ber_size=len(ber))).was_ber


def test_limits_hold_for_a_normalised_message_too() -> None:
    ber = _rewrite(IR_WITH_EXTENSIONS, _indefinite)
    with pytest.raises(MalformedError, match="extraCerts"):
        asn1.decode(ber, dataclasses.replace(LIMITS, extra_certs=1))


@pytest.mark.parametrize("levels", [41, 1000, 8000])
@pytest.mark.parametrize("opening", [b"\x30\x80", b"\xa0\x80", b"\x24\x80"])
def test_deep_nesting_is_refused(levels: int, opening: bytes) -> None:
    data = opening * levels + b"\x05\x00" + b"\x00\x00" * levels
    with pytest.raises(MalformedError, match="more than 40 levels"):
        transcode(data, 40)
    with pytest.raises(MalformedError):
        asn1.decode(data, LIMITS)
    header = asn1.decode(IR, LIMITS).header_der
    with pytest.raises(MalformedError):
        asn1.decode(b"\x30\x80" + header + b"\xa0\x80" + data + b"\x00\x00" * 2, LIMITS)


def test_nesting_up_to_the_limit_is_read() -> None:
    data = b"\x30\x80" * 40 + b"\x05\x00" + b"\x00\x00" * 40
    assert transcode(data, 40).endswith(b"\x30\x02\x05\x00")


def test_deeply_nested_der_is_refused_or_opaque() -> None:
    """Strict decoding does not descend into opaque fields, and normalising does not descend below the limit."""
    inner = der.null()
    for _ in range(5000):
        inner = der.sequence(inner)
    message = _with_body(der.explicit(16, inner))  # cann
    assert message.decode_body() == inner
    with pytest.raises(MalformedError, match=r"body \(ir\)"):
        _with_body(der.explicit(0, inner)).decode_body()


def test_more_elements_than_the_limit_are_refused() -> None:
    data = b"\x30\x80" + b"\x05\x00" * MAX_ELEMENTS + b"\x00\x00"
    with pytest.raises(MalformedError, match="too many elements"):
        transcode(data, 40)
    assert transcode(b"\x30\x80" + b"\x05\x00" * 1000 + b"\x00\x00", 40) == der.sequence(b"\x05\x00" * 1000)


def test_long_object_identifier_is_refused() -> None:
    with pytest.raises(MalformedError, match="OBJECT IDENTIFIER"):
        transcode(b"\x30\x80" + der.tlv(der.OBJECT_IDENTIFIER, b"\x01" * (MAX_OID + 1)) + b"\x00\x00", 40)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "30",
        "3080",
        "30800500",
        "308005",
        "0000",
        "30020000",
        "3080000100",
        "30800000ff",
        "0480000000",
        "3004300305",
        "30043080050000",
        "3082",
        "30ff" + "00" * 10,
        "1f0100",
        "24800200010000",
        "238003020100030100" + "0000",
        "2380" + "0000" + "00",
        "2384ffffffff",
    ],
)
def test_what_is_not_ber_either_is_malformed(data: str) -> None:
    with pytest.raises(MalformedError):
        transcode(bytes.fromhex(data), 40)


def test_unused_bits_become_zero() -> None:
    """X.690 §11.2.1."""
    assert transcode(bytes.fromhex("030203ff"), 40) == bytes.fromhex("030203f8")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_transcode_raises_nothing_else_and_settles(data: bytes) -> None:
    for start in (b"", b"\x30\x80", b"\x24\x80", b"\x31\x81"):
        try:
            once = transcode(start + data, 20)
        except MalformedError:
            continue
        assert transcode(once, 20) == once


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_body_in_pyasn1_raises_nothing_else(data: st.DataObject) -> None:
    body = bytearray(_implicit_string_in_pieces()[0])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        normalise_body(bytes(body), 40)
    except MalformedError:
        return


def test_public_key_survives_normalisation() -> None:
    plain, ber = asn1.decode(IR, LIMITS), asn1.decode(_rewrite(IR, _in_pieces), Limits())

    def key(message: asn1.PKIMessage) -> Any:
        (request,) = message.decode_body()
        return asn1.dump(asn1.parse(asn1.CertRequest, asn1.raw(request.certReq)).certTemplate.publicKey)

    assert key(plain) == key(ber)
    assert vector("rustcrypto-cmpv2/ir_req_body_01.bin") == ber.body_der
