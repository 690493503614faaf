"""An end entity that can build every right message and every wrong one, and checks every answer.

ee = EE.with_code("ref", b"secret")            MAC-based protection
ee = EE.with_certificate(key, certificate)     signature-based protection
draft = ee.ir(subject="CN=device")             a Draft: change any part of it, then `ee.seal(draft)`
answer = ee.read(await responder.respond(...)) an Answer, its protection verified
"""

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa

from cmpd import asn1
from cmpd.asn1 import BodyType, der, oids
from cmpd.limits import Limits

NULL_DN = der.explicit(4, der.sequence())
HMAC = {
    "sha1": oids.HMAC_SHA1_IPSEC,
    "sha224": oids.HMAC_SHA224,
    "sha256": oids.HMAC_SHA256,
    "sha384": oids.HMAC_SHA384,
    "sha512": oids.HMAC_SHA512,
}
OWF = {"sha1": oids.SHA1, "sha224": oids.SHA224, "sha256": oids.SHA256, "sha384": oids.SHA384, "sha512": oids.SHA512}
_ATTRIBUTES = {
    "CN": oids.COMMON_NAME,
    "O": oids.ORGANIZATION_NAME,
    "OU": oids.ORGANIZATIONAL_UNIT_NAME,
    "C": oids.COUNTRY_NAME,
    "SERIALNUMBER": oids.SERIAL_NUMBER,
}


def name(text: str) -> bytes:
    """`CN=x,O=y` as Name DER, in the written order; the empty text is the NULL-DN."""
    rdns = []
    for part in filter(None, text.split(",")):
        kind, value = part.split("=", 1)
        string = der.printable_string(value) if kind in {"C", "SERIALNUMBER"} else der.utf8_string(value)
        rdns.append(der.set_of(der.sequence(der.oid(_ATTRIBUTES[kind]), string)))
    return der.sequence(*rdns)


def directory_name(text: str) -> bytes:
    return der.explicit(4, name(text))


