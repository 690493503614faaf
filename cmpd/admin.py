"""What the admin listener answers: /metrics, /healthz, /readyz; to the `cmpd` command also /reload and /refusals.

Whoever serves, one process or the supervisor of many, is `Administered`; how it is asked over HTTP is here.
"""

import asyncio
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qs

from cmpd.http_transfer import Answer, Request, segments, text

RELOAD_SHARE = 4
"""After a reload the next one waits for so many times as long as that took: who asks for many gets few."""
COMMAND_HEADER = "Cmpd-Command"
"""A field that requests for a command must have: no web page of another origin can make a browser send it unasked."""
COMMAND_HOST = "cmpd.invalid"
"""What such a request must have as its host: no web page has this origin, since the name never resolves (RFC 6761)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a reload."""

    faults: list[str]
    """Why the old configuration stays; empty when the new one is in use."""
    at_next_start: list[str] = field(default_factory=list)
    """Keys whose changes wait for it."""
    profiles: list[str] = field(default_factory=list)
    """The profiles in use now."""


class Reloads:
    """One reload after another: who asks while one waits shares it."""

    def __init__(self, load: Callable[[], Awaitable[Outcome]]) -> None:
        self._load = load
        self._wanted = asyncio.Event()
        self._asked: asyncio.Future[Outcome] | None = None

    def begin(self) -> None:
        """Have the configuration loaded anew after this moment."""
        self._wanted.set()

    async def outcome(self) -> Outcome:
        """Have that done, and say what came of it."""
        if self._asked is None:
            self._asked = asyncio.get_running_loop().create_future()
        asked = self._asked
        self._wanted.set()
        return await asyncio.shield(asked)

    async def run(self) -> None:
        """Load whenever it is wanted."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            asked, self._asked = self._asked, None
            began = time.monotonic()
            outcome = await self._load()
            if asked is not None:
                asked.set_result(outcome)
                await asyncio.sleep(RELOAD_SHARE * (time.monotonic() - began))


class Administered(Protocol):
    """Whoever serves."""

    @property
    def reloads(self) -> Reloads:
        """How the configuration is loaded anew."""

    async def exposition(self) -> tuple[str, bytes]:
        """The media type and text that Prometheus reads."""

    async def unready(self) -> str | None:
        """Why it is not ready; None when it is."""

    async def latest_refusals(self) -> list[dict[str, Any]]:
        """The refusals in memory, newest first."""


async def administer(served: Administered, request: Request) -> Answer:
    """Answer one request. Whoever can reach the listener can have a reload: the work is bounded."""
    target = request.message.path
    path = segments(target)
    if path not in (["metrics"], ["healthz"], ["readyz"], ["reload"], ["refusals"]):
        return text(404, "there are /metrics, /healthz, /readyz, /reload and /refusals")
    methods = {"POST"} if path == ["reload"] else {"GET", "HEAD"}
    if request.message.method not in methods:
        allowed = ", ".join(sorted(methods))
        return text(405, f"{allowed} only", f"Allow: {allowed}\r\n".encode())
    if await request.read(0) is None:
        return text(413, "no body is expected")
    if path[0] in {"reload", "refusals"} and not _is_command(request):
        return text(403, "only the cmpd command of this machine may ask for that")
    match path[0]:
        case "metrics":
            media_type, body = await served.exposition()
            return Answer(200, media_type.encode(), body)
        case "healthz":
            return text(200, "ok")
        case "refusals":
            limit = parse_qs(target.partition("?")[2]).get("limit", [""])[0]
            found = await served.latest_refusals()
            return _json(200, {"refusals": found[: int(limit[:6]) if limit[:6].isdecimal() else None]})
        case "reload":
            outcome = await served.reloads.outcome()
            return _json(
                409 if outcome.faults else 200,
                {
                    "result": "refused" if outcome.faults else "reloaded",
                    "faults": outcome.faults,
                    "profiles": outcome.profiles,
                    "at_next_start": outcome.at_next_start,
                },
            )
        case _:
            reason = await served.unready()
            return text(200, "ready") if reason is None else text(503, reason)


def _json(status: int, value: object) -> Answer:
    return Answer(status, b"application/json", json.dumps(value).encode())


def _is_command(request: Request) -> bool:
    """Whether the `cmpd` command of this machine asks, and no web page, whatever its host name resolves to."""
    headers = request.message.headers
    try:
        near = ipaddress.ip_address(request.connection.address).is_loopback
    except ValueError:
        near = False
    return near and COMMAND_HEADER in headers and headers.get("Host") == COMMAND_HOST
