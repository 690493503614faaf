"""Each rule of a profile, by requests that it accepts and requests that it refuses."""

from datetime import timedelta
from typing import Any

import pytest

from cmpd.asn1 import der
from cmpd.errors import BadAlg, BadCertTemplate, BadDataFormat, CMPError, UnacceptedExtension
from cmpd.exchange import RequestedExtension
from tests import profile_cases as cases
from tests.profile_cases import (
    DNS,
    EMAIL,
    IP,
    KEYS,
    NOW,
    RID,
    URI,
    approve,
    extension,
    key_usage,
    name,
    profile,
    purposes,
    request,
    rsa_spki,
    rule_of,
    san,
    upn,
    values,
)

SAN, KU, EKU, BC = "2.5.29.17", "2.5.29.15", "2.5.29.37", "2.5.29.19"
SERVER, CLIENT, EMAIL_PROTECTION = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.4"
ALL_TYPES = ["rsa", "ecdsa", "ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"]
UTF8, PRINTABLE, IA5 = der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING
CN = ("CN", "device-1")


def refused(kind: type[CMPError], words: str, changes: Any, asked: Any) -> str:
    """The request is refused with exactly this class, and the text has all words and the form of a refusal."""
    with pytest.raises(CMPError) as caught:
        approve(changes, asked)
    assert type(caught.value) is kind, caught.value
    text = str(caught.value)
    for word in words.split():
        assert word in text, text
    rule_of(text)
    return text


def test_a_plain_request_becomes_an_end_entity_certificate_with_the_defaults() -> None:
    asked = request()
    got = approve(None, asked)
    assert (got.profile, got.transaction_id, got.cert_req_id) == ("device", b"t" * 16, 0)
    assert (got.subject, got.spki, got.modified) == (asked.subject, asked.spki, ())
    assert values(got) == {BC: b"\x30\x00", KU: der.named_bits([0])}
    assert [one.critical for one in got.extensions] == [True, True]


# ── key ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "key", ["P-256", "P-384", "P-521", "rsa", "ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"]
)
def test_every_key_type_is_recognised_and_certified(key: str) -> None:
    assert approve({"key.allowed_types": ALL_TYPES}, request(spki=KEYS[key])).spki == KEYS[key]


