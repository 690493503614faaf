"""Messages of other implementations: octet for octet, and field by field as pyasn1 sees them."""

import json
import unicodedata
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from cmpd import asn1
from cmpd.asn1 import der, oids
from cmpd.asn1.text import describe, render
from tests.asn1.oracle import compare, message_of
from tests.asn1.vectors import EMPTY_EXTRA_CERTS, LIMITS, MESSAGES, vector

each_message = pytest.mark.parametrize("path", MESSAGES)


def test_the_vectors_are_there() -> None:
    assert len(MESSAGES) >= 24
    types = {asn1.decode(data, LIMITS).body_type.name for data in MESSAGES.values()}
    assert types >= {"ir", "ip", "cr", "cp", "p10cr", "kur", "kup", "rr", "rp", "genm", "genp", "error", "certConf"}


@each_message
def test_message_round_trips_octet_for_octet(path: str) -> None:
    data = MESSAGES[path]
    message = asn1.decode(data, LIMITS)
    assert not message.was_ber
    assert message.der == data
    again = asn1.encode(message.header_der, message.body_der, message.protection, message.extraCerts)
    if path in EMPTY_EXTRA_CERTS:  # what ASN.1 forbids is read but not written
        assert data.endswith(b"\xa1\x02\x30\x00")
        assert der.content(again, der.SEQUENCE) == der.content(data, der.SEQUENCE)[:-4]
    else:
        assert again == data


@each_message
def test_header_and_body_round_trip_octet_for_octet(path: str) -> None:
    message = asn1.decode(MESSAGES[path], LIMITS)
    assert asn1.dump(message.header) == message.header_der
    assert asn1.encode_body(message.body_type, message.decode_body()) == message.body_der


@each_message
def test_message_agrees_with_pyasn1_field_by_field(path: str) -> None:
    data = MESSAGES[path]
    message, theirs = asn1.decode(data, LIMITS), message_of(data)
    compare(message.header, theirs["header"], "header")
    assert message.body_type.name == theirs["body"].getName()
    compare(message.decode_body(), theirs["body"].getComponent(), message.body_type.name)
    if message.protection is None:
        assert not theirs["protection"].isValue
    else:
        assert message.protection == theirs["protection"].asOctets()
    compare(
        message.extraCerts if message.extraCerts or path in EMPTY_EXTRA_CERTS else None,
        theirs["extraCerts"],
        "extraCerts",
    )


@each_message
def test_every_flipped_field_would_be_noticed(path: str) -> None:
    """The comparison with pyasn1 can fail: another transactionID is found."""
    data = MESSAGES[path]
    message, theirs = asn1.decode(data, LIMITS), message_of(data)
    message.header.transactionID = b"another"
    with pytest.raises(AssertionError, match="transactionID"):
        compare(message.header, theirs["header"], "header")


