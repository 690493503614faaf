"""What of a certificate (DER) a request is held against (RFC 4211 §6.5, RFC 9483 §4.1.3)."""

from cmpd import asn1
from cmpd.asn1 import der
from cmpd.asn1.certificate import serial, tbs
from cmpd.asn1.compare import same_name
from cmpd.exchange import RequestedExtension


def is_named(certificate: bytes, cert_id: tuple[bytes, int]) -> bool:
    """Hold issuer and serial number of a certificate against a CertId (RFC 4211 §6.5)."""
    issuer = asn1.directory_name(cert_id[0])
    fields = tbs(certificate)
    return issuer is not None and serial(certificate) == cert_id[1] and same_name(issuer, fields[2])


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
