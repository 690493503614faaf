"""`cmpd device`: the devices of a profile, one by one and from a file, beside a running daemon."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import cli
from cmpd.cli import devices
from cmpd.exchange import Device
from tests.daemon import Site
from tests.ee import EE, new_key
from tests.world import certificate, vendor


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server with a profile for devices of a maker."""
    site = Site.make(tmp_path_factory.mktemp("devices") / "made")
    profile(site)
    return site.folder


def profile(site: Site, *keys: str, name: str = "factory") -> None:
    """A profile that trusts a maker, with keys of [enrollment.vendor]."""
    folder = site.folder / "profiles"
    if not (folder / "maker.pem").exists():
        (folder / "maker.pem").write_bytes(vendor()[1].public_bytes(Encoding.PEM))
    lines = ["\n[enrollment.vendor]", 'trusted_certificates = ["maker.pem"]', *keys, "\n[renewal]\n"]
    site.profile(name, ("\n[renewal]\n", "\n".join(lines)))


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Site:
    return Site(Path(shutil.copytree(made, tmp_path / "server")) / "cmpd.toml")


@pytest.fixture
def run(site: Site, capfd: pytest.CaptureFixture[str]) -> Run:
    """`cmpd device`, in this process."""

    def command(verb: str, *arguments: object, profile: str = "factory") -> Done:
        status = 0
        words = ["device", verb, "--config", str(site.config), "--profile", profile, *map(str, arguments)]
        try:
            cli.main(words)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Done(status, *capfd.readouterr())

    return command


def known(site: Site, serial: str, name: str = "factory") -> Device | None:
    """What the running daemon is told."""
    return site.store(lambda store: store.device(name, serial))


def test_one_by_one(run: Run, site: Site) -> None:
    done = run("add", "A-0815", "--seat", "pump 7", "--subject", "CN=pump-7,serialNumber=A-0815,O=Example")
    assert done.status == 0, done.err
    assert done.out.startswith("A-0815: is in the list of profile factory; its certificates are for seat pump 7, ")
    found = known(site, "A-0815")
    assert found is not None
    assert (found.seat, x509.Name.from_rfc4514_string(found.subject or "").rdns[1].rfc4514_string()) == (
        "pump 7",
        "2.5.4.5=A-0815",
    )
    assert "is changed" in run("add", "A-0815").out
    assert "was in the list as it is" in run("add", " A-0815 ").out
    assert run("add", "B-1", "--json").json["added_now"] is True
    assert [one["serial"] for one in run("list", "--json").json] == ["A-0815", "B-1"]
    assert [one["serial"] for one in run("list", "--json", "--limit", "1").json] == ["A-0815"]
    assert run("list").out.splitlines()[0] == "SERIAL\tSEAT\tSUBJECT\tADDED"
    assert run("remove", "A-0815").status == 0
    assert known(site, "A-0815") is None
    done = run("remove", "A-0815")
    assert done.status == 1
    assert "profile factory has no device A-0815 in its list; see `cmpd device list`" in done.err


def test_the_serial_number_of_a_certificate_is_written_in_any_way(run: Run, site: Site) -> None:
    profile(site, 'serial_from = "certificate.serial_number"', name="lines")
    assert run("add", "0A:BC:DE", profile="lines").status == 0
    assert known(site, "abcde", "lines") is not None
    done = run("add", "pump", profile="lines")
    assert (
        "serial: pump: is not hexadecimal, and in this profile it is the serial number of the certificate" in done.err
    )


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("serial\nA\nB\n", (2, 0, 0)),
        ('\ufeffserial,seat,subject\r\nA,pump 1,"CN=pump-1,O=Example"\r\n\r\nB,,\r\n', (2, 0, 0)),
        ("Subject;Serial\nCN=pump-1,O=Example;A\n", (1, 0, 0)),
        ("serial,seat\nold,new seat\nA,\nsame,\n", (1, 1, 1)),
        ("serial\n", (0, 0, 0)),
    ],
)
def test_a_file(run: Run, site: Site, tmp_path: Path, text: str, counts: tuple[int, int, int]) -> None:
    """With the line ends, separators and marks of the programs that write such files."""
    run("add", "old", "--seat", "old seat")
    run("add", "same")
    file = tmp_path / "devices.csv"
    file.write_text(text, newline="")
    keys = ("added", "changed", "unchanged")
    tried = run("import", file, "--dry-run", "--json")
    assert tried.status == 0, tried.err
    assert tuple(tried.json[key] for key in keys) == counts
    assert len(run("list", "--json").json) == 2
    done = run("import", file)
    assert done.status == 0, done.err
    assert done.out == "{} devices: {} added, {} changed, {} unchanged.\n".format(sum(counts), *counts)
    assert len(run("list", "--json").json) == 2 + counts[0]
    again = run("import", file, "--json")
    assert tuple(again.json[key] for key in keys) == (0, 0, sum(counts))


