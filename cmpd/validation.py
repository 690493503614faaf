"""The generic validation of a PKI message: RFC 9483 §3.5 as two ordered lists, before and after authentication.

`receive` holds the checks that need no key; `authorise` those that need to know the sender. Pure functions: they raise
the CMPError whose failInfo the section names, and change nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cmpd import asn1
from cmpd.asn1 import BodyType
from cmpd.asn1.compare import same_name
from cmpd.errors import (
    BadDataFormat,
    BadMessageCheck,
    BadRecipientNonce,
    BadRequest,
    BadSenderNonce,
    BadTime,
    NotAuthorized,
    UnsupportedVersion,
    WrongIntegrity,
)
from cmpd.exchange import Transaction
from cmpd.protection import CertificateCredential, Credential, MacCredential, is_mac
from cmpd.transaction import Event, expect

CMP2000, CMP2021 = 2, 3
NONCE_OCTETS = 16
"""RFC 9483 §3.5: senderNonce "MUST contain at least 128 bits of data"."""
MAX_ID_OCTETS = 64
"""transactionID and nonces are 16 octets by RFC 9483 §3.1; what is far longer is not kept in the store."""

OPERATION_LABELS: dict[str, BodyType] = {
    "initialization": BodyType.ir,
    "certification": BodyType.cr,
    "keyupdate": BodyType.kur,
    "pkcs10": BodyType.p10cr,
}
"""Labels at the end of the path and the body that begins their operation (RFC 9483 §6.1)."""


class Rules(Protocol):
    """What of a profile these checks need."""

    @property
    def operations(self) -> frozenset[str]:
        """Allowed body types."""

    @property
    def authentication_method(self) -> str:
        """enrollment_code or tls_certificate."""

    @property
    def signed_ir(self) -> bool:
        """Whether an ir may be signed although the profile asks for enrollment codes: by a device or an RA."""

    @property
    def unprotected(self) -> bool:
        """Whether a TLS client's certificate may stand for the protection of the message."""

    @property
    def message_time_tolerance(self) -> timedelta | None:
        """None: messageTime is not checked."""

    @property
    def missing_transaction_id(self) -> bool:
        """Tolerate requests without transactionID."""

    @property
    def short_nonces(self) -> bool:
        """Tolerate senderNonces that are short or absent."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message that has passed the checks which need no key (RFC 9483 §3.5)."""

    message: asn1.PKIMessage
    event: Event
    transaction_id: bytes
    transaction: Transaction | None
    """The transaction that it continues; None when it begins one."""


def version(message: asn1.PKIMessage) -> None:
    """pvno MUST be cmp2000(2) or cmp2021(3), else unsupportedVersion (RFC 9483 §3.5)."""
    if message.header.pvno not in {CMP2000, CMP2021}:
        raise UnsupportedVersion("pvno is neither cmp2000(2) nor cmp2021(3)")


def transaction_id(message: asn1.PKIMessage, rules: Rules, fresh: Callable[[int], bytes]) -> bytes:
    """transactionID MUST be present, else badDataFormat (RFC 9483 §3.5).

    Where the profile tolerates RFC 4210-era clients without one, `fresh` octets become the transactionID of the
    answer, and the client repeats it (RFC 4210 §5.1.1).
    """
    found = message.header.transactionID
    if not found:
        if rules.missing_transaction_id and message.body_type not in {BodyType.certConf, BodyType.error}:
            return fresh(NONCE_OCTETS)
        raise BadDataFormat("header: transactionID is absent")
    if len(found) > MAX_ID_OCTETS:
        raise BadDataFormat(f"header: transactionID is longer than {MAX_ID_OCTETS} octets")
    return found


def receive(message: asn1.PKIMessage, transaction_id: bytes, transaction: Transaction | None, rules: Rules) -> Received:
    """The checks of RFC 9483 §3.5 that need no key, in the order of the section."""
    event = expect(None if transaction is None else transaction.state, message.body_type)
    _sender_nonce(message, rules)
    if transaction is not None:
        _recip_nonce(message, transaction)
    _protected(message, rules)
    return Received(message, event, transaction_id, transaction)


def _sender_nonce(message: asn1.PKIMessage, rules: Rules) -> None:
    """senderNonce MUST be present and MUST contain at least 128 bits, else badSenderNonce (RFC 9483 §3.5)."""
    nonce = message.header.senderNonce
    if nonce is not None and len(nonce) > MAX_ID_OCTETS:
        raise BadSenderNonce(f"senderNonce is longer than {MAX_ID_OCTETS} octets")
    if rules.short_nonces:
        return
    if not nonce:
        raise BadSenderNonce("senderNonce is absent")
    if len(nonce) < NONCE_OCTETS:
        raise BadSenderNonce(f"senderNonce has {len(nonce) * 8} bits and needs 128")


