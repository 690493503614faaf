"""The profile file as written: every key, its type and its default.

A field's docstring is the key's meaning. Whatever can be checked looking at one key is checked here, the rest where
the decision is prepared; either way an operator reads one line for each fault: file, key, value and rule.
"""

import difflib
import re
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
)

from cmpd.profile.syntax import Pattern, dns_fault

_T = TypeVar("_T")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "y": 365 * 86400}
_SHOWN: Final = 80
_LONGEST: Final = timedelta(days=365 * 100)

KeyType = Literal["rsa", "ecdsa", "ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"]
Curve = Literal["P-256", "P-384", "P-521"]
Operation = Literal["ir", "cr", "p10cr", "kur"]
Include = Literal["no", "optional", "required"]
OnUnlisted = Literal["reject", "drop"]
KeyUsage = Literal[
    "digital_signature",
    "non_repudiation",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
]
"""KeyUsage bits in RFC 5280 §4.2.1.3; keyCertSign and cRLSign are for CAs, and no profile can issue one."""

EXTENDED_KEY_USAGES: Final = {
    "server_auth": "1.3.6.1.5.5.7.3.1",
    "client_auth": "1.3.6.1.5.5.7.3.2",
    "code_signing": "1.3.6.1.5.5.7.3.3",
    "email_protection": "1.3.6.1.5.5.7.3.4",
    "ipsec_ike": "1.3.6.1.5.5.7.3.17",
    "time_stamping": "1.3.6.1.5.5.7.3.8",
    "ocsp_signing": "1.3.6.1.5.5.7.3.9",
    "document_signing": "1.3.6.1.5.5.7.3.36",
    "smartcard_logon": "1.3.6.1.4.1.311.20.2.2",
}
"""Names of KeyPurposeIds (RFC 5280 §4.2.1.12, RFC 4945 §5.1.3.12, RFC 9336, Microsoft); any other by its OID."""


class ProfileError(Exception):
    """A profile cannot be used: one line per fault, each `FILE: key: value: rule`."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class ProfileKeyError(ValueError):
    """A key of a profile, and what is wrong with it in the light of other keys."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key}: {text}")


def parse_duration(text: object) -> timedelta:
    """Read "90s", "10m", "12h", "7d" or "2y" (365 days each), at most 100 years. Raises ValueError."""
    if isinstance(text, timedelta):
        return text
    match = re.fullmatch(r"([0-9]{1,10})([smhdy])", text, re.ASCII) if isinstance(text, str) else None
    if match is None:
        raise ValueError('is not a duration such as "90s", "10m", "12h", "7d" or "2y"')
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST.total_seconds():
        raise ValueError("is longer than 100 years")
    return timedelta(seconds=seconds)


def _positive(duration: timedelta) -> timedelta:
    if not duration:
        raise ValueError("must be more than nothing")
    return duration


def _not_empty(values: tuple[_T, ...]) -> tuple[_T, ...]:
    if not values:
        raise ValueError("must not be empty")
    return values


def _tolerance(text: object) -> timedelta | None:
    return None if text is None or text == "off" else parse_duration(text)


def _pattern(text: object) -> Pattern:
    if isinstance(text, Pattern):
        return text
    if not isinstance(text, str) or not text or len(text) > 1000:
        raise ValueError("is not a regular expression of up to 1000 characters")
    try:
        return Pattern(text)
    except ValueError as error:
        raise ValueError(f"is not a regular expression in RE2 syntax ({error})") from None


def _domain(name: str) -> str:
    if dns_fault(name.removeprefix(".")):
        raise ValueError("is not a domain: write example.com for that name, .example.com for all names below it")
    return name.lower()


def _network(text: object) -> IPv4Network | IPv6Network:
    try:
        return text if isinstance(text, IPv4Network | IPv6Network) else ip_network(str(text))
    except ValueError:
        raise ValueError("is not an address range such as 10.0.0.0/8 or 2001:db8::/32") from None


def _extended_key_usage(name: str) -> str:
    """Turn a name or dotted OID into the dotted OID."""
    if name in EXTENDED_KEY_USAGES:
        return EXTENDED_KEY_USAGES[name]
    if re.fullmatch(r"[0-2](?:\.(?:0|[1-9][0-9]{0,18})){2,30}", name, re.ASCII):
        return name
    raise ValueError(f"is neither an OID nor one of {', '.join(EXTENDED_KEY_USAGES)}")


