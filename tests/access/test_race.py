"""Many clients and one code: so many certificates as it is good for, and no more, whoever answers."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from cmpd.asn1 import BodyType, PKIStatus
from tests import postgres
from tests.daemon import SECRET, Daemon, Site
from tests.ee import EE, Answer
from tests.world import World

CLIENTS = 50


def outcomes(answers: Sequence[Answer]) -> Counter[str]:
    """How often each; every answer is protected by the code."""
    assert all(answer.protected for answer in answers)
    return Counter(answer.fail_info or answer.status.name for answer in answers)


@pytest.mark.parametrize(("uses", "clients"), [(1, CLIENTS), (5, 25)])
async def test_so_many_as_the_code_is_good_for_win(world: World, uses: int, clients: int) -> None:
    await world.code(uses=uses)
    devices = [EE.with_code("device-1", SECRET, now=world.clock()) for _ in range(clients)]
    answers = await asyncio.gather(
        *(world.send(ee, ee.ir(subject=f"CN=device-{number}")) for number, ee in enumerate(devices))
    )
    assert outcomes(answers) == {"accepted": uses, "notAuthorized": clients - uses}
    assert {answer.text for answer in answers if answer.fail_info} == {"enrollment code has been used up"}
    assert len(await world.store.certificates(clients)) == uses
    assert await world.used() == uses
    winners = [(ee, answer) for ee, answer in zip(devices, answers, strict=True) if not answer.fail_info]
    for ee, answer in winners:
        assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf
    assert await world.used() == uses


async def test_the_same_octets_at_once_are_one_enrollment(world: World) -> None:
    """A client that sends again before it is answered: one use, one certificate, one answer."""
    ee = await world.code()
    draft = ee.ir()
    request = ee.seal(draft)
    answers = set(await asyncio.gather(*(world.post(request) for _ in range(10))))
    assert len(answers) == 1
    assert ee.read(answers.pop(), draft).status is PKIStatus.accepted
    assert (await world.used(), len(await world.store.certificates(10))) == (1, 1)


def race(daemons: Sequence[Daemon], reference: str, clients: int) -> list[Answer]:
    """All at once, by turns of every daemon."""
    devices = [EE.with_code(reference, SECRET) for _ in range(clients)]
    drafts = [ee.ir(subject=f"CN=device-{number}") for number, ee in enumerate(devices)]
    requests = [ee.seal(draft) for ee, draft in zip(devices, drafts, strict=True)]

    def enroll(number: int) -> Answer:
        answer = daemons[number % len(daemons)].ask(requests[number])
        return devices[number].read(answer, drafts[number])

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(enroll, range(clients)))


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """With a key of its own, and so with a store that nobody else has had."""
    with postgres.empty() if request.param == "postgresql" else nullcontext(None) as url:
        yield Site.make(tmp_path / "cmpd", store_url=url)


def test_two_daemons_on_one_store_do_not_both_win(site: Site) -> None:
    site.code("once")
    site.code("thrice", uses=3)
    with site.serve() as one, site.serve() as other:
        assert outcomes(race((one, other), "once", CLIENTS)) == {"accepted": 1, "notAuthorized": CLIENTS - 1}
        assert outcomes(race((one, other), "thrice", 23)) == {"accepted": 3, "notAuthorized": 20}
        one.stop()
        other.stop()
    assert len(site.certificates()) == 4
    assert (site.used("once"), site.used("thrice")) == (1, 3)
