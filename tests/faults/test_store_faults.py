"""The SQLite store when things go wrong, each fault caused for real: nothing acknowledged is lost, and it recovers."""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cmpd.exchange import TransactionState
from cmpd.ports import StoreUnavailable
from cmpd.store import StoreRefused
from cmpd.store.sqlite import SQLiteStore
from tests.contract.store import KEY, NOW, ROOT, issue, make_code, transaction


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cmpd.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = await SQLiteStore.open(path, KEY)
    yield store
    await store.close()


def sound(path: Path) -> bool:
    """Ask SQLite whether the file is in order."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


# kill -9


WRITER = """
import asyncio, os, sys
from pathlib import Path
from cmpd.exchange import TransactionState
from cmpd.store.sqlite import SQLiteStore
from tests.contract.store import KEY, issue

async def client(store):
    while True:
        new, one = await issue(store)
        os.write(1, b"issued %b %x\\n" % (new.transaction_id.hex().encode(), one.serial))
        await store.advance(new.transaction_id, seen=TransactionState.unconfirmed, state=TransactionState.confirmed,
                            nonce=b"n" * 16, request=b"q" * 32, reply=b"p" * 900, confirmed=[one.serial])
        os.write(1, b"confirmed %b %x\\n" % (new.transaction_id.hex().encode(), one.serial))

async def main():
    store = await SQLiteStore.open(Path(sys.argv[1]), KEY)
    await asyncio.gather(*(client(store) for _ in range(16)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 40, 1500])
async def test_what_was_acknowledged_survives_kill_9(path: Path, lines: int) -> None:
    """A process that writes without pause is killed after so many acknowledgements, in the midst of others."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    acknowledged = [await asyncio.to_thread(process.stdout.readline) for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    rest, _ = await asyncio.to_thread(process.communicate)
    assert process.returncode == -signal.SIGKILL
    acknowledged += rest.splitlines(keepends=True)
    store = await SQLiteStore.open(path, KEY)
    last: dict[str, tuple[str, int]] = {}
    for line in acknowledged:
        if line.endswith(b"\n"):
            word, hexadecimal, number = line.decode().split()
            last[hexadecimal] = word, int(number, 16)
    assert last
    for hexadecimal, (word, serial) in last.items():
        found = await store.transaction(bytes.fromhex(hexadecimal))
        assert found is not None
        if word == "confirmed":
            assert found.state is TransactionState.confirmed
        certificates = await store.certificates_of(found.transaction_id)
        assert [one.serial for one in certificates] == [serial]
        assert certificates[0].status.value == {"confirmed": "valid"}.get(found.state.value, "unconfirmed")
    await store.close()
    assert sound(path)


# No room


async def fill(store: SQLiteStore) -> tuple[list[bytes], StoreUnavailable]:
    """Write until the store cannot; return the transactions it has acknowledged, and its complaint."""
    kept: list[bytes] = []
    while True:
        results = await asyncio.gather(*(issue(store) for _ in range(8)), return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        kept += [result[0].transaction_id for result in results if not isinstance(result, BaseException)]
        if failed:
            assert len(failed) == 8, "one commit, one fate"
            assert isinstance(failed[0], StoreUnavailable)
            return kept, failed[0]


async def test_a_full_database(store: SQLiteStore, path: Path) -> None:
    """SQLITE_FULL in the statements of a group, by SQLite's own limit on the number of pages."""
    writer = store._connections._writer
    writer.execute("PRAGMA max_page_count = 60")
    kept, complaint = await fill(store)
    assert str(path) in str(complaint)
    assert "full" in str(complaint)
    for transaction_id in kept:
        assert await store.transaction(transaction_id) is not None
    more, _ = await fill(store)  # a smaller group may still fit in
    kept += more
    writer.execute("PRAGMA max_page_count = 100000")
    await store.ready()
    _, one = await issue(store)
    assert len(await store.certificates(10000)) == len(kept) + 1
    assert await store.certificate(one.serial) == one
    await store.close()
    assert sound(path)


