"""The profile file as written: every key, its type and its default.

A field's docstring is the key's meaning. Whatever can be checked looking at one key is checked here, the rest where
the decision is prepared; either way an operator reads one line for each fault: file, key, value and rule.
"""

import base64
import binascii
import difflib
import re
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictInt,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import DEFAULT_REF_TEMPLATE, GenerateJsonSchema, JsonSchemaMode

from cmpd.profile.syntax import Pattern, dns_fault, email_fault, text_fault, uri_fault

_T = TypeVar("_T")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "mo": 365 * 86400 // 12, "y": 365 * 86400}
"""Seconds; a month is a twelfth of a year of 365 days, so that 12mo are 1y."""
_SHOWN: Final = 80
_LONGEST: Final = timedelta(days=365 * 100)

KeyType = Literal["rsa", "ecdsa", "ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"]
Curve = Literal["P-256", "P-384", "P-521"]
Operation = Literal["ir", "cr", "p10cr", "kur"]
Include = Literal["no", "optional", "required"]
Source = Literal["cmp", "fixed", "default"]
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
PublicTrust = Literal["smime", "tls"]
SignatureAlgorithm = Literal[
    "sha256WithRSA",
    "sha384WithRSA",
    "sha512WithRSA",
    "ecdsaWithSHA256",
    "ecdsaWithSHA384",
    "ecdsaWithSHA512",
    "ed25519",
    "ed448",
    "ml-dsa-44",
    "ml-dsa-65",
    "ml-dsa-87",
]
"""What certificates are signed with, named after the algorithm identifiers of RFC 5912, RFC 8410 and RFC 9881."""
SIGNATURE_ALGORITHMS: Final[dict[str, str]] = {
    "sha256WithRSA": "1.2.840.113549.1.1.11",
    "sha384WithRSA": "1.2.840.113549.1.1.12",
    "sha512WithRSA": "1.2.840.113549.1.1.13",
    "ecdsaWithSHA256": "1.2.840.10045.4.3.2",
    "ecdsaWithSHA384": "1.2.840.10045.4.3.3",
    "ecdsaWithSHA512": "1.2.840.10045.4.3.4",
    "ed25519": "1.3.101.112",
    "ed448": "1.3.101.113",
    "ml-dsa-44": "2.16.840.1.101.3.4.3.17",
    "ml-dsa-65": "2.16.840.1.101.3.4.3.18",
    "ml-dsa-87": "2.16.840.1.101.3.4.3.19",
}
SubjectAttribute = Literal[
    "country_name",
    "state_or_province_name",
    "locality_name",
    "postal_code",
    "street_address",
    "domain_component",
    "organization_name",
    "organization_identifier",
    "organizational_unit_name",
    "title",
    "pseudonym",
    "surname",
    "given_name",
    "initials",
    "generation_qualifier",
    "common_name",
    "serial_number",
    "dn_qualifier",
    "unique_identifier",
    "user_id",
    "email_address",
]
SanType = Literal["dns", "email", "uri", "ip", "directory_name", "registered_id", "upn", "guid", "smtp_utf8_mailbox"]
NameSource = Literal[
    "san.email", "san.smtp_utf8_mailbox", "san.dns", "san.ip", "personal_name", "pseudonym", "organization_name"
]

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
    "any_extended_key_usage": "2.5.29.37.0",
}
"""Names of KeyPurposeIds (RFC 5280 §4.2.1.12, RFC 4945 §5.1.3.12, RFC 9336, Microsoft); any other by its OID."""
EXTENSIONS: Final = {
    "key_usage": "2.5.29.15",
    "subject_alt_name": "2.5.29.17",
    "extended_key_usage": "2.5.29.37",
    "certificate_policies": "2.5.29.32",
    "crl_distribution_points": "2.5.29.31",
    "authority_information_access": "1.3.6.1.5.5.7.1.1",
    "subject_information_access": "1.3.6.1.5.5.7.1.11",
    "private_key_usage_period": "2.5.29.16",
    "issuer_alt_name": "2.5.29.18",
    "freshest_crl": "2.5.29.46",
    "subject_directory_attributes": "2.5.29.9",
    "qc_statements": "1.3.6.1.5.5.7.1.3",
    "tls_feature": "1.3.6.1.5.5.7.1.24",
    "ocsp_no_check": "1.3.6.1.5.5.7.48.1.5",
    "smime_capabilities": "1.2.840.113549.1.9.15",
    "ms_certificate_template": "1.3.6.1.4.1.311.21.7",
    "ms_certificate_template_name": "1.3.6.1.4.1.311.20.2",
    "ms_application_policies": "1.3.6.1.4.1.311.21.10",
    "ms_sid": "1.3.6.1.4.1.311.25.2",
    "netscape_cert_type": "2.16.840.1.113730.1.1",
    "netscape_comment": "2.16.840.1.113730.1.13",
}
"""Names of extensions that requests carry; any other by its OID."""
_CAS_ONLY: Final = {
    "2.5.29.19": "basicConstraints is always there and never says CA",
    "2.5.29.30": "nameConstraints is for CA certificates (RFC 5280 §4.2.1.10)",
    "2.5.29.33": "policyMappings is for CA certificates (RFC 5280 §4.2.1.5)",
    "2.5.29.36": "policyConstraints is for CA certificates (RFC 5280 §4.2.1.11)",
    "2.5.29.54": "inhibitAnyPolicy is for CA certificates (RFC 5280 §4.2.1.14)",
    "2.5.29.14": "subjectKeyIdentifier is the issuer's",
    "2.5.29.35": "authorityKeyIdentifier is the issuer's",
    "1.3.6.1.4.1.11129.2.4.2": "signed certificate timestamps are the issuer's (RFC 6962 §3.3)",
    "1.3.6.1.4.1.11129.2.4.3": "the poison of precertificates is the issuer's (RFC 6962 §3.1)",
}
_OID: Final = re.compile(r"(?:[01]\.(?:[0-9]|[1-3][0-9])|2\.(?:0|[1-9][0-9]{0,18}))(?:\.(?:0|[1-9][0-9]{0,38})){0,30}")


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
    """Read "90s", "10m", "12h", "7d", "6mo" or "2y" (months of 365/12 days, years of 365), at most 100 years.

    Raises ValueError.
    """
    if isinstance(text, timedelta):
        return text
    match = re.fullmatch(r"([0-9]{1,10})(s|m|h|d|mo|y)", text, re.ASCII) if isinstance(text, str) else None
    if match is None:
        raise ValueError('is not a duration such as "90s", "10m", "12h", "7d", "6mo" or "2y"')
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST.total_seconds():
        raise ValueError("is longer than 100 years")
    return timedelta(seconds=seconds)


