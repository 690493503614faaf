"""The wire codec: PKIMessage, CRMF, PKCS #10 and the parts of X.509 that CMP carries.

    decode · encode · protected_part        a whole PKIMessage (RFC 9810 §5.1)
    decode_body · encode_body               one of the 27 bodies (RFC 9810 §5.1.2)
    parse · dump · raw · opaque             any wire type
    der                                     the DER writer and the smallest reader
    oids                                    names for object identifiers
    read_time · name_rdns · name_text · common_name · directory_name

What `decode_body` returns:

    ir cr kur krr ccr   list[CertReqMsg]            ip cp kup ccp   CertRepMessage
    p10cr               CertificationRequest        popdecc         list[Challenge]
    popdecr             list[int]                   krp             KeyRecRepContent
    rr                  list[RevDetails]            rp              RevRepContent
    ckuann              CAKeyUpdAnnContent | RootCaKeyUpdateContent
    cann                bytes                       rann            RevAnnContent
    crlann              list[bytes]                 pkiconf         Null
    nested              list[bytes], each a whole PKIMessage
    genm genp           list[InfoTypeAndValue]      error           ErrorMsgContent
    certConf            list[CertStatus]            pollReq         list[PollReq]
    pollRep             list[PollRep]

Only this package imports `cryptography.hazmat.asn1`. Its classes compare by identity: compare `dump(…)`.
"""

from cryptography.hazmat.asn1 import TLV, BitString, Null, Variant

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import (
    AlgorithmIdentifier,
    DHBMParameter,
    KemBMParameter,
    PBKDF2_params,
    PBMAC1_params,
    PBMParameter,
    RSASSA_PSS_params,
)
from cmpd.asn1.bodies import decode_body, encode_body
from cmpd.asn1.cmp import (
    BodyType,
    CAKeyUpdAnnContent,
    CertifiedKeyPair,
    CertRepMessage,
    CertReqTemplateContent,
    CertResponse,
    CertStatus,
    Challenge,
    ErrorMsgContent,
    InfoTypeAndValue,
    KemCiphertextInfo,
    KeyRecRepContent,
    OOBCertHash,
    PKIHeader,
    PKIStatusInfo,
    PollRep,
    PollReq,
    RevAnnContent,
    RevDetails,
    RevRepContent,
    RootCaKeyUpdateContent,
)
from cmpd.asn1.codec import dump, opaque, parse, raw
from cmpd.asn1.crmf import (
    AttributeTypeAndValue,
    CertId,
    CertReqMsg,
    CertRequest,
    CertTemplate,
    OptionalValidity,
    PKIPublicationInfo,
    PKMACValue,
    POPOSigningKey,
    POPOSigningKeyInput,
    ProofOfPossession,
    SinglePubInfo,
)
from cmpd.asn1.der import MalformedError
from cmpd.asn1.message import DecodeLimits, PKIMessage, decode, encode, protected_part
from cmpd.asn1.names import common_name, directory_name, general_name_text, name_rdns, name_text, printable, text_of
from cmpd.asn1.pkix import (
    Attribute,
    CertificationRequest,
    CertificationRequestInfo,
    Extension,
    SubjectPublicKeyInfo,
)
from cmpd.asn1.status import PKIFailureInfo, PKIStatus
from cmpd.asn1.times import read_time

__all__ = [
    "TLV",
    "AlgorithmIdentifier",
    "Attribute",
    "AttributeTypeAndValue",
    "BitString",
    "BodyType",
    "CAKeyUpdAnnContent",
    "CertId",
    "CertRepMessage",
    "CertReqMsg",
    "CertReqTemplateContent",
    "CertRequest",
    "CertResponse",
    "CertStatus",
    "CertTemplate",
    "CertificationRequest",
    "CertificationRequestInfo",
    "CertifiedKeyPair",
    "Challenge",
    "DHBMParameter",
    "DecodeLimits",
    "ErrorMsgContent",
    "Extension",
    "InfoTypeAndValue",
    "KemBMParameter",
    "KemCiphertextInfo",
    "KeyRecRepContent",
    "MalformedError",
    "Null",
    "OOBCertHash",
    "OptionalValidity",
    "PBKDF2_params",
    "PBMAC1_params",
    "PBMParameter",
    "PKIFailureInfo",
    "PKIHeader",
    "PKIMessage",
    "PKIPublicationInfo",
    "PKIStatus",
    "PKIStatusInfo",
    "PKMACValue",
    "POPOSigningKey",
    "POPOSigningKeyInput",
    "PollRep",
    "PollReq",
    "ProofOfPossession",
    "RSASSA_PSS_params",
    "RevAnnContent",
    "RevDetails",
    "RevRepContent",
    "RootCaKeyUpdateContent",
    "SinglePubInfo",
    "SubjectPublicKeyInfo",
    "Variant",
    "common_name",
    "decode",
    "decode_body",
    "der",
    "directory_name",
    "dump",
    "encode",
    "encode_body",
    "general_name_text",
    "name_rdns",
    "name_text",
    "oids",
    "opaque",
    "parse",
    "printable",
    "protected_part",
    "raw",
    "read_time",
    "text_of",
]
