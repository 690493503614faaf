"""What a source says of one certificate."""

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

SKEW = timedelta(minutes=5)
"""How far thisUpdate may lie in the future: the clocks of others."""
SHORTEST = timedelta(seconds=60)
"""Nothing is fetched again sooner, be it good, bad or not there at all."""
LONGEST = timedelta(hours=24)
"""Nothing is kept longer without asking again."""


class State(enum.Enum):
    """Whether a certificate has been revoked."""

    good = "good"
    revoked = "revoked"
    unknown = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """The word of one source on one certificate."""

    state: State
    text: str
    """Which certificate, when and why it was revoked, and by whose word; or why that is not known. For the log."""
    until: datetime
    """When it must be asked again."""


class Unusable(ValueError):
    """A CRL or an OCSP response says nothing about a certificate. The text says why, for the log."""


def until(next_update: datetime | None, now: datetime) -> datetime:
    """How long an answer is kept: until nextUpdate, within bounds."""
    return min(max(next_update or now, now + SHORTEST), now + LONGEST)
