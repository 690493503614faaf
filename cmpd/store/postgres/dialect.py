"""What is said to SQLite, in PostgreSQL's words.

The statements of `serving`, `orders` and `operators` are written once. The few ways in which the two differ there are
bridged here; a statement that needs more than that has a version of its own in `_INSTEAD`.
"""

import re
from functools import lru_cache

from cmpd.store.conditions import SAME_SEAT
from cmpd.store.nodes import NOW
from cmpd.store.rows import OPEN

_INSTEAD = {
    NOW: "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    SAME_SEAT: (
        "SELECT count(*), min(not_after), (array_agg(serial ORDER BY not_after, id))[1] FROM certificate"  # noqa: S608  constants only
        " WHERE profile = ? AND seat = ? AND status <> 'revoked' AND not_after >= ? AND serial <> ?"
        f" UNION ALL SELECT count(*), NULL, NULL FROM cert_order WHERE profile = ? AND seat = ? AND {OPEN}"
    ),
}
"""SQLite takes a column beside an aggregate from the row that the aggregate has found."""
_WORDS = (
    (re.compile(r"\browid\b"), "id"),
    (re.compile(r"\buser\b"), '"user"'),
    (re.compile(r"\bifnull\("), "coalesce("),
    (re.compile(r"\bmax\((?=[^()]*(?:\([^()]*\)[^()]*)*,)"), "greatest("),
    (re.compile(r" IS NOT (?!NULL)"), " IS DISTINCT FROM "),
    (re.compile(r" INDEXED BY \w+"), ""),
)
_PLACE = re.compile(r"\?(\d*)( IS NULL)?")


@lru_cache(maxsize=512)
def postgres_of(statement: str) -> str:
    """A statement for PostgreSQL: its words, and numbered parameters."""
    statement = _INSTEAD.get(statement, statement)
    for word, other in _WORDS:
        statement = word.sub(other, statement)
    count = 0

    def place(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        number = f"${found[1] or count}"
        # a parameter of which nothing is asked but whether it is there has no type of its own
        return number if found[2] is None else f"{number}::text IS NULL"

    return _PLACE.sub(place, statement)
