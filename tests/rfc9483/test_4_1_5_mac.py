"""RFC 9483 §4.1.5: MAC-based protection for enrollment."""

import threading
from typing import Any

import pytest

from cmpd import asn1
from cmpd.asn1 import BodyType
from cmpd.protection import mac
from cmpd.protection.mac import MacParameters
from tests.world import World


@pytest.mark.parametrize(
    "how",
    [
        *({"owf": h, "mac": h} for h in ("sha1", "sha224", "sha256", "sha384", "sha512")),
        {"owf": "sha256", "mac": "sha1"},
        {"owf": "sha256", "mac": "sha256", "pbmac1": True, "iterations": 2048},
        {"owf": "sha512", "mac": "sha512", "pbmac1": True, "iterations": 2048},
        {"owf": "sha256", "mac": "sha256", "iterations": 10_000},
    ],
    ids=str,
)
async def test_the_answer_repeats_the_algorithm_and_parameters(world: World, how: dict[str, Any]) -> None:
    ee = await world.code()
    for field, value in how.items():
        setattr(ee, field, value)
    draft = ee.ir()
    answer = await world.send(ee, draft)
    assert answer.type is BodyType.ip, answer.text
    assert asn1.dump(answer.message.header.protectionAlg) == draft.algorithm
    done = await world.send(ee, ee.cert_conf(answer))
    assert done.type is BodyType.pkiconf
    assert done.protected


async def test_one_derivation_for_request_and_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none at all for a certConf that keeps the parameters, as §4.1.5 asks."""
    calls: list[MacParameters] = []

    def derive(found: MacParameters, secret: bytes) -> bytes:
        calls.append(found)
        return mac.derive(found, secret)

    monkeypatch.setattr("cmpd.authentication.derive", derive)
    ee = await world.code()
    draft = ee.ir()
    answer = await world.send(ee, draft)
    assert len(calls) == 1
    confirmation = ee.cert_conf(answer, algorithm=draft.algorithm)
    assert (await world.send(ee, confirmation)).type is BodyType.pkiconf
    assert len(calls) == 1


async def test_long_derivations_do_not_run_on_the_event_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def derive(found: MacParameters, secret: bytes) -> bytes:
        threads.append(threading.current_thread())
        return mac.derive(found, secret)

    monkeypatch.setattr("cmpd.authentication.derive", derive)
    ee = await world.code()
    ee.iterations = world.limits.inline_iterations + 1
    assert (await world.send(ee, ee.ir())).type is BodyType.ip
    assert len(threads) == 1
    assert threads != [threading.main_thread()]


async def test_extra_certs_carry_no_protection_certificate(world: World) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    done = await world.send(ee, ee.cert_conf(answer))
    assert done.message.extraCerts == []
