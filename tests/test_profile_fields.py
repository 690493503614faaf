"""Each field of a profile does something: a request is decided otherwise, or there is the attribute to act on."""

import base64
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cmpd.asn1 import der
from cmpd.errors import BadCertTemplate, UnacceptedExtension
from cmpd.profile import Profile, ProfileConfig, ProfileError, parse_duration
from tests.profile_cases import (
    DNS,
    EMAIL,
    IP,
    KEYS,
    NOW,
    URI,
    approve,
    attribute,
    extension,
    key_usage,
    name,
    profile,
    purposes,
    request,
    rule_of,
    san,
    upn,
    values,
)

SAN, KU, EKU = "2.5.29.17", "2.5.29.15", "2.5.29.37"
CN = ("CN", "device-1")
WHOLE = NOW.replace(microsecond=0)


def refused(words: str, changes: Any, asked: Any, kind: type[Exception] = BadCertTemplate) -> None:
    with pytest.raises(kind) as caught:
        approve(changes, asked)
    rule_of(str(caught.value))
    for word in words.split():
        assert word in str(caught.value), caught.value


def wrong(line: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ProfileError) as caught:
        profile(changes)
    assert any(line in fault for fault in caught.value.faults), caught.value.faults


# ── primary options ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_others_act_on_is_an_attribute() -> None:
    got = profile(
        {
            "name": "Gateway",
            "business_unit": "Mail",
            "issuer_ca": "10A101A05684",
            "tags": ["smime", "floor 2"],
            "lint": "enforce",
            "certificate_type.usage": "signing",
            "organization": {"name": "Example GmbH", "identifier": "NTRDE-HRB1", "id": 123},
            "contact": {"mode": "custom", "first_name": "A", "last_name": "B", "email": "a@example.com",
                        "telephone": "+49 30 123", "job_title": "PKI"},
            "enrollment": {"authentication_method": "tls_certificate", "service_user": "gbs",
                           "allowed_operations": ["kur"]},
            "renewal": {"window_days": 30, "grace": "2d"},
            "key.same_key_elsewhere": True,
            "seat.allow_duplicates": False,
            "budget": {"per_day": 100, "per_seat": 3},
        },
    )  # fmt: skip
    assert (got.name, got.display_name, got.business_unit, got.issuer_ca) == (
        "device",
        "Gateway",
        "Mail",
        "10A101A05684",
    )
    assert (got.tags, got.lint, got.usage, got.service_user) == (("smime", "floor 2"), "enforce", "signing", "gbs")
    assert got.organization is not None
    assert (got.organization.name, got.organization.identifier, got.organization.id) == (
        "Example GmbH",
        "NTRDE-HRB1",
        123,
    )
    assert got.contact is not None
    assert (got.contact.mode, got.contact.email, got.contact.job_title) == ("custom", "a@example.com", "PKI")
    assert (got.renewal_window, got.renewal_grace) == (timedelta(days=30), timedelta(days=2))
    assert (got.same_key_elsewhere, got.duplicates, got.budget_per_day, got.budget_per_seat) == (True, False, 100, 3)
    assert approve(got, request()).lint == "enforce"


