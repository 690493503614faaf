"""`python -m bench.growth`: what a request costs when the store has grown, and how the database looks rows up then.

A store is filled by SQL with certificates of three years, their seats and keys, the transactions of the last week,
refusals and orders; then the real daemon serves from it and is measured as `python -m bench` does.
"""

import argparse
import hashlib
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bench.load import LoadProcess, Work, median
from bench.server import MAC_PROFILE, PEOPLE_PROFILE, Daemon, disk_folder

YEARS = 3
DAY = 86400
VALIDITY = 365 * DAY
RETENTION = 7 * DAY
PROFILES = (MAC_PROFILE, "signed", "people", "bound", "tls")
RARE = "rare"
"""A profile that has a dozen certificates among all the others, and the oldest."""
PER_SEAT = 4
"""Certificates of a seat."""
BATCH = 20_000
CACHE_KIB = 1 << 20

_NAME = "device-00000000"
_SERIAL_OCTETS = 16


@dataclass(frozen=True, slots=True)
class _Template:
    """A certificate of a device, taken apart where one differs from another."""

    before_serial: bytes
    before_name: bytes
    before_key: bytes
    after_key: bytes
    spki: bytes
    """SubjectPublicKeyInfo up to the point."""

    @classmethod
    def make(cls) -> "_Template":
        key = ec.generate_private_key(ec.SECP256R1())
        serial = int.from_bytes(b"\x71" * _SERIAL_OCTETS)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cmpd Issuing CA")])
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        now = datetime(2026, 1, 1, tzinfo=UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=365))
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, SHA256())
        )
        whole = certificate.public_bytes(Encoding.DER)
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        before_serial, rest = whole.split(serial.to_bytes(_SERIAL_OCTETS), 1)
        before_name, rest = rest.split(_NAME.encode(), 1)
        before_key, after_key = rest.split(point, 1)
        return cls(before_serial, before_name, before_key, after_key, spki[: -len(point)])

    def der(self, serial: bytes, name: bytes, point: bytes) -> bytes:
        return b"".join((self.before_serial, serial, self.before_name, name, self.before_key, point, self.after_key))


def fill(database: Path, certificates: int, now: datetime) -> None:
    """Add so many certificates, of the three years before `now`, and what else a store has by then."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA cache_size = {-CACHE_KIB}")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'certificate' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.execute("BEGIN")
        seconds = int(now.timestamp())
        begin = seconds - YEARS * 365 * DAY
        _certificates(connection, certificates, begin, seconds)
        _transactions(connection, certificates, seconds)
        _orders(connection, certificates // 100, begin, seconds)
        _others(connection, certificates, seconds)
        connection.execute("COMMIT")
        for _, statement in indexes:
            connection.execute(statement)
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def _certificates(connection: sqlite3.Connection, number: int, begin: int, now: int) -> None:
    template = _Template.make()
    per_day: dict[tuple[str, int], int] = {}
    revoked = 0
    statement = (
        "INSERT INTO certificate (serial, status, issuer, profile, issued_at, not_after, transaction_id, cert_req_id,"
        " revoked_at, reason, spki_sha256, der, seat) VALUES (?, ?, 'local', ?, ?, ?, ?, 0, ?, ?, ?, ?, ?)"
    )

    def rows(first: int, last: int) -> Iterator[tuple[object, ...]]:
        nonlocal revoked
        size = _SERIAL_OCTETS + 16 + 64
        random = os.urandom((last - first) * size)
        for at, count in enumerate(range(first, last)):
            mine = random[at * size : (at + 1) * size]
            serial = bytes((mine[0] & 0x7F | 1,)) + mine[1:_SERIAL_OCTETS]
            point = mine[32:]
            profile = RARE if count < 12 else PROFILES[count % len(PROFILES)]
            issued = begin + (now - begin) * count // number
            name = f"device-{count // PER_SEAT:08d}"
            is_revoked = count % 101 == 7
            revoked += is_revoked
            key = (profile, issued // DAY)
            per_day[key] = per_day.get(key, 0) + 1
            yield (
                serial.rjust(20, b"\0"),
                "revoked" if is_revoked else "valid",
                profile,
                issued,
                issued + VALIDITY,
                mine[16:32],
                issued + DAY if is_revoked else None,
                (1 if revoked % 50 == 0 else 4) if is_revoked else None,
                hashlib.sha256(template.spki + point).digest(),
                template.der(serial, name.encode(), point),
                name,
            )

    for first in range(0, number, BATCH):
        connection.executemany(statement, rows(first, min(first + BATCH, number)))
    connection.executemany(
        "INSERT INTO issued_per_day (profile, day, certificates) VALUES (?, ?, ?) ON CONFLICT (profile, day)"
        " DO UPDATE SET certificates = certificates + excluded.certificates",
        [(*key, count) for key, count in per_day.items()],
    )
    connection.execute(
        "INSERT INTO issuer (name, revocations, crl_number) VALUES ('local', ?, ?) ON CONFLICT (name)"
        " DO UPDATE SET revocations = revocations + excluded.revocations",
        (revoked, revoked // 2),
    )


def _transactions(connection: sqlite3.Connection, certificates: int, now: int) -> None:
    """Of the last week, and a few that have never been confirmed."""
    rows = connection.execute(
        "SELECT transaction_id, serial, issued_at, profile FROM certificate WHERE rowid > ? AND issued_at > ?",
        (certificates * (YEARS * 365 - 8) // (YEARS * 365), now - RETENTION),
    ).fetchall()
    reply = os.urandom(1300)
    connection.executemany(
        "INSERT INTO cmp_transaction (transaction_id, state, created, confirm_by, profile, operation, credential,"
        " serials, nonce, first_request, first_reply, last_request, last_reply)"
        " VALUES (?, 'confirmed', ?, ?, ?, 'ir', 'code:1', ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            (tid, issued, issued + 600, profile, serial, tid, serial + tid[:12], reply, serial + tid[:12], reply[:400])
            for tid, serial, issued, profile in rows
        ),
    )


def _orders(connection: sqlite3.Connection, number: int, begin: int, now: int) -> None:
    """Finished ones, whose transactions have gone, and a hundred, or half of them, that wait."""
    approved = json.dumps({"version": 1, "rest": "x" * 1200})
    connection.executemany(
        "INSERT INTO cert_order (stamp, transaction_id, cert_req_id, profile, issuer, credential, spki_sha256, state,"
        " collected, created, updated, due, ticket, attempts, implicit, text, fail_info, private, chain, approved)"
        " VALUES (?, ?, 0, 'people', 'public', 'code:1', ?, ?, ?, ?, ?, ?, ?, 0, 0, '', '', '', x'', ?)",
        (
            (
                os.urandom(16).hex(),
                os.urandom(16),
                os.urandom(32),
                *(("ordered", 0) if count >= number - min(100, number // 2) else ("issued", 1)),
                *(begin + (now - begin) * count // number,) * 3,
                str(count),
                approved,
            )
            for count in range(number)
        ),
    )


def _others(connection: sqlite3.Connection, certificates: int, now: int) -> None:
    connection.executemany(
        "INSERT INTO enrollment_code (profile, reference, sealed, uses, used, created, expires)"
        " VALUES ('device', ?, ?, 1, 1, ?, ?)",
        ((f"filled-{count}", os.urandom(60), now - count, now) for count in range(certificates // 100)),
    )
    connection.executemany(
        "INSERT INTO device (profile, serial, added) VALUES ('device', ?, ?)",
        ((f"SN{count:09d}", now) for count in range(certificates // 100)),
    )
    connection.executemany(
        "INSERT INTO refusal (at, profile, operation, transaction_id, credential, address, fail_info, reason, private,"
        " findings) VALUES (?, 'device', 'ir', ?, 'code:1', '192.0.2.1', 'badRequest', 'no', '', '[]')",
        ((now - 500 + count, os.urandom(16).hex()) for count in range(500)),
    )


# Measuring


def _work(daemon: Daemon, profile: str, transactions: int, clients: int) -> Work:
    reference, secret = daemon.codes[profile]
    return Work(
        port=daemon.port,
        server_pid=daemon.pid,
        transactions=transactions,
        warm_up=max(clients, transactions // 10),
        clients=clients,
        person=profile == PEOPLE_PROFILE,
        mac_path=daemon.path(profile),
        reference=reference,
        secret=secret,
        chain=daemon.chain,
    )


def _crl_seconds(daemon: Daemon) -> tuple[float, int]:
    """How long the first CRL takes, and its size."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port}/crl/local.crl", timeout=600) as answer:
        size = len(answer.read())
    return time.perf_counter() - began, size


