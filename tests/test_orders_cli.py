"""`cmpd order`, as an operator meets it: beside a service that has the same store open and works on the same orders."""

import asyncio
import base64
import io
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cmpd import cli, issuers
from cmpd.asn1 import BodyType, PKIStatus
from cmpd.enrollment import waiting
from cmpd.exchange import OPEN_ORDERS, Order, OrderState
from cmpd.issuers.local import LocalIssuer
from cmpd.ordering import OrderDesk
from cmpd.ports import IssuerUnavailable, OnOrder, OrderNotDone, OrderRefused, OrderUnknown
from tests.contract import orders as contract
from tests.contract.issuer import approve
from tests.orders import SlowCA
from tests.test_cli import Done
from tests.world import World

Run = Callable[..., Awaitable[Done]]
CONFIG = """
[store]
url = "sqlite:///cmpd.db"
key_file = "store.key"

[issuers.local]
type = "slow"

[profiles]
directory = "profiles"
"""


@dataclass
class WatchedCA(SlowCA):
    """An issuer that the CLI loads as any other: there is one for a test, which can make it fail."""

    current: ClassVar["WatchedCA"]
    withdrawn: list[Order] = field(default_factory=list)
    reconciled: list[Order] = field(default_factory=list)
    closed: int = 0
    fault: Exception | None = None
    """Raised by `withdraw`, `reconcile` and `approve`."""
    meanwhile: Callable[[], Awaitable[None]] | None = None
    """Happens while the issuer is asked to withdraw."""

    @classmethod
    def from_config(cls, table: dict[str, Any], *, base: Path, url: str, name: str) -> "WatchedCA":
        assert (table, name) == ({"type": "slow"}, "local")
        assert base.is_absolute()
        assert url
        return cls.current

    async def withdraw(self, order: Order, /) -> None:
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.fault is not None:
            raise self.fault
        self.withdrawn.append(order)
        await super().withdraw(order)

    async def reconcile(
        self, orders: Sequence[Order], known: Collection[str], /
    ) -> Mapping[str, OnOrder | OrderRefused]:
        self.reconciled += orders
        if self.fault is not None:
            raise self.fault
        return await super().reconcile(orders, known)

    async def close(self) -> None:
        self.closed += 1


@dataclass
class ApprovingCA(WatchedCA):
    """One where orders can be approved."""

    approved: list[Order] = field(default_factory=list)

    async def approve(self, order: Order, /) -> None:
        if self.fault is not None:
            raise self.fault
        self.approved.append(order)


@dataclass
class Typing:
    """A terminal: something happens in the service while the operator types."""

    line: str
    meanwhile: Callable[[], Any]

    def readline(self) -> str:
        self.meanwhile()
        return self.line


@pytest.fixture
def ca(world: World, monkeypatch: pytest.MonkeyPatch) -> WatchedCA:
    """The service's issuer, known to the CLI by its entry point."""
    monkeypatch.setattr(waiting, "PROMPT_SECONDS", 0.0)
    assert isinstance(world.issuer, LocalIssuer)
    slow = ApprovingCA(world.issuer)
    monkeypatch.setattr(WatchedCA, "current", slow, raising=False)
    points = EntryPoints([EntryPoint("slow", "tests.test_orders_cli:WatchedCA", issuers.GROUP)])
    monkeypatch.setattr(issuers, "entry_points", lambda **_: points)
    world.issuer = slow
    world.desk = OrderDesk(world.store, {"local": slow}, world.clock)
    world.profile()
    return slow


@pytest.fixture
def run(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ca: WatchedCA
) -> Run:
    """Run `cmpd order` beside the service, standard input given."""
    assert ca is world.issuer
    config = tmp_path / "cmpd.toml"
    config.write_text(CONFIG)
    (tmp_path / "store.key").write_bytes(base64.b64encode(bytes(32)))
    (tmp_path / "store.key").chmod(0o600)
    monkeypatch.setenv("CMPD_CONFIG", str(config))
    monkeypatch.delenv("SUDO_USER", raising=False)

    async def run(*arguments: object, stdin: bytes | Typing = b"") -> Done:
        typed = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8") if isinstance(stdin, bytes) else stdin
        monkeypatch.setattr(sys, "stdin", typed)

        def main() -> int:
            try:
                cli.main(["order", *map(str, arguments)])
            except SystemExit as end:
                return end.code if isinstance(end.code, int) else int(end.code is not None)
            return 0

        status = await asyncio.to_thread(main)
        return Done(status, *capfd.readouterr())

    return run


