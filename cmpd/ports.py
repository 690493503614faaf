"""The ports: what the core asks of the world outside, each one small Protocol.

Whoever implements one runs its suite in `tests/contract/`. An issuer is registered under the entry-point group
`cmpd.issuers`; what it can do beyond `issue` and `chain` it says by implementing the optional Protocols, which are
checked at start-up against what the profiles ask for.
"""

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from cryptography.x509 import Certificate

from cmpd.exchange import (
    Approved,
    Device,
    EnrollmentCode,
    IssuedCertificate,
    Order,
    OrderState,
    OutsideRevocation,
    OutsideState,
    Refusal,
    RevocationPolicy,
    RevocationReason,
    RevocationRules,
    Transaction,
    TransactionState,
)
from cmpd.profile import Profile

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
    outside: OutsideState | None = None
    """Its issuer is over there: that it is due there, or left to an operator, is kept in the same commit."""
    private: str = ""
    """Who wants it, for the operator; kept with what is due over there."""


@dataclass(frozen=True, slots=True)
class Expired:
    """What the sweep has ended: a transaction whose certConf never came, and the serials it revoked."""

    transaction_id: bytes
    profile: str
    serials: tuple[int, ...]
    kept: tuple[int, ...] = ()
    """Those that it has not revoked."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a message names beside its transaction, for the store to find."""

    profile: str
    reference: bytes | None = None
    """Of an enrollment code; None when the message is not protected by a MAC."""
    global_code: bool = False
    """Where there is no code of that reference, the profile's global one is meant."""
    serials: tuple[int, ...] = ()
    """Of certificates that may be ours: the signer's, the TLS client's."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a store has of it."""

    transaction: Transaction | None
    complete: bool = False
    """Whether all the rest was looked for; else it is asked for when it is needed."""
    code: EnrollmentCode | None = None
    certificates: tuple[IssuedCertificate, ...] = ()
    """Of the transaction, in the order of their certReqId."""
    signers: Mapping[int, IssuedCertificate | None] = field(default_factory=dict)
    """By serial number: the certificates that are named, None where there is none; and who began the transaction."""


@dataclass(frozen=True, slots=True)
class CRLState:
    """What tells whether the CRL at hand is the current one."""

    revocations: int
    """Grows with every revocation."""
    number: int
    """Of the CRL that is kept; 0 for none."""


@dataclass(frozen=True, slots=True)
class KeptCRL:
    """The current CRL of an issuer (RFC 5280 §5), made by one process and served by all."""

    number: int
    revocations: int
    """`CRLState.revocations` before it was made: it has all of them."""
    this_update: datetime
    next_update: datetime
    der: bytes


