"""The PostgreSQL store: the contracts, and what is its own."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmpd.store import open_store
from cmpd.store.schema import open_database
from cmpd.store.sealing import Sealing
from tests import postgres
from tests.contract.orders import OrderContract
from tests.contract.store import KEY, StoreContract


class TestPostgresStore(StoreContract):
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
