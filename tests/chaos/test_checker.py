"""The checker finds what is wrong: for each rule a history that is right, and what breaks it, by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.chaos.checker import RULES, check, report
from tests.chaos.contents import Contents, StoredCertificate, StoredCode, StoredOrder, StoredTransaction
from tests.chaos.history import Act, Attempt, Code, History, Message, Reply, Terms

DAY = 20_000
LOCKED = "too many wrong MACs with this reference; try again at 1970-01-01T00:01:00Z"


@dataclass
class Told:
    """A history and the store that belongs to it, told step by step; each step takes a second."""

    history: History = field(default_factory=lambda: History(1, 0.0))
    contents: Contents = field(default_factory=Contents)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.history.terms = {
            "plain": Terms(),
            "giving": Terms(give_back=True),
            "hasty": Terms(expires=True),
            "locking": Terms(lock_after=3, lock_for=60),
            "seats": Terms(per_seat=1),
            "days": Terms(per_day=1),
        }
        for profile in self.history.terms:
            self.history.codes[profile] = Code(profile, profile, 1 if profile in {"plain", "giving"} else None)
            self.contents.codes[profile] = StoredCode(profile, 0)

    def message(self, digest: str, profile: str = "plain", **facts: Any) -> Message:
        """An ir by the profile's code, unless told otherwise."""
        values = {"kind": "ir", "tid": f"t-{digest}", "code": profile, "key": f"key-{digest}", "seat": "s"}
        made = Message(digest, profile=profile, **(values | facts))
        self.history.messages[digest] = made
        return made

    def attempt(self, message: Message, reply: Reply | None, node: str = "1", life: int = 1, lost: str = "") -> None:
        self.history.attempts.append(
            Attempt(message.digest, "c", node, life, self.now, self.now + 0.5, reply, lost or ("" if reply else "cut"))
        )
        self.now += 1

    def grant(self, message: Message, *, implicit: bool = False, status: str = "unconfirmed") -> Reply:
        """It is answered with a certificate, which is in the store."""
        digest = message.digest
        body = "kup" if message.kind == "kur" else "ip"
        reply = Reply(
            f"ip-{digest}", body, "accepted", "", "", f"cert-{digest}", f"5-{digest}", message.key, implicit=implicit
        )
        self.attempt(message, reply)
        self.contents.certificates.append(
            StoredCertificate(
                reply.serial, reply.certificate, message.key, message.profile, message.seat, message.tid, status, DAY
            )
        )
        state = "confirmed" if implicit else "unconfirmed"
        self.contents.transactions[message.tid] = StoredTransaction(message.tid, state, digest, reply.digest)
        if message.code:
            code = self.contents.codes[message.code]
            self.contents.codes[message.code] = replace(code, used=code.used + 1)
        spent = self.contents.spent
        spent[message.profile, DAY] = spent.get((message.profile, DAY), 0) + 1
        return reply

    def confirm(self, message: Message, reply: Reply, verdict: str = "accept") -> Message:
        """A certConf that is answered with a pkiconf."""
        made = self.message(
            f"{verdict}-{message.digest}",
            message.profile,
            kind="certConf",
            tid=message.tid,
            code=message.code,
            serial=reply.serial,
            verdict=verdict,
        )
        self.attempt(made, Reply(f"pkiconf-{made.digest}", "pkiconf"))
        self.set_status(reply.serial, "valid" if verdict == "accept" else "revoked")
        row = self.contents.transactions[message.tid]
        state = "confirmed" if verdict == "accept" else "rejected"
        self.contents.transactions[message.tid] = replace(
            row, state=state, last_request=made.digest, last_reply=f"pkiconf-{made.digest}"
        )
        if verdict == "reject" and self.history.terms[message.profile].give_back:
            code = self.contents.codes[message.code]
            self.contents.codes[message.code] = replace(code, used=code.used - 1)
        return made

    def set_status(self, serial: str, status: str) -> None:
        self.change(serial, status=status)

    def change(self, serial: str, **values: Any) -> None:
        rows = self.contents.certificates
        self.contents.certificates = [replace(row, **values) if row.serial == serial else row for row in rows]

    def act(self, kind: str, what: str, *, known: bool = True) -> None:
        self.history.acts.append(Act(kind, what, self.now, self.now + 0.5 if known else float("inf"), known))
        self.now += 1

    def guess(self, times: int, node: str = "1") -> None:
        for number in range(times):
            forged = self.message(f"forged-{node}-{number}", "locking", genuine=False)
            self.attempt(forged, Reply(f"no-{node}-{number}", "error", "rejection", "badMessageCheck"), node)

    def broken(self) -> set[str]:
        return {violation.rule for violation in check(self.history, self.contents)}


