"""public-smime: publicly trusted e-mail certificates. What the S/MIME BR say in detail is tested in tests/rules."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from cmpd.asn1 import der
from cmpd.profile import ProfileError
from tests.profile_cases import DNS, EMAIL, NOW, attribute, key_usage, name, purposes, request, san, upn, values
from tests.templates.cases import (
    CLIENT,
    EKU,
    EMAIL_PROTECTION,
    KU,
    ORGANIZATION,
    POLICIES,
    approve,
    ask,
    forbidden,
    made,
    refused,
)

T = "public-smime"
MAIL = san((EMAIL, "ada@example.com"))
TYPE, GENERATION, USAGE = "certificate_type.validation_type", "certificate_type.generation", "certificate_type.usage"
SPONSOR = {TYPE: "sponsor", "organization": ORGANIZATION, "subject.country_name": {"source": "fixed", "value": "DE"}}
OF = {"mailbox": {}, "organization": SPONSOR, "sponsor": SPONSOR, "individual": {}}


@pytest.mark.parametrize(
    ("type_", "generation", "policy"),
    [
        ("mailbox", "multipurpose", "1.2"), ("mailbox", "strict", "1.3"), ("organization", "multipurpose", "2.2"),
        ("organization", "strict", "2.3"), ("sponsor", "multipurpose", "3.2"), ("sponsor", "strict", "3.3"),
        ("individual", "multipurpose", "4.2"), ("individual", "strict", "4.3"),
    ],
)  # fmt: skip
def test_the_policy_is_that_of_type_and_generation(type_: str, generation: str, policy: str) -> None:
    """S/MIME BR §7.1.6.1."""
    person = (("GN", "Ada"), ("SN", "Byron")) if type_ in {"sponsor", "individual"} else ()
    got = approve(made(T, OF[type_] | {TYPE: type_, GENERATION: generation}), ask(*person, extensions=(MAIL,)))
    wanted = der.sequence(der.sequence(der.oid(f"2.23.140.1.5.{policy}")))
    assert values(got)[POLICIES] == wanted
    assert (got.seat, got.lint) == ("ada@example.com", "warn")


@pytest.mark.parametrize(
    ("usage", "key", "bits"),
    [("signing", "rsa", [0]), ("key_management", "rsa", [2]), ("dual_use", "rsa", [0, 2]), ("signing", "P-256", [0]),
     ("key_management", "P-256", [4]), ("dual_use", "P-256", [0, 4])],
)  # fmt: skip
def test_the_key_usage_follows_from_the_usage(usage: str, key: str, bits: list[int]) -> None:
    """S/MIME BR §7.1.2.3(e)."""
    got = approve(made(T, {USAGE: usage}), ask(("CN", "ada@example.com"), extensions=(MAIL,), key=key))
    assert (values(got)[KU], values(got)[EKU]) == (key_usage(*bits).value, purposes(EMAIL_PROTECTION).value)


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, request(name(), MAIL)),
        ({}, ask(("CN", "ada@example.com"), ("serialNumber", "1"), ("email", "ada@example.com"), extensions=(MAIL,))),
        (SPONSOR, ask(("C", "DE"), ("O", "Example GmbH"), ("organizationIdentifier", "NTRDE-HRB123456"), ("GN", "Ada"),
                      ("SN", "Byron"), ("CN", "Ada Byron"), extensions=(MAIL,))),
        (SPONSOR, ask(("C", "DE"), ("O", "Example GmbH"), ("organizationIdentifier", "NTRDE-HRB123456"),
                      ("pseudonym", "Enchantress"), ("CN", "Enchantress"), extensions=(MAIL,))),
        (SPONSOR | {TYPE: "organization"}, ask(("C", "DE"), ("O", "Example GmbH"), ("CN", "Example GmbH"),
                ("organizationIdentifier", "NTRDE-HRB123456"), extensions=(MAIL,))),
        ({TYPE: "individual"}, ask(("GN", "Ada"), ("SN", "Byron"), ("CN", "Byron, Ada"), extensions=(MAIL,))),
        ({GENERATION: "multipurpose"}, ask(extensions=(MAIL, purposes(EMAIL_PROTECTION, CLIENT)))),
        ({GENERATION: "multipurpose", "san.upn": {}}, ask(extensions=(san((EMAIL, "a@example.com"),
         upn("a@b.example")),))),
    ],
)  # fmt: skip
def test_requests_that_are_granted(changes: dict[str, Any], asked: Any) -> None:
    assert approve(made(T, changes), asked).modified == ()


@pytest.mark.parametrize(
    ("changes", "asked", "rule", "words"),
    [
        ({}, ask(("CN", "Ada Byron"), extensions=(MAIL,)), "subject.common_name_from", ("subject.common_name",
         "san.email")),
        ({}, ask(("CN", "eve@example.com"), extensions=(MAIL,)), "subject.common_name_from", ("subject.common_name",)),
        ({}, ask(("O", "x"), extensions=(MAIL,)), "subject.on_unlisted", ("subject.organization_name",)),
        ({}, ask(("CN", "ada@example.com")), "san.email.include", ("san.email", "required")),
        ({}, ask(extensions=(san((EMAIL, "ada@example.com"), (DNS, "a.example")),)), "san.on_unlisted", ("san.dns",)),
        ({}, ask(("email", "eve@example.com"), extensions=(MAIL,)), "SM-SAN-EMAIL, S/MIME BR §7.1.4.2.1",
         ("S/MIME BR",)),
        (SPONSOR, ask(("CN", "Ada Byron"), extensions=(MAIL,)), "subject.common_name_from", ("personal_name",)),
        (SPONSOR, ask(extensions=(MAIL,)), "SM-IND, S/MIME BR §7.1.4.2.5", ("S/MIME BR §7.1.4.2.5",)),
        (SPONSOR, ask(("GN", "Ada"), ("pseudonym", "x"), extensions=(MAIL,)), "SM-IND, S/MIME BR §7.1.4.2.5", ()),
        (SPONSOR, ask(("GN", "Ada"), ("SN", "Byron"), ("CN", "Eve Byron"), extensions=(MAIL,)),
         "subject.common_name_from",
         ()),
        ({TYPE: "organization", "organization": ORGANIZATION}, ask(("GN", "Ada"), extensions=(MAIL,)),
         "subject.on_unlisted", ("subject.given_name",)),
        ({}, ask(extensions=(MAIL,), key="ed25519"), "key.allowed_types", ("publicKey",)),
    ],
)  # fmt: skip
def test_requests_that_are_refused(changes: dict[str, Any], asked: Any, rule: str, words: tuple[str, ...]) -> None:
    assert refused(made(T, changes), asked, *words).rule == rule


def test_the_organization_comes_from_the_profile_whatever_the_request_says() -> None:
    got = approve(
        made(T, SPONSOR),
        ask(
            ("O", "Evil Corp"),
            ("organizationIdentifier", "NTRUS-1"),
            ("GN", "Ada"),
            ("SN", "Byron"),
            extensions=(MAIL,),
        ),
    )
    assert got.subject == name(("C", "DE"), ("O", "Example GmbH"), ("organizationIdentifier", "NTRDE-HRB123456"),
                               ("SN", "Byron"), ("GN", "Ada"))  # fmt: skip
    assert set(got.modified) == {"subject.organization_name replaced", "subject.organization_identifier replaced",
                                 "subject.country_name added"}  # fmt: skip


def test_what_strict_does_not_allow_is_left_out() -> None:
    got = approve(made(T), ask(extensions=(MAIL, purposes(EMAIL_PROTECTION, CLIENT), key_usage(0, 2, 3))))
    assert got.modified == ("key usage data_encipherment left out", "extended key usage client_auth left out")


def test_a_display_name_is_split_for_a_gateway_that_knows_no_other() -> None:
    changes = SPONSOR | {"subject.name_split": "(?P<sn>[^,]+), (?P<gn>.+)"}
    got = approve(made(T, changes), ask(("CN", "Byron, Ada"), extensions=(MAIL,)))
    assert attribute("GN", "Ada") in got.subject
    assert attribute("SN", "Byron") in got.subject
    assert refused(made(T, changes), ask(("CN", "Support"), extensions=(MAIL,))).field == "subject.common_name"


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"validity.max": "825d"}, "validity.max", ("'825d'", "more than 824d", "S/MIME BR §6.3.2")),
        ({"validity.backdate": "3d"}, "validity.backdate", ("'3d'",)),
        ({"public_trust": "tls"}, "public_trust", ("'tls'", "cannot be changed from 'smime'", "S/MIME BR §1.1")),
        ({TYPE: "domain"}, TYPE, ("'domain'", "S/MIME BR §7.1.6.1")),
        ({TYPE: "sponsor"}, "organization.name", ("is required", "S/MIME BR §7.1.4.2.4 and §7.1.4.2.5")),
        ({TYPE: "sponsor", "organization": {"name": "x"}}, "organization.identifier", ("is required",)),
        ({"organization": ORGANIZATION}, "organization", ("Example GmbH", "S/MIME BR §7.1.4.2.3")),
        ({"subject.organization_name": {}}, "subject", ("organization_name", "S/MIME BR §7.1.4.2.3")),
        ({TYPE: "individual", "subject.organizational_unit_name": {}}, "subject", ("S/MIME BR §7.1.4.2.6",)),
        ({"subject.common_name_from": []}, "subject.common_name_from", ("lacks san.email", "S/MIME BR §7.1.4.2.2(a)")),
        ({"subject.common_name_from": ["san.email", "personal_name"], "subject.given_name": {}, "subject.surname": {}},
         "subject.common_name_from", ("personal_name", "S/MIME BR §7.1.4.2.2(a)")),
        ({"subject.multi_valued_rdn": True}, "subject.multi_valued_rdn", ("True",)),
        ({"key.allowed_types": ["ml-dsa-65"]}, "key.allowed_types", ("ml-dsa-65", "S/MIME BR §6.1.5")),
        ({"key.rsa.min_exponent": 3}, "key.rsa.min_exponent", ("3", "S/MIME BR §6.1.6")),
        ({"signature.allowed_algorithms": ["ml-dsa-44"]}, "signature.allowed_algorithms", ("S/MIME BR §7.1.3.2",)),
        ({"san.email.include": "optional"}, "san.email.include", ("S/MIME BR §7.1.4.2.1",)),
        ({"san.dns": {}}, "san", ("dns", "S/MIME BR §7.1.4.2.1")),
        ({"san.upn": {}}, "san", ("upn", "strict", "S/MIME BR §7.1.4.2.1")),
        ({"san.critical": True}, "san.critical", ("S/MIME BR §7.1.2.3(h)",)),
        ({"extensions.key_usage.critical": False}, "extensions.key_usage.critical", ("S/MIME BR §7.1.2.3(e)",)),
        ({"extensions.key_usage.optional_usages": {"rsa": ["data_encipherment"]}},
         "extensions.key_usage.optional_usages", ("data_encipherment", "S/MIME BR §7.1.2.3(e)")),
        ({"extensions.extended_key_usage.critical": True}, "extensions.extended_key_usage.critical",
         ("S/MIME BR §7.1.2.3(f)",)),
        ({"extensions.extended_key_usage.optional_usages": ["client_auth"]},
         "extensions.extended_key_usage.optional_usages", ("client_auth", "S/MIME BR §7.1.2.3(f)")),
        ({GENERATION: "multipurpose", "extensions.extended_key_usage.optional_usages": ["server_auth"]},
         "extensions.extended_key_usage.optional_usages", ("server_auth", "S/MIME BR §7.1.2.3(f)")),
    ],
)  # fmt: skip
def test_overrides_that_are_forbidden(changes: dict[str, Any], key: str, words: tuple[str, ...]) -> None:
    forbidden(T, changes, key, *words)


def test_a_legacy_certificate_cannot_be_asked_for() -> None:
    with pytest.raises(
        ProfileError, match=r"certificate_type\.generation: 'legacy' is not one of strict, multipurpose"
    ):
        made(T, {GENERATION: "legacy"})


def test_it_stays_within_the_validity_of_public_trust() -> None:
    got = approve(made(T, {"validity.default": "824d"}), ask(extensions=(MAIL,)))
    assert got.not_after - got.not_before == timedelta(days=824) - timedelta(seconds=1)
    assert made(T, today=date(2027, 4, 1)).public_trust == "smime"
    later = datetime(2027, 4, 1, tzinfo=UTC)
    assert later > NOW
    assert approve(made(T), ask(extensions=(MAIL,)), now=later).modified == ()
