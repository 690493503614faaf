"""What an operator does with a cmpd whose store is PostgreSQL: the daemon, and commands beside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmpd import cli
from cmpd.asn1 import BodyType
from tests import postgres
from tests.daemon import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with postgres.empty() as url:
        yield Site.make(tmp_path / "cmpd", store_url=url)


class Run:
    """A command on the site."""

    def __init__(self, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
        self._site = site
        self._capsys = capsys

    def __call__(self, *arguments: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main((*arguments, "--config", str(self._site.config)))
        said = self._capsys.readouterr()
        assert ended.value.code == status, said
        return said.out + said.err

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def run(site: Site, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(site, capsys)


def test_from_a_code_to_a_certificate_and_its_end(site: Site, run: Run) -> None:
    assert "can be served" in run("check")
    made = run.json("code", "create", "--profile", "device", "--reference", "pump-7", "--uses", "1", "--expires", "1d")
    assert made["reference"] == "pump-7"
    ee = site.code("pump-8")
    with site.serve() as daemon:
        draft = ee.ir()
        answer = ee.read(daemon.ask(ee.seal(draft)), draft)
        assert answer.type is BodyType.ip
        draft = ee.cert_conf(answer)
        assert ee.read(daemon.ask(ee.seal(draft)), draft).type is BodyType.pkiconf
        (listed,) = run.json("cert", "list")
        assert listed["status"] == "valid"
        assert "revoked" in run("cert", "revoke", listed["serial"], "--yes")
        daemon.stop()
    (listed,) = run.json("cert", "list")
    assert listed["status"] == "revoked"
    codes = {code["reference"]: code for code in run.json("code", "list")}
    assert (codes["pump-7"]["used"], codes["pump-8"]["used"]) == (0, 1)
    assert run.json("refusals") == []
    assert "can be served" in run("check")


def test_many_codes_in_one_commit(site: Site, run: Run, tmp_path: Path) -> None:
    rows = [f"pump-{number},seat-{number}" for number in range(2_000)]
    (tmp_path / "in.csv").write_text("\n".join(["reference,seat", *rows]))
    run("code", "import", str(tmp_path / "in.csv"), "--profile", "device", "--output", str(tmp_path / "out.csv"))
    assert len(run.json("code", "list")) == 2_000
    run(
        "code", "import", str(tmp_path / "in.csv"), "--profile", "device", "--output", str(tmp_path / "x.csv"), status=1
    )
    assert len(run.json("code", "list")) == 2_000


def test_a_server_that_is_not_there_is_named_and_the_password_is_not(site: Site, run: Run) -> None:
    text = site.config.read_text()
    url = next(line for line in text.splitlines() if line.startswith("url = ") and "postgresql" in line)
    away = "postgresql://cmpd:hunter2@127.0.0.1:1/cmpd"
    site.config.write_text(text.replace(url, f'url = "{away}"\nstatement_timeout = "1s"'))
    said = run("cert", "list", status=1)
    assert "postgresql://127.0.0.1:1/cmpd: cannot be reached" in said
    assert "hunter2" not in said
    said = run("check")
    assert "what is in it was not looked at" in said
    assert "hunter2" not in said
