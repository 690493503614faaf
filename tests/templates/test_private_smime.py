"""private-smime: e-mail certificates from a private CA."""

from typing import Any

import pytest

from tests.profile_cases import DNS, EMAIL, key_usage, name, purposes, request, san, values
from tests.templates.cases import (
    CLIENT,
    EKU,
    EMAIL_PROTECTION,
    KU,
    ORGANIZATION,
    SERVER,
    approve,
    ask,
    forbidden,
    made,
    refused,
)

T = "private-smime"
CN = ("CN", "Ada Byron")
MAIL = san((EMAIL, "Ada@Example.com"))


@pytest.mark.parametrize(
    ("key", "usage", "bits"),
    [
        ("rsa", "dual_use", (0, 2)), ("P-256", "dual_use", (0, 4)), ("ed25519", "dual_use", (0,)),
        ("ed448", "dual_use", (0,)), ("rsa", "signing", (0,)), ("P-256", "signing", (0,)), ("ed448", "signing", (0,)),
        ("rsa", "key_management", (2,)), ("P-384", "key_management", (4,)),
    ],
)  # fmt: skip
def test_the_key_usage_follows_from_the_usage_and_the_key(key: str, usage: str, bits: tuple[int, ...]) -> None:
    got = approve(made(T, {"certificate_type.usage": usage}), ask(CN, extensions=(MAIL,), key=key))
    assert (values(got)[KU], values(got)[EKU]) == (key_usage(*bits).value, purposes(EMAIL_PROTECTION).value)
    assert (got.seat, got.modified) == ("ada@example.com", ())


@pytest.mark.parametrize(
    "asked",
    [
        ask(("C", "DE"), ("ST", "NRW"), ("L", "Bonn"), ("O", "Example"), ("organizationIdentifier", "x"), ("OU", "a"),
            ("SN", "Byron"), ("GN", "Ada"), CN, ("serialNumber", "7"), ("email", "ada@example.com"),
             extensions=(MAIL,)),
        ask(CN, extensions=(san(*((EMAIL, f"a{number}@example.com") for number in range(10))),)),
        ask(CN, extensions=(MAIL, key_usage(0, 1, 2), purposes(EMAIL_PROTECTION, CLIENT))),
    ],
)  # fmt: skip
def test_requests_that_are_granted(asked: Any) -> None:
    assert approve(made(T), asked).modified == ()


def test_what_a_gateway_asks_for_too_much_is_left_out() -> None:
    got = approve(made(T), ask(CN, extensions=(MAIL, key_usage(0, 2, 3), purposes(EMAIL_PROTECTION, SERVER))))
    assert got.modified == ("key usage data_encipherment left out", "extended key usage server_auth left out")


@pytest.mark.parametrize(
    ("changes", "asked", "words"),
    [
        ({}, ask(CN), ("san.email", "required")),
        ({}, ask(("O", "x"), extensions=(MAIL,)), ("subject.common_name", "required")),
        ({}, ask(CN, extensions=(san((EMAIL, "a@example.com"), (DNS, "a.example")),)), ("san.dns", "not accepted")),
        ({}, ask(CN, extensions=(san(*((EMAIL, f"a{number}@b.example") for number in range(11))),)),
         ("san.email", "more than 10")),
        ({"san.email.allowed_domains": ["example.com"]}, ask(CN, extensions=(san((EMAIL, "a@example.org")),)),
         ("san.email", "allowed_domains")),
        ({"certificate_type.usage": "key_management"}, ask(CN, extensions=(MAIL,), key="ed25519"), ("publicKey",)),
        ({}, ask(CN, extensions=(MAIL,), key="ml-dsa-44"), ("publicKey",)),
    ],
)  # fmt: skip
def test_requests_that_are_refused(changes: dict[str, Any], asked: Any, words: tuple[str, ...]) -> None:
    refused(made(T, changes), asked, *words)


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"validity.max": "2000d"}, "validity.max", ("2000d",)),
        ({"san.email.include": "optional"}, "san.email.include", ("optional", "RFC 8550")),
        ({"san.email.min": 0}, "san.email.min", ("0",)),
        ({"san.uri": {}}, "san", ("uri",)),
        ({"extensions.extended_key_usage.required_usages": ["client_auth"]},
         "extensions.extended_key_usage.required_usages", ("lacks email_protection",)),
        ({"extensions.extended_key_usage.optional_usages": ["code_signing"]},
         "extensions.extended_key_usage.optional_usages", ("code_signing",)),
    ],
)  # fmt: skip
def test_overrides_that_are_forbidden(changes: dict[str, Any], key: str, words: tuple[str, ...]) -> None:
    forbidden(T, changes, key, *words)


def test_the_organization_and_the_parts_of_the_name_come_from_the_profile() -> None:
    changes = {"organization": ORGANIZATION, "subject.name_split": "last-word-is-surname"}
    got = approve(made(T, changes), request(name(("O", "Evil"), ("CN", "Ada King Byron")), MAIL))
    assert got.subject == name(
        ("O", "Example GmbH"), ("organizationIdentifier", "NTRDE-HRB123456"), ("SN", "Byron"), ("GN", "Ada King"),
        ("CN", "Ada King Byron"),
    )  # fmt: skip
