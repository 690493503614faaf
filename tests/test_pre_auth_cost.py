"""What a stranger can make the service do: counted work, no clock (RFC 9810 §8.6; RFC 9483 §8)."""

import hashlib
import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import asn1, authentication, protection
from cmpd.asn1 import BodyType, der, oids
from cmpd.limits import Limits
from cmpd.protection import certpath, mac, signature
from tests.ee import EE, directory_name, new_key
from tests.world import World, certificate, vendor

LIMITS = Limits()
KEY = new_key()


class Work:
    """What has been done: key derivations, signature checks, decoded bodies, commits to the store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._version = self._now()
        self.done: Counter[str] = Counter()
        self.iterations = 0

    def _now(self) -> int:
        """SQLite's own count of what other connections have committed."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    @property
    def committed(self) -> bool:
        return self._now() != self._version

    def forget(self) -> None:
        self._version = self._now()
        self.done.clear()
        self.iterations = 0


@pytest.fixture
def work(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    connection = sqlite3.connect(world.base / "cmpd.db", isolation_level=None)
    work = Work(connection)

    def counted(name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            work.done[name] += 1
            return do(*args, **kwargs)

        return counting

    def derive(found: mac.MacParameters, secret: bytes) -> bytes:
        work.done["derive"] += 1
        work.iterations += found.iterations * -(-max(found.key_length, 1) // hashlib.new(found.owf).digest_size)
        return real(found, secret)

    real = mac.derive
    for module in (mac, protection, authentication):
        monkeypatch.setattr(module, "derive", derive)
    monkeypatch.setattr(signature, "verify", counted("verify", signature.verify))
    monkeypatch.setattr(asn1.PKIMessage, "decode_body", counted("decode_body", asn1.PKIMessage.decode_body))
    yield work
    connection.close()


async def refused(world: World, data: bytes, fail_info: str) -> None:
    await world.post(data)
    assert world.last.exception is None
    assert (world.last.outcome, world.last.fail_info) == ("error", fail_info), world.last


async def test_the_counters_count(world: World, work: Work) -> None:
    """A message that is authentic does all of it; else the tests below would show nothing."""
    ee = await world.code()
    work.forget()
    await world.post(ee.seal(ee.ir(KEY)))
    assert world.last.outcome == "accepted"
    assert work.committed
    assert work.done == {"derive": 1, "decode_body": 1, "verify": 1}
    assert work.iterations == 500


def pbm(iterations: int) -> dict[str, Any]:
    parameter = der.sequence(
        der.octet_string(bytes(16)),
        der.sequence(der.oid(oids.SHA256)),
        der.integer(iterations),
        der.sequence(der.oid(oids.HMAC_SHA256)),
    )
    return {"algorithm": der.sequence(der.oid(oids.PASSWORD_BASED_MAC), parameter)}


def pbmac1(iterations: int, key_length: int, prf: Any = oids.HMAC_SHA1) -> dict[str, Any]:
    kdf = der.sequence(
        der.octet_string(bytes(16)), der.integer(iterations), der.integer(key_length), der.sequence(der.oid(prf))
    )
    parameter = der.sequence(der.sequence(der.oid(oids.PBKDF2), kdf), der.sequence(der.oid(oids.HMAC_SHA256)))
    return {"algorithm": der.sequence(der.oid(oids.PBMAC1), parameter)}


def forged(ee: EE, **header: Any) -> bytes:
    """A message whose MAC nobody with the secret has made."""
    draft = ee.ir(KEY, header=header)
    return asn1.encode(draft.header(), draft.body, bytes(32), ())


@pytest.mark.parametrize(
    "header",
    [
        pbm(LIMITS.mac_iterations + 1),
        pbm(100_000_000),
        pbm(2**63),
        pbm(2**5000),
        pbmac1(100_000_000, 32),
        pbmac1(500, 65),
        pbmac1(500, 2**40),
    ],
    ids=["limit + 1", "100 million", "2**63", "2**5000", "PBMAC1, 100 million", "keyLength 65", "keyLength 2**40"],
)
async def test_no_derivation_beyond_the_limits(world: World, work: Work, header: dict[str, Any]) -> None:
    ee = await world.code()
    work.forget()
    await refused(world, forged(ee, **header), "badAlg")
    assert not work.done
    assert not work.committed


async def test_no_derivation_for_a_reference_that_nobody_has(world: World, work: Work) -> None:
    await refused(world, forged(EE.with_code("nobody", "x"), **pbm(LIMITS.mac_iterations)), "badMessageCheck")
    assert not work.done
    assert not work.committed


@pytest.mark.parametrize(
    "header", [pbm(LIMITS.mac_iterations), pbmac1(LIMITS.mac_iterations, 20), pbmac1(LIMITS.mac_iterations, 64)]
)
async def test_one_derivation_for_a_forged_mac(world: World, work: Work, header: dict[str, Any]) -> None:
    """The dearest that a stranger who knows a reference can ask for."""
    ee = await world.code()
    work.forget()
    await refused(world, forged(ee, **header), "badMessageCheck")
    assert work.done == {"derive": 1}
    assert work.iterations <= 4 * LIMITS.mac_iterations
    assert not work.committed


async def test_a_key_that_was_never_verified_is_not_kept(world: World, work: Work) -> None:
    """Else strangers could push out the keys of those who are known."""
    ee = await world.code(uses=None)
    await world.send(ee, ee.ir(KEY, header=pbm(500)))
    work.forget()
    for n in range(101, 120):
        await refused(world, forged(ee, **pbm(n)), "badMessageCheck")
    assert work.done["derive"] == 19
    await world.send(ee, ee.ir(KEY, header=pbm(500)))
    assert work.done["derive"] == 19, "the good key is still there"


async def test_a_body_is_not_decoded_before_its_sender_is_known(world: World, work: Work) -> None:
    ee = await world.code()
    stranger, _ = vendor()
    work.forget()
    for draft in (
        ee.ir(KEY),
        ee.p10cr(KEY),
        ee.draft(BodyType.ir, b"\x30\x84\xff\xff\xff\xff"),
        ee.draft(BodyType.ir, b"\xff" * 50_000),
    ):
        draft.algorithm = pbm(500)["algorithm"]
        await refused_either(world, asn1.encode(draft.header(), draft.body, bytes(32)))
        await refused_either(world, asn1.encode(draft.header(), draft.body, None))
    for body in ("ir", "cr", "kur", "p10cr"):
        await refused_either(world, stranger.seal(getattr(stranger, body)(KEY)))
    assert work.done["decode_body"] == 0
    assert not work.committed


async def refused_either(world: World, data: bytes) -> None:
    await world.post(data)
    assert world.last.exception is None
    assert world.last.outcome == "error"


def hostile(levels: int, width: int, root: str) -> tuple[EE, list[bytes]]:
    keys = [new_key() for _ in range(levels + 1)]
    issuers = [certificate(key, f"h{n}" if n else root, ca=True) for n, key in enumerate(keys)]
    found = [
        certificate(keys[n], f"h{n}", keys[n - 1], issuers[n - 1], ca=True).public_bytes(Encoding.DER)
        for n, _ in itertools.product(range(1, levels + 1), range(width))
    ]
    random.Random(1).shuffle(found)
    leaf = certificate(KEY, "leaf", keys[-1], issuers[-1])
    return EE.with_certificate(KEY, leaf.public_bytes(Encoding.DER)), found


@pytest.mark.parametrize("ra_list", [False, True], ids=["trusted", "trusted and RA"])
async def test_no_signature_checks_beyond_the_bound(world: World, work: Work, ra_list: bool) -> None:
    """extraCerts of 31 CAs that have all certified each other: one bounded search for each list of anchors."""
    anchor = certificate(new_key(), "Vendor", ca=True)
    (world.base / "v.pem").write_bytes(anchor.public_bytes(Encoding.PEM))
    table: dict[str, Any] = {"authentication_method": "tls_certificate", "trusted_certificates": ["v.pem"]}
    if ra_list:
        table["ra_certificates"] = ["v.pem"]
    world.profile(enrollment=table)
    ee, others = hostile(4, 7, "Vendor")
    ee.chain = tuple(others)
    work.forget()
    await refused(world, ee.seal(ee.ir(KEY)), "signerNotTrusted")
    assert 0 < work.done["verify"] <= certpath.MAX_SIGNATURES * (2 if ra_list else 1)
    assert work.done["decode_body"] == 0
    assert not work.committed


async def test_no_more_extra_certs_than_the_limit(world: World, work: Work) -> None:
    stranger, _ = vendor()
    stranger.chain = (stranger.certificate or b"",) * LIMITS.extra_certs
    await refused(world, stranger.seal(stranger.ir(KEY)), "badDataFormat")
    assert not work.done
    assert not work.committed


async def test_a_valid_certificate_with_a_wrong_signature_costs_its_path_once(world: World, work: Work) -> None:
    """A device's certificate is no secret; whoever replays it gets its path validated once, and one check a message."""
    ee = await world.enrolled()
    work.forget()
    for _ in range(10):
        draft = ee.kur(KEY)
        ee.seal(draft)
        await refused(world, asn1.encode(draft.header(), draft.body, bytes(64), draft.extra_certs), "badMessageCheck")
    assert work.done == {"verify": 10}, "one for each message; that the certificate is ours the store knows"
    assert not work.committed


async def test_nothing_unauthenticated_ends_or_moves_a_transaction(world: World, work: Work) -> None:
    """RFC 9483 §3.6.4 ends an operation after a negative answer; a stranger cannot cause one that counts."""
    ee = await world.code()
    answer = await world.send(ee, ee.ir(KEY))
    stranger = EE.with_code("device-1", "not the secret")
    work.forget()
    certificate_der = answer.certificate_der()
    good = ee.cert_conf(answer)
    for draft in (
        stranger.cert_conf(answer),
        stranger.cert_conf(answer, cert_hash=bytes(32)),
        stranger.cert_conf(answer, recip_nonce=None),
        stranger.cert_conf(answer, status=asn1.PKIStatus.rejection),
        stranger.follow(answer, BodyType.error, der.sequence(der.sequence(der.integer(2)))),
        stranger.follow(answer, BodyType.pollReq, der.sequence(der.sequence(der.integer(0)))),
        stranger.ir(KEY, header={"transaction_id": answer.message.header.transactionID}),
    ):
        await refused_either(world, stranger.seal(draft))
        await refused_either(world, asn1.encode(draft.header(), draft.body, None))
    assert not work.committed
    assert (await world.send(ee, good)).type is BodyType.pkiconf
    assert certificate_der in {one.der for one in await world.store.certificates(5) if one.status == "valid"}


async def test_another_code_of_the_same_profile_does_not_move_it_either(world: World) -> None:
    """RFC 9483 §4.1.1: certConf MUST be protected with the credential of the first message."""
    ee, other = await world.code(), await world.code("device-2")
    draft = ee.ir(KEY)
    answer = await world.send(ee, draft)
    before = await world.store.transaction(draft.transaction_id or b"")
    await refused(world, other.seal(other.cert_conf(answer)), "notAuthorized")
    assert await world.store.transaction(draft.transaction_id or b"") == before
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf


async def test_a_sender_that_is_no_name_costs_nothing(world: World, work: Work) -> None:
    ee = EE.with_code("x", "y")
    for sender in (
        directory_name(",".join(["CN=x"] * 5000)),
        der.explicit(4, b"\x30\x80"),
        der.tlv(0x82, bytes(50_000)),
    ):
        draft = ee.ir(KEY, header={**pbm(500), "sender": sender, "sender_kid": None})
        await refused_either(world, asn1.encode(draft.header(), draft.body, bytes(32)))
    assert not work.done
    assert not work.committed
