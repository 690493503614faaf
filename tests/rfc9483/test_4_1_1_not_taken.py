"""RFC 9483 §4.1.1, §5.1.2: a certificate that is paid for is rejected, never confirmed, or never collected.

"In case of rejection, depending on its policy, the PKI management entity MAY revoke the newly issued certificate": each
policy, at an issuer over there; what the store says is what relying parties see.
"""

from dataclasses import replace
from typing import Any, Literal

import pytest

from cmpd.asn1 import BodyType, PKIStatus, der
from cmpd.enrollment import waiting
from cmpd.exchange import CertificateStatus, IssuedCertificate, OutsideState, RevocationPolicy, RevocationReason
from cmpd.issuers.local import LocalIssuer
from cmpd.ordering import OrderDesk
from cmpd.ports import IssuerUnavailable
from cmpd.revoking import Fate, RevocationDesk, on_rejection, on_silence
from tests.ee import EE, Answer, new_key
from tests.orders import RevokingCA, SlowCA
from tests.world import World

Word = Literal["revoke", "keep"]


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PROMPT_SECONDS", 0.0)


@pytest.fixture
def ca(world: World) -> RevokingCA:
    assert isinstance(world.issuer, LocalIssuer)
    slow = RevokingCA(world.issuer)
    use(world, slow)
    return slow


def use(world: World, slow: SlowCA) -> None:
    slow.at_once = True
    world.issuer = slow
    world.desk = OrderDesk(world.store, {"local": slow}, world.clock)
    world.profile()


def desk_of(world: World) -> RevocationDesk:
    return RevocationDesk(world.store, {"local": world.issuer}, world.clock)


async def enroll(world: World, ee: EE, key: Any = None) -> Answer:
    """The certificate, handed out and not confirmed."""
    answer = await world.send(ee, ee.ir(key))
    assert world.desk is not None
    await world.desk.once("local")
    if answer.status is PKIStatus.waiting:
        answer = await world.send(ee, ee.poll_req(answer))
    assert answer.status is PKIStatus.accepted, answer.text
    return answer


async def the_only(world: World) -> IssuedCertificate:
    (found,) = await world.store.certificates(9)
    return found


async def silence(world: World) -> None:
    """The time of the certConf goes by, and the service sweeps as the daemon does."""
    world.clock.tick(days=1)
    fate = on_silence(world.issuer)
    names = {"local"}
    await world.store.expire(
        world.clock(),
        outside=names if fate is Fate.there else (),
        keep=names if fate is Fate.kept else (),
    )


async def test_a_rejected_certificate_is_revoked_over_there(world: World, ca: RevokingCA) -> None:
    """At once here, and over there as soon as that can be had."""
    ee = await world.code()
    answer = await enroll(world, ee)
    done = await world.send(ee, ee.cert_conf(answer, hash_name="sha256", status=PKIStatus.rejection))
    assert done.type is BodyType.pkiconf
    one = await the_only(world)
    assert (one.status, one.reason) == (CertificateStatus.revoked, RevocationReason.unspecified)
    assert one.outside is not None
    assert (one.outside.state, one.outside.private) == (OutsideState.due, "the client has rejected it")
    assert ca.revoked == {}
    await desk_of(world).once("local")
    one = await the_only(world)
    assert one.outside is not None
    assert one.outside.state is OutsideState.done
    assert ca.revoked == {one.serial: RevocationReason.unspecified}


async def test_a_rejected_certificate_is_kept(world: World, ca: RevokingCA) -> None:
    """Relying parties go on accepting it, and so it is not called revoked; it opens no door here."""
    ca.revocation_policy = RevocationPolicy(certconf_reject="keep")
    ee, key = await world.code(), new_key()
    answer = await enroll(world, ee, key)
    done = await world.send(ee, ee.cert_conf(answer, hash_name="sha256", status=PKIStatus.rejection))
    assert done.type is BodyType.pkiconf
    one = await the_only(world)
    assert (one.status, one.revoked_at, one.outside) == (CertificateStatus.kept, None, None)
    await desk_of(world).once("local")
    assert ca.asked == []
    holder = EE.with_certificate(key, answer.certificate_der(), now=world.clock())
    refused = await world.send(holder, holder.kur(new_key()))
    assert refused.fail_info == "notAuthorized"
    assert "has not been confirmed" in refused.text


