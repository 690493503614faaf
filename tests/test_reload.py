"""`cmpd reload` and `cmpd refusals` with a daemon that runs; `cmpd check` finds what a reload would refuse."""

import json
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import cli
from cmpd.admin import COMMAND_HEADER, COMMAND_HOST
from cmpd.asn1 import BodyType
from tests.daemon import SECRET, FreePort, Site
from tests.ee import EE
from tests.http_client import WAIT
from tests.world import vendor


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Site.make(tmp_path_factory.mktemp("reload") / "made").folder


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Iterator[Site]:
    """A server whose admin listener has an address that a command can know."""
    site = Site(Path(shutil.copytree(made, tmp_path / "server")) / "cmpd.toml")
    port = FreePort()
    text = site.config.read_text()
    site.config.write_text(text.replace('[admin]\nlisten = "127.0.0.1:0"', f'[admin]\nlisten = "{port.listen}"'))
    assert site.config.read_text() != text
    yield site
    port.close()


Run = Callable[..., Done]


@pytest.fixture
def run(site: Site, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the site, in this process."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        status = 0
        try:
            cli.main(["--config", str(site.config), *map(str, arguments)])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Done(status, *capfd.readouterr())

    return run


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


COMMAND = {COMMAND_HEADER: "1", "Host": COMMAND_HOST}


class TestReload:
    def test_a_new_profile_serves_from_the_next_request_on(self, site: Site, run: Run) -> None:
        with site.serve() as daemon:
            assert daemon.http("POST", "/.well-known/cmp/p/mail", b"x")[0] == 404
            assert run("profile", "new", "--name", "mail", "--template", "private-smime").status == 0
            done = run("reload")
            assert (done.status, done.out, done.err) == (0, "Reloaded; profiles: device, mail.\n", "")
            assert daemon.http("POST", "/.well-known/cmp/p/mail", b"x")[0] == 415
            assert daemon.until("reloaded")["profiles"] == "device, mail"
            assert b'cmpd_reloads_total{result="success"} 1.0' in daemon.admin_get("/metrics")[1]

    def test_what_waits_for_the_next_start_is_named(self, site: Site, run: Run) -> None:
        with site.serve():
            edit(site.config, "sqlite:///cmpd.db", "sqlite:///other.db")
            done = run("reload")
            assert done.status == 0
            assert "A change of store.url takes effect at the next start only.\n" in done.out
            assert run("reload", "--json").json == {
                "result": "reloaded",
                "faults": [],
                "profiles": ["device"],
                "at_next_start": [],
            }

    def test_without_a_daemon_it_says_so(self, run: Run) -> None:
        done = run("reload")
        assert done.status == 1
        assert re.match(r"cmpd: not reloaded: .*: admin.listen: 127.0.0.1:\d+: no daemon answers \(", done.err)

    def test_a_configuration_that_cannot_be_read_is_not_even_asked_for(self, site: Site, run: Run) -> None:
        site.config.write_text("[server")
        done = run("reload")
        assert done.status == 1
        assert "not TOML" in done.err

    def test_many_at_once_share_a_few_reloads(self, site: Site) -> None:
        """Everybody gets an answer about a reload that began after the question."""
        with site.serve() as daemon:
            answers: list[tuple[int, bytes]] = []
            headers: dict[str, Any] = COMMAND

            def ask() -> None:
                answers.append(daemon.http("POST", "/reload", address=daemon.admin, **headers))

            threads = [threading.Thread(target=ask) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(WAIT)
            assert [status for status, _ in answers] == [200] * 20
            found = re.search(rb'cmpd_reloads_total\{result="success"\} (\d+)', daemon.admin_get("/metrics")[1])
            assert found is not None
            assert 1 <= int(found[1]) <= 10

    @pytest.mark.parametrize(
        ("method", "path", "headers", "status"),
        [
            ("POST", "/reload", {}, 403),
            ("POST", "/reload", {COMMAND_HEADER: "1"}, 403),
            ("POST", "/reload", {"Host": COMMAND_HOST}, 403),
            ("POST", "/reload", COMMAND | {"Host": "rebound.example.com:9829"}, 403),
            ("GET", "/reload", COMMAND, 405),
            ("GET", "/refusals", {}, 403),
            ("POST", "/refusals", COMMAND, 405),
            ("GET", "/refusals", COMMAND, 200),
            ("GET", "/refusals?limit=x", COMMAND, 200),
        ],
    )
    def test_only_a_command_is_answered(
        self, site: Site, method: str, path: str, headers: dict[str, Any], status: int
    ) -> None:
        """A web page in an operator's browser cannot ask, rebound names included; nothing is on the CMP listener."""
        with site.serve() as daemon:
            assert daemon.http(method, path, address=daemon.admin, **headers)[0] == status
            assert daemon.http(method, path, **headers)[0] == 404
            assert not [record for record in daemon.records if record["event"] == "reloaded"]


def _vendor_file(site: Site) -> None:
    _, root = vendor()
    (site.folder / "profiles" / "vendor.pem").write_bytes(root.public_bytes(Encoding.PEM))


def _profile(site: Site, text: str, name: str = "x") -> None:
    (site.folder / "profiles" / f"{name}.toml").write_text(f'id = "{"x" * 22}"\nissuer = "local"\n{text}')


def _device(site: Site, before: str, after: str) -> None:
    edit(site.folder / "profiles" / "device.toml", before, after)


def _same_id(site: Site) -> None:
    shutil.copy(site.folder / "profiles" / "device.toml", site.folder / "profiles" / "twin.toml")


def _template(name: str, more: str = "") -> Callable[[Site], None]:
    return lambda site: _profile(site, f'base_template = "{name}"\n{more}')


FAULTS: dict[str, tuple[Callable[[Site], object], str]] = {
    "TOML": (lambda site: _device(site, "[enrollment]", "[enrollment"), "is not TOML"),
    "UTF-8": (lambda site: (site.folder / "profiles" / "x.toml").write_bytes(b"\xff"), "is not UTF-8"),
    "file name": (lambda site: _profile(site, "", "X"), "the name of a profile"),
    "unknown key": (lambda site: _device(site, "issuer =", "isuer ="), "did you mean issuer?"),
    "wrong type": (lambda site: _device(site, 'confirm_wait = "10m"', "confirm_wait = 10"), "enrollment.confirm_wait"),
    "keys that disagree": (_template("generic-device", '[validity]\ndefault = "20y"\n'), "is more than max"),
    "pattern": (_template("generic-device", "[subject]\ncommon_name.pattern = '('\n"), "is not a regular expression"),
    "unknown template": (_template("generic-devices"), "base_template: 'generic-devices' is not one of"),
    "forbidden by the template": (
        _template("generic-device", "[san]\nemail.include = 'optional'\n"),
        "a device has no",
    ),
    "required by the template": (
        _template("certcentral-public-server", "[certificate_type]\nvalidation_type = 'organization'\n"),
        "organization.name: is required",
    ),
    "public trust": (
        _template("certcentral-public-server", "[certificate_type]\nvalidation_type = 'mailbox'\n"),
        "certificate_type.validation_type",
    ),
    "trust anchor": (
        _template("generic-device", "[enrollment]\nra_certificates = ['nothing.pem']\n"),
        "'nothing.pem' cannot be read",
    ),
    "same id": (_same_id, "is the id of"),
    "issuer of a profile": (lambda site: _device(site, 'issuer = "local"', 'issuer = "other"'), "is no section"),
    "default profile": (lambda site: edit(site.config, 'default = "device"', 'default = "x"'), "profiles.default: 'x'"),
    "key of cmpd.toml": (lambda site: edit(site.config, "[store]", "[store]\nrefusal = 1"), "store.refusal: unknown"),
    "store key": (lambda site: (site.folder / "secrets" / "store.key").write_text("x"), "store.key_file"),
    "CA key": (lambda site: (site.folder / "ca" / "issuing.key").write_text("x"), "issuers.local.key"),
    "CA certificate": (lambda site: (site.folder / "ca" / "issuing.pem").unlink(), "issuers.local.certificate"),
    "TLS": (
        lambda site: site.append('[server.tls]\nlisten = "127.0.0.1:0"\ncertificate = "x.pem"\nkey = "x.key"'),
        "server.tls",
    ),
    "signature algorithm": (
        _template("generic-device", "[signature]\nallowed_algorithms = ['ed25519']\n"),
        "signature.allowed_algorithms: the issuer 'local' signs with ecdsaWithSHA256 only",
    ),
    "no profile": (lambda site: (site.folder / "profiles" / "device.toml").unlink(), "has no profile"),
}


def _lines(error: str) -> list[str]:
    return [line.removeprefix("cmpd: ") for line in error.splitlines()]


@pytest.mark.parametrize("kind", FAULTS)
def test_check_finds_what_a_reload_refuses(site: Site, run: Run, kind: str) -> None:
    """Word for word; and the old configuration goes on serving, all of it."""
    break_it, named = FAULTS[kind]
    ee = site.code("device-1")
    with site.serve() as daemon:
        break_it(site)
        checked = run("check")
        assert checked.status == 1
        assert any(named in line for line in _lines(checked.err)), checked.err
        reloaded = run("reload")
        assert reloaded.status == 1
        first, *found = _lines(reloaded.err)
        if kind == "key of cmpd.toml":  # the command cannot even read where the daemon is
            found, first = [first, *found], "not reloaded, the old configuration stays:"
            daemon.signal(signal.SIGHUP)
        assert first == "not reloaded, the old configuration stays:"
        assert found == _lines(checked.err)
        record = daemon.until("reload failed, the old configuration stays")
        assert record["faults"] == found
        assert b'cmpd_reloads_total{result="failure"} 1.0' in daemon.admin_get("/metrics")[1]
        draft = ee.ir(subject="CN=device-1")
        assert ee.read(daemon.ask(ee.seal(draft)), draft).type is BodyType.ip


def test_enforced_lint_needs_the_linter(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before the first request; "warn" goes without."""
    import sys

    monkeypatch.setitem(sys.modules, "pkilint", None)
    _profile(site, 'base_template = "generic-device"\nlint = "warn"\n')
    assert run("check").status == 0
    _profile(site, 'base_template = "generic-device"\nlint = "enforce"\n')
    done = run("check")
    assert done.status == 1
    assert "x.toml: lint: 'warn' and 'enforce' need pkilint" in done.err


def test_check_says_what_will_be_refused_soon(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six weeks before certificates of TLS servers may have 100 days only (TLS BR §6.3.2)."""
    monkeypatch.setattr("cmpd.cli.service.now", lambda: datetime(2027, 2, 1, tzinfo=UTC))
    text = 'base_template = "certcentral-public-server"\ncertificate_type.validation_type = "domain"\n'
    _profile(site, f'{text}validity.on_exceed = "reject"\n')
    done = run("check")
    assert done.status == 0, done.err
    assert re.search(r"(?m)^soon      .*x\.toml: from 2027-03-\d\d on: validity\.default: ", done.out), done.out
    assert run("check", "--json").json["notices"]
    _profile(site, text)
    assert "validity" not in run("check").out


class TestRefusals:
    def test_who_was_refused_and_why(self, site: Site, run: Run, tmp_path: Path) -> None:
        """Those of the database and those that only the daemon remembers; a reload forgets neither."""
        ee = site.code("device-1", uses=None)
        liar = EE.with_code("device-1", "wrong-secret")
        with site.serve() as daemon:
            draft = ee.ir(subject="CN=device-1,C=Germany")
            refused = ee.read(daemon.ask(ee.seal(draft)), draft)
            lie = liar.ir(subject="CN=device-1")
            daemon.ask(liar.seal(lie))
            assert run("reload").status == 0
            done = run("refusals", "--json")
            assert done.status == 0
            assert {one["fail_info"] for one in done.json} == {refused.fail_info, "badMessageCheck"}
            table = run("refusals", "--profile", "device", "--limit", "1").out.splitlines()
            assert len(table) == 2
            assert run("refusals", "--profile", "mail", "--json").json == []
            (stored,) = [one for one in done.json if one["id"] is not None]
            (remembered,) = [one for one in done.json if one["id"] is None]
            assert (stored["reason"], stored["credential"]) == (refused.text, "code:device-1")
            assert remembered["private"].endswith("reference device-1")
            shown = run("refusals", "show", remembered["transaction_id"])
            assert shown.status == 0
            assert "wrong secret" in shown.out
        everything = done.out + shown.out + "".join(table)
        assert SECRET not in everything
        assert "wrong-secret" not in everything
        shown = run("refusals", "show", stored["id"])
        assert "  FAIL  subject.country_name: " in shown.out
        assert run("refusals", "show", stored["transaction_id"]).out == shown.out
        request = shown.out.splitlines()[-1]
        (tmp_path / "request").write_text(request)
        explained = run("explain", tmp_path / "request", "--profile", "device", "--json")
        assert explained.json["answered_before"].startswith("refused, ")
        assert run("refusals", "show", stored["id"], "--json").json["request"] == request
        alone = run("refusals")
        assert alone.status == 0
        assert "no daemon answers" in alone.err
        assert len(alone.out.splitlines()) == 2

    def test_so_many_are_kept_as_the_store_is_told(self, site: Site, run: Run) -> None:
        edit(site.config, "[store]", "[store]\nrefusals = 2")
        ee = site.code("device-1", uses=None)
        with site.serve() as daemon:
            for number in range(4):
                daemon.ask(ee.seal(ee.ir(subject=f"C=Nowhere{number}")))
        assert len(run("refusals", "--json").json) == 2

    @pytest.mark.parametrize("which", ["7", "abc", "0" * 32])
    def test_one_that_there_is_not(self, run: Run, which: str) -> None:
        done = run("refusals", "show", which)
        assert done.status == 1
        assert done.err == f"cmpd: {which}: no such refusal; see `cmpd refusals`\n"


class TestSeats:
    def test_who_holds_which_certificates(self, site: Site, run: Run) -> None:
        _profile(site, 'base_template = "generic-device"\n[seat]\nallow_duplicates = true\n', "sensors")
        ee = site.code("sensor", profile="sensors", uses=None)
        with site.serve() as daemon:
            for name in ("a", "b", "a"):
                draft = ee.ir(subject=f"CN={name}")
                answer = ee.read(daemon.ask(ee.seal(draft), "/.well-known/cmp/p/sensors"), draft)
                assert answer.type is BodyType.ip, answer.text
            assert daemon.until("exchange")["seat"] == "a"
        found = run("seat", "list", "--json").json
        assert [(one["seat"], one["certificates"]) for one in found] == [("a", 2), ("b", 1)]
        assert run("seat", "list", "--profile", "device", "--json").json == []
        assert len(run("seat", "list", "--limit", "1").out.splitlines()) == 2
        shown = run("seat", "show", "a", "--profile", "sensors", "--json").json
        assert [one["seat"] for one in shown["issued"]] == ["a", "a"]
        assert "CN=a" in run("seat", "show", "a", "--profile", "sensors").out
        assert run("cert", "list", "--json").json[0]["seat"] == "a"
        done = run("seat", "show", "c", "--profile", "sensors")
        assert (done.status, done.err) == (1, "cmpd: profile sensors has no seat c; see `cmpd seat list`\n")


class TestProfileShow:
    def test_each_value_says_where_it_comes_from(self, site: Site, run: Run) -> None:
        _vendor_file(site)
        _profile(
            site,
            'base_template = "public-smime"\ncertificate_type.generation = "multipurpose"\n'
            "enrollment.trusted_certificates = ['vendor.pem']\nvalidity.default = '90d'\n",
            "mail",
        )
        found = run("profile", "show", "mail", "--json").json
        values = {one["key"]: (one["value"], one["source"]) for one in found["values"]}
        assert values["validity.default"] == ("90d", "file")
        assert values["validity.max"] == ("824d", "template public-smime")
        kind = "certificate_type"
        assert values["extensions.certificate_policies"] == (
            ["2.23.140.1.5.1.2"],
            f"template public-smime ({kind}.validation_type = mailbox, {kind}.generation = multipurpose)",
        )
        assert values["enrollment.legacy.short_nonces"] == (False, "default")
        assert found["url"].endswith("/cmp/" + "x" * 22)
        table = run("profile", "show", "mail").out.splitlines()
        assert table[0] == "KEY\tVALUE\tFROM"
        assert 'validity.default\t"90d"\tfile' in table
        done = run("profile", "show", "nobody")
        assert (done.status, done.err) == (1, "cmpd: profile nobody: there is none; there are: device, mail\n")


class TestTemplates:
    def test_list_and_show(self, run: Run) -> None:
        rows = run("template", "list", "--json").json
        assert len(rows) == 6
        for row in rows:
            text = run("template", "show", row["name"]).out
            assert f"title = {json.dumps(row['title'])}" in text
            assert run("template", "show", row["name"], "--json").json["defaults"]
        assert len(run("template", "list").out.splitlines()) == 7
        done = run("template", "show", "x")
        assert (done.status, done.err.partition(";")[0]) == (1, "cmpd: template x: there is none")
