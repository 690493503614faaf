"""Enrollment codes on their way through an exchange: found, bound, consumed, given back."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from cmpd import asn1
from cmpd.asn1 import BodyType, PKIStatus
from cmpd.exchange import CertificateStatus, NewCode
from tests.ee import EE, Answer, new_key, san, spki
from tests.world import SECRET, World


async def code(world: World, reference: str = "device-1", **fields: Any) -> EE:
    """A code with all that it can have, and who holds it."""
    await world.store.create_codes([NewCode("device", reference, SECRET.encode(), **fields)], world.clock())
    return EE.with_code(reference, SECRET, now=world.clock())


async def said(world: World, ee: EE, **request: Any) -> tuple[str, str]:
    ee.now = world.clock()
    answer = await world.send(ee, ee.ir(**request))
    return answer.fail_info or "", answer.text


async def test_an_answer_that_was_lost_is_repeated_though_the_code_is_used_up(world: World) -> None:
    ee = await world.code()
    draft = ee.ir()
    request = ee.seal(draft)
    answer = await world.post(request)
    assert await world.used() == 1
    assert (await said(world, ee)) == ("notAuthorized", "enrollment code has been used up")
    for restarted in (False, True):
        if restarted:
            world.restart()
        assert await world.post(request) == answer
    read = ee.read(answer, draft)
    assert (await world.send(ee, ee.cert_conf(read))).type is BodyType.pkiconf
    assert await world.post(request) == answer, "after the end too"
    assert await world.used() == 1


async def test_a_transaction_stays_with_its_code_until_it_ends(world: World) -> None:
    """Revoked, expired: what began may be confirmed; only nothing new begins."""
    ee = await code(world, expires=world.clock() + timedelta(minutes=2))
    answer = await world.send(ee, ee.ir())
    world.clock.tick(minutes=3)
    await world.store.revoke_code("device", "device-1", world.clock())
    world.restart()
    ee.now = world.clock()
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf


@pytest.mark.parametrize("give_back", [True, False])
async def test_a_rejected_certificate_gives_the_use_back_only_where_the_profile_says_so(
    world: World, give_back: bool
) -> None:
    world.profile(enrollment={"code": {"give_back": give_back}})
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    rejection = ee.cert_conf(answer, status=PKIStatus.rejection)
    request = ee.seal(rejection)
    done = await world.post(request)
    assert ee.read(done, rejection).type is BodyType.pkiconf
    assert await world.used() == (0 if give_back else 1)
    assert await world.post(request) == done
    assert await world.used() == (0 if give_back else 1), "once, however often it is said"
    issued = await world.store.certificate(answer.certificate().serial_number)
    assert issued is not None
    assert issued.status is CertificateStatus.revoked
    assert (await said(world, ee))[0] == ("" if give_back else "notAuthorized")


async def test_what_is_never_confirmed_gives_nothing_back(world: World) -> None:
    world.profile(enrollment={"code": {"give_back": True}})
    ee = await world.code()
    await world.send(ee, ee.ir())
    world.clock.tick(minutes=11)
    assert len(await world.store.expire(world.clock())) == 1
    assert await world.used() == 1


async def test_a_refused_request_costs_no_use(world: World) -> None:
    ee = await world.code()
    assert (await said(world, ee, subject="O=No common name"))[0] == "badCertTemplate"
    assert await world.used() == 0
    assert (await said(world, ee))[0] == ""


async def test_several_certificates_in_one_message_are_several_uses(world: World) -> None:
    """`uses` says how many certificates a code is good for, however they are asked for (RFC 9810 §5.3)."""
    world.profile(enrollment={"several_requests": True})
    ee = await world.code(uses=2)

    def three(count: int) -> Any:
        keys = [new_key() for _ in range(count)]
        requests = [ee.cert_req_msg(key, cert_req_id=number) for number, key in enumerate(keys)]
        return ee.draft(BodyType.ir, asn1.der.sequence(*requests))

    answer = await world.send(ee, three(3))
    assert answer.fail_info == "notAuthorized"
    assert await world.used() == 0
    assert (await world.store.certificates(10)) == []
    answer = await world.send(ee, three(2))
    assert answer.status is PKIStatus.accepted
    assert await world.used() == 2


async def test_from_when_to_when(world: World) -> None:
    begin, end = world.clock() + timedelta(hours=1), world.clock() + timedelta(hours=2)
    ee = await code(world, valid_from=begin, expires=end, uses=None)
    assert await said(world, ee) == (
        "notAuthorized",
        f"enrollment code is not valid before {begin:%Y-%m-%dT%H:%M:%SZ}",
    )
    world.clock.tick(hours=1)
    assert (await said(world, ee))[0] == ""
    world.clock.tick(hours=1, seconds=-1)
    assert (await said(world, ee))[0] == ""
    world.clock.tick(seconds=1)
    assert await said(world, ee) == ("notAuthorized", f"enrollment code expired at {end:%Y-%m-%dT%H:%M:%SZ}")


# What a code is for


async def test_a_seat(world: World) -> None:
    world.profile(seat={"id_mapping": "san.dns"})
    ee = await code(world, seat="door-7.example.com")
    fail_info, text = await said(world, ee, extensions=[san("door-8.example.com")])
    assert (fail_info, "door-7" in text) == ("notAuthorized", False), "a thief is not told whom it is for"
    assert "door-7" in world.last.private, "the operator is"
    assert (await said(world, ee, extensions=[san("door-7.example.com")]))[0] == ""


async def test_the_seat_is_that_of_the_code_where_the_request_names_none(world: World) -> None:
    world.profile(subject={"common_name": {"include": "optional"}})
    ee = await code(world, seat="door-7")
    draft = ee.ir(subject="O=Example")
    answer = await world.send(ee, draft)
    issued = await world.store.certificate(answer.certificate().serial_number)
    assert issued is not None
    assert issued.seat == "door-7"
    await world.send(ee, ee.cert_conf(answer))
    owner = EE.with_certificate(draft.key, answer.certificate_der(), now=world.clock())
    renewed = await world.send(owner, owner.kur(subject="O=Example"))
    issued = await world.store.certificate(renewed.certificate().serial_number)
    assert issued is not None
    assert issued.seat == "door-7", "and a renewal keeps it"


@pytest.mark.parametrize(
    ("pattern", "subject", "granted"),
    [
        ("CN=device-1", "CN=device-1", True),
        ("CN=device-1", "CN=device-10", False),
        ("CN=device-[0-9]+", "CN=device-10", True),
        ("CN=device-[0-9]+", "CN=device-10,O=Example", False),
        ("O=Example,CN=device-1", "CN=device-1,O=Example", True),
        ("CN=device-1", "CN=Device-1", False),
    ],
)
async def test_a_subject(world: World, pattern: str, subject: str, granted: bool) -> None:
    ee = await code(world, subject=pattern)
    fail_info, text = await said(world, ee, subject=subject)
    assert fail_info == ("" if granted else "notAuthorized"), text
    assert pattern not in text


@pytest.mark.parametrize(
    ("patterns", "names", "granted"),
    [
        (("dns:a[.]example[.]com",), ("a.example.com",), True),
        (("dns:a[.]example[.]com",), ("A.Example.com",), True),
        (("dns:a[.]example[.]com",), ("a.example.com", "b.example.com"), False),
        (("dns:a[.]example[.]com", "dns:b[.]example[.]com"), ("b.example.com", "a.example.com"), True),
        (("dns:.*[.]example[.]com",), ("a.example.com.evil.org",), False),
        (("a[.]example[.]com",), ("a.example.com",), False),
        (("dns:a[.]example[.]com",), (), True),
    ],
)
async def test_alternative_names(
    world: World, patterns: tuple[str, ...], names: tuple[str, ...], granted: bool
) -> None:
    """Every one must match one pattern; none need be there."""
    ee = await code(world, san=patterns)
    fail_info, text = await said(world, ee, extensions=[san(*names)] if names else [])
    assert fail_info == ("" if granted else "notAuthorized"), text


async def test_a_key(world: World) -> None:
    key, other = new_key(), new_key()
    ee = await code(world, key=hashlib.sha256(spki(key)).hexdigest())
    draft = ee.ir(other)
    assert (await world.send(ee, draft)).fail_info == "badCertTemplate"
    assert (await world.send(ee, ee.ir(key))).status is PKIStatus.accepted


# Found by the URL


def header_of(answer: Answer) -> tuple[str | None, bytes | None]:
    name = asn1.directory_name(asn1.raw(answer.message.header.sender))
    assert name is not None
    return asn1.common_name(name), answer.message.header.senderKID


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({}, ("firmware", b"firmware")),
        ({"sender_kid": b"4711"}, ("4711", b"4711")),
        ({"sender_kid": None}, ("device-1", b"device-1")),
        ({"sender_kid": b""}, ("device-1", b"device-1")),
        ({"sender_kid": None, "sender": asn1.der.explicit(4, asn1.der.sequence())}, ("device-1", b"device-1")),
    ],
    ids=["senderKID and sender", "senderKID that is not in sender", "sender alone", "empty senderKID", "neither"],
)
async def test_the_url_names_the_code_and_the_answer_repeats_what_the_client_calls_it(
    world: World, header: dict[str, Any], expected: tuple[str, bytes]
) -> None:
    await world.code()
    ee = EE.with_code("firmware", SECRET, now=world.clock())
    draft = ee.ir(header=header)
    answer = await world.send(ee, draft, code="device-1")
    assert answer.status is PKIStatus.accepted, answer.text
    assert header_of(answer) == expected
    assert world.last.credential == "code:device-1"
    done = await world.send(ee, ee.cert_conf(answer, **header), code="device-1")
    assert (done.type, header_of(done)) == (BodyType.pkiconf, expected)


async def test_the_url_comes_before_what_the_message_names(world: World) -> None:
    """Another code's name in the message does not matter; its secret would."""
    await world.code()
    await world.code("device-2", secret="the secret of the other")
    by_url = EE.with_code("device-2", SECRET, now=world.clock())
    assert (await world.send(by_url, by_url.ir(), code="device-1")).status is PKIStatus.accepted
    assert (await world.used(), await world.used("device-2")) == (1, 0)
    other = EE.with_code("device-2", "the secret of the other", now=world.clock())
    assert (await world.send(other, other.ir(), code="device-1")).fail_info == "badMessageCheck"


