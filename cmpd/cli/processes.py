"""`cmpd node list`: the processes that serve from the store, as they say of themselves."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cmpd.cli.operation import faults, now, store_of
from cmpd.cli.output import plain, time_text, write, write_json, write_table
from cmpd.nodes import differences, is_silent
from cmpd.ports import Node
from cmpd.settings import Settings


def show_all(path: Path, *, json: bool) -> None:
    """Print the nodes, the one that was started first comes first, and where they differ."""

    async def read() -> tuple[Node, ...]:
        async with store_of(Settings.load(path)) as store:
            return await store.nodes()

    with faults():
        nodes = asyncio.run(read())
        moment = now()
    differing = differences([one for one in nodes if not is_silent(one)])
    if json:
        write_json({"nodes": [_public(one, moment) for one in nodes], "differing": differing})
        return
    write_table(
        ("NODE", "HOST", "PID", "VERSION", "STARTED", "LAST SEEN", "CONFIGURATION", "SEES TO"),
        (
            (
                plain(one.id),
                plain(one.host),
                str(one.pid),
                plain(one.version),
                time_text(one.started),
                f"{one.silent:.0f} s ago{' (gone?)' if is_silent(one) else ''}",
                one.configuration,
                ", ".join(map(plain, one.leases)) or "-",
            )
            for one in nodes
        ),
        empty="No process serves from this store.",
    )
    if differing:
        write("", "Their configurations differ:")
        write(
            *(
                f"  {plain(f'profile {name}' if name else 'all but profiles')}  {plain(who)}"
                for name, who in differing.items()
            )
        )


def _public(one: Node, moment: datetime) -> dict[str, Any]:
    return {
        "id": one.id,
        "host": one.host,
        "pid": one.pid,
        "version": one.version,
        "started": time_text(one.started),
        "last_seen": time_text((moment - timedelta(seconds=round(one.silent))).replace(microsecond=0)),
        "silent": is_silent(one),
        "configuration": one.configuration,
        "profiles": dict(one.profiles),
        "sees_to": list(one.leases),
    }
