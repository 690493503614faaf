"""A simulator and a client of it for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cmpd.enrollment import waiting
from cmpd.issuers.certcentral import CertCentralClient, CertCentralConfig, CertCentralIssuer
from cmpd.issuers.local import LocalIssuer
from cmpd.ordering import OrderDesk
from cmpd.profile import Profile
from tests.certcentral import CertCentral
from tests.issuers.certcentral import world
from tests.world import World


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


@pytest.fixture
async def issuer(
    world: World, central: CertCentral, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[CertCentralIssuer]:
    """A connector, with a profile for mailboxes and one for public TLS servers; every EE has to poll."""
    monkeypatch.setattr(waiting, "PROMPT_SECONDS", 0.0)
    key = world.base / "api.key"
    key.write_text(central.key("admin"))
    key.chmod(0o600)
    table = {"base_url": central.url, "api_key_file": str(key), "connect_timeout": "5s", "read_timeout": "5s"}
    issuer = CertCentralIssuer.from_config(table, base=world.base, url="http://127.0.0.1", name="local")
    issuer.clock = central.clock.now
    world.clock.now = central.clock.now().replace(microsecond=0)
    assert isinstance(world.issuer, LocalIssuer)
    world.signer, world.issuer = world.issuer, issuer
    world.desk = OrderDesk(world.store, {"local": issuer}, world.clock)
    codes = {"authentication_method": "enrollment_code"}
    mail = {
        "base_template": "public-smime",
        "certificate_type": {"validation_type": "mailbox", "generation": "multipurpose"},
        "enrollment": codes,
        "renewal": {"reject_outside_window": False},
    }
    server = {
        "base_template": "certcentral-public-server",
        "enrollment": codes,
        "certificate_type": {"validation_type": "domain"},
        "issuer_options": {"product": "ssl_dv_geotrust"},
        "renewal": {"reject_outside_window": False},
    }
    for name, more in (("mail", mail), ("server", server)):
        profile = Profile.from_config(name, {"id": f"profile-{name}-{'x' * 20}", "issuer": "local", **more}, world.base)
        assert issuer.use(profile) == []
        world.profiles[name] = profile
    world.restart()
    yield issuer
    await issuer.close()