async def put(world: World, state: OrderState = OrderState.intended, **changes: Any) -> Order:
    """An order in a state, kept by the store's own methods."""
    new = contract.waiting(created=world.clock())
    approved = approve(profile="device", transaction_id=new.transaction_id, seat=changes.pop("seat", None))
    begun = replace(contract.order(new, issuer=changes.pop("issuer", "local")), approved=approved)
    await world.store.intend(new, [begun], code=None, now=world.clock())
    if state is OrderState.issued:
        arrived, _ = await contract.come(world.store, begun)
        return arrived
    if state is not OrderState.intended or changes:
        moved = replace(begun, state=state, **changes)
        return await world.store.move_order(moved, seen=OrderState.intended)
    return begun


async def kept(world: World, order: Order) -> Order:
    found = await world.store.order(order.stamp)
    assert found is not None
    return found


async def work(world: World, seconds: float = 60) -> None:
    """Some time later the service does what is due."""
    world.clock.tick(seconds=seconds)
    assert world.desk is not None
    await world.desk.once("local")


class TestList:
    """What waits, and for what."""

    async def test_open_orders_newest_first(self, run: Run, world: World) -> None:
        stamps = [(await put(world, state)).stamp for state in OrderState]
        is_open = [stamp for stamp, state in zip(stamps, OrderState, strict=True) if state in OPEN_ORDERS]
        assert [one["stamp"] for one in (await run("list", "--json")).json] == is_open[::-1]
        assert [one["stamp"] for one in (await run("list", "--all", "--json")).json] == stamps[::-1]
        assert [one["stamp"] for one in (await run("list", "--limit", 2, "--json")).json] == is_open[:-3:-1]
        for stamp, state in zip(stamps, OrderState, strict=True):
            (one,) = (await run("list", "--state", state.value, "--json")).json
            assert (one["stamp"], one["state"]) == (stamp, state)
        both = await run("list", "--state", "failed", "--state", "held", "--json")
        assert {one["state"] for one in both.json} == {"failed", "held"}

    async def test_of_a_profile_and_of_an_issuer(self, run: Run, world: World) -> None:
        one, other = await put(world), await put(world, issuer="other")
        assert [row["stamp"] for row in (await run("list", "--issuer", "other", "--json")).json] == [other.stamp]
        assert len((await run("list", "--profile", "device", "--json")).json) == 2
        assert (await run("list", "--profile", "none", "--json")).json == []
        assert one.stamp in (await run("list")).out

    async def test_a_line_says_what_it_waits_for(self, run: Run, world: World) -> None:
        world.clock.now = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3, hours=4, minutes=30)
        await put(world, OrderState.ordered, ticket="4711", text="the mailbox\tis validated", seat="Gerät 7")
        head, line = (await run("list")).out.splitlines()
        assert head.split("\t") == ["STAMP", "STATE", "AGE", "TICKET", "PROFILE", "SEAT", "SUBJECT", "WAITS FOR"]
        assert line.split("\t")[1:6] == ["ordered", "3d 4h", "4711", "device", "Gerät 7"]
        assert "Gerät 7" in line.split("\t")[6]
        assert line.split("\t")[7] == r"the mailbox\tis validated", "a tab is no column"

    async def test_what_an_operator_must_do_is_said(self, run: Run, world: World) -> None:
        await put(world, OrderState.held, private="not found at the issuer")
        (one,) = (await run("list", "--json")).json
        assert one["waits_for"] == "an operator: not found at the issuer"
        assert one["due"] is None, "nobody looks at it"

    async def test_what_is_no_state_is_refused(self, run: Run) -> None:
        done = await run("list", "--state", "lost")
        known = ", ".join(OrderState)
        assert (done.status, done.err) == (1, f"cmpd: --state lost: not a state; write {known}\n")
        assert (await run("list", "--state", "held", "--all")).status == 1


