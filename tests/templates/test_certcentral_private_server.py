"""certcentral-private-server: TLS servers, from a private CA of CertCentral."""

from typing import Any

import pytest

from tests.profile_cases import DNS, EMAIL, IP, KEYS, URI, key_usage, name, purposes, request, san, values
from tests.templates.cases import CLIENT, EKU, EMAIL_PROTECTION, KU, SERVER, approve, ask, forbidden, made, refused

T = "certcentral-private-server"
CN = ("CN", "www.example.local")
HOST = san((DNS, "www.example.local"))


@pytest.mark.parametrize(("key", "bits"), [("rsa", [0, 2]), ("P-256", [0]), ("P-384", [0])])
def test_a_server_gets_a_certificate_that_fits_its_key(key: str, bits: list[int]) -> None:
    got = approve(made(T), ask(CN, extensions=(HOST,), key=key))
    assert (values(got)[KU], values(got)[EKU]) == (key_usage(*bits).value, purposes(SERVER).value)
    assert (got.seat, got.modified) == ("www.example.local", ())


@pytest.mark.parametrize(
    "asked",
    [
        ask(("C", "DE"), ("ST", "NRW"), ("L", "Bonn"), ("O", "Example"), ("OU", "a"), CN, extensions=(HOST,)),
        ask(("CN", "10.0.0.1"), extensions=(san((DNS, "a.example.local"), (IP, b"\x0a\0\0\1")),)),
        ask(CN, extensions=(san(*((DNS, f"{number}.a.local") for number in range(99)), (DNS, "www.example.local")),)),
        ask(CN, extensions=(HOST, purposes(SERVER, CLIENT))),
    ],
)
def test_requests_that_are_granted(asked: Any) -> None:
    assert approve(made(T), asked).modified == ()


def test_what_is_too_much_is_left_out() -> None:
    got = approve(made(T), ask(CN, extensions=(HOST, key_usage(0, 2, 3), purposes(SERVER, EMAIL_PROTECTION))))
    assert got.modified == ("key usage data_encipherment left out", "extended key usage email_protection left out")


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        (ask(CN), "san.dns.include"),
        (ask(CN, extensions=(san((IP, b"\x0a\0\0\1")),)), "san.dns.include"),
        (request(name(("O", "x")), HOST, spki=KEYS["rsa"]), "subject.common_name.include"),
        (ask(("CN", "other.example.local"), extensions=(HOST,)), "subject.common_name_from"),
        (ask(CN, extensions=(san((DNS, "www.example.local"), (EMAIL, "a@b.example")),)), "san.on_unlisted"),
        (ask(CN, extensions=(san((DNS, "www.example.local"), (URI, "urn:x:y")),)), "san.on_unlisted"),
        (ask(CN, extensions=(san((DNS, "*.example.local")),)), "san.dns.allow_wildcard"),
        (ask(CN, extensions=(HOST,), key="P-521"), "key.ecdsa.allowed_curves"),
        (ask(CN, extensions=(HOST,), key="ed25519"), "key.allowed_types"),
    ],
)
def test_requests_that_are_refused(asked: Any, rule: str) -> None:
    assert refused(made(T), asked).rule == rule


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"subject.common_name.include": "optional"}, "subject.common_name.include", ("CertCentral",)),
        ({"key.allowed_types": ["rsa", "ed25519"]}, "key.allowed_types", ("ed25519",)),
        ({"san.dns.include": "no"}, "san.dns.include", ("RFC 9525 §2",)),
        ({"san.uri": {}}, "san", ("uri",)),
        ({"extensions.extended_key_usage.required_usages": ["client_auth"]},
         "extensions.extended_key_usage.required_usages", ("lacks server_auth",)),
        ({"extensions.extended_key_usage.optional_usages": ["email_protection"]},
         "extensions.extended_key_usage.optional_usages", ("email_protection",)),
        ({"public_trust": "tls"}, "public_trust", ("private CA",)),
    ],
)  # fmt: skip
def test_overrides_that_are_forbidden(changes: dict[str, Any], key: str, words: tuple[str, ...]) -> None:
    forbidden(T, changes, key, *words)
