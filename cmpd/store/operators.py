"""What an operator asks of a store in SQL: the verbs of `AdminStore` beyond those of a running server."""

import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from cmpd.exchange import (
    CertificateStatus,
    Device,
    EnrollmentCode,
    IssuedCertificate,
    NewCode,
    Refusal,
    Seat,
    ServiceUserCertificate,
)
from cmpd.ports import StoreUnavailable
from cmpd.store import ReferencesTaken, ReferenceTaken
from cmpd.store.group_commit import Row
from cmpd.store.rows import (
    CERTIFICATE_COLUMNS,
    CODE,
    CODE_COLUMNS,
    REFUSAL_COLUMNS,
    certificate_of,
    code_of,
    datetime_of,
    device_of,
    refusal_of,
    seat_of,
    seconds_of,
)
from cmpd.store.sealing import Sealing, WrongKey

T = TypeVar("T")
STEP = 500
"""After so many rows of a great many the caller hears how far it is."""
_INSERT_CODE = (
    "INSERT INTO enrollment_code (profile, reference, sealed, uses, created, expires, valid_from, seat, subject, san,"
    " spki_sha256, is_global) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_UNSETTLED = (" INDEXED BY unsettled_certificate", "c.status IN ('unconfirmed', 'kept')")
_BY_STATUS = {
    CertificateStatus.unconfirmed: _UNSETTLED,
    CertificateStatus.kept: _UNSETTLED,
    CertificateStatus.revoked: (" INDEXED BY revoked_certificate", "c.status = 'revoked'"),
    CertificateStatus.valid: ("", "c.status = 'valid'"),
}
"""The index of all but the valid, which are nearly all; and the words that it has been made with."""
_IS_TAKEN = "SELECT 1 FROM enrollment_code WHERE profile = ? AND reference = ?"

_PUT_DEVICE = (
    "INSERT INTO device (profile, serial, seat, subject, added) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (profile, serial) DO UPDATE SET seat = excluded.seat, subject = excluded.subject"
    " WHERE device.seat IS NOT excluded.seat OR device.subject IS NOT excluded.subject"
)
_SEATS = (
    "SELECT g.profile, g.seat, f.issued_at, l.issued_at, g.certificates FROM"
    " (SELECT profile, seat, min(rowid) AS first, max(rowid) AS last, count(*) AS certificates FROM certificate"
    " WHERE seat IS NOT NULL{} GROUP BY profile, seat ORDER BY last DESC LIMIT ?) g"
    " JOIN certificate f ON f.rowid = g.first JOIN certificate l ON l.rowid = g.last ORDER BY g.last DESC"
)
"""From the index of seats alone but for the times."""
_ALL_SEATS = _SEATS.format("")
_SEATS_OF = _SEATS.format(" AND profile = ?")
_SEAT = _SEATS.format(" AND profile = ? AND seat = ?")


Contested = Callable[[], Collection[str]]
"""Names for what must not change between a look and a commit: a key, a seat, a day's budget, a code."""


class Connections(Protocol):
    """How a store reaches its database."""

    commits: int
    """How many writes, or groups of them, have been committed."""

    async def read(self, query: str, parameters: tuple[Any, ...]) -> list[Row]:
        """Answer a query with what has been committed."""

    async def write(self, work: Callable[[sqlite3.Cursor], T], contested: Contested | None = None) -> T:
        """Run statements in one commit, as if no others ran at the same time.

        `contested` names what others may want as well, where that is known.
        """


class Operators:
    """The operator's half of a store."""

    def __init__(self, name: str, sealing: Sealing, connections: Connections) -> None:
        self._name = name
        """The database, for the log."""
        self._sealing = sealing
        self._connections = connections
        self._read = connections.read
        self._write = connections.write

    def _open(self, row: Row) -> EnrollmentCode:
        """Decrypt a code's secret. Raises StoreUnavailable when it is not the one of its profile and reference."""
        try:
            secret = self._sealing.unseal(row[16], row[1], row[2])
        except WrongKey:
            raise StoreUnavailable(
                f"{self._name}: enrollment code {row[0]} does not open with the key of [store] key_file:"
                " somebody has changed it; revoke it and make another"
            ) from None
        return code_of(row, secret)

    async def create_code(
        self,
        profile: str,
        reference: str,
        secret: bytes,
        uses: int | None,
        expires: datetime | None,
        now: datetime,
        *,
        valid_from: datetime | None = None,
        seat: str | None = None,
        subject: str | None = None,
        san: Sequence[str] = (),
        key: str | None = None,
        is_global: bool = False,
    ) -> EnrollmentCode:
        """See `AdminStore`."""
        new = NewCode(
            profile, reference, secret, uses, expires, valid_from, seat, subject, tuple(san), key, is_global=is_global
        )
        row = self._code_row(new, seconds_of(now))

        def work(cursor: sqlite3.Cursor) -> None:
            if cursor.execute(_IS_TAKEN, row[:2]).fetchone() is not None:
                raise ReferenceTaken(f"profile {profile} has an enrollment code {reference!r} already")
            cursor.execute(_INSERT_CODE, row)

        await self._write(work)
        (kept,) = await self._read(CODE, row[:2])
        return code_of(kept, secret)

    async def create_codes(
        self, codes: Sequence[NewCode], now: datetime, *, progress: Callable[[int], None] | None = None
    ) -> None:
        """See `AdminStore`."""
        at = seconds_of(now)
        rows = [self._code_row(one, at) for one in codes]

        def work(cursor: sqlite3.Cursor) -> None:
            seen: set[Row] = set()
            taken = []
            for row in rows:
                if row[:2] in seen or cursor.execute(_IS_TAKEN, row[:2]).fetchone() is not None:
                    taken.append((row[0], row[1]))
                seen.add(row[:2])
            if taken:  # nothing is written yet
                raise ReferencesTaken(taken)
            for begin in range(0, len(rows), STEP):
                step = rows[begin : begin + STEP]
                cursor.executemany(_INSERT_CODE, step)
                if progress is not None:
                    progress(begin + len(step))

        await self._write(work)

    def _code_row(self, new: NewCode, created: int) -> Row:
        return (
            new.profile,
            new.reference,
            self._sealing.seal(new.secret, new.profile, new.reference),
            new.uses,
            created,
            None if new.expires is None else seconds_of(new.expires),
            None if new.valid_from is None else seconds_of(new.valid_from),
            new.seat,
            new.subject,
            json.dumps(new.san) if new.san else None,
            None if new.key is None else bytes.fromhex(new.key),
            int(new.is_global),
        )

    async def codes(self, profile: str | None = None) -> list[EnrollmentCode]:
        """See `AdminStore`."""
        rows = await self._read(
            f"SELECT {CODE_COLUMNS} FROM enrollment_code WHERE ? IS NULL OR profile = ? ORDER BY id",  # noqa: S608  constants only
            (profile, profile),
        )
        return [code_of(row, b"") for row in rows]

    async def codes_with_secrets(
        self, profile: str | None = None, *, wanted: Callable[[EnrollmentCode], bool] | None = None
    ) -> list[EnrollmentCode]:
        """See `AdminStore`."""
        rows = await self._read(
            f"SELECT {CODE_COLUMNS}, sealed FROM enrollment_code WHERE ? IS NULL OR profile = ? ORDER BY id",  # noqa: S608  constants only
            (profile, profile),
        )
        return [self._open(row) for row in rows if wanted is None or wanted(code_of(row, b""))]

    async def revoke_code(self, profile: str, reference: str, now: datetime) -> bool:
        """See `AdminStore`."""
        row = (seconds_of(now), profile, reference)

        def work(cursor: sqlite3.Cursor) -> bool:
            cursor.execute(
                "UPDATE enrollment_code SET revoked_at = ? WHERE profile = ? AND reference = ? AND revoked_at IS NULL",
                row,
            )
            return cursor.rowcount == 1

        return await self._write(work)

    async def unlock_code(self, profile: str, reference: str) -> bool:
        """See `AdminStore`."""
        return (
            await self._change(
                "UPDATE enrollment_code SET locked_until = NULL, locks = 0, wrong_macs = 0"
                " WHERE profile = ? AND reference = ? AND (locked_until IS NOT NULL OR locks > 0)",
                (profile, reference),
            )
            > 0
        )

    async def _change(self, statement: str, parameters: tuple[Any, ...]) -> int:
        """Run one statement; how many rows it has changed."""
        return await self._write(lambda cursor: cursor.execute(statement, parameters).rowcount)

    async def add_service_user(self, entry: ServiceUserCertificate) -> bool:
        """See `AdminStore`."""
        if entry.fingerprint is None and (entry.issuer is None or entry.subject is None):
            raise ValueError("a service user's certificate is known by its fingerprint, or by issuer and subject")
        fingerprint = None if entry.fingerprint is None else bytes.fromhex(entry.fingerprint)
        return (
            await self._change(
                "INSERT INTO service_user (user, fingerprint, issuer, subject, label, added) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (entry.user, fingerprint, entry.issuer, entry.subject, entry.label, seconds_of(entry.added)),
            )
            > 0
        )

    async def remove_service_user(
        self,
        user: str,
        fingerprint: str | None = None,
        *,
        issuer: bytes | None = None,
        subject: bytes | None = None,
    ) -> int:
        """See `AdminStore`."""
        parameters: tuple[Any, ...]
        if fingerprint is not None:
            which, parameters = " AND fingerprint = ?", (user, bytes.fromhex(fingerprint))
        elif issuer is not None or subject is not None:
            which, parameters = " AND fingerprint IS NULL AND issuer = ? AND subject = ?", (user, issuer, subject)
        else:
            which, parameters = "", (user,)
        return await self._change(f"DELETE FROM service_user WHERE user = ?{which}", parameters)  # noqa: S608  constants only

    async def service_users(self, user: str | None = None) -> list[ServiceUserCertificate]:
        """See `AdminStore`."""
        rows = await self._read(
            "SELECT user, added, fingerprint, issuer, subject, label FROM service_user"
            " WHERE ?1 IS NULL OR user = ?1 ORDER BY user, id",
            (user,),
        )
        return [
            ServiceUserCertificate(
                user, datetime_of(added), None if fingerprint is None else fingerprint.hex(), issuer, subject, label
            )
            for user, added, fingerprint, issuer, subject, label in rows
        ]

    async def import_devices(self, profile: str, devices: Sequence[Device]) -> tuple[int, int]:
        """See `AdminStore`."""
        rows = [(profile, one.serial, one.seat, one.subject, seconds_of(one.added)) for one in devices]
        count = "SELECT count(*) FROM device WHERE profile = ?"

        def work(cursor: sqlite3.Cursor) -> tuple[int, int]:
            (before,) = cursor.execute(count, (profile,)).fetchone()
            touched = cursor.executemany(_PUT_DEVICE, rows).rowcount if rows else 0
            (after,) = cursor.execute(count, (profile,)).fetchone()
            return after - before, touched - (after - before)

        return await self._write(work)

    async def devices(self, profile: str, limit: int) -> list[Device]:
        """See `AdminStore`."""
        rows = await self._read(
            "SELECT profile, serial, added, seat, subject FROM device WHERE profile = ? ORDER BY serial LIMIT ?",
            (profile, limit),
        )
        return [device_of(row) for row in rows]

    async def remove_device(self, profile: str, serial: str) -> bool:
        """See `AdminStore`."""
        return await self._change("DELETE FROM device WHERE profile = ? AND serial = ?", (profile, serial)) > 0

    async def certificates(
        self, limit: int, profile: str | None = None, status: CertificateStatus | None = None
    ) -> Sequence[IssuedCertificate]:
        """See `AdminStore`."""
        index, terms, parameters = "", [], []
        if status is not None:
            index, words = _BY_STATUS[status]
            terms += [words, "c.status = ?"]
            parameters.append(status.value)
        if profile is not None:
            terms.append("c.profile = ?")
            parameters.append(profile)
        rows = await self._read(
            f"SELECT {CERTIFICATE_COLUMNS} FROM certificate c{index}{' WHERE ' if terms else ''}{' AND '.join(terms)}"  # noqa: S608  constants only
            " ORDER BY c.rowid DESC LIMIT ?",
            (*parameters, limit),
        )
        return [certificate_of(row) for row in rows]

    async def seats(self, limit: int, profile: str | None = None) -> list[Seat]:
        """See `AdminStore`."""
        asked = (_ALL_SEATS, (limit,)) if profile is None else (_SEATS_OF, (profile, limit))
        return [seat_of(row) for row in await self._read(*asked)]

    async def seat(self, profile: str, id: str) -> tuple[Seat, list[IssuedCertificate]] | None:
        """See `AdminStore`."""
        found = await self._read(_SEAT, (profile, id, 1))
        if not found:
            return None
        rows = await self._read(
            f"SELECT {CERTIFICATE_COLUMNS} FROM certificate c WHERE c.profile = ? AND c.seat = ?"  # noqa: S608  constants only
            " ORDER BY c.rowid DESC",
            (profile, id),
        )
        return seat_of(found[0]), [certificate_of(row) for row in rows]

    async def refusals(self, limit: int, profile: str | None = None) -> list[Refusal]:
        """See `AdminStore`."""
        rows = await self._read(
            f"SELECT {REFUSAL_COLUMNS} FROM refusal WHERE ?1 IS NULL OR profile = ?1 ORDER BY id DESC LIMIT ?2",  # noqa: S608  constants only
            (profile, limit),
        )
        return [refusal_of((*row, None)) for row in rows]

    async def refusal_of(self, number: int) -> Refusal | None:
        """See `AdminStore`."""
        rows = await self._read(
            f"SELECT {REFUSAL_COLUMNS}, request FROM refusal WHERE id = ?",  # noqa: S608  constants only
            (number,),
        )
        return refusal_of(rows[0]) if rows else None
