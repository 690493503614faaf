"""PostgreSQL fails: connections and servers are lost, stopped, full or read only; each is caused, not pretended."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from cmpd.exchange import CertificateStatus, Device, RevocationReason, TransactionState
from cmpd.ports import Revocation, StoreUnavailable, TransactionExists, TransactionMoved
from cmpd.store import Database, StoreRefused
from cmpd.store.postgres import PostgresStore
from tests.contract.store import CA, KEY, NOW, certificate, issue, make_code, refusal, transaction
from tests.postgres import Server

SHORT = Database(statement_timeout=1.0)
"""For tests in which the server does not come back."""
LONG = Database(statement_timeout=20.0)
"""For tests in which it does, on a machine that is busy."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


Open = Callable[..., Awaitable[PostgresStore]]


@pytest.fixture
async def connect(server: Server) -> AsyncIterator[Open]:
    """Opens a store, in the one schema of this test."""
    server.query("CREATE SCHEMA fault")
    opened: list[PostgresStore] = []

    async def connect(database: Database = LONG, url: str | None = None) -> PostgresStore:
        url = url or server.url(search_path="fault")
        opened.append(await PostgresStore.open(url, KEY, database=database))
        return opened[-1]

    yield connect
    for store in opened:
        await store.close()
    server.query("DROP SCHEMA fault CASCADE")


def ask(server: Server, statement: str) -> list[tuple[Any, ...]]:
    return server.query(statement, url=server.url(search_path="fault"))


