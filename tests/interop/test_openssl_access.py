"""`openssl cmp` by every way in that needs no TLS: one profile, one URL, against the real daemon."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from cmpd.asn1 import oids
from cmpd.exchange import Device, NewCode
from tests.access.pki import PKI, write
from tests.daemon import SECRET, FreePort, Site
from tests.ee import new_key
from tests.interop.openssl import Client, Done, OpenSSL, Service, key_pem
from tests.world import certificate as certificate_of

FLEET = "a-profile-for-a-whole-fleet-of-devices"
"""The id of the profile."""
PROFILE = """
id = "@ID@"
issuer = "local"

[enrollment]
authentication_method = "enrollment_code"
ra_certificates = ["ras.pem"]

[enrollment.code]
allow_global = @GLOBAL@
give_back = true
lock_after = 3
lock_for = "1h"

[enrollment.vendor]
trusted_certificates = ["maker.pem"]
subject = "CN={serial}.devices.example.com"

[subject]
common_name = { include = "required" }
serial_number = { include = "optional" }

[extensions.key_usage]
required_usages = ["digital_signature"]
"""


class Fleet(Service):
    """The service, and what a maker and an RA have."""

    maker: PKI
    ras: PKI


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, site_store: str | None) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    port = FreePort()
    site = Site.make(folder / "cmpd", port.listen, site_store)
    profiles = site.folder / "profiles"
    maker, ras = PKI("Maker Root"), PKI("RA Root")
    write(profiles, "maker.pem", maker.root)
    write(profiles, "ras.pem", ras.root)
    for name, identifier, allow in (("fleet", FLEET, "false"), ("shared", f"{FLEET}-with-one-code", "true")):
        (profiles / f"{name}.toml").write_text(PROFILE.replace("@ID@", identifier).replace("@GLOBAL@", allow))
    now = datetime.now(UTC)
    devices = [Device("fleet", "0815", now, "door-7"), Device("fleet", "4711", now, None, "CN=door-8.example.com")]
    site.store(lambda store: store.import_devices("fleet", devices))
    everybody = NewCode("shared", "everybody", SECRET.encode(), uses=None, is_global=True)
    site.store(lambda store: store.create_codes([everybody], now))
    shared = OpenSSL(folder)
    shared.write("ca.pem", x509.load_pem_x509_certificate((site.folder / "ca" / "root.pem").read_bytes()))
    chain = [(site.folder / "ca" / f"{name}.pem").read_bytes() for name in ("issuing", "root")]
    (folder / "chain.pem").write_bytes(b"".join(chain))
    with contextlib.closing(port), site.serve() as daemon:
        service = Fleet(site, daemon, shared, maker.root)
        service.maker, service.ras = maker, ras
        yield service
        daemon.stop()
    assert SECRET not in str(daemon.records)


class Member(Client):
    """An end entity of the fleet; all of them have the same URL."""

    service: Fleet

    def __init__(self, folder: Path, service: Fleet) -> None:
        super().__init__(folder, service)
        self.url = f"{service.url}/cmp/{FLEET}"

    def made(self, serial: str) -> tuple[str, ...]:
        """Options of a device with its maker's certificate."""
        name = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, "IDevID"), x509.NameAttribute(NameOID.SERIAL_NUMBER, serial)]
        )
        key, maker = new_key(), self.service.maker
        self.write("maker.pem", certificate_of(key, "", maker.key, maker.root, name=name))
        (self.folder / "maker.key").write_bytes(key_pem(key))
        return self.by_certificate("maker")

    def as_ra(self, *purposes: x509.ObjectIdentifier) -> tuple[str, ...]:
        key, ras = new_key(), self.service.ras
        self.write("ra.pem", certificate_of(key, "RA 1", ras.key, ras.root, eku=list(purposes)))
        (self.folder / "ra.key").write_bytes(key_pem(key))
        return self.by_certificate("ra")

    def subject(self, name: str = "new") -> str:
        return self.certificate(f"{name}.pem").subject.rfc4514_string()

    def seat(self, name: str = "new") -> str | None:
        number = self.certificate(f"{name}.pem").serial_number
        issued = self.service.site.store(lambda store: store.certificate(number))
        assert issued is not None
        return issued.seat


