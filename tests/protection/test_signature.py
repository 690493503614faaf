"""Signature-based protection and certHash: RFC 9481 §2, §3, RFC 9483 §3.2, RFC 9882."""

import hashlib
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ObjectIdentifier

from cmpd import asn1
from cmpd.asn1 import der, oids
from cmpd.errors import BadAlg, BadMessageCheck, CMPError, WrongIntegrity
from cmpd.limits import Limits
from cmpd.protection import SignerCache, check_signature, signature
from tests.asn1.vectors import VECTORS, vector
from tests.ee import EE, OWF, new_key, sign, signature_algorithm, spki
from tests.world import certificate

LIMITS = Limits()
DATA = b"what is protected"

ALGORITHMS = [
    *(("rsa-2048", name, False) for name in ("sha224", "sha256", "sha384", "sha512")),
    *(("rsa-2048", name, True) for name in ("sha256", "sha384", "sha512")),
    *((f"ec-{curve}", name, False) for curve in ("p256", "p384", "p521") for name in ("sha256", "sha384", "sha512")),
    *((name, "sha256", False) for name in ("ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87")),
]
KEY_KINDS = ["rsa-2048", "ec-p256", "ec-p384", "ec-p521", "ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"]


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    """One key of each kind; RSA keys take long to make."""
    return {kind: new_key(kind) for kind in KEY_KINDS}


def parsed(algorithm: bytes) -> asn1.AlgorithmIdentifier:
    return asn1.parse(asn1.AlgorithmIdentifier, algorithm)


def public(key: Any) -> signature.PublicKey:
    return signature.load_public_key(spki(key), LIMITS)


@pytest.mark.parametrize(("kind", "hash_name", "pss"), ALGORITHMS)
def test_every_algorithm(keys: dict[str, Any], kind: str, hash_name: str, pss: bool) -> None:
    """RFC 9481 §3, RFC 9882: a right signature passes; with a flipped bit, or another key, it does not."""
    key = keys[kind]
    algorithm = parsed(signature_algorithm(key, hash_name=hash_name, pss=pss))
    value = sign(key, DATA, hash_name=hash_name, pss=pss)
    signature.verify(algorithm, public(key), value, DATA)
    with pytest.raises(signature.InvalidSignature):
        signature.verify(algorithm, public(key), value, DATA + b"!")
    for bit in random.Random(kind).sample(range(len(value) * 8), 16):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(signature.InvalidSignature):
            signature.verify(algorithm, public(key), bytes(flipped), DATA)
    for wrong in (b"", value[:-1], value + b"\x00", bytes(len(value)), bytes(20000)):
        with pytest.raises(signature.InvalidSignature):
            signature.verify(algorithm, public(key), wrong, DATA)
    other = keys[kind] if kind == "rsa-2048" else new_key(kind)
    if other is not key:
        with pytest.raises(signature.InvalidSignature):
            signature.verify(algorithm, public(other), value, DATA)


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_an_algorithm_that_does_not_fit_the_key(keys: dict[str, Any], kind: str) -> None:
    for other in KEY_KINDS:
        if other[:3] == kind[:3]:
            continue
        algorithm = parsed(signature_algorithm(keys[other]))
        with pytest.raises(BadAlg, match="does not fit"):
            signature.verify(algorithm, public(keys[kind]), sign(keys[other], DATA), DATA)
    if kind != "rsa-2048":
        pss = parsed(signature_algorithm(keys["rsa-2048"], pss=True))
        with pytest.raises(BadAlg, match="does not fit"):
            signature.verify(pss, public(keys[kind]), b"", DATA)


@pytest.mark.parametrize(
    "oid",
    [
        oids.PASSWORD_BASED_MAC,
        oids.SHA256,
        oids.HMAC_SHA256,
        ObjectIdentifier("1.2.840.113549.1.1.4"),
        ObjectIdentifier("1.2.3"),
    ],
)
def test_an_algorithm_that_is_no_signature(keys: dict[str, Any], oid: ObjectIdentifier) -> None:
    with pytest.raises(BadAlg, match="not supported"):
        signature.verify(parsed(der.sequence(der.oid(oid))), public(keys["ec-p256"]), b"", DATA)


