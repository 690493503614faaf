"""The SQLite store: the contract, how commits are shared, and what becomes of the file."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from cmpd.exchange import EnrollmentCode, NewCode, TransactionState
from cmpd.ports import CodeUnusable, Conditions, TransactionExists, Unmet
from cmpd.store import AdminStore, StoreRefused, conditions, open_store, operators, rows, serving
from cmpd.store.schema import APPLICATION_ID, MIGRATIONS, open_database
from cmpd.store.sealing import Sealing
from cmpd.store.sqlite import SQLiteStore
from tests.contract.store import (
    KEY,
    NOW,
    ROOT,
    StoreContract,
    certificate,
    issue,
    make_code,
    seated,
    transaction,
)


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/cmpd.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cmpd.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = await SQLiteStore.open(path, KEY)
    yield store
    await store.close()


def query(path: Path, statement: str, *parameters: object) -> list[tuple[object, ...]]:
    """Ask the file from outside."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement, parameters).fetchall()
    finally:
        connection.commit()
        connection.close()


# Sharing commits


async def test_calls_that_come_together_share_one_commit(store: SQLiteStore) -> None:
    statements: list[str] = []
    store._connections._writer.set_trace_callback(statements.append)
    before = store.commits
    await asyncio.gather(*(issue(store) for _ in range(16)))
    assert store.commits - before == 1
    assert statements.count("COMMIT") == 1
    assert sum(statement.startswith("INSERT INTO certificate") for statement in statements) == 16


async def test_calls_that_come_one_after_another_without_a_pause_share_one_commit(store: SQLiteStore) -> None:
    """As long as every turn of the event loop brings somebody new, there is something better to do than to commit."""

    async def late(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await issue(store)

    before = store.commits
    await asyncio.gather(*(late(turns) for turns in range(8)))
    assert store.commits - before == 1


async def test_calls_that_come_during_a_commit_share_the_next(store: SQLiteStore) -> None:
    before = store.commits
    first = [asyncio.create_task(issue(store)) for _ in range(8)]
    while not store._connections._lent:
        await asyncio.sleep(0)
    second = [asyncio.create_task(issue(store)) for _ in range(8)]
    await asyncio.gather(*first, *second)
    assert store.commits - before == 2


async def test_a_group_is_of_bounded_size(store: SQLiteStore) -> None:
    before = store.commits
    await asyncio.gather(*(issue(store) for _ in range(200)))
    assert store.commits - before == 4


async def test_a_lone_call_does_not_wait_for_company(store: SQLiteStore) -> None:
    for number in range(1, 4):
        before = store.commits
        await issue(store)
        assert store.commits - before == 1, number


async def test_the_refused_of_a_group_leave_nothing_and_the_others_do_not_notice(store: SQLiteStore) -> None:
    taken, _ = await issue(store)
    code = await make_code(store, uses=2)
    before = store.commits
    good = [issue(store) for _ in range(3)]
    exists = [store.refused(transaction(taken.transaction_id)) for _ in range(2)]
    contested = [issue(store, code.id) for _ in range(4)]
    results = await asyncio.gather(*good, *exists, *contested, return_exceptions=True)
    assert store.commits - before == 1
    assert [type(result) for result in results[3:5]] == [TransactionExists] * 2
    assert [type(result) for result in results[5:]].count(CodeUnusable) == 2
    assert len(await store.certificates(100)) == 1 + 3 + 2
    assert query(store._path, "SELECT count(*) FROM cmp_transaction") == [(6,)]


async def test_a_caller_whose_values_cannot_be_kept_fails_alone(store: SQLiteStore) -> None:
    """An error nobody foresaw: all the others of its group are kept all the same, once each."""
    _, one = await issue(store)
    code = await make_code(store, uses=None)
    impossible = transaction(subject := b"i" * 16)
    before = store.commits
    results = await asyncio.gather(
        *(issue(store, code.id) for _ in range(3)),
        store.issued(impossible, [certificate(impossible, der=object())], code=code.id, now=NOW),
        store.issued(other := transaction(), [certificate(other, serial=one.serial)], code=code.id, now=NOW),
        *(issue(store, code.id) for _ in range(3)),
        return_exceptions=True,
    )
    assert [isinstance(result, BaseException) for result in results] == [False] * 3 + [True] * 2 + [False] * 3
    assert store.commits - before == 1
    assert await store.transaction(subject) is None
    assert len(await store.certificates(100)) == 7
    assert (await store.codes())[0].used == 6


async def test_reads_do_not_wait_for_a_commit(store: SQLiteStore) -> None:
    """While the disk is busy, a read answers at once with what has been committed before."""
    known, _ = await issue(store)
    task = asyncio.create_task(issue(store))
    while not store._connections._lent:
        await asyncio.sleep(0)
    found = store.transaction(known.transaction_id)
    with pytest.raises(StopIteration) as answered:  # no await in between: the coroutine runs through
        found.send(None)
    assert answered.value.value == known
    await task


# The file


async def test_the_file_is_for_its_owner_only(store: SQLiteStore, path: Path) -> None:
    await issue(store)
    for name in (path, path.with_name("cmpd.db-wal"), path.with_name("cmpd.db-shm")):
        assert stat.S_IMODE(name.stat().st_mode) == 0o600


async def test_what_the_connections_are_set_to(store: SQLiteStore) -> None:
    for connection in (store._connections._writer, store._connections._reader):
        pragmas = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "application_id", "user_version")
        }
        assert pragmas == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "application_id": APPLICATION_ID,
            "user_version": len(MIGRATIONS),
        }


