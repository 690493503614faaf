"""The subjectAltName of a request, decided entry by entry (RFC 5280 §4.2.1.6)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, Self

from cryptography.x509 import ObjectIdentifier

from cmpd import asn1
from cmpd.asn1 import der
from cmpd.exchange import RequestedExtension
from cmpd.profile import syntax
from cmpd.profile.config import (
    DNSConfig,
    FixableSanConfig,
    IPConfig,
    MailConfig,
    OtherNameConfig,
    SanConfig,
    SanTypeConfig,
    URIConfig,
)
from cmpd.profile.decision import Decision
from cmpd.profile.syntax import Fault, Pattern, quote
from cmpd.profile.vocabulary import ProfileKeyError

SUBJECT_ALT_NAME: Final = ObjectIdentifier("2.5.29.17")
_MOST: Final = 1000
"""Entries of a request that are looked at; one with more is refused."""
_OTHER_NAME: Final = 0xA0
_DIRECTORY_NAME: Final = 0xA4
_TAGS: Final = {
    "dns": 0x82,
    "email": 0x81,
    "uri": 0x86,
    "ip": 0x87,
    "directory_name": _DIRECTORY_NAME,
    "registered_id": 0x88,
}
_OTHER_NAMES: Final = {
    "upn": der.oid("1.3.6.1.4.1.311.20.2.3"),
    "guid": der.oid("1.3.6.1.4.1.311.25.1"),
    "smtp_utf8_mailbox": der.oid("1.3.6.1.5.5.7.8.9"),
}
"""The type-id of otherNames that have a key of their own (Microsoft; RFC 9598 §3)."""
_LABELS: Final = {0x83: "x400_address", 0xA3: "x400_address", 0xA5: "edi_party_name"} | {
    tag: name for name, tag in _TAGS.items()
}

Read = Callable[[bytes], str]
"""The text of an entry's content (of an otherName: of its value). Raises ValueError: not one of its type."""
Write = Callable[[str], bytes]
"""The content (or value) of a text. Raises ValueError."""


@dataclass(frozen=True, slots=True)
class SanRule:
    """What the profile says about one type of name."""

    name: str
    key: str
    """`san.` and the name: the key of the rule, and the field of a refusal."""
    oid: bytes | None
    """The type-id of an otherName, DER."""
    required: bool
    fixed: tuple[bytes, ...]
    """The entries (GeneralName, DER) that are put there whatever is requested; empty when the request has them."""
    default: tuple[bytes, ...]
    """Those that are put there when the request has none."""
    values: tuple[str, ...]
    """The texts of `fixed` or `default`."""
    min: int
    max: int
    read: Read
    standard: str
    """What says how a value of this type looks: a section, or the key where the profile says its type."""
    fault: Callable[[str], Fault | None]
    """The rule that a text breaks."""
    pattern: Pattern | None
    exact: frozenset[str] = frozenset()
    below: tuple[str, ...] = ()
    ranges: tuple[IPv4Network | IPv6Network, ...] = ()
    schemes: frozenset[str] = frozenset()

    @classmethod
    def from_config(cls, name: str, config: SanTypeConfig) -> Self:
        """Prepare; the name of an otherName without a key of its own is `other_name.` and its OID.

        Raises ProfileKeyError.
        """
        key = f"san.{name}"
        source = config.source if isinstance(config, FixableSanConfig) else "cmp"
        values = config.value if isinstance(config, FixableSanConfig) else ()
        pattern = config.pattern if isinstance(config, FixableSanConfig) else None
        if (source != "cmp") != bool(values):
            raise ProfileKeyError(f"{key}.value", "goes with source = 'fixed' only" if values else "is missing")
        if source == "fixed" and pattern is not None:
            raise ProfileKeyError(f"{key}.pattern", "goes with source = 'cmp' only")
        if config.min > config.max:
            raise ProfileKeyError(f"{key}.min", f"{config.min} is more than max, {config.max}")
        required = (config.include or ("required" if source == "fixed" else "optional")) == "required"
        if required and config.max == 0:
            raise ProfileKeyError(f"{key}.max", "0 contradicts include = 'required'")
        domains: Sequence[str] = ()
        if isinstance(config, DNSConfig | MailConfig | URIConfig):
            domains = config.allowed_domains
        oid = _OTHER_NAMES.get(name)
        if isinstance(config, OtherNameConfig):
            oid = der.oid(name.partition(".")[2])
            read, write, fault = _VALUES[config.type]
            standard = f"{key}.type"
        else:
            read, write, fault = _TYPES[name]
            standard = _STANDARDS.get(name, "RFC 5280 §4.2.1.6")
        if isinstance(config, DNSConfig):
            fault = partial(syntax.dns_fault, wildcard=config.allow_wildcard)
        entries = []
        for value in values:
            try:
                content = write(value)
            except ValueError:
                raise ProfileKeyError(f"{key}.value", f"{value!r} is not a value of this type") from None
            if oid is None:
                entries.append(der.tlv(_TAGS[name], content))
            else:
                entries.append(der.tlv(_OTHER_NAME, oid, der.explicit(0, content)))
        rule = cls(
            name=name,
            key=key,
            oid=oid,
            required=required,
            fixed=tuple(entries) if source == "fixed" else (),
            default=tuple(entries) if source == "default" else (),
            values=values,
            min=max(config.min, 1 if required else 0),
            max=config.max,
            read=read,
            standard=standard,
            fault=fault,
            pattern=pattern,
            exact=frozenset(domain for domain in domains if not domain.startswith(".")),
            below=tuple(domain for domain in domains if domain.startswith(".")),
            ranges=config.allowed_ranges if isinstance(config, IPConfig) else (),
            schemes=frozenset(config.allowed_schemes) if isinstance(config, URIConfig) else frozenset(),
        )
        for value, entry in zip(values, entries, strict=True):
            _, broken = rule.check(entry[der.read(entry)[1] :])
            if broken is not None:
                raise ProfileKeyError(f"{key}.value", f"{value!r}: {key}: {broken}")
        return rule

    def check(self, content: bytes) -> tuple[str, Fault | None]:
        """Judge the content of an entry: its text, and the rule it breaks.

        Raises MalformedError.
        """
        try:
            text = self.read(content if self.oid is None else _value(content[len(self.oid) :]))
        except der.MalformedError:
            raise
        except ValueError:
            return "", Fault("is not a value of its type", self.standard)
        fault = self.fault(text)
        if fault is None and self.pattern is not None and not self.pattern.matches(text):
            fault = Fault("does not match the pattern", f"{self.key}.pattern")
        if fault is None and (self.exact or self.below) and not self._in_domains(text):
            fault = Fault("is not in an allowed domain", f"{self.key}.allowed_domains")
        if fault is None and self.ranges and not any(ip_address(content) in network for network in self.ranges):
            fault = Fault("is not in an allowed range", f"{self.key}.allowed_ranges")
        if fault is None and self.schemes and text.partition(":")[0].lower() not in self.schemes:
            fault = Fault("has a scheme that is not allowed", f"{self.key}.allowed_schemes")
        return text, None if fault is None else Fault(f"{quote(text)} {fault.text}", fault.rule)

    def _in_domains(self, text: str) -> bool:
        host = (syntax.uri_host(text) or "") if self.name == "uri" else text.rpartition("@")[2]
        return syntax.in_domains(host, self.exact, self.below)