@pytest.mark.parametrize(("kind", "pss"), [("rsa-2048", False), ("rsa-2048", True), ("ec-p256", False)])
def test_sha1_is_refused_unless_it_is_allowed(keys: dict[str, Any], kind: str, pss: bool) -> None:
    key = keys[kind]
    algorithm = parsed(signature_algorithm(key, hash_name="sha1", pss=pss))
    value = sign(key, DATA, hash_name="sha1", pss=pss)
    with pytest.raises(BadAlg, match="not allowed"):
        signature.verify(algorithm, public(key), value, DATA)
    signature.verify(algorithm, public(key), value, DATA, allow_sha1=True)
    with pytest.raises(signature.InvalidSignature):
        signature.verify(algorithm, public(key), value, DATA + b"!", allow_sha1=True)


def pss_algorithm(
    *,
    hash_alg: ObjectIdentifier | None = oids.SHA256,
    mgf: bytes | None = None,
    salt: int | None = 32,
    trailer: int | None = None,
) -> asn1.AlgorithmIdentifier:
    parts = []
    if hash_alg is not None:
        parts.append(der.explicit(0, der.sequence(der.oid(hash_alg), der.null())))
    if mgf is not None:
        parts.append(der.explicit(1, mgf))
    if salt is not None:
        parts.append(der.explicit(2, der.integer(salt)))
    if trailer is not None:
        parts.append(der.explicit(3, der.integer(trailer)))
    return parsed(der.sequence(der.oid(oids.RSASSA_PSS), der.sequence(*parts)))


def mgf1(oid: ObjectIdentifier = oids.SHA256) -> bytes:
    return der.sequence(der.oid(oids.MGF1), der.sequence(der.oid(oid), der.null()))


@pytest.mark.parametrize(
    "algorithm",
    [
        pss_algorithm(mgf=None),
        pss_algorithm(hash_alg=None, mgf=mgf1()),
        pss_algorithm(mgf=mgf1(oids.SHA1)),
        pss_algorithm(mgf=mgf1(), salt=513),
        pss_algorithm(mgf=mgf1(), salt=-1),
        pss_algorithm(mgf=mgf1(), salt=2**70),
        pss_algorithm(mgf=mgf1(), trailer=2),
        pss_algorithm(mgf=der.sequence(der.oid(oids.MGF1))),
        pss_algorithm(mgf=der.sequence(der.oid(oids.MGF1), der.octet_string(b"x"))),
        pss_algorithm(mgf=der.sequence(der.oid(oids.SHA256), der.sequence(der.oid(oids.SHA256)))),
        pss_algorithm(mgf=mgf1(oids.HMAC_SHA256)),
        pss_algorithm(hash_alg=oids.SHAKE256, mgf=mgf1()),
        parsed(der.sequence(der.oid(oids.RSASSA_PSS))),
        parsed(der.sequence(der.oid(oids.RSASSA_PSS), der.null())),
        parsed(der.sequence(der.oid(oids.RSASSA_PSS), der.sequence(der.octet_string(b"x")))),
    ],
)
def test_pss_parameters_that_are_refused(keys: dict[str, Any], algorithm: asn1.AlgorithmIdentifier) -> None:
    """RFC 8017 §A.2.3: what is absent means SHA-1, and that is refused too."""
    with pytest.raises(BadAlg, match="RSASSA-PSS"):
        signature.verify(algorithm, public(keys["rsa-2048"]), bytes(256), DATA)


def test_pss_with_the_salt_that_the_parameters_say(keys: dict[str, Any]) -> None:
    key = keys["rsa-2048"]
    value = key.sign(DATA, padding.PSS(padding.MGF1(hashes.SHA256()), 17), hashes.SHA256())
    signature.verify(pss_algorithm(mgf=mgf1(), salt=17, trailer=1), public(key), value, DATA)
    with pytest.raises(signature.InvalidSignature):
        signature.verify(pss_algorithm(mgf=mgf1(), salt=32), public(key), value, DATA)


# ------------------------------------------------------------------------------------------------------ public keys


