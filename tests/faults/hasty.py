"""The real daemon in a forked process, with the waits that no setting shortens cut down to what a test can await."""

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

from cmpd import cli, ordering
from cmpd.enrollment import waiting
from cmpd.issuers.certcentral import client, issuer

PATIENCE = 3.0
LOST_SECONDS = 1.0
IDLE_SECONDS = 0.5
LONGEST_PAUSE = 2.0


def serve(errors: Connection, config: str, keeps_limits: bool) -> None:
    """What the forked process does: `cmpd serve`, its records to `errors`."""
    os.dup2(errors.fileno(), 2)
    client.PATIENCE = issuer.PATIENCE = PATIENCE  # type: ignore[misc,attr-defined]
    if not keeps_limits:
        client.LIMITS = ()  # type: ignore[misc,assignment]
    ordering.LOST_SECONDS, ordering.IDLE_SECONDS, ordering.LONGEST_PAUSE = LOST_SECONDS, IDLE_SECONDS, LONGEST_PAUSE
    waiting.PROMPT_SECONDS = 0.2
    cli.main(["serve", "--config", config])


class Hasty:
    """The process of such a daemon; see `tests.daemon.Process`.

    Unless it `keeps_limits`, it does not care what was called before it.
    """

    def __init__(self, config: Path, *, keeps_limits: bool = False) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "cmpd.cli.service", "uvloop"])
        errors, end = context.Pipe(duplex=False)
        self._process = context.Process(target=serve, args=(end, str(config), keeps_limits), daemon=True)
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
