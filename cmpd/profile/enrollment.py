"""The table [enrollment] of a profile file: who may ask, how a client proves who it is, and how the exchange goes."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    StrictInt,
)

from cmpd.profile.vocabulary import (
    RE2,
    Network,
    Oid,
    Operation,
    Positive,
    Table,
    Tolerance,
    Url,
    not_empty,
    read_extended_key_usage,
    read_fingerprint,
    read_serial_template,
    read_source,
)


class LegacyConfig(Table):
    """[enrollment.legacy]: habits of RFC 4210-era clients that RFC 9483 forbids; each off unless switched on."""

    missing_transaction_id: StrictBool = False
    """Accept requests without transactionID (RFC 9483 §3.1 requires it)."""
    short_nonces: StrictBool = False
    """Accept a senderNonce that is absent or shorter than 128 bits."""
    sha1_signatures: StrictBool = False
    """Accept message protection with SHA-1 signatures."""


class CodeConfig(Table):
    """[enrollment.code]: enrollment codes, the secrets of MAC-based protection."""

    allow_global: StrictBool = False
    """Accept a global code: one secret for every client, under any senderKID. It costs what a shared password costs:
    whoever learns it can enroll every name that the profile allows, until it is revoked. A code for each device does
    not have that price."""
    give_back: StrictBool = False
    """Give a code its use back when the client rejects the certificate by certConf."""
    lock_after: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 10
    """So many wrong MACs lock a code, and never another one."""
    lock_for: Positive = timedelta(minutes=1)
    """How long it is locked the first time; each time after that twice as long, until the code is used."""
    lock_max: Positive = timedelta(hours=1)
    """The longest lock."""
    requests_per_minute: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    """Requests that begin with one code in a minute; more get systemUnavail. Without the key there is no limit."""


class ClientConfig(Table):
    """[enrollment.client]: what the certificate of a client must be, beyond a valid path to trusted_certificates.

    Not asked of certificates that the profile itself has issued, nor of RAs and vendors' devices.
    """

    subject: RE2 | None = None
    """RE2 pattern for the whole subject, in RFC 4514 style: "CN=gateway-[0-9]+,O=Example"."""
    issuer: RE2 | None = None
    """RE2 pattern for the whole issuer name, in RFC 4514 style."""
    san: tuple[RE2, ...] = ()
    """RE2 patterns for subjectAltName entries such as "dns:gateway.example.com", "email:…", "uri:…", "ip:…": each must
    match one entry."""
    extended_key_usages: tuple[Annotated[str, AfterValidator(read_extended_key_usage)], ...] = ()
    """Purposes that the certificate must have, all of them; names or OIDs."""
    certificate_policies: tuple[Oid, ...] = ()
    """Policies of which the certificate must have one."""
    fingerprints: tuple[Annotated[str, AfterValidator(read_fingerprint)], ...] = ()
    """SHA-256 of the certificates that are accepted, hexadecimal; colons are allowed."""


class TLSConfig(Table):
    """[enrollment.tls]: what the TLS client certificate is good for; the message's own protection is beside it."""

    required: StrictBool = False
    """Every request must come over TLS with a client certificate that the profile trusts."""
    trusted_certificates: tuple[str, ...] = ()
    """PEM files with the trust anchors of TLS client certificates; by default those of enrollment. What the profile has
    issued counts too."""
    binding: Literal["same_certificate", "same_subject", "ra"] = "same_certificate"
    """How the TLS client certificate and the one that signs the message must belong together. same_certificate: one and
    the same; same_subject: of one subject; ra: the TLS client is one of ra_certificates, the message anybody's."""
    unprotected: StrictBool = False
    """Accept messages without protection from a TLS client: its certificate stands for the signature. Without it the
    message itself must be protected (RFC 9483 §3.5)."""


class RevocationConfig(Table):
    """[enrollment.revocation]: whether certificates of other PKIs have been revoked; of its own cmpd knows it."""

    crl: Literal["off", "best_effort", "required"] = "best_effort"
    """CRLs. off: not looked at; best_effort: when there is none, the certificate counts as good; required: it is not
    accepted then."""
    ocsp: Literal["off", "best_effort", "required"] = "off"
    """The same for OCSP; asked before CRLs."""
    crls: tuple[Annotated[str, AfterValidator(read_source)], ...] = ()
    """Files or http URLs of the CRLs, in place of the distribution points that the certificates name."""
    ocsp_url: Url | None = None
    """The OCSP responder, in place of the one that the certificates name."""