def rsa_spki(modulus: int, exponent: int = 65537) -> bytes:
    key = der.sequence(der.integer(modulus), der.integer(exponent))
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.null())
    return der.sequence(algorithm, der.bit_string(key))


@pytest.mark.parametrize("bits", [512, 1023, 8193, 16384, 100_000])
def test_an_rsa_key_of_another_size_is_refused(bits: int) -> None:
    with pytest.raises(BadAlg):
        signature.load_public_key(rsa_spki(1 << (bits - 1) | 1), LIMITS)


@pytest.mark.parametrize("bits", [1024, 2048, 8192])
def test_an_rsa_key_within_the_limits_is_accepted(bits: int) -> None:
    key = signature.load_public_key(rsa_spki(1 << (bits - 1) | 1), LIMITS)
    assert isinstance(key, rsa.RSAPublicKey)


def test_an_rsa_exponent_that_makes_verification_dear_is_refused() -> None:
    """A 3000-bit exponent would make a check as dear as some 150 ordinary ones."""
    with pytest.raises(BadAlg, match="exponent"):
        signature.load_public_key(rsa_spki(1 << 3071 | 1, 1 << 3000 | 1), LIMITS)


def test_a_key_that_cannot_sign_is_refused(keys: dict[str, Any]) -> None:
    agree = x25519.X25519PrivateKey.generate()
    with pytest.raises(BadAlg, match="not of a signature algorithm"):
        signature.load_public_key(spki(agree), LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30\x00",
        b"\x30\x80",
        bytes(100),
        der.sequence(der.sequence(der.oid("1.2.3")), der.bit_string(b"x")),
        rsa_spki(0),
        rsa_spki(1 << 2047 | 1, 0),
        rsa_spki(1 << 2047 | 1, 2),
        rsa_spki(-5),
        der.sequence(
            der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.3.1.7")),
            der.bit_string(b"\x04" + bytes(64)),
        ),
        der.sequence(der.sequence(der.oid("1.2.840.10045.2.1")), der.bit_string(b"\x04" + bytes(64))),
        der.sequence(
            der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.2.3.4")), der.bit_string(b"\x04" + bytes(64))
        ),
        der.sequence(der.sequence(der.oid(oids.ED25519)), der.bit_string(bytes(31))),
        der.sequence(der.sequence(der.oid(oids.ML_DSA_44)), der.bit_string(bytes(31))),
    ],
)
def test_a_key_that_cannot_be_read_is_bad_alg(data: bytes) -> None:
    with pytest.raises(BadAlg):
        signature.load_public_key(data, LIMITS)


# --------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(("kind", "hash_name", "pss"), ALGORITHMS)
def test_a_signed_message(keys: dict[str, Any], kind: str, hash_name: str, pss: bool) -> None:
    key = keys[kind]
    own = certificate(key, "signer")
    encoded = own.public_bytes(Encoding.DER)
    ee = EE.with_certificate(key, encoded, hash_name=hash_name, pss=pss)
    found = asn1.decode(ee.seal(ee.ir(new_key())), LIMITS)
    assert check_signature(found, [encoded], LIMITS, datetime.now(UTC)).der == encoded
    changed = asn1.decode(
        asn1.encode(found.header_der, found.body_der, bytes(len(found.protection or b"")), [encoded]), LIMITS
    )
    with pytest.raises(BadMessageCheck):
        check_signature(changed, [encoded], LIMITS, datetime.now(UTC))


def test_a_mac_is_no_signature() -> None:
    ee = EE.with_code("ref", "secret")
    with pytest.raises(WrongIntegrity):
        check_signature(asn1.decode(ee.seal(ee.ir(new_key())), LIMITS), [], LIMITS, datetime.now(UTC))


