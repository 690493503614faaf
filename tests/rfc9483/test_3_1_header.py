"""RFC 9483 §3.1: the header of every answer."""

from datetime import timedelta

from cryptography import x509

from cmpd import asn1
from cmpd.asn1 import BodyType, der, oids
from tests.ee import EE, IMPLICIT_CONFIRM, cert_profile, directory_name
from tests.world import World


async def test_pvno_is_that_of_the_request(world: World) -> None:
    """cmp2000(2) is answered with 2, cmp2021(3) with 3."""
    for pvno in (2, 3):
        ee = await world.code(f"ref-{pvno}")
        answer = await world.send(ee, ee.ir(header={"pvno": pvno}))
        assert answer.message.header.pvno == pvno
        assert answer.type is BodyType.ip


async def test_sender_and_kid_name_the_shared_secret_under_mac(world: World) -> None:
    ee = await world.code("gateway-7")
    answer = await world.send(ee, ee.ir())
    assert asn1.raw(answer.message.header.sender) == directory_name("CN=gateway-7")
    assert answer.message.header.senderKID == b"gateway-7"


async def test_sender_is_the_subject_of_the_protection_certificate(world: World) -> None:
    ee = await world.enrolled()
    answer = await world.send(ee, ee.kur())
    loaded = x509.load_der_x509_certificate(answer.message.extraCerts[0])
    assert asn1.raw(answer.message.header.sender) == der.explicit(4, loaded.subject.public_bytes())
    assert oids.KP_CMC_RA in loaded.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value


async def test_message_time_is_the_time_here(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    message_time = answer.message.header.messageTime
    assert message_time is not None
    assert asn1.read_time(asn1.raw(message_time)) == world.clock.now


async def test_fresh_nonces_of_128_bits(world: World) -> None:
    ee = await world.code(uses=2)
    nonces = {(await world.send(ee, ee.ir())).message.header.senderNonce for _ in range(2)}
    assert len(nonces) == 2


async def test_implicit_confirm_is_granted_when_asked_for(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir(header={"general_info": IMPLICIT_CONFIRM}))
    assert [asn1.dump(info) for info in answer.message.header.generalInfo or ()] == [IMPLICIT_CONFIRM]
    (stored,) = await world.store.certificates_of(answer.message.header.transactionID or b"")
    assert stored.status == "valid"


async def test_implicit_confirm_is_not_granted_unasked_or_against_the_profile(world: World) -> None:
    world.profile(enrollment={"implicit_confirm": False})
    ee = await world.code()
    answer = await world.send(ee, ee.ir(header={"general_info": IMPLICIT_CONFIRM}))
    infos = {info.infoType for info in answer.message.header.generalInfo or ()}
    assert infos == {oids.CONFIRM_WAIT_TIME}


async def test_confirm_wait_time_is_announced(world: World) -> None:
    world.profile(enrollment={"confirm_wait": "15m"})
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    (info,) = answer.message.header.generalInfo or []
    assert info.infoType == oids.CONFIRM_WAIT_TIME
    assert info.infoValue is not None
    assert asn1.read_time(asn1.raw(info.infoValue)) == world.clock.now + timedelta(minutes=15)


async def test_cert_profile_chooses_the_profile(world: World) -> None:
    """Where the URL names none, certProfile does; an unknown one is refused."""
    world.profile("other", description="other")
    ee = await world.code(profile="other")
    answer = await world.send(ee, ee.ir(header={"general_info": cert_profile("other")}), profile=None)
    assert answer.type is BodyType.ip
    assert world.last.profile == "other"
    answer = await world.send(ee, ee.ir(header={"general_info": cert_profile("none-such")}), profile=None)
    assert (answer.type, answer.fail_info) == (BodyType.error, "badRequest")


async def test_cert_profile_must_not_contradict_the_url(world: World) -> None:
    world.profile("other")
    ee = await world.code()
    answer = await world.send(ee, ee.ir(header={"general_info": cert_profile("other")}))
    assert answer.fail_info == "badRequest"


async def test_without_any_name_the_default_profile_serves(world: World) -> None:
    ee = await world.code()
    assert (await world.send(ee, ee.ir(), profile=None)).type is BodyType.ip
    world.default = None
    world.restart()
    assert (await world.send(ee, ee.ir(), profile=None)).fail_info == "badRequest"


async def test_recipient_and_general_info_are_handled_gracefully(world: World) -> None:
    """§3.5: fields that the section does not mention are no reason to refuse."""
    ee = await world.code()
    unknown = der.sequence(der.oid("1.2.3.4.5"), der.sequence())
    draft = ee.ir(header={"recipient": directory_name("CN=somebody else"), "general_info": unknown})
    assert (await world.send(ee, draft)).type is BodyType.ip


async def test_sender_kid_may_be_left_out_when_the_common_name_names_the_secret(world: World) -> None:
    ee = await world.code("by-name")
    draft = ee.ir(header={"sender_kid": None})
    assert (await world.send(ee, draft)).type is BodyType.ip


async def test_sender_may_be_the_null_dn_when_the_kid_names_the_secret(world: World) -> None:
    """The stock OpenSSL client sends it so."""
    ee = await world.code("by-kid")
    draft = ee.ir(header={"sender": EE().ir().sender})
    assert (await world.send(ee, draft)).type is BodyType.ip