# ── how the types are read and written ──────────────────────────────────────────────────────────────────────────────


def _value(explicit: bytes) -> bytes:
    """The value of an otherName, which is `[0] EXPLICIT`."""
    outer = der.content(explicit, 0xA0)
    if der.read(outer)[2] != len(outer):
        raise der.MalformedError("trailing octets in an otherName")
    return outer


def _ascii(content: bytes) -> str:
    return content.decode("ascii")


def _to_ascii(text: str) -> bytes:
    return text.encode("ascii")


def _ip(content: bytes) -> str:
    if len(content) not in {4, 16}:
        raise ValueError("neither four nor sixteen octets")
    return str(ip_address(content))


def _to_ip(text: str) -> bytes:
    return ip_address(text).packed


def _oid(content: bytes) -> str:
    text = syntax.oid_text(content)
    if "." not in text:
        raise ValueError("not an OBJECT IDENTIFIER")
    return text


def _to_oid(text: str) -> bytes:
    return der.oid(text)[2:]


def _directory_name(content: bytes) -> str:
    """Check all values of a Name for hostile text, and that it is DER; return it for a message."""
    tag, _, end = der.read(content)
    if tag != der.SEQUENCE or end != len(content):
        raise der.MalformedError("not a Name")
    rdns = asn1.name_rdns(content)
    written = [der.set_of(*(der.sequence(der.oid(o), der.tlv(t, v)) for o, t, v in rdn)) for rdn in rdns]
    if not rdns or der.sequence(*written) != content:
        raise der.MalformedError("a Name that is empty or not in DER")
    for rdn in rdns:
        for _, tag, value in rdn:
            if tag not in {der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING} or syntax.text_fault(value.decode()):
                raise ValueError("a value that is not a text to show")
    return asn1.name_text(content)


def _no_name(_text: str) -> bytes:
    raise ValueError("a directory name cannot be fixed")


def _utf8(element: bytes) -> str:
    return der.content(element, der.UTF8_STRING).decode()


def _strict(tag: int, codec: str) -> Read:
    """Reader of a string type; another type is not malformed, but not a value of its type."""

    def read(element: bytes) -> str:
        found, start, end = der.read(element)
        if found != tag:
            raise ValueError("another type")
        return element[start:end].decode(codec)

    return read


