"""A profile that cannot keep the rules of public trust is refused when it is loaded; one that soon cannot, noticed."""

import copy
from datetime import date, timedelta
from typing import Any

import pytest

from cmpd.profile import rules
from cmpd.profile.config import ProfileConfig

TODAY = date(2026, 11, 23)
COMMON: dict[str, Any] = {"id": "a-profile-of-public-trust", "issuer": "local"}
SMIME: dict[str, Any] = COMMON | {
    "public_trust": "smime",
    "certificate_type": {"validation_type": "sponsor", "generation": "strict", "usage": "signing"},
    "organization": {"name": "Muster GmbH", "identifier": "NTRDE-DER3306.HRB123456"},
    "validity": {"default": "365d", "max": "824d"},
    "key": {"allowed_types": ["rsa", "ecdsa", "ed25519", "ed448"]},
    "subject": {
        "country_name": {"source": "fixed", "value": "DE"},
        "organization_name": {"include": "required"},
        "organization_identifier": {"include": "required"},
        "surname": {"include": "required"},
        "given_name": {"include": "optional"},
        "common_name": {"include": "optional"},
    },
    "san": {"email": {"include": "required"}},
    "extensions": {
        "key_usage": {"required_usages": ["digital_signature"], "optional_usages": ["non_repudiation"]},
        "extended_key_usage": {"required_usages": ["email_protection"]},
        "certificate_policies": [{"oid": "2.23.140.1.5.3.3"}],
    },
}
TLS: dict[str, Any] = COMMON | {
    "public_trust": "tls",
    "certificate_type": {"validation_type": "organization"},
    "validity": {"default": "199d"},
    "key": {"allowed_types": ["rsa", "ecdsa"]},
    "subject": {
        "order": ["country_name", "locality_name", "organization_name", "common_name"],
        "country_name": {"source": "fixed", "value": "DE"},
        "locality_name": {"include": "required"},
        "organization_name": {"include": "required"},
        "common_name": {"include": "optional"},
    },
    "san": {"dns": {"include": "required"}, "ip": {"include": "optional"}},
    "extensions": {
        "key_usage": {"required_usages": ["digital_signature"]},
        "extended_key_usage": {"required_usages": ["server_auth"], "optional_usages": ["client_auth"]},
        "certificate_policies": [{"oid": "2.23.140.1.2.2"}],
    },
}
MAY = {"include": "optional"}


def config(table: dict[str, Any], changes: dict[str, Any]) -> ProfileConfig:
    """A profile with other values, the keys in dotted form; None leaves a key out."""
    changed = copy.deepcopy(table)
    for key, value in changes.items():
        *path, last = key.split(".")
        place = changed
        for part in path:
            place = place.setdefault(part, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return ProfileConfig.model_validate(changed)


def test_profiles_that_keep_the_rules() -> None:
    assert rules.check_profile(config(SMIME, {}), TODAY) == []
    assert rules.check_profile(config(TLS, {}), TODAY) == []
    assert rules.check_profile(config(TLS, {"public_trust": None, "validity.default": "10y"}), TODAY) == []


MULTI = {"certificate_type.generation": "multipurpose", "extensions.certificate_policies": None}
GOOD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (SMIME, MULTI | {"extensions.extended_key_usage.optional_usages": ["client_auth"], "san.upn": MAY}),
    (SMIME, MULTI | {"subject.street_address": MAY, "subject.postal_code": MAY, "subject.locality_name": MAY}),
    (SMIME, {"key.allowed_types": ["rsa"], "key.rsa.allowed_bits": [2048, 3072, 4096]}),
    (SMIME, {"san.directory_name": MAY, "san.smtp_utf8_mailbox": MAY}),
    (SMIME, {"subject.surname": None, "subject.given_name": None, "subject.pseudonym": {"include": "required"}}),
    (SMIME, {"organization": None}),
    (
        SMIME,
        {
            "certificate_type.usage": "dual_use",
            "key.allowed_types": ["rsa", "ecdsa"],
            "extensions.key_usage.required_usages": {
                "rsa": ["digital_signature", "key_encipherment"],
                "ecdsa": ["digital_signature", "key_agreement"],
            },
        },
    ),
    (TLS, {"subject.order": None, "san.ip": None, "extensions.certificate_policies": None}),
    (
        TLS,
        {
            "certificate_type.validation_type": "domain",
            "subject": {"common_name": MAY},
            "extensions.certificate_policies": None,
        },
    ),
    (TLS, {"extensions.key_usage.optional_usages": {"rsa": ["key_encipherment"]}}),
]


@pytest.mark.parametrize(("table", "changes"), GOOD, ids=range(len(GOOD)))
def test_what_is_possible(table: dict[str, Any], changes: dict[str, Any]) -> None:
    assert rules.check_profile(config(table, changes), TODAY) == []


