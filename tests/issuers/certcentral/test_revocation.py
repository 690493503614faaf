"""Certificates are revoked at CertCentral once, whatever gets lost; and those that others revoke there are found."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cmpd.asn1.certificate import serial, spki
from cmpd.exchange import (
    Approved,
    CertificateStatus,
    IssuedCertificate,
    Order,
    OrderState,
    OutsideRevocation,
    OutsideState,
    RevocationPolicy,
    RevocationReason,
)
from cmpd.issuers.certcentral import CertCentralClient, CertCentralConfig, CertCentralIssuer, ProfileFacts, orders
from cmpd.issuers.certcentral.answers import Ordered, Refused
from cmpd.issuers.certcentral.checking import find_leaf
from cmpd.issuers.certcentral.client import CallRefused
from cmpd.ports import IssuerUnavailable, OrderRefused, RevocationRefused, Revoker, Watched
from tests.certcentral import CertCentral
from tests.certcentral.state import Certificate
from tests.issuers.certcentral import world
from tests.issuers.certcentral.world import approved, mark, new_key, placed, prepared

DONE = "commit_then_drop"


@pytest.fixture
def issuer(connector: CertCentralConfig, client: CertCentralClient, central: CertCentral) -> CertCentralIssuer:
    return CertCentralIssuer(connector, client, "digicert", clock=central.clock.now)


@pytest.fixture
async def unprivileged(central: CertCentral, connector: CertCentralConfig) -> AsyncIterator[CertCentralIssuer]:
    """With a key of a user whose revocations somebody else has to approve."""
    client = world.client(connector, key=central.key("orders"))
    yield CertCentralIssuer(connector, client, "digicert", clock=central.clock.now)
    await client.close()


def kept(request: Approved, ordered: Ordered, *, ticket: str = "", **changes: Any) -> IssuedCertificate:
    """What the store has of a certificate that is to be revoked."""
    leaf = find_leaf(ordered.chain or (), request.spki)
    assert leaf is not None
    return certificate_of(leaf, ticket or str(ordered.order_id), request, **changes)


def certificate_of(leaf: bytes, ticket: str, request: Approved, **changes: Any) -> IssuedCertificate:
    fields: dict[str, Any] = {
        "serial": serial(leaf),
        "der": leaf,
        "issuer": "digicert",
        "profile": request.profile,
        "not_after": request.not_after,
        "transaction_id": request.transaction_id,
        "cert_req_id": 0,
        "status": CertificateStatus.revoked,
        "issued_at": request.not_before,
        "reason": RevocationReason.superseded,
        "ticket": ticket,
        "outside": OutsideRevocation(OutsideState.due, request.not_before),
    }
    return IssuedCertificate(**(fields | changes))


async def ordered(client: CertCentralClient, connector: CertCentralConfig, **changes: Any) -> IssuedCertificate:
    request = approved("private")
    return kept(request, await placed(client, prepared(request, "private", connector)), **changes)


async def again(
    client: CertCentralClient, connector: CertCentralConfig, first: IssuedCertificate, *, way: str
) -> IssuedCertificate:
    """Another certificate of the same order."""
    request = approved("private", new_key())
    facts, options = ProfileFacts.of(world.profile("private")), world.options("private")
    number = int(first.ticket)
    if way == "reissue":
        outcome = await client.reissue(number, orders.reissue(request, facts, options, connector, mark=mark(request)))
    else:
        original = await client.order_info(number)
        outcome = await client.duplicate(
            number, orders.duplicate(request, facts, options, connector, original, mark=mark(request))
        )
    assert isinstance(outcome, Ordered), outcome
    return kept(request, outcome, ticket=f"{number}:{outcome.certificate_id}")


def asked(one: IssuedCertificate, ticket: str) -> IssuedCertificate:
    assert one.outside is not None
    return replace(one, outside=replace(one.outside, state=OutsideState.asked, ticket=ticket))


def there(central: CertCentral, one: IssuedCertificate) -> Certificate:
    found = central.desk.register.find_certificate(f"{one.serial:032x}")
    assert found is not None
    return found


def writes(central: CertCentral) -> int:
    return len(central.journal.calls(endpoint="revoke"))


async def test_what_it_can(issuer: CertCentralIssuer) -> None:
    assert isinstance(issuer, Revoker)
    assert isinstance(issuer, Watched)
    assert issuer.revocation_policy == RevocationPolicy("revoke", "keep", "keep", 30 * 86400)
    assert issuer.watch_seconds == 86400


async def test_a_certificate_is_revoked_once(
    issuer: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient, central: CertCentral
) -> None:
    one = await ordered(client, connector)
    assert await issuer.revoke(one) is None
    found = there(central, one)
    assert found.revoked is not None
    assert found.revocation_reason == "superseded"
    assert await issuer.revoke(one) is None, "what is revoked is done"
    assert writes(central) == 1


@pytest.mark.parametrize("fault", [DONE, "commit_then_500", "commit_then_html"])
async def test_a_lost_answer(
    issuer: CertCentralIssuer,
    connector: CertCentralConfig,
    client: CertCentralClient,
    central: CertCentral,
    fault: str,
) -> None:
    one = await ordered(client, connector)
    central.faults.add(fault, endpoint="revoke")
    with pytest.raises(IssuerUnavailable):
        await issuer.revoke(one)
    assert await issuer.revoke(one) is None
    assert writes(central) == 1


@pytest.mark.parametrize("fault", ["drop", "error_500", "html", "rate_limited"])
async def test_a_call_that_was_not_done_is_made_again(
    issuer: CertCentralIssuer,
    connector: CertCentralConfig,
    client: CertCentralClient,
    central: CertCentral,
    fault: str,
) -> None:
    one = await ordered(client, connector)
    central.faults.add(fault, endpoint="revoke")
    with pytest.raises(IssuerUnavailable):
        await issuer.revoke(one)
    assert there(central, one).revoked is None
    assert await issuer.revoke(one) is None
    assert there(central, one).revoked is not None


async def test_somebody_is_faster(
    issuer: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient, central: CertCentral
) -> None:
    """Between the look and the call it is revoked in CertCentral's own pages."""
    one = await ordered(client, connector)
    central.faults.add("slow_commit", endpoint="revoke")
    asking = asyncio.get_running_loop().create_task(issuer.revoke(one))
    await asyncio.wait_for(central.faults.waiting.wait(), 30)
    central.revoke(int(one.ticket))
    central.faults.release()
    assert await asking is None
    assert there(central, one).revocation_reason == "unspecified", "it is theirs"


