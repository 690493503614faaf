"""The same octets again get the same answer again; other octets under a transactionID in use harm nothing."""

import asyncio

from cmpd.asn1 import BodyType, PKIStatus
from tests.ee import EE
from tests.world import World


async def test_a_retransmitted_ir_gets_the_stored_answer(world: World) -> None:
    ee = await world.code()
    data = ee.seal(ee.ir())
    first = await world.post(data)
    commits = world.store.commits
    world.restart()
    assert await world.post(data) == first
    assert world.last.outcome == "repeated"
    assert world.store.commits == commits
    assert await world.used() == 1


async def test_a_retransmitted_certconf_gets_the_stored_answer(world: World) -> None:
    ee = await world.code()
    request = ee.seal(ee.ir())
    first = await world.post(request)
    confirmation = ee.seal(ee.cert_conf(ee.read(first)))
    done = await world.post(confirmation)
    world.restart()
    assert await world.post(confirmation) == done
    assert await world.post(request) == first, "a finished transaction that is replayed issues nothing"
    assert len(await world.store.certificates(10)) == 1


async def test_other_octets_under_a_transaction_id_in_use(world: World) -> None:
    ee = await world.code(uses=None)
    draft = ee.ir()
    answer = await world.send(ee, draft)
    other = await world.send(ee, ee.ir(header={"transaction_id": draft.transaction_id}))
    assert (other.type, other.fail_info) == (BodyType.error, "transactionIdInUse")
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf


async def test_a_stranger_cannot_harm_a_transaction(world: World) -> None:
    ee = await world.code()
    draft = ee.ir()
    answer = await world.send(ee, draft)
    commits = world.store.commits
    stranger = EE.with_code("device-1", "guess", now=world.clock())
    same_id = stranger.ir(header={"transaction_id": draft.transaction_id})
    for attack in (same_id, stranger.cert_conf(answer, cert_hash=bytes(32))):
        refusal = stranger.read(await world.post(stranger.seal(attack)))
        assert not refusal.protected
    assert world.store.commits == commits
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf


async def test_a_transaction_id_in_use_at_another_profile(world: World) -> None:
    world.profile("other")
    ee, there = await world.code(), await world.code(profile="other")
    draft = ee.ir()
    await world.send(ee, draft)
    other = await world.send(there, there.ir(header={"transaction_id": draft.transaction_id}), profile="other")
    assert other.fail_info == "transactionIdInUse"


async def test_copies_of_one_request_at_the_same_time_get_one_certificate(world: World) -> None:
    ee = await world.code()
    data = ee.seal(ee.ir())
    answers = await asyncio.gather(*(world.post(data) for _ in range(20)))
    assert len(set(answers)) == 1
    assert ee.read(answers[0]).type is BodyType.ip
    assert len(await world.store.certificates(10)) == 1


async def test_copies_of_one_certconf_at_the_same_time(world: World) -> None:
    ee = await world.code()
    answer = ee.read(await world.post(ee.seal(ee.ir())))
    data = ee.seal(ee.cert_conf(answer))
    answers = await asyncio.gather(*(world.post(data) for _ in range(20)))
    assert len(set(answers)) == 1
    assert ee.read(answers[0]).type is BodyType.pkiconf


async def test_two_requests_racing_for_one_code(world: World) -> None:
    ee = await world.code()
    drafts = [ee.ir() for _ in range(20)]
    answers = await asyncio.gather(*(world.send(ee, draft) for draft in drafts))
    assert sum(answer.type is BodyType.ip for answer in answers) == 1
    assert {answer.fail_info for answer in answers if answer.type is not BodyType.ip} == {"notAuthorized"}
    assert len(await world.store.certificates(30)) == 1
    assert await world.used() == 1


async def test_two_requests_racing_for_one_transaction_id(world: World) -> None:
    ee = await world.code(uses=None)
    one = ee.ir()
    other = ee.ir(header={"transaction_id": one.transaction_id})
    answers = await asyncio.gather(world.send(ee, one), world.send(ee, other))
    assert sorted(answer.type.name for answer in answers) == ["error", "ip"]
    assert {answer.fail_info for answer in answers if answer.type is BodyType.error} == {"transactionIdInUse"}
    assert await world.used() == 1


async def test_a_certconf_after_a_restart_may_leave_out_its_certificate(world: World) -> None:
    """RFC 9483 §4.1.1: extraCerts may be left out when the certificate is known from the first request."""
    ee = await world.enrolled()
    answer = await world.send(ee, ee.kur())
    world.restart()
    confirmation = ee.cert_conf(answer, extra_certs=())
    assert (await world.send(ee, confirmation)).type is BodyType.pkiconf


async def test_a_transaction_that_another_process_has_ended(world: World) -> None:
    """What is kept in memory is never believed over the store."""
    ee = await world.code()
    draft = ee.ir()
    answer = await world.send(ee, draft)
    other = World(world.store, world.issuer, world.clock, world.base, profiles=world.profiles)
    confirmation = ee.seal(ee.cert_conf(answer))
    done = await other.post(confirmation)
    assert await world.post(confirmation) == done, "the stored answer, from the other process"
    late = await world.send(ee, ee.cert_conf(answer))
    assert late.fail_info == "certConfirmed"


async def test_accepted_and_rejected_at_once_is_one_of_the_two_and_the_other_hears_of_it(world: World) -> None:
    """Also where the transaction is not in memory any more."""
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    world.restart()
    confirmations = [ee.cert_conf(answer), ee.cert_conf(answer, status=PKIStatus.rejection)]
    answers = await asyncio.gather(*(world.send(ee, one) for one in confirmations))
    (refused,) = [one for one in answers if one.type is not BodyType.pkiconf]
    assert refused.fail_info in {"certConfirmed", "badRequest"}, refused.text
    assert (refused.fail_info == "certConfirmed") is ((await world.store.certificates(1))[0].status.value == "valid")


async def test_a_transaction_that_expired_meanwhile(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    world.clock.tick(minutes=11)
    ee.now = world.clock()
    assert await world.store.expire(world.clock())
    late = await world.send(ee, ee.cert_conf(answer))
    assert (late.fail_info, "expired" in late.text) == ("badRequest", True)


async def test_the_usual_certconf_asks_the_store_nothing(world: World) -> None:
    """One commit for each request, and for the second one no query at all."""
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    asked: list[str] = []
    for verb in ("transaction", "code", "certificates_of", "certificate"):
        setattr(world.store, verb, lambda *_, verb=verb: asked.append(verb))
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf
    assert asked == []


async def test_too_many_long_derivations_are_turned_away(world: World) -> None:
    """They cost a stranger who knows a reference nothing: so only so many wait."""
    await world.code()
    liar = EE.with_code("device-1", "guess", now=world.clock(), iterations=world.limits.inline_iterations + 1)
    requests = [liar.seal(liar.ir()) for _ in range(40)]
    answers = [liar.read(one) for one in await asyncio.gather(*(world.post(data) for data in requests))]
    assert {answer.fail_info for answer in answers} == {"badMessageCheck", "systemUnavail"}
    assert sum(answer.fail_info == "systemUnavail" for answer in answers) == 8