async def test_a_certconf_may_come_without_the_code_in_its_url_and_after_a_restart(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir(), code="device-1")
    world.restart()
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf


# One code for everybody


async def everybody(world: World, **fields: Any) -> None:
    await world.store.create_codes(
        [NewCode("device", "fleet", SECRET.encode(), is_global=True, **{"uses": None, **fields})], world.clock()
    )


async def test_a_global_code_is_good_for_any_name_only_where_the_profile_allows_it(world: World) -> None:
    await everybody(world)
    for reference in ("fleet", "device-99"):
        ee = EE.with_code(reference, SECRET, now=world.clock())
        assert (await said(world, ee))[0] == "badMessageCheck"
    world.profile(enrollment={"code": {"allow_global": True}})
    for number, reference in enumerate(("fleet", "device-99"), 1):
        ee = EE.with_code(reference, SECRET, now=world.clock())
        draft = ee.ir()
        answer = await world.send(ee, draft)
        assert header_of(answer) == (reference, reference.encode())
        assert world.last.credential == "code:fleet"
        assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf
        assert await world.used("fleet") == number


async def test_who_has_a_code_of_its_own_does_not_get_in_by_the_global_one(world: World) -> None:
    """Revoking it would otherwise be worth nothing."""
    world.profile(enrollment={"code": {"allow_global": True}})
    await everybody(world)
    own = await world.code("device-1", secret="its own secret")
    await world.store.revoke_code("device", "device-1", world.clock())
    assert (await said(world, own)) == ("notAuthorized", "enrollment code has been revoked")
    ee = EE.with_code("device-1", SECRET, now=world.clock())
    assert (await said(world, ee))[0] == "badMessageCheck"


