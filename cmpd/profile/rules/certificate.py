"""What was approved, read once for all rules: the certificate as it will be."""

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Final

from cmpd import asn1
from cmpd.asn1 import der
from cmpd.exchange import Approved, RequestedExtension
from cmpd.profile import syntax
from cmpd.profile.subject import ATTRIBUTES
from cmpd.profile.vocabulary import EXTENDED_KEY_USAGES, EXTENSIONS

_EMPTY_NAME: Final = b"\x30\x00"
RFC822_NAME: Final = 0x81
DNS_NAME: Final = 0x82
IP_ADDRESS: Final = 0x87
DIRECTORY_NAME: Final = 0xA4
OTHER_NAME: Final = 0xA0
SMTP_UTF8_MAILBOX: Final = der.oid("1.3.6.1.5.5.7.8.9")
_BITS: Final = (
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
EXTENSION_OIDS: Final = EXTENSIONS | {"basic_constraints": "2.5.29.19"}
_PURPOSES: Final = {oid: name for name, oid in EXTENDED_KEY_USAGES.items()}
_ATTRIBUTES: Final = {type_.oid: name for name, type_ in ATTRIBUTES.items()}


def _ec(curve: str) -> bytes:
    return der.sequence(der.oid("1.2.840.10045.2.1"), der.oid(curve))


_ALGORITHMS: Final = {
    der.sequence(der.oid("1.2.840.113549.1.1.1"), der.null()): ("rsa", "rsa"),
    _ec("1.2.840.10045.3.1.7"): ("P-256", "ec"),
    _ec("1.3.132.0.34"): ("P-384", "ec"),
    _ec("1.3.132.0.35"): ("P-521", "ec"),
    der.sequence(der.oid("1.3.101.112")): ("ed25519", "edwards"),
    der.sequence(der.oid("1.3.101.113")): ("ed448", "edwards"),
    der.sequence(der.oid("2.16.840.1.101.3.4.3.17")): ("ml-dsa-44", "ml-dsa"),
    der.sequence(der.oid("2.16.840.1.101.3.4.3.18")): ("ml-dsa-65", "ml-dsa"),
    der.sequence(der.oid("2.16.840.1.101.3.4.3.19")): ("ml-dsa-87", "ml-dsa"),
    der.sequence(der.oid("2.16.840.1.101.3.4.4.1")): ("ml-kem-512", "ml-kem"),
    der.sequence(der.oid("2.16.840.1.101.3.4.4.2")): ("ml-kem-768", "ml-kem"),
    der.sequence(der.oid("2.16.840.1.101.3.4.4.3")): ("ml-kem-1024", "ml-kem"),
}
"""The one encoding of each AlgorithmIdentifier (S/MIME BR §7.1.3.1, TLS BR §7.1.3.1): what it is, and its family."""
FAMILIES: Final = dict(_ALGORITHMS.values())
"""The family of an algorithm by its name."""


class Certificate:
    """What was approved, read once: the certificate as it will be."""

    __slots__ = (
        "_approved",
        "algorithm",
        "directory",
        "extensions",
        "family",
        "key",
        "mailboxes",
        "not_after",
        "not_before",
        "now",
        "san",
        "single_valued",
        "subject",
        "values",
    )

    def __init__(self, approved: Approved, now: datetime) -> None:
        self._approved = approved
        self.now = now
        self.not_before, self.not_after = approved.not_before, approved.not_after
        self.extensions: dict[str, RequestedExtension] = {one.oid.dotted_string: one for one in approved.extensions}
        self._read_key(approved.spki)
        rdns = _name(approved.subject)
        self.single_valued = all(len(rdn) == 1 for rdn in rdns)
        self.subject: list[tuple[str, str]] = [pair for rdn in rdns for pair in rdn]
        """The attributes by their names in profile files (or OID), in the order of the subject."""
        self.values: dict[str, list[str]] = {}
        for name, value in self.subject:
            self.values.setdefault(name, []).append(value)
        self.san: list[tuple[int, bytes]] = []
        """Tag and content of each GeneralName."""
        self.mailboxes: dict[str, int] = {}
        """The mailboxes of the subjectAltName, with their tags."""
        self.directory: list[tuple[str, str]] = []
        """The attributes of directory names in the subjectAltName."""
        extension = self.extensions.get("2.5.29.17")
        if extension is not None:
            self._read_san(extension.value)

    def _read_key(self, spki: bytes) -> None:
        start = der.read(spki)[1]
        middle = der.read(spki, start)[2]
        _, begin, end = der.read(spki, middle)
        self.algorithm, self.family = _ALGORITHMS.get(spki[start:middle], ("", ""))
        self.key = (0, 0)
        """Modulus and exponent of an RSA key."""
        if self.algorithm == "rsa":
            modulus, exponent = der.children(spki[begin + 1 : end], 2)
            self.key = (
                int.from_bytes(der.content(modulus, der.INTEGER)),
                int.from_bytes(der.content(exponent, der.INTEGER)),
            )

    def _read_san(self, value: bytes) -> None:
        _, position, end = der.read(value)
        while position < end:
            tag, start, position = der.read(value, position)
            content = value[start:position]
            self.san.append((tag, content))
            if tag == RFC822_NAME:
                self.mailboxes[content.decode("ascii", "replace")] = tag
            elif tag == OTHER_NAME and content.startswith(SMTP_UTF8_MAILBOX):
                outer = der.content(content[len(SMTP_UTF8_MAILBOX) :], 0xA0)
                self.mailboxes[der.content(outer, der.UTF8_STRING).decode("utf-8", "replace")] = tag
            elif tag == DIRECTORY_NAME:
                self.directory.extend(pair for rdn in _name(content) for pair in rdn)

    def names(self, tag: int) -> Iterator[str]:
        """The entries of a type of the subjectAltName, as text."""
        return (content.decode("ascii", "replace") for found, content in self.san if found == tag)

    @property
    def subject_is_empty(self) -> bool:
        """Whether the subject has no attribute."""
        return self._approved.subject == _EMPTY_NAME


@lru_cache(maxsize=256)
def _attribute(oid: bytes) -> str:
    """An attribute's name in profile files, or its OID."""
    text = syntax.oid_text(oid[2:])
    return _ATTRIBUTES.get(text, text)


def _name(name: bytes) -> list[list[tuple[str, str]]]:
    """Attributes by name, with their values as text. Raises MalformedError."""
    read = der.read
    found = []
    _, position, end = read(name)
    while position < end:
        _, inner, position = read(name, position)
        rdn = []
        while inner < position:
            _, start, inner = read(name, inner)
            middle = read(name, start)[2]
            tag, begin, stop = read(name, middle)
            rdn.append((_attribute(name[start:middle]), asn1.text_of(tag, name[begin:stop]) or ""))
        found.append(rdn)
    return found


@lru_cache(maxsize=256)
def usages_of(value: bytes) -> frozenset[str]:
    """The names of a KeyUsage's bits. Raises MalformedError."""
    content = der.content(value, der.BIT_STRING)
    bits = (8 * index + bit for index, octet in enumerate(content[1:3]) for bit in range(8) if octet & 0x80 >> bit)
    return frozenset(_BITS[bit] if bit < len(_BITS) else f"bit {bit}" for bit in bits)


@lru_cache(maxsize=256)
def purposes_of(value: bytes) -> tuple[str, ...]:
    """The names, or else OIDs, of an ExtKeyUsage. Raises MalformedError."""
    oids = (syntax.oid_text(oid[2:]) for oid in der.children(value, 100))
    return tuple(_PURPOSES.get(oid, oid) for oid in oids)


@lru_cache(maxsize=256)
def policies_of(value: bytes) -> tuple[str, ...]:
    """The OIDs of CertificatePolicies. Raises MalformedError."""
    return tuple(syntax.oid_text(der.children(policy)[0][2:]) for policy in der.children(value, 100))
