"""What comes back against what was approved: real certificates of the simulator, right ones and wrong ones."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cmpd.asn1 import der
from cmpd.exchange import Approved, RequestedExtension
from cmpd.issuers.certcentral import CertCentralClient, CertCentralConfig, ProfileFacts, checking
from cmpd.issuers.certcentral.checking import Checked, build_chain, check, find_leaf
from cmpd.issuers.certcentral.content import Content
from cmpd.issuers.certcentral.orders import kind_of
from tests.certcentral import CertCentral
from tests.issuers.certcentral import world
from tests.issuers.certcentral.world import (
    HOST,
    KINDS,
    MAIL,
    approved,
    name,
    new_key,
    placed,
    prepared,
    profile,
    rsa_key,
    san,
    usage,
)


def held(came: Any, request: Approved, kind: str, now: datetime | None = None, **facts: Any) -> Checked:
    about = replace(ProfileFacts.of(profile(kind)), **facts)
    return check(came, request, about, kind_of(about, world.options(kind))[1], now=now or datetime.now(UTC))


async def issued(
    client: CertCentralClient, connector: CertCentralConfig, request: Approved, kind: str
) -> tuple[bytes, ...]:
    done = await placed(client, prepared(request, kind, connector))
    assert done.chain is not None
    return done.chain


@pytest.mark.parametrize("key", ["rsa", "ec"])
@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_ordered_is_good(
    client: CertCentralClient, connector: CertCentralConfig, kind: str, key: str
) -> None:
    request = approved(kind, rsa_key() if key == "rsa" else new_key())
    came = await issued(client, connector, request, kind)
    for order in itertools.permutations(came):
        assert held(order, request, kind) == Checked(came[0], came[1:])
    assert held(came, request, kind).good


@pytest.mark.parametrize(
    ("misissue", "kind", "field"),
    [
        ("key", "sponsor", "key: "),
        ("san", "sponsor", "san.email: 'ada@example.com' is missing"),
        ("san", "ov", "san.dns: 'www.example.com' is missing"),
        ("subject", "sponsor", "subject.common_name: 'Somebody Else' in place of 'Ada Byron'"),
        ("subject", "ov", "subject.common_name: 'Somebody Else' in place of"),
        ("policy", "mailbox", "extensions.certificate_policies: "),
        ("policy", "ov", "extensions.certificate_policies: "),
        ("usage", "mailbox", "extensions.key_usage: "),
        ("usage", "private", "extensions.key_usage: "),
    ],
)
async def test_what_was_not_ordered_is_told(
    client: CertCentralClient, connector: CertCentralConfig, central: CertCentral, misissue: str, kind: str, field: str
) -> None:
    central.set(misissue=misissue, times=1)
    request = approved(kind)
    checked = held(await issued(client, connector, request, kind), request, kind)
    assert not checked.good
    assert checked.differences[0].startswith(field), checked.differences


async def test_another_certificate_of_the_order_is_not_it(
    client: CertCentralClient, connector: CertCentralConfig
) -> None:
    came = await issued(client, connector, approved("private"), "private")
    checked = held(came, approved("private"), "private")
    assert (checked.leaf, checked.chain) == (None, ())
    assert checked.differences[0].startswith("key: none of 3 certificates")


async def test_chains_of_two_three_and_four(client: CertCentralClient, connector: CertCentralConfig) -> None:
    request = approved("private")
    leaf, ca, root = await issued(client, connector, request, "private")
    stranger = (await issued(client, connector, approved("sponsor"), "sponsor"))[-1]
    now = datetime.now(UTC)
    assert build_chain(leaf, [stranger, root, b"nonsense", ca, leaf], now) == (ca, root)
    assert build_chain(leaf, [leaf, ca, stranger], now) == ()
    assert build_chain(leaf, [leaf], now) == ()
    assert build_chain(leaf, [leaf, ca, root], datetime(2051, 1, 1, tzinfo=UTC)) == (), "expired CAs"
    checked = held([leaf, ca], request, "private")
    assert checked.leaf == leaf
    assert checked.differences == ("chain: the signatures do not lead to a root among the certificates that came",)


def test_a_cross_certificate_is_no_dead_end() -> None:
    """Leaf, CA, the CA's root cross-signed by another root that is not there, and the root itself."""
    now = datetime.now(UTC)
    root_key, old_key, ca_key, leaf_key = new_key(), new_key(), new_key(), new_key()
    root = ca("Root", "Root", root_key, root_key)
    cross = ca("Root", "Old Root", root_key, old_key)
    issuing = ca("CA", "Root", ca_key, root_key)
    leaf = ca("leaf", "CA", leaf_key, ca_key)
    for order in itertools.permutations([root, cross, issuing, leaf]):
        assert build_chain(leaf, order, now) == (issuing, root)
    old = ca("Old Root", "Old Root", old_key, old_key)
    assert build_chain(leaf, [cross, issuing, leaf, old], now) == (issuing, cross, old)
    forged = ca("CA", "Root", ca_key, new_key())
    assert build_chain(leaf, [root, forged, leaf], now) == (), "names alone are no signature"