class Store(Protocol):
    """The durable state. A call that returns has been committed; one that raises has changed nothing.

    Every method may raise `StoreUnavailable`. Methods are safe to call concurrently from one event loop, and several
    processes may work on one store.
    """

    async def look_up(self, transaction_id: bytes, named: Callable[[], Named], /) -> Known:
        """Find a transaction, and what else a message names. Reads only.

        A store that is far away finds everything at once; one that answers on the spot may leave it at the transaction.
        """

    async def transaction(self, transaction_id: bytes, /) -> Transaction | None:
        """Find a transaction. Reads only."""

    async def code(self, profile: str, reference: bytes, /) -> EnrollmentCode | None:
        """Find an enrollment code by the reference (senderKID) in a profile, usable or not. Reads only."""

    async def global_code(self, profile: str, /) -> EnrollmentCode | None:
        """Find the newest global enrollment code of a profile that is not revoked, usable or not. Reads only."""

    async def lock_code(self, code: int, /, *, until: datetime, locks: int) -> None:
        """Lock an enrollment code until then for the `locks`-th time; a lock that lasts longer stays."""

    async def wrong_mac(self, code: int, /, *, most: int, until: datetime, locks: int, count: int = 1) -> bool:
        """Count wrong MACs against an enrollment code, for all processes; the `most`-th in a row locks it as above.

        The count begins again then, and when the code is consumed. True when it was locked, or is, until `until` or
        longer.
        """

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
        kept: Sequence[int] = (),
        give_back: int | None = None,
    ) -> None:
        """Move a transaction from `seen` to `state`, keep the answer, and set its certificates' status, in one commit.

        `request` is the SHA-256 of the message. `kept` are rejected and not revoked. `give_back` is an enrollment code
        that gets a use back for each of `revoked` and `kept`.
        Raises `TransactionMoved` when the state is not `seen`.
        """

    async def expire(
        self, now: datetime, /, *, outside: Collection[str] = (), keep: Collection[str] = ()
    ) -> tuple[Expired, ...]:
        """End transactions whose `confirm_by` has passed and revoke their certificates (reason unspecified).

        Those of the issuers `outside` are to be revoked over there too. Those of the issuers `keep` are kept, and the
        sender who asks for the same again gets the same one.
        """

    async def forget(self, before: datetime, /) -> int:
        """Delete ended transactions created before `before` (certificates stay); return how many."""

    async def revoke(self, revocation: Revocation, /) -> bool:
        """Mark a certificate revoked; False when it is not known or was revoked before, and then nothing changes."""

    async def revoked(self, issuer: str, /) -> tuple[Revocation, ...]:
        """All revoked certificates of an issuer section that have not yet expired, for the CRL."""

    async def crl_state(self, issuer: str, ca: bytes, /) -> CRLState:
        """How the kept CRL of an issuer section and issuing certificate (`ca`: SHA-256) stands. Reads only; cheap."""

    async def crl(self, issuer: str, ca: bytes, /) -> KeptCRL | None:
        """The CRL that is kept, which all processes serve. Reads only."""

    async def next_crl_number(self, issuer: str, /) -> int:
        """A CRL number, greater than all before it, across restarts (RFC 5280 §5.2.3)."""

    async def keep_crl(self, issuer: str, ca: bytes, crl: KeptCRL, /, *, seen: int) -> bool:
        """Keep a CRL in place of the one with the number `seen` (0: of none); False when another one is kept now.

        Its number must have been taken after `seen` was read: so the numbers of what is kept only grow.
        """

    async def ready(self) -> None:
        """Return when the store can be written to; used by `/readyz`."""

    async def close(self) -> None:
        """Finish what is in hand and let go."""


@dataclass(frozen=True, slots=True)
class Node:
    """A process that serves from the store, as it says of itself."""

    id: str
    host: str
    pid: int
    version: str
    started: datetime
    configuration: str
    """Keyed hash of what all nodes should have in common; tells only whether two are the same."""
    profiles: Mapping[str, str]
    """Such a hash of each profile."""
    counts: Mapping[str, float]
    """What it has counted against limits, in all, by what; only what others must know."""
    place: str = ""
    """Where its pid means something; empty when that is not known."""
    silent: float = 0.0
    """Seconds since it was kept last, by the store's clock. Set by the store."""
    leases: tuple[str, ...] = ()
    """What it alone sees to. Set by the store."""


class NodeStore(Protocol):
    """What processes on one store know of each other. Every method may raise `StoreUnavailable`."""

    async def lease(self, name: str, holder: str, seconds: float, /) -> bool:
        """Take or extend a lease until `seconds` from now, by the store's clock; False when somebody else has it.

        Compared and set in one commit; nothing is written when it is somebody else's. One that ends later than twice
        `seconds` from now is taken at once: a clock was set back.
        """

    async def release(self, name: str, holder: str, /) -> None:
        """Give a lease back; one that is somebody else's stays."""

    async def keep_node(self, node: Node, /) -> None:
        """Keep what a node says of itself, and that it has been seen now."""

    async def nodes(self) -> tuple[Node, ...]:
        """All nodes that are kept, the one that was started first comes first. Reads only."""

    async def forget_nodes(self, ids: Collection[str], /) -> None:
        """Delete nodes, and let go of their leases."""


