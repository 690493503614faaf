"""What must be true of a history and of the store at its end: each rule a function that yields what breaks it.

    answers        every answer is one; a genuine message is never taken for a forged one, nor a forged one for genuine
    repetition     the same octets have one answer, whoever is asked, and however often
    transactions   a transactionID has one request, one certificate and one outcome
    durability     what was acknowledged is in the store, and nothing is there that nobody asked for
    serials        no serial number, and no certificate, twice
    status         confirmed stays confirmed, rejected is revoked
    codes          no code is used more often than it allows, nor after it was revoked
    budgets        so many certificates a day and a seat, and no more
    orders         what is paid is ordered once, and was kept before
    locks          a lock that was reached is seen at every node
    signers        a revoked certificate updates nothing
    resolution     in the end every message has an answer
    soundness      the database holds together, and no node has ended by itself

Nothing here knows how cmpd works inside: only what it promises.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.chaos.contents import Contents, StoredCertificate
from tests.chaos.history import Act, Attempt, History, Message, Reply

HONEST = frozenset(
    {
        "",
        "systemUnavail",
        "notAuthorized",
        "transactionIdInUse",
        "duplicateCertReq",
        "certConfirmed",
        "certRevoked",
        "badRequest",
    }
)
"""What a genuine message may be answered with: none says that it is malformed or forged, or that cmpd has failed."""
LATE = frozenset({"badRecipientNonce", "badRequest"})
"""What a pollReq may be answered with only when the EE has gone on meanwhile."""
SHOWN = 40
"""So many attempts of one violation are printed."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that is broken: what was expected, what was seen, and the messages that show it."""

    rule: str
    expected: str
    seen: str
    messages: tuple[str, ...] = ()


@dataclass(slots=True)
class Case:
    """A history and the contents of the store, looked at from the sides that the rules ask for."""

    history: History
    contents: Contents
    attempts: dict[str, list[Attempt]] = field(init=False)
    """By message, in the order in which they ended."""
    by_tid: dict[str, list[Message]] = field(init=False)
    by_code: dict[str, list[Message]] = field(init=False)
    stored: dict[str, StoredCertificate] = field(init=False)
    """By serial number."""
    _acts: dict[tuple[str, str], list[Act]] = field(init=False)

    def __post_init__(self) -> None:
        self.attempts = defaultdict(list)
        for attempt in self.history.attempts:
            self.attempts[attempt.message].append(attempt)
        self.by_tid, self.by_code = defaultdict(list), defaultdict(list)
        for message in self.history.messages.values():
            self.by_tid[message.tid].append(message)
            self.by_code[message.code].append(message)
        self._acts = defaultdict(list)
        for act in self.history.acts:
            self._acts[act.kind, act.what].append(act)
        self.stored = {one.serial: one for one in self.contents.certificates}

    def answered(self, message: Message) -> list[tuple[Attempt, Reply]]:
        return [(one, one.reply) for one in self.attempts[message.digest] if one.reply is not None]

    def granted(self) -> Iterator[tuple[Message, Attempt, Reply]]:
        """Every answer with a certificate."""
        for attempt in self.history.attempts:
            if attempt.reply is not None and attempt.reply.certificate:
                yield self.history.messages[attempt.message], attempt, attempt.reply

    def first_sent(self, message: Message) -> float:
        return min((one.sent for one in self.attempts[message.digest]), default=float("inf"))

    def may_have_arrived(self, message: Message) -> bool:
        return any(one.lost != NEVER_SENT for one in self.attempts[message.digest])

    def origin(self, certificate: StoredCertificate) -> Message | None:
        """The message that a certificate in the store was issued for."""
        transaction = self.contents.transactions.get(certificate.tid)
        if transaction is None:
            return None
        return self.history.messages.get(transaction.first_request)

    def gone_on(self, message: Message, before: float) -> bool:
        """Whether the EE has sent another message of the transaction later, but before this time."""
        since = self.first_sent(message)
        return any(since < self.first_sent(one) < before for one in self.by_tid[message.tid])

    def alone(self, message: Message) -> bool:
        """Whether no other message has begun a transaction of this transactionID."""
        return sum(one.begins for one in self.by_tid[message.tid]) < 2

    def acts(self, kind: str, what: str) -> list[tuple[float, float]]:
        """When an operator has begun and ended to do something; `UNKNOWN` when it is not known to be done."""
        return [(act.began, act.ended) for act in self._acts[kind, what]]


