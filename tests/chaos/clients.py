"""What end entities and the operator do to the nodes, every call of it written into the history.

No client stays with a node: each message goes to any of them, and some are cut off before, while or after the answer
comes. A message without an answer is sent again, the same octets, to whatever node.
"""

import asyncio
import contextlib
import itertools
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cmpd.asn1 import PKIStatus, der, oids
from cmpd.exchange import NewCode, RevocationReason
from cmpd.ports import Revocation, StoreUnavailable
from cmpd.store import AdminStore
from tests.certcentral import CertCentral
from tests.chaos.checker import NEVER_SENT, UNKNOWN
from tests.chaos.cluster import BUDGETS, ORDERED, PER_DAY, Cluster, Node
from tests.chaos.history import Act, Attempt, Code, History, Message, Reply, digest
from tests.ee import EE, IMPLICIT_CONFIRM, Answer, Draft, extension, spki
from tests.http_client import Client as Connection
from tests.http_client import post

SECRET = "correct-horse-battery"
ITERATIONS = 100
"""Of PasswordBasedMac: the fewest that are allowed, for the load is not what is tested."""
ANSWER_SECONDS = 12.0
"""How long an answer is waited for: longer than any fault lasts."""
CUT_OFF = 0.1
"""The share of requests that the client itself cuts off."""
TWICE = 0.1
"""The share of messages that are sent to two nodes at once."""
POLLS = 6
TRIES = 6
"""After so many a client gives up; the message is sent again when all is quiet."""
CODES_AT_ONCE = 100
THINK_SECONDS = 0.15
REPEATED = 1500
"""So many messages, at most, are sent once more when all is quiet."""
RESOLVE_SECONDS = 60.0


class Lost(Exception):
    """There is no answer, and why."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message with what its sender needs to read the answer."""

    message: Message
    octets: bytes
    draft: Draft
    ee: EE


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate that was confirmed, and its key."""

    key: Any
    certificate: bytes
    serial: str
    profile: str
    seat: str


@dataclass(slots=True)
class Office:
    """What all clients of a run share."""

    cluster: Cluster
    history: History
    store: AdminStore
    central: CertCentral
    """The issuer that is paid."""
    until: float
    """When no new work is begun."""
    letters: dict[str, Letter] = field(default_factory=dict)
    certified: list[Certified] = field(default_factory=list)
    stock: dict[tuple[str, int | None], list[str]] = field(default_factory=dict)
    """Enrollment codes that nobody has yet, by profile and uses."""
    making: asyncio.Lock = field(default_factory=asyncio.Lock)
    done: Counter[str] = field(default_factory=Counter)
    """How often each kind of work was done to its end."""
    budgets: Iterator[int] = field(default_factory=itertools.count)
    names: Iterator[int] = field(default_factory=itertools.count)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until

    async def code(self, profile: str, uses: int | None = 1) -> str:
        """Reference of a new enrollment code; they are made by the hundred."""
        async with self.making:
            stock = self.stock.setdefault((profile, uses), [])
            while not stock:
                names = [f"{profile}-{secrets.token_hex(6)}" for _ in range(CODES_AT_ONCE)]
                new = [NewCode(profile, name, SECRET.encode(), uses, None) for name in names]
                # when it is not known whether they were made, they are nobody's
                with contextlib.suppress(StoreUnavailable):
                    await self.store.create_codes(new, datetime.now(UTC))
                    stock += names
                if not stock:
                    await asyncio.sleep(0.1)
            name = stock.pop()
        self.history.codes[name] = Code(profile, name, uses)
        return name

    async def act(self, kind: str, what: str, do: Callable[[], Awaitable[bool]]) -> None:
        """An operator's command, repeated until the store was there; what was done before is done."""
        began = time.monotonic()
        for _ in range(600):
            with contextlib.suppress(StoreUnavailable):
                await do()
                self.history.acts.append(Act(kind, what, began, time.monotonic()))
                return
            await asyncio.sleep(0.1)
        self.history.acts.append(Act(kind, what, began, UNKNOWN, known=False))

    async def revoke_code(self, profile: str, name: str) -> None:
        await self.act("revoke code", name, lambda: self.store.revoke_code(profile, name, datetime.now(UTC)))

    async def revoke(self, serial: str) -> None:
        revocation = Revocation(int(serial, 16), RevocationReason.superseded, datetime.now(UTC))
        await self.act("revoke certificate", serial, lambda: self.store.revoke(revocation))