def duration_text(duration: timedelta) -> str:
    """Write a duration of whole seconds in the greatest unit that fits: 90s, 10m, 12h, 365d."""
    seconds = int(duration.total_seconds())
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"


def _positive(duration: timedelta) -> timedelta:
    if not duration:
        raise ValueError("must be more than nothing")
    return duration


def _not_empty(values: tuple[_T, ...]) -> tuple[_T, ...]:
    if not values:
        raise ValueError("must not be empty")
    return values


def _different(values: tuple[_T, ...]) -> tuple[_T, ...]:
    if len(set(values)) != len(values):
        raise ValueError("has the same value twice")
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


def _oid(text: str) -> str:
    if not _OID.fullmatch(text) or "." not in text:
        raise ValueError("is not an OID such as 1.3.6.1.4.1.55555.1")
    return text


def _extended_key_usage(name: str) -> str:
    """Turn a name or dotted OID into the dotted OID."""
    if name in EXTENDED_KEY_USAGES:
        return EXTENDED_KEY_USAGES[name]
    if _OID.fullmatch(name):
        return name
    raise ValueError(f"is neither an OID nor one of {', '.join(EXTENDED_KEY_USAGES)}")


def _extension(name: str) -> str:
    """Turn the name or dotted OID of an extension into the dotted OID."""
    oid = EXTENSIONS.get(name, name)
    if not _OID.fullmatch(oid):
        raise ValueError(f"is neither an OID nor one of {', '.join(EXTENSIONS)}")
    return oid


