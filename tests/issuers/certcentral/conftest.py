"""A simulator and a client of it for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cmpd.issuers.certcentral import CertCentralClient, CertCentralConfig
from tests.certcentral import CertCentral
from tests.issuers.certcentral import world


@pytest.fixture
async def central() -> AsyncIterator[CertCentral]:
    async with CertCentral().running() as running:
        yield running


@pytest.fixture
def connector(tmp_path: Path, central: CertCentral) -> CertCentralConfig:
    return world.config(tmp_path, central)


@pytest.fixture
def timeline() -> world.Timeline:
    return world.Timeline()


@pytest.fixture
async def client(connector: CertCentralConfig, timeline: world.Timeline) -> AsyncIterator[CertCentralClient]:
    made = world.client(connector, timeline)
    yield made
    await made.close()