async def test_nothing_secret_is_in_the_file(store: SQLiteStore, path: Path) -> None:
    await make_code(store, secret=b"correct horse battery staple")
    await store.close()
    assert b"correct horse" not in path.read_bytes()
    assert KEY not in path.read_bytes()


async def test_listing_codes_does_not_decrypt(store: SQLiteStore, path: Path) -> None:
    made = await make_code(store)
    query(path, "UPDATE enrollment_code SET sealed = x'00'")
    assert [code.id for code in await store.codes()] == [made.id]


async def test_the_hash_of_the_public_key_is_kept(store: SQLiteStore, path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    real = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, NOW, NOW + timedelta(days=1)).sign(key, SHA256())
    ).public_bytes(Encoding.DER)
    new = transaction()
    await store.issued(
        new, [certificate(new, serial=7, der=real), certificate(new, serial=8, der=b"")], code=None, now=NOW
    )
    digest = Hash(SHA256())
    digest.update(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert query(path, "SELECT spki_sha256 FROM certificate ORDER BY serial") == [(digest.finalize(),), (None,)]


async def test_ready_grows_nothing(store: SQLiteStore, path: Path) -> None:
    await store.ready()
    rows = query(path, "SELECT name, typeof(value) FROM store")
    pages = query(path, "PRAGMA page_count")
    for _ in range(50):
        await store.ready()
    assert query(path, "SELECT name, typeof(value) FROM store") == rows
    assert query(path, "PRAGMA page_count") == pages


@pytest.mark.parametrize(
    "statement",
    [
        conditions.TRANSACTION,
        serving._CERTIFICATE,
        serving._FIRST_CERTIFICATE,
        rows.CODE,
        conditions._CONSUME_CODE,
        serving._GLOBAL_CODE,
        serving._GIVE_BACK,
        serving._LOCK_CODE,
        serving._IS_SERVICE_USER,
        serving._DEVICE,
        conditions._SAME_KEY,
        conditions._SAME_KEY_OR_ORDER,
        conditions.SAME_SEAT,
        conditions._SPENT,
        serving._ADVANCE,
        rows._CONFIRM,
        rows._REVOKE,
        rows.COUNT_REVOCATION,
        serving._DUE,
        serving._REVOKED,
    ],
)
async def test_what_a_request_asks_never_reads_a_whole_table(store: SQLiteStore, statement: str) -> None:
    plan = store._connections._reader.execute(f"EXPLAIN QUERY PLAN {statement}", (None,) * statement.count("?"))
    steps = [step for *_, step in plan.fetchall()]
    assert steps
    assert not [step for step in steps if step.startswith("SCAN")], steps


async def test_the_newest_global_code_is_the_end_of_an_index(store: SQLiteStore) -> None:
    plan = store._connections._reader.execute(f"EXPLAIN QUERY PLAN {serving._GLOBAL_CODE}", ("device",)).fetchall()
    assert [step for *_, step in plan] == ["SEARCH enrollment_code USING INDEX global_code (profile=?)"]


async def test_many_processes_make_one_database_at_the_same_moment(path: Path) -> None:
    """Of all that open a file that is not there yet, each gets the same store."""
    script = (
        "import asyncio, sys; from pathlib import Path; from cmpd.store.sqlite import SQLiteStore\n"
        "async def main():\n"
        "    sys.stdin.readline()\n"
        f"    store = await SQLiteStore.open(Path({str(path)!r}), {KEY!r})\n"
        "    print(await store.next_crl_number('local'))\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    numbers = []
    for process in processes:
        output, _ = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
        numbers.append(int(output))
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]


# What is refused at opening


async def refusal(path: Path, key: bytes = KEY) -> str:
    with pytest.raises(StoreRefused) as refused:
        await SQLiteStore.open(path, key)
    return str(refused.value)


async def test_another_key_is_refused(store: SQLiteStore, path: Path) -> None:
    await make_code(store)
    message = await refusal(path, bytes(32))
    assert str(path) in message
    assert "key_file" in message


@pytest.mark.parametrize("size", [0, 16, 31, 33])
async def test_a_key_of_another_size_is_refused(path: Path, size: int) -> None:
    assert "key_file" in await refusal(path, b"\x5a" * size)
    assert "ZZ" not in await refusal(path, b"\x5a" * size)
    assert not path.exists()


async def test_a_code_that_was_moved_to_another_reference_does_not_open(store: SQLiteStore, path: Path) -> None:
    """Whoever can write to the database cannot make a known secret good for another reference."""
    await make_code(store, "mine", secret=b"known to me")
    await make_code(store, "theirs", secret=b"not known to me")
    query(path, "UPDATE enrollment_code SET sealed = (SELECT sealed FROM enrollment_code WHERE reference = 'mine')")
    assert (await store.code("device", b"mine")).secret == b"known to me"  # type: ignore[union-attr]
    for call in (store.code("device", b"theirs"), store.codes_with_secrets()):
        with pytest.raises(Exception, match="key_file") as raised:
            await call
        assert "known" not in str(raised.value)
    (mine,) = await store.codes_with_secrets(wanted=lambda code: code.reference == "mine")
    assert mine.secret == b"known to me"


async def test_a_code_that_was_moved_is_no_global_code(store: SQLiteStore, path: Path) -> None:
    await make_code(store, "mine", secret=b"known to me")
    await make_code(store, "everybody's", is_global=True)
    query(
        path,
        "UPDATE enrollment_code SET sealed = (SELECT sealed FROM enrollment_code WHERE reference = 'mine')"
        " WHERE is_global = 1",
    )
    with pytest.raises(Exception, match="key_file"):
        await store.global_code("device")


async def test_many_codes_are_one_commit(store: SQLiteStore) -> None:
    before = store.commits
    await store.create_codes([NewCode("device", str(number), b"secret") for number in range(1500)], NOW)
    assert store.commits - before == 1


async def test_a_failure_amid_many_codes_keeps_none(store: SQLiteStore) -> None:
    """An error nobody foresaw, after the first have been written."""
    new = [NewCode("device", str(number), b"secret") for number in range(1200)]
    impossible = NewCode("device", "x", b"secret", uses=object())  # type: ignore[arg-type]
    others = asyncio.gather(*(make_code(store, f"other {number}") for number in range(3)))
    with pytest.raises(Exception, match=r"cmpd\.db"):
        await store.create_codes([*new, impossible], NOW)
    await others
    assert {code.reference for code in await store.codes()} == {f"other {number}" for number in range(3)}


async def test_the_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    query(path, "CREATE TABLE notes (text)")
    before = path.read_bytes()
    message = await refusal(path)
    assert str(path) in message
    assert "another program" in message
    assert path.read_bytes() == before


async def test_a_file_with_another_application_id_is_refused(path: Path) -> None:
    query(path, "PRAGMA application_id = 252006675")
    assert "another program" in await refusal(path)


async def test_a_newer_schema_is_refused_and_left_alone(store: SQLiteStore, path: Path) -> None:
    await store.close()
    query(path, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    message = await refusal(path)
    assert "newer cmpd" in message
    assert str(path) in message
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"#!/bin/sh\necho not a database\n" * 500)
    message = await refusal(path)
    assert str(path) in message
    assert "not an SQLite database" in message
    assert path.read_bytes().startswith(b"#!/bin/sh")


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = await refusal(tmp_path / "nowhere" / "cmpd.db")
    assert str(tmp_path / "nowhere") in message


async def test_a_folder_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    assert str(path) in await refusal(path)


async def test_an_empty_file_becomes_a_database(path: Path) -> None:
    path.touch()
    store = await SQLiteStore.open(path, KEY)
    await issue(store)
    await store.close()


async def test_a_failed_migration_leaves_the_database_as_it_was(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _ = await issue(store)
    await store.close()
    broken = (*MIGRATIONS, ("CREATE TABLE later (x)", "CREATE TABLE certificate (x)"))
    monkeypatch.setattr("cmpd.store.schema.MIGRATIONS", broken)
    with pytest.raises(Exception, match=r"cmpd\.db"):
        await SQLiteStore.open(path, KEY)
    assert query(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert query(path, "SELECT count(*) FROM sqlite_master WHERE name = 'later'") == [(0,)]
    monkeypatch.setattr("cmpd.store.schema.MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE later (x)",)))
    migrated = await SQLiteStore.open(path, KEY)
    assert await migrated.transaction(kept.transaction_id) == kept
    await migrated.close()
    assert query(path, "PRAGMA user_version") == [(len(MIGRATIONS) + 1,)]


BACK_TO_SCHEMA_6 = (
    "DROP TABLE crl",
    "DROP INDEX held_revocation",
    "ALTER TABLE enrollment_code DROP COLUMN wrong_macs",
    "DROP TABLE lease",
    "DROP TABLE node",
    "PRAGMA user_version = 6",
)
BACK_TO_SCHEMA_5 = (
    *BACK_TO_SCHEMA_6,
    "DROP INDEX profile_of_certificate",
    "DROP INDEX unsettled_certificate",
    "DROP INDEX end_of_certificate",
    "DROP INDEX revoked_certificate",
    "CREATE INDEX revoked_certificate ON certificate (issuer, not_after) WHERE status = 'revoked'",
    "DROP INDEX seat_of_certificate",
    "CREATE INDEX seat_of_certificate ON certificate (profile, seat) WHERE seat IS NOT NULL",
    "PRAGMA user_version = 5",
)
BACK_TO_SCHEMA_4 = (
    *BACK_TO_SCHEMA_5,
    "DROP INDEX certificate_of_ticket",
    "DROP INDEX outside_revocation",
    *(
        f"ALTER TABLE certificate DROP COLUMN {name}"
        for name in (
            "ticket",
            "outside_state",
            "outside_due",
            "outside_attempts",
            "outside_ticket",
            "outside_private",
        )
    ),
    "ALTER TABLE issuer DROP COLUMN looked",
    "DROP INDEX uncollected_order",
    "ALTER TABLE cert_order DROP COLUMN note",
    "ALTER TABLE cert_order DROP COLUMN step",
    "PRAGMA user_version = 4",
)
BACK_TO_SCHEMA_2 = (
    *BACK_TO_SCHEMA_4,
    "DROP TABLE cert_order",
    "DROP TABLE ca_certificate",
    "DROP INDEX global_code",
    *(
        f"ALTER TABLE enrollment_code DROP COLUMN {name}"
        for name in ("valid_from", "seat", "subject", "san", "spki_sha256", "is_global", "locked_until", "locks")
    ),
    "DROP TABLE service_user",
    "DROP TABLE device",
    "PRAGMA user_version = 2",
)


async def test_the_codes_of_a_database_of_schema_2_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their secrets; they are bound to nothing, and can be used."""
    with monkeypatch.context() as older:
        older.setattr("cmpd.store.schema.MIGRATIONS", MIGRATIONS[:2])
        for connection in open_database(path, Sealing(KEY)):
            connection.close()
    columns = "(profile, reference, sealed, uses, used, created, expires, revoked_at)"
    at = int(NOW.timestamp())
    for reference, uses, used, ends, revoked_at in (("a", 3, 1, at + 60, None), ("b", None, 0, None, at)):
        sealed = Sealing(KEY).seal(reference.encode() * 9, "device", reference)
        row = ("device", reference, sealed, uses, used, at, ends, revoked_at)
        query(path, f"INSERT INTO enrollment_code {columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *row)
    store = await SQLiteStore.open(path, KEY)
    expires = NOW + timedelta(seconds=60)
    first = EnrollmentCode(1, "device", "a", b"a" * 9, 3, 1, NOW, expires, revoked=False)
    second = EnrollmentCode(2, "device", "b", b"b" * 9, None, 0, NOW, None, revoked=True)
    assert await store.codes_with_secrets() == [first, second]
    assert await store.global_code("device") is None
    await issue(store, first.id)
    assert await store.code("device", b"a") == replace(first, used=2)
    assert (await make_code(store, "c")).id == 3
    await store.close()
    assert query(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]


async def test_a_migrated_database_is_like_a_new_one(path: Path, tmp_path: Path) -> None:
    """What is undone here and done again is the same schema."""
    schema = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    await (await SQLiteStore.open(path, KEY)).close()
    new = query(path, schema)
    for change in BACK_TO_SCHEMA_2:
        query(path, change)
    assert query(path, schema) != new
    await (await SQLiteStore.open(path, KEY)).close()
    assert query(path, schema) == new


async def test_what_an_older_cmpd_has_issued_counts(path: Path) -> None:
    """For its keys and for the budget of the day; it had no seats."""
    store = await SQLiteStore.open(path, KEY)
    one = await seated(store, None, key="k")
    await store.close()
    for change in (
        *BACK_TO_SCHEMA_2,
        "DROP INDEX key_of_certificate",
        "DROP INDEX seat_of_certificate",
        "ALTER TABLE certificate DROP COLUMN seat",
        "DROP TABLE issued_per_day",
        "DROP TABLE refusal",
        "PRAGMA user_version = 1",
    ):
        query(path, change)
    migrated = await SQLiteStore.open(path, KEY)
    assert await migrated.certificate(one.serial) == one
    assert await migrated.seats(10) == []
    for subject_to in (Conditions(new_key=True), Conditions(per_day=1)):
        with pytest.raises(Unmet):
            await seated(migrated, None, key="k", conditions=subject_to)
    await migrated.close()


async def test_the_seats_are_listed_from_their_index(store: SQLiteStore) -> None:
    plan = store._connections._reader.execute(f"EXPLAIN QUERY PLAN {operators._ALL_SEATS}", (10,)).fetchall()
    assert any("USING COVERING INDEX seat_of_certificate" in step for *_, step in plan), plan


async def test_a_certificate_without_a_seat_is_in_no_index_of_seats(store: SQLiteStore, path: Path) -> None:
    for _ in range(5):
        await seated(store, None)
    assert query(path, "SELECT count(*) FROM certificate INDEXED BY seat_of_certificate WHERE seat IS NOT NULL") == [
        (0,)
    ]


# open_store


async def test_a_relative_url_is_counted_from_the_base(tmp_path: Path) -> None:
    store = await open_store("sqlite:///sub.db", base=tmp_path, key=KEY)
    assert isinstance(store, AdminStore)
    await store.close()
    assert (tmp_path / "sub.db").exists()


@pytest.mark.parametrize(
    "url", ["", "cmpd.db", "sqlite", "sqlite:", "sqlite:cmpd.db", "sqlite://host/x.db", "sqlite:///"]
)
async def test_a_url_that_names_no_file_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match=r"\[store\] url"):
        await open_store(url, base=tmp_path, key=KEY)


@pytest.mark.parametrize("url", ["postgresql:u:hunter2@db/cmpd", "mysql://u:hunter2@x", "file:///x.db"])
async def test_another_scheme_is_refused_and_no_password_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match=r"\[store\] url") as refused:
        await open_store(url, base=tmp_path, key=KEY)
    assert "hunter2" not in str(refused.value)


async def test_the_state_of_a_transaction_is_in_words(store: SQLiteStore, path: Path) -> None:
    """An operator reads the file with the sqlite3 shell."""
    await issue(store)
    assert query(path, "SELECT state FROM cmp_transaction") == [(TransactionState.unconfirmed.value,)]