FULL = """
import asyncio, json, resource, sys
from pathlib import Path
from cmpd.ports import StoreUnavailable
from cmpd.store.sqlite import SQLiteStore
from tests.contract.store import KEY, issue
from tests.faults.test_store_faults import fill

async def main():
    store = await SQLiteStore.open(Path(sys.argv[1]), KEY)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    kept, complaint = await fill(store)
    for _ in range(100):  # the last pages up to the limit are room enough for this small write
        try:
            await store.ready()
        except StoreUnavailable:
            break
    else:
        sys.exit("ready, although nothing can be written")
    read = [(await store.transaction(one)).transaction_id for one in kept]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await store.ready()
    after, _ = await issue(store)
    await store.close()
    print(json.dumps([str(complaint), *([one.hex() for one in some] for some in (kept, read, [after.transaction_id]))]))

asyncio.run(main())
"""


async def test_a_full_disk(path: Path) -> None:
    """The write of the commit itself fails: by the limit on the size of a file, in a process of its own."""
    output = await asyncio.to_thread(
        subprocess.check_output, [sys.executable, "-c", FULL, str(path)], cwd=ROOT, text=True
    )
    complaint, kept, read, (after,) = json.loads(output)
    assert str(path) in complaint
    assert len(kept) > 8
    assert read == kept
    store = await SQLiteStore.open(path, KEY)
    assert {one.transaction_id.hex() for one in await store.certificates(10000)} == {*kept, after}
    await store.close()
    assert sound(path)


# Locked by another


