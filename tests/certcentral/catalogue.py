"""The account as data: products, families of certificates, organizations, divisions, users, keys, domains."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal

Kind = Literal["mailbox", "sponsor", "organization", "client", "dv", "ov", "ev", "private"]

ROOT_CONTAINER: Final = 406222
DIVISION: Final = 406333
"""A division below the root: its product limits leave out EV, private wildcards, and years."""
EXAMPLE_GMBH: Final = 117483
"""Validated for everything until the end of 2035."""
EXAMPLE_INC: Final = 117484
"""Validated for `ov` only: S/MIME orders for it stay `pending`."""
STALE_LTD: Final = 117485
"""All its validations ran out in 2025."""
STAMP_FIELD: Final = 1001
"""An optional custom field of text; a place for a client's own id."""
CONTRACT_FIELD: Final = 1002
"""An inactive custom field."""


@dataclass(frozen=True, slots=True)
class Family:
    """Certificates of one purpose have one pair of issuing CAs, RSA and EC."""

    name: str
    title: str
    public: bool
    default: Literal["rsa", "ec"] = "rsa"

    def ca_id(self, algorithm: str) -> str:
        """The ca_cert_id of an issuing CA."""
        return hashlib.sha256(f"{self.name}/{algorithm}".encode()).hexdigest()[:16].upper()

    def ca_name(self, algorithm: str) -> str:
        """The common name of an issuing CA."""
        return f"Simulated {self.title} {algorithm.upper()} SHA256 2026 CA1"

    @property
    def ca_ids(self) -> dict[str, str]:
        """ca_cert_id → algorithm, the usual one first."""
        order = (self.default, "ec" if self.default == "rsa" else "rsa")
        return {self.ca_id(algorithm): algorithm for algorithm in order}


FAMILIES: Final = {
    family.name: family
    for family in (
        Family("smime", "Secure Email", public=True),
        Family("tls", "TLS", public=True),
        Family("ev", "Extended Validation", public=True),
        Family("private", "Private SSL", public=False, default="ec"),
    )
}


@dataclass(frozen=True, slots=True)
class Product:
    """What can be ordered."""

    name_id: str
    name: str
    kind: Kind
    family: str
    group: str
    validation: str | None
    """The validation that the organization needs; None: none."""
    years: tuple[int, ...] = (1,)
    duplicates: bool = False
    names: int = 1
    """So many names, the common name counted; 0: as many as one likes."""
    wildcard: bool = False
    enabled: bool = True
    csr_required: bool = True
    mail_kind: Literal["mailbox", "sponsor", "organization"] | None = None

    @property
    def is_mail(self) -> bool:
        """Whether it is ordered for e-mail addresses or for a person, not for host names."""
        return self.kind in {"mailbox", "sponsor", "organization", "client"}

    @property
    def is_public_tls(self) -> bool:
        """Whether the TLS Baseline Requirements hold."""
        return self.kind in {"dv", "ov", "ev"}

    @property
    def type(self) -> str:
        """`client_certificate` or `ssl_certificate`."""
        return "client_certificate" if self.is_mail else "ssl_certificate"

    def longest_order(self) -> int:
        """Days."""
        if self.is_mail:
            return 824
        return 397 if self.is_public_tls else 365 * max(self.years) + 1

    def longest_certificate(self, on: date) -> int:
        """Days: for public TLS by date, for e-mail 824."""
        if not self.is_public_tls:
            return self.longest_order()
        return next(days for start, days in reversed(TLS_CAPS) if on >= start)


TLS_CAPS: Final = (
    (date(1970, 1, 1), 397),
    (date(2026, 2, 24), 199),
    (date(2027, 3, 15), 99),  # the day on which the real service changes is not known
    (date(2029, 3, 15), 46),
)
"""The longest public TLS certificate, in days, from a date on."""
CLIENT_AUTH_ENDS: Final = date(2027, 3, 1)
"""From then on public TLS certificates have no clientAuth, whatever the order says."""


