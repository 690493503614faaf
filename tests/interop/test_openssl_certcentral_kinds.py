"""The openssl client enrolls and renews every kind of certificate that CertCentral sells through cmpd."""

import asyncio
import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cmpd.lint import Kind, lint
from tests.certcentral import CertCentral
from tests.certcentral.catalogue import EXAMPLE_GMBH
from tests.certcentral.journal import Entry
from tests.daemon import ROOT, SECRET
from tests.interop.openssl import OpenSSL
from tests.interop.test_openssl_certcentral import site_for

pytestmark = pytest.mark.long

DELAY = 4.0
COMMAND = ("cmp", "-batch", "-no_proxy", "127.0.0.1", "-total_timeout", "150")
ORGANIZATION = f'[organization]\nname = "Example GmbH"\nidentifier = "VATDE-123456789"\nid = {EXAMPLE_GMBH}\n'
REST = """
[enrollment]
authentication_method = "enrollment_code"
[renewal]
reject_outside_window = false
"""


@dataclass(frozen=True)
class Wish:
    """A profile, what is asked of it, and what a kur becomes."""

    profile: str
    subject: str
    san: str
    linted: Kind
    renewed: str
    """The kind of entry on the bill; `renewal` is an order that names the one before."""


SMIME = 'base_template = "public-smime"\n[certificate_type]\ngeneration = "multipurpose"\nvalidation_type = "{}"\n'
PRIVATE = 'base_template = "certcentral-private-server"\nissuer_options = {{product = "private_ssl_flex"{}}}\n'
PUBLIC = 'base_template = "certcentral-public-server"\nissuer_options = {product = "ssl_basic"}\n'
OV = '[certificate_type]\nvalidation_type = "organization"\n'
SERVER = "/CN=www.example.com", "DNS:www.example.com,DNS:example.com"
WISHES = {
    "mailbox": Wish(SMIME.format("mailbox"), "/CN=ada@example.com", "email:ada@example.com", "smime", "renewal"),
    "sponsor": Wish(
        SMIME.format("sponsor") + ORGANIZATION,
        "/O=Example GmbH/SN=Byron/GN=Ada/CN=Ada Byron",
        "email:ada@example.com",
        "smime",
        "renewal",
    ),
    "private": Wish(PRIVATE.format("") + ORGANIZATION, *SERVER, "pkix", "reissue"),
    "private-duplicate": Wish(
        PRIVATE.format(', renew_strategy = "duplicate"') + ORGANIZATION, *SERVER, "pkix", "duplicate"
    ),
    "private-renew": Wish(PRIVATE.format(', renew_strategy = "renew"') + ORGANIZATION, *SERVER, "pkix", "renewal"),
    "public": Wish(
        PUBLIC + OV + ORGANIZATION, "/C=DE/L=Berlin/O=Example GmbH/CN=www.example.com", SERVER[1], "tls", "reissue"
    ),
}


@dataclass
class Got:
    """What a client has got: the certificates with the chains that came along, and what openssl said."""

    certificates: list[x509.Certificate]
    said: list[str]


def journey(folder: Path, url: str, reference: str, wish: Wish) -> Got:
    """ir with a code, then kur with the certificate and a new key."""
    client = OpenSSL(folder)
    (folder / "san.cnf").write_text(f"[SAN]\nsubjectAltName={wish.san}\n")
    names = ("-config", "san.cnf", "-reqexts", "SAN", "-subject", wish.subject)
    by_code = ("-ref", reference, "-secret", f"pass:{SECRET}")
    by_certificate = ("-cert", "first.pem", "-key", "first.key", "-oldcert", "first.pem", "-trusted", "ca.pem")
    said = []
    for name, command, *options in (("first", "ir", *by_code, *names), ("second", "kur", *by_certificate)):
        asked = ("-newkey", client.key(name, "rsa"), "-certout", f"{name}.pem", "-extracertsout", f"{name}-chain.pem")
        # no limit but that of the command itself: it may have to poll
        done = subprocess.run(
            ["openssl", *COMMAND, "-server", url, "-cmd", command, *options, *asked],
            cwd=folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=200,
        )
        said.append(done.stdout + done.stderr)
        assert done.returncode == 0, (reference, command, said[-1])
        client.right("verify", "-CAfile", "roots.pem", "-untrusted", f"{name}-chain.pem", f"{name}.pem")
    return Got([client.certificate("first.pem"), client.certificate("second.pem")], said)


