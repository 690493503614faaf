"""Linting before signing: what pkilint says of a certificate under RFC 5280, the S/MIME BR or the TLS BR.

    Approved ─► Previewer.preview: the same certificate, signed by a throw-away key ─► lint ─► only then Issuer.issue

pkilint (the extra `cmpd[lint]`) is imported when a profile asks for it: 0.3 s and 30 MB, 0.2 s and 7 MB more for each
kind of certificate. A certificate takes about 10 ms of CPU, in a worker thread.
"""

import asyncio
import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, Protocol, runtime_checkable

from cmpd.exchange import Approved

Kind = Literal["pkix", "smime", "tls"]
_SMIME: Final = {
    "mailbox": "MAILBOX",
    "organization": "ORGANIZATION",
    "sponsor": "SPONSORED",
    "individual": "INDIVIDUAL",
}
_TLS: Final = {
    "domain": "DV_FINAL_CERTIFICATE",
    "organization": "OV_FINAL_CERTIFICATE",
    "individual": "IV_FINAL_CERTIFICATE",
}
_HALF_RIGHT: Final = {
    "pkix.invalid_uri_syntax": b"",
    "cabf.smime.prohibited_spki_algorithm_encoding": bytes.fromhex("301006072a8648ce3d020106052b81040023"),
    "cabf.smime.prohibited_signature_algorithm_encoding": bytes.fromhex("300a06082a8648ce3d040304"),
}
"""Errors of pkilint 0.13 that are warnings here, if the certificate has these octets: it knows the syntax of URLs where
RFC 5280 §4.2.1.6 has any URI, and not yet P-521 keys and signatures (S/MIME BR §7.1.3.1.2, §7.1.3.2.2)."""
_SHOWN: Final = 5
"""So many findings are told in one message."""
_LONGEST: Final = 480
"""So many characters a message may have, before it says how many findings it leaves out."""
_ABOVE: Final = re.compile(r"^certificate\.(?:tbsCertificate\.)?(?:extensions\.\d+\.extnValue\.)?")
_WITHIN: Final = re.compile(r"\.rdnSequence(?:\.\d+)*(?:\.value)?")


class LinterMissing(Exception):
    """pkilint is not installed."""


class Severity(enum.StrEnum):
    """How bad it is; `fatal` and `error` break a rule that is a MUST."""

    fatal = "fatal"
    error = "error"
    warning = "warning"
    notice = "notice"
    info = "info"


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One thing that the linter says."""

    severity: Severity
    code: str
    """pkilint's name of it, e.g. `cabf.smime.prohibited_attribute`."""
    text: str
    """The particulars; may be empty, and quotes the certificate."""
    field: str = "certificate"
    """The field of the certificate that it is about, e.g. `subjectAltName.0`."""

    @property
    def is_serious(self) -> bool:
        """Whether lint = "enforce" refuses the certificate for it."""
        return self.severity in {Severity.fatal, Severity.error}

    def __str__(self) -> str:
        return f"{self.severity}: {self.code}" + (f" ({self.text})" if self.text else "")


@runtime_checkable
class Previewer(Protocol):
    """An issuer that can show a certificate before it is signed."""

    async def preview(self, request: Approved, /) -> bytes:
        """The certificate that `issue` would make but for serial number and signature; no relying party accepts it."""


def lint(
    certificate_der: bytes, kind: Kind, *, validation_type: str | None = None, generation: str | None = None
) -> list[LintFinding]:
    """Lint a certificate; the worst findings come first. Raises LinterMissing.

    `validation_type` and `generation` are those of a profile's certificate_type; what is not given is told from the
    certificate's policies and subject. What is no certificate at all is one fatal finding.
    """
    _import()
    from pkilint import finding_filter, loader  # noqa: PLC0415  heavy, and not always installed

    try:
        document = loader.RFC5280CertificateDocumentLoader().load_der_document(certificate_der, "certificate")
    except ValueError as error:
        return [LintFinding(Severity.fatal, "cmpd.not_a_certificate", str(error))]
    linter, filters = _linter(kind, *_type_of(document, kind, validation_type, generation))
    results = linter.validate(document.root)
    if filters:
        results, _ = finding_filter.filter_results(filters, results)
    found = [
        LintFinding(
            _severity(one.finding, certificate_der), one.finding.code, one.message or "", _field(str(result.node.path))
        )
        for result in results
        for one in result.finding_descriptions
    ]
    order = list(Severity)
    return sorted(found, key=lambda finding: (order.index(finding.severity), finding.code))


