"""Seats: who holds which certificates, how many at a time, and keys that are certified once."""

import asyncio

import pytest

from cmpd.asn1 import BodyType, PKIStatus, der
from cmpd.exchange import RevocationReason
from cmpd.ports import Condition, Revocation, Unmet
from tests.ee import EE, new_key
from tests.world import World


async def test_the_seat_is_recorded_with_the_certificate(world: World) -> None:
    world.profile(seat={"id_mapping": "subject.common_name"})
    first = await world.enrolled("CN=device-1")
    assert await world.store.seats(10, "device") == await world.store.seats(10)
    await world.enrolled("CN=device-1")
    await world.enrolled("CN=device-2")
    found = await world.store.seat("device", "device-1")
    assert found is not None
    seat, certificates = found
    assert (seat.id, seat.certificates, seat.last_issued) == ("device-1", 2, world.clock())
    assert certificates[-1].der == first.certificate
    assert [one.id for one in await world.store.seats(10)] == ["device-2", "device-1"]
    issued = [one for one in world.exchanges if one.operation == "ir"]
    assert [one.seat for one in issued] == ["device-1", "device-1", "device-2"]


async def test_a_seat_gets_no_duplicate(world: World) -> None:
    """RFC 9810 §5.2.3: duplicateCertReq; whether the one it has is confirmed or not."""
    world.profile(seat={"allow_duplicates": False})
    ee = await world.code(uses=None)
    answer = await world.send(ee, ee.ir())
    refusal = await world.send(ee, ee.ir())
    assert (refusal.type, refusal.status) == (BodyType.ip, PKIStatus.rejection)
    assert refusal.fail_info == "duplicateCertReq"
    end = answer.certificate().not_valid_after_utc
    assert "seat device-1: " in refusal.text
    assert f"{end:%Y-%m-%dT%H:%M:%SZ}" in refusal.text
    assert world.last.private == f"certificate {answer.certificate().serial_number:x} is in the way"
    assert (await world.send(ee, ee.ir(subject="CN=device-2"))).status is PKIStatus.accepted
    assert await world.used() == 2, "a refusal uses nothing"


async def test_the_seat_is_free_when_its_certificate_is_rejected_revoked_or_expired(world: World) -> None:
    world.profile(seat={"allow_duplicates": False})
    ee = await world.code(uses=None)
    answer = await world.send(ee, ee.ir())
    await world.send(ee, ee.cert_conf(answer, status=PKIStatus.rejection))
    answer = await world.send(ee, ee.ir())
    assert answer.status is PKIStatus.accepted
    await world.send(ee, ee.cert_conf(answer))
    serial = answer.certificate().serial_number
    await world.store.revoke(Revocation(serial, RevocationReason.superseded, world.clock()))
    answer = await world.send(ee, ee.ir())
    assert answer.status is PKIStatus.accepted
    await world.send(ee, ee.cert_conf(answer))
    world.clock.tick(days=366)
    ee.now = world.clock()
    assert (await world.send(ee, ee.ir())).status is PKIStatus.accepted


async def test_an_update_is_no_duplicate_of_what_it_updates(world: World) -> None:
    world.profile(seat={"allow_duplicates": False})
    ee = await world.enrolled()
    draft = ee.kur()
    answer = await world.send(ee, draft)
    assert answer.status is PKIStatus.accepted, answer.text
    await world.send(ee, ee.cert_conf(answer))
    assert (await world.send(ee, ee.kur())).fail_info == "duplicateCertReq", "it has been updated before"


async def test_of_many_at_once_one_gets_the_seat(world: World) -> None:
    """Each has looked ahead and found the seat free: the commit decides."""
    world.profile(seat={"allow_duplicates": False})
    ee = await world.code(uses=None)
    drafts = [ee.ir() for _ in range(8)]
    answers = await asyncio.gather(*(world.send(ee, draft) for draft in drafts))
    assert sorted(answer.fail_info or "" for answer in answers) == ["", *["duplicateCertReq"] * 7]
    assert len(await world.store.certificates(10)) == 1
    assert await world.used() == 1


