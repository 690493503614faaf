"""Clients by certificate: over TLS, with configured intermediates, the rules on top, and vendors' serial numbers."""

from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import x25519

from cmpd.asn1 import der, oids
from cmpd.errors import BadAlg, SignerNotTrusted
from cmpd.limits import Limits
from cmpd.profile.syntax import Pattern
from cmpd.protection import KnownSigner, SignerCache, certpath
from cmpd.protection.client import ClientRules, device_serial
from tests.ee import EE, new_key
from tests.protection.test_certpath import KEY, LIMITS, NOW, PKI, by_hand, dump, message
from tests.world import certificate

OTHER = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
ANY_POLICY = x509.ObjectIdentifier("2.5.29.32.0")
SERIAL, CN = x509.NameOID.SERIAL_NUMBER, x509.NameOID.COMMON_NAME


# ------------------------------------------------------------------------------------------ TLS clients


def test_a_tls_client_whatever_the_order_of_its_chain() -> None:
    pki = PKI()
    for chain in ([pki.ca2, pki.ca1], [pki.ca1, pki.ca2, pki.root], [pki.leaf, pki.ca1, pki.ca2]):
        known = SignerCache([dump(pki.root)], LIMITS).accept(dump(pki.leaf), [dump(one) for one in chain], NOW)
        assert list(known.path.certificates) == pki.chain
        assert known.subject_text == "CN=leaf of the test"


def test_a_path_is_validated_once_for_tls_and_cmp(monkeypatch: pytest.MonkeyPatch) -> None:
    pki = PKI()
    cache = SignerCache([dump(pki.root)], LIMITS)
    chain = [dump(one) for one in pki.chain[1:]]
    first = cache.accept(dump(pki.leaf), chain, NOW)
    monkeypatch.setattr(certpath, "validate", None)
    assert cache.accept(dump(pki.leaf), [], NOW) is first
    ee = EE.with_certificate(pki.keys["leaf"], dump(pki.leaf))
    assert cache.find(message(ee, pki.leaf), NOW) is first


def test_a_tls_client_that_is_not_trusted() -> None:
    pki, other = PKI(), PKI()
    cache = SignerCache([dump(pki.root)], LIMITS)
    for leaf, chain in ((other.leaf, other.chain), (pki.leaf, [pki.ca2])):
        with pytest.raises(SignerNotTrusted, match="the TLS client certificate does not validate to a trust anchor"):
            cache.accept(dump(leaf), [dump(one) for one in chain], NOW)
    for junk in (b"", b"\x30\x00", bytes(30)):
        with pytest.raises(SignerNotTrusted, match="cannot be read"):
            cache.accept(junk, [], NOW)
        known = cache.accept(dump(pki.leaf), [junk, dump(pki.ca1), dump(pki.ca2)], NOW)
        assert len(known.path.certificates) == 4
        cache = SignerCache([dump(pki.root)], LIMITS)


def test_a_tls_client_whose_certificate_is_not_for_signatures() -> None:
    """RFC 8446 §4.4.2.3: keyUsage, where it is, has digitalSignature; extKeyUsage is for the profile to ask."""
    usage = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
    pki = PKI(leaf={"key_usage": False, "extensions": [(usage, True)]})
    with pytest.raises(SignerNotTrusted, match="keyUsage of the TLS client certificate lacks digitalSignature"):
        SignerCache([dump(pki.ca2)], LIMITS).accept(dump(pki.leaf), [], NOW)
    for changes in ({"key_usage": False}, {"eku": [oids.KP_SERVER_AUTH]}):
        pki = PKI(leaf=changes)
        assert SignerCache([dump(pki.ca2)], LIMITS).accept(dump(pki.leaf), [], NOW).der == dump(pki.leaf)


def test_a_tls_client_with_a_key_of_no_use() -> None:
    root = certificate(KEY, "Root", ca=True)
    cache = SignerCache([dump(root)], Limits(rsa_bits=2048))
    with pytest.raises(BadAlg):
        cache.accept(dump(certificate(new_key("rsa-3072"), "leaf", KEY, root)), [], NOW)
    builder = (
        x509.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(root.subject)
        .public_key(x25519.X25519PrivateKey.generate().public_key())
        .serial_number(7)
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
    )
    with pytest.raises(BadAlg):
        cache.accept(dump(builder.sign(KEY, root.signature_hash_algorithm)), [], NOW)  # type: ignore[arg-type]