@pytest.mark.parametrize("key", ["P-256", "rsa", "ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_a_key_type_that_is_not_listed_is_refused(key: str) -> None:
    kind = {"P-256": "ecdsa"}.get(key, key)
    others = [one for one in ALL_TYPES if one != kind]
    refused(BadCertTemplate, "publicKey key.allowed_types", {"key.allowed_types": others}, request(spki=KEYS[key]))


_GOOD_MODULUS = (1 << 2047) + 12345
_EC = der.oid("1.2.840.10045.2.1")
_P256 = der.oid("1.2.840.10045.3.1.7")


@pytest.mark.parametrize(
    ("kind", "words", "changes", "spki"),
    [
        (BadCertTemplate, "publicKey P-384 allowed_curves", {"key.ecdsa.allowed_curves": ["P-256"]}, KEYS["P-384"]),
        (BadCertTemplate, "publicKey 1.3.132.0.10 allowed_curves", {}, KEYS["secp256k1"]),
        (BadCertTemplate, "publicKey 1024 2048", {}, KEYS["rsa-1024"]),
        (BadCertTemplate, "publicKey 2048 3072", {"key.rsa.min_bits": 3072}, KEYS["rsa"]),
        (BadCertTemplate, "publicKey exponent min_exponent 65537", {}, KEYS["rsa-e3"]),
        (BadCertTemplate, "publicKey exponent odd", {}, rsa_spki(_GOOD_MODULUS, 65538)),
        (BadCertTemplate, "publicKey exponent", {}, rsa_spki(_GOOD_MODULUS, 1)),
        (BadCertTemplate, "publicKey exponent 256", {}, rsa_spki(_GOOD_MODULUS, (1 << 256) + 1)),
        (BadCertTemplate, "publicKey modulus even", {}, rsa_spki(_GOOD_MODULUS + 1, 65537)),
        (BadCertTemplate, "publicKey modulus positive", {}, rsa_spki(-_GOOD_MODULUS, 65537)),
        (BadCertTemplate, "publicKey modulus positive", {}, rsa_spki(0, 65537)),
        (BadCertTemplate, "publicKey 8192 4096", {}, rsa_spki((1 << 8191) + 1, 65537)),
        (BadCertTemplate, "publicKey parameters NULL", {}, rsa_spki(_GOOD_MODULUS, 65537, b"")),
        (BadCertTemplate, "publicKey absent", {}, b""),
        (BadCertTemplate, "publicKey uncompressed P-256", {},
         der.sequence(der.sequence(_EC, _P256), der.bit_string(b"\x02" + bytes(32)))),
        (BadCertTemplate, "publicKey curve without", {},
         der.sequence(der.sequence(_EC, der.sequence(der.integer(1))), der.bit_string(b"\x04" + bytes(64)))),
        (BadCertTemplate, "publicKey encoding Ed25519", {"key.allowed_types": ALL_TYPES},
         der.sequence(der.sequence(der.oid("1.3.101.112")), der.bit_string(bytes(31)))),
        (BadCertTemplate, "publicKey encoding Ed25519", {"key.allowed_types": ALL_TYPES},
         der.sequence(der.sequence(der.oid("1.3.101.112"), der.null()), der.bit_string(bytes(32)))),
        (BadAlg, "publicKey 1.2.840.10040.4.1", {},
         der.sequence(der.sequence(der.oid("1.2.840.10040.4.1")), der.bit_string(b"\x02\x01\x05"))),
        (BadDataFormat, "publicKey", {}, b"\x30\x03\x02\x01\x00"),
        (BadDataFormat, "publicKey", {}, KEYS["rsa"][:-1]),
        (BadDataFormat, "publicKey", {}, KEYS["rsa"] + b"\0"),
    ],
)  # fmt: skip
def test_keys_that_are_refused(kind: type[CMPError], words: str, changes: dict[str, Any], spki: bytes) -> None:
    refused(kind, words, changes, request(spki=spki))


def test_a_small_exponent_is_accepted_where_the_profile_says_so() -> None:
    assert approve({"key.rsa.min_exponent": 3}, request(spki=KEYS["rsa-e3"])).spki == KEYS["rsa-e3"]


# ── subject ─────────────────────────────────────────────────────────────────────────────────────────────────────────

EVERYTHING: dict[str, Any] = {
    f"subject.{one}": {}
    for one in (
        "state_or_province_name", "locality_name", "organization_name", "organization_identifier", "title", "pseudonym",
        "surname", "given_name", "common_name", "serial_number", "dn_qualifier", "user_id", "email_address",
        "country_name",
    )
} | {"subject.domain_component": {"max": 3}, "subject.organizational_unit_name": {"max": 2}}  # fmt: skip


@pytest.mark.parametrize(
    "subject",
    [
        name(("C", "DE"), ("ST", "Bayern"), ("L", "München"), ("O", "Example"), ("OU", "a"), ("OU", "b"), ("T", "Dr"),
             ("pseudonym", "x"), ("SN", "Müller"), ("GN", "Jürgen"), CN, ("serialNumber", "1"), ("dnQualifier", "q"),
             ("UID", "u1"), ("email", "a@example.com"), ("organizationIdentifier", "NTRDE-HRB123")),
        name(("DC", "com"), ("DC", "example"), CN),
        name(CN, ("C", "DE")),
        name(("CN", (PRINTABLE, b"device-1"))),
        name(("CN", "x" * 64)),
        name(("CN", "日本語の装置")),
        name(("CN", 'a, b+c="d"<e>;#\\')),
    ],
)  # fmt: skip
def test_a_subject_that_passes_keeps_its_octets(subject: bytes) -> None:
    got = approve(EVERYTHING, request(subject))
    assert (got.subject, got.modified) == (subject, ())


@pytest.mark.parametrize(
    ("subject", "wanted"),
    [
        (name(("CN", (der.BMP_STRING, "gerät".encode("utf-16-be")))), name(("CN", "gerät"))),
        (name(("CN", (der.UNIVERSAL_STRING, "gerät".encode("utf-32-be")))), name(("CN", "gerät"))),
        (name(("CN", (der.TELETEX_STRING, b"old"))), name(("CN", "old"))),
        (name(("CN", (PRINTABLE, b"not_printable@all"))), name(("CN", "not_printable@all"))),
        (name(("C", (UTF8, b"DE"))), name(("C", "DE"))),
        (name(("serialNumber", (UTF8, b"12-34"))), name(("serialNumber", "12-34"))),
        (name(("email", (UTF8, b"a@example.com"))), name(("email", "a@example.com"))),
        (name(CN, ("C", (UTF8, b"DE"))), name(("C", "DE"), CN)),
    ],
)  # fmt: skip
def test_a_name_in_another_string_type_is_written_anew_in_the_right_one(subject: bytes, wanted: bytes) -> None:
    got = approve(EVERYTHING, request(subject))
    assert (got.subject, got.modified) == (wanted, ())


@pytest.mark.parametrize(
    ("words", "subject"),
    [
        ("common_name U+0000", name(("CN", "good.example\0.evil.example"))),
        ("common_name U+000A", name(("CN", "a\nb"))),
        ("common_name U+001B", name(("CN", "\x1b[31m"))),
        ("common_name U+007F", name(("CN", "a\x7f"))),
        ("common_name U+0085", name(("CN", "a\x85"))),
        ("common_name U+202E", name(("CN", "abc\u202egpj.exe"))),
        ("common_name U+2066", name(("CN", "a\u2066b"))),
        ("common_name U+200B", name(("CN", "a\u200bb"))),
        ("common_name U+FEFF", name(("CN", "\ufeffa"))),
        ("common_name U+00A0", name(("CN", "a\u00a0b"))),
        ("common_name U+2028", name(("CN", "a\u2028b"))),
        ("common_name U+E000", name(("CN", "a\ue000"))),
        ("common_name empty", name(("CN", ""))),
        ("common_name space", name(("CN", " a"))),
        ("common_name space", name(("CN", "a "))),
        ("common_name longer 64", name(("CN", "x" * 65))),
        ("common_name longer 64", name(("CN", "x" * 100_000))),
        ("common_name string", name(("CN", (UTF8, b"\xff\xfe")))),
        ("common_name string", name(("CN", (UTF8, b"\xed\xa0\x80")))),
        ("common_name string", name(("CN", (UTF8, b"\xc0\x80")))),
        ("common_name string", name(("CN", (der.BMP_STRING, b"abc")))),
        ("common_name string", name(("CN", (der.BMP_STRING, b"\xd8\x00")))),
        ("common_name string", name(("CN", (der.TELETEX_STRING, b"\xe4")))),
        ("common_name IA5String", name(("CN", (IA5, b"device-1")))),
        ("common_name type", name(("CN", (der.OCTET_STRING, b"device-1")))),
        ("common_name type", name(("CN", (der.SEQUENCE, b"")))),
        ("common_name often once", name(CN, ("CN", "device-2"))),
        ("organizational_unit_name often 2", name(("OU", "a"), ("OU", "b"), ("OU", "c"))),
        ("country_name country", name(("C", "de"))),
        ("country_name longer", name(("C", "DEU"))),
        ("country_name country", name(("C", "D1"))),
        ("serial_number PrintableString", name(("serialNumber", (UTF8, "№1".encode())))),
        ("serial_number type", name(("serialNumber", (der.BMP_STRING, b"\0a")))),
        ("email_address e-mail", name(("email", "not an address"))),
        ("email_address e-mail", name(("email", "a@b@example.com"))),
        ("email_address e-mail", name(("email", (UTF8, "ä@example.com".encode())))),
        ("domain_component label", name(("DC", "example.com"))),
        ("1.3.6.1.4.1.55555.1 not", name(CN, ("unknown", "x"))),
        ("multi_valued_rdn 2", der.sequence(der.set_of(cases.attribute(*CN), cases.attribute("OU", "a")))),
        ("relative without", der.sequence(der.set_of())),
        ("subjectAltName empty", b"\x30\x00"),
    ],
)
def test_subjects_that_are_refused(words: str, subject: bytes) -> None:
    refused(BadCertTemplate, f"subject {words}", EVERYTHING, request(subject))


@pytest.mark.parametrize(
    "subject",
    [b"", b"\x05\x00", b"\x30\x80\0\0", b"\x30\x05\x31\x00", name(CN) + b"\0", name(CN)[:-1],
     der.sequence(der.tlv(der.SET, der.sequence(der.oid("2.5.4.3")))), name(*[("OU", "x")] * 10_000)],
)  # fmt: skip
def test_a_subject_that_is_not_a_name_is_bad_data(subject: bytes) -> None:
    refused(BadDataFormat, "subject", EVERYTHING, request(subject))


def test_what_a_refusal_quotes_is_harmless_and_short() -> None:
    text = refused(BadCertTemplate, "subject.common_name", {}, request(name(("CN", "a\u202e\0'" + "b" * 200))))
    assert text.isprintable()
    assert "\\u{202e}" in text
    assert len(text) < 200


def test_a_required_attribute_must_be_there() -> None:
    rule = {"subject.serial_number": {"include": "required"}}
    refused(BadCertTemplate, "subject.serial_number required", rule, request())
    assert approve(rule, request(name(CN, ("serialNumber", "1")))).modified == ()


def test_an_attribute_with_include_no_is_refused_like_an_unlisted_one() -> None:
    refused(BadCertTemplate, "subject.title", {"subject.title": {"include": "no"}}, request(name(CN, ("T", "x"))))
    refused(BadCertTemplate, "subject.title", {}, request(name(CN, ("T", "x"))))


def test_a_pattern_holds_for_the_whole_value() -> None:
    rule = {"subject.common_name": {"pattern": "device-[0-9]+"}}
    assert approve(rule, request()).modified == ()
    refused(BadCertTemplate, "subject.common_name 'device-1x' pattern", rule, request(name(("CN", "device-1x"))))
    refused(BadCertTemplate, "subject.common_name pattern", rule, request(name(("CN", "a device-1"))))


def test_a_pattern_cannot_be_made_to_backtrack_without_end() -> None:
    """The textbook cases of exponential matching end at once, because RE2 does not backtrack."""
    for pattern in ("(a+)+", "(a|aa)+", "(a|a?)+", "(.*a){20}"):
        rule = {"subject.common_name": {"pattern": pattern}}
        refused(BadCertTemplate, "subject.common_name pattern", rule, request(name(("CN", "a" * 63 + "!"))))


def test_an_unlisted_attribute_is_dropped_where_the_profile_says_so() -> None:
    got = approve({"subject.on_unlisted": "drop"}, request(name(("O", "Evil Corp"), CN, ("unknown", "x"))))
    assert got.subject == name(CN)
    assert got.modified == ("subject.organization_name left out", "subject.1.3.6.1.4.1.55555.1 left out")


def test_dropping_everything_does_not_make_an_empty_name() -> None:
    refused(BadCertTemplate, "subject empty", {"subject.on_unlisted": "drop"}, request(name(("O", "x"))))


FIXED = {"subject.organization_name": {"source": "fixed", "value": "Example GmbH"}}


@pytest.mark.parametrize(
    ("subject", "wanted", "modified"),
    [
        (name(("O", "Example GmbH"), CN), name(("O", "Example GmbH"), CN), ()),
        (name(CN, ("O", "Example GmbH")), name(CN, ("O", "Example GmbH")), ()),
        (name(CN), name(("O", "Example GmbH"), CN), ("subject.organization_name added",)),
        (name(("O", "Evil"), CN), name(("O", "Example GmbH"), CN), ("subject.organization_name replaced",)),
        (name(("O", "\0"), CN), name(("O", "Example GmbH"), CN), ("subject.organization_name replaced",)),
        (name(("O", "Evil"), ("O", "Example GmbH"), CN), name(("O", "Example GmbH"), CN),
         ("subject.organization_name replaced",)),
        (b"\x30\x00", name(("O", "Example GmbH")), ()),
    ],
)  # fmt: skip
def test_a_fixed_attribute_is_what_the_profile_says(subject: bytes, wanted: bytes, modified: tuple[str, ...]) -> None:
    got = approve(FIXED, request(subject))
    assert (got.subject, got.modified) == (wanted, modified)


def test_a_fixed_attribute_may_come_only_when_requested() -> None:
    rule = {"subject.organization_name": {"source": "fixed", "value": "X", "include": "optional"}}
    assert approve(rule, request()).subject == name(CN)
    assert approve(rule, request(name(("O", "Y"), CN))).subject == name(("O", "X"), CN)


def test_several_fixed_values_keep_their_order() -> None:
    rule = {"subject.domain_component": {"source": "fixed", "value": ["com", "example"]}}
    assert approve(rule, request()).subject == name(("DC", "com"), ("DC", "example"), CN)


def test_multi_valued_relative_names_are_kept_or_put_in_order() -> None:
    rules = {"subject.multi_valued_rdn": True, "subject.organizational_unit_name": {}}
    pair = sorted([cases.attribute(*CN), cases.attribute("OU", "a")])
    good, unsorted = (der.sequence(der.tlv(der.SET, *parts)) for parts in (pair, pair[::-1]))
    assert approve(rules, request(good)).subject == good
    assert approve(rules, request(unsorted)).subject == good
    refused(BadCertTemplate, "relative without", rules, request(der.sequence(der.set_of())))


def test_a_dropped_or_replaced_attribute_leaves_the_rest_of_its_relative_name() -> None:
    rdn = der.sequence(der.set_of(cases.attribute(*CN), cases.attribute("O", "Evil"), cases.attribute("T", "x")))
    got = approve(FIXED | {"subject.multi_valued_rdn": True, "subject.on_unlisted": "drop"}, request(rdn))
    assert got.subject == name(("O", "Example GmbH"), CN)
    assert set(got.modified) == {"subject.organization_name replaced", "subject.title left out"}


# ── subjectAltName ──────────────────────────────────────────────────────────────────────────────────────────────────

NAMES: dict[str, Any] = {
    f"san.{one}": {} for one in ("dns", "email", "uri", "ip", "directory_name", "registered_id", "upn")
}
IPV6 = bytes.fromhex("20010db8000000000000000000000001")


@pytest.mark.parametrize(
    "entry",
    [
        (DNS, "device.example.com"), (DNS, "Device.EXAMPLE.com"), (DNS, "gateway"), (DNS, "xn--bcher-kva.example"),
        (DNS, "a" * 63 + ".example"), (DNS, "1.example"), (EMAIL, "first.last+tag@example.com"), (EMAIL, "a@b"),
        (URI, "https://example.com/path?x=1#y"), (URI, "urn:dev:ow:10e2073a01080063"), (URI, "spiffe://example.org/x"),
        (URI, "https://192.0.2.1:8443/"), (URI, "http://[2001:db8::1]:80/"), (URI, "urn:a%20b"),
        (IP, b"\xc0\0\x02\x01"), (IP, IPV6), (RID, der.oid("1.3.6.1.4.1.55555.2")[2:]), (0xA4, name(CN)),
        upn("jürgen@example.com"),
    ],
)  # fmt: skip
def test_alternative_names_that_are_accepted_as_they_are(entry: tuple[int, bytes | str]) -> None:
    wanted = san(entry)
    got = approve(NAMES, request(None, wanted))
    assert (values(got)[SAN], got.modified) == (wanted.value, ())


@pytest.mark.parametrize(
    ("words", "entry"),
    [
        ("dns name", (DNS, "")),
        ("dns name", (DNS, " ")),
        ("dns name", (DNS, "good.example\0.evil.example")),
        ("dns name", (DNS, "a..example")),
        ("dns name", (DNS, ".example.com")),
        ("dns name", (DNS, "example.com.")),
        ("dns name", (DNS, "-a.example")),
        ("dns name", (DNS, "a-.example")),
        ("dns name", (DNS, "under_score.example")),
        ("dns name", (DNS, "a" * 64 + ".example")),
        ("dns name", (DNS, "a." * 126 + "aa")),
        ("dns name", (DNS, "192.0.2.1")),
        ("dns name", (DNS, "a@example.com")),
        ("dns name", (DNS, "example.com/x")),
        ("dns name", (DNS, "a*.example.com")),
        ("dns name", (DNS, "*")),
        ("dns wildcard", (DNS, "*.example.com")),
        ("dns value", (DNS, "bücher.example")),
        ("dns reserved", (DNS, "ab--c.example")),
        ("dns \\u{1b}", (DNS, "\x1b[2J")),
        ("email address", (EMAIL, "example.com")),
        ("email address", (EMAIL, "@example.com")),
        ("email address", (EMAIL, "a@")),
        ("email address", (EMAIL, "a@b@example.com")),
        ("email address", (EMAIL, "Name <a@example.com>")),
        ("email address", (EMAIL, '"a b"@example.com')),
        ("email address", (EMAIL, "a..b@example.com")),
        ("email address", (EMAIL, "a\0@example.com")),
        ("email address", (EMAIL, "a@example.com\n")),
        ("email address", (EMAIL, "a@[192.0.2.1]")),
        ("email address", (EMAIL, "x" * 65 + "@example.com")),
        ("email value", (EMAIL, "ä@example.com")),
        ("uri URI", (URI, "/relative")),
        ("uri URI", (URI, "https:")),
        ("uri URI", (URI, "https://")),
        ("uri URI", (URI, "file:///etc/passwd")),
        ("uri URI", (URI, "https://user:secret@example.com/")),
        ("uri URI", (URI, "https://exa mple.com/")),
        ("uri URI", (URI, "https://example.com/\0")),
        ("uri URI", (URI, "https://example.com\\@evil.example")),
        ("uri URI", (URI, "https://example.com:99999/")),
        ("uri URI", (URI, "https://[192.0.2.1]/")),
        ("uri URI", (URI, "https://2001:db8::abcd/")),
        ("uri URI", (URI, "https://[fe80::1%25eth0]/")),
        ("uri URI", (URI, "urn:%zz")),
        ("uri URI", (URI, "urn:" + "x" * 3000)),
        ("ip value", (IP, b"")),
        ("ip value", (IP, b"\xc0\0\x02")),
        ("ip value", (IP, b"\xc0\0\x02\0\xff\xff\xff\0")),
        ("registered_id value", (RID, b"")),
        ("registered_id value", (RID, b"\x2a\x80")),
        ("registered_id value", (RID, b"\x80\x01")),
        ("directory_name value", (0xA4, name(("CN", "a\u202eb")))),
        ("directory_name value", (0xA4, name(("CN", (der.BMP_STRING, b"\0a"))))),
        ("upn principal", upn("nobody")),
        ("upn principal", upn("a@b@example.com")),
        ("upn U+0000", upn("a\0@example.com")),
        (
            "other_name 1.3.6.1.5.5.7.8.7",
            (0xA0, der.oid("1.3.6.1.5.5.7.8.7") + der.explicit(0, der.utf8_string("a@b"))),
        ),
        ("x400_address", (0xA3, b"")),
        ("edi_party_name", (0xA5, b"")),
    ],
)
def test_alternative_names_that_are_refused(words: str, entry: tuple[int, bytes | str]) -> None:
    text = refused(BadCertTemplate, f"san. {words}", NAMES, request(None, san(entry)))
    assert text.isprintable()


@pytest.mark.parametrize(
    "value",
    [b"", b"\x30", b"\x05\x00", b"\x31\x00", b"\x30\x02\x82\x05", san((DNS, "a")).value + b"\0", b"\x30\x80\0\0",
     b"\x30\x03\x9f\x81\x01", san((0xA4, b"\x05\x00")).value, san((0xA4, b"")).value, san((0xA4, b"\x30\x00")).value,
     san((0xA0, b"")).value, san((0xA0, der.oid("1.3.6.1.4.1.311.20.2.3"))).value],
)  # fmt: skip
def test_an_extension_that_is_no_general_names_is_bad_data(value: bytes) -> None:
    refused(BadDataFormat, "san", NAMES, request(None, extension(SAN, value)))


@pytest.mark.parametrize("entry", [(DNS, "a.example"), (EMAIL, "a@b"), (URI, "urn:x"), (IP, b"\1\2\3\4"), upn("a@b.c")])
def test_a_type_of_name_that_is_not_listed_is_refused_or_dropped(entry: tuple[int, bytes | str]) -> None:
    refused(BadCertTemplate, "san. accepted", {}, request(None, san(entry)))
    got = approve({"san.on_unlisted": "drop"}, request(None, san(entry)))
    assert SAN not in values(got)
    assert len(got.modified) == 1


def test_an_extension_without_an_entry_is_refused() -> None:
    refused(BadCertTemplate, "san entry", NAMES, request(None, san()))


def test_the_same_name_twice_is_refused() -> None:
    refused(BadCertTemplate, "san.dns twice", NAMES, request(None, san((DNS, "a.example"), (DNS, "a.example"))))


def test_names_are_counted() -> None:
    rule = {"san.dns": {"min": 2, "max": 3}}
    names = [(DNS, f"{one}.example") for one in "abcd"]
    refused(BadCertTemplate, "san.dns required 2", rule, request(None, san(*names[:1])))
    refused(BadCertTemplate, "san.dns 3", rule, request(None, san(*names)))
    assert approve(rule, request(None, san(*names[:3]))).modified == ()
    assert approve(rule, request()).modified == ()
    required = {"san.dns": {"include": "required"}}
    refused(BadCertTemplate, "san.dns required", required, request())


def test_ten_thousand_names_are_refused_at_the_first_too_many() -> None:
    many = san(*((DNS, f"h{number}.example") for number in range(10_000)))
    refused(BadCertTemplate, "san.dns 10", NAMES, request(None, many))


@pytest.mark.parametrize(
    ("rule", "entry", "good"),
    [
        ({"san.dns.allowed_domains": ["example.com"]}, (DNS, "EXAMPLE.com"), True),
        ({"san.dns.allowed_domains": ["example.com"]}, (DNS, "a.example.com"), False),
        ({"san.dns.allowed_domains": [".example.com"]}, (DNS, "a.b.example.com"), True),
        ({"san.dns.allowed_domains": [".example.com"]}, (DNS, "example.com"), False),
        ({"san.dns.allowed_domains": [".example.com"]}, (DNS, "notexample.com"), False),
        ({"san.dns.allowed_domains": [".Example.com"]}, (DNS, "evil.example.com.evil"), False),
        ({"san.dns": {"allowed_domains": [".example.com"], "allow_wildcard": True}}, (DNS, "*.example.com"), True),
        ({"san.dns": {"allowed_domains": [".a.example.com"], "allow_wildcard": True}}, (DNS, "*.example.com"), False),
        ({"san.dns": {"allow_wildcard": True}}, (DNS, "*.com"), False),
        ({"san.dns": {"allow_wildcard": True}}, (DNS, "*.*.example.com"), False),
        ({"san.dns": {"allow_wildcard": True}}, (DNS, "a.*.example.com"), False),
        ({"san.dns.pattern": "dev[0-9]+\\.example"}, (DNS, "dev7.example"), True),
        ({"san.dns.pattern": "dev[0-9]+\\.example"}, (DNS, "dev7.example.evil"), False),
        ({"san.email.allowed_domains": ["example.com"]}, (EMAIL, "a@example.com"), True),
        ({"san.email.allowed_domains": ["example.com"]}, (EMAIL, "a@mail.example.com"), False),
        ({"san.upn.allowed_domains": ["example.com"]}, upn("a@example.com"), True),
        ({"san.upn.allowed_domains": ["example.com"]}, upn("a@example.org"), False),
        ({"san.uri.allowed_domains": ["example.com"]}, (URI, "https://example.com:8443/x"), True),
        ({"san.uri.allowed_domains": ["example.com"]}, (URI, "https://evil.example/example.com"), False),
        ({"san.uri.allowed_domains": ["example.com"]}, (URI, "https://evil.example?@example.com"), False),
        ({"san.uri.allowed_domains": ["example.com"]}, (URI, "urn:example.com"), False),
        ({"san.uri.allowed_schemes": ["https"]}, (URI, "HTTPS://example.com/"), True),
        ({"san.uri.allowed_schemes": ["https"]}, (URI, "http://example.com/"), False),
        ({"san.ip.allowed_ranges": ["10.0.0.0/8"]}, (IP, b"\x0a\1\2\3"), True),
        ({"san.ip.allowed_ranges": ["10.0.0.0/8"]}, (IP, b"\x0b\1\2\3"), False),
        ({"san.ip.allowed_ranges": ["10.0.0.0/8"]}, (IP, IPV6), False),
        ({"san.ip.allowed_ranges": ["10.0.0.0/8", "2001:db8::/32"]}, (IP, IPV6), True),
        ({"san.registered_id.pattern": "1\\.3\\.6\\.1\\..*"}, (RID, der.oid("1.3.6.1.4.1")[2:]), True),
        ({"san.registered_id.pattern": "1\\.3\\.6\\.1\\..*"}, (RID, der.oid("2.999.1")[2:]), False),
    ],
)
def test_restrictions_on_names(rule: dict[str, Any], entry: tuple[int, bytes | str], good: bool) -> None:
    asked = request(None, san(entry))
    if good:
        assert values(approve(rule, asked))[SAN] == asked.extensions[0].value
    else:
        refused(BadCertTemplate, next(iter(rule)).rsplit(".", 1)[0][:5], rule, asked)


def test_an_empty_subject_needs_names_and_makes_them_critical() -> None:
    got = approve(NAMES, request(b"\x30\x00", san((DNS, "a.example"))))
    assert got.subject == b"\x30\x00"
    assert [one.critical for one in got.extensions if one.oid.dotted_string == SAN] == [True]
    got = approve(NAMES, request(None, san((DNS, "a.example"), critical=True)))
    assert [one.critical for one in got.extensions if one.oid.dotted_string == SAN] == [False]


FIXED_SAN = {"san.uri": {"source": "fixed", "value": "urn:example:fleet"}, "san.dns": {}}


@pytest.mark.parametrize(
    ("asked", "wanted", "modified"),
    [
        (None, [(URI, "urn:example:fleet")], ()),
        ([(URI, "urn:example:fleet")], [(URI, "urn:example:fleet")], ()),
        ([(URI, "urn:example:fleet"), (DNS, "a.b")], [(URI, "urn:example:fleet"), (DNS, "a.b")], ()),
        ([(DNS, "a.b")], [(DNS, "a.b"), (URI, "urn:example:fleet")], ("san.uri added",)),
        ([(URI, "urn:evil"), (DNS, "a.b")], [(DNS, "a.b"), (URI, "urn:example:fleet")], ("san.uri replaced",)),
        ([(URI, "urn:example:fleet"), (URI, "\0")], [(URI, "urn:example:fleet")], ("san.uri replaced",)),
    ],
)
def test_a_fixed_name_is_what_the_profile_says(asked: Any, wanted: Any, modified: tuple[str, ...]) -> None:
    got = approve(FIXED_SAN, request(None, *([] if asked is None else [san(*asked)])))
    assert (values(got)[SAN], got.modified) == (san(*wanted).value, modified)


def test_fixed_addresses_identifiers_and_principal_names_are_encoded() -> None:
    fixed = {"ip": ["192.0.2.1", "2001:db8::1"], "registered_id": "1.2.3", "upn": "a@example.com"}
    got = approve({f"san.{key}": {"source": "fixed", "value": value} for key, value in fixed.items()}, request())
    wanted = san((IP, b"\xc0\0\x02\1"), (IP, IPV6), (RID, b"\x2a\x03"), upn("a@example.com"))
    assert values(got)[SAN] == wanted.value


# ── key usage ───────────────────────────────────────────────────────────────────────────────────────────────────────

USAGES = {
    "key.allowed_types": ["rsa", "ecdsa", "ed25519"],
    "extensions.key_usage": {
        "required_usages": ["digital_signature"],
        "optional_usages": ["non_repudiation", "key_encipherment", "key_agreement", "encipher_only"],
    },
}


@pytest.mark.parametrize(
    ("key", "asked", "wanted", "modified"),
    [
        ("P-256", None, [0], ()),
        ("P-256", [0], [0], ()),
        ("P-256", [0, 4], [0, 4], ()),
        ("P-256", [4], [0, 4], ("key usage digital_signature added",)),
        ("P-256", [0, 4, 7], [0, 4, 7], ()),
        ("rsa", [0, 1, 2], [0, 1, 2], ()),
        ("ed25519", [0, 1], [0, 1], ()),
    ],
)
def test_key_usages_that_are_granted(key: str, asked: Any, wanted: list[int], modified: tuple[str, ...]) -> None:
    got = approve(USAGES, request(None, *([] if asked is None else [key_usage(*asked)]), spki=KEYS[key]))
    assert (values(got)[KU], got.modified) == (der.named_bits(wanted), modified)


@pytest.mark.parametrize(
    ("key", "asked", "words"),
    [
        ("P-256", [0, 2], "key_encipherment ecdsa"),
        ("rsa", [0, 4], "key_agreement rsa"),
        ("ed25519", [0, 4], "key_agreement ed25519"),
        ("P-256", [0, 5], "key_cert_sign"),
        ("P-256", [0, 6], "crl_sign"),
        ("P-256", [0, 3], "data_encipherment"),
        ("P-256", [0, 7], "encipher_only key_agreement"),
        ("P-256", [0, 12], "bit 12"),
        ("P-256", [], "no usage"),
    ],
)
def test_key_usages_that_are_refused(key: str, asked: list[int], words: str) -> None:
    refused(BadCertTemplate, f"extensions.key_usage {words}", USAGES, request(None, key_usage(*asked), spki=KEYS[key]))


def test_a_key_usage_that_is_not_listed_may_be_dropped() -> None:
    got = approve({"extensions.key_usage.on_unlisted": "drop"}, request(None, key_usage(0, 2)))
    assert values(got)[KU] == der.named_bits([0])
    assert got.modified == ("key usage key_encipherment left out",)


@pytest.mark.parametrize("value", [b"", b"\x03\x00", b"\x03\x02\x08\x80", b"\x03\x01\x01", b"\x04\x02\x07\x80",
                                   b"\x03\x05\x00\x80\x00\x00\x00", b"\x03\x02\x07\x80\x00"])  # fmt: skip
def test_a_key_usage_that_is_no_bit_string_is_bad_data(value: bytes) -> None:
    refused(BadDataFormat, "extensions.key_usage", USAGES, request(None, extension(KU, value)))


def test_key_usages_may_differ_by_key_type() -> None:
    rules = {
        "extensions.key_usage.required_usages": {
            "rsa": ["digital_signature", "key_encipherment"],
            "ecdsa": ["key_agreement"],
        },
        "extensions.key_usage.critical": False,
    }
    assert values(approve(rules, request(spki=KEYS["rsa"])))[KU] == der.named_bits([0, 2])
    assert values(approve(rules, request()))[KU] == der.named_bits([4])
    assert approve(rules, request()).extensions[1].critical is False


def test_without_any_usage_there_is_no_extension() -> None:
    assert KU not in values(approve({"extensions.key_usage.required_usages": []}, request()))


# ── extended key usage ──────────────────────────────────────────────────────────────────────────────────────────────

PURPOSES = {
    "extensions.extended_key_usage": {"required_usages": ["client_auth"], "optional_usages": ["server_auth", "1.2.3"]}
}


@pytest.mark.parametrize(
    ("asked", "wanted", "modified"),
    [
        (None, [CLIENT], ()),
        ([CLIENT], [CLIENT], ()),
        ([SERVER, CLIENT], [CLIENT, SERVER], ()),
        ([CLIENT, "1.2.3"], [CLIENT, "1.2.3"], ()),
        ([SERVER], [CLIENT, SERVER], ("extended key usage client_auth added",)),
        ([CLIENT, CLIENT], [CLIENT], ()),
    ],
)
def test_extended_key_usages_that_are_granted(asked: Any, wanted: list[str], modified: tuple[str, ...]) -> None:
    got = approve(PURPOSES, request(None, *([] if asked is None else [purposes(*asked)])))
    assert (values(got)[EKU], got.modified) == (purposes(*wanted).value, modified)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([CLIENT, EMAIL_PROTECTION], "email_protection"),
        (["2.5.29.37.0"], "any_extended_key_usage"),
        (["1.3.6.1.5.5.7.3.28"], "1.3.6.1.5.5.7.3.28"),
        ([], "no usage"),
    ],
)
def test_extended_key_usages_that_are_refused(asked: list[str], words: str) -> None:
    refused(BadCertTemplate, f"extensions.extended_key_usage {words}", PURPOSES, request(None, purposes(*asked)))


