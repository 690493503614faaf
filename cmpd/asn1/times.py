"""Reading times: DER, and the forms that real clients send in its place."""

import re
from datetime import UTC, datetime, timedelta, timezone

from cmpd.asn1 import der
from cmpd.asn1.der import MalformedError

_REST = (
    rb"(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)?(?:[.,](?P<fraction>\d{1,9}))?"
    rb"(?:Z|(?P<sign>[+-])(?P<oh>\d\d)(?P<om>\d\d)?)"
)
_FORMS = {
    der.UTC_TIME: re.compile(rb"(?P<day>\d{6})" + _REST),
    der.GENERALIZED_TIME: re.compile(rb"(?P<day>\d{8})" + _REST),
}


def read_time(data: bytes) -> datetime:
    """Read one UTCTime or GeneralizedTime, given whole; aware, UTC. Raises MalformedError.

    Besides DER, offsets (`+0100`), fractions (`.000Z`) and absent seconds are read: real messages carry them. A time
    without any zone is refused, since nobody knows what it says.
    """
    tag, start, end = der.read(data)
    if end != len(data):
        raise MalformedError("time: trailing octets")
    form = _FORMS.get(tag)
    if form is None:
        raise MalformedError("time: neither UTCTime nor GeneralizedTime")
    found = form.fullmatch(data, start)
    if found is None:
        raise MalformedError("time: not of the form YYYYMMDDHHMMSSZ")
    day = found["day"]
    if tag == der.UTC_TIME:  # RFC 5280 §4.1.2.5.1
        day = (b"19" if day >= b"50" else b"20") + day
    try:
        moment = datetime(
            int(day[:4]),
            int(day[4:6]),
            int(day[6:]),
            int(found["hour"]),
            int(found["minute"]),
            int(found["second"] or 0),
            int((found["fraction"] or b"0").ljust(6, b"0")[:6]),
            _zone(found),
        )
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise MalformedError("time: no such date or time of day") from None


def _zone(found: re.Match[bytes]) -> timezone:
    if found["sign"] is None:
        return UTC
    minutes = int(found["oh"]) * 60 + int(found["om"] or 0)
    return timezone(timedelta(minutes=-minutes if found["sign"] == b"-" else minutes))
