"""Why requests were refused: what of it is kept for the operator, how much, and without which secrets.

A refusal of an authenticated sender goes into the store. Those of senders who could not be authenticated change no
state: the latest of them are in the memory of the process, as are those that come faster than the store shall write.
"""

from collections import deque
from datetime import datetime

from cmpd import asn1
from cmpd.asn1 import BodyType, der, oids
from cmpd.exchange import Refusal
from cmpd.protection import is_mac

IN_MEMORY = 200
"""How many refusals a process remembers."""
PER_SECOND = 10
"""How many refusals of a profile go into the store in a second: a client that loops costs no more than that."""
REQUEST_OCTETS = 16 * 1024
"""A longer request is not kept with its refusal."""

_INFO_TYPES = frozenset({oids.IMPLICIT_CONFIRM, oids.CONFIRM_WAIT_TIME, oids.CERT_PROFILE})
_CONTROLS = frozenset({oids.REG_CTRL_OLD_CERT_ID, oids.REG_CTRL_PKI_PUBLICATION_INFO})


class Refusals:
    """The memory of one process; a reload hands it on."""

    def __init__(self, size: int = IN_MEMORY) -> None:
        self._latest: deque[Refusal] = deque(maxlen=size)
        self._second = 0
        self._admitted: dict[str, int] = {}

    def latest(self) -> list[Refusal]:
        """What is in memory, newest first."""
        return list(reversed(self._latest))

    def remember(self, refusal: Refusal) -> None:
        """Keep one; the oldest makes room."""
        self._latest.append(refusal)

    def admit(self, profile: str, now: datetime) -> bool:
        """Tell whether another refusal of a profile may go into the store in this second."""
        second = int(now.timestamp())
        if second != self._second:
            self._second = second
            self._admitted.clear()
        count = self._admitted[profile] = self._admitted.get(profile, 0) + 1
        return count <= PER_SECOND


def presentable(message: asn1.PKIMessage) -> bytes | None:
    """The request's DER for the operator's eyes; None when it is too long or may carry a secret.

    A MAC is left out: whoever reads it could try secrets against it. What is not known to be harmless (controls,
    regInfo, attributes, generalInfo of other types, a popo that is not a signature) makes the whole request unfit.
    """
    if len(message.der) > REQUEST_OCTETS:
        return None
    try:
        if any(info.infoType not in _INFO_TYPES for info in message.header.generalInfo or ()):
            return None
        if not _harmless(message):
            return None
    except asn1.MalformedError:
        return None
    if is_mac(message):
        return asn1.encode(message.header_der, message.body_der, None, message.extraCerts)
    return message.der


def _harmless(message: asn1.PKIMessage) -> bool:
    match message.body_type:
        case BodyType.certConf | BodyType.error:
            return True
        case BodyType.ir | BodyType.cr | BodyType.kur:
            return all(map(_harmless_crmf, message.decode_body()))
        case BodyType.p10cr:
            info = asn1.parse(asn1.CertificationRequestInfo, asn1.raw(message.decode_body().certificationRequestInfo))
            return all(attribute.type == oids.EXTENSION_REQUEST for attribute in info.attributes or ())
        case _:
            return False


def _harmless_crmf(message: asn1.CertReqMsg) -> bool:
    if message.regInfo:
        return False
    request = asn1.parse(asn1.CertRequest, asn1.raw(message.certReq))
    if any(control.type not in _CONTROLS for control in request.controls or ()):
        return False
    popo = message.popo
    if popo is None or popo.tag == "raVerified":
        return True
    # a publicKeyMAC is made with the shared secret (RFC 4211 §4.4)
    given = popo.value.poposkInput if isinstance(popo.value, asn1.POPOSigningKey) else None
    return popo.tag == "signature" and (given is None or asn1.raw(given.authInfo)[0] != der.SEQUENCE)