class OutsideStore(Protocol):
    """What is kept of certificates whose issuer is over there. Every method may raise `StoreUnavailable`."""

    async def outside_due(self, issuer: str, now: datetime, limit: int, /) -> tuple[IssuedCertificate, ...]:
        """Certificates whose revocation is due or asked for over there and wants a step, the longest due first."""

    async def move_outside(self, serial: int, outside: OutsideRevocation, /, *, seen: OutsideRevocation) -> bool:
        """Keep where a revocation stands over there; False when its state or attempts are not those of `seen`."""

    async def ordered_as(
        self, issuer: str, tickets: Collection[str], now: datetime, /
    ) -> tuple[IssuedCertificate, ...]:
        """Certificates in force of an issuer whose ticket, up to its first colon, is one of those. Reads only."""

    async def uncollected(self, issuer: str, before: datetime, now: datetime, /, *, keep: bool) -> tuple[int, ...]:
        """Deal with certificates that have waited to be collected since before then: keep them, or revoke them.

        The serials dealt with, at most 100 a call. What is kept can still be collected; what is revoked (reason
        unspecified) is due over there in the same commit.
        """

    async def looked(self, issuer: str, /) -> datetime | None:
        """When it was last found out which certificates have been revoked over there. Reads only."""

    async def keep_look(self, issuer: str, at: datetime, /) -> None:
        """Keep that; an earlier time than the one that is kept changes nothing."""


class OrderMoved(Exception):
    """The order has been changed since the caller saw it; nothing of the call has been kept."""


class OrderStore(Protocol):
    """What is kept of certificates that are on order. Every method may raise `StoreUnavailable`."""

    async def intend(
        self,
        transaction: Transaction,
        orders: Sequence[Order],
        /,
        *,
        code: int | None,
        now: datetime,
        conditions: Sequence[Conditions] = (),
    ) -> None:
        """Keep a new transaction that waits, with its orders; consume `code` by as many; all in one commit.

        Orders that are open count as certificates in force against `conditions`, and against the day's budget. An order
        that has failed already, so that the answer can name it, counts for nothing. Raises as `Store.issued` does.
        """

    async def orders_of(self, transaction_id: bytes, /) -> tuple[Order, ...]:
        """The orders of a transaction in the order of their certReqId. Reads only."""

    async def order(self, stamp: str, /) -> Order | None:
        """Find an order. Reads only."""

    async def same_order(self, profile: str, credential: str, spki_sha256: bytes, /) -> tuple[Order, ...]:
        """Orders, open or not yet collected, that one sender has placed in a profile for one key. Reads only."""

    async def orders_due(self, issuer: str, now: datetime, limit: int, /) -> tuple[Order, ...]:
        """Orders about which something is to be done, the one that is due longest first. Reads only."""

    async def tickets(self, issuer: str, /) -> tuple[tuple[str, str], ...]:
        """Stamp and ticket of all orders that an issuer has and has not settled. Reads only."""

    async def orders_open(self, issuer: str, states: Sequence[OrderState], limit: int, /) -> tuple[Order, ...]:
        """Orders of an issuer in some states, the oldest first. Reads only."""

    async def move_order(
        self, order: Order, /, *, seen: OrderState, certificate: IssuedCertificate | None = None
    ) -> Order:
        """Keep an order in its new state, and the certificate that it has led to, in one commit; the order as kept.

        Raises `OrderMoved` when its state is not `seen`, or its step is not that of `order`.
        """

    async def hand_over(self, orders: Sequence[Order], transaction: Transaction, /) -> None:
        """Let a new transaction that waits take over the orders of another one, which ends as refused.

        Raises `TransactionExists`, or `OrderMoved` when one of the orders has been collected meanwhile.
        """

    async def deliver(
        self,
        transaction_id: bytes,
        /,
        *,
        seen: bytes,
        state: TransactionState,
        nonce: bytes,
        request: bytes,
        reply: bytes,
        confirm_by: datetime | None = None,
        confirmed: Sequence[int] = (),
        first: bool = False,
    ) -> None:
        """Answer a transaction that waits, in one commit; `state` may be `waiting` still.

        `first` says that it is the answer to its first request. Raises `TransactionMoved` when it does not wait, or its
        latest answer has not the nonce `seen`: of two copies of one pollReq, one is answered and the other repeats it.
        """


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate fresh from an issuer."""

    der: bytes
    serial: int
    not_after: datetime
    """As it is in the certificate: an issuer may cut it at its own end."""
    chain: tuple[bytes, ...] = ()
    """The CA certificates above it, DER, issuing CA first, root last, where they are not those of `Issuer.chain`."""
    ticket: str = ""
    """The issuer's name for its order, when that has become known only with it."""


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