@pytest.mark.parametrize("policy", ["revoke", "keep"])
async def test_an_error_message_is_a_rejection_too(world: World, ca: RevokingCA, policy: Word) -> None:
    ca.revocation_policy = RevocationPolicy(certconf_reject=policy)
    ee = await world.code()
    answer = await enroll(world, ee)
    error = der.sequence(der.sequence(der.integer(2), der.sequence(der.utf8_string("no, thank you"))))
    assert (await world.send(ee, ee.follow(answer, BodyType.error, error))).type is BodyType.pkiconf
    assert (await the_only(world)).status.value == {"revoke": "revoked", "keep": "kept"}[policy]


async def test_a_missing_confirmation_revokes_over_there(world: World, ca: RevokingCA) -> None:
    ca.revocation_policy = RevocationPolicy(missing_certconf="revoke")
    ee = await world.code()
    await enroll(world, ee)
    await silence(world)
    one = await the_only(world)
    assert one.status is CertificateStatus.revoked
    assert one.outside is not None
    assert one.outside.state is OutsideState.due
    await desk_of(world).once("local")
    assert list(ca.revoked) == [one.serial]


async def test_a_missing_confirmation_keeps_and_the_same_request_gets_the_same(world: World, ca: RevokingCA) -> None:
    """The default: what has been paid for is not bought again by a client that begins anew."""
    ee, key = await world.code(uses=2), new_key()
    first = await enroll(world, ee, key)
    await silence(world)
    one = await the_only(world)
    assert (one.status, one.outside) == (CertificateStatus.kept, None)
    ee.now = world.clock()
    again = await enroll(world, ee, key)
    assert again.certificate_der() == first.certificate_der()
    assert len(ca.orders) == 1
    assert await world.used() == 1
    assert (await the_only(world)).status is CertificateStatus.unconfirmed
    assert (await world.send(ee, ee.cert_conf(again, hash_name="sha256"))).type is BodyType.pkiconf
    assert (await the_only(world)).status is CertificateStatus.valid
    assert ca.revoked == {}


async def test_a_late_confirmation_of_what_was_kept_is_refused(world: World, ca: RevokingCA) -> None:
    ee = await world.code()
    answer = await enroll(world, ee)
    await silence(world)
    ee.now = world.clock()
    late = await world.send(ee, ee.cert_conf(answer, hash_name="sha256"))
    assert late.type is BodyType.error
    assert (await the_only(world)).status is CertificateStatus.kept


@pytest.mark.parametrize("policy", ["keep", "revoke"])
async def test_what_nobody_polls_for(world: World, ca: RevokingCA, policy: Word) -> None:
    """Kept, the client still gets it; revoked, it is told so, and never gets what is revoked."""
    ca.at_once = False
    ca.revocation_policy = RevocationPolicy(uncollected=policy, uncollected_seconds=86400)
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    assert answer.status is PKIStatus.waiting
    assert world.desk is not None
    await world.desk.once("local")
    await ca.deliver()
    world.clock.tick(seconds=31)
    await world.desk.once("local")
    desk = desk_of(world)
    await desk.once("local")
    assert (await the_only(world)).status is CertificateStatus.unconfirmed, "it is not time yet"
    world.clock.tick(days=1, seconds=61)
    await desk.once("local")
    ee.now = world.clock()
    if policy == "keep":
        assert (await the_only(world)).status is CertificateStatus.kept
        final = await world.send(ee, ee.poll_req(answer))
        assert final.status is PKIStatus.accepted
        assert (await world.send(ee, ee.cert_conf(final, hash_name="sha256"))).type is BodyType.pkiconf
        assert (await the_only(world)).status is CertificateStatus.valid
        assert ca.revoked == {}
        return
    await desk.once("local")
    one = await the_only(world)
    assert list(ca.revoked) == [one.serial]
    final = await world.send(ee, ee.poll_req(answer))
    assert (final.status, final.fail_info) == (PKIStatus.rejection, "certRevoked")
    assert final.text == "the certificate was revoked before it was collected"
    transaction = await world.store.transaction(final.message.header.transactionID or b"")
    assert transaction is not None
    assert transaction.state.value == "refused"


