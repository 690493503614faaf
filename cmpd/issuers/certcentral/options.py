"""What a profile says to CertCentral: the table [issuer_options], and what of a profile an order cannot express."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

from cmpd.issuers import IssuerConfigError, validate
from cmpd.profile import Profile, parse_duration
from cmpd.profile.config import ContactConfig, OrganizationConfig

Family = Literal["mailbox", "sponsor", "organization", "private", "dv", "ov", "ev"]
"""What an order is written like: three for S/MIME, four for TLS."""
RenewStrategy = Literal["auto", "reissue", "renew", "duplicate"]
AdditionalUsage = Literal["non_repudiation", "data_encipherment", "client_auth"]
_DAY: Final = timedelta(days=1)
_DV: Final = ("ssl_dv_", "wildcard_dv_", "cloud_dv_")
_SMIME: Final[dict[str, Family]] = {
    "secure_email_mailbox": "mailbox",
    "secure_email_sponsor": "sponsor",
    "secure_email_organization": "organization",
}
_BY_TYPE: Final = {family: product for product, family in _SMIME.items()}
_ALWAYS: Final = frozenset({"2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.32", "2.5.29.37"})
"""Extensions that an order does express: keyUsage, subjectAltName, basicConstraints, the policy, extKeyUsage."""
FROM_ORGANIZATION: Final = frozenset(
    {
        "organization_name",
        "organization_identifier",
        "country_name",
        "state_or_province_name",
        "locality_name",
        "postal_code",
        "street_address",
    }
)
"""Attributes that CertCentral takes from its record of the organization; the order names no more than its number."""
SUBJECT: Final[dict[Family, frozenset[str]]] = {
    "mailbox": frozenset({"common_name", "email_address"}),
    "sponsor": FROM_ORGANIZATION | {"common_name", "email_address", "given_name", "surname", "pseudonym"},
    "organization": FROM_ORGANIZATION | {"common_name", "email_address"},
    "private": FROM_ORGANIZATION | {"common_name"},
    "dv": frozenset({"common_name", "country_name"}),
    "ov": FROM_ORGANIZATION | {"common_name"},
    "ev": FROM_ORGANIZATION | {"common_name"},
}
"""The attributes of a subject that an order of a family can bring about."""
NAMES: Final[dict[Family, frozenset[str]]] = {
    "mailbox": frozenset({"email"}),
    "sponsor": frozenset({"email"}),
    "organization": frozenset({"email"}),
    "private": frozenset({"dns", "ip"}),
    "dv": frozenset({"dns"}),
    "ov": frozenset({"dns"}),
    "ev": frozenset({"dns"}),
}
"""The same for the types of names in the subjectAltName."""


def family(product: str) -> Family | None:
    """How an order of a product is written; None for products that no order is written for here."""
    if product in _SMIME:
        return _SMIME[product]
    if product.startswith("private_ssl_"):
        return "private"
    if product.startswith(_DV):
        return "dv"
    if product.startswith("ssl_ev_"):
        return "ev"
    return "ov" if product.startswith("ssl_") else None


def is_smime(kind: Family) -> bool:
    """Whether it is ordered for mailboxes, not for hosts."""
    return kind in {"mailbox", "sponsor", "organization"}


class ProfileOptions(BaseModel):
    """[issuer_options] of a profile whose issuer is of type "certcentral"."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, hide_input_in_errors=True
    )

    product: Annotated[str, Field(pattern=r"^[a-z0-9_]{3,64}$")] | None = None
    """The product (product_name_id), e.g. ssl_basic or private_ssl_flex; for S/MIME by default that of
    certificate_type.validation_type, e.g. secure_email_sponsor."""
    ca_cert_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,64}$")] | None = None
    """The issuing CA's id; by default issuer_ca of the profile, and without that the product's own choice."""
    signature_hash: Literal["sha256", "sha384", "sha512"] | None = None
    """The hash of the signature; by default that of signature.default_algorithm, or sha256."""
    renew_strategy: RenewStrategy = "auto"
    """What a kur becomes: renew is a new paid order that says which one it follows; reissue a new certificate of the
    same order, which ends with the order; duplicate one more certificate of the order, equal but for its key; auto is
    renew for S/MIME, and for TLS reissue until the order is within renew_window of its end."""
    renew_window: Annotated[timedelta, BeforeValidator(parse_duration), Field(ge=_DAY, le=365 * _DAY)] = 90 * _DAY
    """With auto: how long before the order's end a kur is a new order."""
    order_validity: Annotated[timedelta, BeforeValidator(parse_duration), Field(ge=_DAY, le=3650 * _DAY)] | None = None
    """How long the order runs, in whole days; by default as long as its first certificate, for public TLS 365d."""
    server_platform: Annotated[StrictInt, Field(ge=-1, le=10_000)] | None = None
    """TLS: number of the server software, e.g. 45 for nginx; -1 is other. By default none is named."""
    profile_option: Literal["server_client_auth_eku", "kdc_smart_card"] | None = None
    """TLS: more key purposes than serverAuth; server_client_auth_eku comes by itself where clientAuth is approved."""
    dcv_method: Literal["email", "dns-txt-token", "http-token"] | None = None
    """TLS: how control over domains is proven that are not yet; by default as the account is set."""
    additional_usages: tuple[AdditionalUsage, ...] | None = None
    """S/MIME: which usages beside those of certificate_type.usage may be ordered; by default non_repudiation, and for
    multipurpose all three."""
    common_name_indicator: Literal["email_address", "given_name_surname", "pseudonym", "organization_name"] | None = (
        None
    )
    """S/MIME: what becomes the common name where the approved subject has none; otherwise the subject says."""
    disable_renewal_notifications: StrictBool = True
    """No mails from CertCentral before the order ends: the client renews by kur."""

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> "ProfileOptions":
        """Check a profile's table. Raises `IssuerConfigError`, each fault beginning with `issuer_options.KEY`."""
        try:
            return validate(cls, table, base=Path())
        except IssuerConfigError as error:
            raise IssuerConfigError(*(f"issuer_options.{fault}" for fault in error.faults)) from None


