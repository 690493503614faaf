"""Who sent it: the message's protection, the TLS client behind it, and what the profile asks of both (RFC 9483 §3.5).

    enrollment code     MAC, the code found by senderKID or by the URL                            RFC 9483 §4.1.5
    certificate         signature of a certificate of ours, of a trusted CA, a maker or an RA     RFC 9483 §3.2
    TLS client          instead of a signature, or in addition to it, where the profile says so   RFC 9483 §6.1

Cheap before dear: counts and locks, a known reference, bounded parameters, and only then a derivation or a signature.
The one state that an unauthenticated message can change is the count of wrong MACs, and the lock at its end. A process
that is alone counts in memory; several count in the store, for each code one guess at a time, so that N processes do
not allow N times as many. No more than `lock_after` of these writes come before a lock, and none while it lasts.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import asn1, reply, validation
from cmpd.asn1.certificate import serial
from cmpd.asn1.compare import same_name
from cmpd.enrollment import Realm, is_authorised_ra
from cmpd.errors import (
    BadAlg,
    BadMessageCheck,
    CertRevoked,
    CMPError,
    NotAuthorized,
    SignerNotTrusted,
    SystemUnavail,
    TooMany,
    WrongIntegrity,
)
from cmpd.exchange import Arrival, CertificateStatus, EnrollmentCode, IssuedCertificate, Transaction
from cmpd.limits import Limits
from cmpd.ports import Known, Named, RevocationSource, RevocationUnknown, Revoked, Store, StoreUnavailable
from cmpd.profile import Profile
from cmpd.protection import (
    CertificateCredential,
    Credential,
    KnownSigner,
    MacCredential,
    MacKey,
    Role,
    SignerCache,
    is_mac,
    mac_reference,
    serial_of,
)
from cmpd.protection.certpath import CMP_CERTIFICATE, TLS_CERTIFICATE
from cmpd.protection.client import device_serial
from cmpd.protection.mac import MacParameters, derive, parameters
from cmpd.rates import Buckets, WrongMACs, length_of_lock, neighbourhood, read_address
from cmpd.reply import Identity

logger = logging.getLogger(__name__)

DERIVED_KEYS = 4096
"""MAC keys that are remembered, so that a client which keeps its parameters costs one derivation (RFC 9483 §4.1.5)."""
FOREIGN = 1024
"""Certificates of other PKIs of which it is remembered that the store does not have them."""
LONG_DERIVATIONS = 2
"""Derivations beyond `limits.inline_iterations` that may run at a time; more of them wait."""
WAITING_DERIVATIONS = 32
"""How many of them there may be, running and waiting; one more is answered with systemUnavail."""

_UNKNOWN_SENDER = (BadMessageCheck, SignerNotTrusted, WrongIntegrity, BadAlg)
_WRONG_MAC = "the MAC does not verify with the shared secret of this reference"


@dataclass(slots=True)
class Attempt:
    """One message to be authenticated; `identity` is set as soon as it is known what an answer is protected with."""

    message: asn1.PKIMessage
    arrival: Arrival
    realm: Realm
    now: datetime
    identity: Identity
    transaction: Transaction | None = None
    """The transaction that the message names."""
    code: EnrollmentCode | None = None
    """The code that began it, when it is in memory."""
    grace: timedelta = timedelta()
    """How long ago the signer's certificate may have expired."""
    tls: CertificateCredential | None = None
    """The TLS client, where the profile looks at it; set by `authenticate`."""
    known: Known | None = None
    """What was found with the transaction, where all was looked for."""
    looked_up: dict[int, IssuedCertificate | None] = field(default_factory=dict)
    """What the store has been asked about: one certificate is often needed for signature, TLS and role alike."""
    sender: str = ""
    """Who has sent the message, for the log; set by `authenticate` when it is certain, whatever else is wrong."""


