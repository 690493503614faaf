"""What becomes of certificates of issuers over there after they were issued (RFC 9483 §4.1.1, RFC 5280 §5.3.1).

    due ──► done       revoked there too; also when it had been before
     ▲│ └─► asked ──► done       somebody over there has to approve, and is asked about until it is decided
     └┘ later  └────► held       refused for good: an operator must decide (`cmpd cert revoke`)

A certificate that is revoked here is due over there in the same commit, and each step is kept before the next one is
taken. Revoking is asked for as often as it takes: what is revoked already is done. What others have revoked over there
is noticed once a day; what nobody collects is dealt with when its time is over.
"""

import asyncio
import enum
import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal, Protocol

from cmpd import asn1
from cmpd.exchange import IssuedCertificate, OutsideRevocation, OutsideState, RevocationPolicy
from cmpd.ports import (
    Clock,
    Issuer,
    IssuerUnavailable,
    OutsideEffects,
    OutsideStore,
    RevocationRefused,
    Revoker,
    Store,
    StoreUnavailable,
    Watched,
)

logger = logging.getLogger(__name__)

IDLE_SECONDS = 5.0
"""How often the store is asked for what is due."""
BATCH = 20
"""Certificates that are taken up at a time, so that no kind of work waits long for another."""
SHORTEST_PAUSE, LONGEST_PAUSE = 5.0, 3600.0
"""Between two attempts for one certificate, in seconds: twice as long each time."""
UNAVAILABLE_SECONDS = 300.0
"""The longest pause for an issuer that cannot be reached."""
CLAIM_SECONDS = 10.0
"""So long other processes leave a certificate alone that one has taken up, and that it may have died with."""
UNCOLLECTED_SECONDS = 60.0
"""How often it is looked for certificates that nobody collects."""
OVERLAP = timedelta(minutes=15)
"""By so much more than the time since the last look changes are asked for: clocks differ."""
JITTER = 0.1
"""A look is due up to so much of its interval earlier, so that nodes and installations do not look all at once."""

Observe = Callable[[str, str], None]
"""Called with the issuer's name and done, asked, held, later, unavailable, noticed, kept or uncollected."""


def _ignore(issuer: str, outcome: str) -> None:
    """Nobody counts."""


def _always(_issuer: str) -> bool:
    """There is no other process."""
    return True


class Fate(enum.StrEnum):
    """What becomes of a certificate that its EE does not take."""

    here = "here"
    """It is revoked: on the CRL, where the issuer has one."""
    there = "there"
    """It is revoked, and its issuer has to do the same."""
    kept = "kept"
    """It stays good for relying parties, and says so."""


def on_rejection(issuer: Issuer) -> Fate:
    """When the EE rejects it (RFC 9483 §4.1.1)."""
    return _fate(issuer, lambda policy: policy.certconf_reject)


def on_silence(issuer: Issuer) -> Fate:
    """When the EE does not confirm it in time, which is to be handled like a rejection, by a policy of its own."""
    return _fate(issuer, lambda policy: policy.missing_certconf)


def _fate(issuer: Issuer, choose: Callable[[RevocationPolicy], Literal["revoke", "keep"]]) -> Fate:
    if isinstance(issuer, Revoker):
        return Fate.there if choose(issuer.revocation_policy) == "revoke" else Fate.kept
    return Fate.kept if isinstance(issuer, OutsideEffects) else Fate.here


class RevocationStore(Store, OutsideStore, Protocol):
    """What the desk needs of the store."""