@pytest.mark.parametrize("word", ["pending", "submitted"])
async def test_somebody_has_to_approve(
    unprivileged: CertCentralIssuer,
    connector: CertCentralConfig,
    client: CertCentralClient,
    central: CertCentral,
    word: str,
) -> None:
    """It is asked for once, its answer lost or not, and done when it is approved."""
    central.set(revoke_request_status=word)
    one = await ordered(client, connector)
    central.faults.add(DONE, endpoint="revoke")
    with pytest.raises(IssuerUnavailable):
        await unprivileged.revoke(one)
    ticket = await unprivileged.revoke(one)
    assert ticket is not None
    assert ticket.isdecimal()
    waiting = asked(one, ticket)
    for _ in range(3):
        assert await unprivileged.revoke(waiting) == ticket
    assert writes(central) == 1
    assert there(central, one).revoked is None
    central.approve(int(one.ticket))
    assert there(central, one).revoked is not None
    assert await unprivileged.revoke(waiting) is None
    assert await unprivileged.revoke(one) is None, "also when nobody remembers that it was asked for"
    assert writes(central) == 1


async def test_it_is_done_when_the_account_keeps_the_order(
    unprivileged: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient, central: CertCentral
) -> None:
    """An order that stays `issued` with its only certificate revoked says so by the request that was approved."""
    central.set(order_follows_revocation=False)
    one = await ordered(client, connector)
    ticket = await unprivileged.revoke(one)
    assert ticket is not None
    central.approve(int(one.ticket))
    assert (await client.order_info(int(one.ticket))).status == "issued"
    assert await unprivileged.revoke(asked(one, ticket)) is None
    assert await unprivileged.revoke(one) is None
    assert writes(central) == 1


async def test_somebody_rejects_it(
    unprivileged: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient, central: CertCentral
) -> None:
    one = await ordered(client, connector)
    ticket = await unprivileged.revoke(one)
    assert ticket is not None
    central.reject(int(one.ticket))
    with pytest.raises(RevocationRefused, match=f"has rejected request {ticket}") as caught:
        await unprivileged.revoke(asked(one, ticket))
    assert caught.value.seconds is None
    assert await unprivileged.revoke(one) not in {None, ticket}, "an operator may have it asked for again"


async def test_somebody_revokes_it_and_leaves_the_request(
    unprivileged: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient, central: CertCentral
) -> None:
    one = await ordered(client, connector)
    ticket = await unprivileged.revoke(one)
    assert ticket is not None
    central.revoke(int(one.ticket))
    assert await unprivileged.revoke(asked(one, ticket)) is None