class TestShow:
    """Everything about one."""

    async def test_everything_in_json(self, run: Run, world: World) -> None:
        order = await put(world, OrderState.ordered, ticket="4711", text="validation", private="for us", seat="s")
        shown = (await run("show", order.stamp, "--json")).json
        assert (shown["stamp"], shown["ticket"], shown["seat"]) == (order.stamp, "4711", "s")
        assert shown["approved"]["san"] == ["dns:device.example"]
        assert shown["approved"]["key"] == "EC P-256"
        assert shown["approved"]["not_after"] == f"{order.approved.not_after:%Y-%m-%dT%H:%M:%SZ}"
        assert "Gerät 7" in shown["approved"]["subject"]
        assert {"keyUsage (critical)": "digitalSignature, keyEncipherment"} in shown["approved"]["extensions"]
        assert shown["transaction"]["operation"] == "ir"
        assert shown["transaction"]["state"] == "waiting"
        assert shown["transaction_id"] == order.transaction_id.hex()
        assert [one["state"] for one in shown["history"]] == ["intended", "ordered"]
        assert shown["history"][1]["why"] == "for us"
        assert [one["command"].split()[2] for one in shown["can"]] == ["approve", "cancel"]
        assert shown["issuer_configured"] is True

    async def test_in_lines(self, run: Run, world: World) -> None:
        order = await put(world, OrderState.unknown, private="the line\nwas cut")
        out = (await run("show", order.stamp)).out
        assert f"stamp        {order.stamp}\n" in out
        assert r"waits for    being found at the issuer: the line\nwas cut" in out
        assert "san          dns:device.example\n" in out
        assert "key          EC P-256, SHA-256 " in out
        for command in ("release", "adopt", "cancel"):
            assert f"cmpd order {command} {order.stamp}" in out
        assert "approve" not in out

    async def test_by_a_unique_beginning(self, run: Run, world: World) -> None:
        order = await put(world)
        for beginning in (order.stamp[:12], order.stamp.removeprefix("cmpd-")[:6], f" {order.stamp} "):
            assert (await run("show", beginning, "--json")).json["stamp"] == order.stamp
        await put(world)
        for wrong in ("cmpd-", "cmpd", "", "zzz", "%"):
            done = await run("show", wrong)
            assert done.status == 1
            assert "there is none, or more than one that begins so; see `cmpd order list --all`" in done.err

    @pytest.mark.parametrize("state", list(OrderState))
    async def test_what_can_be_done_can_be_done(self, run: Run, world: World, ca: WatchedCA, state: OrderState) -> None:
        """Each command that is named works, and each one that is not is refused and changes nothing."""
        ca.orders["4711"] = await put(world)  # of somebody else
        ticket = {"ticket": "4711"} if state is OrderState.ordered else {}
        order = await put(world, state, **ticket)
        shown = (await run("show", order.stamp, "--json")).json
        named = {one["command"].split()[2] for one in shown["can"] if one["command"].startswith("cmpd order")}
        for command, more in (("release", ["--yes"]), ("adopt", ["0815"]), ("cancel", []), ("approve", [])):
            order = await put(world, state, **ticket)
            done = await run(command, order.stamp, *more)
            after = await kept(world, order)
            assert done.status == (0 if command in named else 1), (command, done.err)
            if command not in named:
                assert after == order
                assert f"order {order.stamp}: cannot be {command.removesuffix('l').removesuffix('e')}" in done.err
            else:
                assert after.note, "who has done what is kept"

    async def test_of_an_issuer_that_is_gone(self, run: Run, world: World) -> None:
        order = await put(world, OrderState.ordered, ticket="1", issuer="gone")
        assert "gone, which is not configured: nobody works on it" in (await run("show", order.stamp)).out
        done = await run("cancel", order.stamp)
        assert done.status == 1
        assert "is not configured in " in done.err
        assert await kept(world, order) == order
        assert (await run("cancel", order.stamp, "--local")).status == 0

    async def test_what_is_done_names_its_certificate(self, run: Run, world: World) -> None:
        order = await put(world, OrderState.issued)
        shown = (await run("show", order.stamp, "--json")).json
        assert shown["can"] == [
            {"command": f"cmpd cert show {order.serial:x}", "effect": "show its certificate; the order is done"}
        ]
        failed = await put(world, OrderState.failed, text="no such mailbox")
        assert "Nothing can be done now" in (await run("show", failed.stamp)).out


