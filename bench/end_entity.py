"""The end entity of the load test: builds requests on `cmpd.asn1.der` and checks every answer (RFC 9483 §4.1)."""

import hashlib
import hmac
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd import asn1
from cmpd.asn1 import BodyType, der
from cmpd.limits import Limits

ECDSA_SHA256 = ec.ECDSA(hashes.SHA256())
PBM_ITERATIONS = 500
SALT_OCTETS = 16

_ALG_SHA256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"))
_ALG_HMAC_SHA256 = der.sequence(der.oid("1.2.840.113549.2.9"), der.null())
_ALG_ECDSA_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"))
_OID_PBM = der.oid("1.2.840.113533.7.66.13")
_OID_OLD_CERT_ID = der.oid("1.3.6.1.5.5.7.5.1.5")
_IMPLICIT_CONFIRM = "1.3.6.1.5.5.7.4.13"
_GENERAL_INFO_IMPLICIT_CONFIRM = der.explicit(8, der.sequence(der.sequence(der.oid(_IMPLICIT_CONFIRM), der.null())))
_PVNO_2 = der.integer(2)
_CERT_REQ_ID_0 = der.integer(0)
_ACCEPTED = der.sequence(der.integer(0))
_WAITING = 3
"""PKIStatus (RFC 9810 §5.2.3)."""
_LIMITS = Limits()
_ANSWER = {BodyType.ir: BodyType.ip, BodyType.kur: BodyType.kup}


class AnswerError(Exception):
    """The answer is not the one that the request deserves; the text says in what."""


Protect = Callable[[bytes], bytes]


class Credential(Protocol):
    """What a client protects its messages with, and knows the server's answers by."""

    sender: bytes
    """DER of the Name for the header's sender."""
    sender_kid: bytes
    extra_certs: tuple[bytes, ...]

    def begin(self) -> tuple[bytes, Protect]:
        """The AlgorithmIdentifier of one more message (DER), and the function that protects its protected part."""

    def check(self, message: asn1.PKIMessage, algorithm: bytes, protect: Protect) -> None:
        """Verify the protection of the answer to a message begun with `algorithm`. Raises `AnswerError`."""


def derive(secret: bytes, salt: bytes, iterations: int) -> bytes:
    """The PasswordBasedMac key with SHA-256 as one-way function (RFC 9810 §5.1.3.1)."""
    key = secret + salt
    sha256 = hashlib.sha256
    for _ in range(iterations):
        key = sha256(key).digest()
    return key


def common_name(text: str) -> bytes:
    """DER of the Name with this commonName alone."""
    return der.sequence(_rdn("2.5.4.3", der.utf8_string(text)))


class MacCredential:
    """An enrollment code: PasswordBasedMac with another salt in every message, derived before the clock starts."""

    def __init__(self, reference: str, secret: str) -> None:
        self.sender = common_name(reference)
        self.sender_kid = reference.encode()
        self.extra_certs: tuple[bytes, ...] = ()
        self._secret = secret.encode()
        self._pool: list[tuple[bytes, bytes]] = []

    def prepare(self, messages: int) -> None:
        """Derive the keys of so many messages in advance."""
        self._pool.extend(self._fresh() for _ in range(messages - len(self._pool)))

    def _fresh(self) -> tuple[bytes, bytes]:
        salt = os.urandom(SALT_OCTETS)
        parameters = der.sequence(der.octet_string(salt), _ALG_SHA256, der.integer(PBM_ITERATIONS), _ALG_HMAC_SHA256)
        return der.sequence(_OID_PBM, parameters), derive(self._secret, salt, PBM_ITERATIONS)

    def begin(self) -> tuple[bytes, Protect]:
        algorithm, key = self._pool.pop() if self._pool else self._fresh()
        return algorithm, lambda part: hmac.digest(key, part, "sha256")

    def check(self, message: asn1.PKIMessage, algorithm: bytes, protect: Protect) -> None:
        answered = _protection_algorithm(message)
        if answered != algorithm:  # RFC 9483 §4.1.5 lets the server choose its own parameters; then the key is another
            protect = self._protect_like(answered)
        if not hmac.compare_digest(protect(message.protected_part()), message.protection or b""):
            raise AnswerError("the MAC of the answer does not verify")

    def _protect_like(self, algorithm: bytes) -> Protect:
        oid, parameters = der.children(algorithm)
        if oid != _OID_PBM:
            raise AnswerError("the answer to a message with PasswordBasedMac is protected otherwise")
        values = asn1.parse(asn1.PBMParameter, parameters)
        owf, mac = der.children(parameters)[1], der.children(parameters)[3]
        if owf != _ALG_SHA256 or mac != _ALG_HMAC_SHA256:
            raise AnswerError("the answer uses other PasswordBasedMac algorithms than the request")
        key = derive(self._secret, values.salt, values.iterationCount)
        return lambda part: hmac.digest(key, part, "sha256")


