"""Where the measured daemon keeps its state: SQLite in its folder, or a PostgreSQL server that is started for it."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.postgres import Server

KINDS = ("sqlite", "postgresql")
NewStore = Callable[[], str | None]
"""The [store] url of an empty store; None: as `cmpd init` has it."""


@contextmanager
def stores(kind: str, folder: Path) -> Iterator[NewStore]:
    """Have stores of a kind. PostgreSQL writes to the disk as it does by default: a commit is an fsync."""
    if kind == "sqlite":
        yield lambda: None
        return
    numbers = itertools.count(1)
    with Server(folder / "postgresql", durable=True) as server:

        def new() -> str:
            schema = f"bench_{next(numbers)}"
            server.query(f"CREATE SCHEMA {schema}")
            return server.url(search_path=schema)

        yield new
