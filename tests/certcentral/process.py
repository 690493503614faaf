"""The simulator in a process of its own, for tests whose program under test is one too.

with Simulator() as central:        central.url, central.control("GET", "/ledger")
"""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
SECONDS = 60


class Simulator:
    """`python -m tests.certcentral` on a free port; `switches` are those of its command line."""

    def __init__(self, **switches: Any) -> None:
        self._switches = [f"--set={name}={json.dumps(value)}" for name, value in switches.items()]
        self.url = ""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.certcentral", "--port", "0", *self._switches]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the simulator does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """A call of /_control; see `control`."""
        origin = self.url.removesuffix("/services/v2")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{origin}/_control{path}", data, {"Content-Type": "application/json"})
        request.method = method
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=SECONDS) as answer:
            return json.loads(answer.read())

    def set(self, **switches: Any) -> None:
        self.control("POST", "/settings", {"set": switches})
