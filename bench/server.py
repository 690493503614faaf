"""The processes that are measured: the real daemon on a folder of its own, and a bare aiohttp server beside it."""

import asyncio
import json
import multiprocessing
import os
import pstats
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Self

import psutil
import uvloop
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bench.end_entity import Manufacturer

STARTUP_SECONDS = 30
STOP_SECONDS = 30
MAC_PROFILE = "device"
SIGNATURE_PROFILE = "signed"
PEOPLE_PROFILE = "people"
BOUND_PROFILE = "bound"
TLS_PROFILE = "tls"
MANY = 1_000_000
"""More uses than any run has, and a limit that none reaches."""
PEOPLE = """
id = "@ID@"
base_template = "private-smime"
issuer = "@ISSUER@"
name = "E-mail inside the company"
description = "People, by enrollment code: one rule of each kind that an e-mail profile can have"
business_unit = "Research"
tags = ["load test"]
lint = "off"

[certificate_type]
usage = "dual_use"

[organization]
name = "Example GmbH"
identifier = "NTRDE-HRB123456"

[contact]
mode = "custom"
first_name = "Ada"
last_name = "Byron"
email = "pki@example.com"

[subject]
name_split = "last-word-is-surname"
common_name_from = ["personal_name"]
given_name = { include = "required", max_length = 40 }
surname = { include = "required", max_length = 40 }
country_name = { include = "required", pattern = "DE|AT|CH" }
serial_number = { include = "required", pattern = "[0-9]{1,12}" }

[san]
email = { max = 2, allowed_domains = ["example.com", ".example.com"] }

[extensions]
certificate_policies = [{ oid = "1.3.6.1.4.1.55555.1.1", cps = "https://example.com/cps" }]

[seat]
id_mapping = "san.email"
allow_duplicates = false
"""


def disk_folder() -> Path:
    """A place for the database where fsync means something: the first usual one that is not a tmpfs."""
    for candidate in (Path("/var/tmp"), Path(tempfile.gettempdir()), Path.cwd()):
        if candidate.is_dir() and os.access(candidate, os.W_OK) and file_system(candidate) not in {"tmpfs", "ramfs"}:
            return candidate
    return Path(tempfile.gettempdir())


