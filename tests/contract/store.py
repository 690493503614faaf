"""What every store must do. Subclass `StoreContract` as `Test…` and override the fixture `url`, an empty store's own.

Times are whole seconds. Several processes on one store are real processes: they run `contend` below.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cmpd.asn1 import der
from cmpd.exchange import (
    CertificateStatus,
    Device,
    EnrollmentCode,
    Finding,
    IssuedCertificate,
    NewCode,
    Refusal,
    RevocationReason,
    Seat,
    ServiceUserCertificate,
    Transaction,
    TransactionState,
)
from cmpd.ports import (
    CodeUnusable,
    Condition,
    Conditions,
    CRLState,
    Expired,
    KeptCRL,
    Node,
    Revocation,
    StoreUnavailable,
    TransactionExists,
    TransactionMoved,
    Unmet,
)
from cmpd.store import AdminStore, Pruned, ReferencesTaken, ReferenceTaken, open_store

KEY = bytes(range(32))
NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
FAR = datetime(2090, 1, 1, tzinfo=UTC)
CA = bytes(range(32))
"""SHA-256 of an issuing certificate."""
ROOT = Path(__file__).parent.parent.parent

Open = Callable[[], Awaitable[AdminStore]]


def transaction(transaction_id: bytes | None = None, **changes: Any) -> Transaction:
    """A transaction that waits for its certConf; any field can be given."""
    transaction_id = os.urandom(16) if transaction_id is None else transaction_id
    fields: dict[str, Any] = {
        "profile": "device",
        "operation": "ir",
        "credential": "code:1",
        "state": TransactionState.unconfirmed,
        "nonce": os.urandom(16),
        "first_request": os.urandom(32),
        "first_reply": os.urandom(1500),
        "created": NOW,
        "confirm_by": NOW + timedelta(minutes=10),
    }
    return Transaction(transaction_id=transaction_id, **(fields | changes))


def certificate(of: Transaction, **changes: Any) -> IssuedCertificate:
    """An unconfirmed certificate of a transaction; any field can be given."""
    fields: dict[str, Any] = {
        "serial": int.from_bytes(os.urandom(16)),
        "der": os.urandom(600),
        "issuer": "local",
        "profile": of.profile,
        "not_after": FAR,
        "transaction_id": of.transaction_id,
        "cert_req_id": 0,
        "status": CertificateStatus.unconfirmed,
        "issued_at": NOW,
    }
    return IssuedCertificate(**(fields | changes))


async def issue(store: AdminStore, code: int | None = None, **changes: Any) -> tuple[Transaction, IssuedCertificate]:
    """Keep one new transaction with one certificate."""
    new = transaction(**changes)
    one = certificate(new)
    await store.issued(new, [one], code=code, now=NOW)
    return new, one


def spki_of(key: str) -> bytes:
    """What passes for a SubjectPublicKeyInfo; another one for each name."""
    return der.sequence(der.sequence(der.null()), der.bit_string(hashlib.sha512(key.encode()).digest()))


def certificate_der(key: str) -> bytes:
    """What has a SubjectPublicKeyInfo where a certificate has it (RFC 5280 §4.1)."""
    version, number, empty = der.explicit(0, der.integer(2)), der.integer(1), der.sequence()
    tbs = der.sequence(version, number, empty, empty, empty, empty, spki_of(key))
    return der.sequence(tbs, empty, der.bit_string(b"signature"))


def spki_sha256(key: str) -> bytes:
    return hashlib.sha256(spki_of(key)).digest()


ONE_KEY_ONCE = Conditions(new_key=True)
ALONE = Conditions(alone_in_seat=True)


async def seated(
    store: AdminStore,
    seat: str | None = "user@example.com",
    conditions: Conditions = ONE_KEY_ONCE,
    *,
    key: str = "",
    now: datetime = NOW,
    code: int | None = None,
    **changes: Any,
) -> IssuedCertificate:
    """Keep one new transaction with a certificate of a seat, subject to conditions; its key is its own unless given."""
    new = transaction(created=now, profile=changes.pop("profile", "device"))
    changes.setdefault("issued_at", now)
    one = certificate(new, der=certificate_der(key or os.urandom(8).hex()), seat=seat, **changes)
    await store.issued(new, [one], code=code, now=now, conditions=[conditions])
    return one


def kept_crl(number: int, this_update: datetime = NOW, der: bytes = b"crl") -> KeptCRL:
    """A CRL that is good for an hour, without any revocation."""
    return KeptCRL(number, 0, this_update, this_update + 3600 * SECOND, der)


def refusal(number: int = 0, **changes: Any) -> Refusal:
    """A refusal; any field can be given."""
    fields: dict[str, Any] = {
        "at": NOW,
        "address": "192.0.2.1",
        "profile": "device",
        "operation": "ir",
        "transaction_id": f"{number:032x}",
        "credential": "code:device-1",
        "fail_info": "badCertTemplate",
        "reason": f"san.dns: number {number}",
        "private": "",
        "findings": (Finding("key.allowed_types", "publicKey", True, "publicKey: ecdsa"),),
        "request": os.urandom(40),
    }
    return Refusal(**(fields | changes))


async def make_code(store: AdminStore, reference: str = "ref", **changes: Any) -> EnrollmentCode:
    """Keep one enrollment code of the profile `device`, with one use unless said otherwise."""
    fields: dict[str, Any] = {"secret": b"s3cret", "uses": 1, "expires": None, "now": NOW}
    return await store.create_code("device", reference, **(fields | changes))


async def attempt(store: AdminStore, code: int, tasks: int) -> int:
    """Have so many tasks consume a code at the same time; return how many were let."""

    async def one() -> bool:
        try:
            await issue(store, code)
        except CodeUnusable:
            return False
        return True

    return sum(await asyncio.gather(*(one() for _ in range(tasks))))


def contend(url: str, code: int, tasks: int) -> None:
    """What another process does: say that it is there, wait for the start, then consume a code; print how often."""

    async def main() -> int:
        store = await open_store(url, base=Path("/"), key=KEY)
        sys.stdout.write("there\n")
        sys.stdout.flush()
        sys.stdin.readline()
        succeeded = await attempt(store, code, tasks)
        await store.close()
        return succeeded

    sys.stdout.write(json.dumps(asyncio.run(main())))


class StoreContract:
    """The suite."""

    @pytest.fixture
    def url(self) -> str:
        """The `[store] url` of an empty store, good for absolute use."""
        raise NotImplementedError

    @pytest.fixture
    async def reopen(self, url: str) -> AsyncIterator[Open]:
        """Opens the store, as often as asked; all are closed in the end."""
        opened: list[AdminStore] = []

        async def another() -> AdminStore:
            opened.append(await open_store(url, base=Path("/"), key=KEY))
            return opened[-1]

        yield another
        for store in opened:
            await store.close()

    @pytest.fixture
    async def store(self, reopen: Open) -> AdminStore:
        return await reopen()

    # Transactions

    async def test_what_is_unknown_is_none(self, store: AdminStore) -> None:
        assert await store.transaction(b"x" * 16) is None
        assert await store.code("device", b"ref") is None
        assert await store.certificate(7) is None
        assert await store.certificates_of(b"x" * 16) == ()

    async def test_an_issued_transaction_comes_back_whole(self, store: AdminStore, reopen: Open) -> None:
        new = transaction(operation="kur", credential="cert:" + "ab" * 32)
        one = certificate(new)
        await store.issued(new, [one], code=None, now=NOW)
        for reader in (store, await reopen()):
            assert await reader.transaction(new.transaction_id) == new
            assert await reader.certificate(one.serial) == one
            assert await reader.certificates_of(new.transaction_id) == (one,)

    async def test_a_transaction_of_every_state_and_without_options_comes_back(self, store: AdminStore) -> None:
        for state in TransactionState:
            new = transaction(state=state, confirm_by=None)
            await store.refused(new)
            assert await store.transaction(new.transaction_id) == new

    async def test_an_ended_transaction_may_be_issued_at_once(self, store: AdminStore) -> None:
        """implicitConfirm: the certificate is valid with the first answer."""
        new = transaction(state=TransactionState.confirmed, confirm_by=None)
        one = certificate(new, status=CertificateStatus.valid)
        await store.issued(new, [one], code=None, now=NOW)
        assert await store.certificates_of(new.transaction_id) == (one,)

    async def test_certificates_come_in_the_order_of_cert_req_id(self, store: AdminStore) -> None:
        new = transaction()
        many = [certificate(new, cert_req_id=number) for number in (3, 0, 2, 1)]
        await store.issued(new, many, code=None, now=NOW)
        assert await store.certificates_of(new.transaction_id) == tuple(sorted(many, key=lambda one: one.cert_req_id))

    async def test_a_transaction_without_certificates_has_none(self, store: AdminStore) -> None:
        new = transaction(state=TransactionState.refused, confirm_by=None)
        await store.refused(new)
        assert await store.certificates_of(new.transaction_id) == ()

    @pytest.mark.parametrize(
        "transaction_id", [b"", b"\x00", b"\x00" * 16, b"\xff" * 64], ids=["empty", "0", "zeros", "long"]
    )
    async def test_transaction_ids_of_any_length_are_told_apart(self, store: AdminStore, transaction_id: bytes) -> None:
        new = transaction(transaction_id)
        await store.refused(new)
        assert await store.transaction(transaction_id) == new
        assert await store.transaction(transaction_id + b"\x00") is None

    async def test_a_transaction_id_is_taken_once(self, store: AdminStore) -> None:
        code = await make_code(store, uses=5)
        first, one = await issue(store, code.id)
        again = transaction(first.transaction_id)
        other = certificate(again)
        with pytest.raises(TransactionExists):
            await store.issued(again, [other], code=code.id, now=NOW)
        with pytest.raises(TransactionExists):
            await store.refused(again)
        assert await store.transaction(first.transaction_id) == first
        assert await store.certificates_of(first.transaction_id) == (one,)
        assert await store.certificate(other.serial) is None
        assert (await store.codes())[0].used == 1

    async def test_of_many_that_take_one_transaction_id_at_once_one_gets_it(
        self, store: AdminStore, reopen: Open
    ) -> None:
        second = await reopen()
        rivals = [transaction(b"t" * 16) for _ in range(20)]
        certificates = [certificate(rival) for rival in rivals]
        results = await asyncio.gather(
            *(
                (store, second)[number % 2].issued(rival, [one], code=None, now=NOW)
                for number, (rival, one) in enumerate(zip(rivals, certificates, strict=True))
            ),
            return_exceptions=True,
        )
        winner = results.index(None)
        assert sum(isinstance(result, TransactionExists) for result in results) == 19
        assert await store.transaction(b"t" * 16) == rivals[winner]
        assert await store.certificates(100) == [certificates[winner]]

    async def test_a_serial_number_that_is_there_already_changes_nothing(self, store: AdminStore) -> None:
        code = await make_code(store, uses=5)
        _, one = await issue(store, code.id)
        new = transaction()
        with pytest.raises(StoreUnavailable):
            await store.issued(new, [certificate(new), certificate(new, serial=one.serial)], code=code.id, now=NOW)
        assert await store.transaction(new.transaction_id) is None
        assert await store.certificates(100) == [one]
        assert (await store.codes())[0].used == 1

    @pytest.mark.parametrize("serial", [0, 1, 2**128 - 1, 2**159, 2**160 - 1])
    async def test_serial_numbers_of_up_to_twenty_octets(self, store: AdminStore, serial: int) -> None:
        """RFC 5280 §4.1.2.2."""
        new = transaction()
        one = certificate(new, serial=serial)
        await store.issued(new, [one], code=None, now=NOW)
        assert await store.certificate(serial) == one

    @pytest.mark.parametrize("serial", [-1, 2**160, 2**4000])
    async def test_serial_numbers_that_cannot_be_are_unknown(self, store: AdminStore, serial: int) -> None:
        assert await store.certificate(serial) is None
        assert await store.revoke(Revocation(serial, RevocationReason.superseded, NOW)) is False

    # advance

    async def advance(self, store: AdminStore, of: Transaction, state: TransactionState, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "seen": TransactionState.unconfirmed,
            "nonce": b"N" * 16,
            "request": b"Q" * 32,
            "reply": b"P" * 900,
        }
        await store.advance(of.transaction_id, state=state, **(fields | changes))

    async def test_a_confirmed_certificate_is_valid(self, store: AdminStore, reopen: Open) -> None:
        new, one = await issue(store)
        await self.advance(store, new, TransactionState.confirmed, confirmed=[one.serial])
        for reader in (store, await reopen()):
            assert await reader.transaction(new.transaction_id) == replace(
                new,
                state=TransactionState.confirmed,
                nonce=b"N" * 16,
                last_request=b"Q" * 32,
                last_reply=b"P" * 900,
            )
            assert await reader.certificate(one.serial) == replace(one, status=CertificateStatus.valid)

    async def test_some_confirmed_some_rejected(self, store: AdminStore) -> None:
        new = transaction()
        kept, gone = certificate(new, cert_req_id=0), certificate(new, cert_req_id=1)
        await store.issued(new, [kept, gone], code=None, now=NOW)
        revocation = Revocation(gone.serial, RevocationReason.cessationOfOperation, NOW + SECOND)
        await self.advance(store, new, TransactionState.rejected, confirmed=[kept.serial], revoked=[revocation])
        assert await store.certificates_of(new.transaction_id) == (
            replace(kept, status=CertificateStatus.valid),
            replace(
                gone,
                status=CertificateStatus.revoked,
                revoked_at=NOW + SECOND,
                reason=RevocationReason.cessationOfOperation,
            ),
        )
        assert await store.revoked("local") == (revocation,)
        assert (await store.crl_state("local", CA)).revocations == 1

    @pytest.mark.parametrize("first", ["confirmed", "rejected"])
    async def test_confirmed_and_rejected_at_once_is_one_of_the_two(self, store: AdminStore, first: str) -> None:
        """Both may share a commit: what has lost has no effect at all."""
        new, one = await issue(store)
        both: dict[str, dict[str, Any]] = {
            "confirmed": {"confirmed": [one.serial]},
            "rejected": {"revoked": [Revocation(one.serial, RevocationReason.unspecified, NOW)]},
        }
        calls = [
            self.advance(store, new, TransactionState(name), request=name.encode() * 4, **both[name])
            for name in sorted(both, key=lambda name: name != first)
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [TransactionMoved]
        moved, found = await store.transaction(new.transaction_id), await store.certificate(one.serial)
        assert moved is not None
        assert found is not None
        assert moved.last_request == moved.state.value.encode() * 4
        assert found.status.value == {"confirmed": "valid", "rejected": "revoked"}[moved.state.value]

    async def test_a_transaction_that_is_not_in_the_seen_state_stays(self, store: AdminStore) -> None:
        new, one = await issue(store)
        await self.advance(store, new, TransactionState.confirmed, confirmed=[one.serial])
        moved = await store.transaction(new.transaction_id)
        with pytest.raises(TransactionMoved):
            await self.advance(
                store,
                new,
                TransactionState.rejected,
                nonce=b"X" * 16,
                revoked=[Revocation(one.serial, RevocationReason.unspecified, NOW)],
            )
        assert await store.transaction(new.transaction_id) == moved
        assert await store.certificate(one.serial) == replace(one, status=CertificateStatus.valid)
        with pytest.raises(TransactionMoved):
            await self.advance(store, transaction(), TransactionState.confirmed)

    async def test_of_many_that_move_a_transaction_at_once_one_does(self, store: AdminStore, reopen: Open) -> None:
        second = await reopen()
        new, _ = await issue(store)
        results = await asyncio.gather(
            *(
                self.advance((store, second)[number % 2], new, TransactionState.confirmed, nonce=bytes([number]))
                for number in range(20)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(result, TransactionMoved) for result in results) == 19
        moved = await store.transaction(new.transaction_id)
        assert moved is not None
        assert moved.nonce == bytes([results.index(None)])

    async def test_a_certificate_revoked_meanwhile_does_not_become_valid(self, store: AdminStore) -> None:
        new, one = await issue(store)
        assert await store.revoke(Revocation(one.serial, RevocationReason.keyCompromise, NOW))
        await self.advance(store, new, TransactionState.confirmed, confirmed=[one.serial])
        kept = await store.certificate(one.serial)
        assert kept is not None
        assert kept.status is CertificateStatus.revoked

    # Enrollment codes

    async def test_a_code_comes_back_with_its_secret(self, store: AdminStore, reopen: Open) -> None:
        made = await make_code(store, "Gerät-7", secret=b"\x00\xffsecret", uses=3, expires=NOW + 60 * SECOND)
        assert made.secret == b"\x00\xffsecret"
        assert (made.uses, made.used, made.created, made.expires) == (3, 0, NOW, NOW + 60 * SECOND)
        for reader in (store, await reopen()):
            assert await reader.code("device", "Gerät-7".encode()) == made

    async def test_a_code_is_found_by_its_own_profile_and_reference_only(self, store: AdminStore) -> None:
        await make_code(store, "ref")
        assert await store.code("other", b"ref") is None
        assert await store.code("device", b"re") is None
        assert await store.code("device", b"REF") is None
        assert await store.code("device", b"ref\x00") is None
        assert await store.code("device", b"\xff\xfe not UTF-8") is None

    async def test_a_reference_is_taken_once_in_a_profile(self, store: AdminStore) -> None:
        made = await make_code(store, "ref")
        with pytest.raises(ReferenceTaken):
            await make_code(store, "ref", secret=b"another")
        assert await store.code("device", b"ref") == made
        other = await store.create_code("server", "ref", b"another", None, None, NOW)
        assert other.id != made.id
        assert await store.code("server", b"ref") == other

    async def test_codes_are_listed_without_their_secrets(self, store: AdminStore) -> None:
        first = await make_code(store, "a")
        second = await store.create_code("server", "b", b"other", None, None, NOW)
        assert await store.codes() == [replace(first, secret=b""), replace(second, secret=b"")]
        assert await store.codes("server") == [replace(second, secret=b"")]
        assert await store.codes("none") == []

    async def test_a_use_is_counted(self, store: AdminStore) -> None:
        code = await make_code(store, uses=2)
        await issue(store, code.id)
        found = await store.code("device", b"ref")
        assert found is not None
        assert found.used == 1

    async def test_nothing_of_a_call_with_an_unusable_code_is_kept(self, store: AdminStore) -> None:
        used_up = await make_code(store, "used")
        await issue(store, used_up.id)
        early = await make_code(store, "early", valid_from=NOW + SECOND)
        revoked = await make_code(store, "revoked")
        assert await store.revoke_code("device", "revoked", NOW) is True
        expired = await make_code(store, "expired", expires=NOW)
        before = await store.codes()
        for code in (used_up.id, early.id, revoked.id, expired.id, 4711):
            new = transaction()
            one = certificate(new)
            with pytest.raises(CodeUnusable):
                await store.issued(new, [one], code=code, now=NOW)
            assert await store.transaction(new.transaction_id) is None
            assert await store.certificate(one.serial) is None
            await store.refused(new)  # the transactionID is free
        assert await store.codes() == before

    async def test_a_code_is_good_until_the_second_it_expires(self, store: AdminStore) -> None:
        code = await make_code(store, uses=None, expires=NOW + SECOND)
        new = transaction()
        await store.issued(new, [], code=code.id, now=NOW + timedelta(milliseconds=999))
        new = transaction()
        with pytest.raises(CodeUnusable):
            await store.issued(new, [], code=code.id, now=NOW + SECOND)

    async def test_a_code_is_good_from_the_second_it_begins(self, store: AdminStore) -> None:
        code = await make_code(store, uses=None, valid_from=NOW + SECOND)
        with pytest.raises(CodeUnusable):
            await store.issued(transaction(), [], code=code.id, now=NOW + timedelta(milliseconds=999))
        await store.issued(transaction(), [], code=code.id, now=NOW + SECOND)

    async def test_what_a_code_is_bound_to_comes_back(self, store: AdminStore, reopen: Open) -> None:
        bound: dict[str, Any] = {
            "valid_from": NOW + 10 * SECOND,
            "seat": "Gerät-7",
            "subject": r"CN=pump-[0-9]+,O=Example",
            "san": (r"dns:pump-[0-9]+\.example", "ip:.*"),
            "key": "0a" * 32,
        }
        made = await make_code(store, **bound)
        assert {name: getattr(made, name) for name in bound} == bound
        assert (made.is_global, made.locked_until, made.locks) == (False, None, 0)
        for reader in (store, await reopen()):
            assert await reader.code("device", b"ref") == made
            assert await reader.codes() == [replace(made, secret=b"")]

    async def test_the_newest_global_code_that_is_not_revoked_is_found(self, store: AdminStore, reopen: Open) -> None:
        """Usable or not; by its reference it is found like any other."""
        await make_code(store, "own")
        assert await store.global_code("device") is None
        first = await make_code(store, "first", uses=None, is_global=True)
        assert first.is_global
        second = await make_code(store, "second", secret=b"other", expires=NOW, is_global=True)
        await store.create_code("server", "third", b"x" * 9, None, None, NOW, is_global=True)
        for reader in (store, await reopen()):
            assert await reader.global_code("device") == second
            assert await reader.code("device", b"first") == first
            assert await reader.global_code("nothing") is None
        await store.revoke_code("device", "second", NOW)
        assert await store.global_code("device") == first
        await store.revoke_code("device", "first", NOW)
        assert await store.global_code("device") is None

    async def test_a_lock_never_gets_shorter_and_locks_no_other_code(self, store: AdminStore, reopen: Open) -> None:
        made, other = await make_code(store, "a"), await make_code(store, "b")

        async def found(reader: AdminStore) -> tuple[datetime | None, int]:
            code = await reader.code("device", b"a")
            assert code is not None
            return code.locked_until, code.locks

        await store.lock_code(made.id, until=NOW + 60 * SECOND, locks=1)
        second = await reopen()
        assert await found(second) == (NOW + 60 * SECOND, 1)
        await second.lock_code(made.id, until=NOW + 30 * SECOND, locks=1)
        assert await found(store) == (NOW + 60 * SECOND, 1)
        await store.lock_code(made.id, until=NOW + 120 * SECOND, locks=2)
        await store.lock_code(made.id, until=NOW + 90 * SECOND, locks=1)
        assert await found(second) == (NOW + 120 * SECOND, 2)
        assert await store.code("device", b"b") == other
        await store.lock_code(4711, until=FAR, locks=9)

    async def test_a_code_that_is_consumed_has_no_more_locks(self, store: AdminStore) -> None:
        made = await make_code(store, uses=2)
        await store.lock_code(made.id, until=NOW, locks=5)
        await issue(store, made.id)
        assert await store.code("device", b"ref") == replace(made, used=1)

    async def test_a_lock_that_has_begun_meanwhile_outlives_the_use_of_its_code(self, store: AdminStore) -> None:
        """A right MAC that was looked at before the lock must not let the guesser go on, at any node."""
        made = await make_code(store, uses=2)
        await store.lock_code(made.id, until=NOW + SECOND, locks=5)
        await issue(store, made.id)
        assert await store.code("device", b"ref") == replace(made, used=1, locked_until=NOW + SECOND, locks=5)

    async def test_a_code_is_unlocked(self, store: AdminStore) -> None:
        made = await make_code(store)
        assert await store.unlock_code("device", "ref") is False
        await store.lock_code(made.id, until=FAR, locks=5)
        assert await store.unlock_code("server", "ref") is False
        assert await store.unlock_code("device", "ref") is True
        assert await store.code("device", b"ref") == made
        assert await store.unlock_code("device", "ref") is False

    async def test_a_use_is_given_back_with_the_transaction(self, store: AdminStore) -> None:
        """In the same commit: a transaction that has moved already gives nothing back a second time."""
        made = await make_code(store)
        new, one = await issue(store, made.id)
        change: dict[str, Any] = {
            "give_back": made.id,
            "revoked": [Revocation(one.serial, RevocationReason.cessationOfOperation, NOW)],
        }
        await self.advance(store, new, TransactionState.rejected, **change)
        assert (await store.codes())[0].used == 0
        other, _ = await issue(store, made.id)
        with pytest.raises(TransactionMoved):
            await self.advance(store, new, TransactionState.rejected, **change)
        assert (await store.codes())[0].used == 1
        await self.advance(store, other, TransactionState.confirmed)
        assert (await store.codes())[0].used == 1

    async def test_no_more_uses_are_given_back_than_were_taken(self, store: AdminStore) -> None:
        made = await make_code(store)
        new, _ = await issue(store)
        await self.advance(store, new, TransactionState.rejected, give_back=made.id)
        assert (await store.codes())[0].used == 0

    async def test_many_codes_are_made_in_one_call(self, store: AdminStore, reopen: Open) -> None:
        new = [
            NewCode("device", f"n-{number}", b"secret %d" % number, uses=number or None, seat=f"seat {number}")
            for number in range(1200)
        ]
        told: list[int] = []
        await store.create_codes(new, NOW, progress=told.append)
        assert told == sorted(told)
        assert told[-1] == 1200
        second = await reopen()
        assert [(one.reference, one.uses, one.seat) for one in await second.codes()] == [
            (one.reference, one.uses, one.seat) for one in new
        ]
        for number in (0, 1199):
            found = await second.code("device", b"n-%d" % number)
            assert found is not None
            assert (found.secret, found.created) == (b"secret %d" % number, NOW)
        await store.create_codes([], NOW)

    async def test_of_many_codes_all_are_made_or_none(self, store: AdminStore) -> None:
        """And every reference that is in the way is named, also one that is there twice."""
        await make_code(store, "b")
        await make_code(store, "c")
        await store.create_code("server", "a", b"x", 1, None, NOW)
        before = await store.codes()
        new = [NewCode("device", reference, b"secret") for reference in "abcdd"]
        with pytest.raises(ReferencesTaken) as raised:
            await store.create_codes(new, NOW)
        assert raised.value.taken == (("device", "b"), ("device", "c"), ("device", "d"))
        assert "secret" not in str(raised.value)
        assert await store.codes() == before
        await store.create_codes([new[0], new[3]], NOW)

    async def test_codes_are_exported_with_their_secrets_when_wanted(self, store: AdminStore) -> None:
        first = await make_code(store, "a", secret=b"one")
        second = await make_code(store, "b", secret=b"two")
        third = await store.create_code("server", "c", b"three", None, None, NOW)
        assert await store.codes_with_secrets() == [first, second, third]
        assert await store.codes_with_secrets("device") == [first, second]
        asked: list[EnrollmentCode] = []

        def wanted(code: EnrollmentCode) -> bool:
            asked.append(code)
            return code.reference == "b"

        assert await store.codes_with_secrets("device", wanted=wanted) == [second]
        assert [code.secret for code in asked] == [b"", b""]

    # Service users

    async def test_a_service_user_is_known_by_fingerprint_or_by_issuer_and_subject(
        self, store: AdminStore, reopen: Open
    ) -> None:
        def is_one(user: str, fingerprint: str, issuer: bytes = b"I", subject: bytes = b"S") -> Awaitable[bool]:
            return second.is_service_user(user, fingerprint * 32, issuer, subject)

        second = await reopen()
        by_print = ServiceUserCertificate("gateway", NOW, fingerprint="ab" * 32, label="CN=gateway")
        by_names = ServiceUserCertificate("gateway", NOW + SECOND, issuer=b"CA", subject=b"gateway")
        both = ServiceUserCertificate("other", NOW, "ee" * 32, b"CA", b"both")
        for entry in (by_print, by_names, both):
            assert await store.add_service_user(entry) is True
        assert await store.add_service_user(replace(by_print, label="again", added=FAR)) is False
        assert await store.add_service_user(replace(by_names, label="again")) is False
        assert await second.service_users() == [by_print, by_names, both]
        assert await second.service_users("other") == [both]
        assert await second.service_users("nobody") == []
        assert await is_one("gateway", "ab")
        assert await is_one("gateway", "00", b"CA", b"gateway")
        assert not await is_one("gateway", "00")
        assert not await is_one("gateway", "00", b"CA")
        assert not await is_one("gateway", "00", b"I", b"gateway")
        assert not await is_one("other", "ab", b"CA", b"gateway")
        assert await is_one("other", "ee")
        assert not await is_one("other", "00", b"CA", b"both"), "with a fingerprint it is that certificate only"
        assert not await is_one("Gateway", "ab")

    async def test_certificates_of_a_service_user_are_removed_one_by_one_or_all(self, store: AdminStore) -> None:
        for digit in "abc":
            await store.add_service_user(ServiceUserCertificate("gateway", NOW, fingerprint=digit * 64))
            await store.add_service_user(ServiceUserCertificate("other", NOW, fingerprint=digit * 64))
        await store.add_service_user(ServiceUserCertificate("gateway", NOW, issuer=b"CA", subject=b"x"))
        await store.add_service_user(ServiceUserCertificate("gateway", NOW, issuer=b"CA", subject=b"y"))
        assert await store.remove_service_user("gateway", "d" * 64) == 0
        assert await store.remove_service_user("gateway", "a" * 64) == 1
        assert await store.remove_service_user("gateway", issuer=b"CA", subject=b"x") == 1
        assert await store.remove_service_user("gateway", issuer=b"CA") == 0
        assert not await store.is_service_user("gateway", "a" * 64, b"CA", b"x")
        assert await store.is_service_user("other", "a" * 64, b"CA", b"x")
        assert await store.remove_service_user("gateway") == 3
        assert await store.remove_service_user("gateway") == 0
        assert len(await store.service_users()) == 3

    async def test_a_service_user_certificate_must_say_which(self, store: AdminStore) -> None:
        for entry in (ServiceUserCertificate("x", NOW), ServiceUserCertificate("x", NOW, issuer=b"CA")):
            with pytest.raises(ValueError, match="fingerprint"):
                await store.add_service_user(entry)
        assert await store.service_users() == []

    # Devices

    async def test_devices_are_imported_and_changed(self, store: AdminStore, reopen: Open) -> None:
        first = Device("device", "4711", NOW, "seat-1", "CN=4711,O=Example")
        second = Device("device", "0815", NOW)
        assert await store.import_devices("device", [first, second]) == (2, 0)
        assert await store.import_devices("server", [first]) == (1, 0)
        reader = await reopen()
        assert await reader.device("device", "4711") == first
        assert await reader.device("device", "0815") == second
        assert await reader.device("server", "4711") == replace(first, profile="server")
        assert await reader.device("server", "0815") is None
        changed = replace(second, seat="seat-2")
        third = Device("device", "9", FAR)
        assert await store.import_devices("device", [first, replace(changed, added=FAR), third]) == (1, 1)
        assert await reader.devices("device", 10) == [changed, first, third]
        assert await reader.devices("device", 2) == [changed, first]
        assert await store.import_devices("device", []) == (0, 0)
        assert await store.remove_device("device", "9") is True
        assert await store.remove_device("device", "9") is False
        assert await reader.device("device", "9") is None
        assert await reader.device("server", "4711") is not None

    async def test_a_code_is_revoked_once(self, store: AdminStore) -> None:
        await make_code(store)
        assert await store.revoke_code("device", "nobody", NOW) is False
        assert await store.revoke_code("other", "ref", NOW) is False
        assert await store.revoke_code("device", "ref", NOW) is True
        assert await store.revoke_code("device", "ref", NOW) is False
        found = await store.code("device", b"ref")
        assert found is not None
        assert found.revoked
        assert found.refusal(NOW) is not None

    @pytest.mark.parametrize("uses", [1, 7])
    async def test_a_code_of_n_uses_is_good_for_n_of_fifty_at_once(self, store: AdminStore, uses: int) -> None:
        code = await make_code(store, uses=uses)
        assert await attempt(store, code.id, 50) == uses
        assert (await store.codes())[0].used == uses
        assert len(await store.certificates(100)) == uses

    async def test_of_fifty_in_two_stores_that_race_for_one_use_one_wins(self, store: AdminStore, reopen: Open) -> None:
        second = await reopen()
        for number in range(3):
            code = await make_code(store, f"ref-{number}")
            won = await asyncio.gather(attempt(store, code.id, 25), attempt(second, code.id, 25))
            assert sum(won) == 1
            assert (await second.codes())[number].used == 1
        assert len(await store.certificates(100)) == 3

    async def test_a_code_without_limit_is_good_for_all(self, store: AdminStore) -> None:
        code = await make_code(store, uses=None)
        assert await attempt(store, code.id, 50) == 50
        assert (await store.codes())[0].used == 50

    @pytest.mark.parametrize("uses", [1, 7])
    async def test_a_code_of_n_uses_is_good_for_n_across_processes(
        self, store: AdminStore, url: str, uses: int
    ) -> None:
        code = await make_code(store, uses=uses)
        command = f"from tests.contract.store import contend; contend({url!r}, {code.id}, 50)"
        rivals = [
            subprocess.Popen(
                [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            for _ in range(2)
        ]
        for rival in rivals:
            assert rival.stdout is not None
            assert rival.stdout.readline() == "there\n"
        for rival in rivals:
            assert rival.stdin is not None
            rival.stdin.write("go\n")
            rival.stdin.flush()
        succeeded = await attempt(store, code.id, 50)
        for rival in rivals:
            output, _ = await asyncio.to_thread(rival.communicate)
            assert rival.returncode == 0
            succeeded += json.loads(output)
        assert succeeded == uses
        assert (await store.codes())[0].used == uses
        assert len(await store.certificates(1000)) == uses

    # expire, forget

    async def test_an_overdue_transaction_expires_and_its_certificates_are_revoked(self, store: AdminStore) -> None:
        new = transaction(confirm_by=NOW + 60 * SECOND)
        pair = [certificate(new, cert_req_id=number) for number in (0, 1)]
        await store.issued(new, pair, code=None, now=NOW)
        later, _ = await issue(store, confirm_by=NOW + 61 * SECOND)
        assert await store.expire(NOW + 59 * SECOND) == ()
        serials = (pair[0].serial, pair[1].serial)
        assert await store.expire(NOW + 60 * SECOND) == (Expired(new.transaction_id, "device", serials),)
        assert await store.expire(NOW + 60 * SECOND) == ()
        assert await store.transaction(new.transaction_id) == replace(new, state=TransactionState.expired)
        assert await store.transaction(later.transaction_id) == later
        for one in pair:
            assert await store.certificate(one.serial) == replace(
                one,
                status=CertificateStatus.revoked,
                revoked_at=NOW + 60 * SECOND,
                reason=RevocationReason.unspecified,
            )
        assert {one.serial for one in await store.revoked("local")} == set(serials)
        assert (await store.crl_state("local", CA)).revocations == 2
        with pytest.raises(TransactionMoved):
            await self.advance(store, new, TransactionState.confirmed)

    async def test_expire_leaves_what_has_ended_or_has_no_deadline(self, store: AdminStore) -> None:
        confirmed, _ = await issue(store)
        await self.advance(store, confirmed, TransactionState.confirmed)
        await store.refused(transaction(state=TransactionState.refused))
        await issue(store, confirm_by=None)
        assert await store.expire(FAR) == ()

    async def test_expire_names_only_the_serials_it_has_revoked(self, store: AdminStore) -> None:
        new = transaction()
        revoked, left = certificate(new, cert_req_id=0), certificate(new, cert_req_id=1)
        await store.issued(new, [revoked, left], code=None, now=NOW)
        await store.revoke(Revocation(revoked.serial, RevocationReason.keyCompromise, NOW))
        assert await store.expire(FAR) == (Expired(new.transaction_id, "device", (left.serial,)),)
        kept = await store.certificate(revoked.serial)
        assert kept is not None
        assert (kept.reason, kept.revoked_at) == (RevocationReason.keyCompromise, NOW)

    async def test_a_great_many_overdue_transactions_expire_in_several_calls(self, store: AdminStore) -> None:
        await asyncio.gather(*(issue(store) for _ in range(250)))
        calls = []
        while ended := await store.expire(FAR):
            calls.append(len(ended))
        assert sum(calls) == 250
        assert len(calls) > 1
        assert (await store.crl_state("local", CA)).revocations == 250

    async def test_old_ended_transactions_are_forgotten_but_not_their_certificates(self, store: AdminStore) -> None:
        old, one = await issue(store, created=NOW - 2 * SECOND)
        await self.advance(store, old, TransactionState.confirmed, confirmed=[one.serial])
        waiting, _ = await issue(store, created=NOW - 2 * SECOND)
        recent = transaction(state=TransactionState.refused)
        await store.refused(recent)
        assert await store.forget(NOW - 2 * SECOND) == 0
        assert await store.forget(NOW) == 1
        assert await store.transaction(old.transaction_id) is None
        assert await store.certificates_of(old.transaction_id) == ()
        assert await store.certificate(one.serial) == replace(one, status=CertificateStatus.valid)
        assert await store.transaction(waiting.transaction_id) == waiting
        assert await store.transaction(recent.transaction_id) == recent

    async def test_a_great_many_are_forgotten_and_those_who_wait_do_not_hinder(self, store: AdminStore) -> None:
        """More transactions in the way than one step looks at, while others write."""
        await asyncio.gather(*(issue(store, created=NOW - SECOND) for _ in range(230)))
        ended = [transaction(state=TransactionState.refused, created=NOW - SECOND) for _ in range(230)]
        await asyncio.gather(*(store.refused(one) for one in ended))
        forgotten, *_ = await asyncio.gather(store.forget(NOW), *(issue(store) for _ in range(20)))
        assert forgotten == 230
        assert await store.transaction(ended[-1].transaction_id) is None
        assert await store.forget(NOW) == 0

    # Revocation

    async def test_a_certificate_is_revoked_once(self, store: AdminStore, reopen: Open) -> None:
        _, one = await issue(store)
        assert (await store.crl_state("local", CA)).revocations == 0
        revocation = Revocation(one.serial, RevocationReason.keyCompromise, NOW + SECOND)
        assert await store.revoke(revocation) is True
        assert await store.revoke(Revocation(one.serial, RevocationReason.superseded, NOW + 2 * SECOND)) is False
        assert await store.revoke(Revocation(4711, RevocationReason.superseded, NOW)) is False
        for reader in (store, await reopen()):
            assert await reader.certificate(one.serial) == replace(
                one,
                status=CertificateStatus.revoked,
                revoked_at=NOW + SECOND,
                reason=RevocationReason.keyCompromise,
            )
            assert await reader.revoked("local") == (revocation,)
            assert (await reader.crl_state("local", CA)).revocations == 1

    async def test_revocations_are_kept_apart_by_issuer_and_left_out_once_expired(self, store: AdminStore) -> None:
        new = transaction()
        ours = certificate(new, cert_req_id=0)
        theirs = certificate(new, cert_req_id=1, issuer="upstream")
        past = certificate(new, cert_req_id=2, not_after=datetime(2020, 1, 1, tzinfo=UTC))
        await store.issued(new, [ours, theirs, past], code=None, now=NOW)
        for one in (ours, theirs, past):
            await store.revoke(Revocation(one.serial, RevocationReason.superseded, NOW))
        assert [one.serial for one in await store.revoked("local")] == [ours.serial]
        assert [one.serial for one in await store.revoked("upstream")] == [theirs.serial]
        assert await store.revoked("nobody") == ()
        assert (await store.crl_state("local", CA)).revocations == 2
        assert (await store.crl_state("upstream", CA)).revocations == 1
        assert (await store.crl_state("nobody", CA)).revocations == 0

    async def test_crl_numbers_only_grow(self, store: AdminStore, reopen: Open) -> None:
        """RFC 5280 §5.2.3: monotonically increasing, across restarts and processes, each issuer its own."""
        numbers = [await store.next_crl_number("local") for _ in range(3)]
        second = await reopen()
        numbers += [await second.next_crl_number("local"), await store.next_crl_number("local")]
        await second.close()
        await store.close()
        third = await reopen()
        numbers += await asyncio.gather(*(third.next_crl_number("local") for _ in range(20)))
        assert numbers == sorted(set(numbers))
        assert min(numbers) > 0
        assert await third.next_crl_number("other") < numbers[-1]

    async def test_a_crl_is_kept_for_all_as_it_was_made(self, store: AdminStore, reopen: Open) -> None:
        assert await store.crl_state("local", CA) == CRLState(0, 0)
        assert await store.crl("local", CA) is None
        made = kept_crl(await store.next_crl_number("local"), der=bytes(range(256)) * 1000)
        assert await store.keep_crl("local", CA, made, seen=0)
        for reader in (store, await reopen()):
            assert await reader.crl_state("local", CA) == CRLState(0, made.number)
            assert await reader.crl("local", CA) == made
            assert await reader.crl("other", CA) is None
            assert await reader.crl_state("other", CA) == CRLState(0, 0)
        _, one = await issue(store)
        await store.revoke(Revocation(one.serial, RevocationReason.keyCompromise, NOW))
        assert await store.crl_state("local", CA) == CRLState(1, made.number)

    async def test_a_crl_is_kept_in_place_of_the_one_that_was_seen(self, store: AdminStore, reopen: Open) -> None:
        first, second, late = [kept_crl(await store.next_crl_number("local")) for _ in range(3)]
        assert await store.keep_crl("local", CA, first, seen=0)
        assert not await store.keep_crl("local", CA, late, seen=0)
        assert not await store.keep_crl("local", CA, late, seen=second.number)
        assert await store.crl("local", CA) == first
        other = await reopen()
        assert await other.keep_crl("local", CA, second, seen=first.number)
        assert not await store.keep_crl("local", CA, late, seen=first.number)
        assert await store.crl("local", CA) == second

    async def test_of_several_who_keep_a_crl_at_once_one_does(self, store: AdminStore, reopen: Open) -> None:
        stores = [store, await reopen(), await reopen()]
        seen = 0
        for _ in range(5):
            numbers = [await one.next_crl_number("local") for one in stores]
            made = [kept_crl(number) for number in numbers]
            kept = await asyncio.gather(
                *(one.keep_crl("local", CA, crl, seen=seen) for one, crl in zip(stores, made, strict=True))
            )
            assert sum(kept) == 1
            (winner,) = [crl for crl, won in zip(made, kept, strict=True) if won]
            assert [await one.crl("local", CA) for one in stores] == [winner] * 3
            assert winner.number > seen
            seen = winner.number

    async def test_each_issuing_certificate_has_its_own_crl_until_that_has_ended(self, store: AdminStore) -> None:
        """The key of a CA is replaced; its old CRL is of no use to anybody when it has ended."""
        old, other = kept_crl(await store.next_crl_number("local")), kept_crl(1)
        assert await store.keep_crl("local", CA, old, seen=0)
        assert await store.keep_crl("other", CA, other, seen=0)
        new_ca = CA[::-1]
        assert await store.crl_state("local", new_ca) == CRLState(0, 0)
        assert await store.crl("local", new_ca) is None
        new = kept_crl(await store.next_crl_number("local"), NOW + SECOND)
        assert new.number > old.number
        assert await store.keep_crl("local", new_ca, new, seen=0)
        assert await store.crl("local", CA) == old
        newer = kept_crl(await store.next_crl_number("local"), old.next_update)
        assert await store.keep_crl("local", new_ca, newer, seen=new.number)
        assert await store.crl("local", CA) is None
        assert await store.crl("local", new_ca) == newer
        assert await store.crl("other", CA) == other

    # Certificates, for the operator

    async def test_certificates_are_listed_newest_first(self, store: AdminStore) -> None:
        made = [(await issue(store, profile=profile))[1] for profile in ("device", "server", "device")]
        await store.revoke(Revocation(made[0].serial, RevocationReason.superseded, NOW))
        everything = [one.serial for one in await store.certificates(10)]
        assert everything == [one.serial for one in reversed(made)]
        assert [one.serial for one in await store.certificates(2)] == everything[:2]
        assert [one.serial for one in await store.certificates(10, "server")] == [made[1].serial]
        found = await store.certificates(10, "device", CertificateStatus.revoked)
        assert [one.serial for one in found] == [made[0].serial]
        assert await store.certificates(10, status=CertificateStatus.valid) == []

    # Seats

    async def test_seats_are_recorded_with_their_certificates(self, store: AdminStore, reopen: Open) -> None:
        first = await seated(store, "a@example.com")
        other = await seated(store, "a@example.com", profile="server")
        await seated(store, None)
        later = NOW + 5 * SECOND
        second = await seated(store, "b@example.com", now=later)
        third = await seated(store, "a@example.com", now=later, not_after=NOW)
        a = Seat("device", "a@example.com", NOW, later, 2)
        b = Seat("device", "b@example.com", later, later, 1)
        elsewhere = Seat("server", "a@example.com", NOW, NOW, 1)
        for reader in (store, await reopen()):
            assert await reader.seats(10) == [a, b, elsewhere]
            assert await reader.seats(2) == [a, b]
            assert await reader.seats(10, "server") == [elsewhere]
            assert await reader.seat("device", "a@example.com") == (a, [third, first])
            assert await reader.seat("device", "b@example.com") == (b, [second])
            assert await reader.seat("server", "a@example.com") == (elsewhere, [other])
            assert await reader.seat("server", "b@example.com") is None
            assert await reader.seat("device", "A@example.com") is None
            assert (await reader.certificate(first.serial)) == first

    # Conditions

    async def test_a_key_in_force_gets_no_other_certificate(self, store: AdminStore, reopen: Open) -> None:
        """Whatever profile, seat and issuer it has; the refused call leaves nothing, and its code is not used."""
        code = await make_code(store, uses=5)
        one = await seated(store, key="k", profile="server", issuer="upstream")
        for reader in (store, await reopen()):
            unmet = await reader.unmet("device", None, spki_sha256("k"), ONE_KEY_ONCE, NOW)
            assert unmet is not None
            assert (unmet.condition, unmet.serial, unmet.until) == (Condition.new_key, one.serial, one.not_after)
            assert await reader.unmet("device", None, spki_sha256("other"), ONE_KEY_ONCE, NOW) is None
            with pytest.raises(Unmet, match="new_key"):
                await seated(reader, key="k", code=code.id)
        assert await store.certificates(10) == [one]
        assert (await store.codes())[0].used == 0
        await seated(store, key="k", conditions=Conditions())
        await seated(store, key="other")

    async def test_a_key_is_free_again_when_its_certificate_has_ended(self, store: AdminStore) -> None:
        one = await seated(store, key="expired", not_after=NOW + SECOND)
        assert await store.unmet("device", None, spki_sha256("expired"), ONE_KEY_ONCE, NOW + SECOND) is not None
        assert await store.unmet("device", None, spki_sha256("expired"), ONE_KEY_ONCE, NOW + 2 * SECOND) is None
        await seated(store, key="expired", now=NOW + 2 * SECOND)
        one = await seated(store, key="superseded")
        await store.revoke(Revocation(one.serial, RevocationReason.superseded, NOW))
        await seated(store, key="superseded")

    @pytest.mark.parametrize("conditions", [Conditions(), ONE_KEY_ONCE])
    async def test_a_compromised_key_never_gets_another_certificate(
        self, store: AdminStore, conditions: Conditions
    ) -> None:
        one = await seated(store, key="k", not_after=NOW + SECOND)
        await seated(store, key="k", conditions=Conditions())
        await store.revoke(Revocation(one.serial, RevocationReason.keyCompromise, NOW))
        unmet = await store.unmet("device", None, spki_sha256("k"), conditions, FAR)
        assert unmet is not None
        assert (unmet.condition, unmet.serial, unmet.until) == (Condition.compromised_key, one.serial, None)
        with pytest.raises(Unmet, match="compromised_key"):
            await seated(store, key="k", conditions=conditions, now=FAR)
        new = transaction()
        with pytest.raises(Unmet, match="compromised_key"):
            await store.issued(new, [certificate(new, der=certificate_der("k"))], code=None, now=NOW)

    async def test_a_seat_alone_has_one_certificate_in_force(self, store: AdminStore) -> None:
        one = await seated(store, conditions=ALONE)
        with pytest.raises(Unmet, match="alone_in_seat") as raised:
            await seated(store, conditions=ALONE)
        found = raised.value
        assert (found.seat, found.serial, found.until) == ("user@example.com", one.serial, one.not_after)
        assert await store.unmet("device", "user@example.com", bytes(32), ALONE, NOW) is not None
        assert await store.unmet("device", "other@example.com", bytes(32), ALONE, NOW) is None
        assert await store.unmet("device", None, bytes(32), ALONE, NOW) is None
        assert await store.unmet("server", "user@example.com", bytes(32), ALONE, NOW) is None
        updated = await seated(store, conditions=replace(ALONE, updates=one.serial))
        with pytest.raises(Unmet):  # the first and its update are two in force now
            await seated(store, conditions=replace(ALONE, updates=one.serial))
        for serial in (one.serial, updated.serial):
            await store.revoke(Revocation(serial, RevocationReason.superseded, NOW))
        last = await seated(store, conditions=ALONE, not_after=NOW + SECOND)
        with pytest.raises(Unmet):
            await seated(store, conditions=ALONE, now=last.not_after)
        await seated(store, conditions=ALONE, now=last.not_after + SECOND)

    async def test_a_seat_has_so_many_certificates_in_force(self, store: AdminStore) -> None:
        two = Conditions(per_seat=2)
        first = await seated(store, conditions=two, not_after=FAR - SECOND)
        await seated(store, conditions=two)
        with pytest.raises(Unmet, match="per_seat") as raised:
            await seated(store, conditions=two)
        assert (raised.value.serial, raised.value.until) == (first.serial, FAR - SECOND)
        await seated(store, "other@example.com", two)
        await seated(store, conditions=replace(two, updates=first.serial))
        with pytest.raises(Unmet, match="alone_in_seat"):
            await seated(store, conditions=replace(ALONE, per_seat=2))

    async def test_a_profile_issues_so_many_certificates_a_day(self, store: AdminStore, reopen: Open) -> None:
        """Days are those of UTC; what was issued before the budget was made counts, other profiles do not."""
        two = Conditions(per_day=2)
        midnight = datetime(2026, 7, 2, tzinfo=UTC)
        await seated(store, now=NOW - timedelta(days=1))
        await seated(store)
        await seated(store, profile="server")
        await seated(store, conditions=two)
        for reader in (store, await reopen()):
            with pytest.raises(Unmet, match="per_day") as raised:
                await seated(reader, conditions=two, now=midnight - SECOND)
            assert raised.value.until == midnight
            unmet = await reader.unmet("device", None, bytes(32), two, midnight - SECOND)
            assert unmet is not None
            assert unmet.until == midnight
        await seated(store, profile="server", conditions=two)
        assert await store.unmet("device", None, bytes(32), two, midnight) is None
        assert await store.unmet("device", None, bytes(32), two, midnight, others=1) is None
        assert await store.unmet("device", None, bytes(32), two, midnight, others=2) is not None
        await seated(store, conditions=two, now=midnight)
        await seated(store, conditions=two, now=midnight)
        with pytest.raises(Unmet):
            await seated(store, conditions=two, now=midnight)

    async def test_the_certificates_of_one_call_count_for_each_other(self, store: AdminStore) -> None:
        async def pair(conditions: Conditions, keys: str = "ab", seats: str = "ab") -> None:
            new = transaction()
            both = [
                certificate(new, cert_req_id=number, der=certificate_der(f"{new.nonce!r}{key}"), seat=seat)
                for number, (key, seat) in enumerate(zip(keys, seats, strict=True))
            ]
            await store.issued(new, both, code=None, now=NOW, conditions=[conditions] * 2)

        for conditions, kind in (
            (ONE_KEY_ONCE, {"keys": "aa"}),
            (ALONE, {"seats": "cc"}),
            (Conditions(per_seat=1), {"seats": "cc"}),
            (Conditions(per_day=1), {}),
        ):
            with pytest.raises(Unmet):
                await pair(conditions, **kind)
        assert await store.certificates(10) == []
        await pair(Conditions(new_key=True, alone_in_seat=True, per_seat=1, per_day=2))
        assert len(await store.certificates(10)) == 2

    @pytest.mark.parametrize(
        "conditions",
        [ONE_KEY_ONCE, ALONE, Conditions(per_seat=1), Conditions(per_day=1)],
        ids=["key", "alone", "seat", "day"],
    )
    async def test_of_many_at_once_one_is_let(self, store: AdminStore, reopen: Open, conditions: Conditions) -> None:
        """The key, the seat or the budget is taken in the commit; looking ahead decides nothing."""
        second = await reopen()
        results = await asyncio.gather(
            *(seated((store, second)[number % 2], conditions=conditions, key="k") for number in range(30)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, Unmet) for result in results) == 29
        assert len(await store.certificates(100)) == 1

    async def test_the_same_transaction_a_second_time_hears_of_the_first(self, store: AdminStore) -> None:
        """And not that its own key has a certificate: the caller looks for the answer to repeat."""
        new = transaction()
        call = [certificate(new, der=certificate_der("k"))]
        await store.issued(new, call, code=None, now=NOW, conditions=[ONE_KEY_ONCE])
        with pytest.raises(TransactionExists):
            await store.issued(new, call, code=None, now=NOW, conditions=[ONE_KEY_ONCE])

    # Refusals

    async def test_refusals_are_kept_newest_first(self, store: AdminStore, reopen: Open) -> None:
        ended = transaction(state=TransactionState.refused)
        await store.refused(ended, refusal(1))
        await store.refusal(refusal(2, profile="server", private="why"))
        await store.refused(transaction(state=TransactionState.refused))
        for reader in (store, await reopen()):
            second, first = await reader.refusals(10)
            assert [one.id for one in await reader.refusals(1)] == [second.id]
            assert await reader.refusals(10, "device") == [first]
            assert second.id is not None
            assert first.id is not None
            assert first.request is None
            kept = await reader.refusal_of(first.id)
            assert kept is not None
            assert replace(kept, id=None, request=None) == replace(refusal(1), request=None)
            assert kept.request is not None
            assert replace(second, id=None) == refusal(2, profile="server", private="why", request=None)
            assert await reader.refusal_of(4711) is None
        with pytest.raises(TransactionExists):
            await store.refused(ended, refusal(3))
        assert len(await store.refusals(10)) == 2

    async def test_the_oldest_refusals_make_room(self, url: str) -> None:
        store = await open_store(url, base=Path("/"), key=KEY, refusals=5)
        try:
            await asyncio.gather(*(store.refusal(refusal(number)) for number in range(12)))
            kept = await store.refusals(100)
            assert [one.reason for one in kept] == [f"san.dns: number {number}" for number in (11, 10, 9, 8, 7)]
        finally:
            await store.close()
        store = await open_store(url, base=Path("/"), key=KEY, refusals=0)
        try:
            await store.refusal(refusal())
            assert await store.refusals(100) == []
        finally:
            await store.close()

    # Wrong MACs, counted for all processes

    async def test_wrong_macs_lock_a_code_wherever_they_are_counted(self, store: AdminStore, reopen: Open) -> None:
        made, second = await make_code(store), await reopen()
        until = NOW + timedelta(minutes=1)
        counted = [await one.wrong_mac(made.id, most=5, until=until, locks=1) for one in (store, second) * 2]
        assert counted == [False] * 4
        assert (await store.code("device", b"ref")).locked_until is None  # type: ignore[union-attr]
        assert await store.wrong_mac(made.id, most=5, until=until, locks=1)
        for one in (store, second):
            found = await one.code("device", b"ref")
            assert found is not None
            assert (found.locked_until, found.locks) == (until, 1)
        assert await second.wrong_mac(made.id, most=5, until=until, locks=1)  # it is locked so long already
        later = until + timedelta(minutes=2)
        assert not await store.wrong_mac(made.id, most=5, until=later, locks=2)  # and the count has begun again

    async def test_wrong_macs_may_be_counted_many_at_a_time(self, store: AdminStore) -> None:
        made, until = await make_code(store), NOW + timedelta(minutes=1)
        assert not await store.wrong_mac(made.id, most=5, until=until, locks=1, count=3)
        assert await store.wrong_mac(made.id, most=5, until=until, locks=1, count=3)
        later = until + timedelta(minutes=2)
        assert not await store.wrong_mac(made.id, most=5, until=later, locks=2, count=4)  # none is left over

    async def test_at_the_same_time_wrong_macs_lock_once(self, store: AdminStore, reopen: Open) -> None:
        made, second = await make_code(store), await reopen()
        until = NOW + timedelta(minutes=1)
        counted = await asyncio.gather(
            *(one.wrong_mac(made.id, most=10, until=until, locks=1) for one in (store, second) * 5)
        )
        assert sum(counted) == 1

    async def test_a_use_and_an_operator_forget_wrong_macs(self, store: AdminStore) -> None:
        made = await make_code(store, uses=None)
        until = NOW + timedelta(minutes=1)

        async def forget_by_use() -> None:
            await issue(store, made.id)

        async def forget_by_operator() -> None:
            await store.lock_code(made.id, until=NOW, locks=1)
            assert await store.unlock_code("device", "ref")

        for forget in (forget_by_use, forget_by_operator):
            for _ in range(4):
                assert not await store.wrong_mac(made.id, most=5, until=until, locks=1)
            await forget()
        assert not await store.wrong_mac(made.id, most=5, until=until, locks=1)
        assert not await store.wrong_mac(made.id + 1, most=5, until=until, locks=1)

    # Leases and nodes

    async def test_a_lease_is_one_holders_until_it_ends(self, store: AdminStore, reopen: Open) -> None:
        second = await reopen()
        assert await store.lease("sweep", "a", 60)
        assert not await second.lease("sweep", "b", 60)
        assert await second.lease("orders", "b", 60)
        assert await store.lease("sweep", "a", 0.05)  # extended, to end sooner
        await asyncio.sleep(0.1)
        assert await second.lease("sweep", "b", 60)
        assert not await store.lease("sweep", "a", 60)

    async def test_many_who_want_a_lease_and_one_who_gets_it(self, store: AdminStore, reopen: Open) -> None:
        stores = [store, await reopen(), await reopen()]
        wanted = [stores[number % 3].lease("sweep", f"holder-{number}", 60) for number in range(30)]
        assert sum(await asyncio.gather(*wanted)) == 1

    async def test_a_lease_is_given_back_by_who_has_it(self, store: AdminStore, reopen: Open) -> None:
        second = await reopen()
        assert await store.lease("sweep", "a", 60)
        await second.release("sweep", "b")
        assert not await second.lease("sweep", "b", 60)
        await store.release("sweep", "a")
        assert await second.lease("sweep", "b", 60)

    async def test_a_lease_from_before_a_clock_was_set_back_is_taken_at_once(self, store: AdminStore) -> None:
        assert await store.lease("sweep", "a", 86400)
        assert await store.lease("sweep", "b", 60)
        assert not await store.lease("sweep", "a", 60)

    async def test_nodes_come_back_as_they_were_kept_last(self, store: AdminStore, reopen: Open) -> None:
        second = await reopen()
        one = Node("one", "host", 7, "1.0", NOW, "c1", {"device": "p1"}, {"address 192.0.2.1": 3.5}, "here")
        other = Node("other", "elsewhere", 7, "1.1", NOW - SECOND, "c2", {}, {})
        assert await store.nodes() == ()
        await store.keep_node(replace(one, version="0.9", counts={}))
        await second.keep_node(other)
        await store.keep_node(one)
        assert await second.lease("sweep", "one", 60)
        assert await second.lease("orders", "one", 60)
        assert await second.lease("over", "other", 0)
        found = await second.nodes()
        assert [replace(each, silent=0.0) for each in found] == [other, replace(one, leases=("orders", "sweep"))]
        assert all(0 <= each.silent < 60 for each in found)

    async def test_a_node_that_is_forgotten_leaves_no_lease(self, store: AdminStore) -> None:
        for name in ("a", "b", "c"):
            await store.keep_node(Node(name, "host", 7, "1.0", NOW, "", {}, {}))
        assert await store.lease("sweep", "a", 60)
        assert await store.lease("orders", "c", 60)
        await store.forget_nodes(["a", "b", "unknown"])
        await store.forget_nodes([])
        assert [each.id for each in await store.nodes()] == ["c"]
        assert await store.lease("sweep", "c", 60)
        assert not await store.lease("orders", "b", 60)

    # Life and death

    async def test_ready_when_it_can_be_written_to(self, store: AdminStore) -> None:
        for _ in range(3):
            await store.ready()

    async def test_two_stores_on_one_place_see_each_other_at_once(self, store: AdminStore, reopen: Open) -> None:
        second = await reopen()
        for writer, reader in ((store, second), (second, store)) * 3:
            new, one = await issue(writer)
            assert await reader.transaction(new.transaction_id) == new
            await self.advance(reader, new, TransactionState.confirmed, confirmed=[one.serial])
            assert (await writer.certificates_of(new.transaction_id))[0].status is CertificateStatus.valid

    async def test_a_cancelled_caller_harms_nobody(self, store: AdminStore) -> None:
        others = [transaction() for _ in range(10)]
        tasks = [asyncio.create_task(store.refused(other)) for other in others]
        for turns in range(10):
            given_up = asyncio.create_task(store.refused(transaction()))
            for _ in range(turns):
                await asyncio.sleep(0)
            given_up.cancel()
            with suppress(asyncio.CancelledError):  # a fast disk may have been faster
                await given_up
        await asyncio.gather(*tasks)
        for other in others:
            assert await store.transaction(other.transaction_id) == other
        await store.ready()

    # Deleting what is old

    async def test_expired_certificates_are_deleted_when_they_are_not_kept(self, store: AdminStore) -> None:
        """A compromised key is remembered for good, and what waits for its certConf is not touched."""
        kept: list[int] = []
        for number in range(250):
            new = transaction()
            await store.issued(
                new,
                [
                    certificate(
                        new,
                        der=certificate_der(f"old-{number}"),
                        seat="seat",
                        not_after=NOW + (SECOND if number < 230 else 2 * SECOND),
                        status=CertificateStatus.unconfirmed if number == 1 else CertificateStatus.valid,
                    )
                ],
                code=None,
                now=NOW,
            )
            (one,) = await store.certificates_of(new.transaction_id)
            if number in {1, 2} or number >= 230:
                kept.append(one.serial)
            if number in {2, 3}:
                reason = RevocationReason.keyCompromise if number == 2 else RevocationReason.superseded
                await store.revoke(Revocation(one.serial, reason, NOW))
        assert await store.prune() == Pruned()
        assert await store.prune(certificates=NOW + SECOND) == Pruned()
        assert await store.prune(certificates=NOW + 2 * SECOND) == Pruned(certificates=228)
        assert sorted(one.serial for one in await store.certificates(1000)) == sorted(kept)
        unmet = await store.unmet("device", "seat", spki_sha256("old-2"), Conditions(), NOW)
        assert unmet is not None
        assert unmet.condition is Condition.compromised_key
        found = await store.seat("device", "seat")
        assert found is not None
        assert found[0].certificates == len(kept)

    async def test_counts_of_old_days_are_deleted(self, store: AdminStore) -> None:
        day = timedelta(days=1)
        for profile in ("a", "b", "c"):
            for age in range(3):
                new = transaction(profile=profile)
                await store.issued(new, [certificate(new)], code=None, now=NOW - age * day)
        assert await store.prune(counters=NOW - day) == Pruned(counters=3)
        for profile in ("a", "b", "c"):
            for age in range(3):
                conditions = Conditions(per_day=1)
                unmet = await store.unmet(profile, None, spki_sha256("x"), conditions, NOW - age * day)
                assert (unmet is not None) == (age < 2), (profile, age)

    async def test_the_latest_refusals_are_kept_when_fewer_are_to_be(self, store: AdminStore, url: str) -> None:
        """In steps, so that no request waits for all of it."""
        for number in range(230):
            await store.refusal(refusal(number))
        other = await open_store(url, base=Path("/"), key=KEY, refusals=10)
        try:
            for number in range(3):
                await other.refusal(refusal(1000 + number))
            assert len(await other.refusals(1000)) == 10
        finally:
            await other.close()

    async def test_the_size_is_known(self, store: AdminStore) -> None:
        assert await store.size() > 10_000

    @pytest.mark.parametrize("profile", [None, "device"])
    async def test_certificates_are_listed_by_status(self, store: AdminStore, profile: str | None) -> None:
        for name in ("device", "other"):
            for status in CertificateStatus:
                await store.issued(
                    new := transaction(profile=name), [certificate(new, status=status)], code=None, now=NOW
                )
        for status in CertificateStatus:
            found = await store.certificates(10, profile, status)
            assert [one.status for one in found] == [status] * (1 if profile else 2)
            assert {one.profile for one in found} == ({profile} if profile else {"device", "other"})
        assert len(await store.certificates(10, profile)) == len(CertificateStatus) * (1 if profile else 2)

    async def test_closing_finishes_what_waits_and_refuses_what_comes(self, store: AdminStore, reopen: Open) -> None:
        waiting = [transaction() for _ in range(5)]
        tasks = [asyncio.create_task(store.refused(one)) for one in waiting]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*tasks)
        for call in (store.refused(transaction()), store.transaction(b"x"), store.ready(), store.codes()):
            with pytest.raises(StoreUnavailable):
                await call
        await store.close()
        second = await reopen()
        for one in waiting:
            assert await second.transaction(one.transaction_id) == one

    async def test_no_secret_and_no_key_in_what_is_printed(self, store: AdminStore) -> None:
        made = await make_code(store, secret=b"hunter2hunter2")
        shown = repr(store) + str(store) + repr(made) + repr(await store.code("device", b"ref")) + repr(vars(store))
        with pytest.raises(ReferenceTaken) as raised:
            await make_code(store, secret=b"hunter2hunter2")
        shown += repr(raised.value)
        assert "hunter2" not in shown
        assert repr(KEY) not in shown
