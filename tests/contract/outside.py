"""What every store must do with certificates whose issuer is over there. Subclass `OutsideContract` as `Test…`."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cmpd.exchange import (
    CertificateStatus,
    IssuedCertificate,
    Order,
    OrderState,
    OutsideRevocation,
    OutsideState,
    RevocationReason,
    TransactionState,
)
from cmpd.ports import Expired, Revocation, TransactionMoved
from cmpd.store import AdminStore, OutsideWaiting, open_store
from tests.contract.orders import ANYWHERE, DAY, come, deliver, intend, waiting
from tests.contract.store import ALONE, FAR, KEY, NOW, ONE_KEY_ONCE, SECOND, Open, issue, make_code, spki_sha256

THERE = OutsideState.due


def due(at: Any = NOW, **changes: Any) -> OutsideRevocation:
    return replace(OutsideRevocation(THERE, at), **changes)


async def handed_out(store: AdminStore, key: str = "", **changes: Any) -> tuple[Order, IssuedCertificate]:
    """A certificate that was ordered, issued and collected, and waits for its certConf."""
    arrived, made = await come(store, await intend(store, key, **changes), key, ticket=changes.get("ticket", ""))
    until = NOW + timedelta(minutes=5)
    await deliver(store, arrived.transaction_id, TransactionState.unconfirmed, confirm_by=until)
    return arrived, made


async def revoked_there(store: AdminStore, at: Any = NOW, **changes: Any) -> IssuedCertificate:
    """A certificate that is to be revoked over there, as the store has it."""
    _, made = await come(store, await intend(store, **changes))
    assert await store.revoke(Revocation(made.serial, RevocationReason.superseded, at, THERE, "wanted"))
    found = await store.certificate(made.serial)
    assert found is not None
    return found


class OutsideContract:
    """The suite."""

    @pytest.fixture
    def url(self) -> str:
        """The URL of an empty store."""
        raise NotImplementedError

    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[AdminStore]:
        store = await open_store(url, base=ANYWHERE, key=KEY)
        yield store
        await store.close()

    @pytest.fixture
    async def reopen(self, url: str) -> AsyncIterator[Open]:
        """Opens the same store once more, as another process does."""
        opened: list[AdminStore] = []

        async def again() -> AdminStore:
            opened.append(await open_store(url, base=ANYWHERE, key=KEY))
            return opened[-1]

        yield again
        for one in opened:
            await one.close()

    # what is due over there

    async def test_what_waits_over_there_is_counted(self, store: AdminStore) -> None:
        """Due, asked for and held, each with the time of its first; not what is done or left, nor another issuer's."""
        assert await store.outside_waiting("upstream") == []
        states = [THERE, OutsideState.held, OutsideState.asked, OutsideState.done, OutsideState.left, OutsideState.held]
        for number, state in enumerate(states):
            found = await revoked_there(store, NOW + number * SECOND)
            assert found.outside is not None
            assert await store.move_outside(found.serial, replace(found.outside, state=state), seen=found.outside)
        assert await store.outside_waiting("upstream") == [
            OutsideWaiting(OutsideState.due, 1, NOW),
            OutsideWaiting(OutsideState.asked, 1, NOW + 2 * SECOND),
            OutsideWaiting(OutsideState.held, 2, NOW + SECOND),
        ]
        assert await store.outside_waiting("local") == []

    async def test_what_is_revoked_is_due_over_there_in_one_commit(self, store: AdminStore, url: str) -> None:
        """The process ends at once: another one finds both."""
        _, made = await come(store, await intend(store))
        revocation = Revocation(made.serial, RevocationReason.superseded, NOW, THERE, "wanted by root")
        assert await store.revoke(revocation)
        again = await open_store(url, base=ANYWHERE, key=KEY)
        try:
            (found,) = await again.outside_due("upstream", NOW, 9)
            assert found == replace(
                made,
                status=CertificateStatus.revoked,
                revoked_at=NOW,
                reason=RevocationReason.superseded,
                outside=due(private="wanted by root"),
            )
        finally:
            await again.close()

    async def test_what_is_revoked_here_alone_is_due_nowhere(self, store: AdminStore) -> None:
        _, plain = await issue(store)
        await store.revoke(Revocation(plain.serial, RevocationReason.superseded, NOW))
        for issuer in ("local", "upstream"):
            assert await store.outside_due(issuer, FAR, 9) == ()
        found = await store.certificate(plain.serial)
        assert found is not None
        assert found.outside is None

    async def test_what_was_revoked_before_stays_as_it_is(self, store: AdminStore) -> None:
        """A second word changes neither reason nor what is due."""
        one = await revoked_there(store)
        assert not await store.revoke(Revocation(one.serial, RevocationReason.keyCompromise, NOW + SECOND, THERE))
        assert await store.certificate(one.serial) == one
        _, noticed = await come(store, await intend(store))
        await store.revoke(Revocation(noticed.serial, RevocationReason.unspecified, NOW))
        assert not await store.revoke(Revocation(noticed.serial, RevocationReason.unspecified, NOW, THERE))
        assert await store.outside_due("upstream", FAR, 9) == (one,)

    async def test_what_is_left_to_an_operator_is_not_due(self, store: AdminStore) -> None:
        _, made = await come(store, await intend(store))
        await store.revoke(Revocation(made.serial, RevocationReason.superseded, NOW, OutsideState.left, "by root"))
        assert await store.outside_due("upstream", FAR, 9) == ()
        found = await store.certificate(made.serial)
        assert found is not None
        assert found.outside == OutsideRevocation(OutsideState.left, NOW, private="by root")

    async def test_the_longest_due_comes_first(self, store: AdminStore) -> None:
        late, early, future = [await revoked_there(store, NOW + number * SECOND) for number in (2, 1, 3)]
        await revoked_there(store, NOW, issuer="other")
        now = NOW + 2 * SECOND
        assert await store.outside_due("upstream", now, 9) == (early, late)
        assert await store.outside_due("upstream", now, 1) == (early,)
        assert await store.outside_due("upstream", FAR, 9) == (early, late, future)
        assert await store.outside_due("upstream", NOW, 9) == ()

    @pytest.mark.parametrize("state", OutsideState)
    async def test_each_step_is_kept(self, store: AdminStore, reopen: Open, state: OutsideState) -> None:
        one = await revoked_there(store)
        assert one.outside is not None
        moved = OutsideRevocation(state, NOW + DAY, 7, "request 4711", "somebody has to „approve“ it\n")
        assert await store.move_outside(one.serial, moved, seen=one.outside)
        for reader in (store, await reopen()):
            found = replace(one, outside=moved)
            assert await reader.certificate(one.serial) == found
            assert await reader.outside_due("upstream", NOW, 9) == ()
            expected = (found,) if state in {OutsideState.due, OutsideState.asked} else ()
            assert await reader.outside_due("upstream", NOW + DAY, 9) == expected

    async def test_of_many_who_take_a_step_at_once_one_does(self, store: AdminStore, reopen: Open) -> None:
        both = (store, await reopen())
        one = await revoked_there(store)
        assert one.outside is not None
        results = await asyncio.gather(
            *(
                both[number % 2].move_outside(one.serial, due(attempts=1, private=str(number)), seen=one.outside)
                for number in range(20)
            )
        )
        assert sum(results) == 1
        found = await store.certificate(one.serial)
        assert found is not None
        assert found.outside == due(attempts=1, private=str(results.index(True)))
        late = replace(one.outside, state=OutsideState.done)
        assert not await store.move_outside(one.serial, late, seen=one.outside), "it has come back to the same state"
        assert not await store.move_outside(4711, late, seen=one.outside)

    # certConf

    async def test_a_rejected_certificate_is_due_over_there(self, store: AdminStore) -> None:
        arrived, made = await handed_out(store)
        revocation = Revocation(made.serial, RevocationReason.unspecified, NOW, THERE, "rejected")
        answer: dict[str, Any] = {"nonce": b"n", "request": b"q", "reply": b"p"}
        answer |= {"seen": TransactionState.unconfirmed, "state": TransactionState.rejected}
        await store.advance(arrived.transaction_id, **answer, revoked=[revocation])
        (found,) = await store.outside_due("upstream", NOW, 9)
        assert (found.serial, found.status, found.outside) == (
            made.serial,
            CertificateStatus.revoked,
            due(private="rejected"),
        )
        with pytest.raises(TransactionMoved):
            await store.advance(arrived.transaction_id, **answer, revoked=[revocation])

    async def test_a_rejected_certificate_may_be_kept(self, store: AdminStore, reopen: Open) -> None:
        """It is not recorded as revoked, counts as in force, is not found again, and the code has its use back."""
        code = await make_code(store)
        arrived, made = await handed_out(store, "k", code=code.id, seat="s")
        await store.advance(
            arrived.transaction_id,
            seen=TransactionState.unconfirmed,
            state=TransactionState.rejected,
            nonce=b"n",
            request=b"q",
            reply=b"p",
            kept=[made.serial],
            give_back=code.id,
        )
        for reader in (store, await reopen()):
            assert await reader.certificate(made.serial) == replace(made, status=CertificateStatus.kept)
            assert await reader.certificates(9, status=CertificateStatus.kept) == [
                replace(made, status=CertificateStatus.kept)
            ]
            assert await reader.outside_due("upstream", FAR, 9) == ()
            assert await reader.revoked("upstream") == ()
            assert await reader.unmet("device", None, spki_sha256("k"), ONE_KEY_ONCE, NOW) is not None
            assert await reader.unmet("device", "s", bytes(32), ALONE, NOW) is not None
            assert await reader.same_order("device", "code:1", spki_sha256("k")) == ()
            assert (await reader.codes())[0].used == 0
        assert await store.revoke(Revocation(made.serial, RevocationReason.superseded, NOW, THERE)), "an operator may"

    async def test_what_is_never_confirmed_is_revoked_here_there_or_kept(self, store: AdminStore) -> None:
        """Each certificate as its issuer has it."""
        (first, here), (second, there), (third, kept) = [
            await handed_out(store, name, issuer=name) for name in ("here", "there", "kept")
        ]
        ended = await store.expire(NOW + DAY, outside={"there"}, keep={"kept"})
        assert set(ended) == {
            Expired(first.transaction_id, "device", (here.serial,)),
            Expired(second.transaction_id, "device", (there.serial,)),
            Expired(third.transaction_id, "device", (), (kept.serial,)),
        }
        found = [await store.certificate(one.serial) for one in (here, there, kept)]
        assert [one and one.status.value for one in found] == ["revoked", "revoked", "kept"]
        assert [one and one.outside and one.outside.state for one in found] == [None, THERE, None]
        assert [one.serial for one in await store.outside_due("there", NOW + DAY, 9)] == [there.serial]
        for one in (first, second, third):
            ended_as = await store.transaction(one.transaction_id)
            assert ended_as is not None
            assert ended_as.state is TransactionState.expired

    async def test_what_was_kept_unconfirmed_is_had_by_asking_again(self, store: AdminStore) -> None:
        """The same sender, the same key: the same certificate, which is then confirmed like any other."""
        code = await make_code(store)
        arrived, made = await handed_out(store, "k", code=code.id)
        await store.expire(NOW + DAY, keep={"upstream"})
        assert await store.same_order("device", "code:1", spki_sha256("k")) == (arrived,)
        new = waiting(created=NOW + DAY)
        await store.hand_over([arrived], new)
        found = await store.certificate(made.serial)
        assert found is not None
        assert found.status is CertificateStatus.kept, "nobody has it yet"
        await deliver(store, new.transaction_id, TransactionState.waiting)
        assert (await store.certificates_of(new.transaction_id))[0].status is CertificateStatus.kept
        await deliver(store, new.transaction_id, TransactionState.unconfirmed, confirm_by=NOW + 2 * DAY)
        (again,) = await store.certificates_of(new.transaction_id)
        assert again == replace(made, status=CertificateStatus.unconfirmed, transaction_id=new.transaction_id)
        assert await store.same_order("device", "code:1", spki_sha256("k")) == ()
        await store.advance(
            new.transaction_id,
            seen=TransactionState.unconfirmed,
            state=TransactionState.confirmed,
            nonce=b"n",
            request=b"q",
            reply=b"p",
            confirmed=[made.serial],
        )
        assert (await store.certificates_of(new.transaction_id))[0].status is CertificateStatus.valid
        assert (await store.codes())[0].used == 1

    # what nobody collects

    @pytest.mark.parametrize("keep", [True, False])
    async def test_what_nobody_collects_is_kept_or_revoked(self, store: AdminStore, keep: bool) -> None:
        """Once, after its time, and nothing else."""
        old, made = await come(store, await intend(store, "k"), "k")
        await come(store, await intend(store, updated=NOW + DAY, due=NOW))
        await handed_out(store)
        await come(store, await intend(store, issuer="other"))
        await intend(store, state=OrderState.ordered)
        await store.revoke(
            Revocation((await come(store, await intend(store)))[1].serial, RevocationReason.superseded, NOW)
        )
        now = NOW + 3 * DAY
        assert await store.uncollected("upstream", NOW, now, keep=keep) == ()
        assert await store.uncollected("upstream", NOW + SECOND, now, keep=keep) == (made.serial,)
        assert await store.uncollected("upstream", NOW + SECOND, now, keep=keep) == ()
        found = await store.certificate(made.serial)
        assert found is not None
        if keep:
            assert found == replace(made, status=CertificateStatus.kept)
            assert await store.same_order("device", "code:1", spki_sha256("k")) == (old,)
            await deliver(store, old.transaction_id, TransactionState.confirmed, confirmed=[made.serial])
            assert (await store.certificates_of(old.transaction_id))[0].status is CertificateStatus.valid
        else:
            assert (found.status, found.outside) == (
                CertificateStatus.revoked,
                due(now, private="nobody has collected it"),
            )
            assert await store.same_order("device", "code:1", spki_sha256("k")) == ()

    async def test_an_expired_certificate_is_nobodys_concern(self, store: AdminStore) -> None:
        await come(store, await intend(store), not_after=NOW + DAY)
        assert await store.uncollected("upstream", FAR, NOW + 2 * DAY, keep=False) == ()

    async def test_a_great_many_uncollected_ones_are_dealt_with_in_several_calls(self, store: AdminStore) -> None:
        made = [(await come(store, await intend(store)))[1].serial for _ in range(120)]
        first = await store.uncollected("upstream", FAR, NOW, keep=False)
        second = await store.uncollected("upstream", FAR, NOW, keep=False)
        assert (len(first), sorted(first + second)) == (100, sorted(made))

    async def test_it_is_collected_or_given_up(self, store: AdminStore, reopen: Open) -> None:
        """Whoever is first: what is handed out is not revoked for want of collecting."""
        other = await reopen()
        for _ in range(20):
            one, made = await come(store, await intend(store))
            given_up, _ = await asyncio.gather(
                other.uncollected("upstream", FAR, NOW, keep=False),
                deliver(store, one.transaction_id, TransactionState.confirmed, confirmed=[made.serial]),
            )
            found = await store.certificate(made.serial)
            assert found is not None
            assert found.status is (CertificateStatus.revoked if given_up else CertificateStatus.valid)

    # what others revoke

    async def test_certificates_are_found_by_what_they_were_ordered_as(self, store: AdminStore) -> None:
        """By the ticket up to its colon, those in force alone."""

        async def made(ticket: str, **changes: Any) -> IssuedCertificate:
            one = await intend(store, issuer=changes.pop("issuer", "upstream"))
            return (await come(store, one, ticket=ticket, **changes))[1]

        plain, again = await made("4711"), await made("4711:12")
        await made("4711", not_after=NOW - SECOND)
        await made("4711", issuer="other")
        gone = await made("4711")
        await store.revoke(Revocation(gone.serial, RevocationReason.superseded, NOW))
        longer, other = await made("47110"), await made("0815:1")
        await made("")
        await issue(store)
        assert await store.ordered_as("upstream", ["4711"], NOW) == (plain, again)
        assert await store.ordered_as("upstream", ["47110", "0815", "4711", "4711"], NOW) != ()
        found = await store.ordered_as("upstream", [*map(str, range(1000, 2000)), "47110", "0815", "", "4"], NOW)
        assert set(found) == {longer, other}
        assert await store.ordered_as("upstream", [], NOW) == ()

    async def test_the_last_look_is_remembered(self, store: AdminStore, reopen: Open) -> None:
        """For each issuer its own, and never less than it was."""
        assert await store.looked("upstream") is None
        await store.keep_look("upstream", NOW)
        for reader in (store, await reopen()):
            assert await reader.looked("upstream") == NOW
            assert await reader.looked("other") is None
        await store.keep_look("upstream", NOW - DAY)
        assert await store.looked("upstream") == NOW
        await store.next_crl_number("third")
        assert await store.looked("third") is None
        await store.keep_look("third", NOW + DAY)
        assert await store.next_crl_number("third") == 2
        assert await store.looked("third") == NOW + DAY
