"""What a store holds, read when nobody writes any more."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cmpd.store import AdminStore
from tests.chaos.history import DIGITS, History, digest

EVERYTHING = 10_000_000
_SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

SPENT = "SELECT profile, day, certificates FROM issued_per_day"
FAULTS = {
    "certificates whose transaction is not there": (
        "SELECT count(*) FROM certificate c WHERE NOT EXISTS"
        " (SELECT 1 FROM cmp_transaction t WHERE t.transaction_id = c.transaction_id)"
    ),
    "certificates that are revoked without a time": (
        "SELECT count(*) FROM certificate WHERE (status = 'revoked') <> (revoked_at IS NOT NULL)"
    ),
    "certificates that wait for a certConf although their transaction has ended": (
        "SELECT count(*) FROM certificate c JOIN cmp_transaction t ON t.transaction_id = c.transaction_id"
        " WHERE c.status = 'unconfirmed' AND t.state NOT IN ('unconfirmed', 'waiting')"
    ),
    "certificates in force although their transaction was rejected or has expired": (
        "SELECT count(*) FROM certificate c JOIN cmp_transaction t ON t.transaction_id = c.transaction_id"
        " WHERE c.status = 'valid' AND t.state IN ('rejected', 'expired', 'refused')"
    ),
    "revoked certificates that were not counted for the CRL, or counted twice": (
        "SELECT abs((SELECT count(*) FROM certificate WHERE status = 'revoked')"
        " - coalesce((SELECT sum(revocations) FROM issuer), 0))"
    ),
}
"""What must be 0, by what it would be; the same words for every database."""


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A row of the certificates; `certificate` and `key` are digests, `day` is in days since 1970."""

    serial: str
    certificate: str
    key: str
    profile: str
    seat: str
    tid: str
    status: str
    day: int


@dataclass(frozen=True, slots=True)
class StoredTransaction:
    """A row of the transactions; requests and answers as digests."""

    tid: str
    state: str
    first_request: str
    first_reply: str
    last_request: str = ""
    last_reply: str = ""


@dataclass(frozen=True, slots=True)
class StoredCode:
    """A row of the enrollment codes."""

    reference: str
    used: int
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class StoredOrder:
    """A row of the orders."""

    tid: str
    key: str
    state: str


@dataclass(slots=True)
class Contents:
    """All of it."""

    certificates: list[StoredCertificate] = field(default_factory=list)
    transactions: dict[str, StoredTransaction] = field(default_factory=dict)
    codes: dict[str, StoredCode] = field(default_factory=dict)
    spent: dict[tuple[str, int], int] = field(default_factory=dict)
    """Certificates by profile and day, as they were counted."""
    orders: list[StoredOrder] = field(default_factory=list)
    paid: list[str] = field(default_factory=list)
    """What the issuer has put on the bill: the key of each order."""
    faults: list[str] = field(default_factory=list)
    """What the database itself says is wrong with it."""


async def read(store: AdminStore, history: History) -> Contents:
    """What the store says of everything that the history knows."""
    found = Contents()
    for one in await store.certificates(EVERYTHING):
        loaded = x509.load_der_x509_certificate(one.der)
        found.certificates.append(
            StoredCertificate(
                f"{one.serial:x}",
                digest(one.der),
                digest(loaded.public_key().public_bytes(*_SPKI)),
                one.profile,
                one.seat or "",
                one.transaction_id.hex(),
                one.status.value,
                int(one.issued_at.timestamp()) // 86400,
            )
        )
    for tid in {message.tid for message in history.messages.values()}:
        row = await store.transaction(bytes.fromhex(tid))
        if row is not None:
            found.transactions[tid] = StoredTransaction(
                tid,
                row.state.value,
                row.first_request.hex()[:DIGITS],
                digest(row.first_reply),
                "" if row.last_request is None else row.last_request.hex()[:DIGITS],
                "" if row.last_reply is None else digest(row.last_reply),
            )
    for order in await store.orders(EVERYTHING):
        found.orders.append(StoredOrder(order.transaction_id.hex(), digest(order.approved.spki), order.state.value))
    for code in await store.codes():
        found.codes[code.reference] = StoredCode(code.reference, code.used, code.revoked)
    return found


def read_sqlite(path: Path, found: Contents) -> None:
    """What only SQL can ask: the days' budgets, and whether tables and file are sound."""
    connection = sqlite3.connect(path)
    try:
        counted(found, lambda query: connection.execute(query).fetchall())
        for pragma in ("integrity_check", "foreign_key_check"):
            rows = connection.execute(f"PRAGMA {pragma}").fetchall()
            found.faults += [f"{pragma}: {row}" for row in rows if row != ("ok",)]
    finally:
        connection.close()


def counted(found: Contents, ask: Callable[[str], list[tuple[Any, ...]]]) -> None:
    """Ask in SQL for what every database is asked."""
    found.spent = {(profile, day): number for profile, day, number in ask(SPENT)}
    for what, query in FAULTS.items():
        ((number,),) = ask(query)
        if number:
            found.faults.append(f"{number} {what}")
