"""The messages in tests/vectors, and one message of each kind made by pyasn1-alt-modules."""

from pathlib import Path

from cmpd.limits import Limits

VECTORS = Path(__file__).parent.parent / "vectors"
LIMITS = Limits()

_NOT_MESSAGES = ("_body_", "_header_", "pkcs10", "CertificateReq", "CMPAlgorithms", "ec384", "CertReqTemplate")


def _paths() -> list[Path]:
    found = [
        path
        for folder in ("openssl", "rustcrypto-cmpv2", "pyasn1-alt-modules")
        for path in (VECTORS / folder).rglob("*")
        if path.suffix in {".der", ".bin"} and not any(part in path.name for part in _NOT_MESSAGES)
    ]
    return sorted(found)


MESSAGES: dict[str, bytes] = {str(path.relative_to(VECTORS)): path.read_bytes() for path in _paths()}
"""Every PKIMessage of the vectors, by its path."""

EMPTY_EXTRA_CERTS = {
    "openssl/65-test_cmp_protect_data/IR_protected.der",
    "openssl/65-test_cmp_vfy_data/IR_protected.der",
}
"""They end in an extraCerts without a certificate, which RFC 9810 §5.1 forbids (SIZE (1..MAX))."""


def vector(path: str) -> bytes:
    return (VECTORS / path).read_bytes()
