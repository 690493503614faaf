"""The library's verifier beside our own search: both must agree, and what it has no opinion on is known."""

from collections.abc import Sequence
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import AuthorityInformationAccessOID

from cmpd.asn1 import der
from cmpd.errors import SignerNotTrusted
from cmpd.protection import certpath
from tests.ee import new_key
from tests.protection.test_certpath import CA_EXTENSION, KEY, LIMITS, NOW, PKI, by_hand, dump, refused, validate
from tests.world import certificate

DNS, EMAIL, URI = x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier
Extension = tuple[x509.ExtensionType, bool]


def directory(text: str) -> x509.DirectoryName:
    return x509.DirectoryName(x509.Name.from_rfc4514_string(text))


def permitted(*names: x509.GeneralName, critical: bool = True) -> list[Extension]:
    return [(x509.NameConstraints(names, None), critical)]


def excluded(*names: x509.GeneralName, critical: bool = True) -> list[Extension]:
    return [(x509.NameConstraints(None, names), critical)]


def alternative(*names: x509.GeneralName) -> list[Extension]:
    return [(x509.SubjectAlternativeName(names), False)]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[x509.Certificate]]:
    """The paths that are put before the verifier."""
    seen: list[Sequence[x509.Certificate]] = []
    judge = certpath._judge

    def noted(path: Sequence[x509.Certificate], moment: Any) -> None:
        seen.append(path)
        judge(path, moment)

    monkeypatch.setattr(certpath, "_judge", noted)
    return seen


@pytest.mark.parametrize(
    ("kind", "times"),
    [("ec-p256", 1), ("ec-p521", 1), ("rsa-2048", 1), ("ml-dsa-44", 1), ("ml-dsa-87", 1), ("ed25519", 0), ("ed448", 0)],
)
def test_which_paths_the_verifier_judges(kind: str, times: int, judged: list[Any]) -> None:
    root_key, ca_key = new_key(kind), new_key(kind)
    root = certificate(root_key, "Root", ca=True)
    ca = certificate(ca_key, "CA", root_key, root, ca=True)
    for leaf_kind in ("ec-p256", "ed25519"):
        judged.clear()
        leaf = certificate(new_key(leaf_kind), "leaf", ca_key, ca)
        assert validate(leaf, [ca], root).certificates == (leaf, ca, root)
        assert judged == [(leaf, ca, root)] * times


