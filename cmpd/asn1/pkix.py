"""What CMP borrows from X.509 and PKCS #10 (RFC 5280, RFC 2986)."""

from typing import Annotated

from cryptography.hazmat.asn1 import TLV, BitString, Implicit, sequence
from cryptography.x509 import ObjectIdentifier

from cmpd.asn1.algorithms import AlgorithmIdentifier


@sequence
class Extension:
    """Extension ::= SEQUENCE { extnID OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
    (RFC 5280 §4.1)

    `critical` is None when absent; clients exist that send an explicit FALSE.
    """

    extnID: ObjectIdentifier
    critical: bool | None = None
    extnValue: bytes


@sequence
class SubjectPublicKeyInfo:
    """SubjectPublicKeyInfo ::= SEQUENCE { algorithm AlgorithmIdentifier, subjectPublicKey BIT STRING }
    (RFC 5280 §4.1.2.7)
    """

    algorithm: AlgorithmIdentifier
    subjectPublicKey: BitString


@sequence
class Attribute:
    """Attribute ::= SEQUENCE { type OBJECT IDENTIFIER, values SET SIZE(1..MAX) OF ANY } (RFC 2986 §4.1)

    `values` is the whole SET; `der.children` takes it apart.
    """

    type: ObjectIdentifier
    values: TLV


@sequence
class CertificationRequestInfo:
    """CertificationRequestInfo ::= SEQUENCE { version INTEGER { v1(0) }, subject Name,
    subjectPKInfo SubjectPublicKeyInfo, attributes [0] IMPLICIT SET OF Attribute } (RFC 2986 §4.1)

    `attributes` is read as a SEQUENCE OF, because clients exist that do not sort the SET; absent (None) is read too.
    """

    version: int
    subject: TLV
    subjectPKInfo: SubjectPublicKeyInfo
    attributes: Annotated[list[Attribute] | None, Implicit(0)] = None


@sequence
class CertificationRequest:
    """CertificationRequest ::= SEQUENCE { certificationRequestInfo CertificationRequestInfo,
    signatureAlgorithm AlgorithmIdentifier, signature BIT STRING } (RFC 2986 §4.2)

    The info stays opaque, since its very octets are signed: `parse(CertificationRequestInfo, raw(…))`.
    """

    certificationRequestInfo: TLV
    signatureAlgorithm: AlgorithmIdentifier
    signature: BitString
