"""One profile for a whole fleet: every way in by the same URL, what follows on it, and who is kept out of it."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from cmpd.asn1 import BodyType, PKIStatus, oids
from cmpd.exchange import NewCode, RevocationReason, ServiceUserCertificate
from cmpd.ports import Revocation
from tests.access.pki import PKI, bare, loaded, tls, write
from tests.access.ways import RA_VERIFIED
from tests.ee import EE
from tests.world import SECRET, World

URL = {"code": "fleet"}
"""What the URL of everybody names."""


async def test_every_way_in_by_one_url(world: World) -> None:
    """Code for the first ir, certificate for what follows, vendor's certificate, and RA."""
    maker, ras = PKI("Maker Root"), PKI("RA Root")
    world.profile(
        enrollment={
            "vendor": {
                "trusted_certificates": [write(world.base, "maker.pem", maker.root)],
                "allow_list": False,
                "subject": "CN={serial}.example.com",
                "serial_from": "subject.common_name",
            },
            "ra_certificates": [write(world.base, "ras.pem", ras.root)],
        }
    )
    await world.store.create_codes([NewCode("device", "fleet", SECRET.encode(), uses=None)], world.clock())
    now = world.clock()

    async def enroll(ee: EE, draft: Any) -> EE:
        answer = await world.send(ee, draft, **URL)
        assert answer.status is PKIStatus.accepted, answer.text
        assert (await world.send(ee, ee.cert_conf(answer), **URL)).type is BodyType.pkiconf
        return EE.with_certificate(draft.key, answer.certificate_der(), now=now)

    by_code = EE.with_code("any", SECRET, now=now)
    own = await enroll(by_code, by_code.ir(subject="CN=device-1"))
    own = await enroll(own, own.kur(subject="CN=device-1"))
    await enroll(own, own.cr(subject="CN=device-1"))
    device = maker.client("0815", now=now)
    await enroll(device, device.ir(subject=""))
    ra = ras.client("RA 1", now=now, eku=[oids.KP_CMC_RA])
    await enroll(ra, ra.ir(subject="CN=device-2", popo=RA_VERIFIED))
    assert await world.used("fleet") == 1, "the code is used by those who prove that they have it"
    assert {exchange.profile for exchange in world.exchanges} == {"device"}


# The service user


@pytest.fixture
def clients(world: World) -> PKI:
    clients = PKI("Clients Root")
    write(world.base, "clients.pem", clients.root)
    return clients


async def user(world: World, ee: EE, name: str = "gateways") -> None:
    assert ee.certificate is not None
    print_ = hashlib.sha256(ee.certificate).hexdigest()
    await world.store.add_service_user(ServiceUserCertificate(name, world.clock(), print_))


async def test_a_certificate_of_another_service_user_is_nobody(world: World, clients: PKI) -> None:
    world.profile(
        enrollment={
            "authentication_method": "tls_certificate",
            "trusted_certificates": ["clients.pem"],
            "service_user": "gateways",
        }
    )
    ee = clients.client("gateway", now=world.clock())
    await user(world, ee, "printers")
    assert (await world.send(ee, ee.ir())).fail_info == "notAuthorized"
    await user(world, ee)
    assert (await world.send(ee, ee.ir())).status is PKIStatus.accepted
    assert await world.store.remove_service_user("gateways") == 1
    answer = await world.send(ee, ee.ir())
    assert answer.fail_info == "notAuthorized", "at once"
    assert "gateways" not in answer.text
    assert "gateways" in world.last.private


@pytest.mark.parametrize("binding", ["same_certificate", "same_subject"])
@pytest.mark.parametrize("profile_tls", ["required", "unprotected"])
async def test_what_the_service_user_was_issued_can_be_renewed(
    world: World, clients: PKI, binding: str, profile_tls: str
) -> None:
    """By a kur with it, over TLS with the same certificate; for nothing else it makes anybody the service user."""
    world.profile(
        enrollment={
            "authentication_method": "tls_certificate",
            "trusted_certificates": ["clients.pem"],
            "service_user": "gateways",
            "tls": {profile_tls: True, "binding": binding},
        }
    )
    unprotected = profile_tls == "unprotected"
    ee = clients.client("gateway", now=world.clock())
    await user(world, ee)
    client = bare(world.clock()) if unprotected else ee
    draft = client.ir(subject="CN=gateway")
    answer = await world.send(client, draft, client=tls(ee))
    assert (await world.send(client, client.cert_conf(answer), client=tls(ee))).type is BodyType.pkiconf
    own = EE.with_certificate(draft.key, answer.certificate_der(), now=world.clock())
    sender = bare(world.clock()) if unprotected else own
    assert (await world.send(sender, sender.cr(subject="CN=gateway"), client=tls(own))).fail_info == "notAuthorized"
    answer = await world.send(sender, sender.kur(subject="CN=gateway"), client=tls(own))
    assert answer.status is PKIStatus.accepted, answer.text