def _for_all(usages: object) -> object:
    """Read a list as the usages for all key types."""
    return {"all": usages} if isinstance(usages, list | tuple) else usages


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _policies(value: object) -> object:
    """Read a policy that is only an OID as a table with that OID."""
    return [{"oid": one} if isinstance(one, str) else one for one in value] if isinstance(value, list) else value


def _seat_mapping(text: str) -> str:
    section, _, rest = text.partition(".")
    known = {"subject": SubjectAttribute, "san": SanType}.get(section)
    if known is None or rest not in get_args(known):
        raise ValueError('is neither "subject." with an attribute nor "san." with a type, such as san.email')
    return text


def _name_split(text: object) -> object:
    """Read the way to split a name: the words, or a pattern with the groups gn and sn."""
    if text == LAST_WORD or text is None:
        return text
    pattern = _pattern(text)
    if {name.lower() for name in pattern.groups} != {"gn", "sn"}:
        raise ValueError('is neither "last-word-is-surname" nor a pattern with the groups (?P<gn>…) and (?P<sn>…)')
    return pattern


def _plain(text: str) -> str:
    fault = text_fault(text)
    if fault:
        raise ValueError(str(fault))
    return text


def _email(text: str) -> str:
    fault = email_fault(text)
    if fault:
        raise ValueError(str(fault))
    return text


def _http(url: str) -> str:
    if not url.startswith(("http://", "https://")) or uri_fault(url):
        raise ValueError("is not a URL that begins with http:// or https://")
    return url


def _hexadecimal(text: str) -> str:
    try:
        bytes.fromhex(text)
    except ValueError:
        raise ValueError("is not hexadecimal") from None
    return text


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None
    return text


def _escrow(value: object) -> object:
    if value not in {"no", False}:
        raise ValueError('is not supported: private keys are made by the end entity and never leave it; write "no"')
    return "no"


LAST_WORD: Final = "last-word-is-surname"

_DURATION_SCHEMA: Final = {
    "type": "string",
    "pattern": "^[0-9]{1,10}(s|m|h|d|mo|y)$",
    "examples": ["90s", "10m", "12h", "365d", "6mo", "2y"],
}
_PATTERN_SCHEMA: Final = {"type": "string", "minLength": 1, "maxLength": 1000, "examples": ["[a-z0-9-]+"]}
_SCHEMA_OF_USAGES: Final = {
    "type": "object",
    "propertyNames": {"enum": ["all", *get_args(KeyType)]},
}


def _usages_schema(items: dict[str, Any]) -> WithJsonSchema:
    lists = {"type": "array", "items": items}
    return WithJsonSchema({"anyOf": [lists, _SCHEMA_OF_USAGES | {"additionalProperties": lists}]})


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(duration_text, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
]
"""A length of time, written as a string with a unit."""
_Positive = Annotated[Duration, AfterValidator(_positive)]
_Tolerance = Annotated[
    timedelta | None,
    BeforeValidator(_tolerance),
    PlainSerializer(lambda value: "off" if value is None else duration_text(value), return_type=str),
    WithJsonSchema({"anyOf": [{"const": "off"}, _DURATION_SCHEMA]}),
]
_Pattern = Annotated[
    Pattern, BeforeValidator(_pattern), PlainSerializer(lambda one: one.text, return_type=str),
    WithJsonSchema(_PATTERN_SCHEMA),
]  # fmt: skip
_NameSplit = Annotated[
    Pattern | str | None,
    BeforeValidator(_name_split),
    PlainSerializer(lambda one: one.text if isinstance(one, Pattern) else one),
    WithJsonSchema({"anyOf": [{"const": LAST_WORD}, _PATTERN_SCHEMA | {"examples": ["(?P<gn>.+) (?P<sn>[^ ]+)"]}]}),
]
_Domain = Annotated[str, AfterValidator(_domain), Field(examples=["example.com", ".example.com"])]
_Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "2001:db8::/32"]}),
]
_OneOrMore = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "examples": ["Example GmbH"]}
)
_Values = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), _OneOrMore]
_Count = Annotated[StrictInt, Field(ge=0, le=1000)]
_Oid = Annotated[str, AfterValidator(_oid), Field(examples=["1.3.6.1.4.1.55555.1"])]
_Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]
_Url = Annotated[str, AfterValidator(_http), Field(examples=["http://crl.example.com/ca.crl"])]
_KeyUsages = Annotated[
    dict[Literal[KeyType, "all"], tuple[KeyUsage, ...]],
    BeforeValidator(_for_all),
    _usages_schema({"enum": list(get_args(KeyUsage))}),
]
_ExtendedKeyUsages = Annotated[
    dict[Literal[KeyType, "all"], tuple[Annotated[str, AfterValidator(_extended_key_usage)], ...]],
    BeforeValidator(_for_all),
    _usages_schema({"type": "string", "examples": [*EXTENDED_KEY_USAGES, "1.3.6.1.5.5.7.3.30"]}),
]


