"""A second CA that is ordered from is a second file: an issuer of its own, and nothing of the first one elsewhere."""

import re
from pathlib import Path

import pytest

import cmpd
from cmpd.exchange import Approved, CertificateRequest
from cmpd.issuers.local import LocalIssuer
from cmpd.ports import OrderUnknown
from tests.contract.ordering import Market, OrderingContract
from tests.ee import name, new_key, spki
from tests.orders import SlowCA
from tests.world import World


class InMemory(Market):
    """The CA of `tests.orders`, whose certificates are the local CA's."""

    def __init__(self, world: World) -> None:
        assert isinstance(world.issuer, LocalIssuer)
        self.issuer: SlowCA = SlowCA(world.issuer)
        self._world = world

    def approved(self) -> Approved:
        key = new_key()
        request = CertificateRequest(0, name("CN=device-1"), spki(key), ())
        return self._world.profiles["device"].approve(request, transaction_id=spki(key)[-16:], now=self._world.clock())

    def lose_the_next_answer(self) -> None:
        self.issuer.after.append(OrderUnknown("the connection was lost"))

    async def go_away(self) -> None:
        self.issuer.away = True

    async def issue(self, ticket: str) -> None:
        await self.issuer.deliver(ticket)

    @property
    def bought(self) -> int:
        return len(self.issuer.orders)


class TestSecondCA(OrderingContract):
    @pytest.fixture
    def market(self, world: World) -> Market:
        return InMemory(world)


def test_nothing_outside_its_own_package_knows_certcentral() -> None:
    """Neither what orders and keeps orders, nor the ports, nor the daemon: it is found by its entry point."""
    root = Path(cmpd.__file__).parent
    own = root / "issuers" / "certcentral"
    knowing = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if not path.is_relative_to(own) and re.search("certcentral|digicert", path.read_text(), re.IGNORECASE)
    ]
    assert knowing == []