@pytest.fixture
def member(service: Fleet, tmp_path: Path) -> Member:
    service.daemon.catch_up()
    return Member(tmp_path, service)


def granted(done: Done) -> None:
    assert done.ok, done
    assert done.received[-1] == "PKICONF"


@pytest.mark.parametrize("reference", ["4711", "anything at all", "CN=x,O=y"])
def test_the_url_names_the_code_whatever_ref_says(member: Member, reference: str) -> None:
    """openssl verifies the answer's MAC, and that its sender and senderKID are those it expects."""
    code = member.service.reference(profile="fleet")
    done = member.cmp(
        f"{member.url}/{code}", "ir", "-ref", reference, "-secret", member.secret(SECRET), *member.wanted()
    )
    granted(done)
    assert member.verify("new") == "new.pem: OK\n"
    assert member.daemon.exchange(operation="ir", outcome="accepted")["credential"] == f"code:{code}"
    assert member.service.site.used(code, "fleet") == 1


@pytest.mark.parametrize("label", ["initialization", ""])
def test_the_label_of_the_operation_may_follow_the_code(member: Member, label: str) -> None:
    code = member.service.reference(profile="fleet")
    url = f"{member.url}/{code}/{label}".rstrip("/")
    granted(member.cmp(url, "ir", "-ref", "x", "-secret", member.secret(SECRET), *member.wanted()))


def test_a_code_in_the_url_that_nobody_has_is_like_a_wrong_secret(member: Member) -> None:
    done = member.cmp(
        f"{member.url}/nobody", "ir", *member.by_secret("nobody"), *member.wanted(), "-unprotected_errors"
    )
    text = "the MAC does not verify with the shared secret of this reference"
    member.refused(done, text, "badMessageCheck", outcome="error")


def test_a_whole_life_by_one_url(member: Member) -> None:
    """The code for the first certificate, then the certificate: kur, cr, p10cr, all by the URL that names the code."""
    url = f"{member.url}/{member.service.reference(profile='fleet')}"
    granted(member.cmp(url, "ir", "-ref", "x", "-secret", member.secret(SECRET), *member.wanted("old")))
    granted(member.cmp(url, "kur", *member.by_certificate("old"), *member.wanted("newer")))
    granted(member.cmp(url, "cr", *member.by_certificate("newer"), *member.wanted("other")))
    member.right(
        *("req", "-new", "-key", member.key("third"), "-subj", "/CN=device-1", "-out", "third.csr"),
        *("-config", "/dev/null"),
    )
    done = member.cmp(url, "p10cr", *member.by_certificate("newer"), "-csr", "third.csr", "-certout", "third.pem")
    granted(done)
    assert {member.subject(name) for name in ("old", "newer", "other", "third")} == {"CN=device-1"}


@pytest.mark.parametrize("url", ["", "/a-code-that-is-not-there"])
@pytest.mark.parametrize(
    ("serial", "subject", "seat"),
    [("0815", "CN=0815.devices.example.com", "door-7"), ("4711", "CN=door-8.example.com", "4711")],
)
def test_a_device_with_its_makers_certificate(member: Member, url: str, serial: str, subject: str, seat: str) -> None:
    """3GPP TS 33.310 §9.5: it names no subject, gets the configured one, our root, and keeps its seat in the update."""
    done = member.cmp(
        f"{member.url}{url}",
        "ir",
        *member.made(serial),
        *member.wanted("old", subject="/"),
        "-extracertsout",
        "extra.pem",
    )
    granted(done)
    assert (member.subject("old"), member.seat("old")) == (subject, seat)
    assert member.verify("old") == "old.pem: OK\n"
    extra = x509.load_pem_x509_certificates((member.folder / "extra.pem").read_bytes())
    assert x509.load_pem_x509_certificate(Path(member.root).read_bytes()) in extra
    key = member.key("new")
    granted(member.cmp(member.url, "kur", *member.by_certificate("old"), "-newkey", key, "-certout", "new.pem"))
    assert (member.subject("new"), member.seat("new")) == (subject, seat)


