"""Why was I refused: what is kept for the operator, where, how much, and without which secrets."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from cmpd import asn1
from cmpd.asn1 import BodyType, der, oids
from cmpd.exchange import Arrival, CertificateStatus, RevocationReason
from cmpd.limits import Limits
from cmpd.ports import Revocation
from cmpd.refusals import IN_MEMORY, PER_SECOND, REQUEST_OCTETS, Refusals
from cmpd.responder import Responder
from tests.contract.store import refusal
from tests.ee import EE, Draft, extension, name, new_key, san, sign, signature_algorithm, spki
from tests.world import World


async def kept(world: World) -> Any:
    """The one refusal in the store, whole."""
    (one,) = await world.store.refusals(10)
    assert one.id is not None
    return await world.store.refusal_of(one.id)


async def test_a_refused_request_is_kept_with_every_finding(world: World) -> None:
    ee = await world.code()
    draft = ee.ir(extensions=[extension(oids.SUBJECT_ALT_NAME, der.sequence(der.tlv(0x81, b"me@example.com")))])
    answer = await world.send(ee, draft)
    found = await kept(world)
    assert found.request is not None
    assert replace(found, findings=(), request=None, id=None) == replace(
        refusal(),
        at=world.clock(),
        profile="device",
        operation="ir",
        transaction_id=(draft.transaction_id or b"").hex(),
        credential="code:device-1",
        fail_info=answer.fail_info or "",
        reason=answer.text,
        findings=(),
        request=None,
    )
    assert any(finding.ok for finding in found.findings)
    broken = [finding for finding in found.findings if not finding.ok]
    assert broken
    assert broken[0].text == answer.text
    assert world.responder.refusals.latest() == []


async def test_the_request_is_kept_without_its_mac(world: World) -> None:
    """Whoever reads the store must not be able to try secrets against it."""
    ee = await world.code()
    draft = ee.ir(subject="")
    await world.send(ee, draft)
    request = asn1.decode((await kept(world)).request, Limits())
    assert request.protection is None
    assert request.body_der == draft.body


async def test_a_signed_request_is_kept_as_it_is(world: World) -> None:
    ee = await world.enrolled()
    draft = ee.kur(subject="CN=other")
    data = ee.seal(draft)
    await world.post(data)
    assert (await kept(world)).request == data


def utf8_control(kind: Any) -> bytes:
    return der.sequence(der.oid(kind), der.utf8_string("s3cret-token"))


def with_password(ee: EE) -> Draft:
    """A PKCS #10 request with a challengePassword (RFC 2985 §5.4.1)."""
    key = new_key()
    attribute = der.sequence(der.oid(oids.CHALLENGE_PASSWORD), der.set_of(der.utf8_string("s3cret-token")))
    info = der.sequence(der.integer(0), name(""), spki(key), der.tlv(0xA0, attribute))
    request = der.sequence(info, signature_algorithm(key), der.bit_string(sign(key, info)))
    return ee.draft(BodyType.p10cr, request)


CARRIERS = {
    "regToken": lambda ee: ee.ir(controls=[utf8_control(oids.REG_CTRL_REG_TOKEN)]),
    "authenticator": lambda ee: ee.ir(controls=[utf8_control(oids.REG_CTRL_AUTHENTICATOR)]),
    "a control that nobody knows": lambda ee: ee.ir(subject="", controls=[utf8_control("1.2.3.4")]),
    "regInfo": lambda ee: ee.draft(
        BodyType.ir,
        der.sequence(
            der.sequence(
                *der.children(ee.cert_req_msg(new_key(), "")),
                der.sequence(utf8_control(oids.REG_INFO_UTF8_PAIRS)),
            )
        ),
    ),
    "challengePassword": with_password,
    "generalInfo": lambda ee: ee.ir(subject="", header={"general_info": utf8_control("1.3.6.1.5.5.7.4.12")}),
}  # fmt: skip


@pytest.mark.parametrize("carrier", CARRIERS.values(), ids=CARRIERS)
async def test_a_request_that_may_carry_a_secret_is_not_kept(world: World, carrier: Any) -> None:
    ee = await world.code()
    draft: Draft = carrier(ee)
    answer = await world.send(ee, draft)
    assert answer.fail_info, answer.text
    assert (await kept(world)).request is None