def _verify(key: Any, message: asn1.PKIMessage) -> None:
    protection, part = message.protection, message.protected_part()
    assert protection is not None
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(protection, part, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(protection, part, ec.ECDSA(hashes.SHA256()))
    else:
        assert isinstance(key, ed25519.Ed25519PublicKey)
        key.verify(protection, part)


@pytest.mark.parametrize(
    ("path", "signer"),
    [
        ("openssl/65-test_cmp_vfy_data/IR_protected.der", "openssl/65-test_cmp_vfy_data/server.crt"),
        ("openssl/65-test_cmp_vfy_data/IR_protected_0_extraCerts.der", "openssl/65-test_cmp_vfy_data/insta.cert.pem"),
        ("openssl/65-test_cmp_vfy_data/IR_protected_2_extraCerts.der", "openssl/65-test_cmp_vfy_data/insta.cert.pem"),
        ("rustcrypto-cmpv2/ir_rsp_01.bin", "rustcrypto-cmpv2/ec384-server-key.crt"),
        ("rustcrypto-cmpv2/cr_rsp_01.bin", "rustcrypto-cmpv2/ec384-server-key.crt"),
        ("rustcrypto-cmpv2/failed_kur_rsp_01.bin", "rustcrypto-cmpv2/ec384-server-key.crt"),
    ],
)
def test_protected_part_is_what_the_sender_signed(path: str, signer: str) -> None:
    pem = vector(signer)
    certificate = (
        x509.load_pem_x509_certificate(pem) if pem.startswith(b"-----") else x509.load_der_x509_certificate(pem)
    )
    message = asn1.decode(MESSAGES[path], LIMITS)
    _verify(certificate.public_key(), message)
    assert message.protected_part() == asn1.protected_part(message.header_der, message.body_der)


def test_protected_part_is_what_an_ed25519_sender_signed() -> None:
    key = serialization.load_pem_private_key(vector("openssl/65-test_cmp_protect_data/prot_Ed.pem"), None)
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    _verify(key.public_key(), asn1.decode(MESSAGES["openssl/65-test_cmp_protect_data/GENM_protected_Ed.der"], LIMITS))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("pyasn1-alt-modules/rfc4211-CertificateReqTestCase.der", asn1.CertReqMsg),
        ("rustcrypto-crmf/certreqmsg.bin", asn1.CertReqMsg),
        ("rustcrypto-crmf/certrequest.bin", asn1.CertRequest),
        ("rustcrypto-crmf/certtemplate.bin", asn1.CertTemplate),
        ("openssl/65-test_cmp_msg_data/pkcs10.der", asn1.CertificationRequest),
        ("rfc9483/rfc9483-appA-CertReqTemplateContent.der", asn1.CertReqTemplateContent),
        ("rustcrypto-cmpv2/rr_rsp_header_01.bin", asn1.PKIHeader),
    ],
)
def test_parts_of_messages_round_trip(path: str, kind: type) -> None:
    data = vector(path)
    if path.endswith("CertificateReqTestCase.der"):  # CertReqMessages of one
        (data,) = der.children(data)
    assert asn1.dump(asn1.parse(kind, data)) == data


@pytest.mark.parametrize("name", ["genm_req", "ir_req", "ir_rsp", "kur_req", "rr_rsp"])
def test_header_and_body_are_cut_where_others_cut_them(name: str) -> None:
    header = vector(f"rustcrypto-cmpv2/{name}_header_01.bin")
    body = vector(f"rustcrypto-cmpv2/{name}_body_01.bin")
    message = asn1.decode(vector(f"rustcrypto-cmpv2/{name}_01.bin"), LIMITS)
    assert (message.header_der, message.body_der) == (header, body)


def test_algorithm_identifiers_of_rfc_9481() -> None:
    for one in der.children(vector("pyasn1-alt-modules/rfc9481-CMPAlgorithmsTestCase.der")):
        algorithm = asn1.parse(asn1.AlgorithmIdentifier, one)
        assert asn1.dump(algorithm) == one
        assert oids.name(algorithm.algorithm) != algorithm.algorithm.dotted_string


def test_public_key_of_a_template_is_the_spki_the_client_holds() -> None:
    """CertTemplate tags publicKey [6] IMPLICIT; dumped by itself it is the SubjectPublicKeyInfo again (RFC 4211 §5)."""
    message = asn1.decode(MESSAGES["rustcrypto-cmpv2/kur_req_01.bin"], LIMITS)
    (request,) = message.decode_body()
    template = asn1.parse(asn1.CertRequest, asn1.raw(request.certReq)).certTemplate
    key = serialization.load_der_public_key(asn1.dump(template.publicKey))
    expected = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert asn1.dump(template.publicKey) == expected


@each_message
def test_message_is_shown_in_plain_characters(path: str) -> None:
    message = asn1.decode(MESSAGES[path], LIMITS)
    lines = render(message)
    assert lines[0] == f"message: {message.body_type.name}"
    assert any("pvno: " in line for line in lines)
    assert not [line for line in lines if "malformed" in line]
    assert all(unicodedata.category(char) not in {"Cc", "Cf", "Co"} for line in lines for char in line)
    assert json.loads(json.dumps(describe(message)))["message"] == message.body_type.name
