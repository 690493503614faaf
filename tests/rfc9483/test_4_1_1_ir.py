"""RFC 9483 §4.1.1: enrolling an end entity to a new PKI."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cmpd import asn1
from cmpd.asn1 import BodyType, PKIStatus, der, oids
from cmpd.protection.signature import certificate_hash
from tests.ee import new_key, san, spki
from tests.world import World, certificate, vendor

KEYS = ["rsa-2048", "rsa-4096", "ec-p256", "ec-p384", "ec-p521", "ed25519", "ed448"]
KEYS += ["ml-dsa-44", "ml-dsa-65", "ml-dsa-87"]


@pytest.mark.parametrize("kind", KEYS)
async def test_every_key_type_gets_a_certificate(world: World, kind: str) -> None:
    ee = await world.code()
    draft = ee.ir(new_key(kind))
    answer = await world.send(ee, draft)
    assert (answer.type, answer.status) == (BodyType.ip, PKIStatus.accepted), answer.text
    public = answer.certificate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public == spki(draft.key)
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf
    assert world.last.outcome == "confirmed"
    (stored,) = await world.store.certificates_of(draft.transaction_id or b"")
    assert stored.status == "valid"
    assert f"{stored.serial:x}" == world.last.serial


async def test_subject_and_san_are_those_of_the_request(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir(subject="O=Acme,CN=gw.example.com", extensions=[san("gw.example.com")]))
    certificate = answer.certificate()
    assert certificate.subject.rfc4514_string() == "CN=gw.example.com,O=Acme"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gw.example.com"]


async def test_extra_certs_and_ca_pubs(world: World) -> None:
    """§3.3: the chain of the new certificate without the root; §4.1: the root in caPubs, under a shared secret."""
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    chain = await world.issuer.chain()
    assert tuple(answer.message.extraCerts) == chain[:-1]
    (root,) = answer.body.caPubs
    assert asn1.raw(root) == chain[-1]
    answer.certificate().verify_directly_issued_by(x509.load_der_x509_certificate(chain[0]))


async def test_signed_by_a_vendor_certificate(world: World) -> None:
    ee, root = vendor("IDevID 4711")
    (world.base / "vendor.pem").write_bytes(root.public_bytes(Encoding.PEM))
    world.profile(enrollment={"authentication_method": "tls_certificate", "trusted_certificates": ["vendor.pem"]})
    ee.now = world.clock()
    answer = await world.send(ee, ee.ir(subject="CN=device-1"))
    assert answer.type is BodyType.ip, (answer.text, world.last.private)
    assert answer.body.caPubs is None
    assert answer.message.extraCerts[0] not in await world.issuer.chain()
    done = await world.send(ee, ee.cert_conf(answer))
    assert done.type is BodyType.pkiconf
    assert done.protected
    assert done.message.extraCerts, "pkiconf carries the certificate that a client verifies it with"


async def test_exactly_one_request(world: World) -> None:
    ee = await world.code()
    two = der.sequence(ee.cert_req_msg(new_key()), ee.cert_req_msg(new_key(), cert_req_id=1))
    answer = await world.send(ee, ee.draft(BodyType.ir, two))
    assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "badRequest")
    answer = await world.send(ee, ee.draft(BodyType.ir, der.sequence()))
    assert answer.fail_info in {"badRequest", "badDataFormat"}


@pytest.mark.parametrize("cert_req_id", [1, -1, 2**31, 2**70])
async def test_cert_req_id_must_be_0(world: World, cert_req_id: int) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir(cert_req_id=cert_req_id))
    assert answer.status is PKIStatus.rejection
    assert answer.fail_info in {"badRequest", "badDataFormat"}


_NULL_DN = der.explicit(5, der.sequence())


def _public_key(*parts: bytes) -> bytes:
    return der.tlv(0xA6, *parts)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (lambda key: der.sequence(der.tlv(0x80, b"\x00"), _NULL_DN, _public_key(*der.children(spki(key)))), "version"),
        (lambda _: der.sequence(_NULL_DN), "publicKey"),
        (lambda key: der.sequence(_public_key(der.children(spki(key))[0], der.bit_string(b""))), "publicKey"),
    ],
)
async def test_templates_that_are_refused(world: World, template: Any, text: str) -> None:
    ee = await world.code()
    key = new_key()
    answer = await world.send(ee, ee.ir(key, template=template(key)))
    assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "badCertTemplate")
    assert text in answer.text


@pytest.mark.parametrize(
    ("control", "text"),
    [
        (der.sequence(der.oid(oids.REG_CTRL_REG_TOKEN), der.utf8_string("password")), "regToken"),
        (der.sequence(der.oid(oids.REG_CTRL_AUTHENTICATOR), der.utf8_string("maiden name")), "authenticator"),
        (der.sequence(der.oid(oids.REG_CTRL_PKI_ARCHIVE_OPTIONS), der.tlv(0x82, b"\xff")), "escrow"),
    ],
)
async def test_controls_that_are_refused_in_words(world: World, control: bytes, text: str) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir(controls=[control]))
    assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "badRequest")
    assert text in answer.text
    assert "password" not in answer.text


async def test_policy_is_said_with_field_and_rule(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir(subject="CN=x,C=DE"))
    assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "badCertTemplate")
    assert "country_name" in answer.text


async def test_granted_with_mods(world: World) -> None:
    world.profile(subject={"on_unlisted": "drop"})
    ee = await world.code()
    answer = await world.send(ee, ee.ir(subject="CN=x,C=DE"))
    assert answer.status is PKIStatus.grantedWithMods
    assert "country_name" in answer.text
    assert world.last.outcome == "grantedWithMods"
    assert answer.certificate().subject.rfc4514_string() == "CN=x"


# --------------------------------------------------------------------------------------------------- certConf


async def test_a_certificate_rejected_by_the_ee_is_revoked(world: World) -> None:
    ee = await world.code()
    draft = ee.ir()
    answer = await world.send(ee, draft)
    done = await world.send(ee, ee.cert_conf(answer, status=PKIStatus.rejection))
    assert done.type is BodyType.pkiconf
    (stored,) = await world.store.certificates_of(draft.transaction_id or b"")
    assert (stored.status, stored.revoked_at) == ("revoked", world.clock.now)
    assert world.last.outcome == "rejected"
    (revoked,) = await world.store.revoked("local")
    assert revoked.serial == stored.serial


async def test_an_explicit_acceptance(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    assert (await world.send(ee, ee.cert_conf(answer, status=PKIStatus.accepted))).type is BodyType.pkiconf
    assert world.last.outcome == "confirmed"


async def test_a_confirmation_that_never_comes_revokes_the_certificate(world: World) -> None:
    ee = await world.code()
    draft = ee.ir()
    answer = await world.send(ee, draft)
    world.clock.tick(minutes=10)
    (expired,) = await world.store.expire(world.clock())
    assert expired.transaction_id == draft.transaction_id
    (stored,) = await world.store.certificates_of(draft.transaction_id or b"")
    assert stored.status == "revoked"
    ee.now = world.clock()
    late = await world.send(ee, ee.cert_conf(answer))
    assert (late.type, late.fail_info) == (BodyType.error, "badRequest")
    assert "expired" in late.text


async def test_a_wrong_cert_hash_confirms_nothing(world: World) -> None:
    ee = await world.code()
    draft = ee.ir()
    answer = await world.send(ee, draft)
    wrong = await world.send(ee, ee.cert_conf(answer, cert_hash=bytes(32)))
    assert (wrong.type, wrong.fail_info, wrong.protected) == (BodyType.error, "badCertId", True)
    (stored,) = await world.store.certificates_of(draft.transaction_id or b"")
    assert stored.status == "unconfirmed"
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf


@pytest.mark.parametrize("cert_req_id", [1, -1, 2**40])
async def test_a_wrong_cert_req_id_confirms_nothing(world: World, cert_req_id: int) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    wrong = await world.send(ee, ee.cert_conf(answer, cert_req_id=cert_req_id))
    assert wrong.fail_info in {"badCertId", "badDataFormat"}


async def test_an_empty_certconf_rejects_all(world: World) -> None:
    """RFC 9810 §5.3.18."""
    ee = await world.code()
    draft = ee.ir()
    answer = await world.send(ee, draft)
    done = await world.send(ee, ee.follow(answer, BodyType.certConf, der.sequence()))
    assert done.type is BodyType.pkiconf
    (stored,) = await world.store.certificates_of(draft.transaction_id or b"")
    assert stored.status == "revoked"


async def test_hash_alg_needs_pvno_3(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    two = await world.send(ee, ee.cert_conf(answer, hash_alg=oids.SHA512, hash_name="sha512"))
    assert two.fail_info == "unsupportedVersion"
    three = await world.send(ee, ee.cert_conf(answer, hash_alg=oids.SHA512, hash_name="sha512", pvno=3))
    assert three.type is BodyType.pkiconf
    assert three.message.header.pvno == 3


async def test_an_unknown_hash_alg(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    wrong = await world.send(ee, ee.cert_conf(answer, hash_alg=oids.MD5, hash_name="md5", pvno=3))
    assert wrong.fail_info == "badAlg"


async def test_a_second_certconf_of_other_octets(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    await world.send(ee, ee.cert_conf(answer))
    again = await world.send(ee, ee.cert_conf(answer))
    assert again.fail_info == "certConfirmed"


async def test_an_ee_that_sends_an_error_gives_up(world: World) -> None:
    """RFC 9810 §5.3.21: it is answered with a pkiconf, and its certificate is revoked."""
    ee = await world.code()
    draft = ee.ir()
    answer = await world.send(ee, draft)
    error = der.sequence(der.sequence(der.integer(2), der.sequence(der.utf8_string("no, thank you"))))
    done = await world.send(ee, ee.follow(answer, BodyType.error, error))
    assert done.type is BodyType.pkiconf
    (stored,) = await world.store.certificates_of(draft.transaction_id or b"")
    assert stored.status == "revoked"
    assert "no, thank you" in world.last.private


async def test_the_code_is_consumed_by_success_only(world: World) -> None:
    ee = await world.code(uses=2)
    await world.send(ee, ee.ir(subject="CN=x,C=DE"))
    assert await world.used() == 0
    await world.send(ee, ee.ir())
    assert await world.used() == 1


async def test_validity_is_that_of_the_profile(world: World) -> None:
    ee = await world.code()
    certificate = (await world.send(ee, ee.ir())).certificate()
    assert certificate.not_valid_after_utc - world.clock.now <= timedelta(days=365)
    assert certificate.not_valid_before_utc <= world.clock.now


async def test_serial_numbers_have_128_random_bits(world: World) -> None:
    ee = await world.code(uses=None)
    serials = [(await world.send(ee, ee.ir())).certificate().serial_number for _ in range(20)]
    assert len(set(serials)) == 20
    assert max(serial.bit_length() for serial in serials) > 120
    assert all(0 < serial < 2**159 for serial in serials)


async def test_the_certhash_of_an_ed25519_ca_is_sha512(world: World) -> None:
    """RFC 9481 §3.3, in the function that certConf uses; a CA of that kind is in tests/issuers."""
    der_ = certificate(new_key("ed25519"), "Ed").public_bytes(Encoding.DER)
    assert certificate_hash(der_, None) == hashlib.sha512(der_).digest()
