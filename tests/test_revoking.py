"""The desk for certificates of issuers over there: what is due, what is asked for, what others have revoked."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest

from cmpd import revoking
from cmpd.exchange import CertificateStatus, IssuedCertificate, OutsideState, RevocationPolicy, RevocationReason
from cmpd.issuers.local import LocalIssuer
from cmpd.observe import Metrics
from cmpd.ports import IssuerUnavailable, Revocation, RevocationRefused, StoreUnavailable
from cmpd.revoking import BATCH, CLAIM_SECONDS, LONGEST_PAUSE, OVERLAP, RevocationDesk
from tests.contract.orders import come, intend
from tests.orders import RevokingCA
from tests.world import World

HOUR = 3600.0


@dataclass
class Office:
    """A desk, its issuer, and what it has told."""

    world: World
    ca: RevokingCA
    told: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.desk = self.new_desk()

    def new_desk(self) -> RevocationDesk:
        """As after a start: nothing is known but what is in the store."""
        return RevocationDesk(
            self.world.store,
            {"local": self.ca},
            self.world.clock,
            lambda issuer, outcome: self.told.append((issuer, outcome)),
            chance=lambda: 1.0,
        )

    def restart(self) -> None:
        self.desk = self.new_desk()

    async def certificate(self, **changes: Any) -> int:
        """A certificate that was ordered."""
        now = self.world.clock()
        one = await intend(self.world.store, issuer="local", now=now)
        ticket = f"order-{len(self.ca.orders) + 1}"
        self.ca.orders[ticket] = one
        _, made = await come(self.world.store, one, ticket=ticket, issued_at=now, **changes)
        return made.serial

    async def due(self) -> int:
        """One that is to be revoked."""
        serial = await self.certificate()
        now = self.world.clock()
        await self.world.store.revoke(Revocation(serial, RevocationReason.superseded, now, OutsideState.due))
        return serial

    async def look(self, serial: int) -> IssuedCertificate:
        found = await self.world.store.certificate(serial)
        assert found is not None
        return found

    async def state(self, serial: int) -> OutsideState:
        found = await self.look(serial)
        assert found.outside is not None
        return found.outside.state

    @property
    def outcomes(self) -> list[str]:
        return [outcome for _, outcome in self.told]


@pytest.fixture
def office(world: World) -> Office:
    assert isinstance(world.issuer, LocalIssuer)
    return Office(world, RevokingCA(world.issuer))


@pytest.fixture(autouse=True)
def _logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG, "cmpd.revoking"):
        yield


async def test_what_is_due_is_done_and_told(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    serial = await office.due()
    await office.desk.once("local")
    assert await office.state(serial) is OutsideState.done
    assert office.ca.revoked == {serial: RevocationReason.superseded}
    assert office.told == [("local", "done")]
    assert f"revocation of certificate {serial:x} at local: done" in caplog.text
    await office.desk.once("local")
    assert office.ca.asked == [serial]


async def test_an_answer_that_is_lost_with_the_process(office: Office) -> None:
    """It has been revoked, the process dies before that is kept: another asks again, and nothing is done twice."""
    serial = await office.due()
    office.desk.store = cast("revoking.RevocationStore", _Dying(office.world))
    with pytest.raises(StoreUnavailable):
        await office.desk.once("local")
    assert office.ca.revocations == 1
    assert await office.state(serial) is OutsideState.due
    office.restart()
    office.world.clock.tick(seconds=CLAIM_SECONDS)
    await office.desk.once("local")
    assert await office.state(serial) is OutsideState.done
    assert (office.ca.asked, office.ca.revocations) == ([serial, serial], 1)


@dataclass
class _Dying:
    """A store that lets something be taken up, and then keeps nothing any more."""

    world: World
    taken_up: bool = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.world.store, name)

    async def move_outside(self, *arguments: Any, **more: Any) -> bool:
        if self.taken_up:
            raise StoreUnavailable("gone")
        self.taken_up = True
        return await self.world.store.move_outside(*arguments, **more)


async def test_approval_is_asked_about_until_it_is_given(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    """Less and less often, and nothing is asked for a second time."""
    office.ca.asks = True
    serial = await office.due()
    await office.desk.once("local")
    found = await office.look(serial)
    assert found.outside is not None
    assert (found.outside.state, found.outside.ticket) == (OutsideState.asked, "request-1")
    assert "request request-1, which somebody there has to approve" in caplog.text
    pauses = []
    for _ in range(12):
        office.restart()
        found = await office.look(serial)
        assert found.outside is not None
        pauses.append((found.outside.due - office.world.clock()).total_seconds())
        office.world.clock.now = found.outside.due
        await office.desk.once("local")
    assert pauses == sorted(pauses)
    assert pauses[0] == 5
    assert pauses[-1] == LONGEST_PAUSE
    assert list(office.ca.requests) == ["request-1"]
    assert len(office.ca.asked) == 13
    office.ca.approve_revocation()
    office.world.clock.tick(seconds=LONGEST_PAUSE)
    await office.desk.once("local")
    assert await office.state(serial) is OutsideState.done
    assert set(office.outcomes) == {"asked", "later", "done"}


async def test_what_is_refused_for_good_is_held(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.ca.faults = [RevocationRefused("somebody has rejected request 7\x1b[2J")]
    serial = await office.due()
    await office.desk.once("local")
    assert await office.state(serial) is OutsideState.held
    office.world.clock.tick(days=30)
    await office.desk.once("local")
    assert office.ca.asked == [serial]
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "somebody has rejected request 7" in record.getMessage()
    assert "\x1b" not in record.getMessage()
    assert f"`cmpd cert revoke {serial:x}`" in record.getMessage()
    assert "held" in office.outcomes


async def test_what_is_refused_for_now_is_asked_for_later(office: Office) -> None:
    office.ca.faults = [RevocationRefused("waits for a reissue", 900.0)]
    serial = await office.due()
    await office.desk.once("local")
    found = await office.look(serial)
    assert found.outside is not None
    assert (found.outside.state, found.outside.private) == (OutsideState.due, "waits for a reissue")
    office.world.clock.tick(seconds=899)
    await office.desk.once("local")
    assert len(office.ca.asked) == 1
    office.world.clock.tick(seconds=1)
    await office.desk.once("local")
    assert await office.state(serial) is OutsideState.done


async def test_an_issuer_that_is_not_to_be_had(office: Office) -> None:
    """The next round asks for what is due, each certificate with a pause of its own."""
    first, second = await office.due(), await office.due()
    office.ca.faults = [IssuerUnavailable("connection refused")]
    with pytest.raises(IssuerUnavailable):
        await office.desk.once("local")
    assert office.ca.asked == [first]
    await office.desk.once("local")
    assert office.ca.asked == [first, second]
    assert await office.state(first) is OutsideState.due
    office.world.clock.tick(seconds=5)
    await office.desk.once("local")
    assert await office.state(first) is OutsideState.done


async def test_an_internal_error_hinders_nobody_else(office: Office) -> None:
    first, second = await office.due(), await office.due()
    office.ca.faults = [ZeroDivisionError()]
    await office.desk.once("local")
    assert (await office.state(first), await office.state(second)) == (OutsideState.due, OutsideState.done)
    found = await office.look(first)
    assert found.outside is not None
    assert found.outside.private == "internal error: ZeroDivisionError"
    assert found.outside.due == office.world.clock() + timedelta(seconds=LONGEST_PAUSE)


async def test_one_of_two_processes_asks(office: Office) -> None:
    """Where somebody has to approve, two would be one too many."""
    office.ca.asks = True
    serials = [await office.due() for _ in range(10)]
    other = office.new_desk()
    await asyncio.gather(office.desk.once("local"), other.once("local"))
    assert sorted(office.ca.asked) == sorted(serials)
    assert office.outcomes == ["asked"] * 10


async def test_what_a_dead_process_had_taken_up_is_taken_up_again(office: Office) -> None:
    serial = await office.due()
    office.ca.faults = [asyncio.CancelledError()]  # type: ignore[list-item]
    with pytest.raises(asyncio.CancelledError):
        await office.desk.once("local")
    office.restart()
    await office.desk.once("local")
    assert office.ca.asked == [serial], "it may be at work still"
    office.world.clock.tick(seconds=CLAIM_SECONDS)
    await office.desk.once("local")
    assert await office.state(serial) is OutsideState.done


async def test_a_slow_process_does_not_undo_what_a_fast_one_has_done(office: Office, monkeypatch: Any) -> None:
    """One that is held up for longer than others leave it the certificate."""
    serial = await office.due()
    gate, original = asyncio.Event(), office.ca.revoke

    async def slow(certificate: IssuedCertificate, /) -> str | None:
        await gate.wait()
        raise RevocationRefused("there is nothing to revoke")

    monkeypatch.setattr(office.ca, "revoke", slow)
    late = asyncio.get_running_loop().create_task(office.desk.once("local"))
    await asyncio.sleep(0.1)
    office.world.clock.tick(seconds=CLAIM_SECONDS)
    monkeypatch.setattr(office.ca, "revoke", original)
    await office.new_desk().once("local")
    assert await office.state(serial) is OutsideState.done
    gate.set()
    await late
    assert await office.state(serial) is OutsideState.done
    assert office.outcomes == ["done"]


async def test_what_nobody_collects_is_told(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.ca.revocation_policy = RevocationPolicy(uncollected_seconds=HOUR)
    serial = await office.certificate()
    await office.desk.once("local")
    office.world.clock.tick(hours=2)
    for _ in range(3):
        await office.desk.once("local")
        office.world.clock.tick(minutes=2)
    assert (await office.look(serial)).status is CertificateStatus.kept
    assert office.outcomes == ["kept"]
    assert f"certificate {serial:x} of local was never collected: kept" in caplog.text


# What others revoke


async def test_it_is_looked_once_a_day(office: Office) -> None:
    """The first time at once; then by what is kept in the store, whoever starts in between."""
    for _ in range(3):
        await office.desk.once("local")
    began = office.world.clock()
    assert office.ca.windows == [None]
    for _ in range(10):
        office.world.clock.tick(hours=2)
        office.restart()
        await office.desk.once("local")
    assert len(office.ca.windows) == 1
    office.world.clock.tick(hours=1, minutes=36)  # a tenth of a day early: `chance` is one
    await office.desk.once("local")
    assert office.ca.windows == [None, began - OVERLAP]


async def test_an_overdue_look_is_made_at_the_start(office: Office) -> None:
    await office.world.store.keep_look("local", office.world.clock() - timedelta(days=3))
    since = office.world.clock() - timedelta(days=3) - OVERLAP
    office.restart()
    await office.desk.once("local")
    assert office.ca.windows == [since]
    assert await office.world.store.looked("local") == office.world.clock()


async def test_nodes_do_not_look_all_at_once(office: Office) -> None:
    """A look is due up to a tenth of the day early, each installation at its own time."""
    began = office.world.clock()
    await office.world.store.keep_look("local", began)
    due = []
    for chance in (0.0, 0.25, 1.0):
        office.world.clock.now = began + timedelta(hours=21)
        desk = office.new_desk()
        desk.chance = lambda chance=chance: chance  # type: ignore[misc]
        before = len(office.ca.windows)
        while len(office.ca.windows) == before:
            office.world.clock.tick(minutes=6)
            await desk.once("local")
        due.append((office.world.clock() - began).total_seconds() / HOUR)
        await office.world.store._write(
            lambda cursor: cursor.execute("UPDATE issuer SET looked = ?", (int(began.timestamp()),)).rowcount
        )
    assert due == [24, 23.4, 21.6]


async def test_what_is_found_is_revoked_here_and_told(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    """With its reason; nothing is due over there. What is revoked here already and what has ended is not looked at."""
    revoked, good, ours, over = [await office.certificate() for _ in range(3)] + [
        await office.certificate(not_after=office.world.clock() - timedelta(days=1))
    ]
    await office.world.store.revoke(Revocation(ours, RevocationReason.superseded, office.world.clock()))
    office.ca.revoked = {revoked: RevocationReason.keyCompromise, over: None}
    await office.desk.once("local")
    found = await office.look(revoked)
    assert (found.status, found.reason, found.outside) == (
        CertificateStatus.revoked,
        RevocationReason.keyCompromise,
        None,
    )
    assert sorted(office.ca.looked_at) == sorted([revoked, good])
    assert office.told == [("local", "noticed")]
    assert f"certificate {revoked:x} has been revoked at local, and is revoked here now (keyCompromise)" in caplog.text
    assert office.ca.asked == []


async def test_a_great_many_are_looked_at_in_steps(office: Office) -> None:
    """Between two steps there is time for others; the look is kept as made when all of it is."""
    serials = [await office.certificate() for _ in range(2 * BATCH + 5)]
    office.ca.revoked = {serials[-1]: None}
    assert await office.desk.once("local")
    assert len(office.ca.looked_at) == BATCH
    assert await office.world.store.looked("local") is None
    began = office.world.clock()
    office.world.clock.tick(minutes=3)
    office.ca.silent = [IssuerUnavailable("gone")]
    with pytest.raises(IssuerUnavailable):
        await office.desk.once("local")
    assert await office.desk.once("local")
    assert not await office.desk.once("local")
    assert sorted(office.ca.looked_at) == sorted(serials), "each once, and none left out"
    assert (await office.look(serials[-1])).status is CertificateStatus.revoked
    assert await office.world.store.looked("local") == began, "what changed while it looked is seen the next time"
    assert len(office.ca.windows) == 1


async def test_a_look_that_a_crash_has_ended_begins_anew(office: Office) -> None:
    serials = [await office.certificate() for _ in range(BATCH + 1)]
    assert await office.desk.once("local")
    office.restart()
    while await office.desk.once("local"):
        pass
    assert set(office.ca.looked_at) == set(serials)
    assert await office.world.store.looked("local") == office.world.clock()


async def test_an_issuer_that_does_not_answer_is_asked_again(office: Office) -> None:
    office.ca.silent = [IssuerUnavailable("gone")]
    with pytest.raises(IssuerUnavailable):
        await office.desk.once("local")
    assert await office.world.store.looked("local") is None
    await office.desk.once("local")
    assert await office.world.store.looked("local") == office.world.clock()


# As the daemon has it


async def test_it_works_by_itself(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through faults of the issuer; and it stops."""
    monkeypatch.setattr(revoking, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(revoking, "UNAVAILABLE_SECONDS", 0.01)
    monkeypatch.setattr(revoking, "SHORTEST_PAUSE", 0.0)
    office.ca.silent = [IssuerUnavailable("gone"), RuntimeError("a bug")]
    office.ca.faults = [IssuerUnavailable("gone")]
    serial = await office.due()
    office.desk.start()
    async with asyncio.timeout(30):
        while await office.world.store.looked("local") is None or await office.state(serial) is not OutsideState.done:
            await asyncio.sleep(0.01)
    await office.desk.stop()
    assert office.outcomes.count("unavailable") == 2
    assert {"later", "done"} <= set(office.outcomes)


async def test_it_leaves_to_others_what_they_see_to(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until they do no more."""
    monkeypatch.setattr(revoking, "IDLE_SECONDS", 0.01)
    mine, asked = False, 0

    def sees_to(issuer: str) -> bool:
        nonlocal asked
        assert issuer == "local"
        asked += 1
        return mine

    office.desk.sees_to = sees_to
    serial = await office.due()
    office.desk.start()
    async with asyncio.timeout(30):
        while asked < 5:
            await asyncio.sleep(0.01)
        assert (office.ca.asked, office.ca.windows) == ([], [])
        mine = True
        while await office.state(serial) is not OutsideState.done:
            await asyncio.sleep(0.01)
    await office.desk.stop()


async def test_our_own_ca_needs_no_desk(world: World) -> None:
    desk = RevocationDesk(world.store, {"local": world.issuer}, world.clock)
    desk.start()
    assert not await desk.once("local")
    await desk.stop()


def test_metrics() -> None:
    from prometheus_client import CollectorRegistry

    metrics = Metrics(CollectorRegistry())
    metrics.outside_revocation("digicert", "noticed")
    metrics.outside_revocation("digicert", "noticed")
    _, text = metrics.exposition()
    assert b'cmpd_outside_revocations_total{issuer="digicert",outcome="noticed"} 2.0' in text
