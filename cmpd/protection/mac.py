"""MAC-based protection: PasswordBasedMac and PBMAC1 (RFC 9483 §4.1.5, RFC 9481 §6.1, RFC 9810 §5.1.3.1).

`parameters` reads and bounds what an unauthenticated header asks for, before any of the work is done; `derive` does the
work; the MacKey then makes and checks MACs for the request and for the answer alike, so that one key derivation serves
both (RFC 9483 §4.1.5: "Such parameters should remain constant ... to reduce the computational overhead").
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from cryptography.x509 import ObjectIdentifier

from cmpd import asn1
from cmpd.asn1 import oids
from cmpd.errors import BadAlg, BadMessageCheck
from cmpd.limits import Limits

MIN_ITERATIONS = 100
"""RFC 4211 §4.4: "The iterationCount MUST be a minimum of 100"."""
MIN_SALT = 8
"""RFC 4211 §4.4 asks for at least 8 octets; so does PKCS #5 (RFC 8018 §4.1)."""
MIN_KEY_LENGTH = 16
"""keyLength of PBKDF2: the sender chooses it before it is known, and a MAC by a key of one octet is soon guessed."""
MAX_KEY_LENGTH = 64
"""keyLength of PBKDF2 "SHOULD be the same size as the HMAC function output" (RFC 9579 §5); more multiplies the work."""

_OWFS: dict[ObjectIdentifier, str] = {
    oids.SHA1: "sha1",
    oids.SHA224: "sha224",
    oids.SHA256: "sha256",
    oids.SHA384: "sha384",
    oids.SHA512: "sha512",
}
_HMACS: dict[ObjectIdentifier, str] = {
    # hmac-sha1 has two identifiers: RFC 4210 names the first, PKCS #5 the second; clients use either
    oids.HMAC_SHA1_IPSEC: "sha1",
    oids.HMAC_SHA1: "sha1",
    oids.HMAC_SHA224: "sha224",
    oids.HMAC_SHA256: "sha256",
    oids.HMAC_SHA384: "sha384",
    oids.HMAC_SHA512: "sha512",
}


def _hash_constructors() -> dict[str, Callable[..., Any]]:
    """The quickest hash for a chain of short inputs: CPython's own, which a call reaches without OpenSSL's EVP set-up.

    500 chained SHA-256 take 0.20 ms there and 0.30 ms through hashlib's OpenSSL constructors (CPython 3.11); where an
    interpreter comes without them, hashlib's are used.
    """
    constructors: dict[str, Callable[..., Any]] = {name: getattr(hashlib, name) for name in _OWFS.values()}
    for module, names in (("_sha2", ("sha224", "sha256")), ("_sha256", ("sha224", "sha256"))):
        try:
            builtin = __import__(module)
        except ImportError:
            continue
        constructors.update({name: getattr(builtin, name) for name in names})
        break
    return constructors


_HASH = _hash_constructors()

MAC_ALGORITHMS = frozenset({oids.PASSWORD_BASED_MAC, oids.PBMAC1})
"""MSG_MAC_ALG as far as it is supported (RFC 9481 §6.1)."""


@dataclass(frozen=True, slots=True)
class MacParameters:
    """How to get from a shared secret to the MAC key, already within the limits. `key_length` is in octets."""

    kind: ObjectIdentifier
    salt: bytes
    iterations: int
    owf: str
    """The one-way function of PasswordBasedMac, the hash of the PRF of PBKDF2."""
    mac: str
    key_length: int = 0


@dataclass(frozen=True, slots=True)
class MacKey:
    """A derived key with the MAC algorithm it is for. Never printed."""

    algorithm_der: bytes
    """The AlgorithmIdentifier as the client sent it: the answer repeats it."""
    mac: str
    key: bytes = field(repr=False)

    def protect(self, part: bytes) -> bytes:
        """Compute the MAC over a ProtectedPart."""
        return hmac.digest(self.key, part, self.mac)

    def check(self, part: bytes, protection: bytes) -> None:
        """Verify in constant time; raises BadMessageCheck (RFC 9483 §3.5)."""
        if not hmac.compare_digest(hmac.digest(self.key, part, self.mac), protection):
            raise BadMessageCheck("the MAC does not verify with the shared secret of this reference")