@dataclass(slots=True)
class RevocationDesk:
    """Sees to certificates of issuers over there. One for a process; of several, one `sees_to` an issuer."""

    store: RevocationStore
    issuers: Mapping[str, Issuer]
    """Those over there; others are passed over."""
    clock: Clock
    observe: Observe = _ignore
    sees_to: Callable[[str], bool] = _always
    """Whether this process works for an issuer, and not another one on the same store."""
    chance: Callable[[], float] = random.random
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _failures: dict[str, int] = field(default_factory=dict)
    _uncollected: dict[str, datetime] = field(default_factory=dict)
    """By issuer: when it was looked for what nobody collects."""
    _next_look: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    """By issuer: the look before, and when the next one is due."""
    _suspects: dict[str, tuple[datetime, deque[IssuedCertificate]]] = field(default_factory=dict)
    """By issuer: a look that is under way, when it has begun, and whom it has still to look at."""

    def start(self) -> None:
        """Begin to work, one task for each issuer."""
        for name, issuer in self.issuers.items():
            if isinstance(issuer, Revoker | Watched):
                self._tasks.append(asyncio.get_running_loop().create_task(self._work(name)))

    async def stop(self) -> None:
        """Stop working; a revocation that is just being asked for is asked for again at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _work(self, name: str) -> None:
        while True:
            pause = IDLE_SECONDS
            try:
                if self.sees_to(name) and await self.once(name):
                    pause = 0.0
            except StoreUnavailable as error:
                logger.warning("revocations at %s: the store is not available: %s", name, error)
            except IssuerUnavailable as error:
                self._failures[name] = failures = self._failures.get(name, 0) + 1
                pause = min(2.0 ** min(failures, 9), UNAVAILABLE_SECONDS) * (0.5 + self.chance() / 2)
                self.observe(name, "unavailable")
                logger.warning("revocations at %s: %s; next attempt in %.0f s", name, error, pause)
            except Exception:
                logger.exception("revocations at %s: an internal error occurred", name)
            else:
                self._failures.pop(name, None)
            await asyncio.sleep(pause)

    async def once(self, name: str) -> bool:
        """Do what is due for one issuer; True when there is more. Raises IssuerUnavailable, StoreUnavailable."""
        issuer, more = self.issuers[name], False
        if isinstance(issuer, Revoker):
            due = await self.store.outside_due(name, self.clock(), BATCH)
            for certificate in due:
                await self._revoke(name, issuer, certificate)
            more = len(due) == BATCH
            await self._give_up_waiting(name, issuer.revocation_policy)
        if isinstance(issuer, Watched):
            more = await self._notice(name, issuer) or more
        return more

    # ------------------------------------------------------------------------------------------ what is due over there

    async def _revoke(self, name: str, issuer: Revoker, certificate: IssuedCertificate) -> None:
        unclaimed = certificate.outside
        assert unclaimed is not None
        until = self.clock() + timedelta(seconds=CLAIM_SECONDS)
        seen = replace(unclaimed, due=until, attempts=unclaimed.attempts + 1)
        if not await self.store.move_outside(certificate.serial, seen, seen=unclaimed):
            return  # another process has it
        try:
            asked = await issuer.revoke(certificate)
        except RevocationRefused as error:
            if error.seconds is None:
                await self._move(certificate, seen, OutsideState.held, private=str(error))
                return
            due = self.clock() + timedelta(seconds=max(error.seconds, self._pause(seen.attempts)))
            await self._move(certificate, seen, seen.state, due, private=str(error), outcome="later")
        except IssuerUnavailable as error:
            due = self.clock() + timedelta(seconds=self._pause(seen.attempts))
            await self._move(certificate, seen, seen.state, due, private=str(error), outcome="later")
            raise
        except Exception as error:
            logger.exception("certificate %x: an internal error occurred while it was revoked", certificate.serial)
            due = self.clock() + timedelta(seconds=LONGEST_PAUSE)
            private = f"internal error: {type(error).__name__}"
            await self._move(certificate, seen, seen.state, due, private=private, outcome="later")
        else:
            if asked is None:
                await self._move(certificate, seen, OutsideState.done)
                return
            due = self.clock() + timedelta(seconds=self._pause(seen.attempts))
            outcome = "later" if seen.state is OutsideState.asked else "asked"
            private = f"{name} has it as request {asked}, which somebody there has to approve"
            await self._move(certificate, seen, OutsideState.asked, due, ticket=asked, private=private, outcome=outcome)

    def _pause(self, attempts: int) -> float:
        return min(SHORTEST_PAUSE * 2.0 ** min(attempts - 1, 20), LONGEST_PAUSE) * (0.75 + self.chance() / 4)

    async def _move(
        self,
        certificate: IssuedCertificate,
        seen: OutsideRevocation,
        state: OutsideState,
        due: datetime | None = None,
        *,
        ticket: str | None = None,
        private: str = "",
        outcome: str = "",
    ) -> None:
        moved = replace(
            seen,
            state=state,
            due=due or self.clock(),
            ticket=seen.ticket if ticket is None else ticket,
            private=private,
        )
        if not await self.store.move_outside(certificate.serial, moved, seen=seen):
            logger.info("revocation of certificate %x: somebody else has moved it", certificate.serial)
            return
        self.observe(certificate.issuer, outcome or state.value)
        waits = outcome == "later" and state is OutsideState.asked
        level = logging.ERROR if state is OutsideState.held else logging.DEBUG if waits else logging.INFO
        logger.log(
            level,
            "revocation of certificate %x at %s: %s%s%s",
            certificate.serial,
            certificate.issuer,
            outcome or state.value,
            f": {asn1.printable(private)}" if private else "",
            f"; see to it there, then `cmpd cert revoke {certificate.serial:x}`" if state is OutsideState.held else "",
        )

    # ------------------------------------------------------------------------------------------ what nobody collects

    async def _give_up_waiting(self, name: str, policy: RevocationPolicy) -> None:
        """Deal with what has been issued and was never polled for, once for each certificate."""
        now = self.clock()
        before = self._uncollected.get(name)
        if before is not None and now < before + timedelta(seconds=UNCOLLECTED_SECONDS):
            return
        since = now - timedelta(seconds=policy.uncollected_seconds)
        keep = policy.uncollected == "keep"
        for serial in await self.store.uncollected(name, since, now, keep=keep):
            self.observe(name, "kept" if keep else "uncollected")
            what = "kept; whoever asks for the same again gets it" if keep else "revoked"
            logger.warning("certificate %x of %s was never collected: %s", serial, name, what)
        self._uncollected[name] = now

    # ------------------------------------------------------------------------------------------ what others revoke

    async def _notice(self, name: str, issuer: Watched) -> bool:
        """Find out which certificates have been revoked over there, and mark them; True when there are more to look at.

        One call finds what has changed, and only what is ours of that, and in force here, is looked at.
        """
        if name not in self._suspects:
            now = self.clock()
            last = await self.store.looked(name)
            if last is not None:
                after, due = self._next_look.get(name, (None, last))
                if after != last:
                    due = last + timedelta(seconds=issuer.watch_seconds * (1 - JITTER * self.chance()))
                    self._next_look[name] = last, due
                if now < due:
                    return False
            tickets = await issuer.suspects(None if last is None else last - OVERLAP)
            self._suspects[name] = now, deque(await self.store.ordered_as(name, tickets, now))
        began, left = self._suspects[name]
        some = [left[at] for at in range(min(BATCH, len(left)))]
        for revocation in await issuer.revoked_there(some) if some else ():
            if await self.store.revoke(revocation):
                self.observe(name, "noticed")
                logger.warning(
                    "certificate %x has been revoked at %s, and is revoked here now (%s)",
                    revocation.serial,
                    name,
                    revocation.reason.name,
                )
        for _ in some:
            left.popleft()
        if left:
            return True
        del self._suspects[name]
        await self.store.keep_look(name, began)
        return False
