"""The subjectAltName of a request, decided entry by entry (RFC 5280 §4.2.1.6)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, Self

from cryptography.x509 import ObjectIdentifier

from cmpd import asn1
from cmpd.asn1 import der
from cmpd.errors import BadCertTemplate
from cmpd.exchange import RequestedExtension
from cmpd.profile import syntax
from cmpd.profile.config import (
    DNSConfig,
    FixableSanConfig,
    IPConfig,
    MailConfig,
    ProfileKeyError,
    SanConfig,
    SanTypeConfig,
    URIConfig,
)
from cmpd.profile.syntax import Pattern, quote

SUBJECT_ALT_NAME: Final = ObjectIdentifier("2.5.29.17")
_UPN: Final = der.oid("1.3.6.1.4.1.311.20.2.3")
_OTHER_NAME: Final = 0xA0
_DIRECTORY_NAME: Final = 0xA4
_TAGS: Final = {
    "dns": 0x82,
    "email": 0x81,
    "uri": 0x86,
    "ip": 0x87,
    "directory_name": _DIRECTORY_NAME,
    "registered_id": 0x88,
    "upn": _OTHER_NAME,
}
_LABELS: Final = {0x81: "email", 0x82: "dns", 0x83: "x400_address", 0xA3: "x400_address", 0xA5: "edi_party_name"} | {
    tag: name for name, tag in _TAGS.items() if tag != _OTHER_NAME
}


@dataclass(frozen=True, slots=True)
class SanRule:
    """What the profile says about one type of name."""

    name: str
    tag: int
    required: bool
    fixed: tuple[bytes, ...]
    """The entries (GeneralName, DER) that are put there whatever is requested; empty when the request has them."""
    min: int
    max: int
    read: Callable[[bytes], str]
    """The text of an entry's content. Raises ValueError: not one of its type."""
    fault: Callable[[str], str | None]
    """The rule that a text breaks."""
    pattern: Pattern | None
    exact: frozenset[str] = frozenset()
    below: tuple[str, ...] = ()
    ranges: tuple[IPv4Network | IPv6Network, ...] = ()
    schemes: frozenset[str] = frozenset()

    @classmethod
    def from_config(cls, name: str, config: SanTypeConfig) -> Self:
        """Prepare. Raises ProfileKeyError."""
        key = f"san.{name}"
        source = config.source if isinstance(config, FixableSanConfig) else "cmp"
        values = config.value if isinstance(config, FixableSanConfig) else ()
        pattern = config.pattern if isinstance(config, FixableSanConfig) else None
        if (source == "fixed") != bool(values):
            raise ProfileKeyError(f"{key}.value", "goes with source = 'fixed' only" if values else "is missing")
        if values and pattern is not None:
            raise ProfileKeyError(f"{key}.pattern", "goes with source = 'cmp' only")
        if config.min > config.max:
            raise ProfileKeyError(f"{key}.min", f"{config.min} is more than max, {config.max}")
        required = (config.include or ("required" if values else "optional")) == "required"
        if required and config.max == 0:
            raise ProfileKeyError(f"{key}.max", "0 contradicts include = 'required'")
        domains: Sequence[str] = ()
        if isinstance(config, DNSConfig | MailConfig | URIConfig):
            domains = config.allowed_domains
        read, fault = _READERS[name]
        if isinstance(config, DNSConfig):
            fault = partial(syntax.dns_fault, wildcard=config.allow_wildcard)
        rule = cls(
            name=name,
            tag=_TAGS[name],
            required=required,
            fixed=tuple(_write(key, name, value) for value in values),
            min=max(config.min, 1 if required else 0),
            max=config.max,
            read=read,
            fault=fault,
            pattern=pattern,
            exact=frozenset(domain for domain in domains if not domain.startswith(".")),
            below=tuple(domain for domain in domains if domain.startswith(".")),
            ranges=config.allowed_ranges if isinstance(config, IPConfig) else (),
            schemes=frozenset(config.allowed_schemes) if isinstance(config, URIConfig) else frozenset(),
        )
        for value, entry in zip(values, rule.fixed, strict=True):
            try:
                rule.check(entry[der.read(entry)[1] :])
            except BadCertTemplate as error:
                raise ProfileKeyError(f"{key}.value", f"{value!r}: {error}") from None
        return rule

    def check(self, content: bytes) -> None:
        """Judge the content of an entry. Raises BadCertTemplate, MalformedError."""
        try:
            text = self.read(content)
        except der.MalformedError:
            raise
        except ValueError:
            raise BadCertTemplate(f"san.{self.name}: is not a value of its type") from None
        fault = self.fault(text)
        if fault is None and self.pattern is not None and not self.pattern.matches(text):
            fault = "does not match the pattern"
        if fault is None and (self.exact or self.below) and not self._in_domains(text):
            fault = "is not in allowed_domains"
        if fault is None and self.ranges and not any(ip_address(content) in network for network in self.ranges):
            fault = "is not in allowed_ranges"
        if fault is None and self.schemes and text.partition(":")[0].lower() not in self.schemes:
            fault = "has a scheme that is not in allowed_schemes"
        if fault is not None:
            raise BadCertTemplate(f"san.{self.name}: {quote(text)} {fault}")

    def _in_domains(self, text: str) -> bool:
        host = (syntax.uri_host(text) or "") if self.name == "uri" else text.rpartition("@")[2]
        return syntax.in_domains(host, self.exact, self.below)