def test_the_grace_of_a_tls_client() -> None:
    pki = PKI(leaf={"not_before": NOW - timedelta(days=1), "not_after": NOW - timedelta(hours=2)})
    cache = SignerCache([dump(pki.ca2)], LIMITS)
    for _ in range(2):
        with pytest.raises(SignerNotTrusted):
            cache.accept(dump(pki.leaf), [], NOW)
        assert cache.accept(dump(pki.leaf), [], NOW, timedelta(hours=3)).der == dump(pki.leaf)


def test_an_end_entitys_certificate_as_trust_anchor() -> None:
    pki = PKI()
    cache = SignerCache([dump(pki.leaf)], LIMITS)
    assert cache.accept(dump(pki.leaf), [], NOW).path.certificates == (pki.leaf,)
    sibling = certificate(new_key(), "sibling", pki.keys["ca2"], pki.ca2)
    with pytest.raises(SignerNotTrusted):
        cache.accept(dump(sibling), [dump(one) for one in pki.chain[1:]], NOW)
    below = certificate(new_key(), "below", pki.keys["leaf"], pki.leaf)
    with pytest.raises(SignerNotTrusted):
        cache.accept(dump(below), [dump(pki.leaf)], NOW)


def test_more_certificates_than_the_limit_are_not_looked_at() -> None:
    pki = PKI()
    chain = [dump(pki.leaf)] * LIMITS.extra_certs + [dump(pki.ca2), dump(pki.ca1)]
    with pytest.raises(SignerNotTrusted):
        SignerCache([dump(pki.root)], LIMITS).accept(dump(pki.leaf), chain, NOW)


def test_configured_intermediates_are_for_clients_that_do_not_send_them() -> None:
    pki = PKI()
    cache = SignerCache([dump(pki.root)], LIMITS, intermediates=[dump(pki.ca1), dump(pki.ca2)])
    ee = EE.with_certificate(pki.keys["leaf"], dump(pki.leaf))
    assert list(cache.find(message(ee, pki.leaf), NOW).path.certificates) == pki.chain
    cache = SignerCache([dump(pki.root)], LIMITS, intermediates=[dump(pki.ca1)])
    assert list(cache.accept(dump(pki.leaf), [dump(pki.ca2)], NOW).path.certificates) == pki.chain


def test_configured_intermediates_are_not_trusted_by_themselves() -> None:
    pki, other = PKI(), PKI()
    cache = SignerCache([dump(other.root)], LIMITS, intermediates=[dump(pki.ca1), dump(pki.ca2), dump(pki.root)])
    with pytest.raises(SignerNotTrusted):
        cache.accept(dump(pki.leaf), [], NOW)


# ------------------------------------------------------------------------------------------ what is read of it


def known(
    subject: str | x509.Name = "CN=gw-7,O=Example",
    extensions: list[tuple[x509.ExtensionType, bool]] | None = None,
    eku: list[x509.ObjectIdentifier] | None = None,
    *,
    serial: int = 0xAB12,
) -> KnownSigner:
    name = x509.Name.from_rfc4514_string(subject) if isinstance(subject, str) else subject
    root = certificate(KEY, "Some Root", ca=True)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(root.subject)
        .public_key(KEY.public_key())
        .serial_number(serial)
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
    )
    for value, critical in extensions or []:
        builder = builder.add_extension(value, critical)
    if eku:
        builder = builder.add_extension(x509.ExtendedKeyUsage(eku), False)
    leaf = builder.sign(KEY, root.signature_hash_algorithm)  # type: ignore[arg-type]
    return SignerCache([dump(root)], LIMITS).accept(dump(leaf), [], NOW)


def names(*entries: x509.GeneralName) -> list[tuple[x509.ExtensionType, bool]]:
    return [(x509.SubjectAlternativeName(entries), False)]


def hardware(value: bytes) -> x509.OtherName:
    return x509.OtherName(oids.ON_HARDWARE_MODULE_NAME, value)


