"""Key usage, extended key usage and all other extensions of a request (RFC 5280 §4.2.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from cryptography.x509 import ObjectIdentifier

from cmpd.asn1 import der
from cmpd.errors import BadCertTemplate, UnacceptedExtension
from cmpd.exchange import RequestedExtension
from cmpd.profile.config import (
    EXTENDED_KEY_USAGES,
    ExtendedKeyUsageConfig,
    ExtensionsConfig,
    KeyUsageConfig,
    OnUnlisted,
    ProfileKeyError,
)
from cmpd.profile.san import SUBJECT_ALT_NAME
from cmpd.profile.syntax import oid_text

BASIC_CONSTRAINTS: Final = ObjectIdentifier("2.5.29.19")
KEY_USAGE: Final = ObjectIdentifier("2.5.29.15")
EXTENDED_KEY_USAGE: Final = ObjectIdentifier("2.5.29.37")
_SUBJECT_KEY_IDENTIFIER: Final = ObjectIdentifier("2.5.29.14")
_AUTHORITY_KEY_IDENTIFIER: Final = ObjectIdentifier("2.5.29.35")
_DECIDED: Final = frozenset({BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE, SUBJECT_ALT_NAME})
_ISSUERS: Final = frozenset({_SUBJECT_KEY_IDENTIFIER, _AUTHORITY_KEY_IDENTIFIER})
"""What the issuer sets; a request that carries them is not wrong (RFC 4211 §5), and nothing is taken from them."""
NOT_A_CA: Final = RequestedExtension(BASIC_CONSTRAINTS, critical=True, value=b"\x30\x00")
"""basicConstraints with cA FALSE, its default (RFC 5280 §4.2.1.9)."""

_BITS: Final = {
    "digital_signature": 0,
    "non_repudiation": 1,
    "key_encipherment": 2,
    "data_encipherment": 3,
    "key_agreement": 4,
    "key_cert_sign": 5,
    "crl_sign": 6,
    "encipher_only": 7,
    "decipher_only": 8,
}
_SIGNING: Final = frozenset({"digital_signature", "non_repudiation"})
_FITTING: Final = {
    "rsa": _SIGNING | {"key_encipherment", "data_encipherment"},
    "ecdsa": _SIGNING | {"key_agreement", "encipher_only", "decipher_only"},
}
"""Usages of a key type's end entity certificates: RSA RFC 3279 §2.3.1, EC RFC 5480 §3 and RFC 8813 §3; all others
sign only, RFC 8410 §5 with RFC 9295, RFC 9881 §5."""

_PURPOSES: Final = {der.oid(oid): name for name, oid in EXTENDED_KEY_USAGES.items()}


def requested_values(
    extensions: Sequence[RequestedExtension], ignore_other: bool, modified: list[str]
) -> dict[ObjectIdentifier, bytes]:
    """Sort out which requested extensions are decided here. Raises BadCertTemplate, UnacceptedExtension."""
    values: dict[ObjectIdentifier, bytes] = {}
    ignored = 0
    for extension in extensions:
        oid = extension.oid
        if oid in values:
            raise BadCertTemplate(f"extensions: {oid.dotted_string} is there twice (RFC 5280 §4.2)")
        if oid in _DECIDED:
            values[oid] = extension.value
        elif oid not in _ISSUERS:
            if not ignore_other:
                raise UnacceptedExtension(f"extensions: {oid.dotted_string} is not accepted (extensions.other)")
            ignored += 1
            if ignored <= 10:
                modified.append(f"extension {oid.dotted_string} left out")
    constraints = values.get(BASIC_CONSTRAINTS)
    if constraints is not None:
        _check_constraints(constraints)
    return values


def _check_constraints(value: bytes) -> None:
    parts = der.children(value, 2)
    if value[0] != der.SEQUENCE:
        raise der.MalformedError("not BasicConstraints")
    if not parts or parts == [b"\x01\x01\x00"]:
        return
    if parts[0].startswith(b"\x01\x01"):
        raise BadCertTemplate("extensions.basic_constraints: CA certificates are not issued")
    raise BadCertTemplate("extensions.basic_constraints: pathLenConstraint is for CA certificates")


def _usages(key: str, lists: Mapping[Any, tuple[str, ...]], types: Sequence[str], key_type: str) -> tuple[str, ...]:
    """The usages that a file lists for a key type. Raises ProfileKeyError for a key type that is not allowed."""
    for listed in lists:
        if listed != "all" and listed not in types:
            raise ProfileKeyError(f"{key}.{listed}", "this key type is not in key.allowed_types")
    return lists.get(key_type, lists.get("all", ()))


@dataclass(frozen=True, slots=True)
class _BitsOf:
    """KeyUsage of one key type, as sets of bit numbers."""

    required: frozenset[int]
    allowed: frozenset[int]
    plain: RequestedExtension | None
    """The extension with what is required and no more."""


def _key_usage(bits: frozenset[int], critical: bool) -> RequestedExtension | None:
    return RequestedExtension(KEY_USAGE, critical, der.named_bits(bits)) if bits else None


@dataclass(frozen=True, slots=True)
class KeyUsagePolicy:
    """Section [extensions.key_usage], prepared per key type."""

    by_type: dict[str, _BitsOf]
    critical: bool
    drop: bool

    @classmethod
    def from_config(cls, config: KeyUsageConfig, types: Sequence[str]) -> Self:
        """Prepare for the allowed key types. Raises ProfileKeyError."""
        section = "extensions.key_usage"
        by_type = {}
        for key_type in types:
            fitting = _FITTING.get(key_type, _SIGNING)
            required = frozenset(_usages(f"{section}.required_usages", config.required_usages, types, key_type))
            optional = frozenset(_usages(f"{section}.optional_usages", config.optional_usages, types, key_type))
            if key_type not in config.optional_usages:
                optional &= fitting
            for key, usages in (("required_usages", required), ("optional_usages", optional)):
                if not usages <= fitting:
                    wrong = ", ".join(sorted(usages - fitting))
                    raise ProfileKeyError(
                        f"{section}.{key}", f"{wrong}: not for {key_type} keys; write a list per key type"
                    )
            if not required.isdisjoint({"encipher_only", "decipher_only"}) and "key_agreement" not in required:
                raise ProfileKeyError(
                    f"{section}.required_usages", "encipher_only and decipher_only go with key_agreement"
                )
            bits = frozenset(_BITS[usage] for usage in required)
            allowed = bits | {_BITS[usage] for usage in optional}
            by_type[key_type] = _BitsOf(bits, allowed, _key_usage(bits, config.critical))
        return cls(by_type, config.critical, _drops(config.on_unlisted))

    def resolve(self, value: bytes | None, key_type: str, modified: list[str]) -> RequestedExtension | None:
        """Return the extension for the certificate. Raises BadCertTemplate, MalformedError."""
        policy = self.by_type[key_type]
        if value is None:
            return policy.plain
        requested = _read_bits(value)
        if requested == policy.required:
            return policy.plain
        unlisted = requested - policy.allowed
        if unlisted and not self.drop:
            names = ", ".join(_bit_name(bit) for bit in sorted(unlisted))
            raise BadCertTemplate(f"extensions.key_usage: {names} is not accepted for {key_type} keys")
        granted = (requested - unlisted) | policy.required
        if not granted.isdisjoint({7, 8}) and 4 not in granted:
            raise BadCertTemplate("extensions.key_usage: encipher_only and decipher_only go with key_agreement")
        modified.extend(f"key usage {_bit_name(bit)} left out" for bit in sorted(unlisted))
        modified.extend(f"key usage {_bit_name(bit)} added" for bit in sorted(granted - requested))
        return _key_usage(granted, self.critical)


def _read_bits(value: bytes) -> frozenset[int]:
    """The numbers of the bits that are set in a KeyUsage of up to 16 bits. Raises MalformedError, BadCertTemplate."""
    content = der.content(value, der.BIT_STRING)
    if not 1 <= len(content) <= 3 or content[0] > 7 or (len(content) == 1 and content[0]):
        raise der.MalformedError("not a KeyUsage")
    bits = frozenset(
        8 * index + bit for index, octet in enumerate(content[1:]) for bit in range(8) if octet & 0x80 >> bit
    )
    if not bits:
        raise BadCertTemplate("extensions.key_usage: no usage is requested (RFC 5280 §4.2.1.3)")
    return bits


def _bit_name(bit: int) -> str:
    return next((name for name, number in _BITS.items() if number == bit), f"bit {bit}")


@dataclass(frozen=True, slots=True)
class _PurposesOf:
    """ExtKeyUsage of one key type, as KeyPurposeIds in DER, in the order of the file."""

    required: frozenset[bytes]
    allowed: tuple[bytes, ...]
    """Required first."""
    plain: RequestedExtension | None


def _extended_key_usage(purposes: Sequence[bytes], critical: bool) -> RequestedExtension | None:
    return RequestedExtension(EXTENDED_KEY_USAGE, critical, der.sequence(*purposes)) if purposes else None


@dataclass(frozen=True, slots=True)
class ExtendedKeyUsagePolicy:
    """Section [extensions.extended_key_usage], prepared per key type."""

    by_type: dict[str, _PurposesOf]
    critical: bool
    drop: bool

    @classmethod
    def from_config(cls, config: ExtendedKeyUsageConfig, types: Sequence[str]) -> Self:
        """Prepare for the allowed key types. Raises ProfileKeyError."""
        section = "extensions.extended_key_usage"
        by_type = {}
        for key_type in types:
            required = _usages(f"{section}.required_usages", config.required_usages, types, key_type)
            optional = _usages(f"{section}.optional_usages", config.optional_usages, types, key_type)
            first = tuple(dict.fromkeys(der.oid(oid) for oid in required))
            allowed = tuple(dict.fromkeys((*first, *(der.oid(oid) for oid in optional))))
            by_type[key_type] = _PurposesOf(frozenset(first), allowed, _extended_key_usage(first, config.critical))
        return cls(by_type, config.critical, _drops(config.on_unlisted))

    def resolve(self, value: bytes | None, key_type: str, modified: list[str]) -> RequestedExtension | None:
        """Return the extension for the certificate. Raises BadCertTemplate, MalformedError."""
        policy = self.by_type[key_type]
        if value is None:
            return policy.plain
        purposes = der.children(value, 100)
        if value[0] != der.SEQUENCE or any(not purpose.startswith(b"\x06") for purpose in purposes):
            raise der.MalformedError("not an ExtKeyUsage")
        if not purposes:
            raise BadCertTemplate("extensions.extended_key_usage: no usage is requested (RFC 5280 §4.2.1.12)")
        requested = frozenset(purposes)
        if requested == policy.required:
            return policy.plain
        unlisted = sorted(requested.difference(policy.allowed))
        if unlisted and not self.drop:
            raise BadCertTemplate(f"extensions.extended_key_usage: {_purpose(unlisted[0])} is not accepted")
        modified.extend(f"extended key usage {_purpose(oid)} left out" for oid in unlisted[:10])
        modified.extend(f"extended key usage {_purpose(oid)} added" for oid in sorted(policy.required - requested))
        granted = [oid for oid in policy.allowed if oid in policy.required or oid in requested]
        return _extended_key_usage(granted, self.critical)


def _purpose(oid: bytes) -> str:
    return _PURPOSES.get(oid) or oid_text(oid[2:])


def _drops(on_unlisted: OnUnlisted) -> bool:
    return on_unlisted == "drop"


@dataclass(frozen=True, slots=True)
class ExtensionsPolicy:
    """Section [extensions], prepared."""

    ignore_other: bool
    key_usage: KeyUsagePolicy
    extended_key_usage: ExtendedKeyUsagePolicy

    @classmethod
    def from_config(cls, config: ExtensionsConfig, types: Sequence[str]) -> Self:
        """Prepare for the allowed key types. Raises ProfileKeyError."""
        return cls(
            ignore_other=config.other == "ignore",
            key_usage=KeyUsagePolicy.from_config(config.key_usage, types),
            extended_key_usage=ExtendedKeyUsagePolicy.from_config(config.extended_key_usage, types),
        )
