"""RFC 4211 §4, RFC 9810 §5.2.8, RFC 9483 §4.1: proof-of-possession, through the whole service."""

import hashlib
import hmac
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.asn1 import BodyType, der, oids
from cmpd.limits import Limits
from tests.ee import EE, Answer, Draft, directory_name, name, new_key, sign, signature_algorithm, spki
from tests.world import SECRET, World, certificate, vendor

CMC_RA = oids.KP_CMC_RA
RA_VERIFIED = b"\x80\x00"


def pem(world: World, file: str, *certificates: x509.Certificate) -> str:
    (world.base / file).write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in certificates))
    return file


def bad_pop(answer: Answer, text: str = "") -> None:
    """RFC 9483 §3.6.2: a fault in the body of an ir is told in an ip."""
    assert answer.type in {BodyType.ip, BodyType.cp, BodyType.kup}
    assert answer.fail_info == "badPOP", answer.text
    assert answer.protected
    assert answer.body.response[0].certifiedKeyPair is None
    assert text in answer.text


async def issued(world: World) -> int:
    return len(await world.store.certificates(1000))


KINDS = [
    ("rsa-2048", "sha256", False),
    ("rsa-2048", "sha512", False),
    ("rsa-3072", "sha384", True),
    ("ec-p256", "sha256", False),
    ("ec-p384", "sha384", False),
    ("ec-p521", "sha512", False),
    ("ed25519", "sha256", False),
    ("ed448", "sha256", False),
    ("ml-dsa-44", "sha256", False),
    ("ml-dsa-65", "sha256", False),
    ("ml-dsa-87", "sha256", False),
]


@pytest.mark.parametrize(("kind", "hash_name", "pss"), KINDS)
async def test_a_signature_by_every_kind_of_key(world: World, kind: str, hash_name: str, pss: bool) -> None:
    """RFC 9483 §4.1.1: signed over certReq by the key to be certified."""
    ee = await world.code(uses=None)
    key = new_key(kind)
    answer = await world.send(ee, ee.ir(key, hash_name=hash_name, pss=pss))
    assert answer.status.name == "accepted", answer.text
    assert spki(key) in answer.certificate_der()


@pytest.mark.parametrize("kind", ["rsa-2048", "ec-p256", "ed25519", "ed448", "ml-dsa-44"])
async def test_a_signature_by_another_key_of_the_same_kind(world: World, kind: str) -> None:
    ee = await world.code()
    key, other = new_key(kind), new_key(kind)
    template = der.sequence(der.explicit(5, name("CN=device-1")), der.tlv(0xA6, *der.children(spki(key))))
    bad_pop(await world.send(ee, ee.ir(other, template=template)), "does not verify")
    assert await issued(world) == 0
    assert await world.used() == 0


async def test_a_signature_by_a_key_of_another_kind(world: World) -> None:
    ee = await world.code(uses=None)
    for mine, other in (("ec-p256", "ed25519"), ("ed25519", "ec-p256"), ("ml-dsa-44", "ml-dsa-65")):
        template = der.sequence(der.explicit(5, name("CN=device-1")), der.tlv(0xA6, *der.children(spki(new_key(mine)))))
        bad_pop(await world.send(ee, ee.ir(new_key(other), template=template)), "does not fit the public key")


async def test_a_signature_over_something_else(world: World) -> None:
    ee = await world.code(uses=None)
    key = new_key()
    for signed in (b"", b"something else", spki(key)):
        popo = der.tlv(0xA1, signature_algorithm(key), der.bit_string(sign(key, signed)))
        bad_pop(await world.send(ee, ee.ir(key, popo=popo)), "does not verify")


async def test_a_signature_that_was_made_for_another_request(world: World) -> None:
    """The same key, but the certReq was changed after it was signed."""
    ee = await world.code()
    key = new_key()
    request, popo = der.children(ee.cert_req_msg(key, "CN=device-1"))
    assert request
    bad_pop(await world.send(ee, ee.ir(key, subject="CN=device-2", popo=popo)), "does not verify")


async def test_an_empty_and_a_truncated_signature(world: World) -> None:
    ee = await world.code(uses=None)
    key = new_key()
    for value in (b"", b"\x00", bytes(64)):
        popo = der.tlv(0xA1, signature_algorithm(key), der.bit_string(value))
        bad_pop(await world.send(ee, ee.ir(key, popo=popo)), "does not verify")


