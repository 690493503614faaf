"""The local issuer: the contract, every CA key type, what it adds to a certificate, and what linters say."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID
from cryptography.x509.verification import PolicyBuilder
from cryptography.x509.verification import Store as TrustStore
from hypothesis import given
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.exchange import RequestedExtension
from cmpd.issuers.local import CreatedCA, LocalIssuer, LocalIssuerConfig, create_ca
from cmpd.issuers.local.authority import UnissuableError, key_identifier
from cmpd.issuers.local.keys import KEY_TYPES, Signer, generate
from cmpd.ports import CMPSigner, CRLSource, Issuer, IssuerFailure
from tests.contract.issuer import SUBJECT_KEYS, IssuerContract, approve, check_chain, extensions_of, split
from tests.issuers.conftest import URL, openssl
from tests.issuers.lint import lint_certificate

Make = Callable[[str], LocalIssuer]
CLEAN = {("INFO", "pkix.subject_key_identifier_rfc7093_method_1_identified")}


class TestContractP256(IssuerContract):
    """An issuer that signs in the event loop."""

    @pytest.fixture
    def issuer(self, local_issuer: Make) -> LocalIssuer:
        return local_issuer("ec-p256")


class TestContractMLDSA(IssuerContract):
    """An issuer that signs in a worker thread."""

    @pytest.fixture
    def issuer(self, local_issuer: Make) -> LocalIssuer:
        return local_issuer("ml-dsa-44")


def oid(text: str) -> x509.ObjectIdentifier:
    return x509.ObjectIdentifier(text)


def user_extensions() -> tuple[RequestedExtension, ...]:
    return (
        RequestedExtension(oid("2.5.29.19"), critical=True, value=der.sequence()),
        RequestedExtension(oid("2.5.29.15"), critical=True, value=der.named_bits({0})),
        RequestedExtension(oid("2.5.29.37"), critical=False, value=der.sequence(der.oid("1.3.6.1.5.5.7.3.2"))),
        RequestedExtension(oid("2.5.29.17"), critical=False, value=der.sequence(der.tlv(0x82, b"device.example"))),
    )


def plain_subject() -> bytes:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "device")]).public_bytes()


def pem(certificate: bytes) -> bytes:
    return x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)


def test_it_has_every_capability_of_the_ports(local_issuer: Make) -> None:
    issuer = local_issuer("ec-p256")
    assert isinstance(issuer, Issuer)
    assert isinstance(issuer, CRLSource)
    assert isinstance(issuer, CMPSigner)


@pytest.mark.parametrize("subject_key", ["rsa-2048", "ec-p521", "ed25519", "ml-dsa-44"])
@pytest.mark.parametrize("ca_key", KEY_TYPES)
async def test_every_ca_key_signs_every_subject_key(ca_key: str, subject_key: str, local_issuer: Make) -> None:
    issuer = local_issuer(ca_key)
    issued = await issuer.issue(
        approve(key=SUBJECT_KEYS[subject_key](), subject=plain_subject(), extensions=user_extensions())
    )
    check_chain(issued.der, await issuer.chain())
    assert lint_certificate(issued.der) == CLEAN


@pytest.mark.parametrize("ca_key", [name for name in KEY_TYPES if not name.startswith("ml-dsa")])
async def test_openssl_verifies_the_chain_strictly(
    ca_key: str, local_issuer: Make, made_ca: Callable[[str], CreatedCA], tmp_path: Path
) -> None:
    issued = await local_issuer(ca_key).issue(approve(subject=plain_subject(), extensions=user_extensions()))
    (tmp_path / "device.pem").write_bytes(pem(issued.der))
    folder = made_ca(ca_key).directory
    for leaf in (tmp_path / "device.pem", folder / "cmp.pem"):
        chain = ("-CAfile", folder / "root.pem", "-untrusted", folder / "issuing.pem")
        done = openssl("verify", "-x509_strict", "-check_ss_sig", *chain, leaf)
        assert (done.returncode, done.stderr) == (0, "")


async def test_a_strict_tls_verifier_takes_a_client_certificate(local_issuer: Make) -> None:
    issuer = local_issuer("ec-p256")
    issued = await issuer.issue(approve(subject=plain_subject(), extensions=user_extensions()))
    issuing, root = (x509.load_der_x509_certificate(one) for one in await issuer.chain())
    verifier = PolicyBuilder().store(TrustStore([root])).build_client_verifier()
    verified = verifier.verify(x509.load_der_x509_certificate(issued.der), [issuing])
    assert len(verified.chain) == 3


@pytest.mark.parametrize(
    ("key_type", "algorithm"),
    [
        ("ec-p256", "300a06082a8648ce3d040302"),
        ("ec-p384", "300a06082a8648ce3d040303"),
        ("ec-p521", "300a06082a8648ce3d040304"),
        ("rsa-2048", "300d06092a864886f70d01010b0500"),
        ("ed25519", "300506032b6570"),
        ("ed448", "300506032b6571"),
        ("ml-dsa-44", "300b0609608648016503040311"),
        ("ml-dsa-65", "300b0609608648016503040312"),
        ("ml-dsa-87", "300b0609608648016503040313"),
    ],
)
async def test_the_signature_algorithm_is_that_of_the_key(key_type: str, algorithm: str, local_issuer: Make) -> None:
    """RFC 5758 §3.2, RFC 4055 §5 (NULL), RFC 8410 §3 and RFC 9881 §2 (parameters absent)."""
    issued = await local_issuer(key_type).issue(approve())
    tbs, outer, _ = split(issued.der)
    assert outer.hex() == split(tbs)[2].hex() == algorithm


async def test_extensions_come_in_a_stable_order(local_issuer: Make) -> None:
    request = approve()
    issuer = local_issuer("ec-p256")
    orders = {tuple(extensions_of((await issuer.issue(request)).der)) for _ in range(3)}
    given_order = tuple(one.oid.dotted_string for one in request.extensions)
    assert orders == {("2.5.29.35", "2.5.29.14", *given_order, "2.5.29.31")}


async def test_the_crl_distribution_point_is_the_servers_url(local_issuer: Make) -> None:
    certificate = x509.load_der_x509_certificate((await local_issuer("ec-p256").issue(approve())).der)
    (point,) = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert point.full_name == [x509.UniformResourceIdentifier(f"{URL}/crl/local.crl")]


async def test_urls_are_as_configured(ca: CreatedCA) -> None:
    table = ca.table(ca.directory) | {"crl_url": "", "ca_issuers_url": "http://pki.example/ca.cer"}
    issuer = LocalIssuer.from_config(table, base=ca.directory, url=URL, name="local")
    certificate = x509.load_der_x509_certificate((await issuer.issue(approve())).der)
    (access,) = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert access.access_method == AuthorityInformationAccessOID.CA_ISSUERS
    assert access.access_location == x509.UniformResourceIdentifier("http://pki.example/ca.cer")
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints)


@pytest.mark.parametrize("own", ["2.5.29.35", "2.5.29.14"])
async def test_an_approved_extension_that_is_the_issuers_own_is_refused(own: str, local_issuer: Make) -> None:
    extension = RequestedExtension(oid(own), critical=False, value=der.sequence())
    with pytest.raises(IssuerFailure, match=own):
        await local_issuer("ec-p256").issue(approve(extensions=(extension,)))


def test_the_key_identifier_is_that_of_rfc_7093() -> None:
    """RFC 7093 §3 gives the SHA-256 of this key's bits."""
    spki = bytes.fromhex(
        "3059301306072a8648ce3d020106082a8648ce3d030107034200047f7f35a79794c950060b8029fc8f363a28f11159692d9d34e6ac9481"
        "90434735f833b1a66652dc514337aff7f5c9c75d670c019d95a5d639b72744c64a9128bb"
    )
    assert key_identifier(spki).hex() == "bf37b3e5808fd46d54b28e846311bcce1cad2e1a"