@pytest.mark.parametrize("way", ["reissue", "duplicate"])
async def test_the_others_of_its_order_stay(
    issuer: CertCentralIssuer,
    connector: CertCentralConfig,
    client: CertCentralClient,
    central: CertCentral,
    way: str,
) -> None:
    first = await ordered(client, connector)
    second = await again(client, connector, first, way=way)
    assert await issuer.revoke(second) is None
    assert there(central, second).revoked is not None
    assert there(central, first).revoked is None
    assert await issuer.revoke(second) is None
    assert writes(central) == 1
    assert await issuer.revoke(first) is None
    assert there(central, first).revoked is not None


async def test_a_pending_reissue_is_waited_for(
    issuer: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient, central: CertCentral
) -> None:
    first = await ordered(client, connector)
    central.set(by_hand=True)
    request = approved("private", new_key())
    facts, options = ProfileFacts.of(world.profile("private")), world.options("private")
    await client.reissue(int(first.ticket), orders.reissue(request, facts, options, connector, mark=mark(request)))
    with pytest.raises(RevocationRefused, match="waits for a reissue") as caught:
        await issuer.revoke(first)
    assert caught.value.seconds is not None
    assert writes(central) == 0
    central.issue(int(first.ticket))
    assert await issuer.revoke(first) is None


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (RevocationReason.keyCompromise, "key_compromise"),
        (RevocationReason.affiliationChanged, "affiliation_changed"),
        (RevocationReason.superseded, "superseded"),
        (RevocationReason.cessationOfOperation, "cessation_of_operation"),
        (RevocationReason.unspecified, "unspecified"),
        (RevocationReason.privilegeWithdrawn, "unspecified"),
        (None, "unspecified"),
    ],
)
async def test_reasons(
    issuer: CertCentralIssuer,
    connector: CertCentralConfig,
    client: CertCentralClient,
    central: CertCentral,
    reason: RevocationReason | None,
    word: str,
) -> None:
    one = await ordered(client, connector, reason=reason)
    assert await issuer.revoke(one) is None
    assert there(central, one).revocation_reason == word


async def test_a_word_that_is_not_known_is_left_out_and_reported(
    tmp_path: Path, central: CertCentral, caplog: pytest.LogCaptureFixture
) -> None:
    """That it is revoked counts for more than why."""
    connector = world.config(tmp_path / "own", central, revocation_reasons={"keyCompromise": "compromised"})
    client = world.client(connector)
    one = await ordered(client, connector, reason=RevocationReason.keyCompromise)
    with caplog.at_level(logging.WARNING):
        assert await CertCentralIssuer(connector, client, "digicert").revoke(one) is None
    assert there(central, one).revocation_reason == "unspecified"
    assert "compromised as a reason is refused" in caplog.text
    assert "revocation_reasons in [issuers.digicert]" in caplog.text
    await client.close()


async def test_what_is_not_there_is_refused_for_good(
    issuer: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient
) -> None:
    one = replace(await ordered(client, connector), serial=0xBAD, ticket="999999")
    with pytest.raises(RevocationRefused, match="HTTP 404") as caught:
        await issuer.revoke(one)
    assert caught.value.seconds is None


@pytest.mark.parametrize("key", ["view", "revoked"])
async def test_a_key_that_may_not_waits_for_the_operator(
    connector: CertCentralConfig, client: CertCentralClient, central: CertCentral, key: str
) -> None:
    """No certificate is given up for it."""
    one = await ordered(client, connector)
    other = world.client(connector, key=central.key(key))
    with pytest.raises(IssuerUnavailable, match="access_denied"):
        await CertCentralIssuer(connector, other, "digicert").revoke(one)
    await other.close()


async def test_without_a_ticket_the_serial_number_finds_it(
    issuer: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient, central: CertCentral
) -> None:
    one = replace(await ordered(client, connector), ticket="")
    assert await issuer.revoke(one) is None
    assert there(central, one).revoked is not None