def test_a_profile_that_says_nothing_restricts_nothing_new() -> None:
    got = profile()
    assert (got.base_template, got.public_trust, got.organization, got.contact, got.service_user) == (None,) * 5
    assert (got.renewal_window, got.renewal_grace, got.duplicates) == (None, timedelta(), True)
    assert (got.budget_per_day, got.budget_per_seat, got.same_key_elsewhere, got.lint) == (None, None, False, "off")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"enrollment.method": "scep"}, "enrollment.method: 'scep' is not one of cmp"),
        ({"enrollment.service_user": "gbs"}, "enrollment.service_user: goes with authentication_method = 'tls_certif"),
        ({"key.escrow": "yes"}, "key.escrow: 'yes' is not supported: private keys are made by the end entity"),
        ({"key.escrow": "cloud"}, "key.escrow: 'cloud' is not supported"),
        ({"certificate_type.validation_type": "sponsor"},
         "certificate_type.validation_type: goes with public_trust only"),
        ({"certificate_type.generation": "strict"}, "certificate_type.generation: goes with public_trust only"),
        ({"contact.mode": "linked"}, "contact.mode: 'linked' is the contact of an organization"),
        ({"contact.mode": "custom"}, "contact.email: is missing"),
        ({"contact": {"email": "a@example.com"}}, "contact.email: goes with mode = 'custom' only"),
        ({"contact": {"mode": "custom", "email": "nobody"}}, "contact.email: 'nobody' is not an e-mail address"),
        ({"tags": ["a", "a"]}, "tags: ['a', 'a'] has the same value twice"),
        ({"tags": ["\u202e"]}, "tags: "),
        ({"renewal.window_days": 0}, "renewal.window_days: 0"),
        ({"budget.per_day": 0}, "budget.per_day: 0"),
        ({"organization.name": "a\0"}, "organization.name: "),
        ({"lint": "yes"}, "lint: 'yes' is not one of off, warn, enforce"),
        ({"seat.id_mapping": "san.fax"}, "seat.id_mapping: 'san.fax' is neither"),
        ({"seat.id_mapping": "san.email"}, "seat.id_mapping: 'san.email' is not accepted in [san]"),
        ({"signature": {"allowed_algorithms": ["ed25519"], "default_algorithm": "ed448"}},
         "signature.default_algorithm: ed448 is not in allowed_algorithms"),
        ({"signature.allowed_algorithms": ["md5WithRSA"]}, "signature.allowed_algorithms: 'md5WithRSA' is not one of"),
        ({"key.rsa": {"max_bits": 3072, "allowed_bits": [4096]}}, "key.rsa.allowed_bits: 4096 is not between"),
        ({"validity": {"default": "30d", "min": "60d"}}, "validity.min: 60d is more than default, 30d"),
        ({"validity.until": "tomorrow"}, "validity.until: "),
        ({"subject.name_split": "(a)"}, "subject.name_split: '(a)' is neither \"last-word-is-surname\" nor"),
        ({"subject.name_split": "last-word-is-surname"},
         "subject.name_split: needs common_name, given_name and surname"),
        ({"subject.common_name_from": ["personal_name"]}, "subject.common_name_from: 'personal_name' needs given_name"),
        ({"subject.order": ["common_name", "common_name"]},
         "subject.order: ['common_name', 'common_name'] has the same"),
        ({"subject.order": ["cn"]}, "subject.order: 'cn' is not one of country_name"),
        ({"subject.organizational_unit_name": {"min": 3, "max": 2}},
         "organizational_unit_name.min: 3 is more than max"),
        ({"organization.name": "A", "subject.organization_name": {"source": "fixed", "value": "B"}},
         "subject.organization_name.value: is not organization.name, which it must be"),
        ({"certificate_type.usage": "signing", "key.allowed_types": ["rsa"],
          "extensions.key_usage.optional_usages": ["key_encipherment"]},
         "key_usage.optional_usages: key_encipherment: contradicts certificate_type.usage = 'signing'"),
        ({"certificate_type.usage": "key_management"},
         "key_usage.required_usages: digital_signature: contradicts certificate_type.usage = 'key_management'"),
        ({"san.guid": {"source": "fixed", "value": "7"}}, "san.guid.value: '7' is not a value of this type"),
        ({"san.other_name": {"1.2.x": {}}}, "san.other_name.1.2.x: '1.2.x' is not an OID"),
        ({"san.other_name": {"1.3.6.1.4.1.311.20.2.3": {}}}, "has a key of its own, san.upn"),
        ({"san.dns": {"source": "default"}}, "san.dns.value: is missing"),
        ({"extensions.requested": {"basic_constraint": "honour"}}, "'basic_constraint' is neither an OID nor one of"),
        ({"extensions.requested": {"2.5.29.30": "honour"}},
         "nameConstraints is for CA certificates (RFC 5280 §4.2.1.10)"),
        ({"extensions.requested": {"1.3.6.1.4.1.11129.2.4.2": "honour"}},
         "signed certificate timestamps are the issuer's"),
        ({"extensions.requested": {"2.5.29.14": "refuse"}}, "cannot be refused"),
        ({"extensions": {"certificate_policies": ["1.2.3"], "requested": {"certificate_policies": "honour"}}},
         "cannot be honoured: the profile sets it itself"),
        ({"extensions.certificate_policies": ["1.2.3", "1.2.3"]}, "has a policy twice"),
        ({"extensions.certificate_policies": [{"oid": "1.2.3", "cps": "ftp://x"}]}, "certificate_policies.cps: 'ftp://x'"),
        ({"extensions.crl_distribution_points": ["ldap://x"]},
         "extensions.crl_distribution_points: 'ldap://x' is not a"),
        ({"extensions.custom": [{"oid": "1.2.3"}]}, "extensions.custom.0: 1.2.3: needs one of der_hex"),
        ({"extensions.custom": [{"oid": "1.2.3", "der_hex": "05"}]}, "1.2.3: the value is not one DER element"),
        ({"extensions.custom": [{"oid": "1.2.3", "der_hex": "xx"}]},
         "extensions.custom.der_hex: 'xx' is not hexadecimal"),
        ({"extensions.custom": [{"oid": "1.2.3", "der_base64": "!"}]},
         "extensions.custom.der_base64: '!' is not base64"),
        ({"extensions.custom": [{"oid": "1.2.3", "type": "integer", "value": "7"}]},
         "'7' is not a value of type integer"),
        ({"extensions.custom": [{"oid": "1.2.3", "type": "oid", "value": "7"}]}, "'7' is not a value of type oid"),
        ({"extensions.custom": [{"oid": "1.2.3", "type": "null", "value": "7"}]},
         "extensions.custom.0.value: goes with"),
        ({"extensions.custom": [{"oid": "key_usage", "type": "null"}]}, "key_usage has keys of its own"),
        ({"extensions.custom": [{"oid": "2.5.29.36", "type": "null"}]}, "policyConstraints is for CA certificates"),
        ({"extensions.custom": [{"oid": "1.2.3", "type": "null"}, {"oid": "1.2.3", "type": "null"}]},
         "sets an extension"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(changes: dict[str, Any], line: str) -> None:
    wrong(line, changes)


# ── validity, key, signature ────────────────────────────────────────────────────────────────────────────────────────


def test_months_are_twelfths_of_years() -> None:
    assert parse_duration("12mo") == parse_duration("1y") == timedelta(days=365)
    assert parse_duration("1mo") == timedelta(days=30, hours=10)
    assert parse_duration("5m") == timedelta(minutes=5)


def test_a_certificate_ends_with_the_last_day_of_the_profile() -> None:
    last = datetime(2026, 4, 1, 23, 59, 59, tzinfo=UTC)
    rule: dict[str, Any] = {"validity": {"default": "365d", "until": date(2026, 4, 1), "allow_request_override": True}}
    assert approve(rule, request()).not_after == last
    assert approve(rule, request(not_after=last)).modified == ()
    refused("validity.notAfter validity.until 2026-04-01", rule, request(not_after=last + timedelta(seconds=1)))
    rule["validity"]["on_exceed"] = "shorten"
    assert approve(rule, request(not_after=NOW + timedelta(days=90))).not_after == last
    rule["validity"]["until"] = date(2026, 2, 28)
    refused("validity 2026-02-28 passed validity.until", rule, request())


def test_a_request_cannot_ask_for_less_than_the_shortest() -> None:
    rule = {"validity": {"default": "30d", "min": "10d", "allow_request_override": True}}
    assert approve(rule, request(not_before=WHOLE, not_after=WHOLE + timedelta(days=10, seconds=-1))).modified == ()
    refused("validity.notAfter 10d validity.min", rule,
            request(not_before=WHOLE, not_after=WHOLE + timedelta(days=10, seconds=-2)))  # fmt: skip


def test_the_renewal_window_can_be_switched_off() -> None:
    assert profile({"renewal": {"window_days": 30, "reject_outside_window": False}}).renewal_window is None


def test_lengths_of_rsa_keys_can_be_listed() -> None:
    rule = {"key.rsa.allowed_bits": [3072, 4096]}
    refused("publicKey 2048 key.rsa.allowed_bits", rule, request(spki=KEYS["rsa"]))
    assert approve({"key.rsa.allowed_bits": [2048]}, request(spki=KEYS["rsa"])).modified == ()


def test_a_greater_exponent_can_be_asked_for() -> None:
    refused("publicKey exponent 65539", {"key.rsa.min_exponent": 65539}, request(spki=KEYS["rsa"]))


def test_the_signature_is_held_against_what_the_issuer_can() -> None:
    got = profile({"signature": {"allowed_algorithms": ["ecdsaWithSHA256", "ecdsaWithSHA384"],
                                 "default_algorithm": "ecdsaWithSHA384"}})  # fmt: skip
    assert (got.signature_algorithms, got.signature_algorithm) == (("ecdsaWithSHA256", "ecdsaWithSHA384"),
                                                                   "ecdsaWithSHA384")  # fmt: skip
    assert got.signature_faults(["ecdsaWithSHA384"]) == []
    assert got.signature_faults(["ecdsaWithSHA256"]) == [
        "signature.default_algorithm: the issuer 'local' cannot sign with ecdsaWithSHA384"
    ]
    assert len(got.signature_faults(["sha256WithRSA"])) == 2
    assert profile().signature_faults(["sha256WithRSA"]) == []


# ── subject ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_default_is_for_requests_that_have_none() -> None:
    rule = {"subject.country_name": {"source": "default", "value": "DE"}}
    got = approve(rule, request())
    assert (got.subject, got.modified) == (name(("C", "DE"), CN), ("subject.country_name added",))
    asked = name(CN, ("C", "FR"))
    assert (approve(rule, request(asked)).subject, approve(rule, request(asked)).modified) == (asked, ())


def test_attributes_come_in_the_order_of_the_profile() -> None:
    rule = {"subject": {"common_name": {}, "country_name": {}, "organization_name": {}, "order": ["common_name"]}}
    got = approve(rule, request(name(("O", "x"), ("C", "DE"), CN)))
    assert (got.subject, got.modified) == (name(CN, ("C", "DE"), ("O", "x")), ("subject put in order",))
    assert approve(rule, request(name(CN, ("O", "x")))).modified == ()


@pytest.mark.parametrize(
    ("way", "common", "given", "surname"),
    [
        ("last-word-is-surname", "Ada King Byron", "Ada King", "Byron"),
        ("(?P<gn>[^ ]+) (?P<sn>.+)", "Ada von Byron", "Ada", "von Byron"),
        ("(?P<SN>[^,]+), (?P<GN>.+)", "Byron, Ada", "Ada", "Byron"),
        ("last-word-is-surname", "山田 太郎", "山田", "太郎"),
        ("last-word-is-surname", "Support", None, None),
        ("last-word-is-surname", "ada@example.com", None, None),
        ("last-word-is-surname", "ada byron@example.com", None, None),
    ],
)
def test_a_display_name_is_split(way: str, common: str, given: str | None, surname: str | None) -> None:
    rule = {"subject": {"common_name": {}, "given_name": {}, "surname": {}, "pseudonym": {}, "name_split": way}}
    got = approve(rule, request(name(("CN", common))))
    if given is None or surname is None:
        assert got.subject == name(("CN", common))
    else:
        assert got.subject == name(("SN", surname), ("GN", given), ("CN", common))
        assert got.modified == ("subject.given_name added", "subject.surname added")
    for others in ((("GN", "x"),), (("SN", "x"),), (("pseudonym", "x"),)):
        assert approve(rule, request(name(*others, ("CN", common)))).modified == ()


def test_a_split_name_keeps_the_rules_of_its_parts() -> None:
    rule = {"subject": {"common_name": {}, "given_name": {"pattern": "[A-Z].*"}, "surname": {},
                        "name_split": "last-word-is-surname"}}  # fmt: skip
    refused("subject.given_name pattern", rule, request(name(("CN", "ada Byron"))))


@pytest.mark.parametrize(
    ("source", "subject", "names", "good"),
    [
        ("san.dns", name(("CN", "A.example")), san((DNS, "a.example")), True),
        ("san.dns", name(("CN", "b.example")), san((DNS, "a.example")), False),
        ("san.ip", name(("CN", "10.0.0.1")), san((IP, b"\x0a\0\0\1")), True),
        ("san.email", name(("CN", "a@example.com")), san((EMAIL, "a@example.com")), True),
        ("san.email", name(("CN", "a@example.com")), san((DNS, "a.example")), False),
        ("personal_name", name(("GN", "Ada"), ("SN", "Byron"), ("CN", "Ada Byron")), None, True),
        ("personal_name", name(("GN", "Ada"), ("SN", "Byron"), ("CN", "Byron Ada")), None, True),
        ("personal_name", name(("GN", "Ada"), ("CN", "Ada")), None, True),
        ("personal_name", name(("GN", "Ada"), ("SN", "Byron"), ("CN", "Ada")), None, False),
        ("personal_name", name(("CN", "")), None, False),
        ("pseudonym", name(("pseudonym", "x"), ("CN", "x")), None, True),
        ("organization_name", name(("O", "x"), ("CN", "x")), None, True),
        ("organization_name", name(("O", "x"), ("CN", "X")), None, False),
    ],
)
def test_a_common_name_repeats_another_name(source: str, subject: bytes, names: Any, good: bool) -> None:
    rule = {"san": {"dns": {}, "ip": {}, "email": {}},
            "subject": {"common_name_from": [source]}
            | {one: {} for one in ("common_name", "given_name", "surname", "pseudonym",
             "organization_name")}}  # fmt: skip
    asked = request(subject, *([] if names is None else [names]))
    if good:
        assert approve(rule, asked).modified == ()
    else:
        refused("subject.common_name", rule, asked)


def test_an_attribute_has_a_fewest_number() -> None:
    rule = {"subject.organizational_unit_name": {"min": 2, "max": 3}}
    assert approve(rule, request(name(("OU", "a"), ("OU", "b"), CN))).modified == ()
    assert approve(rule, request()).modified == ()
    refused("subject.organizational_unit_name 2", rule, request(name(("OU", "a"), CN)))


@pytest.mark.parametrize("include", [None, "optional", "required"])
def test_the_organization_is_in_the_subject_whatever_is_asked(include: str | None) -> None:
    rule = {"organization": {"name": "Example GmbH", "identifier": "X-1"},
            "subject.organization_name": {} if include is None else {"include": include},
            "subject.organization_identifier": {}}  # fmt: skip
    wanted = name(("O", "Example GmbH"), ("organizationIdentifier", "X-1"), CN)
    assert approve(rule, request()).subject == wanted
    assert approve(rule, request(name(("O", "Evil"), ("organizationIdentifier", "Y"), CN))).subject == wanted


def test_an_organization_can_be_kept_out_of_the_subject() -> None:
    rule = {"organization": {"name": "Example GmbH", "identifier": "X-1"}}
    assert approve(rule, request()).subject == name(("O", "Example GmbH"), CN)
    rule["subject.organization_name"] = {"include": "no"}
    assert approve(rule, request()).subject == name(CN)
    refused("subject.organization_name", rule, request(name(("O", "Example GmbH"), CN)))


# ── subjectAltName ──────────────────────────────────────────────────────────────────────────────────────────────────


def other(oid: str, value: bytes) -> tuple[int, bytes]:
    return 0xA0, der.oid(oid) + der.explicit(0, value)


GUID = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
GUID_DER = der.octet_string(bytes.fromhex("ff19966f868b11d0b42d00c04fc964ff"))
UTF8_MAIL = "1.3.6.1.5.5.7.8.9"
SRV = "1.3.6.1.5.5.7.8.7"


@pytest.mark.parametrize(
    ("rule", "entry"),
    [
        ({"san.guid": {"pattern": "6f96.*"}}, other("1.3.6.1.4.1.311.25.1", GUID_DER)),
        ({"san.smtp_utf8_mailbox": {"allowed_domains": ["example.com"]}}, other(UTF8_MAIL,
         der.utf8_string("jürgen@example.com"))),
        ({"san.smtp_utf8_mailbox": {}}, other(UTF8_MAIL, der.utf8_string("用户@xn--fiqs8s.example"))),
        ({"san.other_name": {SRV: {"type": "ia5_string", "pattern": "_[a-z]+\\..*"}}}, other(SRV,
         der.ia5_string("_ldap.a"))),
        ({"san.other_name": {"1.2.3": {}}}, other("1.2.3", der.utf8_string("ü"))),
        ({"san.other_name": {"1.2.3": {"type": "printable_string"}}}, other("1.2.3", der.printable_string("a b"))),
        ({"san.other_name": {"1.2.3": {"type": "octet_string", "pattern": "(00|ff)+"}}}, other("1.2.3",
         der.octet_string(b"\0\xff"))),
        ({"san.other_name": {"1.2.3": {"type": "oid"}}}, other("1.2.3", der.oid("1.2.4"))),
        ({"san.other_name": {"1.2.3": {"type": "any", "pattern": "0500"}}}, other("1.2.3", der.null())),
    ],
)  # fmt: skip
def test_other_names_that_are_accepted(rule: dict[str, Any], entry: tuple[int, bytes]) -> None:
    asked = request(None, san(entry))
    assert values(approve(rule, asked))[SAN] == asked.extensions[0].value
    refused("san. not accepted", {}, asked)


@pytest.mark.parametrize(
    ("rule", "entry", "words"),
    [
        ({"san.guid": {}}, other("1.3.6.1.4.1.311.25.1", der.octet_string(b"short")), "san.guid type"),
        ({"san.smtp_utf8_mailbox": {}}, other(UTF8_MAIL, der.utf8_string("ada@example.com")), "RFC 9598"),
        ({"san.smtp_utf8_mailbox": {}}, other(UTF8_MAIL, der.utf8_string("ü@bücher.example")), "internationalised"),
        ({"san.smtp_utf8_mailbox": {}}, other(UTF8_MAIL, der.utf8_string("u\u0308@example.com")), "internationalised"),
        ({"san.smtp_utf8_mailbox": {}}, other(UTF8_MAIL, der.utf8_string("ü\u202e@example.com")), "smtp_utf8_mailbox"),
        (
            {"san.smtp_utf8_mailbox": {}},
            other(UTF8_MAIL, der.utf8_string("ü" * 40 + "@example.com")),
            "internationalised",
        ),
        ({"san.smtp_utf8_mailbox": {}}, other(UTF8_MAIL, der.utf8_string("pаypal@example.com")), "mixes scripts"),
        ({"san.upn": {}}, upn("pаypal@example.com"), "mixes scripts"),
        (
            {"san.other_name": {SRV: {"type": "ia5_string"}}},
            other(SRV, der.utf8_string("a")),
            f"san.other_name.{SRV} type",
        ),
        ({"san.other_name": {"1.2.3": {}}}, other("1.2.3", der.utf8_string("a\0b")), "U+0000"),
        ({"san.other_name": {"1.2.3": {"type": "printable_string"}}}, other("1.2.3", der.tlv(0x13, b"a@b")), "type"),
        ({"san.other_name": {"1.2.3": {"type": "octet_string"}}}, other("1.2.3", der.null()), "type"),
        ({"san.other_name": {"1.2.3": {"type": "oid"}}}, other("1.2.3", b"\x06\x01\x80"), "type"),
        ({"san.other_name": {"1.2.3": {"include": "no"}}}, other("1.2.3", der.utf8_string("a")), "not accepted"),
        ({"san.other_name": {"1.2.3": {"max": 1}}}, other("1.2.34", der.utf8_string("a")), "1.2.34 not accepted"),
    ],
)
def test_other_names_that_are_refused(rule: dict[str, Any], entry: tuple[int, bytes], words: str) -> None:
    refused(words, rule, request(None, san(entry)))


def test_other_names_can_be_fixed_or_have_a_default() -> None:
    rule = {"san": {"guid": {"source": "fixed", "value": GUID},
                    "other_name": {"1.2.3": {"source": "default", "value": "x"},
                                   "1.2.4": {"source": "fixed", "type": "any", "value": "0500"}}}}  # fmt: skip
    got = approve(rule, request())
    wanted = san(
        other("1.2.3", der.utf8_string("x")), other("1.3.6.1.4.1.311.25.1", GUID_DER), other("1.2.4", der.null())
    )
    assert values(got)[SAN] == wanted.value
    asked = san(other("1.2.3", der.utf8_string("y")))
    got = approve(rule, request(None, asked))
    assert der.children(values(got)[SAN])[0] == der.children(asked.value)[0]
    assert got.modified == ("san.guid added", "san.other_name.1.2.4 added")


def test_a_name_has_a_default() -> None:
    rule = {"san": {"uri": {"source": "default", "value": "urn:example:none"}, "dns": {}}}
    assert values(approve(rule, request()))[SAN] == san((URI, "urn:example:none")).value
    got = approve(rule, request(None, san((DNS, "a.example"))))
    assert (values(got)[SAN], got.modified) == (
        san((DNS, "a.example"), (URI, "urn:example:none")).value,
        ("san.uri added",),
    )


# ── extensions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_single_extensions_are_honoured_ignored_or_refused() -> None:
    template = "1.3.6.1.4.1.311.21.7"
    honour = {"extensions.requested": {"ms_certificate_template": "honour", "1.2.3": "ignore"}}
    asked = request(None, extension(template, b"\x30\x00"), extension("1.2.3"))
    got = approve(honour, asked)
    assert (values(got)[template], got.modified) == (b"\x30\x00", ("extension 1.2.3 left out",))
    refused("extensions 1.2.3 extensions.requested",
            {"extensions.other": "ignore", "extensions.requested": {"1.2.3": "refuse"}}, asked,
             UnacceptedExtension)  # fmt: skip
    refused(
        "extensions 1.2.3 extensions.other", {"extensions.requested": {template: "honour"}}, asked, UnacceptedExtension
    )


def test_a_usage_that_is_ignored_is_decided_by_the_profile_alone() -> None:
    rules: dict[str, Any] = {"extensions": {"requested": {"key_usage": "ignore", "extended_key_usage": "honour"},
                            "extended_key_usage": {"optional_usages": ["client_auth"]}}}  # fmt: skip
    got = approve(rules, request(None, key_usage(0, 5), purposes("1.3.6.1.5.5.7.3.2")))
    assert values(got)[KU] == key_usage(0).value
    assert values(got)[EKU] == purposes("1.3.6.1.5.5.7.3.2").value
    rules["extensions"]["requested"]["key_usage"] = "refuse"
    refused("extensions key_usage", rules, request(None, key_usage(0)), UnacceptedExtension)


def test_policies_and_places_are_in_every_certificate() -> None:
    rules: dict[str, Any] = {
        "extensions": {
            "certificate_policies": ["1.2.3.1", {"oid": "1.2.3.2", "cps": "https://example.com/cps"}],
            "crl_distribution_points": ["http://a.example/1.crl", "http://b.example/1.crl"],
            "authority_information_access": {
                "ocsp": ["http://ocsp.example"],
                "ca_issuers": ["http://a.example/ca.cer"],
            },
        }
    }
    got = {one.oid: one.value for one in approve(rules, request()).extensions}
    uri = x509.UniformResourceIdentifier
    wanted = [  # what an independent encoder makes of the same
        x509.CertificatePolicies(
            [x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.1"), None),
             x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.2"), ["https://example.com/cps"])]
        ),
        x509.CRLDistributionPoints(
            [x509.DistributionPoint([uri(f"http://{one}.example/1.crl")], None, None, None) for one in "ab"]
        ),
        x509.AuthorityInformationAccess(
            [x509.AccessDescription(x509.oid.AuthorityInformationAccessOID.OCSP, uri("http://ocsp.example")),
             x509.AccessDescription(x509.oid.AuthorityInformationAccessOID.CA_ISSUERS, uri("http://a.example/ca.cer"))]
        ),
    ]  # fmt: skip
    for one in wanted:
        assert got[one.oid] == one.public_bytes()


def test_a_request_for_what_the_profile_sets_is_answered_with_that() -> None:
    rules = {"extensions.certificate_policies": ["1.2.3.1"]}
    own = der.sequence(der.sequence(der.oid("1.2.3.1")))
    assert approve(rules, request(None, extension("2.5.29.32", own))).modified == ()
    got = approve(rules, request(None, extension("2.5.29.32", b"\x30\x00")))
    assert values(got)["2.5.29.32"] == own
    assert got.modified == ("extension 2.5.29.32 (certificate_policies) replaced",)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"der_hex": "3003020105"}, b"\x30\x03\x02\x01\x05"),
        ({"der_base64": base64.b64encode(b"\x05\x00").decode()}, b"\x05\x00"),
        ({"type": "utf8_string", "value": "ü"}, b"\x0c\x02\xc3\xbc"),
        ({"type": "ia5_string", "value": "a@b"}, b"\x16\x03a@b"),
        ({"type": "printable_string", "value": "ab"}, b"\x13\x02ab"),
        ({"type": "octet_string", "value": "00ff"}, b"\x04\x02\x00\xff"),
        ({"type": "integer", "value": -1}, b"\x02\x01\xff"),
        ({"type": "boolean", "value": True}, b"\x01\x01\xff"),
        ({"type": "null"}, b"\x05\x00"),
        ({"type": "oid", "value": "1.2.3"}, b"\x06\x02\x2a\x03"),
    ],
)
def test_extensions_of_the_operators_own(value: dict[str, Any], wanted: bytes) -> None:
    got = approve({"extensions.custom": [{"oid": "1.2.3.4", "critical": True, **value}]}, request())
    assert [(one.critical, one.value) for one in got.extensions if one.oid.dotted_string == "1.2.3.4"] == [
        (True, wanted)
    ]