def pem(path: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((VECTORS / path).read_bytes())


def test_openssl_ed25519() -> None:
    """GENM_protected_Ed.der: signed with a bare key, so that only the signature can be checked."""
    found = asn1.decode(vector("openssl/65-test_cmp_protect_data/GENM_protected_Ed.der"), LIMITS)
    key = serialization.load_pem_private_key(
        (VECTORS / "openssl/65-test_cmp_protect_data/prot_Ed.pem").read_bytes(), None
    )
    assert found.header.protectionAlg is not None
    assert found.protection is not None
    signature.verify(found.header.protectionAlg, public(key), found.protection, found.protected_part())
    with pytest.raises(signature.InvalidSignature):
        signature.verify(
            found.header.protectionAlg, public(key), found.protection, found.protected_part()[:-1] + b"\xff"
        )


@pytest.mark.parametrize(
    ("path", "signer"),
    [
        ("IR_protected_0_extraCerts.der", "insta.cert.pem"),
        ("IR_protected_2_extraCerts.der", "insta.cert.pem"),
        ("IR_protected.der", "server.crt"),
    ],
)
def test_openssl_rsa(path: str, signer: str) -> None:
    folder = "openssl/65-test_cmp_vfy_data/"
    data = vector(folder + path)
    if path == "IR_protected.der":
        data = data.removesuffix(b"\xa1\x02\x30\x00")
        data = der.sequence(data[der.read(vector(folder + path))[1] :])
    found = asn1.decode(data, LIMITS)
    own = pem(folder + signer)
    assert found.header.protectionAlg is not None
    assert found.protection is not None
    key = signature.accept_public_key(own.public_key(), LIMITS)
    signature.verify(found.header.protectionAlg, key, found.protection, found.protected_part(), allow_sha1=True)
    with pytest.raises(signature.InvalidSignature):
        signature.verify(found.header.protectionAlg, key, found.protection, found.body_der, allow_sha1=True)


@pytest.mark.parametrize("name", ["ir_rsp_01", "cr_rsp_01", "failed_kur_rsp_01"])
def test_rustcrypto_ecdsa(name: str) -> None:
    found = asn1.decode(vector(f"rustcrypto-cmpv2/{name}.bin"), LIMITS)
    own = _certificate(vector("rustcrypto-cmpv2/ec384-server-key.crt"))
    known = SignerCache([own.public_bytes(Encoding.DER)], LIMITS)
    message = asn1.decode(
        asn1.encode(found.header_der, found.body_der, found.protection, [own.public_bytes(Encoding.DER)]), LIMITS
    )
    signer = known.find(message, own.not_valid_before_utc)
    known.check(message, signer)
    chance = random.Random(name)
    end = len(message.header_der) + len(message.body_der)
    for bit in chance.sample(range(end * 8), 100):
        part = bytearray(message.header_der + message.body_der)
        part[bit // 8] ^= 0x80 >> bit % 8
        header, body = bytes(part[: len(message.header_der)]), bytes(part[len(message.header_der) :])
        try:
            flipped = asn1.decode(asn1.encode(header, body, message.protection, message.extraCerts), LIMITS)
        except asn1.MalformedError:
            continue
        with pytest.raises(CMPError):
            known.check(flipped, signer)


def _certificate(data: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(data) if data.startswith(b"-----") else x509.load_der_x509_certificate(data)


# --------------------------------------------------------------------------------------------------------- certHash


def signed_by(key: Any, algorithm: hashes.HashAlgorithm | None, *, pss: bool = False) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "certHash")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
    )
    if pss:
        assert algorithm is not None
        scheme = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
        return builder.sign(key, algorithm, rsa_padding=scheme).public_bytes(Encoding.DER)  # type: ignore[arg-type]
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)  # type: ignore[arg-type]


IMPLIED = [
    ("rsa-2048", hashes.SHA224(), False, "sha224"),
    ("rsa-2048", hashes.SHA256(), False, "sha256"),
    ("rsa-2048", hashes.SHA384(), False, "sha384"),
    ("rsa-2048", hashes.SHA512(), False, "sha512"),
    ("rsa-2048", hashes.SHA256(), True, "sha256"),
    ("rsa-2048", hashes.SHA384(), True, "sha384"),
    ("rsa-2048", hashes.SHA512(), True, "sha512"),
    ("ec-p256", hashes.SHA256(), False, "sha256"),
    ("ec-p256", hashes.SHA384(), False, "sha384"),
    ("ec-p521", hashes.SHA512(), False, "sha512"),
    ("ed25519", None, False, "sha512"),
    ("ml-dsa-44", None, False, "sha512"),
    ("ml-dsa-65", None, False, "sha512"),
    ("ml-dsa-87", None, False, "sha512"),
]