def _recip_nonce(message: asn1.PKIMessage, transaction: Transaction) -> None:
    """recipNonce MUST equal the senderNonce of the previous message, else badRecipientNonce (RFC 9483 §3.5)."""
    nonce = message.header.recipNonce
    if nonce is None:
        raise BadRecipientNonce("recipNonce is absent")
    if nonce != transaction.nonce:
        raise BadRecipientNonce("recipNonce is not the senderNonce of our latest message")


def _protected(message: asn1.PKIMessage, rules: Rules) -> None:
    """Messages without protection MUST be rejected (RFC 9483 §3.5), but where TLS stands for it (RFC 9810 §5.1.3)."""
    if message.protection is None:
        if rules.unprotected and message.header.protectionAlg is None:
            return
        raise BadMessageCheck("the message is not protected")
    if message.header.protectionAlg is None:
        raise BadMessageCheck("the message is protected, but protectionAlg is absent")


def kind_of_protection(message: asn1.PKIMessage, rules: Rules) -> None:
    """The protection MUST be of the kind that the profile's way in asks for, else wrongIntegrity (RFC 9483 §3.5).

    A code enrolls by MAC, a certificate by signature. Refused here is only what there is no secret to verify with.
    """
    body = message.body_type
    if is_mac(message):
        if rules.authentication_method != "enrollment_code":
            raise WrongIntegrity(
                "this profile does not accept MAC-based protection; sign with a certificate "
                "(enrollment.authentication_method)"
            )
    elif rules.authentication_method == "enrollment_code" and body is BodyType.ir and not rules.signed_ir:
        raise WrongIntegrity(
            "this profile asks for an enrollment code: protect the ir by a MAC (enrollment.authentication_method)"
        )


def authorise(
    received: Received,
    credential: Credential,
    rules: Rules,
    now: datetime,
    *,
    operation: str | None = None,
    used_up: bool = False,
) -> None:
    """The checks of RFC 9483 §3.5 that need an authenticated sender, in the order of the section.

    `operation` is the label at the end of the URL's path, if there was one (RFC 9483 §6.1). `used_up` lets a code pass
    that has no use left: its holder may ask again for what it has ordered, and the store refuses anything else.
    """
    message = received.message
    _same_credential(received, credential)
    if received.event is Event.begin:
        _operation(message.body_type, rules, operation)
        if isinstance(credential, MacCredential):
            if message.body_type is BodyType.kur:  # RFC 9483 §4.1.3; here, so that the refusal is protected by the MAC
                raise WrongIntegrity("a kur must be signed with the certificate that it updates")
            refusal = credential.code.refusal(now, used_up=used_up)
            if refusal is not None:
                raise NotAuthorized(refusal)
    _sender(message, credential)
    _message_time(message, rules, now)


def _same_credential(received: Received, credential: Credential) -> None:
    """certConf MUST use the credential of the first request (RFC 9483 §4.1.1)."""
    if received.transaction is not None and received.transaction.credential != credential.id:
        raise NotAuthorized("the message is not protected with the credential that began the transaction")


def _operation(body: BodyType, rules: Rules, label: str | None) -> None:
    """The sender MUST be authorized to request the operation, else notAuthorized (RFC 9483 §3.5)."""
    if body.name not in rules.operations:
        raise NotAuthorized(f"the profile does not allow {body.name} (enrollment.allowed_operations)")
    if label is not None and OPERATION_LABELS.get(label) is not body:
        raise BadRequest(f"a message with body {body.name} does not belong to the path of operation {label}")


def _sender(message: asn1.PKIMessage, credential: Credential) -> None:
    """sender MUST match the subject of the CMP protection certificate, else badMessageCheck (RFC 9483 §3.5)."""
    if not isinstance(credential, CertificateCredential) or message.protection is None:
        return
    name = asn1.directory_name(asn1.raw(message.header.sender))
    if name is None or not same_name(name, credential.signer.subject):
        raise BadMessageCheck("sender is not the subject of the CMP protection certificate")


def _message_time(message: asn1.PKIMessage, rules: Rules, now: datetime) -> None:
    """messageTime MUST be close to the time here, else badTime (RFC 9483 §3.5)."""
    if message.header.messageTime is None or rules.message_time_tolerance is None:
        return
    try:
        sent = asn1.read_time(asn1.raw(message.header.messageTime))
    except asn1.MalformedError as exc:
        raise BadTime(f"messageTime cannot be read: {exc}") from exc
    if abs(sent - now) > rules.message_time_tolerance:
        raise BadTime(
            f"messageTime {sent:%Y-%m-%dT%H:%M:%SZ} is more than {rules.message_time_tolerance.total_seconds():.0f} s "
            f"from the time here, {now:%Y-%m-%dT%H:%M:%SZ}"
        )
