"""Making a CA, and renewing the certificate that signs CMP answers."""

import os
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cmpd.issuers import IssuerConfigError
from cmpd.issuers.local import CreatedCA, LocalIssuer, LocalIssuerConfig, create_ca, renew_cmp_signer
from cmpd.issuers.local import ca as module
from tests.issuers.conftest import openssl
from tests.issuers.lint import lint_certificate

FILES = {"root.pem", "root.key", "issuing.pem", "issuing.key", "cmp.pem", "cmp.key", "passphrase"}
NOW = datetime.now(UTC).replace(microsecond=0)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def config_of(ca: CreatedCA) -> LocalIssuerConfig:
    return LocalIssuerConfig.model_validate(ca.table(ca.directory), context={"base": ca.directory})


def test_the_files_and_their_modes(tmp_path: Path) -> None:
    """The folder 0700, keys and passphrase 0600, whatever the umask allows."""
    before = os.umask(0)
    try:
        ca = create_ca(tmp_path / "deep" / "ca")
    finally:
        os.umask(before)
    assert {path.name for path in ca.directory.iterdir()} == FILES
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in ca.directory.iterdir()}
    assert modes == {name: 0o644 if name.endswith(".pem") else 0o600 for name in FILES}
    assert stat.S_IMODE(ca.directory.stat().st_mode) == 0o700
    assert [path.name for path in ca.directory.parent.iterdir()] == ["ca"]


def test_a_random_passphrase_of_256_bits_opens_the_keys(ca: CreatedCA, tmp_path: Path) -> None:
    passphrase = (ca.directory / "passphrase").read_text().strip()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", passphrase)
    for name in ("root.key", "issuing.key", "cmp.key"):
        data = (ca.directory / name).read_bytes()
        assert data.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        load_pem_private_key(data, passphrase.encode())
        done = openssl("asn1parse", "-in", ca.directory / name)
        assert "aes-256-cbc" in done.stdout
        assert "hmacWithSHA256" in done.stdout
        opened = openssl("pkey", "-in", ca.directory / name, "-passin", f"file:{ca.directory / 'passphrase'}", "-noout")
        assert opened.returncode == 0
    other = create_ca(tmp_path / "other")
    assert (other.directory / "passphrase").read_text().strip() != passphrase


def test_the_certificates(ca: CreatedCA) -> None:
    """RFC 5280 §4.2.1.3, §4.2.1.9: a root of 20 years, an issuing CA of 10 that may not have another below it."""
    root, issuing, cmp = (read(ca.directory / f"{name}.pem") for name in ("root", "issuing", "cmp"))
    assert [one.subject.rfc4514_string() for one in (root, issuing, cmp)] == [
        "CN=cmpd Root CA",
        "CN=cmpd Issuing CA",
        "CN=cmpd CMP signer",
    ]
    years = [round((one.not_valid_after_utc - NOW) / timedelta(days=365)) for one in (root, issuing, cmp)]
    assert years == [20, 10, 2]
    assert all(timedelta() < NOW - one.not_valid_before_utc < timedelta(hours=2) for one in (root, issuing, cmp))
    for one, limit in ((root, None), (issuing, 0)):
        constraints = one.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert constraints.value == x509.BasicConstraints(ca=True, path_length=limit)
        usage: Any = one.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        set_bits = {name.removeprefix("_") for name, value in vars(usage.value).items() if value}
        assert set_bits == {"key_cert_sign", "crl_sign"}


