"""Every way in which the files of a local CA can be wrong: refused with key, file, reason and what to do."""

import os
import shutil
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from cmpd.issuers import IssuerConfigError
from cmpd.issuers.local import CreatedCA, LocalIssuer, create_ca
from tests.contract.issuer import approve, check_chain

NOW = datetime.now(UTC)


@pytest.fixture
def ca(made_ca: Callable[[str], CreatedCA], tmp_path: Path) -> CreatedCA:
    """A copy of the session's CA, to be spoilt."""
    shutil.copytree(made_ca("ec-p256").directory, tmp_path / "ca")
    return CreatedCA(tmp_path / "ca")


def load(ca: CreatedCA, now: datetime | None = None, **changes: Any) -> LocalIssuer:
    from cmpd.issuers import validate
    from cmpd.issuers.local import LocalIssuerConfig

    table = {key: value for key, value in (ca.table(ca.directory) | changes).items() if value is not None}
    return LocalIssuer(validate(LocalIssuerConfig, table, base=ca.directory), name="local", now=now)


def refused(ca: CreatedCA, now: Any = None, **changes: Any) -> str:
    """The one fault, with the folder cut from it; no secret is in it."""
    with pytest.raises(IssuerConfigError) as caught:
        load(ca, now, **changes)
    (fault,) = caught.value.faults
    passphrase = (ca.directory / "passphrase").read_text().strip() if (ca.directory / "passphrase").exists() else "\0"
    assert not passphrase or passphrase not in fault
    assert "; " in fault, "says what to do"
    return fault.replace(f"{ca.directory}{os.sep}", "")


def issue(
    ca: CreatedCA,
    key: Any,
    *extensions: tuple[x509.ExtensionType, bool],
    subject: str = "CN=test",
    issuer: str = "issuing",
    days: int = 365,
) -> bytes:
    """A certificate as another CA software would write it, signed with a key of `ca`; PEM."""
    passphrase = (ca.directory / "passphrase").read_bytes().strip()
    signer: Any = load_pem_private_key((ca.directory / f"{issuer}.key").read_bytes(), passphrase)
    parent = x509.load_pem_x509_certificate((ca.directory / f"{issuer}.pem").read_bytes())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string(subject))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=days))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


def key_usage(**bits: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**(dict.fromkeys(names, False) | bits))


CMC_RA = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.28")])


