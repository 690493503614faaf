"""`cmpd store`, as an operator meets it, beside a daemon that issues."""

import asyncio
import json
import os
import shlex
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bench import growth
from cmpd.asn1 import BodyType
from cmpd.exchange import CertificateStatus, Device, OrderState, RevocationReason
from cmpd.settings import Settings
from cmpd.store import AdminStore, StoreRefused
from cmpd.store.schema import MIGRATIONS
from cmpd.store.sqlite.upkeep import SQLiteUpkeep
from tests import postgres
from tests.contract.orders import intend
from tests.contract.store import NOW
from tests.daemon import ROOT, SECRET, Daemon, Site
from tests.ee import EE
from tests.http_client import WAIT

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("store") / "cmpd")


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    return made.copy(tmp_path / "cmpd")


@contextmanager
def empty(kind: str, folder: Path) -> Iterator[str]:
    """The [store] url of an empty store of a kind, gone afterwards."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/another.db"
    else:
        with postgres.empty() as url:
            yield url


def use(site: Site, url: str) -> Site:
    """Have it keep its store there."""
    text = site.config.read_text()
    before = next(line for line in text.splitlines() if line.startswith(('url = "sqlite', 'url = "postgresql')))
    site.config.write_text(text.replace(before, f'url = "{url}"', 1))
    return site


@dataclass(frozen=True)
class Done:
    """What a command has printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def command(site: Site, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "cmpd", "store", *map(str, arguments), "--config", str(site.config)]