@pytest.mark.parametrize("what", ["root.key", "passphrase", "notes.txt"])
def test_nothing_is_overwritten(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    folder.mkdir()
    (folder / what).write_text("mine")
    with pytest.raises(FileExistsError, match=re.escape(str(folder / what))):
        create_ca(folder)
    assert [path.name for path in folder.iterdir()] == [what]
    assert (folder / what).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["ca"]


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("mine")
    with pytest.raises(FileExistsError):
        create_ca(tmp_path / "ca")
    assert (tmp_path / "ca").read_text() == "mine"


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir(mode=0o755)
    create_ca(tmp_path / "ca")
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700


def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at a time: the second finds the first's folder at the very end."""
    real = module._sync

    def sync(folder: Path) -> None:
        if folder != tmp_path:
            (tmp_path / "ca").mkdir()
            (tmp_path / "ca" / "root.key").write_text("mine")
        real(folder)

    monkeypatch.setattr(module, "_sync", sync)
    with pytest.raises(OSError, match="not empty"):
        create_ca(tmp_path / "ca")
    assert (tmp_path / "ca" / "root.key").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["ca"]


@pytest.mark.parametrize("fails_at", range(7))
def test_a_failure_in_the_middle_leaves_nothing(fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = module._write, 0

    def write(path: Path, data: bytes, mode: int) -> None:
        nonlocal written
        if written == fails_at:
            raise OSError(28, "No space left on device")
        written += 1
        assert not (tmp_path / "ca").exists()
        real(path, data, mode)

    monkeypatch.setattr(module, "_write", write)
    with pytest.raises(OSError, match="No space left"):
        create_ca(tmp_path / "ca")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_type_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ml-dsa-87"):
        create_ca(tmp_path / "ca", key_type="rsa-1024")
    assert list(tmp_path.iterdir()) == []


def test_the_table_is_what_the_issuer_loads(ca: CreatedCA) -> None:
    base = ca.directory.parent
    assert ca.table(base) == {
        "type": "local",
        "certificate": "ca/issuing.pem",
        "chain": "ca/root.pem",
        "key": "ca/issuing.key",
        "passphrase_file": "ca/passphrase",
        "cmp_certificate": "ca/cmp.pem",
        "cmp_key": "ca/cmp.key",
    }
    assert ca.table(base / "elsewhere")["key"] == str(ca.directory / "issuing.key")
    LocalIssuer.from_config(ca.table(base), base=base, url="", name="local")


def test_the_crl_url_is_in_the_cmp_certificate_only(tmp_path: Path) -> None:
    """The root's own CRL would be another one, and there is none."""
    ca = create_ca(tmp_path / "ca", crl_url="http://cmp.example/crl/local.crl")
    kind = x509.CRLDistributionPoints
    (point,) = read(ca.directory / "cmp.pem").extensions.get_extension_for_class(kind).value
    assert point.full_name == [x509.UniformResourceIdentifier("http://cmp.example/crl/local.crl")]
    for name in ("root.pem", "issuing.pem"):
        with pytest.raises(x509.ExtensionNotFound):
            read(ca.directory / name).extensions.get_extension_for_class(kind)


def test_an_expired_cmp_certificate_is_renewed_in_place(ca: CreatedCA) -> None:
    """Same key, same subject, a new serial number and two more years; the other files stay."""
    later = NOW + timedelta(days=800)
    config, path = config_of(ca), ca.directory / "cmp.pem"
    before = {one.name: one.read_bytes() for one in ca.directory.iterdir()}
    with pytest.raises(IssuerConfigError, match=r"cmp\.pem: 'CN=cmpd CMP signer' expired"):
        LocalIssuer(config, now=later)
    old = read(path)
    assert renew_cmp_signer(config, name="local", url="http://cmp.example", now=later) == path
    new = read(path)
    assert (new.subject, new.public_key()) == (old.subject, old.public_key())
    assert new.serial_number != old.serial_number
    assert new.not_valid_after_utc == later + timedelta(days=730)
    assert {severity for severity, _ in lint_certificate(LocalIssuer(config, now=later).cmp_credential()[1][0])} == {
        "INFO"
    }
    after = {one.name: one.read_bytes() for one in ca.directory.iterdir()}
    assert {name for name in FILES if before[name] != after[name]} == {"cmp.pem"}
    assert after.keys() == FILES


def test_a_renewed_cmp_certificate_does_not_outlive_the_ca(ca: CreatedCA) -> None:
    end = read(ca.directory / "issuing.pem").not_valid_after_utc
    renew_cmp_signer(config_of(ca), name="local", now=end - timedelta(days=1))
    assert read(ca.directory / "cmp.pem").not_valid_after_utc == end