class _Schema(GenerateJsonSchema):
    """JSON Schema in which defaults are spelled as in the file."""

    def encode_default(self, dft: Any) -> Any:
        """Spell a duration as the file does."""
        return duration_text(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)

    @classmethod
    def model_json_schema(
        cls,
        by_alias: bool | None = True,
        ref_template: str = DEFAULT_REF_TEMPLATE,
        schema_generator: type[GenerateJsonSchema] = _Schema,
        mode: JsonSchemaMode = "validation",
        **more: Any,
    ) -> dict[str, Any]:
        """JSON Schema of the table as it is in a file."""
        return super().model_json_schema(by_alias, ref_template, schema_generator, mode, **more)


def _described(words: dict[str, str]) -> Callable[[dict[str, Any]], None]:
    """Give properties of a schema their descriptions: those of tables that all have the same keys."""

    def describe_properties(schema: dict[str, Any]) -> None:
        for key, text in words.items():
            schema["properties"][key]["description"] = text

    return describe_properties


class CertificateTypeConfig(_Table):
    """[certificate_type]: what kind of certificate it is, in the words of the S/MIME and TLS Baseline Requirements."""

    validation_type: Literal["mailbox", "organization", "sponsor", "individual", "domain"] | None = None
    """Who the certificate names: S/MIME mailbox, organization, sponsor or individual (S/MIME BR §7.1.6.1); TLS domain
    or organization. Goes with public_trust, whose rules on the subject depend on it."""
    generation: Literal["strict", "multipurpose"] | None = None
    """S/MIME: strict is for e-mail only, multipurpose may have other key purposes too (S/MIME BR §7.1.2.3)."""
    usage: Literal["signing", "key_management", "dual_use"] | None = None
    """What the key is for: no key usage that contradicts it can be listed (S/MIME BR §7.1.2.3 (e))."""


class OrganizationConfig(_Table):
    """[organization]: the organization that the profile is bound to; its names are in every subject that has them."""

    name: Annotated[str, Field(max_length=64), AfterValidator(_plain)]
    """The legal name: organizationName is in the subject and comes from it, whatever the request says, unless
    subject.organization_name has include = "no"."""
    identifier: Annotated[str, Field(max_length=256), AfterValidator(_plain)] | None = None
    """The registration, e.g. NTRDE-HRB123456: organizationIdentifier is in the subject and comes from it, where
    subject.organization_identifier is listed."""
    id: StrictInt | _Text | None = None
    """What the issuer calls the organization, e.g. its number in the issuer's account."""


