"""However large the store has grown: what a request or a sweep asks is looked up by an index, never by reading a table.

Everything that a server asks of its store is asked here once, and the database says how it would look each of it up.
"""

import asyncio
import inspect
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import growth
from cmpd.exchange import (
    CertificateStatus,
    OrderState,
    OutsideRevocation,
    OutsideState,
    RevocationReason,
    TransactionState,
)
from cmpd.ports import Conditions, Named, OrderStore, OutsideStore, Revocation, Store
from cmpd.store import AdminStore, Database, open_store
from cmpd.store.copying import copy
from cmpd.store.maintenance import no_progress
from cmpd.store.postgres.upkeep import PostgresUpkeep
from cmpd.store.schema import open_database
from cmpd.store.sealing import Sealing
from cmpd.store.sqlite import SQLiteStore
from cmpd.store.sqlite.upkeep import SQLiteUpkeep
from tests import postgres
from tests.contract.orders import come, deliver, intend, order, waiting
from tests.contract.store import (
    CA,
    KEY,
    NOW,
    certificate,
    certificate_der,
    issue,
    kept_crl,
    make_code,
    refusal,
    spki_sha256,
    transaction,
)

ALL = Conditions(new_key=True, alone_in_seat=True, per_seat=3, per_day=100, updates=7)
DAY = timedelta(days=1)
LATER = NOW + 100 * DAY
FAR = NOW + 100_000 * DAY
SERVED = frozenset(
    name
    for port in (Store, OrderStore, OutsideStore)
    for name, member in vars(port).items()
    if inspect.iscoroutinefunction(member) and not name.startswith("_")
) | {"prune", "size"}
"""All that a server may ask."""
BOUNDED = frozenset({"store"})
"""Tables that do not grow."""
PASSING = frozenset({"g", "subquery"})
"""What another step of the same plan has found."""


async def serve(
    store: AdminStore, forget: datetime = LATER, prune: datetime = FAR, orders: datetime = LATER
) -> set[str]:
    """Ask for everything that a server asks for; the names of the calls. What is older than the times is deleted."""
    asked: set[str] = set()

    class Asked:
        """Notes what is asked of the store."""

        def __getattr__(self, name: str) -> object:
            asked.add(name)
            return getattr(store, name)

    asking: AdminStore = Asked()  # type: ignore[assignment]  # it passes everything on
    code = await make_code(store, "ref", uses=None)
    new = transaction()
    one = certificate(new, der=certificate_der("a"), seat="seat")
    await asking.issued(new, [one], code=code.id, now=NOW, conditions=[ALL])
    await asking.unmet("device", "seat", spki_sha256("b"), ALL, NOW)
    await asking.transaction(new.transaction_id)
    for reference, is_global in ((b"ref", False), (b"none", True)):
        named = Named("device", reference, is_global, (one.serial, 7))
        await asking.look_up(new.transaction_id, partial(replace, named))
    await asking.code("device", b"ref")
    await asking.global_code("device")
    await asking.lock_code(code.id, until=NOW, locks=1)
    await asking.wrong_mac(code.id, most=10, until=NOW, locks=1)
    await asking.is_service_user("user", "00" * 32, b"issuer", b"subject")
    await asking.device("device", "serial")
    await asking.certificate(one.serial)
    await asking.certificates_of(new.transaction_id)
    await asking.refused(transaction(state=TransactionState.refused, confirm_by=None), refusal())
    await asking.refusal(refusal(1))
    answer: dict[str, Any] = {"nonce": b"n" * 16, "request": b"q" * 32, "reply": b"p" * 300}
    await asking.advance(
        new.transaction_id,
        seen=TransactionState.unconfirmed,
        state=TransactionState.confirmed,
        confirmed=[one.serial],
        **answer,
    )
    rejected, two = await issue(store, code.id)
    await asking.advance(
        rejected.transaction_id,
        seen=TransactionState.unconfirmed,
        state=TransactionState.rejected,
        revoked=[Revocation(two.serial, RevocationReason.superseded, NOW)],
        give_back=code.id,
        **answer,
    )
    await issue(store)
    await asking.expire(NOW + DAY)
    await asking.revoke(Revocation(one.serial, RevocationReason.keyCompromise, NOW))
    await asking.revoked("local")
    await asking.crl_state("local", CA)
    await asking.crl("local", CA)
    await asking.keep_crl("local", CA, kept_crl(await asking.next_crl_number("local")), seen=0)
    # orders
    ordered = await intend(asking, code=code.id, conditions=ALL, seat="other")
    await asking.orders_of(ordered.transaction_id)
    await asking.order(ordered.stamp)
    await asking.same_order("device", "code:1", spki_sha256("c"))
    await asking.orders_due("upstream", NOW, 10)
    await asking.orders_open("upstream", [OrderState.held, OrderState.unknown], 10)
    placed = replace(ordered, state=OrderState.ordered, ticket="1")
    await asking.move_order(placed, seen=OrderState.intended)
    await asking.tickets("upstream")
    again = waiting()
    await asking.hand_over([order(again, stamp=placed.stamp)], again)
    arrived = await asking.order(placed.stamp)
    assert arrived is not None
    await come(asking, arrived)
    # over there
    await asking.outside_due("upstream", NOW, 10)
    over_there = OutsideRevocation(OutsideState.due, NOW)
    await asking.move_outside(7, over_there, seen=over_there)
    await asking.ordered_as("upstream", ["1", "2"], NOW)
    await asking.uncollected("upstream", NOW + DAY, NOW, keep=True)
    await asking.looked("upstream")
    await asking.keep_look("upstream", NOW)
    await deliver(asking, again.transaction_id, TransactionState.unconfirmed, confirm_by=NOW)
    late = await intend(store)
    await deliver(asking, late.transaction_id, TransactionState.waiting, first=True)
    # sweeps
    await asking.forget(forget)
    await asking.prune(certificates=prune, orders=orders, counters=NOW - DAY)
    await asking.size()
    await asking.ready()
    return asked | {"close"}