async def test_several_requests_of_one_message_are_refused_each_for_itself(world: World) -> None:
    world.profile(enrollment={"several_requests": True}, seat={"allow_duplicates": False})
    await world.enrolled("CN=device-1")
    ee = await world.code(uses=None)
    requests = [ee.cert_req_msg(new_key(), f"CN=device-{number}", cert_req_id=number) for number in (1, 2)]
    answer = await world.send(ee, ee.draft(BodyType.ir, der.sequence(*requests)))
    assert [one.status.status for one in answer.body.response] == [PKIStatus.rejection, PKIStatus.accepted]


# Keys


async def test_a_key_that_has_a_certificate_gets_no_other(world: World) -> None:
    key = new_key()
    await world.enrolled("CN=device-1", key=key)
    world.profile("server")
    ee = await world.code(profile="server")
    answer = await world.send(ee, ee.ir(key, subject="CN=device-2"), profile="server")
    assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "badCertTemplate")
    assert answer.text.startswith("publicKey: already has a certificate")
    assert await world.used(profile="server") == 0


async def test_a_profile_may_certify_a_key_again(world: World) -> None:
    world.profile(key={"same_key_elsewhere": True})
    key = new_key()
    await world.enrolled("CN=device-1", key=key)
    await world.enrolled("CN=device-2", key=key)


async def test_a_key_may_be_tried_again_after_its_certificate_was_rejected(world: World) -> None:
    ee, key = await world.code(uses=None), new_key()
    answer = await world.send(ee, ee.ir(key))
    assert (await world.send(ee, ee.ir(key))).fail_info == "badCertTemplate"
    await world.send(ee, ee.cert_conf(answer, status=PKIStatus.rejection))
    assert (await world.send(ee, ee.ir(key))).status is PKIStatus.accepted


@pytest.mark.parametrize("same_key_elsewhere", [False, True])
async def test_a_compromised_key_is_never_certified_again(world: World, same_key_elsewhere: bool) -> None:
    world.profile(key={"same_key_elsewhere": same_key_elsewhere})
    ee = await world.enrolled()
    serial = int(world.last.serial, 16)
    await world.store.revoke(Revocation(serial, RevocationReason.keyCompromise, world.clock()))
    other = await world.code()
    answer = await world.send(other, other.ir(ee.key))
    assert answer.fail_info == "badCertTemplate"
    assert "compromised" in answer.text


async def test_an_update_may_keep_its_key_where_the_profile_says_so(world: World) -> None:
    """And an update of the update, while the first certificate is still valid."""
    world.profile(renewal={"require_new_key": False})
    ee = await world.enrolled()
    for _ in range(2):
        draft = ee.kur(ee.key)
        answer = await world.send(ee, draft)
        assert answer.status is PKIStatus.accepted, answer.text
        await world.send(ee, ee.cert_conf(answer))
        ee = EE.with_certificate(ee.key, answer.certificate_der(), now=world.clock())
    other = await world.enrolled("CN=device-2")
    answer = await world.send(other, other.kur(ee.key, subject="CN=device-2"))
    assert answer.text.startswith("publicKey: already has a certificate"), "not the key of another"


async def test_of_many_that_bring_one_key_at_once_one_is_let(world: World) -> None:
    ee, key = await world.code(uses=None), new_key()
    drafts = [ee.ir(key, subject=f"CN=device-{number}") for number in range(8)]
    answers = await asyncio.gather(*(world.send(ee, draft) for draft in drafts))
    assert sorted(answer.fail_info or "" for answer in answers) == ["", *["badCertTemplate"] * 7]


async def test_the_same_message_a_second_time_is_answered_again(world: World) -> None:
    """Its own key, seat and budget are not in its way, even when both copies are on their way at once."""
    world.profile(seat={"allow_duplicates": False}, budget={"per_day": 1, "per_seat": 1})
    ee = await world.code()
    data = ee.seal(ee.ir())
    answers = await asyncio.gather(*(world.post(data) for _ in range(3)))
    assert len(set(answers)) == 1
    assert await world.store.refusals(10) == []


def test_every_condition_can_be_told_apart() -> None:
    assert [Unmet(one).condition for one in Condition] == list(Condition)