@dataclass(slots=True)
class Authenticator:
    """What authentication knows beyond one message: derived keys, and who has failed how often."""

    store: Store
    limits: Limits
    revocations: RevocationSource | None = None
    """None: nobody is asked whether certificates of other PKIs have been revoked."""
    keys: OrderedDict[tuple[int, bytes], MacKey] = field(default_factory=OrderedDict)
    long_derivations: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LONG_DERIVATIONS))
    waiting: int = 0
    """Long derivations under way or waiting."""
    requests: Buckets = field(init=False)
    failures: Buckets = field(init=False)
    wrong_macs: WrongMACs = field(init=False)
    locking: dict[tuple[str, str], datetime] = field(default_factory=dict)
    """Locks that are on their way into the store: until they are there, guesses that come at once see them here."""
    foreign: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    """Validated certificates that the store does not have: what is not ours when it is seen never becomes ours."""
    beginnings: dict[str, Buckets] = field(default_factory=dict)
    """Requests that begin, by profile or by profile and code."""
    several: bool = False
    """Other processes work on the store: wrong MACs are counted there."""
    counting: dict[tuple[str, str], asyncio.Event] = field(default_factory=dict)
    """Wrong MACs that are on their way into the store: until they are there, no other one is looked at."""

    def __post_init__(self) -> None:
        limits = self.limits
        self.requests = Buckets(limits.address_requests, limits.address_requests, limits.tracked_addresses)
        self.failures = Buckets(limits.address_failures / 60, limits.address_failures, limits.tracked_addresses)
        self.wrong_macs = WrongMACs(limits.tracked_addresses)

    def inherit(self, before: "Authenticator") -> None:
        """Go on counting where another one was, after a reload."""
        self.wrong_macs = before.wrong_macs
        self.several = before.several
        if before.limits.address_failures == self.limits.address_failures:
            self.failures = before.failures
        if before.limits.address_requests == self.limits.address_requests:
            self.requests = before.requests

    # ------------------------------------------------------------------------------------------ how much

    def expect(self, profile: Profile) -> None:
        """Make the buckets of a profile's limits, so that what other processes count has its place."""
        if profile.requests_per_second is not None:
            rate = profile.requests_per_second
            self.beginnings[profile.name] = Buckets(rate, rate, self.limits.tracked_addresses)
        if profile.code.requests_per_minute is not None:
            rate = profile.code.requests_per_minute
            self.beginnings[f"{profile.name}:code"] = Buckets(rate / 60, rate, self.limits.tracked_addresses)

    @property
    def buckets(self) -> dict[str, Buckets]:
        """All that other processes must hear of, each by a name without a space."""
        found = {f"begin:{name}": one for name, one in self.beginnings.items()}
        if self.limits.address_requests:
            found["requests"] = self.requests
        if self.limits.address_failures:
            found["failures"] = self.failures
        return found

    def admit(self, address: str) -> float:
        """Count a message from an address; 0, or after how many seconds it may come again."""
        if not self.limits.address_requests:
            return 0.0
        return self.requests.take(neighbourhood(address), time.monotonic())

    def failed(self, address: str) -> None:
        """Count a message whose sender could not be authenticated."""
        if self.limits.address_failures:
            self.failures.take(neighbourhood(address), time.monotonic())

    def suspended(self, address: str) -> float:
        """0, or for how many seconds nothing from an address is looked into: too much of it has failed."""
        if not self.limits.address_failures:
            return 0.0
        return self.failures.wait(neighbourhood(address), time.monotonic())

    def overdrawn(self, address: str) -> float:
        """0, or for how many seconds an address has had more than its share, of whatever kind. Counts nothing."""
        wait = self.suspended(address)
        if not wait and self.limits.address_requests:
            wait = self.requests.wait(neighbourhood(address), time.monotonic())
        return wait

    def admit_beginning(self, profile: Profile, credential: Credential) -> None:
        """Count a request of an authenticated sender against the limits of the profile; raises SystemUnavail."""
        if profile.requests_per_second is not None:
            self._take(profile.name, "", "enrollment.requests_per_second")
        if profile.code.requests_per_minute is not None and isinstance(credential, MacCredential):
            self._take(f"{profile.name}:code", credential.id, "enrollment.code.requests_per_minute")

    def _take(self, name: str, key: str, rule: str) -> None:
        wait = self.beginnings[name].take(key, time.monotonic())
        if wait:
            raise TooMany(f"too many requests; try again in {seconds(wait)} s ({rule})", rule)

    # ------------------------------------------------------------------------------------------ who is it

    async def authenticate(self, attempt: Attempt) -> Credential:
        """Verify protection and TLS client; returns who it is. Raises CMPError, MalformedError, StoreUnavailable."""
        address = attempt.arrival.address
        wait = self.suspended(address)
        if wait:
            raise TooMany(
                f"too many messages from this address could not be authenticated; try again in {seconds(wait)} s",
                "limits.address_failures",
            )
        try:
            return await self._authenticate(attempt)
        except _UNKNOWN_SENDER:
            self.failed(address)
            raise

    async def _authenticate(self, attempt: Attempt) -> Credential:
        message, realm = attempt.message, attempt.realm
        profile = realm.profile
        unprotected = message.protection is None
        if unprotected:
            if not profile.unprotected:
                raise BadMessageCheck("the message is not protected")
            if attempt.arrival.client is None:
                raise BadMessageCheck("a message without protection needs a TLS client certificate")
        elif message.header.protectionAlg is None:
            raise BadMessageCheck("the message is protected, but protectionAlg is absent")
        else:
            validation.kind_of_protection(message, profile)
        if unprotected or not is_mac(message):
            attempt.identity = realm.identity  # whatever comes of it, a client with a certificate can check a signature
        if unprotected:
            attempt.tls = await self._tls_client(attempt)
            return attempt.tls
        credential = await self._code(attempt) if is_mac(message) else await self._signer(attempt)
        if profile.tls_required:
            attempt.tls = await self._tls_client(attempt)
            if isinstance(credential, CertificateCredential):
                _check_binding(attempt.tls, credential, profile.tls_binding)
        return credential

    # ------------------------------------------------------------------------------------------ enrollment codes

    async def _code(self, attempt: Attempt) -> MacCredential:
        """RFC 9483 §4.1.5. The code is found by the URL, else by senderKID, else it is the profile's global one."""
        message, profile, now = attempt.message, attempt.realm.profile, attempt.now
        algorithm = message.header.protectionAlg
        assert algorithm is not None
        assert message.protection is not None
        found = parameters(algorithm, self.limits)
        reference = _reference(message, attempt.arrival)
        code = attempt.code
        if (
            code is None
            or code.profile != profile.name
            or (code.reference.encode() != reference and not code.is_global)
        ):
            if attempt.known is not None:
                code = attempt.known.code
            else:
                code = await self.store.code(profile.name, reference)
                if code is None and profile.code.allow_global:
                    code = await self.store.global_code(profile.name)
            if code is not None and code.is_global and not profile.code.allow_global:
                code = None
        while code is not None and (counting := self.counting.get((profile.name, str(code.id)))) is not None:
            await counting.wait()
            code = await self.store.code(profile.name, code.reference.encode())
        # a global code is everybody's: wrong MACs of one address must not lock it for all others
        shown = asn1.printable(reference.decode(errors="replace"))[:64]
        if code is None:
            key = (profile.name, f"?{shown}")
        elif code.is_global:
            key = (str(code.id), neighbourhood(attempt.arrival.address))
        else:
            key = (profile.name, str(code.id))
        if not _follows(attempt):
            self._check_lock(code, key, now, shown)
        if code is None:
            await self._wrong_mac(attempt, None, key, shown)
            raise BadMessageCheck(_WRONG_MAC, private=f"unknown reference {shown}")
        algorithm_der = asn1.dump(algorithm)
        mac_key = self.keys.get((code.id, algorithm_der))
        if mac_key is None:
            mac_key = MacKey(algorithm_der, found.mac, await self._derive(found, code.secret))
        try:
            mac_key.check(message.protected_part(), message.protection)
        except BadMessageCheck as exc:
            await self._wrong_mac(attempt, code, key, shown)
            exc.private = f"wrong secret, or the message was changed; reference {code.reference}"
            raise
        credential = MacCredential(code, mac_key)
        attempt.sender = credential.label
        self.wrong_macs.right(key)
        _remember(self.keys, code, mac_key)
        # the answer names the secret as the client did, whatever the URL says
        called = message.header.senderKID or reference
        attempt.identity = Identity.of(reply.mac_sender(called), called, mac_key)
        return credential

    def _check_lock(self, code: EnrollmentCode | None, key: tuple[str, str], now: datetime, shown: str) -> None:
        """No MAC is looked at while the reference is locked, known or not; raises SystemUnavail."""
        if code is None or code.is_global:
            until = self.wrong_macs.locked_until(key)
        else:
            until = self.locking.get(key) or code.locked_until
        if until is not None and now < until:
            raise TooMany(
                f"too many wrong MACs with this reference; try again at {until:%Y-%m-%dT%H:%M:%SZ}",
                "enrollment.code.lock_after",
                private=f"locked; reference {shown}",
            )

    async def _wrong_mac(self, attempt: Attempt, code: EnrollmentCode | None, key: tuple[str, str], shown: str) -> None:
        """Count a wrong MAC; one in `lock_after` begins a lock, which every node learns of from the store."""
        profile, now = attempt.realm.profile, attempt.now
        rules = profile.code
        if self.several and code is not None and not code.is_global:
            until = now + length_of_lock(rules.lock_for, rules.lock_max, code.locks)
            try:
                locked = await self._count(code, key, rules.lock_after, until)
            except StoreUnavailable:
                self.failed(attempt.arrival.address)  # what the store does not count, the address's limit does
                raise
            if not locked:
                return
        elif not self.wrong_macs.wrong(key, rules.lock_after):
            return
        elif code is None or code.is_global:
            until = self.wrong_macs.lock(key, now, rules.lock_for, rules.lock_max)
        else:
            until = now + length_of_lock(rules.lock_for, rules.lock_max, code.locks)
            self.locking[key] = until
            try:
                await self.store.lock_code(code.id, until=until, locks=code.locks + 1)
            finally:
                self.locking.pop(key, None)
        logger.warning(
            "too many wrong MACs: profile %s, reference %s, address %s; locked until %s",
            profile.name,
            shown if code is None else code.reference,
            attempt.arrival.address,
            f"{until:%Y-%m-%dT%H:%M:%SZ}",
        )

    async def _count(self, code: EnrollmentCode, key: tuple[str, str], most: int, until: datetime) -> bool:
        """Count a wrong MAC for all processes; True when the code is locked now. One at a time here."""
        counted = self.counting.setdefault(key, asyncio.Event())
        try:
            # what was counted here while nobody else was known of, counts for all from now on
            count = 1 + self.wrong_macs.take(key)
            return await self.store.wrong_mac(code.id, most=most, until=until, locks=code.locks + 1, count=count)
        finally:
            self.counting.pop(key, None)
            counted.set()

    async def _derive(self, found: MacParameters, secret: bytes) -> bytes:
        """Derive a MAC key; a long derivation in a thread, and not when too many wait. Raises SystemUnavail."""
        if found.iterations <= self.limits.inline_iterations:
            return derive(found, secret)
        if self.waiting >= WAITING_DERIVATIONS:
            raise SystemUnavail("too many messages with a high iterationCount are waiting; try again later")
        self.waiting += 1
        try:
            async with self.long_derivations:
                return await asyncio.to_thread(derive, found, secret)
        finally:
            self.waiting -= 1

    # ------------------------------------------------------------------------------------------ certificates

    async def _signer(self, attempt: Attempt) -> CertificateCredential:
        """Validate the CMP protection certificate, then the signature (RFC 9483 §3.5); the store knows our own."""
        message, realm, now, grace = attempt.message, attempt.realm, attempt.now, attempt.grace
        ours = await self._ours(attempt)
        role = Role.own
        known = None if ours is None else realm.signers.adopt(ours.der, message.header.senderKID, now, grace)
        if known is None:
            first = () if ours is None else (ours.der,)
            role, known = _first_of(
                realm, lambda signers, own: signers.find(message, now, grace if own else timedelta(), first)
            )
        realm.signers.check(message, known)
        attempt.sender = f"cert:{known.label}"
        issued = await self._issued(attempt, known.serial, known.der)
        return await self._credential(attempt, known, issued, role, CMP_CERTIFICATE)

    async def _tls_client(self, attempt: Attempt) -> CertificateCredential:
        """Validate the TLS client's certificate (RFC 5280 §6); its key was proven in the handshake."""
        client, realm, now = attempt.arrival.client, attempt.realm, attempt.now
        if client is None:
            raise NotAuthorized("the profile asks for a TLS client certificate (enrollment.tls.required)")
        try:
            issued = await self._issued(attempt, serial(client.certificate), client.certificate)
        except asn1.MalformedError as exc:
            raise SignerNotTrusted("the TLS client certificate cannot be read", private=str(exc)) from exc
        role, known = Role.own, None
        if issued is not None and issued.der == client.certificate:
            known = realm.tls_signers.adopt(issued.der, None, now, attempt.grace)
        if known is None:
            role, known = _first_of(
                realm,
                lambda signers, own: signers.accept(
                    client.certificate, client.chain, now, attempt.grace if own else timedelta()
                ),
                tls=True,
            )
        if attempt.message.protection is None:
            attempt.sender = f"cert:{known.label}"
        credential = await self._credential(attempt, known, issued, role, TLS_CERTIFICATE)
        if credential.issued is not None and not credential.is_ra:  # an RA is whoever the profile lists as one
            if credential.issued.profile != realm.profile.name:
                raise NotAuthorized("the TLS client certificate was issued by another profile")
            if credential.issued.status is not CertificateStatus.valid:
                raise NotAuthorized("the TLS client certificate has not been confirmed")
        return credential

    async def _credential(
        self, attempt: Attempt, known: KnownSigner, issued: IssuedCertificate | None, role: Role, what: str
    ) -> CertificateCredential:
        """Hold a certificate whose path and key are right against what the profile asks of its kind."""
        realm, now = attempt.realm, attempt.now
        if issued is not None and issued.der != known.der:
            issued = None
        if realm.ra_signers is not None and role is not Role.ra and _is_ra(realm, known, now):
            role = Role.ra
        if issued is not None:
            if issued.status is CertificateStatus.revoked:
                raise CertRevoked(f"{what} has been revoked")
            return CertificateCredential(known, issued, Role.ra if role is Role.ra else Role.own)
        if not realm.orders:  # a CA that is ordered from may issue what the store is to learn of later
            self.foreign[known.der] = None
            if len(self.foreign) > FOREIGN:
                self.foreign.popitem(last=False)
        if now > known.path.not_after:
            raise SignerNotTrusted(f"{what} has expired", private="not issued by this service")
        if known.issuer == realm.issuing_name and role is not Role.ra:
            # signed by our own issuing CA: what the store does not know then, our CMP signer say, is no EE
            raise NotAuthorized(f"{what} is not one that was issued by this service to an EE")
        if self.revocations is not None and not realm.profile.revocation.off:
            await self._check_revocation(known, realm.profile, now, what)
        if role is Role.vendor:
            return await self._device(attempt, known)
        if role is Role.own:
            role = Role.client
        if role is Role.client:
            fault = realm.profile.client.fault(known)
            if fault is not None:
                raise NotAuthorized(f"{fault[1]} ({fault[0]})")
        return CertificateCredential(known, None, role)

    async def _check_revocation(self, known: KnownSigner, profile: Profile, now: datetime, what: str) -> None:
        assert self.revocations is not None
        try:
            await self.revocations.check(known.path.certificates, profile.revocation, now)
        except Revoked as exc:
            raise CertRevoked(f"{what} has been revoked", private=str(exc)) from exc
        except RevocationUnknown as exc:
            raise SystemUnavail(
                f"whether {what} has been revoked cannot be found out now; try again later",
                private=str(exc),
            ) from exc

    async def _device(self, attempt: Attempt, known: KnownSigner) -> CertificateCredential:
        """A device by its maker's certificate (IEEE 802.1AR §8; RFC 9483 §1.6): its serial number, and the list."""
        profile = attempt.realm.profile
        rules = profile.vendor
        assert rules is not None
        number = device_serial(known, rules.serial_from)
        if not number:
            raise NotAuthorized(
                f"the vendor certificate has no serial number in {rules.serial_from} (enrollment.vendor.serial_from)"
            )
        device = await self.store.device(profile.name, number)
        if device is None and rules.allow_list:
            raise NotAuthorized(
                "the device is not known here (enrollment.vendor.allow_list)",
                private=f"serial number {asn1.printable(number)[:64]} is not in the list; see `cmpd device`",
            )
        return CertificateCredential(known, None, Role.vendor, serial=number, device=device)

    async def _ours(self, attempt: Attempt) -> IssuedCertificate | None:
        """The certificate of ours that signs: the first of extraCerts, or the one that began the transaction.

        A certConf may leave it out (RFC 9483 §4.1.1).
        """
        if attempt.message.extraCerts:
            candidate = attempt.message.extraCerts[0]
            try:
                issued = await self._issued(attempt, serial(candidate), candidate)
            except asn1.MalformedError:
                return None
            return issued if issued is not None and issued.der == candidate else None
        number = None if attempt.transaction is None else serial_of(attempt.transaction.credential)
        return None if number is None else await self._issued(attempt, number)

    async def _issued(self, attempt: Attempt, number: int, der: bytes = b"") -> IssuedCertificate | None:
        """Our own record of a serial number; whether the octets are the same is for the caller to see."""
        if der in self.foreign:
            return None
        try:
            return attempt.looked_up[number]
        except KeyError:
            if attempt.known is not None and number in attempt.known.signers:
                return attempt.known.signers[number]
            found = attempt.looked_up[number] = await self.store.certificate(number)
            return found

    # ------------------------------------------------------------------------------------------ may it

    async def authorise(self, attempt: Attempt, credential: Credential) -> None:
        """What the profile asks of who begins, beyond that it is known. Raises NotAuthorized or WrongIntegrity."""
        profile, body = attempt.realm.profile, attempt.message.body_type
        check_address(profile, attempt.arrival.address)
        if isinstance(credential, CertificateCredential):
            if credential.role is Role.vendor and body is not asn1.BodyType.ir:
                raise NotAuthorized("a vendor's certificate is good for an ir only")
            if (
                profile.authentication_method == "enrollment_code"
                and body is asn1.BodyType.ir
                and credential.role not in {Role.vendor, Role.ra}
            ):
                raise WrongIntegrity(
                    "this profile asks for an enrollment code: protect the ir by a MAC "
                    "(enrollment.authentication_method)"
                )
        if profile.service_user is not None:
            await self._check_service_user(attempt, credential, profile.service_user)

    async def _check_service_user(self, attempt: Attempt, credential: Credential, user: str) -> None:
        """The profile is for one client, known by a set of certificates: of the TLS client where TLS is asked for.

        What it has had issued may be updated, by a kur that is signed with it; such a certificate makes nobody the
        service user.
        """
        who = credential if attempt.tls is None else attempt.tls
        if isinstance(who, CertificateCredential):
            if (
                who.issued is not None
                and attempt.message.body_type is asn1.BodyType.kur
                and who.id == credential.id  # over TLS as well: the one that is updated is the client's only one
            ):
                return
            signer = who.signer
            if who.issued is None and await self.store.is_service_user(
                user, signer.fingerprint, signer.issuer, signer.subject
            ):
                return
        raise NotAuthorized(
            "the profile is for its service user only (enrollment.service_user)",
            private=f"service user {user}; see `cmpd service-user`",
        )


