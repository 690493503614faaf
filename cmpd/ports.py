"""The ports: what the core asks of the world outside, each one small Protocol.

Whoever implements one runs its suite in `tests/contract/`. An issuer is registered under the entry-point group
`cmpd.issuers`; what it can do beyond `issue` and `chain` it says by implementing the optional Protocols, which are
checked at start-up against what the profiles ask for.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from cryptography.x509 import Certificate

from cmpd.exchange import (
    Approved,
    Device,
    EnrollmentCode,
    IssuedCertificate,
    Refusal,
    RevocationReason,
    RevocationRules,
    Transaction,
    TransactionState,
)

Clock = Callable[[], datetime]
"""The time now: aware, UTC."""
Entropy = Callable[[int], bytes]
"""So many octets that nobody can guess."""


class StoreUnavailable(Exception):
    """The store cannot do it now (locked, full, gone); nothing of the call has been kept. The text is for the log."""


class TransactionExists(Exception):
    """A transaction of this transactionID is there already; nothing of the call has been kept."""


class TransactionMoved(Exception):
    """The transaction is no longer in the state that the caller saw; nothing of the call has been kept."""


class CodeUnusable(Exception):
    """The enrollment code was used up, revoked or has expired meanwhile; nothing of the call has been kept."""


class Condition(enum.StrEnum):
    """What a certificate may be subject to; see `Conditions`."""

    compromised_key = "compromised_key"
    new_key = "new_key"
    alone_in_seat = "alone_in_seat"
    per_seat = "per_seat"
    per_day = "per_day"


class Unmet(Exception):
    """A condition of one of the certificates is not met; nothing of the call has been kept."""

    def __init__(
        self,
        condition: Condition,
        *,
        seat: str | None = None,
        serial: int | None = None,
        until: datetime | None = None,
    ) -> None:
        super().__init__(condition.value)
        self.condition = condition
        self.seat = seat
        """The seat it is about, if it is one."""
        self.serial = serial
        """The certificate that is in the way, if it is one."""
        self.until = until
        """When that changes by itself; None when it does not."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold at the moment of the commit so that one certificate may come into being.

    Whatever they say, a key whose certificate was revoked for keyCompromise gets no other. A certificate is in force
    from its issuance, confirmed or not, until it expires or is revoked.
    """

    new_key: bool = False
    """No certificate in force, of whatever profile and issuer, has the same public key."""
    alone_in_seat: bool = False
    """The seat has no certificate in force but the one that `updates` names."""
    per_seat: int | None = None
    """So many certificates in force the seat may have, this one included, that of `updates` not."""
    per_day: int | None = None
    """So many certificates the profile may issue in a day (UTC), this one included."""
    updates: int | None = None
    """Serial number of the certificate that this one takes the place of."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """A certificate to be revoked, and why (RFC 5280 §5.3.1)."""

    serial: int
    reason: RevocationReason
    at: datetime


@dataclass(frozen=True, slots=True)
class Expired:
    """What the sweep has ended: a transaction whose certConf never came, and the serials it revoked."""

    transaction_id: bytes
    profile: str
    serials: tuple[int, ...]


class Store(Protocol):
    """The durable state. A call that returns has been committed; one that raises has changed nothing.

    Every method may raise `StoreUnavailable`. Methods are safe to call concurrently from one event loop, and several
    processes may work on one store.
    """

    async def transaction(self, transaction_id: bytes, /) -> Transaction | None:
        """Find a transaction. Reads only."""

    async def code(self, profile: str, reference: bytes, /) -> EnrollmentCode | None:
        """Find an enrollment code by the reference (senderKID) in a profile, usable or not. Reads only."""

    async def global_code(self, profile: str, /) -> EnrollmentCode | None:
        """Find the newest global enrollment code of a profile that is not revoked, usable or not. Reads only."""

    async def lock_code(self, code: int, /, *, until: datetime, locks: int) -> None:
        """Lock an enrollment code until then for the `locks`-th time; a lock that lasts longer stays."""

    async def is_service_user(self, user: str, fingerprint: str, issuer: bytes, subject: bytes, /) -> bool:
        """Tell whether a certificate is one of a service user: SHA-256 in hexadecimal, Names in DER. Reads only."""

    async def device(self, profile: str, serial: str, /) -> Device | None:
        """Find a device by the serial number in its vendor's certificate. Reads only."""

    async def certificate(self, serial: int, /) -> IssuedCertificate | None:
        """Find an issued certificate. Reads only."""

    async def certificates_of(self, transaction_id: bytes, /) -> tuple[IssuedCertificate, ...]:
        """All certificates of a transaction in the order of their certReqId. Reads only."""

    async def unmet(
        self,
        profile: str,
        seat: str | None,
        spki_sha256: bytes,
        conditions: Conditions,
        now: datetime,
        /,
        *,
        others: int = 0,
    ) -> Unmet | None:
        """Which condition a certificate would fail now, `others` to be issued in the same call. Reads only.

        A look ahead: what counts is what `issued` finds in its commit.
        """

    async def issued(
        self,
        transaction: Transaction,
        certificates: Sequence[IssuedCertificate],
        /,
        *,
        code: int | None,
        now: datetime,
        conditions: Sequence[Conditions] = (),
    ) -> None:
        """Keep a new transaction with its certificates and its exact answer; consume `code`, all in one commit.

        A code is consumed by one for each certificate, and then has no more `locks` against it.

        `conditions` are those of the certificates, one each; the empty sequence sets none but the one on compromised
        keys. The seats of the certificates are recorded.
        Raises `TransactionExists`, `CodeUnusable` when at `now` the code has expired, is revoked or has no use left,
        or `Unmet`.
        """

    async def refused(self, transaction: Transaction, refusal: Refusal | None = None, /) -> None:
        """Keep a transaction that ended with its first answer, and why. Raises `TransactionExists`."""

    async def refusal(self, refusal: Refusal, /) -> None:
        """Keep why a request was refused that begins no transaction. The oldest refusals make room."""

    async def advance(
        self,
        transaction_id: bytes,
        /,
        *,
        seen: TransactionState,
        state: TransactionState,
        nonce: bytes,
        request: bytes,
        reply: bytes,
        confirmed: Sequence[int] = (),
        revoked: Sequence[Revocation] = (),
        give_back: int | None = None,
    ) -> None:
        """Move a transaction from `seen` to `state`, keep the answer, and set its certificates' status, in one commit.

        `request` is the SHA-256 of the message. `give_back` is an enrollment code that gets a use back for each of
        `revoked`.
        Raises `TransactionMoved` when the state is not `seen`.
        """

    async def expire(self, now: datetime, /) -> tuple[Expired, ...]:
        """End transactions whose `confirm_by` has passed and revoke their certificates (reason unspecified)."""

    async def forget(self, before: datetime, /) -> int:
        """Delete ended transactions created before `before` (certificates stay); return how many."""

    async def revoke(self, revocation: Revocation, /) -> bool:
        """Mark a certificate revoked; False when it is not known or was revoked before."""

    async def revoked(self, issuer: str, /) -> tuple[Revocation, ...]:
        """All revoked certificates of an issuer section that have not yet expired, for the CRL."""

    async def revocation_count(self, issuer: str, /) -> int:
        """A number that grows with every revocation, so that a CRL is made anew only when it must be."""

    async def next_crl_number(self, issuer: str, /) -> int:
        """A CRL number, greater than all before it, across restarts (RFC 5280 §5.2.3)."""

    async def ready(self) -> None:
        """Return when the store can be written to; used by `/readyz`."""

    async def close(self) -> None:
        """Finish what is in hand and let go."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate fresh from an issuer."""

    der: bytes
    serial: int
    not_after: datetime
    """As it is in the certificate: an issuer may cut it at its own end."""


