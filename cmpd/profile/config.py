"""The profile file as written: every key, its type and its default.

A field's docstring is the key's meaning. Whatever can be checked looking at one key is checked here, the rest where
the decision is prepared; either way an operator reads one line for each fault: file, key, value and rule.
"""

import difflib
import re
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

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

from cmpd.profile.enrollment import EnrollmentConfig
from cmpd.profile.vocabulary import (
    CAS_ONLY,
    RE2,
    Count,
    Curve,
    Domain,
    Duration,
    ExtendedKeyUsages,
    Include,
    KeyType,
    KeyUsages,
    NameSource,
    NameSplit,
    Network,
    Oid,
    OnUnlisted,
    Positive,
    PublicTrust,
    SignatureAlgorithm,
    Source,
    SubjectAttribute,
    Table,
    Text,
    Url,
    Values,
    described,
    different,
    not_empty,
    read_base64,
    read_email,
    read_escrow,
    read_extension,
    read_hexadecimal,
    read_plain,
    read_policies,
    read_seat_mapping,
)

_SHOWN: Final = 80


class CertificateTypeConfig(Table):
    """[certificate_type]: what kind of certificate it is, in the words of the S/MIME and TLS Baseline Requirements."""

    validation_type: Literal["mailbox", "organization", "sponsor", "individual", "domain"] | None = None
    """Who the certificate names: S/MIME mailbox, organization, sponsor or individual (S/MIME BR §7.1.6.1); TLS domain
    or organization. Goes with public_trust, whose rules on the subject depend on it."""
    generation: Literal["strict", "multipurpose"] | None = None
    """S/MIME: strict is for e-mail only, multipurpose may have other key purposes too (S/MIME BR §7.1.2.3)."""
    usage: Literal["signing", "key_management", "dual_use"] | None = None
    """What the key is for: no key usage that contradicts it can be listed (S/MIME BR §7.1.2.3 (e))."""


class OrganizationConfig(Table):
    """[organization]: the organization that the profile is bound to; its names are in every subject that has them."""

    name: Annotated[str, Field(max_length=64), AfterValidator(read_plain)]
    """The legal name: organizationName is in the subject and comes from it, whatever the request says, unless
    subject.organization_name has include = "no"."""
    identifier: Annotated[str, Field(max_length=256), AfterValidator(read_plain)] | None = None
    """The registration, e.g. NTRDE-HRB123456: organizationIdentifier is in the subject and comes from it, where
    subject.organization_identifier is listed."""
    id: StrictInt | Text | None = None
    """What the issuer calls the organization, e.g. its number in the issuer's account."""


class ContactConfig(Table):
    """[contact]: who the issuer turns to about a certificate."""

    mode: Literal["linked", "custom"] = "linked"
    """linked: the contact that the issuer has for the organization; custom: the one that is named here."""
    first_name: Text | None = None
    """Of a custom contact."""
    last_name: Text | None = None
    """Of a custom contact."""
    email: Annotated[str, AfterValidator(read_email)] | None = None
    """Of a custom contact, who must have one."""
    telephone: Annotated[str, Field(pattern=r"^\+?[0-9 ()./-]{3,40}$")] | None = None
    """Of a custom contact."""
    job_title: Text | None = None
    """Of a custom contact."""


class RenewalConfig(Table):
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


class ValidityConfig(Table):
    """[validity]: how long a certificate is valid; notBefore and notAfter both belong to it (RFC 5280 §4.1.2.5)."""

    default: Positive = timedelta(days=365)
    """From notBefore to notAfter, both included."""
    min: Positive | None = None
    """The shortest that a request may ask for; by default there is none."""
    max: Positive | None = None
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


class SignatureConfig(Table):
    """[signature]: what certificates are signed with."""

    allowed_algorithms: Annotated[tuple[SignatureAlgorithm, ...], AfterValidator(different)] = ()
    """The issuer must sign with one of these; an empty list is no restriction."""
    default_algorithm: SignatureAlgorithm | Literal["match_issuer"] = "match_issuer"
    """What is asked of an issuer that has a choice; match_issuer leaves it to the issuer."""


class RSAConfig(Table):
    """[key] rsa."""

    min_bits: Annotated[StrictInt, Field(ge=2048, le=16384)] = 2048
    """The shortest modulus."""
    max_bits: Annotated[StrictInt, Field(ge=2048, le=16384)] = 4096
    """The longest modulus."""
    allowed_bits: tuple[Annotated[StrictInt, Field(ge=2048, le=16384)], ...] = ()
    """The lengths of modulus that are accepted, e.g. [2048, 3072, 4096]; an empty list is any from min to max."""
    min_exponent: Annotated[StrictInt, Field(ge=3, le=2**32)] = 65537
    """The least public exponent; it is odd in any case."""


class ECDSAConfig(Table):
    """[key] ecdsa."""

    allowed_curves: Annotated[tuple[Curve, ...], AfterValidator(not_empty)] = ("P-256", "P-384", "P-521")
    """Named curves; keys are points in uncompressed form (RFC 5480 §2.2)."""