def named_by(message: asn1.PKIMessage, arrival: Arrival, profile: Profile) -> Named:
    """What a message names and the store may know: what it takes to authenticate it."""
    reference = None
    serials: list[int] = []
    with suppress(CMPError, asn1.MalformedError):  # it is said when the message is authenticated
        if is_mac(message):
            reference = _reference(message, arrival)
        elif message.extraCerts:
            serials.append(serial(message.extraCerts[0]))
    if arrival.client is not None and (profile.tls_required or message.protection is None):
        with suppress(asn1.MalformedError):
            serials.append(serial(arrival.client.certificate))
    return Named(profile.name, reference, profile.code.allow_global, tuple(dict.fromkeys(serials)))


def _reference(message: asn1.PKIMessage, arrival: Arrival) -> bytes:
    """The name of the shared secret: as the URL has it, else as the message does. Raises BadMessageCheck."""
    return mac_reference(message) if arrival.code is None else arrival.code.encode()


def _follows(attempt: Attempt) -> bool:
    """Whether a message knows the nonce of our latest answer: whoever locks a code cannot stop what has begun."""
    nonce = None if attempt.transaction is None else attempt.transaction.nonce
    return bool(nonce) and attempt.message.header.recipNonce == nonce


def check_address(profile: Profile, address: str) -> None:
    """The request must come from an address that the profile lists, if it lists any; raises NotAuthorized."""
    if not profile.client_addresses:
        return
    try:
        client = read_address(address)
    except ValueError:
        client = None
    if client is None or not any(client in network for network in profile.client_addresses):
        raise NotAuthorized("requests from this address are not accepted (enrollment.client_addresses)")


