"""A profile that nobody could use, or everybody could: what `cmpd check` makes of it."""

import json
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import cli
from cmpd.exchange import Device, ServiceUserCertificate
from cmpd.profile import Profile
from cmpd.profile.access import Surroundings, access_faults, access_notices, public_roots
from tests.daemon import Site
from tests.ee import new_key
from tests.world import certificate, device_table

NOW = datetime.now(UTC).replace(microsecond=0)
NOBODY_YET = Surroundings(issued=False, siblings=False, service_users={})
TLS = "tls_certificate"
CODE = "enrollment_code"


def pem(found: x509.Certificate) -> bytes:
    return found.public_bytes(Encoding.PEM)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CAs in files."""
    path = tmp_path_factory.mktemp("access")
    key = new_key()
    root = certificate(key, "Root A", ca=True, not_after=NOW + timedelta(days=400))
    sub = certificate(new_key(), "Sub A", key, root, ca=True, not_after=NOW + timedelta(days=300))
    (path / "a.pem").write_bytes(pem(root))
    (path / "sub-a.pem").write_bytes(pem(sub))
    (path / "b.pem").write_bytes(pem(certificate(new_key(), "Root B", ca=True, not_after=NOW + timedelta(days=400))))
    old = {"not_before": NOW - timedelta(days=400)}
    ended = certificate(new_key(), "Ended", ca=True, not_after=NOW - timedelta(days=1), **old)  # type: ignore[arg-type]
    ends = certificate(new_key(), "Ends", ca=True, not_after=NOW + timedelta(days=9), **old)  # type: ignore[arg-type]
    (path / "old.pem").write_bytes(pem(ended) + pem(ends))
    return path


Make = Callable[..., Profile]


@pytest.fixture
def make(folder: Path) -> Make:
    def profile(**enrollment: Any) -> Profile:
        return Profile.from_config("x", device_table(enrollment=enrollment), folder)

    return profile


VENDOR = {"trusted_certificates": ["a.pem"]}
A, B = ["a.pem"], ["b.pem"]


@pytest.mark.parametrize(
    "enrollment",
    [
        {},
        {"allowed_operations": ["ir"]},
        {"allowed_operations": ["kur"], "trusted_certificates": A},
        {"authentication_method": TLS, "trusted_certificates": A},
        {"authentication_method": TLS, "trusted_certificates": A, "allowed_operations": ["cr"]},
        {"authentication_method": TLS, "vendor": VENDOR},
        {"authentication_method": TLS, "vendor": VENDOR | {"allow_list": False}},
        {"authentication_method": TLS, "vendor": VENDOR | {"free_subject": True}},
        {"vendor": VENDOR | {"allow_list": False, "free_subject": True}, "client_addresses": ["10.0.0.0/8"]},
        {"authentication_method": TLS, "ra_certificates": A},
        {"authentication_method": TLS, "tls": {"trusted_certificates": A, "unprotected": True}},
        {"authentication_method": TLS, "trusted_certificates": A, "tls": {"required": True}},
        {"tls": {"required": True, "trusted_certificates": A}},
        {"authentication_method": TLS, "trusted_certificates": A,
         "tls": {"required": True, "trusted_certificates": B, "binding": "same_subject"}},
        {"authentication_method": TLS, "trusted_certificates": A,
         "tls": {"required": True, "trusted_certificates": ["sub-a.pem"]}},
    ],
)  # fmt: skip
def test_what_somebody_can_use(make: Make, enrollment: dict[str, Any]) -> None:
    assert access_faults(make(**enrollment), NOBODY_YET) == []


@pytest.mark.parametrize(
    ("enrollment", "fault"),
    [
        ({"allowed_operations": ["kur"]},
         "enrollment.allowed_operations: nobody can use the profile: kur needs a certificate, and the "),
        ({"authentication_method": TLS, "allowed_operations": ["kur", "cr"]},
         "enrollment.trusted_certificates: is missing, and nobody can use the profile: cr, kur is signed with a "),
        ({"authentication_method": TLS, "vendor": VENDOR, "allowed_operations": ["cr", "p10cr"]},
         "enrollment.allowed_operations: nobody can use the profile: a device enrolls by ir only, and that is not in "),
        ({"authentication_method": TLS, "tls": {"required": True, "trusted_certificates": A}},
         "enrollment.trusted_certificates: is missing, and nobody can use the profile: a TLS client is "),
        ({"tls": {"required": True}},
         "enrollment.tls.required: nobody can use the profile: no TLS client's certificate is trusted; name "),
        ({"authentication_method": TLS, "trusted_certificates": A,
          "tls": {"required": True, "trusted_certificates": B}},
         "enrollment.tls.binding: 'same_certificate' asks for one certificate under trusted_certificates and "),
        ({"authentication_method": TLS, "trusted_certificates": A, "service_user": "gw"},
         "enrollment.service_user: nobody can use the profile: 'gw' has no certificate; `cmpd service-user add gw "),
        ({"vendor": VENDOR | {"allow_list": False, "free_subject": True}},
         "enrollment.vendor.free_subject: everybody with a device of the maker could enroll any name; set allow_list"),
        ({"vendor": VENDOR | {"allow_list": False, "free_subject": True}, "client_addresses": ["::/0"]},
         "enrollment.vendor.free_subject: everybody with a device of the maker could enroll any name; set allow_list"),
    ],
)  # fmt: skip
def test_what_nobody_or_everybody_could_use(make: Make, enrollment: dict[str, Any], fault: str) -> None:
    """One line each: key, fault, and what to do."""
    (found,) = access_faults(make(**enrollment), NOBODY_YET)
    assert found.startswith(fault)
    assert "; " in found


def test_a_profile_that_has_issued_certificates_may_be_left_to_run_out(make: Make) -> None:
    """And a daemon that has not asked its store does not refuse it."""
    running_out = make(authentication_method=TLS, allowed_operations=["kur"])
    assert access_faults(running_out, replace(NOBODY_YET, issued=True)) == []
    assert access_faults(running_out, Surroundings()) == []
    assert access_faults(running_out, NOBODY_YET) != []


@pytest.mark.parametrize("key", ["required", "unprotected"])
def test_a_tls_client_needs_a_listener_or_a_proxy(make: Make, key: str) -> None:
    profile = make(authentication_method=TLS, trusted_certificates=A, tls={key: True})
    (fault,) = access_faults(profile, replace(NOBODY_YET, client_certificates=False))
    assert fault.startswith(
        f"enrollment.tls.{key}: no TLS client's certificate gets here; add [server.tls] to cmpd.toml"
    )


def test_addresses_that_cannot_reach_the_daemon(make: Make) -> None:
    here = replace(NOBODY_YET, loopback=True)
    (fault,) = access_faults(make(client_addresses=["10.0.0.0/8", "2001:db8::/32"]), here)
    assert fault.startswith("enrollment.client_addresses: nobody can use the profile: the daemon listens on loopback ")
    for addresses in (["10.0.0.0/8", "127.0.0.1"], ["::1"], ["0.0.0.0/0"]):
        assert access_faults(make(client_addresses=addresses), here) == []
    assert access_faults(make(client_addresses=["10.0.0.0/8"]), NOBODY_YET) == []


def entry(**known: Any) -> ServiceUserCertificate:
    return ServiceUserCertificate("gw", NOW, **known)


def name(text: str) -> bytes:
    return x509.Name.from_rfc4514_string(text).public_bytes()


@pytest.mark.parametrize(
    ("client", "entries", "key"),
    [
        ({"fingerprints": ["a" * 64]}, [entry(fingerprint="b" * 64)], "fingerprints"),
        ({"fingerprints": ["a" * 64]}, [entry(fingerprint="b" * 64), entry(fingerprint="a" * 64)], None),
        ({"fingerprints": ["a" * 64]}, [entry(issuer=name("CN=a"), subject=name("CN=b"))], None),
        ({"subject": "CN=gw-.*"}, [entry(issuer=name("CN=a"), subject=name("CN=b"))], "subject"),
        ({"subject": "CN=b"}, [entry(issuer=name("CN=a"), subject=name("CN=b"))], None),
        ({"issuer": "CN=z"}, [entry(issuer=name("CN=a"), subject=name("CN=b"))], "issuer"),
        ({"issuer": "CN=z"}, [entry(fingerprint="b" * 64)], None),
    ],
)
def test_rules_that_no_certificate_of_the_service_user_keeps(
    make: Make, client: dict[str, Any], entries: list[ServiceUserCertificate], key: str | None
) -> None:
    profile = make(authentication_method=TLS, trusted_certificates=A, service_user="gw", client=client)
    faults = access_faults(profile, replace(NOBODY_YET, service_users={"gw": entries}))
    assert [fault.partition(": ")[0] for fault in faults] == ([] if key is None else [f"enrollment.client.{key}"])


@pytest.fixture(scope="module")
def public(folder: Path) -> Surroundings:
    """A world in which root A is publicly trusted."""
    root = x509.load_pem_x509_certificate((folder / "a.pem").read_bytes())
    return replace(NOBODY_YET, public_roots=frozenset({root.public_bytes(Encoding.DER)}))


@pytest.mark.parametrize("anchor", ["a.pem", "sub-a.pem"])
def test_a_publicly_trusted_root_lets_everybody_in(make: Make, public: Surroundings, anchor: str) -> None:
    """And so does a CA below it."""
    what = "is a publicly trusted root" if anchor == "a.pem" else "is a CA under the publicly trusted root 'CN=Root A'"
    trust = {"authentication_method": TLS, "trusted_certificates": [anchor]}
    for more in ({}, {"client": {"subject": ".*"}}, {"client": {"extended_key_usages": ["client_auth"]}},
                 {"client_addresses": ["0.0.0.0/0"]}, {"tls": {"required": True}}):  # fmt: skip
        (fault,) = access_faults(make(**trust, **more), public)
        assert fault.startswith("enrollment.trusted_certificates: everybody could enroll: ")
        assert what in fault
        assert fault.endswith("; narrow it by [enrollment.client], service_user or client_addresses")
    tls: dict[str, Any] = {"required": True, "trusted_certificates": B, "binding": "same_subject"}
    for less in ({"client": {"subject": "CN=gw"}}, {"client": {"san": ["dns:gw"]}}, {"tls": tls},
                 {"client": {"fingerprints": ["0" * 64]}}, {"client_addresses": ["10.0.0.0/8"]}):  # fmt: skip
        assert access_faults(make(**trust, **less), public) == []
    narrow = make(**trust, service_user="gw")
    assert access_faults(narrow, replace(public, service_users={"gw": [entry(fingerprint="0" * 64)]})) == []


@pytest.mark.parametrize(
    ("enrollment", "key"),
    [
        ({"trusted_certificates": A}, "enrollment.trusted_certificates"),
        ({"trusted_certificates": A, "allowed_operations": ["ir"]}, None),
        ({"ra_certificates": A}, "enrollment.ra_certificates"),
        ({"vendor": VENDOR}, "enrollment.vendor.trusted_certificates"),
        ({"authentication_method": TLS, "trusted_certificates": B, "tls": {"trusted_certificates": A,
          "unprotected": True}}, "enrollment.tls.trusted_certificates"),
        ({"tls": {"required": True, "trusted_certificates": A}}, None),
    ],
)  # fmt: skip
def test_a_publicly_trusted_root_in_other_places(
    make: Make, public: Surroundings, enrollment: dict[str, Any], key: str | None
) -> None:
    faults = access_faults(make(**enrollment), public)
    assert [fault.partition(": ")[0] for fault in faults] == ([] if key is None else [key])


def test_the_systems_roots_are_found() -> None:
    """Each of them, as far as this system has any."""
    there = ssl.create_default_context().get_ca_certs(binary_form=True)
    assert public_roots() >= set(there)


@pytest.mark.parametrize(
    ("enrollment", "around", "notices"),
    [
        ({}, {}, []),
        ({"code": {"allow_global": True}}, {}, ["enrollment.code.allow_global: one secret can be good for "]),
        ({}, {"usable_code": False}, ["enrollment.authentication_method: there is no enrollment code that "]),
        ({}, {"usable_code": True}, []),
        ({"allowed_operations": ["kur"], "trusted_certificates": A}, {"usable_code": False}, []),
        ({"vendor": VENDOR}, {"devices": False}, ["enrollment.vendor.allow_list: no device is in the list; "]),
        ({"vendor": VENDOR}, {"devices": True}, []),
        ({"vendor": VENDOR | {"allow_list": False}}, {"devices": False},
         ["enrollment.vendor.allow_list: every device of the makers may enroll, those of other customers too; "]),
        ({"vendor": VENDOR, "allowed_operations": ["cr"]}, {}, ["enrollment.vendor: has no effect: "]),
        ({"client_addresses": ["0.0.0.0/0"]}, {}, ["enrollment.client_addresses: has a network that is "]),
        ({"trusted_certificates": A, "revocation": {"crl": "off"}}, {}, ["enrollment.revocation: is off: "]),
        ({"revocation": {"crl": "off"}}, {}, []),
        ({"trusted_certificates": A, "revocation": {"crl": "required", "crls": ["none.crl"]}}, {},
         ["enrollment.revocation.crls: "]),
        ({"trusted_certificates": A, "revocation": {"crls": ["none.crl", "a.pem"]}}, {},
         ["enrollment.revocation.crls: "]),
        ({"client": {"subject": "CN=x"}}, {}, ["enrollment.client: has no effect: "]),
        ({"trusted_certificates": A, "allowed_operations": ["ir"]}, {},
         ["enrollment.trusted_certificates: has no effect: an ir of this profile is protected by an enrollment code"]),
        ({"tls": {"trusted_certificates": A}}, {}, ["enrollment.tls.trusted_certificates: has no effect without tls."]),
        ({"trusted_certificates": ["old.pem", "a.pem"]}, {},
         ["enrollment.trusted_certificates: 'CN=Ended' ended", "enrollment.trusted_certificates: 'CN=Ends' ends"]),
        ({"vendor": {"trusted_certificates": ["old.pem"]}}, {},
         ["enrollment.vendor.trusted_certificates: 'CN=Ended'", "enrollment.vendor.trusted_certificates: 'CN=Ends'"]),
    ],
)  # fmt: skip
def test_what_an_operator_should_know(
    make: Make, enrollment: dict[str, Any], around: dict[str, Any], notices: list[str]
) -> None:
    found = access_notices(make(**enrollment), replace(NOBODY_YET, **around), NOW)
    assert len(found) == len(notices), found
    for one, notice in zip(found, notices, strict=True):
        assert one.startswith(notice)


# ---------------------------------------------------------------------------------------------------------- cmpd check


@pytest.fixture
def site(tmp_path: Path, folder: Path) -> Site:
    made = Site.make(tmp_path / "server")
    for path in folder.iterdir():
        (made.folder / "profiles" / path.name).write_bytes(path.read_bytes())
    return made


def checked(site: Site, capfd: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    """The faults that `cmpd check` finds, and its notices."""
    capfd.readouterr()
    try:
        cli.main(["check", "--config", str(site.config), "--json"])
    except SystemExit as end:
        if end.code:
            return capfd.readouterr().err.splitlines(), []
    return [], json.loads(capfd.readouterr().out)["notices"]


def test_check_asks_the_store(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """A service user without a certificate is a fault; a list without devices, and no code, are worth a notice."""
    method = 'authentication_method = "enrollment_code"'
    signed = f'{method.replace("enrollment_code", TLS)}\ntrusted_certificates = ["a.pem"]\nservice_user = "gw"'
    site.profile("mail", (method, signed))
    makers = '\n[enrollment.vendor]\ntrusted_certificates = ["a.pem"]\n\n[renewal]\n'
    site.profile("factory", ("\n[renewal]\n", makers))
    folder = site.folder / "profiles"
    faults, _ = checked(site, capfd)
    (fault,) = faults
    assert fault == (
        f"cmpd: {folder}/mail.toml: enrollment.service_user: nobody can use the profile: 'gw' has no certificate; "
        "`cmpd service-user add gw --certificate FILE` adds one"
    )
    site.store(lambda store: store.add_service_user(entry(fingerprint="0" * 64)))
    faults, notices = checked(site, capfd)
    assert faults == []
    keys = [notice.removeprefix(f"{folder}/").partition(": ")[0] for notice in notices]
    assert keys == ["device.toml", "factory.toml", "factory.toml"]
    for profile in ("device", "factory"):
        site.code("x", profile=profile)
    site.store(lambda store: store.import_devices("factory", [Device("factory", "A", NOW)]))
    assert checked(site, capfd) == ([], [])


def test_check_without_a_database(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """Then nothing has been issued, and none is made."""
    operations = 'allowed_operations = ["ir", "cr", "p10cr", "kur"]'
    site.profile("x", (operations, 'allowed_operations = ["kur"]'))
    (site.folder / "cmpd.db").unlink()
    faults, _ = checked(site, capfd)
    assert len(faults) == 1
    assert "x.toml: enrollment.allowed_operations: nobody can use the profile: kur needs a certificate" in faults[0]
    assert not (site.folder / "cmpd.db").exists()


def test_check_leaves_a_database_of_another_version_alone(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    path = site.folder / "cmpd.db"
    octets = bytearray(path.read_bytes())
    octets[63] -= 1
    path.write_bytes(octets)
    faults, notices = checked(site, capfd)
    assert faults == []
    assert notices == [f"{path}: is of another version of cmpd; `cmpd serve` brings it up to date"]
    assert path.read_bytes() == bytes(octets)


def test_check_beside_a_running_daemon(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    with site.serve():
        site.code("x")
        assert checked(site, capfd) == ([], [])


def test_check_says_where_crls_cannot_be_had(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.code("x")
    crls = '\ncrl = "best_effort"\n'
    text = (site.folder / "profiles" / "device.toml").read_text()
    assert crls in text
    text = text.replace(crls, f'{crls}crls = ["http://127.0.0.1:9/a.crl"]\n')
    (site.folder / "profiles" / "device.toml").write_text(text)
    faults, (notice,) = checked(site, capfd)
    assert faults == []
    assert "enrollment.revocation.crls: http://127.0.0.1:9/a.crl cannot be reached from here (" in notice
    assert notice.endswith("a certificate whose state is not known then counts as good")


def test_check_says_that_plain_http_goes_out(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.code("x")
    text = site.config.read_text().replace('listen = "127.0.0.1:0"', 'listen = "0.0.0.0:0"\nallow_http = true', 1)
    site.config.write_text(text)
    faults, (notice,) = checked(site, capfd)
    assert faults == []
    assert "server.allow_http: 0.0.0.0:0 serves other machines over plain HTTP" in notice