# ── what others revoke ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_others_have_revoked_is_found(
    issuer: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient, central: CertCentral
) -> None:
    """An order as a whole, a reissue, a duplicate; one call for what has changed, a few for each that may be it."""
    lone, whole, first, good = [await ordered(client, connector) for _ in range(4)]
    duplicate, reissue = [await again(client, connector, first, way=way) for way in ("duplicate", "reissue")]
    central.revoke(int(lone.ticket))
    central.revoke(int(whole.ticket))
    for one in (duplicate, reissue):
        central.revoke(int(first.ticket), there(central, one))
    central.journal.clear()
    found = await issuer.suspects(central.clock.now() - timedelta(hours=1))
    assert {lone.ticket, whole.ticket, first.ticket, good.ticket} <= set(found)
    assert len(central.journal.calls()) == 1
    every = [lone, whole, first, good, duplicate, reissue]
    revoked = await issuer.revoked_there(every)
    assert {one.serial for one in revoked} == {one.serial for one in (lone, whole, duplicate, reissue)}
    assert {one.reason for one in revoked} == {RevocationReason.unspecified}
    assert len(central.journal.calls()) <= 1 + 4 + 2 * 3


async def test_after_a_long_break_the_revoked_orders_are_listed(
    issuer: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient, central: CertCentral
) -> None:
    """CertCentral tells changes of seven days; the first look of all goes back to the beginning."""
    lone, good = [await ordered(client, connector) for _ in range(2)]
    central.revoke(int(lone.ticket))
    central.advance(timedelta(days=20))
    assert await issuer.suspects(central.clock.now() - timedelta(days=1)) == set()
    for since in (None, central.clock.now() - timedelta(days=21)):
        found = await issuer.suspects(since)
        assert lone.ticket in found
        assert good.ticket not in found


async def test_when_it_cannot_be_found_out(
    issuer: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient, central: CertCentral
) -> None:
    one = await ordered(client, connector)
    for endpoint, ask in (
        ("status_changes", issuer.suspects(central.clock.now() - timedelta(days=1))),
        ("order_list", issuer.suspects(None)),
        ("order_info", issuer.revoked_there([one])),
    ):
        central.faults.add("error_500", endpoint=endpoint, times=4)
        with pytest.raises(IssuerUnavailable):
            await ask


async def test_an_order_that_cannot_be_looked_at_hinders_no_other(
    issuer: CertCentralIssuer,
    connector: CertCentralConfig,
    client: CertCentralClient,
    central: CertCentral,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = [await ordered(client, connector) for _ in range(2)]
    for one in (first, second):
        central.revoke(int(one.ticket))
    original = client.order_info

    async def order_info(order: int | str) -> Any:
        if str(order) == first.ticket:
            raise CallRefused(Refused(400, "invalid_order", "not this one"))
        return await original(order)

    monkeypatch.setattr(CertCentralClient, "order_info", lambda _, order: order_info(order))
    assert [one.serial for one in await issuer.revoked_there([first, second])] == [second.serial]
    assert f"whether certificate {first.serial:x} is revoked cannot be found out" in caplog.text


async def test_a_request_that_is_gone(
    unprivileged: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient
) -> None:
    one = await ordered(client, connector)
    with pytest.raises(RevocationRefused, match="knows of no request 999999999 any more"):
        await unprivileged.revoke(asked(one, "999999999"))


async def test_what_was_revoked_before_it_was_collected_is_not_handed_out(
    issuer: CertCentralIssuer, connector: CertCentralConfig, client: CertCentralClient, central: CertCentral
) -> None:
    """An order on which somebody was faster (Services API, "Order status")."""
    profile = world.profile("private", issuer_options={"product": "private_ssl_flex"})
    assert issuer.use(profile) == []
    request = approved("private", of=profile)
    done = await placed(client, prepared(request, "private", connector))
    central.revoke(done.order_id)
    now = central.clock.now()
    order = Order(
        "cmpd-1", request.transaction_id, 0, "digicert", request, OrderState.ordered, now, now, now, str(done.order_id)
    )
    (found,) = (await issuer.look([order])).values()
    assert isinstance(found, OrderRefused)
    assert found.text == "the issuing CA has revoked the certificate"


async def test_an_order_that_is_issued_at_once_says_what_it_is_called(
    issuer: CertCentralIssuer, central: CertCentral
) -> None:
    """Without that nobody would find its certificate when it is revoked there."""
    profile = world.profile("private", issuer_options={"product": "private_ssl_flex"})
    issuer.use(profile)
    request, now = approved("private", of=profile), central.clock.now()
    order = Order("cmpd-1", request.transaction_id, 0, "digicert", request, OrderState.submitting, now, now, now)
    issued = await issuer.submit(order)
    (entry,) = central.ledger.orders()
    assert issued.ticket == str(entry.order_id)
    assert x509.load_der_x509_certificate(getattr(issued, "der", b"")).serial_number
    assert spki(getattr(issued, "der", b"")) == request.spki
