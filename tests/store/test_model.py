"""Any sequence of calls leaves a store as a dictionary would be: hypothesis looks for one that does not."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cmpd.exchange import (
    CertificateStatus,
    EnrollmentCode,
    IssuedCertificate,
    OutsideRevocation,
    OutsideState,
    RevocationReason,
    Transaction,
    TransactionState,
)
from cmpd.ports import CodeUnusable, Conditions, Revocation, TransactionExists, TransactionMoved, Unmet
from cmpd.store import open_store
from tests import postgres
from tests.contract.store import FAR, KEY, NOW, certificate, certificate_der, refusal, transaction

T = TypeVar("T")
IDS = st.sampled_from([bytes([number]) * 16 for number in range(6)])
SERIALS = st.sampled_from([0, 1, 2**127, 2**160 - 1, 77, 78])
CODES = st.sampled_from(["a", "b"])
TIMES = st.integers(0, 30).map(lambda seconds: NOW + timedelta(seconds=seconds))
ENDS = st.just(FAR) | TIMES
SEATS = st.sampled_from([None, "x", "y"])
KEYS = st.sampled_from(["k", "l", "m", "n"])
CONDITIONS = st.builds(
    Conditions,
    new_key=st.booleans(),
    alone_in_seat=st.booleans(),
    per_seat=st.none() | st.integers(1, 3),
    per_day=st.none() | st.integers(1, 8),
    updates=st.none() | SERIALS,
)
REFUSALS = 3
ENDED = st.sampled_from([TransactionState.confirmed, TransactionState.rejected])


class StoreMachine(RuleBasedStateMachine):
    """The store beside three dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.url = f"sqlite:///{self.folder}/cmpd.db"
        self.transactions: dict[bytes, Transaction] = {}
        self.certificates: dict[int, IssuedCertificate] = {}
        self.codes: dict[str, EnrollmentCode] = {}
        self.keys: dict[int, str] = {}
        self.refusals: list[int] = []
        self.revocations = 0
        self.crl_number = 0

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    @initialize()
    def open(self) -> None:
        self.store = self.run(open_store(self.url, base=self.folder, key=KEY, refusals=REFUSALS))

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.open()

    @rule(
        reference=CODES,
        uses=st.sampled_from([None, 1, 2]),
        expires=st.none() | TIMES,
        valid_from=st.none() | TIMES,
        is_global=st.booleans(),
    )
    def create_code(self, reference: str, uses: int | None, expires: Any, valid_from: Any, is_global: bool) -> None:
        if reference not in self.codes:
            self.codes[reference] = self.run(
                self.store.create_code(
                    "device",
                    reference,
                    reference.encode(),
                    uses,
                    expires,
                    NOW,
                    valid_from=valid_from,
                    is_global=is_global,
                )
            )

    @rule(reference=CODES, until=TIMES, locks=st.integers(1, 4))
    def lock_code(self, reference: str, until: Any, locks: int) -> None:
        code = self.codes.get(reference)
        self.run(self.store.lock_code(4711 if code is None else code.id, until=until, locks=locks))
        if code is not None:
            until = until if code.locked_until is None else max(code.locked_until, until)
            self.codes[reference] = replace(code, locked_until=until, locks=max(code.locks, locks))

    @rule(reference=CODES)
    def unlock_code(self, reference: str) -> None:
        code = self.codes.get(reference)
        locked = code is not None and code.locked_until is not None
        assert self.run(self.store.unlock_code("device", reference)) is locked
        if code is not None:
            self.codes[reference] = replace(code, locked_until=None, locks=0)

    @rule(reference=CODES)
    def revoke_code(self, reference: str) -> None:
        code = self.codes.get(reference)
        fresh = code is not None and not code.revoked
        assert self.run(self.store.revoke_code("device", reference, NOW)) is fresh
        if code is not None:
            self.codes[reference] = replace(code, revoked=True)

    @rule(
        transaction_id=IDS,
        serials=st.lists(SERIALS, unique=True, max_size=3),
        reference=st.none() | CODES,
        now=TIMES,
        confirm_by=TIMES,
        created=TIMES,
        seats=st.tuples(SEATS, SEATS, SEATS),
        keys=st.tuples(KEYS, KEYS, KEYS),
        ends=st.tuples(ENDS, ENDS, ENDS),
        conditions=CONDITIONS,
    )
    def issued(
        self,
        transaction_id: bytes,
        serials: list[int],
        reference: str | None,
        now: Any,
        confirm_by: Any,
        created: Any,
        seats: tuple[str | None, ...],
        keys: tuple[str, ...],
        ends: tuple[Any, ...],
        conditions: Conditions,
    ) -> None:
        code = self.codes.get(reference) if reference else None
        new = transaction(transaction_id, confirm_by=confirm_by, created=created)
        fresh = [serial for serial in serials if serial not in self.certificates]
        ones = [
            certificate(
                new,
                serial=serial,
                cert_req_id=number,
                seat=seats[number],
                der=certificate_der(keys[number]),
                not_after=ends[number],
                issued_at=now,
            )
            for number, serial in enumerate(fresh)
        ]
        call = self.store.issued(
            new, ones, code=None if code is None else code.id, now=now, conditions=[conditions] * len(ones)
        )
        if transaction_id in self.transactions:
            self.expect(TransactionExists, call)
        elif not self.met(ones, keys, conditions, now):
            self.expect(Unmet, call)
        elif code is not None and (
            replace(code, uses=None).refusal(now) or (code.uses is not None and code.used + len(ones) > code.uses)
        ):
            self.expect(CodeUnusable, call)
        else:
            self.run(call)
            self.transactions[transaction_id] = new
            self.certificates |= {one.serial: one for one in ones}
            self.keys |= {one.serial: key for one, key in zip(ones, keys, strict=False)}
            if code is not None:
                if code.locked_until is None or code.locked_until <= now:
                    code = replace(code, locked_until=None, locks=0)
                self.codes[code.reference] = replace(code, used=code.used + len(ones))

    def met(self, ones: list[IssuedCertificate], keys: tuple[str, ...], conditions: Conditions, now: Any) -> bool:
        """What the store must come to, by going through all there is."""
        everything = list(self.certificates.values())
        known = dict(self.keys)
        for one, key in zip(ones, keys, strict=False):
            in_force = [
                other
                for other in everything
                if other.status is not CertificateStatus.revoked and other.not_after >= now
            ]
            for other in everything:
                if known[other.serial] == key and other.reason is RevocationReason.keyCompromise:
                    return False
            in_force = [other for other in in_force if other not in ones]
            siblings = [other for other in everything if other in ones]  # count even if they have ended already
            if conditions.new_key and any(known[other.serial] == key for other in in_force + siblings):
                return False
            mates = [other for other in in_force if other.seat == one.seat and other.serial != conditions.updates]
            mates += [other for other in siblings if other.seat == one.seat]
            if one.seat is not None and conditions.alone_in_seat and mates:
                return False
            if one.seat is not None and conditions.per_seat is not None and len(mates) >= conditions.per_seat:
                return False
            everything.append(one)
            known[one.serial] = key
        spent = sum(one.profile == "device" for one in everything)
        return not ones or conditions.per_day is None or spent <= conditions.per_day

    @rule(number=st.integers(0, 99))
    def refuse(self, number: int) -> None:
        self.run(self.store.refusal(refusal(number)))
        self.refusals = [number, *self.refusals][:REFUSALS]

    @rule(transaction_id=IDS, state=ENDED, at=TIMES, reference=st.none() | CODES)
    def advance(self, transaction_id: bytes, state: TransactionState, at: Any, reference: str | None) -> None:
        code = self.codes.get(reference) if reference else None
        mine = [one for one in self.certificates.values() if one.transaction_id == transaction_id]
        old = self.transactions.get(transaction_id)
        confirmed, revoked = (mine, []) if state is TransactionState.confirmed else ([], mine)
        call = self.store.advance(
            transaction_id,
            seen=TransactionState.unconfirmed,
            state=state,
            nonce=b"n",
            request=b"q",
            reply=b"p",
            confirmed=[one.serial for one in confirmed],
            revoked=[Revocation(one.serial, RevocationReason.superseded, at) for one in revoked],
            give_back=None if code is None else code.id,
        )
        if old is None or old.state is not TransactionState.unconfirmed:
            self.expect(TransactionMoved, call)
            return
        self.run(call)
        self.transactions[transaction_id] = replace(old, state=state, nonce=b"n", last_request=b"q", last_reply=b"p")
        if code is not None:
            self.codes[code.reference] = replace(code, used=max(code.used - len(revoked), 0))
        for one in confirmed:
            if one.status is CertificateStatus.unconfirmed:
                self.certificates[one.serial] = replace(one, status=CertificateStatus.valid)
        for one in revoked:
            self.revoke_in_model(one.serial, RevocationReason.superseded, at)

    @rule(serial=SERIALS, at=TIMES, outside=st.sampled_from([None, OutsideState.due, OutsideState.left]))
    def revoke(self, serial: int, at: Any, outside: OutsideState | None) -> None:
        known = self.run(self.store.revoke(Revocation(serial, RevocationReason.keyCompromise, at, outside)))
        assert known is self.revoke_in_model(serial, RevocationReason.keyCompromise, at, outside)

    @rule(now=TIMES, there=st.booleans(), keep=st.booleans())
    def expire(self, now: Any, there: bool, keep: bool) -> None:
        due = {
            key: one
            for key, one in self.transactions.items()
            if one.state is TransactionState.unconfirmed and one.confirm_by is not None and one.confirm_by <= now
        }
        outside, kept = {"local"} if there else set(), {"local"} if keep else set()
        expired = self.run(self.store.expire(now, outside=outside, keep=kept))
        assert {one.transaction_id for one in expired} == set(due)
        for one in expired:
            self.transactions[one.transaction_id] = replace(due[one.transaction_id], state=TransactionState.expired)
            mine = [serial for serial, other in self.certificates.items() if other.transaction_id == one.transaction_id]
            if keep:
                unconfirmed = [one for one in mine if self.certificates[one].status is CertificateStatus.unconfirmed]
                assert (set(one.kept), one.serials) == (set(unconfirmed), ())
                for serial in unconfirmed:
                    kept_one = replace(self.certificates[serial], status=CertificateStatus.kept)
                    self.certificates[serial] = kept_one
                continue
            state, why = OutsideState.due if there else None, "no certConf came"
            revoked = {
                serial for serial in mine if self.revoke_in_model(serial, RevocationReason.unspecified, now, state, why)
            }
            assert (set(one.serials), one.kept) == (revoked, ())

    @rule(before=TIMES)
    def forget(self, before: Any) -> None:
        gone = [
            key
            for key, one in self.transactions.items()
            if one.state is not TransactionState.unconfirmed and one.created < before
        ]
        assert self.run(self.store.forget(before)) == len(gone)
        for key in gone:
            del self.transactions[key]
            # what is issued under the transactionID from now on is another transaction's
            for serial, one in self.certificates.items():
                if one.transaction_id == key:
                    self.certificates[serial] = replace(one, transaction_id=b"forgotten")

    @rule()
    def next_crl_number(self) -> None:
        self.crl_number += 1
        assert self.run(self.store.next_crl_number("local")) == self.crl_number

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        for key, one in self.transactions.items():
            assert self.run(self.store.transaction(key)) == one
            mine = tuple(c for c in self.certificates.values() if c.transaction_id == key)
            assert self.run(self.store.certificates_of(key)) == mine
        listed = self.run(self.store.certificates(1000))
        assert {one.serial: replace(one, transaction_id=b"") for one in listed} == {
            serial: replace(one, transaction_id=b"") for serial, one in self.certificates.items()
        }
        assert [one.reason for one in self.run(self.store.refusals(10))] == [
            refusal(number).reason for number in self.refusals
        ]
        for seat in ("x", "y"):
            holding = {one.serial for one in self.certificates.values() if one.seat == seat}
            held = self.run(self.store.seat("device", seat))
            assert ({one.serial for one in held[1]} if held else set()) == holding
            assert held is None or held[0].certificates == len(holding)
        assert {code.reference: code for code in self.run(self.store.codes())} == {
            reference: replace(code, secret=b"") for reference, code in self.codes.items()
        }
        wide = [code for code in self.codes.values() if code.is_global and not code.revoked]
        assert self.run(self.store.global_code("device")) == max(wide, key=lambda code: code.id, default=None)
        assert {one.serial for one in self.run(self.store.revoked("local"))} == {
            serial
            for serial, one in self.certificates.items()
            if one.status is CertificateStatus.revoked and one.not_after == FAR
        }
        assert self.run(self.store.crl_state("local", b"ca")).revocations == self.revocations

    def revoke_in_model(
        self, serial: int, reason: RevocationReason, at: Any, state: OutsideState | None = None, private: str = ""
    ) -> bool:
        one = self.certificates.get(serial)
        if one is None or one.status is CertificateStatus.revoked:
            return False
        outside = None if state is None else OutsideRevocation(state, at, private=private)
        self.certificates[serial] = replace(
            one, status=CertificateStatus.revoked, revoked_at=at, reason=reason, outside=outside
        )
        self.revocations += 1
        return True

    def expect(self, refusal: type[Exception], call: Coroutine[Any, Any, Any]) -> None:
        try:
            self.run(call)
        except refusal:
            return
        raise AssertionError(f"{refusal.__name__} was due")

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


class PostgresMachine(StoreMachine):
    """The same with PostgreSQL."""

    def __init__(self) -> None:
        super().__init__()
        self.database = contextlib.ExitStack()
        self.url = self.database.enter_context(postgres.emptied(KEY))

    def teardown(self) -> None:
        super().teardown()
        self.database.close()


TestPostgresMachine = PostgresMachine.TestCase
TestPostgresMachine.settings = settings(max_examples=8, stateful_step_count=30, deadline=None)
