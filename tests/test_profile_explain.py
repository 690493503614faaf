"""`explain` holds every rule against a request, with the same code as `approve`."""

from datetime import timedelta

from cmpd.exchange import CertificateRequest, Finding
from cmpd.profile import Profile
from tests.profile_cases import (
    DNS,
    EMAIL,
    KEYS,
    NOW,
    extension,
    key_usage,
    name,
    profile,
    purposes,
    request,
    rule_of,
    san,
)
from tests.templates.cases import ORGANIZATION, made

RULES = profile(
    {
        "subject": {"common_name": {"pattern": "device-[0-9]+"}, "serial_number": {"include": "required"}},
        "san.dns": {"include": "required", "allowed_domains": [".example.com"]},
        "validity": {"default": "30d", "allow_request_override": True},
        "seat.id_mapping": "san.dns",
    }
)


def explain(rules: Profile, asked: CertificateRequest) -> list[Finding]:
    return rules.explain(asked, transaction_id=b"t" * 16, now=NOW)


def test_a_good_request_passes_every_rule_in_order() -> None:
    found = explain(RULES, request(name(("CN", "device-1"), ("serialNumber", "7")), san((DNS, "a.example.com"))))
    assert all(one.ok for one in found)
    rules = [one.rule for one in found]
    assert rules == [
        "key.allowed_types", "key.ecdsa.allowed_curves", "subject.common_name", "subject.serial_number",
        "subject.serial_number.include", "san.dns", "san.dns.include", "validity", "seat.id_mapping",
    ]  # fmt: skip


def test_every_broken_rule_is_found_and_not_only_the_first() -> None:
    asked = request(
        name(("CN", "gateway"), ("OU", "x")),
        san((DNS, "a.example.org"), (EMAIL, "a@example.com")),
        key_usage(0, 5),
        purposes("1.2.3"),
        extension("1.2.3.4"),
        spki=KEYS["rsa-1024"],
        not_after=NOW + timedelta(days=99),
    )
    found = explain(RULES, asked)
    assert [(one.rule, one.field) for one in found if not one.ok] == [
        ("key.rsa.min_bits", "publicKey"),
        ("extensions.other", "extensions"),
        ("subject.common_name.pattern", "subject.common_name"),
        ("subject.on_unlisted", "subject.organizational_unit_name"),
        ("subject.serial_number.include", "subject.serial_number"),
        ("san.dns.allowed_domains", "san.dns"),
        ("san.on_unlisted", "san.email"),
        ("extensions.key_usage.on_unlisted", "extensions.key_usage"),
        ("extensions.extended_key_usage.on_unlisted", "extensions.extended_key_usage"),
        ("validity.max", "validity.notAfter"),
    ]
    assert all(one.text.startswith(f"{one.field}: ") for one in found)
    assert all(rule_of(one.text) == one.rule for one in found if not one.ok)


def test_what_cannot_be_read_is_a_finding_too() -> None:
    asked = request(
        b"\x30\x03\x31\x00", extension("2.5.29.17", b"\x05\x00"), extension("2.5.29.15", b"\x01"), spki=b"\x30"
    )
    found = explain(RULES, asked)
    assert [(one.rule, one.field) for one in found if not one.ok][:3] == [
        ("RFC 5280 §4.1.2.7", "publicKey"), ("RFC 5280 §4.1.2.6", "subject"), ("RFC 5280 §4.2.1.6", "san")
    ]  # fmt: skip


def test_the_rules_of_public_trust_are_the_last() -> None:
    rules = made("public-smime", {"certificate_type.validation_type": "sponsor", "organization": ORGANIZATION,
                                  "subject.country_name": {"source": "fixed", "value": "DE"}})  # fmt: skip
    good = request(name(("GN", "Ada"), ("SN", "Byron")), san((EMAIL, "ada@example.com")), spki=KEYS["rsa"])
    found = explain(rules, good)
    assert all(one.ok for one in found)
    first = next(number for number, one in enumerate(found) if "S/MIME BR" in one.rule)
    assert first > 5
    assert all("BR" in one.rule or "DigiCert" in one.rule for one in found[first:])
    bad = request(name(("GN", "Ada"), ("pseudonym", "x")), san((EMAIL, "a@b.local")), spki=KEYS["rsa"])
    wrong = {one.rule.partition(",")[0] for one in explain(rules, bad) if not one.ok}
    assert {"SM-IND", "SM-SAN-DOMAIN"} <= wrong


def test_a_flood_of_findings_is_cut() -> None:
    rules = profile({"san.dns": {"max": 1000}})
    asked = request(
        None, san(*((DNS, f"{n}.example") for n in range(1000))), *[extension(f"1.2.{n}") for n in range(1000)]
    )
    assert len(explain(rules, asked)) == 1000


def test_an_empty_request_is_explained() -> None:
    found = explain(RULES, CertificateRequest(0, b"", b""))
    assert [one.ok for one in found][:1] == [False]