class ContactConfig(_Table):
    """[contact]: who the issuer turns to about a certificate."""

    mode: Literal["linked", "custom"] = "linked"
    """linked: the contact that the issuer has for the organization; custom: the one that is named here."""
    first_name: _Text | None = None
    """Of a custom contact."""
    last_name: _Text | None = None
    """Of a custom contact."""
    email: Annotated[str, AfterValidator(_email)] | None = None
    """Of a custom contact, who must have one."""
    telephone: Annotated[str, Field(pattern=r"^\+?[0-9 ()./-]{3,40}$")] | None = None
    """Of a custom contact."""
    job_title: _Text | None = None
    """Of a custom contact."""


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

    method: Literal["cmp"] = "cmp"
    """The enrollment protocol."""
    authentication_method: Literal["enrollment_code", "tls_certificate"] = "enrollment_code"
    """How a new end entity proves who it is: by an enrollment code (MAC protection), or by a certificate it already
    has, under one of trusted_certificates (signature protection). A kur is signed with the certificate to update."""
    service_user: _Text | None = None
    """The one client that may use the profile, by the commonName of the certificate it authenticates with."""
    allowed_operations: Annotated[tuple[Operation, ...], AfterValidator(_not_empty)] = ("ir", "cr", "p10cr", "kur")
    """The requests that are accepted."""
    implicit_confirm: StrictBool = True
    """Let a client that asks for it leave out the certificate confirmation (RFC 9483 §4.1.1)."""
    confirm_wait: _Positive = timedelta(minutes=10)
    """How long the confirmation is awaited; then the certificate is revoked."""
    several_requests: StrictBool = False
    """Accept more than one CertReqMsg in a message (RFC 9810); RFC 9483 has exactly one."""
    message_time_tolerance: _Tolerance = timedelta(minutes=5)
    """How far messageTime may be from the time here; "off" does not check it."""
    trusted_certificates: tuple[str, ...] = ()
    """PEM files with the trust anchors of certificates that new end entities sign with."""
    ra_certificates: tuple[str, ...] = ()
    """PEM files with certificates of registration authorities that may vouch for proof-of-possession (raVerified)."""
    legacy: LegacyConfig = LegacyConfig()
    """The table [enrollment.legacy]."""


class RenewalConfig(_Table):
    """[renewal]: updates of certificates (kur)."""

    window_days: Annotated[StrictInt, Field(ge=1, le=3650)] | None = None
    """An update is accepted from so many days before the old certificate's notAfter; without the key at any time."""
    reject_outside_window: StrictBool = True
    """Refuse an update before the window opens, with the date from which it is allowed; false switches the window
    off."""
    grace: Duration = timedelta()
    """An update is accepted until so long after the old certificate's notAfter."""
    require_new_key: StrictBool = True
    """Refuse an update that keeps the old key."""


class ValidityConfig(_Table):
    """[validity]: how long a certificate is valid; notBefore and notAfter both belong to it (RFC 5280 §4.1.2.5)."""

    default: _Positive = timedelta(days=365)
    """From notBefore to notAfter, both included."""
    min: _Positive | None = None
    """The shortest that a request may ask for; by default there is none."""
    max: _Positive | None = None
    """The longest that a request may ask for; by default the same as `default`."""
    until: date | None = None
    """The last day (UTC) on which any certificate is valid: a TOML date such as 2027-03-01."""
    backdate: Duration | None = None
    """How long before the decision notBefore is, for clocks that are slow; by default 5m, or a tenth of `default`
    if that is less."""
    allow_request_override: StrictBool = False
    """Let a request ask for its own notBefore and notAfter; otherwise what it asks for is replaced."""
    on_exceed: Literal["reject", "shorten"] = "reject"
    """What becomes of a request that asks for more than `max` or `until`, or for an earlier start than `backdate`."""


class SignatureConfig(_Table):
    """[signature]: what certificates are signed with."""

    allowed_algorithms: Annotated[tuple[SignatureAlgorithm, ...], AfterValidator(_different)] = ()
    """The issuer must sign with one of these; an empty list is no restriction."""
    default_algorithm: SignatureAlgorithm | Literal["match_issuer"] = "match_issuer"
    """What is asked of an issuer that has a choice; match_issuer leaves it to the issuer."""


class RSAConfig(_Table):
    """[key] rsa."""

    min_bits: Annotated[StrictInt, Field(ge=2048, le=16384)] = 2048
    """The shortest modulus."""
    max_bits: Annotated[StrictInt, Field(ge=2048, le=16384)] = 4096
    """The longest modulus."""
    allowed_bits: tuple[Annotated[StrictInt, Field(ge=2048, le=16384)], ...] = ()
    """The lengths of modulus that are accepted, e.g. [2048, 3072, 4096]; an empty list is any from min to max."""
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
    same_key_elsewhere: StrictBool = False
    """Certify a key that another certificate already has; renewal.require_new_key is about updates."""
    escrow: Annotated[Literal["no"], BeforeValidator(_escrow)] = "no"
    """Keeping a copy of the private key: not supported, "no" is the only value."""


