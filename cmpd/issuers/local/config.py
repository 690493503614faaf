"""The keys of `[issuers.NAME]` with type "local", and the files that they name, read and checked."""

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from cmpd.asn1 import der, oids
from cmpd.issuers import IssuerConfigError
from cmpd.issuers.local.authority import key_identifier
from cmpd.issuers.local.keys import CAKey, Signer, spki
from cmpd.profile import parse_duration

_CREDENTIALS = "${CREDENTIALS_DIRECTORY}"


def _path(text: object, info: ValidationInfo) -> Path:
    if isinstance(text, Path):
        text = str(text)
    if not isinstance(text, str) or not text:
        raise ValueError("not a path; write the path of a file")
    if text.startswith(_CREDENTIALS):
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise ValueError(
                "CREDENTIALS_DIRECTORY is not set; systemd sets it for a unit with LoadCredential=, "
                "elsewhere set it to the folder that holds the file"
            )
        text = directory + text.removeprefix(_CREDENTIALS)
    if "${" in text:
        raise ValueError(f"only {_CREDENTIALS} at the beginning is expanded; write the path out")
    base: Path = (info.context or {}).get("base", Path())
    return base / Path(text).expanduser()


def _url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https", "ldap"} and bool(parts.hostname)
    except ValueError:
        usable = False
    if url and (not usable or re.search(r"[^\x21-\x7e]", url)):
        raise ValueError('not a URL that clients can use; write for instance "http://pki.example.com/ca.crl"')
    return url


FilePath = Annotated[Path, BeforeValidator(_path)]
PublishedURL = Annotated[str, AfterValidator(_url)]


class LocalIssuerConfig(BaseModel):
    """[issuers.NAME] with type = "local": a CA whose keys are files here."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, hide_input_in_errors=True
    )

    type: Literal["local"] = "local"
    """The kind of issuer."""
    certificate: FilePath
    """PEM file with the certificate of the issuing CA."""
    chain: FilePath | None = None
    """PEM file with the CA certificates above it, root last; left out when the issuing CA is itself a root."""
    key: FilePath
    """PEM file with the issuing CA's private key, PKCS #8, encrypted."""
    passphrase_file: FilePath
    """File with the passphrase of `key` and `cmp_key`; `${CREDENTIALS_DIRECTORY}/NAME` is a systemd credential."""
    cmp_certificate: FilePath
    """PEM file with the certificate that CMP answers are signed with: issued by this CA, id-kp-cmcRA."""
    cmp_key: FilePath
    """PEM file with the private key of `cmp_certificate`, PKCS #8, encrypted."""
    crl_validity: Annotated[
        timedelta,
        BeforeValidator(parse_duration),
        Field(ge=timedelta(minutes=10), le=timedelta(days=366)),
    ] = timedelta(days=7)
    """From a CRL's thisUpdate to its nextUpdate; a new one is made after half of it."""
    crl_url: PublishedURL | None = None
    """Where certificates say their CRL is; by default `/crl/NAME.crl` of the server's url, "" leaves it out."""
    ca_issuers_url: PublishedURL = ""
    """Where certificates say the issuing CA's certificate (DER) is, as authorityInfoAccess; "" leaves it out."""


@dataclass(frozen=True, slots=True)
class CAMaterial:
    """The issuing CA as its files give it."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    """The CA certificates above `certificate`, root last; empty when it is a root."""
    key: CAKey
    passphrase: bytes
    subject: bytes
    """DER of the CA's name, octet for octet."""
    identifier: bytes
    """What its certificates carry as authorityKeyIdentifier."""

    @property
    def der(self) -> tuple[bytes, ...]:
        """The CA certificates, issuing CA first, root last."""
        return tuple(one.public_bytes(Encoding.DER) for one in (self.certificate, *self.chain))

    def __repr__(self) -> str:
        return f"CAMaterial({self.certificate.subject.rfc4514_string()!r})"


@dataclass(frozen=True, slots=True)
class CMPMaterial:
    """The CMP protection certificate with its key."""

    certificate: x509.Certificate
    key: CAKey


