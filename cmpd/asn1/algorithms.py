"""Algorithm identifiers and the parameters of the algorithms that CMP uses (RFC 9481, RFC 9810 §5.1.3, RFC 8018)."""

from typing import Annotated

from cryptography.hazmat.asn1 import TLV, Explicit, Null, sequence
from cryptography.x509 import ObjectIdentifier


@sequence
class AlgorithmIdentifier:
    """AlgorithmIdentifier ::= SEQUENCE { algorithm OBJECT IDENTIFIER, parameters ANY OPTIONAL } (RFC 5280 §4.1.1.2).

    A decoded NULL is a TLV too; None means absent.
    """

    algorithm: ObjectIdentifier
    parameters: TLV | Null | None = None


@sequence
class PBMParameter:
    """PBMParameter ::= SEQUENCE { salt OCTET STRING, owf AlgorithmIdentifier, iterationCount INTEGER,
    mac AlgorithmIdentifier } (RFC 9810 §5.1.3.1)
    """

    salt: bytes
    owf: AlgorithmIdentifier
    iterationCount: int
    mac: AlgorithmIdentifier


@sequence
class DHBMParameter:
    """DHBMParameter ::= SEQUENCE { owf AlgorithmIdentifier, mac AlgorithmIdentifier } (RFC 9810 §5.1.3.2)"""

    owf: AlgorithmIdentifier
    mac: AlgorithmIdentifier


@sequence
class KemBMParameter:
    """KemBMParameter ::= SEQUENCE { kdf AlgorithmIdentifier, kemContext [0] OCTET STRING OPTIONAL,
    len INTEGER (1..MAX), mac AlgorithmIdentifier } (RFC 9810 §5.1.3.4)
    """

    kdf: AlgorithmIdentifier
    kemContext: Annotated[bytes | None, Explicit(0)] = None
    len: int
    mac: AlgorithmIdentifier


@sequence
class PBMAC1_params:  # noqa: N801  the name in RFC 8018 and RFC 4055
    """PBMAC1-params ::= SEQUENCE { keyDerivationFunc AlgorithmIdentifier, messageAuthScheme AlgorithmIdentifier }
    (RFC 8018 §A.5)
    """

    keyDerivationFunc: AlgorithmIdentifier
    messageAuthScheme: AlgorithmIdentifier


@sequence
class PBKDF2_params:  # noqa: N801  the name in RFC 8018 and RFC 4055
    """PBKDF2-params ::= SEQUENCE { salt CHOICE { specified OCTET STRING, otherSource AlgorithmIdentifier },
    iterationCount INTEGER (1..MAX), keyLength INTEGER (1..MAX) OPTIONAL,
    prf AlgorithmIdentifier DEFAULT algid-hmacWithSHA1 } (RFC 8018 §A.2)

    An absent prf is None and means hmacWithSHA1.
    """

    salt: bytes | AlgorithmIdentifier
    iterationCount: int
    keyLength: int | None = None
    prf: AlgorithmIdentifier | None = None


@sequence
class RSASSA_PSS_params:  # noqa: N801  the name in RFC 8018 and RFC 4055
    """RSASSA-PSS-params ::= SEQUENCE { hashAlgorithm [0] HashAlgorithm DEFAULT sha1Identifier,
    maskGenAlgorithm [1] MaskGenAlgorithm DEFAULT mgf1SHA1Identifier, saltLength [2] INTEGER DEFAULT 20,
    trailerField [3] INTEGER DEFAULT 1 } (RFC 4055 §3.1)

    An absent field is None and means its default.
    """

    hashAlgorithm: Annotated[AlgorithmIdentifier | None, Explicit(0)] = None
    maskGenAlgorithm: Annotated[AlgorithmIdentifier | None, Explicit(1)] = None
    saltLength: Annotated[int | None, Explicit(2)] = None
    trailerField: Annotated[int | None, Explicit(3)] = None