def test_the_facts_that_rules_look_at() -> None:
    policies = x509.CertificatePolicies(
        [x509.PolicyInformation(x509.ObjectIdentifier(one), None) for one in ("1.2.3", "2.16.840.1")]
    )
    found = known(
        extensions=[
            *names(
                x509.DNSName("GW-7.Example.com"),
                x509.RFC822Name("Gw@Example.com"),
                x509.UniformResourceIdentifier("urn:uuid:7"),
                x509.IPAddress(IPv4Address("192.0.2.7")),
                x509.IPAddress(IPv6Address("2001:db8::7")),
                x509.DirectoryName(x509.Name.from_rfc4514_string("CN=x,O=y")),
                x509.OtherName(oids.MS_UPN, der.utf8_string("gw@ad")),
                x509.OtherName(oids.MS_UPN, b"\x05\x00"),
                x509.OtherName(OTHER, b"\x05\x00"),
                x509.RegisteredID(OTHER),
            ),
            (policies, False),
        ],
        eku=[oids.KP_CLIENT_AUTH],
    )
    assert found.subject_text == "CN=gw-7,O=Example"
    assert found.issuer_text == "CN=Some Root"
    assert found.san == (
        "dns:gw-7.example.com", "email:Gw@Example.com", "uri:urn:uuid:7", "ip:192.0.2.7", "ip:2001:db8::7",
        "dn:CN=x,O=y", "upn:gw@ad", "other:1.3.6.1.4.1.311.20.2.3", "other:1.3.6.1.4.1.99999.1",
        "rid:1.3.6.1.4.1.99999.1",
    )  # fmt: skip
    assert found.san is found.san, "read once"
    assert found.certificate_policies == {"1.2.3", "2.16.840.1"}
    assert found.extended_key_usage == {oids.KP_CLIENT_AUTH}
    bare = known()
    assert (bare.san, bare.certificate_policies, bare.extended_key_usage) == ((), frozenset(), frozenset())


def test_what_could_deceive_stands_escaped() -> None:
    """A line break in a name does not make two entries of one."""
    found = known(extensions=names(x509.OtherName(oids.MS_UPN, der.utf8_string("a\ndns:b\u202e"))))
    assert found.san == ("upn:a\\x0Adns:b\\u202E",)


# ------------------------------------------------------------------------------------------ [enrollment.client]

RULES: dict[str, Any] = {
    "subject": Pattern("CN=gw-[0-9]+,O=Example"),
    "issuer": Pattern("CN=Some Root"),
    "san": (Pattern("dns:.*[.]example[.]com"), Pattern("uri:urn:uuid:.*")),
    "extended_key_usages": frozenset([oids.KP_CLIENT_AUTH, oids.KP_IPSEC_IKE]),
    "certificate_policies": frozenset(["1.2.3", "1.2.4"]),
}


def fitting(**changes: Any) -> KnownSigner:
    policy = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.4"), None)])
    entries = (x509.DNSName("gw-7.example.com"), x509.UniformResourceIdentifier("urn:uuid:7"), x509.DNSName("other"))
    values: dict[str, Any] = {
        "extensions": [*names(*entries), (policy, False)],
        "eku": [oids.KP_CLIENT_AUTH, oids.KP_IPSEC_IKE, oids.KP_SERVER_AUTH],
    }
    return known(**{**values, **changes})


def test_every_rule_alone_and_all_together() -> None:
    good = fitting()
    assert ClientRules().fault(good) is None
    assert ClientRules().fault(known()) is None
    rules = {**RULES, "fingerprints": frozenset([good.fingerprint, "0" * 64])}
    assert ClientRules(**rules).fault(good) is None
    bad = known("CN=gw-7,O=Examples", eku=[oids.KP_CLIENT_AUTH])
    for name, rule in rules.items():
        assert ClientRules(**{name: rule}).fault(good) is None
        if name == "issuer":
            continue
        fault = ClientRules(**{name: rule}).fault(bad)
        assert fault is not None
        assert fault[0] == f"enrollment.client.{name}"
        assert "certificate" in fault[1]
        assert "example" not in fault[1].lower()
    fault = ClientRules(issuer=Pattern("CN=Root")).fault(good)
    assert fault is not None
    assert fault[0] == "enrollment.client.issuer"


