"""`cmpd cert revoke`, as an operator meets it: for our own CA, a CA elsewhere, and one that cannot revoke."""

import asyncio
import base64
import io
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography import x509

from cmpd import cli, issuers
from cmpd.exchange import CertificateStatus, IssuedCertificate, OutsideState, RevocationReason
from cmpd.issuers.local import LocalIssuer
from cmpd.ports import Revocation, RevocationRefused
from cmpd.revoking import RevocationDesk
from tests.contract.orders import come, intend
from tests.contract.store import FAR
from tests.orders import RevokingCA, SlowCA
from tests.test_cli import Done
from tests.world import World

Run = Callable[..., Awaitable[Done]]
CONFIG = """
[store]
url = "sqlite:///cmpd.db"
key_file = "store.key"

[issuers.local]
type = "own"

[issuers.there]
type = "there"

[issuers.deaf]
type = "deaf"

[profiles]
directory = "profiles"
"""


class Known:
    """The issuers that the CLI finds by their entry points: one for a test."""

    current: ClassVar[dict[str, Any]] = {}

    @classmethod
    def from_config(cls, table: dict[str, Any], *, base: Path, url: str, name: str) -> Any:
        assert table == {"type": table["type"]}
        assert base.is_absolute()
        assert url
        return cls.current[name]


@pytest.fixture
def ca(world: World, monkeypatch: pytest.MonkeyPatch) -> RevokingCA:
    assert isinstance(world.issuer, LocalIssuer)
    there = RevokingCA(world.issuer)
    known = {"local": world.issuer, "there": there, "deaf": SlowCA(world.issuer)}
    monkeypatch.setattr(Known, "current", known)
    points = EntryPoints(
        [EntryPoint(kind, "tests.test_cert_revoke_cli:Known", issuers.GROUP) for kind in ("own", "there", "deaf")]
    )
    monkeypatch.setattr(issuers, "entry_points", lambda **_: points)
    world.profile()
    return there


