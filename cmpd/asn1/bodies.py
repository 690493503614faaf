"""PKIBody: from the tag to the content and back, all 27 alternatives (RFC 9810 §5.1.2).

hazmat.asn1 cannot declare a CHOICE of 27 alternatives that share types. Yet `[n] EXPLICIT content` and
`SEQUENCE { content }` differ in the tag octet only, so each alternative is a SEQUENCE of one field.
"""

from collections.abc import Callable
from typing import Annotated, Any

from cryptography.hazmat.asn1 import TLV, Explicit, Null, Size, decode_der, encode_der, sequence

from cmpd.asn1 import der
from cmpd.asn1.ber import mend_ra_verified, normalise_body, transcode
from cmpd.asn1.cmp import (
    BodyType,
    CAKeyUpdAnnContent,
    CertRepMessage,
    CertStatus,
    Challenge,
    ErrorMsgContent,
    InfoTypeAndValue,
    KeyRecRepContent,
    PollRep,
    PollReq,
    RevAnnContent,
    RevDetails,
    RevRepContent,
    RootCaKeyUpdateContent,
)
from cmpd.asn1.codec import DECODE_ERRORS, opaque, reason
from cmpd.asn1.crmf import CertReqMsg, CertRequest
from cmpd.asn1.der import MalformedError
from cmpd.asn1.pkix import CertificationRequest, CertificationRequestInfo


@sequence
class _CertReqMessages:
    content: Annotated[list[CertReqMsg], Size(1, None)]


@sequence
class _CertRepMessage:
    content: CertRepMessage


@sequence
class _CertificationRequest:
    content: CertificationRequest


@sequence
class _POPODecKeyChallContent:
    content: list[Challenge]


@sequence
class _POPODecKeyRespContent:
    content: list[int]


@sequence
class _KeyRecRepContent:
    content: KeyRecRepContent


@sequence
class _RevReqContent:
    content: list[RevDetails]


@sequence
class _RevRepContent:
    content: RevRepContent


@sequence
class _CAKeyUpdContent:
    content: CAKeyUpdAnnContent | Annotated[RootCaKeyUpdateContent, Explicit(0)]


@sequence
class _CertAnnContent:
    content: TLV


@sequence
class _RevAnnContent:
    content: RevAnnContent


@sequence
class _ListOfOpaque:
    content: list[TLV]


@sequence
class _PKIConfirmContent:
    content: Null


@sequence
class _GenMsgContent:
    content: list[InfoTypeAndValue]


@sequence
class _ErrorMsgContent:
    content: ErrorMsgContent


@sequence
class _CertConfirmContent:
    content: list[CertStatus]


@sequence
class _PollReqContent:
    content: list[PollReq]


@sequence
class _PollRepContent:
    content: list[PollRep]


_WRAPPERS: tuple[Callable[..., Any], ...] = (
    _CertReqMessages,
    _CertRepMessage,
    _CertReqMessages,
    _CertRepMessage,
    _CertificationRequest,
    _POPODecKeyChallContent,
    _POPODecKeyRespContent,
    _CertReqMessages,
    _CertRepMessage,
    _CertReqMessages,
    _KeyRecRepContent,
    _RevReqContent,
    _RevRepContent,
    _CertReqMessages,
    _CertRepMessage,
    _CAKeyUpdContent,
    _CertAnnContent,
    _RevAnnContent,
    _ListOfOpaque,
    _PKIConfirmContent,
    _ListOfOpaque,
    _GenMsgContent,
    _GenMsgContent,
    _ErrorMsgContent,
    _CertConfirmContent,
    _PollReqContent,
    _PollRepContent,
)
"""By tag number: PKIBody's alternatives in their order."""
_OCTETS = frozenset({BodyType.cann, BodyType.crlann, BodyType.nested})
"""Whose content is handed out as DER: certificates, CRLs, whole messages."""


def decode_body(
    body_type: BodyType, body_der: bytes, list_length: int | None = None, *, ber_size: int = 0, nesting: int = 40
) -> Any:
    """Decode a body, given whole with its `[n]` tag; what comes back is said in `cmpd.asn1`.

    `list_length` bounds the list that a body is. When the body is not DER and no longer than `ber_size`, it is
    normalised first. A CertRequest and a CertificationRequestInfo stay opaque, for they are signed, but are known to
    parse. Raises MalformedError.
    """
    try:
        if not body_der or body_der[0] != 0xA0 | body_type:
            raise MalformedError("a tag of another body type")
        try:
            return _decode(body_type, body_der, list_length)
        except DECODE_ERRORS as exc:
            if len(body_der) > ber_size:
                raise
            strict = exc
        for normalise in (_transcode, normalise_body):
            try:
                normalised = normalise(body_der, nesting)
                if normalised != body_der:
                    return _decode(body_type, normalised, list_length)
                body_der = normalised
            except DECODE_ERRORS:
                continue
        raise strict
    except DECODE_ERRORS as exc:
        raise MalformedError(f"body ({body_type.name}): {reason(exc)}") from None


def _transcode(body_der: bytes, nesting: int) -> bytes:
    return mend_ra_verified(transcode(body_der, nesting))


def _decode(body_type: BodyType, body_der: bytes, list_length: int | None) -> Any:
    if list_length is not None and len(body_der) > 2 * list_length:
        _count(body_der, list_length)
    wrapper: Any = _WRAPPERS[body_type]
    content = decode_der(wrapper, b"\x30" + body_der[1:]).content
    if wrapper is _CertReqMessages:
        for message in content:
            decode_der(CertRequest, encode_der(message.certReq))
    elif wrapper is _CertificationRequest:
        decode_der(CertificationRequestInfo, encode_der(content.certificationRequestInfo))
    elif body_type in _OCTETS:
        return [encode_der(one) for one in content] if isinstance(content, list) else encode_der(content)
    return content


def encode_body(body_type: BodyType, value: Any) -> bytes:
    """Encode a body, `[n]` tag included. Raises ValueError or TypeError when `value` is not what the type wants."""
    if body_type in _OCTETS:
        value = [opaque(one) for one in value] if isinstance(value, list) else opaque(value)
    return bytes((0xA0 | body_type,)) + encode_der(_WRAPPERS[body_type](content=value))[1:]


def _count(body_der: bytes, limit: int) -> None:
    """Refuse a body that is a list of more than `limit` elements, before any of them is decoded."""
    _, start, _ = der.read(body_der)
    tag, pos, end = der.read(body_der, start)
    if tag != der.SEQUENCE:
        return
    count = 0
    while pos < end:
        count += 1
        if count > limit:
            raise MalformedError(f"more than {limit} elements in a list")
        pos = der.read(body_der, pos)[2]
