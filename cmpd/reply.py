"""What we answer, and how a "no" is phrased (RFC 9483 §3.1, §3.6).

One Replier per exchange: it knows the request's header, what to protect with, and makes the answer's header. All is
written as concatenated DER, since nothing here is taken from a stranger but the fields that RFC 9483 §3.1 has repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cmpd import asn1
from cmpd.asn1 import BodyType, PKIStatus, der, oids
from cmpd.errors import CMPError

NULL_DN = der.explicit(4, der.sequence())
"""GeneralName directoryName with the NULL-DN (RFC 9483 §3.1)."""

RESPONSE_OF: dict[BodyType, BodyType] = {
    BodyType.ir: BodyType.ip,
    BodyType.cr: BodyType.cp,
    BodyType.p10cr: BodyType.cp,
    BodyType.kur: BodyType.kup,
}
"""A fault in the body of these is reported in the response that belongs to it (RFC 9483 §3.6.2)."""

MAX_TEXT = 500
"""Characters of a statusString: enough for a sentence that names field and rule."""

_IMPLICIT_CONFIRM = der.sequence(der.oid(oids.IMPLICIT_CONFIRM), der.null())
_PKICONF = der.explicit(BodyType.pkiconf, der.null())


class Protector(Protocol):
    """Whatever protects an answer: a MacKey or a Signer."""

    @property
    def algorithm_der(self) -> bytes:
        """The AlgorithmIdentifier for protectionAlg."""

    def protect(self, part: bytes, /) -> bytes:
        """Protect a ProtectedPart (DER)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """How we name ourselves in the answer, with what we prove it (RFC 9483 §3.1, §3.3)."""

    sender: bytes = NULL_DN
    """GeneralName, DER."""
    protection_fields: bytes = b""
    """protectionAlg [1] and senderKID [2] of the header, DER."""
    protector: Protector | None = None
    """None leaves the answer unprotected: only where RFC 9483 §3.6.4 allows it."""
    extra_certs: tuple[bytes, ...] = ()
    """The CMP protection certificate and its chain, for a signature."""

    @classmethod
    def of(
        cls, sender: bytes, key_id: bytes | None, protector: Protector, extra_certs: tuple[bytes, ...] = ()
    ) -> "Identity":
        """Prove it with `protector`; `key_id` becomes the senderKID."""
        fields = der.tlv(0xA1, protector.algorithm_der)
        if key_id is not None:
            fields += der.tlv(0xA2, der.octet_string(key_id))
        return cls(sender, fields, protector, extra_certs)


@dataclass(frozen=True, slots=True)
class Heading:
    """What of a request's header an answer repeats; every part may be unknown when the request was unreadable."""

    pvno: int = 2
    sender: bytes = NULL_DN
    transaction_id: bytes | None = None
    sender_nonce: bytes | None = None

    @classmethod
    def of(cls, header: asn1.PKIHeader, transaction_id: bytes | None = None) -> "Heading":
        """Take it from a readable header; `transaction_id` stands in where the client sent none."""
        return cls(
            header.pvno if header.pvno in {2, 3} else 2,
            _general_name(asn1.raw(header.sender)),
            header.transactionID or transaction_id,
            header.senderNonce,
        )


_GENERAL_NAMES = frozenset({0xA0, 0x81, 0x82, 0xA3, 0xA5, 0x86, 0x87, 0x88})
"""The alternatives of GeneralName but directoryName (RFC 5280 §4.2.1.6)."""


def _general_name(sender: bytes) -> bytes:
    """Whom to answer: the sender as it came, or the NULL-DN when it is not a GeneralName and would spoil the answer."""
    if sender[0] in _GENERAL_NAMES:
        return sender
    try:
        name = asn1.directory_name(sender)
    except asn1.MalformedError:
        return NULL_DN
    return NULL_DN if name is None or name[0] != der.SEQUENCE else sender


@dataclass(frozen=True, slots=True)
class Replier:
    """Makes the one answer of an exchange. `nonce` becomes its senderNonce: 128 fresh random bits (RFC 9483 §3.1)."""

    heading: Heading
    identity: Identity
    nonce: bytes
    now: datetime

    def message(self, body: bytes, *, general_info: bytes = b"", extra_certs: Sequence[bytes] = ()) -> bytes:
        """Put header, protection and extraCerts round a body; `general_info` is concatenated InfoTypeAndValues."""
        identity, heading = self.identity, self.heading
        parts = [
            der.integer(heading.pvno),
            identity.sender,
            heading.sender,
            _message_time(self.now),
            identity.protection_fields,
        ]
        if heading.transaction_id is not None:
            parts.append(der.tlv(0xA4, der.octet_string(heading.transaction_id)))
        parts.append(der.tlv(0xA5, der.octet_string(self.nonce)))
        if heading.sender_nonce is not None:
            parts.append(der.tlv(0xA6, der.octet_string(heading.sender_nonce)))
        if general_info:
            parts.append(der.tlv(0xA8, der.sequence(general_info)))
        header = der.sequence(*parts)
        protection = (
            None if identity.protector is None else identity.protector.protect(asn1.protected_part(header, body))
        )
        certificates = identity.extra_certs
        if extra_certs:
            certificates = (*certificates, *(c for c in extra_certs if c not in certificates))
        return asn1.encode(header, body, protection, certificates)

    def refuse(self, request: BodyType | None, error: CMPError, *, in_body: bool, cert_req_id: int = 0) -> bytes:
        """Say no (RFC 9483 §3.6.2): a fault in a request's body in its response type, any other as error message."""
        response = None if request is None or not in_body else RESPONSE_OF.get(request)
        if response is None:
            return self.message(der.explicit(BodyType.error, der.sequence(rejection(error))))
        return self.message(cert_rep(response, [cert_response(cert_req_id, rejection(error))]))

    def pkiconf(self) -> bytes:
        """Answer a certConf; its content MUST be NULL (RFC 9483 §4.1.1)."""
        return self.message(_PKICONF)


