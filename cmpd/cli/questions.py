"""The questions of `cmpd profile new`, page by page: one table that makes the prompts, the options and their help.

What a question may be answered with is not here: the profile's own schema says it, and loading decides.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

ANY = "*"
"""In `when`: any value but none."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One question."""

    option: str
    """The command line's, without its two hyphens."""
    key: str
    """The key of the profile file that the answer is for; empty for the file itself. A table when it `repeats`."""
    text: str
    """The question."""
    help: str
    """What the choice means, in a line."""
    when: Mapping[str, tuple[str | bool, ...]] = field(default_factory=dict)
    """Keys and the values one of which each must have, or there is nothing to ask."""
    repeats: bool = False
    """Several answers, each NAME=VALUE within the table `key`."""

    @property
    def parameter(self) -> str:
        """The name of the option as a parameter."""
        return self.option.replace("-", "_")


@dataclass(frozen=True, slots=True)
class Page:
    """Some questions under one title."""

    title: str
    questions: tuple[Question, ...]


NAME = Question(
    "name", "", "Name of the profile", "Names the file and the URL /.well-known/cmp/p/NAME: a-z 0-9 . _ - only."
)
TEMPLATE = Question(
    "template", "base_template", "Base template", "What the profile starts from; `cmpd template show NAME` prints it."
)
SET = Question(
    "set", "", "Any other key", "KEY=VALUE for a key that no other option is for; VALUE as in the file.", repeats=True
)
"""An option only: never asked."""

_CODE = {"enrollment.authentication_method": ("enrollment_code",)}
_TLS = {"enrollment.authentication_method": ("tls_certificate",)}
_TLS_CLIENT = {"enrollment.tls.required": (True,)}
_TRUSTED = {"enrollment.trusted_certificates": (ANY,)}
_VENDOR = {"enrollment.vendor.trusted_certificates": (ANY,)}
_CUSTOM = {"contact.mode": ("custom",)}
_RSA = {"key.allowed_types": ("rsa",)}