UNKNOWN = float("inf")
"""`Act.ended` of what is not known to have been done."""
NEVER_SENT = "never sent"
"""`Attempt.lost` of a message that cannot have reached the node."""
Rule = Callable[[Case], Iterable[Violation]]


def answers(case: Case) -> Iterator[Violation]:
    for attempt in case.history.attempts:
        reply, message = attempt.reply, case.history.messages[attempt.message]
        if reply is None:
            continue
        wrong = None
        if reply.fault:
            wrong = "a PKIMessage that answers the request", str(reply)
        elif not message.genuine:
            if reply.certificate or reply.fail_info not in {"badMessageCheck", "systemUnavail"}:
                wrong = "badMessageCheck, because the MAC is wrong", str(reply)
        elif message.kind == "pollReq" and reply.fail_info in LATE:
            if not case.gone_on(message, attempt.ended):
                wrong = "an answer to who polls as it was told to", str(reply)
        elif reply.fail_info not in HONEST or (reply.fail_info == "transactionIdInUse" and not message.begins):
            wrong = "no failInfo that says the message was bad, or the service has failed", str(reply)
        elif reply.certificate and not reply.protected:
            wrong = "a certificate in a protected answer", str(reply)
        elif reply.certificate and reply.key != message.key:
            wrong = f"a certificate for the key {message.key}", f"for {reply.key}"
        elif reply.certificate and reply.implicit and not message.implicit:
            wrong = "implicitConfirm only for who asks for it", str(reply)
        if wrong is not None:
            yield Violation("answers", *wrong, (message.digest,))


def repetition(case: Case) -> Iterator[Violation]:
    for message in case.history.messages.values():
        kept = [(attempt, reply) for attempt, reply in case.answered(message) if reply.kept]
        if message.kind == "pollReq":  # it is repeated until the next message comes
            said = {reply.digest: str(reply) for _, reply in case.answered(message) if reply.body in {"pollRep", "ip"}}
            if len(said) > 1:
                seen = " and ".join(said.values())
                yield Violation("repetition", "one answer to the same octets", seen, (message.digest,))
            continue
        if not case.alone(message):  # a rejection of what came second is not kept: the first one has the transaction
            kept = [(attempt, reply) for attempt, reply in kept if reply.certificate or reply.body == "pkiconf"]
        if not kept:
            continue
        different = {reply.digest: str(reply) for _, reply in kept}
        if len(different) > 1:
            yield Violation(
                "repetition", "one answer to the same octets", " and ".join(different.values()), (message.digest,)
            )
            continue
        since, first = min(((attempt.ended, reply) for attempt, reply in kept), key=lambda one: one[0])
        for attempt, reply in case.answered(message):
            if attempt.sent > since and not reply.temporary and reply.digest != first.digest:
                yield Violation(
                    "repetition",
                    f"{first}, as at {since:.3f}",
                    f"{reply} to what was sent at {attempt.sent:.3f}",
                    (message.digest,),
                )
                break


def transactions(case: Case) -> Iterator[Violation]:
    issued = defaultdict(list)
    for certificate in case.contents.certificates:
        issued[certificate.tid].append(certificate.serial)
    for tid, messages in case.by_tid.items():
        names = tuple(message.digest for message in messages)
        begun = [message for message in messages if message.begins]
        winners = {
            message.digest: reply for message in begun for _, reply in case.answered(message) if reply.certificate
        }
        if len(winners) > 1:
            yield Violation(
                "transactions",
                f"one certificate for transactionID {tid}",
                " and ".join(f"{reply} to {message}" for message, reply in winners.items()),
                names,
            )
        if len(issued[tid]) > 1:
            yield Violation(
                "transactions",
                f"at most one certificate of transactionID {tid} in the store",
                f"serial numbers {', '.join(issued[tid])}",
                names,
            )
        row = case.contents.transactions.get(tid)
        for message, reply in winners.items():
            if row is None or (row.first_request, row.first_reply) != (message, reply.digest):
                yield Violation("transactions", f"{message} answered by {reply} in the store", f"{row}", names)
        ends = {
            message.digest: (message, reply)
            for message in messages
            if not message.begins
            for _, reply in case.answered(message)
            if reply.body == "pkiconf"
        }
        if len(ends) > 1:
            said = " and ".join(f"{message.verdict} by {message.digest}" for message, _ in ends.values())
            yield Violation("transactions", "one certConf that is answered with a pkiconf", said, names)
        for message, (_, reply) in ends.items():
            if row is None or (row.last_request, row.last_reply) != (message, reply.digest):
                yield Violation("transactions", f"{message} answered by {reply} in the store", f"{row}", names)