REFUSED = Reply("used-up", "error", "rejection", "notAuthorized", "enrollment code has been used up")
BUSY = Reply("busy", "error", "rejection", "systemUnavail", "try again later")


def enrolled(told: Told, digest: str = "a", profile: str = "plain", **facts: Any) -> tuple[Message, Reply]:
    message = told.message(digest, profile, **facts)
    return message, told.grant(message)


# ------------------------------------------------------------------------------------------------- what is right


def test_what_is_right_breaks_no_rule() -> None:
    """One of everything: races, lost answers, repetitions, rejections, revocations, locks."""
    told = Told()
    message, reply = enrolled(told)
    told.attempt(message, None)
    told.attempt(message, BUSY)
    told.attempt(message, reply, node="2")
    loser = told.message("b")
    told.attempt(loser, REFUSED)
    told.attempt(loser, replace(REFUSED, digest="used up, with another nonce"))
    confirmation = told.confirm(message, reply)
    told.attempt(confirmation, Reply(f"pkiconf-{confirmation.digest}", "pkiconf"), node="3")
    late = told.message("late", kind="certConf", tid=message.tid, serial=reply.serial, verdict="reject")
    told.attempt(late, Reply("late", "error", "rejection", "certConfirmed"))
    other = told.message("c", tid=message.tid, key="another")
    told.attempt(other, Reply("in use", "error", "rejection", "transactionIdInUse"))
    given, first = enrolled(told, "g", "giving")
    told.confirm(given, first, "reject")
    enrolled(told, "h", "giving")
    dawdler, _ = enrolled(told, "d", "hasty")
    told.set_status("5-d", "revoked")
    told.contents.transactions[dawdler.tid] = replace(told.contents.transactions[dawdler.tid], state="expired")
    told.act("revoke certificate", reply.serial)
    told.set_status(reply.serial, "revoked")
    update = told.message("k", kind="kur", code="", signer=reply.serial)
    told.attempt(update, Reply("no", "error", "rejection", "certRevoked"))
    told.guess(3)
    told.attempt(told.message("l", "locking"), replace(BUSY, text=LOCKED), node="2")
    told.now = 90.0
    enrolled(told, "m", "locking")
    patient = told.message("p1", "hasty")
    told.attempt(patient, Reply("waiting", "ip", "waiting"))
    poll = told.message("p2", "hasty", kind="pollReq", tid=patient.tid)
    told.attempt(poll, Reply("wait", "pollRep"))
    told.attempt(told.message("p3", "hasty", kind="pollReq", tid=patient.tid), Reply("wait on", "pollRep"))
    told.attempt(poll, Reply("late", "error", "rejection", "badRecipientNonce"))
    seat, held = enrolled(told, "s", "seats")
    told.confirm(seat, held, "reject")
    enrolled(told, "s2", "seats")
    enrolled(told, "y", "days")
    told.act("revoke code", "plain")
    told.contents.codes["plain"] = replace(told.contents.codes["plain"], revoked=True)
    told.act("kill", "node 1")
    assert check(told.history, told.contents) == []


# -------------------------------------------------------------------------------------------------- what is wrong

BREAKS: list[tuple[str, str, Callable[[Told], object]]] = []


def breaks(rule: str) -> Callable[[Callable[[Told], object]], Callable[[Told], object]]:
    """A story that must break this rule."""

    def register(story: Callable[[Told], object]) -> Callable[[Told], object]:
        BREAKS.append((rule, story.__name__, story))
        return story

    return register


@breaks("answers")
def forged_is_granted(told: Told) -> None:
    enrolled(told, genuine=False)


@breaks("answers")
def forged_is_refused_for_another_reason(told: Told) -> None:
    told.attempt(told.message("a", genuine=False), REFUSED)


@breaks("answers")
def genuine_is_taken_for_forged(told: Told) -> None:
    told.attempt(told.message("a"), Reply("no", "error", "rejection", "badMessageCheck"))


@breaks("answers")
def an_internal_error(told: Told) -> None:
    told.attempt(told.message("a"), Reply("no", "error", "rejection", "systemFailure"))


@breaks("answers")
def the_mac_of_an_answer_is_wrong(told: Told) -> None:
    told.attempt(told.message("a"), Reply("no", "an answer", fault="the MAC does not verify"))


@breaks("answers")
def an_answer_is_not_protected(told: Told) -> None:
    message, reply = enrolled(told)
    told.attempt(message, replace(reply, protected=False))