class OrderRefused(Exception):
    """The issuer will never issue it. `text` is for the peer, the rest for the log."""

    def __init__(self, text: str, private: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.private = private


class OrderNotDone(Exception):
    """The issuer has certainly not taken it: it may be asked again after `seconds`. Others wait too, unless `alone`."""

    def __init__(self, private: str, seconds: float, *, alone: bool = False) -> None:
        super().__init__(private)
        self.seconds = seconds
        self.alone = alone


class OrderUnknown(Exception):
    """Whether the issuer has taken it is not known. The text is for the log."""


@dataclass(frozen=True, slots=True)
class OnOrder:
    """The issuer has it and has not issued yet."""

    ticket: str
    text: str = ""
    """What it waits for, for the peer; empty when that is not known."""
    private: str = ""


@runtime_checkable
class Ordering(Protocol):
    """An issuer that is paid, or takes its time: what it is asked is kept before it is asked, and asked once.

    All are safe to call concurrently. `ordering.py` calls them, beside the requests.
    """

    @property
    def outside_effects(self) -> Literal[True]:
        """See `OutsideEffects`."""

    @property
    def poll_seconds(self) -> float:
        """How often it is asked which orders have changed."""

    @property
    def sweep_seconds(self) -> float:
        """How often an order is looked at of which no change was heard."""

    @property
    def settle_seconds(self) -> float:
        """How long an order may stay unknown after it was looked for in vain, before `on_unknown` counts."""

    @property
    def on_unknown(self) -> Literal["hold", "resubmit"]:
        """What becomes of an order that is not to be found: an operator decides, or it is submitted again."""

    @property
    def submit_seconds(self) -> float:
        """The longest that `submit` takes; an order that is still being submitted after that has lost its process."""

    async def prepare(self, order: Order, /) -> str:
        """What must be known to find it again if its answer is lost; kept as its ticket before it is submitted.

        Raises `OrderRefused` or `OrderNotDone`; nothing is asked for yet.
        """

    async def submit(self, order: Order, /) -> OnOrder | Issued:
        """Ask for it, once. Raises `OrderRefused`, `OrderNotDone`, `OrderUnknown`; anything else counts as unknown."""

    async def reconcile(
        self, orders: Sequence[Order], known: Collection[str], /
    ) -> Mapping[str, OnOrder | OrderRefused | OrderUnknown]:
        """Look for orders of which nobody knows; what is left out is certainly not there.

        `known` are the tickets of all others. `OrderRefused` is for what an operator must see to, such as two orders
        for one; `OrderUnknown` for one that cannot be looked for now, while others can. Raises `IssuerUnavailable`,
        also when not everything could be looked at.
        """

    async def changes(self, since: datetime, /) -> Collection[str] | None:
        """The tickets, up to their first colon, of orders that have changed since then; None: look at all of them.

        Raises `IssuerUnavailable`.
        """

    async def look(self, orders: Sequence[Order], /) -> Mapping[str, OnOrder | Issued | OrderRefused]:
        """What has become of orders, by stamp; what is left out could not be looked at. Raises `IssuerUnavailable`."""

    def difference(self, approved: Approved, issued: Issued, /) -> str | None:
        """Say where a certificate is not what was approved, beyond what this issuer is known to add; None: nowhere."""

    async def withdraw(self, order: Order, /) -> None:
        """Cancel what is not issued. Raises `OrderRefused` when it cannot be, or `IssuerUnavailable`."""


class RevocationRefused(Exception):
    """The issuer does not revoke it. The text is for the log and the operator."""

    def __init__(self, private: str, seconds: float | None = None) -> None:
        super().__init__(private)
        self.seconds = seconds
        """After so long it is worth to ask again; None: it would be refused again."""


@runtime_checkable
class Revoker(Protocol):
    """An issuer over there that revokes what it has issued when it is asked to. `revoking.py` calls it."""

    @property
    def revocation_policy(self) -> RevocationPolicy:
        """What is to be done with certificates in doubt."""

    async def revoke(self, certificate: IssuedCertificate, /) -> str | None:
        """Have a certificate revoked for its `reason`, or go on with that when `outside.state` is asked already.

        None: it is revoked, now or since long. A text: somebody over there has to approve, and that is the ticket.
        May be called again after any end. Raises `RevocationRefused` or `IssuerUnavailable`.
        """


@runtime_checkable
class Watched(Protocol):
    """An issuer whose certificates others may revoke: it is asked now and again which ones."""

    @property
    def watch_seconds(self) -> float:
        """How often."""

    async def suspects(self, since: datetime | None, /) -> Collection[str]:
        """Tickets, up to their first colon, of what may have been revoked since then; None: ever.

        Other people's may be among them. Raises `IssuerUnavailable`.
        """

    async def revoked_there(self, certificates: Sequence[IssuedCertificate], /) -> Sequence[Revocation]:
        """Which of these certificates are revoked over there. Raises `IssuerUnavailable`."""


@runtime_checkable
class Approving(Protocol):
    """An issuer at which somebody has to approve orders, and where our own account may: `cmpd order approve`."""

    async def approve(self, order: Order, /) -> None:
        """Approve what waits for it. Raises `OrderRefused` when it cannot be, or `IssuerUnavailable`."""


@runtime_checkable
class Paced(Protocol):
    """An issuer that may be asked only so often, by all processes on the store together."""

    def share(self, processes: int, /) -> None:
        """Ask no more than one of so many processes may, from now on.

        Called before it is asked for anything, and again and again, as long as the store can be read.
        """


@runtime_checkable
class Closing(Protocol):
    """An issuer that holds connections."""

    async def close(self) -> None:
        """Let go of them."""


DiagnosisLevel = Literal["ok", "note", "warning", "problem"]
"""problem: something waits or is refused; warning: it soon will be, or may be; note: nothing has to be done."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at, and how it was found; for the operator."""

    about: str
    """The name of a profile; empty for the issuer itself."""
    check: str
    """What was looked at, e.g. `API key`, `organization`."""
    level: DiagnosisLevel
    text: str
    """What was found, and what to do; no secret."""


@runtime_checkable
class Examinable(Protocol):
    """An issuer that can find out what will keep it from issuing: `cmpd doctor`."""

    async def examine(self, store: "Store | None", now: datetime, /) -> Sequence[Diagnosis]:
        """Look at everything that it and the profiles it was told of need, and change nothing.

        `store` is None where there is none, or it cannot be read. A look that fails is a diagnosis too.
        """


@runtime_checkable
class ProfileAware(Protocol):
    """An issuer that must know the profiles which issue by it: what it is told in their [issuer_options]."""

    def use(self, profile: Profile, /) -> list[str]:
        """Take on a profile; what of it this issuer cannot do, `key: fault`, one line each."""


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