@given(st.binary(max_size=64))
def test_no_octets_for_a_key_do_more_than_be_refused(data: bytes) -> None:
    with suppress(UnissuableError):
        assert len(key_identifier(data)) == 20


async def test_a_serial_number_has_128_bits_and_is_never_zero(ca: CreatedCA) -> None:
    """RFC 5280 §4.1.2.2: positive, also when all bits of the random octets are set."""
    draws: Iterator[bytes] = iter([bytes(16), b"\xff" * 16, bytes(15) + b"\x01"])
    asked: list[int] = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return next(draws)

    config = LocalIssuerConfig.model_validate(ca.table(ca.directory), context={"base": ca.directory})
    issuer = LocalIssuer(config, entropy=entropy)
    high, low = await issuer.issue(approve()), await issuer.issue(approve())
    assert (high.serial, low.serial) == ((1 << 128) - 1, 1)
    assert split(split(high.der)[0])[1] == b"\x02\x11\x00" + b"\xff" * 16
    assert split(split(low.der)[0])[1] == b"\x02\x01\x01"
    assert asked == [16, 16, 16]


async def test_times_change_their_type_with_the_year_2050(tmp_path: Path) -> None:
    """RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050."""
    now = datetime(2045, 1, 1, tzinfo=UTC)
    ca = create_ca(tmp_path / "ca", now=now)
    config = LocalIssuerConfig.model_validate(ca.table(tmp_path), context={"base": tmp_path})
    issuer = LocalIssuer(config, now=now)
    ends = {
        datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC): b"\x17\x0d491231235959Z",
        datetime(2050, 1, 1, tzinfo=UTC): b"\x18\x0f20500101000000Z",
    }
    for end, encoded in ends.items():
        issued = await issuer.issue(approve(not_before=now, not_after=end))
        assert split(split(split(issued.der)[0])[4]) == [b"\x17\x0d450101000000Z", encoded]


