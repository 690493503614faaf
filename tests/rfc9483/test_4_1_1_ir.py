"""RFC 9483 §4.1.1: enrolling an end entity to a new PKI."""

from cmpd.asn1 import BodyType
from tests.ee import spki
from tests.world import World


async def test_ir_by_code_and_certconf(world: World) -> None:
    ee = await world.code()
    draft = ee.ir()
    answer = await world.send(ee, draft)
    assert answer.type is BodyType.ip, (answer.text, world.last)
    assert answer.protected
    certificate = answer.certificate()
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    assert certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki(draft.key)
    done = await world.send(ee, ee.cert_conf(answer))
    assert done.type is BodyType.pkiconf
    assert world.last.outcome == "confirmed"
