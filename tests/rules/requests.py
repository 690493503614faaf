"""Approved requests that keep every rule of public trust, to be spoilt one rule at a time."""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ObjectIdentifier

from cmpd.asn1 import der
from cmpd.exchange import Approved, Finding, RequestedExtension
from cmpd.profile import rules

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
OIDS = {
    "C": "2.5.4.6",
    "ST": "2.5.4.8",
    "L": "2.5.4.7",
    "postalCode": "2.5.4.17",
    "street": "2.5.4.9",
    "DC": "0.9.2342.19200300.100.1.25",
    "O": "2.5.4.10",
    "orgId": "2.5.4.97",
    "OU": "2.5.4.11",
    "title": "2.5.4.12",
    "pseudonym": "2.5.4.65",
    "SN": "2.5.4.4",
    "GN": "2.5.4.42",
    "CN": "2.5.4.3",
    "serialNumber": "2.5.4.5",
    "UID": "0.9.2342.19200300.100.1.1",
    "E": "1.2.840.113549.1.9.1",
}
_STRINGS = {"C": der.PRINTABLE_STRING, "serialNumber": der.PRINTABLE_STRING, "E": der.IA5_STRING, "DC": der.IA5_STRING}
BITS = (
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
PURPOSES = {
    "server": "1.3.6.1.5.5.7.3.1",
    "client": "1.3.6.1.5.5.7.3.2",
    "code": "1.3.6.1.5.5.7.3.3",
    "email": "1.3.6.1.5.5.7.3.4",
    "time": "1.3.6.1.5.5.7.3.8",
    "ocsp": "1.3.6.1.5.5.7.3.9",
    "any": "2.5.29.37.0",
}
SMTP_UTF8 = "1.3.6.1.5.5.7.8.9"
UPN = "1.3.6.1.4.1.311.20.2.3"
SMIME_POLICIES = {
    (validation, generation): f"2.23.140.1.5.{type_}.{number}"
    for type_, validation in enumerate(("mailbox", "organization", "sponsor", "individual"), 1)
    for generation, number in (("multipurpose", 2), ("strict", 3))
}
TLS_POLICIES = {"domain": "2.23.140.1.2.1", "organization": "2.23.140.1.2.2", "individual": "2.23.140.1.2.3"}

Pairs = Sequence[tuple[str, str]]
ORGANIZATION: Pairs = (("C", "DE"), ("L", "Köln"), ("O", "Muster GmbH"), ("orgId", "NTRDE-DER3306.HRB123456"))
PERSON: Pairs = (("SN", "Musterfrau"), ("GN", "Erika"), ("CN", "Erika Musterfrau"))
MAIL = "erika@example.com"
SUBJECTS: dict[str, Pairs] = {
    "mailbox": (("CN", MAIL), ("E", MAIL)),
    "organization": (*ORGANIZATION, ("CN", "Muster GmbH")),
    "sponsor": (*ORGANIZATION, *PERSON, ("E", MAIL)),
    "individual": (("C", "DE"), *PERSON),
}
TLS_SUBJECTS: dict[str, Pairs] = {
    "domain": (("CN", "www.example.com"),),
    "organization": (("C", "DE"), ("L", "Köln"), ("O", "Muster GmbH"), ("CN", "www.example.com")),
    "individual": (("C", "DE"), ("L", "Köln"), ("SN", "Musterfrau"), ("GN", "Erika"), ("CN", "www.example.com")),
}


def name(pairs: Iterable[Any]) -> bytes:
    """A Name of (type, value) pairs, each an RDN of its own; a list of pairs inside makes one RDN of several."""
    rdns: list[Any] = [[one] if isinstance(one[0], str) else one for one in pairs]
    return der.sequence(*(der.set_of(*(_attribute(*pair) for pair in rdn)) for rdn in rdns))


def _attribute(type_: str, value: str) -> bytes:
    return der.sequence(der.oid(OIDS[type_]), der.tlv(_STRINGS.get(type_, der.UTF8_STRING), value.encode()))


def email(mailbox: str) -> bytes:
    return der.tlv(0x81, mailbox.encode("ascii"))


def dns(host: str) -> bytes:
    return der.tlv(0x82, host.encode("ascii"))


def uri(text: str) -> bytes:
    return der.tlv(0x86, text.encode("ascii"))


def ip(address: str) -> bytes:
    return der.tlv(0x87, ipaddress.ip_address(address).packed)


def other(oid: str, text: str) -> bytes:
    return der.tlv(0xA0, der.oid(oid), der.explicit(0, der.utf8_string(text)))


def directory(*pairs: tuple[str, str]) -> bytes:
    return der.tlv(0xA4, name(pairs))


def san(*entries: bytes, critical: bool = False) -> RequestedExtension:
    return RequestedExtension(ObjectIdentifier("2.5.29.17"), critical, der.sequence(*entries))


def usage(*names: str, critical: bool = True) -> RequestedExtension:
    return RequestedExtension(ObjectIdentifier("2.5.29.15"), critical, der.named_bits(BITS.index(one) for one in names))


def purposes(*names: str, critical: bool = False) -> RequestedExtension:
    value = der.sequence(*(der.oid(PURPOSES.get(one, one)) for one in names))
    return RequestedExtension(ObjectIdentifier("2.5.29.37"), critical, value)


def policies(*oids: str, critical: bool = False) -> RequestedExtension:
    value = der.sequence(*(der.sequence(der.oid(oid)) for oid in oids))
    return RequestedExtension(ObjectIdentifier("2.5.29.32"), critical, value)


def constraints(value: bytes = b"\x30\x00", *, critical: bool = True) -> RequestedExtension:
    return RequestedExtension(ObjectIdentifier("2.5.29.19"), critical, value)


@cache
def spki(kind: str = "P-256") -> bytes:
    """The SubjectPublicKeyInfo of a new key."""
    key: Any
    match kind:
        case "P-256":
            key = ec.generate_private_key(ec.SECP256R1())
        case "P-384":
            key = ec.generate_private_key(ec.SECP384R1())
        case "P-521":
            key = ec.generate_private_key(ec.SECP521R1())
        case "ed25519":
            key = ed25519.Ed25519PrivateKey.generate()
        case "ed448":
            key = ed448.Ed448PrivateKey.generate()
        case "ml-dsa-65":
            key = mldsa.MLDSA65PrivateKey.generate()
        case _:
            key = rsa.generate_private_key(65537, int(kind.removeprefix("rsa-")))
    encoded: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def rsa_spki(modulus: int, exponent: int) -> bytes:
    """The SubjectPublicKeyInfo of any two numbers."""
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.null())
    return der.sequence(algorithm, der.bit_string(der.sequence(der.integer(modulus), der.integer(exponent))))


