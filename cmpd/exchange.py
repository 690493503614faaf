"""One request on its way through the responder: where it came from, what it asks, what became of it."""

import enum
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from cryptography.x509 import ObjectIdentifier

from cmpd.asn1 import MalformedError, certificate, name_text


@dataclass(frozen=True, slots=True)
class TLSClient:
    """A TLS client's certificate, its key proven in the handshake; nothing else of it is decided (RFC 8446 §4.4.2)."""

    certificate: bytes
    """DER."""
    chain: tuple[bytes, ...] = ()
    """What the client sent above it, DER, in no particular order, nothing of it verified."""
    proxy: str = ""
    """Address of the reverse proxy that has vouched for it (RFC 9440 §2); empty when the handshake was with us."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a PKIMessage reached us (RFC 9811 §3.4)."""

    address: str
    """The client's IP address; behind a listed reverse proxy, the one that the proxy names."""
    profile: str | None = None
    """The name of the profile that the URL names; None on `/.well-known/cmp` itself."""
    operation: str | None = None
    """The operation label at the end of the path, e.g. `initialization` (RFC 9483 §6.1), or None."""
    code: str | None = None
    """Reference of the enrollment code that the URL names (`/cmp/<profile id>/<reference>`), or None."""
    client: TLSClient | None = None
    """The TLS client's certificate; None without TLS or without a certificate."""


@dataclass(slots=True)
class Exchange:
    """The record of one request and its answer; logged and counted once, at the end."""

    address: str
    operation: str = "unknown"
    """Body type of the request in the ASN.1's spelling: ir, kur, certConf …"""
    profile: str = ""
    transaction_id: str = ""
    """Lower-case hexadecimal."""
    credential: str = ""
    """`code:<reference>` or `cert:<subject>`; never a secret."""
    outcome: str = ""
    """accepted, grantedWithMods, rejection, error, confirmed, repeated …"""
    fail_info: str = ""
    """The PKIFailureInfo bit's name, empty when there was none."""
    reason: str = ""
    """The statusString of a refusal."""
    private: str = ""
    """What only the operator may read about a refusal."""
    limit: str = ""
    """The key of the limit that the sender has reached; empty when it has reached none."""
    client: str = ""
    """Subject of the TLS client's certificate, where the profile looks at it."""
    serial: str = ""
    """Serial numbers of the certificates concerned, lower-case hexadecimal, comma separated."""
    seat: str = ""
    """Who the certificates are for, comma separated; empty where the profile has no seats."""
    lint: str = ""
    """What the linter has found, one phrase each; empty when nothing was found or nothing was linted."""
    normalised: bool = False
    """The message was BER and not DER."""
    exception: BaseException | None = field(default=None, repr=False)
    """An internal error, for the log's traceback; never for the peer."""
    started: float = field(default_factory=time.perf_counter)
    ms: float = 0.0
    """Wall-clock time from arrival to answer, in milliseconds."""


