"""The CMP protection certificate: path validation and what is kept of it (RFC 9483 §3.3, §3.5; RFC 5280 §6.1)."""

import itertools
import random
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import asn1
from cmpd.asn1 import BodyType, der
from cmpd.errors import BadAlg, BadMessageCheck, CMPError, SignerNotTrusted
from cmpd.limits import Limits
from cmpd.protection import SignerCache, certpath, check_signature, signature
from tests.asn1.vectors import VECTORS
from tests.ee import EE, new_key, sign, signature_algorithm, spki
from tests.world import certificate

LIMITS = Limits()
NOW = datetime.now(UTC)
KEY = new_key()
"""One key for whatever key does not matter."""


def dump(one: x509.Certificate) -> bytes:
    return one.public_bytes(Encoding.DER)


class PKI:
    """A root, two CAs below it and a leaf; keyword arguments change the certificate of that name."""

    def __init__(self, **changes: dict[str, Any]) -> None:
        self.keys = {name: new_key() for name in ("root", "ca1", "ca2", "leaf")}

        def make(name: str, above: str | None) -> x509.Certificate:
            issuer = None if above is None else getattr(self, above)
            return certificate(
                self.keys[name],
                f"{name} of the test",
                self.keys[above or name],
                issuer,
                **{"ca": name != "leaf", **changes.get(name, {})},
            )

        self.root = make("root", None)
        self.ca1 = make("ca1", "root")
        self.ca2 = make("ca2", "ca1")
        self.leaf = make("leaf", "ca2")

    @property
    def chain(self) -> list[x509.Certificate]:
        return [self.leaf, self.ca2, self.ca1, self.root]


def validate(
    leaf: x509.Certificate,
    untrusted: Sequence[x509.Certificate],
    *anchors: x509.Certificate,
    limits: Limits = LIMITS,
    now: datetime = NOW,
    allow_sha1: bool = False,
) -> certpath.ValidPath:
    def loaded(some: Sequence[x509.Certificate]) -> list[x509.Certificate]:
        return [certpath.load(dump(one)) for one in some]

    return certpath.validate(loaded([leaf])[0], loaded(untrusted), loaded(anchors), limits, now, allow_sha1=allow_sha1)


def refused(
    leaf: x509.Certificate, untrusted: Sequence[x509.Certificate], *anchors: x509.Certificate, **kwargs: Any
) -> str:
    """The private reason of the refusal; the public one is always the same."""
    with pytest.raises(SignerNotTrusted) as caught:
        validate(leaf, untrusted, *anchors, **kwargs)
    assert str(caught.value) == "the CMP protection certificate does not validate to a trust anchor"
    assert caught.value.private is not None
    return caught.value.private


def test_a_path_in_any_order() -> None:
    """RFC 9483 §3.3: the chain may come in any order, with or without the root."""
    pki = PKI()
    for others in itertools.permutations([pki.leaf, pki.ca2, pki.ca1, pki.root]):
        assert list(validate(pki.leaf, others, pki.root).certificates) == pki.chain
    assert list(validate(pki.leaf, [pki.ca1, pki.ca2], pki.root).certificates) == pki.chain


def test_a_path_ends_at_the_first_anchor() -> None:
    pki = PKI()
    assert list(validate(pki.leaf, [], pki.ca2).certificates) == [pki.leaf, pki.ca2]
    assert list(validate(pki.leaf, [pki.ca2], pki.ca1, pki.root).certificates) == [pki.leaf, pki.ca2, pki.ca1]


def test_a_leaf_that_is_itself_an_anchor() -> None:
    pki = PKI()
    assert list(validate(pki.leaf, [], pki.leaf).certificates) == [pki.leaf]
    assert "expired" in refused(pki.leaf, [], pki.leaf, now=NOW + timedelta(days=365))


def test_the_times_of_a_path_are_those_of_all_its_certificates() -> None:
    pki = PKI(ca1={"not_after": NOW + timedelta(hours=1)}, leaf={"not_before": NOW - timedelta(minutes=5)})
    path = validate(pki.leaf, pki.chain, pki.root)
    assert path.not_before == pki.leaf.not_valid_before_utc
    assert path.not_after == pki.ca1.not_valid_after_utc