@breaks("answers")
def another_key_is_certified(told: Told) -> None:
    message, reply = enrolled(told)
    told.attempt(message, replace(reply, key="of somebody else"))


@breaks("answers")
def implicit_confirm_for_who_did_not_ask(told: Told) -> None:
    told.grant(told.message("a"), implicit=True, status="valid")


@breaks("answers")
def who_polls_is_turned_away(told: Told) -> None:
    request = told.message("a")
    told.attempt(request, Reply("waiting", "ip", "waiting"))
    poll = told.message("p", kind="pollReq", tid=request.tid)
    told.attempt(poll, Reply("no", "error", "rejection", "badRecipientNonce"))


@breaks("answers")
def a_certconf_is_taken_for_a_request(told: Told) -> None:
    message, reply = enrolled(told)
    late = told.message("late", kind="certConf", tid=message.tid, serial=reply.serial, verdict="reject")
    told.attempt(late, Reply("late", "error", "rejection", "transactionIdInUse"))


@breaks("repetition")
def two_answers_to_one_poll(told: Told) -> None:
    poll = told.message("p", kind="pollReq")
    told.attempt(poll, Reply("one", "pollRep"))
    told.attempt(poll, Reply("other", "pollRep"), node="2")


@breaks("repetition")
def two_certificates_for_the_same_octets(told: Told) -> None:
    message, reply = enrolled(told)
    told.attempt(message, replace(reply, digest="other", certificate="other", serial="6"), node="2")


@breaks("repetition")
def the_same_certificate_in_another_answer(told: Told) -> None:
    message, reply = enrolled(told)
    told.attempt(message, replace(reply, digest="other"), node="2")


@breaks("repetition")
def refused_after_it_was_granted(told: Told) -> None:
    message, _ = enrolled(told)
    told.attempt(message, REFUSED, node="2")


@breaks("repetition")
def granted_after_it_was_rejected(told: Told) -> None:
    message = told.message("a")
    told.attempt(message, Reply("no", "ip", "rejection", "duplicateCertReq"))
    told.grant(message)


@breaks("repetition")
def a_pkiconf_that_is_not_repeated(told: Told) -> None:
    confirmation = told.confirm(*enrolled(told))
    told.attempt(confirmation, Reply("late", "error", "rejection", "certConfirmed"), node="2")


@breaks("transactions")
def two_requests_under_one_transaction_id(told: Told) -> None:
    enrolled(told, "a", "hasty", tid="t")
    enrolled(told, "b", "hasty", tid="t")


@breaks("transactions")
def accepted_and_rejected(told: Told) -> None:
    message, reply = enrolled(told)
    told.confirm(message, reply)
    told.confirm(message, reply, "reject")


@breaks("transactions")
def the_store_knows_another_answer(told: Told) -> None:
    message, _ = enrolled(told)
    told.contents.transactions[message.tid] = replace(told.contents.transactions[message.tid], first_reply="other")


@breaks("transactions")
def the_store_has_not_kept_the_pkiconf(told: Told) -> None:
    message, reply = enrolled(told)
    told.confirm(message, reply)
    told.contents.transactions[message.tid] = replace(told.contents.transactions[message.tid], last_reply="")


@breaks("durability")
def an_acknowledged_certificate_is_lost(told: Told) -> None:
    enrolled(told)
    told.contents.certificates.clear()


@breaks("durability")
def another_certificate_is_in_its_place(told: Told) -> None:
    enrolled(told)
    told.change("5-a", certificate="other")


@breaks("durability")
def a_certificate_that_nobody_asked_for(told: Told) -> None:
    told.contents.certificates.append(StoredCertificate("9", "c", "k", "plain", "s", "t", "valid", DAY))


@breaks("durability")
def a_certificate_for_what_was_never_sent(told: Told) -> None:
    message, _ = enrolled(told)
    told.history.attempts.clear()
    told.attempt(message, None, lost="never sent")


@breaks("durability")
def a_certificate_in_another_seat(told: Told) -> None:
    enrolled(told)
    told.change("5-a", seat="of somebody else")


@breaks("durability")
def a_forged_message_has_left_something(told: Told) -> None:
    message = told.message("a", genuine=False)
    told.attempt(message, Reply("no", "error", "rejection", "badMessageCheck"))
    told.contents.transactions[message.tid] = StoredTransaction(message.tid, "refused", "a", "no")


@breaks("serials")
def a_serial_number_twice(told: Told) -> None:
    _, reply = enrolled(told, "a", "hasty")
    other, _ = enrolled(told, "b", "hasty")
    told.attempt(other, replace(reply, digest="ip-b", key="key-b"))


