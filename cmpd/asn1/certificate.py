"""What is read of a certificate (DER) without loading it as an object (RFC 5280 §4.1)."""

from functools import lru_cache

from cmpd.asn1 import der

FIELDS = 6
"""serialNumber, signature, issuer, validity, subject and subjectPublicKeyInfo: what every certificate has."""


@lru_cache(maxsize=64)
def tbs(certificate: bytes) -> tuple[bytes, ...]:
    """The fields of TBSCertificate from serialNumber on (RFC 5280 §4.1). Raises MalformedError."""
    fields = der.children(b"".join(der.children(certificate)[:1]))
    if fields and fields[0][0] == 0xA0:  # version [0]
        fields = fields[1:]
    if len(fields) < FIELDS:
        raise der.MalformedError("certificate: fields are missing")
    return tuple(fields)


def serial(certificate: bytes) -> int:
    """The serialNumber, positive or not. Raises MalformedError."""
    return int.from_bytes(der.content(tbs(certificate)[0], der.INTEGER), signed=True)


def subject(certificate: bytes) -> bytes:
    """The subject, DER. Raises MalformedError."""
    return tbs(certificate)[4]


def spki(certificate: bytes) -> bytes:
    """The subjectPublicKeyInfo, DER. Raises MalformedError."""
    return tbs(certificate)[5]