def _guid(element: bytes) -> str:
    return syntax.guid_text(der.content(element, der.OCTET_STRING))


def _to_guid(text: str) -> bytes:
    return der.octet_string(syntax.guid_octets(text))


def _octets(element: bytes) -> str:
    if element[0] != der.OCTET_STRING:
        raise ValueError("another type")
    return der.content(element, der.OCTET_STRING).hex()


def _printable(element: bytes) -> str:
    text = _strict(der.PRINTABLE_STRING, "ascii")(element)
    if not syntax.is_printable_string(text.encode()):
        raise ValueError("not in the alphabet")
    return text


def _other_oid(element: bytes) -> str:
    if element[0] != der.OBJECT_IDENTIFIER:
        raise ValueError("another type")
    return _oid(der.content(element, der.OBJECT_IDENTIFIER))


def _element(text: str) -> bytes:
    element = bytes.fromhex(text)
    if der.read(element)[2] != len(element):
        raise ValueError("not one element")
    return element


def _no_fault(_text: str) -> Fault | None:
    return None


_Way = tuple[Read, Write, Callable[[str], Fault | None]]
_TYPES: Final[dict[str, _Way]] = {
    "dns": (_ascii, _to_ascii, syntax.dns_fault),
    "email": (_ascii, _to_ascii, syntax.email_fault),
    "uri": (_ascii, _to_ascii, syntax.uri_fault),
    "ip": (_ip, _to_ip, _no_fault),
    "directory_name": (_directory_name, _no_name, _no_fault),
    "registered_id": (_oid, _to_oid, _no_fault),
    "upn": (_utf8, der.utf8_string, syntax.upn_fault),
    "guid": (_guid, _to_guid, _no_fault),
    "smtp_utf8_mailbox": (_utf8, der.utf8_string, syntax.smtp_utf8_fault),
}
_STANDARDS: Final = {"upn": "RFC 822 §6.1", "guid": "MS-DTYP §2.3.4", "smtp_utf8_mailbox": "RFC 9598 §3"}
"""What says how the values of otherNames with a key of their own look."""
_VALUES: Final[dict[str, _Way]] = {
    "utf8_string": (_strict(der.UTF8_STRING, "utf-8"), der.utf8_string, syntax.text_fault),
    "ia5_string": (_strict(der.IA5_STRING, "ascii"), der.ia5_string, syntax.text_fault),
    "printable_string": (_printable, der.printable_string, syntax.text_fault),
    "octet_string": (_octets, lambda text: der.octet_string(bytes.fromhex(text)), _no_fault),
    "oid": (_other_oid, der.oid, _no_fault),
    "any": (bytes.hex, _element, _no_fault),
}
"""The values of otherNames without a key of their own, by `type`."""


