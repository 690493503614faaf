"""MAC-based protection: RFC 9483 §4.1.5, RFC 9481 §6.1, RFC 4211 §4.4, RFC 9579."""

import hashlib
import hmac
import random

import pytest
from cryptography.x509 import ObjectIdentifier

from cmpd import asn1, protection
from cmpd.asn1 import der, oids
from cmpd.errors import BadAlg, BadMessageCheck, CMPError, WrongIntegrity
from cmpd.limits import Limits
from cmpd.protection import check_mac, mac
from tests.asn1.vectors import vector
from tests.ee import EE, HMAC, OWF, new_key

LIMITS = Limits()
SECRET = b"S3cr3t-0815"
HASHES = ("sha1", "sha224", "sha256", "sha384", "sha512")
SALT = bytes(range(16))

VECTORS = {
    "openssl/65-test_cmp_protect_data/IP_PBM.der": b"insta",
    "openssl/65-test_cmp_server_data/CR_protected_PBM_1234.der": b"1234",
    "openssl/65-test_cmp_vfy_data/IP_waitingStatus_PBM.der": b"9pp8-b35i-Xd3Q-udNR",
    **dict.fromkeys(
        (
            f"rustcrypto-cmpv2/{name}_01.bin"
            for name in (
                "ir_req",
                "cr_req",
                "kur_req",
                "genm_req",
                "p10cr_req",
                "rr_req",
                "genm_rsp",
                "kur_rsp",
                "p10cr_rsp",
                "rr_rsp",
            )
        ),
        b"1234-5678-1234-5678",
    ),
}


def algorithm(oid: ObjectIdentifier, *, null: bool = True) -> bytes:
    return der.sequence(der.oid(oid), der.null()) if null else der.sequence(der.oid(oid))


def pbm(
    *,
    iterations: int = 500,
    salt: bytes = SALT,
    owf: ObjectIdentifier = oids.SHA256,
    mac: ObjectIdentifier = oids.HMAC_SHA256,
) -> bytes:
    parameter = der.sequence(
        der.octet_string(salt), algorithm(owf, null=False), der.integer(iterations), algorithm(mac)
    )
    return der.sequence(der.oid(oids.PASSWORD_BASED_MAC), parameter)


def pbmac1(
    *,
    iterations: int = 500,
    salt: bytes | None = None,
    key_length: int | None = 32,
    prf: ObjectIdentifier | None = oids.HMAC_SHA256,
    mac: ObjectIdentifier = oids.HMAC_SHA256,
    kdf: ObjectIdentifier = oids.PBKDF2,
) -> bytes:
    parameters = der.sequence(
        der.octet_string(SALT) if salt is None else salt,
        der.integer(iterations),
        b"" if key_length is None else der.integer(key_length),
        b"" if prf is None else algorithm(prf),
    )
    return der.sequence(der.oid(oids.PBMAC1), der.sequence(der.sequence(der.oid(kdf), parameters), algorithm(mac)))


def message(algorithm_der: bytes, key: bytes | None = None, hash_name: str = "sha256") -> asn1.PKIMessage:
    """An ir with that protectionAlg, its MAC made with `key`, or a wrong one."""
    draft = EE.with_code("ref", SECRET).ir(new_key(), header={"algorithm": algorithm_der})
    part = asn1.protected_part(draft.header(), draft.body)
    value = bytes(32) if key is None else hmac.digest(key, part, hash_name)
    return asn1.decode(asn1.encode(draft.header(), draft.body, value), LIMITS)


@pytest.mark.parametrize("hash_name", HASHES)
@pytest.mark.parametrize("mac_name", HASHES)
@pytest.mark.parametrize("pbmac1", [False, True], ids=["PasswordBasedMac", "PBMAC1"])
def test_every_owf_and_prf_with_every_mac(hash_name: str, mac_name: str, pbmac1: bool) -> None:
    """What an implementation of its own has protected verifies, and with another secret it does not."""
    ee = EE.with_code("ref", SECRET, owf=hash_name, mac=mac_name, pbmac1=pbmac1)
    found = asn1.decode(ee.seal(ee.ir(new_key())), LIMITS)
    key = check_mac(found, SECRET, LIMITS)
    with pytest.raises(BadMessageCheck):
        check_mac(found, SECRET + b"x", LIMITS)
    with pytest.raises(BadMessageCheck):
        check_mac(found, b"", LIMITS)
    assert found.header.protectionAlg is not None
    assert key.algorithm_der == asn1.dump(found.header.protectionAlg), "the answer repeats the client's parameters"
    assert key.protect(found.protected_part()) == found.protection


@pytest.mark.parametrize("oid", [oids.HMAC_SHA1_IPSEC, oids.HMAC_SHA1], ids=["RFC 4210", "PKCS #5"])
def test_hmac_sha1_under_both_identifiers(oid: ObjectIdentifier) -> None:
    key = hashlib.sha256(SECRET + SALT).digest()
    for _ in range(499):
        key = hashlib.sha256(key).digest()
    check_mac(message(pbm(mac=oid), key, "sha1"), SECRET, LIMITS)