async def test_a_sha1_signature_only_where_the_profile_allows_it(world: World) -> None:
    ee = await world.code(uses=None)
    bad_pop(await world.send(ee, ee.ir(hash_name="sha1")), "not allowed")
    world.profile(enrollment={"authentication_method": "enrollment_code", "legacy": {"sha1_signatures": True}})
    answer = await world.send(ee, ee.ir(hash_name="sha1"))
    assert answer.status.name == "accepted", answer.text


@pytest.mark.parametrize("body", ["ir", "cr", "kur"])
async def test_a_missing_pop(world: World, body: str) -> None:
    """RFC 9483 §4.1.1: popo is REQUIRED."""
    ee = await world.enrolled() if body == "kur" else await world.code()
    before = await issued(world)
    bad_pop(await world.send(ee, getattr(ee, body)(popo=b"")), "missing")
    assert await issued(world) == before


@pytest.mark.parametrize("tag", [2, 3], ids=["keyEncipherment", "keyAgreement"])
@pytest.mark.parametrize(
    "inner",
    [der.tlv(0x81, b"\x00"), der.tlv(0x82, b"\x00\x00"), der.null()],
    ids=["subsequentMessage", "dhMAC", "junk"],
)
async def test_other_proofs_are_refused_in_words(world: World, tag: int, inner: bytes) -> None:
    ee = await world.code()
    bad_pop(
        await world.send(ee, ee.ir(popo=der.explicit(tag, inner))), "keyEncipherment and keyAgreement are not supported"
    )


async def test_a_key_that_cannot_sign(world: World) -> None:
    """X25519 cannot prove possession by a signature; it is refused in words, whatever the popo says."""
    ee = await world.code(uses=None)
    key = x25519.X25519PrivateKey.generate()
    signer = new_key()
    popo = der.tlv(0xA1, signature_algorithm(signer), der.bit_string(sign(signer, b"x")))
    answer = await world.send(ee, ee.ir(key, popo=popo))
    assert answer.fail_info in {"badAlg", "badPOP"}
    assert "not of a signature algorithm" in answer.text


# ------------------------------------------------------------------------------------------------------ poposkInput


def key_only(key: Any) -> bytes:
    """A certTemplate without subject: what poposkInput is for (RFC 4211 §4.1)."""
    return der.sequence(der.tlv(0xA6, *der.children(spki(key))))


def popo_with_input(key: Any, auth_info: bytes, *, public: bytes | None = None, signed: bytes | None = None) -> bytes:
    given = der.sequence(auth_info, public or spki(key))
    value = sign(key, given if signed is None else signed)
    return der.tlv(0xA1, b"\xa0" + given[1:], signature_algorithm(key), der.bit_string(value))


def sender_info(text: str) -> bytes:
    return der.tlv(0xA0, directory_name(text))


def public_key_mac(
    public: bytes,
    secret: bytes = SECRET.encode(),
    *,
    iterations: int = 500,
    owf: str = "sha256",
    value: bytes | None = None,
) -> bytes:
    salt = bytes(range(16))
    key = secret + salt
    for _ in range(min(iterations, 5000)):
        key = hashlib.new(owf, key).digest()
    parameter = der.sequence(
        der.octet_string(salt),
        der.sequence(der.oid(oids.SHA256)),
        der.integer(iterations),
        der.sequence(der.oid(oids.HMAC_SHA256), der.null()),
    )
    algorithm = der.sequence(der.oid(oids.PASSWORD_BASED_MAC), parameter)
    found = hmac.digest(key, public, "sha256") if value is None else value
    return der.sequence(algorithm, der.bit_string(found))


@pytest.fixture
def lenient(world: World) -> World:
    """A profile that does not need a subject, with a vendor's certificates as a way in."""
    world.profile(subject={"common_name": {"include": "optional"}}, san={"dns": {"include": "optional"}})
    return world


async def test_poposk_input_with_public_key_mac(lenient: World) -> None:
    """RFC 4211 §4.1: the shared secret binds the key to its holder, when the template does not name it."""
    ee = await lenient.code()
    key = new_key()
    popo = popo_with_input(key, public_key_mac(spki(key)))
    answer = await lenient.send(ee, ee.ir(key, template=key_only(key), popo=popo))
    # the POP is right; whether a request without a subject gets a certificate is the profile's business
    assert answer.fail_info != "badPOP", answer.text