def scenario(central: CertCentral, folder: Path) -> dict[str, Got]:
    """One daemon, and a client for each wish, side by side."""
    site = site_for(central.url, central.key("admin"), folder / "cmpd")
    for name, wish in WISHES.items():
        text = f'id = "profile-of-the-test-{name}-{"x" * 10}"\nissuer = "digicert"\n{wish.profile}{REST}'
        (site.folder / "profiles" / f"{name}.toml").write_text(text)
        site.code(name, profile=name)
    chain = subprocess.run(
        [sys.executable, "-m", "cmpd", "ca", "chain", "--issuer", "local", "--config", site.config],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    for name in WISHES:
        (folder / name).mkdir()
        OpenSSL(folder / name).write("ca.pem", x509.load_pem_x509_certificates(chain)[-1])
        (folder / name / "roots.pem").write_bytes(central.roots_pem())

    async def all_of_them(address: str) -> list[Got]:
        url = f"http://{address}/.well-known/cmp/p"
        return await asyncio.gather(
            *(asyncio.to_thread(journey, folder / name, f"{url}/{name}", name, wish) for name, wish in WISHES.items())
        )

    with site.serve() as daemon:
        got = asyncio.run(all_of_them(daemon.cmp))
        daemon.stop()
    return dict(zip(WISHES, got, strict=True))


def becomes(entries: list[Entry]) -> str:
    """What the second entry of a bill is to the first."""
    first, second = entries
    assert first.kind == "order"
    assert not first.is_renewal
    if second.kind == "order":
        assert second.body.get("renewal_of_order_id") == first.order_id
        return "renewal"
    assert second.order_id == first.order_id
    return second.kind


@pytest.mark.parametrize("way", ["at once", "by polling"])
async def test_every_kind_is_enrolled_and_renewed(tmp_path: Path, way: str) -> None:
    """Subject, names, chain and lint of each certificate, and what a renewal is on the bill."""
    async with CertCentral().running() as central:
        if way == "by polling":
            central.set(delay=DELAY)
        got = await asyncio.to_thread(scenario, central, tmp_path)
        for name, wish in WISHES.items():
            first, second = got[name].certificates
            assert first.public_key() != second.public_key()
            assert first.subject == second.subject
            for certificate, said in zip((first, second), got[name].said, strict=True):
                subject = {one.rfc4514_attribute_name: one.value for one in certificate.subject}
                for part in wish.subject[1:].split("/"):
                    kind, value = part.split("=")
                    assert subject[{"SN": "2.5.4.4", "GN": "2.5.4.42"}.get(kind, kind)] == value, name
                san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
                assert sorted(str(one.value) for one in san) == sorted(
                    part.split(":")[1] for part in wish.san.split(",")
                ), name
                found = lint(certificate.public_bytes(Encoding.DER), wish.linted)
                assert [str(one) for one in found if one.is_serious] == [], name
                assert ("starting to poll" in said) is (way == "by polling"), said
            keys = {central.ledger.entries(spki=digest(one))[0].number for one in (first, second)}
            entries = [entry for entry in central.ledger.entries() if entry.number in keys]
            assert becomes(entries) == wish.renewed, name
        assert len(central.ledger) == 2 * len(WISHES)


def digest(certificate: x509.Certificate) -> str:
    """SHA-256 of its SubjectPublicKeyInfo, as the bill has it."""
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).hexdigest()
