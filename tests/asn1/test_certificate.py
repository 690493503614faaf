"""Certificates read without an object, held against the library's reading."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cmpd.asn1 import MalformedError, certificate, der
from tests.ee import new_key
from tests.world import certificate as make


def test_the_fields_are_those_that_the_library_reads() -> None:
    loaded = make(new_key(), "CN of it")
    data = loaded.public_bytes(Encoding.DER)
    public = loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    found = certificate.serial(data), certificate.subject(data), certificate.spki(data)
    assert found == (loaded.serial_number, loaded.subject.public_bytes(), public)


def test_a_version_1_certificate_has_no_version_field(ca_directory: Path) -> None:
    issuing = x509.load_pem_x509_certificate((ca_directory / "local" / "issuing.pem").read_bytes())
    data = issuing.public_bytes(Encoding.DER)
    first = der.sequence(der.sequence(*certificate.tbs(data)))
    assert certificate.tbs(first) == certificate.tbs(data)


@pytest.mark.parametrize(
    "data", [b"", b"\x30\x00", der.sequence(der.sequence()), der.sequence(der.sequence(der.null()))]
)
def test_what_is_no_certificate(data: bytes) -> None:
    with pytest.raises(MalformedError):
        certificate.tbs(data)
