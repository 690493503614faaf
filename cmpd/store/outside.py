"""Certificates whose issuer is over there, in a store in SQL: what each call of `ports.OutsideStore` is in SQL.

Everything is in the certificate's own row: that it is revoked, and that it is due over there, is one commit.
"""

import sqlite3
from collections.abc import Collection
from datetime import datetime

from cmpd.exchange import IssuedCertificate, OutsideRevocation, OutsideState, RevocationReason
from cmpd.store import OutsideWaiting
from cmpd.store.operators import Connections
from cmpd.store.rows import (
    CERTIFICATE_COLUMNS,
    certificate_of,
    datetime_of,
    keep_row,
    octets_of,
    revoke_row,
    seconds_of,
)

STEP = 100
"""So many certificates one call of `uncollected` deals with."""
_AT_ONCE = 100
"""So many tickets are asked for in one statement: SQLite has room for 500 terms of a UNION and 999 parameters."""

_DUE = (
    f"SELECT {CERTIFICATE_COLUMNS} FROM certificate c"  # noqa: S608  constants only
    " WHERE outside_state IN ('due', 'asked') AND issuer = ? AND outside_due <= ? ORDER BY outside_due, rowid LIMIT ?"
)
_WAITING = (
    "SELECT outside_state, count(*), min(revoked_at) FROM certificate"
    " WHERE outside_state IN ('due', 'asked') AND issuer = ? GROUP BY outside_state"
    " UNION ALL SELECT outside_state, count(*), min(revoked_at) FROM certificate"
    " WHERE outside_state = 'held' AND issuer = ? GROUP BY outside_state"
)
_MOVE = (
    "UPDATE certificate SET outside_state = ?, outside_due = ?, outside_attempts = ?, outside_ticket = ?,"
    " outside_private = ? WHERE serial = ? AND outside_state = ? AND outside_attempts = ?"
)
_OF_TICKET = (
    "SELECT rowid FROM certificate WHERE issuer = ? AND ticket = ?"
    " UNION ALL SELECT rowid FROM certificate WHERE issuer = ? AND ticket >= ? AND ticket < ?"
)
"""The ticket itself, and what has more after a colon, which comes before a semicolon."""
_UNCOLLECTED = (
    "SELECT c.serial FROM cert_order o JOIN certificate c ON c.serial = o.serial"
    " WHERE o.collected = 0 AND o.state = 'issued' AND o.issuer = ? AND o.updated < ?"
    " AND c.status = 'unconfirmed' AND c.not_after >= ? ORDER BY o.updated LIMIT ?"
)
_KEEP_LOOK = (
    "INSERT INTO issuer (name, looked) VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET looked = max(ifnull(issuer.looked, 0), excluded.looked)"
)


class Outside:
    """The part of a store that is about what happens over there."""

    _connections: Connections

    async def outside_due(self, issuer: str, now: datetime, limit: int, /) -> tuple[IssuedCertificate, ...]:
        """See `ports.OutsideStore`."""
        rows = await self._connections.read(_DUE, (issuer, seconds_of(now), limit))
        return tuple(map(certificate_of, rows))

    async def move_outside(self, serial: int, outside: OutsideRevocation, /, *, seen: OutsideRevocation) -> bool:
        """See `ports.OutsideStore`."""
        change = (
            outside.state.value,
            seconds_of(outside.due),
            outside.attempts,
            outside.ticket,
            outside.private,
            octets_of(serial),
            seen.state.value,
            seen.attempts,
        )
        return await self._connections.write(lambda cursor: cursor.execute(_MOVE, change).rowcount == 1)

    async def outside_waiting(self, issuer: str) -> list[OutsideWaiting]:
        """See `AdminStore`."""
        rows = await self._connections.read(_WAITING, (issuer, issuer))
        found = [OutsideWaiting(OutsideState(state), count, datetime_of(oldest)) for state, count, oldest in rows]
        return sorted(found, key=lambda one: list(OutsideState).index(one.state))

    async def ordered_as(
        self, issuer: str, tickets: Collection[str], now: datetime, /
    ) -> tuple[IssuedCertificate, ...]:
        """See `ports.OutsideStore`."""
        wanted, found = sorted(set(tickets)), []
        for at in range(0, len(wanted), _AT_ONCE):
            some = wanted[at : at + _AT_ONCE]
            which = " UNION ALL ".join([_OF_TICKET] * len(some))
            found += await self._connections.read(
                f"SELECT {CERTIFICATE_COLUMNS} FROM certificate c WHERE c.rowid IN ({which})"  # noqa: S608  constants only
                " AND c.status <> 'revoked' AND c.not_after >= ? ORDER BY c.rowid",
                (*(value for one in some for value in (issuer, one, issuer, f"{one}:", f"{one};")), seconds_of(now)),
            )
        return tuple(map(certificate_of, found))

    async def uncollected(self, issuer: str, before: datetime, now: datetime, /, *, keep: bool) -> tuple[int, ...]:
        """See `ports.OutsideStore`."""
        at = seconds_of(now)
        asked = (issuer, seconds_of(before), at)
        if not await self._connections.read(_UNCOLLECTED, (*asked, 1)):
            return ()

        def work(cursor: sqlite3.Cursor) -> tuple[int, ...]:
            serials = [serial for (serial,) in cursor.execute(_UNCOLLECTED, (*asked, STEP)).fetchall()]
            for serial in serials:
                if keep:
                    keep_row(cursor, serial)
                else:
                    reason = RevocationReason.unspecified
                    revoke_row(cursor, serial, at, reason, outside=OutsideState.due, private="nobody has collected it")
            return tuple(map(int.from_bytes, serials))

        return await self._connections.write(work)

    async def looked(self, issuer: str, /) -> datetime | None:
        """See `ports.OutsideStore`."""
        rows = await self._connections.read("SELECT looked FROM issuer WHERE name = ?", (issuer,))
        return datetime_of(rows[0][0]) if rows and rows[0][0] is not None else None

    async def keep_look(self, issuer: str, at: datetime, /) -> None:
        """See `ports.OutsideStore`."""
        row = (issuer, seconds_of(at))

        def work(cursor: sqlite3.Cursor) -> None:
            cursor.execute(_KEEP_LOOK, row)

        await self._connections.write(work)