async def test_an_exhausted_global_code(world: World) -> None:
    world.profile(enrollment={"code": {"allow_global": True}})
    await everybody(world, uses=2)
    outcomes = []
    for number in range(3):
        ee = EE.with_code(f"device-{number}", SECRET, now=world.clock())
        outcomes.append((await said(world, ee))[0])
    assert outcomes == ["", "", "notAuthorized"]


async def test_the_certificate_is_what_was_asked_for_and_the_root_is_in_ca_pubs(world: World) -> None:
    """RFC 9483 §4.1: a shared secret lets the EE trust a root that it has not seen before."""
    ee = await code(world, seat="door-7", subject="CN=door-7")
    answer = await world.send(ee, ee.ir(subject="CN=door-7"))
    (root,) = answer.body.caPubs
    assert asn1.raw(root) if not isinstance(root, bytes) else root == (await world.issuer.chain())[-1]
    assert answer.certificate().subject == x509.Name.from_rfc4514_string("CN=door-7")


async def test_a_seat_of_a_code_is_that_of_the_certificate_where_the_profile_maps_none(world: World) -> None:
    """An operator who gives a code to a seat need not put the seat into the names."""
    await world.store.create_code("device", "device-1", SECRET.encode(), 1, None, world.clock(), seat="rack 7")
    ee = EE.with_code("device-1", SECRET, now=world.clock())
    assert (await world.send(ee, ee.ir(subject="CN=anything"))).fail_info is None
    (one,) = await world.store.certificates(1)
    assert one.seat == "rack 7"