async def test_poposk_input_with_a_wrong_public_key_mac(lenient: World) -> None:
    ee = await lenient.code()
    key = new_key()
    for auth_info in (
        public_key_mac(spki(key), b"another secret"),
        public_key_mac(spki(new_key())),
        public_key_mac(spki(key), value=b""),
        public_key_mac(spki(key), value=bytes(32)),
    ):
        popo = popo_with_input(key, auth_info)
        bad_pop(await lenient.send(ee, ee.ir(key, template=key_only(key), popo=popo)), "publicKeyMAC")


async def test_poposk_input_buys_no_long_derivation(lenient: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """publicKeyMAC is derived on the event loop and there may be many: its iterationCount stays small."""
    ee = await lenient.code()
    key = new_key()
    for iterations in (Limits().inline_iterations + 1, 100_000, 100_000_000):
        popo = popo_with_input(key, public_key_mac(spki(key), iterations=iterations))
        answer = await lenient.send(ee, ee.ir(key, template=key_only(key), popo=popo))
        assert "iterationCount" in answer.text
        assert answer.fail_info in {"badPOP", "badAlg"}


async def test_poposk_input_with_another_key(lenient: World) -> None:
    ee = await lenient.code()
    key, other = new_key(), new_key()
    popo = popo_with_input(key, public_key_mac(spki(other)), public=spki(other))
    bad_pop(await lenient.send(ee, ee.ir(key, template=key_only(key), popo=popo)), "publicKey of poposkInput")


async def test_poposk_input_with_a_signature_over_the_request(lenient: World) -> None:
    """RFC 4211 §4.1: with poposkInput the signature is over it, and not over certReq."""
    ee = await lenient.code()
    key = new_key()
    request = der.sequence(der.integer(0), key_only(key))
    popo = popo_with_input(key, public_key_mac(spki(key)), signed=request)
    bad_pop(await lenient.send(ee, ee.ir(key, template=key_only(key), popo=popo)), "does not verify")


async def test_without_subject_poposk_input_is_needed(lenient: World) -> None:
    """RFC 4211 §4.1: "If the certTemplate does not contain both subject and publicKey, poposkInput MUST be present"."""
    ee = await lenient.code()
    key = new_key()
    bad_pop(await lenient.send(ee, ee.ir(key, template=key_only(key))), "poposkInput is needed")


async def test_with_subject_poposk_input_is_refused(world: World) -> None:
    """RFC 4211 §4.1: "... MUST be omitted when the certTemplate contains subject and publicKey"."""
    ee = await world.code()
    key = new_key()
    bad_pop(await world.send(ee, ee.ir(key, popo=popo_with_input(key, public_key_mac(spki(key))))), "must be omitted")


async def test_poposk_input_with_a_sender_whom_nobody_has_authenticated(lenient: World) -> None:
    ee = await lenient.code()
    key = new_key()
    popo = popo_with_input(key, sender_info("CN=device-1"))
    bad_pop(await lenient.send(ee, ee.ir(key, template=key_only(key), popo=popo)), "no certificate has authenticated")


async def test_poposk_input_with_the_authenticated_sender(lenient: World) -> None:
    """RFC 4211 §4.1: sender is for when the CA/RA has authenticated it by other means."""
    ee = await lenient.enrolled(subject="CN=device-1")
    key = new_key()
    popo = popo_with_input(key, sender_info("CN=device-1"))
    answer = await lenient.send(ee, ee.kur(key, template=key_only(key), popo=popo))
    assert answer.status.name == "accepted", answer.text
    assert answer.certificate().subject.rfc4514_string() == "CN=device-1"


async def test_poposk_input_with_another_sender(lenient: World) -> None:
    ee = await lenient.enrolled(subject="CN=device-1")
    key = new_key()
    for sender in (sender_info("CN=device-2"), sender_info(""), der.tlv(0xA0, der.tlv(0x82, b"device-1"))):
        popo = popo_with_input(key, sender)
        bad_pop(await lenient.send(ee, ee.kur(key, template=key_only(key), popo=popo)), "not the authenticated sender")


async def test_poposk_input_with_public_key_mac_from_one_without_a_code(lenient: World) -> None:
    ee = await lenient.enrolled()
    key = new_key()
    popo = popo_with_input(key, public_key_mac(spki(key)))
    bad_pop(await lenient.send(ee, ee.kur(key, template=key_only(key), popo=popo)), "needs an enrollment code")


@pytest.mark.parametrize(
    "auth_info",
    [
        der.sequence(),
        der.null(),
        der.tlv(0xA0),
        der.tlv(0xA0, der.integer(1)),
        der.tlv(0xA1, der.null()),
        der.sequence(der.sequence(der.oid(oids.SHA256)), der.bit_string(b"x")),
    ],
)
async def test_poposk_input_of_junk(lenient: World, auth_info: bytes) -> None:
    for ee, body in ((await lenient.code(), "ir"), (await lenient.enrolled(), "kur")):
        key = new_key()
        draft = getattr(ee, body)(key, template=key_only(key), popo=popo_with_input(key, auth_info))
        answer = await lenient.send(ee, draft)
        assert answer.fail_info in {"badPOP", "badDataFormat", "badAlg"}, answer.text
        assert lenient.last.exception is None


# ------------------------------------------------------------------------------------------------------- raVerified


def ra(
    subject: str = "RA 1", *, eku: bool = True, root: tuple[Any, x509.Certificate] | None = None
) -> tuple[EE, x509.Certificate]:
    root_key, anchor = root or (key := new_key(), certificate(key, "RA Root", ca=True))
    key = new_key()
    leaf = certificate(key, subject, root_key, anchor, eku=[CMC_RA] if eku else None)
    return EE.with_certificate(key, leaf.public_bytes(Encoding.DER)), anchor


def ra_draft(ee: EE, body: str = "cr", key: Any = None) -> Draft:
    draft: Draft = getattr(ee, body)(key, subject="CN=device-9", popo=RA_VERIFIED)
    return draft


async def test_ra_verified_from_an_ee(world: World) -> None:
    """RFC 9483 §4.1.1: raVerified MUST NOT be used by an EE; neither code nor certificate helps."""
    ee = await world.code()
    bad_pop(await world.send(ee, ee.ir(popo=RA_VERIFIED)), "raVerified")
    enrolled = await world.enrolled()
    bad_pop(await world.send(enrolled, enrolled.cr(popo=RA_VERIFIED)), "raVerified")
    bad_pop(await world.send(enrolled, enrolled.kur(popo=RA_VERIFIED)), "raVerified")


async def test_ra_verified_from_a_trusted_vendor_certificate(world: World) -> None:
    ee, root = vendor()
    world.profile(
        enrollment={"authentication_method": "tls_certificate", "trusted_certificates": [pem(world, "v.pem", root)]}
    )
    bad_pop(await world.send(ee, ee.ir(popo=RA_VERIFIED)), "raVerified")


@pytest.mark.parametrize("body", ["ir", "cr"])
async def test_ra_verified_from_an_authorised_ra(world: World, body: str) -> None:
    ee, root = ra()
    _, vendor_root = vendor()
    world.profile(
        enrollment={
            "authentication_method": "tls_certificate",
            "trusted_certificates": [pem(world, "vendor.pem", vendor_root)],
            "ra_certificates": [pem(world, "ra.pem", root)],
        }
    )
    answer = await world.send(ee, ra_draft(ee, body))
    assert answer.status.name == "accepted", (answer.text, world.last.private)
    assert answer.certificate().subject.rfc4514_string() == "CN=device-9"


async def test_ra_verified_from_a_listed_ra_certificate_itself(world: World) -> None:
    """ra_certificates may name the RA's own certificate rather than its CA."""
    ee, _ = ra()
    assert ee.certificate is not None
    own = x509.load_der_x509_certificate(ee.certificate)
    world.profile(
        enrollment={"authentication_method": "enrollment_code", "ra_certificates": [pem(world, "ra.pem", own)]}
    )
    answer = await world.send(ee, ra_draft(ee))
    assert answer.status.name == "accepted", answer.text


async def test_ra_verified_with_cmc_ra_but_not_listed(world: World) -> None:
    """The purpose alone is nothing: a vendor's CA, trusted for devices, could put it in any certificate."""
    ee, vendor_root = ra()
    _, ra_root = ra("RA 2")
    world.profile(
        enrollment={
            "authentication_method": "enrollment_code",
            "trusted_certificates": [pem(world, "vendor.pem", vendor_root)],
            "ra_certificates": [pem(world, "ra.pem", ra_root)],
        }
    )
    bad_pop(await world.send(ee, ra_draft(ee)), "raVerified")


async def test_ra_verified_with_cmc_ra_and_no_list_at_all(world: World) -> None:
    ee, vendor_root = ra()
    world.profile(
        enrollment={
            "authentication_method": "enrollment_code",
            "trusted_certificates": [pem(world, "v.pem", vendor_root)],
        }
    )
    bad_pop(await world.send(ee, ra_draft(ee)), "raVerified")


async def test_ra_verified_from_a_listed_one_without_cmc_ra(world: World) -> None:
    ee, root = ra(eku=False)
    table = {"authentication_method": "enrollment_code", "ra_certificates": [pem(world, "ra.pem", root)]}
    world.profile(enrollment=table)
    answer = await world.send(ee, ra_draft(ee))
    assert answer.fail_info == "signerNotTrusted", "it is nobody at all"
    world.profile(enrollment={**table, "trusted_certificates": [pem(world, "trusted.pem", root)]})
    bad_pop(await world.send(ee, ra_draft(ee)), "raVerified")


async def test_ra_verified_from_an_ra_that_nobody_knows(world: World) -> None:
    ee, _ = ra()
    answer = await world.send(ee, ra_draft(ee))
    assert answer.fail_info == "signerNotTrusted"


async def test_ra_verified_from_our_own_cmp_signer_is_refused(world: World) -> None:
    """Our own CMP signing certificate has the cmcRA purpose too, and is no RA of anybody."""
    key, certificates = world.issuer.cmp_credential()  # type: ignore[attr-defined]
    ee = EE.with_certificate(key, certificates[0], tuple(certificates[1:]))
    answer = await world.send(ee, ra_draft(ee))
    assert answer.fail_info == "notAuthorized"
    assert await issued(world) == 0


async def test_an_ra_may_still_send_a_signature(world: World) -> None:
    """And when it does, the signature must be right: RFC 9483 §5.2.3.2 leaves the POP in place."""
    ee, root = ra()
    world.profile(
        enrollment={"authentication_method": "enrollment_code", "ra_certificates": [pem(world, "ra.pem", root)]}
    )
    answer = await world.send(ee, ee.cr(subject="CN=device-9"))
    assert answer.status.name == "accepted", answer.text
    key = new_key()
    popo = der.tlv(0xA1, signature_algorithm(key), der.bit_string(sign(key, b"x")))
    bad_pop(await world.send(ee, ee.cr(key, popo=popo)), "does not verify")


# ------------------------------------------------------------------------------------------------------------ p10cr


def p10cr(
    ee: EE, key: Any, *, signer: Any = None, signed: bytes | None = None, algorithm: bytes | None = None
) -> Draft:
    signer = signer or key
    info = der.sequence(der.integer(0), name("CN=device-1"), spki(key), der.tlv(0xA0))
    value = sign(signer, info if signed is None else signed)
    return ee.draft(BodyType.p10cr, der.sequence(info, algorithm or signature_algorithm(signer), der.bit_string(value)))


@pytest.mark.parametrize("kind", ["rsa-2048", "ec-p384", "ed25519", "ed448", "ml-dsa-65"])
async def test_p10cr_by_every_kind_of_key(world: World, kind: str) -> None:
    ee = await world.code()
    answer = await world.send(ee, p10cr(ee, new_key(kind)))
    assert answer.status.name == "accepted", answer.text
    assert answer.body.response[0].certReqId == -1


async def test_p10cr_with_a_wrong_signature(world: World) -> None:
    """RFC 9483 §4.1.4: its own signature is the POP; the answer's certReqId is -1 here too."""
    ee = await world.code()
    key = new_key()
    for draft in (
        p10cr(ee, key, signer=new_key()),
        p10cr(ee, key, signed=b"something else"),
        p10cr(ee, key, signer=new_key("ed25519")),
        p10cr(ee, key, algorithm=signature_algorithm(new_key("rsa-2048"))),
        p10cr(ee, key, algorithm=signature_algorithm(key, hash_name="sha1")),
        p10cr(ee, key, algorithm=der.sequence(der.oid("1.2.3.4"))),
    ):
        answer = await world.send(ee, draft)
        bad_pop(answer)
        assert answer.type is BodyType.cp
        assert answer.body.response[0].certReqId == -1
    assert await issued(world) == 0
    assert await world.used() == 0


async def test_a_wrong_pop_consumes_no_code_and_the_next_request_may_be_right(world: World) -> None:
    ee = await world.code(uses=1)
    key = new_key()
    bad_pop(await world.send(ee, ee.ir(key, popo=b"")))
    assert await world.used() == 0
    answer = await world.send(ee, ee.ir(key))
    assert answer.status.name == "accepted"
    assert await world.used() == 1
