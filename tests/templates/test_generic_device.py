"""generic-device: devices and machines, from a private CA."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from cmpd.asn1 import der
from tests.profile_cases import DNS, EMAIL, IP, NOW, RID, URI, key_usage, purposes, san, upn, values
from tests.templates.cases import CLIENT, EKU, EMAIL_PROTECTION, KU, SAN, SERVER, approve, ask, forbidden, made, refused

T = "generic-device"
CN = ("CN", "pump-7")
GUID = (0xA0, der.oid("1.3.6.1.4.1.311.25.1")
        + der.explicit(0, der.octet_string(UUID("6f9619ff-8b86-d011-b42d-00c04fc964ff").bytes_le)))  # fmt: skip


def test_a_device_gets_a_certificate_that_fits_its_key() -> None:
    got = approve(made(T), ask(CN))
    assert (values(got)[KU], values(got)[EKU]) == (key_usage(0, 2).value, purposes(CLIENT).value)
    assert (got.seat, got.modified) == ("pump-7", ())
    assert values(approve(made(T), ask(CN, key="ed25519")))[KU] == key_usage(0).value
    assert made(T).duplicates is False


@pytest.mark.parametrize(
    "asked",
    [
        ask(CN, ("serialNumber", "0815"), ("O", "Example"), ("OU", "a"), ("L", "Bonn"), ("ST", "NRW"), ("C", "DE")),
        ask(("DC", "com"), ("DC", "example"), CN),
        ask(CN, extensions=(san((DNS, "pump-7.example.com"), (IP, b"\x0a\0\0\7"), (URI, "urn:uuid:x"), (RID, b"\x2a\3"),
                                GUID), purposes(CLIENT, SERVER))),
        ask(CN, extensions=(key_usage(0, 4),), key="P-256"),
        ask(CN, not_after=NOW + timedelta(days=1800)),
    ],
)  # fmt: skip
def test_requests_that_are_granted(asked: Any) -> None:
    assert approve(made(T), asked).modified == ()


def test_what_an_rsa_key_is_for_is_added_to_what_is_asked() -> None:
    got = approve(made(T), ask(CN, extensions=(key_usage(0),)))
    assert got.modified == ("key usage key_encipherment added",)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (ask(("serialNumber", "1")), ("subject.common_name", "required")),
        (ask(CN, ("GN", "Ada")), ("subject.given_name", "not accepted")),
        (ask(CN, extensions=(san((EMAIL, "a@example.com")),)), ("san.email", "not accepted")),
        (ask(CN, extensions=(san(upn("a@example.com")),)), ("san.upn", "not accepted")),
        (ask(CN, extensions=(san((DNS, "*.example.com")),)), ("san.dns", "wildcard")),
        (ask(CN, extensions=(san(GUID, GUID),)), ("san.guid", "more than 1")),
        (ask(CN, extensions=(purposes(CLIENT, EMAIL_PROTECTION),)), ("extended_key_usage", "email_protection")),
        (ask(CN, not_after=NOW + timedelta(days=1900)), ("validity.notAfter", "validity.max")),
    ],
)
def test_requests_that_are_refused(asked: Any, words: tuple[str, ...]) -> None:
    refused(made(T), asked, *words)


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"validity.max": "6y"}, "validity.max", ("'6y'", "five years")),
        ({"san.email": {}}, "san", ("email", "no mailbox")),
        ({"san.upn": {}}, "san", ("upn",)),
        ({"extensions.extended_key_usage.optional_usages": ["email_protection"]},
         "extensions.extended_key_usage.optional_usages", ("email_protection",)),
        ({"public_trust": "tls"}, "public_trust", ("'tls'",)),
    ],
)  # fmt: skip
def test_overrides_that_are_forbidden(changes: dict[str, Any], key: str, words: tuple[str, ...]) -> None:
    forbidden(T, changes, key, *words)


def test_overrides_that_are_allowed() -> None:
    changes = {
        "san.dns": {"include": "required", "allowed_domains": [".example.com"], "allow_wildcard": True},
        "seat.id_mapping": "san.dns",
        "key.allowed_types": ["ecdsa", "ml-dsa-65"],
    }
    asked = ask(CN, extensions=(san((DNS, "*.EXAMPLE.com")),), key="ml-dsa-65")
    got = approve(made(T, changes), asked)
    assert (got.seat, values(got)[SAN]) == ("*.example.com", asked.extensions[0].value)
    refused(made(T, changes), ask(CN, key="P-256"), "san.dns", "required")
