"""The load client: its own process, raw asyncio streams, every answer checked (`bench.end_entity`)."""

import asyncio
import gc
import multiprocessing
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Self

import psutil
import uvloop

from bench.end_entity import (
    PBM_ITERATIONS,
    AnswerError,
    Credential,
    Device,
    MacCredential,
    Operation,
    SignatureCredential,
    Wanted,
    derive,
    want,
)
from cmpd.asn1 import BodyType

SETTLE_SECONDS = 0.1
"""How long the server may finish what it still has in hand before its CPU time is read."""
RULER_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Work:
    """What the clients are to do. Paths are those of the profiles for MAC and for signature protection."""

    port: int
    server_pid: int
    transactions: int
    warm_up: int
    clients: int = 16
    operation: str = "ir"
    """ir, kur, or `empty`: posts of `octets` octets that are answered by anything; `get`: what is answered by a 404."""
    devices: tuple[Device, ...] = ()
    """Not empty: an ir is signed, each client being one of these."""
    implicit: bool = False
    person: bool = False
    """An ir asks for all that an e-mail certificate has, not for a device's commonName alone."""
    keep_alive: bool = True
    mac_path: str = ""
    signature_path: str = ""
    reference: str = ""
    secret: str = field(default="", repr=False)
    chain: tuple[bytes, ...] = ()
    """The CA certificates, issuing CA first, root last, DER."""
    octets: int = 600
    tls_root: bytes = b""
    """Not empty: TLS 1.3 to a server whose certificate is under this one (DER), client certificates being `devices`."""
    tls_once: bool = False
    """One TLS connection for each transaction."""
    ready_made: bool = True
    """Keys, POPs and PasswordBasedMac keys are made before the clock starts."""

    def without_preparation(self) -> "Work":
        """The same for a run that is too long to make everything in advance; its CPU times say nothing."""
        return replace(self, ready_made=False)


@dataclass(slots=True)
class Measured:
    """What came of it. Times in seconds, sizes in octets."""

    transactions: int = 0
    requests: int = 0
    server_cpu: float = 0.0
    client_cpu: float = 0.0
    foreign_cpu: float = 0.0
    """What all other processes of this machine, and its host, took meanwhile."""
    elapsed: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """One a transaction."""
    request_sizes: tuple[int, ...] = ()
    """Of the messages of one transaction, in their order."""
    answer_sizes: tuple[int, ...] = ()
    certificate_size: int = 0
    resident: int = 0
    """Resident memory of the server at the end."""
    handshake: float = 0.0
    """Server CPU seconds of one bare TLS connection with a client certificate; 0 where none is made anew."""
    unasked: float = 0.0
    """Server CPU seconds of the same transaction, over TLS too, where the profile asks for no client certificate; for
    several workers, where there is one."""
    ruler: float = 0.0
    """The median CPU time of 500 chained SHA-256 meanwhile: how fast this machine was."""

    @property
    def cpu(self) -> float:
        """Server CPU seconds a transaction."""
        return self.server_cpu / self.transactions


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads, ended ones too; it must have no child processes."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3) on Linux: nanoseconds
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def service_seconds(pid: int) -> float:
    """The same of a process and those that it has started, as long as all of them run."""
    return cpu_seconds(pid) + sum(cpu_seconds(child.pid) for child in psutil.Process(pid).children(recursive=True))


def machine_cpu_seconds() -> float:
    """The time that all cores together were busy, or taken away by the host."""
    times = psutil.cpu_times()
    return float(
        times.user + times.system + sum(getattr(times, name, 0.0) for name in ("nice", "irq", "softirq", "steal"))
    )


def ruler() -> float:
    """CPU seconds of a piece of work that is always the same: 500 chained SHA-256, the median of five."""
    found = []
    for _ in range(5):
        started = time.thread_time()
        derive(b"ruler", b"", PBM_ITERATIONS)
        found.append(time.thread_time() - started)
    return median(found)