def _for_all(usages: object) -> object:
    """Read a list as the usages for all key types."""
    return {"all": usages} if isinstance(usages, list | tuple) else usages


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
"""A length of time, written as a string with a unit."""
_Positive = Annotated[Duration, AfterValidator(_positive)]
_Pattern = Annotated[Pattern, BeforeValidator(_pattern)]
_Domain = Annotated[str, AfterValidator(_domain)]
_Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
_Values = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
_Count = Annotated[StrictInt, Field(ge=0, le=1000)]
_KeyUsages = Annotated[dict[Literal[KeyType, "all"], tuple[KeyUsage, ...]], BeforeValidator(_for_all)]
_ExtendedKeyUsages = Annotated[
    dict[Literal[KeyType, "all"], tuple[Annotated[str, AfterValidator(_extended_key_usage)], ...]],
    BeforeValidator(_for_all),
]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)


class LegacyConfig(_Table):
    """[enrollment.legacy]: habits of RFC 4210-era clients that RFC 9483 forbids; each off unless switched on."""

    missing_transaction_id: StrictBool = False
    """Accept requests without transactionID (RFC 9483 §3.1 requires it)."""
    short_nonces: StrictBool = False
    """Accept a senderNonce that is absent or shorter than 128 bits."""
    sha1_signatures: StrictBool = False
    """Accept message protection with SHA-1 signatures."""


class EnrollmentConfig(_Table):
    """[enrollment]: who may ask, for what, and how the exchange goes."""

    authentication_method: Literal["enrollment_code", "tls_certificate"] = "enrollment_code"
    """How a new end entity proves who it is: by an enrollment code (MAC protection), or by a certificate it already
    has, under one of trusted_certificates (signature protection). A kur is signed with the certificate to update."""
    allowed_operations: Annotated[tuple[Operation, ...], AfterValidator(_not_empty)] = ("ir", "cr", "p10cr", "kur")
    """The requests that are accepted."""
    implicit_confirm: StrictBool = True
    """Let a client that asks for it leave out the certificate confirmation (RFC 9483 §4.1.1)."""
    confirm_wait: _Positive = timedelta(minutes=10)
    """How long the confirmation is awaited; then the certificate is revoked."""
    several_requests: StrictBool = False
    """Accept more than one CertReqMsg in a message (RFC 9810); RFC 9483 has exactly one."""
    message_time_tolerance: Annotated[timedelta | None, BeforeValidator(_tolerance)] = timedelta(minutes=5)
    """How far messageTime may be from the time here; "off" does not check it."""
    trusted_certificates: tuple[str, ...] = ()
    """PEM files with the trust anchors of certificates that new end entities sign with."""
    ra_certificates: tuple[str, ...] = ()
    """PEM files with certificates of registration authorities that may vouch for proof-of-possession (raVerified)."""
    legacy: LegacyConfig = LegacyConfig()
    """The table [enrollment.legacy]."""


class RenewalConfig(_Table):
    """[renewal]: updates of certificates (kur)."""

    require_new_key: StrictBool = True
    """Refuse an update that keeps the old key."""


class ValidityConfig(_Table):
    """[validity]: how long a certificate is valid; notBefore and notAfter both belong to it (RFC 5280 §4.1.2.5)."""

    default: _Positive = timedelta(days=365)
    """From notBefore to notAfter, both included."""
    max: _Positive | None = None
    """The longest that a request may ask for; by default the same as `default`."""
    backdate: Duration | None = None
    """How long before the decision notBefore is, for clocks that are slow; by default 5m, or a tenth of `default`
    if that is less."""
    allow_request_override: StrictBool = False
    """Let a request ask for its own notBefore and notAfter; otherwise what it asks for is replaced."""
    on_exceed: Literal["reject", "shorten"] = "reject"
    """What becomes of a request that asks for more than `max`, or for an earlier start than `backdate`."""


class RSAConfig(_Table):
    """[key] rsa."""

    min_bits: Annotated[StrictInt, Field(ge=2048, le=16384)] = 2048
    """The shortest modulus."""
    max_bits: Annotated[StrictInt, Field(ge=2048, le=16384)] = 4096
    """The longest modulus."""
    min_exponent: Annotated[StrictInt, Field(ge=3, le=2**32)] = 65537
    """The least public exponent; it is odd in any case."""


class ECDSAConfig(_Table):
    """[key] ecdsa."""

    allowed_curves: Annotated[tuple[Curve, ...], AfterValidator(_not_empty)] = ("P-256", "P-384", "P-521")
    """Named curves; keys are points in uncompressed form (RFC 5480 §2.2)."""


