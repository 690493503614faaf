"""An EE that enrolls through cmpd at the simulator: what it sends, and time that passes for all three."""

from datetime import timedelta
from typing import Any

from cmpd.asn1 import der, oids
from cmpd.exchange import Order
from tests.certcentral import CertCentral
from tests.ee import EE, Answer, extension, new_key
from tests.world import World

ADA = "ada@example.com"


def names(*values: bytes) -> dict[str, Any]:
    return {"extensions": [extension(oids.SUBJECT_ALT_NAME, der.sequence(*values))]}


def hosts(*values: str) -> dict[str, Any]:
    return names(*(der.tlv(0x82, one.encode()) for one in values))


MAIL = names(der.tlv(0x81, ADA.encode()))


async def work(world: World, central: CertCentral, seconds: float = 0.0) -> None:
    """Let time pass on both sides, and the desk do what is due then."""
    central.advance(timedelta(seconds=seconds))
    world.clock.tick(seconds=seconds)
    assert world.desk is not None
    await world.desk.once("local")


async def ask(world: World, ee: EE, profile: str = "mail", key: Any = None, **request: Any) -> Answer:
    ee.now = world.clock()
    draft = ee.ir(key or new_key("rsa-2048"), **{"subject": f"CN={ADA}", **MAIL, **request})
    return await world.send(ee, draft, profile=profile)


async def poll(world: World, ee: EE, answer: Answer, profile: str = "mail") -> Answer:
    ee.now = world.clock()
    return await world.send(ee, ee.poll_req(answer), profile=profile)


async def order_of(world: World, answer: Answer) -> Order:
    """The order of a transaction."""
    (order,) = await world.store.orders_of(answer.message.header.transactionID or b"")
    return order