def status_info(status: PKIStatus, text: str = "", fail_info: int | None = None) -> bytes:
    """PKIStatusInfo ::= SEQUENCE { status, statusString OPTIONAL, failInfo OPTIONAL } (RFC 9810 §5.2.3)."""
    parts = [der.integer(status)]
    if text:
        parts.append(der.sequence(der.utf8_string(text[:MAX_TEXT])))
    if fail_info is not None:
        parts.append(der.named_bits([fail_info]))
    return der.sequence(*parts)


_ACCEPTED = status_info(PKIStatus.accepted)


def rejection(error: CMPError) -> bytes:
    """PKIStatusInfo of a refusal (RFC 9483 §3.6.4)."""
    return status_info(PKIStatus.rejection, str(error), error.fail_info)


def granted(modified: Sequence[str]) -> bytes:
    """PKIStatusInfo of a grant: grantedWithMods says what was changed (RFC 9810 §5.2.3)."""
    if not modified:
        return _ACCEPTED
    return status_info(PKIStatus.grantedWithMods, "; ".join(modified))


def cert_response(cert_req_id: int, status: bytes, certificate: bytes | None = None) -> bytes:
    """CertResponse ::= SEQUENCE { certReqId, status, certifiedKeyPair OPTIONAL, ... } (RFC 9810 §5.3.4)."""
    if certificate is None:
        return der.sequence(der.integer(cert_req_id), status)
    return der.sequence(der.integer(cert_req_id), status, der.sequence(der.tlv(0xA0, certificate)))


def cert_rep(body: BodyType, responses: Sequence[bytes], ca_pubs: Sequence[bytes] = ()) -> bytes:
    """CertRepMessage ::= SEQUENCE { caPubs [1] OPTIONAL, response SEQUENCE OF CertResponse } (RFC 9810 §5.3.4)."""
    pubs = der.tlv(0xA1, der.sequence(*ca_pubs)) if ca_pubs else b""
    return der.explicit(body, der.sequence(pubs, der.sequence(*responses)))


def poll_rep(cert_req_ids: Sequence[int], seconds: int, reason: str = "") -> bytes:
    """PollRepContent: ask again after so many seconds (RFC 9810 §5.3.22, RFC 9483 §4.4)."""
    text = der.sequence(der.utf8_string(reason[:MAX_TEXT])) if reason else b""
    return der.explicit(
        BodyType.pollRep,
        der.sequence(*(der.sequence(der.integer(one), der.integer(seconds), text) for one in cert_req_ids)),
    )


def implicit_confirm() -> bytes:
    """InfoTypeAndValue that grants implicitConfirm (RFC 9483 §3.1)."""
    return _IMPLICIT_CONFIRM


def confirm_wait_time(until: datetime) -> bytes:
    """InfoTypeAndValue confirmWaitTime: the certConf is awaited until then (RFC 9483 §3.1)."""
    return der.sequence(der.oid(oids.CONFIRM_WAIT_TIME), der.generalized_time(until))


def mac_sender(reference: bytes) -> bytes:
    """The sender of a MAC-protected answer: the commonName that names the shared secret (RFC 9483 §3.1)."""
    try:
        text = reference.decode()
    except UnicodeDecodeError:
        return NULL_DN
    return der.tlv(0xA4, der.sequence(der.set_of(der.sequence(der.oid(oids.COMMON_NAME), der.utf8_string(text)))))


def asks_implicit_confirm(header: asn1.PKIHeader) -> bool:
    """Tell whether generalInfo asks for implicitConfirm (RFC 9483 §3.1)."""
    return any(info.infoType == oids.IMPLICIT_CONFIRM for info in header.generalInfo or ())


_time_cache: tuple[datetime, bytes] | None = None


def _message_time(now: datetime) -> bytes:
    """MessageTime [0], one encoding a second."""
    global _time_cache  # noqa: PLW0603  a memo of one pure function's last value
    second = now.replace(microsecond=0)
    if _time_cache is None or _time_cache[0] != second:
        _time_cache = (second, der.tlv(0xA0, der.generalized_time(second)))
    return _time_cache[1]