def spki(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    encoded: bytes = key.public_key().public_bytes(serialization.Encoding.DER, form)
    return encoded


def new_key(kind: str = "ec-p256") -> Any:
    match kind:
        case "ec-p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ec-p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ec-p521":
            return ec.generate_private_key(ec.SECP521R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
        case "ml-dsa-44":
            return mldsa.MLDSA44PrivateKey.generate()
        case "ml-dsa-65":
            return mldsa.MLDSA65PrivateKey.generate()
        case "ml-dsa-87":
            return mldsa.MLDSA87PrivateKey.generate()
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa-").removesuffix("-pss")))


def signature_algorithm(key: Any, *, hash_name: str = "sha256", pss: bool = False) -> bytes:
    """AlgorithmIdentifier (DER) for a key."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        oid = {
            "sha1": oids.ECDSA_SHA1,
            "sha224": oids.ECDSA_SHA224,
            "sha256": oids.ECDSA_SHA256,
            "sha384": oids.ECDSA_SHA384,
            "sha512": oids.ECDSA_SHA512,
        }
        return der.sequence(der.oid(oid[hash_name]))
    if isinstance(key, rsa.RSAPrivateKey) and pss:
        hash_alg = der.sequence(der.oid(OWF[hash_name]), der.null())
        mgf = der.sequence(der.oid(oids.MGF1), hash_alg)
        length = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}[hash_name]
        params = der.sequence(der.explicit(0, hash_alg), der.explicit(1, mgf), der.explicit(2, der.integer(length)))
        return der.sequence(der.oid(oids.RSASSA_PSS), params)
    if isinstance(key, rsa.RSAPrivateKey):
        rsa_oid = {
            "sha1": oids.RSA_SHA1,
            "sha224": oids.RSA_SHA224,
            "sha256": oids.RSA_SHA256,
            "sha384": oids.RSA_SHA384,
            "sha512": oids.RSA_SHA512,
        }
        return der.sequence(der.oid(rsa_oid[hash_name]), der.null())
    pure = {
        ed25519.Ed25519PrivateKey: oids.ED25519,
        ed448.Ed448PrivateKey: oids.ED448,
        mldsa.MLDSA44PrivateKey: oids.ML_DSA_44,
        mldsa.MLDSA65PrivateKey: oids.ML_DSA_65,
        mldsa.MLDSA87PrivateKey: oids.ML_DSA_87,
    }
    return der.sequence(der.oid(next(oid for cls, oid in pure.items() if isinstance(key, cls))))


def sign(key: Any, data: bytes, *, hash_name: str = "sha256", pss: bool = False) -> bytes:
    algorithm: hashes.HashAlgorithm = getattr(hashes, hash_name.upper())()
    signature: bytes
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(data, ec.ECDSA(algorithm))
    elif isinstance(key, rsa.RSAPrivateKey):
        scheme = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size) if pss else padding.PKCS1v15()
        signature = key.sign(data, scheme, algorithm)
    else:
        signature = key.sign(data)
    return signature


def extension(oid: x509.ObjectIdentifier, value: bytes, *, critical: bool | None = None) -> bytes:
    flag = b"" if critical is None else der.boolean(critical)
    return der.sequence(der.oid(oid), flag, der.octet_string(value))


def san(*dns: str) -> bytes:
    return extension(oids.SUBJECT_ALT_NAME, der.sequence(*(der.tlv(0x82, one.encode()) for one in dns)))


@dataclass
class Draft:
    """A message before its protection; None leaves a header field out."""

    body: bytes
    body_type: BodyType
    pvno: int = 2
    sender: bytes = NULL_DN
    recipient: bytes = NULL_DN
    message_time: datetime | bytes | None = None
    algorithm: bytes | None = None
    sender_kid: bytes | None = None
    transaction_id: bytes | None = field(default_factory=lambda: os.urandom(16))
    sender_nonce: bytes | None = field(default_factory=lambda: os.urandom(16))
    recip_nonce: bytes | None = None
    general_info: bytes = b""
    extra_certs: Sequence[bytes] = ()
    key: Any = None
    """The private key of the request, for the EE's own use."""

    def header(self) -> bytes:
        time = self.message_time
        parts = [der.integer(self.pvno), self.sender, self.recipient]
        if time is not None:
            parts.append(der.tlv(0xA0, time if isinstance(time, bytes) else der.generalized_time(time)))
        if self.algorithm is not None:
            parts.append(der.tlv(0xA1, self.algorithm))
        for tag, value in (
            (0xA2, self.sender_kid),
            (0xA4, self.transaction_id),
            (0xA5, self.sender_nonce),
            (0xA6, self.recip_nonce),
        ):
            if value is not None:
                parts.append(der.tlv(tag, der.octet_string(value)))
        if self.general_info:
            parts.append(der.tlv(0xA8, der.sequence(self.general_info)))
        return der.sequence(*parts)


IMPLICIT_CONFIRM = der.sequence(der.oid(oids.IMPLICIT_CONFIRM), der.null())


def cert_profile(profile: str) -> bytes:
    return der.sequence(der.oid(oids.CERT_PROFILE), der.sequence(der.utf8_string(profile)))


@dataclass
class Answer:
    """An answer, its protection verified when it has one."""

    message: asn1.PKIMessage
    raw: bytes
    protected: bool

    @property
    def body(self) -> Any:
        return self.message.decode_body()

    @property
    def type(self) -> BodyType:
        return self.message.body_type

    @property
    def status_info(self) -> asn1.PKIStatusInfo:
        body = self.body
        found: asn1.PKIStatusInfo = body.pKIStatusInfo if self.type is BodyType.error else body.response[0].status
        return found

    @property
    def status(self) -> asn1.PKIStatus:
        return asn1.PKIStatus(self.status_info.status)

    @property
    def text(self) -> str:
        return "; ".join(self.status_info.statusString or ())

    @property
    def fail_info(self) -> str | None:
        """The name of the one bit that is set."""
        bits = self.status_info.failInfo
        if bits is None:
            return None
        data = bits.as_bytes()
        found = [n for n in range(len(data) * 8) if data[n // 8] & (0x80 >> n % 8)]
        assert len(found) == 1
        return asn1.PKIFailureInfo(found[0]).name

    def certificate(self, index: int = 0) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.certificate_der(index))

    def certificate_der(self, index: int = 0) -> bytes:
        pair = self.body.response[index].certifiedKeyPair
        assert pair is not None, self.text
        (certificate,) = der.children(asn1.raw(pair.certOrEncCert))
        return certificate


@dataclass
class EE:
    """An end entity: a shared secret, or a key with its certificate."""

    secret: bytes | None = None
    reference: bytes | None = None
    key: Any = None
    certificate: bytes | None = None
    chain: tuple[bytes, ...] = ()
    mac: str = "sha1"
    owf: str = "sha256"
    iterations: int = 500
    pbmac1: bool = False
    hash_name: str = "sha256"
    pss: bool = False
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def with_code(cls, reference: str, secret: bytes | str, **kwargs: Any) -> "EE":
        return cls(
            secret=secret.encode() if isinstance(secret, str) else secret, reference=reference.encode(), **kwargs
        )

    @classmethod
    def with_certificate(cls, key: Any, certificate: bytes, chain: tuple[bytes, ...] = (), **kwargs: Any) -> "EE":
        return cls(key=key, certificate=certificate, chain=chain, **kwargs)

    # ------------------------------------------------------------------------------------------------ requests

    def draft(self, body_type: BodyType, content: bytes, **fields: Any) -> Draft:
        """A message with a right header round `content`."""
        draft = Draft(der.explicit(body_type, content), body_type, message_time=self.now)
        if self.secret is not None:
            assert self.reference is not None
            draft.sender = directory_name(f"CN={self.reference.decode()}")
            draft.sender_kid = self.reference
        elif self.certificate is not None:
            loaded = x509.load_der_x509_certificate(self.certificate)
            draft.sender = der.explicit(4, loaded.subject.public_bytes())
            draft.extra_certs = (self.certificate, *self.chain)
            try:
                draft.sender_kid = loaded.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
            except x509.ExtensionNotFound:
                draft.sender_kid = None
        return replace(draft, **fields)

    def cert_req_msg(
        self,
        key: Any,
        subject: str | None = "CN=device-1",
        *,
        cert_req_id: int = 0,
        extensions: Sequence[bytes] = (),
        controls: Sequence[bytes] = (),
        template: bytes | None = None,
        popo: bytes | None = None,
        validity: bytes = b"",
        hash_name: str = "sha256",
        pss: bool = False,
    ) -> bytes:
        """CertReqMsg with a POP over certReq, unless `popo` gives another one (b"" for none)."""
        if template is None:
            template = der.sequence(
                validity,
                b"" if subject is None else der.explicit(5, name(subject)),
                der.tlv(0xA6, *der.children(spki(key))),
                der.tlv(0xA9, *extensions) if extensions else b"",
            )
        request = der.sequence(der.integer(cert_req_id), template, der.sequence(*controls) if controls else b"")
        if popo is None:
            popo = der.tlv(
                0xA1,
                signature_algorithm(key, hash_name=hash_name, pss=pss),
                der.bit_string(sign(key, request, hash_name=hash_name, pss=pss)),
            )
        return der.sequence(request, popo)

    def _crmf(self, body_type: BodyType, key: Any, fields: dict[str, Any], request: dict[str, Any]) -> Draft:
        key = key or new_key()
        draft = self.draft(body_type, der.sequence(self.cert_req_msg(key, **request)), **fields)
        draft.key = key
        return draft

    def ir(self, key: Any = None, *, header: dict[str, Any] | None = None, **request: Any) -> Draft:
        return self._crmf(BodyType.ir, key, header or {}, request)

    def cr(self, key: Any = None, *, header: dict[str, Any] | None = None, **request: Any) -> Draft:
        return self._crmf(BodyType.cr, key, header or {}, request)

    def kur(self, key: Any = None, *, header: dict[str, Any] | None = None, **request: Any) -> Draft:
        return self._crmf(BodyType.kur, key, header or {}, request)

    def p10cr(
        self,
        key: Any = None,
        subject: str = "CN=device-1",
        *,
        extensions: Sequence[bytes] = (),
        header: dict[str, Any] | None = None,
    ) -> Draft:
        key = key or new_key()
        attributes = b""
        if extensions:
            attributes = der.sequence(der.oid(oids.EXTENSION_REQUEST), der.set_of(der.sequence(*extensions)))
        info = der.sequence(der.integer(0), name(subject), spki(key), der.tlv(0xA0, attributes))
        request = der.sequence(info, signature_algorithm(key), der.bit_string(sign(key, info)))
        draft = self.draft(BodyType.p10cr, request, **(header or {}))
        draft.key = key
        return draft

    def follow(self, answer: Answer, body_type: BodyType, content: bytes, **fields: Any) -> Draft:
        """A further message of the transaction that `answer` belongs to."""
        header = answer.message.header
        return self.draft(
            body_type, content, **{"transaction_id": header.transactionID, "recip_nonce": header.senderNonce, **fields}
        )

    def cert_conf(
        self,
        answer: Answer,
        *,
        cert_hash: bytes | None = None,
        cert_req_id: int | None = None,
        status: asn1.PKIStatus | None = None,
        hash_alg: x509.ObjectIdentifier | None = None,
        hash_name: str = "sha256",
        count: int = 1,
        **fields: Any,
    ) -> Draft:
        """certConf for the first `count` certificates of an ip, cp or kup."""
        statuses = []
        for index in range(count):
            found = (
                cert_hash if cert_hash is not None else hashlib.new(hash_name, answer.certificate_der(index)).digest()
            )
            req_id = answer.body.response[index].certReqId if cert_req_id is None else cert_req_id
            parts = [der.octet_string(found), der.integer(req_id)]
            if status is not None:
                parts.append(der.sequence(der.integer(status)))
            if hash_alg is not None:
                parts.append(der.explicit(0, der.sequence(der.oid(hash_alg))))
            statuses.append(der.sequence(*parts))
        return self.follow(answer, BodyType.certConf, der.sequence(*statuses), **fields)

    def poll_req(self, answer: Answer, cert_req_id: int = 0, **fields: Any) -> Draft:
        """A pollReq that follows an answer which said `waiting`, or a pollRep."""
        return self.follow(answer, BodyType.pollReq, der.sequence(der.sequence(der.integer(cert_req_id))), **fields)

    # ---------------------------------------------------------------------------------------------- protection

    def seal(self, draft: Draft) -> bytes:
        """Protect and encode; a draft whose `algorithm` is set keeps it."""
        if self.secret is not None:
            salt = os.urandom(16)
            draft.algorithm = draft.algorithm or self._mac_algorithm(salt)
            part = asn1.protected_part(draft.header(), draft.body)
            return asn1.encode(draft.header(), draft.body, self._mac(draft.algorithm, part), draft.extra_certs)
        if self.key is not None:
            draft.algorithm = draft.algorithm or signature_algorithm(self.key, hash_name=self.hash_name, pss=self.pss)
            part = asn1.protected_part(draft.header(), draft.body)
            return asn1.encode(
                draft.header(),
                draft.body,
                sign(self.key, part, hash_name=self.hash_name, pss=self.pss),
                draft.extra_certs,
            )
        return asn1.encode(draft.header(), draft.body, None, draft.extra_certs)

    def _mac_algorithm(self, salt: bytes) -> bytes:
        mac = der.sequence(der.oid(HMAC[self.mac]), der.null())
        if self.pbmac1:
            prf = der.sequence(der.oid(HMAC[self.owf]), der.null())
            kdf = der.sequence(
                der.oid(oids.PBKDF2),
                der.sequence(der.octet_string(salt), der.integer(self.iterations), der.integer(32), prf),
            )
            return der.sequence(der.oid(oids.PBMAC1), der.sequence(kdf, mac))
        owf = der.sequence(der.oid(OWF[self.owf]))
        parameter = der.sequence(der.octet_string(salt), owf, der.integer(self.iterations), mac)
        return der.sequence(der.oid(oids.PASSWORD_BASED_MAC), parameter)

    def _mac(self, algorithm: bytes, part: bytes) -> bytes:
        """An implementation of its own, from RFC 4211 §4.4 and RFC 8018."""
        assert self.secret is not None
        found = asn1.parse(asn1.AlgorithmIdentifier, algorithm)
        names = {oid: text for text, oid in HMAC.items()} | {oids.HMAC_SHA1: "sha1"}
        if found.algorithm == oids.PBMAC1:
            params = asn1.parse(asn1.PBMAC1_params, asn1.dump(found.parameters))
            kdf = asn1.parse(asn1.PBKDF2_params, asn1.dump(params.keyDerivationFunc.parameters))
            assert kdf.prf is not None
            assert isinstance(kdf.salt, bytes)
            key = hashlib.pbkdf2_hmac(
                names[kdf.prf.algorithm], self.secret, kdf.salt, kdf.iterationCount, kdf.keyLength
            )
            return hmac.digest(key, part, names[params.messageAuthScheme.algorithm])
        pbm = asn1.parse(asn1.PBMParameter, asn1.dump(found.parameters))
        owf = {oid: text for text, oid in OWF.items()}[pbm.owf.algorithm]
        key = self.secret + pbm.salt
        for _ in range(pbm.iterationCount):
            key = hashlib.new(owf, key).digest()
        return hmac.digest(key, part, names[pbm.mac.algorithm])

    # -------------------------------------------------------------------------------------------------- answers

    def read(self, data: bytes, request: Draft | None = None) -> Answer:
        """Decode an answer; check its IDs and nonces, and its protection as this EE can verify it."""
        message = asn1.decode(data, Limits())
        assert not message.was_ber
        header = message.header
        if request is not None:
            if request.transaction_id is not None:
                assert header.transactionID == request.transaction_id
            if request.sender_nonce is not None:
                assert header.recipNonce == request.sender_nonce
            assert asn1.raw(header.recipient) == request.sender
        assert header.senderNonce is not None
        assert len(header.senderNonce) == 16
        if message.protection is None:
            return Answer(message, data, protected=False)
        assert header.protectionAlg is not None
        if self.secret is not None:
            expected = self._mac(asn1.dump(header.protectionAlg), message.protected_part())
            assert hmac.compare_digest(expected, message.protection), "the answer's MAC does not verify"
        else:
            signer = x509.load_der_x509_certificate(message.extraCerts[0])
            key_usage = signer.extensions.get_extension_for_class(x509.KeyUsage).value
            assert key_usage.digital_signature
            assert header.senderKID == signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
            public = signer.public_key()
            assert isinstance(public, ec.EllipticCurvePublicKey)
            public.verify(message.protection, message.protected_part(), ec.ECDSA(hashes.SHA256()))
        return Answer(message, data, protected=True)
