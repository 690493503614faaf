"""RFC 9483 §4.1.2: enrolling an end entity to a known PKI."""

from typing import Any

import pytest

from cmpd.asn1 import BodyType, PKIStatus
from cmpd.exchange import RevocationReason
from cmpd.ports import Revocation
from tests.ee import san
from tests.world import World


async def test_cr_signed_with_a_certificate_of_ours(world: World) -> None:
    ee = await world.enrolled()
    answer = await world.send(ee, ee.cr())
    assert (answer.type, answer.status) == (BodyType.cp, PKIStatus.accepted), answer.text
    assert answer.body.caPubs is None
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf


async def test_cr_by_code(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.cr())
    assert answer.type is BodyType.cp
    assert answer.body.caPubs is None, "caPubs is for ip only"


@pytest.mark.parametrize(
    "request_", [{"subject": "CN=admin"}, {"extensions": [san("admin.example.com")]}], ids=["subject", "san"]
)
async def test_a_certificate_of_ours_asks_for_itself_only(world: World, request_: dict[str, Any]) -> None:
    ee = await world.enrolled()
    answer = await world.send(ee, ee.cr(**request_))
    assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "badCertTemplate")


async def test_a_certificate_of_another_profile(world: World) -> None:
    """What one profile has issued opens no other."""
    ee = await world.enrolled()
    world.profile("other")
    answer = await world.send(ee, ee.cr(), profile="other")
    assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "notAuthorized")


async def test_a_revoked_certificate(world: World) -> None:
    ee = await world.enrolled()
    serial = int(world.last.serial, 16)
    await world.store.revoke(Revocation(serial, RevocationReason.keyCompromise, world.clock()))
    answer = await world.send(ee, ee.cr())
    assert (answer.type, answer.fail_info) == (BodyType.error, "certRevoked")
