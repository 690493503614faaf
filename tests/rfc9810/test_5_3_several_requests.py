"""RFC 9810 §5.3: several CertReqMsgs in one message, where the profile allows them."""

import pytest

from cmpd.asn1 import BodyType, PKIStatus, der
from tests.ee import IMPLICIT_CONFIRM, new_key
from tests.world import World


@pytest.fixture
def liberal(world: World) -> World:
    world.profile(enrollment={"several_requests": True})
    return world


async def test_each_request_gets_its_response(liberal: World) -> None:
    ee = await liberal.code(uses=None)
    requests = [ee.cert_req_msg(new_key(), f"CN=device-{n}", cert_req_id=n) for n in (7, 3, 5)]
    answer = await liberal.send(ee, ee.draft(BodyType.ir, der.sequence(*requests)))
    assert [one.certReqId for one in answer.body.response] == [7, 3, 5]
    subjects = [answer.certificate(n).subject.rfc4514_string() for n in range(3)]
    assert subjects == ["CN=device-7", "CN=device-3", "CN=device-5"]
    done = await liberal.send(ee, ee.cert_conf(answer, count=3))
    assert done.type is BodyType.pkiconf
    assert await liberal.used() == 3, "a use of a code is a certificate"


async def test_what_the_certconf_leaves_out_is_rejected(liberal: World) -> None:
    """RFC 9810 §5.3.18."""
    ee = await liberal.code(uses=None)
    requests = [ee.cert_req_msg(new_key(), f"CN=device-{n}", cert_req_id=n) for n in (0, 1)]
    draft = ee.draft(BodyType.ir, der.sequence(*requests))
    answer = await liberal.send(ee, draft)
    done = await liberal.send(ee, ee.cert_conf(answer, count=1))
    assert done.type is BodyType.pkiconf
    stored = await liberal.store.certificates_of(draft.transaction_id or b"")
    assert {one.cert_req_id: str(one.status) for one in stored} == {0: "valid", 1: "revoked"}


async def test_a_refused_request_beside_a_granted_one(liberal: World) -> None:
    ee = await liberal.code(uses=None)
    requests = [ee.cert_req_msg(new_key(), cert_req_id=0), ee.cert_req_msg(new_key(), cert_req_id=1, popo=b"")]
    answer = await liberal.send(ee, ee.draft(BodyType.ir, der.sequence(*requests)))
    granted, refused = answer.body.response
    assert (granted.status.status, refused.status.status) == (PKIStatus.accepted, PKIStatus.rejection)
    assert refused.certifiedKeyPair is None
    assert (await liberal.send(ee, ee.cert_conf(answer, count=1))).type is BodyType.pkiconf


async def test_all_refused(liberal: World) -> None:
    ee = await liberal.code(uses=None)
    requests = [ee.cert_req_msg(new_key(), cert_req_id=n, popo=b"") for n in (0, 1)]
    draft = ee.draft(BodyType.ir, der.sequence(*requests))
    data = ee.seal(draft)
    answer = ee.read(await liberal.post(data), draft)
    assert [one.status.status for one in answer.body.response] == [PKIStatus.rejection] * 2
    assert await liberal.used() == 0
    assert await liberal.post(data) == answer.raw


@pytest.mark.parametrize("ids", [(1, 1), (-1, 0)])
async def test_cert_req_ids_must_be_distinct(liberal: World, ids: tuple[int, int]) -> None:
    ee = await liberal.code(uses=None)
    requests = [ee.cert_req_msg(new_key(), cert_req_id=n) for n in ids]
    answer = await liberal.send(ee, ee.draft(BodyType.ir, der.sequence(*requests)))
    assert answer.fail_info == "badRequest"


async def test_implicit_confirm_covers_all(liberal: World) -> None:
    ee = await liberal.code(uses=None)
    requests = [ee.cert_req_msg(new_key(), cert_req_id=n) for n in (0, 1)]
    draft = ee.draft(BodyType.ir, der.sequence(*requests), general_info=IMPLICIT_CONFIRM)
    await liberal.send(ee, draft)
    stored = await liberal.store.certificates_of(draft.transaction_id or b"")
    assert {str(one.status) for one in stored} == {"valid"}