def _field(path: str) -> str:
    """Shorten pkilint's path of a node: the field, and which of its values."""
    return ".".join(_WITHIN.sub("", _ABOVE.sub("", path)).split(".")[:2])


def _severity(finding: Any, certificate_der: bytes) -> Severity:
    half_right = finding.code in _HALF_RIGHT and _HALF_RIGHT[finding.code] in certificate_der
    return Severity.warning if half_right else Severity[finding.severity.name.lower()]


async def lint_preview(
    issuer: Previewer,
    request: Approved,
    kind: Kind,
    *,
    validation_type: str | None = None,
    generation: str | None = None,
) -> list[LintFinding]:
    """Lint what an issuer would sign, in a worker thread. Raises LinterMissing, IssuerUnavailable, IssuerFailure."""
    preview = await issuer.preview(request)
    return await asyncio.to_thread(lint, preview, kind, validation_type=validation_type, generation=generation)


def complaint(findings: Iterable[LintFinding]) -> str:
    """The serious findings in one line for peer and log: `lint: FIELD (CODE), …`, five at most; empty without any.

    Never longer than 500 characters.
    """
    told = list(dict.fromkeys(f"{one.field} ({one.code})" for one in findings if one.is_serious))
    if not told:
        return ""
    text, shown = f"lint: {told[0]}", 1
    while shown < min(len(told), _SHOWN) and len(text) + len(told[shown]) + 2 <= _LONGEST:
        text += f", {told[shown]}"
        shown += 1
    return text if shown == len(told) else f"{text} and {len(told) - shown} more"


def preload(kind: Kind, *, validation_type: str | None = None, generation: str | None = None) -> None:
    """Import pkilint and make the linter, so that the first request need not wait. Raises LinterMissing."""
    _import()
    if kind == "pkix" or validation_type is not None:
        _linter(kind, validation_type or "", generation or "strict")


def _import() -> None:
    try:
        import pkilint  # noqa: F401, PLC0415  heavy, and not always installed
    except ImportError:
        raise LinterMissing(
            "lint: 'warn' and 'enforce' need pkilint, which is not installed: pip install 'cmpd[lint]'"
        ) from None


def _type_of(document: Any, kind: Kind, validation_type: str | None, generation: str | None) -> tuple[str, str]:
    """Validation type and generation in the words of profiles."""
    if kind == "smime" and (validation_type is None or generation is None):
        from pkilint.cabf import smime  # noqa: PLC0415

        by_policy = smime.determine_validation_level_and_generation(document)
        level, age = by_policy or smime.guess_validation_level_and_generation(document)
        names = {name: ours for ours, name in _SMIME.items()}
        validation_type = validation_type or names[level.name]
        generation = generation or (age.name.lower() if by_policy else "strict")
    elif kind == "tls" and validation_type is None:
        from pkilint.cabf import serverauth  # noqa: PLC0415

        found = serverauth.determine_certificate_type(document)
        names = {name: ours for ours, name in _TLS.items()}
        validation_type = names.get(found.name, "domain")
    return validation_type or "", generation or "strict"


@lru_cache(maxsize=32)
def _linter(kind: Kind, validation_type: str, generation: str) -> tuple[Any, list[Any]]:
    """pkilint's validators for a kind of certificate, and the filters of what they find too much."""
    from pkilint.pkix import certificate, extension, name  # noqa: PLC0415

    if kind == "smime":
        from pkilint.cabf import smime  # noqa: PLC0415
        from pkilint.cabf.smime.smime_constants import Generation, ValidationLevel  # noqa: PLC0415

        level, age = ValidationLevel[_SMIME[validation_type]], Generation[generation.upper()]
        decoders, validators = smime.create_decoding_validators(), smime.create_subscriber_validators(level, age)
        return certificate.create_pkix_certificate_validator_container(decoders, validators), []
    if kind == "tls":
        from pkilint.cabf import serverauth  # noqa: PLC0415
        from pkilint.cabf.serverauth.serverauth_constants import CertificateType  # noqa: PLC0415

        type_ = CertificateType[_TLS[validation_type]]
        decoders, validators = serverauth.create_decoding_validators(), serverauth.create_validators(type_)
        container = certificate.create_pkix_certificate_validator_container(decoders, validators)
        return container, serverauth.create_serverauth_finding_filters(type_)
    decoders = certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS)
    validators = [
        certificate.create_issuer_validator_container([]),
        certificate.create_validity_validator_container(),
        certificate.create_subject_validator_container([]),
        certificate.create_extensions_validator_container([]),
        certificate.create_spki_validator_container([]),
    ]
    return certificate.create_pkix_certificate_validator_container(decoders, validators), []
