"""[issuer_options] of profiles, and what of a profile cannot be ordered."""

from datetime import timedelta
from typing import Any

import pytest

from cmpd.issuers import IssuerConfigError
from cmpd.issuers.certcentral.options import (
    ProfileFacts,
    ProfileOptions,
    additional_usages,
    family,
    product_of,
    profile_faults,
    signature_hash,
)
from tests.certcentral.catalogue import PRODUCTS
from tests.issuers.certcentral.world import KINDS, options, profile


def test_every_key_says_what_it_means() -> None:
    assert [name for name, field in ProfileOptions.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("kind", KINDS)
def test_profiles_of_the_templates_can_be_ordered(kind: str) -> None:
    assert profile_faults(profile(kind), options(kind)) == []


def test_families_of_products() -> None:
    known = {name: family(name) for name in PRODUCTS}
    assert {name for name, kind in known.items() if kind is None} == {
        "class1_smime",
        "client_premium",
        "client_digital_signature_plus",
        "client_email_security_plus",
        "client_authentication_plus",
    }
    for name, kind in known.items():
        assert kind in {None, PRODUCTS[name].kind}


def test_the_product_of_an_s_mime_profile_is_that_of_its_type() -> None:
    facts = ProfileFacts.of(profile("sponsor"))
    assert product_of(facts, ProfileOptions()) == "secure_email_sponsor"
    assert product_of(ProfileFacts.of(profile("ov")), ProfileOptions()) is None


def test_the_hash_is_that_of_the_signature_algorithm() -> None:
    assert signature_hash(ProfileFacts("p"), ProfileOptions()) == "sha256"
    assert signature_hash(ProfileFacts("p", signature_algorithm="sha384WithRSA"), ProfileOptions()) == "sha384"
    assert signature_hash(ProfileFacts("p", signature_algorithms=("ecdsaWithSHA512",)), ProfileOptions()) == "sha512"
    assert signature_hash(ProfileFacts("p", signature_algorithm="ed25519"), ProfileOptions()) == "sha256"
    assert signature_hash(ProfileFacts("p"), ProfileOptions(signature_hash="sha512")) == "sha512"


def test_additional_usages_follow_the_generation() -> None:
    strict, multi = ProfileFacts("p", generation="strict"), ProfileFacts("p", generation="multipurpose")
    assert additional_usages(strict, ProfileOptions()) == {"non_repudiation"}
    assert len(additional_usages(multi, ProfileOptions())) == 3
    assert additional_usages(multi, ProfileOptions(additional_usages=())) == frozenset()


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({"prodct": "x"}, "issuer_options.prodct: unknown key; did you mean product?"),
        ({"product": "SSL Basic"}, "issuer_options.product: "),
        ({"renew_strategy": "again"}, "issuer_options.renew_strategy: "),
        ({"order_validity": "1h"}, "issuer_options.order_validity: "),
        ({"server_platform": "nginx"}, "issuer_options.server_platform: "),
        ({"additional_usages": ["signing"]}, "issuer_options.additional_usages.0: "),
    ],
    ids=str,
)
def test_options_that_are_wrong(table: dict[str, Any], fault: str) -> None:
    with pytest.raises(IssuerConfigError) as caught:
        ProfileOptions.read(table)
    assert caught.value.faults[0].startswith(fault)
    assert "; " in caught.value.faults[0]


def test_options_that_are_right() -> None:
    read = ProfileOptions.read({"product": "ssl_basic", "renew_strategy": "reissue", "order_validity": "365d"})
    assert read.order_validity == timedelta(days=365)


@pytest.mark.parametrize(
    ("kind", "given", "fault"),
    [
        ("ov", {}, "issuer_options.product: is missing"),
        ("sponsor", {"product": "client_premium"}, "issuer_options.product: 'client_premium' is not a product"),
        ("sponsor", {"product": "secure_email_mailbox"}, "certificate_type.validation_type: 'sponsor' is not"),
        ("mailbox", {"product": "ssl_basic"}, "public_trust: ssl_basic is under the rules of 'tls'"),
        ("mailbox", {"product": "private_ssl_flex"}, "public_trust: private_ssl_flex is not publicly trusted"),
        ("mailbox", {"server_platform": 45}, "issuer_options.server_platform: is for TLS products"),
        (
            "dv",
            {"product": "ssl_dv_geotrust", "additional_usages": ()},
            "issuer_options.additional_usages: is for S/MIME",
        ),
        (
            "mailbox",
            {"common_name_indicator": "pseudonym"},
            "issuer_options.common_name_indicator: 'pseudonym' does not",
        ),
        ("mailbox", {"additional_usages": ("client_auth",)}, "issuer_options.additional_usages: client_auth need"),
        ("ov", {"product": "ssl_basic", "profile_option": "kdc_smart_card"}, "issuer_options.profile_option: kdc"),
        (
            "ov",
            {"product": "ssl_basic", "order_validity": timedelta(days=1, hours=1)},
            "issuer_options.order_validity: ",
        ),
    ],
)
def test_options_that_do_not_go_with_the_profile(kind: str, given: dict[str, Any], fault: str) -> None:
    faults = profile_faults(profile(kind), ProfileOptions(**given))
    assert any(one.startswith(fault) for one in faults), faults
    assert all("; " in one for one in faults)


@pytest.mark.parametrize(
    ("kind", "change", "fault"),
    [
        (
            "private",
            {"subject": {"organizational_unit_name": {"include": "required"}}},
            "subject.organizational_unit_name",
        ),
        ("sponsor", {"organization": {"name": "Example GmbH"}}, "organization.id: secure_email_sponsor needs"),
        ("private", {"extensions": {"custom": [{"oid": "1.2.3.4", "type": "null"}]}}, "extensions: 1.2.3.4 is put"),
        ("private", {"validity": {"default": "1h", "max": "2h"}}, "validity.max: orders are for whole days"),
    ],
)
def test_profiles_that_cannot_be_ordered(kind: str, change: dict[str, Any], fault: str) -> None:
    made = profile(kind)
    if "organization" in change:
        from dataclasses import replace

        facts = ProfileFacts.of(made)
        assert facts.organization is not None
        bare = facts.organization.model_copy(update={"id": None})
        faults = profile_faults(replace(facts, organization=bare), options(kind))
    else:
        faults = profile_faults(profile(kind, **change), options(kind))
    assert any(one.startswith(fault) for one in faults), faults
    assert all("; " in one for one in faults)
