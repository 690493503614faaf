"""The one door: a request's octets in, an answer's octets out (RFC 9483 §3.5, §5.1).

    decode ─► validation.receive ─► protection ─► validation.authorise ─► HANDLERS[body] ─► answer

`respond` is total: whatever comes in, a PKIMessage comes out. A message that was not authenticated is answered and
changes nothing; the same octets again get the same answer again.
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509

from cmpd import asn1, reply, validation
from cmpd.asn1 import BodyType, oids
from cmpd.authentication import Attempt, Authenticator, named_by, seconds
from cmpd.enrollment import OpenTransaction, Operation, Realm, digest, still_prompt
from cmpd.errors import (
    BadDataFormat,
    BadRequest,
    CMPError,
    NotAuthorized,
    SystemFailure,
    SystemUnavail,
    TooMany,
    TransactionIdInUse,
)
from cmpd.exchange import (
    Arrival,
    CertificateRequest,
    Exchange,
    Finding,
    IssuedCertificate,
    Refusal,
    TooManyRequests,
    Transaction,
    TransactionState,
)
from cmpd.handlers import HANDLERS
from cmpd.limits import Limits
from cmpd.ordering import OrderDesk
from cmpd.ports import (
    Clock,
    CMPSigner,
    CodeUnusable,
    Entropy,
    Issuer,
    Known,
    RevocationSource,
    Store,
    StoreUnavailable,
    TransactionExists,
    TransactionMoved,
)
from cmpd.profile import Profile
from cmpd.protection import (
    Credential,
    Signer,
    is_mac,
)
from cmpd.refusals import Refusals, presentable
from cmpd.reply import Heading, Identity, Replier
from cmpd.transaction import Event
from cmpd.validation import Received

OPEN_TRANSACTIONS = 1024
"""Transactions waiting for their certConf that are kept in memory as well."""

_AGAIN = (TransactionExists, TransactionMoved)
_NO_GRACE = timedelta()
COPIES = 64
"""So many copies of requests that are being answered are held at a time; one more hears what is there."""
_LOOK_SECONDS = 0.2
"""How often it is looked whether the request has been answered, at whatever node."""


def utc_now() -> datetime:
    """The time now, aware."""
    return datetime.now(UTC)


@dataclass(slots=True)
class _Office:
    """What all conversations of a responder share."""

    profiles: Mapping[str, Profile]
    default: str | None
    issuers: Mapping[str, Issuer]
    store: Store
    limits: Limits
    clock: Clock
    entropy: Entropy
    refusals: Refusals
    authenticator: Authenticator
    desk: OrderDesk | None
    signer: CMPSigner | None
    realms: dict[str, Realm] = field(default_factory=dict)
    open: OrderedDict[bytes, OpenTransaction] = field(default_factory=OrderedDict)
    copies: int = 0
    """Copies of requests that wait for the answer to the first one."""

    async def realm(self, name: str) -> Realm:
        """Everything that serving a profile needs."""
        realm = self.realms.get(name)
        if realm is None:
            realm = self.realms[name] = await self._make_realm(self.profiles[name])
        return realm

    async def _make_realm(self, profile: Profile) -> Realm:
        issuer = self.issuers[profile.issuer]
        chain = await issuer.chain()
        identity = Identity()
        signer = issuer if isinstance(issuer, CMPSigner) else self.signer
        if signer is not None:
            key, certificates = signer.cmp_credential()
            own = x509.load_der_x509_certificate(certificates[0])
            key_id = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
            sender = asn1.der.tlv(0xA4, own.subject.public_bytes())
            identity = Identity.of(sender, key_id, Signer.of(key), certificates)
        return Realm.of(profile, issuer, chain, identity, self.limits)

    def remember(self, opened: OpenTransaction) -> None:
        """Keep a transaction at hand for its certConf; the oldest makes room."""
        self.open[opened.transaction.transaction_id] = opened
        if len(self.open) > OPEN_TRANSACTIONS:
            self.open.popitem(last=False)


class Responder:
    """Answers PKIMessages for a set of profiles. Immutable: a reload makes a new one."""

    def __init__(
        self,
        *,
        profiles: Mapping[str, Profile],
        default: str | None,
        issuers: Mapping[str, Issuer],
        store: Store,
        limits: Limits,
        observe: Callable[[Exchange], None],
        clock: Clock = utc_now,
        entropy: Entropy = os.urandom,
        revocations: RevocationSource | None = None,
        before: "Responder | None" = None,
        desk: OrderDesk | None = None,
        signer: CMPSigner | None = None,
    ) -> None:
        self.refusals: Refusals = Refusals() if before is None else before.refusals
        """The latest refusals that are not in the store; after a reload those of the responder `before` too."""
        self.authenticator = Authenticator(store, limits, revocations)
        """Who has failed how often; a reload goes on counting where the responder `before` was."""
        for profile in profiles.values():
            self.authenticator.expect(profile)
        if before is not None:
            self.authenticator.inherit(before.authenticator)
        self._office = _Office(
            profiles=profiles,
            default=default,
            issuers=issuers,
            store=store,
            limits=limits,
            clock=clock,
            entropy=entropy,
            refusals=self.refusals,
            authenticator=self.authenticator,
            desk=desk,
            signer=signer,
        )
        self._observe = observe

    async def prepare(self) -> None:
        """Make all that serving needs, so that what is wrong with it shows at start and not at the first request."""
        for name in self._office.profiles:
            await self._office.realm(name)

    async def answer(self, data: bytes, arrival: Arrival) -> bytes | TooManyRequests:
        """Answer one message as `respond` does, but for an address that sends too much of what cannot even be read."""
        wait = self.authenticator.overdrawn(arrival.address)
        if wait:
            try:
                asn1.decode(data, self._office.limits)
            except asn1.MalformedError:
                return TooManyRequests(seconds(wait))
        return await self.respond(data, arrival)

    async def respond(self, data: bytes, arrival: Arrival) -> bytes:
        """Answer one message. Never raises; every fault is a PKIMessage with its failInfo (RFC 9483 §3.6)."""
        exchange = Exchange(arrival.address)
        try:
            answer = await _Conversation(self._office, data, arrival, exchange).answer()
        except Exception as exc:  # noqa: BLE001  `respond` is total; the traceback goes to the log, not to the peer
            error = SystemFailure("an internal error occurred")
            exchange.outcome, exchange.fail_info, exchange.reason = "error", error.fail_info.name, str(error)
            exchange.exception = exc
            answer = _bare(self._office.entropy, self._office.clock(), error)
        exchange.ms = (time.perf_counter() - exchange.started) * 1000
        self._observe(exchange)
        return answer


class _Conversation:
    """One request on its way to its answer; knows at every step what it could protect a refusal with."""

    def __init__(self, office: _Office, data: bytes, arrival: Arrival, exchange: Exchange) -> None:
        self._office = office
        self._store = office.store
        self._limits = office.limits
        self._data = data
        self._arrival = arrival
        self._exchange = exchange
        self._now = office.clock()
        self._heading = Heading()
        self._identity = Identity()
        self._body_type: BodyType | None = None
        self._authenticated: asn1.PKIMessage | None = None
        """The message, once its sender is known."""
        self._attempt: Attempt | None = None
        """How it was authenticated."""
        self._open: OpenTransaction | None = None
        """The transaction that the message continues, when it is still in memory."""
        self._known: Known | None = None
        """What the message names, where the store has looked for all of it at once."""
        self._transaction: Transaction | None = None
        self._realm: Realm | None = None
        self._decided: CertificateRequest | None = None
        self._kept = False
        """The refusal is in the store, or its answer was there already."""
        self._store_failed = False

    async def answer(self) -> bytes:
        """Answer, or refuse in the form that RFC 9483 §3.6.2 asks for, and keep why."""
        answer = await self._answer()
        if self._exchange.fail_info and not self._kept:
            await self._keep()
        return answer

    async def _answer(self) -> bytes:
        try:
            message = asn1.decode(self._data, self._limits)
        except asn1.MalformedError as exc:
            self._salvage()
            self._office.authenticator.failed(self._arrival.address)
            return self._refuse(BadDataFormat(f"the message cannot be read: {exc}"))
        self._exchange.operation = message.body_type.name
        self._exchange.normalised = message.was_ber
        self._heading = Heading.of(message.header)
        self._body_type = message.body_type
        try:
            return await self._converse(message)
        except asn1.MalformedError as exc:
            return self._refuse(BadDataFormat(str(exc)))
        except CMPError as exc:
            return self._refuse(exc)
        except StoreUnavailable as exc:
            self._store_failed = True
            return self._refuse(SystemUnavail("the service cannot store its state; try again later", private=str(exc)))

    async def _converse(self, message: asn1.PKIMessage) -> bytes:
        """The straight line, in the order of RFC 9483 §3.5."""
        wait = self._office.authenticator.admit(self._arrival.address)
        if wait:
            raise TooMany(
                f"too many requests from this address; try again in {seconds(wait)} s", "limits.address_requests"
            )
        realm = await self._office.realm(self._profile_name(message))
        self._realm, profile = realm, realm.profile
        self._exchange.profile = profile.name
        if not is_mac(message) and (message.header.protectionAlg is not None or profile.unprotected):
            self._identity = realm.identity  # whatever comes of it, a client with a certificate can check a signature
        request = digest(self._data)
        received: Received | None = None
        fault: CMPError | None = None
        try:
            validation.version(message)
            transaction_id = validation.transaction_id(message, profile, self._office.entropy)
            transaction = await self._find(message, transaction_id)
            if transaction is not None:
                again = await self._repeat(transaction, request, profile.name)
                if again is not None:
                    return again
                if transaction.profile != profile.name:
                    transaction = _elsewhere(transaction)
            received = validation.receive(message, transaction_id, transaction, profile)
        except CMPError as exc:
            fault = exc
        # also for a message that is refused already: so that the refusal is protected as its sender can verify it
        try:
            credential = await self._authenticate(message, realm)
        except (CMPError, asn1.MalformedError) as exc:
            raise fault or exc from exc
        if received is None:
            assert fault is not None
            raise fault
        return await self._act(received, credential, realm, request)

    async def _find(self, message: asn1.PKIMessage, transaction_id: bytes) -> Transaction | None:
        """The transaction that the message names: in memory, while it waits for its certConf, or in the store."""
        if not message.header.transactionID:
            self._heading = Heading.of(message.header, transaction_id)
        self._exchange.transaction_id = transaction_id.hex()
        self._open = self._office.open.get(transaction_id)
        if self._open is not None:
            self._transaction = self._open.transaction
        else:
            assert self._realm is not None
            profile = self._realm.profile
            known = await self._store.look_up(transaction_id, lambda: named_by(message, self._arrival, profile))
            self._transaction = known.transaction
            self._known = known if known.complete else None
        return self._transaction

    def _certificates(self) -> tuple[IssuedCertificate, ...] | None:
        """Those of the transaction, where they are at hand."""
        if self._open is not None:
            return self._open.certificates
        return None if self._known is None else self._known.certificates

    async def _act(self, received: Received, credential: Credential, realm: Realm, request: bytes) -> bytes:
        """The sender is known: may it, and what comes of it."""
        message, authenticator = received.message, self._office.authenticator
        try:
            validation.authorise(
                received,
                credential,
                realm.profile,
                self._now,
                operation=self._arrival.operation,
                used_up=realm.orders,
            )
        except NotAuthorized:
            # a code that was used up a moment ago, by these very octets: the answer is there
            again = await self._answered_meanwhile(received, request)
            if again is not None:
                return again
            raise
        if received.event is Event.begin:
            assert self._attempt is not None
            await authenticator.authorise(self._attempt, credential)
            authenticator.admit_beginning(realm.profile, credential)
        operation = Operation(
            received=received,
            credential=credential,
            body=message.decode_body(),
            digest=request,
            realm=realm,
            store=self._store,
            limits=self._limits,
            now=self._now,
            replier=self._replier(),
            exchange=self._exchange,
            issued=self._certificates(),
            desk=self._office.desk,
        )
        try:
            answer = await HANDLERS[message.body_type](operation)
        except _AGAIN:
            if self._open is not None or received.event is not Event.begin:
                # it has moved without us: the store knows how it stands
                self._office.open.pop(received.transaction_id, None)
                return await self._converse(message)
            again = await self._answered_meanwhile(received, request)
            if again is not None:
                return again
            raise TransactionIdInUse("the transactionID is in use for another request") from None
        except CodeUnusable:
            again = await self._answered_meanwhile(received, request)
            if again is not None:
                return again
            raise NotAuthorized("enrollment code has been used up") from None
        except asn1.MalformedError as exc:
            return await self._refuse_in_body(operation, BadDataFormat(str(exc)))
        except CMPError as exc:
            return await self._refuse_in_body(operation, exc)
        if operation.opened is not None:
            self._office.remember(operation.opened)
        elif self._open is not None:
            self._office.open.pop(received.transaction_id, None)
        return answer

    async def _refuse_in_body(self, operation: Operation, error: CMPError) -> bytes:
        """A fault in the body of a request (RFC 9483 §3.6.2). The transaction has ended with it, and that is kept.

        What may be tried again in the same way, systemUnavail and systemFailure, is not kept.
        """
        cert_req_id = -1 if self._body_type is BodyType.p10cr else 0
        answer = self._refuse(error, replier=operation.replier, in_body=True, cert_req_id=cert_req_id)
        self._decided = operation.decided
        if operation.received.event is Event.begin and not isinstance(error, SystemUnavail | SystemFailure):
            refusal = self._refusal() if self._office.refusals.admit(self._exchange.profile, self._now) else None
            try:
                await self._store.refused(operation.transaction(TransactionState.refused, answer), refusal)
            except _AGAIN:
                again = await self._answered_meanwhile(operation.received, operation.digest)
                if again is not None:
                    self._kept = True
                    return again
            else:
                self._kept = refusal is not None
        return answer

    async def _keep(self) -> None:
        """Keep why: in the store when the sender is known and there are not too many, else in memory."""
        refusals = self._office.refusals
        refusal = self._refusal()
        known = self._authenticated is not None and not self._store_failed
        if known and refusals.admit(self._exchange.profile, self._now):
            with suppress(StoreUnavailable):
                await self._store.refusal(refusal)
                return
        refusals.remember(refusal)

    def _refusal(self) -> Refusal:
        exchange, message, decided = self._exchange, self._authenticated, self._decided
        findings: list[Finding] = []
        if decided is not None and self._realm is not None:
            transaction_id = self._heading.transaction_id or b""
            findings = self._realm.profile.explain(decided, transaction_id=transaction_id, now=self._now)
        return Refusal(
            at=self._now,
            address=exchange.address,
            profile=exchange.profile,
            operation=exchange.operation,
            transaction_id=exchange.transaction_id,
            credential=exchange.credential,
            fail_info=exchange.fail_info,
            reason=exchange.reason,
            private=exchange.private,
            findings=tuple(findings),
            request=None if message is None else presentable(message),
        )

    # ------------------------------------------------------------------------------------------ who is it

    def _profile_name(self, message: asn1.PKIMessage) -> str:
        """The profile: by the URL, else by certProfile, else the default one (RFC 9483 §3.1, §6.1)."""
        named = _cert_profile(message.header)
        name = self._arrival.profile
        if name is None:
            name = named or self._office.default
        elif named is not None and named != name and message.body_type in reply.RESPONSE_OF:
            raise BadRequest("certProfile names another profile than the URL")
        if name is None:
            raise BadRequest("neither the URL nor certProfile names a profile, and there is no default one")
        if name not in self._office.profiles:
            raise BadRequest("there is no profile of the name that certProfile gives")
        return name

    async def _authenticate(self, message: asn1.PKIMessage, realm: Realm) -> Credential:
        """Verify the protection; from here on a refusal can be protected as the client can verify it."""
        attempt = self._attempt = Attempt(
            message=message,
            arrival=self._arrival,
            realm=realm,
            now=self._now,
            identity=self._identity,
            transaction=self._transaction,
            code=None if self._open is None else self._open.code,
            grace=_grace(message, self._transaction, realm.profile),
            known=self._known,
        )
        try:
            return await self._office.authenticator.authenticate(attempt)
        finally:
            self._identity = attempt.identity
            if attempt.sender:
                self._authenticated = message
                self._exchange.credential = asn1.printable(attempt.sender)
            if attempt.tls is not None:
                self._exchange.client = asn1.printable(attempt.tls.signer.label)

    # ------------------------------------------------------------------------------------------ answering

    def _again(self, transaction: Transaction, request: bytes, profile: str) -> bytes | None:
        """The stored answer, when these octets have been answered before."""
        if transaction.profile != profile:
            return None
        answer = None
        if request == transaction.first_request:
            answer = transaction.first_reply
        elif transaction.last_request is not None and request == transaction.last_request:
            answer = transaction.last_reply
        if answer is not None:
            self._exchange.outcome = "repeated"
        return answer

    async def _answered_meanwhile(self, received: Received, request: bytes) -> bytes | None:
        """Look again: another copy of the same request may have been answered while this one was on its way."""
        transaction = await self._store.transaction(received.transaction_id)
        return None if transaction is None else await self._repeat(transaction, request, self._exchange.profile)

    async def _repeat(self, transaction: Transaction, request: bytes, profile: str) -> bytes | None:
        """The stored answer. That to a request which is being answered elsewhere, at this moment, is waited for.

        Until then it is `waiting`; who was told that would poll for what its other copy has been given.
        """
        office = self._office
        if request == transaction.first_request and transaction.profile == profile and office.profiles[profile].polling:
            until = time.monotonic() + still_prompt(transaction.created, office.clock())
            while transaction.state is TransactionState.waiting and time.monotonic() < until and office.copies < COPIES:
                office.copies += 1
                try:
                    await asyncio.sleep(_LOOK_SECONDS)
                finally:
                    office.copies -= 1
                transaction = await self._store.transaction(transaction.transaction_id) or transaction
        return self._again(transaction, request, profile)

    def _replier(self) -> Replier:
        return Replier(self._heading, self._identity, self._office.entropy(16), self._now)

    def _refuse(
        self, error: CMPError, *, replier: Replier | None = None, in_body: bool = False, cert_req_id: int = 0
    ) -> bytes:
        exchange = self._exchange
        exchange.outcome = "rejection" if in_body and self._body_type in reply.RESPONSE_OF else "error"
        exchange.fail_info, exchange.reason = error.fail_info.name, str(error)
        exchange.private = error.private or exchange.private
        if isinstance(error, TooMany):
            exchange.limit = error.limit
        return (replier or self._replier()).refuse(self._body_type, error, in_body=in_body, cert_req_id=cert_req_id)

    def _salvage(self) -> None:
        """Repeat transactionID and nonce even to a message that cannot be read as a whole, where its header can."""
        try:
            _, start, _ = asn1.der.read(self._data)
            _, _, end = asn1.der.read(self._data, start)
            self._heading = Heading.of(asn1.parse(asn1.PKIHeader, self._data[start:end]))
        except asn1.MalformedError:
            return
        if self._heading.transaction_id is not None:
            self._exchange.transaction_id = self._heading.transaction_id[: validation.MAX_ID_OCTETS].hex()


def _elsewhere(transaction: Transaction) -> Transaction:
    """A transactionID that another profile has in use: to this one it is a transaction that expects nothing."""
    return replace(transaction, state=TransactionState.refused)


def _grace(message: asn1.PKIMessage, transaction: Transaction | None, profile: Profile) -> timedelta:
    """How long ago the CMP protection certificate may have expired: only for a kur, and what follows on it."""
    if transaction is None:
        return profile.renewal_grace if message.body_type is BodyType.kur else _NO_GRACE
    if transaction.operation == BodyType.kur.name and profile.renewal_grace:
        return profile.renewal_grace + profile.confirm_wait
    return _NO_GRACE


def _cert_profile(header: asn1.PKIHeader) -> str | None:
    """CertProfileValue: a sequence of one UTF8String (RFC 9483 §3.1)."""
    for info in header.generalInfo or ():
        if info.infoType == oids.CERT_PROFILE and info.infoValue is not None:
            names = asn1.der.children(asn1.raw(info.infoValue), 16)
            if len(names) == 1 and names[0][0] == asn1.der.UTF8_STRING:
                return asn1.text_of(asn1.der.UTF8_STRING, asn1.der.content(names[0], asn1.der.UTF8_STRING)) or None
            raise BadDataFormat("generalInfo: certProfile is not a sequence of one UTF8String")
    return None


def _bare(entropy: Entropy, now: datetime, error: CMPError) -> bytes:
    """The answer when even refusing has failed (RFC 9483 §3.6.4)."""
    return Replier(Heading(), Identity(), entropy(16), now).refuse(None, error, in_body=False)