def reuse_days(product: Product, on: date) -> int:
    """How long a proof of control over a domain holds, for a certificate issued on this day."""
    if not product.is_public_tls:
        return 398
    return (
        10 if on >= date(2029, 3, 15) else 100 if on >= date(2027, 3, 15) else 200 if on >= date(2026, 3, 15) else 398
    )


def _mail(name_id: str, name: str, kind: Kind, validation: str | None, group: str, mail: Kind | None = None) -> Product:
    mail_kind = mail or kind
    assert mail_kind in {"mailbox", "sponsor", "organization", "client"}
    return Product(
        name_id,
        name,
        kind,
        "private" if mail_kind == "client" else "smime",
        group,
        validation,
        years=(1, 2),
        csr_required=False,
        mail_kind=None if mail_kind == "client" else mail_kind,
    )


def _private(name_id: str, name: str, names: int, *, wildcard: bool = False) -> Product:
    return Product(
        name_id, name, "private", "private", "private_ssl_certificate", "ov", (1, 2, 3), True, names, wildcard
    )


def _tls(
    name_id: str, name: str, kind: Kind, names: int, *, wildcard: bool = False, duplicates: bool = True
) -> Product:
    group = "dv_ssl_certificate" if kind == "dv" else "ssl_certificate"
    validation = None if kind == "dv" else kind
    family = "ev" if kind == "ev" else "tls"
    return Product(name_id, name, kind, family, group, validation, (1,), duplicates, names, wildcard)


SECURE_EMAIL: Final = "secure_email_certificate"
CLIENT: Final = "client_certificate"
PRODUCTS: Final = {
    product.name_id: product
    for product in (
        _mail("secure_email_mailbox", "Secure Email for Individual", "mailbox", None, SECURE_EMAIL),
        _mail("secure_email_sponsor", "Secure Email for Business", "sponsor", "smime", SECURE_EMAIL),
        _mail("secure_email_organization", "Secure Email for Organization", "organization", "smime", SECURE_EMAIL),
        _mail("class1_smime", "Class 1 S/MIME", "mailbox", None, CLIENT),
        _mail("client_premium", "Premium", "sponsor", "smime", CLIENT),
        _mail("client_digital_signature_plus", "Digital Signature Plus", "sponsor", "smime", CLIENT),
        _mail("client_email_security_plus", "Email Security Plus", "sponsor", "smime", CLIENT),
        _mail("client_authentication_plus", "Authentication Plus", "client", "ov", CLIENT, "client"),
        _private("private_ssl_flex", "Private SSL", 0, wildcard=True),
        _private("private_ssl_plus", "Private SSL Plus", 2),
        _private("private_ssl_wildcard", "Private SSL Wildcard", 0, wildcard=True),
        _private("private_ssl_multi_domain", "Private SSL Multi-Domain", 0),
        _tls("ssl_basic", "Basic OV", "ov", 0, wildcard=True),
        _tls("ssl_securesite_flex", "Secure Site OV", "ov", 0, wildcard=True),
        _tls("ssl_securesite_pro", "Secure Site Pro SSL", "ov", 0, wildcard=True),
        _tls("ssl_plus", "Standard SSL", "ov", 2),
        _tls("ssl_multi_domain", "Multi-Domain SSL", "ov", 0),
        _tls("ssl_wildcard", "Wildcard", "ov", 0, wildcard=True),
        _tls("ssl_ev_basic", "Basic EV", "ev", 0),
        _tls("ssl_ev_securesite_flex", "Secure Site EV", "ev", 0),
        _tls("ssl_ev_securesite_pro", "Secure Site Pro EV SSL", "ev", 0),
        _tls("ssl_ev_plus", "EV SSL", "ev", 2),
        _tls("ssl_ev_multi_domain", "EV Multi-Domain", "ev", 0),
        _tls("ssl_dv_geotrust", "GeoTrust Standard DV", "dv", 2),
        _tls("ssl_dv_rapidssl", "RapidSSL Standard DV", "dv", 2),
        _tls("wildcard_dv_geotrust", "GeoTrust Wildcard DV", "dv", 2, wildcard=True),
        _tls("wildcard_dv_rapidssl", "RapidSSL Wildcard DV", "dv", 2, wildcard=True),
        _tls("cloud_dv_geotrust", "GeoTrust Cloud DV", "dv", 0, wildcard=True),
    )
}
HASHES: Final = ("sha256", "sha384", "sha512")
SERVER_PLATFORMS: Final = {2: "Apache", 34: "Microsoft Exchange Server 2010", 45: "nginx", 57: "Other", -1: "OTHER"}


