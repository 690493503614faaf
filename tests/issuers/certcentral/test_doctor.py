"""What the doctor says of an account: every thing that would hold up orders, and nothing of what would not."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from cmpd.issuers.certcentral import CertCentralClient, CertCentralConfig, ProfileFacts, ProfileOptions
from cmpd.issuers.certcentral.doctor import examine
from cmpd.ports import Diagnosis
from tests.certcentral import CertCentral
from tests.certcentral.catalogue import CONTRACT_FIELD, DIVISION, EXAMPLE_INC, STALE_LTD, STAMP_FIELD, MetadataField
from tests.issuers.certcentral import world
from tests.issuers.certcentral.world import KINDS, config, options, profile
from tests.issuers.certcentral.world import client as new_client

Pairs = list[tuple[ProfileFacts, ProfileOptions]]


def facts(kind: str, **changes: Any) -> ProfileFacts:
    about = replace(ProfileFacts.of(profile(kind)), domains=("example.com", ".example.org"))
    return replace(about, **changes)


def bound(kind: str, organization: int) -> ProfileFacts:
    about = facts(kind)
    assert about.organization is not None
    return replace(about, organization=about.organization.model_copy(update={"id": organization}))


def told(rows: list[Diagnosis], level: str = "problem") -> list[str]:
    return [f"{row.about or 'connector'}: {row.check}: {row.text}" for row in rows if row.level == level]


async def test_an_account_where_all_is_well(tmp_path: Path, central: CertCentral) -> None:
    connector = config(tmp_path, central, stamp_field=STAMP_FIELD, division=DIVISION)
    client = new_client(connector)
    rows = await examine(client, connector, [(facts(kind), options(kind)) for kind in KINDS])
    await client.close()
    assert {row.level for row in rows} <= {"ok", "note"}, told(rows)
    assert {row.about for row in rows} == {"", *KINDS}
    shown = "\n".join(told(rows, "ok"))
    for text in (
        "connector: API key: its user is Administrator",
        "connector: account: 1696530 Example GmbH",
        f"connector: division: {DIVISION} Mail gateways",
        "connector: stamp_field: 1001 Client reference",
        "sponsor: profile: can be ordered as secure_email_sponsor",
        "sponsor: organization: Example GmbH is validated for smime until 2035-12-31",
        "ov: organization: Example GmbH is validated for ov until 2035-12-31",
        "ov: domains: example.com is proven until ",
        "ov: contact: that of the organization",
    ):
        assert text in shown
    assert len(central.journal.calls(endpoint="organization_info")) == 1, "each is asked for once"
    assert {call.method for call in central.journal.calls()} == {"GET"}, "nothing is changed"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("revoked", "connector: API key: is refused (HTTP 403, access_denied|access_denied_invalid_key"),
        ("eu", "and not of the other region?"),
        ("orders", "connector: API key: its user is Standard user: orders wait for somebody's approval"),
        ("users", "connector: API key: it may not see orders (HTTP 403, access_denied|missing_permission"),
    ],
)
async def test_keys(connector: CertCentralConfig, central: CertCentral, key: str, text: str) -> None:
    client = new_client(connector, key=central.key(key))
    rows = await examine(client, connector, [(facts("mailbox"), options("mailbox"))])
    await client.close()
    assert any(text in row for row in told(rows)), told(rows)


async def test_a_key_for_orders_alone_does_not_see_all(connector: CertCentralConfig, central: CertCentral) -> None:
    """What it may not see is no fault of the orders."""
    client = new_client(connector, key=central.key("orders"))
    rows = await examine(client, connector, [(facts("sponsor"), options("sponsor"))])
    await client.close()
    unseen = [row.check for row in rows if row.level == "warning" and "may not see this" in row.text]
    assert unseen == ["divisions", "domains", "organization 117483"]
    assert len(told(rows)) == 1, "the approval"


async def test_no_approval_is_only_a_warning_where_it_is_wanted(tmp_path: Path, central: CertCentral) -> None:
    connector = config(tmp_path, central, "orders", skip_approval=False)
    client = new_client(connector)
    rows = await examine(client, connector, [])
    await client.close()
    assert any("approval" in row for row in told(rows, "warning"))
    assert not any("approval" in row for row in told(rows))


async def test_an_api_that_does_not_answer(tmp_path: Path, central: CertCentral) -> None:
    connector = config(tmp_path, central)
    central.faults.add("html", times=None)
    client = new_client(connector)
    (row,) = await examine(client, connector, [(facts("mailbox"), options("mailbox"))])
    await client.close()
    assert (row.check, row.level) == ("API", "problem")


CASES: list[tuple[dict[str, Any], Callable[[CertCentral], object], Callable[[], Pairs], str]] = [
    ({"division": 1}, lambda _: None, list, "connector: division: 1 is not there"),
    ({"stamp_field": 9}, lambda _: None, list, "connector: stamp_field: the account has no custom field 9"),
    ({"stamp_field": CONTRACT_FIELD}, lambda _: None, list, "connector: stamp_field: the custom field 1002 is not"),
    (
        {"custom_fields": {"77": "{tags}"}},
        lambda _: None,
        list,
        "connector: custom_fields.77: the account has no custom field 77",
    ),
    (
        {"stamp_field": 1003},
        lambda c: c.account.metadata.update({1003: MetadataField(1003, "Number", data_type="int")}),
        list,
        "connector: stamp_field: the custom field 1003 takes int",
    ),
    (
        {},
        lambda c: c.account.metadata.update({1003: MetadataField(1003, "Cost centre", is_required=True)}),
        list,
        "connector: custom fields: orders need the custom field 1003 Cost centre",
    ),
    (
        {},
        lambda c: c.account.enabled.discard("secure_email_sponsor"),
        lambda: [(facts("sponsor"), options("sponsor"))],
        "sponsor: product: secure_email_sponsor cannot be ordered in this account",
    ),
    (
        {"division": DIVISION},
        lambda _: None,
        lambda: [(facts("ov"), ProfileOptions(product="ssl_ev_basic"))],
        f"ov: product: ssl_ev_basic cannot be ordered in this division {DIVISION}",
    ),
    (
        {"division": DIVISION},
        lambda _: None,
        lambda: [(facts("private", longest=timedelta(days=700)), options("private"))],
        "private: product: the division allows orders of 1 years at most",
    ),
    (
        {},
        lambda _: None,
        lambda: [(facts("mailbox", longest=timedelta(days=1000)), options("mailbox"))],
        "mailbox: product: orders are for 2 years at most, the profile allows 1000 days",
    ),
    (
        {},
        lambda _: None,
        lambda: [(facts("mailbox", issuer_ca="ABC"), options("mailbox"))],
        "mailbox: product: the CA ABC does not issue it; there are ",
    ),
    (
        {},
        lambda _: None,
        lambda: [(facts("mailbox"), ProfileOptions(renew_strategy="duplicate"))],
        "mailbox: product: it has no duplicates",
    ),
    (
        {},
        lambda _: None,
        lambda: [(bound("sponsor", EXAMPLE_INC), options("sponsor"))],
        "sponsor: organization: Example, Inc. is not validated for smime",
    ),
    (
        {},
        lambda _: None,
        lambda: [(bound("ov", EXAMPLE_INC), options("ov"))],
        "ov: organization: 117484 is 'Example, Inc.' there and 'Example GmbH' in organization.name",
    ),
    (
        {},
        lambda _: None,
        lambda: [(bound("sponsor", STALE_LTD), options("sponsor"))],
        "sponsor: organization: Stale Ltd: the validation for smime is expired",
    ),
    (
        {},
        lambda _: None,
        lambda: [(bound("ov", 4), options("ov"))],
        "connector: organization 4: the account does not tell: HTTP 404",
    ),
    (
        {},
        lambda c: c.account.organizations[117483].contacts.clear(),
        lambda: [(facts("ov"), options("ov"))],
        "ov: contact: 117483 Example GmbH has no organization contact",
    ),
    (
        {},
        lambda _: None,
        lambda: [(facts("mailbox", domains=("unproven.example",)), options("mailbox"))],
        "mailbox: domains: unproven.example is pending: orders wait",
    ),
    (
        {},
        lambda _: None,
        lambda: [(facts("mailbox", domains=("example.info",)), options("mailbox"))],
        "mailbox: domains: example.info is not in the account: orders wait",
    ),
    (
        {},
        lambda _: None,
        lambda: [(facts("ov"), ProfileOptions())],
        "ov: profile: issuer_options.product: is missing",
    ),
]


@pytest.mark.parametrize(("keys", "spoil", "profiles", "text"), CASES, ids=[case[3][:60] for case in CASES])
async def test_what_would_hold_up_orders(
    tmp_path: Path,
    central: CertCentral,
    keys: dict[str, Any],
    spoil: Callable[[CertCentral], object],
    profiles: Callable[[], Pairs],
    text: str,
) -> None:
    spoil(central)
    connector = config(tmp_path, central, **keys)
    client = new_client(connector)
    rows = await examine(client, connector, profiles())
    await client.close()
    assert any(row.startswith(text) for row in told(rows)), told(rows)
    assert all(len(row.text) < 400 for row in rows)


async def test_what_ends_soon_is_a_warning(client: CertCentralClient, connector: CertCentralConfig) -> None:
    pairs = [(facts("sponsor"), options("sponsor"))]
    from datetime import UTC, datetime

    rows = await examine(client, connector, pairs, now=datetime(2035, 12, 10, tzinfo=UTC))
    assert any("validated for smime until 2035-12-31 only" in row for row in told(rows, "warning"))
    assert any("the proof ended at" in row for row in told(rows))


async def test_the_day_before_a_proof_ends(client: CertCentralClient, connector: CertCentralConfig) -> None:
    from datetime import UTC, datetime

    (row,) = [one for one in await client.domains() if one["name"] == "example.com"]
    end = date.fromisoformat(row["dcv_expiration"]["ov"])
    now = datetime(end.year, end.month, end.day, tzinfo=UTC)
    rows = await examine(
        client, connector, [(facts("mailbox", domains=("mail.example.com",)), options("mailbox"))], now=now
    )
    assert any(f"mail.example.com is proven until {end} only" in one for one in told(rows, "warning"))


async def test_open_domains_and_comments_are_noted(client: CertCentralClient, connector: CertCentralConfig) -> None:
    rows = await examine(client, connector, [(facts("mailbox", domains=()), options("mailbox"))])
    notes = told(rows, "note")
    assert any("san.email.allowed_domains is empty" in row for row in notes)
    assert any("stamp_field: none" in row for row in notes)
    assert world.MAIL not in "\n".join(notes)


BALANCES: list[tuple[float | None, str | None, str, str]] = [
    (1000.0, None, "ok", "1,000.00 EUR to pay orders from"),
    (0.0, "balance", "problem", "0.00 EUR: orders are refused; pay in, or set another payment_method"),
    (-5.5, None, "warning", "-5.50 EUR: orders that are paid from it are refused; pay in, or set payment_method"),
    (None, None, "note", "cannot be asked for (HTTP 404"),
]


@pytest.mark.parametrize(("left", "method", "level", "text"), BALANCES)
async def test_balance(
    tmp_path: Path, central: CertCentral, left: float | None, method: str | None, level: str, text: str
) -> None:
    """Where orders are paid from it, or may be; an account that does not tell is no fault."""
    central.set(balance=left)
    connector = config(tmp_path, central, payment_method=method)
    client = new_client(connector)
    rows = await examine(client, connector, [])
    await client.close()
    (found,) = [row for row in rows if row.check == "balance"]
    assert found.level == level
    assert found.text.startswith(text)


async def test_no_balance_where_a_card_pays(tmp_path: Path, central: CertCentral) -> None:
    connector = config(tmp_path, central, payment_method="card")
    client = new_client(connector)
    rows = await examine(client, connector, [])
    await client.close()
    assert "balance" not in {row.check for row in rows}
    assert not central.journal.calls(endpoint="balance")


async def test_a_key_file_that_a_group_can_read(tmp_path: Path, central: CertCentral) -> None:
    connector = config(tmp_path, central)
    connector.api_key_file.chmod(0o640)
    client = new_client(connector)
    rows = await examine(client, connector, [])
    await client.close()
    (text,) = told(rows, "warning")
    assert text.startswith(f"connector: secrets: {connector.api_key_file}: its group may read it; chmod 600 it")