class TestRelease:
    """Submitted again, or only looked at."""

    async def test_typed_and_then_ordered_by_the_service(self, run: Run, world: World, ca: WatchedCA) -> None:
        order = await put(world, OrderState.held, private="not found")
        done = await run("release", order.stamp, stdin=b"release\n")
        assert done.status == 0
        assert "may be bought and paid for a second time" in done.err
        assert f"cmpd order adopt {order.stamp} TICKET" in done.err
        assert "is submitted again" in done.out
        released = await kept(world, order)
        assert released.state is OrderState.intended
        assert released.note.startswith("released, to be submitted again (by ")
        assert released.note.endswith("; before, held: not found")
        await work(world)
        assert [one.stamp for one in ca.orders.values()] == [order.stamp]
        assert (await kept(world, order)).ticket == "order-1"

    @pytest.mark.parametrize("typed", [b"", b"yes\n", b"y\n", b"releas\n", b"\xff\n"])
    async def test_anything_else_changes_nothing(self, run: Run, world: World, typed: bytes) -> None:
        order = await put(world, OrderState.unknown)
        done = await run("release", order.stamp, stdin=typed)
        assert done.status == 1
        assert f"order {order.stamp} is not released" in done.err
        assert await kept(world, order) == order

    async def test_what_the_issuer_has_is_looked_at_again_without_asking(
        self, run: Run, world: World, ca: WatchedCA
    ) -> None:
        order = await put(world, OrderState.held, ticket="order-1", private="another certificate")
        done = await run("release", order.stamp, "--json")
        assert (done.status, done.err) == (0, "")
        assert (done.json["state"], done.json["ticket"]) == ("ordered", "order-1")
        await work(world)
        assert ca.looks == 1
        assert not ca.orders, "nothing was bought"

    async def test_what_the_operator_has_done_is_kept_when_the_service_goes_on(
        self, run: Run, world: World, ca: WatchedCA
    ) -> None:
        """Each step says its own, and not less of who has released it and why it was held."""
        ee = await world.code()
        ca.before = [OrderNotDone("too many calls", 0.0)]
        await world.send(ee, ee.ir())
        (order,) = await world.store.orders(1)
        await world.store.move_order(
            replace(order, state=OrderState.held, private="not found at the issuer"), seen=order.state
        )
        assert (await run("release", order.stamp, "--yes")).status == 0
        note = (await kept(world, order)).note
        assert note.startswith("released, to be submitted again (by ")
        with pytest.raises(IssuerUnavailable):
            await work(world)
        after = await kept(world, order)
        assert (after.private, after.note) == ("too many calls", note)
        await work(world)
        after = await kept(world, order)
        assert (after.state, after.note) == (OrderState.ordered, note)
        assert (await run("cancel", order.stamp)).status == 0
        after = await kept(world, order)
        assert after.note.startswith("cancelled and withdrawn (by ")
        assert after.note.endswith(note)
        shown = await run("show", order.stamp)
        assert "note " in shown.out
        assert "not found at the issuer" in shown.out

    async def test_what_has_moved_while_it_was_asked_stays_as_it_is(self, run: Run, world: World) -> None:
        order = await put(world, OrderState.unknown)
        found = replace(order, state=OrderState.ordered, ticket="order-1")
        loop = asyncio.get_running_loop()

        def find() -> None:
            moved = world.store.move_order(found, seen=OrderState.unknown)
            asyncio.run_coroutine_threadsafe(moved, loop).result(30)

        done = await run("release", order.stamp, stdin=Typing("release\n", find))
        assert done.status == 1
        assert "somebody else has moved it meanwhile, and nothing was changed" in done.err
        assert await kept(world, order) == replace(found, step=order.step + 1)


class TestAdopt:
    """The operator has found it at the issuer."""

    async def test_the_client_gets_what_was_adopted(self, run: Run, world: World, ca: WatchedCA) -> None:
        """A lost answer, an order that was not found, an operator who has found it, and a client that polls."""
        ee = await world.code()
        ca.after = [OrderUnknown("the connection was reset")]
        answer = await world.send(ee, ee.ir())
        await work(world)
        (order,) = await world.store.orders(10)
        await world.store.move_order(replace(order, state=OrderState.held), seen=order.state)
        done = await run("adopt", order.stamp, "order-1")
        assert done.status == 0, done.err
        assert "is on order at local as order-1" in done.out
        assert (await kept(world, order)).note.startswith("adopted as order-1 (by ")
        await ca.deliver("order-1")
        await work(world)
        ee.now = world.clock()
        final = await world.send(ee, ee.poll_req(answer))
        assert (final.type, final.status) == (BodyType.ip, PKIStatus.accepted), final.text
        assert len(ca.orders) == 1

    async def test_not_what_another_order_has(self, run: Run, world: World) -> None:
        other = await put(world, OrderState.ordered, ticket="4711")
        order = await put(world, OrderState.unknown)
        done = await run("adopt", order.stamp, "4711")
        assert done.err == (f"cmpd: TICKET 4711: is that of order {other.stamp}; see `cmpd order show {other.stamp}`\n")
        assert await kept(world, order) == order

    @pytest.mark.parametrize("ticket", ["", "  ", "a\nb", "x" * 201])
    async def test_what_is_no_ticket(self, run: Run, world: World, ticket: str) -> None:
        order = await put(world, OrderState.unknown)
        done = await run("adopt", order.stamp, ticket)
        assert done.status == 1
        assert done.err.startswith("cmpd: TICKET ")
        assert await kept(world, order) == order

    async def test_a_wrong_ticket_is_put_right_when_it_is_held(self, run: Run, world: World) -> None:
        order = await put(world, OrderState.held, ticket="4711", private="subject differs")
        assert (await run("adopt", order.stamp, "4712", "--json")).json["ticket"] == "4712"