def main(argv: Sequence[str] | None = None) -> int:
    """Fill stores of all sizes, then measure them by turns."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--sizes", default="10000,1000000", help="certificates (default 10000,1000000)")
    parser.add_argument("--transactions", type=int, default=2000, help="a round (default 2000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--dir", type=Path, help="where the stores go: 1 GB for a million (default: on a disk)")
    options = parser.parse_args(argv)
    sizes = [int(size) for size in options.sizes.split(",")]
    folder = Path(tempfile.mkdtemp(prefix="cmpd-growth-", dir=options.dir or disk_folder()))
    cpu: dict[tuple[str, int], list[float]] = {}
    try:
        with ExitStack() as stack:
            load = stack.enter_context(LoadProcess())
            daemons = {}
            for size in sizes:
                place = folder / str(size)
                daemon = stack.enter_context(Daemon(place))
                daemon.stop()
                began = time.perf_counter()
                fill(place / "cmpd.db", size, datetime.now(UTC))
                took = time.perf_counter() - began
                octets = (place / "cmpd.db").stat().st_size
                daemon.start()
                daemons[size] = daemon
                print(f"{size:>12,} certificates: {octets / 1e6:,.0f} MB, filled in {took:.0f} s", flush=True)
            for _ in range(options.rounds):
                for profile in (MAC_PROFILE, PEOPLE_PROFILE):
                    for size, daemon in daemons.items():
                        done = load.perform(_work(daemon, profile, options.transactions, options.clients))
                        cpu.setdefault((profile, size), []).append(done.server_cpu / done.transactions * 1e6)
            print(f"\n{'':<24}" + "".join(f"{size:>14,}" for size in sizes))
            for profile, what in ((MAC_PROFILE, "PBM ir + certConf"), (PEOPLE_PROFILE, "the same, with a seat")):
                figures = "".join(f"{median(cpu[profile, size]):>11.0f} µs" for size in sizes)
                print(f"{what:<24}{figures}   server CPU a transaction, the middle of {options.rounds}")
            crls = [_crl_seconds(daemon) for daemon in daemons.values()]
            print(f"{'the first CRL':<24}" + "".join(f"{seconds * 1000:>11.0f} ms" for seconds, _ in crls))
            print(f"{'':<24}" + "".join(f"{octets / 1000:>11.0f} kB" for _, octets in crls), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
