"""Who guesses secrets is locked out, at little cost here, and nobody else is."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cmpd import authentication
from cmpd.asn1 import BodyType, PKIStatus
from cmpd.exchange import Arrival, TooManyRequests
from cmpd.limits import Limits
from cmpd.protection import mac
from cmpd.protection.mac import MacParameters
from cmpd.rates import neighbourhood
from tests.ee import EE
from tests.world import SECRET, UNCOUNTED, World

AFTER = 10
"""enrollment.code.lock_after, as it is without the key."""


@pytest.fixture
def world(world: World) -> World:
    """With the lock-out as it is without the keys."""
    world.profile(enrollment={"code": {}})
    return world


class Time:
    """The monotonic clock of the rate limits, which stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(authentication, "time", time)
    return time


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MacParameters]]:
    """The key derivations that are done here."""
    found: list[MacParameters] = []

    def derive(parameters: MacParameters, secret: bytes) -> bytes:
        found.append(parameters)
        return mac.derive(parameters, secret)

    monkeypatch.setattr(authentication, "derive", derive)
    return iter([found])


def guesser(world: World, reference: str = "device-1") -> EE:
    return EE.with_code(reference, "a guess", now=world.clock())


async def guess(world: World, count: int, reference: str = "device-1", **arrival: Any) -> list[str]:
    """Wrong MACs, one after the other: the failInfos."""
    found = []
    for _ in range(count):
        ee = guesser(world, reference)
        answer = await world.send(ee, ee.ir(), **arrival)
        found.append(answer.fail_info or "")
    return found


async def enroll(world: World, ee: EE, **arrival: Any) -> tuple[str, str]:
    """failInfo and text; empty when it is granted."""
    ee.now = world.clock()
    answer = await world.send(ee, ee.ir(), **arrival)
    return answer.fail_info or "", answer.text


async def test_after_so_many_wrong_macs_even_the_right_one_has_to_wait(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ee = await world.code()
    with caplog.at_level(logging.WARNING):
        assert await guess(world, AFTER + 1) == ["badMessageCheck"] * AFTER + ["systemUnavail"]
    until = f"{world.clock() + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    assert [record.getMessage() for record in caplog.records] == [
        f"too many wrong MACs: profile device, reference device-1, address 192.0.2.1; locked until {until}"
    ]
    ee.now = world.clock()
    answer = await world.send(ee, ee.ir())
    assert answer.fail_info == "systemUnavail"
    assert until in answer.text, "it is told when"
    assert not answer.protected
    assert world.last.limit == "enrollment.code.lock_after"
    world.clock.tick(seconds=59)
    assert (await enroll(world, ee))[0] == "systemUnavail"
    world.clock.tick(seconds=1)
    assert (await enroll(world, ee))[0] == ""


async def test_what_was_counted_alone_counts_on_when_others_are_there(world: World) -> None:
    await world.code()
    assert await guess(world, AFTER - 1) == ["badMessageCheck"] * (AFTER - 1)
    world.responder.authenticator.several = True
    assert await guess(world, 2) == ["badMessageCheck", "systemUnavail"]


async def test_a_right_mac_begins_the_count_again(world: World) -> None:
    ee = await world.code(uses=None)
    for _ in range(3):
        assert set(await guess(world, AFTER - 1)) == {"badMessageCheck"}
        assert (await enroll(world, ee))[0] == ""


async def test_a_lock_is_for_one_code_and_for_nobody_else(world: World) -> None:
    await world.code()
    neighbours = [await world.code(reference) for reference in ("device-2", "device-10", "Device-1")]
    await guess(world, AFTER)
    for ee in neighbours:
        assert (await enroll(world, ee))[0] == ""


async def test_a_code_of_the_same_reference_in_another_profile_is_another_code(world: World) -> None:
    world.profile("other")
    ee = await world.code(profile="other")
    await world.code()
    await guess(world, AFTER)
    assert (await enroll(world, ee, profile="other"))[0] == ""


async def test_a_reference_that_only_begins_like_another_does_not_lock_it(world: World) -> None:
    """Nor does one that looks the same in the log."""
    long = "x" * 64
    ee, escaped = await world.code(long), await world.code("a\\x00b")
    await guess(world, AFTER, f"{long}y")
    await guess(world, AFTER, "a\x00b")
    assert (await enroll(world, ee))[0] == ""
    assert (await enroll(world, escaped))[0] == ""


async def test_the_lock_outlives_a_restart(world: World) -> None:
    ee = await world.code()
    await guess(world, AFTER)
    world.restart()
    assert (await enroll(world, ee))[0] == "systemUnavail"
    world.clock.tick(minutes=1)
    assert (await enroll(world, ee))[0] == ""


