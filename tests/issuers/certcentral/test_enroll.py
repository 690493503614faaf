"""An EE speaks CMP, CertCentral answers: all between them is cmpd, and the CA is a simulator with its own PKI."""

import asyncio
from datetime import timedelta

import pytest

from cmpd.asn1 import BodyType, PKIStatus, der
from cmpd.exchange import CertificateStatus, OrderState, OutsideState
from cmpd.issuers.certcentral import CertCentralIssuer
from cmpd.ports import IssuerUnavailable
from cmpd.revoking import RevocationDesk
from tests.certcentral import CertCentral
from tests.ee import EE, new_key
from tests.issuers.certcentral.enrolling import ADA, ask, names, poll, work
from tests.world import World


async def test_a_mailbox(world: World, central: CertCentral, issuer: CertCentralIssuer) -> None:
    ee = await world.code(profile="mail")
    answer = await ask(world, ee)
    assert answer.status is PKIStatus.waiting, answer.text
    await work(world, central)
    final = await poll(world, ee, answer)
    assert final.type is BodyType.ip
    assert final.status in {PKIStatus.accepted, PKIStatus.grantedWithMods}, final.text
    assert "Simulated" in final.certificate().issuer.rfc4514_string()
    assert len(final.message.extraCerts) >= 1, "the intermediate comes along, the root does not"
    done = await world.send(ee, ee.cert_conf(final, hash_name="sha256"), profile="mail")
    assert done.type is BodyType.pkiconf
    assert len(central.ledger.orders()) == 1


async def test_an_order_that_waits_for_validation(
    world: World, central: CertCentral, issuer: CertCentralIssuer
) -> None:
    central.set(delay=3600)
    ee = await world.code(profile="mail")
    answer = await ask(world, ee)
    await work(world, central)
    rep = await poll(world, ee, answer)
    assert rep.type is BodyType.pollRep
    assert rep.body[0].reason == ["the issuing CA is validating the request"]
    await work(world, central, 61)
    rep = await poll(world, ee, rep)
    assert rep.type is BodyType.pollRep
    before = len(central.journal.calls(endpoint="order_info"))
    await work(world, central, 3600)
    final = await poll(world, ee, rep)
    assert final.type is BodyType.ip, final.text
    assert len(central.journal.calls(endpoint="order_info")) - before <= 2, "told by status-changes"


async def test_a_rejected_order_says_so(world: World, central: CertCentral, issuer: CertCentralIssuer) -> None:
    central.set(delay=3600, waiting_status="pending")
    ee = await world.code(profile="mail")
    answer = await ask(world, ee)
    await work(world, central)
    (order,) = central.ledger.orders()
    central.cancel(order.order_id)
    await work(world, central, 61)
    final = await poll(world, ee, answer)
    assert (final.status, final.fail_info) == (PKIStatus.rejection, "notAuthorized")
    assert "canceled" in final.text


LOSSES = ["commit_then_drop", "commit_then_500", "commit_then_html", "commit_then_half", "drop", "error_500", "html"]


@pytest.mark.parametrize("fault", LOSSES)
async def test_an_answer_that_is_lost_buys_nothing_twice(
    world: World, central: CertCentral, issuer: CertCentralIssuer, fault: str
) -> None:
    central.faults.add(fault, endpoint="order")
    ee = await world.code(profile="mail")
    answer = await ask(world, ee)
    await work(world, central)
    for _ in range(12):
        await work(world, central, 61)
    bought = central.ledger.orders()
    (order,) = await world.store.orders_of(answer.message.header.transactionID or b"")
    if fault.startswith("commit"):
        assert len(bought) == 1
        assert order.state is OrderState.issued, order
        final = await poll(world, ee, answer)
        assert final.type is BodyType.ip
        assert ADA in str(final.certificate().subject)
    else:
        assert len(bought) <= 1
        assert order.state in {OrderState.held, OrderState.issued}, order