# ── seat ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mapping", "seat"),
    [
        (None, "Device-1"),
        ("subject.common_name", "Device-1"),
        ("subject.serial_number", "S-7"),
        ("subject.email_address", "ada@example.com"),
        ("san.email", "first@example.com"),
        ("san.dns", "host.example"),
        ("san.upn", "jürgen@example.com"),
        ("san.uri", "urn:x:Y"),
    ],
)
def test_the_seat_is_where_the_mapping_says(mapping: str | None, seat: str) -> None:
    rule: dict[str, Any] = {"subject": {"common_name": {}, "serial_number": {}, "email_address": {}},
                            "san": {"email": {}, "dns": {}, "upn": {}, "uri": {}}}  # fmt: skip
    if mapping is not None:
        rule["seat.id_mapping"] = mapping
    asked = request(
        name(("CN", "Device-1"), ("serialNumber", "S-7"), ("email", "Ada@Example.com")),
        san((EMAIL, "First@Example.com"), (EMAIL, "second@example.com"), (DNS, "HOST.example"),
         upn("Jürgen@example.com"),
            (URI, "urn:x:Y")),
    )  # fmt: skip
    assert approve(rule, asked).seat == seat


def test_without_a_mapping_a_certificate_may_have_no_seat() -> None:
    assert approve({"san.dns": {}}, request(b"\x30\x00", san((DNS, "a.example")))).seat is None


