"""Making a local CA: a root, an issuing CA below it and the certificate that signs CMP answers."""

import errno
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from cmpd.asn1 import der, oids
from cmpd.exchange import RequestedExtension
from cmpd.issuers.local.authority import Authority, key_identifier
from cmpd.issuers.local.config import LocalIssuerConfig, name_of, read_ca, read_cmp_key
from cmpd.issuers.local.issuer import crl_url_of
from cmpd.issuers.local.keys import CAKey, generate, spki

ROOT_VALIDITY = timedelta(days=20 * 365)
ISSUING_VALIDITY = timedelta(days=10 * 365)
CMP_VALIDITY = timedelta(days=2 * 365)
_BACKDATE = timedelta(hours=1)
"""For clients whose clock is a little behind."""

_KEY_USAGE_CA = RequestedExtension(ExtensionOID.KEY_USAGE, critical=True, value=der.named_bits({5, 6}))
_KEY_USAGE_CMP = RequestedExtension(ExtensionOID.KEY_USAGE, critical=True, value=der.named_bits({0}))
_CMC_RA = RequestedExtension(
    ExtensionOID.EXTENDED_KEY_USAGE, critical=False, value=der.sequence(der.oid(oids.KP_CMC_RA))
)


def _constraints(path_length: int | None) -> RequestedExtension:
    limit = b"" if path_length is None else der.integer(path_length)
    value = der.sequence(der.boolean(True), limit)
    return RequestedExtension(ExtensionOID.BASIC_CONSTRAINTS, critical=True, value=value)


@dataclass(frozen=True, slots=True)
class CreatedCA:
    """Where the files of a new CA are."""

    directory: Path

    @property
    def root_certificate(self) -> Path:
        """What clients trust."""
        return self.directory / "root.pem"

    @property
    def root_key(self) -> Path:
        """Not needed to serve: move it, with a copy of the passphrase, to a place that is off-line."""
        return self.directory / "root.key"

    def table(self, base: Path) -> dict[str, str]:
        """The keys of `[issuers.NAME]`, paths relative to `base` (the folder of cmpd.toml) where they are below it."""
        folder = self.directory.absolute()
        if folder.is_relative_to(base.absolute()):
            folder = folder.relative_to(base.absolute())
        names = {
            "certificate": "issuing.pem",
            "chain": "root.pem",
            "key": "issuing.key",
            "passphrase_file": "passphrase",
            "cmp_certificate": "cmp.pem",
            "cmp_key": "cmp.key",
        }
        return {"type": "local"} | {key: (folder / file).as_posix() for key, file in names.items()}


def create_ca(
    directory: Path, *, name: str = "cmpd", key_type: str = "ec-p256", crl_url: str = "", now: datetime | None = None
) -> CreatedCA:
    """Make a CA in a new folder: root.pem root.key issuing.pem issuing.key cmp.pem cmp.key passphrase.

    The folder has mode 0700 and appears at once with all files in it, or not at all. `key_type` (one of
    `keys.KEY_TYPES`) is that of the two CA keys; the CMP key is EC P-256. `crl_url` goes into the CMP certificate.
    Raises FileExistsError when the folder is there and not empty, ValueError for an unknown key type, OSError.
    """
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    for path in sorted(directory.iterdir()) if directory.is_dir() else [directory] if directory.exists() else []:
        raise FileExistsError(errno.EEXIST, "exists already, a new CA must have a folder of its own", str(path))
    root_key, issuing_key, cmp_key = generate(key_type), generate(key_type), generate("ec-p256")
    start = now - _BACKDATE
    root = _authority(root_key, f"{name} Root CA")
    issuing = _authority(issuing_key, f"{name} Issuing CA", crl_url)
    root_der = root.certificate(
        root.name, spki(root_key), start, now + ROOT_VALIDITY, [_constraints(None), _KEY_USAGE_CA]
    )
    issuing_der = root.certificate(
        issuing.name, spki(issuing_key), start, now + ISSUING_VALIDITY, [_constraints(0), _KEY_USAGE_CA]
    )
    cmp_der = _cmp_certificate(issuing, _name(f"{name} CMP signer"), cmp_key, start, now + CMP_VALIDITY)
    passphrase = secrets.token_urlsafe(32).encode()
    files = {
        "passphrase": (passphrase + b"\n", 0o600),
        "root.key": (_encrypted(root_key, passphrase), 0o600),
        "root.pem": (_pem(root_der), 0o644),
        "issuing.key": (_encrypted(issuing_key, passphrase), 0o600),
        "issuing.pem": (_pem(issuing_der), 0o644),
        "cmp.key": (_encrypted(cmp_key, passphrase), 0o600),
        "cmp.pem": (_pem(cmp_der), 0o644),
    }
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))  # mode 0700
    try:
        for file, (data, mode) in files.items():
            _write(draft / file, data, mode)
        _sync(draft)
        draft.rename(directory)  # fails if meanwhile something was put into the folder
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync(directory.parent)
    return CreatedCA(directory)


def renew_cmp_signer(config: LocalIssuerConfig, *, name: str, url: str = "", now: datetime | None = None) -> Path:
    """Replace `cmp_certificate`, expired or not, by a new one of the same key and subject; return its path.

    A running server takes it with its next reload. Raises `IssuerConfigError`, OSError.
    """
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    ca = read_ca(config, now)
    key = read_cmp_key(config, ca)
    path = config.cmp_certificate
    subject = name_of(x509.load_pem_x509_certificate(path.read_bytes()))
    authority = Authority(
        ca.key,
        ca.subject,
        ca.identifier,
        entropy=os.urandom,
        crl_url=crl_url_of(config, url, name),
        ca_issuers_url=config.ca_issuers_url,
    )
    end = min(now + CMP_VALIDITY, ca.certificate.not_valid_after_utc)
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        _write(draft, _pem(_cmp_certificate(authority, subject, key, now - _BACKDATE, end)), 0o644)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync(path.parent)
    return path


def _authority(key: CAKey, common_name: str, crl_url: str = "") -> Authority:
    return Authority(key, _name(common_name), key_identifier(spki(key)), entropy=os.urandom, crl_url=crl_url)


def _cmp_certificate(authority: Authority, subject: bytes, key: CAKey, start: datetime, end: datetime) -> bytes:
    """RFC 9810 §4.5: the CA delegates to the holder of this key by id-kp-cmcRA."""
    return authority.certificate(subject, spki(key), start, end, [_KEY_USAGE_CMP, _CMC_RA])


def _name(common_name: str) -> bytes:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]).public_bytes()


def _pem(*certificates: bytes) -> bytes:
    return b"".join(x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in certificates)


def _encrypted(key: CAKey, passphrase: bytes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