async def test_locked_for_too_long(store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the write lock: callers are told, the event loop runs on and reads are answered."""
    monkeypatch.setattr("cmpd.store.group_commit.LOCK_SECONDS", 0.3)
    known, _ = await issue(store)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    statements: list[str] = []
    store._connections._writer.set_trace_callback(statements.append)
    callers = [asyncio.create_task(issue(store)) for _ in range(100)]
    turns = 0
    while not all(caller.done() for caller in callers):
        assert await store.transaction(known.transaction_id) == known
        turns += 1
        await asyncio.sleep(0.001)
    assert turns > 30, "the loop stood still"
    for caller in callers:
        with pytest.raises(StoreUnavailable, match=r"cmpd\.db.*lock"):
            await caller
    assert statements.count("BEGIN IMMEDIATE") == 2, "all have waited together, once"
    with pytest.raises(StoreUnavailable):
        await store.ready()
    other.execute("ROLLBACK")
    other.close()
    await store.ready()
    await issue(store)
    assert len(await store.certificates(100)) == 2


async def test_locked_for_a_while(store: SQLiteStore, path: Path) -> None:
    """Who waits for the lock gets it, all in one commit; who is cancelled meanwhile is left out."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    before = store.commits
    callers = [asyncio.create_task(issue(store)) for _ in range(8)]
    given_up = asyncio.create_task(issue(store))
    while not store._connections._lent:
        await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.sleep(0)
    other.execute("COMMIT")
    await asyncio.gather(*callers)
    assert store.commits - before == 1
    assert len(await store.certificates(100)) == 8
    other.close()


async def test_all_who_wait_for_the_lock_are_cancelled(store: SQLiteStore, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    callers = [asyncio.create_task(issue(store)) for _ in range(3)]
    while not store._connections._lent:
        await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    other.execute("COMMIT")
    other.close()
    await store.ready()
    assert await store.certificates(100) == []


async def test_opening_a_locked_database(store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmpd.store.schema.LOCK_SECONDS", 0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match=r"cmpd\.db.*lock") as raised:
        await SQLiteStore.open(path, KEY)
    assert not isinstance(raised.value, StoreRefused)
    other.close()


# A connection that breaks


async def test_a_connection_that_is_gone_is_replaced(store: SQLiteStore) -> None:
    await issue(store)
    store._connections._writer.close()
    with pytest.raises(StoreUnavailable):
        await issue(store)
    await issue(store)
    assert len(await store.certificates(100)) == 2


async def test_a_transaction_that_was_left_open_is_rolled_back(store: SQLiteStore) -> None:
    """Whatever has gone wrong before: the failure of one group clears the way for the next."""
    store._connections._writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        await issue(store)
    await issue(store)
    assert len(await store.certificates(100)) == 1


async def test_the_commit_fails(store: SQLiteStore) -> None:
    """The commit of a group is refused by SQLite (a deferred constraint): each caller is told, nothing is kept."""
    writer = store._connections._writer
    writer.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    writer.execute("CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    group = [issue(store) for _ in range(3)]
    results = await asyncio.gather(
        *group,
        store._connections.write(lambda cursor: cursor.execute("INSERT INTO child VALUES (1)")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [StoreUnavailable] * 4
    assert await store.certificates(100) == []
    await issue(store)
    assert len(await store.certificates(100)) == 1


# The file is not what it was


async def test_a_file_that_was_removed_is_not_ready(store: SQLiteStore, path: Path) -> None:
    await store.ready()
    path.rename(path.with_name("elsewhere.db"))
    with pytest.raises(StoreUnavailable, match=r"cmpd\.db"):
        await store.ready()
    path.touch()
    with pytest.raises(StoreUnavailable, match="replaced"):
        await store.ready()


async def test_a_damaged_header_is_refused_by_name(store: SQLiteStore, path: Path) -> None:
    await issue(store)
    await store.close()
    with path.open("r+b") as file:
        file.seek(16)
        file.write(b"\xff" * 60)
    with pytest.raises(StoreRefused, match=r"cmpd\.db.*(damaged|another program)"):
        await SQLiteStore.open(path, KEY)


async def test_damage_found_on_the_way(store: SQLiteStore, path: Path) -> None:
    """Pages in the middle are overwritten: a clear word for each call that meets them, and no crash."""
    kept = [(await issue(store))[0].transaction_id for _ in range(60)]
    await store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))

    async def read() -> None:
        damaged = await SQLiteStore.open(path, KEY)
        try:
            for transaction_id in kept:
                await damaged.transaction(transaction_id)
        finally:
            await damaged.close()

    with pytest.raises(StoreUnavailable, match=r"cmpd\.db.*damaged"):
        await read()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; root cannot be kept from writing, so root becomes nobody for a moment."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


async def test_a_read_only_file_is_refused(open_folder: Path) -> None:
    path = open_folder / "cmpd.db"
    store = await SQLiteStore.open(path, KEY)
    await issue(store)
    await store.close()
    path.chmod(0o444)
    open_folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(StoreRefused, match=r"cmpd\.db.*must own the file"):
            await SQLiteStore.open(path, KEY)
        with pytest.raises(StoreRefused, match=r"new\.db.*(must exist|belong)"):
            await SQLiteStore.open(open_folder / "new.db", KEY)
    finally:
        if root:
            os.seteuid(0)
        open_folder.chmod(0o755)


# The loop and the thread


def store_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("cmpd store")]


async def test_closing_ends_the_thread(path: Path) -> None:
    before = set(store_threads())
    store = await SQLiteStore.open(path, KEY)
    (thread,) = set(store_threads()) - before
    await store.close()
    await asyncio.to_thread(thread.join)
    assert set(store_threads()) == before


def test_a_loop_that_ends_without_closing_the_store_does_not_hang(path: Path) -> None:
    """The process of a command that has died of something else must end."""
    script = (
        "import asyncio; from pathlib import Path; from cmpd.store.sqlite import SQLiteStore\n"
        "from tests.contract.store import KEY, issue\n"
        "async def main():\n"
        f"    store = await SQLiteStore.open(Path({str(path)!r}), KEY)\n"
        "    asyncio.ensure_future(issue(store))\n"
        "    while not store._connections._lent: await asyncio.sleep(0)\n"
        "asyncio.run(main())\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")


async def test_cancelled_while_its_commit_is_on_the_way(store: SQLiteStore) -> None:
    """Then it has been done all the same, like a reply that is lost: the retransmission finds it."""
    new = transaction()
    task = asyncio.create_task(store.issued(new, [], code=(await make_code(store)).id, now=NOW))
    while not store._connections._lent:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.ready()
    assert await store.transaction(new.transaction_id) == new
