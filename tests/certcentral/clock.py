"""The simulator's clock: real time with an offset, or frozen; everything that has to do with time asks it."""

import time
from datetime import UTC, datetime, timedelta


class Clock:
    """Simulated time. It starts as real time."""

    def __init__(self, at: datetime | None = None) -> None:
        self._offset = 0.0
        self._frozen: float | None = None
        if at is not None:
            self.freeze(at)

    def timestamp(self) -> float:
        """Now, in seconds since 1970."""
        return time.time() + self._offset if self._frozen is None else self._frozen

    def now(self) -> datetime:
        """Now, aware, in UTC."""
        return datetime.fromtimestamp(self.timestamp(), UTC)

    def freeze(self, at: datetime | None = None) -> None:
        """Stop, at this time or now."""
        self._frozen = self.timestamp() if at is None else at.timestamp()

    def run(self) -> None:
        """Go on from where it stands, at the pace of real time."""
        if self._frozen is not None:
            self._offset, self._frozen = self._frozen - time.time(), None

    def set(self, at: datetime) -> None:
        """Show this time; a running clock goes on running, a frozen one stays frozen."""
        if self._frozen is None:
            self._offset = at.timestamp() - time.time()
        else:
            self._frozen = at.timestamp()

    def advance(self, step: timedelta | float) -> None:
        """Go forward (or back) by a timedelta or by seconds."""
        seconds = step.total_seconds() if isinstance(step, timedelta) else step
        if self._frozen is None:
            self._offset += seconds
        else:
            self._frozen += seconds

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self._frozen is not None


def moment(timestamp: float) -> datetime:
    """Seconds since 1970 as an aware datetime."""
    return datetime.fromtimestamp(timestamp, UTC)


def stamp(timestamp: float) -> str:
    """A time as the API writes it: `2014-08-19T18:16:07+00:00`."""
    return moment(timestamp).isoformat(timespec="seconds")