def test_an_extended_key_usage_that_is_not_listed_may_be_dropped() -> None:
    rules = PURPOSES | {
        "extensions.extended_key_usage.on_unlisted": "drop",
        "extensions.extended_key_usage.critical": True,
    }
    got = approve(rules, request(None, purposes(EMAIL_PROTECTION, SERVER)))
    assert values(got)[EKU] == purposes(CLIENT, SERVER).value
    assert got.modified == ("extended key usage email_protection left out", "extended key usage client_auth added")


@pytest.mark.parametrize("value", [b"", b"\x31\x00", b"\x30\x02\x05\x00", purposes(CLIENT).value + b"\0",
                                   purposes(*(f"1.2.3.{number}" for number in range(101))).value])  # fmt: skip
def test_an_extended_key_usage_that_is_none_is_bad_data(value: bytes) -> None:
    refused(BadDataFormat, "extensions.extended_key_usage", PURPOSES, request(None, extension(EKU, value)))


# ── other extensions ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_for_a_ca_certificate_is_refused() -> None:
    ca = extension(BC, der.sequence(der.boolean(True)))
    refused(BadCertTemplate, "extensions.basic_constraints CA", {}, request(None, ca))
    for value in (der.sequence(der.boolean(True), der.integer(3)), b"\x30\x03\x01\x01\x01"):
        refused(BadCertTemplate, "extensions.basic_constraints CA", {}, request(None, extension(BC, value)))
    refused(BadCertTemplate, "pathLen", {}, request(None, extension(BC, der.sequence(der.integer(0)))))
    refused(BadDataFormat, "extensions", {}, request(None, extension(BC, b"\x31\x00")))