def read_ca(config: LocalIssuerConfig, now: datetime) -> CAMaterial:
    """Read the CA's certificates and key, and check that they can be used at `now`. Raises `IssuerConfigError`."""
    certificate, *more = _certificates("certificate", config.certificate)
    if more:
        raise _fault("certificate", config.certificate, f"holds {len(more) + 1} certificates; move the rest to chain")
    chain = tuple(_certificates("chain", config.chain)) if config.chain is not None else ()
    _check_ca("certificate", config.certificate, certificate, now)
    for one in chain:
        _check_ca("chain", config.chain, one, now)
    _check_path(config, certificate, chain)
    passphrase = _passphrase(config.passphrase_file)
    key = _key("key", config.key, passphrase, config.passphrase_file)
    if spki(key) != _public_key(certificate):
        raise _fault("key", config.key, f"is not the key of {config.certificate}; name the two that belong together")
    extension = _extension(certificate, x509.SubjectKeyIdentifier)
    return CAMaterial(
        certificate,
        chain,
        key,
        passphrase,
        subject=name_of(certificate),
        identifier=key_identifier(spki(key)) if extension is None else extension.digest,
    )


def read_cmp(config: LocalIssuerConfig, ca: CAMaterial, now: datetime) -> CMPMaterial:
    """Read the CMP protection certificate and its key, and check them at `now`. Raises `IssuerConfigError`."""
    name, path = "cmp_certificate", config.cmp_certificate
    certificate, *more = _certificates(name, path)
    if more:
        raise _fault(name, path, f"holds {len(more) + 1} certificates; leave only the CMP protection certificate")
    key = read_cmp_key(config, ca)
    if spki(key) != _public_key(certificate):
        raise _fault("cmp_key", config.cmp_key, f"is not the key of {path}; name the two that belong together")
    if spki(key) == spki(ca.key):
        raise _fault("cmp_key", config.cmp_key, "is the CA's own key; give CMP messages a key of their own")
    try:
        certificate.verify_directly_issued_by(ca.certificate)
    except (ValueError, TypeError, InvalidSignature):
        raise _fault(name, path, f"was not issued by {config.certificate}; make one with that CA") from None
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise _fault(name, path, "its keyUsage lacks digitalSignature; make one that has it")
    purposes = _extension(certificate, x509.ExtendedKeyUsage)
    if purposes is None or oids.KP_CMC_RA not in purposes:
        raise _fault(name, path, "its extendedKeyUsage lacks id-kp-cmcRA (RFC 9810 §4.5); make one that has it")
    _check_time(name, path, certificate, now)
    return CMPMaterial(certificate, key)


def read_cmp_key(config: LocalIssuerConfig, ca: CAMaterial) -> CAKey:
    """Read the key of the CMP protection certificate. Raises `IssuerConfigError`."""
    return _key("cmp_key", config.cmp_key, ca.passphrase, config.passphrase_file)


def name_of(certificate: x509.Certificate) -> bytes:
    """DER of the subject as it stands in the certificate, which a re-encoding need not be."""
    # TBSCertificate ::= SEQUENCE { version [0], serialNumber, signature, issuer, validity, subject, … }
    return der.children(certificate.tbs_certificate_bytes)[5]