@pytest.mark.parametrize(("kind", "algorithm", "pss", "expected"), IMPLIED)
def test_cert_hash_follows_the_signature_algorithm(
    keys: dict[str, Any], kind: str, algorithm: hashes.HashAlgorithm | None, pss: bool, expected: str
) -> None:
    """RFC 9481 §2, RFC 9483 §4.1.1: the hash of the algorithm that the certificate is signed with."""
    data = signed_by(keys[kind], algorithm, pss=pss)
    assert signature.certificate_hash(data, None) == hashlib.new(expected, data).digest()


def test_cert_hash_of_an_ed448_certificate_is_shake256_of_64_octets(keys: dict[str, Any]) -> None:
    """RFC 9481 §3.3."""
    data = signed_by(keys["ed448"], None)
    found = signature.certificate_hash(data, None)
    assert found == hashlib.shake_256(data).digest(64)
    assert len(found) == 64


@pytest.mark.parametrize("name", OWF)
def test_cert_hash_by_hash_alg(keys: dict[str, Any], name: str) -> None:
    """RFC 9810 §5.3.18: hashAlg says it, whatever the certificate is signed with."""
    for kind in ("ec-p256", "ed25519", "ml-dsa-44"):
        data = signed_by(keys[kind], hashes.SHA256() if kind == "ec-p256" else None)
        for encoded in (der.sequence(der.oid(OWF[name])), der.sequence(der.oid(OWF[name]), der.null())):
            assert signature.certificate_hash(data, parsed(encoded)) == hashlib.new(name, data).digest()


def test_cert_hash_by_shake(keys: dict[str, Any]) -> None:
    """RFC 9481 §2.2: SHAKE128 with 256 and SHAKE256 with 512 bits of output."""
    data = signed_by(keys["ed448"], None)
    by_128 = signature.certificate_hash(data, parsed(der.sequence(der.oid(oids.SHAKE128))))
    by_256 = signature.certificate_hash(data, parsed(der.sequence(der.oid(oids.SHAKE256))))
    assert by_128 == hashlib.shake_128(data).digest(32)
    assert by_256 == hashlib.shake_256(data).digest(64)


def test_cert_hash_by_what_is_no_hash_is_bad_alg(keys: dict[str, Any]) -> None:
    data = signed_by(keys["ec-p256"], hashes.SHA256())
    for oid in (oids.HMAC_SHA256, oids.ECDSA_SHA256, ObjectIdentifier("1.2.840.113549.2.5")):
        with pytest.raises(BadAlg, match="hashAlg"):
            signature.certificate_hash(data, parsed(der.sequence(der.oid(oid))))


def test_signature_algorithm_reads_the_outer_one(keys: dict[str, Any]) -> None:
    for kind, algorithm in (("ec-p384", hashes.SHA384()), ("rsa-2048", hashes.SHA256()), ("ed25519", None)):
        data = signed_by(keys[kind], algorithm)
        found = signature.signature_algorithm(data)
        assert found.algorithm == x509.load_der_x509_certificate(data).signature_algorithm_oid


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_what_our_signer_signs_verifies(keys: dict[str, Any], kind: str) -> None:
    """RFC 9483 §3.2: our own answers, whatever key the issuer brings."""
    signer = signature.Signer.of(keys[kind])
    value = signer.protect(DATA)
    signature.verify(parsed(signer.algorithm_der), public(keys[kind]), value, DATA)
    assert "_sign" not in repr(signer)


def test_a_signer_without_a_signature_key_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be a"):
        signature.Signer.of(x25519.X25519PrivateKey.generate())


def test_binary_and_brainpool_curves_verify() -> None:
    """What a vendor's IDevID may be signed with; what may be certified is the profile's business."""
    for curve in (ec.BrainpoolP256R1(), ec.SECP256K1()):
        key = ec.generate_private_key(curve)
        algorithm = parsed(signature_algorithm(key))
        signature.verify(algorithm, public(key), sign(key, DATA), DATA)