class AttributeConfig(_Table):
    """[subject] NAME: one attribute of the subject."""

    include: Include | None = None
    """no: refused; optional: may be there; required: must be there. By default optional, with source fixed required."""
    source: Source = "cmp"
    """cmp: as requested; fixed: always `value`, whatever is requested; default: `value` where the request has none."""
    value: _Values = ()
    """The fixed or default value, or a list where several are allowed."""
    pattern: _Pattern | None = None
    """Regular expression (RE2 syntax) that the whole value must match."""
    max_length: Annotated[StrictInt, Field(ge=1, le=32768)] | None = None
    """The most characters; by default, and at most, the upper bound of RFC 5280 appendix A.1."""
    min: Annotated[StrictInt, Field(ge=0, le=32)] = 0
    """The fewest of it when there is any."""
    max: Annotated[StrictInt, Field(ge=1, le=32)] = 1
    """How often it may be there; more than once only organizational_unit_name, domain_component, street_address."""


_ATTRIBUTES: Final = {
    "country_name": "C, two capital letters.",
    "state_or_province_name": "ST.",
    "locality_name": "L.",
    "postal_code": "The postal code.",
    "street_address": "The street with the number.",
    "domain_component": "DC, one label of a domain name each.",
    "organization_name": "O; with [organization] it comes from there.",
    "organization_identifier": "The registration; with [organization] identifier it comes from there.",
    "organizational_unit_name": "OU.",
    "title": "The title or position.",
    "pseudonym": "A name in place of the real one.",
    "surname": "SN, the family name.",
    "given_name": "GN, the first name.",
    "initials": "The initials of the given names.",
    "generation_qualifier": "Jr, III and the like.",
    "common_name": "CN.",
    "serial_number": "The subject's serial number, not the certificate's.",
    "dn_qualifier": "What tells namesakes apart.",
    "unique_identifier": "The unique identifier of RFC 4524 §2.24.",
    "user_id": "UID.",
    "email_address": "The e-mail address of PKCS #9; subjectAltName is the place for it (RFC 5280 §4.1.2.6).",
}


class SubjectConfig(_Table):
    """[subject]: the distinguished name, one key per attribute; what is not listed is not accepted."""

    model_config = ConfigDict(json_schema_extra=_described(_ATTRIBUTES))

    on_unlisted: OnUnlisted = "reject"
    """An attribute that is not listed: reject the request, or drop the attribute."""
    multi_valued_rdn: StrictBool = False
    """Accept relative names that have several attributes."""
    order: Annotated[tuple[SubjectAttribute, ...], AfterValidator(_different)] = ()
    """The order of attributes in the subject, others after them; an empty list keeps the order of the request."""
    name_split: _NameSplit = None
    """Where given name and surname are not requested, take them from the common name: "last-word-is-surname", or a
    pattern (RE2 syntax) with the groups gn and sn, such as (?P<gn>.+) (?P<sn>[^ ]+)."""
    common_name_from: Annotated[tuple[NameSource, ...], AfterValidator(_different)] = ()
    """Accept a common name only if it is also one of these; an empty list is no restriction."""
    country_name: AttributeConfig | None = None
    state_or_province_name: AttributeConfig | None = None
    locality_name: AttributeConfig | None = None
    postal_code: AttributeConfig | None = None
    street_address: AttributeConfig | None = None
    domain_component: AttributeConfig | None = None
    organization_name: AttributeConfig | None = None
    organization_identifier: AttributeConfig | None = None
    organizational_unit_name: AttributeConfig | None = None
    title: AttributeConfig | None = None
    pseudonym: AttributeConfig | None = None
    surname: AttributeConfig | None = None
    given_name: AttributeConfig | None = None
    initials: AttributeConfig | None = None
    generation_qualifier: AttributeConfig | None = None
    common_name: AttributeConfig | None = None
    serial_number: AttributeConfig | None = None
    dn_qualifier: AttributeConfig | None = None
    unique_identifier: AttributeConfig | None = None
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

    source: Source = "cmp"
    """cmp: as requested; fixed: always `value`, whatever is requested; default: `value` where the request has none."""
    value: _Values = ()
    """The fixed or default value or values."""
    pattern: _Pattern | None = None
    """Regular expression (RE2 syntax) that the whole value must match."""


class DNSConfig(FixableSanConfig):
    """[san] dns: host names."""

    allowed_domains: tuple[_Domain, ...] = ()
    """example.com is that name only, .example.com every name below it; an empty list is no restriction."""
    allow_wildcard: StrictBool = False
    """Accept `*` as the leftmost label."""


