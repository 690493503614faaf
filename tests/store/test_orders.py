"""Orders in the SQLite store: the contract, what the indexes are good for, and what becomes of an older file."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cmpd.exchange import OPEN_ORDERS, CertificateStatus, EnrollmentCode, Order, OrderState, TransactionState
from cmpd.ports import Conditions, OrderMoved
from cmpd.store import conditions, orders, rows, serving
from cmpd.store.schema import MIGRATIONS, open_database
from cmpd.store.sealing import Sealing
from cmpd.store.sqlite import SQLiteStore
from tests.contract.orders import FINISHED, OrderContract, come, deliver, intend, order, waiting
from tests.contract.store import (
    FAR,
    KEY,
    NOW,
    ONE_KEY_ONCE,
    SECOND,
    certificate,
    certificate_der,
    make_code,
    seated,
    spki_sha256,
    transaction,
)
from tests.store.test_sqlite import BACK_TO_SCHEMA_4


class TestSQLiteOrders(OrderContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/cmpd.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cmpd.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = await SQLiteStore.open(path, KEY)
    yield store
    await store.close()


def ask(path: Path, statement: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
    """Ask the file from outside."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement, tuple(parameters)).fetchall()
    finally:
        connection.commit()
        connection.close()


def plan_of(store: SQLiteStore, statement: str, parameters: tuple[Any, ...] | None = None) -> list[str]:
    """How SQLite goes about a statement."""
    if parameters is None:
        parameters = (None,) * (3 if "?3" in statement else statement.count("?"))
    plan = store._connections._reader.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
    return [step for *_, step in plan.fetchall()]


# Indexes


@pytest.mark.parametrize(
    ("statement", "indexes"),
    [
        (conditions._SAME_KEY_OR_ORDER, ["key_of_certificate", "order_of_key"]),
        (conditions.SAME_SEAT, ["seat_of_certificate", "order_of_seat"]),
        (orders._ORDERS_OF, ["sqlite_autoindex_cmp_transaction_1", "order_of_transaction"]),
        (orders._ORDER, ["sqlite_autoindex_cert_order_1"]),
        (orders._BEGINS_WITH, ["sqlite_autoindex_cert_order_1"]),
        (orders._SAME_ORDER, ["order_of_key", "sqlite_autoindex_certificate_1"]),
        (orders._ORDERS_DUE, ["due_order"]),
        (orders._TICKETS, ["due_order"]),
        (orders._MOVE_ORDER, ["sqlite_autoindex_cert_order_1"]),
        (orders._WHOSE, ["sqlite_autoindex_cert_order_1"]),
        (orders._SERIALS, ["order_of_transaction"]),
        (orders._SET_SERIALS, ["INTEGER PRIMARY KEY"]),
        (orders._TAKE_ORDER, ["INTEGER PRIMARY KEY"]),
        (orders._TAKE_CERTIFICATE, ["sqlite_autoindex_certificate_1"]),
        (orders._END, ["INTEGER PRIMARY KEY"]),
        (orders._DELIVER, ["sqlite_autoindex_cmp_transaction_1"]),
        (orders._DELIVER_FIRST, ["sqlite_autoindex_cmp_transaction_1"]),
        (orders._COLLECT, ["order_of_transaction", "sqlite_autoindex_cmp_transaction_1"]),
        # the second time for the foreign key, whose action it is to let go of a transaction that is deleted
        (serving._FORGET, ["INTEGER PRIMARY KEY", "order_of_transaction", "order_of_transaction"]),
    ],
)
async def test_each_statement_is_a_search_in_its_index(store: SQLiteStore, statement: str, indexes: list[str]) -> None:
    steps = plan_of(store, statement)
    searches = [step for step in steps if step.startswith("SEARCH")]
    assert not [step for step in steps if step.startswith(("SCAN", "USE TEMP"))], steps
    assert len(searches) == len(indexes), steps
    assert all(index in step for index, step in zip(indexes, searches, strict=True)), steps