def test_no_path() -> None:
    pki, other = PKI(), PKI()
    assert "no issuer found" in refused(pki.leaf, [], pki.root)
    assert "no issuer found" in refused(pki.leaf, [pki.ca2], pki.root)
    assert refused(pki.leaf, pki.chain)
    assert "does not verify" in refused(pki.leaf, pki.chain, other.root), "an anchor of the same name and another key"


def test_an_untrusted_root_of_the_attackers_own() -> None:
    """Everything is right about it but that nobody trusts it."""
    pki = PKI()
    assert refused(pki.leaf, pki.chain, certificate(KEY, "Another Root", ca=True))


@pytest.mark.parametrize("who", ["leaf", "ca2", "ca1", "root"])
def test_an_expired_certificate_anywhere(who: str) -> None:
    pki = PKI(**{who: {"not_after": NOW - timedelta(seconds=2)}})
    assert f"{who} of the test expired" in refused(pki.leaf, pki.chain, pki.root)
    assert len(validate(pki.leaf, pki.chain, pki.root, now=NOW - timedelta(minutes=1)).certificates) == 4


@pytest.mark.parametrize("who", ["leaf", "ca2", "ca1", "root"])
def test_a_certificate_that_is_not_yet_valid_anywhere(who: str) -> None:
    pki = PKI(**{who: {"not_before": NOW + timedelta(minutes=1)}})
    assert f"{who} of the test is not valid before" in refused(pki.leaf, pki.chain, pki.root)


@pytest.mark.parametrize("who", ["ca2", "ca1", "root"])
@pytest.mark.parametrize(
    "changes", [{"ca": False}, {"basic_constraints": False}], ids=["cA FALSE", "no basicConstraints"]
)
def test_an_issuer_that_is_no_ca(who: str, changes: dict[str, Any]) -> None:
    """RFC 5280 §6.1.4 (k)."""
    pki = PKI(**{who: changes})
    assert f"{who} of the test is not a CA" in refused(pki.leaf, pki.chain, pki.root)


@pytest.mark.parametrize("who", ["ca2", "ca1", "root"])
def test_an_issuer_that_may_not_sign_certificates(who: str) -> None:
    """RFC 5280 §6.1.4 (n)."""
    usage = x509.KeyUsage(True, False, False, False, False, False, True, False, False)
    pki = PKI(**{who: {"key_usage": False, "extensions": [(usage, True)]}})
    assert "keyCertSign" in refused(pki.leaf, pki.chain, pki.root)


def test_an_issuer_without_key_usage_may() -> None:
    pki = PKI(ca1={"key_usage": False})
    assert len(validate(pki.leaf, pki.chain, pki.root).certificates) == 4


@pytest.mark.parametrize(
    ("who", "length", "good"),
    [("ca2", 0, True), ("ca1", 0, False), ("ca1", 1, True), ("root", 1, False), ("root", 0, False), ("root", 2, True)],
)
def test_path_len_constraint(who: str, length: int, good: bool) -> None:
    """RFC 5280 §6.1.4 (l)(m): how many intermediate CAs may be below."""
    pki = PKI(**{who: {"path_length": length}})
    if good:
        assert len(validate(pki.leaf, pki.chain, pki.root).certificates) == 4
    else:
        assert f"pathLenConstraint of CN={who}" in refused(pki.leaf, pki.chain, pki.root)


def test_a_self_issued_certificate_does_not_count_for_path_len_constraint() -> None:
    """RFC 5280 §6.1.4 (l): a CA that has changed its key signs its new one with its old one."""
    old, new, leaf_key = new_key(), new_key(), new_key()
    root = certificate(old, "CA", ca=True, path_length=0)
    rolled = certificate(new, "CA", old, root, ca=True)
    leaf = certificate(leaf_key, "leaf", new, rolled)
    assert list(validate(leaf, [rolled], root).certificates) == [leaf, rolled, root]
    below = certificate(KEY, "below", new, rolled, ca=True)
    assert "pathLenConstraint" in refused(certificate(leaf_key, "leaf", KEY, below), [below, rolled], root)


@pytest.mark.parametrize("who", ["leaf", "ca2", "ca1", "root"])
def test_an_unknown_critical_extension(who: str) -> None:
    """RFC 5280 §4.2: a certificate with a critical extension that is not recognised MUST be rejected."""
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    pki = PKI(**{who: {"extensions": [(unknown, True)]}})
    assert "unknown critical extension 1.3.6.1.4.1.99999.1" in refused(pki.leaf, pki.chain, pki.root)
    pki = PKI(**{who: {"extensions": [(unknown, False)]}})
    assert len(validate(pki.leaf, pki.chain, pki.root).certificates) == 4


