"""What commands print, and how they fail: one line on standard error and exit status 1."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any


class OperatorError(Exception):
    """What an operator can put right; the text is one line per fault and carries no secret."""


def write_json(value: Any) -> None:
    """Print a JSON document."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def write(*lines: str) -> None:
    """Print lines as they stand: no markup, no wrapping."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def write_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str, styles: Mapping[str, str] | None = None
) -> None:
    """Print a table for people: on a terminal by rich; into a pipe one line a row, tabs between the columns.

    `styles` has a rich style for cells by their whole text; in a pipe there is no colour.
    """
    rows = list(rows)
    if not sys.stdout.isatty():
        write("\t".join(columns), *("\t".join(row) for row in rows))
        return
    if not rows:
        write(empty)
        return
    from rich.console import Console  # noqa: PLC0415  only a terminal needs rich
    from rich.table import Table  # noqa: PLC0415  only a terminal needs rich
    from rich.text import Text  # noqa: PLC0415  only a terminal needs rich

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, (styles or {}).get(cell, "")) for cell in row))
    Console().print(table)


def time_text(moment: datetime | None) -> str:
    """A moment in UTC to the second, as RFC 3339 writes it; empty for None."""
    return "" if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def plain(text: str) -> str:
    """One line that cannot steer a terminal: control and other unprintable characters are escaped."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