class IssuerUnavailable(Exception):
    """The issuer cannot be reached or is overloaded: the peer gets systemUnavail. The text is for the log."""


class IssuerFailure(Exception):
    """The issuer does not function or answers nonsense: the peer gets systemFailure. The text is for the log."""


@runtime_checkable
class Issuer(Protocol):
    """Whoever issues: required are these two members.

    `issue` puts into the certificate exactly what was approved, is safe to call concurrently and honours cancellation.
    """

    async def issue(self, request: Approved, /) -> Issued:
        """Issue one certificate. Raises `IssuerUnavailable` or `IssuerFailure`."""

    async def chain(self) -> tuple[bytes, ...]:
        """The CA certificates above what `issue` returns, DER, issuing CA first, root last."""


@runtime_checkable
class OutsideEffects(Protocol):
    """An issuer whose `issue` cannot be undone by dropping what it returns: an order that is paid, another CA's act."""

    outside_effects: Literal[True]


@runtime_checkable
class CRLSource(Protocol):
    """An issuer that publishes its own CRL (RFC 5280 §5)."""

    async def crl(self, store: Store, now: datetime, /) -> bytes:
        """The current CRL, DER; made anew when something was revoked or the old one is near its nextUpdate."""


@runtime_checkable
class CMPSigner(Protocol):
    """An issuer that brings a certificate and key for signing CMP messages (id-kp-cmcRA, RFC 9483 §2.3)."""

    def cmp_credential(self) -> tuple[object, tuple[bytes, ...]]:
        """The private key, and the CMP protection certificate followed by its chain without the root, all DER."""


class RevocationUnknown(Exception):
    """Nobody can say now whether a certificate has been revoked, and it must be known. The text is for the log."""


class Revoked(Exception):
    """A certificate of a path has been revoked. The text says which, when and why, and by whose word; for the log."""


class RevocationSource(Protocol):
    """Knows of certificates of other PKIs whether they have been revoked: by CRL (RFC 5280 §5) and OCSP (RFC 6960)."""

    async def check(self, path: Sequence[Certificate], rules: RevocationRules, now: datetime, /) -> None:
        """Return when no certificate of a validated path, its trust anchor aside, is known to be revoked.

        The end entity's comes first, the trust anchor last. Raises `Revoked`, or `RevocationUnknown` where a source is
        required and cannot be had. Bounded in time and size; answers are kept as long as they are valid.
        """

    async def close(self) -> None:
        """Let go of connections."""