def test_a_request_for_an_end_entity_says_nothing_new() -> None:
    for value in (b"\x30\x00", der.sequence(der.boolean(False))):
        got = approve({}, request(None, extension(BC, value)))
        assert (values(got)[BC], got.modified) == (b"\x30\x00", ())


def test_another_extension_is_refused_by_its_oid_or_ignored() -> None:
    asked = request(None, extension("2.5.29.32"), extension("1.3.6.1.5.5.7.1.24"))
    refused(UnacceptedExtension, "extensions 2.5.29.32", {}, asked)
    got = approve({"extensions.other": "ignore"}, asked)
    assert set(values(got)) == {BC, KU}
    assert got.modified == (
        "extension 2.5.29.32 (certificate_policies) left out",
        "extension 1.3.6.1.5.5.7.1.24 (tls_feature) left out",
    )


def test_key_identifiers_are_the_issuers_business() -> None:
    got = approve({}, request(None, extension("2.5.29.14"), extension("2.5.29.35")))
    assert (set(values(got)), got.modified) == ({BC, KU}, ())


def test_an_extension_twice_is_refused() -> None:
    refused(BadCertTemplate, f"extensions {KU} twice", {}, request(None, key_usage(0), key_usage(0)))


def test_a_thousand_ignored_extensions_do_not_fill_the_answer() -> None:
    many = [RequestedExtension(extension(f"1.2.3.{number}").oid, False, b"") for number in range(1000)]
    assert len(approve({"extensions.other": "ignore"}, request(None, *many)).modified) == 10