def test_the_first_rule_that_is_broken_is_told() -> None:
    broken = known("CN=x", eku=[oids.KP_CLIENT_AUTH])
    rules = {**RULES, "fingerprints": frozenset(["0" * 64])}
    told = []
    while True:
        fault = ClientRules(**rules).fault(broken)
        if fault is None:
            break
        told.append(fault[0].rpartition(".")[2])
        del rules[told[-1]]
    assert told == ["subject", "san", "extended_key_usages", "certificate_policies", "fingerprints"]


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ({"subject": Pattern("CN=gw-[0-9]+,O=Example")}, {"subject": "CN=gw-7,O=Example,C=DE"}),
        ({"subject": Pattern("CN=gw-7")}, {"subject": r"CN=gw-7\,O\=Example"}),
        ({"san": (Pattern("dns:a"), Pattern("dns:b"))}, {"extensions": names(x509.DNSName("a"))}),
        ({"san": (Pattern("dns:example.com"),)}, {"extensions": names(x509.RFC822Name("dns@example.com"))}),
        ({"extended_key_usages": frozenset([oids.KP_CMC_RA])}, {"eku": [x509.ObjectIdentifier("2.5.29.37.0")]}),
        ({"extended_key_usages": frozenset([oids.KP_CMC_RA, oids.KP_CLIENT_AUTH])}, {"eku": [oids.KP_CMC_RA]}),
        (
            {"certificate_policies": frozenset(["1.2.3"])},
            {"extensions": [
                (x509.CertificatePolicies([x509.PolicyInformation(ANY_POLICY, None)]), False)
            ]},
        ),
    ],
)  # fmt: skip
def test_what_does_not_pass(rule: dict[str, Any], changes: dict[str, Any]) -> None:
    """The whole value, every pattern, every purpose; no wildcard stands for what is asked."""
    assert ClientRules(**rule).fault(known(**changes)) is not None


# ------------------------------------------------------------------------------------------ vendors' devices


def subject(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in attributes])


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("subject.serial_number", subject((CN, "gw"), (SERIAL, "SN-0815")), "SN-0815"),
        ("subject.serial_number", subject((CN, "gw")), None),
        ("subject.serial_number", subject((SERIAL, "1"), (SERIAL, "2")), None),
        ("subject.common_name", subject((CN, "0815"), (SERIAL, "x")), "0815"),
        ("subject.common_name", subject((CN, "a\u202eb")), None),
        ("subject.common_name", subject((CN, "a\nb")), None),
        ("subject.common_name", subject(), None),
        ("certificate.serial_number", subject(), "ab12"),
        ("san.hardware_module_name", subject((SERIAL, "x")), None),
    ],
)
def test_where_a_devices_serial_number_is(source: str, name: x509.Name, expected: str | None) -> None:
    """IEEE 802.1AR §8.6: serialNumber of the subject; other vendors have it elsewhere."""
    assert device_serial(known(name), source) == expected


HW_TYPE = der.oid("1.3.6.1.4.1.99999.2")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (der.sequence(HW_TYPE, der.octet_string(b"SN 0815/a")), "SN 0815/a"),
        (der.sequence(HW_TYPE, der.octet_string(b"\x00\x1b\xff")), "001bff"),
        (der.sequence(HW_TYPE, der.octet_string("é".encode())), "c3a9"),
        (der.sequence(HW_TYPE, der.octet_string(b"a\n")), "610a"),
        (der.sequence(HW_TYPE, der.octet_string(b"")), None),
        (der.sequence(HW_TYPE), None),
        (der.sequence(HW_TYPE, der.utf8_string("x")), None),
        (der.sequence(HW_TYPE, der.octet_string(b"x"), der.null()), None),
        (der.set_of(HW_TYPE, der.octet_string(b"x")), None),
        (b"\x05\x00", None),
    ],
)
def test_the_serial_number_in_a_hardware_module_name(value: bytes, expected: str | None) -> None:
    """RFC 4108 §5: HardwareModuleName { hwType, hwSerialNum }."""
    found = known(extensions=names(x509.DNSName("a.example"), hardware(value)))
    assert device_serial(found, "san.hardware_module_name") == expected


def test_two_hardware_modules_are_nobody() -> None:
    one = hardware(der.sequence(HW_TYPE, der.octet_string(b"a")))
    two = hardware(der.sequence(HW_TYPE, der.octet_string(b"b")))
    assert device_serial(known(extensions=names(one, two)), "san.hardware_module_name") is None


def test_a_serial_number_that_is_not_positive_names_no_device() -> None:
    root = certificate(KEY, "Root", ca=True)
    for number in (0, -5):
        leaf = by_hand(new_key(), "leaf", "Root", KEY, serial=number)
        found = SignerCache([dump(root)], LIMITS).accept(leaf, [], NOW)
        assert device_serial(found, "certificate.serial_number") is None


def test_an_unknown_source_is_an_error_of_the_program() -> None:
    with pytest.raises(ValueError, match="no place"):
        device_serial(known(), "subject.color")
