"""Every rule of public trust, each with a request that keeps it and one that breaks it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from math import prod
from typing import Any

import pytest
from cryptography.x509 import ObjectIdentifier

from cmpd.asn1 import MalformedError
from cmpd.errors import BadAlg, BadCertTemplate
from cmpd.exchange import Approved, Finding, RequestedExtension
from cmpd.profile import rules
from tests.rules.requests import (
    FITTING,
    MAIL,
    NOW,
    ORGANIZATION,
    PERSON,
    SMIME_POLICIES,
    SMTP_UTF8,
    SUBJECTS,
    TLS_SUBJECTS,
    UPN,
    approved,
    broken,
    check_smime,
    check_tls,
    constraints,
    directory,
    dns,
    email,
    ip,
    name,
    other,
    other_key,
    policies,
    purposes,
    rsa_spki,
    san,
    smime,
    spki,
    tls,
    uri,
    usage,
    with_extension,
    without_extension,
)

Change = Callable[[Approved], Approved]
E = ("E", MAIL)


@dataclass(frozen=True)
class Case:
    """A change to a conforming request, and which rule it breaks, if any."""

    rule: str
    """Id and clause."""
    good: Any
    """Keeps all rules: one change or a list of them."""
    bad: Any
    """Breaks this rule: one change or a list of them."""
    validation: str = "sponsor"
    generation: str = "strict"
    used_for: str = "signing"

    def __str__(self) -> str:
        return f"{self.rule} {self.validation} {self.generation} {self.used_for}".replace("§", "")


def same(request: Approved) -> Approved:
    return request


def subject(*pairs: Any) -> Change:
    return lambda request: replace(request, subject=name(pairs))


def ext(*extensions: RequestedExtension) -> Change:
    return lambda request: with_extension(request, *extensions)


def key(which: str | bytes) -> Change:
    """A new key of a kind, or a SubjectPublicKeyInfo."""
    return lambda request: replace(request, spki=spki(which) if isinstance(which, str) else which)


def starting(**offset: float) -> Change:
    return lambda request: replace(request, not_before=NOW + timedelta(**offset))


def lasting(days: float, seconds: int = 0) -> Change:
    def change(request: Approved) -> Approved:
        end = request.not_before + timedelta(days=days, seconds=seconds - 1)
        return replace(request, not_after=end)

    return change


def both(*changes: Change) -> Change:
    def change(request: Approved) -> Approved:
        for one in changes:
            request = one(request)
        return request

    return change


def no(oid: str) -> Change:
    return lambda request: without_extension(request, oid)


def changed(pairs: Any, **values: str | None) -> Change:
    """A subject with other values; None leaves the attribute out."""
    known = dict(pairs) | values
    return subject(*((type_, value) for type_, value in known.items() if value is not None))


def modulus(factor: int, rest: int = 1, modulo: int = 1) -> int:
    """A number of 2048 bits with a factor and no small one beside it; `rest` when divided by `modulo`."""
    number = 2**2047 // factor // modulo * modulo + rest
    while (factor * number).bit_length() != 2048 or any(number % prime == 0 for prime in SMALL):
        number += modulo
    return factor * number


SMALL = [n for n in range(2, 752) if all(n % d for d in range(2, n))]
"""The primes below 752."""


PRODUCT = prod(prime for prime in SMALL if 2 < prime <= 167)
ROCA = modulus(1, pow(65537, 1234, PRODUCT), PRODUCT)
"""A modulus as the faulty generator makes them: a power of 65537 modulo many small primes."""
KEYS = [
    key("P-256"),
    key("P-384"),
    key("P-521"),
    key("rsa-2048"),
]
SMIME = [
    Case(
        "PT-KEY-ALG, S/MIME BR §6.1.5",
        [*KEYS, key("ed25519"), key("ed448")],
        [
            key("ml-dsa-65"),
            key(other_key("1.2.840.10045.2.1", b"\x06\x05\x2b\x81\x04\x00\x0a")),
            key(other_key("1.2.840.113549.1.1.1")),
            key(other_key("2.16.840.1.101.3.4.4.2")),
        ],
    ),
    Case(
        "PT-KEY-SIZE, S/MIME BR §6.1.5",
        [key("rsa-2048"), key("rsa-2056")],
        [key("rsa-1024"), key("rsa-2050"), key(rsa_spki(2**2046 + 1, 65537))],
    ),
    Case(
        "PT-KEY-EXPONENT, S/MIME BR §6.1.6",
        key(rsa_spki(modulus(1), 3)),
        [key(rsa_spki(modulus(1), 1)), key(rsa_spki(modulus(1), 65536)), key(rsa_spki(modulus(1), 0))],
    ),
    Case(
        "PT-KEY-WEAK, S/MIME BR §6.1.1.3",
        [key(rsa_spki(modulus(757), 65537))],
        [key(rsa_spki(modulus(751), 65537)), key(rsa_spki(modulus(2), 65537)), key(rsa_spki(ROCA, 65537))],
    ),
    Case("PT-VAL-MAX, S/MIME BR §6.3.2", lasting(824), [lasting(825, 1), lasting(826)]),
    Case("PT-VAL-MAX, DigiCert, S/MIME validity", lasting(824), [lasting(824, 1), lasting(825)]),
    Case(
        "PT-DN-META, S/MIME BR §7.1.4.2",
        [changed(SUBJECTS["sponsor"], SN="Null", CN=None), changed(SUBJECTS["sponsor"], SN="Na", CN=None)],
        [
            changed(SUBJECTS["sponsor"], L=value)
            for value in (".", "-", " - ", "", "n/a", "N/A", "Not applicable", "null", "??")
        ],
    ),
    Case(
        "PT-DN-COUNTRY, S/MIME BR §7.1.4.2.2(n)",
        changed(SUBJECTS["sponsor"], C="XX", orgId="LEIXG-529900T8BM49AURSDO55"),
        [changed(SUBJECTS["sponsor"], C=value) for value in ("UK", "de", "D", "ZZ")],
    ),
    Case(
        "PT-CA, S/MIME BR §7.1.2.3(d)",
        [same, no("2.5.29.19")],
        [ext(constraints(b"\x30\x03\x01\x01\xff")), ext(constraints(b"\x30\x03\x02\x01\x00"))],
    ),
    Case(
        "PT-CRITICAL, S/MIME BR §7.1.2.3",
        same,
        [
            ext(usage("digital_signature", critical=False)),
            ext(purposes("email", critical=True)),
            ext(san(email(MAIL), critical=True)),
        ],
    ),
    Case(
        "PT-CRITICAL, S/MIME BR §7.1.2.3",
        both(subject(), ext(san(email(MAIL), critical=True))),
        subject(),
        validation="mailbox",
    ),
    Case(
        "SM-EKU, S/MIME BR §7.1.2.3(f)",
        ext(purposes("email")),
        [
            ext(purposes("email", "client")),
            ext(purposes("client")),
            no("2.5.29.37"),
            ext(purposes("email", "1.3.6.1.4.1.311.10.3.12")),
        ],
    ),
    Case(
        "SM-EKU, S/MIME BR §7.1.2.3(f)",
        [ext(purposes("email")), ext(purposes("email", "client")), ext(purposes("email", "1.3.6.1.4.1.311.20.2.2"))],
        [*(ext(purposes("email", one)) for one in ("server", "code", "time", "ocsp", "any")), ext(purposes("client"))],
        generation="multipurpose",
    ),
    Case(
        "SM-EXT, S/MIME BR §7.1.2.3(j)",
        same,
        ext(RequestedExtension(ObjectIdentifier("2.5.29.9"), critical=False, value=b"\x30\x00")),
    ),
    Case(
        "SM-SAN-EMAIL, S/MIME BR §7.1.4.2.1",
        [
            same,
            ext(san(email("other@example.com"), email(MAIL))),
            ext(san(email(MAIL), directory(("CN", MAIL)))),
            both(changed(SUBJECTS["sponsor"], E=None), ext(san(other(SMTP_UTF8, "erikä@example.com")))),
        ],
        [
            no("2.5.29.17"),
            ext(san(directory(("CN", "Erika")))),
            ext(san(email("other@example.com"))),
            ext(san(email(MAIL), directory(("E", "boss@example.com")))),
            changed(SUBJECTS["sponsor"], CN="boss@example.com"),
            changed(SUBJECTS["sponsor"], CN="boss\uff20example.com"),
            changed(SUBJECTS["sponsor"], E="ERIKA@example.com"),
            changed(SUBJECTS["sponsor"], serialNumber="boss@example.com"),
        ],
    ),
    Case(
        "SM-SAN-TYPE, S/MIME BR §7.1.4.2.1",
        [
            same,
            ext(san(email(MAIL), other(SMTP_UTF8, "erikä@example.com"))),
            ext(san(email(MAIL), directory(("C", "DE")))),
        ],
        [
            ext(san(email(MAIL), one))
            for one in (
                dns("example.com"),
                uri("https://example.com/"),
                ip("192.0.2.1"),
                other(UPN, MAIL),
                b"\x88\x03\x2a\x03\x04",
                email("erika@"),
                email("Erika <erika@example.com>"),
                other(SMTP_UTF8, "ascii@example.com"),
            )
        ],
    ),
    Case(
        "SM-SAN-TYPE, S/MIME BR §7.1.4.2.1",
        [same, ext(san(email(MAIL), other(UPN, MAIL)))],
        [ext(san(email(MAIL), dns("example.com"))), ext(san(email(MAIL), ip("192.0.2.1")))],
        generation="multipurpose",
    ),
    Case(
        "SM-SAN-DOMAIN, S/MIME BR §3.2.2",
        ext(san(email(MAIL), email("a@sub.example.co.uk"))),
        [
            ext(san(email(MAIL), email(one)))
            for one in ("a@mail.internal", "a@localhost", "a@example.corp", "a@x.local")
        ],
    ),
    Case(
        "SM-DN-PLACE, S/MIME BR §7.1.4.2.2(j-m)",
        [same, changed(SUBJECTS["sponsor"], L=None)],
        changed(SUBJECTS["sponsor"], C=None),
    ),
    Case(
        "SM-DN-PLACE, S/MIME BR §7.1.4.2.2(j-m)",
        [
            changed(SUBJECTS["sponsor"], street="Hauptstr. 1", postalCode="50667"),
            changed(SUBJECTS["sponsor"], L=None, ST="NRW", street="Hauptstr. 1"),
        ],
        [
            changed(SUBJECTS["sponsor"], L=None, street="Hauptstr. 1"),
            changed(SUBJECTS["sponsor"], L=None, postalCode="50667"),
            changed(SUBJECTS["sponsor"], C=None, L=None, ST="NRW"),
        ],
        generation="multipurpose",
    ),
    Case(
        "SM-DN-ORGID, S/MIME BR §7.1.4.2.2(d)",
        [
            changed(SUBJECTS["sponsor"], orgId=one)
            for one in (
                "NTRDE-12345678",
                "VATDE-123456789",
                "PSDDE-BAFIN-1234",
                "LEIXG-529900T8BM49AURSDO55",
                "GOVDE",
                "GOVDE+NW",
                "INTXG",
                "NTRDE+NW-1",
            )
        ]
        + [
            changed(SUBJECTS["sponsor"], C="GR", orgId="VATEL-123456789"),
            changed(SUBJECTS["sponsor"], C="US", orgId="NTRUS+CA-12345678"),
        ],
        [
            changed(SUBJECTS["sponsor"], orgId=one)
            for one in (
                "12345678",
                "NTRDE",
                "NTR-1",
                "NTRZZ-1",
                "ntrDE-1",
                "VATDE+NW-1",
                "GOVDE-1",
                "INTDE",
                "LEIDE-529900T8BM49AURSDO55",
                "LEIXG-529900T8BM49AURSDO56",
                "LEIXG-123",
                "XXXDE-1",
                "NTRGB-12345678",
                "NTRDE-",
                "NTRDE-1\n",
            )
        ],
    ),
    Case(
        "SM-IND, S/MIME BR §7.1.4.2.5",
        [
            same,
            subject(*ORGANIZATION, ("SN", "Musterfrau")),
            subject(*ORGANIZATION, ("GN", "Erika")),
            subject(*ORGANIZATION, ("pseudonym", "Elster")),
        ],
        [
            subject(*ORGANIZATION),
            subject(*ORGANIZATION, *PERSON, ("pseudonym", "Elster")),
            subject(*ORGANIZATION, ("CN", MAIL)),
        ],
    ),
    Case(
        "SM-IND, S/MIME BR §7.1.4.2.6",
        [same, subject(("pseudonym", "Elster"))],
        [subject(("CN", MAIL)), subject(("GN", "Erika"), ("pseudonym", "Elster"))],
        validation="individual",
    ),
    Case(
        "SM-CN, S/MIME BR §7.1.4.2.2(a)",
        [same, subject(("CN", MAIL)), subject(E)],
        [subject(("CN", "Erika Musterfrau")), subject(("CN", "ERIKA@EXAMPLE.COM"))],
        validation="mailbox",
    ),
    Case(
        "SM-CN, S/MIME BR §7.1.4.2.2(a)",
        [same, changed(SUBJECTS["organization"], CN=MAIL), changed(SUBJECTS["organization"], CN=None)],
        [changed(SUBJECTS["organization"], CN="Other Ltd"), changed(SUBJECTS["organization"], CN="muster gmbh")],
        validation="organization",
    ),
    Case(
        "SM-CN, S/MIME BR §7.1.4.2.2(a)",
        [
            changed(SUBJECTS["sponsor"], CN=one)
            for one in ("Erika Musterfrau", "Musterfrau, Erika", "E. Musterfrau", "Musterfrau", MAIL, None)
        ]
        + [
            subject(*ORGANIZATION, ("CN", "Elster"), ("pseudonym", "Elster")),
            changed(SUBJECTS["sponsor"], title="Dr.", CN="Dr. Erika Musterfrau"),
        ],
        [
            changed(SUBJECTS["sponsor"], CN=one)
            for one in ("Max Mustermann", "Erika Mustermann", "Dr. Erika Musterfrau", "Muster GmbH", "E. M.", "CEO")
        ]
        + [subject(*ORGANIZATION, ("CN", "Erika"), ("pseudonym", "Elster"))],
    ),
    Case(
        "SM-CN, S/MIME BR §7.1.4.2.2(a)",
        [same, changed(SUBJECTS["individual"], CN=MAIL)],
        changed(SUBJECTS["individual"], CN="Somebody Else"),
        validation="individual",
    ),
    Case(
        "PT-POLICY, S/MIME BR §7.1.6.1",
        [same, no("2.5.29.32"), ext(policies("2.23.140.1.5.3.3", "2.16.840.1.114412.4.1.1"))],
        [
            ext(policies("2.23.140.1.5.3.2")),
            ext(policies("2.23.140.1.5.3.3", "2.23.140.1.5.1.3")),
            ext(policies("2.16.840.1.114412.4.1.1")),
            ext(policies("2.23.140.1.5.3.3", "2.5.29.32.0")),
            ext(policies("2.23.140.1.5.3.1")),
        ],
    ),
]
TLS = [
    Case(
        "PT-KEY-ALG, TLS BR §6.1.5",
        KEYS,
        [key("ed25519"), key("ml-dsa-65"), key(other_key("1.2.840.10045.2.1", b"\x06\x05\x2b\x81\x04\x00\x0a"))],
    ),
    Case("PT-KEY-SIZE, TLS BR §6.1.5", key("rsa-2048"), [key("rsa-1024"), key("rsa-2050")]),
    Case("PT-KEY-EXPONENT, TLS BR §6.1.6", key(rsa_spki(modulus(1), 3)), key(rsa_spki(modulus(1), 1))),
    Case(
        "PT-KEY-WEAK, TLS BR §6.1.1.3",
        key(rsa_spki(modulus(757), 65537)),
        [key(rsa_spki(modulus(751), 65537)), key(rsa_spki(ROCA, 65537))],
    ),
    Case(
        "PT-VAL-START, TLS BR §7.1.2.7",
        [starting(hours=-48), starting(hours=48)],
        [starting(hours=-48, seconds=-1), starting(hours=48, seconds=1)],
    ),
    Case(
        "PT-DN-META, TLS BR §7.1.4.2",
        changed(TLS_SUBJECTS["organization"], L="NRW"),
        changed(TLS_SUBJECTS["organization"], L="-"),
    ),
    Case(
        "PT-DN-COUNTRY, TLS BR §7.1.4.2",
        changed(TLS_SUBJECTS["organization"], C="XX"),
        changed(TLS_SUBJECTS["organization"], C="UK"),
    ),
    Case("PT-CA, TLS BR §7.1.2.7.8", no("2.5.29.19"), ext(constraints(b"\x30\x03\x01\x01\xff"))),
    Case(
        "PT-CRITICAL, TLS BR §7.1.2.7.6",
        same,
        [
            ext(usage("digital_signature", critical=False)),
            ext(constraints(critical=False)),
            ext(purposes("server", critical=True)),
            ext(policies("2.23.140.1.2.2", critical=True)),
            ext(san(dns("www.example.com"), critical=True)),
        ],
    ),
    Case(
        "PT-CRITICAL, TLS BR §7.1.2.7.6",
        both(subject(), ext(san(dns("www.example.com"), critical=True))),
        subject(),
        validation="domain",
    ),
    Case(
        "PT-POLICY, TLS BR §7.1.2.7.9",
        [same, no("2.5.29.32"), ext(policies("2.23.140.1.2.2", "2.16.840.1.114412.1.1"))],
        [
            ext(policies("2.23.140.1.2.1")),
            ext(policies("2.23.140.1.2.2", "2.23.140.1.1")),
            ext(policies("2.5.29.32.0")),
        ],
    ),
    Case("PT-POLICY, TLS BR §7.1.2.7.9", same, ext(policies("2.23.140.1.2.2")), validation="domain"),
    Case("PT-POLICY, TLS BR §7.1.2.7.9", same, ext(policies("2.23.140.1.2.2")), validation="individual"),
    Case(
        "TLS-EKU, TLS BR §7.1.2.7.10",
        [same, ext(purposes("server", "client"))],
        [
            *(ext(purposes("server", one)) for one in ("email", "code", "time", "ocsp", "any", "1.2.3.4")),
            ext(purposes("client")),
            no("2.5.29.37"),
        ],
    ),
    Case(
        "TLS-KU, TLS BR §7.1.2.7.11",
        [
            same,
            no("2.5.29.15"),
            ext(usage("digital_signature", "key_agreement")),
            both(KEYS[3], ext(usage("digital_signature", "key_encipherment"))),
            both(KEYS[3], ext(usage("key_encipherment", "data_encipherment"))),
        ],
        [
            ext(usage("key_agreement")),
            ext(usage("digital_signature", "key_encipherment")),
            ext(usage("digital_signature", "non_repudiation")),
            both(KEYS[3], ext(usage("digital_signature", "non_repudiation"))),
            both(KEYS[3], ext(usage("key_agreement"))),
            ext(usage("digital_signature", "key_cert_sign")),
            ext(usage("digital_signature", "crl_sign")),
        ],
    ),
    Case(
        "TLS-SAN, TLS BR §7.1.2.7.12",
        [same, ext(san(dns("www.example.com"), ip("8.8.8.8"), ip("2606:4700::1111")))],
        [
            no("2.5.29.17"),
            *(
                ext(san(dns("www.example.com"), one))
                for one in (
                    email(MAIL),
                    uri("https://www.example.com/"),
                    other(UPN, MAIL),
                    directory(("CN", "x")),
                    b"\x88\x03\x2a\x03\x04",
                )
            ),
        ],
    ),
    Case(
        "TLS-SAN-SYNTAX, TLS BR §7.1.2.7.12",
        [
            ext(san(dns("www.example.com"), dns(one)))
            for one in ("*.example.com", "xn--mnchen-3ya.de", "a-b.example.com")
        ],
        [
            ext(san(dns("www.example.com"), dns(one)))
            for one in (
                "www.example.com.",
                "a_b.example.com",
                "-a.example.com",
                "ab--cd.example.com",
                "w*.example.com",
                "www.*.example.com",
                "a..example.com",
                "www.example.com\0.example.org",
                f"{'a' * 64}.example.com",
                "xn--\u0061\u0061\u0061-.example.com",
                " www.example.com",
                "1.2.3.4",
            )
        ],
    ),
    Case(
        "TLS-SAN-INTERNAL, TLS BR §4.2.2",
        ext(san(dns("www.example.com"), dns("example.co.uk"), dns("x.xn--p1ai"))),
        [
            ext(san(dns("www.example.com"), dns(one)))
            for one in ("intranet", "mail.local", "x.internal", "server.corp", "*.lan")
        ],
    ),
    Case(
        "TLS-SAN-REVERSE, TLS BR §4.2.2",
        ext(san(dns("www.example.com"), dns("in-addr.arpa.example.com"))),
        [
            ext(san(dns("www.example.com"), dns(one)))
            for one in ("1.2.0.192.in-addr.arpa", "in-addr.arpa", "8.b.d.0.1.0.0.2.IP6.ARPA")
        ],
    ),
    Case(
        "TLS-SAN-IP, TLS BR §4.2.2",
        ext(san(dns("www.example.com"), ip("8.8.8.8"))),
        [
            ext(san(dns("www.example.com"), ip(one)))
            for one in (
                "10.0.0.1",
                "192.168.1.1",
                "127.0.0.1",
                "192.0.2.1",
                "100.64.0.1",
                "224.0.0.1",
                "0.0.0.0",
                "255.255.255.255",
                "::1",
                "fd00::1",
                "fe80::1",
                "2001:db8::1",
                "ff02::1",
                "::",
            )
        ]
        + [ext(san(dns("www.example.com"), b"\x87\x05\x08\x08\x08\x08\x08"))],
    ),
    Case(
        "TLS-SAN-WILDCARD, TLS BR §3.2.2.6",
        [ext(san(dns("www.example.com"), dns(one))) for one in ("*.example.co.uk", "*.example.com")],
        [ext(san(dns("www.example.com"), dns(one))) for one in ("*.co.uk", "*.CO.UK", "*.gov.uk")],
    ),
    Case(
        "TLS-DN, TLS BR §7.1.2.7.2",
        [same, subject(("C", "DE"), ("CN", "www.example.com"))],
        [subject(("C", "DE"), (type_, "Muster")) for type_ in ("O", "OU", "L", "GN", "serialNumber", "orgId")],
        validation="domain",
    ),
    Case(
        "TLS-DN, TLS BR §7.1.2.7.4",
        [
            same,
            subject(("C", "DE"), ("ST", "NRW"), ("O", "Muster GmbH")),
            subject(("DC", "com"), ("DC", "example"), ("C", "DE"), ("L", "Köln"), ("O", "Muster GmbH")),
        ],
        [changed(TLS_SUBJECTS["organization"], **{type_: None}) for type_ in ("C", "O", "L")]
        + [
            subject(("C", "DE"), ("L", "Köln"), ("O", "Muster GmbH"), (type_, "Muster")) for type_ in ("OU", "GN", "SN")
        ],
    ),
    Case(
        "TLS-DN, TLS BR §7.1.2.7.3",
        same,
        [changed(TLS_SUBJECTS["individual"], **{type_: None}) for type_ in ("C", "L", "SN", "GN")]
        + [changed(TLS_SUBJECTS["individual"], CN=None, OU="x")],
        validation="individual",
    ),
    Case(
        "TLS-DN-ORDER, TLS BR §7.1.4.2",
        [
            same,
            subject(("C", "DE"), ("ST", "NRW"), ("L", "Köln"), ("street", "a"), ("street", "b"), ("O", "Muster GmbH")),
        ],
        [
            subject(("CN", "www.example.com"), *TLS_SUBJECTS["organization"][:3]),
            subject(("C", "DE"), ("L", "Köln"), ("ST", "NRW"), ("O", "Muster GmbH")),
            subject(("C", "DE"), ("L", "Köln"), ("L", "Bonn"), ("O", "Muster GmbH")),
        ],
    ),
    Case(
        "TLS-DN-RDN, TLS BR §7.1.4.2",
        same,
        subject(("C", "DE"), ("L", "Köln"), [("O", "Muster GmbH"), ("CN", "www.example.com")]),
    ),
    Case(
        "TLS-CN, TLS BR §7.1.4.3",
        [
            same,
            changed(TLS_SUBJECTS["organization"], CN="example.com"),
            changed(TLS_SUBJECTS["organization"], CN=None),
            both(changed(TLS_SUBJECTS["organization"], CN="2606:4700::1111"), ext(san(ip("2606:4700::1111")))),
        ],
        [
            changed(TLS_SUBJECTS["organization"], CN=one)
            for one in ("WWW.example.com", "other.example.com", "Muster GmbH", "8.8.8.8", "www.example.com ")
        ],
    ),
]


def changes_of(case: Case, which: str) -> list[Change]:
    found = getattr(case, which)
    return found if isinstance(found, list) else [found]


def refused(findings: list[Finding]) -> dict[str, str]:
    return {finding.rule: finding.text for finding in findings if not finding.ok}


@pytest.mark.parametrize("case", SMIME, ids=str)
def test_smime(case: Case) -> None:
    base = smime(case.validation, case.generation, case.used_for)
    for number, change in enumerate(changes_of(case, "good")):
        found = check_smime(change(base), case.validation, case.generation, case.used_for)
        assert refused(found) == {}, f"accept case {number}"
        assert case.rule in {finding.rule for finding in found}
    for number, change in enumerate(changes_of(case, "bad")):
        found = check_smime(change(base), case.validation, case.generation, case.used_for)
        assert case.rule in refused(found), f"refuse case {number}"


@pytest.mark.parametrize("case", TLS, ids=str)
def test_tls(case: Case) -> None:
    validation = "organization" if case.validation == "sponsor" else case.validation
    base = tls(validation)
    for number, change in enumerate(changes_of(case, "good")):
        found = check_tls(change(base), validation)
        assert refused(found) == {}, f"accept case {number}"
        assert case.rule in {finding.rule for finding in found}
    for number, change in enumerate(changes_of(case, "bad")):
        assert case.rule in refused(check_tls(change(base), validation)), f"refuse case {number}"


# S/MIME BR §7.1.4.2.3 to §7.1.4.2.6: X is SHALL NOT, R is SHALL, o is MAY; strict / multipurpose
TABLE = {
    #                mailbox  organization  sponsor  individual
    "O":            ("X X",   "R R",        "R R",   "X X"),
    "orgId":        ("X X",   "R R",        "R R",   "X X"),
    "OU":           ("X X",   "o o",        "o o",   "X X"),
    "GN":           ("X X",   "X X",        "o o",   "o o"),
    "SN":           ("X X",   "X X",        "o o",   "o o"),
    "pseudonym":    ("X X",   "X X",        "o o",   "o o"),
    "serialNumber": ("o o",   "o o",        "o o",   "o o"),
    "E":            ("o o",   "o o",        "o o",   "o o"),
    "title":        ("X X",   "X X",        "o o",   "o o"),
    "street":       ("X X",   "X o",        "X o",   "X o"),
    "postalCode":   ("X X",   "X o",        "X o",   "X o"),
    "L":            ("X X",   "o o",        "o o",   "o o"),
    "ST":           ("X X",   "o o",        "o o",   "o o"),
    "C":            ("X X",   "o o",        "o o",   "o o"),
    "UID":          ("X X",   "X X",        "X X",   "X X"),
    "DC":           ("X X",   "X X",        "X X",   "X X"),
}  # fmt: skip
VALUES = {"E": MAIL, "orgId": "NTRDE-DER3306.HRB123456", "C": "DE"}
CLAUSES = {"mailbox": 3, "organization": 4, "sponsor": 5, "individual": 6}


@pytest.mark.parametrize("generation", ["strict", "multipurpose"])
@pytest.mark.parametrize("validation", CLAUSES)
@pytest.mark.parametrize("attribute", TABLE)
def test_the_table_of_attributes(attribute: str, validation: str, generation: str) -> None:
    verdict = TABLE[attribute][list(CLAUSES).index(validation)].split()[("strict", "multipurpose").index(generation)]
    rule = f"SM-DN-{validation.upper()}, S/MIME BR §7.1.4.2.{CLAUSES[validation]}"
    pairs = [pair for pair in SUBJECTS[validation] if pair[0] not in {"CN", "E"}]
    without = [pair for pair in pairs if pair[0] != attribute]
    with_ = [*without, (attribute, VALUES.get(attribute, "Value"))]
    base = smime(validation, generation)
    for subject_, kept in ((with_, verdict != "X"), (without, verdict != "R")):
        found = check_smime(replace(base, subject=name(subject_)), validation, generation)
        assert (rule in refused(found)) != kept, (attribute, subject_)
    if verdict == "X":
        inside = with_extension(base, san(email(MAIL), directory((attribute, VALUES.get(attribute, "Value")))))
        assert rule in refused(check_smime(inside, validation, generation)), "in a directory name"


# S/MIME BR §7.1.2.3(e): required, allowed with strict, allowed with multipurpose besides
SIGNING = ("digital_signature", "non_repudiation")
KEY_USAGES = {
    ("rsa-2048", "signing"): ("digital_signature", SIGNING, ()),
    ("rsa-2048", "key_management"): ("key_encipherment", ("key_encipherment",), ("data_encipherment",)),
    ("rsa-2048", "dual_use"): (
        "digital_signature key_encipherment",
        (*SIGNING, "key_encipherment"),
        ("data_encipherment",),
    ),
    ("P-256", "signing"): ("digital_signature", SIGNING, ()),
    ("P-256", "key_management"): ("key_agreement", ("key_agreement", "encipher_only", "decipher_only"), ()),
    ("P-256", "dual_use"): (
        "digital_signature key_agreement",
        (*SIGNING, "key_agreement", "encipher_only", "decipher_only"),
        (),
    ),
    ("ed25519", "signing"): ("digital_signature", SIGNING, ()),
    ("ed448", "signing"): ("digital_signature", SIGNING, ()),
}
ALL_USAGES = (
    *SIGNING,
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@pytest.mark.parametrize("generation", ["strict", "multipurpose"])
@pytest.mark.parametrize(("key_type", "used_for"), KEY_USAGES)
def test_the_table_of_key_usages(key_type: str, used_for: str, generation: str) -> None:
    rule = "SM-KU, S/MIME BR §7.1.2.3(e)"
    needed, strict, more = KEY_USAGES[key_type, used_for]
    required = needed.split()
    allowed = {*strict, *(more if generation == "multipurpose" else ())}
    base = smime("sponsor", generation, used_for, key_type)
    for one in ALL_USAGES:
        found = check_smime(with_extension(base, usage(*{*required, one})), "sponsor", generation, used_for)
        assert (rule in refused(found)) == (one not in allowed), one
    for one in required:
        left = set(ALL_USAGES[:1] if one != "digital_signature" else ["non_repudiation"]) & allowed | set(required) - {
            one
        }
        found = check_smime(with_extension(base, usage(*left)), "sponsor", generation, used_for)
        assert rule in refused(found), f"without {one}"
    assert rule in refused(check_smime(without_extension(base, "2.5.29.15"), "sponsor", generation, used_for))


@pytest.mark.parametrize("used_for", ["key_management", "dual_use"])
def test_edwards_keys_sign_only(used_for: str) -> None:
    request = replace(smime(used_for=used_for), spki=spki("ed25519"))
    request = with_extension(request, usage(*FITTING["signing"]["edwards"]))
    assert "SM-KU, S/MIME BR §7.1.2.3(e)" in refused(check_smime(request, used_for=used_for))


def test_encipher_only_and_decipher_only_exclude_each_other() -> None:
    both_ = with_extension(smime(used_for="key_management"), usage("key_agreement", "encipher_only", "decipher_only"))
    assert broken(check_smime(both_, used_for="key_management")) == {"SM-KU"}


def at(year: int, month: int, day: int, *, before: bool = False) -> datetime:
    """Midnight, or the second before it."""
    return datetime(year, month, day, tzinfo=UTC) - timedelta(seconds=1 if before else 0)


@pytest.mark.parametrize(
    ("now", "days", "rule"),
    [
        (at(2026, 2, 24, before=True), 397, "PT-VAL-MAX, DigiCert, TLS validity"),
        (at(2026, 2, 24), 199, "PT-VAL-MAX, DigiCert, TLS validity"),
        (at(2026, 3, 15, before=True), 199, "PT-VAL-MAX, DigiCert, TLS validity"),
        (at(2026, 3, 15, before=True), 398, "PT-VAL-MAX, TLS BR §6.3.2"),
        (at(2026, 3, 15), 200, "PT-VAL-MAX, TLS BR §6.3.2"),
        (at(2027, 3, 15, before=True), 200, "PT-VAL-MAX, TLS BR §6.3.2"),
        (at(2027, 3, 15, before=True), 199, "PT-VAL-MAX, DigiCert, TLS validity"),
        (at(2027, 3, 15), 100, "PT-VAL-MAX, TLS BR §6.3.2"),
        (at(2027, 3, 15), 99, "PT-VAL-MAX, DigiCert, TLS validity"),
        (at(2029, 3, 15, before=True), 100, "PT-VAL-MAX, TLS BR §6.3.2"),
        (at(2029, 3, 15), 47, "PT-VAL-MAX, TLS BR §6.3.2"),
        (at(2029, 3, 15), 46, "PT-VAL-MAX, DigiCert, TLS validity"),
    ],
)
def test_the_longest_validity_of_the_day(now: datetime, days: int, rule: str) -> None:
    """notAfter is included, and a second more is a day more."""
    assert rule not in refused(check_tls(tls(days=days, now=now), now=now))
    found = refused(check_tls(tls(days=days, seconds=1, now=now), now=now))
    assert found[rule] == f"{days + 1} days are more than {days}"


@pytest.mark.parametrize(
    ("day", "longest"),
    [((2026, 2, 23), 397), ((2026, 2, 24), 199), ((2027, 3, 14), 199), ((2027, 3, 15), 99), ((2029, 3, 15), 46)],
)
def test_max_validity_is_what_check_accepts(day: tuple[int, int, int], longest: int) -> None:
    now = at(*day)
    assert rules.max_validity("tls", None, now.date()) == timedelta(days=longest)
    assert refused(check_tls(tls(days=longest, now=now), now=now)) == {}
    assert broken(check_tls(tls(days=longest, seconds=1, now=now), now=now)) == {"PT-VAL-MAX"}


def test_max_validity_of_smime() -> None:
    assert rules.max_validity("smime", "strict", NOW.date()) == timedelta(days=824)
    assert rules.max_validity("smime", None, NOW.date()) == timedelta(days=824)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (at(2027, 3, 1, before=True), set()),
        (at(2027, 3, 1), {"TLS-EKU-CLIENT, DigiCert, end of clientAuth"}),
        (at(2027, 3, 15, before=True), {"TLS-EKU-CLIENT, DigiCert, end of clientAuth"}),
        (
            at(2027, 3, 15),
            {
                "TLS-EKU-CLIENT, DigiCert, end of clientAuth",
                "TLS-EKU-CLIENT, Chrome Root Program, end of clientAuth",
            },
        ),
    ],
)
def test_the_end_of_client_auth(now: datetime, expected: set[str]) -> None:
    with_client = with_extension(tls(now=now), purposes("server", "client"))
    assert refused(check_tls(with_client, now=now)).keys() == expected
    assert refused(check_tls(tls(now=now), now=now)) == {}
    multipurpose = with_extension(smime(generation="multipurpose", now=now), purposes("email", "client"))
    assert refused(check_smime(multipurpose, generation="multipurpose", now=now)) == {}


def test_the_end_of_the_legacy_generation() -> None:
    rule = "SM-GEN, S/MIME BR §7.1.6.1"
    for now, gone in ((at(2025, 7, 15, before=True), False), (at(2025, 7, 15), True)):
        request = without_extension(smime(generation="multipurpose", days=1185, now=now), "2.5.29.32")
        found = refused(check_smime(request, generation="legacy", now=now))
        assert (rule in found) == gone
        assert set(found) <= {rule}
        longer = replace(request, not_after=request.not_after + timedelta(seconds=1))
        assert "PT-VAL-MAX, S/MIME BR §6.3.2" in refused(check_smime(longer, generation="legacy", now=now))
    for generation in ("strict", "multipurpose"):
        findings = check_smime(smime(generation=generation), generation=generation)
        assert [one.ok for one in findings if one.rule == rule] == [True]


@pytest.mark.parametrize(("now", "refuses"), [(at(2026, 3, 15, before=True), False), (at(2026, 3, 15), True)])
def test_reverse_zones_since(now: datetime, *, refuses: bool) -> None:
    request = with_extension(tls(now=now), san(dns("www.example.com"), dns("1.2.0.192.in-addr.arpa")))
    assert ("TLS-SAN-REVERSE" in broken(check_tls(request, now=now))) == refuses


def test_days_are_those_of_utc() -> None:
    """Half past midnight in Berlin, on the day that is yesterday in Greenwich."""
    now = datetime(2027, 3, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    request = with_extension(tls(now=now), purposes("server", "client"))
    assert broken(check_tls(request, now=now)) == set()
    assert broken(check_tls(request, now=now + timedelta(hours=1))) == {"TLS-EKU-CLIENT"}


def test_post_quantum_keys_are_behind_a_switch() -> None:
    rule = next(
        rule for rule in rules.rules("smime", "sponsor", "strict", "signing", NOW.date()) if rule.id == "PT-KEY-ALG"
    )
    assert rule.values["accept_post_quantum"] is False
    on = replace(rule, values={**rule.values, "accept_post_quantum": True})
    from cmpd.profile.rules.certificate import Certificate
    from cmpd.profile.rules.request import prepare

    request = Certificate(replace(smime(), spki=spki("ml-dsa-65")), NOW)
    assert prepare(rule, "sponsor", "strict")(request) == "ml-dsa-65 keys are not accepted"
    assert prepare(on, "sponsor", "strict")(request) is None


@pytest.mark.parametrize("validation", ["domain", "organization", "individual"])
def test_the_type_of_a_server_certificate_is_told_from_its_subject(validation: str) -> None:
    assert check_tls(tls(validation), None) == check_tls(tls(validation), validation)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "smime", "validation_type": "domain"},
        {"kind": "smime", "validation_type": None},
        {"kind": "tls", "validation_type": "sponsor"},
        {"kind": "smime", "validation_type": "sponsor", "generation": "future"},
        {"kind": "smime", "validation_type": "sponsor", "usage": "any"},
        {"kind": "code", "validation_type": None},
    ],
)
def test_what_there_are_no_rules_for_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no rules"):
        rules.check(smime(), **{"generation": None, "usage": None, "now": NOW, **wrong})


def test_a_refusal_of_the_algorithm_is_bad_alg() -> None:
    (algorithm,) = (
        one for one in check_smime(replace(smime(), spki=other_key("1.2.3"))) if one.rule.startswith("PT-KEY-ALG")
    )
    assert not algorithm.ok
    assert rules.refusal(algorithm) is BadAlg
    (email_,) = (
        one for one in check_smime(without_extension(smime(), "2.5.29.17")) if one.rule.startswith("SM-SAN-EMAIL")
    )
    assert rules.refusal(email_) is BadCertTemplate


def test_a_refusal_quotes_hostile_text_harmlessly() -> None:
    request = replace(smime(), subject=name([*ORGANIZATION, ("SN", "x"), ("CN", "\u202e\x00evil\x1b[31m")]))
    (text,) = (text for rule, text in refused(check_smime(request)).items() if rule.startswith("SM-CN"))
    assert text.isprintable()
    assert "\\u{202e}\\u{0}evil" in text


def test_each_rule_has_an_accept_and_a_refuse_case() -> None:
    """A rule that is added to the data needs its cases here."""
    elsewhere = {
        "SM-GEN": "test_the_end_of_the_legacy_generation",
        "SM-KU": "test_the_table_of_key_usages",
        "TLS-EKU-CLIENT": "test_the_end_of_client_auth",
        **{f"SM-DN-{validation.upper()}": "test_the_table_of_attributes" for validation in CLAUSES},
    }
    assert all(test in globals() for test in elsewhere.values())
    tried = {case.rule for case in (*SMIME, *TLS) if changes_of(case, "good") and changes_of(case, "bad")}
    dated = {"PT-VAL-MAX, TLS BR §6.3.2", "PT-VAL-MAX, DigiCert, TLS validity"}
    legacy = {"SM-IND, S/MIME BR §7.1.4.2.2(f)"}
    known = {
        rule.name
        for kind, types in (("smime", CLAUSES), ("tls", ("domain", "organization", "individual")))
        for validation in types
        for generation in ("strict", "multipurpose", "legacy")
        for used_for in FITTING
        for day in (NOW.date(), *rules.changes())
        for rule in rules.rules(kind, validation, generation, used_for, day)
        if rule.id not in elsewhere
    }
    assert known == tried | dated | legacy


def test_every_policy_is_told_from_every_other() -> None:
    for (validation, generation), oid in SMIME_POLICIES.items():
        for other_ in SMIME_POLICIES.values():
            request = with_extension(smime(validation, generation), policies(other_))
            found = broken(check_smime(request, validation, generation))
            assert found == (set() if other_ == oid else {"PT-POLICY"})


def test_a_request_of_nothing_breaks_rules_and_nothing_else() -> None:
    bare = approved(name([]), spki(), ())
    assert broken(check_smime(bare)) == {"SM-EKU", "SM-KU", "SM-SAN-EMAIL", "SM-DN-SPONSOR", "SM-IND"}
    assert broken(check_tls(bare)) == {"TLS-EKU", "TLS-SAN", "TLS-DN"}


@pytest.mark.parametrize(
    "change",
    [
        key(b"\x30\x03\x02\x01"),
        lambda request: replace(request, subject=b"\x30\x05\x31\x7f\x00\x00\x00"),
        ext(RequestedExtension(ObjectIdentifier("2.5.29.17"), critical=False, value=b"\x30\x02\x81\x7f")),
        ext(RequestedExtension(ObjectIdentifier("2.5.29.15"), critical=True, value=b"\x04\x00")),
        ext(RequestedExtension(ObjectIdentifier("2.5.29.37"), critical=False, value=b"\x30\x01")),
        ext(RequestedExtension(ObjectIdentifier("2.5.29.32"), critical=False, value=b"\x30\x02\x05\x00")),
    ],
)
def test_octets_that_are_not_der_are_malformed(change: Change) -> None:
    with pytest.raises(MalformedError):
        check_smime(change(smime()))


def test_names_that_are_not_ascii_are_refused_and_not_read() -> None:
    request = with_extension(smime(), san(email(MAIL), b"\x81\x04a@\xc3\xa4"))
    assert broken(check_smime(request)) == {"SM-SAN-TYPE", "SM-SAN-DOMAIN"}
    request = with_extension(tls(), san(dns("www.example.com"), b"\x82\x07\xc3\xa4.com\x00"))
    assert broken(check_tls(request)) == {"TLS-SAN-SYNTAX", "TLS-SAN-INTERNAL"}


def test_ten_thousand_names_are_each_looked_at() -> None:
    hosts = [dns(f"host-{number}.example.com") for number in range(10_000)]
    request = with_extension(tls(), san(dns("www.example.com"), *hosts, dns("intranet")))
    assert broken(check_tls(request)) == {"TLS-SAN-INTERNAL"}
