"""The PKI of somebody else: a root, an issuing CA below it, clients, and a CRL."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.exchange import TLSClient
from tests.ee import EE, new_key
from tests.world import certificate

CLIENT_AUTH = x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH
POLICY = "1.3.6.1.4.1.55555.1"


def policies(oid: str) -> tuple[x509.ExtensionType, bool]:
    return x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier(oid), None)]), False


def dns(*names: str) -> tuple[x509.ExtensionType, bool]:
    return x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), False


def write(folder: Path, file: str, *certificates: x509.Certificate) -> str:
    """Write certificates as PEM; the file's name, as profiles want it."""
    (folder / file).write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in certificates))
    return file


def der(one: x509.Certificate) -> bytes:
    return one.public_bytes(Encoding.DER)


def loaded(ee: EE) -> x509.Certificate:
    assert ee.certificate is not None
    return x509.load_der_x509_certificate(ee.certificate)


def tls(ee: EE) -> TLSClient:
    """The end entity as a TLS client: it has proven its key in the handshake."""
    assert ee.certificate is not None
    return TLSClient(ee.certificate, ee.chain)


def bare(now: datetime) -> EE:
    """An end entity that protects nothing."""
    return EE(now=now)


def without_its_key(ee: EE) -> EE:
    """Somebody who has the certificate, which is no secret, and not its key."""
    assert ee.certificate is not None
    return EE.with_certificate(new_key(), ee.certificate, ee.chain, now=ee.now)


class PKI:
    """A root and what it has issued."""

    def __init__(self, name: str) -> None:
        self.key = new_key()
        self.root = certificate(self.key, name, ca=True, not_after=datetime.now(UTC) + timedelta(days=3650))

    def client(self, subject: str = "gateway-1", *, now: datetime, key: Any = None, **kwargs: Any) -> EE:
        key = key or new_key()
        return EE.with_certificate(key, der(certificate(key, subject, self.key, self.root, **kwargs)), now=now)

    def crl(self, path: Path, revoked: Sequence[x509.Certificate], now: datetime) -> None:
        """Write a CRL, DER."""
        builder = x509.CertificateRevocationListBuilder(self.root.subject, now, now + timedelta(days=1))
        for one in revoked:
            entry = x509.RevokedCertificateBuilder(one.serial_number, now).build()
            builder = builder.add_revoked_certificate(entry)
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER))
