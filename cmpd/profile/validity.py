"""The validity of a certificate (RFC 5280 §4.1.2.5).

notBefore and notAfter both belong to the period: a certificate of `default = "90d"` ends 90 days less one second after
its notBefore, and one of the longest period is not a second longer than `max`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from cmpd.errors import BadCertTemplate
from cmpd.profile.config import ProfileKeyError, ValidityConfig

_SECOND: Final = timedelta(seconds=1)
_BACKDATE: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class ValidityPolicy:
    """Section [validity], prepared; durations in whole seconds."""

    default: timedelta
    max: timedelta
    backdate: timedelta
    override: bool
    shorten: bool

    @classmethod
    def from_config(cls, config: ValidityConfig) -> Self:
        """Prepare. Raises ProfileKeyError."""
        longest = config.max or config.default
        if config.default > longest:
            raise ProfileKeyError("validity.default", f"{_text(config.default)} is more than max, {_text(longest)}")
        if config.backdate is not None and config.backdate * 2 > config.default:
            raise ProfileKeyError("validity.backdate", f"{_text(config.backdate)} is more than half of default")
        backdate = config.backdate
        if backdate is None:
            backdate = min(_BACKDATE, timedelta(seconds=config.default // timedelta(seconds=10)))
        return cls(
            default=config.default,
            max=longest,
            backdate=backdate,
            override=config.allow_request_override,
            shorten=config.on_exceed == "shorten",
        )

    def resolve(
        self, not_before: datetime | None, not_after: datetime | None, now: datetime, modified: list[str]
    ) -> tuple[datetime, datetime]:
        """Return notBefore and notAfter, and add what was changed. Raises BadCertTemplate."""
        now = now.replace(microsecond=0)
        first = now - self.backdate
        if not_before is None and not_after is None:
            return first, first + self.default - _SECOND
        if not self.override:
            last = first + self.default - _SECOND
            if not_before is not None and _whole(not_before) != first:
                modified.append("validity.notBefore replaced")
            if not_after is not None and _whole(not_after) != last:
                modified.append("validity.notAfter replaced")
            return first, last
        latest = first + self.max - _SECOND
        begin = first if not_before is None else _whole(not_before)
        end = min(begin + self.default - _SECOND, latest) if not_after is None else _whole(not_after)
        if begin > end:
            raise BadCertTemplate(f"validity.notAfter: {end:%Y-%m-%dT%H:%M:%SZ} is before notBefore")
        if end < now:
            raise BadCertTemplate(f"validity.notAfter: {end:%Y-%m-%dT%H:%M:%SZ} has passed")
        if begin > latest:
            raise BadCertTemplate(f"validity.notBefore: is after {latest:%Y-%m-%dT%H:%M:%SZ} (validity.max)")
        if begin < first:
            if not self.shorten:
                raise BadCertTemplate(f"validity.notBefore: is before {first:%Y-%m-%dT%H:%M:%SZ} (validity.backdate)")
            begin = first
            modified.append("validity.notBefore moved")
        if end > latest:
            if not self.shorten:
                raise BadCertTemplate(f"validity.notAfter: is after {latest:%Y-%m-%dT%H:%M:%SZ} (validity.max)")
            end = latest
            modified.append("validity.notAfter moved")
        return begin, end


def _whole(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _text(duration: timedelta) -> str:
    seconds = int(duration.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