async def test_each_lock_is_twice_as_long_as_the_one_before(world: World) -> None:
    """1, 2, 4 … minutes, an hour at most, across restarts; until the code is used."""
    ee = await world.code(uses=None)
    expected = [1, 2, 4, 8, 16, 32, 60, 60]
    for number, minutes in enumerate(expected):
        assert (await guess(world, AFTER + 1))[-1] == "systemUnavail"
        if number == 3:
            world.restart()
        world.clock.tick(minutes=minutes, seconds=-1)
        assert (await enroll(world, ee))[0] == "systemUnavail"
        world.clock.tick(seconds=1)
    assert (await enroll(world, ee))[0] == ""
    await guess(world, AFTER)
    world.clock.tick(minutes=1)
    assert (await enroll(world, ee))[0] == "", "after a use it is a minute again"


async def test_a_reference_that_nobody_has_behaves_like_one_that_somebody_has(world: World) -> None:
    """Whoever probes learns nothing of which codes there are."""
    await world.code()
    seen: dict[str, list[tuple[str | None, str, bool]]] = {}
    for reference in ("device-1", "no-such-one"):
        for number in range(3 * AFTER):
            if number % (AFTER + 3) == AFTER + 2:
                world.clock.tick(minutes=2)
            ee = guesser(world, reference)
            answer = await world.send(ee, ee.ir())
            seen.setdefault(reference, []).append((answer.fail_info, answer.text[:60], answer.protected))
    assert seen["device-1"] == seen["no-such-one"]


async def test_a_wrong_mac_by_the_url_counts_for_the_code_of_the_url(world: World) -> None:
    ee = await world.code()
    await guess(world, AFTER, "whoever", code="device-1")
    assert (await enroll(world, ee))[0] == "systemUnavail"
    other = await world.code("whoever")
    assert (await enroll(world, other))[0] == ""


async def test_nobody_locks_a_global_code_for_others(world: World) -> None:
    world.profile(enrollment={"code": {"allow_global": True}})
    await world.store.create_code("device", "fleet", SECRET.encode(), None, None, world.clock(), is_global=True)
    ee = EE.with_code("anybody", SECRET)
    assert (await guess(world, AFTER + 1, address="203.0.113.7"))[-1] == "systemUnavail"
    assert (await enroll(world, ee, address="203.0.113.7"))[0] == "systemUnavail"
    assert (await enroll(world, ee, address="203.0.113.8"))[0] == ""


async def test_guesses_at_a_global_code_count_by_the_network_of_an_ipv6_address(world: World) -> None:
    """Whoever has one address has 2^64 of them."""
    world.profile(enrollment={"code": {"allow_global": True}})
    await world.store.create_code("device", "fleet", SECRET.encode(), None, None, world.clock(), is_global=True)
    outcomes = []
    for number in range(AFTER + 1):
        outcomes += await guess(world, 1, address=f"2001:db8::{number + 1:x}")
    assert outcomes[-1] == "systemUnavail"


async def test_a_thousand_guesses_cost_less_here_than_there(
    world: World, derivations: Iterator[list[MacParameters]]
) -> None:
    done = next(derivations)
    await world.code()
    assert (await guess(world, 1000)).count("badMessageCheck") == AFTER
    assert len(done) == AFTER
    await guess(world, 1000, "no-such-one")
    assert len(done) == AFTER, "for what nobody has there is nothing to derive"


async def test_guesses_at_once_do_not_slip_through(world: World, derivations: Iterator[list[MacParameters]]) -> None:
    done = next(derivations)
    await world.code()
    found = [one for some in await asyncio.gather(*(guess(world, 20) for _ in range(10))) for one in some]
    assert len(done) == found.count("badMessageCheck") <= AFTER + 10, "those that were under way already"


async def test_long_derivations_cannot_be_asked_for_without_end(
    world: World, derivations: Iterator[list[MacParameters]]
) -> None:
    """Those that wait for a thread were begun before the lock: they are few."""
    done = next(derivations)
    await world.code()

    async def one() -> None:
        ee = guesser(world)
        ee.iterations = world.limits.inline_iterations + 1
        await world.post(ee.seal(ee.ir()))

    await asyncio.gather(*(one() for _ in range(100)))
    assert len(done) <= AFTER + authentication.WAITING_DERIVATIONS


# By address


@pytest.fixture
def counting(world: World, time: Time) -> Time:
    world.limits = replace(UNCOUNTED, address_failures=6)
    return time


async def test_an_address_that_fails_too_often_is_not_looked_at(world: World, counting: Time) -> None:
    ee = await world.code("device-2", uses=None)
    await world.code()
    found = [one for number in range(7) for one in await guess(world, 1, f"r-{number}")]
    assert found == ["badMessageCheck"] * 6 + ["systemUnavail"]
    fail_info, text = await enroll(world, ee)
    assert (fail_info, world.last.limit) == ("systemUnavail", "limits.address_failures")
    assert "try again in 10 s" in text
    assert (await enroll(world, ee, address="192.0.2.2"))[0] == "", "another address"
    counting.now += 10
    assert (await enroll(world, ee))[0] == "", "all is well again"
    assert (await enroll(world, ee))[0] == "", "and what is right does not count"


async def test_what_was_answered_is_answered_again_whatever_the_address_does(world: World, counting: Time) -> None:
    ee = await world.code()
    draft = ee.ir()
    request = ee.seal(draft)
    answer = await world.post(request)
    for number in range(7):
        await guess(world, 1, f"r-{number}")
    assert await world.post(request) == answer