def durability(case: Case) -> Iterator[Violation]:
    for message, _, reply in case.granted():
        row = case.stored.get(reply.serial)
        if row is None:
            yield Violation("durability", f"the certificate {reply.serial} in the store", "nothing", (message.digest,))
        elif (row.certificate, row.tid, row.profile) != (reply.certificate, message.tid, message.profile):
            yield Violation("durability", f"{reply} of {message}", f"{row}", (message.digest,))
    for row in case.contents.certificates:
        origin = case.origin(row)
        if origin is None or not case.may_have_arrived(origin) or not origin.genuine:
            yield Violation("durability", "only certificates that somebody asked for", f"{row} of {origin}")
        elif (row.key, row.profile, row.seat) != (origin.key, origin.profile, origin.seat):
            yield Violation("durability", f"a certificate as it was asked for in {origin}", f"{row}", (origin.digest,))
    for message in case.history.messages.values():
        if not message.genuine and message.tid in case.contents.transactions:
            yield Violation("durability", "nothing kept of a forged message", message.tid, (message.digest,))


def serials(case: Case) -> Iterator[Violation]:
    seen: dict[str, tuple[str, str]] = {}
    for message, _, reply in case.granted():
        before = seen.setdefault(reply.serial, (reply.certificate, message.digest))
        if before != (reply.certificate, message.digest):
            yield Violation(
                "serials",
                f"serial number {reply.serial} in one certificate, for one message",
                f"certificate {before[0]} for {before[1]}, and {reply.certificate} for {message.digest}",
                (before[1], message.digest),
            )
    for serial, number in Counter(one.serial for one in case.contents.certificates).items():
        if number > 1:
            yield Violation("serials", f"serial number {serial} once in the store", f"{number} times")


def status(case: Case) -> Iterator[Violation]:
    """What each certificate may be at the end, by what was said of it and to whom."""
    about: dict[str, list[Message]] = defaultdict(list)
    for message in case.history.messages.values():
        if message.serial:
            about[message.serial].append(message)
    implicit = {reply.serial for _, _, reply in case.granted() if reply.implicit}
    for row in case.contents.certificates:
        said = about[row.serial]
        ended = {message.verdict for message in said for _, reply in case.answered(message) if reply.body == "pkiconf"}
        revoked = case.acts("revoke certificate", row.serial)
        if "reject" in ended:
            allowed = {"revoked"}
        elif "accept" in ended or row.serial in implicit:
            allowed = {"valid"}
        else:
            sent = {message.verdict for message in said if case.may_have_arrived(message)}
            origin = case.origin(row)
            allowed = {"unconfirmed"}
            if "accept" in sent or (origin is not None and origin.implicit):
                allowed.add("valid")
            if "reject" in sent or case.history.terms[row.profile].expires:
                allowed.add("revoked")
            if case.history.terms[row.profile].ordered:  # nobody has come for it
                allowed |= {"kept", "revoked"}
        if any(ended < UNKNOWN for _, ended in revoked):
            allowed = {"revoked"}
        elif revoked:
            allowed |= {"revoked"}
        if row.status not in allowed:
            yield Violation(
                "status",
                f"certificate {row.serial}: {' or '.join(sorted(allowed))}",
                row.status,
                tuple(message.digest for message in [*case.by_tid[row.tid]]),
            )