async def test_a_huge_request_is_not_kept(world: World) -> None:
    ee = await world.code()
    names = [f"{number}.example.com" for number in range(REQUEST_OCTETS // 8)]
    await world.send(ee, ee.ir(subject="", extensions=[san(*names)]))
    assert (await kept(world)).request is None


async def test_refusals_that_begin_no_transaction_are_kept_too(world: World) -> None:
    ee = await world.code(uses=None)
    answer = await world.send(ee, ee.ir())
    refused = await world.send(ee, ee.cert_conf(answer, cert_hash=bytes(32)))
    assert refused.fail_info == "badCertId"
    found = await kept(world)
    assert (found.operation, found.fail_info, found.reason) == ("certConf", "badCertId", refused.text)
    assert found.findings == ()
    done = await world.send(ee, ee.cert_conf(answer))
    assert done.type is BodyType.pkiconf
    assert len(await world.store.refusals(10)) == 1


async def test_a_stranger_changes_nothing_but_is_remembered(world: World) -> None:
    """Wrong secret, unknown reference, unknown certificate, garbage: in memory only."""
    ee = await world.code()
    commits = world.store.commits
    liar = EE.with_code("device-1", "wrong", now=world.clock())
    nobody = EE.with_code("nobody", "wrong", now=world.clock())
    for stranger in (liar, nobody):
        await world.post(stranger.seal(stranger.ir()))
    await world.post(b"\x30\x03garbage")
    await world.post(ee.seal(ee.ir()), profile="nowhere")
    assert world.store.commits == commits
    memory = world.responder.refusals.latest()
    assert [one.fail_info for one in memory] == ["badRequest", "badDataFormat", "badMessageCheck", "badMessageCheck"]
    assert {one.credential for one in memory} == {""}
    assert {one.request for one in memory} == {None}
    assert "device-1" in memory[-1].private
    assert await world.store.refusals(10) == []


async def test_the_memory_is_bounded(world: World) -> None:
    for _ in range(IN_MEMORY + 5):
        await world.post(b"garbage")
    memory = world.responder.refusals
    assert len(memory.latest()) == IN_MEMORY


async def test_a_reload_hands_the_memory_on(world: World) -> None:
    await world.post(b"garbage")
    after = Responder(
        profiles=world.profiles,
        default=None,
        issuers={"local": world.issuer},
        store=world.store,
        limits=world.limits,
        observe=world.exchanges.append,
        before=world.responder,
    )
    await after.respond(b"more garbage", Arrival("192.0.2.1"))
    assert len(after.refusals.latest()) == 2


async def test_a_client_that_loops_writes_so_many_refusals_a_second(world: World) -> None:
    ee = await world.code(uses=None)
    drafts = [ee.ir(subject="") for _ in range(PER_SECOND + 5)]
    answers = await asyncio.gather(*(world.send(ee, draft) for draft in drafts))
    assert {answer.fail_info for answer in answers} == {"badCertTemplate"}
    assert len(await world.store.refusals(100)) == PER_SECOND
    above = world.responder.refusals.latest()
    assert len(above) == 5
    assert {one.credential for one in above} == {"code:device-1"}
    world.clock.tick(seconds=1)
    await world.send(ee, ee.ir(subject=""))
    assert len(await world.store.refusals(100)) == PER_SECOND + 1


def test_each_profile_has_its_own_allowance(world: World) -> None:
    refusals, now = Refusals(), world.clock()
    assert [refusals.admit("a", now) for _ in range(PER_SECOND + 1)] == [True] * PER_SECOND + [False]
    assert refusals.admit("b", now)


async def test_a_repeated_answer_is_no_second_refusal(world: World) -> None:
    ee = await world.code()
    data = ee.seal(ee.ir(subject=""))
    answers = await asyncio.gather(*(world.post(data) for _ in range(3)))
    answers.append(await world.post(data))
    assert len(set(answers)) == 1
    assert len(await world.store.refusals(10)) == 1
    assert world.responder.refusals.latest() == []


async def test_what_the_profile_is_not_asked_has_no_findings(world: World) -> None:
    ee = await world.enrolled()
    await world.store.revoke(Revocation(int(world.last.serial, 16), RevocationReason.superseded, world.clock()))
    await world.send(ee, ee.kur())
    found = await kept(world)
    assert (found.fail_info, found.findings) == ("certRevoked", ())
    assert (await world.store.certificates(1))[0].status is CertificateStatus.revoked


async def test_an_accepted_request_leaves_no_refusal_and_no_extra_commit(world: World) -> None:
    before = world.store.commits
    await world.enrolled()
    assert world.store.commits == before + 3, "the code, the certificate, its confirmation"
    assert await world.store.refusals(10) == []
    assert world.responder.refusals.latest() == []


async def test_when_the_store_is_gone_the_refusal_is_in_memory(world: World) -> None:
    ee = await world.code()
    data = ee.seal(ee.ir())
    await world.store.close()
    await world.post(data)
    (one,) = world.responder.refusals.latest()
    assert one.fail_info == "systemUnavail"