class KeyConfig(Table):
    """[key]: which public keys are certified."""

    allowed_types: Annotated[tuple[KeyType, ...], AfterValidator(not_empty)] = ("rsa", "ecdsa")
    """rsa, ecdsa, ed25519, ed448, ml-dsa-44, ml-dsa-65, ml-dsa-87."""
    rsa: RSAConfig = RSAConfig()
    """Sizes of RSA keys."""
    ecdsa: ECDSAConfig = ECDSAConfig()
    """Curves of EC keys."""
    same_key_elsewhere: StrictBool = False
    """Certify a key that another certificate already has; renewal.require_new_key is about updates."""
    escrow: Annotated[Literal["no"], BeforeValidator(read_escrow)] = "no"
    """Keeping a copy of the private key: not supported, "no" is the only value."""


class AttributeConfig(Table):
    """[subject] NAME: one attribute of the subject."""

    include: Include | None = None
    """no: refused; optional: may be there; required: must be there. By default optional, with source fixed required."""
    source: Source = "cmp"
    """cmp: as requested; fixed: always `value`, whatever is requested; default: `value` where the request has none."""
    value: Values = ()
    """The fixed or default value, or a list where several are allowed."""
    pattern: RE2 | None = None
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


class SubjectConfig(Table):
    """[subject]: the distinguished name, one key per attribute; what is not listed is not accepted."""

    model_config = ConfigDict(json_schema_extra=described(_ATTRIBUTES))

    on_unlisted: OnUnlisted = "reject"
    """An attribute that is not listed: reject the request, or drop the attribute."""
    multi_valued_rdn: StrictBool = False
    """Accept relative names that have several attributes."""
    order: Annotated[tuple[SubjectAttribute, ...], AfterValidator(different)] = ()
    """The order of attributes in the subject, others after them; an empty list keeps the order of the request."""
    name_split: NameSplit = None
    """Where given name and surname are not requested, take them from the common name: "last-word-is-surname", or a
    pattern (RE2 syntax) with the groups gn and sn, such as (?P<gn>.+) (?P<sn>[^ ]+)."""
    common_name_from: Annotated[tuple[NameSource, ...], AfterValidator(different)] = ()
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


class SanTypeConfig(Table):
    """[san] NAME: one type of name."""

    include: Include | None = None
    """no: refused; optional: may be there; required: must be there. By default optional, with source fixed required."""
    min: Count = 0
    """The fewest of this type when there is any."""
    max: Count = 10
    """The most of this type."""


class FixableSanConfig(SanTypeConfig):
    """[san] NAME: a type of name that the profile may also set itself."""

    source: Source = "cmp"
    """cmp: as requested; fixed: always `value`, whatever is requested; default: `value` where the request has none."""
    value: Values = ()
    """The fixed or default value or values."""
    pattern: RE2 | None = None
    """Regular expression (RE2 syntax) that the whole value must match."""


class DNSConfig(FixableSanConfig):
    """[san] dns: host names."""

    allowed_domains: tuple[Domain, ...] = ()
    """example.com is that name only, .example.com every name below it; an empty list is no restriction."""
    allow_wildcard: StrictBool = False
    """Accept `*` as the leftmost label."""


class MailConfig(FixableSanConfig):
    """[san] email, smtp_utf8_mailbox or upn: mailboxes, user principal names."""

    allowed_domains: tuple[Domain, ...] = ()
    """What follows the @: example.com is that domain only, .example.com every domain below it."""


class URIConfig(FixableSanConfig):
    """[san] uri: absolute URIs."""

    allowed_schemes: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*$")], ...] = ()
    """Schemes in lower case, e.g. https, urn, spiffe; an empty list is no restriction."""
    allowed_domains: tuple[Domain, ...] = ()
    """Hosts: example.com is that host only, .example.com every host below it; with this, a URI must have a host."""


class IPConfig(FixableSanConfig):
    """[san] ip: IPv4 and IPv6 addresses."""

    allowed_ranges: tuple[Network, ...] = ()
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


class SanConfig(Table):
    """[san]: the subjectAltName, one key per type; what is not listed is not accepted."""

    model_config = ConfigDict(json_schema_extra=described(_SAN_TYPES))

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
    other_name: dict[Oid, OtherNameConfig] = {}
    """otherName of any type, by its OID: [san.other_name."1.3.6.1.5.5.7.8.7"]."""


class KeyUsageConfig(Table):
    """[extensions.key_usage]."""

    critical: StrictBool = True
    """Mark the extension critical."""
    required_usages: KeyUsages = {"all": ("digital_signature",)}
    """Always in the certificate: a list, or a table with one list per key type."""
    optional_usages: KeyUsages = {}
    """In the certificate when requested; of a list, those that the key type can have."""
    on_unlisted: OnUnlisted = "reject"
    """A requested usage that is neither: reject the request, or drop the usage."""