def codes(case: Case) -> Iterator[Violation]:
    issued: dict[str, list[StoredCertificate]] = defaultdict(list)
    for row in case.contents.certificates:
        origin = case.origin(row)
        if origin is not None and origin.code:
            issued[origin.code].append(row)
    for name, code in case.history.codes.items():
        rows = issued[name]
        origins = tuple(origin.digest for row in rows if (origin := case.origin(row)) is not None)
        returned = 0
        if case.history.terms[code.profile].give_back:
            returned = sum(case.contents.transactions[row.tid].state == "rejected" for row in rows)
        used = len(rows) - returned
        if code.uses is not None and used > code.uses:
            yield Violation("codes", f"code {name}: at most {code.uses} certificates", f"{used}", origins)
        acknowledged = {
            reply.serial: message
            for message in case.by_code[name]
            for _, reply in case.answered(message)
            if reply.certificate and code.uses is not None and not returned
        }
        if code.uses is not None and len(acknowledged) > code.uses:
            yield Violation(
                "codes",
                f"code {name}: at most {code.uses} certificates handed out",
                f"{len(acknowledged)}",
                tuple(message.digest for message in acknowledged.values()),
            )
        kept = case.contents.codes.get(name)
        if case.history.terms[code.profile].ordered:  # a use is an order
            by = {one.tid for one in case.by_code[name]}
            used = sum(one.tid in by and one.state != "failed" for one in case.contents.orders)
        if kept is None or kept.used != used:
            yield Violation("codes", f"code {name}: {used} uses counted, as many as certificates", f"{kept}", origins)
        for _, revoked in case.acts("revoke code", name):
            if kept is not None and not kept.revoked and revoked < UNKNOWN:
                yield Violation("codes", f"code {name} revoked, as it was at {revoked:.3f}", f"{kept}")
            late = [one for one in rows if (origin := case.origin(one)) and case.first_sent(origin) > revoked]
            if late:
                yield Violation(
                    "codes",
                    f"code {name}: nothing for what was sent after it was revoked at {revoked:.3f}",
                    ", ".join(f"certificate {one.serial}" for one in late),
                    tuple(origin.digest for one in late if (origin := case.origin(one)) is not None),
                )


def budgets(case: Case) -> Iterator[Violation]:
    days = Counter((row.profile, row.day) for row in case.contents.certificates)
    for (profile, day), number in days.items():
        most = case.history.terms[profile].per_day
        if most is not None and number > most:
            yield Violation("budgets", f"profile {profile}: {most} certificates a day", f"{number}")
        if not case.history.terms[profile].ordered and case.contents.spent.get((profile, day), 0) != number:
            counted = case.contents.spent.get((profile, day), 0)
            yield Violation("budgets", f"profile {profile}: {number} certificates counted in the day", f"{counted}")
    yield from _seats(case)


def _seats(case: Case) -> Iterator[Violation]:
    """A certificate is in force at least from its first answer until somebody began to revoke it."""
    changes: dict[tuple[str, str], list[tuple[float, int, str]]] = defaultdict(list)
    begun: dict[str, float] = {}
    for message, attempt, reply in case.granted():
        if case.history.terms[message.profile].per_seat is not None and reply.serial not in begun:
            begun[reply.serial] = attempt.ended
            changes[message.profile, message.seat].append((attempt.ended, 1, message.digest))
            ends = [
                case.first_sent(one)
                for one in case.by_tid[message.tid]
                if one.verdict == "reject" and case.may_have_arrived(one)
            ] + [began for began, _ in case.acts("revoke certificate", reply.serial)]
            if ends:
                changes[message.profile, message.seat].append((max(min(ends), attempt.ended), -1, message.digest))
    for (profile, seat), moments in changes.items():
        most = case.history.terms[profile].per_seat
        assert most is not None
        number = 0
        for at, change, _ in sorted(moments, key=lambda one: (one[0], one[1])):
            number += change
            if number > most:
                yield Violation(
                    "budgets",
                    f"seat {seat}: {most} certificates in force at a time",
                    f"{number} at {at:.3f}",
                    tuple(name for _, _, name in moments),
                )
                break