class VendorConfig(Table):
    """[enrollment.vendor]: devices that enroll with the certificate of their maker.

    IEEE 802.1AR IDevID or 3GPP TS 33.310 vendor certificate; it may sign an ir, whatever authentication_method says.
    The answer then has our root in extraCerts.
    """

    trusted_certificates: Annotated[tuple[str, ...], AfterValidator(not_empty)]
    """PEM files with the makers' CAs."""
    serial_from: Literal[
        "subject.serial_number", "subject.common_name", "san.hardware_module_name", "certificate.serial_number"
    ] = "subject.serial_number"
    """Where the device's serial number is in its vendor certificate."""
    allow_list: StrictBool = True
    """Only devices that `cmpd device add` or `import` has listed for the profile; false lets every device of the maker
    enroll."""
    subject: Annotated[str, AfterValidator(read_serial_template)] | None = None
    """Subject for a request without one, in RFC 4514 style; {serial} stands for the device's serial number:
    "CN={serial}.devices.example.com,O=Example". A subject in the device list comes first."""
    free_subject: StrictBool = False
    """Let a device ask for a subject that is neither the configured one nor has its serial number as serialNumber, as
    commonName or as the first label of it."""
    seat: Literal["serial", "request"] = "serial"
    """Who the certificate is for: the device's seat in the list, else its serial number; or as [seat] finds it in the
    request."""


class EnrollmentConfig(Table):
    """[enrollment]: who may ask, for what, and how the exchange goes."""

    method: Literal["cmp"] = "cmp"
    """The enrollment protocol."""
    authentication_method: Literal["enrollment_code", "tls_certificate"] = "enrollment_code"
    """How a new end entity proves who it is: by an enrollment code (MAC protection), or by a certificate it already
    has, under one of trusted_certificates (signature protection, TLS client certificate, or both). A kur is signed with
    the certificate to update. Vendors' devices and RAs have their own keys."""
    service_user: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    """The service user that alone may use the profile: a named set of certificates, see `cmpd service-user`."""
    allowed_operations: Annotated[tuple[Operation, ...], AfterValidator(not_empty)] = ("ir", "cr", "p10cr", "kur")
    """The requests that are accepted."""
    client_addresses: tuple[Network, ...] = ()
    """Addresses that requests may come from; empty: all. Behind a reverse proxy the client's address counts."""
    requests_per_second: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    """Authenticated requests that may begin in a second, of all clients together; more get systemUnavail. Without the
    key there is no limit."""
    implicit_confirm: StrictBool = True
    """Let a client that asks for it leave out the certificate confirmation (RFC 9483 §4.1.1)."""
    confirm_wait: Positive = timedelta(minutes=10)
    """How long the confirmation is awaited; then the certificate is revoked, or kept where the issuer's
    on_missing_certconf says so."""
    several_requests: StrictBool = False
    """Accept more than one CertReqMsg in a message (RFC 9810); RFC 9483 has exactly one."""
    polling: StrictBool = True
    """Clients can ask again for a certificate that takes its time (RFC 9483 §4.4). With false none is told to wait:
    what is not there within seconds gets systemUnavail, and so does everything while the issuer cannot be reached. The
    same request, with the same key, later gets what was ordered."""
    message_time_tolerance: Tolerance = timedelta(minutes=5)
    """How far messageTime may be from the time here; "off" does not check it."""
    trusted_certificates: tuple[str, ...] = ()
    """PEM files with the trust anchors of certificates that new end entities sign with."""
    intermediate_certificates: tuple[str, ...] = ()
    """PEM files with CA certificates below the trust anchors, for clients that do not send them; not trusted by
    themselves."""
    ra_certificates: tuple[str, ...] = ()
    """PEM files of registration authorities that may ask for others and vouch for proof-of-possession (raVerified): an
    RA's own certificate, or a CA whose certificates with the purpose id-kp-cmcRA are RAs."""
    code: CodeConfig = CodeConfig()
    """The table [enrollment.code]."""
    client: ClientConfig = ClientConfig()
    """The table [enrollment.client]."""
    tls: TLSConfig = TLSConfig()
    """The table [enrollment.tls]."""
    revocation: RevocationConfig = RevocationConfig()
    """The table [enrollment.revocation]."""
    vendor: VendorConfig | None = None
    """The table [enrollment.vendor]."""
    legacy: LegacyConfig = LegacyConfig()
    """The table [enrollment.legacy]."""