async def test_the_end_of_the_ca_is_the_end_of_issuing(ca: CreatedCA) -> None:
    config = LocalIssuerConfig.model_validate(ca.table(ca.directory), context={"base": ca.directory})
    issuer = LocalIssuer(config)
    with pytest.raises(IssuerFailure, match="notAfter"):
        await issuer.issue(approve(not_before=issuer.not_after, not_after=issuer.not_after + timedelta(days=1)))


@pytest.mark.parametrize(
    ("key_type", "slow"), [("ec-p256", False), ("rsa-2048", False), ("rsa-3072", True), ("ml-dsa-44", True)]
)
async def test_long_signatures_do_not_hold_the_event_loop(
    key_type: str, slow: bool, local_issuer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = local_issuer(key_type)
    threads: list[int] = []
    real = issuer._signer

    def sign(data: bytes) -> bytes:
        threads.append(threading.get_ident())
        return real.sign(data)

    monkeypatch.setattr(issuer, "_signer", Signer(real.algorithm, sign, real.slow))
    check_chain((await issuer.issue(approve())).der, await issuer.chain())
    assert (threads != [threading.get_ident()]) == slow


def test_the_cmp_credential_is_a_key_of_its_own_with_cmcra(local_issuer: Make) -> None:
    """RFC 9810 §4.5: issued by the CA, id-kp-cmcRA; RFC 9483 §3.2: SKI for senderKID; §3.3: the root is left out."""
    issuer = local_issuer("ed25519")
    key, chain = issuer.cmp_credential()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    certificate, issuing = (x509.load_der_x509_certificate(one) for one in chain)
    assert certificate.public_key() == key.public_key()
    assert certificate.public_key() != issuing.public_key()
    certificate.verify_directly_issued_by(issuing)
    found = certificate.extensions
    assert found.get_extension_for_class(x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage(
        [oid("1.3.6.1.5.5.7.3.28")]
    )
    usage = found.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert split(chain[0])  # DER
    assert extensions_of(chain[0])["2.5.29.15"] == (True, bytes.fromhex("03020780"))
    assert found.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest == key_identifier(
        split(split(chain[0])[0])[6]
    )


async def test_certificates_of_devices_users_and_servers_are_clean_for_pkilint(local_issuer: Make) -> None:
    """Nothing but the INFO that names the method of the subjectKeyIdentifier."""
    issuer = local_issuer("ec-p256")
    san = {
        "device": der.sequence(der.tlv(0x82, b"device.example"), der.tlv(0x86, b"https://device.example/7")),
        "user": der.sequence(der.tlv(0x81, b"user@example.com")),
        "server": der.sequence(der.tlv(0x82, b"www.example.com"), der.tlv(0x87, bytes([192, 0, 2, 1]))),
    }  # fmt: skip
    purposes = {"device": "1.3.6.1.5.5.7.3.2", "user": "1.3.6.1.5.5.7.3.4", "server": "1.3.6.1.5.5.7.3.1"}
    for kind, names in san.items():
        extensions = (
            RequestedExtension(oid("2.5.29.15"), critical=True, value=der.named_bits({0})),
            RequestedExtension(oid("2.5.29.37"), critical=False, value=der.sequence(der.oid(purposes[kind]))),
            RequestedExtension(oid("2.5.29.17"), critical=False, value=names),
        )
        issued = await issuer.issue(approve(subject=plain_subject(), extensions=extensions))
        assert lint_certificate(issued.der) == CLEAN


@pytest.mark.parametrize("key_type", KEY_TYPES)
async def test_the_cas_own_certificates_are_clean_for_pkilint(key_type: str, local_issuer: Make) -> None:
    issuer = local_issuer(key_type)
    for certificate in (*await issuer.chain(), *issuer.cmp_credential()[1]):
        assert lint_certificate(certificate) == CLEAN


def test_the_linter_can_find_something(local_issuer: Make) -> None:
    """So that an empty finding means something."""
    wrong = RequestedExtension(oid("2.5.29.15"), critical=False, value=bytes.fromhex("030100"))
    issued = asyncio.run(local_issuer("ec-p256").issue(approve(subject=plain_subject(), extensions=(wrong,))))
    assert {severity for severity, _ in lint_certificate(issued.der)} >= {"ERROR", "WARNING"}


@pytest.mark.parametrize("name", ["P-256", "EC P-256", "p256", "ec-p256"])
def test_a_key_type_may_be_written_as_people_do(name: str) -> None:
    key: Any = generate(name)
    assert key.curve.name == "secp256r1"


def test_an_unknown_key_type_names_those_that_exist() -> None:
    with pytest.raises(ValueError, match="no such key type: 'dsa'; there are: ec-p256, "):
        generate("dsa")
