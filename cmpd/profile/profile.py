"""The profile: what a request needs to know of it, and the decision on a request."""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from cmpd.asn1 import der
from cmpd.errors import BadDataFormat
from cmpd.exchange import Approved, CertificateRequest, RequestedExtension
from cmpd.profile.config import ProfileConfig, ProfileError, ProfileKeyError, describe
from cmpd.profile.extensions import EXTENDED_KEY_USAGE, KEY_USAGE, NOT_A_CA, ExtensionsPolicy, requested_values
from cmpd.profile.key import KeyPolicy
from cmpd.profile.san import SUBJECT_ALT_NAME, SanPolicy
from cmpd.profile.subject import EMPTY_NAME, SubjectPolicy
from cmpd.profile.validity import ValidityPolicy

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Profile:
    """A checked profile; made by `load` or `from_config`."""

    name: str
    """As in /.well-known/cmp/p/NAME."""
    id: str
    """As in /cmp/ID."""
    issuer: str
    """Name of the `[issuers.NAME]` section."""
    description: str
    operations: frozenset[str]
    """Allowed body types: ir, cr, p10cr, kur."""
    authentication_method: str
    """enrollment_code or tls_certificate."""
    trusted: tuple[bytes, ...]
    """Trust anchors of signature-protected requests, DER."""
    ra_trusted: tuple[bytes, ...]
    """Certificates of registration authorities, DER."""
    implicit_confirm: bool
    confirm_wait: timedelta
    several_requests: bool
    message_time_tolerance: timedelta | None
    """None: messageTime is not checked."""
    missing_transaction_id: bool
    short_nonces: bool
    sha1_signatures: bool
    require_new_key: bool
    _key: KeyPolicy = field(repr=False)
    _subject: SubjectPolicy = field(repr=False)
    _san: SanPolicy = field(repr=False)
    _extensions: ExtensionsPolicy = field(repr=False)
    _validity: ValidityPolicy = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a profile file; its name without `.toml` is the profile's. Raises ProfileError."""
        try:
            table = tomllib.loads(path.read_bytes().decode())
        except OSError as error:
            raise ProfileError([f"{path}: cannot be read: {error.strerror}"]) from None
        except UnicodeDecodeError as error:
            raise ProfileError([f"{path}: octet {error.start} is not UTF-8"]) from None
        except tomllib.TOMLDecodeError as error:
            raise ProfileError([f"{path}: is not TOML: {error}"]) from None
        return cls.from_config(path.stem, table, path.parent)

    @classmethod
    def from_config(cls, name: str, config: ProfileConfig | Mapping[str, Any], base: Path) -> Self:
        """Check and prepare; files that the profile names are relative to `base`. Raises ProfileError."""
        path = base / f"{name}.toml"
        if not _NAME.fullmatch(name):
            raise ProfileError(
                [f"{path}: the name of a profile is 1 to 64 characters of a-z 0-9 . _ -, the first a letter or digit"]
            )
        if not isinstance(config, ProfileConfig):
            try:
                config = ProfileConfig.model_validate(config)
            except ValidationError as error:
                raise ProfileError(describe(path, error)) from None
        faults: list[str] = []
        parts: dict[str, Any] = {}
        for part, prepare in _preparations(config, base).items():
            try:
                parts[part] = prepare()
            except ProfileKeyError as fault:
                faults.append(f"{path}: {fault}")
        if faults:
            raise ProfileError(faults)
        enrollment = config.enrollment
        return cls(
            name=name,
            id=config.id,
            issuer=config.issuer,
            description=config.description,
            operations=frozenset(enrollment.allowed_operations),
            authentication_method=enrollment.authentication_method,
            implicit_confirm=enrollment.implicit_confirm,
            confirm_wait=enrollment.confirm_wait,
            several_requests=enrollment.several_requests,
            message_time_tolerance=enrollment.message_time_tolerance,
            missing_transaction_id=enrollment.legacy.missing_transaction_id,
            short_nonces=enrollment.legacy.short_nonces,
            sha1_signatures=enrollment.legacy.sha1_signatures,
            require_new_key=config.renewal.require_new_key,
            **parts,
        )

    def approve(self, request: CertificateRequest, *, transaction_id: bytes, now: datetime) -> Approved:
        """Decide what the certificate will be, or refuse: BadCertTemplate, UnacceptedExtension, BadAlg, BadDataFormat.

        `now` is aware. Pure: the same arguments always give the same answer (RFC 9483 §5.1.1).
        """
        modified: list[str] = []
        field_ = "publicKey"
        try:
            key_type = self._key.check(request.spki)
            field_ = "extensions"
            values = requested_values(request.extensions, self._extensions.ignore_other, modified)
            field_ = "subject"
            subject = self._subject.resolve(request.subject, modified)
            field_ = "san"
            san = self._san.resolve(values.get(SUBJECT_ALT_NAME), subject == EMPTY_NAME, modified)
            field_ = "extensions.key_usage"
            key_usage = self._extensions.key_usage.resolve(values.get(KEY_USAGE), key_type, modified)
            field_ = "extensions.extended_key_usage"
            purposes = self._extensions.extended_key_usage.resolve(values.get(EXTENDED_KEY_USAGE), key_type, modified)
        except der.MalformedError as error:
            raise BadDataFormat(f"{field_}: {error}") from None
        not_before, not_after = self._validity.resolve(request.not_before, request.not_after, now, modified)
        extensions: list[RequestedExtension] = [NOT_A_CA]
        extensions.extend(extension for extension in (key_usage, purposes, san) if extension is not None)
        return Approved(
            profile=self.name,
            transaction_id=transaction_id,
            cert_req_id=request.cert_req_id,
            subject=subject,
            spki=request.spki,
            not_before=not_before,
            not_after=not_after,
            extensions=tuple(extensions),
            modified=tuple(modified),
        )