def file_system(path: Path) -> str:
    """The type of the file system that a path is on."""
    mounts = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    real = path.resolve()
    return next((mounts[each] for each in (real, *real.parents) if each in mounts), "unknown")


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Daemon:
    """`cmpd serve` in a process of its own, made by `cmpd init` as an operator makes it; profiling it is an option."""

    def __init__(self, folder: Path, *, store: str | None = None, profile: bool = False, workers: int = 1) -> None:
        self._workers = workers
        self.manufacturer = Manufacturer()
        self._folder = folder
        self._store = store
        self._config = folder / "cmpd.toml"
        self._stats = folder / "cmpd.prof" if profile else None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.port, self.tls_port, self._admin_port = free_ports(3)
        listen = ("--listen", f"127.0.0.1:{self.port}", "--admin-listen", f"127.0.0.1:{self._admin_port}")
        self._cmpd("init", "--dir", str(self._folder), *listen)
        if self._store is not None:
            self._config.write_text(self._config.read_text().replace("sqlite:///cmpd.db", self._store))
        self._make_signature_profile()
        self._make_people_profile()
        self._make_bound_profile()
        self._make_tls_profile()
        self._configure()
        self.codes = {profile: self._code(profile) for profile in (MAC_PROFILE, PEOPLE_PROFILE, TLS_PROFILE)}
        self.codes[BOUND_PROFILE] = self._code(BOUND_PROFILE, str(MANY), "--subject", "CN=bench-[0-9]+-[0-9]+")
        pem = self._cmpd("ca", "chain")
        self.chain = tuple(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(pem))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @staticmethod
    def path(profile: str) -> str:
        return f"/.well-known/cmp/p/{profile}"

    def _cmpd(self, *arguments: str) -> bytes:
        environment = os.environ | {"CMPD_CONFIG": str(self._config)}
        done = subprocess.run(
            [sys.executable, "-m", "cmpd", *arguments], capture_output=True, env=environment, check=False
        )
        if done.returncode:
            raise RuntimeError(f"cmpd {' '.join(arguments)}: {done.stderr.decode()}{done.stdout.decode()}")
        return done.stdout

    def _json(self, *arguments: str) -> Any:
        return json.loads(self._cmpd(*arguments, "--json"))

    def _code(self, profile: str, uses: str = "unlimited", *bounds: str) -> tuple[str, str]:
        """Reference and secret of a new enrollment code."""
        code = self._json("code", "create", "--profile", profile, "--uses", uses, *bounds)
        return code["reference"], code["secret"]

    def _profiles(self) -> Path:
        settings = tomllib.loads(self._config.read_text())
        return self._folder / str(settings.get("profiles", {}).get("directory", "profiles"))

    def _make_people_profile(self) -> None:
        """A profile for e-mail certificates, from its template and with the issuer of the first."""
        issuer = tomllib.loads((self._profiles() / f"{MAC_PROFILE}.toml").read_text())["issuer"]
        text = PEOPLE.replace("@ID@", os.urandom(16).hex()).replace("@ISSUER@", issuer)
        (self._profiles() / f"{PEOPLE_PROFILE}.toml").write_text(text)

    def _make_signature_profile(self) -> None:
        """A second profile, like the first, but for clients that sign with a certificate of another PKI."""
        folder = self._profiles()
        (folder / "manufacturer.pem").write_bytes(self.manufacturer.root.public_bytes(Encoding.PEM))
        text = (folder / f"{MAC_PROFILE}.toml").read_text()
        text = re.sub(r'(?m)^id *= *".*"$', f'id = "{os.urandom(16).hex()}"', text, count=1)
        text = re.sub(r"(?m)^(authentication_method|trusted_certificates) *=.*\n", "", text)
        text = re.sub(
            r"(?m)^\[enrollment\]\n",
            '[enrollment]\nauthentication_method = "tls_certificate"\ntrusted_certificates = ["manufacturer.pem"]\n',
            text,
        )
        (folder / f"{SIGNATURE_PROFILE}.toml").write_text(text)

    def _derived(self, name: str, *changes: tuple[str, str]) -> None:
        """A profile like the first; of each change the line that it begins with, and what is there instead."""
        text = (self._profiles() / f"{MAC_PROFILE}.toml").read_text()
        text = re.sub(r'(?m)^id *= *".*"$', f'id = "{os.urandom(16).hex()}"', text, count=1)
        for before, after in changes:
            text, found = re.subn(rf"(?m)^{re.escape(before)}$", after, text, count=1)
            if not found:
                raise RuntimeError(f"the profile that cmpd init makes has no line {before!r}")
        (self._profiles() / f"{name}.toml").write_text(text)

    def _make_bound_profile(self) -> None:
        """A profile that looks at the address, and counts the requests: in all, and by code."""
        self._derived(
            BOUND_PROFILE,
            (
                "[enrollment]",
                f'[enrollment]\nclient_addresses = ["127.0.0.0/8", "::1/128"]\nrequests_per_second = {MANY}',
            ),
            ("[enrollment.code]", f"[enrollment.code]\nrequests_per_minute = {MANY}"),
        )

    def _make_tls_profile(self) -> None:
        """A profile that asks for a TLS client certificate beside the enrollment code."""
        self._derived(TLS_PROFILE, ("required = false", 'required = true\ntrusted_certificates = ["manufacturer.pem"]'))

    def _configure(self) -> None:
        """A TLS listener, and more from one address than a server is usually to take: all clients have the same."""
        self.manufacturer.write_server(self._folder / "tls.pem", self._folder / "tls.key")
        listener = f'listen = "127.0.0.1:{self.tls_port}"\ncertificate = "tls.pem"\nkey = "tls.key"'
        more = f'[server.tls]\n{listener}\nminimum_version = "1.3"\n\n[limits]\naddress_requests = {MANY}\n'
        self._config.write_text(f"{self._config.read_text()}\n{more}")

    def start(self) -> None:
        """Run it, and wait until it is ready."""
        program = ["cmpd"] if self._stats is None else ["bench.profiled", str(self._stats)]
        command = [
            sys.executable,
            "-m",
            *program,
            "serve",
            "--config",
            str(self._config),
            "--workers",
            str(self._workers),
        ]
        with (self._folder / "serve.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + STARTUP_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"cmpd serve does not start:\n{self.log()}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._admin_port}/readyz", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def log(self) -> str:
        """The end of what the daemon has written."""
        return (self._folder / "serve.log").read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def start_profile(self) -> None:
        """From now on the profiler counts."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)

    def top_functions(self, transactions: int, lines: int = 45) -> str:
        """Where the time of its event loop went, after it has stopped: own time of each function a transaction."""
        if self._stats is None:
            raise RuntimeError("the daemon was not started with a profiler")
        rows: Any = pstats.Stats(str(self._stats)).stats  # type: ignore[attr-defined]  # documented nowhere but in the source
        top = sorted(rows.items(), key=lambda item: item[1][2], reverse=True)[:lines]
        head = f"{'own µs/tx':>10} {'with callees':>12} {'calls/tx':>9}  function\n"
        return head + "\n".join(
            f"{own / transactions * 1e6:10.1f} {cumulative / transactions * 1e6:12.1f} {calls / transactions:9.2f}"
            f"  {_place(*where)}"
            for where, (_, calls, own, cumulative, _) in top
        )


def _place(file: str, line: int, function: str) -> str:
    return function if file == "~" else f"{'/'.join(Path(file).parts[-3:])}:{line} {function}"


def _handler_process(pipe: Pipe, octets: int, work: Callable[[], Callable[[], Awaitable[None]]] | None) -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        await request.read()
        for each in works:
            await each()
        return web.Response(body=answer, content_type="application/pkixcmp")

    async def serve() -> None:
        if work is not None:
            works.append(work())
        runner = web.ServerRunner(web.Server(handler))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await runner.cleanup()

    answer = bytes(octets)
    works: list[Callable[[], Awaitable[None]]] = []
    uvloop.run(serve())


class BareServer:
    """An aiohttp server under uvloop whose handler reads the body, does its work and answers with `octets` octets.

    `work` is called once in the server's process, on its event loop, and gives what is awaited for each request; with
    None the handler is empty.
    """

    def __init__(self, octets: int, work: Callable[[], Callable[[], Awaitable[None]]] | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._child = context.Process(target=_handler_process, args=(theirs, octets, work), daemon=True)

    def __enter__(self) -> Self:
        self._child.start()
        self.port: int = self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._child.join()

    @property
    def pid(self) -> int:
        assert self._child.pid is not None
        return self._child.pid
