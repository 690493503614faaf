"""Budgets: how many certificates a profile issues in a day, and a seat has at a time."""

import asyncio
from datetime import timedelta

from cmpd.asn1 import BodyType, PKIStatus, der
from cmpd.exchange import RevocationReason
from cmpd.ports import Issued, Revocation
from tests.ee import new_key
from tests.world import World


async def test_a_day_has_its_budget(world: World) -> None:
    world.profile(budget={"per_day": 2})
    world.clock.now = world.clock().replace(hour=23, minute=59)
    ee = await world.code(uses=None)
    for _ in range(2):
        assert (await world.send(ee, ee.ir())).status is PKIStatus.accepted
    answer = await world.send(ee, ee.ir())
    assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "notAuthorized")
    midnight = world.clock().replace(hour=0, minute=0, second=0) + timedelta(days=1)
    assert "budget.per_day" in answer.text
    assert f"{midnight:%Y-%m-%dT%H:%M:%SZ}" in answer.text
    assert await world.used() == 2
    world.clock.now = midnight
    ee.now = midnight
    assert (await world.send(ee, ee.ir())).status is PKIStatus.accepted


async def test_what_was_issued_before_the_budget_was_set_counts_and_other_profiles_do_not(world: World) -> None:
    await world.enrolled("CN=device-1")
    world.profile("server", budget={"per_day": 1})
    world.profile(budget={"per_day": 2})
    await world.enrolled("CN=device-2")
    ee = await world.code()
    assert "budget.per_day" in (await world.send(ee, ee.ir())).text
    await world.enrolled(profile="server")


async def test_a_seat_has_its_budget(world: World) -> None:
    world.profile(budget={"per_seat": 2})
    first = await world.enrolled()
    serial = int(world.last.serial, 16)
    await world.enrolled()
    ee = await world.code(uses=None)
    answer = await world.send(ee, ee.ir())
    assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "notAuthorized")
    assert "seat device-1: has all the 2 valid certificates" in answer.text
    assert "budget.per_seat" in answer.text
    assert (await world.send(ee, ee.ir(subject="CN=device-2"))).status is PKIStatus.accepted
    assert (await world.send(first, first.kur())).status is PKIStatus.accepted, "an update takes the old one's place"
    await world.store.revoke(Revocation(serial, RevocationReason.superseded, world.clock()))
    assert (await world.send(ee, ee.ir())).fail_info == "notAuthorized", "its update is in force"


async def test_of_many_at_once_no_more_than_the_budget_are_let(world: World) -> None:
    world.profile(budget={"per_day": 3})
    ee = await world.code(uses=None)
    drafts = [ee.ir(subject=f"CN=device-{number}") for number in range(10)]
    answers = await asyncio.gather(*(world.send(ee, draft) for draft in drafts))
    assert sorted(answer.fail_info or "" for answer in answers) == [*[""] * 3, *["notAuthorized"] * 7]
    assert len(await world.store.certificates(100)) == 3


class _Counting:
    """An issuer that counts what it is asked."""

    def __init__(self, inner: object) -> None:
        self.inner, self.asked = inner, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    async def chain(self) -> tuple[bytes, ...]:
        return await self.inner.chain()  # type: ignore[attr-defined,no-any-return]

    async def issue(self, request: object) -> Issued:
        self.asked += 1
        return await self.inner.issue(request)  # type: ignore[attr-defined,no-any-return]


class _Costly(_Counting):
    outside_effects = True


async def test_nothing_is_issued_that_the_budget_or_the_seat_refuses(world: World) -> None:
    counting = world.issuer = _Counting(world.issuer)
    world.profile(budget={"per_day": 1}, seat={"allow_duplicates": False})
    ee = await world.code(uses=None)
    await world.send(ee, ee.ir())
    for _ in range(3):
        assert (await world.send(ee, ee.ir())).status is PKIStatus.rejection
    assert counting.asked == 1


async def test_an_issuer_that_costs_is_not_asked_for_a_key_that_is_in_use(world: World) -> None:
    costly = world.issuer = _Costly(world.issuer)
    world.profile()
    ee = await world.code(uses=None)
    draft = ee.ir()
    await world.send(ee, draft)
    assert (await world.send(ee, ee.ir(draft.key))).fail_info == "badCertTemplate"
    assert costly.asked == 1


async def test_several_requests_share_what_is_left(world: World) -> None:
    world.profile(enrollment={"several_requests": True}, budget={"per_day": 2})
    ee = await world.code(uses=None)
    requests = [ee.cert_req_msg(new_key(), f"CN=device-{number}", cert_req_id=number) for number in range(3)]
    answer = await world.send(ee, ee.draft(BodyType.ir, der.sequence(*requests)))
    assert [one.status.status for one in answer.body.response] == [
        PKIStatus.accepted,
        PKIStatus.accepted,
        PKIStatus.rejection,
    ]
