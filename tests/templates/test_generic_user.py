"""generic-user: people, from a private CA."""

from datetime import timedelta
from typing import Any

import pytest

from tests.profile_cases import DNS, EMAIL, IP, NOW, URI, extension, key_usage, purposes, san, upn, values
from tests.templates.cases import CLIENT, EKU, EMAIL_PROTECTION, KU, SERVER, approve, ask, forbidden, made, refused

T = "generic-user"
CN = ("CN", "Ada Byron")
LOGON = "1.3.6.1.4.1.311.20.2.2"


@pytest.mark.parametrize("key", ["rsa", "P-256", "P-384", "P-521", "ed25519"])
def test_a_person_gets_a_certificate_for_client_authentication(key: str) -> None:
    got = approve(made(T), ask(CN, key=key))
    assert values(got)[EKU] == purposes(CLIENT).value
    assert values(got)[KU] == key_usage(0).value
    assert (got.seat, got.lint, got.modified) == ("Ada Byron", "off", ())
    assert got.not_after - got.not_before == timedelta(days=365) - timedelta(seconds=1)


@pytest.mark.parametrize(
    "asked",
    [
        ask(("C", "DE"), ("ST", "NRW"), ("L", "Bonn"), ("O", "Example"), ("OU", "a"), ("OU", "b"), ("T", "Dr"),
            ("SN", "Byron"), ("GN", "Ada"), CN, ("serialNumber", "7"), ("UID", "ada"), ("email", "ada@example.com")),
        ask(CN, extensions=(san((EMAIL, "ada@example.com"), upn("ada@example.com"), (URI, "urn:x:y")),)),
        ask(CN, extensions=(purposes(CLIENT, EMAIL_PROTECTION, LOGON), key_usage(0, 1, 2))),
        ask(CN, extensions=(key_usage(0, 4),), key="P-256"),
        ask(CN, not_after=NOW + timedelta(days=1000)),
    ],
)  # fmt: skip
def test_requests_that_are_granted(asked: Any) -> None:
    assert approve(made(T), asked).modified == ()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (ask(("O", "Example")), ("subject.common_name", "required")),
        (ask(CN, ("DC", "example")), ("subject.domain_component", "not accepted")),
        (ask(CN, extensions=(san((DNS, "a.example")),)), ("san.dns", "not accepted")),
        (ask(CN, extensions=(san((IP, b"\x0a\0\0\1")),)), ("san.ip", "not accepted")),
        (ask(CN, extensions=(purposes(SERVER),)), ("extensions.extended_key_usage", "server_auth")),
        (ask(CN, extensions=(key_usage(0, 2),), key="P-256"), ("extensions.key_usage", "key_encipherment", "ecdsa")),
        (ask(CN, key="ml-dsa-44"), ("publicKey", "key.allowed_types")),
        (ask(CN, key="rsa-1024"), ("publicKey", "1024", "key.rsa")),
        (ask(CN, not_after=NOW + timedelta(days=1200)), ("validity.notAfter", "validity.max")),
    ],
)
def test_requests_that_are_refused(asked: Any, words: tuple[str, ...]) -> None:
    refused(made(T), asked, *words)


def test_an_extension_that_the_profile_is_not_about_is_left_out() -> None:
    assert approve(made(T), ask(CN, extensions=(extension("1.2.3.4"),))).modified == ("extension 1.2.3.4 left out",)


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"validity.max": "4y"}, "validity.max", ("'4y'", "more than 1095d", "three years")),
        ({"san.dns": {}}, "san", ("dns", "no host names")),
        ({"san.guid": {"include": "optional"}}, "san", ("guid",)),
        ({"extensions.extended_key_usage.optional_usages": ["server_auth"]},
         "extensions.extended_key_usage.optional_usages", ("server_auth", "RFC 5280 §4.2.1.12")),
        ({"extensions.extended_key_usage.required_usages": ["2.5.29.37.0"]},
         "extensions.extended_key_usage.required_usages", ("any_extended_key_usage",)),
        ({"subject.common_name.include": "optional"}, "subject.common_name.include", ("'optional'", "required")),
        ({"public_trust": "smime"}, "public_trust", ("'smime'", "cannot be set", "private CA")),
    ],
)  # fmt: skip
def test_overrides_that_are_forbidden(changes: dict[str, Any], key: str, words: tuple[str, ...]) -> None:
    forbidden(T, changes, key, *words)


def test_overrides_that_are_allowed() -> None:
    got = made(T, {"san.dns.include": "no", "san.uri.include": "no", "validity": {"default": "90d", "max": "90d"},
                   "key.allowed_types": ["ecdsa"], "subject.common_name.pattern": "[A-Z].*"})  # fmt: skip
    assert approve(got, ask(CN, key="P-256")).modified == ()
    refused(got, ask(CN), "publicKey")
    refused(got, ask(CN, extensions=(san((URI, "urn:x:y")),), key="P-256"), "san.uri")
