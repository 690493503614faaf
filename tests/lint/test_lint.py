"""The linter before signing: what the local CA would sign for a conforming request is clean, and faults are found."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from cmpd import lint
from cmpd.exchange import Approved, RequestedExtension
from cmpd.issuers.local import LocalIssuer, create_ca
from cmpd.ports import Issuer
from cmpd.profile import ProfileConfig, rules
from tests.lint.noted import NOTED, TLS_NOTED
from tests.rules import requests
from tests.rules.requests import MAIL, name, purposes, san, uri, usage, with_extension, without_extension

NOW = datetime.now(UTC).replace(microsecond=0)
KEYS = ("P-256", "P-384", "rsa-2048")
USAGES = ("signing", "key_management", "dual_use")


@pytest.fixture(scope="module")
def make_issuer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LocalIssuer]:
    """The local CA of a key type, with all the URLs that public CAs have."""
    made: dict[str, LocalIssuer] = {}

    def make(key_type: str = "ec-p256") -> LocalIssuer:
        if key_type not in made:
            ca = create_ca(tmp_path_factory.mktemp(key_type) / "ca", key_type=key_type)
            table = ca.table(ca.directory) | {"ca_issuers_url": "http://cmp.example.com/issuing.cer"}
            made[key_type] = LocalIssuer.from_config(table, ca.directory, "http://cmp.example.com", "local")
        return made[key_type]

    return make


async def both(issuer: LocalIssuer, request: Approved) -> tuple[bytes, bytes]:
    """The preview, and what is issued."""
    return await issuer.preview(request), (await issuer.issue(request)).der


def codes(findings: list[lint.LintFinding]) -> set[str]:
    return {finding.code for finding in findings}


@pytest.mark.parametrize("generation", ["strict", "multipurpose"])
@pytest.mark.parametrize("validation", ["mailbox", "organization", "sponsor", "individual"])
@pytest.mark.parametrize("used_for", USAGES)
async def test_smime_certificates_are_clean(
    make_issuer: Callable[[str], LocalIssuer], validation: str, generation: str, used_for: str
) -> None:
    for key in KEYS:
        request = requests.smime(validation, generation, used_for, key, now=NOW)
        for certificate in await both(make_issuer("ec-p256"), request):
            found = lint.lint(certificate, "smime", validation_type=validation, generation=generation)
            assert codes(found) <= NOTED, found
            assert lint.lint(certificate, "smime") == found, "the type is told from the policy"


@pytest.mark.parametrize("generation", ["strict", "multipurpose"])
async def test_smime_certificates_of_edwards_keys_are_clean(
    make_issuer: Callable[[str], LocalIssuer], generation: str
) -> None:
    for key in ("ed25519", "ed448"):
        request = requests.smime("mailbox", generation, "signing", key, now=NOW)
        found = lint.lint(await make_issuer("ec-p384").preview(request), "smime")
        assert codes(found) <= NOTED, found


async def test_p521_is_noted_and_no_error(make_issuer: Callable[[str], LocalIssuer]) -> None:
    """The S/MIME BR has P-521, pkilint does not."""
    certificate = await make_issuer("ec-p521").preview(requests.smime(key="P-521", now=NOW))
    found = lint.lint(certificate, "smime")
    assert {one.code for one in found if one.severity is lint.Severity.warning} == {
        "cabf.smime.prohibited_spki_algorithm_encoding",
        "cabf.smime.prohibited_signature_algorithm_encoding",
    }
    assert lint.complaint(found) == ""
    rsa = requests.smime(key="rsa-2048", now=NOW)
    found = lint.lint(
        await make_issuer("ml-dsa-44").preview(replace(rsa, spki=requests.other_key("1.2.840.113549.1.1.10"))), "smime"
    )
    assert "cabf.smime.prohibited_spki_algorithm_encoding" in lint.complaint(found)


@pytest.mark.parametrize("validation", ["domain", "organization", "individual"])
async def test_server_certificates_are_clean(make_issuer: Callable[[str], LocalIssuer], validation: str) -> None:
    for key in (*KEYS, "P-521"):
        for certificate in await both(make_issuer("rsa-2048"), requests.tls(validation, key, now=NOW)):
            found = lint.lint(certificate, "tls", validation_type=validation)
            assert codes(found) <= TLS_NOTED, found
            assert lint.complaint(found) == ""
            assert lint.lint(certificate, "tls") == found, "the type is told from the policy"


@pytest.mark.parametrize("key_type", ["ec-p256", "rsa-2048", "ed25519", "ml-dsa-44"])
async def test_device_certificates_are_clean(make_issuer: Callable[[str], LocalIssuer], key_type: str) -> None:
    request = requests.approved(
        requests.name([("CN", "device-1"), ("serialNumber", "4711")]),
        requests.spki("P-256"),
        (
            requests.constraints(),
            requests.usage("digital_signature"),
            requests.purposes("client"),
            requests.san(
                requests.dns("device-1.internal"), requests.uri("urn:uuid:00000000-0000-4000-8000-000000000000")
            ),
        ),
        now=NOW,
    )
    for certificate in await both(make_issuer(key_type), request):
        found = lint.lint(certificate, "pkix")
        assert codes(found) <= NOTED | {"pkix.invalid_uri_syntax"}, found
        assert lint.complaint(found) == ""


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda one: with_extension(one, purposes("email", "client")), "cabf.smime.prohibited_eku_present"),
        (lambda one: with_extension(one, usage("key_agreement", "crl_sign")), "cabf.smime.prohibited_ku_present"),
        (lambda one: with_extension(one, san(uri("https://x.com/"))), "cabf.smime.san_does_not_contain_email_address"),
        (lambda one: without_extension(one, "2.5.29.32"), "cabf.smime.certificate_policies_extension_missing"),
        (lambda one: replace(one, subject=name([("O", "Muster GmbH")])), "cabf.smime.missing_required_attribute"),
    ],
)
async def test_faults_of_smime_certificates_are_found(
    make_issuer: Callable[[str], LocalIssuer], spoil: Callable[[Approved], Approved], code: str
) -> None:
    request = spoil(requests.smime("sponsor", "strict", "dual_use", now=NOW))
    found = await lint.lint_preview(
        make_issuer("ec-p256"), request, "smime", validation_type="sponsor", generation="strict"
    )
    assert code in codes([one for one in found if one.is_serious]), found
    assert code in lint.complaint(found)


async def test_faults_of_server_certificates_are_found(make_issuer: Callable[[str], LocalIssuer]) -> None:
    request = requests.tls(now=NOW, days=201)
    request = requests.with_extension(request, requests.san(requests.dns("intranet"), requests.email(MAIL)))
    found = await lint.lint_preview(make_issuer("ec-p256"), request, "tls", validation_type="organization")
    assert codes([one for one in found if one.is_serious]) >= {
        "cabf.serverauth.prohibited_san_type",
        "cabf.serverauth.certificate_validity_period_exceeds_200_days",
        "cabf.internal_domain_name",
        "cabf.serverauth.subscriber_common_name_unknown_source",
    }
    assert [one.severity for one in found] == sorted((one.severity for one in found), key=list(lint.Severity).index)


async def test_faults_of_any_certificate_are_found(make_issuer: Callable[[str], LocalIssuer]) -> None:
    request = requests.approved(requests.name([("C", "Germany")]), requests.spki(), (), now=NOW)
    assert any(one.is_serious for one in lint.lint(await make_issuer("ec-p256").preview(request), "pkix"))


def test_what_is_no_certificate_is_a_fatal_finding() -> None:
    (finding,) = lint.lint(b"\x30\x03\x02\x01\x00", "pkix")
    assert finding.severity is lint.Severity.fatal
    assert lint.complaint([finding]) == "lint: certificate (cmpd.not_a_certificate)"


def test_a_complaint_names_each_finding_once_and_five_at_most() -> None:
    findings = [lint.LintFinding(lint.Severity.error, f"code.{n % 7}", "", "san.0") for n in range(20)]
    shown = ", ".join(f"san.0 (code.{n})" for n in range(5))
    assert lint.complaint(findings) == f"lint: {shown} and 2 more"
    assert lint.complaint(findings[:2]) == "lint: san.0 (code.0), san.0 (code.1)"
    assert lint.complaint([lint.LintFinding(lint.Severity.warning, "code", "")]) == ""


@pytest.mark.parametrize("size", [1, 100, 120, 200, 400])
def test_a_complaint_is_never_long(size: int) -> None:
    findings = [lint.LintFinding(lint.Severity.error, f"{n}{'x' * size}", "", "subject") for n in range(9)]
    text = lint.complaint(findings)
    assert len(text) < 500
    assert text.count("(") + int(text.split()[-2]) == 9


async def test_a_complaint_names_the_field(make_issuer: Callable[[str], LocalIssuer]) -> None:
    request = requests.tls(now=NOW, days=201)
    request = with_extension(request, san(requests.dns("intranet"), requests.email(MAIL)))
    found = await lint.lint_preview(make_issuer("ec-p256"), request, "tls", validation_type="organization")
    fields = {one.code: one.field for one in found if one.is_serious}
    assert fields["cabf.serverauth.prohibited_san_type"] == "subjectAltName.1"
    assert fields["cabf.internal_domain_name"] == "subjectAltName.0"
    assert fields["cabf.serverauth.subscriber_common_name_unknown_source"] == "subject.x520CommonName"
    assert fields["cabf.serverauth.certificate_validity_period_exceeds_200_days"] == "validity.notBefore"
    text = lint.complaint(found)
    assert "subjectAltName.1 (cabf.serverauth.prohibited_san_type)" in text
    assert len(text) < 500


@pytest.mark.parametrize("key_type", ["ec-p256", "ec-p521", "rsa-2048", "ed25519", "ml-dsa-44"])
async def test_a_preview_is_the_certificate_without_the_cas_signature(
    make_issuer: Callable[[str], LocalIssuer], key_type: str
) -> None:
    issuer = make_issuer(key_type)
    assert isinstance(issuer, lint.Previewer)
    assert isinstance(issuer, Issuer)
    preview, issued = map(x509.load_der_x509_certificate, await both(issuer, requests.smime(now=NOW)))
    assert preview.signature_algorithm_oid == issued.signature_algorithm_oid
    assert len(preview.signature) in range(len(issued.signature) - 4, len(issued.signature) + 5)
    assert preview.serial_number != issued.serial_number
    assert (preview.subject, preview.issuer, preview.public_key()) == (
        issued.subject,
        issued.issuer,
        issued.public_key(),
    )
    assert (preview.not_valid_before_utc, preview.not_valid_after_utc) == (
        issued.not_valid_before_utc,
        issued.not_valid_after_utc,
    )
    assert list(preview.extensions) == list(issued.extensions)
    ca = x509.load_der_x509_certificate((await issuer.chain())[0])
    issued.verify_directly_issued_by(ca)
    with pytest.raises(InvalidSignature):
        preview.verify_directly_issued_by(ca)


async def test_previews_at_the_same_time_share_the_throw_away_key(tmp_path: Path) -> None:
    ca = create_ca(tmp_path / "ca")
    issuer = LocalIssuer.from_config(ca.table(ca.directory), ca.directory, "http://cmp.example.com", "local")
    previews = await asyncio.gather(*(issuer.preview(requests.smime(now=NOW)) for _ in range(8)))
    assert len({x509.load_der_x509_certificate(one).serial_number for one in previews}) == 8


async def test_urls_of_the_profile_take_the_place_of_the_issuers(make_issuer: Callable[[str], LocalIssuer]) -> None:
    issuer = make_issuer("ec-p256")
    theirs = x509.load_der_x509_certificate(await issuer.preview(requests.smime(now=NOW)))
    wanted = [
        RequestedExtension(one.oid, critical=False, value=one.value.public_bytes().replace(b"cmp.", b"pki."))
        for one in theirs.extensions
        if one.oid.dotted_string in {"2.5.29.31", "1.3.6.1.5.5.7.1.1"}
    ]
    assert len(wanted) == 2
    certificate = await issuer.preview(requests.with_extension(requests.smime(now=NOW), *wanted))
    extensions = x509.load_der_x509_certificate(certificate).extensions
    assert len({one.oid for one in extensions}) == len(list(theirs.extensions))
    assert b"http://cmp." not in certificate
    assert certificate.count(b"http://pki.example.com") == 2


def test_without_pkilint_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkilint", None)
    for use in (lambda: lint.preload("pkix"), lambda: lint.lint(b"", "pkix")):
        with pytest.raises(lint.LinterMissing, match=r"lint: .*cmpd\[lint\]"):
            use()


def test_the_linter_is_imported_by_nobody_who_does_not_ask_for_it() -> None:
    """A server that lints nothing does not pay for it."""
    import subprocess

    script = "import sys, cmpd.lint, cmpd.responder; sys.exit('pkilint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


LINTED = {
    "id": "x" * 22,
    "issuer": "local",
    "lint": "warn",
    "public_trust": "tls",
    "certificate_type": {"validation_type": "domain"},
}
PUBLIC = ("http://crl.example.com/ca.crl", "http://ca.example.com/ca.cer")


@pytest.mark.parametrize(
    ("changes", "urls", "words"),
    [
        ({}, PUBLIC, []),
        ({}, ("", PUBLIC[1]), []),
        ({}, (PUBLIC[0], ""), ["ca_issuers_url"]),
        ({}, ("http://127.0.0.1:8829/crl/local.crl", ""), ["crl_url", "ca_issuers_url"]),
        ({}, ("http://192.0.2.7/ca.crl", PUBLIC[1]), ["crl_url"]),
        ({}, ("http://[::1]/ca.crl", PUBLIC[1]), ["crl_url"]),
        ({}, ("http://localhost/ca.crl", PUBLIC[1]), ["crl_url"]),
        ({}, ("http://pki.local/ca.crl", PUBLIC[1]), ["crl_url"]),
        ({"lint": "off"}, ("http://127.0.0.1/ca.crl", ""), []),
        ({"public_trust": None}, ("http://127.0.0.1/ca.crl", ""), []),
        (
            {
                "extensions": {
                    "crl_distribution_points": [PUBLIC[0]],
                    "authority_information_access": {"ca_issuers": [PUBLIC[1]]},
                }
            },
            ("http://127.0.0.1/ca.crl", ""),
            [],
        ),
    ],
)
def test_urls_that_the_linter_will_not_like_are_noticed(
    changes: dict[str, Any], urls: tuple[str, str], words: list[str]
) -> None:
    notices = rules.url_notices(ProfileConfig.model_validate(LINTED | changes), *urls)
    assert len(notices) == len(words)
    for notice, word in zip(notices, words, strict=True):
        assert notice.startswith("lint: 'warn' ")
        assert f"set {word} of the issuer 'local'" in notice