@dataclass(slots=True)
class User:
    """A person, or an API-only user."""

    id: int
    username: str
    first_name: str
    last_name: str
    email: str
    access_role: tuple[int, str] = (1, "Administrator")
    container_id: int = ROOT_CONTAINER
    containers: tuple[int, ...] | None = None
    """The divisions it is kept to; None: all."""
    api_only: bool = False


@dataclass(slots=True)
class ApiKey:
    """An API key."""

    name: str
    value: str
    user: User
    restriction: int = 0
    """0 none, 100 orders, 101 orders and domains and organizations, 102 view only, 103 users."""
    region: str = "us"
    valid: bool = True

    @property
    def may_manage(self) -> bool:
        """Whether its user is an administrator or a manager: such a key may approve, and skip approval."""
        return self.user.access_role[0] in {1, 4} and self.restriction in {0, 100, 101}


@dataclass(slots=True)
class Contact:
    """A contact of an organization."""

    contact_type: str
    first_name: str
    last_name: str
    email: str
    telephone: str = ""
    job_title: str = ""
    telephone_extension: str = ""
    user_id: int | None = None


@dataclass(slots=True)
class Validation:
    """A validation of an organization."""

    type: str
    created: datetime
    until: datetime | None
    """None: pending."""

    def active(self, now: datetime) -> bool:
        """Whether it holds now."""
        return self.until is not None and self.until > now


@dataclass(slots=True)
class Organization:
    """An organization with what its certificates say of it."""

    id: int
    name: str
    country: str
    state: str
    city: str
    address: str
    zip: str
    telephone: str
    organization_identifier: str
    registration_number: str
    validations: dict[str, Validation] = field(default_factory=dict)
    contacts: list[Contact] = field(default_factory=list)
    container_id: int = ROOT_CONTAINER


@dataclass(slots=True)
class Container:
    """A division."""

    id: int
    name: str
    parent_id: int = 0
    products: frozenset[str] | None = None
    """What may be ordered in it; None: all products."""
    years: frozenset[int] | None = None
    allowed_domains: tuple[str, ...] = ()
    limits_shown: bool = True


@dataclass(slots=True)
class Domain:
    """A domain and the proof of control over it."""

    id: int
    name: str
    organization_id: int
    container_id: int = ROOT_CONTAINER
    validated: datetime | None = None
    token: str = ""
    token_expires: datetime | None = None
    dcv_method: str = "dns-txt-token"
    types: tuple[str, ...] = ("ov",)

    def covers(self, host: str) -> bool:
        """Whether the host is it or lies below."""
        return host == self.name or host.endswith("." + self.name)


@dataclass(slots=True)
class MetadataField:
    """A custom field of orders."""

    id: int
    label: str
    is_required: bool = False
    is_active: bool = True
    data_type: str = "anything"
    description: str = ""


@dataclass(slots=True)
class Account:
    """Everything about the account but its orders; tests may change it at will."""

    id: int
    users: list[User]
    keys: dict[str, ApiKey]
    """By value."""
    organizations: dict[int, Organization]
    containers: dict[int, Container]
    domains: dict[int, Domain]
    metadata: dict[int, MetadataField]
    enabled: set[str]
    caa_failures: set[str] = field(default_factory=set)
    """Domains whose CAA records forbid issuance."""
    published: set[str] = field(default_factory=set)
    """Domains whose token stands in the DNS."""

    def key(self, name: str) -> ApiKey:
        """A key by its name. Raises KeyError."""
        for key in self.keys.values():
            if key.name == name:
                return key
        raise KeyError(name)

    def domain(self, name: str) -> Domain | None:
        """The domain that covers a host, the longest first."""
        covering = [domain for domain in self.domains.values() if domain.covers(name)]
        return max(covering, key=lambda domain: len(domain.name), default=None)


