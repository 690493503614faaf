"""What supervisor and worker say to each other: JSON, a line each, over a socket pair that nobody else has.

{"ask": "metrics", "id": 7}  ─►          the supervisor asks
                             ◄─  {"id": 7, "answer": …}
                             ◄─  {"told": "serving", …}
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Self

logger = logging.getLogger(__name__)

LINE_OCTETS = 1 << 26
"""The longest line: metrics of many profiles, refusals."""

Answer = Callable[[str], Awaitable[Any]]
Told = Callable[[str, dict[str, Any]], None]


class LinkLost(Exception):
    """The other side has gone."""


class Link:
    """One end."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer | None, told: Told | None
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._told = told
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._number = 0
        self._lost = False

    @classmethod
    async def open(cls, sock: socket.socket, *, answer: Answer | None = None, told: Told | None = None) -> Self:
        """Take over one end of a socket pair; `answer` is asked by the other side, `told` hears the rest."""
        sock.setblocking(False)
        return cls(*await asyncio.open_connection(sock=sock, limit=LINE_OCTETS), answer, told)

    async def run(self) -> None:
        """Hear the other side until it has gone."""
        try:
            while line := await self._reader.readline():
                self._hear(json.loads(line))
        except (OSError, ValueError) as error:
            logger.warning("what supervisor and worker say to each other is garbled: %s", error)
        finally:
            self._lost = True
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(LinkLost())
            for task in self._answering:
                task.cancel()
            self._writer.close()

    def _hear(self, message: dict[str, Any]) -> None:
        if "told" in message:
            if self._told is not None:
                self._told(message.pop("told"), message)
        elif "ask" in message:
            task = asyncio.get_running_loop().create_task(self._reply(message["id"], message["ask"]))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif (future := self._asked.get(message["id"])) is not None and not future.done():
            future.set_result(message["answer"])

    async def _reply(self, number: int, kind: str) -> None:
        assert self._answer is not None
        self._say({"id": number, "answer": await self._answer(kind)})

    def _say(self, message: dict[str, Any]) -> None:
        if not self._lost:
            with contextlib.suppress(OSError, RuntimeError):
                self._writer.write(json.dumps(message).encode() + b"\n")

    def tell(self, what: str, **more: Any) -> None:
        """Say something unasked."""
        self._say({"told": what, **more})

    async def flush(self) -> None:
        """Wait until the other side has what was said."""
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def ask(self, kind: str, seconds: float) -> Any:
        """Ask the other side. Raises LinkLost, or TimeoutError when it has not answered so long."""
        if self._lost:
            raise LinkLost
        self._number += 1
        number = self._number
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._say({"ask": kind, "id": number})
        try:
            async with asyncio.timeout(seconds):
                return await future
        finally:
            del self._asked[number]