class SignatureCredential:
    """A certificate and its key; the server's signer must chain to one of `anchors` (DER)."""

    def __init__(
        self, key: ec.EllipticCurvePrivateKey, certificate: bytes, chain: Sequence[bytes], anchors: Sequence[bytes]
    ) -> None:
        self._key = key
        loaded = x509.load_der_x509_certificate(certificate)
        self.certificate = certificate
        self.issuer = loaded.issuer.public_bytes()
        self.serial = loaded.serial_number
        self.sender = loaded.subject.public_bytes()
        self.sender_kid = loaded.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        self.extra_certs = (certificate, *chain)
        self.anchors = tuple(anchors)

    def begin(self) -> tuple[bytes, Protect]:
        return _ALG_ECDSA_SHA256, lambda part: self._key.sign(part, ECDSA_SHA256)

    def check(self, message: asn1.PKIMessage, algorithm: bytes, protect: Protect) -> None:  # noqa: ARG002  one shape
        if _protection_algorithm(message) != _ALG_ECDSA_SHA256:
            raise AnswerError("the answer to a signed message is not signed with ECDSA and SHA-256")
        if not message.extraCerts:
            raise AnswerError("the answer does not carry the certificate of its signer")
        signer = _signer(tuple(message.extraCerts), self.anchors)
        try:
            signer.verify(message.protection or b"", message.protected_part(), ECDSA_SHA256)
        except Exception as error:
            raise AnswerError("the signature of the answer does not verify") from error


