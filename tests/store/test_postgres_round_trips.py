"""How often a request goes to PostgreSQL: once for what it reads, once for what it keeps."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from cmpd.asn1 import BodyType
from cmpd.store import Database
from cmpd.store.postgres import PostgresStore
from tests import postgres
from tests.ee import EE
from tests.world import World


@pytest.fixture
def store_url() -> Iterator[str]:
    with postgres.empty() as url:
        yield url


@dataclass
class Asked:
    """The statements that have been sent."""

    statements: list[str] = field(default_factory=list)

    def since(self) -> int:
        # what asyncpg asks about types, once for each connection, is not of a request
        count = sum("typeinfo_tree" not in one and "'jit'" not in one for one in self.statements)
        self.statements.clear()
        return count


@pytest.fixture
def asked(world: World) -> Asked:
    """Counts on every connection that the store makes."""
    return count(world)


def count(world: World) -> Asked:
    store = world.store
    assert isinstance(store, PostgresStore)
    asked = Asked()
    connections, known = store._connections, set()
    borrow = connections._connection

    @asynccontextmanager
    async def counting(deadline: float) -> AsyncIterator[Any]:
        async with borrow(deadline) as connection:
            if connection._con not in known:
                known.add(connection._con)
                connection.add_query_logger(lambda record: asked.statements.append(record.query))
            yield connection

    connections._connection = counting  # type: ignore[method-assign]
    return asked


@pytest.fixture
async def node(world: World, store_url: str) -> AsyncIterator[World]:
    """Another node on the same store."""
    store = await PostgresStore.open(store_url, bytes(32), database=Database())
    yield World(store, world.issuer, world.clock, world.base, store_url, profiles=world.profiles)
    await store.close()


async def test_an_enrollment_with_a_code(world: World, asked: Asked) -> None:
    ee = await world.code()
    asked.since()
    answer = await world.send(ee, ee.ir())
    assert answer.type is BodyType.ip
    assert asked.since() == 2
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf
    assert asked.since() == 1


async def test_a_certconf_that_comes_to_another_node(world: World, node: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    asked = count(node)
    assert (await node.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf
    assert asked.since() == 2


async def test_an_update_signed_with_the_old_certificate(world: World, asked: Asked) -> None:
    ee = await world.enrolled()
    asked.since()
    answer = await world.send(ee, ee.kur())
    assert answer.type is BodyType.kup
    assert asked.since() == 2
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf
    assert asked.since() == 2


@pytest.mark.parametrize("left_out", [True, False], ids=["without its certificate", "with it"])
async def test_the_certconf_of_an_update_that_comes_to_another_node(world: World, node: World, left_out: bool) -> None:
    """RFC 9483 §4.1.1: it may leave out the certificate, which the transaction then names."""
    ee = await world.enrolled()
    answer = await world.send(ee, ee.kur())
    asked = count(node)
    draft = ee.cert_conf(answer)
    if left_out:
        draft.extra_certs = ()
    assert (await node.send(ee, draft)).type is BodyType.pkiconf
    assert asked.since() == 2


async def test_a_global_code_is_found_in_the_same_breath(world: World, asked: Asked) -> None:
    world.profile(enrollment={"authentication_method": "enrollment_code", "code": {"allow_global": True}})
    await world.store.create_code("device", "all", b"a-secret-for-all", None, None, world.clock(), is_global=True)
    ee = EE.with_code("anybody", "a-secret-for-all", now=world.clock())
    asked.since()
    assert (await world.send(ee, ee.ir())).type is BodyType.ip
    assert asked.since() == 2


async def test_the_same_request_again(world: World, asked: Asked) -> None:
    ee = await world.code()
    request = ee.seal(ee.ir())
    answer = await world.post(request)
    world.restart()
    asked.since()
    assert await world.post(request) == answer
    assert asked.since() == 1


async def test_requests_that_come_together_share_their_statements(world: World, asked: Asked) -> None:
    devices = [await world.code(f"device-{number}") for number in range(16)]
    asked.since()
    requests = [ee.seal(ee.ir(subject=f"CN=device-{number}")) for number, ee in enumerate(devices)]
    await asyncio.gather(*(world.post(request) for request in requests))
    assert asked.since() == 2
    assert len(await world.store.certificates(100)) == 16
