"""`cmpd seat`: who holds certificates of a profile."""

import asyncio
from pathlib import Path
from typing import Any

from cmpd.cli.certificates import public, status_text
from cmpd.cli.operation import faults, store_of
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json, write_table
from cmpd.exchange import IssuedCertificate, Seat
from cmpd.settings import Settings


def show_all(path: Path, *, profile: str | None, limit: int, json: bool) -> None:
    """Print the seats."""

    async def read() -> list[Seat]:
        async with store_of(Settings.load(path)) as store:
            return await store.seats(limit, profile)

    with faults():
        seats = asyncio.run(read())
    if json:
        write_json([_public(seat) for seat in seats])
        return
    write_table(
        ("SEAT", "PROFILE", "CERTIFICATES", "FIRST", "LAST"),
        (
            (plain(one.id), one.profile, str(one.certificates), time_text(one.created), time_text(one.last_issued))
            for one in seats
        ),
        empty="There are no seats.",
    )


def show(path: Path, seat: str, *, profile: str, json: bool) -> None:
    """Print one seat with its certificates, newest first."""

    async def read() -> tuple[Seat, list[IssuedCertificate]] | None:
        async with store_of(Settings.load(path)) as store:
            return await store.seat(profile, seat)

    with faults():
        found = asyncio.run(read())
    if found is None:
        raise OperatorError(f"profile {plain(profile)} has no seat {plain(seat)}; see `cmpd seat list`")
    if json:
        write_json(_public(found[0]) | {"issued": [public(certificate) for certificate in found[1]]})
        return
    write(*(f"{key:<14} {plain(str(value))}" for key, value in _public(found[0]).items()), "")
    write_table(
        ("SERIAL", "SUBJECT", "STATUS", "ISSUED", "NOT AFTER"),
        (
            (
                f"{one.serial:x}",
                plain(one.subject),
                status_text(one),
                time_text(one.issued_at),
                time_text(one.not_after),
            )
            for one in found[1]
        ),
        empty="",
    )


def _public(seat: Seat) -> dict[str, Any]:
    return {
        "seat": seat.id,
        "profile": seat.profile,
        "certificates": seat.certificates,
        "first_issued": time_text(seat.created),
        "last_issued": time_text(seat.last_issued),
    }