def _ascii(content: bytes) -> str:
    return content.decode("ascii")


def _ip(content: bytes) -> str:
    if len(content) not in {4, 16}:
        raise ValueError("neither four nor sixteen octets")
    return str(ip_address(content))


def _registered_id(content: bytes) -> str:
    text = syntax.oid_text(content)
    if "." not in text:
        raise ValueError("not an OBJECT IDENTIFIER")
    return text


def _upn(content: bytes) -> str:
    """OtherName's content: type-id, and the value as `[0] EXPLICIT UTF8String`."""
    outer = der.content(content[len(_UPN) :], 0xA0)
    return der.content(outer, der.UTF8_STRING).decode()


def _directory_name(content: bytes) -> str:
    """Check all values of a Name for hostile text, and that it is DER; return it for a message."""
    rdns = asn1.name_rdns(content)
    written = [der.set_of(*(der.sequence(der.oid(o), der.tlv(t, v)) for o, t, v in rdn)) for rdn in rdns]
    if not rdns or der.sequence(*written) != content:
        raise der.MalformedError("a Name that is empty or not in DER")
    for rdn in rdns:
        for _, tag, value in rdn:
            if tag not in {der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING} or syntax.text_fault(value.decode()):
                raise ValueError("a value that is not a text to show")
    return asn1.name_text(content)


def _no_fault(_text: str) -> str | None:
    return None


_READERS: Final[dict[str, tuple[Callable[[bytes], str], Callable[[str], str | None]]]] = {
    "dns": (_ascii, syntax.dns_fault),
    "email": (_ascii, syntax.email_fault),
    "uri": (_ascii, syntax.uri_fault),
    "ip": (_ip, _no_fault),
    "directory_name": (_directory_name, _no_fault),
    "registered_id": (_registered_id, _no_fault),
    "upn": (_upn, syntax.upn_fault),
}


def _write(key: str, name: str, value: str) -> bytes:
    """Encode a fixed value. Raises ProfileKeyError."""
    try:
        match name:
            case "ip":
                content = ip_address(value).packed
            case "registered_id":
                content = der.oid(value)[2:]
            case "upn":
                content = _UPN + der.explicit(0, der.utf8_string(value))
            case _:
                content = value.encode("ascii")
    except ValueError:
        raise ProfileKeyError(f"{key}.value", f"{value!r} is not a value of this type") from None
    return der.tlv(_TAGS[name], content)


