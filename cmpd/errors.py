"""What may go wrong, named after the PKIFailureInfo bit that tells the peer (RFC 9483 §3.6.4).

    CMPError
      BadAlg BadMessageCheck BadRequest BadTime BadCertId BadDataFormat IncorrectData BadPOP CertRevoked
      CertConfirmed WrongIntegrity BadRecipientNonce UnacceptedExtension BadSenderNonce BadCertTemplate
      SignerNotTrusted TransactionIdInUse UnsupportedVersion NotAuthorized SystemUnavail SystemFailure
      DuplicateCertReq

Rules raise these; `str(exc)` goes to the peer as statusString, `exc.private` only to the log. Nothing below the
responder catches them and nothing below `reply` phrases them as a message.
"""

from typing import ClassVar

from cmpd.asn1.status import PKIFailureInfo


class CMPError(Exception):
    """A refusal with its failInfo. `text` is for the peer: it must not carry a secret or an internal detail."""

    fail_info: ClassVar[PKIFailureInfo]

    def __init__(self, text: str, *, private: str | None = None) -> None:
        super().__init__(text)
        self.private = private


class BadAlg(CMPError):
    """The algorithm is not known or not allowed (RFC 9483 §3.5)."""

    fail_info = PKIFailureInfo.badAlg


class BadMessageCheck(CMPError):
    """The protection does not verify, or the key to verify it with is not known (RFC 9483 §3.5)."""

    fail_info = PKIFailureInfo.badMessageCheck


class BadRequest(CMPError):
    """The body type is not supported, or not allowed in the state of the transaction (RFC 9483 §3.5)."""

    fail_info = PKIFailureInfo.badRequest


class BadTime(CMPError):
    """messageTime is too far from the time here (RFC 9483 §3.5)."""

    fail_info = PKIFailureInfo.badTime


class BadCertId(CMPError):
    """A kur, certConf or rr references an unknown certificate (RFC 9483 §3.6.4)."""

    fail_info = PKIFailureInfo.badCertId


class BadDataFormat(CMPError):
    """The message is not what the ASN.1 says (RFC 9483 §3.5)."""

    fail_info = PKIFailureInfo.badDataFormat


class IncorrectData(CMPError):
    """The data is well formed but wrong for the operation (RFC 9810 §5.2.3)."""

    fail_info = PKIFailureInfo.incorrectData


class BadPOP(CMPError):
    """The proof-of-possession is missing or wrong (RFC 9483 §3.6.4)."""

    fail_info = PKIFailureInfo.badPOP


class CertRevoked(CMPError):
    """The certificate that the request builds on is revoked (RFC 9483 §3.6.4)."""

    fail_info = PKIFailureInfo.certRevoked


class CertConfirmed(CMPError):
    """The certificate has already been confirmed (RFC 9810 §5.2.3)."""

    fail_info = PKIFailureInfo.certConfirmed


class WrongIntegrity(CMPError):
    """The kind of protection, MAC or signature, is not the one that is allowed here (RFC 9483 §3.5)."""

    fail_info = PKIFailureInfo.wrongIntegrity


class BadRecipientNonce(CMPError):
    """recipNonce is not the senderNonce of the message before (RFC 9483 §3.5)."""

    fail_info = PKIFailureInfo.badRecipientNonce


class UnacceptedExtension(CMPError):
    """A requested extension is refused by the profile (RFC 9810 §5.2.3)."""

    fail_info = PKIFailureInfo.unacceptedExtension


class BadSenderNonce(CMPError):
    """senderNonce is absent or shorter than 128 bits (RFC 9483 §3.5)."""

    fail_info = PKIFailureInfo.badSenderNonce


class BadCertTemplate(CMPError):
    """A field of the request is missing or has a value that the profile does not accept (RFC 9483 §3.6.4)."""

    fail_info = PKIFailureInfo.badCertTemplate


class SignerNotTrusted(CMPError):
    """The CMP protection certificate does not validate (RFC 9483 §3.5)."""

    fail_info = PKIFailureInfo.signerNotTrusted


class TransactionIdInUse(CMPError):
    """The transactionID belongs to another transaction (RFC 9483 §3.6.4)."""

    fail_info = PKIFailureInfo.transactionIdInUse


class UnsupportedVersion(CMPError):
    """pvno is neither cmp2000(2) nor cmp2021(3) (RFC 9483 §3.5)."""

    fail_info = PKIFailureInfo.unsupportedVersion


class NotAuthorized(CMPError):
    """The sender may not request this operation (RFC 9483 §3.5)."""

    fail_info = PKIFailureInfo.notAuthorized


class SystemUnavail(CMPError):
    """A back-end is not available; try again in a new transaction after some time (RFC 9483 §3.6.4)."""

    fail_info = PKIFailureInfo.systemUnavail


class TooMany(SystemUnavail):
    """More than a limit lets pass: like systemUnavail to the peer, but it is the peer's doing. `limit` is its key."""

    def __init__(self, text: str, limit: str, *, private: str | None = None) -> None:
        super().__init__(text, private=private or limit)
        self.limit = limit


class SystemFailure(CMPError):
    """A back-end does not function correctly (RFC 9483 §3.6.4)."""

    fail_info = PKIFailureInfo.systemFailure


class DuplicateCertReq(CMPError):
    """The certificate already exists: who asks for it has one that is valid (RFC 9810 §5.2.3)."""

    fail_info = PKIFailureInfo.duplicateCertReq
