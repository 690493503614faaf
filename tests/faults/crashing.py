"""The real daemon with an appointment to die.

It dies at a step of answering a message of a body type, `signed` of `ir` for instance, or when a CRL number was taken.
The process sends SIGKILL to itself there: nothing is flushed, closed or said. Until then everything is the daemon as
it is. It is forked from a process that has imported everything, since imports are nine tenths of a start.
"""

import functools
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from cmpd import asn1, cli
from cmpd.asn1 import BodyType
from cmpd.enrollment import Operation
from cmpd.exchange import Arrival
from cmpd.handlers import HANDLERS
from cmpd.http_transfer import Answer, Request
from cmpd.limits import Limits
from cmpd.responder import Responder
from cmpd.store.crls import CRLs
from cmpd.store.group_commit import GroupCommit
from cmpd.store.sqlite import SQLiteStore

UNDECIDED = ("received", "authenticated", "signed", "before-commit")
"""Steps that leave nothing behind; `signed`: the certificate exists, and the store has just been called."""
DECIDED = ("after-commit", "answered", "half-sent")
"""Steps after which the message has its answer, which nobody has read."""


def die() -> NoReturn:
    """End here and now."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def crash(owner: Any, name: str, appointed: Callable[[], bool]) -> None:
    """Die at the beginning of a method, when it is time."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if appointed():
            die()
        return original(*args, **kwargs)

    setattr(owner, name, call)


def crash_after_numbering() -> None:
    """Die when a CRL number has been taken and no CRL has been made with it."""
    original = CRLs.next_crl_number

    async def next_crl_number(self: CRLs, issuer: str, /) -> int:
        await original(self, issuer)
        die()

    CRLs.next_crl_number = next_crl_number  # type: ignore[method-assign]


_ANSWERING = ContextVar("answering", default="")
"""The body type of the message that this task answers; what others keep beside it is not meant."""


def crash_at_commit(body: str, *, after: bool) -> None:
    """Die before or after the commit of what answering such a message keeps, and of no other."""
    write, group, commit = GroupCommit.write, GroupCommit._group, GroupCommit._commit
    meant: list[Any] = []
    is_in = False

    async def writing(self: GroupCommit, work: Any, contested: object = None) -> Any:
        if _ANSWERING.get() == body:
            meant.append(work)
        return await write(self, work, contested)

    def gathered(self: GroupCommit) -> Any:
        nonlocal is_in
        found = group(self)
        is_in = any(work in meant for work, _ in found)
        return found

    def committing(self: GroupCommit) -> None:
        if is_in and not after:
            die()
        commit(self)
        if is_in:
            die()

    GroupCommit.write = writing  # type: ignore[method-assign,assignment]
    GroupCommit._group = gathered  # type: ignore[method-assign]
    GroupCommit._commit = committing  # type: ignore[method-assign]


def appoint(step: str, body: str) -> None:
    """Patch the real code so that the process dies at a step of a message."""
    in_hand = ""
    respond, prepare = Responder.respond, Answer.prepare

    def appointed() -> bool:
        return in_hand == body

    async def responding(self: Responder, data: bytes, arrival: Arrival) -> bytes:
        nonlocal in_hand
        in_hand = asn1.decode(data, Limits()).body_type.name
        _ANSWERING.set(in_hand)
        if step == "received" and appointed():
            die()
        answer = await respond(self, data, arrival)
        if step == "answered" and appointed():
            die()
        return answer

    async def handling(_: Operation) -> bytes:
        die()

    async def preparing(self: Answer, request: Request) -> None:
        transport = request.connection.transport
        if step == "half-sent" and appointed() and transport is not None:
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.body)
            os.write(transport.get_extra_info("socket").fileno(), head + self.body[: len(self.body) // 2])
            die()
        await prepare(self, request)

    Responder.respond = responding  # type: ignore[method-assign]
    Answer.prepare = preparing  # type: ignore[method-assign]
    match step:
        case "authenticated":
            HANDLERS[BodyType[body]] = handling
        case "signed":
            crash(SQLiteStore, "advance" if body == "certConf" else "issued", appointed)
        case "before-commit":
            crash_at_commit(body, after=False)
        case "after-commit":
            crash_at_commit(body, after=True)


def serve(errors: Connection, config: str, step: str, body: str) -> None:
    """What the forked process does: `cmpd serve`, its records to `errors`."""
    os.dup2(errors.fileno(), 2)
    if step == "numbered":
        crash_after_numbering()
    else:
        assert step in UNDECIDED + DECIDED
        appoint(step, body)
    cli.main(["serve", "--config", config])


class Crashing:
    """The process of a daemon that is going to crash."""

    def __init__(self, config: Path, step: str, body: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "cmpd.cli.service", "uvloop"])
        errors, end = context.Pipe(duplex=False)
        self._process = context.Process(target=serve, args=(end, str(config), step, body), daemon=True)
        with errors, end:
            self._process.start()
            self.stderr = os.fdopen(os.dup(errors.fileno()), "rb")
        assert self._process.pid is not None
        self.pid = self._process.pid

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end: the exit status, negative for the signal that ended it. Raises TimeoutError."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise TimeoutError
        self._process.close()
        return status