def run(site: Site, *arguments: object) -> Done:
    """Run a command in a process of its own, as a daemon and its store are in others."""
    done = subprocess.run(command(site, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=WAIT)
    return Done(done.returncode, done.stdout, done.stderr)


def fresh(site: Site, folder: Path) -> Site:
    """Another machine: what belongs to a backup is put back, and the database is new."""
    folder.mkdir()
    for name in ("cmpd.toml", "ca", "secrets", "profiles"):
        source = site.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
    return Site(folder / "cmpd.toml")


def enroll(daemon: Daemon, ee: EE, subject: str) -> tuple[bytes, bytes, x509.Certificate, Any]:
    """One certificate, confirmed: the request, its answer, the certificate, the key."""
    draft = ee.ir(subject=subject)
    request = ee.seal(draft)
    reply = daemon.ask(request)
    answer = ee.read(reply, draft)
    confirmation = ee.cert_conf(answer)
    done = ee.read(daemon.ask(ee.seal(confirmation)), confirmation)
    assert done.type is BodyType.pkiconf, done.text
    return request, reply, answer.certificate(), draft.key


@dataclass
class Load:
    """Clients that enroll, one certificate after another, until told to stop."""

    daemon: Daemon
    reference: str
    acknowledged: list[tuple[float, bytes, bytes, x509.Certificate, Any]] = field(default_factory=list)
    """When it was confirmed (monotonic), and what `enroll` gives."""
    faults: list[BaseException] = field(default_factory=list)
    _enough: threading.Event = field(default_factory=threading.Event)

    def work(self, number: int) -> None:
        ee = EE.with_code(self.reference, SECRET)
        count = 0
        try:
            while not self._enough.is_set():
                count += 1
                one = enroll(self.daemon, ee, f"CN=device-{number}-{count}")
                self.acknowledged.append((time.monotonic(), *one))
        except BaseException as error:  # noqa: BLE001  told to the test
            self.faults.append(error)

    @contextmanager
    def going(self, clients: int = 3) -> Iterator[None]:
        threads = [threading.Thread(target=self.work, args=(number,), daemon=True) for number in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._enough.set()
            for thread in threads:
                thread.join(WAIT)
        assert self.faults == []

    def wait_for(self, number: int) -> None:
        deadline = time.monotonic() + WAIT
        while len(self.acknowledged) < number and not self.faults:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def crl(daemon: Daemon) -> x509.CertificateRevocationList:
    status, body = daemon.http("GET", "/crl/local.crl")
    assert status == 200
    return x509.load_der_x509_crl(body)


def number_of(found: x509.CertificateRevocationList) -> int:
    return found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


# Backup and restore


@pytest.mark.parametrize(
    ("kind", "other_kind"), [("sqlite", "sqlite"), ("postgresql", "postgresql"), ("sqlite", "postgresql")]
)
def test_a_backup_under_load_is_all_that_was_acknowledged_before_it_began(
    site: Site, tmp_path: Path, kind: str, other_kind: str
) -> None:
    """Restored elsewhere: certificates, counts of codes, answers to repeat and CRL numbers are there."""
    with empty(kind, tmp_path / "cmpd") as url, empty(other_kind, tmp_path / "other") as other_url:
        _back_up_and_restore(use(site, url), tmp_path, other_url)


def _back_up_and_restore(site: Site, tmp_path: Path, other_url: str) -> None:
    site.code("many", uses=None)
    once = site.code("once")
    backup = tmp_path / "backup"
    with site.serve() as daemon:
        spent = enroll(daemon, once, "CN=once")
        site.revoke(spent[2], RevocationReason.superseded)
        first = number_of(crl(daemon))
        load = Load(daemon, "many")
        with load.going():
            load.wait_for(10)
            began = time.monotonic()
            done = run(site, "backup", backup, "--json")
            load.wait_for(len(load.acknowledged) + 5)
        assert done.status == 0, done.err
        # what comes after the backup
        for one in load.acknowledged[-3:]:
            site.revoke(one[3], RevocationReason.superseded)
            latest = number_of(crl(daemon))
        assert latest > first
        daemon.stop()

    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "cmpd"]
    other = use(fresh(site, tmp_path / "other"), other_url)
    restored = run(other, "restore", backup, "--json")
    assert restored.status == 0, restored.err
    assert restored.json["certificates"] == done.json["certificates"]
    assert run(other, "status").status == 0

    before = [one for one in load.acknowledged if one[0] < began]
    assert len(before) >= 10
    kept = {one.serial: one for one in other.certificates()}
    assert len(kept) == done.json["certificates"]
    for _, _, _, certificate, _ in before:
        assert kept[certificate.serial_number].status is CertificateStatus.valid
    assert CertificateStatus.unconfirmed not in {one.status for one in kept.values()}  # the sweep would revoke it
    assert kept[spent[2].serial_number].status is CertificateStatus.revoked
    assert other.used("once") == 1
    assert other.used("many") == len(kept) - 1

    with other.serve() as daemon:
        _, request, reply, certificate, key = before[-1]
        assert daemon.ask(request) == reply
        assert daemon.ask(spent[0]) == spent[1]
        assert [entry.serial_number for entry in crl(daemon)] == [spent[2].serial_number]
        assert number_of(crl(daemon)) > latest
        again = EE.with_code("once", SECRET)
        refused = again.read(daemon.ask(again.seal(draft := again.ir(subject="CN=again"))), draft)
        assert refused.fail_info is not None  # it has been used
        ee = EE.with_certificate(key, certificate.public_bytes(Encoding.DER))
        renewal = ee.kur(subject=certificate.subject.rfc4514_string())
        answer = ee.read(daemon.ask(ee.seal(renewal)), renewal)
        assert answer.type is BodyType.kup
        assert answer.fail_info is None, answer.text
        daemon.stop()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_old_backup_does_not_bring_back_crl_numbers_and_codes(site: Site, tmp_path: Path, kind: str) -> None:
    """What came after the backup is lost, but nothing is given out twice because of that."""
    with empty(kind, tmp_path) as url:
        _restore_an_old_one(use(site, url), tmp_path)


def _restore_an_old_one(site: Site, tmp_path: Path) -> None:
    site.code("old", uses=5)
    with site.serve() as daemon:
        enroll(daemon, EE.with_code("old", SECRET), "CN=one")
        assert number_of(crl(daemon)) == 1, "kept, and in the backup"
        assert run(site, "backup", tmp_path / "old").status == 0
        later = enroll(daemon, EE.with_code("old", SECRET), "CN=two")
        site.revoke(later[2], RevocationReason.superseded)
        latest = number_of(crl(daemon))
        refused = run(site, "restore", "--force", tmp_path / "old")
        assert (refused.status, refused.out) == (1, "")
        assert f"is open: process {daemon.process.pid} (" in refused.err or "is in use by cmpd at 127" in refused.err
        daemon.stop()
    done = run(site, "restore", tmp_path / "old")
    assert done.status == 1
    assert "has something in it (issuer, enrollment_code" in done.err
    assert len(site.certificates()) == 2
    done = run(site, "restore", "--force", "--revoke-codes", tmp_path / "old", "--json")
    assert done.status == 0, done.err
    assert (done.json["certificates"], done.json["codes"]) == (1, 1)
    with site.serve() as daemon:
        assert number_of(crl(daemon)) > latest
        daemon.stop()
    assert site.store(lambda store: store.codes())[0].revoked
    if done.json["replaced"] is None:  # a file can be kept beside, a database cannot
        return
    # the former database is whole, and can take its place again
    replaced = Path(done.json["replaced"])
    assert stat.S_IMODE(replaced.stat().st_mode) == 0o600
    assert run(site, "restore", "--force", replaced).status == 0
    assert len(site.certificates()) == 2


def test_a_backup_overwrites_nothing(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "there"
    file.write_text("mine")
    done = run(site, "backup", file)
    assert (done.status, done.out) == (1, "")
    assert done.err == f"cmpd: {file}: exists already and is not overwritten; choose another name\n"
    assert file.read_text() == "mine"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert run(site, "backup", tmp_path / "link").status == 1
    missing = run(site, "backup", tmp_path / "no" / "folder")
    assert "cannot be written: No such file or directory" in missing.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cmpd", "link", "there"]


def test_a_full_disk_leaves_no_backup_and_no_half_of_one(filled: Site, tmp_path: Path) -> None:
    """Files may have 100 kB here: the first write beyond that fails, as on a disk that is full."""
    folder = tmp_path / "backups"
    folder.mkdir()
    limited = f"ulimit -f 200; exec {shlex.join(command(filled, 'backup', folder / 'backup'))}"
    done = subprocess.run(["/bin/sh", "-c", limited], cwd=ROOT, capture_output=True, text=True, timeout=WAIT)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the file system" in done.stderr
    assert list(folder.iterdir()) == []
    assert run(filled, "status").status == 0
    assert run(filled, "backup", folder / "backup").status == 0


def test_a_store_that_is_open_is_not_replaced_where_nobody_tells_by_whom(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no list of locks, SQLite is asked."""
    assert run(site, "backup", tmp_path / "backup").status == 0
    upkeep = SQLiteUpkeep(site.folder / "cmpd.db", Settings.load(site.config).store.key())
    monkeypatch.setattr("cmpd.store.sqlite.upkeep._holders", lambda _: None)

    def restore() -> None:
        asyncio.run(upkeep.restore(tmp_path / "backup", NOW, ("local",), force=True))

    with site.serve() as daemon:
        with pytest.raises(StoreRefused, match="is open in another process"):
            restore()
        daemon.stop()
    restore()


def test_a_backup_says_what_belongs_to_it(site: Site, tmp_path: Path) -> None:
    done = run(site, "backup", tmp_path / "backup")
    assert str(site.folder / "secrets" / "store.key") in done.out
    assert "ca/" in done.out


def test_what_cannot_be_restored(site: Site, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    site.code("one")
    assert run(site, "backup", backup).status == 0
    other = fresh(site, tmp_path / "other")

    def refused(file: Path) -> str:
        done = run(other, "restore", file)
        assert (done.status, done.out) == (1, "")
        assert not (other.folder / "cmpd.db").exists()
        return done.err

    assert "no such file" in refused(tmp_path / "missing")
    (tmp_path / "text").write_text("no database at all, but long enough " * 100)
    assert "not an SQLite database" in refused(tmp_path / "text")
    (tmp_path / "empty").touch()
    assert "is empty" in refused(tmp_path / "empty")
    octets = bytearray(backup.read_bytes())
    octets[4096 * 3 : 4096 * 20] = bytes(4096 * 17)
    (tmp_path / "damaged").write_bytes(octets)
    assert "damaged" in refused(tmp_path / "damaged")
    foreign = sqlite3.connect(tmp_path / "foreign")
    foreign.execute("CREATE TABLE mine (x)")
    foreign.commit()
    foreign.close()
    assert "of another program" in refused(tmp_path / "foreign")
    key = other.folder / "secrets" / "store.key"
    kept = key.read_text()
    key.write_text("A" * 43 + "=")
    assert "put back the secrets/store.key" in refused(backup)
    key.write_text(kept)
    assert run(other, "restore", backup).status == 0


def test_a_damaged_store_is_replaced_and_kept(site: Site, tmp_path: Path) -> None:
    site.code("one")
    assert run(site, "backup", tmp_path / "backup").status == 0
    database = site.folder / "cmpd.db"
    database.write_bytes(b"x" * 8192)
    status = run(site, "status")
    assert status.status == 1
    assert "not an SQLite database" in status.err
    assert "with --force" in run(site, "restore", tmp_path / "backup").err
    done = run(site, "restore", "--force", tmp_path / "backup", "--json")
    assert done.status == 0, done.err
    assert Path(done.json["replaced"]).read_bytes() == b"x" * 8192
    assert [code.reference for code in site.store(lambda store: store.codes())] == ["one"]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_orders_about_to_be_placed_are_looked_for_after_a_restore(site: Site, tmp_path: Path, kind: str) -> None:
    """They may have been placed since: nothing is ordered twice because of an old backup."""

    async def place(store: AdminStore) -> dict[str, OrderState]:
        found = {}
        for state in (OrderState.intended, OrderState.submitting, OrderState.ordered, OrderState.held):
            one = await intend(store, now=datetime.now(UTC).replace(microsecond=0))
            if state is not OrderState.intended:
                await store.move_order(replace(one, state=state, ticket="17"), seen=OrderState.intended)
            found[one.stamp] = state
        return found

    async def look(store: AdminStore) -> dict[str, OrderState]:
        due = await store.orders_due("upstream", datetime.now(UTC), 10)
        assert {one.state for one in due} == {OrderState.unknown, OrderState.ordered}
        return {one.stamp: one.state for one in await store.orders(10)}

    placed = site.store(place)
    assert run(site, "backup", tmp_path / "backup").status == 0
    with empty(kind, tmp_path) as url:
        use(site, url)
        done = run(site, "restore", tmp_path / "backup", "--json")
        assert done.status == 0, done.err
        assert done.json["orders"] == 2
        before = {OrderState.intended, OrderState.submitting}
        assert site.store(look) == {
            stamp: OrderState.unknown if state in before else state for stamp, state in placed.items()
        }


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_backup_of_an_older_cmpd_is_migrated(site: Site, tmp_path: Path, kind: str) -> None:
    old(site, 2)
    done = run(site, "backup", tmp_path / "backup", "--json")
    assert (done.status, done.json["schema"]) == (0, 2)
    with empty(kind, tmp_path) as url:
        use(site, url)
        assert run(site, "restore", tmp_path / "backup").status == 0
        found = run(site, "status", "--json")
        assert (found.status, found.json["pending"]) == (0, 0)


def test_a_terminal_shows_how_far_it_is(filled: Site, tmp_path: Path) -> None:
    site = filled.copy(tmp_path / "cmpd")
    ours, theirs = os.openpty()
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            command(site, "copy", "--to", f"sqlite:///{tmp_path}/target.db"),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(theirs)
        while True:
            try:
                some = terminal.read(4096)
            except OSError:  # so Linux says that the other end is closed
                break
            if not some:
                break
            shown += some
        assert process.wait(WAIT) == 0
    assert b"copy certificate" in shown
    assert b"6000/6000" in shown
    assert b"verify certificate" in shown


def test_a_daemon_deletes_what_is_kept_long_enough(filled: Site, tmp_path: Path) -> None:
    site = filled.copy(tmp_path / "cmpd")
    text = site.config.read_text()
    site.config.write_text(text.replace("[store]", '[store]\ncertificate_retention = "1y"\norder_retention = "1y"'))
    before = {one["name"]: one for one in run(site, "stats", "--json").json["retention"]}
    assert before["certificate"]["due_now"] > 1000
    with site.serve() as daemon:
        deleted = daemon.until("old records deleted")
        status, metrics = daemon.admin_get("/metrics")
        daemon.stop()
    assert status == 200
    (size,) = [line for line in metrics.decode().splitlines() if line.startswith("cmpd_store_size_bytes ")]
    assert float(size.split()[1]) > 1_000_000
    assert deleted["certificates"] == before["certificate"]["due_now"]
    assert deleted["orders"] == before["cert_order"]["due_now"] > 10
    after = {one["name"]: one for one in run(site, "stats", "--json").json["retention"]}
    assert (after["certificate"]["due_now"], after["cert_order"]["due_now"]) == (0, 0)
    assert after["certificate"]["next"] > before["certificate"]["next"]


# Status and migration


def test_status_says_who_has_it_open(site: Site) -> None:
    assert run(site, "status", "--json").json["holders"] == []
    with site.serve() as daemon:
        found = run(site, "status", "--json")
        assert found.status == 0
        assert [one["pid"] for one in found.json["holders"]] == [daemon.process.pid]
        assert "serve" in found.json["holders"][0]["name"]
        assert (found.json["schema"], found.json["pending"]) == (len(MIGRATIONS), 0)
        assert (found.json["journal_mode"], found.json["integrity"]) == ("wal", "ok")
        daemon.stop()


def test_status_says_what_is_wrong(site: Site) -> None:
    database = site.folder / "cmpd.db"
    database.chmod(0o644)
    found = run(site, "status", "--json")
    assert found.status == 1
    assert found.json["faults"] == [f"{database}: mode 0644 opens it to other users; chmod 600 it"]
    database.unlink()
    found = run(site, "status")
    assert found.status == 1
    assert "no such file; `cmpd store migrate` makes a new store" in found.err
    assert not database.exists()


def old(site: Site, version: int) -> None:
    """Have a store as a former cmpd has made it."""
    database = site.folder / "cmpd.db"
    connection = sqlite3.connect(database)
    (key,) = connection.execute("SELECT value FROM store WHERE name = 'key'").fetchone()
    connection.close()
    database.unlink()
    connection = sqlite3.connect(database)
    for migration in MIGRATIONS[:version]:
        for statement in migration:
            connection.execute(statement)
    connection.execute("INSERT INTO store (name, value) VALUES ('key', ?)", (key,))
    connection.execute(f"PRAGMA application_id = {0x636D7064}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
    connection.close()
    database.chmod(0o600)


def test_migrate_says_what_it_does(site: Site) -> None:
    old(site, 1)
    status = run(site, "status", "--json").json
    assert (status["schema"], status["known"], status["pending"]) == (1, len(MIGRATIONS), len(MIGRATIONS) - 1)
    assert f"would bring schema 1 to {len(MIGRATIONS)}" in run(site, "migrate", "--dry-run").out
    assert run(site, "status", "--json").json["schema"] == 1
    assert run(site, "migrate", "--json").json["before"] == 1
    assert "nothing to do" in run(site, "migrate").out
    assert run(site, "status").status == 0
    (site.folder / "cmpd.db").unlink()
    assert "made a new store" in run(site, "migrate").out
    assert run(site, "status").status == 0


def test_two_may_migrate_at_the_same_time(site: Site) -> None:
    old(site, 1)
    both = [
        subprocess.Popen(command(site, "migrate", "--json"), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found = [json.loads(one.communicate(timeout=WAIT)[0]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert sorted(one["before"] for one in found) == [1, len(MIGRATIONS)]


def test_migrate_waits_for_who_writes(site: Site) -> None:
    """Longer than a daemon would."""
    old(site, 1)
    connection = sqlite3.connect(site.folder / "cmpd.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    waiting = subprocess.Popen(command(site, "migrate"), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(6)
    connection.execute("ROLLBACK")
    connection.close()
    assert "brought schema 1" in waiting.communicate(timeout=WAIT)[0]


# Copy


@pytest.fixture(scope="module")
def filled(made: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A store with rows in all tables, of which some are more than one stretch."""
    site = made.copy(tmp_path_factory.mktemp("filled") / "cmpd")
    site.code("many", uses=None)
    growth.fill(site.folder / "cmpd.db", 6000, datetime.now(UTC))
    return site


def rows_of(database: Path) -> dict[str, list[Any]]:
    connection = sqlite3.connect(database)
    try:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
            for name in names
            if not name.startswith("sqlite_")
        }
    finally:
        connection.close()


def test_a_copy_is_equal_and_serves(filled: Site, tmp_path: Path) -> None:
    site = filled.copy(tmp_path / "cmpd")
    target = tmp_path / "target.db"
    done = run(site, "copy", "--to", f"sqlite:///{target}", "--json")
    assert done.status == 0, done.err
    assert all(one["rows"] == one["written"] for one in done.json["tables"])
    assert rows_of(target) == rows_of(site.folder / "cmpd.db")
    again = run(site, "copy", "--to", f"sqlite:///{target}")
    assert (again.status, "is not overwritten" in again.err) == (1, True)
    site.config.write_text(site.config.read_text().replace("sqlite:///cmpd.db", f"sqlite:///{target}"))
    with site.serve() as daemon:
        enroll(daemon, EE.with_code("many", SECRET), "CN=after")
        daemon.stop()
    assert site.used("many") == 1


def killed_halfway(site: Site, target: Path) -> None:
    """Begin a copy, and kill -9 it when some of the certificates are there."""
    deadline = time.monotonic() + WAIT
    while True:
        process = subprocess.Popen(
            command(site, "copy", "--to", f"sqlite:///{target}"), cwd=ROOT, stdout=subprocess.DEVNULL
        )
        while process.poll() is None:
            if target.exists() and 0 < _certificates(target) < 6000:
                process.send_signal(signal.SIGKILL)
                process.wait(WAIT)
        if process.returncode == -signal.SIGKILL and _certificates(target) < 6000:
            return
        assert time.monotonic() < deadline, "it is faster than the test"
        target.unlink()


def test_a_copy_that_is_killed_goes_on(filled: Site, tmp_path: Path) -> None:
    """kill -9 in the middle; meanwhile nobody serves from the half of it."""
    site = filled.copy(tmp_path / "cmpd")
    target = tmp_path / "target.db"
    killed_halfway(site, target)
    half = Site(site.folder / "half.toml")
    half.config.write_text(site.config.read_text().replace("sqlite:///cmpd.db", f"sqlite:///{target}"))
    refused = subprocess.run(
        [sys.executable, "-m", "cmpd", "serve", "--config", str(half.config)], cwd=ROOT, capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "a copy into it has not been finished" in refused.stderr
    assert run(half, "status").status == 1
    assert run(half, "backup", tmp_path / "backup").status == 1
    done = run(site, "copy", "--to", f"sqlite:///{target}", "--json")
    assert done.status == 0, done.err
    (certificates,) = [one for one in done.json["tables"] if one["table"] == "certificate"]
    assert 0 < certificates["written"] < certificates["rows"] == 6000
    assert rows_of(target) == rows_of(site.folder / "cmpd.db")
    assert run(half, "status").status == 0


def _certificates(database: Path) -> int:
    try:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            return int(connection.execute("SELECT count(*) FROM certificate").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error:
        return 0


def test_a_first_copy_beside_a_daemon_is_finished_without_it(site: Site, tmp_path: Path) -> None:
    site.code("many", uses=None)
    target = tmp_path / "target.db"
    arguments = ("copy", "--to", f"sqlite:///{target}", "--json")
    with site.serve() as daemon:
        enroll(daemon, EE.with_code("many", SECRET), "CN=one")
        refused = run(site, *arguments)
        assert refused.status == 1
        assert "stop it first: what it issues after this would be lost" in refused.err
        assert run(site, *arguments, "--allow-running").status == 0
        enroll(daemon, EE.with_code("many", SECRET), "CN=two")
        daemon.stop()
    done = run(site, *arguments)
    assert done.status == 0, done.err
    written = {one["table"]: one["written"] for one in done.json["tables"]}
    assert (written["certificate"], written["enrollment_code"], written["device"]) == (2, 1, 0)
    assert rows_of(target) == rows_of(site.folder / "cmpd.db")


def test_a_copy_to_postgresql_that_is_killed_goes_on_and_serves(filled: Site, tmp_path: Path) -> None:
    """A client that enrolled on SQLite renews on PostgreSQL; what it asked there is answered as it was."""
    site = filled.copy(tmp_path / "cmpd")
    with site.serve() as daemon:
        request, reply, certificate, key = enroll(daemon, EE.with_code("many", SECRET), "CN=mover")
        daemon.stop()
    site.store(lambda store: store.import_devices("device", [Device("", "ä", NOW, "a\0b"), Device("", "Z", NOW)]))
    with postgres.empty() as url:
        arguments = ("copy", "--to", url, "--json")

        def certificates() -> int:
            try:
                return int(postgres.query(url, "SELECT count(*) FROM certificate")[0][0])
            except asyncpg.UndefinedTableError:
                return 0

        process = subprocess.Popen(command(site, *arguments), cwd=ROOT, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            if 0 < certificates() < 6000:
                process.send_signal(signal.SIGKILL)
                process.wait(WAIT)
        assert process.returncode == -signal.SIGKILL, "it was faster than the test"
        half = use(site.copy(tmp_path / "half"), url)
        refused = subprocess.run(
            [sys.executable, "-m", "cmpd", "serve", "--config", str(half.config)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert (refused.returncode, "is not all there" in refused.stderr) == (1, True)
        assert run(half, "status").status == 1
        assert run(half, "backup", tmp_path / "backup").status == 1
        other_key = site.copy(tmp_path / "other-key")
        done = run(site, *arguments)
        assert done.status == 0, done.err
        tables = {one["table"]: one for one in done.json["tables"]}
        assert 0 < tables["certificate"]["written"] < tables["certificate"]["rows"] == 6001

        # and back
        back = tmp_path / "back.db"
        assert run(half, "copy", "--to", f"sqlite:///{back}").status == 0
        ours, theirs = rows_of(site.folder / "cmpd.db"), rows_of(back)
        differing = set(ours["device"]) ^ set(theirs["device"])
        assert {(row[1], row[2]) for row in differing} == {("ä", "a\0b"), ("ä", "a\ufffdb")}
        del ours["device"], theirs["device"]
        assert ours == theirs

        with half.serve() as daemon:
            assert daemon.ask(request) == reply
            ee = EE.with_certificate(key, certificate.public_bytes(Encoding.DER))
            renewal = ee.kur(subject=certificate.subject.rfc4514_string())
            answer = ee.read(daemon.ask(ee.seal(renewal)), renewal)
            assert answer.type is BodyType.kup
            assert answer.fail_info is None, answer.text
            enroll(daemon, EE.with_code("many", SECRET), "CN=after")
            daemon.stop()
        assert half.used("many") == 2
        assert len(half.certificates(profile="device", status=CertificateStatus.valid)) > 1000
        assert run(half, "stats", "--json").json["tables"][0]["name"] == "certificate"
        (other_key.folder / "secrets" / "store.key").write_text("A" * 43 + "=")
        assert "is not the key" in run(other_key, "copy", "--to", f"sqlite:///{tmp_path}/none.db").err


def test_status_of_postgresql(site: Site, tmp_path: Path) -> None:
    with postgres.empty() as url:
        use(site, url)
        found = run(site, "status", "--json")
        assert found.status == 1
        assert "there is no store; `cmpd store migrate` makes a new one" in found.err
        assert "would make a new store" in run(site, "migrate", "--dry-run").out
        assert "made a new store" in run(site, "migrate").out
        assert "nothing to do" in run(site, "migrate").out
        with site.serve() as daemon:
            found = run(site, "status", "--json")
            assert found.status == 0, found.err
            assert found.json["holders"][0]["name"].startswith("cmpd at 127.0.0.1 as postgres")
            assert (found.json["kind"], found.json["pending"], found.json["role"]) == ("postgresql", 0, "postgres")
            assert found.json["size"] > 10_000
            daemon.stop()
        assert run(site, "status").out.startswith("store ")
        use(site, "postgresql://postgres@127.0.0.1:1/none")
        found = run(site, "status", "--json")
        assert found.status == 1
        assert "cannot be reached" in found.err


def test_what_cannot_be_copied(site: Site, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        done = run(site, "copy", *arguments)
        assert (done.status, done.out) == (1, "")
        return done.err

    assert "is the store that is copied" in refused("--to", "sqlite:///cmpd.db")
    assert "--to mysql://x: no such store" in refused("--to", "mysql://x")
    assert "no such file" in refused("--from", f"sqlite:///{tmp_path}/none.db", "--to", f"sqlite:///{tmp_path}/to.db")
    old(site, 1)
    assert "run `cmpd store migrate` first" in refused("--to", f"sqlite:///{tmp_path}/to.db")


# Stats


def test_stats_count(filled: Site) -> None:
    found = run(filled, "stats", "--json").json
    tables = {one["name"]: one for one in found["tables"]}
    assert tables["certificate"]["rows"] == 6000
    assert tables["certificate"]["size"] > 6000 * 500
    assert tables["certificate"]["rows_per_day"] > 0
    assert tables["certificate"]["oldest"] < tables["certificate"]["newest"]
    due = {one["name"]: one for one in found["retention"]}
    assert due["cmp_transaction"]["seconds"] == 7 * 86400
    assert "certificate" in run(filled, "stats").out