def other_key(algorithm: str, parameters: bytes = b"") -> bytes:
    """The SubjectPublicKeyInfo of some algorithm."""
    return der.sequence(der.sequence(der.oid(algorithm), parameters), der.bit_string(b"\x04" + bytes(range(64))))


FITTING: dict[str, dict[str, tuple[str, ...]]] = {
    "signing": {"rsa": ("digital_signature",), "ec": ("digital_signature",), "edwards": ("digital_signature",)},
    "key_management": {"rsa": ("key_encipherment",), "ec": ("key_agreement",)},
    "dual_use": {"rsa": ("digital_signature", "key_encipherment"), "ec": ("digital_signature", "key_agreement")},
}


def approved(
    subject: bytes,
    key: bytes,
    extensions: Iterable[RequestedExtension],
    *,
    days: float = 90,
    seconds: int = 0,
    now: datetime = NOW,
) -> Approved:
    """Valid for so many days (and seconds more), notAfter included."""
    start = now - timedelta(minutes=5)
    return Approved(
        profile="public",
        transaction_id=b"\x01" * 16,
        cert_req_id=0,
        subject=subject,
        spki=key,
        not_before=start,
        not_after=start + timedelta(days=days, seconds=seconds) - SECOND,
        extensions=tuple(extensions),
    )


def smime(
    validation: str = "sponsor",
    generation: str = "strict",
    used_for: str = "signing",
    key: str = "P-256",
    **options: Any,
) -> Approved:
    """An S/MIME certificate as the BR wants it."""
    family = "rsa" if key.startswith("rsa") else "edwards" if key.startswith("ed") else "ec"
    return approved(
        name(SUBJECTS[validation]),
        spki(key),
        (
            constraints(),
            usage(*FITTING[used_for][family]),
            purposes("email"),
            policies(SMIME_POLICIES[validation, generation]),
            san(email(MAIL)),
        ),
        **options,
    )


def tls(validation: str = "organization", key: str = "P-256", **options: Any) -> Approved:
    """A TLS server certificate as the BR wants it."""
    return approved(
        name(TLS_SUBJECTS[validation]),
        spki(key),
        (
            constraints(),
            usage("digital_signature"),
            purposes("server"),
            policies(TLS_POLICIES[validation]),
            san(dns("www.example.com"), dns("example.com")),
        ),
        **options,
    )


def with_extension(request: Approved, *extensions: RequestedExtension) -> Approved:
    """Put extensions in place of those of the same OID, or add them."""
    oids = {one.oid for one in extensions}
    return replace(request, extensions=(*(one for one in request.extensions if one.oid not in oids), *extensions))


def without_extension(request: Approved, oid: str) -> Approved:
    return replace(request, extensions=tuple(one for one in request.extensions if one.oid.dotted_string != oid))


def broken(findings: Iterable[Finding]) -> set[str]:
    """The ids of the rules that are broken."""
    return {finding.rule.partition(",")[0] for finding in findings if not finding.ok}


def check_smime(
    request: Approved,
    validation: str = "sponsor",
    generation: str = "strict",
    used_for: str = "signing",
    now: datetime = NOW,
) -> list[Finding]:
    return rules.check(
        request, kind="smime", validation_type=validation, generation=generation, usage=used_for, now=now
    )


def check_tls(request: Approved, validation: str | None = "organization", now: datetime = NOW) -> list[Finding]:
    return rules.check(request, kind="tls", validation_type=validation, generation=None, usage=None, now=now)
