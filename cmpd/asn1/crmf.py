"""The Certificate Request Message Format (RFC 4211). Its module has IMPLICIT TAGS; a CHOICE is explicit even so."""

from typing import Annotated, Literal

from cryptography.hazmat.asn1 import TLV, BitString, Explicit, Implicit, Null, Variant, sequence
from cryptography.x509 import ObjectIdentifier

from cmpd.asn1.algorithms import AlgorithmIdentifier
from cmpd.asn1.pkix import Extension, SubjectPublicKeyInfo


@sequence
class OptionalValidity:
    """OptionalValidity ::= SEQUENCE { notBefore [0] Time OPTIONAL, notAfter [1] Time OPTIONAL } (RFC 4211 §5)

    Both are opaque: `read_time(raw(…))`.
    """

    notBefore: Annotated[TLV | Null | None, Explicit(0)] = None
    notAfter: Annotated[TLV | Null | None, Explicit(1)] = None


@sequence
class CertTemplate:
    """CertTemplate ::= SEQUENCE { version [0] Version OPTIONAL, serialNumber [1] INTEGER OPTIONAL,
    signingAlg [2] AlgorithmIdentifier OPTIONAL, issuer [3] Name OPTIONAL, validity [4] OptionalValidity OPTIONAL,
    subject [5] Name OPTIONAL, publicKey [6] SubjectPublicKeyInfo OPTIONAL, issuerUID [7] UniqueIdentifier OPTIONAL,
    subjectUID [8] UniqueIdentifier OPTIONAL, extensions [9] Extensions OPTIONAL } (RFC 4211 §5)
    """

    version: Annotated[int | None, Implicit(0)] = None
    serialNumber: Annotated[int | None, Implicit(1)] = None
    signingAlg: Annotated[AlgorithmIdentifier | None, Implicit(2)] = None
    issuer: Annotated[TLV | Null | None, Explicit(3)] = None
    validity: Annotated[OptionalValidity | None, Implicit(4)] = None
    subject: Annotated[TLV | Null | None, Explicit(5)] = None
    publicKey: Annotated[SubjectPublicKeyInfo | None, Implicit(6)] = None
    issuerUID: Annotated[BitString | None, Implicit(7)] = None
    subjectUID: Annotated[BitString | None, Implicit(8)] = None
    extensions: Annotated[list[Extension] | None, Implicit(9)] = None


@sequence
class AttributeTypeAndValue:
    """AttributeTypeAndValue ::= SEQUENCE { type OBJECT IDENTIFIER, value ANY DEFINED BY type } (RFC 4211 §5)"""

    type: ObjectIdentifier
    value: TLV


@sequence
class CertRequest:
    """CertRequest ::= SEQUENCE { certReqId INTEGER, certTemplate CertTemplate,
    controls SEQUENCE SIZE(1..MAX) OF AttributeTypeAndValue OPTIONAL } (RFC 4211 §5)
    """

    certReqId: int
    certTemplate: CertTemplate
    controls: list[AttributeTypeAndValue] | None = None


@sequence
class PKMACValue:
    """PKMACValue ::= SEQUENCE { algId AlgorithmIdentifier, value BIT STRING } (RFC 4211 §4.4)"""

    algId: AlgorithmIdentifier
    value: BitString


@sequence
class POPOSigningKeyInput:
    """POPOSigningKeyInput ::= SEQUENCE { authInfo CHOICE { sender [0] GeneralName, publicKeyMAC PKMACValue },
    publicKey SubjectPublicKeyInfo } (RFC 4211 §4.1)

    `authInfo` is opaque: tag `A0` around a GeneralName, or a PKMACValue.
    """

    authInfo: TLV
    publicKey: SubjectPublicKeyInfo


@sequence
class POPOSigningKey:
    """POPOSigningKey ::= SEQUENCE { poposkInput [0] POPOSigningKeyInput OPTIONAL,
    algorithmIdentifier AlgorithmIdentifier, signature BIT STRING } (RFC 4211 §4.1)
    """

    poposkInput: Annotated[POPOSigningKeyInput | None, Implicit(0)] = None
    algorithmIdentifier: AlgorithmIdentifier
    signature: BitString


ProofOfPossession = (
    Annotated[Variant[Null, Literal["raVerified"]], Implicit(0)]
    | Annotated[Variant[POPOSigningKey, Literal["signature"]], Implicit(1)]
    | Annotated[Variant[TLV, Literal["keyEncipherment"]], Explicit(2)]
    | Annotated[Variant[TLV, Literal["keyAgreement"]], Explicit(3)]
)
"""ProofOfPossession ::= CHOICE { raVerified [0] NULL, signature [1] POPOSigningKey, keyEncipherment [2] POPOPrivKey,
keyAgreement [3] POPOPrivKey } (RFC 4211 §4)

`popo.tag` is the name of the alternative, `popo.value` what it holds. POPOPrivKey, itself a CHOICE, is opaque:
thisMessage [0], subsequentMessage [1], dhMAC [2], agreeMAC [3], encryptedKey [4].
"""


@sequence
class CertReqMsg:
    """CertReqMsg ::= SEQUENCE { certReq CertRequest, popo ProofOfPossession OPTIONAL,
    regInfo SEQUENCE SIZE(1..MAX) OF AttributeTypeAndValue OPTIONAL } (RFC 4211 §3)

    `certReq` stays opaque, since its very octets are signed: `parse(CertRequest, raw(…))`.
    """

    certReq: TLV
    popo: ProofOfPossession | None = None
    regInfo: list[AttributeTypeAndValue] | None = None


@sequence
class CertId:
    """CertId ::= SEQUENCE { issuer GeneralName, serialNumber INTEGER } (RFC 4211 §6.5)"""

    issuer: TLV
    serialNumber: int


@sequence
class SinglePubInfo:
    """SinglePubInfo ::= SEQUENCE { pubMethod INTEGER { dontCare(0), x500(1), web(2), ldap(3) },
    pubLocation GeneralName OPTIONAL } (RFC 4211 §6.3)
    """

    pubMethod: int
    pubLocation: TLV | Null | None = None


@sequence
class PKIPublicationInfo:
    """PKIPublicationInfo ::= SEQUENCE { action INTEGER { dontPublish(0), pleasePublish(1) },
    pubInfos SEQUENCE SIZE (1..MAX) OF SinglePubInfo OPTIONAL } (RFC 4211 §6.3)
    """

    action: int
    pubInfos: list[SinglePubInfo] | None = None