@dataclass(frozen=True, slots=True)
class ProfileFacts:
    """What orders and their checks need to know of a profile."""

    name: str
    validation_type: str | None = None
    generation: str | None = None
    usage: str | None = None
    public_trust: str | None = None
    organization: OrganizationConfig | None = None
    contact: ContactConfig | None = None
    signature_algorithm: str | None = None
    signature_algorithms: tuple[str, ...] = ()
    issuer_ca: str | None = None
    business_unit: str = ""
    tags: tuple[str, ...] = ()
    operations: frozenset[str] = frozenset()
    longest: timedelta = timedelta(days=365)
    """The longest validity that is approved."""
    required_attributes: frozenset[str] = frozenset()
    """What is in every subject."""
    required_names: frozenset[str] = frozenset()
    """The types of names that are in every subjectAltName."""
    domains: tuple[str, ...] = ()
    """Domains of mailboxes and hosts that the profile allows, `.example.com` for those below it; empty: any."""
    own_extensions: frozenset[str] = frozenset()
    """OIDs of extensions that the profile itself puts into certificates."""
    own_policies: bytes = b""
    """certificatePolicies of the profile, DER; empty when it has none."""

    @classmethod
    def of(cls, profile: Profile) -> "ProfileFacts":
        """Collect them."""
        subject, san, validity = profile._subject, profile._san, profile._validity  # noqa: SLF001  no other door
        own = {oid.dotted_string: one.value for oid, one in profile._extensions.own.items()}  # noqa: SLF001
        rules = (*san.rules.values(), *san.others.values())
        return cls(
            name=profile.name,
            validation_type=profile.validation_type,
            generation=profile.generation,
            usage=profile.usage,
            public_trust=profile.public_trust,
            organization=profile.organization,
            contact=profile.contact,
            signature_algorithm=profile.signature_algorithm,
            signature_algorithms=profile.signature_algorithms,
            issuer_ca=profile.issuer_ca,
            business_unit=profile.business_unit,
            tags=profile.tags,
            operations=profile.operations,
            longest=validity.max if validity.override else validity.default,
            required_attributes=frozenset(rule.name for rule in subject.by_name.values() if rule.required),
            required_names=frozenset(rule.name for rule in rules if rule.required),
            domains=tuple(sorted({name for rule in rules for name in (*rule.exact, *rule.below)})),
            own_extensions=frozenset(own),
            own_policies=own.get("2.5.29.32", b""),
        )


def product_of(profile: ProfileFacts, options: ProfileOptions) -> str | None:
    """The product that is ordered; None when neither the options nor the profile's type say."""
    if options.product is not None:
        return options.product
    if profile.public_trust == "tls":
        return None
    return _BY_TYPE.get(profile.validation_type or "")  # type: ignore[call-overload, no-any-return]


def organization_id(profile: ProfileFacts) -> int | None:
    """The organization's number in the account, from organization.id; None when that is no number."""
    given = None if profile.organization is None else profile.organization.id
    text = str(given) if given is not None else ""
    return int(text) if text.isascii() and text.isdecimal() else None


def signature_hash(profile: ProfileFacts, options: ProfileOptions) -> str:
    """The hash that certificates are signed with, as the API spells it."""
    if options.signature_hash is not None:
        return options.signature_hash
    named = profile.signature_algorithm or next(iter(profile.signature_algorithms), "")
    return next((word for word in ("sha256", "sha384", "sha512") if word in named.lower()), "sha256")