async def test_an_issuer_over_there_that_cannot_revoke_keeps(world: World) -> None:
    """Calling revoked what is good everywhere else would be a lie."""
    assert isinstance(world.issuer, LocalIssuer)
    use(world, SlowCA(world.issuer))
    ee = await world.code()
    answer = await enroll(world, ee)
    await world.send(ee, ee.cert_conf(answer, hash_name="sha256", status=PKIStatus.rejection))
    assert (await the_only(world)).status is CertificateStatus.kept


async def test_our_own_ca_revokes_as_ever(world: World) -> None:
    """The local issuer has no policy: what is not taken is on the CRL."""
    assert (on_rejection(world.issuer), on_silence(world.issuer)) == (Fate.here, Fate.here)
    world.profile()
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    await world.send(ee, ee.cert_conf(answer, hash_name="sha256", status=PKIStatus.rejection))
    one = await the_only(world)
    assert (one.status, one.outside) == (CertificateStatus.revoked, None)
    assert [revocation.serial for revocation in await world.store.revoked("local")] == [one.serial]


async def test_what_others_have_revoked_renews_nothing(world: World, ca: RevokingCA) -> None:
    """Noticed at the look, it signs no kur any more (RFC 9483 §4.1.3)."""
    ee, key = await world.code(), new_key()
    answer = await enroll(world, ee, key)
    await world.send(ee, ee.cert_conf(answer, hash_name="sha256"))
    desk = desk_of(world)
    await desk.once("local")
    holder = EE.with_certificate(key, answer.certificate_der(), now=world.clock())
    one = await the_only(world)
    assert one.status is CertificateStatus.valid
    ca.revoked[one.serial] = RevocationReason.keyCompromise
    await desk.once("local")
    assert (await the_only(world)).status is CertificateStatus.valid, "it is looked once a day"
    world.clock.tick(days=1)
    await desk.once("local")
    noticed = await the_only(world)
    assert (noticed.status, noticed.reason) == (CertificateStatus.revoked, RevocationReason.keyCompromise)
    assert noticed.outside is None, "there is nothing left to do over there"
    holder.now = world.clock()
    refused = await world.send(holder, holder.kur(new_key()))
    assert refused.fail_info == "certRevoked"
    assert len(ca.orders) == 1
    ee = await world.code("again")
    again = await world.send(ee, ee.ir(key))
    assert again.fail_info == "badCertTemplate", "a compromised key gets no other certificate"


async def test_over_there_is_tried_until_it_is_done(world: World, ca: RevokingCA) -> None:
    """A rejected certificate, an API that is down, and a lost answer: revoked once, asked for three times."""
    ca.faults = [IssuerUnavailable("connection refused")]
    ca.lost = [IssuerUnavailable("no answer")]
    ee = await world.code()
    answer = await enroll(world, ee)
    await world.send(ee, ee.cert_conf(answer, hash_name="sha256", status=PKIStatus.rejection))
    for _ in range(2):
        with pytest.raises(IssuerUnavailable):
            await desk_of(world).once("local")  # a new process each time
        world.clock.tick(hours=2)
    await desk_of(world).once("local")
    one = await the_only(world)
    assert one.outside is not None
    assert (one.outside.state, one.outside.attempts) == (OutsideState.done, 3)
    assert (len(ca.asked), ca.revocations) == (3, 1)
    assert replace(one, outside=None).status is CertificateStatus.revoked