# ── validity ────────────────────────────────────────────────────────────────────────────────────────────────────────

WHOLE = NOW.replace(microsecond=0)
FIRST = WHOLE - timedelta(minutes=5)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
ASK = {"validity": {"default": "30d", "max": "60d", "allow_request_override": True}}
SHORTEN = {"validity": ASK["validity"] | {"on_exceed": "shorten"}}


def test_the_default_validity_is_whole_seconds_and_both_ends_belong_to_it() -> None:
    got = approve({"validity.default": "30d"}, request())
    assert (got.not_before, got.not_after) == (FIRST, FIRST + 30 * DAY - SECOND)


def test_a_short_validity_is_not_eaten_by_backdating() -> None:
    got = approve({"validity.default": "60s"}, request())
    assert (got.not_before, got.not_after) == (WHOLE - 6 * SECOND, WHOLE + 53 * SECOND)


def test_no_backdating_where_the_profile_says_so() -> None:
    assert approve({"validity.backdate": "0s"}, request()).not_before == WHOLE


def test_a_request_that_may_not_ask_is_replaced_and_told_so() -> None:
    got = approve({"validity.default": "30d"}, request(not_before=NOW, not_after=NOW + DAY))
    assert (got.not_before, got.not_after) == (FIRST, FIRST + 30 * DAY - SECOND)
    assert got.modified == ("validity.notBefore replaced", "validity.notAfter replaced")
    same = approve({"validity.default": "30d"}, request(not_before=FIRST, not_after=FIRST + 30 * DAY - SECOND))
    assert same.modified == ()


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ((None, WHOLE + DAY), (FIRST, WHOLE + DAY)),
        ((WHOLE, None), (WHOLE, WHOLE + 30 * DAY - SECOND)),
        ((WHOLE + 40 * DAY, None), (WHOLE + 40 * DAY, FIRST + 60 * DAY - SECOND)),
        ((WHOLE + DAY, WHOLE + 2 * DAY), (WHOLE + DAY, WHOLE + 2 * DAY)),
        ((FIRST, FIRST + 60 * DAY - SECOND), (FIRST, FIRST + 60 * DAY - SECOND)),
        ((NOW, NOW + DAY), (WHOLE, WHOLE + DAY)),
    ],
)
def test_a_requested_validity_within_the_bounds_is_granted(asked: Any, granted: Any) -> None:
    got = approve(ASK, request(not_before=asked[0], not_after=asked[1]))
    assert ((got.not_before, got.not_after), got.modified) == (granted, ())


