"""What all tests share: one CA, and a whole service without sockets."""

import sys
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

from cmpd.issuers.local import LocalIssuer, create_ca
from cmpd.issuers.local.ca import CreatedCA
from cmpd.store import open_store
from cmpd.store.serving import Serving
from tests.world import Clock, World

LONGEST_ID = 32
"""Octets that are short enough to be a test's name."""


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long octets are called by their argument: many are random, and all processes must agree on what there is."""
    return argname if isinstance(val, bytes) and len(val) > LONGEST_ID else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that none of them is the last one that all wait for."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


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


def pytest_unconfigure() -> None:
    """Processes of pytest-xdist do not end by way of atexit."""
    if "tests.postgres" in sys.modules:
        sys.modules["tests.postgres"].end()


ON_BOTH = ("rfc9483", "rfc9810", "access")
"""What is here runs on both stores."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have the tests of the service run on both stores; elsewhere the service has SQLite."""
    if "store_url" in metafunc.fixturenames and metafunc.definition.path.parent.name in ON_BOTH:
        metafunc.parametrize("store_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The [store] url of an empty store."""
    if getattr(request, "param", "sqlite") == "postgresql":
        from tests import postgres

        # those of `world` all have one key
        with postgres.emptied(bytes(32)) if "world" in request.fixturenames else postgres.empty() as url:
            yield url
    else:
        yield f"sqlite:///{tmp_path}/cmpd.db"


@pytest.fixture
async def world(tmp_path: Path, ca_directory: Path, store_url: str) -> AsyncIterator[World]:
    """A service with a profile `device`."""
    table = CreatedCA(ca_directory / "local").table(ca_directory)
    table.pop("type")
    issuer = LocalIssuer.from_config(table, base=ca_directory, url="http://127.0.0.1:8829", name="local")
    store = await open_store(store_url, base=tmp_path, key=bytes(32))
    assert isinstance(store, Serving)
    world = World(store, issuer, Clock(), tmp_path, store_url)
    world.profile()
    yield world
    await store.close()
