"""The real openssl client gets a certificate from a public CA: cmpd between them, the CA a simulator."""

import asyncio
import contextlib
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from tests import postgres
from tests.certcentral import CertCentral
from tests.daemon import SECRET, Site

MAIL = """
id = "mail-profile-of-the-test-0001"
base_template = "public-smime"
issuer = "digicert"
[certificate_type]
validation_type = "mailbox"
generation = "multipurpose"
[enrollment]
authentication_method = "enrollment_code"
"""
LOST = "commit_then_drop"


def site_for(url: str, api_key: str, folder: Path, store: str | None = None) -> Site:
    """What `cmpd init` makes, with a connector and a profile for mailboxes."""
    site = Site.make(folder, store_url=store)
    key = site.folder / "secrets" / "certcentral.key"
    key.write_text(api_key)
    key.chmod(0o600)
    site.append(
        f'[issuers.digicert]\ntype = "certcentral"\nbase_url = "{url}"\n'
        'api_key_file = "secrets/certcentral.key"\npoll_interval = "5s"\nsettle_time = "10s"'
    )
    (site.folder / "profiles" / "mail.toml").write_text(MAIL)
    return site


def enroll(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    (folder / "san.cnf").write_text("[SAN]\nsubjectAltName=email:ada@example.com\n")
    subprocess.run(["openssl", "genrsa", "-out", "key.pem", "2048"], cwd=folder, check=True, capture_output=True)
    command = ["openssl", "cmp", "-cmd", "ir", "-server", url, "-ref", "ada", "-secret", f"pass:{SECRET}"]
    command += ["-config", "san.cnf", "-reqexts", "SAN", "-newkey", "key.pem", "-subject", "/CN=ada@example.com"]
    command += ["-certout", "cert.pem", "-total_timeout", "120", "-no_proxy", "127.0.0.1"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=150)


def scenario(url: str, api_key: str, folder: Path, store: str | None = None) -> subprocess.CompletedProcess[str]:
    """The daemon in its own process, and the client."""
    site = site_for(url, api_key, folder / "cmpd", store)
    site.code("ada", profile="mail")
    with site.serve() as daemon:
        done = enroll(folder, f"http://{daemon.cmp}/.well-known/cmp/p/mail")
        daemon.stop()
    return done


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("way", ["at once", "after a while", LOST])
async def test_a_mailbox(tmp_path: Path, way: str, kind: str) -> None:
    """At once, after polling, and when CertCentral has taken the order and its answer is lost: one order each time."""
    kept = postgres.empty() if kind == "postgresql" else contextlib.nullcontext(None)
    with kept as store:
        async with CertCentral().running(port=0) as central:
            if way == "after a while":
                central.set(delay=4)
            elif way == LOST:
                central.faults.add(LOST, endpoint="order")
            done = await asyncio.to_thread(scenario, central.url, central.key("admin"), tmp_path, store)
            assert done.returncode == 0, done.stderr
            certificate = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
            assert "ada@example.com" in certificate.subject.rfc4514_string()
            assert len(central.ledger.orders()) == 1
            if way != "at once":
                assert "starting to poll" in done.stdout + done.stderr
