"""What every issuer must do. Subclass `IssuerContract` as `Test…` and override the fixture `issuer`.

The certificates are taken apart by a few lines of their own, so that neither the code under test nor a library that
re-encodes can hide a changed octet.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cmpd.exchange import Approved, RequestedExtension
from cmpd.ports import Issued, Issuer, IssuerFailure

SUBJECT_KEYS = {
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "ec-p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ec-p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate,
}

# CN=Gerät 7 in UTF8String and O=Example in TeletexString, in one multi-valued RDN: a re-encoding would not survive
SUBJECT = (
    b"\x30\x23\x31\x21\x30\x0e\x06\x03\x55\x04\x0a\x14\x07Example\x30\x0f\x06\x03\x55\x04\x03\x0c\x08Ger\xc3\xa4t 7"
)


def approved_extensions() -> tuple[RequestedExtension, ...]:
    """KU, EKU, SAN, basicConstraints and one that nobody knows, whose value is not even DER."""
    oid = x509.ObjectIdentifier
    return (
        RequestedExtension(oid("2.5.29.15"), critical=True, value=bytes.fromhex("030205a0")),
        RequestedExtension(oid("2.5.29.37"), critical=False, value=bytes.fromhex("300a06082b06010505070302")),
        RequestedExtension(oid("2.5.29.17"), critical=False, value=b"\x30\x10\x82\x0edevice.example"),
        RequestedExtension(oid("2.5.29.19"), critical=True, value=bytes.fromhex("3000")),
        RequestedExtension(oid("1.3.6.1.4.1.99999.1"), critical=False, value=b"\xff\x00opaque"),
    )


def approve(**changes: Any) -> Approved:
    """An approved request for an EC key; any field can be given."""
    now = datetime.now(UTC).replace(microsecond=0)
    key = changes.pop("key") if "key" in changes else ec.generate_private_key(ec.SECP256R1())
    fields: dict[str, Any] = {
        "profile": "device",
        "transaction_id": bytes(16),
        "cert_req_id": 0,
        "subject": SUBJECT,
        "spki": key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "not_before": now - timedelta(minutes=5),
        "not_after": now + timedelta(days=90),
        "extensions": approved_extensions(),
    }
    return Approved(**(fields | changes))


def split(der: bytes) -> list[bytes]:
    """The elements inside one constructed element."""
    body, found, pos = _content(der), [], 0
    while pos < len(body):
        head, size = _length(body[pos:])
        found.append(body[pos : pos + head + size])
        pos += head + size
    return found


def _length(der: bytes) -> tuple[int, int]:
    if der[1] < 0x80:
        return 2, der[1]
    count = der[1] & 0x7F
    return 2 + count, int.from_bytes(der[2 : 2 + count])


def _content(der: bytes) -> bytes:
    head, size = _length(der)
    assert head + size == len(der), "trailing octets"
    return der[head:]


def extensions_of(der: bytes) -> dict[str, tuple[bool, bytes]]:
    """extnID → (critical, the octets inside extnValue); fails on one that is there twice."""
    found: dict[str, tuple[bool, bytes]] = {}
    tagged = split(split(der)[0])[-1]
    assert tagged[0] == 0xA3
    for one in split(split(tagged)[0]):
        parts = split(one)
        oid = _dotted(_content(parts[0]))
        assert oid not in found, f"{oid} twice"
        assert len(parts) == 2 or parts[1] == b"\x01\x01\xff", "critical FALSE is the default and not encoded"
        found[oid] = (len(parts) == 3, _content(parts[-1]))
    return found


def _dotted(content: bytes) -> str:
    arcs, value = [], 0
    for octet in content:
        value = value << 7 | octet & 0x7F
        if octet < 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def check_chain(der: bytes, chain: tuple[bytes, ...]) -> None:
    """Every signature from the certificate to the root, and the root's own."""
    path = [x509.load_der_x509_certificate(one) for one in (der, *chain)]
    for child, parent in zip(path, [*path[1:], path[-1]], strict=True):
        child.verify_directly_issued_by(parent)