@pytest.mark.parametrize("extension", [x509.PolicyConstraints(0, None), x509.InhibitAnyPolicy(0)])
def test_policy_processing_that_is_not_implemented_is_refused(extension: x509.ExtensionType) -> None:
    pki = PKI(ca1={"extensions": [(extension, True)]})
    assert "unknown critical extension" in refused(pki.leaf, pki.chain, pki.root)


def test_a_path_may_be_as_long_as_the_limit_and_no_longer() -> None:
    keys = [new_key() for _ in range(8)]
    above = certificate(keys[0], "level 0", ca=True)
    chain = [above]
    for level in range(1, 7):
        above = certificate(keys[level], f"level {level}", keys[level - 1], above, ca=True)
        chain.append(above)
    six = certificate(keys[7], "leaf", keys[4], chain[4])
    seven = certificate(keys[7], "leaf", keys[5], chain[5])
    assert len(validate(six, chain, chain[0]).certificates) == LIMITS.chain_length == 6
    assert "longer than 6" in refused(seven, chain, chain[0])
    assert len(validate(seven, chain, chain[0], limits=Limits(chain_length=7)).certificates) == 7
    assert len(validate(seven, [*chain], chain[1]).certificates) == 6


def test_loops_and_cross_certificates() -> None:
    """Two CAs that have certified each other, and only one of them leads to the anchor."""
    key_a, key_b, key_root, key_leaf = (new_key() for _ in range(4))
    root = certificate(key_root, "Root", ca=True)
    a = certificate(key_a, "A", ca=True)
    b = certificate(key_b, "B", ca=True)
    a_by_b = certificate(key_a, "A", key_b, b, ca=True)
    b_by_a = certificate(key_b, "B", key_a, a, ca=True)
    leaf = certificate(key_leaf, "leaf", key_a, a)
    others = [a, b, a_by_b, b_by_a]
    assert refused(leaf, others, root)
    a_by_root = certificate(key_a, "A", key_root, root, ca=True)
    b_by_root = certificate(key_b, "B", key_root, root, ca=True)
    for order in itertools.permutations([*others, a_by_root]):
        path = validate(leaf, order, root).certificates
        assert (path[0], path[-2], path[-1]) == (leaf, a_by_root, root)
    for order in itertools.permutations([*others, b_by_root]):
        path = validate(leaf, order, root).certificates
        assert (path[0], path[-2], path[-1]) == (leaf, b_by_root, root)