def test_what_the_verifier_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when our own search has nothing against it."""

    def no(path: Any, moment: Any) -> None:
        raise verification.VerificationError("no")

    monkeypatch.setattr(certpath, "_judge", no)
    pki = PKI()
    assert "is refused: no" in refused(pki.leaf, pki.chain, pki.root)


def test_what_the_verifier_lets_pass_is_still_refused_by_us() -> None:
    """keyCertSign, which its policy does not look at, and a CA that is none."""
    usage = x509.KeyUsage(True, False, False, False, False, False, True, False, False)
    pki = PKI(ca1={"key_usage": False, "extensions": [(usage, True)]})
    certpath._judge(pki.chain, NOW)
    assert "keyCertSign" in refused(pki.leaf, pki.chain, pki.root)


def test_a_ca_with_a_short_rsa_key_is_refused() -> None:
    """A leaf may have one, a CA may not: our own search would let both pass."""
    short = rsa.generate_private_key(65537, 1024)
    root = certificate(short, "Root", ca=True)
    assert "RSA key is too weak" in refused(certificate(KEY, "leaf", short, root), [], root)
    good = new_key("rsa-2048")
    root = certificate(good, "Root", ca=True)
    assert len(validate(certificate(short, "leaf", good, root), [], root).certificates) == 2


@pytest.mark.parametrize("who", ["leaf", "ca2", "ca1", "root"])
@pytest.mark.parametrize(
    "extension",
    [
        x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)]),
        x509.CRLDistributionPoints([x509.DistributionPoint([URI("http://crl.example/")], None, None, None)]),
        x509.IssuerAlternativeName([DNS("ca.example")]),
        x509.SubjectAlternativeName([DNS("a.example")]),
        x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.2.3.4")]),
        x509.AuthorityInformationAccess(
            [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, URI("http://ocsp.example/"))]
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_extensions_that_may_be_critical(who: str, extension: x509.ExtensionType, judged: list[Any]) -> None:
    for critical in (True, False):
        pki = PKI(**{who: {"extensions": [(extension, critical)]}})
        assert len(validate(pki.leaf, pki.chain, pki.root).certificates) == 4
    assert len(judged) == 2


def unusual() -> dict[str, tuple[x509.Certificate, list[x509.Certificate], x509.Certificate]]:
    """Leaf, intermediates, root: each not to the verifier's taste, and right by RFC 5280."""
    key = new_key()
    load = certpath.load
    root = certificate(KEY, "Root", ca=True)
    found: dict[str, tuple[x509.Certificate, list[x509.Certificate], x509.Certificate]] = {
        "serial -5": (load(by_hand(key, "leaf", "Root", KEY, serial=-5)), [], root),
        "serial of 22 octets": (load(by_hand(key, "leaf", "Root", KEY, serial=1 << 170)), [], root),
        "v1": (load(by_hand(key, "leaf", "Root", KEY, version=b"")), [], root),
        "serial 0": (load(by_hand(key, "leaf", "Root", KEY, serial=0)), [], root),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(der, "x509_time", der.generalized_time)
        made = by_hand(key, "leaf", "Root", KEY)
    found["GeneralizedTime"] = load(made), [], root
    for curve in (ec.BrainpoolP256R1(), ec.SECP256K1(), ec.SECP224R1()):
        ca_key = ec.generate_private_key(curve)
        ca = certificate(ca_key, "CA", KEY, root, ca=True)
        found[curve.name] = certificate(key, "leaf", ca_key, ca), [ca], root
    big = new_key("rsa-2048")
    rsa_root = certificate(big, "Root", ca=True)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string("CN=leaf"))
        .issuer_name(rsa_root.subject)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
    )
    sha256 = hashes.SHA256()
    found["SHA-224"] = builder.sign(big, hashes.SHA224()), [], rsa_root
    for name, pss in (
        ("PSS salt 20", padding.PSS(padding.MGF1(sha256), 20)),
        ("PSS two hashes", padding.PSS(padding.MGF1(hashes.SHA512()), 32)),
    ):
        found[name] = builder.sign(big, sha256, rsa_padding=pss), [], rsa_root
    old, new = new_key(), new_key()
    first = certificate(old, "CA", ca=True, path_length=0)
    rolled = certificate(new, "CA", old, first, ca=True)
    found["self-issued"] = certificate(key, "leaf", new, rolled), [rolled], first
    return found


UNUSUAL = unusual()


@pytest.mark.parametrize("name", UNUSUAL)
def test_taste_does_not_refuse(name: str) -> None:
    """Devices and their CAs have such certificates."""
    leaf, others, root = UNUSUAL[name]
    assert len(validate(leaf, others, root).certificates) == 2 + len(others)


@pytest.mark.parametrize("name", [name for name in UNUSUAL if name != "serial 0"])
def test_the_verifier_would_refuse_them(name: str) -> None:
    """Else the exception would not be needed."""
    leaf, others, root = UNUSUAL[name]
    with pytest.raises(verification.VerificationError):
        certpath._judge((leaf, *others, root), NOW)


def test_usual_rsassa_pss_is_judged(judged: list[Any]) -> None:
    key = new_key("rsa-2048")
    root = certificate(key, "Root", ca=True)
    for digest in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(root.subject)
            .public_key(KEY.public_key())
            .serial_number(5)
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=1))
            .sign(key, digest, rsa_padding=padding.PSS(padding.MGF1(digest), digest.digest_size))
        )
        assert len(validate(leaf, [], root).certificates) == 2
    assert len(judged) == 3


# ------------------------------------------------------------------------------------------ name constraints