class Client:
    """One that does one piece of work after another, as its seed has it."""

    def __init__(self, office: Office, name: str, seed: str) -> None:
        self._office = office
        self._name = name
        self._chance = random.Random(seed)
        self._works: dict[Callable[[], Awaitable[None]], int] = {
            self.race: 6,
            self.give_back: 2,
            self.dawdle: 2,
            self.update: 6,
            self.reuse: 2,
            self.revoke_in_between: 2,
            self.guess: 2,
            self.fill_seat: 2,
            self.fill_day: 1,
            self.revoke: 1,
            self.insist: 2,
            self.order: 2,
        }

    async def run(self) -> None:
        while not self._office.over:
            (work,) = self._chance.choices(list(self._works), list(self._works.values()))
            await work()
            self._office.done[work.__name__] += 1
            await asyncio.sleep(self._chance.uniform(0, THINK_SECONDS))

    # ------------------------------------------------------------------------------------------------ messages

    def _letter(self, ee: EE, draft: Draft, **facts: Any) -> Letter:
        octets = ee.seal(draft)
        assert draft.transaction_id is not None
        message = Message(digest(octets), tid=draft.transaction_id.hex(), **facts)
        letter = self._office.letters[message.digest] = Letter(message, octets, draft, ee)
        self._office.history.messages[message.digest] = message
        return letter

    def _request(
        self, profile: str, code: str, seat: str = "", *, tid: bytes | None = None, wrong: bool = False
    ) -> Letter:
        """An ir by enrollment code."""
        ee = EE.with_code(code, "wrong" if wrong else SECRET, iterations=ITERATIONS)
        implicit = self._chance.random() < 0.25
        header: dict[str, Any] = {"general_info": IMPLICIT_CONFIRM} if implicit else {}
        if tid is not None:
            header["transaction_id"] = tid
        seat = seat or f"device-{next(self._office.names)}"
        draft = ee.ir(subject=f"CN={seat}", header=header)
        return self._letter(
            ee,
            draft,
            kind="ir",
            profile=profile,
            code=code,
            genuine=not wrong,
            key=digest(spki(draft.key)),
            seat=seat,
            implicit=implicit,
        )

    def _order(self, code: str) -> Letter:
        """An ir for a mailbox, whose certificate is ordered."""
        ee = EE.with_code(code, SECRET, iterations=ITERATIONS)
        mail = f"m{next(self._office.names)}@example.com"
        names = extension(oids.SUBJECT_ALT_NAME, der.sequence(der.tlv(0x81, mail.encode())))
        draft = ee.ir(subject=f"CN={mail}", extensions=(names,))
        key = digest(spki(draft.key))
        return self._letter(ee, draft, kind="ir", profile=ORDERED, code=code, key=key, seat=mail)

    def _poll(self, letter: Letter, answer: Answer) -> Letter:
        message = letter.message
        draft = letter.ee.poll_req(answer)
        return self._letter(
            letter.ee, draft, kind="pollReq", profile=message.profile, code=message.code, key=message.key
        )

    def _update(self, old: Certified) -> Letter:
        """A kur with a new key."""
        ee = EE.with_certificate(old.key, old.certificate)
        draft = ee.kur(subject=f"CN={old.seat}")
        return self._letter(
            ee, draft, kind="kur", profile=old.profile, signer=old.serial, key=digest(spki(draft.key)), seat=old.seat
        )

    def _confirmation(self, letter: Letter, answer: Answer, verdict: str) -> Letter:
        status = PKIStatus.rejection if verdict == "reject" else None
        draft = letter.ee.cert_conf(answer, status=status, hash_name="sha256")
        return self._letter(
            letter.ee,
            draft,
            kind="certConf",
            profile=letter.message.profile,
            code=letter.message.code,
            signer=letter.message.signer,
            serial=f"{answer.certificate().serial_number:x}",
            verdict=verdict,
        )

    # ----------------------------------------------------------------------------------------------- on the way

    def _anywhere(self) -> Node:
        return self._chance.choice(self._office.cluster.nodes)

    async def once(self, letter: Letter, node: Node, *, whole: bool = False) -> tuple[Reply, Answer | None] | None:
        """Send a message to a node; None when no answer comes. `whole`: it is not cut off by the client."""
        cut = ""
        if not whole and self._chance.random() < CUT_OFF:
            cut = self._chance.choice(("request", "wait", "answer"))
        path = f"/.well-known/cmp/p/{letter.message.profile}"
        life, sent = node.life, time.monotonic()
        found: tuple[Reply, Answer | None] | None = None
        lost = ""
        try:
            octets = await _exchange(node.port, post(path, letter.octets), cut, self._chance.uniform(0, 0.03))
            found = read(letter, octets)
        except Lost as exc:
            lost = str(exc)
        self._office.history.attempts.append(
            Attempt(
                letter.message.digest,
                self._name,
                node.name,
                life,
                sent,
                time.monotonic(),
                None if found is None else found[0],
                lost,
            )
        )
        return found

    async def deliver(self, letter: Letter) -> Answer | None:
        """Send it again and again until an answer comes that is more than temporary, or patience ends."""
        for number in range(TRIES):
            if self._chance.random() < TWICE:
                pair = await asyncio.gather(*(self.once(letter, self._anywhere()) for _ in range(2)))
                found = pair[0] or pair[1]
            else:
                found = await self.once(letter, self._anywhere())
            if found is not None and not found[0].temporary:
                return found[1]
            await asyncio.sleep(self._chance.uniform(0.02, 0.1) * (number + 1))
        return None

    async def all_at_once(self, letters: Sequence[Letter]) -> list[tuple[Letter, Answer]]:
        """Who has got a certificate, of many."""
        answers = await asyncio.gather(*map(self.deliver, letters))
        return [
            (letter, answer)
            for letter, answer in zip(letters, answers, strict=True)
            if answer is not None and _certificate(answer)
        ]

    async def conclude(self, letter: Letter, answer: Answer, plan: str = "") -> bool:
        """Confirm or reject what was issued, as chance has it; whether the certificate is confirmed."""
        if _implicit(answer):
            self._keep(letter, answer)
            return True
        plan = plan or self._chance.choices(("accept", "reject", "both", "twice", "leave"), (60, 15, 10, 10, 5))[0]
        verdicts = {"both": ("accept", "reject"), "twice": ("accept", "accept"), "leave": ()}.get(plan, (plan,))
        letters = [self._confirmation(letter, answer, verdict) for verdict in verdicts]
        answers = await asyncio.gather(*map(self.deliver, letters))
        for confirmation, ended in zip(letters, answers, strict=True):
            if ended is not None and ended.type.name == "pkiconf" and confirmation.message.verdict == "accept":
                self._keep(letter, answer)
                return True
        return False

    def _keep(self, letter: Letter, answer: Answer) -> None:
        message, certificate = letter.message, answer.certificate()
        if message.profile in {"plain", "hasty"}:
            kept = Certified(
                letter.draft.key,
                answer.certificate_der(),
                f"{certificate.serial_number:x}",
                message.profile,
                message.seat,
            )
            self._office.certified.append(kept)

    async def conclude_all(self, granted: Sequence[tuple[Letter, Answer]], plan: str = "") -> None:
        await asyncio.gather(*(self.conclude(letter, answer, plan) for letter, answer in granted))

    # ------------------------------------------------------------------------------------------------- the works

    async def race(self) -> None:
        """More clients than the code has uses."""
        uses = self._chance.choice((1, 1, 1, 2, 4))
        code = await self._office.code("plain", uses)
        racers = uses + self._chance.randint(0, 3)
        await self.conclude_all(await self.all_at_once([self._request("plain", code) for _ in range(racers)]))

    async def give_back(self) -> None:
        """A code that comes back when its certificate is rejected: again a race, and again."""
        uses = self._chance.choice((1, 2))
        code = await self._office.code("giving", uses)
        for plan in ("reject", "both", ""):
            granted = await self.all_at_once([self._request("giving", code) for _ in range(uses + 2)])
            await self.conclude_all(granted, plan)

    async def dawdle(self) -> None:
        """A certConf that comes when its time is just over, or nearly."""
        code = await self._office.code("hasty")
        granted = await self.all_at_once([self._request("hasty", code)])
        await asyncio.sleep(self._chance.uniform(2.0, 8.0))
        await self.conclude_all(granted)

    async def update(self) -> None:
        """A kur, or two of one certificate at once."""
        old = self._take()
        if old is None:
            await self.race()
            return
        await self.conclude_all(await self.all_at_once([self._update(old) for _ in range(self._chance.choice((1, 2)))]))

    def _take(self) -> Certified | None:
        certified = self._office.certified
        return certified.pop(self._chance.randrange(len(certified))) if certified else None

    async def reuse(self) -> None:
        """Several requests under one transactionID, by one code or by two."""
        codes = [await self._office.code("plain", 4)]
        codes.append(self._chance.choice((codes[0], await self._office.code("plain", 1))))
        tid = secrets.token_bytes(16)
        letters = [self._request("plain", codes[number % 2], tid=tid) for number in range(self._chance.choice((2, 3)))]
        if self._chance.random() < 0.3:
            first = await self.all_at_once(letters[:1])
            await asyncio.gather(self.conclude_all(first), self.all_at_once(letters[1:]))
        else:
            await self.conclude_all(await self.all_at_once(letters))

    async def revoke_in_between(self) -> None:
        """An operator revokes the code while clients use it."""
        code = await self._office.code("plain", 8)

        async def revoking() -> None:
            await asyncio.sleep(self._chance.uniform(0, 0.1))
            await self._office.revoke_code("plain", code)

        racing = self.all_at_once([self._request("plain", code) for _ in range(4)])
        granted, _ = await asyncio.gather(racing, revoking())
        await self.conclude_all([*granted, *await self.all_at_once([self._request("plain", code)])])

    async def guess(self) -> None:
        """Wrong MACs at one node until the code is locked, and right ones at all nodes, meanwhile or afterwards."""
        code = await self._office.code("locking", 8)
        node = self._anywhere()
        others = [one for one in self._office.cluster.nodes if one is not node]
        guesses = [self._request("locking", code, wrong=True) for _ in range(3)]

        async def guessing() -> None:
            for letter in guesses:
                await self.once(letter, node, whole=True)

        async def using() -> None:
            for _ in range(2):
                await self.once(self._request("locking", code), self._chance.choice(others), whole=True)
                await asyncio.sleep(self._chance.uniform(0, 0.02))

        if self._chance.random() < 0.5 and others:
            await asyncio.gather(guessing(), using())
        else:
            await guessing()
        nodes = self._office.cluster.nodes
        await asyncio.gather(*(self.once(self._request("locking", code), one, whole=True) for one in nodes))

    async def fill_seat(self) -> None:
        """More certificates than the seat may have; what is rejected makes room."""
        profile = self._chance.choice(("seats", "alone"))
        code = await self._office.code(profile, None)
        seat = f"seat-{secrets.token_hex(4)}"
        for _ in range(2):
            granted = await self.all_at_once([self._request(profile, code, seat) for _ in range(4)])
            await self.conclude_all(granted)

    async def fill_day(self) -> None:
        """More certificates than the profile issues in a day."""
        number = next(self._office.budgets)
        if number >= BUDGETS:
            await self.race()
            return
        code = await self._office.code(f"budget-{number}", None)
        letters = [self._request(f"budget-{number}", code) for _ in range(PER_DAY + 5)]
        await self.conclude_all(await self.all_at_once(letters))

    async def revoke(self) -> None:
        """An operator revokes a certificate while it is updated, and it is tried once more afterwards."""
        old = self._take()
        if old is None:
            await self.race()
            return
        granted, _ = await asyncio.gather(self.all_at_once([self._update(old)]), self._office.revoke(old.serial))
        await self.conclude_all([*granted, *await self.all_at_once([self._update(old)])])

    async def insist(self) -> None:
        """The same octets to all nodes at once, again and again."""
        letter = self._request("plain", await self._office.code("plain"))
        nodes = self._office.cluster.nodes * 2
        found = await asyncio.gather(*(self.once(letter, node) for node in nodes))
        answers = [one[1] for one in found if one is not None and one[1] is not None and _certificate(one[1])]
        if answers and not _implicit(answers[0]):
            verdict = self._chance.choice(("accept", "reject"))
            confirmation = self._confirmation(letter, answers[0], verdict)
            await asyncio.gather(*(self.once(confirmation, node) for node in nodes))

    async def order(self) -> None:
        """A certificate that must be paid, and is polled for."""
        letter = self._order(await self._office.code(ORDERED))
        self._office.central.set(delay=self._chance.choice((0.0, 0.5, 3.0)))
        answer = await self.deliver(letter)
        for _ in range(POLLS):
            if answer is None or not _waiting(answer):
                break
            await asyncio.sleep(self._chance.uniform(1.0, 3.0))
            answer = await self.deliver(self._poll(letter, answer))
        if answer is not None and _certificate(answer):
            await self.conclude(letter, answer)

    # -------------------------------------------------------------------------------------------- when all is quiet

    async def resolve(self, letter: Letter) -> None:
        """Send what has no answer until it has one."""
        deadline = time.monotonic() + RESOLVE_SECONDS
        while time.monotonic() < deadline:
            found = await self.once(letter, self._anywhere(), whole=True)
            if found is not None and not found[0].temporary:
                return
            await asyncio.sleep(0.3)