# TLS clients with a certificate of ours


@pytest.fixture
async def beside_a_code(world: World, clients: PKI) -> EE:
    """A profile that asks for a code and a TLS client certificate; who has the code."""
    world.profile(enrollment={"tls": {"required": True, "trusted_certificates": ["clients.pem"]}})
    return await world.code(uses=None)


async def test_a_certificate_of_the_profile_is_good_for_tls(world: World, beside_a_code: EE, clients: PKI) -> None:
    ee = beside_a_code
    draft = ee.ir()
    gateway = clients.client("gateway", now=world.clock())
    answer = await world.send(ee, draft, client=tls(gateway))
    own = EE.with_certificate(draft.key, answer.certificate_der(), now=world.clock())
    refused = await world.send(ee, ee.ir(), client=tls(own))
    assert refused.fail_info == "notAuthorized", "it has not been confirmed"
    assert "confirmed" in refused.text
    await world.send(ee, ee.cert_conf(answer), client=tls(gateway))
    assert (await world.send(ee, ee.ir(), client=tls(own))).status is PKIStatus.accepted


async def test_a_certificate_of_another_profile_is_not(world: World, beside_a_code: EE) -> None:
    world.profile("other")
    other = await world.enrolled(profile="other")
    answer = await world.send(beside_a_code, beside_a_code.ir(), client=tls(other))
    assert answer.fail_info == "notAuthorized"
    assert "another profile" in answer.text
    assert answer.protected


async def test_an_ra_with_a_certificate_of_ours_is_an_ra_by_tls_as_well(world: World) -> None:
    """Its certificate comes from the profile for RAs; ra_certificates lists it."""
    world.profile("ras", extensions={"extended_key_usage": {"optional_usages": ["client_auth"]}})
    ra = await world.enrolled("CN=RA 1", profile="ras")
    clients = PKI("Clients Root")
    world.profile(
        enrollment={
            "authentication_method": "tls_certificate",
            "trusted_certificates": [write(world.base, "clients.pem", clients.root)],
            "ra_certificates": [write(world.base, "ra.pem", loaded(ra))],
            "tls": {"required": True, "binding": "ra"},
        }
    )
    ee = clients.client("gateway", now=world.clock())
    answer = await world.send(ee, ee.ir(), client=tls(ra))
    assert answer.status is PKIStatus.accepted, answer.text
    for_another = await world.send(ra, ra.ir(subject="CN=device-9", popo=RA_VERIFIED), client=tls(ra))
    assert for_another.status is PKIStatus.accepted, for_another.text
    issued = await world.store.certificate(loaded(ra).serial_number)
    assert issued is not None
    await world.store.revoke(Revocation(issued.serial, RevocationReason.keyCompromise, world.clock()))
    answer = await world.send(ee, ee.ir(), client=tls(ra))
    assert (answer.fail_info, "the TLS client certificate" in answer.text) == ("certRevoked", True)


async def test_tls_proves_nothing_where_the_profile_does_not_look_at_it(world: World, clients: PKI) -> None:
    """A profile without [enrollment.tls] neither asks for a TLS client nor takes it for a signature."""
    gateway, ee = clients.client("gateway", now=world.clock()), bare(world.clock())
    world.profile(enrollment={"authentication_method": "tls_certificate", "trusted_certificates": ["clients.pem"]})
    answer = await world.send(ee, ee.ir(), client=tls(gateway))
    assert (answer.fail_info, answer.text) == ("badMessageCheck", "the message is not protected")
    stranger = PKI("Strangers Root").client("stranger", now=world.clock())
    answer = await world.send(gateway, gateway.ir(), client=tls(stranger))
    assert answer.status is PKIStatus.accepted, "it is not looked at"


async def test_a_tls_client_certificate_alone_does_not_replace_an_enrollment_code(world: World, clients: PKI) -> None:
    world.profile(enrollment={"trusted_certificates": ["clients.pem"], "tls": {"unprotected": True}})
    gateway, ee = clients.client("gateway", now=world.clock()), bare(world.clock())
    answer = await world.send(ee, ee.ir(), client=tls(gateway))
    assert (answer.fail_info, answer.protected) == ("wrongIntegrity", True)