@pytest.mark.parametrize("rule", [{"seat.allow_duplicates": False}, {"budget.per_seat": 2},
                                  {"seat.id_mapping": "subject.common_name"}])  # fmt: skip
def test_a_seat_that_is_counted_must_be_there(rule: dict[str, Any]) -> None:
    refused(
        "subject.common_name seat.id_mapping", rule | {"san.dns": {}}, request(b"\x30\x00", san((DNS, "a.example")))
    )


def test_a_seat_is_not_longer_than_256_characters() -> None:
    rule = {"san.uri": {}, "seat.id_mapping": "san.uri"}
    longest = "urn:x:" + "y" * 250
    assert approve(rule, request(None, san((URI, longest)))).seat == longest
    refused("san.uri longer 256 seat.id_mapping", rule, request(None, san((URI, f"{longest}y"))))


def test_the_seat_is_found_in_what_was_decided_and_not_in_what_was_asked() -> None:
    rule = {"subject.serial_number": {"source": "fixed", "value": "S-1"}, "seat.id_mapping": "subject.serial_number"}
    assert approve(rule, request(name(CN, ("serialNumber", "S-2")))).seat == "S-1"


# ── schema ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_key_has_a_description_in_the_schema() -> None:
    schema = ProfileConfig.model_json_schema()
    tables = [schema, *schema["$defs"].values()]
    assert [f"{table['title']}.{key}" for table in tables for key, one in table["properties"].items()
            if not one.get("description")] == []  # fmt: skip
    assert all(table["additionalProperties"] is False for table in tables)


def test_defaults_in_the_schema_are_spelled_as_in_the_file() -> None:
    schema = ProfileConfig.model_json_schema()
    for table in schema["$defs"].values():
        for key, one in table["properties"].items():
            if one.get("pattern", "").endswith("|y)$") and "default" in one:
                assert parse_duration(one["default"]) is not None, key
    assert schema["$defs"]["ValidityConfig"]["properties"]["default"]["default"] == "365d"
    assert "subject" not in schema["required"]


def test_a_profile_can_be_made_of_a_checked_configuration() -> None:
    config = ProfileConfig.model_validate({"id": "x" * 22, "issuer": "local", "subject": {"common_name": {}}})
    got = Profile.from_config("a", config, Path("profiles"))
    assert attribute(*CN) in approve(got, request()).subject
