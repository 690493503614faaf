"""The PostgreSQL store: the contracts, and what is its own."""

import asyncio
import sqlite3
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.store import Database, StoreRefused, migrate_store, open_store
from cmpd.store.postgres import PostgresStore, schema
from cmpd.store.schema import open_database
from cmpd.store.sealing import Sealing
from tests import postgres
from tests.contract.orders import OrderContract
from tests.contract.outside import OutsideContract
from tests.contract.store import KEY, StoreContract, issue, make_code, refusal, transaction
from tests.ee import new_key
from tests.interop.openssl import key_pem
from tests.world import certificate as certificate_of


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def url(self) -> Iterator[str]:
        with postgres.empty() as url:
            yield url


class TestPostgresOutside(OutsideContract):
    @pytest.fixture
    def url(self) -> Iterator[str]:
        with postgres.empty() as url:
            yield url


class TestPostgresOrders(OrderContract):
    @pytest.fixture
    def url(self) -> Iterator[str]:
        with postgres.empty() as url:
            yield url


@pytest.fixture
def url() -> Iterator[str]:
    with postgres.empty() as url:
        yield url


# The schema


async def test_both_stores_have_the_same_tables(url: str, tmp_path: Path) -> None:
    """Whoever adds a migration to one adds it to the other."""
    store = await open_store(url, base=tmp_path, key=KEY)
    await store.close()
    kept = postgres.query(
        url,
        "SELECT table_name::text, column_name::text, is_nullable = 'NO' FROM information_schema.columns"
        " WHERE table_schema = current_schema()",
    )
    connections = open_database(tmp_path / "cmpd.db", Sealing(KEY))
    for connection in connections:
        connection.close()
    file = sqlite3.connect(tmp_path / "cmpd.db")
    tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    expected = {
        (table, column, bool(required or key))
        for table in tables
        for _, column, _, required, _, key in file.execute(f"PRAGMA table_info({table})").fetchall()
        if not table.startswith("sqlite_") and table != "store"
    }
    file.close()
    # rows in the order of their arrival, and values of two kinds
    assert {one for one in kept if one[0] != "store"} - expected == {("certificate", "id", True)}
    assert expected <= set(kept)


async def test_nodes_that_start_at_once_make_the_schema_once(url: str) -> None:
    stores = await asyncio.gather(*(PostgresStore.open(url, KEY, database=Database()) for _ in range(5)))
    new, one = await issue(stores[0])
    for store in stores:
        assert await store.certificates_of(new.transaction_id) == (one,)
        await store.close()


def schema_says(url: str, **numbers: int) -> None:
    for name, number in numbers.items():
        postgres.query(url, "UPDATE store SET number = $2 WHERE name = $1", name, number)


async def refused(url: str, words: str, key: bytes = KEY, *, migrate: bool = True) -> None:
    with pytest.raises(StoreRefused, match=words):
        await PostgresStore.open(url, key, database=Database(migrate=migrate))


async def test_an_older_schema_is_migrated_or_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await refused(url, "has schema 0, and this cmpd needs 1: run `cmpd store migrate`", migrate=False)
    store = await PostgresStore.open(url, KEY, database=Database())
    new, _ = await issue(store)
    await store.close()
    await (await PostgresStore.open(url, KEY, database=Database(migrate=False))).close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE later (x bigint)",)))
    await refused(url, "has schema 1, and this cmpd needs 2", migrate=False)
    await migrate_store(url, base=Path("/"), key=KEY, database=Database(migrate=False))
    store = await PostgresStore.open(url, KEY, database=Database(migrate=False))
    assert await store.transaction(new.transaction_id) == new
    await store.close()
    assert postgres.query(url, "SELECT count(*) FROM later") == [(0,)]


async def test_a_migration_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await PostgresStore.open(url, KEY, database=Database())).close()
    broken = (*schema.MIGRATIONS, ("CREATE TABLE later (x bigint)", "CREATE TABLE later (x bigint)"))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", broken)
        await refused(url, "already exists")
    await (await PostgresStore.open(url, KEY, database=Database())).close()


async def test_a_newer_schema_is_refused_unless_it_says_that_it_is_compatible(url: str) -> None:
    await (await PostgresStore.open(url, KEY, database=Database())).close()
    schema_says(url, schema=3, compatible_from=2)
    await refused(url, "written by a newer cmpd")
    schema_says(url, compatible_from=1)
    store = await PostgresStore.open(url, KEY, database=Database())
    await issue(store)
    await store.close()
    assert postgres.query(url, "SELECT number FROM store WHERE name = 'schema'") == [(3,)]


async def test_another_key_is_refused(url: str) -> None:
    await (await PostgresStore.open(url, KEY, database=Database())).close()
    await refused(url, "is not the key", bytes(32))


async def test_a_table_of_another_program_is_left_alone(url: str) -> None:
    postgres.query(url, "CREATE TABLE store (shop text)")
    await refused(url, "a database or a schema of its own")
    postgres.query(url, "DROP TABLE store")
    postgres.query(url, "CREATE TABLE certificate (shop text)")
    await refused(url, "a database or a schema of its own")
    assert postgres.query(url, "SELECT count(*) FROM certificate") == [(0,)]