def test_a_file_with_wrong_lines_imports_nothing(run: Run, tmp_path: Path) -> None:
    """Every one of them is named."""
    file = tmp_path / "devices.csv"
    lines = ["serial,seat,subject", "A,,", ",x,", "B,,nobody", "C,,CN=a,O=b", "A,,", "D,\x07,", "E\n"]
    file.write_text("\n".join(lines))
    done = run("import", file)
    assert (done.status, done.out) == (1, "")
    assert [line.removeprefix(f"cmpd: {file}").partition("; ")[0] for line in done.err.splitlines()] == [
        ":3: serial: is empty",
        ":4: subject: nobody: is not a name such as CN=gateway,O=Example in RFC 4514 style",
        ":5: has 4 fields, and the header has 3",
        ":6: serial: A is on line 2 too",
        ":7: seat: \\x07: write up to 200 printable characters",
        ": nothing was imported",
    ]
    assert run("list", "--json").json == []


def test_no_more_faults_are_named_than_anybody_reads(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "devices.csv"
    file.write_text("serial,seat\n" + ",x\n" * 1000)
    lines = run("import", file).err.splitlines()
    assert len(lines) == devices.SHOWN_FAULTS + 2
    assert lines[-2].endswith(": 950 more faults")


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (
            b"",
            "devices.csv:1: the first line names the columns, each once: serial, seat, subject (serial must be there)",
        ),
        (b"A\nB\n", "it has: a"),
        (b"serial,serial\n", "each once"),
        (b"serial,owner\n", "it has: serial, owner"),
        (b"serial\nA\xff\n", "devices.csv: octet 8 is not UTF-8; save the file as UTF-8"),
        (b'serial,seat\nA,"x\nB,y\n', "devices.csv:2: not CSV: "),
    ],
)
def test_a_file_that_is_none(run: Run, tmp_path: Path, octets: bytes, reason: str) -> None:
    (tmp_path / "devices.csv").write_bytes(octets)
    done = run("import", tmp_path / "devices.csv")
    assert (done.status, done.out) == (1, "")
    assert reason in done.err


@pytest.mark.parametrize("verb", ["add", "import"])
def test_a_profile_without_makers_takes_no_devices(run: Run, tmp_path: Path, verb: str) -> None:
    (tmp_path / "devices.csv").write_text("serial\nA\n")
    done = run(verb, tmp_path / "devices.csv" if verb == "import" else "A", profile="device")
    assert done.status == 1
    assert "profiles/device.toml: enrollment.vendor: is missing, so that no device enrolls there" in done.err
    assert "profile nothing: there is none; there are: device, factory" in run("list", profile="nothing").err


def test_the_running_daemon_takes_it_up_at_once(run: Run, site: Site) -> None:
    """A device that is not in the list is told so, and enrolls when it is; its serial number is its seat."""
    profile(site, 'serial_from = "subject.common_name"', 'subject = "CN={serial},O=Example"')
    root_key, key = new_key(), new_key()
    root = certificate(root_key, "Maker", ca=True)
    (site.folder / "profiles" / "maker.pem").write_bytes(root.public_bytes(Encoding.PEM))
    ee = EE.with_certificate(key, certificate(key, "A-0815", root_key, root).public_bytes(Encoding.DER))
    with site.serve() as daemon:

        def ask() -> str:
            draft = ee.ir(subject="")
            return ee.read(daemon.ask(ee.seal(draft), "/.well-known/cmp/p/factory"), draft).text

        assert "the device is not known here" in ask()
        assert run("add", "A-0815").status == 0
        assert ask() == ""
    (issued,) = site.certificates()
    assert (issued.seat, issued.subject) == ("A-0815", "CN=A-0815,O=Example")
