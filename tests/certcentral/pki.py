"""The simulator's own small PKI, and how it reads the `csr` of an order.

Two roots, public and private; below them one RSA and one EC issuing CA for each family of products. A certificate is
shaped by the order alone; of the CSR only the key is used.
"""

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.certcentral.catalogue import FAMILIES, Family
from tests.certcentral.clock import moment
from tests.certcentral.errors import invalid

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_ARMOUR: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----(.*?)-----END \1-----", re.DOTALL)
_CSR_LABELS: Final = frozenset({"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"})
_HASHES: Final[dict[str, hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_SCTS: Final = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_BORN, _DIES = datetime(2020, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SubmittedKey:
    """What an order's `csr` is good for."""

    spki: bytes
    bits: int
    kind: str
    """`rsa` or `ec`."""
    bare: bool
    """It was a bare public key, no CSR."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, hex."""
        return hashlib.sha256(self.spki).hexdigest()

    @property
    def public_key(self) -> PublicKey:
        """The key itself."""
        key = serialization.load_der_public_key(self.spki)
        assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
        return key


def read_key(text: str, *, bare_allowed: bool, check_signature: bool) -> SubmittedKey:
    """The key of a CSR. Raises ApiError.

    Clients spell it as PEM with line breaks, as PEM with all line breaks removed, and as base64 without the PEM header,
    with or without line breaks; some products may take a PEM or base64 public key.
    """
    armoured = _ARMOUR.search(text)
    label, body = (armoured[1], armoured[2]) if armoured else ("", text)
    try:
        der = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("csr", "The CSR is not base64.") from None
    if label and label not in _CSR_LABELS and label != "PUBLIC KEY":
        raise invalid("csr", f"A {label} is not a CSR.")
    request = _load_request(der) if label != "PUBLIC KEY" else None
    try:
        if request is not None:
            if check_signature and not request.is_signature_valid:
                raise invalid("csr", "The CSR is not signed by its key.")
            key: object = request.public_key()
        else:
            key = serialization.load_der_public_key(der)
            if not bare_allowed:
                raise invalid("csr", "A public key is not a CSR.")
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        raise invalid("csr", "The CSR cannot be read.") from None
    return _accepted(key, bare=request is None)


def _load_request(der: bytes) -> x509.CertificateSigningRequest | None:
    try:
        return x509.load_der_x509_csr(der)
    except ValueError:
        return None


def _accepted(key: object, *, bare: bool) -> SubmittedKey:
    """Refuse weak keys and algorithms: RSA from 2048 bits, a multiple of 8, and three curves are taken."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048 or key.key_size % 8 or key.public_numbers().e < 3:
            raise invalid("csr", f"An RSA key of {key.key_size} bits is too weak.")
        kind = "rsa"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
            raise invalid("csr", f"The curve {key.curve.name} is not allowed.")
        kind = "ec"
    else:
        raise invalid("csr", "Keys are RSA or EC.")
    return SubmittedKey(spki_of(key), key.key_size, kind, bare)


def spki_of(key: PublicKey) -> bytes:
    """The SubjectPublicKeyInfo of a key."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything that a certificate says."""

    family: str
    ca_id: str
    spki: bytes
    subject: tuple[tuple[ObjectIdentifier, str], ...]
    san: tuple[x509.GeneralName, ...]
    usage: x509.KeyUsage
    purposes: tuple[ObjectIdentifier, ...]
    policies: tuple[ObjectIdentifier, ...]
    hash: str
    not_before: datetime
    not_after: datetime
    logged: bool = False
    """With SCTs."""


class IssuingCA:
    """An issuing CA with its root."""

    def __init__(self, family: Family, algorithm: str) -> None:
        self.id = family.ca_id(algorithm)
        self.name = family.ca_name(algorithm)
        self.family = family
        self._key = _ca_key(f"{family.name}/{algorithm}", algorithm)
        self._root, root_key = _root(public=family.public)
        public_key = self._key.public_key()
        url = f"http://{'public' if family.public else 'private'}.pki.example.com/{family.name}-{algorithm}"
        self.url = url
        self.certificate = (
            _builder(self.name, self._root.subject, public_key, _BORN, _DIES)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usages("key_cert_sign", "crl_sign", "digital_signature"), critical=True)
            .add_extension(x509.CertificatePolicies([_policy(ObjectIdentifier("2.5.29.32.0"))]), critical=False)
            .add_extension(_crl(f"{url}-root.crl"), critical=False)
            .add_extension(_access(f"{url}-root"), critical=False)
            .add_extension(_identifier(self._root), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .sign(root_key, hashes.SHA384())
        )

    @property
    def root(self) -> x509.Certificate:
        """Its root."""
        return self._root

    def sign(self, shape: Shape) -> x509.Certificate:
        """Issue."""
        subject = [x509.RelativeDistinguishedName([x509.NameAttribute(*pair)]) for pair in shape.subject]
        key = serialization.load_der_public_key(shape.spki)
        assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
        builder = (
            _builder(x509.Name(subject), self.certificate.subject, key, shape.not_before, shape.not_after)
            .add_extension(_identifier(self.certificate), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(shape.usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(shape.purposes), critical=False)
            .add_extension(x509.CertificatePolicies([_policy(oid) for oid in shape.policies]), critical=False)
            .add_extension(_crl(f"{self.url}.crl"), critical=False)
            .add_extension(_access(self.url), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        if shape.san:
            builder = builder.add_extension(x509.SubjectAlternativeName(shape.san), critical=not subject)
        if shape.logged:
            builder = builder.add_extension(x509.UnrecognizedExtension(_SCTS, _scts(shape.not_before)), critical=False)
        digest = _HASHES[shape.hash] if isinstance(self._key, rsa.RSAPrivateKey) else hashes.SHA256()
        return builder.sign(self._key, digest)


@cache
def issuing_ca(family: str, algorithm: str) -> IssuingCA:
    """The issuing CA; made when it is first used, one for the process."""
    return IssuingCA(FAMILIES[family], algorithm)


def by_id(family: str, ca_id: str) -> IssuingCA:
    """The issuing CA with a ca_cert_id. Raises KeyError."""
    return issuing_ca(family, FAMILIES[family].ca_ids[ca_id])


def issue(shape: Shape) -> x509.Certificate:
    """A certificate of this shape."""
    return by_id(shape.family, shape.ca_id).sign(shape)


def roots() -> list[x509.Certificate]:
    """Both roots, the public one first."""
    return [_root(public=True)[0], _root(public=False)[0]]


@cache
def _ca_key(name: str, algorithm: str) -> SigningKey:
    """CA keys live as long as the process: `name` tells them apart."""
    return rsa.generate_private_key(65537, 2048) if algorithm == "rsa" else ec.generate_private_key(ec.SECP256R1())


@cache
def _root(*, public: bool) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP384R1())
    name = f"Simulated {'Public' if public else 'Private'} Root"
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated CA"), _cn(name)])
    certificate = (
        _builder(subject, subject, key.public_key(), _BORN, _DIES)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usages("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return certificate, key


def _cn(name: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.COMMON_NAME, name)


def _builder(
    subject: str | x509.Name, issuer: x509.Name, key: PublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    if isinstance(subject, str):
        country = x509.NameAttribute(NameOID.COUNTRY_NAME, "US")
        organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated CA")
        subject = x509.Name([country, organization, _cn(subject)])
    serial = int.from_bytes(os.urandom(16)) >> 1 | 1
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(end)
    )


def usages(*bits: str) -> x509.KeyUsage:
    """A KeyUsage of these bits."""
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in bits for name in names})


def _policy(oid: ObjectIdentifier) -> x509.PolicyInformation:
    return x509.PolicyInformation(oid, None)


def _crl(url: str) -> x509.CRLDistributionPoints:
    return x509.CRLDistributionPoints([x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)])


def _access(url: str) -> x509.AuthorityInformationAccess:
    ocsp = x509.UniformResourceIdentifier("http://ocsp.pki.example.com")
    return x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, ocsp),
            x509.AccessDescription(
                AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(f"{url}.crt")
            ),
        ]
    )


def _identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _scts(at: datetime) -> bytes:
    """Two SCTs of logs that do not exist, in the form of RFC 6962 §3.3; their signatures are noise."""
    found = b""
    for _ in range(2):
        noise = [int.from_bytes(os.urandom(32)) >> 1 | 1 for _ in range(2)]
        signature = encode_dss_signature(*noise)
        stamp = int(at.timestamp() * 1000).to_bytes(8)
        body = b"\0" + os.urandom(32) + stamp + b"\0\0" + b"\4\3" + len(signature).to_bytes(2) + signature
        found += len(body).to_bytes(2) + body
    found = len(found).to_bytes(2) + found
    header = bytes([len(found)]) if len(found) < 128 else b"\x82" + len(found).to_bytes(2)
    if 128 <= len(found) < 256:
        header = bytes([0x81, len(found)])
    return b"\x04" + header + found


def pem(certificate: x509.Certificate) -> str:
    """PEM as the API writes it: lines end in CR LF."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode().replace("\n", "\r\n")


def bundle(certificates: Sequence[x509.Certificate]) -> bytes:
    """A PKCS #7 bundle, PEM-armoured."""
    return pkcs7.serialize_certificates(list(certificates), serialization.Encoding.PEM)


def lifetime(start: float, days: int) -> tuple[datetime, datetime]:
    """From the midnight before `start` to the last second of the last day."""
    first = moment(start).replace(hour=0, minute=0, second=0, microsecond=0)
    return first, moment(first.timestamp() + days * 86400 - 1)


SERVER_AUTH: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH: Final = ExtendedKeyUsageOID.CLIENT_AUTH
EMAIL_PROTECTION: Final = ExtendedKeyUsageOID.EMAIL_PROTECTION