@pytest.mark.parametrize("who", ["ca2", "ca1", "root"])
@pytest.mark.parametrize(
    ("constraint", "names", "good"),
    [
        (permitted(DNS("example.com")), [DNS("a.example.com")], True),
        (permitted(DNS("example.com"), critical=False), [DNS("a.example.com")], True),
        (permitted(DNS("example.com")), [DNS("a.example.org")], False),
        (permitted(DNS("example.com"), critical=False), [DNS("a.example.org")], False),
        (permitted(DNS("example.com")), [DNS("a.example.com"), DNS("a.example.org")], False),
        (permitted(DNS("example.com")), [], True),
        (permitted(DNS("example.com")), [EMAIL("a@example.org")], True),
        (excluded(DNS("example.com")), [DNS("a.example.com")], False),
        (excluded(DNS("example.com")), [DNS("a.example.org")], True),
        (permitted(x509.IPAddress(IPv4Network("10.0.0.0/8"))), [x509.IPAddress(IPv4Address("10.1.1.1"))], True),
        (permitted(x509.IPAddress(IPv4Network("10.0.0.0/8"))), [x509.IPAddress(IPv4Address("11.1.1.1"))], False),
        (permitted(EMAIL("example.com")), [EMAIL("a@example.com")], True),
        (permitted(EMAIL("example.com")), [EMAIL("a@example.org")], False),
        (permitted(URI("example.com")), [URI("http://a.example.com/")], False),  # it cannot tell
        (permitted(URI("example.com")), [DNS("a.example.com")], True),
        (permitted(directory("O=Example")), [], False),
        (permitted(directory("O=Example"), critical=False), [], False),
        (excluded(directory("O=Example"), critical=False), [DNS("a.example.com")], False),
    ],
)
def test_name_constraints(who: str, constraint: list[Extension], names: list[x509.GeneralName], good: bool) -> None:
    """RFC 5280 §4.2.1.10: as the verifier says, and never passed over."""
    pki = PKI(**{who: {"extensions": constraint}, "leaf": {"extensions": alternative(*names) if names else []}})
    if good:
        assert len(validate(pki.leaf, pki.chain, pki.root).certificates) == 4
    else:
        assert "constraint" in refused(pki.leaf, pki.chain, pki.root)


def test_name_constraints_of_a_certificate_that_is_no_ca() -> None:
    pki = PKI(leaf={"extensions": permitted(DNS("example.com"))})
    assert "name constraints" in refused(pki.leaf, pki.chain, pki.root)
    assert "name constraints" in refused(pki.leaf, [], pki.leaf)


@pytest.mark.parametrize("name", [name for name in UNUSUAL if name != "serial 0"])
def test_name_constraints_where_the_verifier_has_no_opinion(name: str) -> None:
    """A path that it does not judge is refused when it has any."""
    leaf, others, root = UNUSUAL[name]
    above_key = new_key()
    above = certificate(above_key, "Above", ca=True, extensions=permitted(DNS("example.com")))
    crossed = certificate_like(root, above_key, above)
    assert "has name constraints, which are not supported with" in refused(leaf, [*others, crossed], above)


def certificate_like(one: x509.Certificate, issuer_key: Any, issuer: x509.Certificate) -> x509.Certificate:
    """The same CA, certified by another one."""
    return (
        x509.CertificateBuilder()
        .subject_name(one.subject)
        .issuer_name(issuer.subject)
        .public_key(one.public_key())
        .serial_number(77)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(issuer_key, hashes.SHA256())
    )


def test_name_constraints_with_eddsa_in_the_path() -> None:
    key = new_key("ed25519")
    root = certificate(key, "Root", ca=True, extensions=permitted(DNS("example.com")))
    leaf = certificate(KEY, "leaf", key, root, extensions=alternative(DNS("a.example.com")))
    assert "not supported with the signature algorithm of CN=leaf" in refused(leaf, [], root)
    leaf_key = new_key("ed25519")
    root = certificate(KEY, "Root", ca=True, extensions=permitted(DNS("example.com")))
    leaf = certificate(leaf_key, "leaf", KEY, root, extensions=alternative(DNS("a.example.com")))
    assert len(validate(leaf, [], root).certificates) == 2, "the leaf's own key is of no concern"


def test_name_constraints_with_sha1_in_the_path() -> None:
    key = new_key("rsa-2048")
    for constrained, good in (([], True), (permitted(DNS("example.com")), False)):
        root = certificate(key, "Root", ca=True, extensions=constrained)
        leaf = x509.load_der_x509_certificate(by_hand(KEY, "leaf", "Root", key, hash_name="sha1"))
        if good:
            assert len(validate(leaf, [], root, allow_sha1=True).certificates) == 2
        else:
            assert "not supported" in refused(leaf, [], root, allow_sha1=True)


