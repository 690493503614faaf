"""The subject of a request, decided attribute by attribute (RFC 5280 §4.1.2.6).

A name that passes unchanged keeps the requester's own octets. One that must change is written anew, as UTF8String
(or the type that the attribute's definition names), in the profile's order or else that of the table below.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from cryptography.x509 import ObjectIdentifier

from cmpd import asn1
from cmpd.asn1 import der
from cmpd.profile.config import AttributeConfig, OrganizationConfig, SubjectConfig
from cmpd.profile.decision import Decision
from cmpd.profile.syntax import (
    Fault,
    Pattern,
    dns_fault,
    email_fault,
    is_printable_string,
    named_oid,
    quote,
    text_fault,
)
from cmpd.profile.vocabulary import Include, ProfileKeyError

EMPTY_NAME: Final = b"\x30\x00"
_DIRECTORY: Final = (der.UTF8_STRING, der.PRINTABLE_STRING)
_PRINTABLE: Final = (der.PRINTABLE_STRING,)
_IA5: Final = (der.IA5_STRING,)


def _country_fault(value: str) -> Fault | None:
    if len(value) == 2 and value.isascii() and value.isalpha() and value.isupper():
        return None
    return Fault("is not a country code, two capital letters", "ISO 3166-1")


def _domain_component_fault(value: str) -> Fault | None:
    if "." in value or dns_fault(f"{value}.x"):
        return Fault("is not one label of a domain name", "RFC 4519 §2.4")
    return None


@dataclass(frozen=True, slots=True)
class _Type:
    """An attribute type: its upper bound in characters and its string types (RFC 5280 appendix A.1)."""

    oid: str
    bound: int
    strings: tuple[int, ...] = _DIRECTORY
    """The first is the one to write; the others may stay as they are."""
    fault: Callable[[str], Fault | None] = text_fault
    repeatable: bool = False


ATTRIBUTES: Final = {
    "country_name": _Type("2.5.4.6", 2, _PRINTABLE, _country_fault),
    "state_or_province_name": _Type("2.5.4.8", 128),
    "locality_name": _Type("2.5.4.7", 128),
    "postal_code": _Type("2.5.4.17", 40),
    "street_address": _Type("2.5.4.9", 128, repeatable=True),
    "domain_component": _Type("0.9.2342.19200300.100.1.25", 63, _IA5, _domain_component_fault, repeatable=True),
    "organization_name": _Type("2.5.4.10", 64),
    "organization_identifier": _Type("2.5.4.97", 256),
    "organizational_unit_name": _Type("2.5.4.11", 64, repeatable=True),
    "title": _Type("2.5.4.12", 64),
    "pseudonym": _Type("2.5.4.65", 128),
    "surname": _Type("2.5.4.4", 32768),
    "given_name": _Type("2.5.4.42", 32768),
    "initials": _Type("2.5.4.43", 64),
    "generation_qualifier": _Type("2.5.4.44", 64),
    "common_name": _Type("2.5.4.3", 64),
    "serial_number": _Type("2.5.4.5", 64, _PRINTABLE),
    "dn_qualifier": _Type("2.5.4.46", 64, _PRINTABLE),
    "unique_identifier": _Type("0.9.2342.19200300.100.1.44", 256),
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
    key: str
    """`subject.` and the name: the key of the rule, and the field of a refusal."""
    order: int
    type: _Type
    oid: bytes
    """The attribute type, DER."""
    required: bool
    fixed: tuple[str, ...]
    """What is put there whatever is requested; empty when it comes from the request."""
    default: tuple[str, ...]
    """What is put there when the request has none."""
    pattern: Pattern | None
    max_length: int
    min: int
    max: int

    @classmethod
    def from_config(cls, name: str, order: int, config: AttributeConfig) -> Self:
        """Prepare. Raises ProfileKeyError."""
        key, type_ = f"subject.{name}", ATTRIBUTES[name]
        fixed = config.source == "fixed"
        if (config.source != "cmp") != bool(config.value):
            raise ProfileKeyError(f"{key}.value", "goes with source = 'fixed' only" if config.value else "is missing")
        if fixed and config.pattern is not None:
            raise ProfileKeyError(f"{key}.pattern", "goes with source = 'cmp' only")
        if config.max > 1 and not type_.repeatable:
            raise ProfileKeyError(f"{key}.max", f"{config.max}: a name has this attribute once at most")
        if config.min > config.max:
            raise ProfileKeyError(f"{key}.min", f"{config.min} is more than max, {config.max}")
        if len(config.value) > (32 if type_.repeatable and fixed else config.max):
            raise ProfileKeyError(f"{key}.value", "has more values than the attribute can have")
        max_length = type_.bound if config.max_length is None else config.max_length
        if max_length > type_.bound:
            raise ProfileKeyError(
                f"{key}.max_length", f"{max_length} is more than {type_.bound} (RFC 5280 appendix A.1)"
            )
        rule = cls(
            name=name,
            key=key,
            order=order,
            type=type_,
            oid=der.oid(type_.oid),
            required=(config.include or ("required" if fixed else "optional")) == "required",
            fixed=config.value if fixed else (),
            default=config.value if config.source == "default" else (),
            pattern=config.pattern,
            max_length=max_length,
            min=config.min,
            max=config.max,
        )
        for value in config.value:
            fault = rule.fault(value)
            if fault:
                raise ProfileKeyError(f"{key}.value", f"{value!r} {fault}")
        return rule

    def fault(self, text: str) -> Fault | None:
        """Say which rule a value breaks; None when it is good."""
        if len(text) > self.max_length:
            return Fault(f"is longer than {self.max_length} characters", f"{self.key}.max_length")
        found = text_fault(text)
        if found is None and self.type.fault is not text_fault:
            found = self.type.fault(text)
        if found is None and self.type.strings == _PRINTABLE and not is_printable_string(text.encode()):
            found = Fault("has a character that is not in PrintableString", "X.680 §41.4")
        if found is None and self.pattern is not None and not self.pattern.matches(text):
            found = Fault("does not match the pattern", f"{self.key}.pattern")
        return found

    def read(self, tag: int, value: bytes) -> tuple[str, bool, Fault | None]:
        """Read a requested value: its text, whether its octets can stay, and the rule that it breaks."""
        codec = _CODECS.get(tag)
        strings = self.type.strings
        allowed = tag in strings
        if codec is None or not (allowed or tag == der.UTF8_STRING or strings == _DIRECTORY):
            return "", False, Fault(f"a string of type [{tag:#04x}] does not belong there", _STRING_TYPES)
        if tag == der.IA5_STRING and strings != _IA5:
            return "", False, Fault("an IA5String does not belong there", _STRING_TYPES)
        try:
            text = value.decode(codec)
        except UnicodeDecodeError:
            return "", False, Fault("is not a string of its type", _STRING_TYPES)
        fault = self.fault(text)
        if fault is not None:
            return text, False, Fault(f"{quote(text)} {fault.text}", fault.rule)
        return text, allowed and (tag != der.PRINTABLE_STRING or is_printable_string(value)), None

    def write(self, text: str) -> bytes:
        """The AttributeTypeAndValue, DER."""
        return der.sequence(self.oid, der.tlv(self.type.strings[0], text.encode()))


_STRING_TYPES: Final = "RFC 5280 appendix A.1"
"""What says which string types an attribute may have."""
_Rdns = list[list[tuple[AttributeRule, str]]]
"""The relative names, each with the rule and the text of its attributes."""


class _Given:
    """What a requested name holds, while it is decided."""

    __slots__ = ("encoded", "kept", "names", "values")

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self.names: _Rdns = []
        self.encoded: list[bytes] = []
        """The relative names in the requester's octets."""
        self.kept = True
        """Whether those can stay."""

    def add(self, rule: AttributeRule, texts: tuple[str, ...]) -> None:
        """Put values of the profile's into the name."""
        self.values.setdefault(rule.name, []).extend(texts)
        self.names.extend([(rule, text)] for text in texts)
        self.kept = False


