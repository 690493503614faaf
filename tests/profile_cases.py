"""Requests for the profile's tests, written octet by octet so that they can be wrong in every way."""

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ObjectIdentifier

from cmpd.asn1 import der
from cmpd.exchange import Approved, CertificateRequest, RequestedExtension
from cmpd.profile import Profile, ProfileConfig

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
ID = "test_profile_id-0123456789"
OIDS = {
    "CN": "2.5.4.3", "SN": "2.5.4.4", "serialNumber": "2.5.4.5", "C": "2.5.4.6", "L": "2.5.4.7", "ST": "2.5.4.8",
    "O": "2.5.4.10", "OU": "2.5.4.11", "T": "2.5.4.12", "GN": "2.5.4.42", "dnQualifier": "2.5.4.46",
    "pseudonym": "2.5.4.65", "organizationIdentifier": "2.5.4.97", "UID": "0.9.2342.19200300.100.1.1",
    "DC": "0.9.2342.19200300.100.1.25", "email": "1.2.840.113549.1.9.1", "unknown": "1.3.6.1.4.1.55555.1",
    "jurisdictionC": "1.3.6.1.4.1.311.60.2.1.3",
}  # fmt: skip
_STRINGS = {"C": der.PRINTABLE_STRING, "serialNumber": der.PRINTABLE_STRING, "dnQualifier": der.PRINTABLE_STRING,
            "DC": der.IA5_STRING, "email": der.IA5_STRING}  # fmt: skip
Value = str | tuple[int, bytes]


def attribute(kind: str, value: Value) -> bytes:
    """An AttributeTypeAndValue; a text gets the usual string type, otherwise (tag, octets)."""
    tag, octets = (_STRINGS.get(kind, der.UTF8_STRING), value.encode()) if isinstance(value, str) else value
    return der.sequence(der.oid(OIDS[kind]), der.tlv(tag, octets))


def name(*attributes: tuple[str, Value]) -> bytes:
    return der.sequence(*(der.tlv(der.SET, attribute(*one)) for one in attributes))


DNS, EMAIL, URI, IP, RID = 0x82, 0x81, 0x86, 0x87, 0x88


def san(*entries: tuple[int, bytes | str], critical: bool = False) -> RequestedExtension:
    parts = [der.tlv(tag, value.encode() if isinstance(value, str) else value) for tag, value in entries]
    return RequestedExtension(ObjectIdentifier("2.5.29.17"), critical, der.sequence(*parts))


def upn(value: str) -> tuple[int, bytes]:
    return 0xA0, der.oid("1.3.6.1.4.1.311.20.2.3") + der.explicit(0, der.utf8_string(value))


def key_usage(*bits: int) -> RequestedExtension:
    return RequestedExtension(ObjectIdentifier("2.5.29.15"), True, der.named_bits(bits))


def purposes(*oids: str) -> RequestedExtension:
    return RequestedExtension(ObjectIdentifier("2.5.29.37"), False, der.sequence(*map(der.oid, oids)))


def extension(oid: str, value: bytes = b"\x05\x00") -> RequestedExtension:
    return RequestedExtension(ObjectIdentifier(oid), False, value)


