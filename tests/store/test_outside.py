"""Certificates whose issuer is over there in the SQLite store: the contract, and what the indexes are good for."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cmpd.store import outside
from cmpd.store.sqlite import SQLiteStore
from tests.contract.outside import OutsideContract
from tests.contract.store import KEY


class TestSQLiteOutside(OutsideContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/cmpd.db"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = await SQLiteStore.open(tmp_path / "cmpd.db", KEY)
    yield store
    await store.close()


@pytest.mark.parametrize(
    ("statement", "parameters", "indexes"),
    [
        (outside._DUE, ("upstream", 0, 1), {"outside_revocation"}),
        (outside._OF_TICKET, ("upstream", "1", "upstream", "1:", "1;"), {"certificate_of_ticket"}),
        (outside._UNCOLLECTED, ("upstream", 0, 0, 1), {"uncollected_order", "sqlite_autoindex_certificate_1"}),
    ],
)
async def test_a_great_many_certificates_are_in_nobodys_way(
    store: SQLiteStore, statement: str, parameters: tuple[Any, ...], indexes: set[str]
) -> None:
    plan = store._connections._reader.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
    steps = [step for *_, step in plan]
    assert not [step for step in steps if step.startswith("SCAN")], steps
    assert {index for index in indexes if any(index in step for step in steps)} == indexes, steps
