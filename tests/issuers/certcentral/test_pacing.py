"""The budget lets no window have more, and lets all through in turn; the breaker opens, tries once, and closes."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from cmpd.issuers.certcentral.pacing import Breaker, BreakerState, Budget, Open, Overloaded
from tests.certcentral.journal import most_within
from tests.issuers.certcentral.world import Timeline


def budget(timeline: Timeline, *windows: tuple[int, float], waiting: int = 10_000) -> Budget:
    return Budget(windows, waiting, clock=timeline.clock, sleep=timeline.sleep)


async def test_no_window_ever_has_more_than_its_budget(timeline: Timeline) -> None:
    limited = budget(timeline, (10, 5.0), (40, 60.0))
    times = []
    for _ in range(200):
        await limited.take()
        times.append(timeline.now)
    assert most_within(times, 5.0) == 10
    assert most_within(times, 60.0) == 40
    assert times[-1] - times[0] < 5 * 60 * 1.1, "and the budget is used"


async def test_calls_count_from_their_end(timeline: Timeline) -> None:
    """The first one may arrive when the second one leaves: it is not over before its answer is here."""
    limited = budget(timeline, (2, 5.0))
    first = await limited.take()
    timeline.now += 4.0
    limited.ended(first)
    for _ in range(2):
        await limited.take()
    assert timeline.now >= first + 4.0 + 5.0


@pytest.mark.parametrize(("short", "long"), [(60, 700), (50, 500), (80, 900), (100, 1000)])
async def test_a_restart_stays_within_the_limits_of_the_other_side(timeline: Timeline, short: int, long: int) -> None:
    """A process that is killed when it has used its budget up, and one that begins where it has ended."""
    windows, limits, times = ((short, 5.0), (long, 180.0)), (100, 1000), []
    for count in (long, 2 * long):
        one = Budget(windows, 10_000, clock=timeline.clock, sleep=timeline.sleep, limits=limits)
        began = timeline.now
        for _ in range(count):
            await one.take()
            times.append(timeline.now)
        life = [at for at in times if at > began or count == long]
        assert most_within(life, 5.0) <= short
        assert most_within(life, 180.0) <= long
    assert most_within(times, 5.0) <= 100
    assert most_within(times, 180.0) <= 1000


BOTH = ((60, 5.0), (700, 180.0))
LIMITS = (100, 1000)


async def use(budgets: Sequence[Budget], seconds: float, timeline: Timeline) -> list[float]:
    """When calls are made that come as fast as they are let through, at all of them in turn."""
    times, until = [], timeline.now + seconds
    while timeline.now < until:
        for one in budgets:
            while one._wait(timeline.now) <= 0:
                await one.take()
                times.append(timeline.now)
        timeline.now += 0.25
    return times


def shared(timeline: Timeline, processes: int | None, limits: Sequence[int] = LIMITS) -> Budget:
    """The budget of a process that has found so many, itself included."""
    one = Budget(BOTH, 10_000, clock=timeline.clock, sleep=timeline.sleep, limits=limits)
    if processes is not None:
        one.share(processes)
    return one


@pytest.mark.parametrize(("processes", "parts"), [(1, (60, 700)), (2, (30, 350)), (7, (8, 100)), (1000, (1, 1))])
async def test_each_process_has_its_part(timeline: Timeline, processes: int, parts: tuple[int, int]) -> None:
    """And at least one call."""
    one = shared(timeline, processes)
    assert one.parts == parts
    timeline.now += 200
    times = await use([one], 400, timeline)
    assert (most_within(times, 5.0), most_within(times, 180.0)) == parts


async def test_who_joins_exceeds_no_short_budget_and_no_limit(timeline: Timeline) -> None:
    """The first one uses all there is, and hears of the second one 2.5 seconds late."""
    first = shared(timeline, 1)
    times = await use([first], 400, timeline)
    assert (most_within(times, 5.0), most_within(times, 180.0)) == (60, 700)
    began = timeline.now
    second = shared(timeline, 2)
    times += await use([first, second], 2.5, timeline)
    assert first.share(2)
    times += await use([first, second], 400, timeline)
    assert most_within(times, 5.0) <= 60
    assert most_within(times, 180.0) <= 1000
    later = [at for at in times if at > began + 190]
    assert most_within(later, 180.0) <= 700
    assert most_within(later, 180.0) > 650, "and the budget is used"


async def test_who_joins_begins_soon(timeline: Timeline) -> None:
    began = timeline.now
    times = await use([shared(timeline, 2)], 60, timeline)
    assert 8.0 <= times[0] - began < 9.0
    assert len(times) == 150, "half of what DigiCert admits beside the budget, in its first three minutes"


async def test_the_part_of_who_has_gone_comes_back_when_its_calls_are_past(timeline: Timeline) -> None:
    both = [shared(timeline, 2), shared(timeline, 2)]
    timeline.now += 400
    times = await use(both, 20, timeline)
    gone = timeline.now
    assert both[0].share(1)
    times += await use(both[:1], 400, timeline)
    assert both[0].parts == (60, 700)
    assert most_within(times, 5.0) == 60
    assert most_within(times, 180.0) <= 700
    assert most_within([at for at in times if at > gone + 190], 180.0) > 600


async def test_who_is_replaced_at_once_gives_nobody_more(timeline: Timeline) -> None:
    one = shared(timeline, 2)
    timeline.now += 400
    for processes in (1, 2, 1, 2, 3, 2):
        one.share(processes)
        timeline.now += 1.0
        assert one.parts[0] <= 30
    timeline.now += 10
    await one.take()
    assert one.parts == (30, 233)


async def test_several_that_begin_after_a_kill_stay_within_the_limits(timeline: Timeline) -> None:
    """One process used all there was and was killed; of four that follow, one finds nobody, and is told a second later.

    Of three minutes it has its part of the rest, beside what it has called until then.
    """
    times = await use([shared(timeline, 1)], 400, timeline)
    four = [shared(timeline, 1 + number) for number in range(4)]
    times += await use(four, 1, timeline)
    for one in four:
        one.share(4)
    times += await use(four, 400, timeline)
    assert most_within(times, 5.0) <= 100
    assert most_within(times, 180.0) <= 1000


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_comes_and_goes_the_short_budget_holds(timeline: Timeline, seed: int) -> None:
    """Up to five processes, all of which call as much as they may; each hears of the others up to 2.5 seconds late."""
    dice = random.Random(seed)
    here, hears, times = [shared(timeline, 1)], {}, []
    timeline.now += 10
    for _ in range(1200):
        if dice.random() < 0.05 and len(here) < 5:
            here.append(shared(timeline, len(here) + 1))
        elif dice.random() < 0.05 and len(here) > 1:
            here.pop(dice.randrange(len(here)))
        for one in here:
            if (one, len(here)) not in hears:
                hears[one, len(here)] = timeline.now + dice.random() * 2.5
            elif hears[one, len(here)] <= timeline.now:
                one.share(len(here))
        hears = {about: at for about, at in hears.items() if about[1] == len(here)}
        times += await use(here, 0.25, timeline)
    assert 30 < most_within(times, 5.0) <= 60


async def test_without_limits_a_budget_begins_as_it_is(timeline: Timeline) -> None:
    one = shared(timeline, 1, limits=())
    began = timeline.now
    times = await use([one], 5, timeline)
    assert len([at for at in times if at == began]) == 60


def test_the_same_number_of_processes_is_no_news(timeline: Timeline) -> None:
    one = shared(timeline, 1)
    assert [one.share(processes) for processes in (1, 1, 2, 2, 1)] == [False, False, True, False, True]


async def test_calls_are_let_through_in_the_order_in_which_they_came(timeline: Timeline) -> None:
    limited, order = budget(timeline, (1, 1.0)), []

    async def call(number: int) -> None:
        await limited.take()
        order.append(number)

    await asyncio.gather(*(call(number) for number in range(20)))
    assert order == list(range(20))


async def test_too_many_do_not_wait(timeline: Timeline) -> None:
    limited = budget(timeline, (1, 1.0), waiting=3)
    blocked = asyncio.Event()

    async def forever(_seconds: float) -> None:
        await blocked.wait()

    limited._sleep = forever
    await limited.take()
    tasks = [asyncio.create_task(limited.take()) for _ in range(3)]
    await asyncio.sleep(0)
    assert limited.waiting == 3
    with pytest.raises(Overloaded):
        await limited.take()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert limited.waiting == 0


async def test_a_call_does_not_wait_longer_than_its_patience(timeline: Timeline) -> None:
    limited = budget(timeline, (1, 10.0))
    await limited.take(5)
    with pytest.raises(Overloaded):
        await limited.take(5)
    assert timeline.slept == [], "that it would be too late is known at once"
    results = await asyncio.gather(limited.take(), limited.take(5), limited.take(30), return_exceptions=True)
    assert [type(result) for result in results] == [float, Overloaded, float]
    assert limited.waiting == 0


async def test_patience_ends_while_others_wait_before(timeline: Timeline) -> None:
    limited, blocked = budget(timeline, (1, 10.0)), asyncio.Event()

    async def until_then(_seconds: float) -> None:
        await blocked.wait()
        timeline.now += 100

    limited._sleep = until_then
    await limited.take()
    first = asyncio.create_task(limited.take())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await limited.take(0.01)
    blocked.set()
    await first
    assert limited.waiting == 0


async def test_a_waiting_call_that_is_given_up_harms_nobody(timeline: Timeline) -> None:
    limited = budget(timeline, (1, 1.0))
    await limited.take()
    waiting = [asyncio.create_task(limited.take()) for _ in range(3)]
    waiting[0].cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert [type(result) for result in results[1:]] == [float, float]


async def test_a_pause_holds_for_all_and_the_longer_one_stays(timeline: Timeline) -> None:
    limited = budget(timeline, (10, 1.0))
    limited.pause(30)
    limited.pause(5)
    assert limited.paused == 30
    await asyncio.gather(limited.take(), limited.take())
    assert timeline.now == 1030
    assert limited.paused == 0


def test_the_breaker(timeline: Timeline) -> None:
    breaker = Breaker(3, 30, clock=timeline.clock)
    for failed in (True, True, False, True, True):
        breaker.leave(failed=failed, tries=breaker.enter())
    assert breaker.state == "closed", "a success ends the row"
    breaker.leave(failed=True, tries=breaker.enter())
    assert (breaker.state, breaker.retry_after, breaker.openings) == (BreakerState.open, 30, 1)
    with pytest.raises(Open) as caught:
        breaker.enter()
    assert caught.value.retry_after == 30
    timeline.now += 30
    assert breaker.state == "half_open"
    assert breaker.enter()
    with pytest.raises(Open):
        breaker.enter()
    breaker.leave(failed=True, tries=True)
    assert (breaker.state, breaker.openings) == (BreakerState.open, 2)
    timeline.now += 30
    breaker.leave(failed=None, tries=breaker.enter())
    assert breaker.state is BreakerState.half_open, "a trial that was given up tells nothing, and another may try"
    breaker.leave(failed=False, tries=breaker.enter())
    assert (breaker.state, breaker.failures) == (BreakerState.closed, 0)


def test_a_call_from_before_does_not_close_the_breaker(timeline: Timeline) -> None:
    breaker = Breaker(1, 30, clock=timeline.clock)
    slow, quick = breaker.enter(), breaker.enter()
    breaker.leave(failed=True, tries=quick)
    breaker.leave(failed=False, tries=slow)
    assert breaker.state is BreakerState.open