def test_pbkdf2_without_prf_means_hmac_sha1() -> None:
    """RFC 8018 §A.2: prf DEFAULT algid-hmacWithSHA1."""
    key = hashlib.pbkdf2_hmac("sha1", SECRET, SALT, 500, 32)
    check_mac(message(pbmac1(prf=None), key), SECRET, LIMITS)


@pytest.mark.parametrize("path", VECTORS)
def test_messages_of_other_implementations(path: str) -> None:
    found = asn1.decode(vector(path), LIMITS)
    check_mac(found, VECTORS[path], LIMITS)
    with pytest.raises(BadMessageCheck):
        check_mac(found, VECTORS[path][:-1], LIMITS)


@pytest.mark.parametrize("path", VECTORS)
def test_a_flipped_bit_never_verifies(path: str) -> None:
    """Outside extraCerts, which no protection covers (RFC 9810 §5.1), no bit can change."""
    data = vector(path)
    whole = asn1.decode(data, LIMITS)
    end = len(data) - (
        len(asn1.encode(whole.header_der, whole.body_der, whole.protection, whole.extraCerts))
        - len(asn1.encode(whole.header_der, whole.body_der, whole.protection))
    )
    chance = random.Random(path)
    for bit in chance.sample(range(end * 8), min(300, end * 8)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        try:
            found = asn1.decode(bytes(flipped), LIMITS)
        except asn1.MalformedError:
            continue
        with pytest.raises(CMPError):
            check_mac(found, VECTORS[path], LIMITS)


REFUSED = {
    "100 million iterations": pbm(iterations=100_000_000),
    "2**63 iterations": pbm(iterations=2**63),
    "2**2000 iterations": pbm(iterations=2**2000),
    "one above the limit": pbm(iterations=LIMITS.mac_iterations + 1),
    "99 iterations": pbm(iterations=99),
    "no iterations": pbm(iterations=0),
    "negative iterations": pbm(iterations=-500),
    "PBMAC1, 100 million iterations": pbmac1(iterations=100_000_000),
    "PBMAC1, 2**63 iterations": pbmac1(iterations=2**63),
    "PBMAC1, 99 iterations": pbmac1(iterations=99),
    "salt of 257 octets": pbm(salt=bytes(257)),
    "salt of 7 octets": pbm(salt=bytes(7)),
    "no salt": pbm(salt=b""),
    "PBMAC1, salt of 257 octets": pbmac1(salt=der.octet_string(bytes(257))),
    "PBMAC1, salt from another source": pbmac1(salt=algorithm(oids.HMAC_SHA256)),
    "PBMAC1 without keyLength": pbmac1(key_length=None),
    "PBMAC1, keyLength 0": pbmac1(key_length=0),
    "PBMAC1, keyLength 1": pbmac1(key_length=1),
    "PBMAC1, keyLength 15": pbmac1(key_length=15),
    "PBMAC1, keyLength 65": pbmac1(key_length=65),
    "PBMAC1, keyLength 2**40": pbmac1(key_length=2**40),
    "PBMAC1, keyLength -1": pbmac1(key_length=-1),
    "PBMAC1, another KDF": pbmac1(kdf=oids.HMAC_SHA256),
    "PBMAC1, unknown PRF": pbmac1(prf=oids.SHA256),
    "PBMAC1, unknown MAC": pbmac1(mac=oids.SHA256),
    "MD5 as owf": pbm(owf=ObjectIdentifier("1.2.840.113549.2.5")),
    "HMAC-MD5": pbm(mac=ObjectIdentifier("1.3.6.1.5.5.8.1.1")),
    "no parameters": der.sequence(der.oid(oids.PASSWORD_BASED_MAC)),
    "NULL parameters": algorithm(oids.PASSWORD_BASED_MAC),
    "PBMAC1 without parameters": der.sequence(der.oid(oids.PBMAC1)),
    "PBMAC1 with the parameters of PBM": der.sequence(der.oid(oids.PBMAC1), der.children(pbm())[1]),
    "PBM with an OCTET STRING": der.sequence(der.oid(oids.PASSWORD_BASED_MAC), der.octet_string(b"x")),
}


@pytest.mark.parametrize("algorithm_der", REFUSED.values(), ids=REFUSED)
def test_parameters_are_refused_before_any_derivation(algorithm_der: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9810 §8.6: what a stranger's header asks for is bounded before it is done."""

    def derive(*_: object) -> bytes:
        raise AssertionError("a key was derived")

    monkeypatch.setattr(protection, "derive", derive)
    monkeypatch.setattr(mac, "derive", derive)
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", derive)
    with pytest.raises(BadAlg, match="protectionAlg"):
        check_mac(message(algorithm_der), SECRET, LIMITS)


def test_a_mac_key_that_can_be_guessed_is_refused() -> None:
    """With keyLength 1 anybody who sends 256 messages gets one through: RFC 9579 §5 wants the size of the hash."""
    key = hashlib.pbkdf2_hmac("sha256", SECRET, SALT, 500, 1)
    with pytest.raises(BadAlg, match="keyLength"):
        check_mac(message(pbmac1(key_length=1), key), SECRET, LIMITS)


@pytest.mark.parametrize("iterations", [100, LIMITS.mac_iterations])
def test_iterations_at_the_limits_are_accepted(iterations: int) -> None:
    found = asn1.parse(asn1.AlgorithmIdentifier, pbm(iterations=iterations, salt=bytes(LIMITS.mac_salt)))
    assert mac.parameters(found, LIMITS).iterations == iterations
    found = asn1.parse(asn1.AlgorithmIdentifier, pbmac1(iterations=iterations, salt=der.octet_string(bytes(8))))
    assert mac.parameters(found, LIMITS).iterations == iterations


def test_derivation_is_that_of_rfc_4211() -> None:
    """RFC 4211 §4.4: the salt is appended to the secret, and OWF applied iterationCount times."""
    found = asn1.parse(asn1.AlgorithmIdentifier, pbm(iterations=100, owf=oids.SHA384))
    expected = SECRET + SALT
    for _ in range(100):
        expected = hashlib.sha384(expected).digest()
    assert mac.derive(mac.parameters(found, LIMITS), SECRET) == expected


@pytest.mark.parametrize("value", [b"", b"\x00", bytes(20), bytes(31), bytes(33), bytes(5000)], ids=len)
def test_a_mac_of_another_length_is_refused(value: bytes) -> None:
    draft = EE.with_code("ref", SECRET).ir(new_key(), header={"algorithm": pbm()})
    found = asn1.decode(asn1.encode(draft.header(), draft.body, value), LIMITS)
    with pytest.raises(BadMessageCheck):
        check_mac(found, SECRET, LIMITS)


def test_a_truncated_mac_is_refused() -> None:
    ee = EE.with_code("ref", SECRET)
    draft = ee.ir(new_key())
    whole = asn1.decode(ee.seal(draft), LIMITS)
    assert whole.protection is not None
    for length in range(len(whole.protection)):
        found = asn1.decode(asn1.encode(draft.header(), draft.body, whole.protection[:length]), LIMITS)
        with pytest.raises(BadMessageCheck):
            check_mac(found, SECRET, LIMITS)


@pytest.mark.parametrize(
    "algorithm_der", [None, algorithm(oids.ED25519, null=False), algorithm(OWF["sha256"]), algorithm(HMAC["sha256"])]
)
def test_what_is_no_mac_is_wrong_integrity(algorithm_der: bytes | None) -> None:
    draft = EE.with_code("ref", SECRET).ir(new_key(), header={"algorithm": algorithm_der})
    with pytest.raises(WrongIntegrity):
        check_mac(asn1.decode(asn1.encode(draft.header(), draft.body, bytes(32)), LIMITS), SECRET, LIMITS)


def test_an_unprotected_message_is_wrong_integrity() -> None:
    draft = EE.with_code("ref", SECRET).ir(new_key(), header={"algorithm": pbm()})
    with pytest.raises(WrongIntegrity):
        check_mac(asn1.decode(asn1.encode(draft.header(), draft.body, None), LIMITS), SECRET, LIMITS)


def test_keys_and_secrets_are_never_printed() -> None:
    ee = EE.with_code("ref", SECRET)
    key = check_mac(asn1.decode(ee.seal(ee.ir(new_key())), LIMITS), SECRET, LIMITS)
    for text in (repr(key), str(key), f"{key}"):
        assert repr(key.key)[2:-1] not in text
        assert key.key.hex() not in text
        assert SECRET.decode() not in text
    with pytest.raises(BadMessageCheck) as caught:
        check_mac(asn1.decode(ee.seal(ee.ir(new_key())), LIMITS), SECRET + b"!", LIMITS)
    assert SECRET.decode() not in repr(caught.value) + str(caught.value.private)


def test_the_reference_is_sender_kid_else_the_common_name() -> None:
    """RFC 9483 §3.1, §4.1.5; stock clients leave the one or the other out."""
    ee = EE.with_code("ref", SECRET)

    def reference(**fields: object) -> bytes:
        return protection.mac_reference(asn1.decode(ee.seal(ee.ir(new_key(), header=fields)), LIMITS))

    assert reference() == b"ref"
    assert reference(sender_kid=b"other") == b"other"
    assert reference(sender_kid=None) == b"ref"
    assert reference(sender_kid=b"") == b"ref"
    for sender in (
        der.explicit(4, der.sequence()),
        der.tlv(0x82, b"dns.example"),
        der.explicit(4, der.sequence(der.set_of(der.sequence(der.oid(oids.ORGANIZATION_NAME), der.utf8_string("x"))))),
    ):
        with pytest.raises(BadMessageCheck, match="names a shared secret"):
            reference(sender_kid=None, sender=sender)