class MailConfig(FixableSanConfig):
    """[san] email, smtp_utf8_mailbox or upn: mailboxes, user principal names."""

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


class GUIDConfig(FixableSanConfig):
    """[san] guid: Microsoft's identifiers of computers in a domain, e.g. 6f9619ff-8b86-d011-b42d-00c04fc964ff."""


class DirectoryNameConfig(SanTypeConfig):
    """[san] directory_name: distinguished names; their values are checked for hostile text only."""


class OtherNameConfig(FixableSanConfig):
    """[san.other_name.OID]: an otherName of a type that has no key of its own."""

    type: Literal["utf8_string", "ia5_string", "printable_string", "octet_string", "oid", "any"] = "utf8_string"
    """The ASN.1 type of the value. Values are written and matched as text, those of octet_string and any (a whole
    DER element) in hexadecimal."""


_SAN_TYPES: Final = {
    "dns": "dNSName.",
    "email": "rfc822Name.",
    "uri": "uniformResourceIdentifier.",
    "ip": "iPAddress.",
    "directory_name": "directoryName.",
    "registered_id": "registeredID.",
    "upn": "otherName: Microsoft's user principal name.",
    "guid": "otherName: Microsoft's GUID of a computer.",
    "smtp_utf8_mailbox": "otherName: an e-mail address whose local part is not ASCII (RFC 9598).",
}


class SanConfig(_Table):
    """[san]: the subjectAltName, one key per type; what is not listed is not accepted."""

    model_config = ConfigDict(json_schema_extra=_described(_SAN_TYPES))

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
    guid: GUIDConfig | None = None
    smtp_utf8_mailbox: MailConfig | None = None
    other_name: dict[_Oid, OtherNameConfig] = {}
    """otherName of any type, by its OID: [san.other_name."1.3.6.1.5.5.7.8.7"]."""


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


class PolicyConfig(_Table):
    """[[extensions.certificate_policies]]: one policy (RFC 5280 §4.2.1.4)."""

    oid: _Oid
    """The policy's OID."""
    cps: _Url | None = None
    """Where the certification practice statement is."""


class AccessConfig(_Table):
    """[extensions.authority_information_access] (RFC 5280 §4.2.2.1)."""

    ocsp: tuple[_Url, ...] = ()
    """URLs of OCSP responders."""
    ca_issuers: tuple[_Url, ...] = ()
    """URLs of the issuing CA's certificate."""


class CustomExtensionConfig(_Table):
    """[[extensions.custom]]: an extension with a value of the profile's, in every certificate."""

    oid: Annotated[str, AfterValidator(_extension)]
    """The extension: its OID, or a name such as tls_feature."""
    critical: StrictBool = False
    """Mark the extension critical."""
    der_hex: Annotated[str, AfterValidator(_hexadecimal)] | None = None
    """The value, one DER element, in hexadecimal; or one of the other three."""
    der_base64: Annotated[str, AfterValidator(_base64)] | None = None
    """The value, one DER element, in base64."""
    type: Literal[
        "utf8_string", "ia5_string", "printable_string", "octet_string", "integer", "boolean", "null", "oid"
    ] | None = None  # fmt: skip
    """The ASN.1 type of `value`."""
    value: str | StrictInt | StrictBool | None = None
    """The value of `type`; an octet_string in hexadecimal."""


class ExtensionsConfig(_Table):
    """[extensions]."""

    other: Literal["refuse", "ignore"] = "refuse"
    """A requested extension that no other key is about: refuse the request, or leave the extension out."""
    requested: dict[Annotated[str, AfterValidator(_extension)], Literal["honour", "ignore", "refuse"]] = {}
    """Requested extensions by name or OID. honour: take it over as requested, key_usage, extended_key_usage and
    subject_alt_name within their own rules; ignore: decide as if it were not requested; refuse: refuse the request."""
    key_usage: KeyUsageConfig = KeyUsageConfig()
    """The table [extensions.key_usage]."""
    extended_key_usage: ExtendedKeyUsageConfig = ExtendedKeyUsageConfig()
    """The table [extensions.extended_key_usage]."""
    certificate_policies: Annotated[tuple[PolicyConfig, ...], BeforeValidator(_policies)] = ()
    """Policies, each an OID or a table with oid and cps."""
    crl_distribution_points: tuple[_Url, ...] = ()
    """URLs of the CRL, in place of the issuer's own."""
    authority_information_access: AccessConfig = AccessConfig()
    """The table [extensions.authority_information_access], in place of the issuer's own."""
    custom: tuple[CustomExtensionConfig, ...] = ()
    """The tables [[extensions.custom]]."""


