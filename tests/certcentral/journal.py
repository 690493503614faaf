"""What happened: every call, and everything that costs money."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

LedgerKind = Literal["order", "reissue", "duplicate"]


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call."""

    number: int
    time: float
    """Simulated, in seconds since 1970."""
    elapsed: float
    """Real seconds on a monotonic clock, for rates."""
    method: str
    path: str
    endpoint: str
    status: int
    """0: the connection was dropped without an answer."""
    key: str
    """The name of the key; empty: none that is known."""
    fault: str = ""


class Journal:
    """The last calls, oldest first."""

    def __init__(self, length: int = 250_000) -> None:
        self._calls: deque[Call] = deque(maxlen=length)
        self._number = 0
        self.noted = asyncio.Event()
        """Set by every call: a test clears it and awaits it."""

    def add(self, at: float, method: str, path: str, endpoint: str, status: int, key: str, fault: str) -> None:
        """Note a call."""
        self._number += 1
        self._calls.append(Call(self._number, at, time.monotonic(), method, path, endpoint, status, key, fault))
        self.noted.set()

    def calls(
        self,
        *,
        endpoint: str | None = None,
        key: str | None = None,
        method: str | None = None,
        status: int | None = None,
        since: int = 0,
    ) -> list[Call]:
        """Calls that fit, oldest first; `since` is a number: only later ones."""
        return [
            call
            for call in self._calls
            if call.number > since
            and endpoint in {None, call.endpoint}
            and key in {None, call.key}
            and method in {None, call.method}
            and status in {None, call.status}
        ]

    def busiest(self, seconds: float, *, key: str | None = None, real: bool = False) -> int:
        """The most calls in any rolling window of so many (simulated or real) seconds."""
        times = [call.elapsed if real else call.time for call in self.calls(key=key)]
        return most_within(times, seconds)

    def clear(self) -> None:
        """Forget all calls."""
        self._calls.clear()


def most_within(times: Sequence[float], seconds: float) -> int:
    """The most points in any half-open window of this length."""
    times, most, first = sorted(times), 0, 0
    for last, at in enumerate(times):
        while at - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing on the bill."""

    number: int
    kind: LedgerKind
    order_id: int
    time: float
    key: str
    product: str
    spki: str | None
    """SHA-256 of the ordered SubjectPublicKeyInfo, hex; None: no key was given."""
    body: dict[str, Any]
    """As it was sent."""

    @property
    def is_renewal(self) -> bool:
        """Whether it is a new order in place of an older one."""
        return bool(self.body.get("renewal_of_order_id"))

    def stamps(self) -> set[str]:
        """The values of its custom fields, and its comment."""
        values = {str(field.get("value")) for field in self.body.get("custom_fields") or [] if isinstance(field, dict)}
        comment = self.body.get("comments")
        return values | {comment} if isinstance(comment, str) and comment else values


class Ledger:
    """The bill: every order, reissue and duplicate, refused or cancelled later or not, oldest first."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._by_spki: dict[str, list[Entry]] = {}

    def add(
        self, kind: LedgerKind, order_id: int, at: float, key: str, product: str, spki: str | None, body: dict[str, Any]
    ) -> None:
        """Put something on the bill."""
        entry = Entry(len(self._entries) + 1, kind, order_id, at, key, product, spki, body)
        self._entries.append(entry)
        if spki is not None:
            self._by_spki.setdefault(spki, []).append(entry)

    def entries(
        self,
        *,
        kind: LedgerKind | None = None,
        spki: str | None = None,
        stamp: str | None = None,
        key: str | None = None,
    ) -> list[Entry]:
        """What fits: of a kind, for an SPKI (SHA-256, hex), with a custom field of this value or this comment."""
        found: Iterable[Entry] = self._entries if spki is None else self._by_spki.get(spki.lower(), ())
        return [
            entry
            for entry in found
            if kind in {None, entry.kind} and key in {None, entry.key} and (stamp is None or stamp in entry.stamps())
        ]

    def orders(self, *, spki: str | None = None, stamp: str | None = None) -> list[Entry]:
        """Paid orders: renewals are among them, reissues and duplicates are not."""
        return self.entries(kind="order", spki=spki, stamp=stamp)

    def paid_twice(self) -> dict[str, list[int]]:
        """Keys with more than one paid order, and these orders."""
        twice = {}
        for spki, entries in self._by_spki.items():
            orders = [entry.order_id for entry in entries if entry.kind == "order"]
            if len(orders) > 1:
                twice[spki] = orders
        return twice

    def __len__(self) -> int:
        return len(self._entries)


def as_json(rows: Iterable[Call | Entry]) -> str:
    """Rows for the control path."""
    return json.dumps([asdict(row) for row in rows])
