"""What a certificate says, read alike from what was approved and from what came back (RFC 5280 §4.1, §4.2.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, Self

from cryptography.x509 import ObjectIdentifier

from cmpd import asn1
from cmpd.asn1 import certificate, der, oids
from cmpd.asn1.names import general_name_text, text_of
from cmpd.exchange import Approved
from cmpd.profile.subject import ATTRIBUTES
from cmpd.profile.vocabulary import EXTENDED_KEY_USAGES

USAGES: Final = (
    "digital_signature",
    "non_repudiation",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
"""The bits of KeyUsage in order (RFC 5280 §4.2.1.3)."""
_ATTRIBUTES: Final = {ObjectIdentifier(type_.oid): name for name, type_ in ATTRIBUTES.items()}
_PURPOSES: Final = {oid: name for name, oid in EXTENDED_KEY_USAGES.items()}
_KEYS: Final = {oids.RSA_ENCRYPTION: "rsa", oids.EC_PUBLIC_KEY: "ec"}
_READ: Final = frozenset({oids.KEY_USAGE, oids.EXTENDED_KEY_USAGE, oids.SUBJECT_ALT_NAME, oids.CERTIFICATE_POLICIES})
_OTHER_NAMES: Final = {
    der.oid("1.3.6.1.4.1.311.20.2.3"): "upn",
    der.oid("1.3.6.1.4.1.311.25.1"): "guid",
    der.oid("1.3.6.1.5.5.7.8.9"): "smtp_utf8_mailbox",
}


@dataclass(frozen=True, slots=True)
class Content:
    """The names as texts; attributes, types of names, usages and purposes in the spelling of profile keys."""

    attributes: Mapping[str, tuple[str, ...]]
    """Of the subject; one without a key of its own by its OID."""
    names: Mapping[str, tuple[str, ...]]
    """Of the subjectAltName, in order: email, dns, ip, uri, …"""
    key_usage: frozenset[str]
    purposes: frozenset[str]
    """Extended key usages; one without a name by its OID."""
    policies: frozenset[str]
    """OIDs of certificatePolicies."""
    key: str
    """rsa, ec, or the OID of the algorithm."""
    others: Mapping[str, bytes]
    """All other extensions: OID and value, DER."""

    @classmethod
    def of_approved(cls, approved: Approved) -> Self:
        """Read it. Raises MalformedError."""
        return cls._of(approved.subject, approved.spki, {one.oid: one.value for one in approved.extensions})

    @classmethod
    def of_certificate(cls, certificate_der: bytes) -> Self:
        """Read it. Raises MalformedError."""
        return cls._of(
            certificate.subject(certificate_der), certificate.spki(certificate_der), _extensions(certificate_der)
        )

    @classmethod
    def _of(cls, subject: bytes, spki: bytes, extensions: Mapping[ObjectIdentifier, bytes]) -> Self:
        usage, purposes = extensions.get(oids.KEY_USAGE), extensions.get(oids.EXTENDED_KEY_USAGE)
        names, policies = extensions.get(oids.SUBJECT_ALT_NAME), extensions.get(oids.CERTIFICATE_POLICIES)
        return cls(
            attributes=_attributes(subject),
            names={} if names is None else _names(names),
            key_usage=frozenset() if usage is None else _bits(usage),
            purposes=frozenset(_PURPOSES.get(oid, oid) for oid in (_oid(one) for one in _elements(purposes))),
            policies=policy_oids(policies),
            key=_key(spki),
            others={oid.dotted_string: value for oid, value in extensions.items() if oid not in _READ},
        )

    def one(self, attribute: str) -> str | None:
        """The value of an attribute, the first if there are several; None when it is not there."""
        return next(iter(self.attributes.get(attribute, ())), None)


@lru_cache(maxsize=256)
def _oid(encoded: bytes) -> str:
    return asn1.parse(ObjectIdentifier, encoded).dotted_string


def _elements(value: bytes | None) -> list[bytes]:
    return [] if value is None else der.children(value)


def _first(element: bytes) -> bytes:
    parts = der.children(element)
    if not parts:
        raise der.MalformedError("an empty element")
    return parts[0]


def policy_oids(value: bytes | None) -> frozenset[str]:
    """The OIDs of certificatePolicies. Raises MalformedError."""
    return frozenset(_oid(_first(one)) for one in _elements(value))


def _attributes(subject: bytes) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for rdn in asn1.name_rdns(subject):
        for oid, tag, value in rdn:
            text = text_of(tag, value)
            name = _ATTRIBUTES.get(oid, oid.dotted_string)
            found.setdefault(name, []).append(f"#{value.hex()}" if text is None else text)
    return {name: tuple(texts) for name, texts in found.items()}


def _names(value: bytes) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for entry in der.children(value):
        tag, start, end = der.read(entry)
        content = entry[start:end]
        if tag == 0x81:
            kind, text = "email", content.decode("ascii", "backslashreplace")
        elif tag == 0x82:
            kind, text = "dns", content.decode("ascii", "backslashreplace")
        elif tag == 0x87 and len(content) in {4, 16}:
            kind, text = "ip", str(ip_address(content))
        elif tag == 0xA0:
            kind = _OTHER_NAMES.get(content[: der.read(content)[2]], "other_name")
            text = general_name_text(entry)
        else:
            kind = {0x86: "uri", 0xA4: "directory_name", 0x88: "registered_id"}.get(tag, f"type {tag:#04x}")
            text = general_name_text(entry) if tag in {0x86, 0xA4, 0x88} else content.hex()
        found.setdefault(kind, []).append(text)
    return {kind: tuple(texts) for kind, texts in found.items()}


def _bits(value: bytes) -> frozenset[str]:
    content = der.content(value, der.BIT_STRING)
    numbers = (8 * index + bit for index, octet in enumerate(content[1:]) for bit in range(8) if octet & 0x80 >> bit)
    return frozenset(USAGES[number] if number < len(USAGES) else f"bit {number}" for number in numbers)


def _key(spki: bytes) -> str:
    algorithm = ObjectIdentifier(_oid(_first(_first(spki))))
    return _KEYS.get(algorithm, algorithm.dotted_string)


def _extensions(certificate_der: bytes) -> dict[ObjectIdentifier, bytes]:
    """The extensions of a certificate. Raises MalformedError; an extension that is there twice is one."""
    found: dict[ObjectIdentifier, bytes] = {}
    for field in certificate.tbs(certificate_der)[certificate.FIELDS :]:
        if field[0] != 0xA3:
            continue
        for one in der.children(b"".join(der.children(field))):
            parts = der.children(one)
            if len(parts) < 2:
                raise der.MalformedError("an extension is not a type and a value")
            oid = ObjectIdentifier(_oid(parts[0]))
            if oid in found:
                raise der.MalformedError(f"the extension {oid.dotted_string} is there twice")
            found[oid] = der.content(parts[-1], der.OCTET_STRING)
    return found