@breaks("serials")
def a_serial_number_twice_in_the_store(told: Told) -> None:
    enrolled(told)
    told.contents.certificates.append(told.contents.certificates[0])


@breaks("status")
def confirmed_and_revoked(told: Told) -> None:
    message, reply = enrolled(told, profile="hasty")
    told.confirm(message, reply)
    told.set_status(reply.serial, "revoked")


@breaks("status")
def confirmed_and_forgotten(told: Told) -> None:
    message, reply = enrolled(told)
    told.confirm(message, reply)
    told.set_status(reply.serial, "unconfirmed")


@breaks("status")
def rejected_and_valid(told: Told) -> None:
    message, reply = enrolled(told)
    told.confirm(message, reply, "reject")
    told.set_status(reply.serial, "valid")


@breaks("status")
def valid_although_nobody_confirmed(told: Told) -> None:
    _, reply = enrolled(told)
    told.set_status(reply.serial, "valid")


@breaks("status")
def implicitly_confirmed_and_waiting(told: Told) -> None:
    told.grant(told.message("a", implicit=True), implicit=True)


@breaks("status")
def a_revocation_is_lost(told: Told) -> None:
    message, reply = enrolled(told)
    told.confirm(message, reply)
    told.act("revoke certificate", reply.serial)


@breaks("codes")
def a_code_is_used_twice(told: Told) -> None:
    enrolled(told, "a")
    enrolled(told, "b")


@breaks("codes")
def a_code_is_used_twice_and_one_of_the_two_is_lost(told: Told) -> None:
    enrolled(told, "a")
    enrolled(told, "b")
    del told.contents.certificates[1]
    told.contents.codes["plain"] = StoredCode("plain", 1)


@breaks("codes")
def a_use_is_not_counted(told: Told) -> None:
    enrolled(told)
    told.contents.codes["plain"] = StoredCode("plain", 0)


@breaks("codes")
def a_use_is_given_back_twice(told: Told) -> None:
    message, reply = enrolled(told, profile="giving")
    told.confirm(message, reply, "reject")
    told.contents.codes["giving"] = StoredCode("giving", -1)


@breaks("codes")
def a_revoked_code_is_used(told: Told) -> None:
    told.act("revoke code", "plain")
    enrolled(told)
    told.contents.codes["plain"] = replace(told.contents.codes["plain"], revoked=True)


@breaks("codes")
def a_code_is_no_longer_revoked(told: Told) -> None:
    told.act("revoke code", "plain")


@breaks("budgets")
def more_than_a_day_has(told: Told) -> None:
    enrolled(told, "a", "days")
    enrolled(told, "b", "days")


@breaks("budgets")
def the_day_is_not_counted(told: Told) -> None:
    enrolled(told, "a", "days")
    told.contents.spent.clear()


@breaks("budgets")
def more_than_a_seat_has(told: Told) -> None:
    enrolled(told, "a", "seats")
    enrolled(told, "b", "seats")


@breaks("budgets")
def a_seat_is_taken_before_it_is_free(told: Told) -> None:
    message, reply = enrolled(told, "a", "seats")
    enrolled(told, "b", "seats")
    told.confirm(message, reply, "reject")


@breaks("orders")
def what_is_paid_is_ordered_twice(told: Told) -> None:
    message, _ = enrolled(told)
    told.contents.orders.append(StoredOrder(message.tid, message.key, "issued"))
    told.contents.paid += [message.key, message.key]


@breaks("orders")
def an_order_that_nobody_knows_of(told: Told) -> None:
    told.contents.paid.append("k")


@breaks("orders")
def two_orders_of_one_transaction(told: Told) -> None:
    told.contents.orders += [StoredOrder("t", "k1", "ordered"), StoredOrder("t", "k2", "ordered")]


@breaks("orders")
def an_order_that_was_never_placed(told: Told) -> None:
    told.contents.orders.append(StoredOrder("t", "k", "issued"))


@breaks("orders")
def an_order_that_does_not_come_to_an_end(told: Told) -> None:
    told.history.patient = True
    told.contents.orders.append(StoredOrder("t", "k", "submitting"))


@breaks("locks")
def a_lock_is_not_seen_at_another_node(told: Told) -> None:
    told.guess(3)
    enrolled(told, "a", "locking")


@breaks("locks")
def a_lock_is_not_seen_at_its_own_node(told: Told) -> None:
    told.guess(4)


@breaks("locks")
def a_lock_that_was_seen_is_forgotten(told: Told) -> None:
    told.guess(1)
    told.attempt(told.message("a", "locking"), replace(BUSY, text=LOCKED), node="2")
    enrolled(told, "b", "locking")


