"""All 27 alternatives of PKIBody, built by pyasn1-alt-modules, read and written by the codec (RFC 9810 §5.1.2)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.type import tag
from pyasn1_alt_modules import rfc9810

from cmpd import asn1
from cmpd.asn1 import BodyType, MalformedError, der, oids
from cmpd.asn1.text import describe, render
from tests.asn1.oracle import Der, body_of, build, compare, encoded, message_of
from tests.asn1.vectors import LIMITS, MESSAGES, vector

IR = MESSAGES["rustcrypto-cmpv2/ir_req_01.bin"]
CERT = vector("rustcrypto-cmpv2/ec384-ee-key.der")
NAME = der.sequence(der.set_of(der.sequence(der.oid(oids.COMMON_NAME), der.utf8_string("Gerät 7"))))
TIME = "20261123125000Z"
STATUS = {"status": 2, "statusString": ["no", "nein"], "failInfo": "badCertTemplate, notAuthorized"}
ALGORITHM = {"algorithm": "2.16.840.1.101.3.4.2.1", "parameters": der.null()}
CERT_ID = {"issuer": {"directoryName": Der(der.explicit(4, NAME))}, "serialNumber": 2**159 - 1}
EXTENSION = {"extnID": "2.5.29.19", "critical": True, "extnValue": b"\x30\x00"}
TEMPLATE: dict[str, Any] = {
    "version": 2,
    "serialNumber": -7,
    "signingAlg": {"algorithm": "1.2.840.10045.4.3.2"},
    "issuer": Der(NAME),
    "validity": {"notBefore": Der(der.tlv(der.UTC_TIME, b"261123125000Z"))},
    "subject": Der(NAME),
    "publicKey": {"algorithm": {"algorithm": "1.3.101.112"}, "subjectPublicKey": "'0102'H"},
    "issuerUID": "'8'H",
    "subjectUID": "'01'B",
    "extensions": [EXTENSION],
}
CONTROL = {"type": "1.3.6.1.5.5.7.5.1.1", "value": der.utf8_string("one-time")}
INFO = [
    {"infoType": str(oids.IMPLICIT_CONFIRM.dotted_string), "infoValue": der.null()},
    {"infoType": "1.3.6.1.5.5.7.4.6"},
]
KEY_PAIR = {"certOrEncCert": {"certificate": Der(CERT)}, "publicationInfo": {"action": 0}}
REQUEST = [
    {
        "certReq": {"certReqId": 0, "certTemplate": TEMPLATE, "controls": [CONTROL]},
        "popo": {"signature": {"algorithmIdentifier": ALGORITHM, "signature": "'ABCD'H"}},
        "regInfo": [CONTROL],
    },
    {"certReq": {"certReqId": 1, "certTemplate": {"version": 2}}, "popo": {"raVerified": Der(b"\x80\x00")}},
    {
        "certReq": {"certReqId": 2, "certTemplate": {"version": 2}},
        "popo": {"keyEncipherment": {"subsequentMessage": 1}},
    },
    {
        "certReq": {"certReqId": 3, "certTemplate": {"version": 2}},
        "popo": {"keyAgreement": {"agreeMAC": {"algId": ALGORITHM, "value": "'00'H"}}},
    },
    {"certReq": {"certReqId": 4, "certTemplate": {"version": 2}}},
]
REPLY = {
    "caPubs": [Der(CERT)],
    "response": [
        {"certReqId": 0, "status": {"status": 0}, "certifiedKeyPair": KEY_PAIR, "rspInfo": b"info"},
        {"certReqId": -1, "status": STATUS},
    ],
}
ENVELOPED = der.sequence(
    der.integer(2),
    der.set_of(der.explicit(3, der.integer(0), der.sequence(der.oid(oids.AES256_WRAP)), der.octet_string(bytes(40)))),
    der.sequence(der.oid(oids.DATA), der.sequence(der.oid(oids.AES128_CBC), der.octet_string(bytes(16)))),
)

BODIES: dict[str, Any] = {
    "ir": REQUEST,
    "ip": REPLY,
    "cr": REQUEST,
    "cp": REPLY,
    "p10cr": Der(vector("openssl/65-test_cmp_msg_data/pkcs10.der")),
    "popdecc": [
        {"owf": ALGORITHM, "witness": b"w", "challenge": b"c"},
        {"witness": b"w", "challenge": b"", "encryptedRand": Der(ENVELOPED)},
    ],
    "popdecr": [1, 2**200, -3],
    "kur": REQUEST,
    "kup": REPLY,
    "krr": REQUEST,
    "krp": {
        "status": STATUS,
        "newSigCert": Der(CERT),
        "caCerts": [Der(CERT)],
        "keyPairHist": [KEY_PAIR],
    },
    "rr": [{"certDetails": TEMPLATE, "crlEntryDetails": [EXTENSION]}, {"certDetails": {"serialNumber": 7}}],
    "rp": {"status": [STATUS, {"status": 0}], "revCerts": [CERT_ID, CERT_ID]},
    "ccr": REQUEST,
    "ccp": REPLY,
    "ckuann": {"cAKeyUpdAnnV2": {name: Der(CERT) for name in ("oldWithNew", "newWithOld", "newWithNew")}},
    "cann": Der(CERT),
    "rann": {
        "status": 5,
        "certId": CERT_ID,
        "willBeRevokedAt": TIME,
        "badSinceDate": TIME,
        "crlDetails": [EXTENSION],
    },
    "crlann": [],
    "pkiconf": Der(der.null()),
    "genm": INFO,
    "genp": INFO,
    "error": {"pKIStatusInfo": STATUS, "errorCode": 42, "errorDetails": ["detail"]},
    "certConf": [
        {"certHash": b"hash", "certReqId": 0},
        {"certHash": b"hash", "certReqId": 1, "statusInfo": STATUS, "hashAlg": ALGORITHM},
    ],
    "pollReq": [{"certReqId": 0}, {"certReqId": -1}],
    "pollRep": [{"certReqId": 0, "checkAfter": 60, "reason": ["wait"]}, {"certReqId": 1, "checkAfter": 2**40}],
}


def _build(name: str) -> Any:
    """Build one body with pyasn1."""
    body = rfc9810.PKIBody()
    value = BODIES[name]
    if isinstance(value, Der) or not value:
        build(body, {name: value})
    else:
        build(body[name], value)
    return body


def _message(body: bytes) -> asn1.PKIMessage:
    header = asn1.decode(IR, LIMITS).header_der
    return asn1.decode(asn1.encode(header, body, None), LIMITS)


def test_every_body_but_nested_is_built() -> None:
    """`nested` has a test of its own: pyasn1-alt-modules makes it a SEQUENCE OF PKIMessages."""
    assert {*BODIES, "nested"} == {one.name for one in BodyType}


@pytest.mark.parametrize("name", BODIES)
def test_body_of_pyasn1_is_read_and_written_the_same(name: str) -> None:
    theirs = _build(name)
    body = encoded(theirs)
    assert body[0] == 0xA0 | BodyType[name]
    message = _message(body)
    assert message.body_type is BodyType[name]
    content = message.decode_body()
    compare(content, body_of(body).getComponent(), name)
    assert asn1.encode_body(BodyType[name], content) == body


@pytest.mark.parametrize("name", BODIES)
def test_body_is_shown(name: str) -> None:
    message = _message(encoded(_build(name)))
    tree = describe(message)
    assert tree["message"] == name
    text = "\n".join(render(message))
    assert "malformed" not in text
    assert "one-time" not in text  # the secret in regToken
    assert b"one-time".hex() not in text


def test_nested_messages_come_back_whole() -> None:
    messages = [IR, MESSAGES["rustcrypto-cmpv2/kur_req_01.bin"]]
    spec = rfc9810.PKIMessages().subtype(explicitTag=tag.Tag(tag.tagClassContext, tag.tagFormatConstructed, 20))
    spec.extend(message_of(one) for one in messages)
    body = encoded(spec)
    message = _message(body)
    assert message.body_type is BodyType.nested
    assert message.decode_body() == messages
    assert asn1.encode_body(BodyType.nested, messages) == body
    assert "CN=MyName" in "\n".join(render(message))


def test_nested_within_nested_is_shown_to_a_depth_only() -> None:
    inner = IR
    for _ in range(30):
        inner = _message(asn1.encode_body(BodyType.nested, [inner])).der
    assert "nested too deep to be shown" in "\n".join(render(asn1.decode(inner, LIMITS)))


def test_announced_crls_come_back_whole() -> None:
    crl = der.sequence(der.sequence(der.integer(1)), der.null())
    body = asn1.encode_body(BodyType.crlann, [crl, crl])
    assert body == der.explicit(18, der.sequence(crl, crl))
    assert asn1.decode_body(BodyType.crlann, body) == [crl, crl]


def test_root_ca_key_update_in_ckuann() -> None:
    body = rfc9810.PKIBody()
    update = {"newWithNew": Der(CERT), "oldWithNew": Der(CERT)}
    build(body["ckuann"]["cAKeyUpdAnnV3"], update)
    content = asn1.decode_body(BodyType.ckuann, encoded(body))
    assert isinstance(content, asn1.RootCaKeyUpdateContent)
    assert content.newWithOld is None
    assert content.oldWithNew is not None
    assert asn1.raw(content.oldWithNew) == CERT
    assert asn1.encode_body(BodyType.ckuann, content) == encoded(body)


def test_popo_with_poposk_input() -> None:
    """authInfo as a GeneralName under [0] (RFC 4211 §4.1)."""
    spki = {"algorithm": {"algorithm": "1.3.101.112"}, "subjectPublicKey": "'01'H"}
    body = rfc9810.PKIBody()
    value = [
        {
            "certReq": {"certReqId": 0, "certTemplate": {"version": 2}},
            "popo": {
                "signature": {
                    "poposkInput": {"authInfo": {"sender": {"rfc822Name": "a@example.org"}}, "publicKey": spki},
                    "algorithmIdentifier": ALGORITHM,
                    "signature": "'AB'H",
                }
            },
        }
    ]
    build(body["ir"], value)
    (request,) = content = asn1.decode_body(BodyType.ir, encoded(body))
    assert request.popo.tag == "signature"
    assert der.children(asn1.raw(request.popo.value.poposkInput.authInfo)) == [der.tlv(0x81, b"a@example.org")]
    assert asn1.encode_body(BodyType.ir, content) == encoded(body)
    assert "email:a@example.org" in "\n".join(render(_message(encoded(body))))


@pytest.mark.parametrize("body_type", BodyType)
def test_body_under_the_tag_of_another_is_refused(body_type: BodyType) -> None:
    """The tag octet alone decides; the content of another type is malformed or, where the types agree, read."""
    body = encoded(_build("pkiconf"))
    if body_type in {BodyType.pkiconf, BodyType.cann}:  # cann is opaque
        return
    with pytest.raises(MalformedError, match=rf"^body \({body_type.name}\): "):
        asn1.decode_body(body_type, bytes((0xA0 | body_type,)) + body[1:])
    with pytest.raises(MalformedError, match=rf"^body \({body_type.name}\): a tag of another"):
        asn1.decode_body(body_type, body)


def test_empty_cert_req_messages_is_refused() -> None:
    """CertReqMessages ::= SEQUENCE SIZE (1..MAX) (RFC 4211 §3)."""
    with pytest.raises(MalformedError, match=r"body \(ir\)"):
        asn1.decode_body(BodyType.ir, der.explicit(0, der.sequence()))


def test_cert_req_that_does_not_parse_is_refused_with_the_body() -> None:
    message = der.sequence(der.sequence(der.integer(0), der.octet_string(b"no template")))
    with pytest.raises(MalformedError, match=r"body \(kur\)"):
        asn1.decode_body(BodyType.kur, der.explicit(7, der.sequence(message)))


def test_list_longer_than_the_limit_is_refused() -> None:
    body = asn1.encode_body(BodyType.pollReq, [asn1.PollReq(certReqId=n) for n in range(11)])
    assert len(asn1.decode_body(BodyType.pollReq, body, 11)) == 11
    with pytest.raises(MalformedError, match="more than 10 elements"):
        asn1.decode_body(BodyType.pollReq, body, 10)


def test_trailing_octets_in_a_body_are_refused() -> None:
    with pytest.raises(MalformedError):
        asn1.decode_body(BodyType.pkiconf, der.explicit(19, der.null(), der.null()))
    with pytest.raises(MalformedError):
        asn1.decode_body(BodyType.pkiconf, der.explicit(19, der.null()) + b"\x00")


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(BODIES)), st.data())
def test_damaged_body_raises_nothing_but_malformed_error(name: str, data: st.DataObject) -> None:
    body = bytearray(encoded(_build(name)))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        content = asn1.decode_body(BodyType[name], bytes(body), 1000, ber_size=10_000)
    except MalformedError as exc:
        assert str(exc).startswith(f"body ({name}): ")  # noqa: PT017  no error is as welcome
    else:
        asn1.encode_body(BodyType[name], content)