def group_readable(config: LocalIssuerConfig) -> list[Path]:
    """The secret files that a whole group may read; systemd's credentials, which are protected otherwise, left out."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return [
        path
        for path in (config.passphrase_file, config.key, config.cmp_key)
        if path.stat().st_mode & stat.S_IRGRP and not (credentials and path.is_relative_to(credentials))
    ]


def _fault(key: str, path: Path | None, reason: str) -> IssuerConfigError:
    return IssuerConfigError(f"{key}: {reason}" if path is None else f"{key}: {path}: {reason}")


def _read(key: str, path: Path, *, secret: bool) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(1 << 20)
    except FileNotFoundError:
        raise _fault(key, path, "no such file; correct the path, or make a CA with `cmpd init`") from None
    except OSError as error:
        raise _fault(
            key, path, f"cannot be read: {error.strerror}; check owner and permissions of file and folders"
        ) from None
    if secret and mode & 0o007:
        raise _fault(key, path, f"mode {mode:04o} opens it to every user; chmod 600 it, and think about a new key")
    return data


def _certificates(key: str, path: Path | None) -> list[x509.Certificate]:
    assert path is not None
    data = _read(key, path, secret=False)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise _fault(key, path, "holds no readable PEM certificate; `openssl x509` can convert one") from None


def _passphrase(path: Path) -> bytes:
    passphrase = _read("passphrase_file", path, secret=True).rstrip(b"\r\n")
    if not passphrase:
        raise _fault("passphrase_file", path, "is empty; write the passphrase of the CA's key into it")
    return passphrase


def _key(name: str, path: Path, passphrase: bytes, passphrase_file: Path) -> CAKey:
    data = _read(name, path, secret=True)
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" not in data:
        what = "is not encrypted" if b"PRIVATE KEY-----" in data else "holds no PEM private key"
        raise _fault(name, path, f"{what}; `openssl pkcs8 -topk8 -v2 aes256` makes an encrypted PKCS #8 file")
    try:
        key = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError):
        raise _fault(
            name, path, f"does not open with the passphrase in {passphrase_file}; name the file that belongs to it"
        ) from None
    except Exception:  # noqa: BLE001  UnsupportedAlgorithm and whatever else a strange file brings
        raise _fault(name, path, "is of a kind that is not known here; use RSA, EC, Ed25519, Ed448 or ML-DSA") from None
    try:
        Signer.of(key)
    except ValueError as error:
        raise _fault(name, path, f"is {error}") from None
    return key  # type: ignore[return-value]  # Signer.of takes no other


def _public_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _extension(certificate: x509.Certificate, kind: Callable[..., Any]) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value  # type: ignore[arg-type]
    except (x509.ExtensionNotFound, ValueError):
        return None


def _check_time(key: str, path: Path | None, certificate: x509.Certificate, now: datetime) -> None:
    who = certificate.subject.rfc4514_string()
    if now > certificate.not_valid_after_utc:
        raise _fault(
            key,
            path,
            f"{who!r} expired at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}; replace it by a new one",
        )
    if now < certificate.not_valid_before_utc:
        raise _fault(
            key,
            path,
            f"{who!r} is valid only from {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}; check the clock",
        )


def _check_ca(key: str, path: Path | None, certificate: x509.Certificate, now: datetime) -> None:
    """RFC 5280 §4.2.1.3, §4.2.1.9: a CA certificate says so in basicConstraints and keyUsage."""
    who = certificate.subject.rfc4514_string()
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise _fault(key, path, f"{who!r} is not a CA certificate; name the CA's own")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None or not usage.key_cert_sign or not usage.crl_sign:
        raise _fault(key, path, f"{who!r}: its keyUsage lacks keyCertSign or cRLSign; a CA certificate needs both")
    _check_time(key, path, certificate, now)


def _check_path(config: LocalIssuerConfig, certificate: x509.Certificate, chain: Sequence[x509.Certificate]) -> None:
    path = (certificate, *chain)
    for below, (child, parent) in enumerate(zip(path, (*chain, path[-1]), strict=True)):
        who, issuer = child.subject.rfc4514_string(), parent.subject.rfc4514_string()
        try:
            child.verify_directly_issued_by(parent)
        except (ValueError, TypeError, InvalidSignature):
            if child is parent:
                raise _fault(
                    "chain", config.chain, f"no root at the end: {who!r} has another issuer; add the rest, root last"
                ) from None
            raise _fault(
                "chain", config.chain, f"{who!r} was not issued by {issuer!r}; order: issuer by issuer, root last"
            ) from None
        constraints = _extension(parent, x509.BasicConstraints)
        if child is not parent and constraints.path_length is not None and constraints.path_length <= below:
            raise _fault(
                "chain", config.chain, f"{issuer!r} allows {constraints.path_length} CAs below it; use another CA above"
            )