async def test_a_suspended_address_gets_a_signed_answer_to_a_signed_message(world: World, counting: Time) -> None:
    ee = await world.enrolled()
    for number in range(7):
        await guess(world, 1, f"r-{number}")
    answer = await world.send(ee, ee.kur())
    assert (answer.fail_info, answer.protected) == ("systemUnavail", True)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("unknown", "unknown", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    assert (neighbourhood(one) == neighbourhood(other)) is same


async def test_the_neighbours_in_an_ipv6_network_are_one(world: World, counting: Time) -> None:
    ee = await world.code(uses=None)
    for number in range(7):
        await guess(world, 1, f"r-{number}", address=f"2001:db8::{number + 1:x}")
    assert (await enroll(world, ee, address="2001:db8::99"))[0] == "systemUnavail"
    assert (await enroll(world, ee, address="2001:db8:0:1::1"))[0] == ""


async def test_nothing_is_derived_for_a_suspended_address(
    world: World, counting: Time, derivations: Iterator[list[MacParameters]]
) -> None:
    done = next(derivations)
    for number in range(200):
        await world.code(f"r-{number}")
        await guess(world, 1, f"r-{number}")
    assert len(done) == 6


async def test_what_cannot_be_read_counts_and_is_429_in_the_end(world: World, counting: Time) -> None:
    """RFC 6585 §4: where no CMP answer can be formed."""
    arrival = Arrival("192.0.2.1", "device")
    for _ in range(6):
        answer = await world.responder.answer(b"no PKIMessage", arrival)
        assert isinstance(answer, bytes)
    assert await world.responder.answer(b"no PKIMessage", arrival) == TooManyRequests(10)
    ee = await world.code()
    readable = await world.responder.answer(ee.seal(ee.ir()), arrival)
    assert isinstance(readable, bytes), "what can be read gets a PKIMessage"
    assert ee.read(readable).fail_info == "systemUnavail"
    counting.now += 10
    assert isinstance(await world.responder.answer(b"no PKIMessage", arrival), bytes)


# How much of what is right


async def test_messages_of_an_address_in_a_second(world: World, time: Time) -> None:
    world.limits = replace(UNCOUNTED, address_requests=4)
    ee = await world.code(uses=None)
    assert [(await enroll(world, ee))[0] for _ in range(5)] == ["", "", "", "", "systemUnavail"]
    assert world.last.limit == "limits.address_requests"
    assert (await enroll(world, ee, address="192.0.2.2"))[0] == ""
    time.now += 0.25
    assert [(await enroll(world, ee))[0] for _ in range(2)] == ["", "systemUnavail"]
    time.now += 60
    assert [(await enroll(world, ee))[0] for _ in range(5)] == ["", "", "", "", "systemUnavail"], "none are saved up"


async def test_requests_of_a_profile_in_a_second(world: World, time: Time) -> None:
    world.profile(enrollment={"requests_per_second": 2})
    world.profile("other")
    codes = [await world.code(f"r-{number}", uses=None) for number in range(3)]
    other = await world.code(profile="other")
    answers = [await world.send(ee, ee.ir()) for ee in codes]
    assert [answer.fail_info for answer in answers] == [None, None, "systemUnavail"]
    assert "enrollment.requests_per_second" in answers[2].text
    assert answers[2].protected, "it is known who asks"
    assert (await enroll(world, other, profile="other"))[0] == ""
    assert (await world.send(codes[0], codes[0].cert_conf(answers[0]))).type is BodyType.pkiconf, "what began may end"
    time.now += 1
    assert (await enroll(world, codes[2]))[0] == ""


async def test_who_is_not_known_takes_nothing_from_the_profile(world: World, time: Time) -> None:
    world.profile(enrollment={"requests_per_second": 1, "code": {}})
    ee = await world.code()
    await guess(world, 5, "no-such-one")
    assert (await enroll(world, ee))[0] == ""


async def test_requests_with_a_code_in_a_minute(world: World, time: Time) -> None:
    world.profile(enrollment={"code": {"requests_per_minute": 2}})
    ee, other = await world.code(uses=None), await world.code("device-2")
    assert [(await enroll(world, ee))[0] for _ in range(3)] == ["", "", "systemUnavail"]
    assert world.last.limit == "enrollment.code.requests_per_minute"
    assert world.last.reason.endswith("try again in 30 s (enrollment.code.requests_per_minute)")
    assert (await enroll(world, other))[0] == ""
    time.now += 30
    assert [(await enroll(world, ee))[0] for _ in range(2)] == ["", "systemUnavail"]


async def test_the_usual_limits_let_a_usual_fleet_pass(world: World) -> None:
    """With the limits as they are without [limits]: nobody who is right notices them."""
    world.limits = Limits()
    ee = await world.code(uses=None)
    for _ in range(100):
        answer = await world.send(ee, ee.ir())
        assert answer.status is PKIStatus.accepted
