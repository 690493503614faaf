"""Whose signature counts: each list of trust anchors is good for what it was written for, and for nothing else."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from cmpd.asn1 import oids
from tests.ee import EE, new_key
from tests.world import World, certificate, vendor


def pem(world: World, file: str, *certificates: x509.Certificate) -> str:
    (world.base / file).write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in certificates))
    return file


async def outcome(world: World, ee: EE, body: str = "cr") -> str:
    answer = await world.send(ee, getattr(ee, body)(subject="CN=device-9"))
    assert world.last.exception is None
    return answer.fail_info or answer.status.name


def signed_by_a_sibling(ca_directory: Path, *, eku: list[x509.ObjectIdentifier] | None = None) -> EE:
    """A certificate of another issuing CA below the root that our own issuing CA has too."""
    folder = ca_directory / "local"
    passphrase = (folder / "passphrase").read_bytes().strip()
    root_key = load_pem_private_key((folder / "root.key").read_bytes(), passphrase)
    root = x509.load_pem_x509_certificate((folder / "root.pem").read_bytes())
    ca_key, key = new_key(), new_key()
    ca = certificate(ca_key, "Sibling CA", root_key, root, ca=True)
    leaf = certificate(key, "somebody", ca_key, ca, eku=eku)
    return EE.with_certificate(key, leaf.public_bytes(Encoding.DER), (ca.public_bytes(Encoding.DER),))


@pytest.mark.parametrize("body", ["cr", "kur"])
async def test_a_certificate_of_another_ca_below_our_root_is_nobody_here(
    world: World, ca_directory: Path, body: str
) -> None:
    """The root above our issuing CA may be a company's: what its other CAs issue was not issued for this profile."""
    assert await outcome(world, signed_by_a_sibling(ca_directory), body) == "signerNotTrusted"


@pytest.mark.parametrize("body", ["cr", "kur"])
async def test_a_certificate_of_an_ras_ca_that_is_no_ra(world: World, body: str) -> None:
    """ra_certificates authorises RAs: whoever has a certificate of that CA without cmcRA is not one, nor an EE."""
    ee, root = vendor()
    world.profile(
        enrollment={"authentication_method": "enrollment_code", "ra_certificates": [pem(world, "ra.pem", root)]}
    )
    assert await outcome(world, ee, body) in {"signerNotTrusted", "notAuthorized"}


async def test_a_certificate_of_the_vendors_ca_may_enroll(world: World) -> None:
    """RFC 9483 §4.1.1: trusted_certificates is for this."""
    ee, root = vendor()
    world.profile(
        enrollment={"authentication_method": "tls_certificate", "trusted_certificates": [pem(world, "v.pem", root)]}
    )
    assert await outcome(world, ee, "ir") == "accepted"


async def test_a_certificate_of_ours_may_sign_for_itself(world: World) -> None:
    ee = await world.enrolled(subject="CN=device-9")
    assert await outcome(world, ee) == "accepted"


async def test_an_attackers_certificate_with_our_cas_name(world: World, ca_directory: Path) -> None:
    issuing = x509.load_pem_x509_certificate((ca_directory / "local" / "issuing.pem").read_bytes())
    key, ca_key = new_key(), new_key()
    fake = certificate(ca_key, "x", ca=True)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "device-9")]))
        .issuer_name(issuing.subject)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(fake.not_valid_before_utc)
        .not_valid_after(fake.not_valid_after_utc)
        .sign(ca_key, x509.load_der_x509_certificate(fake.public_bytes(Encoding.DER)).signature_hash_algorithm)  # type: ignore[arg-type]
    )
    ee = EE.with_certificate(key, leaf.public_bytes(Encoding.DER))
    assert await outcome(world, ee) == "signerNotTrusted"


async def test_the_same_root_listed_twice_does_not_make_an_ra(world: World) -> None:
    """A CA that is listed as trusted and as RA's CA: cmcRA still makes the difference."""
    root_key = new_key()
    root = certificate(root_key, "Both", ca=True)
    listed = pem(world, "both.pem", root)
    world.profile(
        enrollment={
            "authentication_method": "tls_certificate",
            "trusted_certificates": [listed],
            "ra_certificates": [listed],
        }
    )
    for eku, expected in ((None, "badPOP"), ([oids.KP_CMC_RA], "accepted")):
        key = new_key()
        leaf = certificate(key, "somebody", root_key, root, eku=eku)
        ee = EE.with_certificate(key, leaf.public_bytes(Encoding.DER))
        answer = await world.send(ee, ee.cr(subject="CN=device-9", popo=b"\x80\x00"))
        assert (answer.fail_info or answer.status.name) == expected
