"""RFC 9483 §4.1.3: updating a valid certificate."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.asn1 import BodyType, PKIStatus, der, oids
from cmpd.exchange import RevocationReason, ServiceUserCertificate
from cmpd.issuers.local import LocalIssuer
from cmpd.ports import CMPSigner, Revocation
from tests.ee import EE, new_key, san
from tests.world import World, certificate, vendor


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


# The renewal window and the grace after expiry


def ends(ee: EE) -> datetime:
    return x509.load_der_x509_certificate(ee.certificate or b"").not_valid_after_utc


def at(world: World, ee: EE, moment: datetime) -> None:
    world.clock.now = ee.now = moment


async def test_a_kur_before_the_window_is_refused_with_the_date_it_opens(world: World) -> None:
    world.profile(renewal={"window_days": 30})
    ee = await world.enrolled()
    opens = ends(ee) - timedelta(days=30)
    for moment in (world.clock(), opens - timedelta(seconds=1)):
        at(world, ee, moment)
        answer = await world.send(ee, ee.kur())
        assert (answer.type, answer.status, answer.fail_info) == (BodyType.kup, PKIStatus.rejection, "badRequest")
        assert f"{opens:%Y-%m-%dT%H:%M:%SZ}" in answer.text
        assert "renewal.window_days" in answer.text
    at(world, ee, opens)
    assert (await world.send(ee, ee.kur())).status is PKIStatus.accepted


async def test_the_window_may_be_switched_off(world: World) -> None:
    world.profile(renewal={"window_days": 30, "reject_outside_window": False})
    ee = await world.enrolled()
    assert (await world.send(ee, ee.kur())).status is PKIStatus.accepted


async def test_an_expired_certificate_is_updated_within_the_grace(world: World) -> None:
    """With its certConf, though that is signed with the expired certificate too, and may come after the grace."""
    world.profile(renewal={"grace": "10d"})
    ee = await world.enrolled()
    last = ends(ee) + timedelta(days=10)
    at(world, ee, last)
    answer = await world.send(ee, ee.kur())
    assert answer.status is PKIStatus.accepted, answer.text
    at(world, ee, last + timedelta(minutes=5))
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf
    at(world, ee, last + timedelta(seconds=1))
    answer = await world.send(ee, ee.kur())
    assert (answer.type, answer.fail_info) == (BodyType.error, "signerNotTrusted")
    assert "expired" in world.last.private


async def test_the_grace_holds_whether_the_path_is_known_or_not(world: World) -> None:
    """What was validated for a kur opens nothing else, and what was found expired before is no hindrance."""
    world.profile(renewal={"grace": "10d"})
    ee = await world.enrolled()
    at(world, ee, ends(ee) + timedelta(days=1))
    for _ in range(2):
        assert (await world.send(ee, ee.cr())).fail_info == "signerNotTrusted"
        assert (await world.send(ee, ee.kur())).status is PKIStatus.accepted
    world.restart()
    assert (await world.send(ee, ee.cr())).fail_info == "signerNotTrusted"
    assert (await world.send(ee, ee.cert_conf(await world.send(ee, ee.kur())))).type is BodyType.pkiconf
    at(world, ee, ends(ee) + timedelta(days=11))
    assert (await world.send(ee, ee.kur())).fail_info == "signerNotTrusted"


async def test_in_the_grace_the_rules_of_kur_hold(world: World) -> None:
    world.profile(renewal={"grace": "10d"})
    ee = await world.enrolled()
    serial = int(world.last.serial, 16)
    at(world, ee, ends(ee) + timedelta(days=1))
    assert (await world.send(ee, ee.kur(subject="CN=device-2"))).fail_info == "badCertTemplate"
    await world.store.revoke(Revocation(serial, RevocationReason.superseded, world.clock()))
    assert (await world.send(ee, ee.kur())).fail_info == "certRevoked"


async def test_the_grace_is_for_certificates_of_ours(world: World) -> None:
    root_key, key = new_key(), new_key()
    root = certificate(root_key, "Vendor Root", ca=True, not_after=datetime.now(UTC) + timedelta(days=60))
    leaf = certificate(key, "device-9", root_key, root)
    (world.base / "vendor.pem").write_bytes(root.public_bytes(Encoding.PEM))
    world.profile(enrollment={"trusted_certificates": ["vendor.pem"]}, renewal={"grace": "10d"})
    ee = EE.with_certificate(key, leaf.public_bytes(Encoding.DER), now=world.clock())
    assert (await world.send(ee, ee.kur(subject="CN=device-9"))).status is PKIStatus.accepted
    at(world, ee, ends(ee) + timedelta(days=1))
    answer = await world.send(ee, ee.kur(subject="CN=device-9"))
    assert answer.fail_info == "signerNotTrusted"
    assert "has expired" in answer.text


async def test_the_grace_is_not_for_the_ca(world: World) -> None:
    """A certificate that was cut at the end of its CA is not updated after it."""
    assert isinstance(world.issuer, LocalIssuer)
    world.profile(renewal={"grace": "30d"}, validity={"default": "50y", "max": "50y"})
    ee = await world.enrolled()
    assert ends(ee) == world.issuer.not_after
    at(world, ee, ends(ee))
    assert (await world.send(ee, ee.kur())).fail_info != "signerNotTrusted"
    at(world, ee, ends(ee) + timedelta(seconds=1))
    assert (await world.send(ee, ee.kur())).fail_info == "signerNotTrusted"


async def test_an_ra_does_not_update_what_expired_long_ago(world: World) -> None:
    old = await world.enrolled()
    ra = registration_authority(world, renewal={"grace": "10d"})
    control = old_cert_id(old.certificate or b"")
    at(world, ra, ends(old) + timedelta(days=11))
    answer = await world.send(ra, ra.kur(controls=[control]))
    assert answer.fail_info == "badRequest"
    assert "renewal.grace" in answer.text
    at(world, ra, ends(old) + timedelta(days=10))
    assert (await world.send(ra, ra.kur(controls=[control]))).status is PKIStatus.accepted


def registration_authority(world: World, **changes: Any) -> EE:
    root_key, key = new_key(), new_key()
    far = datetime.now(UTC) + timedelta(days=3650)
    root = certificate(root_key, "RA Root", ca=True, not_after=far)
    leaf = certificate(key, "RA 1", root_key, root, eku=[oids.KP_CMC_RA], not_after=far)
    (world.base / "ra.pem").write_bytes(root.public_bytes(Encoding.PEM))
    world.profile(enrollment={"ra_certificates": ["ra.pem"]}, **changes)
    return EE.with_certificate(key, leaf.public_bytes(Encoding.DER), now=world.clock())


# A profile for one client


async def test_a_profile_with_a_service_user_is_for_it_alone(world: World) -> None:
    root_key = new_key()
    root = certificate(root_key, "Services", ca=True)
    (world.base / "services.pem").write_bytes(root.public_bytes(Encoding.PEM))
    world.profile(
        enrollment={
            "authentication_method": "tls_certificate",
            "trusted_certificates": ["services.pem"],
            "service_user": "gateways",
        }
    )
    users = {}
    for name in ("gateway", "someone"):
        key = new_key()
        leaf = certificate(key, name, root_key, root)
        users[name] = EE.with_certificate(key, leaf.public_bytes(Encoding.DER), now=world.clock())
    gateway, someone = users["gateway"], users["someone"]
    assert gateway.certificate is not None
    fingerprint = hashlib.sha256(gateway.certificate).hexdigest()
    await world.store.add_service_user(ServiceUserCertificate("gateways", world.clock(), fingerprint))
    answer = await world.send(someone, someone.ir())
    assert (answer.type, answer.fail_info) == (BodyType.error, "notAuthorized")
    assert "enrollment.service_user" in answer.text
    draft = gateway.ir(subject="CN=gateway")
    answer = await world.send(gateway, draft)
    assert answer.status is PKIStatus.accepted, answer.text
    await world.send(gateway, gateway.cert_conf(answer))
    issued = EE.with_certificate(draft.key, answer.certificate_der(), now=world.clock())
    assert (await world.send(issued, issued.cr(subject="CN=gateway"))).fail_info == "notAuthorized", "only its name"
    assert (await world.send(issued, issued.kur(subject="CN=gateway"))).status is PKIStatus.accepted