@dataclass(frozen=True, slots=True)
class Device:
    """What a device has left the factory with: a P-256 key (PKCS #8 DER) and its certificate (DER)."""

    key: bytes = field(repr=False)
    certificate: bytes

    def credential(self, anchors: Sequence[bytes]) -> SignatureCredential:
        """What the device signs its messages with (RFC 9483 §4.1.1)."""
        key = serialization.load_der_private_key(self.key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return SignatureCredential(key, self.certificate, (), anchors)

    def key_pem(self) -> bytes:
        """The key as TLS libraries want it."""
        key = serialization.load_der_private_key(self.key, None)
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


class Manufacturer:
    """A PKI other than the server's, whose certificates the profile for signature protection trusts."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Load test manufacturer")])
        self.root = self._certify(self._name, self._key.public_key(), ca=True)

    def _certify(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        start = datetime.now(UTC) - timedelta(hours=1)
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
        builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        usage = x509.KeyUsage(
            digital_signature=not ca,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=ca,
            crl_sign=ca,
            encipher_only=False,
            decipher_only=False,
        )
        return builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())

    def device(self, name: str) -> Device:
        """Make one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._certify(subject, key.public_key(), ca=False)
        secret = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Device(secret, certificate.public_bytes(serialization.Encoding.DER))

    def write_server(self, certificate: Path, key_file: Path) -> None:
        """A certificate of this PKI and its key for the server's TLS listener, PEM."""
        device = self.device("127.0.0.1")
        loaded = x509.load_der_x509_certificate(device.certificate)
        certificate.write_bytes(loaded.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(device.key_pem())


_signers: dict[tuple[tuple[bytes, ...], tuple[bytes, ...]], ec.EllipticCurvePublicKey] = {}


def _signer(chain: tuple[bytes, ...], anchors: tuple[bytes, ...]) -> ec.EllipticCurvePublicKey:
    """The public key in the first certificate of a chain that leads to an anchor; every chain is checked once."""
    known = _signers.get((chain, anchors))
    if known is not None:
        return known
    trusted = [x509.load_der_x509_certificate(anchor) for anchor in anchors]
    certificates = [x509.load_der_x509_certificate(each) for each in chain] + trusted
    subject = certificates[0]
    for _ in certificates:
        if subject in trusted:
            break
        issuers = [each for each in certificates if each.subject == subject.issuer]
        if not issuers:
            raise AnswerError("the certificate of the answer's signer does not chain to the CA")
        subject.verify_directly_issued_by(issuers[0])
        subject = issuers[0]
    key = certificates[0].public_key()
    if subject not in trusted or not isinstance(key, ec.EllipticCurvePublicKey):
        raise AnswerError("the certificate of the answer's signer does not chain to the CA, or is not EC")
    _signers[chain, anchors] = key
    return key


@dataclass(slots=True)
class Wanted:
    """A certificate to ask for: its key, subject and extensions (each in DER); for an ir the body, made in advance."""

    key: ec.EllipticCurvePrivateKey
    rdns: tuple[bytes, ...]
    spki: bytes
    extensions: tuple[bytes, ...] = ()
    body: bytes | None = None


_numbers = itertools.count(1)


_KEY_USAGE = der.sequence(der.oid("2.5.29.15"), der.boolean(True), der.octet_string(der.named_bits((0, 1, 4))))
_EXTENDED_KEY_USAGE = der.sequence(
    der.oid("2.5.29.37"),
    der.octet_string(der.sequence(der.oid("1.3.6.1.5.5.7.3.4"), der.oid("1.3.6.1.5.5.7.3.2"))),
)


def _rdn(oid: str, value: bytes) -> bytes:
    return der.set_of(der.sequence(der.oid(oid), value))


def _person(number: int) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Subject and extensions of a full request for an e-mail certificate, all that `bench.server.PEOPLE` is about."""
    given, surname, mailbox = "Ada", f"Byron-{os.getpid()}-{number}", f"ada.{os.getpid()}.{number}@mail.example.com"
    subject = (
        _rdn("2.5.4.6", der.printable_string("DE")),
        _rdn("2.5.4.8", der.utf8_string("Nordrhein-Westfalen")),
        _rdn("2.5.4.7", der.utf8_string("Bonn")),
        _rdn("2.5.4.10", der.utf8_string("Example GmbH")),
        _rdn("2.5.4.97", der.utf8_string("NTRDE-HRB123456")),
        _rdn("2.5.4.11", der.utf8_string("Research")),
        _rdn("2.5.4.4", der.utf8_string(surname)),
        _rdn("2.5.4.42", der.utf8_string(given)),
        _rdn("2.5.4.3", der.utf8_string(f"{given} {surname}")),
        _rdn("2.5.4.5", der.printable_string(f"{number}")),
        _rdn("1.2.840.113549.1.9.1", der.ia5_string(mailbox)),
    )
    names = der.sequence(der.tlv(0x81, mailbox.encode()))
    return subject, (
        _KEY_USAGE,
        der.sequence(der.oid("2.5.29.17"), der.octet_string(names)),
        _EXTENDED_KEY_USAGE,
    )


def want(*, ready: bool, person: bool = False) -> Wanted:
    """A new P-256 key and a subject that no other request has; with `ready` the body of an ir as well.

    For a device the subject is a commonName, for a person all that an e-mail certificate has, and extensions too.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    number = next(_numbers)
    if person:
        subject, extensions = _person(number)
        wanted = Wanted(key, subject, spki, extensions)
    else:
        wanted = Wanted(key, (_rdn("2.5.4.3", der.utf8_string(f"bench-{os.getpid()}-{number}")),), spki)
    if ready:
        wanted.body = request_body(BodyType.ir, wanted)
    return wanted


def mailbox(*, ready: bool = False) -> Wanted:
    """The same for a mailbox that no other request has, as a public CA certifies one."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    address = f"ada.{os.getpid()}.{next(_numbers)}@example.com"
    names = der.sequence(der.tlv(0x81, address.encode()))
    extension = der.sequence(der.oid("2.5.29.17"), der.octet_string(names))
    wanted = Wanted(key, (_rdn("2.5.4.3", der.utf8_string(address)),), spki, (extension,))
    if ready:
        wanted.body = request_body(BodyType.ir, wanted)
    return wanted


def request_body(operation: BodyType, wanted: Wanted, old: SignatureCredential | None = None) -> bytes:
    """The body of an ir or kur: CertTemplate with all that is wanted, POP by signature, oldCertID in a kur."""
    subject = old.sender if old is not None else der.sequence(*wanted.rdns)
    public_key = der.tlv(0xA6, *der.children(wanted.spki))
    extensions = der.tlv(0xA9, *wanted.extensions) if wanted.extensions else b""
    template = der.sequence(der.explicit(5, subject), public_key, extensions)
    controls = b""
    if old is not None:
        cert_id = der.sequence(der.explicit(4, old.issuer), der.integer(old.serial))
        controls = der.sequence(der.sequence(_OID_OLD_CERT_ID, cert_id))
    cert_request = der.sequence(_CERT_REQ_ID_0, template, controls)
    signature = wanted.key.sign(cert_request, ECDSA_SHA256)
    popo = der.tlv(0xA1, _ALG_ECDSA_SHA256, der.bit_string(signature))
    return der.explicit(operation, der.sequence(der.sequence(cert_request, popo)))


_time = (0, b"")


def _message_time() -> bytes:
    global _time  # noqa: PLW0603  one string a second, for all clients
    now = int(time.time())
    if now != _time[0]:
        text = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(now))
        _time = (now, der.explicit(0, der.tlv(0x18, text.encode())))
    return _time[1]


def _protection_algorithm(message: asn1.PKIMessage) -> bytes:
    algorithm = message.header.protectionAlg
    if algorithm is None or message.protection is None:
        raise AnswerError("the answer is not protected")
    return asn1.dump(algorithm)


class Operation:
    """One PKI management operation of a client: its messages, and the checks of the answers to them."""

    def __init__(self, credential: Credential, operation: BodyType, wanted: Wanted, *, implicit: bool = False) -> None:
        self._credential = credential
        self._operation = operation
        self._wanted = wanted
        self._implicit = implicit
        self._transactionID = os.urandom(16)
        self._recipNonce: bytes | None = None
        self.certificate = b""
        self.confirmed = False
        """The server has granted implicitConfirm."""

    def request(self) -> bytes:
        """The ir or kur."""
        old = self._credential if self._operation is BodyType.kur else None
        if old is not None and not isinstance(old, SignatureCredential):
            raise TypeError("a kur is protected with the certificate that it renews")
        body = self._wanted.body or request_body(self._operation, self._wanted, old)
        return self._message(body)

    def _message(self, body: bytes) -> bytes:
        self._algorithm, self._protect = self._credential.begin()
        self._senderNonce = os.urandom(16)
        header = der.sequence(
            _PVNO_2,
            der.explicit(4, self._credential.sender),
            der.explicit(4, der.sequence()),
            _message_time(),
            der.explicit(1, self._algorithm),
            der.explicit(2, der.octet_string(self._credential.sender_kid)),
            der.explicit(4, der.octet_string(self._transactionID)),
            der.explicit(5, der.octet_string(self._senderNonce)),
            der.explicit(6, der.octet_string(self._recipNonce)) if self._recipNonce is not None else b"",
            _GENERAL_INFO_IMPLICIT_CONFIRM if self._implicit and self._recipNonce is None else b"",
        )
        protection = self._protect(asn1.protected_part(header, body))
        return asn1.encode(header, body, protection, self._credential.extra_certs)

    def _checked(self, answer: bytes, expected: BodyType) -> asn1.PKIMessage:
        message = asn1.decode(answer, _LIMITS)
        header = message.header
        if message.body_type is BodyType.error:
            info = asn1.decode_body(BodyType.error, message.body_der).pKIStatusInfo
            raise AnswerError(f"the answer is an error: {info.statusString}")
        if message.body_type is not expected:
            raise AnswerError(f"the answer is {message.body_type.name}, not {expected.name}")
        if header.transactionID != self._transactionID:
            raise AnswerError("the answer has another transactionID")
        if header.recipNonce != self._senderNonce:
            raise AnswerError("the answer's recipNonce is not the request's senderNonce")
        if header.senderNonce is None:
            raise AnswerError("the answer has no senderNonce")
        self._credential.check(message, self._algorithm, self._protect)
        self._recipNonce = header.senderNonce
        return message

    def certified(self, answer: bytes) -> None:
        """Check the ip or kup and keep its certificate. Raises `AnswerError`."""
        expected = _ANSWER[self._operation]
        message = self._checked(answer, expected)
        responses = asn1.decode_body(expected, message.body_der).response
        if len(responses) != 1:
            raise AnswerError(f"{len(responses)} CertResponses to one request")
        response = responses[0]
        if response.status.status not in (0, 1):
            raise AnswerError(f"PKIStatus {response.status.status}: {response.status.statusString}")
        if response.certReqId != 0 or response.certifiedKeyPair is None:
            raise AnswerError("the answer has another certReqId, or no certificate")
        choice = asn1.raw(response.certifiedKeyPair.certOrEncCert)
        if choice[0] != 0xA0:
            raise AnswerError("the answer holds no plain certificate")
        certificate = der.children(choice)[0]
        tbs = der.children(der.children(certificate)[0])
        if tbs[6] != self._wanted.spki:
            raise AnswerError("the certificate is for another public key")
        if self._operation is BodyType.ir and not all(each in tbs[5] for each in self._wanted.rdns):
            raise AnswerError("the certificate is for another subject")
        if not all(each in tbs[-1] for each in self._wanted.extensions):
            raise AnswerError("the certificate lacks an extension that was asked for")
        self.certificate = certificate
        granted = {item.infoType.dotted_string for item in message.header.generalInfo or ()}
        self.confirmed = _IMPLICIT_CONFIRM in granted
        if self.confirmed is not self._implicit:
            raise AnswerError("implicitConfirm was granted unasked, or not granted")

    def is_waiting(self, answer: bytes) -> bool:
        """Whether the answer says that the certificate is waited for (RFC 9483 §4.4); nothing else is checked."""
        message = asn1.decode(answer, _LIMITS)
        if message.body_type is not _ANSWER[self._operation]:
            return False
        return all(
            each.status.status == _WAITING for each in asn1.decode_body(message.body_type, message.body_der).response
        )

    def waits(self, answer: bytes) -> None:
        """Check that the certificate is waited for. Raises `AnswerError`."""
        expected = _ANSWER[self._operation]
        message = self._checked(answer, expected)
        statuses = [each.status.status for each in asn1.decode_body(expected, message.body_der).response]
        if statuses != [_WAITING]:
            raise AnswerError(f"PKIStatus {statuses}, not waiting")

    def poll(self) -> bytes:
        """The pollReq (RFC 9483 §4.4)."""
        return self._message(der.explicit(BodyType.pollReq, der.sequence(der.sequence(_CERT_REQ_ID_0))))

    def polled(self, answer: bytes) -> None:
        """Check that it is to be waited for still. Raises `AnswerError`."""
        message = self._checked(answer, BodyType.pollRep)
        found = asn1.decode_body(BodyType.pollRep, message.body_der)
        if len(found) != 1 or found[0].certReqId != 0 or found[0].checkAfter < 1:
            raise AnswerError("the pollRep is for another certReqId, or does not say when to ask again")

    def confirmation(self) -> bytes:
        """The certConf, its certHash by the hash of the certificate's signature, ECDSA with SHA-256."""
        if der.children(self.certificate)[1] != _ALG_ECDSA_SHA256:
            raise AnswerError("the certificate is not signed with ECDSA and SHA-256")
        cert_hash = der.octet_string(hashlib.sha256(self.certificate).digest())
        status = der.sequence(cert_hash, _CERT_REQ_ID_0, _ACCEPTED)
        return self._message(der.explicit(BodyType.certConf, der.sequence(status)))

    def ended(self, answer: bytes) -> None:
        """Check the pkiconf. Raises `AnswerError`."""
        self._checked(answer, BodyType.pkiconf)
