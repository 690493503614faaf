"""What is read of a certificate (DER) without loading it as an object (RFC 5280 §4.1)."""

from functools import lru_cache

from cmpd import asn1
from cmpd.asn1 import der
from cmpd.asn1.compare import same_name
from cmpd.exchange import RequestedExtension


def is_named(certificate: bytes, cert_id: tuple[bytes, int]) -> bool:
    """Hold issuer and serial number of a certificate against a CertId (RFC 4211 §6.5)."""
    issuer = asn1.directory_name(cert_id[0])
    fields = tbs(certificate)
    return issuer is not None and _integer(fields[0]) == cert_id[1] and same_name(issuer, fields[2])


@lru_cache(maxsize=64)
def tbs(certificate: bytes) -> tuple[bytes, ...]:
    """The fields of TBSCertificate from serialNumber on (RFC 5280 §4.1). Raises MalformedError."""
    fields = der.children(b"".join(der.children(certificate)[:1]))
    if len(fields) < LEAST_FIELDS:
        raise der.MalformedError("certificate: fields are missing")
    return tuple(fields[1:] if fields[0][0] == 0xA0 else fields)


LEAST_FIELDS = 6
"""serialNumber, signature, issuer, validity, subject and subjectPublicKeyInfo."""


def serial(certificate: bytes) -> int:
    """The serialNumber. Raises MalformedError."""
    return _integer(tbs(certificate)[0])


def _integer(field: bytes) -> int:
    _, start, end = der.read(field)
    return int.from_bytes(field[start:end], "big", signed=True)


def spki(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo."""
    return tbs(certificate)[5]


def names(certificate: bytes) -> tuple[bytes, bytes, list[RequestedExtension]]:
    """Subject, SubjectPublicKeyInfo and extensions of a certificate (DER)."""
    fields = tbs(certificate)
    extensions = [
        RequestedExtension(extension.extnID, bool(extension.critical), extension.extnValue)
        for field in fields[6:]
        if field[0] == 0xA3
        for extension in (asn1.parse(asn1.Extension, raw) for raw in der.children(der.children(field)[0]))
    ]
    return fields[4], fields[5], extensions