@dataclass(frozen=True, slots=True)
class RequestedExtension:
    """An X.509 extension: as a request asks for it, or as the profile has approved it (RFC 5280 §4.1)."""

    oid: ObjectIdentifier
    critical: bool
    value: bytes
    """The DER inside extnValue."""


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What one CertReqMsg or PKCS #10 request asks for, its POP already verified (RFC 4211 §5, RFC 2986 §4.1)."""

    cert_req_id: int
    """0 in a profiled CRMF request, -1 for p10cr (RFC 9483 §4.1.4)."""
    subject: bytes
    """DER of the requested Name; the empty sequence `3000` for NULL-DN."""
    spki: bytes
    """DER of the SubjectPublicKeyInfo."""
    extensions: tuple[RequestedExtension, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None


@dataclass(frozen=True, slots=True)
class Approved:
    """A request as the profile has decided it: exactly what an issuer must put into the certificate.

    Made by `Profile.approve` only. The issuer adds what is its own: serial number, issuer name, signature,
    authorityKeyIdentifier, subjectKeyIdentifier, CRL distribution point and authority information access.
    """

    profile: str
    transaction_id: bytes
    cert_req_id: int
    subject: bytes
    spki: bytes
    not_before: datetime
    """Aware, UTC, whole seconds."""
    not_after: datetime
    """Aware, UTC, whole seconds; the issuer may only shorten it, to the end of its own certificate."""
    extensions: tuple[RequestedExtension, ...]
    modified: tuple[str, ...] = ()
    """What differs from the request, one phrase each; not empty means grantedWithMods (RFC 9810 §5.2.3)."""
    seat: str | None = None
    """Who the certificate is for, as the profile's seat mapping found it."""
    lint: str = "off"
    """Whether it is linted before it is signed: off, warn or enforce."""
    request: bytes | None = None
    """The PKCS #10 request of a p10cr, DER, as it came; None for a CRMF request."""
    updates: int | None = None
    """Serial number of the certificate of ours that this one takes the place of."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule held against a request: what `cmpd explain` shows, and why a request is refused."""

    rule: str
    """The rule's name: a profile key such as `san.email.min`, or the clause of a public-trust document."""
    field: str
    """The field of the request it looks at, e.g. `subject`, `san.email`, `publicKey`."""
    ok: bool
    text: str
    """What was found, in words for the peer."""


class CertificateStatus(enum.StrEnum):
    """What has become of an issued certificate."""

    unconfirmed = "unconfirmed"
    """Handed out, or about to be; its EE has not said that it takes it."""
    valid = "valid"
    kept = "kept"
    """Its EE has rejected it, never confirmed it or never collected it, and it is not revoked: relying parties accept
    it. As long as it is so, it authenticates nobody here."""
    revoked = "revoked"


class RevocationReason(enum.IntEnum):
    """CRLReason (RFC 5280 §5.3.1)."""

    unspecified = 0
    keyCompromise = 1
    cACompromise = 2
    affiliationChanged = 3
    superseded = 4
    cessationOfOperation = 5
    certificateHold = 6
    removeFromCRL = 8
    privilegeWithdrawn = 9
    aACompromise = 10


class OutsideState(enum.StrEnum):
    """Where the revocation of a certificate stands at the issuer over there; in the store it is revoked already."""

    due = "due"
    """To be asked for, the first time or again."""
    asked = "asked"
    """Asked for; somebody over there has to approve it."""
    done = "done"
    held = "held"
    """Refused over there: an operator must decide."""
    left = "left"
    """An operator sees to it over there."""


@dataclass(frozen=True, slots=True)
class OutsideRevocation:
    """A revocation that an issuer other than ourselves has to carry out."""

    state: OutsideState
    due: datetime
    """When something is to be done about it next."""
    attempts: int = 0
    """How often it was taken up; a change is kept only by whoever took it up last."""
    ticket: str = ""
    """The issuer's name for what was asked; empty until it has one."""
    private: str = ""
    """What only the operator may read."""


@dataclass(frozen=True, slots=True)
class RevocationPolicy:
    """What an issuer over there wants done with certificates that it has issued, and that are paid, in doubt."""

    certconf_reject: Literal["revoke", "keep"] = "revoke"
    """The EE rejects it."""
    missing_certconf: Literal["revoke", "keep"] = "keep"
    """The EE never confirms it."""
    uncollected: Literal["revoke", "keep"] = "keep"
    """The EE never collects it."""
    uncollected_seconds: float = 30 * 86400.0
    """After so long nobody is expected to collect it any more."""


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate as the store keeps it."""

    serial: int
    der: bytes
    issuer: str
    """Name of the `[issuers.NAME]` section that issued it."""
    profile: str
    not_after: datetime
    transaction_id: bytes
    cert_req_id: int
    status: CertificateStatus
    issued_at: datetime
    revoked_at: datetime | None = None
    reason: RevocationReason | None = None
    seat: str | None = None
    """Who it is for; None where the profile has no seats."""
    ticket: str = ""
    """The issuer's name for the order that it came of; empty where there was none."""
    outside: OutsideRevocation | None = None
    """Its revocation at an issuer over there; None where none was ever due."""

    @property
    def subject(self) -> str:
        """The subject in RFC 4514 style, for people; empty when the certificate cannot be read."""
        try:
            return name_text(certificate.subject(self.der))
        except MalformedError:
            return ""


@dataclass(frozen=True, slots=True)
class Seat:
    """Somebody or something that holds certificates of a profile, as the profile's seat mapping names it."""

    profile: str
    id: str
    created: datetime
    """When its first certificate was issued."""
    last_issued: datetime
    certificates: int
    """How many have been issued to it, whatever has become of them."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was refused, and why: for the operator, without any secret."""

    at: datetime
    address: str
    profile: str
    """Empty when it is not known which profile was meant."""
    operation: str
    """Body type of the request."""
    transaction_id: str
    """Lower-case hexadecimal."""
    credential: str
    """`code:<reference>` or `cert:<subject>`; empty when the sender could not be authenticated."""
    fail_info: str
    """The PKIFailureInfo bit's name."""
    reason: str
    """The statusString that the peer was told."""
    private: str = ""
    """What only the operator may read."""
    findings: tuple[Finding, ...] = ()
    """Every rule of the profile held against the request, where it came to that."""
    request: bytes | None = field(default=None, repr=False)
    """The request, DER; None when it is too long, cannot be read, or carries a secret."""
    id: int | None = None
    """Its number in the store; None when it is in the memory of the process only."""


class OrderState(enum.StrEnum):
    """Where an order stands: a certificate that is asked of an issuer which may take its time (RFC 9483 §5.1.5)."""

    intended = "intended"
    """Decided and kept; the issuer has not been asked."""
    submitting = "submitting"
    """The issuer is being asked. Found so after a crash, it is `unknown`."""
    unknown = "unknown"
    """Nobody knows whether the issuer has it: it is looked for there, and never sent again blindly."""
    ordered = "ordered"
    """The issuer has it, under `ticket`."""
    held = "held"
    """An operator must decide."""
    issued = "issued"
    """The certificate is here."""
    failed = "failed"
    """It will never be; `text` says why."""


OPEN_ORDERS = frozenset(
    {OrderState.intended, OrderState.submitting, OrderState.unknown, OrderState.ordered, OrderState.held}
)
"""The states of orders that may still end in a certificate."""


@dataclass(frozen=True, slots=True)
class Order:
    """One certificate of a transaction that waits for its issuer. Kept before the issuer is asked (write-ahead)."""

    stamp: str
    """Our own name for it, unique for good; an issuer that can puts it into its own records."""
    transaction_id: bytes
    cert_req_id: int
    issuer: str
    """Name of the `[issuers.NAME]` section."""
    approved: Approved
    state: OrderState
    created: datetime
    updated: datetime
    due: datetime
    """When something is to be done about it next."""
    ticket: str = ""
    """The issuer's name for it; empty until it has one."""
    attempts: int = 0
    """How often the issuer was asked to take it, or to say what has become of it, since the last change."""
    serial: int | None = None
    """Serial number of the certificate, once it is issued."""
    chain: tuple[bytes, ...] = ()
    """The CA certificates above it, DER, issuing CA first, root last."""
    implicit: bool = False
    """The EE has asked for implicitConfirm, and the profile grants it."""
    text: str = ""
    """Why it failed or waits, for the peer."""
    fail_info: str = ""
    """The PKIFailureInfo bit's name, when it has failed."""
    private: str = ""
    """What only the operator may read of how it stands; each step writes its own."""
    note: str = ""
    """What operators have done with it, who and when, the latest first; no step of ours touches it."""
    step: int = 0
    """How often it has been changed: a change is kept only by whoever saw the latest."""


class TransactionState(enum.StrEnum):
    """Where a transaction stands (RFC 9483 §4.1.1; the table of what may follow is in `transaction.py`)."""

    waiting = "waiting"
    """The issuer has not delivered yet; the EE polls (RFC 9483 §4.4)."""
    unconfirmed = "unconfirmed"
    """The certificate is handed out; the certConf is awaited."""
    confirmed = "confirmed"
    """Ended well: confirmed by certConf, or implicitly."""
    rejected = "rejected"
    """The EE refused the certificate by certConf; it is revoked, or kept where that is the policy."""
    expired = "expired"
    """The certConf never came; the certificate is revoked, or kept where that is the policy."""
    refused = "refused"
    """The request was refused."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A PKI management operation as the store keeps it, with the answers to repeat (RFC 9483 §4)."""

    transaction_id: bytes
    profile: str
    operation: str
    """Body type of the first message: ir, cr, p10cr, kur."""
    credential: str
    """Who is behind it: `code:<id>` or `cert:<SHA-256 of the certificate>:<serial number>`, hexadecimal."""
    state: TransactionState
    nonce: bytes
    """senderNonce of our latest answer: the next message's recipNonce."""
    first_request: bytes
    """SHA-256 of the request that began the transaction, octets as received."""
    first_reply: bytes
    """The exact answer to it."""
    created: datetime
    confirm_by: datetime | None = None
    """When the awaited certConf is overdue."""
    last_request: bytes | None = None
    """SHA-256 of the latest follow-up message (certConf)."""
    last_reply: bytes | None = None


@dataclass(frozen=True, slots=True)
class EnrollmentCode:
    """An enrollment code: the shared secret of MAC-based protection (RFC 9483 §4.1.5)."""

    id: int
    profile: str
    reference: str
    """What the client sends as senderKID and as commonName of sender."""
    secret: bytes = field(repr=False)
    uses: int | None
    """How many certificates it is good for; None is without limit."""
    used: int
    created: datetime
    expires: datetime | None
    revoked: bool
    valid_from: datetime | None = None
    """Before that it begins nothing; None: from the beginning."""
    seat: str | None = None
    """The only seat that it is good for; None: any."""
    subject: str | None = None
    """RE2 expression that the subject, in RFC 4514 style, must match as a whole; None: any subject."""
    san: tuple[str, ...] = ()
    """RE2 expressions, of which each subjectAltName entry, e.g. `dns:a.example`, must match one; empty: any entries."""
    key: str | None = None
    """SHA-256 of the only SubjectPublicKeyInfo that it is good for, lower-case hexadecimal; None: any key."""
    is_global: bool = False
    """It is good for any senderKID, for a whole fleet, where the profile has enrollment.code.allow_global = true."""
    locked_until: datetime | None = None
    """Too many MACs were wrong: before that, no message with this reference is looked at."""
    locks: int = 0
    """How often it has been locked since it was last used."""

    def refusal(self, now: datetime, *, used_up: bool = False) -> str | None:
        """Say why it cannot begin a transaction at `now`; None when it can: with `used_up` also without a use left."""
        if self.revoked:
            return "enrollment code has been revoked"
        if self.valid_from is not None and now < self.valid_from:
            return f"enrollment code is not valid before {self.valid_from:%Y-%m-%dT%H:%M:%SZ}"
        if self.expires is not None and now >= self.expires:
            return f"enrollment code expired at {self.expires:%Y-%m-%dT%H:%M:%SZ}"
        if self.uses is not None and self.used >= self.uses and not used_up:
            return "enrollment code has been used up"
        return None


@dataclass(frozen=True, slots=True)
class NewCode:
    """An enrollment code to be made; the fields are those of `EnrollmentCode`."""

    profile: str
    reference: str
    secret: bytes = field(repr=False)
    uses: int | None = 1
    expires: datetime | None = None
    valid_from: datetime | None = None
    seat: str | None = None
    subject: str | None = None
    san: tuple[str, ...] = ()
    key: str | None = None
    is_global: bool = False


@dataclass(frozen=True, slots=True)
class ServiceUserCertificate:
    """A certificate of a service user: by its fingerprint, or any that an issuer has issued to a subject."""

    user: str
    """The service user's name, as in enrollment.service_user of profiles."""
    added: datetime
    fingerprint: str | None = None
    """SHA-256 of the certificate, lower-case hexadecimal; None: it is `issuer` and `subject`."""
    issuer: bytes | None = None
    """Name, DER."""
    subject: bytes | None = None
    """Name, DER."""
    label: str = ""
    """For people: the subject of the certificate that it was added with, or the operator's words."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that a profile knows by the serial number in its vendor's certificate (IEEE 802.1AR §8.6)."""

    profile: str
    serial: str
    """As the vendor's certificate names it."""
    added: datetime
    seat: str | None = None
    """The seat of its certificates; None: its serial."""
    subject: str | None = None
    """The subject of its certificates, RFC 4514 style; None: what the profile says."""


@dataclass(frozen=True, slots=True)
class RevocationRules:
    """How a profile wants to know whether certificates of other PKIs have been revoked: [enrollment.revocation]."""

    crl: str = "best_effort"
    """off: no CRL is looked at; best_effort: the newest that can be had, else none; required: refused without one."""
    ocsp: str = "off"
    """The same for OCSP."""
    crls: tuple[str, ...] = ()
    """Absolute paths or http URLs of CRLs, DER or PEM; empty: the CRL distribution points of each certificate."""
    ocsp_url: str | None = None
    """The OCSP responder; None: the one in each certificate's authorityInfoAccess."""

    @property
    def off(self) -> bool:
        """Whether there is nothing to do."""
        return self.crl == "off" and self.ocsp == "off"


@dataclass(frozen=True, slots=True)
class TooManyRequests:
    """Nothing is answered in CMP for a while; HTTP has words for it (RFC 6585 §4)."""

    seconds: int
    """After how long it is worth to ask again."""