class ExtendedKeyUsageConfig(Table):
    """[extensions.extended_key_usage]."""

    critical: StrictBool = False
    """Mark the extension critical."""
    required_usages: ExtendedKeyUsages = {}
    """Always in the certificate: names or OIDs; a list, or a table with one list per key type."""
    optional_usages: ExtendedKeyUsages = {}
    """In the certificate when requested."""
    on_unlisted: OnUnlisted = "reject"
    """A requested usage that is neither: reject the request, or drop the usage."""


class PolicyConfig(Table):
    """[[extensions.certificate_policies]]: one policy (RFC 5280 §4.2.1.4)."""

    oid: Oid
    """The policy's OID."""
    cps: Url | None = None
    """Where the certification practice statement is."""


class AccessConfig(Table):
    """[extensions.authority_information_access] (RFC 5280 §4.2.2.1)."""

    ocsp: tuple[Url, ...] = ()
    """URLs of OCSP responders."""
    ca_issuers: tuple[Url, ...] = ()
    """URLs of the issuing CA's certificate."""


class CustomExtensionConfig(Table):
    """[[extensions.custom]]: an extension with a value of the profile's, in every certificate."""

    oid: Annotated[str, AfterValidator(read_extension)]
    """The extension: its OID, or a name such as tls_feature."""
    critical: StrictBool = False
    """Mark the extension critical."""
    der_hex: Annotated[str, AfterValidator(read_hexadecimal)] | None = None
    """The value, one DER element, in hexadecimal; or one of the other three."""
    der_base64: Annotated[str, AfterValidator(read_base64)] | None = None
    """The value, one DER element, in base64."""
    type: Literal[
        "utf8_string", "ia5_string", "printable_string", "octet_string", "integer", "boolean", "null", "oid"
    ] | None = None  # fmt: skip
    """The ASN.1 type of `value`."""
    value: str | StrictInt | StrictBool | None = None
    """The value of `type`; an octet_string in hexadecimal."""


class ExtensionsConfig(Table):
    """[extensions]."""

    other: Literal["refuse", "ignore"] = "refuse"
    """A requested extension that no other key is about: refuse the request, or leave the extension out."""
    requested: dict[Annotated[str, AfterValidator(read_extension)], Literal["honour", "ignore", "refuse"]] = {}
    """Requested extensions by name or OID. honour: take it over as requested, key_usage, extended_key_usage and
    subject_alt_name within their own rules; ignore: decide as if it were not requested; refuse: refuse the request."""
    key_usage: KeyUsageConfig = KeyUsageConfig()
    """The table [extensions.key_usage]."""
    extended_key_usage: ExtendedKeyUsageConfig = ExtendedKeyUsageConfig()
    """The table [extensions.extended_key_usage]."""
    certificate_policies: Annotated[tuple[PolicyConfig, ...], BeforeValidator(read_policies)] = ()
    """Policies, each an OID or a table with oid and cps."""
    crl_distribution_points: tuple[Url, ...] = ()
    """URLs of the CRL, in place of the issuer's own."""
    authority_information_access: AccessConfig = AccessConfig()
    """The table [extensions.authority_information_access], in place of the issuer's own."""
    custom: tuple[CustomExtensionConfig, ...] = ()
    """The tables [[extensions.custom]]."""


class SeatConfig(Table):
    """[seat]: who a certificate is for."""

    id_mapping: (
        Annotated[str, AfterValidator(read_seat_mapping), Field(examples=["san.email", "subject.common_name"])] | None
    ) = None
    """Where the seat ID is: `subject.` with an attribute or `san.` with a type, the first of it; a request without is
    refused. By default the common name where there is one, and no seat where there is none."""
    allow_duplicates: StrictBool = True
    """Let a seat have several valid certificates at a time."""


class BudgetConfig(Table):
    """[budget]: how many certificates may be issued."""

    per_day: Annotated[StrictInt, Field(ge=1, le=10_000_000)] | None = None
    """In a day (UTC), by the whole profile; without the key there is no limit."""
    per_seat: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = None
    """Valid certificates that one seat may have; without the key there is no limit."""


class ProfileConfig(Table):
    """A profile file, whole."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22,128}$")]
    """Names the profile in its own URL /cmp/ID; nobody can guess it."""
    base_template: str | None = None
    """The template that the profile starts from: what it does not say comes from there."""
    issuer: Annotated[str, Field(min_length=1)]
    """The [issuers.NAME] section of cmpd.toml that issues."""
    issuer_ca: Text | None = None
    """The CA within the issuer, where the issuer has several, in the issuer's words."""
    issuer_options: dict[str, Any] = {}
    """What the issuer is told beyond that, in its own keys; an issuer of type "local" has none."""
    name: Text | None = None
    """The profile's name for people; the file's name is the one in URLs."""
    description: str = ""
    """For people."""
    business_unit: Annotated[str, Field(max_length=200)] = ""
    """The business unit that the profile belongs to; in logs and lists."""
    tags: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/@-]{0,63}$")], ...],
                    AfterValidator(different), Field(max_length=32)] = ()  # fmt: skip
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
    return CAS_ONLY.get(oid)


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
