"""Who sent it, and did it arrive unchanged? Verification of a message's protection (RFC 9483 §3.2, §3.5).

Everything here either returns the verified credential or raises; nothing returns a boolean. Nothing here waits: what a
store knows (the enrollment code, whether a certificate is revoked) is looked up by the responder and handed in.
"""

import enum
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import asn1
from cmpd.asn1.certificate import serial
from cmpd.errors import BadAlg, BadMessageCheck, SignerNotTrusted, WrongIntegrity
from cmpd.exchange import Device, EnrollmentCode, IssuedCertificate
from cmpd.limits import Limits
from cmpd.protection import certpath, signature
from cmpd.protection.known import KnownSigner
from cmpd.protection.mac import MAC_ALGORITHMS, MacKey, derive, parameters
from cmpd.protection.signature import PublicKey, Signer

__all__ = [
    "CertificateCredential",
    "Credential",
    "KnownSigner",
    "MacCredential",
    "MacKey",
    "Role",
    "Signer",
    "SignerCache",
    "check_mac",
    "check_signature",
    "is_mac",
    "mac_reference",
    "serial_of",
]


@dataclass(frozen=True, slots=True)
class MacCredential:
    """An enrollment code whose MAC has verified (RFC 9483 §4.1.5)."""

    code: EnrollmentCode
    key: MacKey

    @property
    def id(self) -> str:
        """What a transaction is bound to."""
        return f"code:{self.code.id}"

    @property
    def label(self) -> str:
        """For the log."""
        return f"code:{self.code.reference}"


class Role(enum.Enum):
    """As what a certificate is trusted by a profile."""

    own = "own"
    """The profile's service has issued it itself."""
    client = "client"
    """It is under one of trusted_certificates."""
    vendor = "vendor"
    """It is a device's, of a maker that the profile trusts (IEEE 802.1AR §8)."""
    ra = "ra"
    """It is an RA that the profile lists: it may ask for others and vouch for them (RFC 9483 §5.2.3.2)."""


@dataclass(frozen=True, slots=True)
class CertificateCredential:
    """A certificate whose key has signed the message, or the TLS handshake it came by (RFC 9483 §3.2)."""

    signer: KnownSigner
    issued: IssuedCertificate | None = None
    """Our own record of it, when it is one that this service issued."""
    role: Role = Role.client
    serial: str = ""
    """The device's serial number, of a vendor's certificate."""
    device: Device | None = None
    """What the list of devices says of it."""

    @property
    def is_ra(self) -> bool:
        """Whether it may ask for others and vouch for their proof-of-possession."""
        return self.role is Role.ra

    @property
    def id(self) -> str:
        """What a transaction is bound to."""
        return f"cert:{self.signer.fingerprint}:{self.signer.serial:x}"


Credential = MacCredential | CertificateCredential


def serial_of(credential: str) -> int | None:
    """The serial number in the ID of a certificate credential; None for an enrollment code."""
    kind, _, rest = credential.partition(":")
    return int(rest.partition(":")[2], 16) if kind == "cert" else None


def is_mac(message: asn1.PKIMessage) -> bool:
    """Tell whether protectionAlg is a MAC algorithm that is supported."""
    algorithm = message.header.protectionAlg
    return algorithm is not None and algorithm.algorithm in MAC_ALGORITHMS


def mac_reference(message: asn1.PKIMessage) -> bytes:
    """The name of the shared secret: senderKID, else the commonName of sender (RFC 9483 §3.1, §4.1.5).

    Stock clients leave the one or the other out. Raises BadMessageCheck when both are absent.
    """
    if message.header.senderKID:
        return message.header.senderKID
    name = asn1.directory_name(asn1.raw(message.header.sender))
    common_name = None if name is None else asn1.common_name(name)
    if not common_name:
        raise BadMessageCheck("neither senderKID nor the commonName of sender names a shared secret")
    return common_name.encode()


def check_mac(message: asn1.PKIMessage, secret: bytes, limits: Limits) -> MacKey:
    """Verify a MAC with its secret; returns the key for the answer. Raises BadAlg, BadMessageCheck, WrongIntegrity."""
    algorithm = message.header.protectionAlg
    if algorithm is None or message.protection is None or not is_mac(message):
        raise WrongIntegrity("the message is not protected by a MAC that is supported")
    found = parameters(algorithm, limits)
    key = MacKey(asn1.dump(algorithm), found.mac, derive(found, secret))
    key.check(message.protected_part(), message.protection)
    return key


