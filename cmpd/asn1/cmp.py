"""The messages of CMP (RFC 9810 Appendix A, EXPLICIT TAGS): header, status, and the parts of the 27 bodies.

CMPCertificate, CertificateList, EncryptedKey, EnvelopedData and Time are opaque: carried here, not understood.
"""

from enum import IntEnum
from typing import Annotated

from cryptography.hazmat.asn1 import TLV, BitString, Explicit, Null, sequence
from cryptography.x509 import ObjectIdentifier

from cmpd.asn1.algorithms import AlgorithmIdentifier
from cmpd.asn1.crmf import AttributeTypeAndValue, CertId, CertTemplate, PKIPublicationInfo
from cmpd.asn1.pkix import Extension


class BodyType(IntEnum):
    """The alternatives of PKIBody; the value is the tag number (RFC 9810 §5.1.2)."""

    ir = 0
    ip = 1
    cr = 2
    cp = 3
    p10cr = 4
    popdecc = 5
    popdecr = 6
    kur = 7
    kup = 8
    krr = 9
    krp = 10
    rr = 11
    rp = 12
    ccr = 13
    ccp = 14
    ckuann = 15
    cann = 16
    rann = 17
    crlann = 18
    pkiconf = 19
    nested = 20
    genm = 21
    genp = 22
    error = 23
    certConf = 24
    pollReq = 25
    pollRep = 26


@sequence
class InfoTypeAndValue:
    """InfoTypeAndValue ::= SEQUENCE { infoType OBJECT IDENTIFIER, infoValue ANY DEFINED BY infoType OPTIONAL }
    (RFC 9810 §5.3.19)
    """

    infoType: ObjectIdentifier
    infoValue: TLV | Null | None = None


@sequence
class PKIHeader:
    """PKIHeader ::= SEQUENCE { pvno INTEGER { cmp1999(1), cmp2000(2), cmp2021(3) }, sender GeneralName,
    recipient GeneralName, messageTime [0] GeneralizedTime OPTIONAL, protectionAlg [1] AlgorithmIdentifier OPTIONAL,
    senderKID [2] KeyIdentifier OPTIONAL, recipKID [3] KeyIdentifier OPTIONAL, transactionID [4] OCTET STRING OPTIONAL,
    senderNonce [5] OCTET STRING OPTIONAL, recipNonce [6] OCTET STRING OPTIONAL, freeText [7] PKIFreeText OPTIONAL,
    generalInfo [8] SEQUENCE SIZE (1..MAX) OF InfoTypeAndValue OPTIONAL } (RFC 9810 §5.1.1)

    messageTime is opaque, for the forms real clients send: `read_time(raw(…))`.
    """

    pvno: int
    sender: TLV
    recipient: TLV
    messageTime: Annotated[TLV | Null | None, Explicit(0)] = None
    protectionAlg: Annotated[AlgorithmIdentifier | None, Explicit(1)] = None
    senderKID: Annotated[bytes | None, Explicit(2)] = None
    recipKID: Annotated[bytes | None, Explicit(3)] = None
    transactionID: Annotated[bytes | None, Explicit(4)] = None
    senderNonce: Annotated[bytes | None, Explicit(5)] = None
    recipNonce: Annotated[bytes | None, Explicit(6)] = None
    freeText: Annotated[list[str] | None, Explicit(7)] = None
    generalInfo: Annotated[list[InfoTypeAndValue] | None, Explicit(8)] = None


@sequence
class PKIStatusInfo:
    """PKIStatusInfo ::= SEQUENCE { status PKIStatus, statusString PKIFreeText OPTIONAL,
    failInfo PKIFailureInfo OPTIONAL } (RFC 9810 §5.2.3)
    """

    status: int
    statusString: list[str] | None = None
    failInfo: BitString | None = None


@sequence
class CertifiedKeyPair:
    """CertifiedKeyPair ::= SEQUENCE { certOrEncCert CertOrEncCert, privateKey [0] EncryptedKey OPTIONAL,
    publicationInfo [1] PKIPublicationInfo OPTIONAL } (RFC 9810 §5.3.4)

    `certOrEncCert` is opaque: tag `A0` around a certificate or `A1` around an EncryptedKey (`der.children(raw(…))[0]`).
    """

    certOrEncCert: TLV
    privateKey: Annotated[TLV | Null | None, Explicit(0)] = None
    publicationInfo: Annotated[PKIPublicationInfo | None, Explicit(1)] = None


@sequence
class CertResponse:
    """CertResponse ::= SEQUENCE { certReqId INTEGER, status PKIStatusInfo, certifiedKeyPair CertifiedKeyPair OPTIONAL,
    rspInfo OCTET STRING OPTIONAL } (RFC 9810 §5.3.4)
    """

    certReqId: int
    status: PKIStatusInfo
    certifiedKeyPair: CertifiedKeyPair | None = None
    rspInfo: bytes | None = None


@sequence
class CertRepMessage:
    """CertRepMessage ::= SEQUENCE { caPubs [1] SEQUENCE SIZE (1..MAX) OF CMPCertificate OPTIONAL,
    response SEQUENCE OF CertResponse } (RFC 9810 §5.3.4)
    """

    caPubs: Annotated[list[TLV] | None, Explicit(1)] = None
    response: list[CertResponse]


@sequence
class Challenge:
    """Challenge ::= SEQUENCE { owf AlgorithmIdentifier OPTIONAL, witness OCTET STRING, challenge OCTET STRING,
    encryptedRand [0] EnvelopedData OPTIONAL } (RFC 9810 §5.2.8.3.3)
    """

    owf: AlgorithmIdentifier | None = None
    witness: bytes
    challenge: bytes
    encryptedRand: Annotated[TLV | Null | None, Explicit(0)] = None