async def test_a_rate_limit_is_waited_out(world: World, central: CertCentral, issuer: CertCentralIssuer) -> None:
    central.faults.add("rate_limited", endpoint="order")
    ee = await world.code(profile="mail")
    answer = await ask(world, ee)
    with pytest.raises(IssuerUnavailable):
        await work(world, central)
    issuer.client.budget.pause(0)
    assert len(central.ledger.orders()) == 0
    rep = await poll(world, ee, answer)
    assert rep.type is BodyType.pollRep, "an outage is a wait for who asks"


async def test_random_faults(world: World, central: CertCentral, issuer: CertCentralIssuer) -> None:
    """Each transaction has at most one order, and each order its transaction."""
    central.faults.randomly(seed=11, probability=0.25, endpoint="order")
    ees = [await world.code(f"mail-{number}", profile="mail") for number in range(24)]
    for number, ee in enumerate(ees):
        mail = f"user{number}@example.com"
        request = names(der.tlv(0x81, mail.encode()))
        answer = await ask(world, ee, key=new_key("ec-p256"), subject=f"CN={mail}", **request)
        assert answer.status is PKIStatus.waiting, answer.text
    for _ in range(15):
        try:
            await work(world, central, 61)
        except IssuerUnavailable:
            await asyncio.sleep(0)
    assert not central.ledger.paid_twice()
    orders = await world.store.orders(100)
    stamps = {entry.spki for entry in central.ledger.orders()}
    assert len(stamps) == len(central.ledger.orders())
    assert {one.state for one in orders} <= {OrderState.issued, OrderState.held, OrderState.intended, OrderState.failed}
    assert sum(one.state is OrderState.issued for one in orders) >= 12


async def look_over(world: World, central: CertCentral, issuer: CertCentralIssuer, **passed: float) -> None:
    """Let time pass on both sides, and the other desk do what is due then."""
    central.advance(timedelta(**passed))
    world.clock.tick(**passed)
    await RevocationDesk(world.store, {"local": issuer}, world.clock).once("local")


async def test_a_rejected_certificate_is_revoked_there(
    world: World, central: CertCentral, issuer: CertCentralIssuer
) -> None:
    """Its client rejects it, and CertCentral revokes it, though the first answer is lost."""
    ee = await world.code(profile="mail")
    answer = await ask(world, ee)
    await work(world, central)
    final = await poll(world, ee, answer)
    done = await world.send(ee, ee.cert_conf(final, hash_name="sha256", status=PKIStatus.rejection), profile="mail")
    assert done.type is BodyType.pkiconf
    central.faults.add("commit_then_drop", endpoint="revoke")
    with pytest.raises(IssuerUnavailable):
        await look_over(world, central, issuer)
    await look_over(world, central, issuer, hours=1)
    (one,) = await world.store.certificates(9)
    (entry,) = central.ledger.orders()
    assert central.order(entry.order_id).status == "revoked"
    assert one.outside is not None
    assert (one.status, one.outside.state) == (CertificateStatus.revoked, OutsideState.done)
    assert len(central.journal.calls(endpoint="revoke")) == 1


async def test_what_is_revoked_there_renews_nothing_here(
    world: World, central: CertCentral, issuer: CertCentralIssuer
) -> None:
    """Found at the nightly look, with one call for what has changed and one for the order."""
    ee, key = await world.code(profile="mail"), new_key("rsa-2048")
    answer = await ask(world, ee, key=key)
    await work(world, central)
    final = await poll(world, ee, answer)
    await world.send(ee, ee.cert_conf(final, hash_name="sha256"), profile="mail")
    await look_over(world, central, issuer)
    (entry,) = central.ledger.orders()
    central.revoke(entry.order_id)
    await look_over(world, central, issuer, hours=12)
    (one,) = await world.store.certificates(9)
    assert one.status is CertificateStatus.valid
    central.journal.clear()
    await look_over(world, central, issuer, hours=12)
    assert len(central.journal.calls()) == 2
    (one,) = await world.store.certificates(9)
    assert (one.status, one.outside) == (CertificateStatus.revoked, None)
    holder = EE.with_certificate(key, final.certificate_der(), now=world.clock())
    refused = await world.send(holder, holder.kur(new_key("rsa-2048")), profile="mail")
    assert refused.fail_info == "certRevoked", refused.text
    assert len(central.ledger.orders()) == 1