@dataclass(frozen=True, slots=True)
class SubjectPolicy:
    """Section [subject], prepared."""

    rules: dict[ObjectIdentifier, AttributeRule]
    by_name: dict[str, AttributeRule]
    counted: tuple[AttributeRule, ...]
    """Those that must come with the request, or with a fewest number."""
    fixed: tuple[AttributeRule, ...]
    defaults: tuple[AttributeRule, ...]
    drop: bool
    multi_valued_rdn: bool
    ordered: bool
    """The order is the profile's and not the request's."""
    name_split: Pattern | str | None

    @classmethod
    def from_config(cls, config: SubjectConfig, organization: OrganizationConfig | None) -> Self:
        """Prepare. Raises ProfileKeyError."""
        order = {name: place for place, name in enumerate(dict.fromkeys((*config.order, *ATTRIBUTES)))}
        rules = {}
        for name in ATTRIBUTES:
            attribute = _bound(name, getattr(config, name), organization)
            if attribute is not None and attribute.include != "no":
                rules[ObjectIdentifier(ATTRIBUTES[name].oid)] = AttributeRule.from_config(name, order[name], attribute)
        by_name = {rule.name: rule for rule in rules.values()}
        if config.name_split is not None and not {"common_name", "given_name", "surname"} <= by_name.keys():
            raise ProfileKeyError("subject.name_split", "needs common_name, given_name and surname in [subject]")
        for source in config.common_name_from:
            needed = {"personal_name": ("given_name", "surname")}.get(source, (source,))
            if not source.startswith("san.") and by_name.keys().isdisjoint(needed) and config.common_name is not None:
                raise ProfileKeyError("subject.common_name_from", f"{source!r} needs {needed[0]} in [subject]")
        return cls(
            rules=rules,
            by_name=by_name,
            counted=tuple(rule for rule in by_name.values() if (rule.required or rule.min > 1) and not rule.fixed),
            fixed=tuple(rule for rule in by_name.values() if rule.fixed),
            defaults=tuple(rule for rule in by_name.values() if rule.default),
            drop=config.on_unlisted == "drop",
            multi_valued_rdn=config.multi_valued_rdn,
            ordered=bool(config.order),
            name_split=config.name_split,
        )

    def resolve(self, subject: bytes, decision: Decision) -> tuple[bytes, dict[str, list[str]]]:
        """Return the Name for the certificate and its values by attribute, and add what was changed.

        Raises BadCertTemplate, MalformedError.
        """
        given = _Given()
        self._read(subject, given, decision)
        values, modified = given.values, decision.modified
        quiet = subject == EMPTY_NAME
        """A request that leaves the subject to the profile is not told what that added."""
        if self.name_split is not None:
            self._split(given, decision)
        for rule in self.defaults:
            if rule.name not in values:
                given.add(rule, rule.default)
                if not quiet:
                    modified.append(f"{rule.key} added")
        for rule in self.counted:
            count = len(values.get(rule.name, ()))
            if count == 0 and rule.required:
                decision.refuse(f"{rule.key}.include", rule.key, "is required")
            elif 0 < count < rule.min:
                decision.refuse(f"{rule.key}.min", rule.key, f"is there less often than {rule.min} times")
            elif decision.findings is not None:
                decision.passed(f"{rule.key}.include", rule.key, "is there")
        for rule in self.fixed:
            same = values.get(rule.name, [])
            if tuple(same) == rule.fixed or (not same and not rule.required):
                continue
            if same:
                modified.append(f"{rule.key} replaced")
            elif not quiet:
                modified.append(f"{rule.key} added")
            given.names = [left for rdn in given.names if (left := [pair for pair in rdn if pair[0] is not rule])]
            values[rule.name] = []
            given.add(rule, rule.fixed)
        if self.ordered and given.kept:
            places = [min(rule.order for rule, _ in rdn) for rdn in given.names]
            if places != sorted(places):
                given.kept = False
                modified.append("subject put in order")
        if given.kept:
            return der.sequence(*given.encoded), values
        given.names.sort(key=lambda rdn: min(rule.order for rule, _ in rdn))
        return der.sequence(*(der.set_of(*(rule.write(text) for rule, text in rdn)) for rdn in given.names)), values

    def _read(self, subject: bytes, given: _Given, decision: Decision) -> None:
        """Judge a requested name attribute by attribute."""
        rules, values, explaining = self.rules, given.values, decision.findings is not None
        for rdn in asn1.name_rdns(subject):
            if not rdn:
                decision.refuse("RFC 5280 §4.1.2.4", "subject", "a relative name without an attribute")
            elif len(rdn) != 1 and not self.multi_valued_rdn:
                decision.refuse(
                    "subject.multi_valued_rdn",
                    "subject",
                    f"a relative name with {len(rdn)} attributes",
                )
            name: list[tuple[AttributeRule, str]] = []
            parts: list[bytes] = []
            for oid, tag, value in rdn:
                rule = rules.get(oid)
                if rule is None:
                    if not self.drop:
                        decision.refuse(
                            "subject.on_unlisted", f"subject.{_name(oid)}", "this attribute is not accepted"
                        )
                    decision.modified.append(f"subject.{_name(oid)} left out")
                    given.kept = False
                    continue
                text, good, fault = rule.read(tag, value)
                if fault is not None:
                    if rule.fixed:
                        text = ""  # whatever it is, it is replaced
                    else:
                        decision.refuse(fault.rule, rule.key, fault.text)
                given.kept = given.kept and good
                same = values.setdefault(rule.name, [])
                same.append(text)
                if len(same) > rule.max and not rule.fixed:
                    decision.refuse(f"{rule.key}.max", rule.key, f"is there more often than {_times(rule.max)}")
                if rule.fixed and text not in rule.fixed:
                    given.kept = False
                    continue
                if explaining and fault is None:
                    decision.passed(rule.key, rule.key, f"{quote(text)} is accepted")
                name.append((rule, text))
                parts.append(der.tlv(der.SEQUENCE, rule.oid, der.tlv(tag, value)))
            if name:
                given.names.append(name)
                given.encoded.append(der.set_of(*parts))

    def _split(self, given: _Given, decision: Decision) -> None:
        """Take given name and surname from the common name when the request has neither, nor a pseudonym."""
        values = given.values
        common = values.get("common_name")
        if not common or not values.keys().isdisjoint({"given_name", "surname", "pseudonym"}) or "@" in common[0]:
            return
        if isinstance(self.name_split, Pattern):
            found = self.name_split.split(common[0])
        else:
            first, _, last = common[0].rpartition(" ")
            found = {"gn": first, "sn": last}
        parts = {"given_name": found.get("gn", "").strip(), "surname": found.get("sn", "").strip()}
        if not all(parts.values()):
            if decision.findings is not None:
                decision.passed("subject.name_split", "subject.common_name", f"{quote(common[0])} is not split")
            return
        for name, text in parts.items():
            rule = self.by_name[name]
            if rule.fixed:
                continue
            fault = rule.fault(text)
            if fault is not None:
                decision.refuse(fault.rule, rule.key, f"{quote(text)}, split from the common name, {fault.text}")
            given.add(rule, (text,))
            decision.modified.append(f"{rule.key} added")


