"""`cmpd doctor`, as an operator meets it: in a process of its own, the account a simulator in another."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cmpd.cli.output import time_text
from cmpd.exchange import OutsideRevocation, OutsideState, RevocationReason
from cmpd.ports import Revocation
from tests.certcentral.process import Simulator
from tests.contract.store import certificate, transaction
from tests.daemon import Site
from tests.test_cli import Done, spawn

MAIL = """
id = "mail-profile-of-the-test-0003"
base_template = "public-smime"
issuer = "digicert"
[certificate_type]
validation_type = "mailbox"
[enrollment]
authentication_method = "enrollment_code"
[san.email]
allowed_domains = ["example.com"]
"""
KEYS = {"admin": "sim-admin-key", "revoked": "sim-revoked-key"}


@pytest.fixture(scope="module")
def central() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, central: Simulator) -> Site:
    return site_for(tmp_path / "cmpd", central.url)


def site_for(folder: Path, url: str, key: str = "admin", more: str = "") -> Site:
    made = Site.make(folder)
    path = made.folder / "secrets" / "certcentral.key"
    path.write_text(KEYS[key])
    path.chmod(0o600)
    made.append(
        f'[issuers.digicert]\ntype = "certcentral"\nbase_url = "{url}"\n'
        f'api_key_file = "secrets/certcentral.key"\n{more}'
    )
    (made.folder / "profiles" / "mail.toml").write_text(MAIL)
    return made


def doctor(site: Site, *arguments: str) -> tuple[Done, list[dict[str, Any]]]:
    done = spawn("doctor", "--config", site.config, "--json", *arguments)
    return done, done.json["findings"] if done.out else []


def levels(findings: list[dict[str, Any]], check: str) -> set[str]:
    return {one["level"] for one in findings if one["check"] == check}


def the(findings: list[dict[str, Any]], level: str) -> list[str]:
    return [f"{one['where']}: {one['check']}: {one['text']}" for one in findings if one["level"] == level]


def test_all_is_well(site: Site) -> None:
    """The CRL is looked at where the daemon serves it; everything that was looked at is told."""
    text = site.config.read_text().replace('url = "http://127.0.0.1:8829"', "")
    site.config.write_text(text)
    with site.serve() as daemon:
        site.config.write_text(text.replace("[server]", f'[server]\nurl = "http://{daemon.cmp}"', 1))
        done, findings = doctor(site)
    assert (done.status, done.json["problems"], done.err) == (0, 0, "")
    assert the(findings, "warning") == []
    for check in ("configuration", "store", "API key", "account", "balance", "product", "domains", "orders", "CRL"):
        assert "ok" in levels(findings, check), check
    assert {(one["issuer"], one["profile"]) for one in findings} == {
        (None, None),
        ("local", None),
        ("digicert", None),
        ("digicert", "mail"),
    }


def test_a_key_that_is_refused_is_named_by_its_file(tmp_path: Path, central: Simulator) -> None:
    site = site_for(tmp_path / "cmpd", central.url, "revoked")
    done, findings = doctor(site)
    assert done.status == 1
    (problem,) = the(findings, "problem")
    assert problem.startswith("cmpd.toml: issuers.digicert: API key: is refused (HTTP 403")
    assert f"is the one in {site.folder}/secrets/certcentral.key of the account" in problem
    assert KEYS["revoked"] not in done.out


def test_a_domain_that_is_not_proven_names_the_profile(site: Site) -> None:
    path = site.folder / "profiles" / "mail.toml"
    path.write_text(MAIL.replace('"example.com"', '"unproven.example"'))
    done, findings = doctor(site)
    assert done.status == 1
    (problem,) = the(findings, "problem")
    assert problem.startswith("profiles/mail.toml: domains: unproven.example is ")
    assert problem.endswith("orders wait; add it and prove control over it (DNS token)")


def test_revocations_that_the_issuer_has_not_carried_out(site: Site) -> None:
    """How many, since when, and what is to be done; one that has just become due is only noted."""
    _, findings = doctor(site, "--issuer", "digicert")
    (row,) = [one for one in findings if one["check"] == "revocations"]
    assert (row["level"], row["text"]) == ("ok", "none waits to be done at the issuer")
    now = datetime.now(UTC).replace(microsecond=0)

    async def revoked(store: Any) -> None:
        for days, state in ((0, OutsideState.due), (3, OutsideState.held), (2, OutsideState.held)):
            await revoked_at_digicert(store, now - timedelta(days=days), state)

    site.store(revoked)
    _, findings = doctor(site, "--issuer", "digicert")
    noted, held = [one for one in findings if one["check"] == "revocations"]
    assert (noted["level"], held["level"]) == ("note", "warning")
    assert noted["text"].startswith(f"1 due, the oldest since {time_text(now)}: they are asked for by a running daemon")
    assert held["text"].startswith(f"2 held, the oldest since {time_text(now - timedelta(days=3))}: the issuer has ref")
    assert "cmpd cert revoke SERIAL" in held["text"]


async def revoked_at_digicert(store: Any, at: datetime, state: OutsideState) -> None:
    new = transaction()
    one = certificate(new, issuer="digicert")
    await store.issued(new, [one], code=None, now=at)
    assert await store.revoke(Revocation(one.serial, RevocationReason.superseded, at, OutsideState.due))
    seen = OutsideRevocation(OutsideState.due, at)
    assert await store.move_outside(one.serial, replace(seen, state=state), seen=seen)


def test_only_one_issuer(site: Site) -> None:
    done, findings = doctor(site, "--issuer", "digicert")
    assert done.status == 0
    assert {one["issuer"] for one in findings} == {"digicert"}
    unknown = spawn("doctor", "--config", site.config, "--issuer", "other")
    assert (unknown.status, unknown.err) == (
        1,
        "cmpd: --issuer other: no such issuer; there are: digicert, local\n",
    )


def test_what_check_finds_is_found_too_and_the_account_is_asked_all_the_same(site: Site) -> None:
    """A profile that cannot be loaded is a problem like any other."""
    path = site.folder / "profiles" / "mail.toml"
    path.write_text(MAIL.replace('"example.com"', '"not a domain"'))
    check = spawn("check", "--config", site.config)
    done, findings = doctor(site)
    assert check.status == done.status == 1
    assert [f"cmpd: {one['text']}" for one in findings if one["level"] == "problem"] == check.err.splitlines()
    assert "ok" in levels(findings, "API key")


def test_a_profile_that_nobody_can_use(site: Site) -> None:
    path = site.folder / "profiles" / "device.toml"
    path.write_text(path.read_text().replace('allowed_operations = ["ir", "cr", "p10cr", "kur"]', ""))
    path.write_text(path.read_text().replace("[enrollment]", '[enrollment]\nallowed_operations = ["kur"]', 1))
    check = spawn("check", "--config", site.config)
    done, findings = doctor(site)
    assert check.status == done.status == 1
    assert [f"cmpd: {one['text']}" for one in findings if one["level"] == "problem"] == check.err.splitlines()


def test_a_store_of_another_version_is_left_as_it_is(site: Site) -> None:
    """Only `serve` brings it up to date."""
    path = site.folder / "cmpd.db"
    octets = bytearray(path.read_bytes())
    octets[60:64] = bytes(4)
    path.write_bytes(octets)
    _, findings = doctor(site)
    (found,) = [one for one in findings if one["check"] == "store"]
    assert (found["level"], found["text"]) == (
        "warning",
        f"{path}: is of another version of cmpd; `cmpd serve` brings it up to date",
    )
    assert path.read_bytes() == octets


def test_a_store_that_cannot_be_used(site: Site) -> None:
    path = site.folder / "cmpd.db"
    path.write_bytes(path.read_bytes()[:4096] + b"x" * 40960)
    done, findings = doctor(site)
    assert done.status == 1
    problems = [one["text"] for one in findings if one["level"] == "problem"]
    assert any(text.startswith(f"{path} cannot be used (") for text in problems), problems
    assert "ok" in levels(findings, "API key")


def test_an_api_that_is_not_there(tmp_path: Path) -> None:
    """The rest is examined."""
    done, findings = doctor(site_for(tmp_path / "cmpd", "http://127.0.0.1:9/services/v2"))
    assert done.status == 1
    (problem,) = the(findings, "problem")
    assert problem.startswith("cmpd.toml: issuers.digicert: API: http://127.0.0.1:9/services/v2 cannot be used: ")
    assert "ok" in levels(findings, "CMP protection certificate")


def test_a_table_for_people_has_colour_on_a_terminal_only(site: Site) -> None:
    piped = spawn("doctor", "--config", site.config)
    assert piped.status == 0
    assert piped.out.splitlines()[0] == "WHERE\tWHAT\tSTATE\tFOUND"
    assert "\x1b" not in piped.out
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "cmpd", "doctor", "--config", str(site.config)]
    environment = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "TERM"}}
    process = subprocess.Popen(command, stdout=slave, env=environment | {"TERM": "xterm", "COLUMNS": "200"})
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    assert process.wait(60) == 0
    os.close(master)
    assert b"\x1b[32mok" in shown
    assert b"Problems: 0, warnings: 1." in shown


def test_the_account_has_heard_questions_only(site: Site, central: Simulator) -> None:
    before = len(central.control("GET", "/journal"))
    doctor(site)
    calls = central.control("GET", "/journal")[before:]
    assert calls
    assert {call["method"] for call in calls} == {"GET"}
    assert json.dumps(calls).count("sim-admin-key") == 0