@dataclass(frozen=True, slots=True)
class SanPolicy:
    """Section [san], prepared."""

    rules: dict[int, SanRule]
    """By the tag of the GeneralName."""
    others: dict[bytes, SanRule]
    """Those of otherNames, by the type-id."""
    counted: tuple[SanRule, ...]
    """Those that must come with the request, or with a fewest number."""
    fixed: tuple[SanRule, ...]
    defaults: tuple[SanRule, ...]
    drop: bool
    critical: bool

    @classmethod
    def from_config(cls, config: SanConfig) -> Self:
        """Prepare. Raises ProfileKeyError."""
        rules: dict[int, SanRule] = {}
        others: dict[bytes, SanRule] = {}
        types: dict[str, SanTypeConfig | None] = {name: getattr(config, name) for name in (*_TAGS, *_OTHER_NAMES)}
        for oid, other in config.other_name.items():
            own = next((name for name, known in _OTHER_NAMES.items() if known == der.oid(oid)), None)
            if own is not None:
                raise ProfileKeyError(f"san.other_name.{oid}", f"has a key of its own, san.{own}")
            types[f"other_name.{oid}"] = other
        for name, type_ in types.items():
            if type_ is None or type_.include == "no":
                continue
            rule = SanRule.from_config(name, type_)
            if rule.oid is None:
                rules[_TAGS[name]] = rule
            else:
                others[rule.oid] = rule
        everything = (*rules.values(), *others.values())
        return cls(
            rules=rules,
            others=others,
            counted=tuple(rule for rule in everything if rule.min and not rule.fixed),
            fixed=tuple(rule for rule in everything if rule.fixed),
            defaults=tuple(rule for rule in everything if rule.default),
            drop=config.on_unlisted == "drop",
            critical=config.critical,
        )

    def resolve(
        self, value: bytes | None, subject_empty: bool, decision: Decision
    ) -> tuple[RequestedExtension | None, dict[str, list[str]]]:
        """Return the extension for the certificate and its names by type, and add what was changed.

        Raises BadCertTemplate, MalformedError.
        """
        entries: dict[bytes, None] = {}
        texts: dict[str, list[str]] = {}
        if value is not None:
            self._read(value, entries, texts, decision)
        for rule in self.defaults:
            if rule.name not in texts:
                if value is not None:
                    decision.modified.append(f"{rule.key} added")
                entries.update(dict.fromkeys(rule.default))
                texts[rule.name] = list(rule.values)
        for rule in self.counted:
            count = len(texts.get(rule.name, ()))
            if count < rule.min and (count or rule.required):
                least = "" if rule.min == 1 else f", at least {rule.min} times"
                decision.refuse(
                    f"{rule.key}.include" if rule.min == 1 else f"{rule.key}.min", rule.key, f"is required{least}"
                )
            elif decision.findings is not None:
                decision.passed(f"{rule.key}.include", rule.key, f"is there {count} times")
        for rule in self.fixed:
            self._fix(rule, value, entries, texts, decision)
        if entries:
            critical = self.critical or subject_empty
            return RequestedExtension(SUBJECT_ALT_NAME, critical, der.sequence(*entries)), texts
        if subject_empty:
            decision.refuse("RFC 5280 §4.1.2.6", "subject", "is empty, and there is no subjectAltName")
        return None, texts

    def _read(self, value: bytes, entries: dict[bytes, None], texts: dict[str, list[str]], decision: Decision) -> None:
        """Judge the entries of a requested extension one by one, so that a refusal costs no more than it must."""
        tag, position, end = der.read(value)
        if tag != der.SEQUENCE or end != len(value):
            raise der.MalformedError("not GeneralNames")
        if position == end:
            decision.refuse("RFC 5280 §4.2.1.6", "san", "the extension has no entry")
        unlisted: set[str] = set()
        folded: set[tuple[str, str]] = set()
        for _ in range(_MOST):
            if position >= end:
                return
            tag, start, stop = der.read(value, position)
            entry, content = value[position:stop], value[start:stop]
            position = stop
            rule = self.rules.get(tag)
            if tag == _OTHER_NAME:
                rule = self.others.get(content[: der.read(content)[2]])
            if rule is None:
                label = _label(tag, content)
                if label in unlisted:
                    continue
                unlisted.add(label)
                if not self.drop:
                    decision.refuse("san.on_unlisted", f"san.{label}", "this type of name is not accepted")
                if len(unlisted) <= 10:
                    decision.modified.append(f"san.{label} left out")
                continue
            same = texts.setdefault(rule.name, [])
            if rule.fixed:
                same.append(rule.values[rule.fixed.index(entry)] if entry in rule.fixed else "")
                if entry in rule.fixed and entry not in entries:
                    entries[entry] = None
                continue
            if len(same) >= rule.max:
                decision.refuse(f"{rule.key}.max", rule.key, f"more than {rule.max} of this type")
                return  # the rest of a flood is not worth a look
            text, broken = rule.check(content)
            if broken is not None:
                decision.refuse(broken.rule, rule.key, broken.text)
            elif decision.findings is not None:
                decision.passed(rule.key, rule.key, f"{quote(text)} is accepted")
            same.append(text)
            local, at, host = text.rpartition("@")
            once = (rule.name, local + at + host.lower())  # a host is the same in capital and small letters
            if entry in entries or once in folded:
                decision.refuse("RFC 5280 §4.2.1.6", rule.key, "the same name twice")
            folded.add(once)
            entries[entry] = None
        if position < end:
            decision.refuse("built-in limit", "san", f"more than {_MOST} names")

    @staticmethod
    def _fix(
        rule: SanRule,
        value: bytes | None,
        entries: dict[bytes, None],
        texts: dict[str, list[str]],
        decision: Decision,
    ) -> None:
        """Put a fixed type's entries in place of those that were requested."""
        asked = texts.get(rule.name, [])
        if not asked and not rule.required:
            return
        if len(asked) == len(rule.values) and set(asked) == set(rule.values):
            return
        if asked:
            decision.modified.append(f"{rule.key} replaced")
            for entry in rule.fixed:
                entries.pop(entry, None)
        elif value is not None:
            decision.modified.append(f"{rule.key} added")
        entries.update(dict.fromkeys(rule.fixed))
        texts[rule.name] = list(rule.values)


def _label(tag: int, content: bytes) -> str:
    if tag != _OTHER_NAME:
        return _LABELS.get(tag, f"type {tag:#04x}")
    found, start, stop = der.read(content)
    if found != der.OBJECT_IDENTIFIER:
        return "other_name"
    own = next((name for name, oid in _OTHER_NAMES.items() if oid == content[:stop]), None)
    return own or f"other_name.{syntax.named_oid(syntax.oid_text(content[start:stop]))}"
