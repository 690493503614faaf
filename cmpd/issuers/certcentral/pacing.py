"""How fast another party's API may be called, and when not at all. Nothing here knows of CertCentral.

Budget    so many calls in any window of time, one after the other in the order in which they came
Breaker   after some failures in a row no call for a while, then a single one that tries
"""

import asyncio
import contextlib
import enum
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

Monotonic = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]
_SLACK: Final = 1.05
"""Windows are counted longer by this: calls can arrive closer together than they were sent."""
NOTICE_SECONDS: Final = 3.0
"""After so long all processes have heard of one that has joined: they look once a second."""
PATIENT_SECONDS: Final = 10.0
"""Windows up to this are waited for by who joins; for longer ones nobody could."""


class Overloaded(Exception):
    """As many calls as may wait are waiting already, or the turn of this one comes too late."""


@dataclass(slots=True)
class _Window:
    """So many calls in so many seconds, of which a part is ours."""

    calls: int
    """What all processes may call together."""
    seconds: float
    rest: int
    """What the other side admits beside that."""
    begun: float
    """Until then `first` holds: it is not known what was called before."""
    first: int = 0
    part: int = 0
    """What this process may call."""
    more: tuple[int, float] | None = None
    """What its part grows to, and when."""

    def divide(self, processes: int, now: float, *, waits: bool) -> None:
        """Have one of so many parts: a smaller one at once, a greater one when those who had it cannot matter."""
        part = max(1, self.calls // processes)
        if part <= self.part:
            self.part, self.more = part, None
        elif self.more is None or self.more[0] != part:
            self.more = (part, now + self.seconds)
        self.first = 0 if waits else min(part, self.rest // processes)

    def wait(self, made: Sequence[float], now: float) -> float:
        """For how many seconds nothing may be called, at least, after calls at these times."""
        if self.more is not None and now >= self.more[1]:
            self.part, self.more = self.more[0], None
        if now < self.begun and len(made) >= self.first:
            return self.begun - now
        return made[-self.part] + self.seconds - now if len(made) >= self.part else 0.0


class Budget:
    """At most `calls` in any `seconds`, for each of the windows; whoever waits is let through in turn.

    An exact count and not a bucket that refills: no window of the other side ever holds more than the budget.

    Nobody remembers what a process before this one has called. With `limits`, what the other side admits in each
    window, a budget begins as if one like it had just been used up: at first it has only what the limits leave.

    Several processes have a part of it each, see `share`. Who joins others calls nothing until they have heard of it
    and a window has passed since, in windows of up to `PATIENT_SECONDS`: no such window ever holds more than the
    budget. In longer ones it begins with its part of what the limits leave, so that at first it is they which hold.
    """

    def __init__(
        self,
        windows: Sequence[tuple[int, float]],
        waiting: int,
        *,
        clock: Monotonic,
        sleep: Sleep = asyncio.sleep,
        limits: Sequence[int] = (),
    ) -> None:
        at = clock()
        self._windows = [
            _Window(calls, seconds * _SLACK, calls if most is None else max(0, most - calls), at + seconds * _SLACK)
            for (calls, seconds), most in zip_longest(windows, limits)
        ]
        for window in self._windows:
            window.part = window.calls
            window.divide(1, at, waits=False)
        self._most_waiting = waiting
        self._clock = clock
        self._sleep = sleep
        self._made: deque[float] = deque(maxlen=max(calls for calls, _ in windows))
        self._processes: int | None = None
        self._joined = False
        self._turn = asyncio.Lock()
        self._not_before = float("-inf")
        self.waiting = 0
        """How many calls wait for their turn."""

    @property
    def parts(self) -> tuple[int, ...]:
        """What this process may call in each window."""
        return tuple(window.part for window in self._windows)

    def share(self, processes: int) -> bool:
        """Have the part of one of so many processes from now on, at least one call; whether that is news.

        A part that shrinks does so at once. One that grows does so a window later, when what the one who has gone
        called is past. The first time says whether this process joins others.
        """
        if processes == self._processes:
            return False
        now = self._clock()
        if self._processes is None and processes > 1:
            self._joined = True
            for window in self._windows:
                window.begun = now + NOTICE_SECONDS + window.seconds
        self._processes = processes
        for window in self._windows:
            window.divide(processes, now, waits=self._joined and window.seconds <= PATIENT_SECONDS)
        return True

    async def take(self, patience: float | None = None) -> float:
        """Return when a call may be made; what is returned says `ended` which one it is.

        Raises Overloaded at once when too many wait, and when it is not its turn within `patience` seconds.
        """
        if self.waiting >= self._most_waiting:
            raise Overloaded(f"{self.waiting} calls wait for their turn")
        self.waiting += 1
        until = float("inf") if patience is None else self._clock() + patience
        try:
            async with asyncio.timeout(patience):
                await self._turn.acquire()  # asyncio's lock is fair
        except TimeoutError:
            raise Overloaded(f"it was not its turn within {patience:g} seconds") from None
        else:
            try:
                while (wait := self._wait(now := self._clock())) > 0 or now > until:
                    if now + wait > until:
                        raise Overloaded(f"its turn is only in {max(wait, 0):.0f} seconds")
                    await self._sleep(wait)
                at = self._clock()
                self._made.append(at)
                return at
            finally:
                self._turn.release()
        finally:
            self.waiting -= 1

    def ended(self, at: float) -> None:
        """The call that was let through `at` has its answer: it counts from now, for it may have arrived only now."""
        with contextlib.suppress(ValueError):  # it is that long ago
            self._made.remove(at)
        self._made.append(self._clock())

    def pause(self, seconds: float) -> None:
        """Let nobody through for so long; a longer pause stays."""
        self._not_before = max(self._not_before, self._clock() + seconds)

    @property
    def paused(self) -> float:
        """For how many seconds nobody is let through."""
        return max(0.0, self._not_before - self._clock())

    def _wait(self, now: float) -> float:
        return max(self._not_before - now, *(window.wait(self._made, now) for window in self._windows))


class BreakerState(enum.StrEnum):
    """What a breaker does; the number for a metric is its place in this list."""

    closed = "closed"
    """Calls are made."""
    half_open = "half_open"
    """One call is made, to try."""
    open = "open"
    """No call is made."""


class Open(Exception):
    """No call is made now."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"no call is made for {retry_after:.0f} seconds, for the last ones all failed")
        self.retry_after = retry_after


class Breaker:
    """Opens after so many failures in a row, for `pause` seconds."""

    def __init__(self, failures: int, pause: float, *, clock: Monotonic) -> None:
        self._most = failures
        self._pause = pause
        self._clock = clock
        self._opened: float | None = None
        self._trying = False
        self.failures = 0
        """Failures in a row."""
        self.openings = 0
        """How often it has opened."""

    @property
    def state(self) -> BreakerState:
        """Where it stands."""
        if self._opened is None:
            return BreakerState.closed
        return BreakerState.open if self.retry_after > 0 else BreakerState.half_open

    @property
    def retry_after(self) -> float:
        """For how many seconds no call is made."""
        return 0.0 if self._opened is None else max(0.0, self._opened + self._pause - self._clock())

    def check(self) -> None:
        """Raise Open when a call would not be made now."""
        if self._opened is not None and (self.retry_after > 0 or self._trying):
            raise Open(self.retry_after or 1.0)

    def enter(self) -> bool:
        """Begin a call, whether it is the one that tries; it ends in `leave`. Raises Open."""
        self.check()
        if self._opened is not None:
            self._trying = True
        return self._trying

    def leave(self, *, failed: bool | None, tries: bool) -> None:
        """End a call: failed, or not; None tells nothing, as when it was given up."""
        if tries:
            self._trying = False
        if failed is None:
            return
        if not failed:
            self.failures = 0
            if tries or self._opened is None:
                self._opened = None
            return
        self.failures += 1
        if tries or (self._opened is None and self.failures >= self._most):
            self._opened = self._clock()
            self.openings += 1