class TestCancel:
    """Given up, at the issuer first."""

    async def test_the_client_is_told_why(self, run: Run, world: World, ca: WatchedCA) -> None:
        ee = await world.code()
        answer = await world.send(ee, ee.ir())
        await work(world)
        (order,) = await world.store.orders(1)
        done = await run("cancel", order.stamp, "--reason", "Herr Müller has left")
        assert done.status == 0, done.err
        assert "It has been withdrawn from local as order-1" in done.out
        assert [one.ticket for one in ca.withdrawn] == ["order-1"]
        assert ca.closed == 1
        after = await kept(world, order)
        assert after.note.startswith("cancelled and withdrawn (by ")
        assert "being cancelled" not in after.note
        await work(world)
        ee.now = world.clock()
        final = await world.send(ee, ee.poll_req(answer))
        assert (final.type, final.status, final.fail_info) == (BodyType.ip, PKIStatus.rejection, "notAuthorized")
        assert final.text == "Herr Müller has left"

    async def test_while_it_is_withdrawn_the_service_leaves_it_alone(
        self, run: Run, world: World, ca: WatchedCA
    ) -> None:
        """The service looks at the issuer just then, and sees an order that is cancelled there already."""
        order = await put(world, OrderState.ordered, ticket="order-1")
        ca.done["order-1"] = OrderRefused("cancelled at the portal")

        async def look() -> None:
            found = await kept(world, order)
            assert found.state is OrderState.held
            assert found.note.startswith("is being cancelled; if it stays so, try again")
            await work(world)
            assert await kept(world, order) == found

        async def meanwhile() -> None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(look(), loop))

        loop = asyncio.get_running_loop()
        ca.meanwhile = meanwhile
        done = await run("cancel", order.stamp, "--reason", "why", "--json")
        assert (done.json["state"], done.json["text"], done.json["withdrawn"]) == ("failed", "why", True)

    @pytest.mark.parametrize(
        "fault", [OrderRefused("it is issued", "order 1"), IssuerUnavailable("connection refused")]
    )
    async def test_what_the_issuer_does_not_withdraw_goes_on(
        self, run: Run, world: World, ca: WatchedCA, fault: Exception
    ) -> None:
        order = await put(world, OrderState.ordered, ticket="order-1", text="validation")
        ca.fault = fault
        done = await run("cancel", order.stamp)
        assert done.status == 1
        assert f"is not cancelled, for the issuer does not withdraw it: {fault}" in done.err
        assert "--local" in done.err
        after = await kept(world, order)
        assert (after.state, after.ticket, after.text) == (OrderState.ordered, "order-1", "validation")
        assert after.note.startswith(f"not cancelled: {fault}")
        ca.orders["order-1"] = order
        await ca.deliver("order-1")
        await work(world)
        assert (await kept(world, order)).state is OrderState.issued
        assert ca.closed == 1

    async def test_what_is_unknown_is_looked_for_and_withdrawn(self, run: Run, world: World, ca: WatchedCA) -> None:
        order = await put(world, OrderState.unknown)
        ca.orders["order-9"] = order
        done = await run("cancel", order.stamp)
        assert "It has been withdrawn from local as order-9" in done.out
        assert [one.ticket for one in ca.withdrawn] == ["order-9"]
        assert (await kept(world, order)).ticket == "order-9"

    async def test_what_is_not_found_is_cancelled_with_a_word_of_warning(
        self, run: Run, world: World, ca: WatchedCA
    ) -> None:
        order = await put(world, OrderState.unknown)
        done = await run("cancel", order.stamp)
        assert "Should it turn up at local later, cancel it there." in done.out
        assert (len(ca.reconciled), len(ca.withdrawn)) == (1, 0)
        after = await kept(world, order)
        assert (after.state, after.text) == (OrderState.failed, "the order has been cancelled by an operator")

    @pytest.mark.parametrize("state", [OrderState.unknown, OrderState.held])
    async def test_what_cannot_be_looked_for_stays(
        self, run: Run, world: World, ca: WatchedCA, state: OrderState
    ) -> None:
        order = await put(world, state, private="before")
        ca.fault = IssuerUnavailable("no route")
        assert (await run("cancel", order.stamp)).status == 1
        after = await kept(world, order)
        assert after.state is state
        assert after.note.endswith(f"; before, {state.value}: before")

    async def test_local_leaves_the_issuer_alone(self, run: Run, world: World, ca: WatchedCA) -> None:
        order = await put(world, OrderState.ordered, ticket="order-1")
        ca.fault = AssertionError("is not asked")
        done = await run("cancel", order.stamp, "--local")
        assert done.status == 0, done.err
        assert "It is still at local as order-1: cancel it there." in done.out
        assert (await kept(world, order)).state is OrderState.failed

    async def test_what_was_never_sent_needs_no_issuer(self, run: Run, world: World, ca: WatchedCA) -> None:
        order = await put(world)
        ca.fault = AssertionError("is not asked")
        assert (await run("cancel", order.stamp, "--json")).json["withdrawn"] is False
        await work(world)
        assert not ca.orders

    async def test_an_issuer_that_issues_at_once_has_nothing_to_withdraw(
        self, run: Run, world: World, ca: WatchedCA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order = await put(world, OrderState.ordered, ticket="order-1")
        monkeypatch.setattr(WatchedCA, "current", ca.ca)
        done = await run("cancel", order.stamp)
        assert done.err.startswith("cmpd: issuer local: takes no orders now; cancel order order-1 there")
        assert await kept(world, order) == order

    @pytest.mark.parametrize("reason", ["", " ", "a\x1bb", "x" * 301, "line\nline"])
    async def test_a_reason_that_nobody_can_read(self, run: Run, world: World, reason: str) -> None:
        order = await put(world)
        done = await run("cancel", order.stamp, "--reason", reason)
        assert done.status == 1
        assert done.err.startswith("cmpd: --reason ")
        assert await kept(world, order) == order


class TestApprove:
    """Where the issuer lets us."""

    async def test_the_service_looks_at_once(self, run: Run, world: World, ca: ApprovingCA) -> None:
        later = world.clock() + timedelta(days=1)
        order = await put(world, OrderState.ordered, ticket="order-1", text="approval", due=later)
        done = await run("approve", order.stamp)
        assert done.status == 0, done.err
        assert "is approved at local as order-1" in done.out
        assert [one.stamp for one in ca.approved] == [order.stamp]
        after = await kept(world, order)
        assert (after.state, after.text) == (OrderState.ordered, "approval")
        assert after.note.startswith("approved (by ")
        ca.orders["order-1"] = order
        await ca.deliver("order-1")
        await work(world)
        assert (await kept(world, order)).state is OrderState.issued

    async def test_a_refusal_says_why(self, run: Run, world: World, ca: WatchedCA) -> None:
        order = await put(world, OrderState.ordered, ticket="order-1")
        ca.fault = OrderRefused("not yours to approve", "403")
        done = await run("approve", order.stamp)
        assert done.err == f"cmpd: order {order.stamp} is not approved: not yours to approve (403)\n"
        assert await kept(world, order) == order

    async def test_where_nothing_can_be_approved(
        self, run: Run, world: World, ca: WatchedCA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order = await put(world, OrderState.ordered, ticket="order-1")
        monkeypatch.setattr(WatchedCA, "current", WatchedCA(ca.ca))
        done = await run("approve", order.stamp)
        assert done.err == (
            "cmpd: issuer local: nothing can be approved there from here; approve order order-1 at the issuer itself\n"
        )


async def test_who_has_done_it_is_kept(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    order = await put(world, OrderState.unknown)
    monkeypatch.setenv("SUDO_USER", "alice\n")
    assert (await run("adopt", order.stamp, "1")).status == 0
    assert r" for alice\n at 20" in (await kept(world, order)).note


@pytest.mark.parametrize("command", ["", "list", "show", "adopt", "cancel", "release", "approve"])
async def test_help(run: Run, command: str) -> None:
    done = await run(*command.split(), "--help")
    assert done.status == 0
    assert done.out.startswith(f"Usage: cmpd order {command}".rstrip())
