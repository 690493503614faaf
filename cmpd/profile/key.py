"""The public key of a request: its type, size and curve, read from the SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).

Only the outside of the key is judged, in a microsecond. That it is a working key (a point on the curve) is shown by
the proof-of-possession.
"""

from dataclasses import dataclass
from typing import Final, Self

from cmpd.asn1 import der
from cmpd.errors import BadAlg
from cmpd.profile.config import KeyConfig
from cmpd.profile.decision import Decision
from cmpd.profile.syntax import named_oid, oid_text
from cmpd.profile.vocabulary import ProfileKeyError

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
    der.oid("1.3.101.112"): ("Ed25519", "RFC 8410 §4"),
    der.oid("1.3.101.113"): ("Ed448", "RFC 8410 §4"),
    der.oid("2.16.840.1.101.3.4.3.17"): ("ML-DSA-44", "RFC 9881 §4"),
    der.oid("2.16.840.1.101.3.4.3.18"): ("ML-DSA-65", "RFC 9881 §4"),
    der.oid("2.16.840.1.101.3.4.3.19"): ("ML-DSA-87", "RFC 9881 §4"),
}
"""The name, and what says how such a key is encoded."""


_F4: Final = b"\x02\x03\x01\x00\x01"
"""The exponent 2^16+1, DER."""