@sequence
class KeyRecRepContent:
    """KeyRecRepContent ::= SEQUENCE { status PKIStatusInfo, newSigCert [0] CMPCertificate OPTIONAL,
    caCerts [1] SEQUENCE SIZE (1..MAX) OF CMPCertificate OPTIONAL,
    keyPairHist [2] SEQUENCE SIZE (1..MAX) OF CertifiedKeyPair OPTIONAL } (RFC 9810 §5.3.8)
    """

    status: PKIStatusInfo
    newSigCert: Annotated[TLV | Null | None, Explicit(0)] = None
    caCerts: Annotated[list[TLV] | None, Explicit(1)] = None
    keyPairHist: Annotated[list[CertifiedKeyPair] | None, Explicit(2)] = None


@sequence
class RevDetails:
    """RevDetails ::= SEQUENCE { certDetails CertTemplate, crlEntryDetails Extensions OPTIONAL } (RFC 9810 §5.3.9)"""

    certDetails: CertTemplate
    crlEntryDetails: list[Extension] | None = None


@sequence
class RevRepContent:
    """RevRepContent ::= SEQUENCE { status SEQUENCE SIZE (1..MAX) OF PKIStatusInfo,
    revCerts [0] SEQUENCE SIZE (1..MAX) OF CertId OPTIONAL,
    crls [1] SEQUENCE SIZE (1..MAX) OF CertificateList OPTIONAL } (RFC 9810 §5.3.10)
    """

    status: list[PKIStatusInfo]
    revCerts: Annotated[list[CertId] | None, Explicit(0)] = None
    crls: Annotated[list[TLV] | None, Explicit(1)] = None


@sequence
class CAKeyUpdAnnContent:
    """CAKeyUpdAnnContent ::= SEQUENCE { oldWithNew CMPCertificate, newWithOld CMPCertificate,
    newWithNew CMPCertificate } (RFC 9810 §5.3.13)
    """

    oldWithNew: TLV
    newWithOld: TLV
    newWithNew: TLV


@sequence
class RootCaKeyUpdateContent:
    """RootCaKeyUpdateContent ::= SEQUENCE { newWithNew CMPCertificate, newWithOld [0] CMPCertificate OPTIONAL,
    oldWithNew [1] CMPCertificate OPTIONAL } (RFC 9810 §5.3.19.15)
    """

    newWithNew: TLV
    newWithOld: Annotated[TLV | Null | None, Explicit(0)] = None
    oldWithNew: Annotated[TLV | Null | None, Explicit(1)] = None


@sequence
class RevAnnContent:
    """RevAnnContent ::= SEQUENCE { status PKIStatus, certId CertId, willBeRevokedAt GeneralizedTime,
    badSinceDate GeneralizedTime, crlDetails Extensions OPTIONAL } (RFC 9810 §5.3.15)
    """

    status: int
    certId: CertId
    willBeRevokedAt: TLV
    badSinceDate: TLV
    crlDetails: list[Extension] | None = None


@sequence
class ErrorMsgContent:
    """ErrorMsgContent ::= SEQUENCE { pKIStatusInfo PKIStatusInfo, errorCode INTEGER OPTIONAL,
    errorDetails PKIFreeText OPTIONAL } (RFC 9810 §5.3.21)
    """

    pKIStatusInfo: PKIStatusInfo
    errorCode: int | None = None
    errorDetails: list[str] | None = None


@sequence
class CertStatus:
    """CertStatus ::= SEQUENCE { certHash OCTET STRING, certReqId INTEGER, statusInfo PKIStatusInfo OPTIONAL,
    hashAlg [0] AlgorithmIdentifier OPTIONAL } (RFC 9810 §5.3.18)
    """

    certHash: bytes
    certReqId: int
    statusInfo: PKIStatusInfo | None = None
    hashAlg: Annotated[AlgorithmIdentifier | None, Explicit(0)] = None


@sequence
class PollReq:
    """PollReqContent ::= SEQUENCE OF SEQUENCE { certReqId INTEGER } (RFC 9810 §5.3.22)"""

    certReqId: int


@sequence
class PollRep:
    """PollRepContent ::= SEQUENCE OF SEQUENCE { certReqId INTEGER, checkAfter INTEGER, reason PKIFreeText OPTIONAL }
    (RFC 9810 §5.3.22)

    checkAfter is in seconds.
    """

    certReqId: int
    checkAfter: int
    reason: list[str] | None = None


@sequence
class CertReqTemplateContent:
    """CertReqTemplateContent ::= SEQUENCE { certTemplate CertTemplate, keySpec Controls OPTIONAL }
    (RFC 9810 §5.3.19.16)
    """

    certTemplate: CertTemplate
    keySpec: list[AttributeTypeAndValue] | None = None


@sequence
class KemCiphertextInfo:
    """KemCiphertextInfo ::= SEQUENCE { kem AlgorithmIdentifier, ct OCTET STRING } (RFC 9810 §5.1.1.5)"""

    kem: AlgorithmIdentifier
    ct: bytes


@sequence
class OOBCertHash:
    """OOBCertHash ::= SEQUENCE { hashAlg [0] AlgorithmIdentifier OPTIONAL, certId [1] CertId OPTIONAL,
    hashVal BIT STRING } (RFC 9810 §5.2.5)
    """

    hashAlg: Annotated[AlgorithmIdentifier | None, Explicit(0)] = None
    certId: Annotated[CertId | None, Explicit(1)] = None
    hashVal: BitString