def terminate(server: Server) -> int:
    """End every backend of the store; how many there were."""
    return len(server.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cmpd'"))


async def confirm(store: PostgresStore, transaction_id: bytes, serial: int, **changes: Any) -> None:
    fields: dict[str, Any] = {
        "seen": TransactionState.unconfirmed,
        "state": TransactionState.confirmed,
        "nonce": b"n" * 16,
        "request": b"q" * 32,
        "reply": b"p" * 300,
        "confirmed": [serial],
    }
    await store.advance(transaction_id, **(fields | changes))


# Connections are lost


async def test_backends_that_are_terminated_are_replaced(server: Server, connect: Open) -> None:
    store = await connect()
    for _ in range(3):
        new, one = await issue(store)
        assert terminate(server)
        assert await store.transaction(new.transaction_id) == new
        assert terminate(server)
        await confirm(store, new.transaction_id, one.serial)
        assert terminate(server)
        assert await store.next_crl_number("local")


async def test_what_waits_when_its_backend_is_terminated_is_done_by_another(server: Server, connect: Open) -> None:
    """It waits for a lock that another program holds on the tables."""
    store = await connect()
    await issue(store)
    other = await connect()
    async with other._connections.pool.acquire() as holder, holder.transaction():
        await holder.execute("SET application_name = 'another'")
        await holder.execute("LOCK TABLE cmp_transaction IN ACCESS EXCLUSIVE MODE")
        waiting = [asyncio.create_task(issue(store)) for _ in range(3)]
        number = asyncio.create_task(store.refused(transaction()))
        while len(blocked := ask(server, "SELECT pid FROM pg_locks WHERE NOT granted")) < 2:
            await asyncio.sleep(0.05)
        for (pid,) in blocked:
            server.query(f"SELECT pg_terminate_backend({pid})")
    await asyncio.gather(*waiting, number)
    assert len(await store.certificates(10)) == 4


class Proxy:
    """TCP between store and server; told to, it drops the connection instead of the answer to a commit."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._writers: set[asyncio.StreamWriter] = set()
        self._swallow: bytes | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.swallowed = 0

    def swallow(self, words: bytes) -> None:
        """The next time that the client sends something with these words in it, the answer is lost."""
        self._swallow = words

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", self._server.port)
        self._writers |= {writer, back}
        lose = asyncio.Event()
        await asyncio.gather(self._forth(reader, back, lose), self._back(there, writer, lose), return_exceptions=True)
        writer.close()
        back.close()

    async def _forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lose: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if self._swallow is not None and self._swallow in data:
                self._swallow = None
                lose.set()
            writer.write(data)
        writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lose: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if lose.is_set():
                # the server has answered: so it has been done
                self.swallowed += 1
                break
            writer.write(data)
        writer.close()


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(server) as proxy:
        yield proxy


async def through(proxy: Proxy, connect: Open) -> PostgresStore:
    # without prepared statements every statement is sent in words, and the proxy sees which it is
    database = replace(LONG, statement_cache=False)
    return await connect(database, f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?search_path=fault")


async def test_a_commit_whose_answer_is_lost_was_made_once(proxy: Proxy, connect: Open) -> None:
    store = await through(proxy, connect)
    code = await make_code(store, uses=2)
    new = transaction()
    one = certificate(new)
    proxy.swallow(b"UPDATE store")
    await store.ready()
    assert proxy.swallowed == 1
    proxy.swallow(new.first_reply[:40])
    await store.issued(new, [one], code=code.id, now=NOW)
    assert proxy.swallowed == 2
    assert await store.certificates_of(new.transaction_id) == (one,)
    assert [kept.used for kept in await store.codes()] == [1]
    with pytest.raises(TransactionExists):
        await store.issued(new, [one], code=code.id, now=NOW)
    proxy.swallow(b"Q" * 200)
    await confirm(store, new.transaction_id, one.serial, reply=b"Q" * 200)
    assert proxy.swallowed == 3
    assert await store.certificates_of(new.transaction_id) == (replace(one, status=CertificateStatus.valid),)
    with pytest.raises(TransactionMoved):
        await confirm(store, new.transaction_id, one.serial, reply=b"Q" * 200)
    refused = transaction(state=TransactionState.refused, confirm_by=None)
    proxy.swallow(refused.first_reply[:40])
    await store.refused(refused, refusal())
    assert proxy.swallowed == 4
    assert len(await store.refusals(9)) == 1


async def test_a_transaction_of_several_statements_whose_commit_is_not_answered(proxy: Proxy, connect: Open) -> None:
    """The server says what has become of it, by its number."""
    store = await through(proxy, connect)
    assert await store.next_crl_number("local") == 1
    proxy.swallow(b"COMMIT;")
    assert await store.next_crl_number("local") == 2
    assert proxy.swallowed == 1
    assert await store.next_crl_number("local") == 3
    proxy.swallow(b"BEGIN")
    assert await store.next_crl_number("local") == 4
    assert proxy.swallowed == 2


# The server is lost


async def test_a_server_that_is_killed_and_started_again(
    server: Server, connect: Open, caplog: pytest.LogCaptureFixture
) -> None:
    store = await connect()
    kept = [await issue(store) for _ in range(3)]
    server.kill()
    waiting = [asyncio.create_task(issue(store)) for _ in range(5)]
    reading = asyncio.create_task(store.transaction(kept[0][0].transaction_id))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(server.start)
    for new, one in [*kept, *await asyncio.gather(*waiting)]:
        assert await store.transaction(new.transaction_id) == new
        assert await store.certificates_of(new.transaction_id) == (one,)
    assert await reading == kept[0][0]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("cmpd.store")]
    assert said[0].startswith(f"the database is being looked for: postgresql://127.0.0.1:{server.port}/postgres: ")
    assert said[-1] == f"the database is there again: postgresql://127.0.0.1:{server.port}/postgres"


async def test_many_rows_may_take_longer_than_a_statement(server: Server, connect: Open) -> None:
    """Each statement has its time, not all of them together."""
    store = await connect(SHORT)
    ask(
        server,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.008);"
        " RETURN NEW; END $$",
    )
    ask(server, "CREATE TRIGGER slow_device BEFORE INSERT ON device FOR EACH ROW EXECUTE FUNCTION slow()")
    await store.import_devices("fleet", [Device("fleet", str(number), NOW) for number in range(400)])
    assert len(await store.devices("fleet", 1000)) == 400


async def test_a_server_that_does_not_come_back_is_named(server: Server, connect: Open) -> None:
    store = await connect(SHORT)
    new, one = await issue(store)
    server.kill()
    try:
        asked: list[Awaitable[Any]] = [
            store.ready(),
            store.transaction(new.transaction_id),
            issue(store),
            confirm(store, new.transaction_id, one.serial),
            store.next_crl_number("local"),
            store.codes(),
        ]
        results = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await connect(SHORT)
    finally:
        await asyncio.to_thread(server.start)
    for result in results:
        assert isinstance(result, StoreUnavailable)
        assert f"postgresql://127.0.0.1:{server.port}/postgres: cannot be reached" in str(result)
    await store.ready()
    assert await store.transaction(new.transaction_id) == new


async def test_a_server_that_answers_nothing_is_not_waited_for(server: Server, connect: Open) -> None:
    """SIGSTOP: connections stay open, and nothing comes."""
    store = await connect(SHORT)
    new, one = await issue(store)
    server.pause()
    try:
        async with asyncio.timeout(30):
            results = await asyncio.gather(
                store.ready(), store.transaction(new.transaction_id), issue(store), return_exceptions=True
            )
    finally:
        server.resume()
    assert [type(result) for result in results] == [StoreUnavailable] * 3
    await store.ready()
    await confirm(store, new.transaction_id, one.serial)
    assert len(await store.certificates(9)) in {1, 2}  # the one that was cut short may have been kept


async def test_the_next_of_several_hosts_is_taken(server: Server, connect: Open) -> None:
    hosts = f"127.0.0.1:1,127.0.0.1:{server.port}"
    url = f"postgresql://postgres@{hosts}/postgres?search_path=fault&target_session_attrs=read-write"
    store = await connect(url=url)
    new, _ = await issue(store)
    assert await store.transaction(new.transaction_id) == new


# The server cannot


async def test_a_statement_that_takes_too_long_is_given_up_and_has_done_nothing(server: Server, connect: Open) -> None:
    store = await connect(SHORT)
    holder = await connect()
    async with holder._connections.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE certificate IN ACCESS EXCLUSIVE MODE")
        new = transaction()
        with pytest.raises(StoreUnavailable, match="statement_timeout"):
            await store.issued(new, [certificate(new)], code=None, now=NOW)
    assert await store.transaction(new.transaction_id) is None
    await issue(store)


async def test_a_server_that_only_reads_is_not_ready(server: Server, connect: Open) -> None:
    store = await connect(SHORT)
    new, one = await issue(store)
    server.query("ALTER DATABASE postgres SET default_transaction_read_only = on")
    terminate(server)
    try:
        for call in (store.ready(), issue(store), store.next_crl_number("local")):
            with pytest.raises(StoreUnavailable, match="is read only"):
                await call
        assert await store.certificate(one.serial) == one
    finally:
        server.query("ALTER DATABASE postgres RESET ALL", url=server.url(default_transaction_read_only="off"))
    await store.ready()
    await confirm(store, new.transaction_id, one.serial)


async def test_a_full_disk_is_said(server: Server, connect: Open) -> None:
    """The server's own error, raised where a certificate would be written."""
    store = await connect(SHORT)
    ask(
        server,
        "CREATE FUNCTION full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$",
    )
    ask(server, "CREATE TRIGGER full_disk BEFORE INSERT ON certificate EXECUTE FUNCTION full()")
    new = transaction()
    with pytest.raises(StoreUnavailable, match="disk is full"):
        await store.issued(new, [certificate(new)], code=None, now=NOW)
    ask(server, "DROP TRIGGER full_disk ON certificate")
    assert await store.transaction(new.transaction_id) is None
    await issue(store)


async def test_one_caller_whose_values_cannot_be_kept_fails_alone(connect: Open) -> None:
    store = await connect()
    _, one = await issue(store)
    code = await make_code(store, uses=None)
    impossible = transaction(b"i" * 16)
    other = transaction()
    results = await asyncio.gather(
        *(issue(store, code.id) for _ in range(3)),
        store.issued(impossible, [certificate(impossible, der=object())], code=code.id, now=NOW),
        store.issued(other, [certificate(other, serial=one.serial)], code=code.id, now=NOW),
        *(issue(store, code.id) for _ in range(3)),
        return_exceptions=True,
    )
    assert [isinstance(result, BaseException) for result in results] == [False] * 3 + [True] * 2 + [False] * 3
    assert len(await store.certificates(100)) == 7
    assert (await store.codes())[0].used == 6


async def test_conflicts_of_two_nodes_are_tried_again(connect: Open) -> None:
    """Transactions of several statements are serializable; of two in each other's way one is done after the other."""
    one, other = await connect(), await connect()
    lists = [
        [Device("fleet", str(number), NOW, f"{node}-{turn}") for number in range(20)]
        for turn in range(4)
        for node in "ab"
    ]
    done = await asyncio.gather(
        *((one, other)[number % 2].import_devices("fleet", devices) for number, devices in enumerate(lists))
    )
    assert sum(added for added, _ in done) == 20
    assert sum(changed for _, changed in done) == 20 * 7
    assert len(await one.devices("fleet", 100)) == 20


async def test_locks_that_many_nodes_take_at_once_make_no_deadlock(server: Server, connect: Open) -> None:
    """Groups of several nodes consume the same few codes, in every order."""
    stores = [await connect() for _ in range(3)]
    codes = [await make_code(stores[0], f"ref-{number}", uses=None) for number in range(6)]
    before = ask(server, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    await asyncio.gather(
        *(
            issue(store, codes[(number * step) % 6].id)
            for number in range(60)
            for store, step in zip(stores, (1, 5, 7), strict=True)
        )
    )
    assert sum(code.used for code in await stores[0].codes()) == 180
    assert ask(server, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == before


async def test_a_sweep_and_a_certconf_do_not_both_win(connect: Open) -> None:
    one, other = await connect(), await connect()
    pairs = [await issue(one) for _ in range(10)]
    results = await asyncio.gather(
        *(confirm(one, new.transaction_id, made.serial) for new, made in pairs),
        other.expire(NOW.replace(year=2030)),
        return_exceptions=True,
    )
    expired = results[-1]
    assert isinstance(expired, tuple)
    ended = {each.transaction_id for each in expired}
    for (new, made), result in zip(pairs, results, strict=False):
        kept = await one.certificate(made.serial)
        assert kept is not None
        if new.transaction_id in ended:
            assert isinstance(result, TransactionMoved)
            assert (kept.status, kept.reason) == (CertificateStatus.revoked, RevocationReason.unspecified)
        else:
            assert result is None
            assert kept.status is CertificateStatus.valid


async def test_revoked_on_two_nodes_at_once_counts_once(connect: Open) -> None:
    one, other = await connect(), await connect()
    _, made = await issue(one)
    revocation = Revocation(made.serial, RevocationReason.superseded, NOW)
    assert sorted(await asyncio.gather(one.revoke(revocation), other.revoke(revocation))) == [False, True]
    assert (await one.crl_state("local", CA)).revocations == 1


# Secrets


async def test_a_password_is_in_no_error_and_no_log(
    server: Server, connect: Open, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"postgresql://postgres:hunter2@127.0.0.1:{server.port}/none-such?search_path=fault"
    with pytest.raises(StoreRefused, match="no such database") as refused:
        await connect(url=url)
    assert "hunter2" not in str(refused.value)
    store = await connect(url=url.replace("none-such", "postgres"))
    await issue(store)
    with contextlib.suppress(StoreUnavailable):
        await connect(SHORT, url.replace(f":{server.port}", ":1"))
    assert "hunter2" not in repr(store) + caplog.text