def _spki(key: Any) -> bytes:
    public = key.public_key()
    return bytes(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


KEYS: dict[str, bytes] = {
    "P-256": _spki(ec.generate_private_key(ec.SECP256R1())),
    "P-384": _spki(ec.generate_private_key(ec.SECP384R1())),
    "P-521": _spki(ec.generate_private_key(ec.SECP521R1())),
    "secp256k1": _spki(ec.generate_private_key(ec.SECP256K1())),
    "rsa": _spki(rsa.generate_private_key(65537, 2048)),
    "rsa-1024": _spki(rsa.generate_private_key(65537, 1024)),
    "rsa-e3": _spki(rsa.generate_private_key(3, 2048)),
    "ed25519": _spki(ed25519.Ed25519PrivateKey.generate()),
    "ed448": _spki(ed448.Ed448PrivateKey.generate()),
    "ml-dsa-44": _spki(mldsa.MLDSA44PrivateKey.generate()),
    "ml-dsa-65": _spki(mldsa.MLDSA65PrivateKey.generate()),
    "ml-dsa-87": _spki(mldsa.MLDSA87PrivateKey.generate()),
}


def rsa_spki(modulus: int, exponent: int, parameters: bytes = b"\x05\x00") -> bytes:
    key = der.sequence(der.integer(modulus), der.integer(exponent))
    return der.sequence(der.sequence(der.oid("1.2.840.113549.1.1.1"), parameters), der.bit_string(key))


def profile(changes: Mapping[str, Any] | None = None, *, base: Path = Path("profiles")) -> Profile:
    """A profile with an optional CN and all else by default; keys in dotted spelling."""
    table: dict[str, Any] = {"id": ID, "issuer": "local", "subject": {"common_name": {}}}
    for key, value in (changes or {}).items():
        *path, last = key.split(".")
        place = table
        for part in path:
            place = place.setdefault(part, {})
        place[last] = copy.deepcopy(value)
    return Profile.from_config("device", table, base)


def request(
    subject: bytes | None = None,
    *extensions: RequestedExtension,
    spki: bytes | None = None,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> CertificateRequest:
    return CertificateRequest(
        cert_req_id=0,
        subject=name(("CN", "device-1")) if subject is None else subject,
        spki=KEYS["P-256"] if spki is None else spki,
        extensions=extensions,
        not_before=not_before,
        not_after=not_after,
    )


def approve(changes: Mapping[str, Any] | Profile | None, asked: CertificateRequest) -> Approved:
    decided = changes if isinstance(changes, Profile) else profile(changes)
    return decided.approve(asked, transaction_id=b"t" * 16, now=NOW)


def values(approved: Approved) -> dict[str, bytes]:
    """The extensions of a decision by their dotted OID."""
    return {one.oid.dotted_string: one.value for one in approved.extensions}


def entries(extension_value: bytes) -> Sequence[bytes]:
    return der.children(extension_value)


# ── the form of a refusal ───────────────────────────────────────────────────────────────────────────────────────────

_FORM = re.compile(r"(?P<field>[^:]+): (?P<text>.+) \((?P<rule>(?:[^()]|\([^()]*\))+)\)")
_STANDARD = re.compile(r"(?:RFC \d+|X\.680|UTS 39|MS-DTYP) (?:§\d+(?:\.\d+)*|appendix A\.1)|ISO 3166-1|built-in limit")


def rule_of(text: str) -> str:
    """The rule that a refusal names: `FIELD: what is wrong (RULE)`, which must be a key, a clause or a section."""
    found = _FORM.fullmatch(text)
    assert found is not None, text
    rule = found["rule"]
    assert is_key(rule) or _STANDARD.fullmatch(rule) or rule in _clauses(), text
    assert text.count(rule) == 1 or rule in found["field"], f"the rule is there twice: {text}"
    return rule


def is_key(rule: str) -> bool:
    """Whether a rule is a key of profile files, or a table of theirs."""
    places: list[Any] = [_schema()]
    for part in re.sub(r"\.\d+(\.\d+)+", ".OID", rule).split("."):
        tables = [table for place in places for table in _tables(place)]
        places = [table["properties"][part] for table in tables if part in table.get("properties", ())]
        if part == "OID":
            places = [table["additionalProperties"] for table in tables if table.get("additionalProperties")]
    return bool(places)


@cache
def _schema() -> dict[str, Any]:
    return ProfileConfig.model_json_schema()


def _tables(place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a key may hold, its references looked up."""
    for one in place.get("anyOf", [place]):
        yield _schema()["$defs"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one


@cache
def _clauses() -> frozenset[str]:
    """The rules of public trust, as findings name them."""
    data = tomllib.loads((resources.files("cmpd") / "data" / "rules.toml").read_text(encoding="utf-8"))
    return frozenset(f"{one['id']}, {one['clause']}" for one in data["rule"])