BAD: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    (SMIME, {"certificate_type.validation_type": None}, "certificate_type.validation_type", "individual"),
    (SMIME, {"certificate_type.validation_type": "domain"}, "certificate_type.validation_type", "individual"),
    (TLS, {"certificate_type.validation_type": "sponsor"}, "certificate_type.validation_type", "domain"),
    (SMIME, {"certificate_type.generation": None}, "certificate_type.generation", "strict"),
    (SMIME, {"certificate_type.usage": None}, "certificate_type.usage", "signing"),
    (SMIME, {"key.allowed_types": ["ecdsa", "ml-dsa-65"]}, "key.allowed_types", "S/MIME BR §6.1.5"),
    (TLS, {"key.allowed_types": ["ecdsa", "ed25519"]}, "key.allowed_types", "TLS BR §6.1.5"),
    (SMIME, {"key.rsa.allowed_bits": [2048, 2050]}, "key.rsa.allowed_bits", "S/MIME BR §6.1.5"),
    (SMIME, {"validity.default": "825d"}, "validity.default", "DigiCert"),
    (SMIME, {"validity.default": "826d", "validity.max": "826d"}, "validity.default", "S/MIME BR §6.3.2"),
    (TLS, {"validity.default": "200d"}, "validity.default", "DigiCert"),
    (TLS, {"validity.default": "201d"}, "validity.default", "TLS BR §6.3.2"),
    (SMIME, {"subject.country_name.value": "UK"}, "subject.country_name.value", "S/MIME BR §7.1.4.2.2(n)"),
    (SMIME, {"organization.name": "n/a"}, "subject.organization_name.value", "S/MIME BR §7.1.4.2"),
    (SMIME, {"organization.identifier": "123"}, "organization.identifier", "S/MIME BR §7.1.4.2.2(d)"),
    (SMIME, {"organization.identifier": "NTRGB-123"}, "organization.identifier", "S/MIME BR §7.1.4.2.2(d)"),
    (SMIME, {"extensions.key_usage.critical": False}, "extensions.key_usage.critical", "S/MIME BR §7.1.2.3"),
    (
        TLS,
        {"extensions.extended_key_usage.critical": True},
        "extensions.extended_key_usage.critical",
        "TLS BR §7.1.2.7.6",
    ),
    (SMIME, {"san.critical": True}, "san.critical", "S/MIME BR §7.1.2.3"),
    (
        SMIME,
        {"extensions.certificate_policies": [{"oid": "2.23.140.1.5.3.2"}]},
        "extensions.certificate_policies",
        "S/MIME BR §7.1.6.1",
    ),
    (
        TLS,
        {"extensions.certificate_policies": [{"oid": "2.23.140.1.2.1"}]},
        "extensions.certificate_policies",
        "TLS BR §7.1.2.7.9",
    ),
    (
        SMIME,
        {"extensions.extended_key_usage.required_usages": ["client_auth"]},
        "extensions.extended_key_usage.required_usages",
        "S/MIME BR §7.1.2.3(f)",
    ),
    (
        SMIME,
        {"extensions.extended_key_usage.optional_usages": ["client_auth"]},
        "extensions.extended_key_usage.optional_usages",
        "S/MIME BR §7.1.2.3(f)",
    ),
    (
        TLS,
        {"extensions.extended_key_usage.required_usages": []},
        "extensions.extended_key_usage.required_usages",
        "TLS BR §7.1.2.7.10",
    ),
    (
        TLS,
        {"extensions.extended_key_usage.optional_usages": ["email_protection"]},
        "extensions.extended_key_usage.optional_usages",
        "TLS BR §7.1.2.7.10",
    ),
    (
        SMIME,
        {"extensions.key_usage.required_usages": []},
        "extensions.key_usage.required_usages",
        "S/MIME BR §7.1.2.3(e)",
    ),
    (
        SMIME,
        {
            "extensions.key_usage.required_usages": {
                "rsa": ["digital_signature", "data_encipherment"],
                "all": ["digital_signature"],
            }
        },
        "extensions.key_usage.required_usages",
        "S/MIME BR §7.1.2.3(e)",
    ),
    (
        SMIME,
        {"extensions.key_usage.optional_usages": ["key_encipherment"]},
        "extensions.key_usage.optional_usages",
        "S/MIME BR §7.1.2.3(e)",
    ),
    (SMIME, {"certificate_type.usage": "key_management"}, "key.allowed_types", "S/MIME BR §7.1.2.3(e)"),
    (
        SMIME,
        {"extensions.custom": [{"oid": "2.5.29.9", "der_hex": "3000"}]},
        "extensions.custom",
        "S/MIME BR §7.1.2.3(j)",
    ),
    (
        SMIME,
        {"extensions.requested": {"subject_directory_attributes": "honour"}},
        "extensions.requested.",
        "S/MIME BR §7.1.2.3(j)",
    ),
    (SMIME, {"san": {"dns": MAY}}, "san.email", "S/MIME BR §7.1.4.2.1"),
    (SMIME, {"san.dns": MAY}, "san.dns", "S/MIME BR §7.1.4.2.1"),
    (SMIME, {"san.upn": MAY}, "san.upn", "S/MIME BR §7.1.4.2.1"),
    (
        SMIME,
        {"san.other_name": {"1.3.6.1.5.5.7.8.7": MAY}},
        'san.other_name."1.3.6.1.5.5.7.8.7"',
        "S/MIME BR §7.1.4.2.1",
    ),
    (SMIME, {"subject.organization_identifier": None}, "subject.organization_identifier", "S/MIME BR §7.1.4.2.5"),
    (SMIME, {"subject.street_address": MAY}, "subject.street_address", "S/MIME BR §7.1.4.2.5"),
    (SMIME, {"subject.user_id": MAY}, "subject.user_id", "S/MIME BR §7.1.4.2.5"),
    (SMIME, {"certificate_type.validation_type": "mailbox"}, "subject.organization_name", "S/MIME BR §7.1.4.2.3"),
    (SMIME, {"certificate_type.validation_type": "individual"}, "subject.organization_name", "S/MIME BR §7.1.4.2.6"),
    (SMIME, {"certificate_type.validation_type": "organization"}, "subject.surname", "S/MIME BR §7.1.4.2.4"),
    (SMIME, {"subject.surname": None, "subject.given_name": None}, "subject.surname", "S/MIME BR §7.1.4.2.5"),
    (SMIME, {"subject.pseudonym": {"include": "required"}}, "subject.surname.include", "S/MIME BR §7.1.4.2.5"),
    (
        SMIME,
        {"subject.country_name": None, "subject.locality_name": {"include": "required"}},
        "subject.locality_name",
        "S/MIME BR §7.1.4.2.2(j-m)",
    ),
    (TLS, {"san": {"uri": MAY}}, "san.dns", "TLS BR §7.1.2.7.12"),
    (TLS, {"san.email": MAY}, "san.email", "TLS BR §7.1.2.7.12"),
    (TLS, {"subject.organizational_unit_name": MAY}, "subject.organizational_unit_name", "TLS BR §7.1.2.7.4"),
    (
        TLS,
        {"subject.locality_name": None, "subject.order": None},
        "subject.state_or_province_name",
        "TLS BR §7.1.2.7.4",
    ),
    (TLS, {"certificate_type.validation_type": "domain"}, "subject.organization_name", "TLS BR §7.1.2.7.2"),
    (TLS, {"certificate_type.validation_type": "individual"}, "subject.surname", "TLS BR §7.1.2.7.3"),
    (TLS, {"subject.order": ["common_name", "country_name"]}, "subject.order", "TLS BR §7.1.4.2"),
    (TLS, {"subject.multi_valued_rdn": True}, "subject.multi_valued_rdn", "TLS BR §7.1.4.2"),
]