_NO_GRACE = timedelta()


class SignerCache:
    """Validated certificates of clients, so that a path is validated once and not for every message.

    `intermediates` are CA certificates (DER) that are not trusted by themselves, for clients that do not send them. An
    anchor may be an end entity's own certificate. A path is kept for the trust anchors it was validated with, and is
    good only while every certificate of it is valid; whether the certificate has been revoked is not cached. The oldest
    entry makes room: `size` entries at most.
    """

    def __init__(
        self,
        anchors: Sequence[bytes],
        limits: Limits,
        *,
        allow_sha1: bool = False,
        size: int = 1024,
        intermediates: Sequence[bytes] = (),
        any_issuer: bool = False,
    ) -> None:
        self._anchors = tuple(certpath.load(anchor) for anchor in anchors)
        self._intermediates = [certpath.load(one) for one in intermediates]
        self._limits = limits
        self._allow_sha1 = allow_sha1
        self._any_issuer = any_issuer
        self._size = size
        self._known: OrderedDict[bytes, KnownSigner] = OrderedDict()

    def find(
        self, message: asn1.PKIMessage, now: datetime, grace: timedelta = _NO_GRACE, first: Sequence[bytes] = ()
    ) -> KnownSigner:
        """The validated certificate that the message names as its signer: the first of extraCerts (RFC 9483 §3.3).

        Falls back to any of extraCerts that senderKID identifies: real clients mix up the order. A message without
        extraCerts, as certConf may be, is held against `first`, the certificate that began its transaction, or else is
        looked up by its senderKID among the certificates seen before.
        A certificate that expired less than `grace` ago passes, the CA certificates above it must be valid.
        Raises BadMessageCheck or SignerNotTrusted.
        """
        kid = message.header.senderKID
        certificates = message.extraCerts or first
        if not certificates:
            return self._seen(kid, now, grace)
        known = self._known.get(certificates[0])
        if known is not None and (kid is None or known.key_id is None or known.key_id == kid):
            if known.path.good_at(now, grace):
                self._known.move_to_end(certificates[0])
                return known
            del self._known[certificates[0]]
        return self._validate(certificates, kid, now, grace)

    def _seen(self, kid: bytes | None, now: datetime, grace: timedelta) -> KnownSigner:
        if kid is not None:
            for known in reversed(self._known.values()):
                if known.key_id == kid and known.path.good_at(now, grace):
                    return known
        raise BadMessageCheck("extraCerts is empty and senderKID names no certificate seen before")

    def _validate(
        self, certificates: Sequence[bytes], kid: bytes | None, now: datetime, grace: timedelta
    ) -> KnownSigner:
        readable = [loaded for loaded in map(_load, certificates) if loaded is not None]
        # the one that senderKID identifies, else the first that could be meant by it
        leaf = next((c for c in readable if kid is not None and _key_id(c) == kid), None) or next(
            (c for c in readable if kid is None or _key_id(c) is None), None
        )
        if leaf is None:
            raise BadMessageCheck("none of extraCerts is the certificate that senderKID identifies")
        return self._admit(leaf, readable, now, grace, certpath.CMP_CERTIFICATE)

    def accept(
        self, certificate: bytes, chain: Sequence[bytes], now: datetime, grace: timedelta = _NO_GRACE
    ) -> KnownSigner:
        """The validated certificate (DER) of a TLS client, whose key the handshake has proven (RFC 8446 §4.4.2).

        `chain` is what the client sent with it, in any order (RFC 9440 §2.3). A certificate that expired less than
        `grace` ago passes. Raises BadAlg, SignerNotTrusted.
        """
        known = self._known.get(certificate)
        if known is not None:
            if known.path.good_at(now, grace):
                self._known.move_to_end(certificate)
                return known
            del self._known[certificate]
        leaf = _load(certificate)
        if leaf is None:
            raise SignerNotTrusted(f"{certpath.TLS_CERTIFICATE} cannot be read")
        readable = [loaded for loaded in map(_load, chain[: self._limits.extra_certs]) if loaded is not None]
        return self._admit(leaf, readable, now, grace, certpath.TLS_CERTIFICATE)

    def _admit(
        self, leaf: x509.Certificate, readable: Sequence[x509.Certificate], now: datetime, grace: timedelta, what: str
    ) -> KnownSigner:
        if not _may_sign(leaf):
            raise SignerNotTrusted(f"the keyUsage of {what} lacks digitalSignature")
        key = signature.accept_public_key(_public_key(leaf, what), self._limits)
        path = certpath.validate(
            leaf,
            [*readable, *self._intermediates],
            self._anchors,
            self._limits,
            now,
            allow_sha1=self._allow_sha1,
            grace=grace,
            what=what,
        )
        return self._remember(leaf, leaf.public_bytes(Encoding.DER), key, path)

    def adopt(self, issued: bytes, kid: bytes | None, now: datetime, grace: timedelta) -> KnownSigner | None:
        """A certificate that the store has as one of ours: the octets are those that our CA, the first anchor, signed.

        Or, with `any_issuer`, those that were held against what was ordered when they came. So no signature is verified
        again. None when there is anything about it that `find` must look into.
        """
        known = self._known.get(issued)
        if known is None:
            leaf = certpath.load(issued)
            above = self._anchors[:1]
            if above and leaf.issuer.public_bytes() != above[0].subject.public_bytes():
                above = ()
            if not (above or self._any_issuer) or not _may_sign(leaf):
                return None
            issuers_end = min((ca.not_valid_after_utc for ca in above), default=datetime.max.replace(tzinfo=UTC))
            path = certpath.ValidPath(
                (leaf, *above),
                max(one.not_valid_before_utc for one in (leaf, *above)),
                min(leaf.not_valid_after_utc, issuers_end),
                issuers_end,
            )
            if not path.good_at(now, grace):
                return None
            known = self._remember(leaf, issued, signature.accept_public_key(_public_key(leaf), self._limits), path)
        if known.path.good_at(now, grace) and (kid is None or known.key_id is None or known.key_id == kid):
            self._known.move_to_end(issued)
            return known
        return None

    def _remember(
        self, leaf: x509.Certificate, encoded: bytes, key: PublicKey, path: certpath.ValidPath
    ) -> KnownSigner:
        subject = leaf.subject.public_bytes()
        known = KnownSigner(
            certificate=leaf,
            der=encoded,
            key=key,
            subject=subject,
            issuer=leaf.issuer.public_bytes(),
            serial=serial(encoded),  # not the library's: it has opinions on numbers that are not positive
            path=path,
            fingerprint=hashlib.sha256(encoded).hexdigest(),
            key_id=_key_id(leaf),
            label=asn1.name_text(subject),
            extended_key_usage=_extended_key_usage(leaf),
        )
        self._known[encoded] = known
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return known

    def check(self, message: asn1.PKIMessage, known: KnownSigner) -> None:
        """Verify the signature of the message; raises BadAlg, BadMessageCheck."""
        algorithm = message.header.protectionAlg
        if algorithm is None or message.protection is None:
            raise BadMessageCheck("the message is not protected")
        try:
            signature.verify(
                algorithm, known.key, message.protection, message.protected_part(), allow_sha1=self._allow_sha1
            )
        except signature.InvalidSignature as exc:
            raise BadMessageCheck("the signature does not verify with the CMP protection certificate") from exc