def test_a_device_may_not_be_another(member: Member) -> None:
    done = member.cmp(member.url, "ir", *member.made("0815"), *member.wanted(subject="/CN=4711.devices.example.com"))
    text = "subject: is not that of the device (enrollment.vendor)"
    member.refused(done, text, "badCertTemplate", operation="ir")


def test_a_device_that_is_not_listed(member: Member) -> None:
    done = member.cmp(member.url, "ir", *member.made("0816"), *member.wanted(subject="/"))
    member.refused(done, "the device is not known here (enrollment.vendor.allow_list)", "notAuthorized", "error")


def test_a_device_has_its_makers_certificate_for_an_ir_only(member: Member) -> None:
    done = member.cmp(member.url, "cr", *member.made("0815"), *member.wanted(subject="/"))
    member.refused(done, "a vendor's certificate is good for an ir only", "notAuthorized", "error")


def test_an_ra_vouches_for_keys_and_names_of_others(member: Member) -> None:
    """raVerified: openssl -popo 0 (RFC 9483 §5.2.3.2)."""
    done = member.cmp(
        f"{member.url}/x", "ir", *member.as_ra(oids.KP_CMC_RA), *member.wanted(subject="/CN=device-9"), "-popo", "0"
    )
    granted(done)
    assert member.subject() == "CN=device-9"


def test_whoever_has_a_certificate_of_the_ras_ca_is_no_ra(member: Member) -> None:
    done = member.cmp(member.url, "ir", *member.as_ra(), *member.wanted(), "-popo", "0")
    text = "the CMP protection certificate does not validate to a trust anchor"
    member.refused(done, text, "signerNotTrusted", "error")


def test_a_device_does_not_vouch_for_keys(member: Member) -> None:
    done = member.cmp(
        member.url, "ir", *member.made("0815"), *member.wanted(subject="/CN=0815.devices.example.com"), "-popo", "0"
    )
    member.refused(done, "raVerified is accepted only from an authorised RA certificate", "badPOP")


@pytest.mark.parametrize("reference", ["everybody", "device-17"])
def test_one_code_for_everybody(member: Member, reference: str) -> None:
    url = f"{member.service.url}/.well-known/cmp/p/shared"
    granted(member.cmp(url, "ir", *member.by_secret(reference), *member.wanted(subject=f"/CN={reference}")))
    assert member.daemon.exchange(operation="ir", profile="shared")["credential"] == "code:everybody"


def test_a_locked_code_says_when_to_come_again(member: Member) -> None:
    code = member.service.reference(profile="fleet")
    url = f"{member.url}/{code}"
    guesses = [member.by_secret(code, secret="not it") for _ in range(3)]
    for guess in guesses:
        done = member.cmp(url, "ir", *guess, *member.wanted(), "-unprotected_errors")
        assert "badMessageCheck" in done.text, done
    done = member.cmp(url, "ir", *member.by_secret(code), *member.wanted(), "-unprotected_errors")
    record = member.daemon.exchange(fail_info="systemUnavail")
    assert record["reason"].startswith("too many wrong MACs with this reference; try again at 2")
    assert record["reason"] in done.text, done
    assert record["limit"] == "enrollment.code.lock_after"
    done = member.cmp(member.url, "ir", *member.by_secret(profile="fleet"), *member.wanted())
    granted(done)


def test_a_certificate_that_the_client_rejects_gives_the_use_back(member: Member) -> None:
    """openssl rejects a certificate that it cannot verify with -out_trusted."""
    code = member.service.reference(profile="fleet")
    key = new_key()
    member.write("nobody.pem", certificate_of(key, "Nobody", ca=True))
    done = member.cmp(member.url, "ir", *member.by_secret(code), *member.wanted(), "-out_trusted", "nobody.pem")
    assert done.status == 1, done
    member.daemon.exchange(operation="certConf", outcome="rejected")
    assert member.service.site.used(code, "fleet") == 0
    granted(member.cmp(member.url, "ir", *member.by_secret(code), *member.wanted()))
