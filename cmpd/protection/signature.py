"""Signatures: of CMP messages, of proofs-of-possession and of certificates (RFC 9481 §3, RFC 9882, RFC 9881).

One table says which algorithm identifiers are known; one function verifies. A signature that does not verify raises
`InvalidSignature`, and the caller says what that means: badMessageCheck, badPOP or signerNotTrusted.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography import exceptions
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.x509 import ObjectIdentifier

from cmpd import asn1
from cmpd.asn1 import der, oids
from cmpd.errors import BadAlg
from cmpd.limits import Limits

InvalidSignature = exceptions.InvalidSignature
UnsupportedAlgorithm = exceptions.UnsupportedAlgorithm

PublicKey = (
    rsa.RSAPublicKey
    | ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)
_PUBLIC_KEYS = (
    rsa.RSAPublicKey,
    ec.EllipticCurvePublicKey,
    ed25519.Ed25519PublicKey,
    ed448.Ed448PublicKey,
    mldsa.MLDSA44PublicKey,
    mldsa.MLDSA65PublicKey,
    mldsa.MLDSA87PublicKey,
)

_RSA_HASHES: dict[ObjectIdentifier, hashes.HashAlgorithm] = {
    oids.RSA_SHA1: hashes.SHA1(),  # noqa: S303  refused unless the profile allows it
    oids.RSA_SHA224: hashes.SHA224(),
    oids.RSA_SHA256: hashes.SHA256(),
    oids.RSA_SHA384: hashes.SHA384(),
    oids.RSA_SHA512: hashes.SHA512(),
}
_ECDSA: dict[ObjectIdentifier, ec.ECDSA] = {
    oids.ECDSA_SHA1: ec.ECDSA(hashes.SHA1()),  # noqa: S303  refused unless the profile allows it
    oids.ECDSA_SHA224: ec.ECDSA(hashes.SHA224()),
    oids.ECDSA_SHA256: ec.ECDSA(hashes.SHA256()),
    oids.ECDSA_SHA384: ec.ECDSA(hashes.SHA384()),
    oids.ECDSA_SHA512: ec.ECDSA(hashes.SHA512()),
}
_PURE: dict[ObjectIdentifier, type] = {
    oids.ED25519: ed25519.Ed25519PublicKey,
    oids.ED448: ed448.Ed448PublicKey,
    oids.ML_DSA_44: mldsa.MLDSA44PublicKey,
    oids.ML_DSA_65: mldsa.MLDSA65PublicKey,
    oids.ML_DSA_87: mldsa.MLDSA87PublicKey,
}
_HASH_OIDS: dict[ObjectIdentifier, hashes.HashAlgorithm] = {
    oids.SHA1: hashes.SHA1(),  # noqa: S303  refused unless the profile allows it
    oids.SHA224: hashes.SHA224(),
    oids.SHA256: hashes.SHA256(),
    oids.SHA384: hashes.SHA384(),
    oids.SHA512: hashes.SHA512(),
}
_PKCS1 = padding.PKCS1v15()
_SHA1 = frozenset({oids.RSA_SHA1, oids.ECDSA_SHA1})
MIN_RSA_BITS = 1024
"""Below this a signature proves nothing; what a profile certifies is bounded separately."""
MAX_RSA_EXPONENT_BITS = 64
"""Verification takes time in proportion to the exponent, which its owner chooses; 65537 has 17 bits."""


def load_public_key(spki: bytes, limits: Limits) -> PublicKey:
    """Load a SubjectPublicKeyInfo (DER); raises BadAlg for what is no signature key or too large to verify with."""
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, exceptions.UnsupportedAlgorithm) as exc:
        raise BadAlg("the public key cannot be read or its algorithm is not supported") from exc
    return accept_public_key(key, limits)


def accept_public_key(key: object, limits: Limits) -> PublicKey:
    """Hold a loaded public key against the limits; raises BadAlg."""
    if not isinstance(key, _PUBLIC_KEYS):
        raise BadAlg("the public key is not of a signature algorithm that is supported")
    if isinstance(key, rsa.RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= limits.rsa_bits:
            raise BadAlg(f"an RSA key of {key.key_size} bits is not within {MIN_RSA_BITS} to {limits.rsa_bits}")
        if key.public_numbers().e.bit_length() > MAX_RSA_EXPONENT_BITS:
            raise BadAlg(f"the public exponent of an RSA key has more than {MAX_RSA_EXPONENT_BITS} bits")
    return key


def verify(
    algorithm: asn1.AlgorithmIdentifier, key: PublicKey, signature: bytes, data: bytes, *, allow_sha1: bool = False
) -> None:
    """Verify a signature (RFC 9481 §3).

    Raises BadAlg when the algorithm is not known, not allowed, or not of the key's kind; InvalidSignature otherwise.
    """
    oid = algorithm.algorithm
    if oid in _SHA1 and not allow_sha1:
        raise BadAlg(f"signature algorithm {oids.name(oid)} is not allowed here")
    # PERF: the commonest first
    if (ecdsa := _ECDSA.get(oid)) is not None and isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, ecdsa)
    elif (digest := _RSA_HASHES.get(oid)) is not None and isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, data, _PKCS1, digest)
    elif (pure := _PURE.get(oid)) is not None and isinstance(key, pure):
        key.verify(signature, data)  # type: ignore[call-arg]  # the table pairs OID and key class
    elif oid == oids.RSASSA_PSS and isinstance(key, rsa.RSAPublicKey):
        digest, pss = _pss(algorithm, allow_sha1=allow_sha1)
        key.verify(signature, data, pss, digest)
    elif oid in _ECDSA or oid in _RSA_HASHES or oid in _PURE or oid == oids.RSASSA_PSS:
        raise BadAlg(f"signature algorithm {oids.name(oid)} does not fit the public key")
    else:
        raise BadAlg(f"signature algorithm {oids.name(oid)} is not supported")


def _pss(algorithm: asn1.AlgorithmIdentifier, *, allow_sha1: bool) -> tuple[hashes.HashAlgorithm, padding.PSS]:
    """RSASSA-PSS-params (RFC 8017 §A.2.3); absent fields mean SHA-1, as the ASN.1 says."""
    try:
        encoded = der.sequence() if algorithm.parameters is None else asn1.dump(algorithm.parameters)
        params = asn1.parse(asn1.RSASSA_PSS_params, encoded)
        mgf_hash = oids.SHA1
        if params.maskGenAlgorithm is not None:
            if params.maskGenAlgorithm.algorithm != oids.MGF1 or params.maskGenAlgorithm.parameters is None:
                raise BadAlg("RSASSA-PSS: only MGF1 is supported")
            mgf_hash = asn1.parse(asn1.AlgorithmIdentifier, asn1.dump(params.maskGenAlgorithm.parameters)).algorithm
    except asn1.MalformedError as exc:
        raise BadAlg(f"RSASSA-PSS: the parameters cannot be read: {exc}") from exc
    hash_oid = oids.SHA1 if params.hashAlgorithm is None else params.hashAlgorithm.algorithm
    digest, mgf = _HASH_OIDS.get(hash_oid), _HASH_OIDS.get(mgf_hash)
    if digest is None or mgf is None:
        raise BadAlg("RSASSA-PSS: the hash algorithm is not supported")
    if not allow_sha1 and oids.SHA1 in {hash_oid, mgf_hash}:
        raise BadAlg("RSASSA-PSS with SHA-1 is not allowed here")
    salt = 20 if params.saltLength is None else params.saltLength
    if not 0 <= salt <= 512:
        raise BadAlg("RSASSA-PSS: saltLength is out of range")
    if params.trailerField not in {None, 1}:
        raise BadAlg("RSASSA-PSS: trailerField must be 1")
    return digest, padding.PSS(padding.MGF1(mgf), salt)


def certificate_hash(certificate: bytes, hash_alg: asn1.AlgorithmIdentifier | None) -> bytes:
    """Compute certHash (RFC 9483 §4.1.1): by hashAlg, else by the signature algorithm of the certificate (RFC 9481 §2).

    EdDSA has dedicated hash algorithms (RFC 9481 §3.3); ML-DSA has none, so that hashAlg is needed (RFC 9810 §5.3.18);
    SHA-512 is taken there when the client leaves it out, as RFC 9882 §3 pairs it. Raises BadAlg.
    """
    if hash_alg is not None:
        chosen = _CERT_HASHES.get(hash_alg.algorithm)
        if chosen is None:
            raise BadAlg(f"certConf: hashAlg {oids.name(hash_alg.algorithm)} is not supported")
        return chosen(certificate)
    algorithm = signature_algorithm(certificate)
    chosen = _IMPLIED_HASHES.get(algorithm.algorithm)
    if chosen is None and algorithm.algorithm == oids.RSASSA_PSS:
        digest, _ = _pss(algorithm, allow_sha1=True)
        chosen = _CERT_HASHES[next(oid for oid, known in _HASH_OIDS.items() if known.name == digest.name)]
    if chosen is None:
        raise BadAlg(f"certConf: no hash algorithm belongs to {oids.name(algorithm.algorithm)}; send hashAlg")
    return chosen(certificate)


def signature_algorithm(certificate: bytes) -> asn1.AlgorithmIdentifier:
    """The outer signatureAlgorithm of a certificate (RFC 5280 §4.1.1.2)."""
    _, start, _ = der.read(certificate)
    _, _, tbs_end = der.read(certificate, start)
    _, _, end = der.read(certificate, tbs_end)
    return asn1.parse(asn1.AlgorithmIdentifier, certificate[tbs_end:end])


def _hash(name: str, size: int | None = None) -> Callable[[bytes], bytes]:
    if size is not None:
        return lambda data: hashlib.new(name, data).digest(size)  # type: ignore[call-arg]  # an XOF takes a length
    return lambda data: hashlib.new(name, data).digest()


_CERT_HASHES: dict[ObjectIdentifier, Callable[[bytes], bytes]] = {
    oids.SHA1: _hash("sha1"),
    oids.SHA224: _hash("sha224"),
    oids.SHA256: _hash("sha256"),
    oids.SHA384: _hash("sha384"),
    oids.SHA512: _hash("sha512"),
    oids.SHAKE128: _hash("shake_128", 32),  # RFC 9481 §2.2: 256 bits
    oids.SHAKE256: _hash("shake_256", 64),  # RFC 9481 §2.2: 512 bits
}
_IMPLIED_HASHES: dict[ObjectIdentifier, Callable[[bytes], bytes]] = {
    oids.RSA_SHA1: _CERT_HASHES[oids.SHA1],
    oids.RSA_SHA224: _CERT_HASHES[oids.SHA224],
    oids.RSA_SHA256: _CERT_HASHES[oids.SHA256],
    oids.RSA_SHA384: _CERT_HASHES[oids.SHA384],
    oids.RSA_SHA512: _CERT_HASHES[oids.SHA512],
    oids.ECDSA_SHA1: _CERT_HASHES[oids.SHA1],
    oids.ECDSA_SHA224: _CERT_HASHES[oids.SHA224],
    oids.ECDSA_SHA256: _CERT_HASHES[oids.SHA256],
    oids.ECDSA_SHA384: _CERT_HASHES[oids.SHA384],
    oids.ECDSA_SHA512: _CERT_HASHES[oids.SHA512],
    oids.ED25519: _CERT_HASHES[oids.SHA512],  # RFC 9481 §3.3
    oids.ED448: _CERT_HASHES[oids.SHAKE256],  # RFC 9481 §3.3
    oids.ML_DSA_44: _CERT_HASHES[oids.SHA512],
    oids.ML_DSA_65: _CERT_HASHES[oids.SHA512],
    oids.ML_DSA_87: _CERT_HASHES[oids.SHA512],
}


def _simple(oid: ObjectIdentifier, *, null: bool = False) -> bytes:
    return der.sequence(der.oid(oid), der.null()) if null else der.sequence(der.oid(oid))


@dataclass(frozen=True, slots=True)
class Signer:
    """Our own CMP protection key with its signature algorithm (RFC 9483 §3.2)."""

    algorithm_der: bytes
    _sign: Callable[[bytes], bytes] = field(repr=False)

    def protect(self, part: bytes) -> bytes:
        """Sign a ProtectedPart."""
        return self._sign(part)

    @classmethod
    def of(cls, key: Any) -> "Signer":
        """Choose the signature algorithm by the key, with the hash of the curve's strength (RFC 9481 §3)."""
        if isinstance(key, ec.EllipticCurvePrivateKey):
            strong = {"secp384r1": oids.ECDSA_SHA384, "secp521r1": oids.ECDSA_SHA512}
            oid = strong.get(key.curve.name, oids.ECDSA_SHA256)
            ecdsa = _ECDSA[oid]
            return cls(_simple(oid), lambda part: key.sign(part, ecdsa))
        if isinstance(key, rsa.RSAPrivateKey):
            algorithm, digest = _simple(oids.RSA_SHA256, null=True), hashes.SHA256()
            return cls(algorithm, lambda part: key.sign(part, _PKCS1, digest))
        for oid, public in _PURE.items():
            if isinstance(key.public_key(), public):
                return cls(_simple(oid), key.sign)
        raise TypeError(f"a CMP signing key cannot be a {type(key).__name__}")
