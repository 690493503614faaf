"""Key usage, extended key usage and all other extensions of a request (RFC 5280 §4.2.1)."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from cryptography.x509 import ObjectIdentifier

from cmpd.asn1 import der
from cmpd.errors import UnacceptedExtension
from cmpd.exchange import RequestedExtension
from cmpd.profile.config import (
    AccessConfig,
    CustomExtensionConfig,
    ExtendedKeyUsageConfig,
    ExtensionsConfig,
    KeyUsageConfig,
    PolicyConfig,
    issuers_own,
)
from cmpd.profile.decision import Decision
from cmpd.profile.san import SUBJECT_ALT_NAME
from cmpd.profile.syntax import named_oid, oid_text
from cmpd.profile.vocabulary import EXTENDED_KEY_USAGES, EXTENSIONS, OnUnlisted, ProfileKeyError

BASIC_CONSTRAINTS: Final = ObjectIdentifier("2.5.29.19")
KEY_USAGE: Final = ObjectIdentifier("2.5.29.15")
EXTENDED_KEY_USAGE: Final = ObjectIdentifier("2.5.29.37")
_SUBJECT_KEY_IDENTIFIER: Final = ObjectIdentifier("2.5.29.14")
_AUTHORITY_KEY_IDENTIFIER: Final = ObjectIdentifier("2.5.29.35")
_DECIDED: Final = frozenset({BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE, SUBJECT_ALT_NAME})
_CERTIFICATE_POLICIES: Final = ObjectIdentifier("2.5.29.32")
_CRL_DISTRIBUTION_POINTS: Final = ObjectIdentifier("2.5.29.31")
_AUTHORITY_INFORMATION_ACCESS: Final = ObjectIdentifier("1.3.6.1.5.5.7.1.1")
_OCSP: Final = der.oid("1.3.6.1.5.5.7.48.1")
_CA_ISSUERS: Final = der.oid("1.3.6.1.5.5.7.48.2")
_CPS: Final = der.oid("1.3.6.1.5.5.7.2.1")
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

_WITHOUT: Final = {
    "signing": frozenset({"key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"}),
    "key_management": _SIGNING,
}
"""Usages that certificate_type.usage rules out (S/MIME BR §7.1.2.3 (e))."""
_EXTENSION_NAMES: Final = {oid: name for name, oid in EXTENSIONS.items()}
_PURPOSES: Final = {der.oid(oid): name for name, oid in EXTENDED_KEY_USAGES.items()}


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
    def from_config(cls, config: KeyUsageConfig, types: Sequence[str], usage: str | None) -> Self:
        """Prepare for the allowed key types and certificate_type.usage. Raises ProfileKeyError."""
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
                against = usages & _WITHOUT.get(usage or "", frozenset())
                if against:
                    raise ProfileKeyError(
                        f"{section}.{key}",
                        f"{', '.join(sorted(against))}: contradicts certificate_type.usage = {usage!r}",
                    )
            if not required.isdisjoint({"encipher_only", "decipher_only"}) and "key_agreement" not in required:
                raise ProfileKeyError(
                    f"{section}.required_usages", "encipher_only and decipher_only go with key_agreement"
                )
            bits = frozenset(_BITS[usage] for usage in required)
            allowed = bits | {_BITS[usage] for usage in optional}
            by_type[key_type] = _BitsOf(bits, allowed, _key_usage(bits, config.critical))
        return cls(by_type, config.critical, _drops(config.on_unlisted))

    def resolve(self, value: bytes | None, key_type: str, decision: Decision) -> RequestedExtension | None:
        """Return the extension for the certificate. Raises BadCertTemplate, MalformedError."""
        policy, field, modified = self.by_type[key_type], "extensions.key_usage", decision.modified
        if value is None:
            return policy.plain
        requested = _read_bits(value)
        if not requested:
            decision.refuse("RFC 5280 §4.2.1.3", field, "no usage is requested")
        if requested == policy.required:
            decision.passed(field, field, "what is requested is what is required")
            return policy.plain
        unlisted = requested - policy.allowed
        if unlisted and not self.drop:
            names = ", ".join(_bit_name(bit) for bit in sorted(unlisted))
            decision.refuse(f"{field}.on_unlisted", field, f"{names} is not accepted for {key_type} keys")
        granted = (requested - unlisted) | policy.required
        if not granted.isdisjoint({7, 8}) and 4 not in granted:
            decision.refuse("RFC 5280 §4.2.1.3", field, "encipher_only and decipher_only go with key_agreement")
        modified.extend(f"key usage {_bit_name(bit)} left out" for bit in sorted(unlisted))
        modified.extend(f"key usage {_bit_name(bit)} added" for bit in sorted(granted - requested))
        return _key_usage(granted, self.critical)


def _read_bits(value: bytes) -> frozenset[int]:
    """The numbers of the bits that are set in a KeyUsage of up to 16 bits. Raises MalformedError."""
    content = der.content(value, der.BIT_STRING)
    if not 1 <= len(content) <= 3 or content[0] > 7 or (len(content) == 1 and content[0]):
        raise der.MalformedError("not a KeyUsage")
    return frozenset(
        8 * index + bit for index, octet in enumerate(content[1:]) for bit in range(8) if octet & 0x80 >> bit
    )


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

    def resolve(self, value: bytes | None, key_type: str, decision: Decision) -> RequestedExtension | None:
        """Return the extension for the certificate. Raises BadCertTemplate, MalformedError."""
        policy, field, modified = self.by_type[key_type], "extensions.extended_key_usage", decision.modified
        if value is None:
            return policy.plain
        purposes = der.children(value, 100)
        if value[0] != der.SEQUENCE or any(not purpose.startswith(b"\x06") for purpose in purposes):
            raise der.MalformedError("not an ExtKeyUsage")
        if not purposes:
            decision.refuse("RFC 5280 §4.2.1.12", field, "no usage is requested")
        requested = frozenset(purposes)
        if requested == policy.required:
            decision.passed(field, field, "what is requested is what is required")
            return policy.plain
        unlisted = sorted(requested.difference(policy.allowed))
        if unlisted and not self.drop:
            decision.refuse(f"{field}.on_unlisted", field, f"{_purpose(unlisted[0])} is not accepted")
        modified.extend(f"extended key usage {_purpose(oid)} left out" for oid in unlisted[:10])
        modified.extend(f"extended key usage {_purpose(oid)} added" for oid in sorted(policy.required - requested))
        granted = [oid for oid in policy.allowed if oid in policy.required or oid in requested]
        return _extended_key_usage(granted, self.critical)


def _purpose(oid: bytes) -> str:
    return _PURPOSES.get(oid) or named_oid(oid_text(oid[2:]))


def _drops(on_unlisted: OnUnlisted) -> bool:
    return on_unlisted == "drop"


@dataclass(frozen=True, slots=True)
class ExtensionsPolicy:
    """Section [extensions], prepared."""

    ignore_other: bool
    requested: dict[ObjectIdentifier, str]
    """honour, ignore or refuse, for extensions that the profile names."""
    key_usage: KeyUsagePolicy
    extended_key_usage: ExtendedKeyUsagePolicy
    own: dict[ObjectIdentifier, RequestedExtension]
    """What every certificate has: policies, places of CRL and issuer, custom extensions."""

    @classmethod
    def from_config(cls, config: ExtensionsConfig, types: Sequence[str], usage: str | None) -> Self:
        """Prepare for the allowed key types and certificate_type.usage. Raises ProfileKeyError."""
        own = _own(config)
        requested: dict[ObjectIdentifier, str] = {}
        for oid, what in config.requested.items():
            key = f"extensions.requested.{_extension_name(oid)}"
            if what == "honour" and (issuers_own(oid) or ObjectIdentifier(oid) in own):
                raise ProfileKeyError(key, f"cannot be honoured: {issuers_own(oid) or 'the profile sets it itself'}")
            if what == "refuse" and ObjectIdentifier(oid) in _ISSUERS:
                raise ProfileKeyError(key, "cannot be refused: a request that carries it is not wrong (RFC 4211 §5)")
            requested[ObjectIdentifier(oid)] = what
        return cls(
            ignore_other=config.other == "ignore",
            requested=requested,
            key_usage=KeyUsagePolicy.from_config(config.key_usage, types, usage),
            extended_key_usage=ExtendedKeyUsagePolicy.from_config(config.extended_key_usage, types),
            own=own,
        )

    def sort(
        self, extensions: Sequence[RequestedExtension], decision: Decision
    ) -> tuple[dict[ObjectIdentifier, bytes], list[RequestedExtension]]:
        """Tell apart the requested extensions: values of those with rules of their own, and those that are honoured.

        Raises BadCertTemplate, UnacceptedExtension, MalformedError.
        """
        values: dict[ObjectIdentifier, bytes] = {}
        honoured: list[RequestedExtension] = []
        seen: set[ObjectIdentifier] = set()
        ignored = 0
        for extension in extensions:
            oid = extension.oid
            if oid in seen:
                decision.refuse("RFC 5280 §4.2", "extensions", f"{_extension_name(oid.dotted_string)} is there twice")
            seen.add(oid)
            what = self.requested.get(oid)
            if what is None or (what == "honour" and oid in _DECIDED):
                if oid in _DECIDED:
                    values[oid] = extension.value
                    continue
                if oid in _ISSUERS:
                    continue
                own = self.own.get(oid)
                if own is not None:
                    if own.value != extension.value:
                        decision.modified.append(f"extension {_extension_name(oid.dotted_string)} replaced")
                    continue
                what = "ignore" if self.ignore_other else "refuse"
            name = _extension_name(oid.dotted_string)
            if what == "refuse":
                rule = "extensions.requested" if oid in self.requested else "extensions.other"
                decision.refuse(rule, "extensions", f"{name} is not accepted", UnacceptedExtension)
            elif what == "honour":
                if der.read(extension.value)[2] != len(extension.value):
                    raise der.MalformedError(f"{name}: not one element")
                honoured.append(extension)
                decision.passed("extensions.requested", "extensions", f"{name} is taken over")
            else:
                ignored += 1
                if ignored <= 10:
                    decision.modified.append(f"extension {name} left out")
        constraints = values.get(BASIC_CONSTRAINTS)
        if constraints is not None:
            _check_constraints(constraints, decision)
        return values, honoured


def _check_constraints(value: bytes, decision: Decision) -> None:
    parts = der.children(value, 2)
    if value[0] != der.SEQUENCE:
        raise der.MalformedError("not BasicConstraints")
    rule, field = "RFC 5280 §4.2.1.9", "extensions.basic_constraints"
    if not parts or parts == [b"\x01\x01\x00"]:
        return
    if parts[0].startswith(b"\x01\x01"):
        decision.refuse(rule, field, "CA certificates are not issued")
    else:
        decision.refuse(rule, field, "pathLenConstraint is for CA certificates")


def _extension_name(oid: str) -> str:
    """Name an extension for people: its OID, with the name where there is one."""
    return f"{oid} ({_EXTENSION_NAMES[oid]})" if oid in _EXTENSION_NAMES else named_oid(oid)


# ── what every certificate has ──────────────────────────────────────────────────────────────────────────────────────


def _own(config: ExtensionsConfig) -> dict[ObjectIdentifier, RequestedExtension]:
    """Encode what the profile puts into every certificate. Raises ProfileKeyError."""
    found: list[RequestedExtension] = []
    if config.certificate_policies:
        found.append(_policies(config.certificate_policies))
    if config.crl_distribution_points:
        points = [
            der.sequence(der.explicit(0, der.explicit(0, der.tlv(0x86, url.encode("ascii")))))
            for url in config.crl_distribution_points
        ]
        found.append(RequestedExtension(_CRL_DISTRIBUTION_POINTS, False, der.sequence(*points)))
    access = config.authority_information_access
    if access.ocsp or access.ca_issuers:
        found.append(_access(access))
    found.extend(_custom(index, one) for index, one in enumerate(config.custom))
    own = {one.oid: one for one in found}
    if len(own) != len(found):
        raise ProfileKeyError("extensions.custom", "sets an extension twice")
    return own


def _policies(policies: Sequence[PolicyConfig]) -> RequestedExtension:
    if len({policy.oid for policy in policies}) != len(policies):
        raise ProfileKeyError("extensions.certificate_policies", "has a policy twice (RFC 5280 §4.2.1.4)")
    encoded = [
        der.sequence(der.oid(policy.oid))
        if policy.cps is None
        else der.sequence(der.oid(policy.oid), der.sequence(der.sequence(_CPS, der.ia5_string(policy.cps))))
        for policy in policies
    ]
    return RequestedExtension(_CERTIFICATE_POLICIES, False, der.sequence(*encoded))


def _access(config: AccessConfig) -> RequestedExtension:
    places = [(_OCSP, url) for url in config.ocsp] + [(_CA_ISSUERS, url) for url in config.ca_issuers]
    encoded = [der.sequence(method, der.tlv(0x86, url.encode("ascii"))) for method, url in places]
    return RequestedExtension(_AUTHORITY_INFORMATION_ACCESS, False, der.sequence(*encoded))


_VALUES: Final[dict[str, tuple[type, Callable[[Any], bytes]]]] = {
    "utf8_string": (str, der.utf8_string),
    "ia5_string": (str, der.ia5_string),
    "printable_string": (str, der.printable_string),
    "octet_string": (str, lambda text: der.octet_string(bytes.fromhex(text))),
    "integer": (int, der.integer),
    "boolean": (bool, der.boolean),
    "oid": (str, der.oid),
}


def _custom(index: int, config: CustomExtensionConfig) -> RequestedExtension:
    key, oid = f"extensions.custom.{index}", ObjectIdentifier(config.oid)
    own = next(
        (name for name in ("key_usage", "extended_key_usage", "subject_alt_name") if EXTENSIONS[name] == config.oid),
        None,
    )
    if own is not None or issuers_own(config.oid):
        raise ProfileKeyError(f"{key}.oid", f"{config.oid}: {issuers_own(config.oid) or f'{own} has keys of its own'}")
    ways = [config.der_hex is not None, config.der_base64 is not None, config.type is not None]
    if sum(ways) != 1:
        raise ProfileKeyError(key, f"{config.oid}: needs one of der_hex, der_base64, and type with value")
    if config.type is None or config.type == "null":
        if config.value is not None:
            raise ProfileKeyError(f"{key}.value", "goes with a type that has values")
        if config.type == "null":
            return RequestedExtension(oid, config.critical, der.null())
        value = (
            bytes.fromhex(config.der_hex) if config.der_hex is not None else base64.b64decode(config.der_base64 or "")
        )
        try:
            whole = der.read(value)[2] == len(value)
        except der.MalformedError:
            whole = False
        if not whole:
            raise ProfileKeyError(key, f"{config.oid}: the value is not one DER element")
        return RequestedExtension(oid, config.critical, value)
    kind, write = _VALUES[config.type]
    try:
        if type(config.value) is not kind:
            raise ValueError
        return RequestedExtension(oid, config.critical, write(config.value))
    except ValueError:
        raise ProfileKeyError(f"{key}.value", f"{config.value!r} is not a value of type {config.type}") from None
