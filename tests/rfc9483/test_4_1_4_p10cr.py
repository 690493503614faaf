"""RFC 9483 §4.1.4: enrolling with a PKCS #10 request."""

from cryptography import x509

from cmpd.asn1 import BodyType, PKIStatus, der
from tests.ee import name, new_key, san, sign, signature_algorithm, spki
from tests.world import World


async def test_p10cr_by_code(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.p10cr(subject="CN=gw.example.com", extensions=[san("gw.example.com")]))
    assert (answer.type, answer.status) == (BodyType.cp, PKIStatus.accepted), answer.text
    assert answer.body.response[0].certReqId == -1
    names = answer.certificate().extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gw.example.com"]
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf


async def test_p10cr_signed(world: World) -> None:
    ee = await world.enrolled()
    assert (await world.send(ee, ee.p10cr())).status is PKIStatus.accepted


async def test_a_client_that_confirms_a_p10cr_with_cert_req_id_0_is_told(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.p10cr())
    wrong = await world.send(ee, ee.cert_conf(answer, cert_req_id=0))
    assert wrong.fail_info == "badCertId"


async def test_a_request_signed_with_another_key(world: World) -> None:
    ee = await world.code()
    key, other = new_key(), new_key()
    info = der.sequence(der.integer(0), name("CN=device-1"), spki(key), der.tlv(0xA0))
    request = der.sequence(info, signature_algorithm(other), der.bit_string(sign(other, info)))
    answer = await world.send(ee, ee.draft(BodyType.p10cr, request))
    assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "badPOP")