@pytest.fixture
def signatures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One element for each signature that is checked."""
    seen: list[int] = []
    verify = signature.verify

    def counted(*args: Any, **kwargs: Any) -> None:
        seen.append(1)
        verify(*args, **kwargs)

    monkeypatch.setattr(signature, "verify", counted)
    return seen


def hostile(levels: int, width: int) -> tuple[x509.Certificate, list[x509.Certificate]]:
    """CA certificates that all sign each other, level by level: width ** levels paths, and none leads anywhere."""
    keys = [new_key() for _ in range(levels + 1)]
    names = [f"hostile {level}" for level in range(levels + 1)]
    issuers = [certificate(keys[level], names[level], ca=True) for level in range(levels + 1)]
    found = [
        certificate(keys[level], names[level], keys[level - 1], issuers[level - 1], ca=True)
        for level in range(1, levels + 1)
        for _ in range(width)
    ]
    random.Random(1).shuffle(found)
    return certificate(KEY, "leaf", keys[-1], issuers[-1]), found


@pytest.mark.parametrize(("levels", "width"), [(1, 31), (2, 15), (5, 6), (4, 7)])
def test_hostile_extra_certs_buy_a_bounded_number_of_signatures(levels: int, width: int, signatures: list[int]) -> None:
    leaf, others = hostile(levels, width)
    refused(leaf, others, certificate(new_key(), "hostile 0", ca=True), limits=Limits(chain_length=16))
    assert 0 < len(signatures) <= certpath.MAX_SIGNATURES


def test_many_cas_of_one_name_and_another_key(signatures: list[int]) -> None:
    """Same names, wrong keys: each costs one check, and then it is enough."""
    pki = PKI()
    fakes = [certificate(KEY, "ca2 of the test", new_key(), pki.ca1, ca=True) for _ in range(31)]
    assert "signatures would have to be checked" in refused(pki.leaf, [*fakes, *pki.chain], pki.root)
    assert len(signatures) == certpath.MAX_SIGNATURES
    signatures.clear()
    assert len(validate(pki.leaf, [*fakes[:12], *pki.chain], pki.root).certificates) == 4
    assert len(signatures) <= certpath.MAX_SIGNATURES


def test_a_ca_with_a_key_too_large_is_not_verified_with(signatures: list[int]) -> None:
    key = new_key("rsa-3072")
    root = certificate(key, "Root", ca=True)
    leaf = certificate(KEY, "leaf", key, root)
    assert "does not verify" in refused(leaf, [], root, limits=Limits(rsa_bits=2048))
    assert not signatures
    assert len(validate(leaf, [], root).certificates) == 2


ALGORITHMS = ["rsa-2048", "ec-p256", "ec-p384", "ec-p521", "ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"]


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_a_ca_of_every_algorithm(kind: str) -> None:
    root_key, ca_key, key = new_key(kind), new_key(kind), new_key(kind)
    root = certificate(root_key, "Root", ca=True)
    ca = certificate(ca_key, "CA", root_key, root, ca=True)
    leaf = certificate(key, "leaf", ca_key, ca)
    assert len(validate(leaf, [ca], root).certificates) == 3
    ee = EE.with_certificate(key, dump(leaf), (dump(ca),))
    found = asn1.decode(ee.seal(ee.ir(new_key())), LIMITS)
    assert check_signature(found, [dump(root)], LIMITS, NOW).der == dump(leaf)
    flipped = bytearray(dump(leaf))
    flipped[-9] ^= 1
    assert "does not verify" in refused(x509.load_der_x509_certificate(bytes(flipped)), [ca], root)


@pytest.mark.parametrize("signer", ALGORITHMS)
def test_a_ca_of_one_algorithm_for_a_leaf_of_another(signer: str) -> None:
    ca_key = new_key(signer)
    ca = certificate(ca_key, "CA", ca=True)
    for kind in ("ec-p256", "ed25519", "ml-dsa-65"):
        assert len(validate(certificate(new_key(kind), "leaf", ca_key, ca), [], ca).certificates) == 2


# ------------------------------------------------------------------------------------------- certificates by hand


def tbs(
    key: Any,
    subject: str,
    issuer: str,
    algorithm: bytes,
    *,
    serial: int = 1,
    version: bytes = der.explicit(0, der.integer(2)),
    extensions: Sequence[bytes] = (),
    subject_der: bytes | None = None,
) -> bytes:
    def name(text: str) -> bytes:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]).public_bytes()

    validity = der.sequence(der.x509_time(NOW - timedelta(days=1)), der.x509_time(NOW + timedelta(days=1)))
    tail = der.explicit(3, der.sequence(*extensions)) if extensions else b""
    return der.sequence(
        version, der.integer(serial), algorithm, name(issuer), validity, subject_der or name(subject), spki(key), tail
    )


def by_hand(
    key: Any,
    subject: str,
    issuer: str,
    signer: Any,
    *,
    hash_name: str = "sha256",
    inner: bytes | None = None,
    **kwargs: Any,
) -> bytes:
    algorithm = signature_algorithm(signer, hash_name=hash_name)
    part = tbs(key, subject, issuer, inner or algorithm, **kwargs)
    return der.sequence(part, algorithm, der.bit_string(sign(signer, part, hash_name=hash_name)))


CA_EXTENSION = der.sequence(der.oid("2.5.29.19"), der.boolean(True), der.octet_string(der.sequence(der.boolean(True))))

X400_NAME = der.sequence(der.oid("2.5.29.17"), der.octet_string(der.sequence(der.tlv(0xA3, b""))))
NOT_UTF8 = der.sequence(der.set_of(der.sequence(der.oid("2.5.4.3"), der.tlv(0x0C, b"\xff\xfe"))))


@pytest.mark.parametrize("kind", ["rsa-2048", "ec-p256"])
def test_sha1_in_the_chain_only_where_it_is_allowed(kind: str) -> None:
    key = new_key(kind)
    root = certificate(key, "Root", ca=True)
    leaf = x509.load_der_x509_certificate(by_hand(KEY, "leaf", "Root", key, hash_name="sha1"))
    assert "does not verify" in refused(leaf, [], root)
    assert len(validate(leaf, [], root, allow_sha1=True).certificates) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30\x00",
        b"\x05\x00",
        bytes(40),
        der.sequence(der.sequence(), der.sequence(), der.bit_string(b"")),
        by_hand(KEY, "x", "Root", KEY, version=der.explicit(0, der.integer(9))),
        by_hand(KEY, "x", "Root", KEY, extensions=[CA_EXTENSION, CA_EXTENSION]),
        by_hand(KEY, "x", "Root", KEY, extensions=[der.sequence(der.oid("2.5.29.15"), der.octet_string(b"\x04\x01x"))]),
        by_hand(KEY, "x", "Root", KEY, extensions=[der.sequence(der.oid("2.5.29.14"), der.octet_string(b"junk"))]),
        by_hand(KEY, "x", "Root", KEY, extensions=[X400_NAME]),
        by_hand(KEY, "x", "Root", KEY, subject_der=NOT_UTF8),
        by_hand(KEY, "x", "Root", KEY, subject_der=der.sequence(der.integer(1))),
        by_hand(KEY, "x", "Root", KEY, inner=signature_algorithm(KEY, hash_name="sha384")),
    ],
    ids=[
        "empty", "empty SEQUENCE", "NULL", "zeros", "hollow", "version 10", "an extension twice", "keyUsage of junk",
        "SKI of junk", "x400Address", "CN not UTF-8", "subject of junk", "two signature algorithms",
    ],
)  # fmt: skip
def test_an_unreadable_certificate_among_extra_certs_does_not_lose_the_message(data: bytes) -> None:
    """RFC 9483 §3.3; the library reads some parts only when it is asked for them, and then raises what it likes."""
    with pytest.raises(ValueError):
        certpath.load(data)
    pki = PKI()
    ee = EE.with_certificate(pki.keys["leaf"], dump(pki.leaf))
    others = [dump(one) for one in (pki.ca2, pki.ca1)]
    for certificates in itertools.permutations([dump(pki.leaf), data or der.null(), *others]):
        found = asn1.decode(ee.seal(ee.ir(KEY, header={"extra_certs": certificates})), LIMITS)
        assert check_signature(found, [dump(pki.root)], LIMITS, NOW).der == dump(pki.leaf)
    found = asn1.decode(ee.seal(ee.ir(KEY, header={"extra_certs": [data or der.null()]})), LIMITS)
    with pytest.raises(BadMessageCheck, match="none of extraCerts"):
        check_signature(found, [dump(pki.root)], LIMITS, NOW)


def test_a_warning_of_the_library_is_not_an_error() -> None:
    """A serial number of zero is let pass, and does not write to stderr."""
    root = certificate(KEY, "Root", ca=True)
    key = new_key()
    for serial in (0, -5):
        encoded = by_hand(key, "leaf", "Root", KEY, serial=serial)
        ee = EE.with_certificate(key, dump(root))
        draft = ee.ir(KEY, header={"extra_certs": [encoded], "sender_kid": None})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_signature(asn1.decode(ee.seal(draft), LIMITS), [dump(root)], LIMITS, NOW)


def test_what_the_signature_of_a_certificate_does_not_cover_cannot_vary() -> None:
    """A certificate is known by its hash: nobody may make another one of it that verifies."""
    pki = PKI()
    data = dump(pki.ca1)
    anchor = certpath.load(dump(pki.root))
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                changed = certpath.load(bytes(flipped))
            except ValueError:
                continue
            with pytest.raises(SignerNotTrusted):
                certpath.validate(changed, [], [anchor], LIMITS, NOW)


# ---------------------------------------------------------------------------------------------------- the SignerCache


def message(ee: EE, *certificates: x509.Certificate, **fields: Any) -> asn1.PKIMessage:
    draft = ee.ir(KEY, header={"extra_certs": [dump(one) for one in certificates], **fields})
    return asn1.decode(ee.seal(draft), LIMITS)


def test_sender_kid_picks_the_certificate_whatever_the_order() -> None:
    """RFC 9483 §3.3 puts it first; some clients do not, e.g. OpenSSL's test message with two extraCerts."""
    pki = PKI()
    ee = EE.with_certificate(pki.keys["leaf"], dump(pki.leaf))
    cache = SignerCache([dump(pki.root)], LIMITS)
    for order in itertools.permutations([pki.leaf, pki.ca2, pki.ca1]):
        found = message(ee, *order)
        known = cache.find(found, NOW)
        assert known.certificate == pki.leaf
        cache.check(found, known)


