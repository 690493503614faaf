"""pkilint as a library: what it finds in a certificate or CRL under its PKIX rules (RFC 5280)."""

from functools import cache
from typing import Any

from pkilint import loader, pkix
from pkilint.pkix import crl, extension, name

from cmpd.lint import lint


@cache
def _crl_linter() -> Any:
    return crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ],
    )


def _findings(results: Any) -> set[tuple[str, str]]:
    return {
        (found.finding.severity.name, found.finding.code) for result in results for found in result.finding_descriptions
    }


def lint_certificate(der: bytes) -> set[tuple[str, str]]:
    """Every finding as (severity, code)."""
    return {(finding.severity.name.upper(), finding.code) for finding in lint(der, "pkix")}


def lint_crl(der: bytes) -> set[tuple[str, str]]:
    """Every finding as (severity, code)."""
    document = loader.RFC5280CertificateListDocumentLoader().load_der_document(der, "crl")
    return _findings(_crl_linter().validate(document.root))
