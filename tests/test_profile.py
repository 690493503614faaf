"""Profile files: what is read from them, and what is said about a wrong one."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.exchange import CertificateRequest
from cmpd.profile import Profile, ProfileConfig, ProfileError, device_template, load_directory, new_id
from tests.profile_cases import ID, KEYS, NOW, name, profile

ROOT = Path(__file__).parent.parent
MINIMAL = f'id = "{ID}"\nissuer = "local"\n'


def certificate(common_name: str) -> x509.Certificate:
    key = ed25519.Ed25519PrivateKey.generate()
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
    return builder.not_valid_after(datetime(2027, 1, 1, tzinfo=UTC)).sign(key, None)


def test_a_minimal_file_has_safe_defaults(tmp_path: Path) -> None:
    (tmp_path / "gateway-1.toml").write_text(MINIMAL)
    got = Profile.load(tmp_path / "gateway-1.toml")
    assert (got.name, got.id, got.issuer, got.description) == ("gateway-1", ID, "local", "")
    assert got.operations == {"ir", "cr", "p10cr", "kur"}
    assert got.authentication_method == "enrollment_code"
    assert (got.trusted, got.ra_trusted) == ((), ())
    assert (got.implicit_confirm, got.confirm_wait) == (True, timedelta(minutes=10))
    assert (got.several_requests, got.require_new_key) == (False, True)
    assert got.message_time_tolerance == timedelta(minutes=5)
    assert (got.missing_transaction_id, got.short_nonces, got.sha1_signatures) == (False, False, False)


def test_every_key_of_enrollment_reaches_its_attribute(tmp_path: Path) -> None:
    ra, device, other = certificate("ra"), certificate("device"), certificate("other")
    (tmp_path / "ra.pem").write_bytes(ra.public_bytes(Encoding.PEM))
    both = device.public_bytes(Encoding.PEM) + other.public_bytes(Encoding.PEM)
    (tmp_path / "devices.pem").write_bytes(b"a comment\n" + both + both)
    got = profile(
        {
            "description": "x",
            "enrollment": {
                "authentication_method": "tls_certificate",
                "allowed_operations": ["ir", "kur"],
                "implicit_confirm": False,
                "confirm_wait": "90s",
                "several_requests": True,
                "message_time_tolerance": "off",
                "trusted_certificates": ["devices.pem"],
                "ra_certificates": [str(tmp_path / "ra.pem")],
                "legacy": {"missing_transaction_id": True, "short_nonces": True, "sha1_signatures": True},
            },
            "renewal.require_new_key": False,
        },
        base=tmp_path,
    )
    assert got.trusted == (device.public_bytes(Encoding.DER), other.public_bytes(Encoding.DER))
    assert got.ra_trusted == (ra.public_bytes(Encoding.DER),)
    assert got.operations == {"ir", "kur"}
    assert got.authentication_method == "tls_certificate"
    assert (got.implicit_confirm, got.confirm_wait) == (False, timedelta(seconds=90))
    assert (got.several_requests, got.require_new_key, got.message_time_tolerance) == (True, False, None)
    assert (got.missing_transaction_id, got.short_nonces, got.sha1_signatures) == (True, True, True)


def test_a_profile_cannot_be_changed() -> None:
    got = profile()
    with pytest.raises(AttributeError):
        got.issuer = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        ProfileConfig(id=ID, issuer="local").issuer = "other"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"key.ecdsa.allowed_curves": ["P-255"]}, "key.ecdsa.allowed_curves: 'P-255' is not one of P-256, P-384, P-521"),
    ({"key.allowed_types": ["dsa"]}, "key.allowed_types: 'dsa' is not one of rsa, ecdsa, ed25519"),
    ({"key.allowed_types": []}, "key.allowed_types: [] must not be empty"),
    ({"key.rsa.min_bits": 1024}, "key.rsa.min_bits: 1024"),
    ({"key.rsa": {"min_bits": 4096, "max_bits": 3072}}, "key.rsa.min_bits: 4096 is more than max_bits, 3072"),
    ({"key.rsa.min_bits": "2048"}, "key.rsa.min_bits: '2048'"),
    ({"id": "short"}, "id: 'short' is not 22 to 128 characters"),
    ({"id": ID + "/.."}, "id: "),
    ({"issuer": ""}, "issuer: ''"),
    ({"isuer": "local"}, "isuer: unknown key; did you mean issuer?"),
    ({"subject.comon_name": {}}, "subject.comon_name: unknown key; did you mean common_name?"),
    ({"subject.common_name.includes": "no"}, "subject.common_name.includes: unknown key; did you mean include?"),
    ({"san.fax": {}}, "san.fax: unknown key; known are "),
    ({"enrollment.allowed_operations": ["rr"]}, "enrollment.allowed_operations: 'rr' is not one of ir, cr, p10cr, kur"),
    ({"enrollment.allowed_operations": []}, "enrollment.allowed_operations: []"),
    ({"enrollment.authentication_method": "none"}, "enrollment.authentication_method: 'none' is not one of "),
    ({"enrollment.authentication_method": "tls_certificate"}, "enrollment.trusted_certificates: is missing"),
    ({"enrollment.trusted_certificates": ["nowhere.pem"]}, "trusted_certificates: 'nowhere.pem' cannot be read"),
    ({"enrollment.ra_certificates": ["no.pem"]}, "enrollment.ra_certificates: 'no.pem' is not a PEM file"),
    ({"enrollment.implicit_confirm": "yes"}, "enrollment.implicit_confirm: 'yes'"),
    ({"enrollment.confirm_wait": 600}, "enrollment.confirm_wait: 600 is not a duration"),
    ({"enrollment.confirm_wait": "0s"}, "enrollment.confirm_wait: '0s' must be more than nothing"),
    ({"enrollment.message_time_tolerance": "never"}, "enrollment.message_time_tolerance: 'never' is not a duration"),
    ({"enrollment.legacy.short_nonce": True}, "enrollment.legacy.short_nonce: unknown key; did you mean short_nonces?"),
    ({"validity.default": "1 year"}, "validity.default: '1 year' is not a duration"),
    ({"validity.default": "101y"}, "validity.default: '101y' is longer than 100 years"),
    ({"validity": {"default": "2y", "max": "398d"}}, "validity.default: 730d is more than max, 398d"),
    ({"validity": {"default": "60s", "backdate": "5m"}}, "validity.backdate: 5m is more than half of default"),
    ({"validity.on_exceed": "drop"}, "validity.on_exceed: 'drop' is not one of reject, shorten"),
    ({"subject.common_name.include": "yes"}, "subject.common_name.include: 'yes' is not one of no, optional, required"),
    ({"subject.common_name.pattern": "(a"}, "subject.common_name.pattern: '(a' is not a regular expression"),
    ({"subject.common_name.pattern": r"(a)\1"}, "subject.common_name.pattern: "),
    ({"subject.common_name.pattern": "(?=a)"}, "pattern: '(?=a)' is not a regular expression in RE2"),
    ({"subject.common_name.pattern": "((a{1000}){1000})"}, "subject.common_name.pattern: "),
    ({"subject.common_name.pattern": ""}, "subject.common_name.pattern: ''"),
    ({"subject.common_name.source": "fixed"}, "subject.common_name.value: is missing"),
    ({"subject.common_name.value": "x"}, "subject.common_name.value: goes with source = 'fixed' only"),
    ({"subject.common_name": {"source": "fixed", "value": "x", "pattern": "x"}}, "subject.common_name.pattern: goes"),
    ({"subject.common_name": {"source": "fixed", "value": ["a", "b"]}}, "subject.common_name.value: has more values"),
    ({"subject.common_name": {"source": "fixed", "value": "a\n"}}, r"common_name.value: 'a\n' has the character"),
    ({"subject.country_name": {"source": "fixed", "value": "Germany"}}, "country_name.value: 'Germany' is longer"),
    ({"subject.common_name.max": 2}, "subject.common_name.max: 2: a name has this attribute once at most"),
    ({"subject.common_name.max_length": 65}, "subject.common_name.max_length: 65 is more than 64"),
    ({"san.dns": {"min": 3, "max": 2}}, "san.dns.min: 3 is more than max, 2"),
    ({"san.dns": {"include": "required", "max": 0}}, "san.dns.max: 0 contradicts include = 'required'"),
    ({"san.dns.allowed_domains": ["*.example.com"]}, "san.dns.allowed_domains: '*.example.com' is not a domain"),
    ({"san.dns.allowed_ranges": ["10.0.0.0/8"]}, "san.dns.allowed_ranges: unknown key"),
    ({"san.ip.allowed_ranges": ["10.0.0.1/8"]}, "san.ip.allowed_ranges: '10.0.0.1/8' is not an address range"),
    ({"san.uri.allowed_schemes": ["https://"]}, "san.uri.allowed_schemes: 'https://'"),
    ({"san.dns": {"source": "fixed"}}, "san.dns.value: is missing"),
    ({"san.dns": {"value": ["a.example"]}}, "san.dns.value: goes with source = 'fixed' only"),
    ({"san.dns": {"source": "fixed", "value": "a_b"}}, "san.dns.value: 'a_b': san.dns: 'a_b' is not a DNS name"),
    ({"san.ip": {"source": "fixed", "value": "10.0.0.256"}}, "san.ip.value: '10.0.0.256' is not a value of this type"),
    ({"san.ip": {"source": "fixed", "value": "10.0.0.1", "allowed_ranges": ["192.0.2.0/24"]}}, "(san.ip.allowed_r"),
    ({"san.directory_name.source": "fixed"}, "san.directory_name.source: unknown key"),
    ({"extensions.other": "keep"}, "extensions.other: 'keep' is not one of refuse, ignore"),
    ({"extensions.key_usage.required_usages": ["key_cert_sign"]},
     "extensions.key_usage.required_usages: 'key_cert_sign' is not one of digital_signature"),
    ({"extensions.key_usage.required_usages": {"dsa": ["digital_signature"]}},
     "extensions.key_usage.required_usages.dsa: 'dsa' is not one of rsa, ecdsa"),
    ({"extensions.key_usage.required_usages": {"ed25519": ["digital_signature"]}},
     "extensions.key_usage.required_usages.ed25519: this key type is not in key.allowed_types"),
    ({"extensions.key_usage.required_usages": ["key_encipherment"]},
     "extensions.key_usage.required_usages: key_encipherment: not for ecdsa keys; write a list per key type"),
    ({"extensions.key_usage.optional_usages": {"rsa": ["key_agreement"]}},
     "extensions.key_usage.optional_usages: key_agreement: not for rsa keys"),
    ({"key.allowed_types": ["ecdsa"], "extensions.key_usage.required_usages": ["encipher_only"]},
     "extensions.key_usage.required_usages: encipher_only and decipher_only go with key_agreement"),
    ({"extensions.extended_key_usage.required_usages": ["clientAuth"]},
     "extended_key_usage.required_usages: 'clientAuth' is neither an OID nor one of server_auth, client_auth"),
    ({"extensions.extended_key_usage.optional_usages": ["3.1.2"]}, "optional_usages: '3.1.2' is neither an OID"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "line"), WRONG, ids=[line for _, line in WRONG])
def test_a_wrong_key_is_named_with_file_value_and_rule(changes: dict[str, Any], line: str, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("not PEM")
    with pytest.raises(ProfileError) as caught:
        profile(changes, base=tmp_path)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{tmp_path / 'device.toml'}: ")
    assert line in fault


def test_all_faults_of_a_file_are_reported_at_once() -> None:
    with pytest.raises(ProfileError) as caught:
        profile(
            {"validity": {"default": "2y", "max": "1y"}, "san.dns": {"min": 3, "max": 2}, "subject.title.value": "x"}
        )
    assert [fault.split(": ")[1] for fault in caught.value.faults] == [
        "subject.title.value",
        "san.dns.min",
        "validity.default",
    ]
    with pytest.raises(ProfileError) as caught:
        profile({"a": 1, "b": 2})
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "id: is missing"),
        (b"id = ", "is not TOML: "),
        (b"\xff", "octet 0 is not UTF-8"),
        (b'id = "x"\nid = "y"\n', "is not TOML: "),
        (b"subject = 3\n" + MINIMAL.encode(), "subject: 3"),
    ],
)
def test_a_file_that_is_no_profile(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ProfileError) as caught:
        Profile.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"gone\.toml: cannot be read: No such file"):
        Profile.load(tmp_path / "gone.toml")


@pytest.mark.parametrize("bad", ["Device", "-device", ".device", "de vice", "a" * 65, "gerät"])
def test_a_name_that_would_not_fit_into_a_url_is_refused(bad: str, tmp_path: Path) -> None:
    (tmp_path / f"{bad}.toml").write_text(MINIMAL)
    with pytest.raises(ProfileError, match="the name of a profile is"):
        Profile.load(tmp_path / f"{bad}.toml")


def test_a_directory_is_loaded_whole_and_in_order(tmp_path: Path) -> None:
    for one in ("b", "a", "c.d"):
        (tmp_path / f"{one}.toml").write_text(MINIMAL.replace(ID, new_id()))
    (tmp_path / "a.toml~").write_text("left by an editor")
    (tmp_path / ".a.toml").write_text("hidden")
    got = load_directory(tmp_path)
    assert list(got) == ["a", "b", "c.d"]
    assert all(got[key].name == key for key in got)


def test_two_profiles_cannot_share_an_id(tmp_path: Path) -> None:
    for one in ("a", "b"):
        (tmp_path / f"{one}.toml").write_text(MINIMAL)
    with pytest.raises(ProfileError, match=rf"b\.toml: id: '{ID}' is the id of .*a\.toml too"):
        load_directory(tmp_path)


def test_the_faults_of_all_files_of_a_directory_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("")
    (tmp_path / "b.toml").write_text("x = 1\n" + MINIMAL)
    with pytest.raises(ProfileError) as caught:
        load_directory(tmp_path)
    assert len(caught.value.faults) == 3
    with pytest.raises(ProfileError, match="cannot be read"):
        load_directory(tmp_path / "gone")


def test_an_id_is_long_and_new_each_time() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", one) for one in ids)


def test_the_sample_is_the_template_that_init_installs() -> None:
    sample = (ROOT / "config" / "profiles" / "device.toml").read_text(encoding="utf-8")
    assert sample == device_template(id="this-is-an-example-make-your-own")


def test_the_template_is_a_profile_that_certifies_a_device(tmp_path: Path) -> None:
    one = new_id()
    (tmp_path / "device.toml").write_text(device_template(id=one, issuer="factory"), encoding="utf-8")
    got = load_directory(tmp_path)["device"]
    assert (got.id, got.issuer) == (one, "factory")
    for spki in (KEYS["P-256"], KEYS["rsa"], KEYS["ml-dsa-65"]):
        asked = CertificateRequest(cert_req_id=0, subject=name(("CN", "device-1")), spki=spki)
        assert got.approve(asked, transaction_id=b"t", now=NOW).modified == ()


def test_the_template_mentions_every_key() -> None:
    """A key that is added to the file's model must be explained in the sample too."""
    text = device_template(id=ID)
    missing = [key for key in _keys(ProfileConfig) if not re.search(rf"\b{key}\b", text)]
    assert missing == []


def _keys(model: Any) -> set[str]:
    found = set()
    for key, field in model.model_fields.items():
        found.add(key)
        for part in getattr(field.annotation, "__args__", (field.annotation,)):
            if hasattr(part, "model_fields"):
                found |= _keys(part)
    return found