class Plans:
    """The statements of an SQLite store, and how it looks up what they ask."""

    def __init__(self, store: SQLiteStore) -> None:
        self.statements: list[str] = []
        self._store = store

    @contextmanager
    def traced(self) -> Iterator[None]:
        connections = (self._store._connections._writer, self._store._connections._reader)
        for connection in connections:
            connection.set_trace_callback(self.statements.append)
        try:
            yield
        finally:
            for connection in connections:
                connection.set_trace_callback(None)

    def scans(self, *allowed: str) -> list[str]:
        """What would read a table, or all of an index, of those that grow: step and statement, each once.

        `allowed` are indexes that hold a small part of a table.
        """
        found: dict[str, None] = {}
        connection = sqlite3.connect(self._store._path)
        try:
            for statement in self.statements:
                if not statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
                    continue
                for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
                    if _reads_all(step) and step.rpartition(" ")[2] not in allowed:
                        found[f"{step}: {statement[:300]}"] = None
        finally:
            connection.close()
        return list(found)


def _reads_all(step: str) -> bool:
    """Whether a step of a plan reads a table, or all of an index; that of a subquery or of constants does not."""
    kind, _, rest = step.partition(" ")
    what = rest.split(" ", 1)[0]
    if what in BOUNDED | PASSING or what.startswith("(subquery"):
        return False
    return (kind == "SCAN" and "CONSTANT ROW" not in rest) or (kind == "SEARCH" and " USING " not in rest)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = await SQLiteStore.open(tmp_path / "cmpd.db", KEY, refusals=1)
    yield store
    await store.close()


async def test_sqlite_reads_no_table_for_a_request_or_a_sweep(store: SQLiteStore) -> None:
    plans = Plans(store)
    with plans.traced():
        asked = await serve(store)
    assert asked >= SERVED
    assert len(plans.statements) > 100
    assert plans.scans() == []


async def test_a_table_that_is_read_is_found(store: SQLiteStore) -> None:
    """The test above can fail."""
    plans = Plans(store)
    with plans.traced():
        await store._read("SELECT count(*) FROM certificate WHERE cert_req_id = ?", (7,))
        await store._read("SELECT max(used) FROM enrollment_code", ())
    assert len(plans.scans()) == 2


async def test_sqlite_reads_no_table_for_a_list_of_certificates(store: SQLiteStore) -> None:
    """But for the newest, of whatever profile: as many are read as are asked for."""
    plans = Plans(store)
    with plans.traced():
        for profile in (None, "device"):
            for status in set(CertificateStatus) - {CertificateStatus.valid}:
                await store.certificates(10, profile, status)
        await store.certificates(10, "device")
        await store.certificates(10, "device", CertificateStatus.valid)
        await store.seat("device", "seat")
        await store.outside_waiting("upstream")
    assert plans.scans("revoked_certificate") == []


