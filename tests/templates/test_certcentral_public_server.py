"""certcentral-public-server: publicly trusted TLS servers. What the TLS BR say in detail is tested in tests/rules."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from cmpd.asn1 import der
from cmpd.profile import ProfileError
from tests.profile_cases import DNS, EMAIL, IP, key_usage, name, purposes, san, values
from tests.templates.cases import CLIENT, EKU, KU, POLICIES, SERVER, approve, ask, forbidden, made, refused

T = "certcentral-public-server"
CN = ("CN", "www.example.com")
HOST = san((DNS, "www.example.com"), (DNS, "example.com"))
DOMAIN = {"certificate_type.validation_type": "domain", "organization": None, "subject.locality_name": None,
          "subject.country_name": None}  # fmt: skip
SECOND = timedelta(seconds=1)


def test_the_subject_names_the_organization_in_the_order_of_the_rules() -> None:
    got = approve(made(T), ask(CN, ("O", "Evil"), extensions=(HOST,)))
    assert got.subject == name(("C", "DE"), ("L", "Bonn"), ("O", "Example GmbH"), CN)
    assert values(got)[POLICIES] == der.sequence(der.sequence(der.oid("2.23.140.1.2.2")))
    assert (values(got)[KU], values(got)[EKU]) == (key_usage(0).value, purposes(SERVER).value)
    assert (got.seat, got.lint) == ("www.example.com", "warn")


def test_a_name_in_another_order_is_put_in_order() -> None:
    got = approve(made(T), ask(CN, ("O", "Example GmbH"), ("L", "Bonn"), ("C", "DE"), extensions=(HOST,)))
    assert got.subject == name(("C", "DE"), ("L", "Bonn"), ("O", "Example GmbH"), CN)
    assert got.modified == ("subject put in order",)


def test_a_domain_validated_certificate_names_hosts_only() -> None:
    got = approve(made(T, DOMAIN), ask(CN, extensions=(HOST,)))
    assert (got.subject, got.modified) == (name(CN), ())
    assert values(got)[POLICIES] == der.sequence(der.sequence(der.oid("2.23.140.1.2.1")))
    assert refused(made(T, DOMAIN), ask(CN, ("O", "x"), extensions=(HOST,))).rule == "subject.on_unlisted"


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        (ask(("CN", "evil.example.net"), extensions=(HOST,)), "subject.common_name_from"),
        (ask(CN), "san.dns.include"),
        (ask(CN, ("OU", "x"), extensions=(HOST,)), "subject.on_unlisted"),
        (ask(CN, extensions=(san((DNS, "www.example.com"), (IP, b"\x08\x08\x08\x08")),)), "san.on_unlisted"),
        (ask(CN, extensions=(san((DNS, "www.example.com"), (EMAIL, "a@example.com")),)), "san.on_unlisted"),
        (ask(extensions=(san((DNS, "server.local")),)), "TLS-SAN-INTERNAL, TLS BR §4.2.2"),
        (ask(extensions=(san((DNS, "gateway")),)), "TLS-SAN-INTERNAL, TLS BR §4.2.2"),
        (ask(CN, extensions=(HOST,), key="ed25519"), "key.allowed_types"),
    ],
)
def test_requests_that_are_refused(asked: Any, rule: str) -> None:
    assert refused(made(T), asked).rule == rule


@pytest.mark.parametrize(
    ("day", "days"),
    [(date(2026, 3, 15), 199), (date(2027, 3, 14), 199), (date(2027, 3, 15), 99), (date(2029, 3, 15), 46)],
)
def test_the_default_goes_down_with_the_rules_and_the_profile_stays_loadable(day: date, days: int) -> None:
    """TLS BR §6.3.2 and the caps of DigiCert."""
    profile = made(T, today=day)
    got = approve(profile, ask(CN, extensions=(HOST,)), now=datetime(day.year, day.month, day.day, tzinfo=UTC))
    assert got.not_after - got.not_before == timedelta(days=days) - SECOND


def test_a_profile_that_rejects_must_be_adapted_when_the_rules_go_down() -> None:
    changes = {"validity.on_exceed": "reject"}
    assert made(T, changes, today=date(2027, 3, 14)).public_trust == "tls"
    with pytest.raises(ProfileError, match=r"validity\.default: .*TLS.*the value is from template"):
        made(T, changes, today=date(2027, 3, 15))


def test_client_authentication_ends() -> None:
    """TLS BR §7.1.2.7.10 allows it, DigiCert and Chrome end it."""
    changes = {"extensions.extended_key_usage.optional_usages": ["client_auth"]}
    asked = ask(CN, extensions=(HOST, purposes(SERVER, CLIENT)))
    profile = made(T, changes)
    assert values(approve(profile, asked, now=datetime(2027, 2, 28, tzinfo=UTC)))[EKU] == asked.extensions[1].value
    assert "2.7.10" not in refused(profile, asked, "client_auth", now=datetime(2027, 3, 1, tzinfo=UTC)).rule


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"validity.max": "200d"}, "validity.max", ("'200d'", "199d", "TLS BR §6.3.2")),
        ({"validity.backdate": "49h"}, "validity.backdate", ("TLS BR §7.1.2.7",)),
        ({"public_trust": "smime"}, "public_trust", ("TLS BR §1.1",)),
        ({"certificate_type.validation_type": "sponsor"}, "certificate_type.validation_type", ("sponsor",)),
        ({"organization": None}, "organization.name", ("is required", "TLS BR §7.1.2.7.4")),
        (DOMAIN | {"organization": {"name": "x"}}, "organization", ("TLS BR §7.1.2.7.2",)),
        (DOMAIN | {"subject.locality_name": {}}, "subject", ("locality_name", "TLS BR §7.1.2.7.2")),
        ({"subject.organizational_unit_name": {}}, "subject", ("organizational_unit_name", "TLS BR §7.1.2.7.4")),
        ({"subject.country_name": {"include": "optional"}}, "subject.country_name.include", ("TLS BR §7.1.2.7.4",)),
        ({"subject.common_name_from": []}, "subject.common_name_from", ("TLS BR §7.1.4.3",)),
        ({"subject.order": ["common_name"]}, "subject.order", ("TLS BR §7.1.4.2",)),
        ({"subject.multi_valued_rdn": True}, "subject.multi_valued_rdn", ("TLS BR §7.1.4.2",)),
        ({"key.allowed_types": ["ed25519"]}, "key.allowed_types", ("TLS BR §6.1.5",)),
        ({"signature.allowed_algorithms": ["ed25519"]}, "signature.allowed_algorithms", ("TLS BR §7.1.3.2",)),
        ({"san.email": {}}, "san", ("email", "TLS BR §7.1.2.7.12")),
        ({"san.critical": True}, "san.critical", ("TLS BR §7.1.2.7.12",)),
        ({"san.dns.include": "optional"}, "san.dns.include", ("TLS BR §7.1.2.7.12",)),
        ({"extensions.key_usage.critical": False}, "extensions.key_usage.critical", ("TLS BR §7.1.2.7.6",)),
        ({"extensions.key_usage.optional_usages": ["non_repudiation"]}, "extensions.key_usage.optional_usages",
         ("TLS BR §7.1.2.7.11",)),
        ({"extensions.extended_key_usage.optional_usages": ["email_protection"]},
         "extensions.extended_key_usage.optional_usages", ("TLS BR §7.1.2.7.10",)),
    ],
)  # fmt: skip
def test_overrides_that_are_forbidden(changes: dict[str, Any], key: str, words: tuple[str, ...]) -> None:
    forbidden(T, changes, key, *words)