def _bound(
    name: str, attribute: AttributeConfig | None, organization: OrganizationConfig | None
) -> AttributeConfig | None:
    """Bind what names the organization to [organization]: it is there, unless include = "no".

    Raises ProfileKeyError.
    """
    if organization is None or name not in {"organization_name", "organization_identifier"}:
        return attribute
    key = "name" if name == "organization_name" else "identifier"
    value = organization.name if key == "name" else organization.identifier
    if value is None:
        return attribute
    if attribute is None:
        return AttributeConfig(source="fixed", value=(value,)) if key == "name" else None
    if attribute.source != "cmp" and attribute.value != (value,):
        raise ProfileKeyError(f"subject.{name}.value", f"is not organization.{key}, which it must be")
    include: Include = "no" if attribute.include == "no" else "required"
    return AttributeConfig(include=include, source="fixed", value=(value,), max_length=attribute.max_length)


def common_name_is(
    sources: Sequence[str], common: str, subject: dict[str, list[str]], san: dict[str, list[str]]
) -> bool:
    """Whether a common name is also one of the `sources`; mailboxes and hosts are compared without case."""
    for source in sources:
        section, _, type_ = source.partition(".")
        if section == "san":
            if common.lower() in {text.lower() for text in san.get(type_, ())}:
                return True
        elif source == "personal_name":
            if common in _personal_names(subject.get("given_name", [""])[0], subject.get("surname", [""])[0]):
                return True
        elif common in subject.get(source, ()):
            return True
    return False


def _personal_names(given: str, surname: str) -> set[str]:
    if given and surname:
        return {f"{given} {surname}", f"{surname} {given}", f"{surname}, {given}"}
    return {name for name in (given, surname) if name}


_NAMES: Final = {ObjectIdentifier(type_.oid): name for name, type_ in ATTRIBUTES.items()}


def _name(oid: ObjectIdentifier) -> str:
    return _NAMES.get(oid) or named_oid(oid.dotted_string)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
