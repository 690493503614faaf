"""The public key of a request: its type, size and curve, read from the SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).

Only the outside of the key is judged, in a microsecond. That it is a working key (a point on the curve) is shown by
the proof-of-possession.
"""

from dataclasses import dataclass
from typing import Final, Self

from cmpd.asn1 import der
from cmpd.errors import BadAlg, BadCertTemplate
from cmpd.profile.config import KeyConfig, ProfileKeyError
from cmpd.profile.syntax import oid_text

_EC_PUBLIC_KEY: Final = der.oid("1.2.840.10045.2.1")
_RSA: Final = der.oid("1.2.840.113549.1.1.1")
_RSA_ALGORITHM: Final = der.sequence(_RSA, der.null())
"""rsaEncryption with its parameters, which are NULL (RFC 3279 §2.3.1)."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of key whose encodings all have one length and begin alike."""

    type: str
    label: str
    """What a refusal calls it."""
    curve: str | None
    start: bytes


def _kind(type_: str, curve: str | None, algorithm: bytes, first: bytes, rest: int) -> tuple[int, _Kind]:
    """The kind, and the length of its SubjectPublicKeyInfo: `rest` octets of key follow those in `first`."""
    spki = der.sequence(der.sequence(algorithm), der.bit_string(first + bytes(rest)))
    return len(spki), _Kind(type_, curve or type_, curve, spki[: len(spki) - rest])


_KINDS: Final = dict(
    (
        _kind("ecdsa", "P-256", _EC_PUBLIC_KEY + der.oid("1.2.840.10045.3.1.7"), b"\x04", 64),
        _kind("ecdsa", "P-384", _EC_PUBLIC_KEY + der.oid("1.3.132.0.34"), b"\x04", 96),
        _kind("ecdsa", "P-521", _EC_PUBLIC_KEY + der.oid("1.3.132.0.35"), b"\x04", 132),
        _kind("ed25519", None, der.oid("1.3.101.112"), b"", 32),
        _kind("ed448", None, der.oid("1.3.101.113"), b"", 57),
        _kind("ml-dsa-44", None, der.oid("2.16.840.1.101.3.4.3.17"), b"", 1312),
        _kind("ml-dsa-65", None, der.oid("2.16.840.1.101.3.4.3.18"), b"", 1952),
        _kind("ml-dsa-87", None, der.oid("2.16.840.1.101.3.4.3.19"), b"", 2592),
    )
)
"""By the length of the whole SubjectPublicKeyInfo (RFC 5480 §2, RFC 8410 §4, RFC 9881 §4)."""
_OTHERS: Final = {
    der.oid("1.3.101.112"): "Ed25519",
    der.oid("1.3.101.113"): "Ed448",
    der.oid("2.16.840.1.101.3.4.3.17"): "ML-DSA-44",
    der.oid("2.16.840.1.101.3.4.3.18"): "ML-DSA-65",
    der.oid("2.16.840.1.101.3.4.3.19"): "ML-DSA-87",
}


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """Section [key], prepared."""

    types: frozenset[str]
    curves: frozenset[str]
    min_bits: int
    max_bits: int
    min_exponent: int

    @classmethod
    def from_config(cls, config: KeyConfig) -> Self:
        """Prepare. Raises ProfileKeyError."""
        if config.rsa.min_bits > config.rsa.max_bits:
            raise ProfileKeyError(
                "key.rsa.min_bits", f"{config.rsa.min_bits} is more than max_bits, {config.rsa.max_bits}"
            )
        return cls(
            types=frozenset(config.allowed_types),
            curves=frozenset(config.ecdsa.allowed_curves),
            min_bits=config.rsa.min_bits,
            max_bits=config.rsa.max_bits,
            min_exponent=config.rsa.min_exponent,
        )

    def check(self, spki: bytes) -> str:
        """Return the key's type. Raises BadAlg, BadCertTemplate, MalformedError."""
        kind = _KINDS.get(len(spki))
        if kind is not None and spki.startswith(kind.start):
            if kind.type not in self.types:
                raise BadCertTemplate(f"publicKey: {kind.label} keys are not in key.allowed_types")
            if kind.curve is not None and kind.curve not in self.curves:
                raise BadCertTemplate(f"publicKey: curve {kind.curve} is not in key.ecdsa.allowed_curves")
            return kind.type
        return self._check_other(spki)

    def _check_other(self, spki: bytes) -> str:
        if not spki:
            raise BadCertTemplate("publicKey: is absent, and keys are not generated here")
        fields = der.children(spki)
        if len(fields) != 2:
            raise der.MalformedError("not a SubjectPublicKeyInfo")
        algorithm = der.children(fields[0])
        key = der.content(fields[1], der.BIT_STRING)
        if not algorithm or not algorithm[0].startswith(b"\x06") or not key or key[0] != 0:
            raise der.MalformedError("not a SubjectPublicKeyInfo")
        oid = algorithm[0]
        if oid == _RSA:
            if fields[0] != _RSA_ALGORITHM:
                raise BadCertTemplate("publicKey: the parameters of rsaEncryption are not NULL")
            return self._check_rsa(key[1:])
        if oid == _EC_PUBLIC_KEY:
            return self._refuse_ec(algorithm[1] if len(algorithm) > 1 else b"")
        if oid in _OTHERS:
            raise BadCertTemplate(f"publicKey: not the encoding of an {_OTHERS[oid]} key")
        raise BadAlg(f"publicKey: algorithm {oid_text(oid[2:])} is not supported")

    def _refuse_ec(self, parameters: bytes) -> str:
        curves = {kind.start: kind for kind in _KINDS.values() if kind.curve}
        for start, kind in curves.items():
            if parameters and parameters in start:
                raise BadCertTemplate(f"publicKey: not an uncompressed point of {kind.curve}")
        curve = oid_text(parameters[2:]) if parameters.startswith(b"\x06") else "without a name"
        raise BadCertTemplate(f"publicKey: curve {curve} is not in key.ecdsa.allowed_curves")

    def _check_rsa(self, key: bytes) -> str:
        if "rsa" not in self.types:
            raise BadCertTemplate("publicKey: rsa keys are not in key.allowed_types")
        numbers = der.children(key, 2)
        if len(numbers) != 2:
            raise der.MalformedError("not an RSAPublicKey")
        modulus, exponent = (der.content(number, der.INTEGER) for number in numbers)
        for number in (modulus, exponent):
            if not number or number[0] >= 0x80 or (number[0] == 0 and (len(number) == 1 or number[1] < 0x80)):
                raise BadCertTemplate("publicKey: modulus and exponent of an RSA key are positive integers")
        octets = modulus.lstrip(b"\0")
        bits = 8 * len(octets) - 8 + octets[0].bit_length()
        if not self.min_bits <= bits <= self.max_bits:
            raise BadCertTemplate(
                f"publicKey: an RSA key of {bits} bits, and key.rsa allows {self.min_bits} to {self.max_bits}"
            )
        if not modulus[-1] & 1:
            raise BadCertTemplate("publicKey: the RSA modulus is even")
        if len(exponent) > 32 or not exponent[-1] & 1 or int.from_bytes(exponent, "big") < self.min_exponent:
            raise BadCertTemplate(
                f"publicKey: the RSA exponent must be odd, at least {self.min_exponent} (key.rsa.min_exponent)"
                " and of at most 256 bits"
            )
        return "rsa"