class KeyConfig(_Table):
    """[key]: which public keys are certified."""

    allowed_types: Annotated[tuple[KeyType, ...], AfterValidator(_not_empty)] = ("rsa", "ecdsa")
    """rsa, ecdsa, ed25519, ed448, ml-dsa-44, ml-dsa-65, ml-dsa-87."""
    rsa: RSAConfig = RSAConfig()
    """Sizes of RSA keys."""
    ecdsa: ECDSAConfig = ECDSAConfig()
    """Curves of EC keys."""


class AttributeConfig(_Table):
    """[subject] NAME: one attribute of the subject."""

    include: Include | None = None
    """no: refused; optional: may be there; required: must be there. By default optional, with source fixed required."""
    source: Literal["cmp", "fixed"] = "cmp"
    """cmp: as requested; fixed: always `value`, whatever is requested."""
    value: _Values = ()
    """The fixed value, or a list where several are allowed."""
    pattern: _Pattern | None = None
    """Regular expression (RE2 syntax) that the whole value must match."""
    max_length: Annotated[StrictInt, Field(ge=1, le=32768)] | None = None
    """The most characters; by default, and at most, the upper bound of RFC 5280 appendix A.1."""
    max: Annotated[StrictInt, Field(ge=1, le=32)] = 1
    """How often it may be there; more than once only organizational_unit_name and domain_component."""


class SubjectConfig(_Table):
    """[subject]: the distinguished name, one key per attribute; what is not listed is not accepted."""

    on_unlisted: OnUnlisted = "reject"
    """An attribute that is not listed: reject the request, or drop the attribute."""
    multi_valued_rdn: StrictBool = False
    """Accept relative names that have several attributes."""
    country_name: AttributeConfig | None = None
    state_or_province_name: AttributeConfig | None = None
    locality_name: AttributeConfig | None = None
    domain_component: AttributeConfig | None = None
    organization_name: AttributeConfig | None = None
    organization_identifier: AttributeConfig | None = None
    organizational_unit_name: AttributeConfig | None = None
    title: AttributeConfig | None = None
    pseudonym: AttributeConfig | None = None
    surname: AttributeConfig | None = None
    given_name: AttributeConfig | None = None
    common_name: AttributeConfig | None = None
    serial_number: AttributeConfig | None = None
    dn_qualifier: AttributeConfig | None = None
    user_id: AttributeConfig | None = None
    email_address: AttributeConfig | None = None


class SanTypeConfig(_Table):
    """[san] NAME: one type of name."""

    include: Include | None = None
    """no: refused; optional: may be there; required: must be there. By default optional, with source fixed required."""
    min: _Count = 0
    """The fewest of this type when there is any."""
    max: _Count = 10
    """The most of this type."""


class FixableSanConfig(SanTypeConfig):
    """[san] NAME: a type of name that the profile may also set itself."""

    source: Literal["cmp", "fixed"] = "cmp"
    """cmp: as requested; fixed: always `value`, whatever is requested."""
    value: _Values = ()
    """The fixed value or values."""
    pattern: _Pattern | None = None
    """Regular expression (RE2 syntax) that the whole value must match."""


class DNSConfig(FixableSanConfig):
    """[san] dns: host names."""

    allowed_domains: tuple[_Domain, ...] = ()
    """example.com is that name only, .example.com every name below it; an empty list is no restriction."""
    allow_wildcard: StrictBool = False
    """Accept `*` as the leftmost label."""


class MailConfig(FixableSanConfig):
    """[san] email or upn: mailboxes, user principal names."""

    allowed_domains: tuple[_Domain, ...] = ()
    """What follows the @: example.com is that domain only, .example.com every domain below it."""


class URIConfig(FixableSanConfig):
    """[san] uri: absolute URIs."""

    allowed_schemes: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*$")], ...] = ()
    """Schemes in lower case, e.g. https, urn, spiffe; an empty list is no restriction."""
    allowed_domains: tuple[_Domain, ...] = ()
    """Hosts: example.com is that host only, .example.com every host below it; with this, a URI must have a host."""


class IPConfig(FixableSanConfig):
    """[san] ip: IPv4 and IPv6 addresses."""

    allowed_ranges: tuple[_Network, ...] = ()
    """Networks such as 10.0.0.0/8; an empty list is no restriction."""


class RegisteredIDConfig(FixableSanConfig):
    """[san] registered_id: object identifiers."""


