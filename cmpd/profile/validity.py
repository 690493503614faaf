"""The validity of a certificate (RFC 5280 §4.1.2.5).

notBefore and notAfter both belong to the period: a certificate of `default = "90d"` ends 90 days less one second after
its notBefore, and one of the longest period is not a second longer than `max`.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Self

from cmpd.profile.config import ValidityConfig
from cmpd.profile.decision import Decision
from cmpd.profile.vocabulary import ProfileKeyError, duration_text

_SECOND: Final = timedelta(seconds=1)
_BACKDATE: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class ValidityPolicy:
    """Section [validity], prepared; durations in whole seconds."""

    default: timedelta
    min: timedelta
    max: timedelta
    until: datetime | None
    """The last second of any certificate."""
    backdate: timedelta
    override: bool
    shorten: bool

    @classmethod
    def from_config(cls, config: ValidityConfig) -> Self:
        """Prepare. Raises ProfileKeyError."""
        longest = config.max or config.default
        if config.default > longest:
            raise ProfileKeyError(
                "validity.default", f"{duration_text(config.default)} is more than max, {duration_text(longest)}"
            )
        if config.min is not None and config.min > config.default:
            raise ProfileKeyError(
                "validity.min", f"{duration_text(config.min)} is more than default, {duration_text(config.default)}"
            )
        if config.backdate is not None and config.backdate * 2 > config.default:
            raise ProfileKeyError("validity.backdate", f"{duration_text(config.backdate)} is more than half of default")
        backdate = config.backdate
        if backdate is None:
            backdate = min(_BACKDATE, timedelta(seconds=config.default // timedelta(seconds=10)))
        return cls(
            default=config.default,
            min=config.min or timedelta(),
            max=longest,
            until=None if config.until is None else _end_of(config.until),
            backdate=backdate,
            override=config.allow_request_override,
            shorten=config.on_exceed == "shorten",
        )

    def resolve(
        self,
        not_before: datetime | None,
        not_after: datetime | None,
        now: datetime,
        cap: timedelta | None,
        decision: Decision,
    ) -> tuple[datetime, datetime]:
        """Return notBefore and notAfter, and add what was changed. Raises BadCertTemplate.

        `cap` is the longest that public trust allows: what is longer is shortened where the profile shortens.
        """
        now = now.replace(microsecond=0)
        first = now - self.backdate
        longest = min(self.max, cap) if cap is not None and self.shorten else self.max
        latest = first + longest - _SECOND
        limit = "validity.max"
        if self.until is not None and self.until < latest:
            latest, limit = self.until, "validity.until"
            if latest < now:
                decision.refuse("validity.until", "validity", f"{latest:%Y-%m-%d} has passed")
        begin, end = first, min(first + self.default - _SECOND, latest)
        if self.override:
            if not_before is not None or not_after is not None:
                begin = first if not_before is None else _whole(not_before)
                end = min(begin + self.default - _SECOND, latest) if not_after is None else _whole(not_after)
                begin, end = self._within(begin, end, (first, latest, limit), now, decision)
        else:
            if not_before is not None and _whole(not_before) != begin:
                decision.modified.append("validity.notBefore replaced")
            if not_after is not None and _whole(not_after) != end:
                decision.modified.append("validity.notAfter replaced")
        if end - begin + _SECOND < self.min:
            decision.refuse(
                "validity.min",
                "validity.notAfter",
                f"less than {duration_text(self.min)} after notBefore",
            )
        if decision.findings is not None:
            decision.passed("validity", "validity", f"{_text(begin)} to {_text(end)}")
        return begin, end

    def _within(
        self,
        begin: datetime,
        end: datetime,
        bounds: tuple[datetime, datetime, str],
        now: datetime,
        decision: Decision,
    ) -> tuple[datetime, datetime]:
        """Hold a requested validity against the earliest and latest moment, and the name of the rule for that."""
        first, latest, limit = bounds
        if begin > end:
            decision.refuse("RFC 5280 §4.1.2.5", "validity.notAfter", f"{_text(end)} is before notBefore")
        if end < now:
            decision.refuse("RFC 5280 §4.1.2.5", "validity.notAfter", f"{_text(end)} has passed")
        if begin > latest:
            decision.refuse(limit, "validity.notBefore", f"is after {_text(latest)}")
        if begin < first:
            if not self.shorten:
                decision.refuse("validity.backdate", "validity.notBefore", f"is before {_text(first)}")
            begin = first
            decision.modified.append("validity.notBefore moved")
        if end > latest:
            if not self.shorten:
                decision.refuse(limit, "validity.notAfter", f"is after {_text(latest)}")
            end = latest
            decision.modified.append("validity.notAfter moved")
        return begin, end


def _end_of(day: date) -> datetime:
    return datetime.combine(day, time(23, 59, 59), UTC)


def _whole(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