def orders(case: Case) -> Iterator[Violation]:
    names = {message.key: message.digest for message in case.history.messages.values() if message.kind == "ir"}
    kept = Counter(one.tid for one in case.contents.orders)
    for tid, number in kept.items():
        if number > 1:
            yield Violation("orders", f"one order of transactionID {tid}", f"{number}")
    keys = {one.key: one for one in case.contents.orders}
    for key, number in Counter(case.contents.paid).items():
        concerned = (names[key],) if key in names else ()
        if number > 1:
            yield Violation("orders", f"one order for the key {key} on the bill", f"{number}", concerned)
        if key not in keys:
            yield Violation("orders", "only orders on the bill that were kept before", f"the key {key}", concerned)
    for key, order in keys.items():
        if order.state == "issued" and key not in case.contents.paid:
            yield Violation("orders", "what was issued on the bill", f"{order}")
        if case.history.patient and order.state not in {"issued", "failed", "held"}:
            yield Violation("orders", "orders that come to an end, or are held", f"{order}")


def locks(case: Case) -> Iterator[Violation]:
    """A lock is reached when one life of a node has answered so many wrong MACs in a row; all nodes know it then.

    A use of the code at any node ends the row.
    """
    wrong: dict[str, list[tuple[Attempt, Reply]]] = defaultdict(list)
    right: dict[str, list[tuple[Message, Attempt, Reply]]] = defaultdict(list)
    for attempt in case.history.attempts:
        message = case.history.messages[attempt.message]
        if attempt.reply is None or not message.code or not message.begins:
            continue
        if not message.genuine and attempt.reply.fail_info == "badMessageCheck":
            wrong[message.code].append((attempt, attempt.reply))
        else:
            right[message.code].append((message, attempt, attempt.reply))
    for name, guesses in wrong.items():
        terms = case.history.terms[case.history.codes[name].profile]
        if terms.lock_after is None:
            continue
        lives = defaultdict(list)
        for attempt, _ in guesses:
            lives[attempt.node, attempt.life].append(attempt)
        for (node, life), here in lives.items():
            disturbed = any(
                one.sent < here[-1].ended and (one.reply is None or (one.ended > here[0].sent and not one.reply.locked))
                for message in case.by_code[name]
                if message.genuine
                for one in case.attempts[message.digest]
            )
            # of a wrong MAC without an answer it is not known whether it was counted
            disturbed = disturbed or any(
                (one.node, one.life) == (node, life) and one.reply is None and not message.genuine
                for message in case.by_code[name]
                for one in case.attempts[message.digest]
            )
            if disturbed or len(here) < terms.lock_after:
                continue
            last = here[terms.lock_after - 1]
            # the store keeps whole seconds
            until = int(case.history.epoch + last.sent + terms.lock_for) - case.history.epoch
            for message, attempt, reply in right[name]:
                inside = last.ended < attempt.sent and attempt.ended < until
                if inside and not reply.temporary and case.first_sent(message) > last.ended:
                    yield Violation(
                        "locks",
                        f"code {name} locked at every node from {last.ended:.3f} to {until:.3f},"
                        f" after {terms.lock_after} wrong MACs at node {node}",
                        f"{reply} at node {attempt.node}, asked at {attempt.sent:.3f}",
                        (*dict.fromkeys(one.message for one in here), message.digest),
                    )
            later = [one for one in here[terms.lock_after :] if last.ended < one.sent and one.ended < until]
            if later:
                yield Violation(
                    "locks",
                    f"no MAC looked at with code {name} from {last.ended:.3f} to {until:.3f}",
                    f"badMessageCheck at node {node}, asked at {later[0].sent:.3f}",
                    tuple(dict.fromkeys(one.message for one in here)),
                )
        yield from _locks_seen(case, name, {node for node, _ in lives}, right[name], guesses)