def write_key(ca: CreatedCA, name: str, key: Any, *, encrypted: bool = True) -> None:
    passphrase = (ca.directory / "passphrase").read_bytes().strip()
    protection = BestAvailableEncryption(passphrase) if encrypted else NoEncryption()
    (ca.directory / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    (ca.directory / name).chmod(0o600)


def test_what_create_ca_makes_is_accepted(ca: CreatedCA) -> None:
    issuer = load(ca)
    assert issuer.notices(NOW) == []


@pytest.mark.parametrize("key", ["certificate", "chain", "key", "passphrase_file", "cmp_certificate", "cmp_key"])
def test_a_missing_file(key: str, ca: CreatedCA) -> None:
    fault = refused(ca, **{key: "nowhere.pem"})
    assert fault.startswith(f"{key}: nowhere.pem: no such file; ")


@pytest.mark.parametrize("key", ["certificate", "chain", "key", "passphrase_file", "cmp_certificate", "cmp_key"])
def test_a_file_that_cannot_be_read(key: str, ca: CreatedCA) -> None:
    (ca.directory / "folder").mkdir()
    assert refused(ca, **{key: "folder"}).startswith(f"{key}: folder: cannot be read: Is a directory; check owner and")


def test_a_file_without_permission(ca: CreatedCA, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal of the system is played here."""
    real = Path.open

    def deny(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name == "issuing.key":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", deny)
    assert refused(ca) == (
        "key: issuing.key: cannot be read: Permission denied; check owner and permissions of file and folders"
    )


@pytest.mark.parametrize(
    ("key", "file"), [("key", "issuing.key"), ("cmp_key", "cmp.key"), ("passphrase_file", "passphrase")]
)
@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644])
def test_a_secret_that_is_open_to_every_user(key: str, file: str, mode: int, ca: CreatedCA) -> None:
    (ca.directory / file).chmod(mode)
    assert refused(ca).startswith(f"{key}: {file}: mode {mode:04o} opens it to every user; chmod 600 it")


def test_a_secret_that_a_group_can_read_is_noticed(ca: CreatedCA, monkeypatch: pytest.MonkeyPatch) -> None:
    (ca.directory / "passphrase").chmod(0o640)
    issuer = load(ca)
    (notice,) = issuer.notices(NOW)
    assert notice.startswith(f"issuers.local: {ca.directory / 'passphrase'}: its group may read it; chmod 600")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(ca.directory))
    assert issuer.notices(NOW) == []


@pytest.mark.parametrize("key", ["certificate", "chain", "cmp_certificate"])
def test_a_file_without_a_certificate(key: str, ca: CreatedCA) -> None:
    for text in ("", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        (ca.directory / "x.pem").write_text(text)
        assert refused(ca, **{key: "x.pem"}).startswith(f"{key}: x.pem: holds no readable PEM certificate; ")


@pytest.mark.parametrize("key", ["certificate", "cmp_certificate"])
def test_a_file_with_two_certificates(key: str, ca: CreatedCA) -> None:
    both = (ca.directory / ca.table(ca.directory)[key]).read_bytes() + (ca.directory / "root.pem").read_bytes()
    (ca.directory / "x.pem").write_bytes(both)
    assert refused(ca, **{key: "x.pem"}).startswith(f"{key}: x.pem: holds 2 certificates; ")


@pytest.mark.parametrize(("key", "file"), [("key", "issuing.key"), ("cmp_key", "cmp.key")])
def test_a_wrong_passphrase(key: str, file: str, ca: CreatedCA) -> None:
    if key == "cmp_key":
        other = ec.generate_private_key(ec.SECP256R1())
        (ca.directory / file).write_bytes(
            other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"another"))
        )
    else:
        (ca.directory / "passphrase").write_text("of-another-ca\n")
    assert refused(ca) == (
        f"{key}: {file}: does not open with the passphrase in passphrase; name the file that belongs to it"
    )


def test_an_empty_passphrase_file(ca: CreatedCA) -> None:
    (ca.directory / "passphrase").write_text("\n")
    assert refused(ca).startswith("passphrase_file: passphrase: is empty; ")


def test_a_passphrase_may_end_in_any_line_end_or_none(ca: CreatedCA) -> None:
    passphrase = (ca.directory / "passphrase").read_bytes().strip()
    for end in (b"", b"\n", b"\r\n"):
        (ca.directory / "passphrase").write_bytes(passphrase + end)
        load(ca)


def test_a_key_that_is_not_encrypted(ca: CreatedCA) -> None:
    write_key(ca, "issuing.key", ec.generate_private_key(ec.SECP256R1()), encrypted=False)
    assert refused(ca).startswith("key: issuing.key: is not encrypted; `openssl pkcs8 -topk8 -v2 aes256`")


def test_a_key_file_without_a_key(ca: CreatedCA) -> None:
    (ca.directory / "issuing.key").write_text("hello")
    assert refused(ca).startswith("key: issuing.key: holds no PEM private key; ")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), "is RSA of 1024 bits; use 2048 to 4096"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), "is curve secp256k1; use P-256, P-384 or P-521"),
        (x25519.X25519PrivateKey.generate, "is a key that cannot sign certificates; use RSA, EC, "),
    ],
)
def test_a_key_of_a_kind_that_is_not_for_a_ca(make: Callable[[], Any], reason: str, ca: CreatedCA) -> None:
    write_key(ca, "issuing.key", make())
    assert refused(ca).startswith(f"key: issuing.key: {reason}")


def test_a_key_that_is_not_the_certificates(ca: CreatedCA) -> None:
    assert refused(ca, key="cmp.key") == (
        f"key: cmp.key: is not the key of {ca.directory}/issuing.pem; name the two that belong together"
    ).replace(f"{ca.directory}/", "")
    assert refused(ca, cmp_key="issuing.key").startswith("cmp_key: issuing.key: is not the key of cmp.pem; ")


def test_a_certificate_that_is_not_a_cas(ca: CreatedCA) -> None:
    assert refused(ca, certificate="cmp.pem", key="cmp.key").startswith(
        "certificate: cmp.pem: 'CN=cmpd CMP signer' is not a CA certificate; "
    )
    assert refused(ca, chain="cmp.pem").startswith("chain: cmp.pem: 'CN=cmpd CMP signer' is not a CA certificate; ")


@pytest.mark.parametrize("bits", [None, {"crl_sign": True}, {"key_cert_sign": True}])
def test_a_ca_certificate_without_the_key_usage(bits: dict[str, bool] | None, ca: CreatedCA) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = [] if bits is None else [(key_usage(**bits), True)]
    (ca.directory / "x.pem").write_bytes(
        issue(ca, key, (x509.BasicConstraints(ca=True, path_length=0), True), *usage, issuer="root")
    )
    write_key(ca, "x.key", key)
    assert refused(ca, certificate="x.pem", key="x.key") == (
        "certificate: x.pem: 'CN=test': its keyUsage lacks keyCertSign or cRLSign; a CA certificate needs both"
    )


@pytest.mark.parametrize(
    ("years", "fault"),
    [
        (2.1, "cmp_certificate: cmp.pem: 'CN=cmpd CMP signer' expired at "),
        (10.1, "certificate: issuing.pem: 'CN=cmpd Issuing CA' expired at "),
        (-1, "certificate: issuing.pem: 'CN=cmpd Issuing CA' is valid only from "),
    ],
)
def test_a_certificate_out_of_its_time(years: float, fault: str, ca: CreatedCA) -> None:
    assert refused(ca, NOW + timedelta(days=365 * years)).startswith(fault)


def test_a_root_that_has_expired(ca: CreatedCA, tmp_path: Path) -> None:
    old = create_ca(tmp_path / "old", now=NOW - timedelta(days=21 * 365))
    assert refused(ca, chain=str(old.root_certificate)).startswith(
        f"chain: {old.root_certificate}: 'CN=cmpd Root CA' expired"
    )


def test_a_chain_of_another_ca(ca: CreatedCA, tmp_path: Path) -> None:
    other = create_ca(tmp_path / "other")
    assert refused(ca, chain=str(other.root_certificate)) == (
        f"chain: {other.root_certificate}: 'CN=cmpd Issuing CA' was not issued by 'CN=cmpd Root CA'; "
        "order: issuer by issuer, root last"
    )


def test_a_chain_without_its_root(ca: CreatedCA) -> None:
    assert refused(ca, chain=None) == (
        "chain: no root at the end: 'CN=cmpd Issuing CA' has another issuer; add the rest, root last"
    )


def test_a_chain_in_which_a_path_length_is_exceeded(ca: CreatedCA) -> None:
    """RFC 5280 §4.2.1.9: pathLenConstraint counts the CA certificates that may follow."""
    key = ec.generate_private_key(ec.SECP256R1())
    (ca.directory / "x.pem").write_bytes(
        issue(
            ca,
            key,
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (key_usage(key_cert_sign=True, crl_sign=True), True),
        )
    )
    write_key(ca, "x.key", key)
    (ca.directory / "chain.pem").write_bytes(
        (ca.directory / "issuing.pem").read_bytes() + (ca.directory / "root.pem").read_bytes()
    )
    assert refused(ca, certificate="x.pem", key="x.key", chain="chain.pem") == (
        "chain: chain.pem: 'CN=cmpd Issuing CA' allows 0 CAs below it; use another CA above"
    )


async def test_a_root_may_issue_itself(ca: CreatedCA) -> None:
    """Then there is no chain above it, and clients get the CMP certificate alone, since they have the root."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(ca, "x.key", key)
    certificate = issue(ca, key, (key_usage(digital_signature=True), True), (CMC_RA, False), issuer="root")
    (ca.directory / "x.pem").write_bytes(certificate)
    issuer = load(ca, certificate="root.pem", key="root.key", chain=None, cmp_certificate="x.pem", cmp_key="x.key")
    chain = await issuer.chain()
    assert len(chain) == 1
    check_chain((await issuer.issue(approve())).der, chain)
    assert len(issuer.cmp_credential()[1]) == 1


async def test_a_ca_made_by_other_software_without_a_key_identifier(ca: CreatedCA) -> None:
    """RFC 5280 §4.2.1.1: without a subjectKeyIdentifier the identifier is computed from the key."""
    key, cmp_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    (ca.directory / "x.pem").write_bytes(
        issue(
            ca,
            key,
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (key_usage(key_cert_sign=True, crl_sign=True), True),
            issuer="root",
        )
    )
    write_key(ca, "x.key", key)
    write_key(ca, "y.key", cmp_key)
    (ca.directory / "y.pem").write_bytes(issue(CreatedCA(ca.directory), cmp_key, (CMC_RA, False), issuer="x"))
    issuer = load(ca, certificate="x.pem", key="x.key", cmp_certificate="y.pem", cmp_key="y.key")
    check_chain((await issuer.issue(approve())).der, await issuer.chain())


@pytest.mark.parametrize(
    ("extensions", "issuer", "reason"),
    [
        ([], "issuing", "its extendedKeyUsage lacks id-kp-cmcRA (RFC 9810 §4.5); make one that has it"),
        (
            [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)],
            "issuing",
            "its extendedKeyUsage lacks id-kp-cmcRA (RFC 9810 §4.5); make one that has it",
        ),
        (
            [(key_usage(key_agreement=True), True), (CMC_RA, False)],
            "issuing",
            "its keyUsage lacks digitalSignature; make one that has it",
        ),
        ([(CMC_RA, False)], "root", "was not issued by issuing.pem; make one with that CA"),
    ],
)
def test_a_cmp_certificate_that_does_not_serve(
    extensions: list[tuple[x509.ExtensionType, bool]], issuer: str, reason: str, ca: CreatedCA
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(ca, "x.key", key)
    (ca.directory / "x.pem").write_bytes(issue(ca, key, *extensions, issuer=issuer))
    assert refused(ca, cmp_certificate="x.pem", cmp_key="x.key") == f"cmp_certificate: x.pem: {reason}"


def test_the_cas_own_key_may_not_sign_cmp_messages(ca: CreatedCA) -> None:
    assert refused(ca, cmp_certificate="issuing.pem", cmp_key="issuing.key").startswith(
        "cmp_key: issuing.key: is the CA's own key; "
    )


@pytest.mark.parametrize("validity", ["7", "7w", "1m", "2y", 7])
def test_a_crl_validity_that_makes_no_sense(validity: object, ca: CreatedCA) -> None:
    assert refused(ca, crl_validity=validity).startswith("crl_validity: ")


@pytest.mark.parametrize("url", ["ftp://x/y", "http://", "http://pki example/", "http://pki.example/ü.crl", "/ca.crl"])
def test_urls_that_clients_could_not_use(url: str, ca: CreatedCA) -> None:
    for key in ("crl_url", "ca_issuers_url"):
        assert refused(ca, **{key: url}).startswith(f"{key}: not a URL that clients can use; ")


def test_a_systemd_credential(ca: CreatedCA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """systemd.exec(5): LoadCredential= puts the file into $CREDENTIALS_DIRECTORY."""
    (tmp_path / "credentials").mkdir()
    (ca.directory / "passphrase").rename(tmp_path / "credentials" / "ca-passphrase")
    (tmp_path / "credentials" / "ca-passphrase").chmod(stat.S_IRUSR)
    path = "${CREDENTIALS_DIRECTORY}/ca-passphrase"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert refused(ca, passphrase_file=path).startswith(
        "passphrase_file: CREDENTIALS_DIRECTORY is not set; systemd sets it for a unit with LoadCredential="
    )
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert load(ca, passphrase_file=path).notices(NOW) == []
    assert "is expanded; write the path out" in refused(ca, passphrase_file="${HOME}/ca-passphrase")


def test_notices_before_something_ends(ca: CreatedCA) -> None:
    issuer = load(ca)
    two_years, ten_years = NOW + timedelta(days=2 * 365), NOW + timedelta(days=10 * 365)
    assert issuer.notices(two_years - timedelta(days=31)) == []
    (notice,) = issuer.notices(two_years - timedelta(days=29))
    assert notice.startswith(f"issuers.local: {ca.directory / 'cmp.pem'}: the CMP protection certificate ends at ")
    assert [" CA certificate ends" in one for one in issuer.notices(ten_years - timedelta(days=1))] == [False, True]


def test_no_secret_is_shown_by_a_repr(ca: CreatedCA) -> None:
    from cmpd.issuers.local import LocalIssuerConfig
    from cmpd.issuers.local.config import read_ca

    config = LocalIssuerConfig.model_validate(ca.table(ca.directory), context={"base": ca.directory})
    passphrase = (ca.directory / "passphrase").read_text().strip()
    for thing in (config, read_ca(config, NOW), load(ca)):
        assert passphrase not in f"{thing!r} {thing}"