PAGES = (
    Page(
        "Primary options",
        (
            NAME,
            TEMPLATE,
            Question("display-name", "name", "Name for people", "Shown in lists beside the file's name."),
            Question("description", "description", "Description", "For whoever reads the profile next year."),
            Question("business-unit", "business_unit", "Business unit", "Whom the profile belongs to."),
            Question("issuer", "issuer", "Issuer", "The section [issuers.NAME] of cmpd.toml that issues."),
            Question("issuer-ca", "issuer_ca", "Issuing CA", "Only for an issuer that has several CAs: which of them."),
            Question(
                "validation-type",
                "certificate_type.validation_type",
                "Validation type",
                "Who the certificate names, which decides what may be in its subject.",
                {"public_trust": (ANY,)},
            ),
            Question(
                "generation",
                "certificate_type.generation",
                "Generation",
                "strict: for e-mail only; multipurpose: for other purposes too.",
                {"public_trust": ("smime",)},
            ),
            Question(
                "usage",
                "certificate_type.usage",
                "Usage of the key",
                "signing, key_management (encryption) or dual_use (both).",
                {"certificate_type.usage": (ANY,)},
            ),
            Question(
                "authentication",
                "enrollment.authentication_method",
                "Authentication method",
                "enrollment_code: a shared secret; tls_certificate: a certificate that the client has already.",
            ),
            Question(
                "trusted-certificates",
                "enrollment.trusted_certificates",
                "Trusted certificates",
                "PEM files with the CAs of the clients' certificates, in the folder of the profiles.",
                _TLS,
            ),
            Question(
                "operations",
                "enrollment.allowed_operations",
                "Allowed operations",
                "ir: first certificate; cr: a further one; p10cr: by PKCS #10; kur: update.",
            ),
            Question(
                "implicit-confirm",
                "enrollment.implicit_confirm",
                "Implicit confirmation",
                "A client that asks for it may leave out the confirmation, which saves a round trip.",
            ),
        ),
    ),
    Page(
        "Who may enroll",
        (
            Question(
                "client-addresses",
                "enrollment.client_addresses",
                "Client addresses",
                "Networks that requests may come from, e.g. 10.0.0.0/8; none: from anywhere.",
            ),
            Question(
                "ra-certificates",
                "enrollment.ra_certificates",
                "RA certificates",
                "PEM files of registration authorities that may ask for others.",
            ),
            Question(
                "vendor-certificates",
                "enrollment.vendor.trusted_certificates",
                "Device makers' CAs",
                "PEM files: devices enroll with the certificate of their maker (IEEE 802.1AR, 3GPP TS 33.310).",
            ),
            Question(
                "vendor-serial",
                "enrollment.vendor.serial_from",
                "Devices' serial numbers",
                "Where they are in the maker's certificate.",
                _VENDOR,
            ),
            Question(
                "vendor-list",
                "enrollment.vendor.allow_list",
                "Only listed devices",
                "Those of `cmpd device add` or `import`; if not, every device of the makers enrolls.",
                _VENDOR,
            ),
            Question(
                "vendor-subject",
                "enrollment.vendor.subject",
                "Subject of devices",
                "For a request without one: CN={serial}.example.com,O=Example.",
                _VENDOR,
            ),
            Question(
                "tls-required",
                "enrollment.tls.required",
                "TLS client certificate",
                "Whether every request must come over TLS with a client certificate that the profile trusts.",
            ),
            Question(
                "tls-trusted-certificates",
                "enrollment.tls.trusted_certificates",
                "CAs of TLS clients",
                "PEM files, if they are others than the trusted certificates.",
                _TLS_CLIENT,
            ),
            Question(
                "tls-binding",
                "enrollment.tls.binding",
                "TLS client and signer",
                "same_certificate, same_subject, or ra: an RA's TLS carries anybody's message.",
                _TLS_CLIENT,
            ),
            Question(
                "tls-unprotected",
                "enrollment.tls.unprotected",
                "Unprotected messages",
                "Whether a TLS client certificate may stand for the signature of the message.",
                _TLS,
            ),
            Question(
                "service-user",
                "enrollment.service_user",
                "Service user",
                "Names the certificates that alone may use the profile; `cmpd service-user add` fills the set.",
                _TLS,
            ),
            Question(
                "client",
                "enrollment.client",
                "Clients' certificates",
                'subject=CN=gateway-[0-9]+,O=Example, issuer=PATTERN, san=["dns:gw[.].*"], fingerprints=HEX.',
                _TRUSTED,
                repeats=True,
            ),
            Question(
                "crl",
                "enrollment.revocation.crl",
                "CRLs of clients' CAs",
                "best_effort: without a CRL a certificate counts as good; required: it does not; off.",
                _TRUSTED,
            ),
            Question(
                "ocsp-check", "enrollment.revocation.ocsp", "OCSP of clients' CAs", "The same for OCSP.", _TRUSTED
            ),
            Question(
                "global-code",
                "enrollment.code.allow_global",
                "Global code",
                "One secret for a whole fleet: whoever learns it can enroll every name that the profile allows.",
                _CODE,
            ),
            Question(
                "give-back",
                "enrollment.code.give_back",
                "Give codes back",
                "Whether a code gets its use back when the client rejects the certificate.",
                _CODE,
            ),
            Question(
                "lock-after", "enrollment.code.lock_after", "Lock codes after", "So many wrong MACs lock a code.", _CODE
            ),
            Question(
                "lock-for",
                "enrollment.code.lock_for",
                "Lock codes for",
                "The first time; each time after that twice as long.",
                _CODE,
            ),
            Question("lock-max", "enrollment.code.lock_max", "Longest lock", "However often it was locked.", _CODE),
        ),
    ),
    Page(
        "Certificate options",
        (
            Question("validity", "validity.default", "Validity", "From notBefore to notAfter."),
            Question("max-validity", "validity.max", "Longest validity", "The most that a request may ask for."),
            Question("min-validity", "validity.min", "Shortest validity", "The least that a request may ask for."),
            Question("until", "validity.until", "Last day", "A date, e.g. 2027-12-31: no certificate ends later."),
            Question(
                "request-validity",
                "validity.allow_request_override",
                "Requests may ask for a validity",
                "If not, what they ask for is replaced.",
            ),
            Question("on-exceed", "validity.on_exceed", "A request for too much", "reject it, or shorten it."),
            Question("backdate", "validity.backdate", "Backdating", "How long ago notBefore is, for slow clocks."),
            Question(
                "signature-algorithm",
                "signature.default_algorithm",
                "Signing algorithm",
                "What an issuer that has a choice is asked for; match_issuer leaves it to the issuer.",
            ),
            Question("key-types", "key.allowed_types", "Key types", "The public keys that are certified."),
            Question("rsa-min-bits", "key.rsa.min_bits", "Shortest RSA key", "In bits.", _RSA),
            Question("rsa-max-bits", "key.rsa.max_bits", "Longest RSA key", "In bits.", _RSA),
            Question("curves", "key.ecdsa.allowed_curves", "Curves", "Of EC keys.", {"key.allowed_types": ("ecdsa",)}),
            Question(
                "same-key",
                "key.same_key_elsewhere",
                "Certify a key twice",
                "Whether a key that has a certificate may get another.",
            ),
            Question(
                "renewal-window",
                "renewal.window_days",
                "Renewal window",
                "In days before the end; an update that comes earlier is refused with the date.",
            ),
            Question(
                "renewal-grace", "renewal.grace", "Grace", "How long after its end a certificate can still be updated."
            ),
            Question("new-key", "renewal.require_new_key", "New key in updates", "Refuse an update with the old key."),
            Question(
                "duplicates",
                "seat.allow_duplicates",
                "Duplicate certificates",
                "Whether a seat may have several valid certificates at a time.",
            ),
            Question(
                "escrow",
                "key.escrow",
                "Key escrow",
                "Not supported: a private key never leaves its owner; only `no`.",
            ),
            Question(
                "subject",
                "subject",
                "Subject attributes",
                "common_name=required, =optional, =no; country_name=fixed:DE, =default:DE; common_name.pattern=[a-z]+.",
                repeats=True,
            ),
            Question(
                "subject-order", "subject.order", "Order of the subject", "Attributes in the order they shall have."
            ),
            Question(
                "name-split",
                "subject.name_split",
                "Split the common name",
                "Take given name and surname from it: last-word-is-surname, or a pattern with groups gn and sn.",
            ),
            Question(
                "san",
                "san",
                "Subject alternative names",
                "email=required, dns=no, email.allowed_domains=example.com, ip.allowed_ranges=10.0.0.0/8, OID=no.",
                repeats=True,
            ),
        ),
    ),
    Page(
        "Extensions",
        (
            Question(
                "key-usage",
                "extensions.key_usage.required_usages",
                "Key usage",
                "Always in the certificate; per key type as rsa: USAGE, USAGE; ecdsa: USAGE.",
            ),
            Question(
                "optional-key-usage",
                "extensions.key_usage.optional_usages",
                "Optional key usage",
                "In the certificate when requested.",
            ),
            Question(
                "key-usage-critical",
                "extensions.key_usage.critical",
                "Key usage is critical",
                "Whoever does not know it refuses the certificate.",
            ),
            Question(
                "extended-key-usage",
                "extensions.extended_key_usage.required_usages",
                "Extended key usage",
                "Always in the certificate: names such as client_auth, or OIDs.",
            ),
            Question(
                "optional-extended-key-usage",
                "extensions.extended_key_usage.optional_usages",
                "Optional extended key usage",
                "In the certificate when requested.",
            ),
            Question(
                "extended-key-usage-critical",
                "extensions.extended_key_usage.critical",
                "Extended key usage is critical",
                "Whoever does not know it refuses the certificate.",
            ),
            Question("policies", "extensions.certificate_policies", "Certificate policies", "OIDs."),
            Question(
                "crl-distribution-points",
                "extensions.crl_distribution_points",
                "CRL distribution points",
                "URLs in place of the issuer's own.",
            ),
            Question(
                "ocsp", "extensions.authority_information_access.ocsp", "OCSP responders", "URLs for the certificate."
            ),
            Question(
                "ca-issuers",
                "extensions.authority_information_access.ca_issuers",
                "CA issuers",
                "URLs of the issuing CA's certificate.",
            ),
            Question(
                "other-extensions",
                "extensions.other",
                "Other requested extensions",
                "refuse the request, or ignore the extension.",
            ),
            Question(
                "requested",
                "extensions.requested",
                "Single requested extensions",
                "NAME=honour, =ignore or =refuse, by name or OID.",
                repeats=True,
            ),
            Question(
                "extension",
                "extensions.custom",
                "Extensions of your own",
                "OID=TYPE:VALUE (utf8_string, integer, ...) or OID=der:HEX, in every certificate.",
                repeats=True,
            ),
        ),
    ),
    Page(
        "Additional options",
        (
            Question(
                "organization",
                "organization.name",
                "Organization",
                "Binds the profile: organization_name comes from here, whatever a request says.",
            ),
            Question(
                "organization-identifier",
                "organization.identifier",
                "Organization identifier",
                "The registration, e.g. VATDE-123456789.",
                {"organization.name": (ANY,)},
            ),
            Question(
                "organization-id",
                "organization.id",
                "Organization id",
                "What the issuer calls it.",
                {"organization.name": (ANY,)},
            ),
            Question(
                "contact", "contact.mode", "Contact", "linked: the organization's at the issuer; custom: named here."
            ),
            Question("contact-first-name", "contact.first_name", "Contact's first name", "As printed.", _CUSTOM),
            Question("contact-last-name", "contact.last_name", "Contact's last name", "As printed.", _CUSTOM),
            Question("contact-email", "contact.email", "Contact's e-mail", "Where the issuer writes to.", _CUSTOM),
            Question("contact-telephone", "contact.telephone", "Contact's telephone", "With country code.", _CUSTOM),
            Question("contact-job-title", "contact.job_title", "Contact's job title", "As printed.", _CUSTOM),
            Question("tags", "tags", "Tags", "Words to find the profile by."),
        ),
    ),
    Page(
        "Advanced settings",
        (
            Question(
                "seat-id",
                "seat.id_mapping",
                "Seat ID",
                "Who a certificate is for: subject.ATTRIBUTE or san.TYPE, e.g. san.email.",
            ),
            Question("budget-per-day", "budget.per_day", "Budget per day", "Certificates of the profile in a day."),
            Question("budget-per-seat", "budget.per_seat", "Budget per seat", "Valid certificates of one seat."),
            Question("lint", "lint", "Lint", "off, warn (log what is found) or enforce (refuse); needs cmpd[lint]."),
        ),
    ),
)


def questions() -> Iterator[Question]:
    """All of them, in their order; SET comes last."""
    for page in PAGES:
        yield from page.questions
    yield SET