def seconds(wait: float) -> int:
    """A time to wait in whole seconds, at least one."""
    return max(1, int(wait + 0.999))


def _check_binding(tls: CertificateCredential, signer: CertificateCredential, binding: str) -> None:
    """The TLS client and the signer of the message must belong together as the profile says; raises NotAuthorized."""
    same = tls.signer.fingerprint == signer.signer.fingerprint
    match binding:
        case "same_subject":
            same = same or same_name(tls.signer.subject, signer.signer.subject)
        case "ra":
            same = tls.is_ra
    if not same:
        raise NotAuthorized(
            f"the TLS client certificate does not go with the one that signs (enrollment.tls.binding: {binding})",
            private=f"TLS client {asn1.printable(tls.signer.label)}",
        )


def _first_of(
    realm: Realm, look: Callable[[SignerCache, bool], KnownSigner], *, tls: bool = False
) -> tuple[Role, KnownSigner]:
    """The first kind of trust that a certificate has: ours or a client's, a vendor's, an RA's. Raises CMPError."""
    kinds: tuple[tuple[Role, SignerCache | None], ...] = (
        (Role.own, realm.tls_signers if tls else realm.signers),
        (Role.vendor, realm.vendor_signers),
        (Role.ra, realm.ra_signers),
    )
    faults: list[CMPError] = []
    for role, signers in kinds:
        if signers is None:
            continue
        try:
            known = look(signers, role is Role.own)
        except CMPError as exc:
            faults.append(exc)
            continue
        if role is not Role.ra or is_authorised_ra(known, realm.listed_ras):
            return role, known
        faults[0].private = "under enrollment.ra_certificates, but neither listed itself nor with id-kp-cmcRA"
    faults[0].private = "; ".join(dict.fromkeys(filter(None, (fault.private for fault in faults)))) or None
    raise faults[0]


def _is_ra(realm: Realm, known: KnownSigner, now: datetime) -> bool:
    """Whether a signer that is trusted as something else is an RA as well."""
    if realm.ra_signers is None or not is_authorised_ra(known, realm.listed_ras):
        return False
    try:
        realm.ra_signers.accept(
            known.der, tuple(one.public_bytes(Encoding.DER) for one in known.path.certificates[1:]), now
        )
    except CMPError:
        return False
    return True


def _remember(keys: OrderedDict[tuple[int, bytes], MacKey], code: EnrollmentCode, key: MacKey) -> None:
    """Only keys that have verified a message are kept: nobody unknown can push them out."""
    slot = (code.id, key.algorithm_der)
    keys[slot] = key
    keys.move_to_end(slot)
    if len(keys) > DERIVED_KEYS:
        keys.popitem(last=False)
