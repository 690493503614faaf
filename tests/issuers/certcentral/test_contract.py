"""CertCentral, behind the simulator, is an issuer like any other that is ordered from."""

import pytest

from cmpd.exchange import Approved
from cmpd.issuers.certcentral import CertCentralClient, CertCentralConfig, CertCentralIssuer
from tests.certcentral import CertCentral
from tests.contract.ordering import Market, OrderingContract
from tests.issuers.certcentral import world


class Simulated(Market):
    """The simulator's account."""

    def __init__(self, central: CertCentral, connector: CertCentralConfig, client: CertCentralClient) -> None:
        self.central = central
        self.issuer: CertCentralIssuer = CertCentralIssuer(connector, client, "ca", clock=central.clock.now)
        assert self.issuer.use(world.profile("mailbox")) == []
        central.set(by_hand=True, waiting_status="pending")

    def approved(self) -> Approved:
        return world.approved("mailbox")

    def lose_the_next_answer(self) -> None:
        self.central.faults.add("commit_then_drop", endpoint="order")

    async def go_away(self) -> None:
        await self.central.stop()

    async def issue(self, ticket: str) -> None:
        self.central.issue(int(ticket))

    @property
    def bought(self) -> int:
        return len(self.central.ledger.orders())


class TestCertCentral(OrderingContract):
    @pytest.fixture
    def market(self, central: CertCentral, connector: CertCentralConfig, client: CertCentralClient) -> Market:
        return Simulated(central, connector, client)
