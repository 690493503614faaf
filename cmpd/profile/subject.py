"""The subject of a request, decided attribute by attribute (RFC 5280 §4.1.2.6).

A name that passes unchanged keeps the requester's own octets. One that must change is written anew, as UTF8String
(or the type that the attribute's definition names), in the order of the table below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from cryptography.x509 import ObjectIdentifier

from cmpd import asn1
from cmpd.asn1 import der
from cmpd.errors import BadCertTemplate
from cmpd.profile.config import AttributeConfig, ProfileKeyError, SubjectConfig
from cmpd.profile.syntax import Pattern, dns_fault, email_fault, is_printable_string, quote, text_fault

EMPTY_NAME: Final = b"\x30\x00"
_DIRECTORY: Final = (der.UTF8_STRING, der.PRINTABLE_STRING)
_PRINTABLE: Final = (der.PRINTABLE_STRING,)
_IA5: Final = (der.IA5_STRING,)


def _country_fault(value: str) -> str | None:
    if len(value) == 2 and value.isascii() and value.isalpha() and value.isupper():
        return None
    return "is not a country code, two capital letters (ISO 3166-1)"


def _domain_component_fault(value: str) -> str | None:
    return "is not one label of a domain name" if "." in value or dns_fault(f"{value}.x") else None


@dataclass(frozen=True, slots=True)
class _Type:
    """An attribute type: its upper bound in characters and its string types (RFC 5280 appendix A.1)."""

    oid: str
    bound: int
    strings: tuple[int, ...] = _DIRECTORY
    """The first is the one to write; the others may stay as they are."""
    fault: Callable[[str], str | None] = text_fault
    repeatable: bool = False


ATTRIBUTES: Final = {
    "country_name": _Type("2.5.4.6", 2, _PRINTABLE, _country_fault),
    "state_or_province_name": _Type("2.5.4.8", 128),
    "locality_name": _Type("2.5.4.7", 128),
    "domain_component": _Type("0.9.2342.19200300.100.1.25", 63, _IA5, _domain_component_fault, repeatable=True),
    "organization_name": _Type("2.5.4.10", 64),
    "organization_identifier": _Type("2.5.4.97", 256),
    "organizational_unit_name": _Type("2.5.4.11", 64, repeatable=True),
    "title": _Type("2.5.4.12", 64),
    "pseudonym": _Type("2.5.4.65", 128),
    "surname": _Type("2.5.4.4", 32768),
    "given_name": _Type("2.5.4.42", 32768),
    "common_name": _Type("2.5.4.3", 64),
    "serial_number": _Type("2.5.4.5", 64, _PRINTABLE),
    "dn_qualifier": _Type("2.5.4.46", 64, _PRINTABLE),
    "user_id": _Type("0.9.2342.19200300.100.1.1", 256),
    "email_address": _Type("1.2.840.113549.1.9.1", 255, _IA5, email_fault),
}
"""In the order in which a name is written when it must be written anew."""

_CODECS: Final = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    der.IA5_STRING: "ascii",
    der.TELETEX_STRING: "ascii",
    der.BMP_STRING: "utf-16-be",
    der.UNIVERSAL_STRING: "utf-32-be",
}
"""String types that are read at all. TeletexString is read as ASCII only, since nobody agrees on the rest of it."""


@dataclass(frozen=True, slots=True)
class AttributeRule:
    """What the profile says about one attribute."""

    name: str
    order: int
    type: _Type
    oid: bytes
    """The attribute type, DER."""
    required: bool
    fixed: tuple[str, ...]
    """What is put there whatever is requested; empty when it comes from the request."""
    pattern: Pattern | None
    max_length: int
    max: int

    @classmethod
    def from_config(cls, name: str, order: int, config: AttributeConfig) -> Self:
        """Prepare. Raises ProfileKeyError."""
        key, type_ = f"subject.{name}", ATTRIBUTES[name]
        fixed = config.source == "fixed"
        if fixed != bool(config.value):
            raise ProfileKeyError(f"{key}.value", "is missing" if fixed else "goes with source = 'fixed' only")
        if fixed and config.pattern is not None:
            raise ProfileKeyError(f"{key}.pattern", "goes with source = 'cmp' only")
        if config.max > 1 and not type_.repeatable:
            raise ProfileKeyError(f"{key}.max", f"{config.max}: a name has this attribute once at most")
        if len(config.value) > (32 if type_.repeatable else 1):
            raise ProfileKeyError(f"{key}.value", "has more values than the attribute can have")
        max_length = type_.bound if config.max_length is None else config.max_length
        if max_length > type_.bound:
            raise ProfileKeyError(
                f"{key}.max_length", f"{max_length} is more than {type_.bound} (RFC 5280 appendix A.1)"
            )
        rule = cls(
            name=name,
            order=order,
            type=type_,
            oid=der.oid(type_.oid),
            required=(config.include or ("required" if fixed else "optional")) == "required",
            fixed=config.value,
            pattern=config.pattern,
            max_length=max_length,
            max=config.max,
        )
        for value in config.value:
            fault = rule.fault(value)
            if fault:
                raise ProfileKeyError(f"{key}.value", f"{value!r} {fault}")
        return rule

    def fault(self, text: str) -> str | None:
        """Say which rule a value breaks; None when it is good."""
        if len(text) > self.max_length:
            return f"is longer than {self.max_length} characters"
        found = text_fault(text)
        if found is None and self.type.fault is not text_fault:
            found = self.type.fault(text)
        if found is None and self.type.strings == _PRINTABLE and not is_printable_string(text.encode()):
            found = "has a character that is not in PrintableString"
        if found is None and self.pattern is not None and not self.pattern.matches(text):
            found = "does not match the pattern"
        return found

    def read(self, tag: int, value: bytes) -> tuple[str, bool]:
        """Check a requested value; return its text, and whether its octets can stay. Raises BadCertTemplate."""
        codec = _CODECS.get(tag)
        allowed = tag in self.type.strings
        if codec is None or not (allowed or tag == der.UTF8_STRING or self.type.strings == _DIRECTORY):
            raise BadCertTemplate(f"subject.{self.name}: a string of type [{tag:#04x}] does not belong there")
        if tag == der.IA5_STRING and self.type.strings != _IA5:
            raise BadCertTemplate(f"subject.{self.name}: an IA5String does not belong there")
        try:
            text = value.decode(codec)
        except UnicodeDecodeError:
            raise BadCertTemplate(f"subject.{self.name}: is not a string of its type") from None
        fault = self.fault(text)
        if fault is not None:
            raise BadCertTemplate(f"subject.{self.name}: {quote(text)} {fault}")
        return text, allowed and (tag != der.PRINTABLE_STRING or is_printable_string(value))

    def write(self, text: str) -> bytes:
        """The AttributeTypeAndValue, DER."""
        return der.sequence(self.oid, der.tlv(self.type.strings[0], text.encode()))


@dataclass(frozen=True, slots=True)
class SubjectPolicy:
    """Section [subject], prepared."""

    rules: dict[ObjectIdentifier, AttributeRule]
    required: tuple[AttributeRule, ...]
    """Those that must come with the request."""
    fixed: tuple[AttributeRule, ...]
    drop: bool
    multi_valued_rdn: bool

    @classmethod
    def from_config(cls, config: SubjectConfig) -> Self:
        """Prepare. Raises ProfileKeyError."""
        rules = {}
        for order, name in enumerate(ATTRIBUTES):
            attribute: AttributeConfig | None = getattr(config, name)
            if attribute is not None and attribute.include != "no":
                rules[ObjectIdentifier(ATTRIBUTES[name].oid)] = AttributeRule.from_config(name, order, attribute)
        return cls(
            rules=rules,
            required=tuple(rule for rule in rules.values() if rule.required and not rule.fixed),
            fixed=tuple(rule for rule in rules.values() if rule.fixed),
            drop=config.on_unlisted == "drop",
            multi_valued_rdn=config.multi_valued_rdn,
        )

    def resolve(self, subject: bytes, modified: list[str]) -> bytes:
        """Return the Name for the certificate, and add what was changed. Raises BadCertTemplate, MalformedError."""
        rules = self.rules
        values: dict[str, list[str]] = {}
        names: list[list[tuple[AttributeRule, str]]] = []
        encoded: list[bytes] = []
        kept = True
        for rdn in asn1.name_rdns(subject):
            if len(rdn) != 1 and not (self.multi_valued_rdn and rdn):
                raise BadCertTemplate(f"subject: a relative name with {len(rdn)} attributes (subject.multi_valued_rdn)")
            name: list[tuple[AttributeRule, str]] = []
            parts: list[bytes] = []
            for oid, tag, value in rdn:
                rule = rules.get(oid)
                if rule is None:
                    if not self.drop:
                        raise BadCertTemplate(f"subject.{_name(oid)}: this attribute is not accepted")
                    modified.append(f"subject.{_name(oid)} left out")
                    kept = False
                    continue
                if rule.fixed:
                    text, good = self._read_fixed(rule, tag, value)
                else:
                    text, good = rule.read(tag, value)
                kept = kept and good
                same = values.setdefault(rule.name, [])
                same.append(text)
                if len(same) > rule.max and not rule.fixed:
                    raise BadCertTemplate(f"subject.{rule.name}: is there more often than {_times(rule.max)}")
                if rule.fixed and text not in rule.fixed:
                    kept = False
                    continue
                name.append((rule, text))
                parts.append(der.tlv(der.SEQUENCE, rule.oid, der.tlv(tag, value)))
            if name:
                names.append(name)
                encoded.append(der.set_of(*parts))
        for rule in self.required:
            if rule.name not in values:
                raise BadCertTemplate(f"subject.{rule.name}: is required")
        for rule in self.fixed:
            same = values.get(rule.name, [])
            if tuple(same) == rule.fixed or (not same and not rule.required):
                continue
            if same:
                modified.append(f"subject.{rule.name} replaced")
            elif subject != EMPTY_NAME:
                modified.append(f"subject.{rule.name} added")
            kept = False
            names = [left for rdn in names if (left := [pair for pair in rdn if pair[0] is not rule])]
            names.extend([(rule, text)] for text in rule.fixed)
        if kept:
            return der.sequence(*encoded)
        names.sort(key=lambda rdn: min(rule.order for rule, _ in rdn))
        return der.sequence(*(der.set_of(*(rule.write(text) for rule, text in rdn)) for rdn in names))

    @staticmethod
    def _read_fixed(rule: AttributeRule, tag: int, value: bytes) -> tuple[str, bool]:
        """Read what a request has for a fixed attribute; whatever it is, it is replaced unless it is the value."""
        try:
            return rule.read(tag, value)
        except BadCertTemplate:
            return "", False


_NAMES: Final = {ObjectIdentifier(type_.oid): name for name, type_ in ATTRIBUTES.items()}


def _name(oid: ObjectIdentifier) -> str:
    return _NAMES.get(oid) or oid.dotted_string


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