def test_without_sender_kid_it_is_the_first() -> None:
    pki = PKI()
    ee = EE.with_certificate(pki.keys["leaf"], dump(pki.leaf))
    cache = SignerCache([dump(pki.root)], LIMITS)
    assert cache.find(message(ee, pki.leaf, pki.ca2, pki.ca1, sender_kid=None), NOW).certificate == pki.leaf
    with pytest.raises(SignerNotTrusted, match="digitalSignature"):
        cache.find(message(ee, pki.ca2, pki.leaf, pki.ca1, sender_kid=None), NOW)


def test_sender_kid_of_no_certificate() -> None:
    pki = PKI()
    ee = EE.with_certificate(pki.keys["leaf"], dump(pki.leaf))
    cache = SignerCache([dump(pki.root)], LIMITS)
    for _ in range(2):
        with pytest.raises(BadMessageCheck, match="senderKID"):
            cache.find(message(ee, *pki.chain, sender_kid=b"another"), NOW)
        cache.find(message(ee, *pki.chain), NOW)


def test_a_certificate_without_key_identifier_is_taken_only_when_none_fits() -> None:
    root = certificate(KEY, "Root", ca=True)
    key, other = new_key(), new_key()
    leaf = certificate(key, "leaf", KEY, root)
    bare = x509.load_der_x509_certificate(by_hand(other, "bare", "Root", KEY))
    cache = SignerCache([dump(root)], LIMITS)
    ee = EE.with_certificate(key, dump(leaf))
    assert cache.find(message(ee, bare, leaf), NOW).certificate == leaf
    assert (
        cache.find(message(EE.with_certificate(other, dump(bare)), bare, sender_kid=b"whatever"), NOW).certificate
        == bare
    )