class SeatConfig(_Table):
    """[seat]: who a certificate is for."""

    id_mapping: (
        Annotated[str, AfterValidator(_seat_mapping), Field(examples=["san.email", "subject.common_name"])] | None
    ) = None
    """Where the seat ID is: `subject.` with an attribute or `san.` with a type, the first of it; a request without is
    refused. By default the common name where there is one, and no seat where there is none."""
    allow_duplicates: StrictBool = True
    """Let a seat have several valid certificates at a time."""


class BudgetConfig(_Table):
    """[budget]: how many certificates may be issued."""

    per_day: Annotated[StrictInt, Field(ge=1, le=10_000_000)] | None = None
    """In a day (UTC), by the whole profile; without the key there is no limit."""
    per_seat: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = None
    """Valid certificates that one seat may have; without the key there is no limit."""


class ProfileConfig(_Table):
    """A profile file, whole."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22,128}$")]
    """Names the profile in its own URL /cmp/ID; nobody can guess it."""
    base_template: str | None = None
    """The template that the profile starts from: what it does not say comes from there."""
    issuer: Annotated[str, Field(min_length=1)]
    """The [issuers.NAME] section of cmpd.toml that issues."""
    issuer_ca: _Text | None = None
    """The CA within the issuer, where the issuer has several, in the issuer's words."""
    name: _Text | None = None
    """The profile's name for people; the file's name is the one in URLs."""
    description: str = ""
    """For people."""
    business_unit: Annotated[str, Field(max_length=200)] = ""
    """The business unit that the profile belongs to; in logs and lists."""
    tags: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/@-]{0,63}$")], ...],
                    AfterValidator(_different), Field(max_length=32)] = ()  # fmt: skip
    """Words to find the profile by; in logs and lists."""
    public_trust: PublicTrust | None = None
    """Certificates must keep the rules of public trust: the S/MIME or TLS Baseline Requirements; checked when the
    profile is loaded and on every request."""
    lint: Literal["off", "warn", "enforce"] = "off"
    """Lint every certificate before it is signed: warn logs what is found, enforce refuses the request."""
    certificate_type: CertificateTypeConfig = CertificateTypeConfig()
    """The table [certificate_type]."""
    organization: OrganizationConfig | None = None
    """The table [organization]."""
    contact: ContactConfig | None = None
    """The table [contact]."""
    enrollment: EnrollmentConfig = EnrollmentConfig()
    """The table [enrollment]."""
    renewal: RenewalConfig = RenewalConfig()
    """The table [renewal]."""
    validity: ValidityConfig = ValidityConfig()
    """The table [validity]."""
    signature: SignatureConfig = SignatureConfig()
    """The table [signature]."""
    key: KeyConfig = KeyConfig()
    """The table [key]."""
    subject: SubjectConfig = SubjectConfig()
    """The table [subject]."""
    san: SanConfig = SanConfig()
    """The table [san]."""
    extensions: ExtensionsConfig = ExtensionsConfig()
    """The table [extensions]."""
    seat: SeatConfig = SeatConfig()
    """The table [seat]."""
    budget: BudgetConfig = BudgetConfig()
    """The table [budget]."""


def issuers_own(oid: str) -> str | None:
    """Why a profile cannot have an extension put into certificates; None when it can."""
    return _CAS_ONLY.get(oid)


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
        if part not in model.model_fields:
            continue  # a key of the operator's, such as the OID of an otherName
        annotation = model.model_fields[part].annotation
        model = next(
            choice
            for choice in getattr(annotation, "__args__", (annotation,))
            if isinstance(choice, type) and issubclass(choice, BaseModel)
        )
    return list(model.model_fields)
