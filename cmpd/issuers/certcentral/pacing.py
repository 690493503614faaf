"""How fast another party's API may be called, and when not at all. Nothing here knows of CertCentral.

Budget    so many calls in any window of time, one after the other in the order in which they came
Breaker   after some failures in a row no call for a while, then a single one that tries
"""

import asyncio
import contextlib
import enum
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

Monotonic = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]
_SLACK: Final = 1.05
"""Windows are counted longer by this: calls can arrive closer together than they were sent."""


class Overloaded(Exception):
    """As many calls as may wait are waiting already, or the turn of this one comes too late."""


class Budget:
    """At most `calls` in any `seconds`, for each of the windows; whoever waits is let through in turn.

    An exact count and not a bucket that refills: no window of the other side ever holds more than the budget.

    Nobody remembers what a process before this one has called. With `limits`, what the other side admits in each
    window, a budget begins as if one like it had just been used up: at first it has only what the limits leave.
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
        self._windows = tuple((calls, seconds * _SLACK) for calls, seconds in windows)
        self._most_waiting = waiting
        self._clock = clock
        self._sleep = sleep
        self._made: deque[float] = deque(maxlen=max(calls for calls, _ in windows))
        at = clock()
        for (calls, seconds), most in sorted(zip(self._windows, limits, strict=False), key=lambda one: one[0][1]):
            assumed = min(calls, max(0, 2 * calls - most))
            self._made.extendleft([at] * (assumed - len(self._made)))
            at = clock() - seconds  # a longer window has more, and that was before the shorter one
        self._turn = asyncio.Lock()
        self._not_before = float("-inf")
        self.waiting = 0
        """How many calls wait for their turn."""

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
        wait = self._not_before - now
        for calls, seconds in self._windows:
            if len(self._made) >= calls:
                wait = max(wait, self._made[-calls] + seconds - now)
        return wait


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
