"""What all tests share: one CA, and a whole service without sockets."""

from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from cmpd.issuers.local import LocalIssuer, create_ca
from cmpd.issuers.local.ca import CreatedCA
from cmpd.store.sqlite import SQLiteStore
from tests.world import Clock, World

LONGEST_ID = 32
"""Octets that are short enough to be a test's name."""


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long octets are called by their argument: many are random, and all processes must agree on what there is."""
    return argname if isinstance(val, bytes) and len(val) > LONGEST_ID else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has logged may hold lone surrogates; between processes a report is UTF-8."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


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