async def test_without_prepared_statements(url: str) -> None:
    """As it must be by way of pgbouncer in transaction mode."""
    store = await PostgresStore.open(url, KEY, database=Database(statement_cache=False))
    code = await make_code(store, uses=20)
    await asyncio.gather(*(issue(store, code.id) for _ in range(20)))
    assert (await store.codes())[0].used == 20
    async with store._connections.pool.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
    await store.close()


async def test_no_more_connections_than_it_may_have(url: str) -> None:
    store = await PostgresStore.open(url, KEY, database=Database(connections=3))
    await asyncio.gather(*(store.refused(transaction()) for _ in range(40)), *(issue(store) for _ in range(40)))
    assert store._connections.pool.get_size() <= 3
    await store.close()


async def test_text_with_a_nul_is_kept_without_it(url: str) -> None:
    """PostgreSQL has none in a text."""
    store = await PostgresStore.open(url, KEY, database=Database())
    made = await make_code(store, "a", seat="x\0y")
    assert made.seat == "x\ufffdy"
    await store.close()


# Getting in


@pytest.fixture(scope="module")
def guarded() -> Iterator[postgres.Server]:
    """A server at which the role `cmpd` needs the password hunter2, and may do nothing but in its own database."""
    with postgres.Server() as server:
        server.query("CREATE ROLE cmpd LOGIN PASSWORD 'hunter2'")
        server.query("CREATE DATABASE cmpd OWNER cmpd")
        rules = "host all postgres 127.0.0.1/32 trust\nhost all cmpd 127.0.0.1/32 scram-sha-256\n"
        (server.folder / "pg_hba.conf").write_text(rules)
        server.query("SELECT pg_reload_conf()")
        yield server


async def test_a_role_with_a_password_and_no_rights_but_on_its_own_database(
    guarded: postgres.Server, tmp_path: Path
) -> None:
    url = f"postgresql://cmpd@127.0.0.1:{guarded.port}/cmpd"
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"127.0.0.1:{guarded.port}:*:cmpd:hunter2\n")
    passfile.chmod(0o600)
    for way, database in (
        (url, Database(password="hunter2")),
        (url.replace("cmpd@", "cmpd:hunter2@"), Database()),
        (f"{url}?passfile={passfile}&connect_timeout=9&application_name=node-7", Database()),
    ):
        store = await PostgresStore.open(way, KEY, database=database)
        await issue(store)
        await store.close()
    for password in ("wrong-one", None):
        with pytest.raises(StoreRefused, match="password") as refusal:
            await PostgresStore.open(url, KEY, database=Database(password=password))
        assert "wrong-one" not in str(refusal.value)


async def test_a_role_that_may_not_change_tables(guarded: postgres.Server) -> None:
    """The owner migrates; the daemon has what README gives it."""
    guarded.query("CREATE DATABASE shared")
    owners = guarded.url().removesuffix("postgres") + "shared"
    url = f"postgresql://cmpd@127.0.0.1:{guarded.port}/shared"
    database = Database(password="hunter2", migrate=False)
    with pytest.raises(StoreRefused, match="cmpd store migrate"):
        await PostgresStore.open(url, KEY, database=database)
    with pytest.raises(StoreRefused, match="GRANT CREATE"):
        await migrate_store(url, base=Path("/"), key=KEY, database=database)
    await migrate_store(owners, base=Path("/"), key=KEY)
    with pytest.raises(StoreRefused, match="not this role's"):
        await PostgresStore.open(url, KEY, database=database)
    postgres.query(owners, "GRANT USAGE ON SCHEMA public TO cmpd")
    postgres.query(owners, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO cmpd")
    store = await PostgresStore.open(url, KEY, database=database)
    code = await make_code(store)
    new, one = await issue(store, code.id)
    assert await store.certificates_of(new.transaction_id) == (one,)
    await store.refusal(refusal())
    await store.ready()
    await store.close()


@asynccontextmanager
async def tls_front(server: postgres.Server, folder: Path) -> AsyncIterator[int]:
    """TLS before a server that has none, begun as PostgreSQL does: an SSLRequest, the answer S, the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    serving: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        assert (await reader.readexactly(8))[4:] == (80877103).to_bytes(4)
        writer.write(b"S")
        try:
            await writer.start_tls(context)
        except OSError:
            return
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pipe(reader, back), pipe(there, writer), return_exceptions=True)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await asyncio.wait(serving, timeout=10)


async def test_tls_with_the_servers_name_verified(guarded: postgres.Server, tmp_path: Path) -> None:
    key = new_key()
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = certificate_of(key, "localhost", extensions=[(names, False)])
    (tmp_path / "server.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (tmp_path / "server.key").write_bytes(key_pem(key))
    (tmp_path / "other.pem").write_bytes(certificate_of(new_key(), "localhost").public_bytes(Encoding.PEM))
    password = Database(password="hunter2")
    async with tls_front(guarded, tmp_path) as port:
        url = f"postgresql://cmpd@localhost:{port}/cmpd?sslmode=verify-full&sslrootcert={tmp_path}"
        store = await PostgresStore.open(f"{url}/server.pem", KEY, database=password)
        await issue(store)
        await store.close()
        for way in (f"{url}/other.pem", f"{url}/server.pem".replace("@localhost", "@127.0.0.1")):
            with pytest.raises(StoreRefused, match="TLS: see sslmode"):
                await PostgresStore.open(way, KEY, database=password)
        with pytest.raises(StoreRefused, match=r"none\.pem"):
            await PostgresStore.open(f"{url}/none.pem", KEY, database=password)
