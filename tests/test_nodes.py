"""The processes on one store: who sees to what, who is gone, and whose configuration differs."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmpd import daemon, nodes, revoking
from cmpd.asn1 import PKIStatus
from cmpd.fingerprint import fingerprint
from cmpd.issuers.local import LocalIssuer
from cmpd.nodes import Configuration, Membership, differences
from cmpd.ordering import OrderDesk
from cmpd.ports import Node
from cmpd.revoking import RevocationDesk
from cmpd.settings import Settings
from cmpd.store.sqlite import SQLiteStore
from tests.contract.store import KEY, NOW
from tests.daemon import ROOT, Site
from tests.orders import SlowCA
from tests.world import World


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    opened = await SQLiteStore.open(tmp_path / "cmpd.db", KEY)
    yield opened
    await opened.close()


def member(store: SQLiteStore, *leases: str, **options: Any) -> Membership:
    made = Membership(store, "1.0", **options)
    made.configure(Configuration("same"), leases or (nodes.SWEEP,))
    return made


async def test_of_two_that_begin_at_once_one_has_heard_of_the_other(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has not is told a look later: so only one of them takes itself to be alone, and calls what one may call."""
    heard: dict[str, list[int]] = {"first": [], "second": []}
    first, second = (member(store, hear=lambda others, who=who: heard[who].append(len(others))) for who in heard)
    real = store.nodes

    async def at_once() -> tuple[Node, ...]:
        monkeypatch.setattr(store, "nodes", real)
        await second.look()
        return await real()

    monkeypatch.setattr(store, "nodes", at_once)
    await first.look()
    assert heard == {"first": [1], "second": [1]}
    third = member(store, hear=lambda others: heard.setdefault("third", []).append(len(others)))
    await third.look()
    await first.look()
    assert heard == {"first": [1, 2], "second": [1], "third": [2]}


