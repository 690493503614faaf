"""Faults of the line and of the server: calls that end badly, before or after they had their effect.

    faults.add("commit_then_drop", endpoint="order")            the next order exists, its answer never arrives
    faults.add("slow_answer", times=3, seconds=None)            three answers wait for faults.release()
    faults.randomly(seed=7, probability=0.1)                    one call in ten, each kind alike

`before` the effect: drop, error_500, html, rate_limited, slow_commit. `after` it: the others.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

KINDS: Final = {
    "drop": "the connection is reset, nothing has been done",
    "error_500": "500 with a JSON error, nothing has been done",
    "html": "an HTML page of the firewall, nothing has been done",
    "rate_limited": "429, nothing has been done",
    "slow_commit": "the call waits before anything is done; the answer is then right",
    "commit_then_drop": "done, then the connection is reset without an answer",
    "commit_then_500": "done, then answered 500",
    "commit_then_html": "done, then answered by an HTML page of the firewall",
    "commit_then_half": "done, then the connection is reset in the middle of the answer",
    "slow_answer": "done at once, the answer waits",
    "slow_loris": "done at once, the answer comes in small pieces, with a pause after each",
}
BEFORE: Final = frozenset({"drop", "error_500", "html", "rate_limited", "slow_commit"})
BY_CHANCE: Final = (
    "drop",
    "error_500",
    "html",
    "commit_then_drop",
    "commit_then_500",
    "commit_then_html",
    "commit_then_half",
)
"""What random mode uses unless told otherwise: nothing that waits."""


@dataclass(slots=True)
class Fault:
    """A fault and the calls that it hits."""

    kind: str
    endpoint: str | None = None
    """The name of an endpoint, see `app.ROUTES`; None: any."""
    method: str | None = None
    key: str | None = None
    order: str | None = None
    """An id as it stands in the path."""
    times: int | None = 1
    """None: for ever."""
    skip: int = 0
    """So many calls that fit go unharmed before."""
    seconds: float | None = None
    """How long slow ones wait (slow_loris: after each piece); None: until they are released."""
    status: int = 200
    """Of an HTML page."""

    def fits(self, endpoint: str, method: str, key: str, order: str) -> bool:
        """Whether it is meant for this call."""
        return (
            self.endpoint in {None, endpoint}
            and self.method in {None, method}
            and self.key in {None, key}
            and self.order in {None, order}
        )


class Faults:
    """The faults to come, and those who wait."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._random: random.Random | None = None
        self._probability = 0.0
        self._kinds: Sequence[str] = BY_CHANCE
        self._endpoint: str | None = None
        self._seconds = 0.0
        self._released = asyncio.Event()
        self.waiting = asyncio.Event()
        """Set while a call is being held up: a test awaits it instead of sleeping."""

    def add(
        self,
        kind: str,
        *,
        endpoint: str | None = None,
        method: str | None = None,
        key: str | None = None,
        order: int | str | None = None,
        times: int | None = 1,
        skip: int = 0,
        seconds: float | None = None,
        status: int = 200,
    ) -> Fault:
        """Let the next `times` calls that fit end so; earlier faults come first."""
        if kind not in KINDS:
            raise ValueError(f"no such fault: {kind}; there are {', '.join(KINDS)}")
        named = None if order is None else str(order)
        fault = Fault(kind, endpoint, method, key, named, times, skip, seconds, status)
        self._faults.append(fault)
        return fault

    def randomly(
        self,
        seed: int,
        probability: float,
        kinds: Sequence[str] = BY_CHANCE,
        *,
        endpoint: str | None = None,
        seconds: float = 0.05,
    ) -> None:
        """Let calls end badly by chance, 0 ends it; the same calls in the same order meet the same faults."""
        unknown = sorted(set(kinds) - KINDS.keys())
        if unknown or not kinds:
            raise ValueError(f"no such fault: {', '.join(unknown)}; there are {', '.join(KINDS)}")
        self._random = random.Random(seed) if probability > 0 else None
        self._probability, self._kinds, self._endpoint, self._seconds = probability, tuple(kinds), endpoint, seconds

    def clear(self) -> None:
        """No more faults; who waits is released."""
        self._faults.clear()
        self._random = None
        self.release()

    def pending(self) -> list[Fault]:
        """Faults that have not hit all their calls."""
        return list(self._faults)

    def pick(self, endpoint: str, method: str, key: str, order: str) -> Fault | None:
        """The fault of this call."""
        for fault in self._faults:
            if not fault.fits(endpoint, method, key, order):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self._faults.remove(fault)
            return fault
        if self._random is not None and self._endpoint in {None, endpoint}:
            if self._random.random() >= self._probability:
                return None
            kind, status = self._random.choice(self._kinds), self._random.choice((200, 403))
            return Fault(kind, seconds=self._seconds, status=status)
        return None

    async def wait(self, seconds: float | None) -> None:
        """Hold a call up until the time is over or `release` is called."""
        released = self._released
        self.waiting.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(released.wait(), seconds)

    def release(self) -> None:
        """Let all calls go on that are held up now."""
        self._released.set()
        self._released = asyncio.Event()
        self.waiting.clear()


class RateWindows:
    """Rolling windows of calls per key: over any of them, every call is refused until the window has drained."""

    def __init__(self) -> None:
        self._calls: dict[str, deque[float]] = {}

    def admit(self, key: str, now: float, windows: Sequence[tuple[int, float]], *, count_refused: bool) -> bool:
        """Whether one more call is within all windows; it counts if so."""
        calls = self._calls.setdefault(key, deque())
        longest = max((seconds for _, seconds in windows), default=0.0)
        while calls and not now - longest < calls[0] <= now:
            calls.popleft()
        admitted = all(self._within(calls, now, seconds) < most for most, seconds in windows)
        if admitted or count_refused:
            calls.append(now)
        return admitted

    @staticmethod
    def _within(calls: deque[float], now: float, seconds: float) -> int:
        found = 0
        for at in reversed(calls):
            if at <= now - seconds:
                break
            found += 1
        return found
