"""RFC 9483 §4.1.3: updating a valid certificate."""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.asn1 import BodyType, PKIStatus, der, oids
from cmpd.exchange import RevocationReason
from cmpd.ports import CMPSigner, Revocation
from tests.ee import EE, san
from tests.world import World, vendor


def old_cert_id(certificate: bytes, *, serial: int | None = None) -> bytes:
    loaded = x509.load_der_x509_certificate(certificate)
    issuer = der.explicit(4, loaded.issuer.public_bytes())
    value = der.sequence(issuer, der.integer(loaded.serial_number if serial is None else serial))
    return der.sequence(der.oid(oids.REG_CTRL_OLD_CERT_ID), value)


async def test_kur_with_a_new_key(world: World) -> None:
    ee = await world.enrolled()
    draft = ee.kur(controls=[old_cert_id(ee.certificate or b"")])
    answer = await world.send(ee, draft)
    assert (answer.type, answer.status) == (BodyType.kup, PKIStatus.accepted), answer.text
    assert answer.body.caPubs is None
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf
    renewed = EE.with_certificate(draft.key, answer.certificate_der(), now=world.clock())
    assert (await world.send(renewed, renewed.kur())).type is BodyType.kup, "and so on"


async def test_old_cert_id_may_be_left_out(world: World) -> None:
    ee = await world.enrolled()
    assert (await world.send(ee, ee.kur())).type is BodyType.kup


async def test_names_that_the_request_leaves_out_are_those_of_the_old_certificate(world: World) -> None:
    ee = await world.enrolled(extensions=[san("device-1.example.com")])
    answer = await world.send(ee, ee.kur())
    certificate = answer.certificate()
    assert certificate.subject.rfc4514_string() == "CN=device-1"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["device-1.example.com"]


async def test_subject_and_san_must_be_unchanged(world: World) -> None:
    ee = await world.enrolled(extensions=[san("device-1.example.com")])
    for request in ({"subject": "CN=device-2"}, {"extensions": [san("other.example.com")]}):
        answer = await world.send(ee, ee.kur(**request))
        assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "badCertTemplate")


async def test_a_new_key_unless_the_profile_lets_the_old_one_be_kept(world: World) -> None:
    ee = await world.enrolled()
    answer = await world.send(ee, ee.kur(ee.key))
    assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "badCertTemplate")
    assert "require_new_key" in answer.text
    world.profile(renewal={"require_new_key": False})
    assert (await world.send(ee, ee.kur(ee.key))).status is PKIStatus.accepted


async def test_a_kur_under_mac_is_refused(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.kur())
    assert (answer.type, answer.fail_info) == (BodyType.error, "wrongIntegrity")


async def test_old_cert_id_must_be_the_certificate_that_signs(world: World) -> None:
    ee, other = await world.enrolled(), await world.enrolled("CN=device-2")
    for control in (old_cert_id(other.certificate or b""), old_cert_id(ee.certificate or b"", serial=1)):
        answer = await world.send(ee, ee.kur(controls=[control]))
        assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "notAuthorized")


async def test_a_revoked_certificate_is_not_updated(world: World) -> None:
    ee = await world.enrolled()
    await world.store.revoke(Revocation(int(world.last.serial, 16), RevocationReason.superseded, world.clock()))
    answer = await world.send(ee, ee.kur())
    assert (answer.type, answer.fail_info, answer.protected) == (BodyType.error, "certRevoked", True)


async def test_an_expired_certificate_is_not_updated(world: World) -> None:
    ee = await world.enrolled()
    world.clock.tick(days=366)
    ee.now = world.clock()
    answer = await world.send(ee, ee.kur())
    assert (answer.type, answer.fail_info) == (BodyType.error, "signerNotTrusted")
    assert "expired" in world.last.private


async def test_an_unconfirmed_certificate_is_not_updated(world: World) -> None:
    ee = await world.code()
    draft = ee.ir()
    answer = await world.send(ee, draft)
    hasty = EE.with_certificate(draft.key, answer.certificate_der(), now=world.clock())
    refusal = await world.send(hasty, hasty.kur())
    assert (refusal.status, refusal.fail_info) == (PKIStatus.rejection, "notAuthorized")


async def test_a_certificate_of_a_trusted_pki_may_be_updated(world: World) -> None:
    ee, root = vendor("device-9")
    (world.base / "vendor.pem").write_bytes(root.public_bytes(Encoding.PEM))
    world.profile(enrollment={"trusted_certificates": ["vendor.pem"]})
    ee.now = world.clock()
    answer = await world.send(ee, ee.kur(subject="CN=device-9"))
    assert answer.status is PKIStatus.accepted, answer.text
    answer = await world.send(ee, ee.kur(subject="CN=device-10"))
    assert answer.fail_info == "badCertTemplate"


async def test_the_own_cmp_signer_opens_no_door(world: World) -> None:
    """A certificate under our CA that was not issued to an EE is not a credential."""
    assert isinstance(world.issuer, CMPSigner)
    key, certificates = world.issuer.cmp_credential()
    ee = EE.with_certificate(key, certificates[0], now=world.clock())
    answer = await world.send(ee, ee.kur(subject="CN=Test CMP signer"))
    assert answer.fail_info == "notAuthorized"