def _rsa_start(bits: int) -> tuple[int, tuple[bytes, int]]:
    """How keys of a usual length with the exponent 2^16+1 begin, and the length of their SubjectPublicKeyInfo."""
    key = der.sequence(der.integer(1 << bits - 1), _F4)
    spki = der.sequence(_RSA_ALGORITHM, der.bit_string(key))
    return len(spki), (spki[: -bits // 8 - len(_F4)], bits)


def _is_usual_rsa(spki: bytes, start: bytes) -> bool:
    """Whether it begins and ends like a usual key, with an odd modulus of the full length in between."""
    odd = spki[-len(_F4) - 1] & 1
    return bool(spki.startswith(start) and spki.endswith(_F4) and spki[len(start)] & 0x80 and odd)


_RSA_STARTS: Final = dict(map(_rsa_start, (2048, 3072, 4096)))


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """Section [key], prepared."""

    types: frozenset[str]
    curves: frozenset[str]
    min_bits: int
    max_bits: int
    min_exponent: int
    bits: frozenset[int]
    """Empty: any from min_bits to max_bits."""

    @classmethod
    def from_config(cls, config: KeyConfig) -> Self:
        """Prepare. Raises ProfileKeyError."""
        if config.rsa.min_bits > config.rsa.max_bits:
            raise ProfileKeyError(
                "key.rsa.min_bits", f"{config.rsa.min_bits} is more than max_bits, {config.rsa.max_bits}"
            )
        for bits in config.rsa.allowed_bits:
            if not config.rsa.min_bits <= bits <= config.rsa.max_bits:
                raise ProfileKeyError("key.rsa.allowed_bits", f"{bits} is not between min_bits and max_bits")
        return cls(
            types=frozenset(config.allowed_types),
            curves=frozenset(config.ecdsa.allowed_curves),
            min_bits=config.rsa.min_bits,
            max_bits=config.rsa.max_bits,
            min_exponent=config.rsa.min_exponent,
            bits=frozenset(config.rsa.allowed_bits),
        )

    def check(self, spki: bytes, decision: Decision) -> str | None:
        """Return the key's type, None when it is not supported. Raises BadAlg, BadCertTemplate, MalformedError."""
        kind = _KINDS.get(len(spki))
        if kind is None or not spki.startswith(kind.start):
            usual = _RSA_STARTS.get(len(spki))
            if usual is not None and self.min_exponent <= 65537 and _is_usual_rsa(spki, usual[0]):
                self._judge_rsa(usual[1], decision)
                return "rsa"
            return self._check_other(spki, decision)
        if kind.type not in self.types:
            decision.refuse("key.allowed_types", "publicKey", f"{kind.label} keys are not accepted")
        elif decision.findings is not None:
            decision.passed("key.allowed_types", "publicKey", f"{kind.label} is allowed")
        if kind.curve is not None and kind.type in self.types:
            if kind.curve not in self.curves:
                decision.refuse("key.ecdsa.allowed_curves", "publicKey", f"curve {kind.curve} is not accepted")
            elif decision.findings is not None:
                decision.passed("key.ecdsa.allowed_curves", "publicKey", f"curve {kind.curve} is allowed")
        return kind.type

    def _check_other(self, spki: bytes, decision: Decision) -> str | None:
        if not spki:
            decision.refuse("RFC 4211 §5", "publicKey", "is absent, and keys are not generated here")
            return None
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
                decision.refuse("RFC 3279 §2.3.1", "publicKey", "the parameters of rsaEncryption are not NULL")
            self._check_rsa(key[1:], decision)
            return "rsa"
        if oid == _EC_PUBLIC_KEY:
            self._refuse_ec(algorithm[1] if len(algorithm) > 1 else b"", decision)
        elif oid in _OTHERS:
            label, section = _OTHERS[oid]
            decision.refuse(section, "publicKey", f"not the encoding of an {label} key")
        else:
            named = named_oid(oid_text(oid[2:]))
            decision.refuse("key.allowed_types", "publicKey", f"algorithm {named} is not supported", BadAlg)
        return None

    @staticmethod
    def _refuse_ec(parameters: bytes, decision: Decision) -> None:
        for kind in _KINDS.values():
            if kind.curve and parameters and parameters in kind.start:
                decision.refuse("RFC 5480 §2.2", "publicKey", f"not an uncompressed point of {kind.curve}")
                return
        curve = named_oid(oid_text(parameters[2:])) if parameters.startswith(b"\x06") else "without a name"
        decision.refuse("key.ecdsa.allowed_curves", "publicKey", f"curve {curve} is not accepted")

    def _check_rsa(self, key: bytes, decision: Decision) -> None:
        numbers = der.children(key, 2)
        if len(numbers) != 2:
            raise der.MalformedError("not an RSAPublicKey")
        modulus, exponent = (der.content(number, der.INTEGER) for number in numbers)
        for number in (modulus, exponent):
            if not number or number[0] >= 0x80 or (number[0] == 0 and (len(number) == 1 or number[1] < 0x80)):
                decision.refuse(
                    "RFC 8017 §3.1", "publicKey", "modulus and exponent of an RSA key are positive integers"
                )
                return
        octets = modulus.lstrip(b"\0")
        bits = 8 * len(octets) - 8 + octets[0].bit_length()
        self._judge_rsa(bits, decision)
        if not modulus[-1] & 1:
            decision.refuse("RFC 8017 §3.1", "publicKey", "the RSA modulus is even")
        if len(exponent) > 32 or not exponent[-1] & 1 or int.from_bytes(exponent, "big") < self.min_exponent:
            decision.refuse(
                "key.rsa.min_exponent",
                "publicKey",
                f"the RSA exponent must be odd, at least {self.min_exponent} and of at most 256 bits",
            )

    def _judge_rsa(self, bits: int, decision: Decision) -> None:
        if "rsa" not in self.types:
            decision.refuse("key.allowed_types", "publicKey", "rsa keys are not accepted")
        if bits < self.min_bits:
            decision.refuse("key.rsa.min_bits", "publicKey", f"an RSA key of {bits} bits, less than {self.min_bits}")
        elif bits > self.max_bits:
            decision.refuse("key.rsa.max_bits", "publicKey", f"an RSA key of {bits} bits, more than {self.max_bits}")
        elif self.bits and bits not in self.bits:
            decision.refuse("key.rsa.allowed_bits", "publicKey", f"an RSA key of {bits} bits is not accepted")
        elif decision.findings is not None:
            decision.passed("key.rsa", "publicKey", f"an RSA key of {bits} bits is allowed")
