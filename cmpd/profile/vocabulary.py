"""The words of a profile file: names that its keys can have as values, how a value is read, and what a table is."""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictInt,
    WithJsonSchema,
)
from pydantic.json_schema import DEFAULT_REF_TEMPLATE, GenerateJsonSchema, JsonSchemaMode

from cmpd.profile.syntax import Pattern, dns_fault, email_fault, parse_name, text_fault, uri_fault

_T = TypeVar("_T")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "mo": 365 * 86400 // 12, "y": 365 * 86400}
"""Seconds; a month is a twelfth of a year of 365 days, so that 12mo are 1y."""
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
CAS_ONLY: Final = {
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


def not_empty(values: tuple[_T, ...]) -> tuple[_T, ...]:
    """Refuse an empty list."""
    if not values:
        raise ValueError("must not be empty")
    return values


def different(values: tuple[_T, ...]) -> tuple[_T, ...]:
    """Refuse a list with the same value twice."""
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


def read_extended_key_usage(name: str) -> str:
    """Turn a name or dotted OID into the dotted OID."""
    if name in EXTENDED_KEY_USAGES:
        return EXTENDED_KEY_USAGES[name]
    if _OID.fullmatch(name):
        return name
    raise ValueError(f"is neither an OID nor one of {', '.join(EXTENDED_KEY_USAGES)}")


def read_extension(name: str) -> str:
    """Turn the name or dotted OID of an extension into the dotted OID."""
    oid = EXTENSIONS.get(name, name)
    if not _OID.fullmatch(oid):
        raise ValueError(f"is neither an OID nor one of {', '.join(EXTENSIONS)}")
    return oid


def read_fingerprint(text: str) -> str:
    """A SHA-256 in lower-case hexadecimal."""
    digits = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("is not a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons")
    return digits


def read_source(text: str) -> str:
    """A file or an http URL."""
    if "://" in text:
        return _http(text)
    if not text:
        raise ValueError("is neither a file nor an http URL")
    return text


def read_serial_template(text: str) -> str:
    """A subject in RFC 4514 style in which {serial} stands for a serial number."""
    if text.replace("{serial}", "").count("{") or "}" in text.replace("{serial}", ""):
        raise ValueError("has another placeholder than {serial}")
    parse_name(text.replace("{serial}", "0"))
    return text


def _for_all(usages: object) -> object:
    """Read a list as the usages for all key types."""
    return {"all": usages} if isinstance(usages, list | tuple) else usages


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def read_policies(value: object) -> object:
    """Read a policy that is only an OID as a table with that OID."""
    return [{"oid": one} if isinstance(one, str) else one for one in value] if isinstance(value, list) else value


def read_seat_mapping(text: str) -> str:
    """A place of the request where the seat ID is."""
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


def read_plain(text: str) -> str:
    """Text in which every character prints."""
    fault = text_fault(text)
    if fault:
        raise ValueError(str(fault))
    return text


def read_email(text: str) -> str:
    """A mail address."""
    fault = email_fault(text)
    if fault:
        raise ValueError(str(fault))
    return text


def _http(url: str) -> str:
    if not url.startswith(("http://", "https://")) or uri_fault(url):
        raise ValueError("is not a URL that begins with http:// or https://")
    return url


def read_hexadecimal(text: str) -> str:
    """Octets in hexadecimal."""
    try:
        bytes.fromhex(text)
    except ValueError:
        raise ValueError("is not hexadecimal") from None
    return text


def read_base64(text: str) -> str:
    """Octets in base64."""
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None
    return text


def read_escrow(value: object) -> object:
    """What the keys of escrow can be."""
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
Positive = Annotated[Duration, AfterValidator(_positive)]
Tolerance = Annotated[
    timedelta | None,
    BeforeValidator(_tolerance),
    PlainSerializer(lambda value: "off" if value is None else duration_text(value), return_type=str),
    WithJsonSchema({"anyOf": [{"const": "off"}, _DURATION_SCHEMA]}),
]
RE2 = Annotated[
    Pattern, BeforeValidator(_pattern), PlainSerializer(lambda one: one.text, return_type=str),
    WithJsonSchema(_PATTERN_SCHEMA),
]  # fmt: skip
NameSplit = Annotated[
    Pattern | str | None,
    BeforeValidator(_name_split),
    PlainSerializer(lambda one: one.text if isinstance(one, Pattern) else one),
    WithJsonSchema({"anyOf": [{"const": LAST_WORD}, _PATTERN_SCHEMA | {"examples": ["(?P<gn>.+) (?P<sn>[^ ]+)"]}]}),
]
Domain = Annotated[str, AfterValidator(_domain), Field(examples=["example.com", ".example.com"])]
Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "2001:db8::/32"]}),
]
OneOrMore = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "examples": ["Example GmbH"]}
)
Values = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), OneOrMore]
Count = Annotated[StrictInt, Field(ge=0, le=1000)]
Oid = Annotated[str, AfterValidator(_oid), Field(examples=["1.3.6.1.4.1.55555.1"])]
Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(read_plain)]
Url = Annotated[str, AfterValidator(_http), Field(examples=["http://crl.example.com/ca.crl"])]
KeyUsages = Annotated[
    dict[Literal[KeyType, "all"], tuple[KeyUsage, ...]],
    BeforeValidator(_for_all),
    _usages_schema({"enum": list(get_args(KeyUsage))}),
]
ExtendedKeyUsages = Annotated[
    dict[Literal[KeyType, "all"], tuple[Annotated[str, AfterValidator(read_extended_key_usage)], ...]],
    BeforeValidator(_for_all),
    _usages_schema({"type": "string", "examples": [*EXTENDED_KEY_USAGES, "1.3.6.1.5.5.7.3.30"]}),
]


class _Schema(GenerateJsonSchema):
    """JSON Schema in which defaults are spelled as in the file."""

    def encode_default(self, dft: Any) -> Any:
        """Spell a duration as the file does."""
        return duration_text(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


class Table(BaseModel):
    """One table of a profile file: no key that is not in it, and the text under a key is what the key means."""

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


def described(words: dict[str, str]) -> Callable[[dict[str, Any]], None]:
    """Give properties of a schema their descriptions: those of tables that all have the same keys."""

    def describe_properties(schema: dict[str, Any]) -> None:
        for key, text in words.items():
            schema["properties"][key]["description"] = text

    return describe_properties