class TestLeases:
    async def test_one_of_several_sees_to_it_and_the_next_one_when_it_leaves(self, store: SQLiteStore) -> None:
        first, second = member(store, "sweep", "orders a"), member(store, "sweep", "orders b")
        await first.look()
        await second.look()
        assert (first.held, second.held) == (
            {"sweep": True, "orders a": True},
            {"sweep": False, "orders b": True},
        )
        await first.leave()
        assert not first.holds("sweep")
        await second.look()
        assert second.holds("sweep")
        assert second.others == ()

    async def test_who_was_paused_has_lost_it_before_he_does_anything(
        self, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(nodes, "LEASE_SECONDS", 0.3)
        first, second = member(store), member(store)
        await first.look()
        await second.look()
        assert first.holds("sweep")
        await asyncio.sleep(0.4)  # as SIGSTOP does, and SIGCONT
        assert not first.holds("sweep"), "by its own clock, without asking the store"
        await second.look()
        assert second.holds("sweep")
        first._beat_at = 0.0
        await first.look()
        assert not first.holds("sweep")
        assert "another process sees to sweep now" in caplog.text

    async def test_who_is_known_to_be_dead_makes_room_at_once(self, store: SQLiteStore) -> None:
        mine = member(store)
        child = subprocess.Popen([sys.executable, "-c", "pass"])
        child.wait()
        ghost = replace(mine.node(), id="ghost", pid=child.pid)
        await store.keep_node(ghost)
        assert await store.lease("sweep", "ghost", 60)
        await mine.look()
        assert mine.holds("sweep")
        assert [one.id for one in await store.nodes()] == [mine.id]

    @pytest.mark.parametrize("place", ["", "elsewhere"])
    async def test_whose_pid_says_nothing_is_waited_for(self, store: SQLiteStore, place: str) -> None:
        mine = member(store)
        child = subprocess.Popen([sys.executable, "-c", "pass"])
        child.wait()
        await store.keep_node(replace(mine.node(), id="far", pid=child.pid, place=place))
        assert await store.lease("sweep", "far", 60)
        await mine.look()
        assert not mine.holds("sweep")
        assert [one.id for one in mine.others] == ["far"]

    async def test_who_is_silent_does_not_count_and_is_forgotten_later(
        self, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine = member(store)
        await store.keep_node(replace(mine.node(), id="far", place="elsewhere"))
        await mine.look()
        assert [one.id for one in mine.others] == ["far"]
        await asyncio.sleep(0.05)
        monkeypatch.setattr(nodes, "LEASE_SECONDS", 0.01)
        await mine.look()
        assert mine.others == ()
        assert {one.id for one in await store.nodes()} == {mine.id, "far"}
        monkeypatch.setattr(nodes, "FORGET_SECONDS", 0.02)
        await mine.look()
        assert [one.id for one in await store.nodes()] == [mine.id]

    async def test_a_process_that_is_alone_writes_once_in_a_beat(self, store: SQLiteStore) -> None:
        mine = member(store, "sweep", "orders a", "orders b")
        await mine.look()
        before = store.commits
        for _ in range(10):
            await mine.look()
        assert store.commits == before
        mine._beat_at = 0.0
        await mine.look()
        assert store.commits == before + 1
        assert all(mine.held.values())

    async def test_a_lease_that_is_not_wanted_any_more_is_given_back(self, store: SQLiteStore) -> None:
        first, second = member(store, "orders a"), member(store, "orders a")
        await first.look()
        first.configure(Configuration("same"), ["sweep"])
        await first.look()
        await second.look()
        assert second.holds("orders a")


def _configuration(site: Site) -> Configuration:
    return asyncio.run(daemon.configuration_of(daemon.load(Settings.load(site.config))))


class TestConfiguration:
    async def test_a_difference_is_told_once_when_it_lasts_and_again_when_it_ends(self, store: SQLiteStore) -> None:
        told: list[Mapping[str, str]] = []
        first = member(store, differ=lambda found: told.append(dict(found)), settle_seconds=0.1)
        second = member(store)
        first.configure(Configuration("x", {"device": "a", "mail": "m"}), ["sweep"])
        second.configure(Configuration("x", {"device": "b", "mail": "m"}), ["sweep"])
        await second.look()
        await first.look()
        assert told == []
        await asyncio.sleep(0.15)
        for _ in range(3):
            await first.look()
        assert told == [{"device": f"a: {first.id}; b: {second.id}"}]
        second.configure(Configuration("x", {"device": "a", "mail": "m"}), ["sweep"])
        await second.look()
        await first.look()
        await asyncio.sleep(0.15)
        await first.look()
        assert told[1:] == [{}]

    def test_where_nodes_differ(self) -> None:
        def node(id: str, whole: str, **profiles: str) -> Node:
            return Node(id, "host", 1, "1.0", NOW, whole, profiles, {})

        assert differences([node("a", "x", device="p"), node("b", "x", device="p")]) == {}
        assert differences([node("a", "x", device="p"), node("b", "y", device="p"), node("c", "x")]) == {
            "": "x: a, c; y: b",
            "device": "none: c; p: a, b",
        }

    def test_it_is_the_same_wherever_the_files_are_and_however_they_are_commented(self, tmp_path: Path) -> None:
        """In another process too, where sets have another order."""
        site = Site.make(tmp_path / "cmpd")
        site.profile("mail")
        other = site.copy(tmp_path / "elsewhere" / "cmpd")
        for file in (other.config, other.folder / "profiles" / "mail.toml"):
            file.write_text(f"# another comment\n{file.read_text()}")
        program = (
            "import asyncio, sys, pathlib, json; from cmpd import daemon\n"
            "found = asyncio.run(daemon.configuration_of(daemon.check(pathlib.Path(sys.argv[1]))))\n"
            "print(json.dumps([found.whole, dict(found.profiles)]))"
        )

        def of(config: Path, seed: str) -> Any:
            return subprocess.run(
                [sys.executable, "-c", program, str(config)],
                cwd=ROOT,
                env=os.environ | {"PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            ).stdout

        assert of(site.config, "1") == of(other.config, "2")

    def test_a_change_shows_where_it_is_and_nothing_of_it_can_be_read(self, tmp_path: Path) -> None:
        site = Site.make(tmp_path / "cmpd")
        site.profile("mail")
        before = _configuration(site)
        mail = site.folder / "profiles" / "mail.toml"
        mail.write_text(mail.read_text().replace('confirm_wait = "10m"', 'confirm_wait = "11m"'))
        changed = _configuration(site)
        assert changed.whole == before.whole
        assert changed.profiles["device"] == before.profiles["device"]
        assert changed.profiles["mail"] != before.profiles["mail"]
        site.append("[limits]\naddress_failures = 7")
        limited = _configuration(site)
        assert limited.whole != before.whole
        assert limited.profiles == changed.profiles
        (site.folder / "secrets" / "store.key").write_text("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
        keyed = _configuration(site)
        assert keyed.whole != limited.whole, "without the store key nobody can try values"

    def test_values_of_every_kind(self) -> None:
        """Equal ones are equal, and others are not."""
        key = b"k" * 32
        assert fingerprint(key, {"a": 1, "b": {2, 3}}) == fingerprint(key, {"b": frozenset({3, 2}), "a": 1})
        assert fingerprint(key, Path("/a")) == fingerprint(key, Path("/b"))
        seen = [fingerprint(key, value) for value in (None, 1, "1", b"1", [1], {"1": 1}, NOW, object)]
        assert len(set(seen)) == len(seen)
        assert fingerprint(key, 1) != fingerprint(b"l" * 32, 1)
        assert fingerprint(key, object()) == fingerprint(key, object())


class TestOrders:
    @pytest.fixture
    def ca(self, world: World) -> SlowCA:
        assert isinstance(world.issuer, LocalIssuer)
        slow = SlowCA(world.issuer, poll_seconds=0.1)
        world.issuer = slow
        world.desk = OrderDesk(world.store, {"local": slow}, world.clock, sees_to=lambda _: False)
        world.profile()
        return slow

    async def test_what_comes_at_once_does_so_whoever_is_asked(self, world: World, ca: SlowCA) -> None:
        """It is submitted where it was asked for."""
        ca.at_once = True
        ee = await world.code()
        assert world.desk is not None
        world.desk.start()
        try:
            answer = await world.send(ee, ee.ir())
        finally:
            await world.desk.stop()
        assert answer.status is PKIStatus.accepted
        assert (len(ca.orders), ca.looks) == (1, 0)

    async def test_what_was_ordered_of_another_process_is_left_to_who_sees_to_it(
        self, world: World, ca: SlowCA
    ) -> None:
        ee = await world.code()
        await world.send(ee, ee.ir())  # of a process that has died since
        await OrderDesk(world.store, {"local": ca}, world.clock, sees_to=lambda _: False).once("local")
        assert ca.orders == {}
        await OrderDesk(world.store, {"local": ca}, world.clock).once("local")
        assert len(ca.orders) == 1

    async def test_who_does_not_see_to_an_issuer_only_submits(self, world: World, ca: SlowCA) -> None:
        assert world.desk is not None
        ee = await world.code()
        world.desk.start()
        try:
            await world.send(ee, ee.ir())
        finally:
            await world.desk.stop()
        assert len(ca.orders) == 1
        world.clock.tick(days=2)
        await world.desk.once("local")
        assert ca.looks == 0
        await OrderDesk(world.store, {"local": ca}, world.clock).once("local")
        assert ca.looks == 1

    async def test_who_does_not_see_to_an_issuer_leaves_its_certificates_alone(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Revocations over there, and looks for those of others, are for one process."""
        asked: list[str] = []

        async def once(_desk: RevocationDesk, name: str) -> bool:
            asked.append(name)
            return False

        monkeypatch.setattr(RevocationDesk, "once", once)
        monkeypatch.setattr(revoking, "IDLE_SECONDS", 0.01)
        mine: list[str] = []
        desk = RevocationDesk(world.store, {"local": world.issuer}, world.clock, sees_to=mine.__contains__)
        work = asyncio.create_task(desk._work("local"))
        try:
            await asyncio.sleep(0.05)
            assert asked == []
            mine.append("local")
            async with asyncio.timeout(5):
                while not asked:
                    await asyncio.sleep(0.01)
        finally:
            work.cancel()

    async def test_a_process_that_was_paused_before_it_submits_does_not(
        self, world: World, ca: SlowCA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Meanwhile the order counts as lost, and whoever sees to it may have submitted it again."""
        ee = await world.code()
        await world.send(ee, ee.ir())
        desk = OrderDesk(world.store, {"local": ca}, world.clock)
        original = world.store.move_order

        async def pause(*arguments: Any, **more: Any) -> None:
            await original(*arguments, **more)
            world.clock.tick(seconds=ca.submit_seconds + 60)

        with monkeypatch.context() as paused:
            paused.setattr(world.store, "move_order", pause)
            await desk.once("local")
        assert len(ca.orders) == 0
        ca.on_unknown, ca.settle_seconds = "resubmit", 0
        for _ in range(3):
            world.clock.tick(seconds=200)
            await desk.once("local")
        assert len(ca.orders) == 1