class Connection:
    """A connection of one client; made anew for each request unless `keep_alive`."""

    def __init__(self, port: int, *, keep_alive: bool, tls: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._keep_alive = keep_alive
        self._tls = tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.requests = 0

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of the answer. Raises `AnswerError` if it is not a 200 with application/pkixcmp."""
        close = "" if self._keep_alive else "Connection: close\r\n"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/pkixcmp\r\n"
            f"{close}Content-Length: {len(body)}\r\n\r\n"
        )
        status, fields, answer = await self._ask(head.encode() + body)
        if status != b"200" or fields.get(b"content-type") != b"application/pkixcmp":
            raise AnswerError(f"HTTP: {status.decode()}, {fields.get(b'content-type')!r}")
        return answer

    async def get(self, path: str) -> None:
        """Ask for what is not there. Raises `AnswerError` if it is."""
        status, _, _ = await self._ask(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())
        if status != b"404":
            raise AnswerError(f"HTTP: {status.decode()} for a path that is not there")

    async def _ask(self, request: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
        """Status, fields and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
        reader, writer = self._streams
        writer.write(request)
        self.requests += 1
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        fields = dict(line.split(b": ", 1) for line in lines[1:] if line)
        answer = await reader.readexactly(int(fields[b"content-length"]))
        if not self._keep_alive:
            self.close()
        elif fields.get(b"connection") == b"close":
            raise AnswerError("the server closed a keep-alive connection")
        return lines[0].split(b" ", 2)[1], fields, answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Clients:
    """All clients of one piece of work."""

    def __init__(self, work: Work) -> None:
        self._work = work
        contexts = _tls_clients(work)
        self._connections = [
            Connection(work.port, keep_alive=work.keep_alive, tls=contexts[number] if contexts else None)
            for number in range(work.clients)
        ]
        self._code = MacCredential(work.reference, work.secret)
        self._credentials: list[Credential] = [self._code] * work.clients
        if work.devices and not work.tls_root:
            self._credentials = [device.credential(work.chain[-1:]) for device in work.devices[: work.clients]]
        self._wanted: list[Wanted] = []
        self._measured = Measured()

    async def enroll(self) -> None:
        """Get every client its first certificate with the enrollment code, to sign the first kur with."""
        chain = self._work.chain
        for number in range(self._work.clients):
            wanted = want(ready=True)
            operation = Operation(self._code, BodyType.ir, wanted)
            await self._run(self._connections[number], self._work.mac_path, operation)
            certificate = operation.certificate
            self._credentials[number] = SignatureCredential(wanted.key, certificate, chain[:-1], chain[-1:])

    def prepare(self, transactions: int) -> None:
        """Make keys, POPs and PasswordBasedMac keys for so many transactions."""
        if self._work.operation in {"empty", "get"}:
            return
        if self._work.operation == "ir" and (not self._work.devices or self._work.tls_root):
            self._code.prepare(transactions * (1 if self._work.implicit else 2))
        self._wanted = [self._want() for _ in range(transactions)]

    def _want(self) -> Wanted:
        return want(ready=self._work.operation == "ir", person=self._work.person)

    async def _run(self, connection: Connection, path: str, operation: Operation) -> None:
        request = operation.request()
        answer = await connection.post(path, request)
        operation.certified(answer)
        requests, answers = [len(request)], [len(answer)]
        if not operation.confirmed:
            confirmation = operation.confirmation()
            answer = await connection.post(path, confirmation)
            operation.ended(answer)
            requests.append(len(confirmation))
            answers.append(len(answer))
        measured = self._measured
        measured.request_sizes, measured.answer_sizes = tuple(requests), tuple(answers)
        measured.certificate_size = len(operation.certificate)

    async def _transaction(self, number: int) -> None:
        work = self._work
        credential = self._credentials[number]
        wanted = self._wanted.pop() if self._wanted else self._want()
        operation = Operation(credential, BodyType[work.operation], wanted, implicit=work.implicit)
        path = work.signature_path if work.devices and not work.tls_root else work.mac_path
        await self._run(self._connections[number], path, operation)
        if work.operation == "kur":
            chain = work.chain
            self._credentials[number] = SignatureCredential(wanted.key, operation.certificate, chain[:-1], chain[-1:])

    async def _get_nothing(self, number: int) -> None:
        await self._connections[number].get("/nothing")

    async def _post_nothing(self, number: int) -> None:
        await self._connections[number].post("/", bytes(self._work.octets))

    async def perform(self, transactions: int) -> Measured:
        """Run so many transactions from all clients at once, until the last is answered."""
        kinds: dict[str, Callable[[int], Awaitable[None]]] = {"empty": self._post_nothing, "get": self._get_nothing}
        one = kinds.get(self._work.operation, self._transaction)
        left = transactions
        measured = self._measured = Measured()
        clock = time.perf_counter

        async def client(number: int) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                started = clock()
                await one(number)
                if self._work.tls_once:
                    self._connections[number].close()
                measured.latencies.append(clock() - started)

        for connection in self._connections:
            connection.requests = 0
        pid = self._work.server_pid
        foreign, server, mine, started = machine_cpu_seconds(), service_seconds(pid), time.process_time(), clock()
        async with asyncio.TaskGroup() as group:
            for number in range(self._work.clients):
                group.create_task(client(number))
        measured.elapsed = clock() - started
        measured.client_cpu = time.process_time() - mine
        await asyncio.sleep(SETTLE_SECONDS)
        measured.server_cpu = service_seconds(pid) - server
        own = measured.server_cpu + measured.client_cpu
        measured.foreign_cpu = max(0.0, machine_cpu_seconds() - foreign - own)
        measured.transactions = transactions
        measured.requests = sum(connection.requests for connection in self._connections)
        measured.resident = psutil.Process(pid).memory_info().rss
        return measured

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


async def perform(work: Work) -> Measured:
    """Enroll and warm up outside the clock, then measure."""
    clients = Clients(work)
    try:
        if work.operation == "kur":
            await clients.enroll()
        if work.ready_made:
            clients.prepare(work.transactions + work.warm_up)
        gc.collect()
        gc.freeze()
        if work.warm_up:
            await clients.perform(work.warm_up)
        return await clients.perform(work.transactions)
    finally:
        clients.close()
        gc.unfreeze()


def _tls_clients(work: Work) -> list[ssl.SSLContext]:
    """For each client a context of its own with its certificate; no session is ever resumed."""
    if not work.tls_root:
        return []
    root = ssl.DER_cert_to_PEM_cert(work.tls_root)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for device in work.devices:
            (Path(folder) / "client.pem").write_bytes(
                ssl.DER_cert_to_PEM_cert(device.certificate).encode() + device.key_pem()
            )
            context = ssl.create_default_context(cadata=root)
            context.check_hostname = False
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(Path(folder) / "client.pem")
            found.append(context)
    return found


def _process(pipe: Pipe) -> None:
    while (work := pipe.recv()) is not None:
        try:
            pipe.send(uvloop.run(perform(work)))
        except BaseExceptionGroup as group:
            pipe.send(group.exceptions[0])
        except Exception as error:  # noqa: BLE001  told to the process that asked
            pipe.send(error)


class LoadProcess:
    """The process of the load client, and the way to give it work."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._child = context.Process(target=_process, args=(theirs,), daemon=True)

    def __enter__(self) -> Self:
        self._child.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._child.join()

    def perform(self, work: Work) -> Measured:
        """Have it done, and see meanwhile how fast the machine is. Raises what went wrong, e.g. `AnswerError`."""
        self._pipe.send(work)
        speeds: list[float] = []
        while not self._pipe.poll(RULER_SECONDS):
            speeds.append(ruler())
            if not self._child.is_alive():
                raise RuntimeError("the load client has ended")
        result: Any = self._pipe.recv()
        if isinstance(result, BaseException):
            raise result
        measured: Measured = result
        measured.ruler = median(speeds or [ruler()])
        return measured


def median(values: Sequence[float]) -> float:
    """The middle one, of an even number the lower."""
    return sorted(values)[(len(values) - 1) // 2]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
