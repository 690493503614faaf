"""How much anybody may ask of us: token buckets by address, enrollment code and profile, and wrong MACs counted.

All of it is in memory, of one process, and bounded: the key that was heard of longest ago makes room. What a wrong MAC
leaves behind in the store is one lock for every `lock_after` of them (RFC 9810 §8: guessing a shared secret); several
processes count those of a code in the store.

Several processes tell each other about once a second what they have counted (`Exchanged`): each takes that from its own
buckets too, which may go below nothing. What is asked of N processes within that second may be N times what a bucket
holds; after that, all have to wait until it is made good.
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache

Key = tuple[str, str]

TOLD = 500
"""Of so many keys at most, those asked for last, other processes are told."""
TOTALS = 5000
"""So many are kept count of, to be told."""
LATELY_SECONDS = 60.0
"""So long a count is told after it has changed; who has not read it by then does not count it."""


@dataclass(slots=True)
class Buckets:
    """Token buckets that all fill at one pace: `rate` tokens a second up to `burst`; a new one is full."""

    rate: float
    burst: float
    size: int
    counted: dict[str, float] | None = None
    """What has been taken since others were told; None: there are no others."""
    _filled: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, key: str, now: float) -> float:
        """Take a token at `now` (seconds, monotonic); 0 when there was one, else in how many seconds there will be."""
        tokens = self._tokens(key, now)
        if tokens < 1:
            return (1 - tokens) / self.rate
        self._set(key, tokens - 1, now)
        if self.counted is not None:
            self.counted[key] = self.counted.get(key, 0.0) + 1
        return 0.0

    def charge(self, key: str, tokens: float, now: float) -> None:
        """Take what another process has given away."""
        self._set(key, self._tokens(key, now) - tokens, now)

    def _set(self, key: str, tokens: float, now: float) -> None:
        if key not in self._filled and len(self._filled) >= self.size:
            self._filled.popitem(last=False)
        self._filled[key] = tokens, now

    def wait(self, key: str, now: float) -> float:
        """In how many seconds there will be a token; 0 when there is one. Only looks."""
        tokens = self._tokens(key, now)
        return 0.0 if tokens >= 1 else (1 - tokens) / self.rate

    def _tokens(self, key: str, now: float) -> float:
        found = self._filled.get(key)
        if found is None:
            return self.burst
        self._filled.move_to_end(key)
        return min(self.burst, found[0] + (now - found[1]) * self.rate)


@dataclass(slots=True)
class WrongMACs:
    """Wrong MACs in a row, by what they were checked with; a right one ends the row."""

    size: int
    _counts: OrderedDict[Key, int] = field(default_factory=OrderedDict)
    _locks: OrderedDict[Key, tuple[datetime, int]] = field(default_factory=OrderedDict)

    def locked_until(self, key: Key) -> datetime | None:
        """When the lock that this process knows of ends."""
        found = self._locks.get(key)
        return None if found is None else found[0]

    def wrong(self, key: Key, most: int) -> bool:
        """Count one; True when it was the `most`-th in a row, and the count begins again."""
        count = self._counts.pop(key, 0) + 1
        if count >= most:
            return True
        self._counts[key] = count
        if len(self._counts) > self.size:
            self._counts.popitem(last=False)
        return False

    def take(self, key: Key) -> int:
        """How many there are in a row; somebody else counts on from there."""
        return self._counts.pop(key, 0)

    def lock(self, key: Key, now: datetime, first: timedelta, longest: timedelta) -> datetime:
        """Lock a key of which only this process knows, each time for twice as long; until when."""
        _, locks = self._locks.pop(key, (now, 0))
        until = now + length_of_lock(first, longest, locks)
        self._locks[key] = until, locks + 1
        if len(self._locks) > self.size:
            self._locks.popitem(last=False)
        return until

    def right(self, key: Key) -> None:
        """A MAC was right: the row, and what locks it had led to, are forgotten."""
        self._counts.pop(key, None)
        self._locks.pop(key, None)


def length_of_lock(first: timedelta, longest: timedelta, locks: int) -> timedelta:
    """How long a lock lasts when there were `locks` before it."""
    return min(first * (1 << min(locks, 30)), longest)


@lru_cache(maxsize=4096)
def neighbourhood(address: str) -> str:
    """What one client may be expected to have: an IPv4 address, a /64 of IPv6."""
    try:
        parsed = read_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def read_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address; an IPv4-mapped one, as a listener for both kinds sees it, is that of IPv4 (RFC 4291 §2.5.5.2).

    Raises ValueError.
    """
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


@dataclass(slots=True)
class Exchanged:
    """What this process has counted, in all, for others to read, and what it has read of theirs."""

    _totals: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)
    """By bucket and key: how many in all, and when it was said last."""
    _read: dict[str, dict[str, float]] = field(default_factory=dict)
    """By process: the totals that were read."""
    _told_at: float = 0.0

    def tell(self, buckets: Mapping[str, Buckets], processes: int, now: float) -> dict[str, float]:
        """What others must know: totals by `BUCKET KEY` of what has been asked for lately.

        So little that it would be no more than a quarter of the limit if all processes were asked as much is left out.
        """
        seconds, self._told_at = now - (self._told_at or now), now
        for name, one in buckets.items():
            counted, one.counted = one.counted or {}, ({} if processes > 1 else None)
            least = max(one.rate * seconds / (4 * processes), 1.0)
            for key, count in counted.items():
                if count >= least:
                    total, _ = self._totals.pop(f"{name} {key}", (0.0, 0.0))
                    self._totals[f"{name} {key}"] = total + count, now
        while len(self._totals) > TOTALS:
            self._totals.popitem(last=False)
        if processes == 1:
            return {}
        recent = [(key, total) for key, (total, at) in self._totals.items() if now - at < LATELY_SECONDS]
        return dict(recent[-TOLD:])

    def read(self, process: str, totals: Mapping[str, float], buckets: Mapping[str, Buckets], now: float) -> None:
        """Take from our buckets what another process has given away since it was read last."""
        before = self._read.get(process)
        if before is None:  # what it counted before we were there is over
            self._read[process] = dict(totals)
            return
        for where, total in totals.items():
            name, _, key = where.partition(" ")
            known = before.get(where, 0.0)
            more = total - known if total >= known else total
            if more > 0 and name in buckets:
                buckets[name].charge(key, more, now)
        before.update(totals)
        if len(before) > 2 * TOTALS:
            self._read[process] = dict(totals)

    def keep(self, processes: Collection[str]) -> None:
        """Forget processes that are no more."""
        for gone in self._read.keys() - set(processes):
            del self._read[gone]
