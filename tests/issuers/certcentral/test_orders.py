"""What is ordered: every field of an order comes from what was approved, and what no field can say is refused."""

import base64
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from cmpd.asn1 import der
from cmpd.exchange import Approved, Order, OrderState, RequestedExtension
from cmpd.issuers.certcentral import CertCentralConfig, ProfileFacts, ProfileOptions, orders
from cmpd.issuers.certcentral.answers import OrderInfo
from cmpd.issuers.certcentral.orders import NotNow, Renewal, Unorderable, kind_of, mark_of, renewal
from tests.certcentral.catalogue import EXAMPLE_GMBH
from tests.issuers.certcentral import world
from tests.issuers.certcentral.world import (
    HOST,
    MAIL,
    approved,
    csr,
    mark,
    name,
    new_key,
    profile,
    purposes,
    rsa_key,
    san,
    usage,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
EMAIL, SERVER, CLIENT = "1.3.6.1.5.5.7.3.4", "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"


@pytest.fixture
def connector(tmp_path: Path) -> CertCentralConfig:
    return config(tmp_path)


def config(base: Path, **changes: Any) -> CertCentralConfig:
    return world.config(base, "http://127.0.0.1:1/services/v2", **changes)


def write(
    request: Approved, kind: str, connector: CertCentralConfig, given: ProfileOptions | None = None, **more: Any
) -> dict[str, Any]:
    facts = more.pop("facts", None) or ProfileFacts.of(profile(kind))
    return orders.order(
        request, facts, given or world.options(kind), connector, mark=mark(request), now=NOW, **more
    ).body


def ask(kind: str, key: Any = None, **more: Any) -> Approved:
    return approved(kind, key, now=NOW, **more)


def change(request: Approved, *extensions: RequestedExtension, without: str = "") -> Approved:
    """Another approval: these extensions in place of those of the same type."""
    oids = {one.oid for one in extensions} | ({x509.ObjectIdentifier(without)} if without else set())
    return replace(request, extensions=(*(one for one in request.extensions if one.oid not in oids), *extensions))


def test_a_sponsors_order_field_by_field(connector: CertCentralConfig) -> None:
    request = ask("sponsor")
    body = write(request, "sponsor", connector)
    pem = body["certificate"].pop("csr")
    key = load_pem_public_key(pem.encode())
    assert key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == request.spki
    assert body == {
        "certificate": {
            "emails": [MAIL],
            "signature_hash": "sha256",
            "profile_type": "strict",
            "usage_designation": {"primary_usage": "dual_use"},
            "common_name_indicator": "given_name_surname",
            "individual": {"first_name": "Ada", "last_name": "Byron"},
        },
        "order_validity": {"days": 365},
        "subject": {"include_email": False, "include_given_name_surname": True, "include_pseudonym": False},
        "organization": {"id": EXAMPLE_GMBH},
        "skip_approval": True,
        "disable_renewal_notifications": True,
        "comments": mark(request),
    }


def test_a_public_servers_order_field_by_field(tmp_path: Path) -> None:
    connector = config(
        tmp_path, division=406222, payment_method="balance", skip_approval=False, stamp_field=1001,
        custom_fields={"1003": "{business_unit}/{seat}", "1004": "{tags}", "1005": "{profile} {transaction}"},
    )  # fmt: skip
    made = profile("ov", business_unit="Web", tags=["a", "b"])
    request = ask("ov", rsa_key(), of=made, extensions=(san(dns=(HOST, "example.com")),))
    given = ProfileOptions(
        product="ssl_basic", ca_cert_id="10A101A05684", server_platform=45, dcv_method="dns-txt-token",
        signature_hash="sha384",
    )  # fmt: skip
    body = write(request, "ov", connector, given, facts=ProfileFacts.of(made), renewal_of=77)
    del body["certificate"]["csr"]
    days = (request.not_after - request.not_before + timedelta(seconds=1)).days
    assert days <= 199
    assert body == {
        "certificate": {
            "common_name": HOST,
            "dns_names": [HOST, "example.com"],
            "signature_hash": "sha384",
            "ca_cert_id": "10A101A05684",
            "server_platform": {"id": 45},
            "cert_validity": {"days": days},
        },
        "order_validity": {"days": 365},
        "dcv_method": "dns-txt-token",
        "organization": {"id": EXAMPLE_GMBH},
        "container": {"id": 406222},
        "payment_method": "balance",
        "skip_approval": False,
        "disable_renewal_notifications": True,
        "renewal_of_order_id": 77,
        "custom_fields": [
            {"metadata_id": 1003, "value": f"Web/{request.seat}"},
            {"metadata_id": 1004, "value": "a, b"},
            {"metadata_id": 1005, "value": f"ov {request.transaction_id.hex()}"},
            {"metadata_id": 1001, "value": mark(request)},
        ],
    }


def test_empty_custom_fields_are_left_out(tmp_path: Path) -> None:
    body = write(ask("private"), "private", config(tmp_path, custom_fields={"1003": "{tags}"}))
    assert "custom_fields" not in body


def test_the_csr_of_a_p10cr_is_sent_as_it_is(connector: CertCentralConfig) -> None:
    key = rsa_key()
    request = csr(key, "the subject that nobody looks at")
    text = write(ask("private", key), "private", connector, csr=request)["certificate"]["csr"]
    lines = text.splitlines()
    assert (lines[0], lines[-1]) == ("-----BEGIN CERTIFICATE REQUEST-----", "-----END CERTIFICATE REQUEST-----")
    assert base64.b64decode("".join(lines[1:-1])) == request
    assert {len(line) for line in lines[1:-2]} == {64}
    assert x509.load_pem_x509_csr(text.encode()).is_signature_valid


def test_public_keys_may_be_forbidden(tmp_path: Path) -> None:
    connector, key = config(tmp_path, crmf_key_submission="reject"), new_key()
    with pytest.raises(Unorderable, match=r"^enrollment\.allowed_operations: only p10cr"):
        write(ask("private", key), "private", connector)
    assert "REQUEST" in write(ask("private", key), "private", connector, csr=csr(key))["certificate"]["csr"]


@pytest.mark.parametrize(
    ("kind", "subject", "expected"),
    [
        ("mailbox", (), {"emails": ["x@example.com", MAIL]}),
        ("mailbox", (("CN", MAIL),), {"emails": [MAIL, "x@example.com"]}),
        ("mailbox", (("CN", "ada@EXAMPLE.com"),), {"emails": [MAIL, "x@example.com"]}),
        ("mailbox", (("E", MAIL),), {"emails": [MAIL, "x@example.com"]}),
        ("sponsor", (("O", "Example GmbH"), ("SN", "Byron"), ("GN", "Ada"), ("CN", MAIL)),
         {"emails": [MAIL, "x@example.com"], "common_name_indicator": "email_address",
          "individual": {"first_name": "Ada", "last_name": "Byron"}}),
        ("sponsor", (("O", "Example GmbH"), ("SN", "Byron"), ("GN", "Ada")),
         {"common_name_indicator": "given_name_surname"}),
        ("sponsor", (("O", "Example GmbH"), ("pseudonym", "enchantress"), ("CN", "enchantress")),
         {"common_name_indicator": "pseudonym", "individual": {"pseudonym": "enchantress"}}),
        ("sponsor", (("O", "Example GmbH"), ("pseudonym", "enchantress")),
         {"common_name_indicator": "pseudonym", "individual": {"pseudonym": "enchantress"}}),
        ("organization", (("O", "Example GmbH"), ("CN", "Example GmbH")),
         {"common_name_indicator": "organization_name", "emails": ["x@example.com", MAIL]}),
        ("organization", (("O", "Example GmbH"), ("CN", MAIL)),
         {"common_name_indicator": "email_address", "emails": [MAIL, "x@example.com"]}),
        ("organization", (("O", "Example GmbH"),), {"common_name_indicator": "organization_name"}),
    ],
)  # fmt: skip
def test_what_becomes_the_common_name(
    connector: CertCentralConfig, kind: str, subject: Any, expected: dict[str, Any]
) -> None:
    request = replace(ask(kind), subject=name(*subject))
    request = change(request, san(email=("x@example.com", MAIL)))
    certificate = write(request, kind, connector)["certificate"]
    assert {key: certificate[key] for key in expected} == expected
    assert ("common_name_indicator" in certificate) == (kind != "mailbox"), "the mailbox product ignores it"


def test_the_options_say_what_becomes_the_common_name_where_there_is_none(connector: CertCentralConfig) -> None:
    request = replace(ask("sponsor"), subject=name(("O", "Example GmbH"), ("SN", "Byron"), ("GN", "Ada")))
    given = ProfileOptions(common_name_indicator="email_address")
    assert write(request, "sponsor", connector, given)["certificate"]["common_name_indicator"] == "email_address"


def test_the_mailbox_in_the_subject_is_the_first(connector: CertCentralConfig) -> None:
    subject = name(("O", "Example GmbH"), ("SN", "Byron"), ("GN", "Ada"), ("CN", "Ada Byron"), ("E", MAIL))
    request = change(replace(ask("sponsor"), subject=subject), san(email=("x@example.com", MAIL)))
    body = write(request, "sponsor", connector)
    assert body["subject"]["include_email"] is True
    assert body["certificate"]["emails"] == [MAIL, "x@example.com"]


@pytest.mark.parametrize(
    ("key", "bits", "expected"),
    [
        ("rsa", (0, 2), {"primary_usage": "dual_use"}),
        ("rsa", (0,), {"primary_usage": "signing"}),
        ("rsa", (2,), {"primary_usage": "key_management"}),
        ("ec", (0, 4), {"primary_usage": "dual_use"}),
        ("ec", (4,), {"primary_usage": "key_management"}),
        ("ec", (0, 1), {"primary_usage": "signing", "additional_usages": ["non_repudiation"]}),
    ],
)
def test_key_usage_in_the_apis_words(
    connector: CertCentralConfig, key: str, bits: tuple[int, ...], expected: dict[str, Any]
) -> None:
    request = change(ask("mailbox", rsa_key() if key == "rsa" else new_key()), usage(*bits))
    assert write(request, "mailbox", connector)["certificate"]["usage_designation"] == expected


def test_multipurpose_usages_in_words_of_ones_own(tmp_path: Path) -> None:
    made = profile("mailbox", certificate_type={"generation": "multipurpose"})
    facts = ProfileFacts.of(made)
    request = change(ask("mailbox", rsa_key(), of=made), usage(0, 2, 3), purposes(EMAIL, CLIENT))
    certificate = write(
        request, "mailbox", config(tmp_path, usage_words={"data_encipherment": "dataEncipherment"}), facts=facts
    )["certificate"]
    assert certificate["profile_type"] == "multipurpose"
    assert certificate["usage_designation"]["additional_usages"] == ["client_auth", "dataEncipherment"]


def test_addresses_and_a_missing_common_name(connector: CertCentralConfig) -> None:
    request = change(replace(ask("private"), subject=name()), san(dns=(HOST,), ip=(bytes([10, 0, 0, 1]),)))
    certificate = write(request, "private", connector)["certificate"]
    assert certificate["common_name"] == HOST
    assert certificate["dns_names"] == [HOST, "10.0.0.1"]


def test_client_authentication_is_an_option_of_the_order(connector: CertCentralConfig) -> None:
    request = change(ask("private"), purposes(SERVER, CLIENT))
    assert write(request, "private", connector)["certificate"]["profile_option"] == "server_client_auth_eku"
    assert "profile_option" not in write(ask("private"), "private", connector)["certificate"]


def test_a_custom_contact_goes_with_the_order(connector: CertCentralConfig) -> None:
    made = profile("ov", contact={
        "mode": "custom", "first_name": "Ada", "last_name": "Byron", "email": "a@example.com",
        "telephone": "+49 30 1234",
    })  # fmt: skip
    body = write(ask("ov", of=made), "ov", connector, facts=ProfileFacts.of(made))
    assert body["organization"]["contacts"] == [
        {
            "contact_type": "organization_contact",
            "first_name": "Ada",
            "last_name": "Byron",
            "email": "a@example.com",
            "telephone": "+49 30 1234",
        }
    ]


def test_validity_is_in_whole_days_and_never_longer(connector: CertCentralConfig) -> None:
    request = ask("private")
    for length, days in ((timedelta(days=90), 90), (timedelta(days=90, hours=23), 90), (timedelta(days=1), 1)):
        changed = replace(request, not_after=request.not_before + length - timedelta(seconds=1))
        body = write(changed, "private", connector)
        assert body["certificate"]["cert_validity"] == body["order_validity"] == {"days": days}
    longer = ProfileOptions(product="private_ssl_flex", order_validity=timedelta(days=730))
    assert write(request, "private", connector, longer)["order_validity"] == {"days": 730}


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("OU", "private", {"subject": (("CN", HOST), ("OU", "Web"))}, "subject.organizational_unit_name: "),
    ("serialNumber", "mailbox", {"subject": (("CN", MAIL), ("serialNumber", "7"))}, "subject.serial_number: "),
    ("unknown attribute", "mailbox", {"subject": (("CN", MAIL), ("UID", "7"))}, "subject.user_id: "),
    ("O of a mailbox", "mailbox", {"subject": (("CN", MAIL), ("O", "X"))}, "subject.organization_name: "),
    ("foreign CN", "mailbox", {"subject": (("CN", "Ada Byron"),)}, "subject.common_name: "),
    ("CN the wrong way round", "sponsor",
     {"subject": (("O", "Example GmbH"), ("SN", "Byron"), ("GN", "Ada"), ("CN", "Byron Ada"))},
     "subject.common_name: "),
    ("surname only", "sponsor", {"subject": (("O", "Example GmbH"), ("SN", "Byron"))}, "subject.given_name: "),
    ("nobody", "sponsor", {"subject": (("O", "Example GmbH"),)}, "subject.given_name: "),
    ("both names", "sponsor",
     {"subject": (("pseudonym", "x"), ("SN", "Byron"), ("GN", "Ada"))}, "subject.pseudonym: "),
    ("foreign mail in the subject", "mailbox", {"subject": (("E", "z@example.com"),)}, "subject.email_address: "),
    ("two mails in the subject", "mailbox", {"subject": (("CN", MAIL), ("E", "x@example.com")),
     "extensions": (san(email=(MAIL, "x@example.com")),)}, "subject.email_address: "),
    ("foreign CN of a host", "private", {"subject": (("CN", "other.example.com"),)}, "subject.common_name: "),
    ("DNS name in a mail certificate", "mailbox", {"extensions": (san(email=(MAIL,), dns=(HOST,)),)}, "san.dns: "),
    ("address of a public host", "ov", {"extensions": (san(dns=(HOST,), ip=(bytes([10, 0, 0, 1]),)),)}, "san.ip: "),
    ("no mailbox", "mailbox", {"without": "2.5.29.17"}, "san.email: "),
    ("no host", "private", {"without": "2.5.29.17"}, "san.dns: "),
    ("decipherOnly", "mailbox", {"extensions": (usage(0, 4, 8),)}, "extensions.key_usage: an order cannot express"),
    ("no usage", "mailbox", {"extensions": (usage(1),)}, "extensions.key_usage: an order is for signing"),
    ("dataEncipherment in strict", "mailbox",
     {"extensions": (usage(0, 4, 3),)}, "extensions.key_usage: issuer_options.additional_usages"),
    ("clientAuth in strict", "mailbox",
     {"extensions": (purposes(EMAIL, CLIENT),)}, "extensions.extended_key_usage: issuer_options.additional_usages"),
    ("dataEncipherment without encryption", "mailbox", {"extensions": (usage(0, 3),)}, "extensions.key_usage: "),
    ("nonRepudiation without signing", "mailbox", {"extensions": (usage(1, 4),)}, "extensions.key_usage: "),
    ("no emailProtection", "mailbox", {"extensions": (purposes(CLIENT),)}, "extensions.extended_key_usage: "),
    ("codeSigning", "mailbox",
     {"extensions": (purposes(EMAIL, "1.3.6.1.5.5.7.3.3"),)}, "extensions.extended_key_usage: an order cannot"),
    ("no serverAuth", "private", {"extensions": (purposes(CLIENT),)}, "extensions.extended_key_usage: "),
    ("more than TLS", "private", {"extensions": (purposes(SERVER, EMAIL),)}, "extensions.extended_key_usage: "),
    ("keyAgreement of a host", "private", {"extensions": (usage(0, 4),)}, "extensions.key_usage: "),
    ("an extension", "private",
     {"extensions": (RequestedExtension(x509.ObjectIdentifier("1.2.3"), False, b"\5\0"),)}, "extensions: "),
    ("another policy", "mailbox", {"extensions": (RequestedExtension(x509.ObjectIdentifier("2.5.29.32"), False,
     der.sequence(der.sequence(der.oid("2.23.140.1.5.4.2")))),)}, "extensions.certificate_policies: "),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "how", "fault"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_an_order_cannot_express_is_refused_by_the_profiles_key(
    connector: CertCentralConfig, kind: str, how: dict[str, Any], fault: str
) -> None:
    request = change(ask(kind), *how.get("extensions", ()), without=how.get("without", ""))
    if "subject" in how:
        request = replace(request, subject=name(*how["subject"]))
    with pytest.raises(Unorderable) as caught:
        write(request, kind, connector)
    assert str(caught.value).startswith(fault)


def test_times_that_cannot_be_ordered(connector: CertCentralConfig) -> None:
    request = ask("private")
    later = replace(request, not_before=NOW + timedelta(days=2), not_after=NOW + timedelta(days=90))
    with pytest.raises(Unorderable, match=r"^validity\.allow_request_override: "):
        write(later, "private", connector)
    with pytest.raises(Unorderable, match=r"^validity\.default: "):
        write(replace(request, not_after=request.not_before + timedelta(hours=23)), "private", connector)
    short = ProfileOptions(product="private_ssl_flex", order_validity=timedelta(days=1))
    with pytest.raises(Unorderable, match=r"^issuer_options\.order_validity: "):
        write(request, "private", connector, short)


def test_a_profile_without_a_product_or_an_organization(connector: CertCentralConfig) -> None:
    with pytest.raises(Unorderable, match=r"^issuer_options\.product: "):
        write(ask("private"), "private", connector, ProfileOptions())
    facts = replace(ProfileFacts.of(profile("private")), organization=None)
    with pytest.raises(Unorderable, match=r"^organization\.id: "):
        write(ask("private"), "private", connector, facts=facts)


def test_an_option_that_adds_what_was_not_approved(connector: CertCentralConfig) -> None:
    given = ProfileOptions(product="private_ssl_flex", profile_option="server_client_auth_eku")
    with pytest.raises(Unorderable, match="client_auth"):
        write(ask("private"), "private", connector, given)


def test_the_mark_is_the_order_s_own_whoever_waits_for_it() -> None:
    request = ask("private")
    order = Order("cmpd-1", b"first", 0, "digicert", request, OrderState.intended, NOW, NOW, NOW)
    taken_over = replace(order, transaction_id=b"second", approved=replace(request, transaction_id=b"second"))
    assert mark_of(order) == mark_of(taken_over)
    assert mark_of(order) != mark_of(replace(order, stamp="cmpd-2"))
    assert re.fullmatch("cmpd:[0-9a-f]{40}", mark_of(order)), "reconcile knows it by this form"


# Renewal


def info(status: str = "issued", till: date | None = date(2027, 11, 1), **more: Any) -> OrderInfo:
    return OrderInfo(4711, status, order_valid_till=till, **more)


@pytest.mark.parametrize(
    ("kind", "strategy", "old", "expected"),
    [
        ("ov", "auto", info(), Renewal("reissue", 4711)),
        ("ov", "auto", info(till=date(2026, 12, 24)), Renewal("order", 4711)),
        ("ov", "auto", info(till=None), Renewal("order", 4711)),
        ("ov", "auto", info("expired"), Renewal("order", 4711)),
        ("ov", "auto", info("revoked"), Renewal("order", None)),
        ("ov", "auto", None, Renewal("order", None)),
        ("ov", "renew", info(), Renewal("order", 4711)),
        ("ov", "reissue", info(till=date(2026, 12, 24)), Renewal("reissue", 4711)),
        ("ov", "duplicate", info(), Renewal("duplicate", 4711)),
        ("sponsor", "auto", info(), Renewal("order", 4711)),
        ("sponsor", "auto", None, Renewal("order", None)),
        ("sponsor", "reissue", info(), Renewal("reissue", 4711)),
    ],
)
def test_what_a_kur_becomes(kind: str, strategy: Any, old: OrderInfo | None, expected: Renewal) -> None:
    given = world.options(kind).model_copy(update={"renew_strategy": strategy})
    _, family = kind_of(ProfileFacts.of(profile(kind)), given)
    assert renewal(ask(kind), family, given, old, NOW) == expected


@pytest.mark.parametrize(
    ("strategy", "old"),
    [
        ("reissue", None),
        ("reissue", info("revoked")),
        ("reissue", info(till=date(2026, 11, 22))),
        ("duplicate", info("expired")),
    ],
)
def test_a_strategy_that_cannot_be_followed_is_named(strategy: Any, old: OrderInfo | None) -> None:
    given = ProfileOptions(product="ssl_basic", renew_strategy=strategy)
    with pytest.raises(Unorderable, match=r"^issuer_options\.renew_strategy: "):
        renewal(ask("ov"), "ov", given, old, NOW)


@pytest.mark.parametrize("strategy", ["auto", "reissue", "duplicate"])
def test_a_reissue_that_is_pending_is_waited_for(strategy: Any) -> None:
    given = ProfileOptions(product="ssl_basic", renew_strategy=strategy)
    with pytest.raises(NotNow, match="order 4711 is reissue_pending"):
        renewal(ask("ov"), "ov", given, info("reissue_pending"), NOW)


def test_an_order_that_covers_the_new_certificate_is_reissued_to_its_end() -> None:
    request = replace(ask("ov"), not_after=NOW + timedelta(days=30))
    old = info(till=(NOW + timedelta(days=40)).date())
    assert renewal(request, "ov", world.options("ov"), old, NOW) == Renewal("reissue", 4711)


def test_bodies_of_reissues_and_duplicates(connector: CertCentralConfig) -> None:
    request, facts = ask("ov"), ProfileFacts.of(profile("ov"))
    body = orders.reissue(request, facts, world.options("ov"), connector, mark=mark(request))
    assert body.keys() == {"certificate", "skip_approval", "comments"}
    assert body["comments"] == mark(request)
    assert body["certificate"]["common_name"] == HOST
    same = info(common_name=HOST.upper(), dns_names=(HOST,))
    assert orders.duplicate(request, facts, world.options("ov"), connector, same, mark=mark(request)) == body
    other = info(common_name=HOST, dns_names=(HOST, "example.com"))
    with pytest.raises(Unorderable, match=r"these differ: example\.com"):
        orders.duplicate(request, facts, world.options("ov"), connector, other, mark=mark(request))
