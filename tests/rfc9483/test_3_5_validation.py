"""RFC 9483 §3.5: generic validation, each check with its failInfo, in its order."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.asn1 import BodyType, der, oids
from tests.ee import EE, Draft, directory_name, new_key
from tests.world import World, certificate, vendor


async def refused(
    world: World, ee: EE, draft: Draft, fail_info: str, *, protected: bool = True, **arrival: Any
) -> None:
    """An error message with that failInfo, and nothing kept but, when the sender is known, why it was refused."""
    before = world.store.commits
    answer = await world.send(ee, draft, **arrival)
    assert (answer.type, answer.fail_info) == (BodyType.error, fail_info), answer.text
    assert answer.protected is protected, answer.text
    assert answer.text
    kept = 1 if world.last.credential else 0
    assert world.store.commits == before + kept
    assert [one.fail_info for one in await world.store.refusals(1)] == [fail_info] * kept
    assert world.last.fail_info == fail_info


@pytest.mark.parametrize("pvno", [0, 1, 4, 99])
async def test_pvno_must_be_2_or_3(world: World, pvno: int) -> None:
    ee = await world.code()
    await refused(world, ee, ee.ir(header={"pvno": pvno}), "unsupportedVersion")


async def test_transaction_id_must_be_present(world: World) -> None:
    ee = await world.code()
    await refused(world, ee, ee.ir(header={"transaction_id": None}), "badDataFormat")


async def test_transaction_id_must_not_be_huge(world: World) -> None:
    ee = await world.code()
    await refused(world, ee, ee.ir(header={"transaction_id": bytes(65)}), "badDataFormat")


_B = BodyType


@pytest.mark.parametrize("body", [_B.genm, _B.rr, _B.pollReq, _B.nested, _B.ip, _B.krr, _B.ccr])
async def test_body_types_that_are_not_supported(world: World, body: BodyType) -> None:
    ee = await world.code()
    await refused(world, ee, ee.draft(body, der.sequence()), "badRequest")


@pytest.mark.parametrize("body", [BodyType.certConf, BodyType.error])
async def test_body_type_must_be_allowed_in_the_state(world: World, body: BodyType) -> None:
    """Nothing waits for a certConf when there is no transaction."""
    ee = await world.code()
    await refused(world, ee, ee.draft(body, der.sequence()), "badRequest")


@pytest.mark.parametrize("nonce", [None, b"", b"123456789012345", bytes(65)])
async def test_sender_nonce_must_have_128_bits(world: World, nonce: bytes | None) -> None:
    ee = await world.code()
    await refused(world, ee, ee.ir(header={"sender_nonce": nonce}), "badSenderNonce")


@pytest.mark.parametrize("nonce", [None, bytes(16)])
async def test_recip_nonce_must_be_ours(world: World, nonce: bytes | None) -> None:
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    await refused(world, ee, ee.cert_conf(answer, recip_nonce=nonce), "badRecipientNonce")
    done = await world.send(ee, ee.cert_conf(answer))
    assert done.type is BodyType.pkiconf, "the transaction is unharmed"


async def test_unprotected_messages_are_rejected(world: World) -> None:
    ee = EE()
    await refused(world, ee, ee.ir(), "badMessageCheck", protected=False)


async def test_protection_must_be_of_the_kind_that_the_profile_asks_for(world: World) -> None:
    world.profile(enrollment={"authentication_method": "tls_certificate", "allowed_operations": ["cr", "kur"]})
    ee = await world.code()
    await refused(world, ee, ee.cr(), "wrongIntegrity", protected=False)
    world.profile()
    signing = await world.enrolled()
    await refused(world, signing, signing.ir(), "wrongIntegrity")


async def test_a_wrong_secret(world: World) -> None:
    """It cannot be answered with a MAC that this client could verify: RFC 9483 §3.6.4 allows an unprotected error."""
    await world.code("device-1")
    liar = EE.with_code("device-1", "guess", now=world.clock())
    await refused(world, liar, liar.ir(), "badMessageCheck", protected=False)
    assert await world.used() == 0


async def test_an_unknown_reference_looks_like_a_wrong_secret(world: World) -> None:
    await world.code("device-1")
    texts = []
    for reference in ("device-1", "nobody"):
        liar = EE.with_code(reference, "guess", now=world.clock())
        answer = await world.send(liar, liar.ir())
        texts.append((answer.fail_info, answer.text))
    assert texts[0] == texts[1]
    assert "nobody" in world.last.private


async def test_sender_kid_must_identify_the_certificate(world: World) -> None:
    ee = await world.enrolled()
    await refused(world, ee, ee.kur(header={"sender_kid": b"somebody else's key"}), "badMessageCheck")


async def test_a_changed_message(world: World) -> None:
    ee = await world.enrolled()
    draft = ee.kur()
    data = bytearray(ee.seal(draft))
    position = bytes(data).index(draft.transaction_id or b"?")
    data[position] ^= 1
    answer = ee.read(await world.post(bytes(data)))
    assert (answer.type, answer.fail_info, answer.protected) == (BodyType.error, "badMessageCheck", True)


async def test_an_untrusted_signer(world: World) -> None:
    stranger, _ = vendor()
    stranger.now = world.clock()
    await refused(world, stranger, stranger.cr(), "signerNotTrusted")


async def test_key_usage_must_have_digital_signature(world: World) -> None:
    root_key, key = new_key(), new_key()
    root = certificate(root_key, "Vendor Root", ca=True)
    leaf = certificate(key, "CA as signer", root_key, root, ca=True)  # keyCertSign and cRLSign only
    (world.base / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    world.profile(enrollment={"authentication_method": "tls_certificate", "trusted_certificates": ["root.pem"]})
    ee = EE.with_certificate(key, leaf.public_bytes(Encoding.DER), now=world.clock())
    await refused(world, ee, ee.ir(), "signerNotTrusted")


async def test_the_operation_must_be_allowed(world: World) -> None:
    world.profile(enrollment={"allowed_operations": ["kur"]})
    ee = await world.code()
    await refused(world, ee, ee.ir(), "notAuthorized")


async def test_an_expired_a_revoked_and_a_used_up_code(world: World) -> None:
    ee = await world.code("expired", expires=world.clock.now - timedelta(seconds=1))
    await refused(world, ee, ee.ir(), "notAuthorized")
    assert "expired" in world.last.reason
    ee = await world.code("revoked")
    await world.store.revoke_code("device", "revoked", world.clock())
    await refused(world, ee, ee.ir(), "notAuthorized")
    assert "revoked" in world.last.reason
    ee = await world.code("used-up")
    assert (await world.send(ee, ee.ir())).type is BodyType.ip
    await refused(world, ee, ee.ir(), "notAuthorized")
    assert "used up" in world.last.reason


async def test_a_code_of_another_profile(world: World) -> None:
    world.profile("other")
    ee = await world.code(profile="other")
    await refused(world, ee, ee.ir(), "badMessageCheck", protected=False)


async def test_the_operation_label_must_fit_the_body(world: World) -> None:
    ee = await world.code(uses=2)
    await refused(world, ee, ee.ir(), "badRequest", operation="keyupdate")
    assert (await world.send(ee, ee.ir(), operation="initialization")).type is BodyType.ip


async def test_sender_must_match_the_subject_of_the_certificate(world: World) -> None:
    ee = await world.enrolled()
    await refused(world, ee, ee.kur(header={"sender": directory_name("CN=somebody else")}), "badMessageCheck")


async def test_sender_may_be_written_in_another_string_type_and_case(world: World) -> None:
    ee = await world.enrolled()
    common_name = der.sequence(der.oid(oids.COMMON_NAME), der.printable_string("DEVICE-1"))
    printable = der.explicit(4, der.sequence(der.set_of(common_name)))
    answer = await world.send(ee, ee.kur(header={"sender": printable}))
    assert answer.type is BodyType.kup


@pytest.mark.parametrize("away", [timedelta(minutes=6), timedelta(minutes=-6), timedelta(days=4000)])
async def test_message_time_must_be_close(world: World, away: timedelta) -> None:
    ee = await world.code()
    await refused(world, ee, ee.ir(header={"message_time": world.clock.now + away}), "badTime")


async def test_message_time_may_be_absent_or_unchecked(world: World) -> None:
    ee = await world.code(uses=2)
    assert (await world.send(ee, ee.ir(header={"message_time": None}))).type is BodyType.ip
    world.profile(enrollment={"message_time_tolerance": "off"})
    late = ee.ir(header={"message_time": world.clock.now - timedelta(days=4000)})
    assert (await world.send(ee, late)).type is BodyType.ip


async def test_message_time_that_cannot_be_read(world: World) -> None:
    ee = await world.code()
    draft = ee.ir(header={"message_time": der.tlv(0x18, b"2026-11-23 12:00")})
    await refused(world, ee, draft, "badTime")


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("unsupportedVersion", {"pvno": 9}),
    ("badDataFormat", {"transaction_id": None}),
    ("badRequest", {}),
    ("badSenderNonce", {"sender_nonce": b"short"}),
    ("badTime", {"message_time": None}),
]


@pytest.mark.parametrize("first", range(5))
async def test_the_first_fault_in_the_order_of_the_section_is_reported(world: World, first: int) -> None:
    """A message with faults number `first` and all later ones is refused for the first."""
    ee = await world.code()
    fields: dict[str, Any] = {}
    for _, change in FAULTS[first:]:
        fields.update(change)
    fields["message_time"] = world.clock.now + timedelta(days=1)
    body = BodyType.certConf if first <= 2 else BodyType.ir
    draft = ee.draft(body, der.sequence(ee.cert_req_msg(new_key())), **fields)
    answer = await world.send(ee, draft)
    assert answer.fail_info == FAULTS[first][0]


async def test_a_wrong_secret_comes_after_the_header(world: World) -> None:
    await world.code()
    liar = EE.with_code("device-1", "guess", now=world.clock())
    answer = await world.send(liar, liar.ir(header={"sender_nonce": b"short"}))
    assert (answer.fail_info, answer.protected) == ("badSenderNonce", False)


async def test_certconf_must_come_from_the_same_credential(world: World) -> None:
    """RFC 9483 §4.1.1: certConf MUST use the credential of the first request."""
    one, other = await world.code("one"), await world.code("other")
    answer = await world.send(one, one.ir())
    intruder = other.cert_conf(answer)
    await refused(world, other, intruder, "notAuthorized")
    assert (await world.send(one, one.cert_conf(answer))).type is BodyType.pkiconf


# ------------------------------------------------------------------------------------------- RFC 4210-era clients


async def test_legacy_habits_only_when_the_profile_says_so(world: World) -> None:
    legacy = {"missing_transaction_id": True, "short_nonces": True, "sha1_signatures": True}
    world.profile(enrollment={"legacy": legacy})
    ee = await world.code(uses=3)
    draft = ee.ir(header={"transaction_id": None, "sender_nonce": b"12345678"})
    answer = await world.send(ee, draft)
    assert answer.type is BodyType.ip, answer.text
    assert answer.message.header.transactionID is not None, "the server gives it one"
    done = await world.send(ee, ee.cert_conf(answer, sender_nonce=b"87654321"))
    assert done.type is BodyType.pkiconf


async def test_sha1_signatures_only_when_the_profile_says_so(world: World) -> None:
    ee = await world.enrolled()
    ee.hash_name = "sha1"
    await refused(world, ee, ee.kur(), "badAlg")
    world.profile(enrollment={"legacy": {"sha1_signatures": True}})
    answer = await world.send(ee, ee.kur())
    assert answer.type is BodyType.kup, answer.text
