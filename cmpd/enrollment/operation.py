"""What a handler works with: the message, who sent it, and the profile with all that serving it needs."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from cmpd.asn1.certificate import subject
from cmpd.exchange import (
    Approved,
    CertificateRequest,
    EnrollmentCode,
    Exchange,
    IssuedCertificate,
    Transaction,
    TransactionState,
)
from cmpd.limits import Limits
from cmpd.ordering import OrderDesk
from cmpd.ports import (
    Conditions,
    Issuer,
    Ordering,
    OutsideEffects,
    Store,
)
from cmpd.profile import Profile
from cmpd.protection import Credential, SignerCache
from cmpd.reply import Identity, Replier
from cmpd.validation import Received


@dataclass(frozen=True, slots=True)
class Realm:
    """A profile with everything that serving it needs, made once at start or reload."""

    profile: Profile
    issuer: Issuer
    chain: tuple[bytes, ...]
    """CA certificates above what is issued, DER, issuing CA first, root last; empty where each certificate brings its
    own."""
    identity: Identity
    """What our answers to signed requests are signed with."""
    signers: SignerCache
    """Who may sign requests: the profile's trust anchors and our own CA."""
    tls_signers: SignerCache
    """The same for TLS client certificates."""
    vendor_signers: SignerCache | None
    """Devices with a certificate of their maker."""
    ra_signers: SignerCache | None
    """RA certificates that may vouch for others."""
    listed_ras: frozenset[str]
    """SHA-256 of the certificates that are RAs because they are listed, hexadecimal."""
    conditions: Conditions
    """What the profile asks of the store for every certificate."""
    looks_ahead: bool
    """Whether the store is asked before the issuer, and not in the commit alone.

    A key that is in use is rare, and a certificate of ours that nobody got to see costs a signature only.
    """
    handed_chain: tuple[bytes, ...]
    """The chain as it goes into extraCerts: without the root (RFC 9483 §3.3)."""
    issuing_name: bytes
    """Subject of the issuing CA, DER."""
    orders: bool
    """The issuer is paid or takes its time: certificates are ordered, and EEs poll for them."""

    @classmethod
    def of(
        cls,
        profile: Profile,
        issuer: Issuer,
        chain: tuple[bytes, ...],
        identity: Identity,
        limits: Limits,
    ) -> "Realm":
        """Work out what does not depend on a request."""
        conditions = Conditions(
            new_key=not profile.same_key_elsewhere,
            alone_in_seat=not profile.duplicates,
            per_seat=profile.budget_per_seat,
            per_day=profile.budget_per_day,
        )
        looks_ahead = (
            conditions.alone_in_seat
            or conditions.per_seat is not None
            or conditions.per_day is not None
            or isinstance(issuer, OutsideEffects)
        )

        orders = isinstance(issuer, Ordering)

        def cache(anchors: Sequence[bytes]) -> SignerCache:
            return SignerCache(
                tuple(dict.fromkeys(anchors)),
                limits,
                allow_sha1=profile.sha1_signatures,
                intermediates=profile.intermediates,
                any_issuer=orders,  # a public CA issues from where it likes; the store knows its certificates
            )

        # not the root above our issuing CA: what a company's other CAs issue below it was not issued for this profile
        own = chain[:1]
        return cls(
            profile=profile,
            issuer=issuer,
            chain=chain,
            identity=identity,
            signers=cache((*own, *profile.trusted)),
            tls_signers=cache((*own, *profile.tls_trusted)),
            vendor_signers=None if profile.vendor is None else cache(profile.vendor.trusted),
            ra_signers=cache(profile.ra_trusted) if profile.ra_trusted else None,
            listed_ras=frozenset(
                hashlib.sha256(certificate).hexdigest() for certificate in profile.ra_trusted if not _is_ca(certificate)
            ),
            conditions=conditions,
            looks_ahead=looks_ahead,
            handed_chain=chain[:-1] if len(chain) > 1 else chain,
            issuing_name=subject(chain[0]) if chain else b"",
            orders=orders,
        )


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that waits for its certConf, in memory, so that the usual next message asks the store nothing.

    The store has the last word: it moves a transaction only from the state that is expected.
    """

    transaction: Transaction
    certificates: tuple[IssuedCertificate, ...]
    code: EnrollmentCode | None


@dataclass(slots=True)
class Operation:
    """An authenticated and authorised message with all that its handler works with."""

    received: Received
    credential: Credential
    body: object
    """The decoded body."""
    digest: bytes
    """SHA-256 of the message as received."""
    realm: Realm
    store: Store
    limits: Limits
    now: datetime
    replier: Replier
    exchange: Exchange
    issued: tuple[IssuedCertificate, ...] | None = None
    """The certificates that the message confirms or rejects, when they are still in memory."""
    decided: CertificateRequest | None = None
    """The request that the profile has decided last, in the form it was decided."""
    opened: "OpenTransaction | None" = None
    """What its handler leaves behind for the message that is to follow."""
    desk: OrderDesk | None = None
    """Where certificates are ordered; None where no issuer is ordered from."""

    async def certificates(self) -> tuple[IssuedCertificate, ...]:
        """The certificates of the transaction that the message continues, in the order of their certReqId."""
        if self.issued is not None:
            return self.issued
        return await self.store.certificates_of(self.received.transaction_id)

    def transaction(self, state: TransactionState, answer: bytes, *, confirm_by: datetime | None = None) -> Transaction:
        """The record of a transaction that this message begins."""
        return Transaction(
            transaction_id=self.received.transaction_id,
            profile=self.realm.profile.name,
            operation=self.received.message.body_type.name,
            credential=self.credential.id,
            state=state,
            nonce=self.replier.nonce,
            first_request=self.digest,
            first_reply=answer,
            created=self.now,
            confirm_by=confirm_by,
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request of a message, its syntax read, nothing decided."""

    request: CertificateRequest
    check_pop: Callable[[], None]
    old_certificate: tuple[bytes, int] | None = None
    """oldCertID: issuer (GeneralName DER) and serial number."""
    updates: int | None = None
    """Serial number of the certificate of ours that it updates."""
    keeps_key: bool = False
    """Its key is that of the certificate which it updates, and the profile allows it."""
    pkcs10: bytes | None = None
    """The PKCS #10 request as it came, DER."""
    seat: str | None = None
    """Who it is for, where that is known by who asks; None: as the profile finds it in the request."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A request that is granted, if the store has nothing against it."""

    approved: Approved
    conditions: Conditions


Refine = Callable[[Operation, Wanted], Awaitable[Wanted]]
"""What an operation adds to a request before it is decided, e.g. kur: the names of the certificate it updates."""


def digest(message: bytes) -> bytes:
    """SHA-256 of a message as received: what tells a retransmission from another request."""
    return hashlib.sha256(message).digest()


def _is_ca(certificate: bytes) -> bool:
    """Whether a certificate is a CA's: what an RA's own certificate is not (RFC 5280 §4.2.1.9)."""
    try:
        constraints = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.BasicConstraints
        )
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca
