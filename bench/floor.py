"""The floor: what a transaction costs at least, each part measured alone, on the same machine in the same run.

Only work that no implementation on this platform could leave out is in it: no decoding or encoding of messages, no
policy, no certificate building, no look-ups, no log records.
"""

import asyncio
import hashlib
import hmac
import importlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.end_entity import ECDSA_SHA256, PBM_ITERATIONS, SALT_OCTETS
from bench.load import LoadProcess, Measured, Work, median
from bench.server import BareServer

GROUP = 8
"""Requests that share one commit: half of the 16 clients."""
BATCHES = 9
Kind = Literal["mac", "known signer", "new signer"]
"""How the requests are protected; a known signer's certificate has been checked in earlier transactions."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the floor: what it is, and its CPU seconds a transaction."""

    text: str
    seconds: float


def cpu_of(work: Callable[[], object], times: int) -> float:
    """CPU seconds of one call, the median of a few batches of `times` calls."""
    batches = []
    for _ in range(BATCHES):
        started = time.process_time()
        for _ in repeat(None, times):
            work()
        batches.append((time.process_time() - started) / times)
    return median(batches)


def _sha256_constructors() -> list[Callable[[bytes], Any]]:
    """OpenSSL's SHA-256, and the interpreter's own where it has one."""
    found: list[Callable[[bytes], Any]] = [hashlib.sha256]
    for name in ("_sha2", "_sha256"):
        try:
            found.append(importlib.import_module(name).sha256)
        except ImportError:
            continue
    return found


def _derivation(sha256: Callable[[bytes], Any]) -> Callable[[], bytes]:
    secret = os.urandom(20) + os.urandom(SALT_OCTETS)

    def derive() -> bytes:
        key = sha256(secret).digest()
        for _ in repeat(None, PBM_ITERATIONS - 1):
            key = sha256(key).digest()
        digest: bytes = key
        return digest

    return derive


@dataclass(frozen=True, slots=True)
class Crypto:
    """CPU seconds of each bare operation."""

    derivation: float
    mac: float
    digest: float
    load_spki: float
    load_certificate: float
    verify: float
    sign: float


def crypto(sizes: Measured, certificate: bytes, times: int = 200) -> Crypto:
    """Measure the operations on data as large as that of a real transaction, `certificate` being an issued one."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    part = os.urandom((sum(sizes.request_sizes) + sum(sizes.answer_sizes)) // 4)
    certificate_request = os.urandom(150)
    signature = key.sign(certificate_request, ECDSA_SHA256)
    return Crypto(
        derivation=min(cpu_of(_derivation(each), max(1, times // 10)) for each in _sha256_constructors()),
        mac=cpu_of(lambda: hmac.digest(spki, part, "sha256"), times),
        digest=cpu_of(lambda: hashlib.sha256(part).digest(), times),
        load_spki=cpu_of(lambda: serialization.load_der_public_key(spki), times),
        load_certificate=cpu_of(lambda: x509.load_der_x509_certificate(certificate).public_key(), times),
        verify=cpu_of(lambda: public.verify(signature, certificate_request, ECDSA_SHA256), times),
        sign=cpu_of(lambda: key.sign(part, ECDSA_SHA256), times),
    )


def _crypto_parts(costs: Crypto, kind: Kind, exchanges: int) -> list[Part]:
    found = [
        Part("POP: load the P-256 SubjectPublicKeyInfo, verify one ECDSA signature", costs.load_spki + costs.verify),
        Part("sign the certificate (ECDSA P-256)", costs.sign),
        Part("SHA-256 of the certificate and of each request", (exchanges + 1) * costs.digest),
    ]
    if kind == "mac":
        return [
            *found,
            Part(
                f"each request: a PasswordBasedMac key, {PBM_ITERATIONS} iterations (its answer reuses it)",
                exchanges * costs.derivation,
            ),
            Part("HMAC-SHA256 of each request and each answer", 2 * exchanges * costs.mac),
        ]
    if kind == "new signer":
        text = "the client's certificate, another in each transaction: load it, verify the CA's signature"
        found.append(Part(text, costs.load_certificate + costs.verify))
    return [
        *found,
        Part("each request: verify its signature (ECDSA P-256)", exchanges * costs.verify),
        Part("each answer: sign it (ECDSA P-256)", exchanges * costs.sign),
    ]


# rows in order of insertion with the random names in an index: measured as the cheapest layout
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE operations (id BLOB PRIMARY KEY, state INTEGER, nonce BLOB, request BLOB, answer BLOB, request2 BLOB,
    answer2 BLOB);
CREATE TABLE certificates (serial BLOB PRIMARY KEY, operation BLOB, status INTEGER, der BLOB);
"""


def commits(folder: Path, sizes: Measured, groups: int = 150) -> float:
    """CPU seconds of the commits of one transaction, grouped by eight: one for each of its requests, on this disk."""
    database = folder / "floor.db"
    certificate, answer = os.urandom(sizes.certificate_size), os.urandom(sizes.answer_sizes[0])
    confirmed = os.urandom(sizes.answer_sizes[1]) if len(sizes.answer_sizes) > 1 else None
    digest = os.urandom(32)
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        connection.executescript(_SCHEMA)
        started = time.process_time()
        for _ in range(groups):
            names = [os.urandom(16) for _ in range(GROUP)]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO operations (id, state, nonce, request, answer) VALUES (?, 1, ?, ?, ?)",
                [(name, name, digest, answer) for name in names],
            )
            connection.executemany(
                "INSERT INTO certificates VALUES (?, ?, 1, ?)", [(name, name, certificate) for name in names]
            )
            connection.execute("COMMIT")
            if confirmed is None:
                continue
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "UPDATE operations SET state = 2, nonce = ?, request2 = ?, answer2 = ? WHERE id = ?",
                [(name, digest, confirmed, name) for name in names],
            )
            connection.executemany("UPDATE certificates SET status = 2 WHERE serial = ?", [(name,) for name in names])
            connection.execute("COMMIT")
        return (time.process_time() - started) / groups / GROUP
    finally:
        connection.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{database}{suffix}").unlink(missing_ok=True)


