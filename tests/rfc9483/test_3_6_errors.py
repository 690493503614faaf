"""RFC 9483 §3.6: reporting errors."""

from cmpd import asn1
from cmpd.asn1 import BodyType, PKIStatus, der
from tests.ee import EE
from tests.world import World


async def test_a_fault_in_the_body_is_reported_in_the_specific_response(world: World) -> None:
    """§3.6.2: ip, cp or kup with "rejection", and no certifiedKeyPair."""
    ee = await world.code(uses=None)
    signing = await world.enrolled()
    for sender, draft, response in (
        (ee, ee.ir(popo=b""), BodyType.ip),
        (ee, ee.cr(popo=b""), BodyType.cp),
        (signing, signing.kur(popo=b""), BodyType.kup),
    ):
        answer = await world.send(sender, draft)
        assert (answer.type, answer.status, answer.fail_info) == (response, PKIStatus.rejection, "badPOP")
        assert answer.body.response[0].certifiedKeyPair is None
        assert answer.body.response[0].certReqId == 0
        assert answer.protected
        assert world.last.outcome == "rejection"


async def test_a_fault_in_a_p10cr_has_cert_req_id_minus_one(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.p10cr(subject="CN=x,C=XX"))
    assert (answer.type, answer.status) == (BodyType.cp, PKIStatus.rejection)
    assert answer.body.response[0].certReqId == -1


async def test_any_other_fault_is_an_error_message(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.draft(BodyType.ir, der.integer(5)))
    assert (answer.type, answer.status, answer.fail_info) == (BodyType.error, PKIStatus.rejection, "badDataFormat")
    assert answer.protected


async def test_errors_under_mac_are_protected_with_the_parameters_of_the_request(world: World) -> None:
    ee = await world.code()
    draft = ee.ir(popo=b"")
    answer = await world.send(ee, draft)
    assert answer.protected
    assert asn1.dump(answer.message.header.protectionAlg) == draft.algorithm


async def test_a_refused_request_is_over(world: World) -> None:
    """§3.6.4: "it MUST regard the current PKI management operation as terminated with failure"."""
    ee = await world.code()
    bad = ee.ir(popo=b"")
    data = ee.seal(bad)
    answer = ee.read(await world.post(data), bad)
    assert answer.status is PKIStatus.rejection
    assert await world.post(data) == answer.raw, "the same octets get the same answer"
    good = ee.ir(header={"transaction_id": bad.transaction_id})
    assert (await world.send(ee, good)).fail_info == "transactionIdInUse"
    assert await world.used() == 0
    assert (await world.send(ee, ee.ir())).type is BodyType.ip, "a new transaction is free to succeed"


async def test_what_cannot_be_read_still_gets_its_transaction_id_and_nonce_back(world: World) -> None:
    ee = await world.code()
    draft = ee.ir()
    broken = ee.seal(draft)
    header = draft.header()
    nonsense = der.sequence(header, der.tlv(0xBF, b"\x50\x00"))
    answer = ee.read(await world.post(nonsense), draft)
    assert (answer.type, answer.fail_info, answer.protected) == (BodyType.error, "badDataFormat", False)
    assert world.last.transaction_id == (draft.transaction_id or b"").hex()
    answer = ee.read(await world.post(broken[:-1]))
    assert answer.fail_info == "badDataFormat"


async def test_an_internal_error_is_a_systemfailure_without_details(world: World) -> None:
    class Broken:
        async def look_up(self, *_: object) -> None:
            raise RuntimeError("secret detail")

    ee = await world.code()
    world.responder._office.store = Broken()  # type: ignore[assignment]
    data = await world.post(ee.seal(ee.ir()))
    assert b"secret detail" not in data
    answer = ee.read(data)
    assert (answer.type, answer.fail_info) == (BodyType.error, "systemFailure")
    assert isinstance(world.last.exception, RuntimeError)


async def test_an_unreachable_profile_is_refused_without_protection(world: World) -> None:
    answer = EE().read(await world.post(EE().seal(EE().ir()), profile="none-such"))
    assert answer.fail_info == "badRequest"
