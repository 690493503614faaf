"""What all tests share: one CA, and a whole service without sockets."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cmpd.issuers.local import LocalIssuer, create_ca
from cmpd.issuers.local.ca import CreatedCA
from cmpd.store.sqlite import SQLiteStore
from tests.world import Clock, World


@pytest.fixture(scope="session")
def ca_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One CA for all tests: a test must not change its files."""
    base = tmp_path_factory.mktemp("ca")
    create_ca(base / "local", name="Test")
    return base


@pytest.fixture
async def world(tmp_path: Path, ca_directory: Path) -> AsyncIterator[World]:
    """A service with a profile `device`."""
    table = CreatedCA(ca_directory / "local").table(ca_directory)
    table.pop("type")
    issuer = LocalIssuer.from_config(table, base=ca_directory, url="http://127.0.0.1:8829", name="local")
    store = await SQLiteStore.open(tmp_path / "cmpd.db", bytes(32))
    world = World(store, issuer, Clock(), tmp_path)
    world.profile()
    yield world
    await store.close()