def parameters(algorithm: asn1.AlgorithmIdentifier, limits: Limits) -> MacParameters:
    """Read the parameters of a MAC protectionAlg and hold them against the limits; raises BadAlg.

    Runs before the sender is known and therefore does no work that the sender chooses (RFC 9810 §8.6).
    """
    try:
        if algorithm.algorithm == oids.PASSWORD_BASED_MAC:
            found = _pbm(asn1.parse(asn1.PBMParameter, _der(algorithm)))
        else:
            found = _pbmac1(asn1.parse(asn1.PBMAC1_params, _der(algorithm)))
    except asn1.MalformedError as exc:
        raise BadAlg(f"protectionAlg: the parameters cannot be read: {exc}") from exc
    if found.iterations > limits.mac_iterations:
        raise BadAlg(f"protectionAlg: iterationCount is above {limits.mac_iterations}")
    if found.iterations < MIN_ITERATIONS:
        raise BadAlg(f"protectionAlg: iterationCount is below {MIN_ITERATIONS}")
    if len(found.salt) > limits.mac_salt:
        raise BadAlg(f"protectionAlg: the salt is longer than {limits.mac_salt} octets")
    if len(found.salt) < MIN_SALT:
        raise BadAlg(f"protectionAlg: the salt is shorter than {MIN_SALT} octets")
    return found


def derive(found: MacParameters, secret: bytes) -> bytes:
    """Derive the MAC key from the shared secret: some 0.4 µs of CPU an iteration, at most `limits.mac_iterations`."""
    if found.kind == oids.PASSWORD_BASED_MAC:
        # RFC 4211 §4.4: K = owf applied iterationCount times, the first time to secret || salt
        owf = _HASH[found.owf]
        basekey: bytes = owf(secret + found.salt).digest()
        for _ in repeat(None, found.iterations - 1):
            basekey = owf(basekey).digest()
        return basekey
    return hashlib.pbkdf2_hmac(found.owf, secret, found.salt, found.iterations, found.key_length)


def _pbm(wire: asn1.PBMParameter) -> MacParameters:
    """PasswordBasedMac (RFC 4211 §4.4, RFC 9045 §4)."""
    owf = _OWFS.get(wire.owf.algorithm)
    if owf is None:
        raise BadAlg(f"protectionAlg: owf {oids.name(wire.owf.algorithm)} is not supported")
    return MacParameters(oids.PASSWORD_BASED_MAC, wire.salt, wire.iterationCount, owf, _mac(wire.mac))


def _pbmac1(wire: asn1.PBMAC1_params) -> MacParameters:
    """PBMAC1 with PBKDF2 (RFC 8018 §7.1, RFC 9481 §6.1.2); keyLength must be given (RFC 9579 §5)."""
    if wire.keyDerivationFunc.algorithm != oids.PBKDF2:
        raise BadAlg(f"protectionAlg: keyDerivationFunc {oids.name(wire.keyDerivationFunc.algorithm)} is not supported")
    kdf = asn1.parse(asn1.PBKDF2_params, _der(wire.keyDerivationFunc))
    prf = "sha1" if kdf.prf is None else _mac(kdf.prf)
    mac = _mac(wire.messageAuthScheme)
    if kdf.keyLength is None:
        raise BadAlg("protectionAlg: PBKDF2 without keyLength cannot be used in PBMAC1")
    if not MIN_KEY_LENGTH <= kdf.keyLength <= MAX_KEY_LENGTH:
        raise BadAlg(f"protectionAlg: PBKDF2 keyLength is not within {MIN_KEY_LENGTH} to {MAX_KEY_LENGTH}")
    if not isinstance(kdf.salt, bytes):
        raise BadAlg("protectionAlg: PBKDF2 with a salt from another source is not supported")
    return MacParameters(oids.PBMAC1, kdf.salt, kdf.iterationCount, prf, mac, kdf.keyLength)


def _mac(algorithm: asn1.AlgorithmIdentifier) -> str:
    mac = _HMACS.get(algorithm.algorithm)
    if mac is None:
        raise BadAlg(f"protectionAlg: MAC algorithm {oids.name(algorithm.algorithm)} is not supported")
    return mac


def _der(algorithm: asn1.AlgorithmIdentifier) -> bytes:
    if algorithm.parameters is None:
        raise BadAlg(f"protectionAlg: {oids.name(algorithm.algorithm)} without parameters")
    return asn1.dump(algorithm.parameters)