def _validated(start: datetime, *types: str, until: datetime) -> dict[str, Validation]:
    return {type_: Validation(type_, start, until) for type_ in types}


def _contacts(first: str, last: str, mail: str) -> list[Contact]:
    return [
        Contact("organization_contact", first, last, mail, "+49 30 5550100", "Head of IT", user_id=153208),
        Contact("technical_contact", "Terence", "Mast", "tech@example.com", "+49 30 5550101", "Postmaster"),
    ]


def default_account(now: datetime) -> Account:
    """The account of the module's description: see `tests.certcentral`."""
    admin = User(153208, "admin", "Ada", "Byron", "admin@example.com")
    manager = User(153209, "manager", "Max", "Mandel", "manager@example.com", (4, "Manager"))
    standard = User(153210, "orders", "Ola", "Order", "orders@example.com", (5, "Standard user"), api_only=True)
    divided = User(153211, "division", "Dina", "Vision", "division@example.com", (4, "Manager"), DIVISION, (DIVISION,))
    keys = [
        ApiKey("admin", "sim-admin-key", admin),
        ApiKey("manager", "sim-manager-key", manager),
        ApiKey("orders", "sim-orders-key", standard, 100),
        ApiKey("view", "sim-view-key", admin, 102),
        ApiKey("users", "sim-users-key", admin, 103),
        ApiKey("division", "sim-division-key", divided),
        ApiKey("revoked", "sim-revoked-key", admin, valid=False),
        ApiKey("eu", "sim-eu-key", admin, region="eu"),
    ]
    long, ended = datetime(2035, 12, 31, tzinfo=UTC), datetime(2025, 6, 30, tzinfo=UTC)
    start = datetime(2025, 1, 1, tzinfo=UTC)
    organizations = [
        Organization(
            EXAMPLE_GMBH,
            "Example GmbH",
            "de",
            "Berlin",
            "Berlin",
            "Beispielweg 1",
            "10115",
            "+49 30 5550100",
            "VATDE-123456789",
            "HRB 123456",
            _validated(start, "ov", "ev", "smime", until=long),
            _contacts("Ada", "Byron", "admin@example.com"),
        ),
        Organization(
            EXAMPLE_INC,
            "Example, Inc.",
            "us",
            "Utah",
            "Lehi",
            "1 Sample Road",
            "84043",
            "+1 801 5550100",
            "NTRUS+UT-1234567",
            "1234567",
            _validated(start, "ov", until=long),
            _contacts("Max", "Mandel", "manager@example.com"),
        ),
        Organization(
            STALE_LTD,
            "Stale Ltd",
            "gb",
            "London",
            "London",
            "9 Old Lane",
            "E1 6AN",
            "+44 20 79460000",
            "NTRGB-12345678",
            "12345678",
            _validated(start, "ov", "smime", until=ended),
            _contacts("Ola", "Order", "orders@example.com"),
        ),
    ]
    limited = frozenset(set(PRODUCTS) - {"ssl_ev_basic", "private_ssl_wildcard"})
    containers = [
        Container(ROOT_CONTAINER, "Example"),
        Container(DIVISION, "Mail gateways", ROOT_CONTAINER, limited, frozenset({1})),
    ]
    recently = now - timedelta(days=1)
    names = ("example.com", "example.org", "example.net")
    domains = [Domain(2000 + n, name, EXAMPLE_GMBH, validated=recently) for n, name in enumerate(names, 1)]
    domains.append(Domain(2004, "unproven.example", EXAMPLE_GMBH))
    metadata = [
        MetadataField(STAMP_FIELD, "Client reference", description="The client's own id of the order"),
        MetadataField(CONTRACT_FIELD, "Contract", is_active=False),
    ]
    disabled = {"client_email_security_plus", "ssl_ev_plus"}
    return Account(
        1696530,
        [admin, manager, standard, divided],
        {key.value: key for key in keys},
        {organization.id: organization for organization in organizations},
        {container.id: container for container in containers},
        {domain.id: domain for domain in domains},
        {row.id: row for row in metadata},
        set(PRODUCTS) - disabled,
    )
