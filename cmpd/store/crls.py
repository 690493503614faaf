"""The CRLs of local issuers in SQL: one for each issuing certificate, which all processes on the store serve.

In a table of their own, for the row of an issuer is written anew by every revocation. A store that was copied or
restored has none of them, and makes the next one with a greater number.
"""

import sqlite3

from cmpd.ports import CRLState, KeptCRL
from cmpd.store.operators import Connections
from cmpd.store.rows import datetime_of, seconds_of

_STATE = (
    "SELECT i.revocations, c.number FROM issuer i LEFT JOIN crl c ON c.issuer = i.name AND c.ca = ? WHERE i.name = ?"
)
_KEPT = "SELECT number, revocations, this_update, next_update, der FROM crl WHERE issuer = ? AND ca = ?"
_NUMBER = "SELECT number FROM crl WHERE issuer = ? AND ca = ?"
_KEEP = (
    "INSERT INTO crl (issuer, ca, number, revocations, this_update, next_update, der) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (issuer, ca) DO UPDATE SET number = excluded.number, revocations = excluded.revocations,"
    " this_update = excluded.this_update, next_update = excluded.next_update, der = excluded.der"
)
_DROP_ENDED = "DELETE FROM crl WHERE issuer = ? AND next_update <= ?"


class CRLs:
    """The part of a store that is about CRLs."""

    _connections: Connections

    async def crl_state(self, issuer: str, ca: bytes, /) -> CRLState:
        """See `ports.Store`."""
        rows = await self._connections.read(_STATE, (ca, issuer))
        return CRLState(int(rows[0][0]), int(rows[0][1] or 0)) if rows else CRLState(0, 0)

    async def crl(self, issuer: str, ca: bytes, /) -> KeptCRL | None:
        """See `ports.Store`."""
        rows = await self._connections.read(_KEPT, (issuer, ca))
        if not rows:
            return None
        number, revocations, this_update, next_update, der = rows[0]
        return KeptCRL(number, revocations, datetime_of(this_update), datetime_of(next_update), bytes(der))

    async def next_crl_number(self, issuer: str, /) -> int:
        """See `ports.Store`. Begins with 1."""

        def work(cursor: sqlite3.Cursor) -> int:
            cursor.execute(
                "INSERT INTO issuer (name, crl_number) VALUES (?, 1)"
                " ON CONFLICT (name) DO UPDATE SET crl_number = issuer.crl_number + 1",
                (issuer,),
            )
            return int(cursor.execute("SELECT crl_number FROM issuer WHERE name = ?", (issuer,)).fetchone()[0])

        return await self._connections.write(work)

    async def keep_crl(self, issuer: str, ca: bytes, crl: KeptCRL, /, *, seen: int) -> bool:
        """See `ports.Store`. Those of the issuer that have ended by then, of a CA that was replaced, are dropped."""
        this_update = seconds_of(crl.this_update)
        row = (issuer, ca, crl.number, crl.revocations, this_update, seconds_of(crl.next_update), crl.der)

        def work(cursor: sqlite3.Cursor) -> bool:
            found = cursor.execute(_NUMBER, (issuer, ca)).fetchone()
            if (found[0] if found else 0) != seen:
                return False
            cursor.execute(_KEEP, row)
            cursor.execute(_DROP_ENDED, (issuer, this_update))
            return True

        return await self._connections.write(work)