def additional_usages(profile: ProfileFacts, options: ProfileOptions) -> frozenset[str]:
    """What S/MIME orders may ask for beside the primary usage."""
    if options.additional_usages is not None:
        return frozenset(options.additional_usages)
    more = {"data_encipherment", "client_auth"} if profile.generation == "multipurpose" else set()
    return frozenset({"non_repudiation"} | more)


def profile_faults(profile: Profile | ProfileFacts, options: ProfileOptions) -> list[str]:
    """What of a profile cannot be ordered: one line for each fault, `KEY: reason; what to do`, without the file."""
    facts = profile if isinstance(profile, ProfileFacts) else ProfileFacts.of(profile)
    product = product_of(facts, options)
    if product is None:
        return ["issuer_options.product: is missing; name the product, e.g. ssl_basic, private_ssl_flex"]
    kind = family(product)
    if kind is None:
        known = "secure_email_mailbox, secure_email_sponsor, secure_email_organization, private_ssl_…, ssl_…, …_dv_…"
        return [f"issuer_options.product: {product!r} is not a product that orders are written for; known: {known}"]
    return [*_type_faults(facts, kind, product), *_option_faults(facts, options, kind), *_content_faults(facts, kind)]


def _type_faults(facts: ProfileFacts, kind: Family, product: str) -> list[str]:
    faults = []
    wanted = {"dv": "domain", "ov": "organization", "ev": "organization"}.get(kind, kind)
    if kind != "private" and facts.validation_type not in {None, wanted}:
        faults.append(
            f"certificate_type.validation_type: {facts.validation_type!r} is not what {product} is validated as; "
            f"write {wanted!r}, or name another product in issuer_options.product"
        )
    trust = "smime" if is_smime(kind) else "tls"
    if kind == "private" and facts.public_trust is not None:
        faults.append(f"public_trust: {product} is not publicly trusted; leave the key out")
    elif kind != "private" and facts.public_trust not in {None, trust}:
        faults.append(f"public_trust: {product} is under the rules of {trust!r}; write that")
    if kind not in {"mailbox", "dv"} and organization_id(facts) is None:
        faults.append(f"organization.id: {product} needs the organization's number in CertCentral; set it")
    return faults


def _option_faults(facts: ProfileFacts, options: ProfileOptions, kind: Family) -> list[str]:
    faults = []
    tls_only = ("server_platform", "profile_option", "dcv_method")
    mail_only = ("additional_usages", "common_name_indicator")
    for key in tls_only if is_smime(kind) else mail_only:
        if getattr(options, key) is not None:
            what = "TLS" if is_smime(kind) else "S/MIME"
            faults.append(f"issuer_options.{key}: is for {what} products; leave it out")
    indicator = options.common_name_indicator
    fitting = {
        "mailbox": {"email_address"},
        "sponsor": {"email_address", "given_name_surname", "pseudonym"},
        "organization": {"email_address", "organization_name"},
    }.get(kind)
    if indicator is not None and fitting is not None and indicator not in fitting:
        faults.append(
            f"issuer_options.common_name_indicator: {indicator!r} does not go with this product; "
            f"write one of {', '.join(sorted(fitting))}"
        )
    if facts.generation != "multipurpose" and is_smime(kind):
        more = additional_usages(facts, options) - {"non_repudiation"}
        if more:
            faults.append(
                f"issuer_options.additional_usages: {', '.join(sorted(more))} need certificate_type.generation = "
                "'multipurpose'; leave them out"
            )
    if options.profile_option == "kdc_smart_card" and kind != "private":
        faults.append("issuer_options.profile_option: kdc_smart_card is for private products; leave it out")
    if options.order_validity is not None and options.order_validity % _DAY:
        faults.append("issuer_options.order_validity: orders run for whole days; write for instance 365d")
    return faults


def _content_faults(facts: ProfileFacts, kind: Family) -> list[str]:
    """What every request of the profile would have and no order can express."""
    faults = [
        f'subject.{name}: is in every subject, and an order cannot express it; write include = "no"'
        for name in sorted(facts.required_attributes - SUBJECT[kind])
    ]
    faults += [
        f'san.{name}: is in every certificate, and an order cannot express it; write include = "no"'
        for name in sorted(facts.required_names - NAMES[kind])
    ]
    faults += [
        f"extensions: {oid} is put into certificates, and an order cannot express it; leave it out"
        for oid in sorted(facts.own_extensions - _ALWAYS)
    ]
    if facts.longest < _DAY:
        faults.append("validity.max: orders are for whole days; write at least 1d")
    return faults