async def settle(office: Office, client: Client) -> None:
    """When all is quiet: what has no answer gets one, and what has one is asked again."""
    history = office.history
    answered: dict[str, bool] = {}
    for attempt in history.attempts:
        reply = attempt.reply
        if reply is not None and not reply.temporary:
            answered[attempt.message] = answered.get(attempt.message, False) or reply.kept
    asked = {attempt.message for attempt in history.attempts}
    open_ = [letter for name, letter in office.letters.items() if name in asked and name not in answered]
    again = [
        office.letters[name] for name, kept in answered.items() if kept and history.messages[name].kind != "pollReq"
    ]
    again = random.Random(history.seed).sample(again, min(REPEATED, len(again)))
    few = asyncio.Semaphore(8)

    async def one(letter: Letter) -> None:
        async with few:
            await client.resolve(letter)

    await asyncio.gather(*map(one, open_))
    await asyncio.gather(*map(one, again))
    office.done["resolved when quiet"] = len(open_)
    office.done["repeated when quiet"] = len(again)


async def _exchange(port: int, request: bytes, cut: str, patience: float) -> bytes:
    """One HTTP request on a connection of its own: the body of the answer. Raises `Lost`."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        raise Lost(NEVER_SENT) from None
    connection = Connection(reader, writer)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            connection.send(request[: len(request) // 2] if cut == "request" else request)
            await writer.drain()
            if cut == "answer":
                await reader.readexactly(20)
            elif cut:
                await asyncio.sleep(patience)
            if cut:
                connection.reset()
                raise Lost(f"cut off by the client in the {cut}")
            reply = await connection.reply()
    except TimeoutError:
        raise Lost(f"no answer in {ANSWER_SECONDS:.0f} s") from None
    except (OSError, EOFError) as exc:
        raise Lost(f"the connection broke: {type(exc).__name__}") from None
    finally:
        writer.transport.abort()
    if reply.status != 200:
        raise Lost(f"HTTP {reply.status}")
    return reply.body


def read(letter: Letter, octets: bytes) -> tuple[Reply, Answer | None]:
    """What an answer says; checked as an end entity checks it."""
    try:
        answer = letter.ee.read(octets, letter.draft)
        body = answer.type.name
        if body in {"pkiconf", "pollRep"}:
            return Reply(digest(octets), body, protected=answer.protected), answer
        facts: dict[str, Any] = {
            "status": answer.status.name,
            "fail_info": answer.fail_info or "",
            "text": answer.text,
            "protected": answer.protected,
        }
        if _certificate(answer):
            certificate = answer.certificate()
            facts |= {
                "certificate": digest(answer.certificate_der()),
                "serial": f"{certificate.serial_number:x}",
                "key": digest(spki(_Holder(certificate))),
                "implicit": _implicit(answer),
            }
        return Reply(digest(octets), body, **facts), answer
    except Exception as exc:  # noqa: BLE001  whatever is wrong with an answer is for the checker to report
        return Reply(digest(octets), "an answer", fault=f"{type(exc).__name__}: {exc}"), None


class _Holder:
    """Has the public key of a certificate where a private key has its own."""

    def __init__(self, certificate: Any) -> None:
        self.public_key = certificate.public_key


def _certificate(answer: Answer) -> bool:
    return answer.type.name in {"ip", "kup"} and answer.body.response[0].certifiedKeyPair is not None


def _waiting(answer: Answer) -> bool:
    return answer.type.name == "pollRep" or (answer.type.name == "ip" and answer.status is PKIStatus.waiting)


def _implicit(answer: Answer) -> bool:
    return any(info.infoType == oids.IMPLICIT_CONFIRM for info in answer.message.header.generalInfo or ())
