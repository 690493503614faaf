"""What is copied from store to store, and what is not."""

import sqlite3
from pathlib import Path

from cmpd.store.copying import MOMENTARY, TABLES
from cmpd.store.schema import open_database
from cmpd.store.sealing import Sealing
from tests.contract.store import KEY


def test_every_table_is_copied_or_is_of_the_moment(tmp_path: Path) -> None:
    """Whoever adds a table says which."""
    for connection in open_database(tmp_path / "cmpd.db", Sealing(KEY)):
        connection.close()
    file = sqlite3.connect(tmp_path / "cmpd.db")
    tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    notes = {name for (name,) in file.execute("SELECT name FROM store")}
    file.close()
    assert {name for name in tables if not name.startswith("sqlite_")} == {
        *(table.name for table in TABLES),
        *MOMENTARY,
        "store",
    }
    assert notes == {"ready", "key"}