@pytest.mark.parametrize(("table", "changes", "key", "clause"), BAD, ids=range(len(BAD)))
def test_what_is_not_possible(table: dict[str, Any], changes: dict[str, Any], key: str, clause: str) -> None:
    faults = rules.check_profile(config(table, changes), TODAY)
    assert any(
        fault.startswith(f"{key}: " if not key.endswith(".") else key) and clause in fault for fault in faults
    ), faults


def test_each_fault_is_one_line_with_key_and_rule() -> None:
    (fault,) = rules.check_profile(config(TLS, {"validity.default": "200d"}), TODAY)
    assert fault == (
        "validity.default: is longer than the 199 days that are allowed (PT-VAL-MAX, DigiCert, TLS validity)"
    )


def test_a_profile_of_today_may_be_none_of_tomorrow() -> None:
    profile = config(TLS, {})
    assert rules.check_profile(profile, date(2027, 3, 14)) == []
    faults = rules.check_profile(profile, date(2027, 3, 15))
    assert [fault.partition(":")[0] for fault in faults] == ["validity.default"] * 2
    short = config(TLS, {"validity.default": "46d"})
    assert rules.check_profile(short, date(2029, 3, 15)) == [], "an optional clientAuth is refused in requests only"


def test_client_auth_that_is_always_there_ends_with_its_day() -> None:
    profile = config(TLS, {"extensions.extended_key_usage.required_usages": ["server_auth", "client_auth"]})
    assert rules.check_profile(profile, date(2027, 2, 28)) == []
    (fault,) = rules.check_profile(profile, date(2027, 3, 1))
    assert fault.startswith("extensions.extended_key_usage.required_usages: client_auth")


def test_notices_say_what_is_going_to_be_wrong() -> None:
    profile = config(TLS, {"extensions.extended_key_usage.required_usages": ["server_auth", "client_auth"]})
    assert rules.notices(profile, TODAY) == []
    notices = rules.notices(profile, date(2027, 2, 1))
    assert [notice[:19] for notice in notices] == ["from 2027-03-01 on:", *["from 2027-03-15 on:"] * 3]
    assert rules.notices(profile, date(2027, 3, 15)) == []
    assert rules.notices(config(SMIME, {}), TODAY, timedelta(days=3650)) == []