class IssuerContract:
    """The suite."""

    @pytest.fixture
    def issuer(self) -> Any:
        raise NotImplementedError("override this fixture with the issuer under test")

    def test_it_is_an_issuer(self, issuer: Issuer) -> None:
        assert isinstance(issuer, Issuer)

    @pytest.mark.parametrize("kind", SUBJECT_KEYS)
    async def test_the_certificate_carries_exactly_what_was_approved(self, issuer: Issuer, kind: str) -> None:
        request = approve(key=SUBJECT_KEYS[kind]())
        issued = await issuer.issue(request)
        version, _, _, _, validity, subject, spki, _ = split(split(issued.der)[0])
        assert version == bytes.fromhex("a003020102")  # v3
        assert subject == request.subject
        assert spki == request.spki
        certificate = x509.load_der_x509_certificate(issued.der)
        assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (
            request.not_before,
            request.not_after,
        )
        assert len(split(validity)) == 2
        found = extensions_of(issued.der)
        for one in request.extensions:
            assert found[one.oid.dotted_string] == (one.critical, one.value)

    async def test_it_adds_nothing_but_what_is_the_issuers_own(self, issuer: Issuer) -> None:
        """RFC 5280 §4.2.1.1, §4.2.1.2, §4.2.1.13, §4.2.2.1: key identifiers, CRL, authority information access."""
        request = approve()
        added = extensions_of((await issuer.issue(request)).der).keys() - {
            one.oid.dotted_string for one in request.extensions
        }
        assert {"2.5.29.35", "2.5.29.14"} <= added <= {"2.5.29.35", "2.5.29.14", "2.5.29.31", "1.3.6.1.5.5.7.1.1"}

    async def test_a_request_without_extensions_and_with_the_null_dn(self, issuer: Issuer) -> None:
        issued = await issuer.issue(approve(subject=b"\x30\x00", extensions=()))
        assert split(split(issued.der)[0])[5] == b"\x30\x00"

    async def test_a_validity_beyond_the_cas_own_is_cut_to_it(self, issuer: Issuer) -> None:
        end = await _end(issuer)
        issued = await issuer.issue(approve(not_after=end + timedelta(days=1)))
        assert x509.load_der_x509_certificate(issued.der).not_valid_after_utc == end

    async def test_serial_numbers_are_unguessable_positive_and_reported(self, issuer: Issuer) -> None:
        """RFC 5280 §4.1.2.2: positive, at most 20 octets, unique; at least 64 bits from a random generator."""
        request = approve()
        all_issued = [await issuer.issue(request) for _ in range(60)]
        serials = [x509.load_der_x509_certificate(one.der).serial_number for one in all_issued]
        assert serials == [one.serial for one in all_issued]
        assert len(set(serials)) == 60
        assert all(0 < serial < 1 << 159 for serial in serials)
        # each of the lowest 64 bits is sometimes set and sometimes not: a counter or a clock does not do that
        low = (1 << 64) - 1
        ever = never = 0
        for serial in serials:
            ever |= serial & low
            never |= ~serial & low
        assert ever == never == low

    async def test_the_chain_leads_to_a_root(self, issuer: Issuer) -> None:
        chain = await issuer.chain()
        check_chain((await issuer.issue(approve())).der, chain)
        assert x509.load_der_x509_certificate(chain[-1]).subject == x509.load_der_x509_certificate(chain[-1]).issuer
        assert len(set(chain)) == len(chain)

    async def test_the_issuer_name_is_the_cas_subject_octet_for_octet(self, issuer: Issuer) -> None:
        """RFC 5280 §4.1.2.4 and §6.1.3: names chain."""
        ca = (await issuer.chain())[0]
        assert split(split((await issuer.issue(approve())).der)[0])[3] == split(split(ca)[0])[5]

    async def test_the_key_identifiers_chain(self, issuer: Issuer) -> None:
        """RFC 5280 §4.2.1.1: authorityKeyIdentifier is the issuing CA's subjectKeyIdentifier."""
        ca = x509.load_der_x509_certificate((await issuer.chain())[0])
        one = x509.load_der_x509_certificate((await issuer.issue(approve())).der)
        other = x509.load_der_x509_certificate((await issuer.issue(approve())).der)
        kind = x509.SubjectKeyIdentifier
        authority = one.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        assert authority.value.key_identifier == ca.extensions.get_extension_for_class(kind).value.digest
        assert not authority.critical
        assert one.extensions.get_extension_for_class(kind) != other.extensions.get_extension_for_class(kind)

    async def test_many_at_once(self, issuer: Issuer) -> None:
        requests = [approve() for _ in range(24)]
        results: list[Issued] = await asyncio.gather(*(issuer.issue(request) for request in requests))
        assert len({one.serial for one in results}) == len(requests)
        for request, one in zip(requests, results, strict=True):
            assert split(split(one.der)[0])[6] == request.spki

    async def test_a_cancelled_request_harms_nothing(self, issuer: Issuer) -> None:
        task = asyncio.ensure_future(issuer.issue(approve()))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        check_chain((await issuer.issue(approve())).der, await issuer.chain())

    @pytest.mark.parametrize(
        "wrong",
        [
            {"spki": b""},
            {"spki": b"\x30\x00"},
            {"spki": b"\x30\x03\x02\x01\x01"},
            {"spki": b"\x30\x05\x30\x00\x02\x01\x01"},
            {"spki": b"\x30\x84\xff\xff\xff\xff"},
            {"subject": b""},
            {"subject": b"\x30\x00\x00"},
            {"subject": b"\x0c\x01a"},
            {"not_after": datetime(2001, 1, 1, tzinfo=UTC), "not_before": datetime(2002, 1, 1, tzinfo=UTC)},
            {"extensions": approved_extensions() * 2},
        ],
        ids=str,
    )
    async def test_what_makes_no_certificate_is_refused(self, issuer: Issuer, wrong: dict[str, Any]) -> None:
        with pytest.raises(IssuerFailure) as caught:
            await issuer.issue(approve(**wrong))
        assert str(caught.value)


async def _end(issuer: Issuer) -> datetime:
    return x509.load_der_x509_certificate((await issuer.chain())[0]).not_valid_after_utc