@dataclass(frozen=True, slots=True)
class SanPolicy:
    """Section [san], prepared."""

    rules: dict[int, SanRule]
    """By the tag of the GeneralName; otherName stands for UPN only."""
    required: tuple[SanRule, ...]
    """Those that must come with the request, or with a fewest number."""
    fixed: tuple[SanRule, ...]
    drop: bool
    critical: bool

    @classmethod
    def from_config(cls, config: SanConfig) -> Self:
        """Prepare. Raises ProfileKeyError."""
        rules = {}
        for name, tag in _TAGS.items():
            type_: SanTypeConfig | None = getattr(config, name)
            if type_ is not None and type_.include != "no":
                rules[tag] = SanRule.from_config(name, type_)
        return cls(
            rules=rules,
            required=tuple(rule for rule in rules.values() if rule.min and not rule.fixed),
            fixed=tuple(rule for rule in rules.values() if rule.fixed),
            drop=config.on_unlisted == "drop",
            critical=config.critical,
        )

    def resolve(self, value: bytes | None, subject_empty: bool, modified: list[str]) -> RequestedExtension | None:
        """Return the extension for the certificate, add what was changed. Raises BadCertTemplate, MalformedError."""
        entries: list[bytes] = []
        counts: dict[str, int] = {}
        if value is not None:
            self._read(value, entries, counts, modified)
        for rule in self.required:
            count = counts.get(rule.name, 0)
            if count < rule.min and (count or rule.required):
                least = "" if rule.min == 1 else f", at least {rule.min} times"
                raise BadCertTemplate(f"san.{rule.name}: is required{least}")
        for rule in self.fixed:
            self._fix(rule, value, entries, counts, modified)
        if entries:
            return RequestedExtension(SUBJECT_ALT_NAME, self.critical or subject_empty, der.sequence(*entries))
        if subject_empty:
            raise BadCertTemplate("subject: is empty, and there is no subjectAltName (RFC 5280 §4.1.2.6)")
        return None

    def _read(self, value: bytes, entries: list[bytes], counts: dict[str, int], modified: list[str]) -> None:
        """Judge the entries of a requested extension one by one, so that a refusal costs no more than it must."""
        tag, position, end = der.read(value)
        if tag != der.SEQUENCE or end != len(value):
            raise der.MalformedError("not GeneralNames")
        if position == end:
            raise BadCertTemplate("san: the extension has no entry")
        dropped: set[str] = set()
        while position < end:
            tag, start, stop = der.read(value, position)
            entry, content = value[position:stop], value[start:stop]
            position = stop
            rule = self.rules.get(tag)
            if rule is None or (tag == _OTHER_NAME and not content.startswith(_UPN)):
                label = _label(tag, content)
                if not self.drop:
                    raise BadCertTemplate(f"san.{label}: this type of name is not accepted")
                if label not in dropped and len(dropped) < 10:
                    dropped.add(label)
                    modified.append(f"san.{label} left out")
                continue
            count = counts[rule.name] = counts.get(rule.name, 0) + 1
            if rule.fixed:
                if count > len(rule.fixed) or entry not in rule.fixed:
                    counts[rule.name] = len(rule.fixed) + 1
                    continue
            elif count > rule.max:
                raise BadCertTemplate(f"san.{rule.name}: more than {rule.max} of this type")
            else:
                rule.check(content if tag != _DIRECTORY_NAME else _inner(content))
            if entry in entries:
                raise BadCertTemplate(f"san.{rule.name}: the same name twice")
            entries.append(entry)

    @staticmethod
    def _fix(
        rule: SanRule, value: bytes | None, entries: list[bytes], counts: dict[str, int], modified: list[str]
    ) -> None:
        """Put a fixed type's entries in place of those that were requested."""
        count = counts.get(rule.name, 0)
        if (not count and not rule.required) or (count == len(rule.fixed) and set(rule.fixed) <= set(entries)):
            return
        if count:
            modified.append(f"san.{rule.name} replaced")
            entries[:] = [entry for entry in entries if entry not in rule.fixed]
        elif value is not None:
            modified.append(f"san.{rule.name} added")
        entries.extend(rule.fixed)


def _inner(content: bytes) -> bytes:
    """The Name inside directoryName, which is explicitly tagged because Name is a CHOICE."""
    tag, _, end = der.read(content)
    if tag != der.SEQUENCE or end != len(content):
        raise der.MalformedError("not a Name")
    return content


def _label(tag: int, content: bytes) -> str:
    if tag != _OTHER_NAME:
        return _LABELS.get(tag, f"type {tag:#04x}")
    if content.startswith(_UPN):
        return "upn"
    found, start, stop = der.read(content)
    return f"other_name {syntax.oid_text(content[start:stop])}" if found == der.OBJECT_IDENTIFIER else "other_name"