async def test_raverified_is_the_ras_alone_also_by_tls(world: World, clients: PKI) -> None:
    world.profile(
        enrollment={
            "authentication_method": "tls_certificate",
            "trusted_certificates": ["clients.pem"],
            "ra_certificates": [write(world.base, "ras.pem", PKI("RA Root").root)],
            "tls": {"unprotected": True},
        }
    )
    # the purpose alone makes nobody an RA: the CA must be listed for RAs
    liar, ee = clients.client("gateway", now=world.clock(), eku=[oids.KP_CMC_RA]), bare(world.clock())
    assert (await world.send(ee, ee.ir(popo=RA_VERIFIED), client=tls(liar))).fail_info == "badPOP"
    assert (await world.send(liar, liar.ir(popo=RA_VERIFIED))).fail_info == "badPOP"


async def test_a_tls_client_that_may_only_be_a_server(world: World, clients: PKI) -> None:
    """RFC 9483 §3.5 asks for digitalSignature alone; purposes are the profile's to ask for."""
    enrollment = {"authentication_method": "tls_certificate", "trusted_certificates": ["clients.pem"]}
    ee = clients.client("gateway", now=world.clock(), eku=[ExtendedKeyUsageOID.SERVER_AUTH])
    world.profile(enrollment=enrollment)
    assert (await world.send(ee, ee.ir())).status is PKIStatus.accepted
    world.profile(enrollment={**enrollment, "client": {"extended_key_usages": ["client_auth"]}})
    assert (await world.send(ee, ee.ir())).fail_info == "notAuthorized"


# Renewal after the end


GRACE: dict[str, Any] = {"renewal": {"grace": "7d"}}


def after_its_end(world: World, ee: EE, **late: float) -> None:
    world.clock.now = loaded(ee).not_valid_after_utc + timedelta(**late)
    ee.now = world.clock()


async def test_a_revoked_certificate_has_no_grace(world: World) -> None:
    world.profile(**GRACE)
    ee = await world.enrolled()
    serial = loaded(ee).serial_number
    await world.store.revoke(Revocation(serial, RevocationReason.superseded, world.clock()))
    after_its_end(world, ee, days=1)
    answer = await world.send(ee, ee.kur())
    assert (answer.fail_info, answer.protected) == ("certRevoked", True)


@pytest.mark.parametrize("body", ["ir", "cr", "p10cr"])
async def test_the_grace_is_for_a_kur_alone(world: World, body: str) -> None:
    world.profile(
        enrollment={
            "authentication_method": "tls_certificate",
            "trusted_certificates": [write(world.base, "x.pem", PKI("X").root)],
        },
        **GRACE,
    )
    world.profile("codes", **GRACE)
    ee = await world.enrolled(profile="codes")
    after_its_end(world, ee, days=1)
    assert (await world.send(ee, getattr(ee, body)(), profile="codes")).fail_info in {
        "signerNotTrusted",
        "wrongIntegrity",
    }


@pytest.mark.parametrize(("late", "granted"), [(6, True), (8, False)])
async def test_an_expired_certificate_as_tls_client_within_the_grace(world: World, late: int, granted: bool) -> None:
    """With tls.required the certificate that is renewed is the only one that such a client has."""
    world.profile(**GRACE)
    ee = await world.enrolled()
    world.profile(enrollment={"tls": {"required": True}}, **GRACE)
    after_its_end(world, ee, days=late)
    draft = ee.kur()
    answer = await world.send(ee, draft, client=tls(ee))
    if not granted:
        assert answer.fail_info == "signerNotTrusted"
        return
    assert answer.status is PKIStatus.accepted, answer.text
    assert (await world.send(ee, ee.cert_conf(answer), client=tls(ee))).type is BodyType.pkiconf
    renewed = EE.with_certificate(draft.key, answer.certificate_der(), now=world.clock())
    assert (await world.send(renewed, renewed.kur(), client=tls(renewed))).status is PKIStatus.accepted


async def test_the_grace_is_not_for_a_tls_client_of_another_pki(world: World, clients: PKI) -> None:
    world.profile(**GRACE)
    own = await world.enrolled()
    world.profile(
        enrollment={"tls": {"required": True, "binding": "same_subject", "trusted_certificates": ["clients.pem"]}},
        **GRACE,
    )
    end = loaded(own).not_valid_after_utc
    other = clients.client("device-1", now=world.clock(), not_after=end - timedelta(days=1))
    world.clock.now = end - timedelta(hours=1)
    own.now = world.clock()
    answer = await world.send(own, own.kur(), client=tls(other))
    assert (answer.fail_info, "the TLS client certificate has expired" in answer.text) == ("signerNotTrusted", True)