def ca(subject: str, issuer: str, key: Any, signer: Any) -> bytes:
    now = datetime.now(UTC)

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    bits = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **bits), critical=True)
        .sign(signer, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


async def test_the_leaf_is_found_among_whatever_came(client: CertCentralClient, connector: CertCentralConfig) -> None:
    key = new_key()
    first, second = approved("private", key), approved("private", key)
    one = await issued(client, connector, first, "private")
    other = await issued(client, connector, second, "private")
    assert find_leaf([b"nonsense", *reversed(one)], first.spki) == one[0]
    assert find_leaf([*one, *other], first.spki) is None, "two certificates of the same key: neither is surely it"


# Field by field: what was approved is changed after the certificate was issued

CHANGED: list[tuple[str, str, dict[str, Any], str | None]] = [
    (
        "O in other letters",
        "sponsor",
        {"subject": (("O", "EXAMPLE  gmbh"), ("SN", "Byron"), ("GN", "Ada"), ("CN", "Ada Byron"))},
        None,
    ),
    (
        "another O",
        "sponsor",
        {"subject": (("O", "Example AG"), ("SN", "Byron"), ("GN", "Ada"), ("CN", "Ada Byron"))},
        "subject.organization_name: 'Example GmbH' in place of 'Example AG'",
    ),
    (
        "another person",
        "sponsor",
        {"subject": (("O", "Example GmbH"), ("SN", "Lovelace"), ("GN", "Ada"), ("CN", "Ada Byron"))},
        "subject.surname: 'Byron' in place of 'Lovelace'",
    ),
    (
        "a person in other letters",
        "sponsor",
        {"subject": (("O", "Example GmbH"), ("SN", "byron"), ("GN", "Ada"), ("CN", "Ada Byron"))},
        "subject.surname: ",
    ),
    (
        "an attribute less",
        "sponsor",
        {"subject": (("O", "Example GmbH"), ("CN", "Ada Byron"))},
        "subject.given_name: 'Ada' was not approved",
    ),
    ("an attribute more", "mailbox", {"subject": (("CN", MAIL), ("E", MAIL))}, "subject.email_address: is missing"),
    (
        "attributes in another order",
        "sponsor",
        {"subject": (("CN", "Ada Byron"), ("GN", "Ada"), ("SN", "Byron"), ("O", "Example GmbH"))},
        None,
    ),
    ("no common name approved", "mailbox", {"subject": ()}, None),
    (
        "no common name approved for a person",
        "sponsor",
        {"subject": (("O", "Example GmbH"), ("SN", "Byron"), ("GN", "Ada"))},
        None,
    ),
    ("no common name approved for a host", "private", {"subject": ()}, None),
    ("L that is the organization's", "private", {"subject": (("CN", HOST), ("L", "BERLIN"))}, None),
    ("L that is not", "private", {"subject": (("CN", HOST), ("L", "Hamburg"))}, "subject.locality_name: "),
    ("hosts in capital letters", "private", {"extensions": (san(dns=("WWW.Example.com",)),)}, None),
    ("domains in capital letters", "mailbox", {"extensions": (san(email=("ada@EXAMPLE.com",)),)}, None),
    ("another local part", "mailbox", {"extensions": (san(email=("Ada@example.com",)),)}, "san.email: "),
    (
        "a host more",
        "private",
        {"extensions": (san(dns=(HOST, "b.example.com")),)},
        "san.dns: 'b.example.com' is missing",
    ),
    ("other usage", "mailbox", {"extensions": (usage(0),)}, "extensions.key_usage: 'key_agreement' was not approved"),
    (
        "another purpose",
        "private",
        {"extensions": (world.purposes("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"),)},
        "extensions.extended_key_usage: 'client_auth' is missing",
    ),
    (
        "an extension",
        "private",
        {"extensions": (RequestedExtension(x509.ObjectIdentifier("1.2.3"), False, b"\5\0"),)},
        "extensions: 1.2.3 is not as approved",
    ),
    (
        "a policy",
        "private",
        {
            "extensions": (
                RequestedExtension(
                    x509.ObjectIdentifier("2.5.29.32"), False, der.sequence(der.sequence(der.oid("1.2.3.4")))
                ),
            )
        },
        "extensions.certificate_policies: '1.2.3.4' is missing",
    ),
    ("strict was approved", "mailbox", {"facts": {"generation": "multipurpose"}}, "extensions.certificate_policies: "),
    ("the profile's organization", "private", {"facts": {"organization": None}}, None),
    ("shorter was approved", "private", {"days": 10}, "validity: "),
    ("approved for later", "private", {"later": 3}, "validity: begins at"),
]


@pytest.mark.parametrize(("kind", "how", "difference"), [row[1:] for row in CHANGED], ids=[row[0] for row in CHANGED])
async def test_differences(
    client: CertCentralClient, connector: CertCentralConfig, kind: str, how: dict[str, Any], difference: str | None
) -> None:
    request = approved(kind)
    came = await issued(client, connector, request, kind)
    if "subject" in how:
        request = replace(request, subject=name(*how["subject"]))
    new = how.get("extensions", ())
    kept = tuple(one for one in request.extensions if one.oid not in {other.oid for other in new})
    request = replace(request, extensions=(*kept, *new))
    if "days" in how:
        request = replace(request, not_after=request.not_before + timedelta(days=how["days"]))
    if "later" in how:
        later = timedelta(days=how["later"])
        request = replace(request, not_before=request.not_before + later, not_after=request.not_after + later)
    checked = held(came, request, kind, **how.get("facts", {}))
    if difference is None:
        assert checked.good, checked.differences
    else:
        assert any(one.startswith(difference) for one in checked.differences), checked.differences


async def test_keyencipherment_of_a_servers_rsa_key_is_tolerated(
    client: CertCentralClient, connector: CertCentralConfig
) -> None:
    request = approved("private", rsa_key())
    came = await issued(client, connector, request, "private")
    less = replace(
        request, extensions=(*(one for one in request.extensions if one.oid.dotted_string != "2.5.29.15"), usage(0))
    )
    assert held(came, less, "private").good
    assert Content.of_certificate(came[0]).key_usage == {"digital_signature", "key_encipherment"}


async def test_an_issuance_days_later_is_as_good(
    client: CertCentralClient, connector: CertCentralConfig, central: CertCentral
) -> None:
    central.clock.freeze()
    central.set(delay=5 * 86_400, times=1)
    request = approved("mailbox")
    done = await placed(client, prepared(request, "mailbox", connector))
    central.advance(5 * 86_400 + 1)
    assert done.certificate_id is not None
    came = await client.download(done.certificate_id)
    assert held(came, request, "mailbox", now=central.clock.now()).good
    assert held(came, request, "mailbox", now=central.clock.now() - timedelta(days=4)).differences, "in the future"
    assert held(came, request, "mailbox", now=central.clock.now() + timedelta(days=900)).differences, "over"


def test_what_cannot_be_read_is_a_difference() -> None:
    request = approved("private")
    assert held([], request, "private").leaf is None
    assert held([b"", b"\x30\x00", b"nonsense"], request, "private").leaf is None


def test_every_tolerance_has_its_reason() -> None:
    assert all(len(reason) > 40 for reason in checking.TOLERATED.values())
    assert checking.ADDED >= checking.NORMALISED