class DirectoryNameConfig(SanTypeConfig):
    """[san] directory_name: distinguished names; their values are checked for hostile text only."""


class SanConfig(_Table):
    """[san]: the subjectAltName, one key per type; what is not listed is not accepted."""

    on_unlisted: OnUnlisted = "reject"
    """A type that is not listed: reject the request, or drop the entry."""
    critical: StrictBool = False
    """Mark the extension critical; with an empty subject it always is (RFC 5280 §4.2.1.6)."""
    dns: DNSConfig | None = None
    email: MailConfig | None = None
    uri: URIConfig | None = None
    ip: IPConfig | None = None
    directory_name: DirectoryNameConfig | None = None
    registered_id: RegisteredIDConfig | None = None
    upn: MailConfig | None = None


class KeyUsageConfig(_Table):
    """[extensions.key_usage]."""

    critical: StrictBool = True
    """Mark the extension critical."""
    required_usages: _KeyUsages = {"all": ("digital_signature",)}
    """Always in the certificate: a list, or a table with one list per key type."""
    optional_usages: _KeyUsages = {}
    """In the certificate when requested; of a list, those that the key type can have."""
    on_unlisted: OnUnlisted = "reject"
    """A requested usage that is neither: reject the request, or drop the usage."""


class ExtendedKeyUsageConfig(_Table):
    """[extensions.extended_key_usage]."""

    critical: StrictBool = False
    """Mark the extension critical."""
    required_usages: _ExtendedKeyUsages = {}
    """Always in the certificate: names or OIDs; a list, or a table with one list per key type."""
    optional_usages: _ExtendedKeyUsages = {}
    """In the certificate when requested."""
    on_unlisted: OnUnlisted = "reject"
    """A requested usage that is neither: reject the request, or drop the usage."""


class ExtensionsConfig(_Table):
    """[extensions]."""

    other: Literal["refuse", "ignore"] = "refuse"
    """A requested extension that no other key is about: refuse the request, or leave the extension out."""
    key_usage: KeyUsageConfig = KeyUsageConfig()
    """The table [extensions.key_usage]."""
    extended_key_usage: ExtendedKeyUsageConfig = ExtendedKeyUsageConfig()
    """The table [extensions.extended_key_usage]."""


class ProfileConfig(_Table):
    """A profile file, whole."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22,128}$")]
    """Names the profile in its own URL /cmp/ID; nobody can guess it."""
    issuer: Annotated[str, Field(min_length=1)]
    """The [issuers.NAME] section of cmpd.toml that issues."""
    description: str = ""
    """For people."""
    enrollment: EnrollmentConfig = EnrollmentConfig()
    renewal: RenewalConfig = RenewalConfig()
    validity: ValidityConfig = ValidityConfig()
    key: KeyConfig = KeyConfig()
    subject: SubjectConfig = SubjectConfig()
    san: SanConfig = SanConfig()
    extensions: ExtensionsConfig = ExtensionsConfig()


def describe(path: Path, error: ValidationError) -> list[str]:
    """Turn pydantic's report about a profile file into one line per fault."""
    faults = []
    for fault in error.errors(include_url=False):
        location = [part for part in fault["loc"] if isinstance(part, str) and part != "all"]
        if fault["loc"][-1:] == ("[key]",):
            location = location[:-1]
        key = ".".join(location)
        shown = repr(fault["input"])
        value = f"{shown[:_SHOWN]}…" if len(shown) > _SHOWN else shown
        kind, context = fault["type"], fault.get("ctx", {})
        if kind == "extra_forbidden":
            known = _keys(ProfileConfig, location[:-1])
            near = difflib.get_close_matches(location[-1], known, n=1)
            rule = f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known are {', '.join(known)}"
        elif kind == "missing":
            rule = "is missing"
        elif kind == "literal_error":
            choices = re.findall("'([^']*)'", context["expected"])
            rule = f"{value} is not one of {', '.join(choices)}"
        elif kind == "value_error":
            rule = f"{value} {context['error']}"
        elif key == "id":
            rule = f"{value} is not 22 to 128 characters of A-Z a-z 0-9 _ -"
        else:
            rule = f"{value}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
        faults.append(f"{path}: {key}: {rule}")
    return faults


def _keys(model: Any, location: Sequence[str]) -> list[str]:
    """The keys that are known at a place of the file."""
    for part in location:
        annotation = model.model_fields[part].annotation
        model = next(choice for choice in getattr(annotation, "__args__", (annotation,)) if choice is not type(None))
    return list(model.model_fields)