@pytest.fixture
def run(world: World, ca: RevokingCA, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `cmpd cert …` in a thread of its own, beside the service; what is typed is in `stdin`."""
    monkeypatch.setenv("CMPD_CONFIG", str(world.base / "cmpd.toml"))
    (world.base / "cmpd.toml").write_text(CONFIG)
    (world.base / "profiles").mkdir(exist_ok=True)
    (world.base / "store.key").write_text(base64.b64encode(bytes(32)).decode())
    (world.base / "store.key").chmod(0o600)

    async def run(*arguments: object, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))

        def main() -> int:
            try:
                cli.main(["cert", *map(str, arguments)])
            except SystemExit as end:
                return end.code if isinstance(end.code, int) else int(end.code is not None)
            return 0

        status = await asyncio.to_thread(main)
        return Done(status, *capfd.readouterr())

    return run


async def put(world: World, issuer: str = "there", **changes: Any) -> str:
    """A certificate of an issuer; its serial number as it is typed."""
    one = await intend(world.store, issuer=issuer, now=world.clock())
    _, made = await come(world.store, one, ticket="order-1", **({"der": await der(world)} | changes))
    return f"{made.serial:x}"


async def der(world: World) -> bytes:
    """What can be read."""
    await world.enrolled()
    return (await world.store.certificates(1))[0].der


async def kept(world: World, serial: str) -> IssuedCertificate:
    found = await world.store.certificate(int(serial, 16))
    assert found is not None
    return found


def state(one: IssuedCertificate) -> OutsideState | None:
    return None if one.outside is None else one.outside.state


async def work(world: World, ca: RevokingCA) -> None:
    world.clock.tick(hours=2)
    await RevocationDesk(world.store, {"there": ca}, world.clock).once("there")


async def test_one_of_our_own_ca_is_on_the_next_crl(run: Run, world: World) -> None:
    await world.enrolled()
    (one,) = await world.store.certificates(1)
    serial = f"{one.serial:x}"
    done = await run("revoke", serial, "--reason", "keyCompromise", stdin="revoke\n")
    assert done.status == 0, done.err
    assert done.out == f"{serial} is revoked (keyCompromise). It is on the next CRL, where its issuer has one.\n"
    assert "(CN=device-1), valid, valid until " in done.err
    assert "It goes on the next CRL. That cannot be undone." in done.err
    assert "To revoke it type `revoke`: " in done.err
    found = await kept(world, serial)
    assert (found.status, found.reason, found.outside) == (
        CertificateStatus.revoked,
        RevocationReason.keyCompromise,
        None,
    )
    assert isinstance(world.issuer, LocalIssuer)
    crl = x509.load_der_x509_crl(await world.issuer.crl(world.store, world.clock()))
    assert crl.get_revoked_certificate_by_serial_number(one.serial) is not None


async def test_one_of_a_ca_elsewhere_is_revoked_there_by_the_daemon(run: Run, world: World, ca: RevokingCA) -> None:
    serial = await put(world)
    done = await run("revoke", serial.upper(), "--reason", "superseded", stdin="revoke\n")
    assert done.status == 0, done.err
    assert "It is revoked at there too, and has to be bought again if it was not meant" in done.err
    assert f"{serial} is revoked (superseded). A running daemon has its issuer revoke it too" in done.out
    one = await kept(world, serial)
    assert (one.status, state(one)) == (CertificateStatus.revoked, OutsideState.due)
    assert ca.asked == [], "the command itself asks nobody"
    assert "revoked, due at there" in (await run("list")).out
    shown = await run("show", serial)
    assert "outside        to be revoked at there, next step " in shown.out
    assert "; wanted by " in shown.out
    document = (await run("show", serial, "--json")).json
    assert (document["status"], document["outside"]["state"], document["ticket"]) == ("revoked", "due", "order-1")
    await work(world, ca)
    assert ca.revoked == {one.serial: RevocationReason.superseded}
    assert "outside        revoked at there" in (await run("show", serial)).out
    (row,) = [line for line in (await run("list", "--status", "revoked")).out.splitlines() if line.startswith(serial)]
    assert "\trevoked\t" in row


@pytest.mark.parametrize("typed", ["", "yes\n", "y\n", "revok\n", "REVOKE\n"])
async def test_anything_else_changes_nothing(run: Run, world: World, typed: str) -> None:
    serial = await put(world)
    before = await kept(world, serial)
    done = await run("revoke", serial, stdin=typed)
    assert done.status == 1
    assert done.err.endswith(f"certificate {serial} is not revoked; type `revoke` when asked, or write --yes\n")
    assert await kept(world, serial) == before


async def test_json(run: Run, world: World) -> None:
    serial = await put(world)
    done = await run("revoke", serial, "--yes", "--json")
    assert (done.status, done.err) == (0, "")
    assert done.json["serial"] == serial
    assert done.json["reason"] == "unspecified"
    assert done.json["outside"]["state"] == "due"
    assert done.json["outside"]["due"] == done.json["revoked_at"]


async def test_an_issuer_that_cannot_revoke(run: Run, world: World) -> None:
    """Nothing is done quietly here alone; who has it revoked there says so."""
    serial = await put(world, "deaf")
    before = await kept(world, serial)
    done = await run("revoke", serial, "--yes")
    assert done.status == 1
    assert "its issuer deaf cannot be asked to revoke from here, and relying parties would go on accepting" in done.err
    assert "--local" in done.err
    assert await kept(world, serial) == before
    done = await run("revoke", serial, "--local", stdin="revoke\n")
    assert done.status == 0, done.err
    assert "It is revoked here only: relying parties go on accepting it" in done.err
    assert "Its issuer is not asked" in done.out
    one = await kept(world, serial)
    assert (one.status, state(one)) == (CertificateStatus.revoked, OutsideState.left)
    assert "revoked, left at deaf" in (await run("list")).out


async def test_an_issuer_that_is_not_configured_any_more(run: Run, world: World) -> None:
    serial = await put(world, "gone")
    done = await run("revoke", serial, "--yes")
    assert done.status == 1
    assert f"certificate {serial}: its issuer gone is not configured in {world.base}/cmpd.toml" in done.err
    assert (await run("revoke", serial, "--local", "--yes")).status == 0
    assert state(await kept(world, serial)) is OutsideState.left
    due = await put(world, "gone")
    await world.store.revoke(
        Revocation(int(due, 16), RevocationReason.superseded, world.clock(), OutsideState.due, "rejected")
    )
    shown = (await run("show", due)).out
    assert "outside        to be revoked at gone, which is not configured: nobody works on it; rejected" in shown


async def test_local_of_our_own_ca_is_on_the_crl_all_the_same(run: Run, world: World) -> None:
    await world.enrolled()
    serial = f"{(await world.store.certificates(1))[0].serial:x}"
    assert "on the next CRL" in (await run("revoke", serial, "--local", "--yes")).out
    assert state(await kept(world, serial)) is None


async def test_what_was_refused_there_is_asked_for_again(run: Run, world: World, ca: RevokingCA) -> None:
    """Or left to the operator."""
    serial = await put(world)
    await run("revoke", serial, "--yes")
    again = await run("revoke", serial, "--yes")
    assert again.status == 1
    assert "has been revoked already, at " in again.err
    assert "its issuer is being asked" in again.err
    ca.faults = [RevocationRefused("somebody has rejected it"), RevocationRefused("somebody has rejected it")]
    await work(world, ca)
    shown = (await run("show", serial)).out
    assert "outside        refused, and not tried again at there; somebody has rejected it" in shown
    assert "revoked, held at there" in (await run("list")).out
    done = await run("revoke", serial, "--yes")
    assert done.status == 0, done.err
    one = await kept(world, serial)
    assert one.outside is not None
    assert one.outside.state is OutsideState.due
    assert one.outside.private.endswith("; before, held: somebody has rejected it")
    await work(world, ca)
    assert state(await kept(world, serial)) is OutsideState.held
    assert (await run("revoke", serial, "--local", "--yes")).status == 0
    assert state(await kept(world, serial)) is OutsideState.left
    done = await run("revoke", serial, "--yes")
    assert (done.status, "has been revoked already" in done.err) == (1, True)
    assert ca.revoked == {}


async def test_what_is_done_already(run: Run, world: World, ca: RevokingCA) -> None:
    serial = await put(world)
    await world.store.revoke(Revocation(int(serial, 16), RevocationReason.superseded, world.clock()))
    done = await run("revoke", serial, "--yes")
    assert done.status == 1
    assert f"certificate {serial}: has been revoked already, at " in done.err
    assert ";" not in done.err


async def test_what_cannot_be_revoked(run: Run, world: World) -> None:
    expired = await put(world, not_after=world.clock().replace(year=2020))
    for arguments, expected in (
        ((expired,), f"certificate {expired}: expired at 2020-"),
        (("xyz",), "xyz: not a serial number; write it in hexadecimal"),
        (("1f",), "1f: no certificate of this serial number; see `cmpd cert list`"),
        (
            (expired, "--reason", "certificateHold"),
            "--reason certificateHold: not a reason; write one of ",
        ),
        ((expired, "--reason", "key_compromise"), "--reason key_compromise: not a reason; write one of "),
    ):
        done = await run("revoke", *arguments, "--yes")
        assert done.status == 1
        assert done.err.startswith(f"cmpd: {expected}"), done.err


async def test_kept_certificates_are_listed_and_can_be_revoked(run: Run, world: World, ca: RevokingCA) -> None:
    serial = await put(world)
    assert await world.store.uncollected("there", FAR, world.clock(), keep=True) == (int(serial, 16),)
    assert f"\n{serial}\t" in (await run("list", "--status", "kept")).out
    assert "status         kept" in (await run("show", serial)).out
    assert (await run("revoke", serial, "--yes")).status == 0
    await work(world, ca)
    assert list(ca.revoked) == [int(serial, 16)]


async def test_what_changes_while_it_is_asked(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else revokes it while the operator types."""
    serial, loop = await put(world), asyncio.get_running_loop()

    class Typing:
        def readline(self) -> str:
            revocation = Revocation(int(serial, 16), RevocationReason.superseded, world.clock())
            asyncio.run_coroutine_threadsafe(world.store.revoke(revocation), loop).result(30)
            return "revoke\n"

    monkeypatch.setattr(io, "StringIO", lambda _: Typing())
    done = await run("revoke", serial)
    assert done.status == 1
    assert "has changed meanwhile, nothing was done" in done.err


async def test_help(run: Run) -> None:
    text = (await run("revoke", "--help")).out
    for word in ("--reason", "keyCompromise", "--local", "--yes", "--json", "whoever issued it"):
        assert word in text