def _locks_seen(
    case: Case,
    name: str,
    guessed_at: set[str],
    right: list[tuple[Message, Attempt, Reply]],
    guesses: list[tuple[Attempt, Reply]],
) -> Iterator[Violation]:
    """A node that was sent no wrong MAC knows of a lock from the store, where all others find it too."""
    seen = [(attempt, _until(reply)) for _, attempt, reply in right if reply.locked and attempt.node not in guessed_at]
    if not seen:
        return
    first, wall = min(seen, key=lambda one: one[0].ended)
    until = wall - case.history.epoch
    asked = [(attempt, reply, case.first_sent(message)) for message, attempt, reply in right]
    asked += [(attempt, reply, attempt.sent) for attempt, reply in guesses]
    for attempt, reply, since in asked:
        if first.ended < attempt.sent and attempt.ended < until and since > first.ended and not reply.temporary:
            yield Violation(
                "locks",
                f"code {name} locked until {until:.3f}, as node {first.node} said at {first.ended:.3f}",
                f"{reply} at node {attempt.node}, asked at {attempt.sent:.3f}",
                (first.message, attempt.message),
            )


def _until(reply: Reply) -> float:
    """`… try again at 2026-01-01T00:00:00Z` in seconds since 1970."""
    return datetime.strptime(reply.text.rsplit(" ", 1)[1], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def signers(case: Case) -> Iterator[Violation]:
    for message, attempt, reply in case.granted():
        if message.kind != "kur":
            continue
        for _, revoked in case.acts("revoke certificate", message.signer):
            if case.first_sent(message) > revoked:
                yield Violation(
                    "signers",
                    f"certRevoked: certificate {message.signer} was revoked at {revoked:.3f}",
                    f"{reply} to what was sent at {attempt.sent:.3f}",
                    (message.digest,),
                )


def resolution(case: Case) -> Iterator[Violation]:
    for message in case.history.messages.values():
        if case.attempts[message.digest] and not any(
            not reply.temporary or reply.locked for _, reply in case.answered(message)
        ):
            yield Violation("resolution", "an answer at last", "none that is more than temporary", (message.digest,))


def soundness(case: Case) -> Iterator[Violation]:
    for fault in case.contents.faults:
        yield Violation("soundness", "a store that holds together", fault)
    for note in case.history.notes:
        yield Violation("soundness", "nodes that run until they are stopped, without an internal error", note)


RULES: tuple[Rule, ...] = (
    answers,
    repetition,
    transactions,
    durability,
    serials,
    status,
    codes,
    budgets,
    orders,
    locks,
    signers,
    resolution,
    soundness,
)


def check(history: History, contents: Contents) -> list[Violation]:
    """All that is broken, rule by rule."""
    case = Case(history, contents)
    return [violation for rule in RULES for violation in rule(case)]


def report(history: History, violations: Iterable[Violation]) -> str:
    """Each violation with what happened to its messages, and the faults meanwhile, in the order of time."""
    lines = [f"seed {history.seed}"]
    for number, violation in enumerate(violations, 1):
        lines += [
            "",
            f"{number}. {violation.rule}",
            f"   expected  {violation.expected}",
            f"   seen      {violation.seen}",
        ]
        lines += [f"   {line}" for line in _story(history, violation.messages)]
    return "\n".join(lines)


def _story(history: History, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        message = history.messages[name]
        verdict = f" {message.verdict} {message.serial}" if message.verdict else ""
        by = f"code {message.code}" if message.code else f"certificate {message.signer}"
        forged = "" if message.genuine else ", MAC wrong"
        yield (
            f"message {name}  {message.kind}{verdict}, profile {message.profile}, transaction {message.tid}, "
            f"{by}{forged}"
        )
    attempts = [one for one in history.attempts if one.message in names]
    if not attempts:
        return
    begin, end = min(one.sent for one in attempts), max(one.ended for one in attempts)
    events: list[tuple[float, str]] = []
    for one in attempts[:SHOWN]:
        span, to = f"{one.sent:9.3f} to {one.ended:9.3f}", f"to node {one.node}.{one.life}"
        events.append((one.sent, f"{span}  {one.client} sends {one.message} {to}: {one.reply or one.lost}"))
    concerned = {history.messages[name].code for name in names} | {history.messages[name].serial for name in names}
    events += [
        (act.began, f"{act.began:9.3f} to {act.ended:9.3f}  {act.kind} {act.what}")
        for act in history.acts
        if act.what in concerned or (act.began < end and begin < act.ended and not act.kind.startswith("revoke"))
    ]
    yield from (text for _, text in sorted(events))
    if len(attempts) > SHOWN:
        yield f"… and {len(attempts) - SHOWN} more attempts, in the history"