async def test_the_lists_of_open_orders_never_read_the_finished_ones(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    read = store._connections.read

    async def spy(query: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        asked.append([step for step in plan_of(store, query, parameters) if "cert_order" in step or " o" in step])
        return await read(query, parameters)

    monkeypatch.setattr(store._connections, "read", spy)
    await store.orders_open("upstream", [OrderState.held, OrderState.unknown], 5)
    await store.orders(5, OPEN_ORDERS, "device", "upstream")
    search = "SEARCH cert_order USING COVERING INDEX open_order (issuer=? AND state=?)"
    assert asked[0].count(search) == 2
    assert [step for step in asked[0] if step.startswith("SCAN") and "subquery" not in step] == []
    assert asked[1][0] == "SCAN o USING INDEX open_order"


def test_what_the_indexes_call_open_is_open() -> None:
    connection = sqlite3.connect(":memory:")
    for state in OrderState:
        found = connection.execute(f"SELECT {rows.OPEN}, {rows.FINISHED} FROM (SELECT ? AS state)", (state.value,))
        assert found.fetchone() == (state in OPEN_ORDERS, state in FINISHED), state
    connection.close()


async def test_finished_orders_are_in_no_index_but_that_of_stamps(store: SQLiteStore, path: Path) -> None:
    for number in range(30):
        one = await intend(store, seat="s")
        if number % 2:
            await come(store, one)
        else:
            await store.move_order(replace(one, state=OrderState.failed), seen=one.state)
        await deliver(store, one.transaction_id, TransactionState.confirmed)
    await store.forget(FAR)
    assert ask(path, "SELECT count(*) FROM cert_order") == [(30,)]
    for index, where in (
        ("order_of_transaction", "transaction_row IS NOT NULL"),
        ("order_of_key", "collected = 0"),
        ("order_of_seat", f"seat IS NOT NULL AND {rows.OPEN}"),
        ("open_order", rows.OPEN),
        ("due_order", "state IN ('intended', 'submitting', 'unknown', 'ordered')"),
    ):
        assert ask(path, f"SELECT count(*) FROM cert_order INDEXED BY {index} WHERE {where}") == [(0,)], index


async def test_an_issuer_that_answers_at_once_pays_for_orders_with_one_search_at_most(store: SQLiteStore) -> None:
    """In the statement that looks for the key anyway; and with nothing where the profile does not ask for it."""
    for subject_to, number in ((Conditions(), 0), (ONE_KEY_ONCE, 1), (Conditions(new_key=True, per_seat=9), 2)):
        statements: list[str] = []
        store._connections._writer.set_trace_callback(statements.append)
        await seated(store, "seat", subject_to)
        store._connections._writer.set_trace_callback(None)
        assert sum("cert_order" in statement for statement in statements) == number
        assert sum(statement.startswith("SELECT") for statement in statements) == max(number, 1)


# What is kept


async def test_the_certificates_above_are_kept_once(store: SQLiteStore, path: Path) -> None:
    chain = (os.urandom(1000), os.urandom(1000))
    for _ in range(5):
        await come(store, replace(await intend(store), chain=chain))
    await intend(store, chain=chain[:1])
    assert ask(path, "SELECT count(*) FROM ca_certificate") == [(2,)]
    assert {one.chain for one in await store.orders(9)} == {chain, chain[:1]}


async def test_an_order_is_legible_in_the_file(store: SQLiteStore, path: Path) -> None:
    """An operator reads it with the sqlite3 shell; the JSON of what was approved says its version."""
    one = await intend(store, ticket="4711", updates=255)
    columns = "state, ticket, json_extract(approved, '$.version'), json_extract(approved, '$.updates')"
    assert ask(path, f"SELECT {columns} FROM cert_order WHERE stamp = ?", (one.stamp,)) == [
        ("intended", "4711", 1, "ff")
    ]


async def test_an_approved_request_of_a_newer_version_is_not_guessed(store: SQLiteStore, path: Path) -> None:
    one = await intend(store)
    ask(path, "UPDATE cert_order SET approved = json_set(approved, '$.version', 2)")
    with pytest.raises(ValueError, match="version 2"):
        await store.order(one.stamp)


async def test_what_has_returned_is_in_the_file_when_the_machine_stops(
    store: SQLiteStore, path: Path, tmp_path: Path
) -> None:
    """A copy of the file and its WAL at any moment is what a crash leaves."""

    async def left(number: int) -> SQLiteStore:
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in ("cmpd.db", "cmpd.db-wal"):
            shutil.copy(path.with_name(name), folder / name)
        return await SQLiteStore.open(folder / "cmpd.db", KEY)

    code = await make_code(store)
    one = await intend(store, "k", code=code.id, conditions=ONE_KEY_ONCE)
    steps = [one]
    stores = [await left(0)]
    for number, state in enumerate((OrderState.submitting, OrderState.ordered), 1):
        before = steps[-1]
        steps.append(await store.move_order(replace(before, state=state, attempts=number), seen=before.state))
        stores.append(await left(number))
    arrived, made = await come(store, steps[-1], "k")
    steps.append(arrived)
    stores.append(await left(3))
    for number, (step, after) in enumerate(zip(steps, stores, strict=True)):
        assert await after.orders_of(one.transaction_id) == (step,)
        assert (await after.codes())[0].used == 1
        assert await after.unmet("device", None, spki_sha256("k"), ONE_KEY_ONCE, NOW) is not None
        assert await after.certificates_of(one.transaction_id) == ((made,) if number == 3 else ())
        await after.close()


async def test_calls_about_orders_share_commits_and_the_refused_do_not_spoil_them(store: SQLiteStore) -> None:
    """Those that lose a race leave nothing, and cost the others of their group no second attempt."""
    kept = [await intend(store) for _ in range(10)]
    statements: list[str] = []
    store._connections._writer.set_trace_callback(statements.append)
    before = store.commits
    results = await asyncio.gather(
        *(store.move_order(replace(one, state=OrderState.ordered), seen=one.state) for one in kept),
        *(store.move_order(replace(one, state=OrderState.held), seen=one.state) for one in kept),
        store.hand_over([order(waiting())], waiting()),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [Order] * 10 + [OrderMoved] * 11
    assert store.commits - before == 1
    assert "ROLLBACK" not in statements


# Ten thousand open orders


async def test_open_orders_among_a_great_many_are_listed_in_pieces(store: SQLiteStore, path: Path) -> None:
    """Page by page, the longest due first, each once; finished ones are in nobody's way."""
    await intend(store)
    columns = [name for _, name, *_ in ask(path, "PRAGMA table_info(cert_order)") if name != "id"]
    values = ", ".join(
        {"stamp": "printf('cmpd-%06d', value)", "state": "iif(value % 10, 'issued', 'ordered')", "due": "due + value"}
        .get(name, name)
        for name in columns
    )  # fmt: skip
    ask(
        path,
        f"INSERT INTO cert_order ({', '.join(columns)}) WITH RECURSIVE n(value) AS"
        f" (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 20000) SELECT {values} FROM n, cert_order",
    )
    await store.move_order(replace((await store.orders_due("upstream", NOW, 1))[0], state=OrderState.held),
                           seen=OrderState.intended)  # fmt: skip
    far = NOW + timedelta(days=1)
    seen: list[str] = []
    while due := await store.orders_due("upstream", far, 500):
        seen += [one.stamp for one in due]
        await asyncio.gather(*(store.move_order(replace(one, due=FAR), seen=one.state) for one in due))
    assert seen == [f"cmpd-{number:06}" for number in range(10, 20001, 10)]
    assert len(await store.orders_open("upstream", list(OPEN_ORDERS), 99999)) == 2001


# Older files


async def test_the_orders_of_a_database_of_schema_4_are_those_of_their_certificates(path: Path) -> None:
    """By their tickets, so that what is revoked over there is found."""
    store = await SQLiteStore.open(path, KEY)
    numbered, plain = await intend(store, ticket="4711:12"), await intend(store)
    (arrived, made), (_, other) = await come(store, numbered), await come(store, plain)
    await store.close()
    for change in BACK_TO_SCHEMA_4:
        ask(path, change)
    store = await SQLiteStore.open(path, KEY)
    assert await store.order(arrived.stamp) == replace(arrived, step=0)
    assert await store.certificate(made.serial) == replace(made, ticket="4711:12")
    assert await store.certificate(other.serial) == other
    assert await store.ordered_as("upstream", ["4711"], NOW) == (replace(made, ticket="4711:12"),)
    await store.close()


async def test_a_database_of_schema_3_is_kept_and_can_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr("cmpd.store.schema.MIGRATIONS", MIGRATIONS[:3])
        for connection in open_database(path, Sealing(KEY)):
            connection.close()
    old = transaction()
    one = certificate(old, der=certificate_der("k"), seat="seat")
    kept = rows.certificate_row_of(one)
    at = int(NOW.timestamp())
    code_row = ("device", "ref", Sealing(KEY).seal(b"secret", "device", "ref"), 2, at)
    ask(path, conditions.INSERT_TRANSACTION, rows.transaction_row_of(old, kept[0]))
    insert = rows._INSERT_CERTIFICATE.replace(", ticket", "").replace("?, ?)", "?)")
    ask(path, insert, kept[:-1])
    ask(path, "INSERT INTO issued_per_day (profile, day, certificates) VALUES ('device', ?, 1)", (at // 86400,))
    columns = "profile, reference, sealed, uses, created"
    ask(path, f"INSERT INTO enrollment_code ({columns}) VALUES (?, ?, ?, ?, ?)", code_row)
    store = await SQLiteStore.open(path, KEY)
    assert ask(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert ask(path, "PRAGMA foreign_key_check") == []
    assert await store.transaction(old.transaction_id) == old
    assert await store.certificates_of(old.transaction_id) == (one,)
    assert await store.orders(9) == []
    code = EnrollmentCode(1, "device", "ref", b"secret", 2, 0, NOW, None, revoked=False)
    assert await store.code("device", b"ref") == code
    for subject_to in (ONE_KEY_ONCE, Conditions(per_seat=1), Conditions(per_day=1)):
        with pytest.raises(Exception, match=r"new_key|per_seat|per_day"):
            await intend(store, "k", seat="seat", conditions=subject_to)
    placed = await intend(store, code=1, conditions=Conditions(per_day=2))
    _, made = await come(store, placed)
    await deliver(store, placed.transaction_id, TransactionState.confirmed, confirmed=[made.serial])
    assert (await store.certificates_of(placed.transaction_id))[0].status is CertificateStatus.valid
    assert await store.code("device", b"ref") == replace(code, used=1)
    assert await store.forget(NOW + SECOND) == 1
    await store.close()
