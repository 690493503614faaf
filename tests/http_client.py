"""A client as rude as a test needs it: raw octets over a TCP connection, on either event loop."""

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from cmpd.exchange import Arrival
from cmpd.http_transfer import NO_PROXIES, CMPTransfer, Proxies, Service
from cmpd.limits import Limits

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
WAIT = 20.0
"""How long a test waits for what must come, in seconds."""


def both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test under asyncio's own loop and under uvloop, production's; what a loop complains about fails it."""

    def run(loop: str, **values: Any) -> None:
        complaints: list[dict[str, Any]] = []

        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            async with asyncio.timeout(2 * WAIT):
                await test(**values)

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(watched())
        assert complaints == [], complaints

    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined]  # pytest is to see the signature below
    own = inspect.signature(test).parameters.values()
    loop = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([loop, *own])  # type: ignore[attr-defined]
    marked: Callable[..., None] = pytest.mark.parametrize("loop", LOOPS)(run)
    return marked


@dataclass
class Reply:
    """A parsed HTTP response."""

    version: str
    status: int
    headers: dict[str, str]
    body: bytes

    def is_plain_refusal(self) -> bool:
        """Whether it is one short line of text and nothing else."""
        return (
            self.headers["content-type"] == "text/plain; charset=utf-8"
            and self.body.endswith(b"\n")
            and self.body.count(b"\n") == 1
            and len(self.body) < 100
            and b"<" not in self.body.replace(b"<profile>", b"")
            and b"Traceback" not in self.body
        )


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self, *, head: bool = False) -> Reply:
        async with asyncio.timeout(WAIT):
            block = (await self.reader.readuntil(b"\r\n\r\n")).decode("ascii")
            start, *lines = block.removesuffix("\r\n\r\n").split("\r\n")
            version, status, _ = start.split(" ", 2)
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                assert name.lower() not in headers
                headers[name.lower()] = value.strip()
            length = 0 if head or status == "100" else int(headers["content-length"])
            return Reply(version, int(status), headers, await self.reader.readexactly(length))

    async def ask(self, data: bytes) -> Reply:
        self.send(data)
        return await self.reply()

    async def closed(self) -> bytes:
        """Wait for the end of the connection; return what came before it."""
        rest = b""
        async with asyncio.timeout(WAIT):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(65536):
                    rest += data
        return rest

    def pause(self) -> None:
        """Take nothing more from the connection."""
        cast("asyncio.Transport", self.writer.transport).pause_reading()

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def post(
    path: str = "/.well-known/cmp/p/device",
    body: bytes | None = b"PKIMessage",
    *fields: str,
    version: str = "1.1",
    media_type: str | None = "application/pkixcmp",
    method: str = "POST",
) -> bytes:
    """A request; without a body also without Content-Length."""
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost"]
    if media_type is not None:
        lines.append(f"Content-Type: {media_type}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, *fields, "", ""]).encode("latin-1") + (body or b"")


def self_signed(folder: Path, name: str = "localhost", algorithm: str = "ec") -> None:
    """A TLS server's certificate for 127.0.0.1, made by the openssl command: cert.pem and key.pem."""
    options = ("-pkeyopt", "ec_paramgen_curve:P-256") if algorithm == "ec" else ()
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        algorithm,
        *options,
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
    ]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


async def echo(message: bytes, arrival: Arrival) -> bytes:
    """Stands for the responder: repeats what it was given and from where."""
    return f"{arrival.address}|{arrival.profile}|{arrival.operation}|".encode() + message


async def crl() -> bytes:
    return b"a CRL"


class Serving:
    """A CMP listener on a free port, and what it reported."""

    def __init__(self, service: Service, limits: Limits) -> None:
        self.refusals: list[tuple[int, str, str, str]] = []
        self.suspicions: list[tuple[int, str, str, str]] = []
        self.failures: list[tuple[str, str, str]] = []
        """Handshakes that failed."""
        self.arrivals: list[Arrival] = []
        self.transfer = CMPTransfer(
            dataclasses.replace(service, respond=self._responding(service)),
            limits,
            lambda *refusal: self.refusals.append(refusal),
            suspected=lambda *refusal: self.suspicions.append(refusal),
            handshake_failed=lambda *failure: self.failures.append(failure),
        )
        self.host = ""
        self.port = 0

    def _responding(self, service: Service) -> Callable[[bytes, Arrival], Any]:
        def respond(message: bytes, arrival: Arrival) -> Any:
            self.arrivals.append(arrival)
            return service.respond(message, arrival)

        return respond

    @contextlib.asynccontextmanager
    async def connect(self, **options: Any) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=2**24, **options)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self, data: bytes) -> Reply:
        """One request on a connection of its own."""
        async with self.connect() as client:
            return await client.ask(data)

    async def busy(self) -> None:
        """Let the server go on until a request is being answered."""
        await self.until(lambda: any(connection.answering for connection in self.transfer.connections))

    async def connected(self) -> None:
        """Let the server go on until it has a connection."""
        await self.until(lambda: bool(self.transfer.connections))

    async def empty(self) -> None:
        """Let the server go on until it has no connections."""
        await self.until(lambda: not self.transfer.connections)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the server go on until something has come about."""
        async with asyncio.timeout(WAIT):
            while not condition():
                await asyncio.sleep(0.002)


SERVICE = Service(
    echo,
    frozenset({"device", "Gerät 1", "a/b"}),
    {"4f2a9c": "device"},
    default=True,
    crls={"local": crl},
)


@contextlib.asynccontextmanager
async def serving(
    service: Service = SERVICE, *, tls: Any = None, proxies: Proxies = NO_PROXIES, **limits: Any
) -> AsyncIterator[Serving]:
    server = Serving(service, Limits(**limits))
    server.transfer.proxies = proxies
    server.host, server.port = await server.transfer.listen("127.0.0.1", 0, tls)
    try:
        yield server
    finally:
        await server.transfer.stop(WAIT)