def http(load: LoadProcess, sizes: Measured, requests: int, clients: int) -> float:
    """Server CPU seconds of one request to an empty handler, with bodies as large as the real ones on average."""
    with BareServer(sum(sizes.answer_sizes) // len(sizes.answer_sizes)) as server:
        octets = sum(sizes.request_sizes) // len(sizes.request_sizes)
        measured = load.perform(
            Work(server.port, server.pid, requests, requests // 10, clients, operation="empty", octets=octets)
        )
    return measured.cpu


@dataclass(frozen=True, slots=True)
class Bare:
    """What one request of a transaction cannot do without, as a bare server's handler does it; picklable.

    The same operations as in the parts, done one after another for each request as a server has to, its commit shared
    with whoever waits: so what they cost when caches are cold is in it, which the parts, each in a loop of its own,
    do not show.
    """

    folder: str
    kind: Kind
    first: bool
    octets: int
    answer: int
    certificate: bytes

    def __call__(self) -> Callable[[], Awaitable[None]]:
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key()
        spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        request, answer = os.urandom(self.octets), os.urandom(self.answer)
        signature = key.sign(request, ECDSA_SHA256)
        derive = min((_derivation(each) for each in _sha256_constructors()), key=lambda one: cpu_of(one, 10))
        commits = _Commits(Path(self.folder), self.first)

        async def handle() -> None:
            hashlib.sha256(request).digest()
            if self.kind == "mac":
                mac_key = derive()
                hmac.digest(mac_key, request, "sha256")
            elif self.kind == "new signer" and self.first:
                signer = x509.load_der_x509_certificate(self.certificate).public_key()
                assert isinstance(signer, ec.EllipticCurvePublicKey)
                public.verify(signature, request, ECDSA_SHA256)
            if self.kind != "mac":
                public.verify(signature, request, ECDSA_SHA256)
            if self.first:
                wanted = serialization.load_der_public_key(spki)
                assert isinstance(wanted, ec.EllipticCurvePublicKey)
                wanted.verify(signature, request, ECDSA_SHA256)
                key.sign(request, ECDSA_SHA256)
                hashlib.sha256(self.certificate).digest()
            if self.kind == "mac":
                hmac.digest(mac_key, answer, "sha256")
            else:
                key.sign(answer, ECDSA_SHA256)
            await commits.add(answer, self.certificate)

        return handle


class _Commits:
    """Rows of all who wait, written by one thread, in one transaction."""

    def __init__(self, folder: Path, first: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._first = first
        self._names: list[bytes] = []
        self._jobs: queue.SimpleQueue[tuple[bytes, bytes, asyncio.Future[None]]] = queue.SimpleQueue()
        database = folder / f"floor-{os.getpid()}.db"
        self._connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        self._connection.executescript(_SCHEMA)
        threading.Thread(target=self._write, daemon=True).start()

    async def add(self, answer: bytes, certificate: bytes) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put((answer, certificate, future))
        await future

    def _write(self) -> None:
        digest = os.urandom(32)
        while True:
            group = [self._jobs.get()]
            while not self._jobs.empty():
                group.append(self._jobs.get())
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            if self._first or len(self._names) < len(group):
                names = [os.urandom(16) for _ in group]
                connection.executemany(
                    "INSERT INTO operations (id, state, nonce, request, answer) VALUES (?, 1, ?, ?, ?)",
                    [(name, name, digest, answer) for name, (answer, _, _) in zip(names, group, strict=True)],
                )
                connection.executemany(
                    "INSERT INTO certificates VALUES (?, ?, 1, ?)",
                    [(name, name, certificate) for name, (_, certificate, _) in zip(names, group, strict=True)],
                )
                self._names = (self._names + names)[-1000:]
            else:
                names = [self._names.pop() for _ in group]
                connection.executemany(
                    "UPDATE operations SET state = 2, nonce = ?, request2 = ?, answer2 = ? WHERE id = ?",
                    [(name, digest, answer, name) for name, (answer, _, _) in zip(names, group, strict=True)],
                )
                connection.executemany("UPDATE certificates SET status = 2 WHERE serial = ?", [(n,) for n in names])
            connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(_done, [future for _, _, future in group])


def _done(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def served(
    load: LoadProcess, sizes: Measured, kind: Kind, certificate: bytes, folder: Path, requests: int, clients: int
) -> float:
    """CPU seconds of one transaction at a server that does the parts of the floor and nothing else."""
    total_cpu = 0.0
    for number, (octets, answer) in enumerate(zip(sizes.request_sizes, sizes.answer_sizes, strict=True)):
        bare = Bare(str(folder), kind, number == 0, octets, answer, certificate)
        with BareServer(answer, bare) as server:
            measured = load.perform(
                Work(server.port, server.pid, requests, requests // 10, clients, operation="empty", octets=octets)
            )
        total_cpu += measured.cpu
    return total_cpu


def parts(costs: Crypto, kind: Kind, exchanges: int, request: float, commit: float) -> list[Part]:
    """The whole floor of one kind of transaction of one or two exchanges."""
    return [
        *_crypto_parts(costs, kind, exchanges),
        Part("each request: an empty aiohttp handler under uvloop", exchanges * request),
        Part(f"each request: its share of an SQLite commit of {GROUP}, synchronous=FULL", commit),
    ]


def total(floor: list[Part]) -> float:
    """Seconds a transaction."""
    return sum(part.seconds for part in floor)