def test_an_email_address_in_a_subject_is_not_out_of_reach() -> None:
    """RFC 5280 §4.2.1.10: constraints of rfc822Name apply to emailAddress in the subject; the verifier skips it."""
    root = certificate(KEY, "Root", ca=True, extensions=permitted(EMAIL("example.com")))
    for text, good in (("CN=leaf", True), ("1.2.840.113549.1.9.1=a@example.org,CN=leaf", False)):
        subject = x509.Name.from_rfc4514_string(text).public_bytes()
        leaf = x509.load_der_x509_certificate(by_hand(new_key(), "leaf", "Root", KEY, subject_der=subject))
        if good:
            assert len(validate(leaf, [], root).certificates) == 2
        else:
            assert "emailAddress" in refused(leaf, [], root)


def test_another_path_when_the_first_is_refused() -> None:
    """A CA that two roots have certified, one of them with constraints."""
    pki, above_key = PKI(leaf={"extensions": alternative(DNS("a.example.org"))}), new_key()
    above = certificate(above_key, "Above", ca=True, extensions=permitted(DNS("example.com")))
    crossed = certificate_like(pki.ca1, above_key, above)
    for others in ([crossed, *pki.chain], [*pki.chain, crossed]):
        assert validate(pki.leaf, others, above, pki.root).certificates[-1] == pki.root
    assert "constraint" in refused(pki.leaf, [crossed, *pki.chain], above)


def test_the_verifier_is_not_asked_without_end(judged: list[Any]) -> None:
    """Many cross certificates of one CA, all below a constrained root."""
    key, ca_key = new_key(), new_key()
    root = certificate(key, "Root", ca=True, extensions=permitted(DNS("example.com")))
    cas = [certificate(ca_key, "CA", key, root, ca=True) for _ in range(7)]
    leaf = certificate(KEY, "leaf", ca_key, cas[0], extensions=alternative(DNS("a.example.org")))
    assert "4 paths were refused" in refused(leaf, cas, root)
    assert len(judged) == certpath.MAX_JUDGEMENTS


# ------------------------------------------------------------------------------------------ grace


def in_grace(pki: PKI, days: int = 3) -> certpath.ValidPath:
    def load(one: x509.Certificate) -> x509.Certificate:
        return certpath.load(dump(one))

    return certpath.validate(
        load(pki.leaf),
        [load(pki.ca2), load(pki.ca1)],
        [load(pki.root)],
        LIMITS,
        NOW,
        grace=timedelta(days=days),
    )


def test_a_leaf_in_its_grace_is_judged_by_its_last_moment(judged: list[Any]) -> None:
    old = {"not_before": NOW - timedelta(days=9), "not_after": NOW - timedelta(days=2)}
    cas = {name: {"not_before": NOW - timedelta(days=90)} for name in ("root", "ca1", "ca2")}
    pki = PKI(**{**cas, "leaf": old})
    assert len(in_grace(pki).certificates) == 4
    assert len(judged) == 1
    with pytest.raises(SignerNotTrusted):
        in_grace(pki, days=1)


def test_a_ca_certificate_renewed_after_the_leaf_has_expired(judged: list[Any]) -> None:
    """There is no moment at which all were valid: our own search alone decides, and name constraints are refused."""
    old = {"not_before": NOW - timedelta(days=9), "not_after": NOW - timedelta(days=2)}
    pki = PKI(leaf=old)  # the CA certificates are of yesterday
    assert len(in_grace(pki).certificates) == 4
    assert not judged
    pki = PKI(leaf=old, ca1={"extensions": permitted(DNS("example.com"))})
    with pytest.raises(SignerNotTrusted) as caught:
        in_grace(pki)
    assert "newer than the end" in str(caught.value.private)


def test_a_trust_anchor_without_key_identifiers_signed_with_sha1(judged: list[Any]) -> None:
    """Nobody looks at the signature of a trust anchor."""
    key = new_key("rsa-2048")
    root = x509.load_der_x509_certificate(
        by_hand(key, "Root", "Root", key, hash_name="sha1", extensions=[CA_EXTENSION])
    )
    assert len(validate(certificate(KEY, "leaf", key, root), [], root).certificates) == 2
    assert len(judged) == 1