@pytest.mark.parametrize(
    ("asked", "words", "shortened"),
    [
        ((None, FIRST + 60 * DAY), "notAfter max", (FIRST, FIRST + 60 * DAY - SECOND)),
        ((FIRST - SECOND, None), "notBefore backdate", (FIRST, FIRST - SECOND + 30 * DAY - SECOND)),
        ((WHOLE + 50 * DAY, WHOLE + 70 * DAY), "notAfter max", (WHOLE + 50 * DAY, FIRST + 60 * DAY - SECOND)),
        ((WHOLE - 999 * DAY, WHOLE + 999 * DAY), "notBefore", (FIRST, FIRST + 60 * DAY - SECOND)),
        ((WHOLE + 60 * DAY, WHOLE + 61 * DAY), "notBefore max", None),
        ((WHOLE + DAY, WHOLE), "notAfter notBefore", None),
        ((None, WHOLE - SECOND), "notAfter passed", None),
        ((None, WHOLE - DAY), "notAfter before", None),
    ],
)
def test_a_requested_validity_out_of_bounds_is_refused_or_shortened(asked: Any, words: str, shortened: Any) -> None:
    wanted = request(not_before=asked[0], not_after=asked[1])
    refused(BadCertTemplate, f"validity. {words}", ASK, wanted)
    if shortened is None:
        refused(BadCertTemplate, f"validity. {words}", SHORTEN, wanted)
    else:
        got = approve(SHORTEN, wanted)
        assert (got.not_before, got.not_after) == shortened
        assert got.modified
        assert all(change.startswith("validity.") for change in got.modified)


def test_the_decision_is_a_function_of_request_and_time() -> None:
    rules = profile(EVERYTHING | NAMES)
    asked = request(name(CN, ("O", "x")), san((DNS, "a.example")))
    assert approve(rules, asked) == approve(rules, asked)