def _preparations(config: ProfileConfig, base: Path) -> dict[str, Callable[[], object]]:
    """What is worked out once, each part on its own so that one run reports the faults of all."""
    enrollment, types = config.enrollment, config.key.allowed_types
    return {
        "trusted": lambda: _trusted(config, base),
        "ra_trusted": lambda: _certificates("enrollment.ra_certificates", enrollment.ra_certificates, base),
        "_key": lambda: KeyPolicy.from_config(config.key),
        "_subject": lambda: SubjectPolicy.from_config(config.subject),
        "_san": lambda: SanPolicy.from_config(config.san),
        "_extensions": lambda: ExtensionsPolicy.from_config(config.extensions, types),
        "_validity": lambda: ValidityPolicy.from_config(config.validity),
    }


def _trusted(config: ProfileConfig, base: Path) -> tuple[bytes, ...]:
    key, enrollment = "enrollment.trusted_certificates", config.enrollment
    if (
        enrollment.authentication_method == "tls_certificate"
        and "ir" in enrollment.allowed_operations
        and not enrollment.trusted_certificates
    ):
        raise ProfileKeyError(
            key, "is missing: with authentication_method = 'tls_certificate' an ir is signed under one"
        )
    return _certificates(key, enrollment.trusted_certificates, base)


def _certificates(key: str, files: tuple[str, ...], base: Path) -> tuple[bytes, ...]:
    """Read the certificates of PEM files. Raises ProfileKeyError."""
    found: dict[bytes, None] = {}
    for file in files:
        try:
            certificates = x509.load_pem_x509_certificates((base / file).read_bytes())
        except OSError as error:
            raise ProfileKeyError(key, f"{file!r} cannot be read: {error.strerror}") from None
        except ValueError:
            raise ProfileKeyError(key, f"{file!r} is not a PEM file with certificates") from None
        found |= dict.fromkeys(certificate.public_bytes(Encoding.DER) for certificate in certificates)
    return tuple(found)