def check_signature(message: asn1.PKIMessage, trusted: Sequence[bytes], limits: Limits, now: datetime) -> KnownSigner:
    """Verify signature and path in one; raises BadAlg, BadMessageCheck, SignerNotTrusted, WrongIntegrity."""
    if message.header.protectionAlg is None or is_mac(message):
        raise WrongIntegrity("the message is not protected by a signature")
    cache = SignerCache(trusted, limits)
    known = cache.find(message, now)
    cache.check(message, known)
    return known


def _load(der: bytes) -> x509.Certificate | None:
    """One unreadable certificate among extraCerts must not lose the message (RFC 9483 §3.3)."""
    try:
        return certpath.load(der)
    except ValueError:
        return None


def _public_key(certificate: x509.Certificate, what: str = certpath.CMP_CERTIFICATE) -> object:
    try:
        return certificate.public_key()
    except (ValueError, signature.UnsupportedAlgorithm) as exc:
        raise BadAlg(f"the public key of {what} is not supported") from exc


def _key_id(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None


def _extended_key_usage(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    try:
        return frozenset(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return frozenset()


def _may_sign(certificate: x509.Certificate) -> bool:
    """RFC 9483 §3.5: "If the keyUsage extension is present ..., the digitalSignature bit MUST be set"."""
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return True