def test_a_protection_certificate_without_digital_signature() -> None:
    """RFC 9483 §3.5."""
    usage = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
    pki = PKI(leaf={"key_usage": False, "extensions": [(usage, True)]})
    ee = EE.with_certificate(pki.keys["leaf"], dump(pki.leaf))
    with pytest.raises(SignerNotTrusted, match="digitalSignature"):
        SignerCache([dump(pki.root)], LIMITS).find(message(ee, *pki.chain), NOW)
    pki = PKI(leaf={"key_usage": False})
    ee = EE.with_certificate(pki.keys["leaf"], dump(pki.leaf))
    SignerCache([dump(pki.root)], LIMITS).find(message(ee, *pki.chain), NOW)


def test_a_path_is_validated_once(signatures: list[int]) -> None:
    pki = PKI()
    ee = EE.with_certificate(pki.keys["leaf"], dump(pki.leaf))
    cache = SignerCache([dump(pki.root)], LIMITS)
    first = cache.find(message(ee, *pki.chain), NOW)
    assert len(signatures) == 3
    assert cache.find(message(ee, pki.leaf), NOW) is first, "now without its chain"
    assert len(signatures) == 3


@pytest.mark.parametrize("who", ["leaf", "ca2", "ca1", "root"])
def test_a_cached_path_expires_with_any_of_its_certificates(who: str) -> None:
    pki = PKI(**{who: {"not_after": NOW + timedelta(minutes=10)}})
    ee = EE.with_certificate(pki.keys["leaf"], dump(pki.leaf))
    cache = SignerCache([dump(pki.root)], LIMITS)
    cache.find(message(ee, *pki.chain), NOW)
    later = NOW + timedelta(minutes=11)
    with pytest.raises(SignerNotTrusted):
        cache.find(message(ee, *pki.chain), later)
    with pytest.raises(BadMessageCheck, match="seen before"):
        cache.find(message(ee), later)


def test_a_certconf_without_extra_certs_is_found_by_sender_kid() -> None:
    """RFC 9483 §3.3 lets extraCerts be left out of what follows the first message."""
    pki, other = PKI(), PKI()
    cache = SignerCache([dump(pki.root), dump(other.root)], LIMITS)
    ees = [EE.with_certificate(one.keys["leaf"], dump(one.leaf)) for one in (pki, other)]
    for ee in ees:
        with pytest.raises(BadMessageCheck, match="seen before"):
            cache.find(message(ee), NOW)
    for ee, one in zip(ees, (pki, other), strict=True):
        cache.find(message(ee, *one.chain), NOW)
    for ee, one in zip(ees, (pki, other), strict=True):
        draft = ee.draft(BodyType.certConf, der.sequence(), extra_certs=())
        found = asn1.decode(ee.seal(draft), LIMITS)
        known = cache.find(found, NOW)
        assert known.certificate == one.leaf
        cache.check(found, known)
    with pytest.raises(BadMessageCheck, match="seen before"):
        cache.find(message(ees[0], sender_kid=None), NOW)