@breaks("locks")
def a_mac_is_looked_at_under_a_lock(told: Told) -> None:
    told.guess(1)
    told.attempt(told.message("a", "locking"), replace(BUSY, text=LOCKED), node="2")
    told.guess(1, node="3")


@breaks("signers")
def a_revoked_certificate_is_updated(told: Told) -> None:
    message, reply = enrolled(told)
    told.confirm(message, reply)
    told.act("revoke certificate", reply.serial)
    told.set_status(reply.serial, "revoked")
    told.grant(told.message("k", kind="kur", code="", signer=reply.serial))


@breaks("resolution")
def no_answer_at_all(told: Told) -> None:
    message = told.message("a")
    told.attempt(message, None)
    told.attempt(message, BUSY)


@breaks("soundness")
def the_database_is_damaged(told: Told) -> None:
    told.contents.faults.append("integrity_check: row 3 missing from index")


@breaks("soundness")
def a_node_has_ended_by_itself(told: Told) -> None:
    told.history.notes.append("node 1 has ended by itself: exit status 1")


@pytest.mark.parametrize(
    ("rule", "story"), [(rule, story) for rule, _, story in BREAKS], ids=[one[1] for one in BREAKS]
)
def test_what_is_wrong_breaks_its_rule(rule: str, story: Callable[[Told], object]) -> None:
    told = Told()
    story(told)
    assert rule in told.broken()


def test_every_rule_has_been_seen_to_break() -> None:
    assert {rule for rule, _, _ in BREAKS} == {rule.__name__ for rule in RULES}


# -------------------------------------------------------------------------------- what looks wrong and is not


def test_the_same_octets_may_be_refused_and_then_granted() -> None:
    """A code that was used up comes back when its certificate is rejected; a refusal of that kind ends nothing."""
    told = Told()
    message, reply = enrolled(told, "a", "giving")
    other = told.message("b", "giving")
    told.attempt(other, REFUSED)
    told.confirm(message, reply, "reject")
    told.grant(other)
    assert told.broken() == set()


def test_what_is_under_way_when_a_code_is_revoked_may_go_either_way() -> None:
    told = Told()
    message = told.message("a")
    told.attempt(message, None)
    told.act("revoke code", "plain")
    told.grant(message)
    told.contents.codes["plain"] = replace(told.contents.codes["plain"], revoked=True)
    assert told.broken() == set()


def test_what_an_operator_may_have_done_may_be_done_or_not() -> None:
    told = Told()
    message, reply = enrolled(told)
    told.confirm(message, reply)
    told.act("revoke code", "plain", known=False)
    told.act("revoke certificate", reply.serial, known=False)
    assert told.broken() == set()
    told.set_status(reply.serial, "revoked")
    assert told.broken() == set()


def test_without_an_answer_to_the_certconf_both_are_possible() -> None:
    for status, state in (("unconfirmed", "unconfirmed"), ("valid", "confirmed")):
        told = Told()
        message, reply = enrolled(told)
        confirmation = told.message(
            "c", kind="certConf", tid=message.tid, code="plain", serial=reply.serial, verdict="accept"
        )
        told.attempt(confirmation, None)
        told.set_status(reply.serial, status)
        told.contents.transactions[message.tid] = replace(told.contents.transactions[message.tid], state=state)
        assert told.broken() == {"resolution"}, "but that there must be an answer in the end"


def test_a_restarted_node_has_forgotten_its_count_of_wrong_macs() -> None:
    told = Told()
    told.guess(2)
    forged = told.message("forged", "locking", genuine=False)
    told.attempt(forged, Reply("no", "error", "rejection", "badMessageCheck"), life=2)
    enrolled(told, "a", "locking")
    assert told.broken() == set()


def test_what_was_answered_before_the_lock_is_repeated_under_it() -> None:
    told = Told()
    message, reply = enrolled(told, "a", "locking")
    told.guess(3, node="2")
    told.attempt(message, reply, node="3")
    assert told.broken() == set()


# ------------------------------------------------------------------------------------------------- the report


def test_the_report_has_what_was_expected_what_was_seen_and_the_faults_meanwhile() -> None:
    told = Told()
    first, _ = enrolled(told, "a")
    told.act("kill", "node 2")
    enrolled(told, "b")
    told.act("kill", "node 3")
    text = report(told.history, check(told.history, told.contents))
    assert "seed 1" in text
    assert "expected  code plain: at most 1 certificates" in text
    assert f"c sends {first.digest} to node 1.1: ip accepted certificate 5-a [ip-a]" in text
    assert "kill node 2" in text
    assert "kill node 3" not in text, "it came later"