async def test_deleting_a_transaction_looks_its_orders_up(store: SQLiteStore) -> None:
    """What a foreign key has SQLite do by itself is in no EXPLAIN QUERY PLAN, but in the program."""
    await intend(store)
    connection = sqlite3.connect(store._path)
    connection.execute("PRAGMA foreign_keys = ON")
    steps = connection.execute("EXPLAIN DELETE FROM cmp_transaction WHERE id = 1").fetchall()
    roots = {row[3] for row in steps if row[1] == "OpenRead"} | {row[3] for row in steps if row[1] == "OpenWrite"}
    (index,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'order_of_transaction'").fetchone()
    connection.close()
    assert index in roots


async def test_the_list_of_revoked_certificates_is_in_an_index(store: SQLiteStore) -> None:
    """A CRL of ten thousand entries reads ten thousand neighbours, not as many certificates."""
    plans = Plans(store)
    with plans.traced():
        await store.revoked("local")
    connection = sqlite3.connect(store._path)
    (statement,) = plans.statements
    steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    connection.close()
    assert "USING COVERING INDEX revoked_certificate" in steps[0]


# PostgreSQL decides by what it knows of the rows, so there must be some; and it counts what it has read.

CERTIFICATES = 20_000
BEGIN = NOW - growth.YEARS * 365 * DAY
"""The first of them was issued then."""
_READ = """
SELECT t.relname::text, t.seq_tup_read::int, coalesce(sum(i.idx_tup_read), 0)::int
  FROM pg_stat_user_tables t LEFT JOIN pg_stat_user_indexes i USING (relid)
 WHERE t.schemaname = current_schema() GROUP BY 1, 2
"""


@pytest.fixture(scope="module")
def filled() -> Iterator[str]:
    """The URL of a store that has grown."""
    with postgres.empty() as url, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cmpd.db"
        for connection in open_database(path, Sealing(KEY)):
            connection.close()
        growth.fill(path, CERTIFICATES, NOW)

        async def fill() -> None:
            ours, theirs = SQLiteUpkeep(path, KEY), PostgresUpkeep(url, KEY, Database())
            async with ours.read(alone=True) as source, theirs.write() as target:
                await copy(source, target, no_progress)

        asyncio.run(fill())
        postgres.query(url, "ANALYZE")
        yield url


def read(url: str) -> dict[str, tuple[int, int]]:
    """How many rows have been read of each table: all of it at a time, and by its indexes."""
    return {table: (whole, indexed) for table, whole, indexed in postgres.query(url, _READ)}


async def test_postgresql_reads_no_table_for_a_request_or_a_sweep(filled: str, tmp_path: Path) -> None:
    """Of twenty thousand certificates a few hundred are read in all: a CRL's, and what is deleted."""
    before = read(filled)
    store = await open_store(f"{filled}&enable_seqscan=off", base=tmp_path, key=KEY)
    try:
        asked = await serve(store, forget=NOW - timedelta(days=7), prune=BEGIN + 366 * DAY, orders=BEGIN + 2 * DAY)
    finally:
        await store.close()
    assert asked >= SERVED
    after = read(filled)
    whole = {table: after[table][0] - before[table][0] for table in after}
    assert {table: rows for table, rows in whole.items() if rows and table not in BOUNDED} == {}
    indexed = after["certificate"][1] - before["certificate"][1]
    assert 0 < indexed < CERTIFICATES // 10


async def test_what_postgresql_reads_is_counted(filled: str, tmp_path: Path) -> None:
    """The test above can fail."""
    before = read(filled)
    store = await open_store(filled, base=tmp_path, key=KEY)
    await store._read("SELECT count(*) FROM certificate WHERE cert_req_id = ?", (7,))  # type: ignore[attr-defined]
    await store.close()
    after = read(filled)
    assert after["certificate"][0] - before["certificate"][0] >= CERTIFICATES - 1000


async def test_postgresql_reads_no_table_for_a_list_of_certificates(filled: str, tmp_path: Path) -> None:
    """With the settings that a server has. At most it looks at all index entries of a profile, a fifth of them all."""
    found = {}
    for profile in (None, growth.RARE, "people"):
        for status in (None, *CertificateStatus):
            before = read(filled)
            store = await open_store(filled, base=tmp_path, key=KEY)
            await store.certificates(10, profile, status)
            await store.close()
            after = read(filled)
            found[profile, status] = [after["certificate"][kind] - before["certificate"][kind] for kind in (0, 1)]
    assert {which: rows for which, rows in found.items() if rows[0] or rows[1] > CERTIFICATES // 4} == {}