def test_the_cache_is_bounded_and_forgets_what_was_unused_longest() -> None:
    root = certificate(KEY, "Root", ca=True)
    leaves = [(key, certificate(key, f"leaf {n}", KEY, root)) for n, key in enumerate(new_key() for _ in range(4))]
    ees = [EE.with_certificate(key, dump(leaf)) for key, leaf in leaves]
    cache = SignerCache([dump(root)], LIMITS, size=3)
    for ee, (_, leaf) in zip(ees[:3], leaves, strict=False):
        cache.find(message(ee, leaf), NOW)
    cache.find(message(ees[0], leaves[0][1]), NOW)
    cache.find(message(ees[3], leaves[3][1]), NOW)
    assert len(cache._known) == 3
    for n in (0, 2, 3):
        cache.find(message(ees[n]), NOW)
    with pytest.raises(BadMessageCheck):
        cache.find(message(ees[1]), NOW)


def test_nothing_that_does_not_validate_is_kept() -> None:
    pki, other = PKI(), PKI()
    cache = SignerCache([dump(other.root)], LIMITS)
    ee = EE.with_certificate(pki.keys["leaf"], dump(pki.leaf))
    for _ in range(3):
        with pytest.raises(CMPError):
            cache.find(message(ee, *pki.chain), NOW)
    assert not cache._known


def test_a_protection_certificate_with_a_key_of_no_use(signatures: list[int]) -> None:
    """Its key is looked at before any signature is checked."""
    key = new_key("rsa-3072")
    leaf = certificate(key, "leaf", ca=False)
    ee = EE.with_certificate(key, dump(leaf))
    with pytest.raises(BadAlg):
        SignerCache([dump(leaf)], Limits(rsa_bits=2048)).find(message(ee, leaf), NOW)
    assert not signatures


def test_an_anchor_that_cannot_be_read_shows_at_start() -> None:
    with pytest.raises(ValueError):
        SignerCache([by_hand(KEY, "x", "Root", KEY, extensions=[CA_EXTENSION, CA_EXTENSION])], LIMITS)


def test_the_chain_of_openssl() -> None:
    """Root, intermediate and two end entities of OpenSSL's own path-validation tests."""
    folder = VECTORS / "openssl/65-test_cmp_vfy_data"
    root, ca, first, second = (
        x509.load_pem_x509_certificate((folder / name).read_bytes())
        for name in ("Root_CA.crt", "Intermediate_CA.crt", "EndEntity1.crt", "EndEntity2.crt")
    )
    when = max(one.not_valid_before_utc for one in (root, ca, first, second)) + timedelta(days=1)
    assert list(validate(second, [first, ca], root, now=when).certificates) == [second, ca, root]
    assert "no issuer found" in refused(second, [first], root, now=when)
    assert "expired" in refused(second, [ca], root, now=datetime(2200, 1, 1, tzinfo=UTC))
    assert "does not verify" in refused(first, [ca], root, now=when), "sha1WithRSAEncryption"
    assert list(validate(first, [ca], root, now=when, allow_sha1=True).certificates) == [first, root]


def test_a_name_that_differs_in_one_character_does_not_chain() -> None:
    root = certificate(KEY, "Root", ca=True)
    leaf = x509.load_der_x509_certificate(by_hand(new_key(), "leaf", "R0ot", KEY))
    assert "no issuer found" in refused(leaf, [root], root)


def test_the_answer_does_not_tell_why() -> None:
    """Which certificate failed and why goes to the log only."""
    pki = PKI(ca1={"not_after": NOW - timedelta(seconds=1)})
    ee = EE.with_certificate(pki.keys["leaf"], dump(pki.leaf))
    with pytest.raises(SignerNotTrusted) as caught:
        SignerCache([dump(pki.root)], LIMITS).find(message(ee, *pki.chain), NOW)
    assert "ca1" not in str(caught.value)
