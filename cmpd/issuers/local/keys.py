"""The key types of a local CA, and how each one signs (RFC 5280 §4.1.1.2)."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import SignatureAlgorithmOID

from cmpd.asn1 import der

CAKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
"""A private key that can sign certificates."""

_GENERATORS: dict[str, Callable[[], CAKey]] = {
    "ec-p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ec-p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ec-p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa-3072": lambda: rsa.generate_private_key(65537, 3072),
    "rsa-4096": lambda: rsa.generate_private_key(65537, 4096),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.generate,
}
KEY_TYPES = tuple(_GENERATORS)
"""What `create_ca` accepts as key type; `P-256`, `EC P-256` and the like mean the same as `ec-p256`."""

_ECDSA: dict[str, tuple[str, hashes.HashAlgorithm]] = {
    "secp256r1": (SignatureAlgorithmOID.ECDSA_WITH_SHA256.dotted_string, hashes.SHA256()),
    "secp384r1": (SignatureAlgorithmOID.ECDSA_WITH_SHA384.dotted_string, hashes.SHA384()),
    "secp521r1": (SignatureAlgorithmOID.ECDSA_WITH_SHA512.dotted_string, hashes.SHA512()),
}
_WITHOUT_HASH: dict[type, tuple[str, bool]] = {
    ed25519.Ed25519PrivateKey: (SignatureAlgorithmOID.ED25519.dotted_string, False),
    ed448.Ed448PrivateKey: (SignatureAlgorithmOID.ED448.dotted_string, False),
    mldsa.MLDSA44PrivateKey: (SignatureAlgorithmOID.ML_DSA_44.dotted_string, True),
    mldsa.MLDSA65PrivateKey: (SignatureAlgorithmOID.ML_DSA_65.dotted_string, True),
    mldsa.MLDSA87PrivateKey: (SignatureAlgorithmOID.ML_DSA_87.dotted_string, True),
}
_RSA_BITS = range(2048, 4096 + 1)
_SLOW_RSA_BITS = 3072


def generate(key_type: str) -> CAKey:
    """Make a new key of one of `KEY_TYPES`. Raises ValueError for another name."""
    plain = re.sub(r"[^a-z0-9]", "", key_type.lower())
    for name, make in _GENERATORS.items():
        if plain in {name.replace("-", ""), name.removeprefix("ec-").replace("-", "")}:
            return make()
    raise ValueError(f"no such key type: {key_type!r}; there are: {', '.join(KEY_TYPES)}")


def another(key: CAKey) -> CAKey:
    """Make a new key of the same type and size. Takes up to seconds for RSA."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return ec.generate_private_key(key.curve)
    if isinstance(key, rsa.RSAPrivateKey):
        return rsa.generate_private_key(65537, key.key_size)
    for kind in _WITHOUT_HASH:
        if isinstance(key, kind):
            made: CAKey = kind.generate()  # type: ignore[attr-defined]  # all five have it
            return made
    raise AssertionError("a kind of key that is not in CAKey")


@dataclass(frozen=True, slots=True)
class Signer:
    """A key with the one algorithm it signs with."""

    algorithm: bytes
    """DER of the AlgorithmIdentifier."""
    sign: Callable[[bytes], bytes]
    slow: bool
    """A signature takes so long (above half a millisecond) that it is made in a worker thread."""

    @classmethod
    def of(cls, key: object) -> "Signer":
        """Choose the algorithm: RFC 5758 §3.2, RFC 8410 §3, RFC 9881 §3, RFC 8017 §8.2. Raises ValueError."""
        if isinstance(key, ec.EllipticCurvePrivateKey):
            if key.curve.name not in _ECDSA:
                raise ValueError(f"curve {key.curve.name}; use P-256, P-384 or P-521")
            oid, digest = _ECDSA[key.curve.name]
            ecdsa, ec_sign = ec.ECDSA(digest), key.sign
            return cls(der.sequence(der.oid(oid)), lambda data: ec_sign(data, ecdsa), slow=False)
        if isinstance(key, rsa.RSAPrivateKey):
            if key.key_size not in _RSA_BITS:
                raise ValueError(f"RSA of {key.key_size} bits; use 2048 to 4096")
            scheme, sha256, rsa_sign = padding.PKCS1v15(), hashes.SHA256(), key.sign
            algorithm = der.sequence(der.oid(SignatureAlgorithmOID.RSA_WITH_SHA256.dotted_string), der.null())
            slow = key.key_size >= _SLOW_RSA_BITS
            return cls(algorithm, lambda data: rsa_sign(data, scheme, sha256), slow)
        for kind, (oid, slow) in _WITHOUT_HASH.items():
            if isinstance(key, kind):
                sign: Callable[[bytes], bytes] = key.sign  # type: ignore[attr-defined]  # all five have it
                return cls(der.sequence(der.oid(oid)), sign, slow)
        raise ValueError("a key that cannot sign certificates; use RSA, EC, Ed25519, Ed448 or ML-DSA")


def spki(key: CAKey) -> bytes:
    """DER of the key's SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
