"""`cmpd store`: the database as a whole: looked at, migrated, backed up, restored, copied, counted."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cmpd.cli.operation import faults, now
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json, write_table
from cmpd.settings import Settings, StoreSettings
from cmpd.store import copying
from cmpd.store.maintenance import Holder, Progress, Retention, Stats, Status, Upkeep, no_progress, upkeep_of

_DAY = 86400


def status(path: Path, *, check: bool, json: bool) -> None:
    """Print how the store is; exit status 1 when something is wrong."""
    with faults():
        found = asyncio.run(_upkeep(path).status(check=check))
    if json:
        write_json(_public_status(found))
    else:
        _write_status(found)
    if found.faults:
        raise OperatorError("\n".join(found.faults))


def migrate(path: Path, *, dry_run: bool, json: bool) -> None:
    """Bring the schema up to date and say what was done."""
    with faults():
        upkeep = _upkeep(path)
        done = asyncio.run(upkeep.migrate(dry_run=dry_run))
    if json:
        write_json({"store": upkeep.place, "before": done.before, "after": done.after, "dry_run": dry_run})
        return
    place = plain(upkeep.place)
    if done.before == done.after:
        write(f"{place}: schema {done.after} is up to date; nothing to do.")
    elif done.before == 0:
        write(f"{place}: {'would make' if dry_run else 'made'} a new store, schema {done.after}.")
    else:
        write(f"{place}: {'would bring' if dry_run else 'brought'} schema {done.before} to {done.after}.")


def backup(path: Path, file: Path, *, json: bool) -> None:
    """Write a backup to a new file, and say what else must be kept with it."""
    with faults():
        settings = Settings.load(path)
        upkeep = _upkeep(path, settings)
        with _progress(quiet=json) as progress:
            done = asyncio.run(upkeep.backup(file.absolute(), now(), progress))
    if json:
        write_json(
            {
                "file": str(file.absolute()),
                "at": time_text(done.at),
                "schema": done.version,
                "certificates": done.certificates,
                "size": done.size,
            }
        )
        return
    write(
        f"{plain(str(file))}: {_size(done.size)}, {done.certificates:,} certificates, as of {time_text(done.at)};"
        " checked, on the disk.",
        "",
        "It is worth nothing without the key that its enrollment codes are encrypted with. Keep with it, at another"
        " place:",
        f"  {plain(str(settings.store.key_file))}",
        "  the keys and certificates of the issuers (ca/), cmpd.toml and the profiles",
    )


def restore(path: Path, file: Path, *, force: bool, revoke_codes: bool, json: bool) -> None:
    """Make the store what a backup has."""
    with faults():
        settings = Settings.load(path)
        upkeep = _upkeep(path, settings)
        with _progress(quiet=json) as progress:
            done = asyncio.run(
                upkeep.restore(
                    file.absolute(),
                    now(),
                    tuple(settings.issuers),
                    force=force,
                    revoke_codes=revoke_codes,
                    progress=progress,
                )
            )
    if json:
        write_json(
            asdict(done)
            | {
                "store": upkeep.place,
                "at": time_text(done.at) or None,
                "replaced": None if done.replaced is None else str(done.replaced),
            }
        )
        return
    when = f"as of {time_text(done.at)}" if done.at else "of a file that does not say when it was taken"
    write(f"{plain(upkeep.place)}: restored with {done.certificates:,} certificates, {when}.")
    if done.replaced is not None:
        write(f"What was there before is in {plain(str(done.replaced))}.")
    if done.confirmed:
        write(f"{done.confirmed:,} certificates waited for their confirmation; they count as confirmed.")
    if done.orders:
        write(f"{done.orders:,} orders may have been placed since; their issuers are asked before that is done again.")
    if done.codes:
        write(f"{done.codes:,} enrollment codes that were still good have been revoked.")
    write(
        "",
        "What came after the backup is lost: revoke again what was revoked since; enrollment codes that were",
        "used since can be used again, unless --revoke-codes was given. README, Backup and restore, has the rest.",
    )


def copy(path: Path, *, to: str, source: str | None, allow_running: bool, json: bool) -> None:
    """Copy all of a store into another one, and compare."""
    with faults():
        settings = Settings.load(path)
        key = settings.store.key()
        origin = settings.store.url if source is None else _url("--from", source, settings)
        destination = _url("--to", to, settings)
        if origin == destination:
            raise OperatorError(f"--to {plain(to)}: is the store that is copied; name another one")
        database = settings.store.database()
        ours, theirs = (upkeep_of(url, base=settings.base, key=key, database=database) for url in (origin, destination))
        with _progress(quiet=json) as progress:
            copied = asyncio.run(_copy(ours, theirs, progress, allow_running=allow_running))
    if json:
        tables = [
            {"table": one.table, "rows": one.rows, "written": one.written, "sha256": one.digest} for one in copied
        ]
        write_json({"from": ours.place, "to": theirs.place, "finished": not allow_running, "tables": tables})
        return
    write_table(
        ("TABLE", "ROWS", "WRITTEN", "SHA-256 OF BOTH"),
        ((one.table, f"{one.rows:,}", f"{one.written:,}", one.digest[:16]) for one in copied),
        empty="",
    )
    write("")
    if allow_running:
        write(
            "Copied as of the moment it began. What is issued since is not in it, so nothing serves from it yet: stop",
            "the daemons and run the same command without --allow-running; it copies what has changed.",
        )
    else:
        write(f'Both are the same. Write into cmpd.toml: [store] url = "{plain(destination)}"')


async def _copy(ours: Upkeep, theirs: Upkeep, progress: Progress, *, allow_running: bool) -> list[copying.Copied]:
    holders = await ours.holders()
    if holders and not allow_running:
        raise OperatorError(
            f"{ours.place}: is open: {_who(holders)}; stop it first: what it issues after this would be lost."
            " --allow-running makes a first copy meanwhile, which is finished by the same command without it"
        )

    async with ours.read(alone=not allow_running) as source, theirs.write() as target:
        return await copying.copy(source, target, progress, finish=not allow_running)


def stats(path: Path, *, json: bool) -> None:
    """Print how large the tables are, how they grow, and what will be deleted."""
    with faults():
        settings = Settings.load(path)
        upkeep = _upkeep(path, settings)
        found = asyncio.run(upkeep.stats(_retention(settings), now()))
    if json:
        write_json(_public_stats(found))
        return
    write_table(
        ("TABLE", "ROWS", "SIZE", "OLDEST", "NEWEST", "ROWS A DAY", "GROWTH A DAY"),
        (
            (
                one.name,
                f"{one.rows:,}",
                "" if one.size is None else _size(one.size),
                time_text(one.oldest),
                time_text(one.newest),
                "" if one.per_day is None else f"{one.per_day:,.1f}",
                _growth(one.size, one.rows, one.per_day),
            )
            for one in found.tables
        ),
        empty="",
    )
    write("")
    for one in found.due:
        kept = "for good" if one.keep is None else f"{_duration(one.keep)}"
        rest = "" if one.keep is None else f"; {one.now:,} to be deleted now"
        if one.next is not None and not one.now:
            rest = f"; the next at {time_text(one.next)}"
        write(f"{one.name}: kept {kept} ({one.setting}){rest}")


# ---------------------------------------------------------------------------------------------------- what they share


def _upkeep(path: Path, settings: Settings | None = None) -> Upkeep:
    settings = settings or Settings.load(path)
    store = settings.store
    return upkeep_of(store.url, base=settings.base, key=store.key(), database=store.database())


def _url(option: str, text: str, settings: Settings) -> str:
    """A store's URL as [store] url takes it."""
    try:
        return StoreSettings.model_validate({"url": text}, context={"base": settings.base}).url
    except ValidationError as error:
        reason = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
        raise OperatorError(f"{option} {plain(text)}: {reason}") from None


def _retention(settings: Settings) -> Retention:
    keep = settings.store
    return Retention(keep.retention, keep.certificate_retention, keep.order_retention)


def _who(holders: tuple[Holder, ...]) -> str:
    return ", ".join(f"process {one.pid} ({one.name})" if one.pid else one.name for one in holders)


def _write_status(found: Status) -> None:
    rows: list[tuple[str, Any]] = [
        ("store", found.place),
        ("kind", found.kind),
        ("schema", "none" if found.version is None else found.version),
        ("this cmpd knows", found.known),
        ("migrations pending", found.pending),
        ("size", None if found.size is None else _size(found.size)),
    ]
    sizes = {"write-ahead log", "free on the file system", "page size"}
    rows += (
        (name, _size(value) if name in sizes and isinstance(value, int) else value)
        for name, value in found.facts.items()
    )
    if found.holders is None:
        rows.append(("open elsewhere", "cannot be told on this system"))
    else:
        rows.append(("open elsewhere", _who(found.holders) or "no"))
    write(*(f"{name:<24} {plain(str(value))}" for name, value in rows if value is not None))


def _public_status(found: Status) -> dict[str, Any]:
    return {
        "store": found.place,
        "kind": found.kind,
        "schema": found.version,
        "known": found.known,
        "pending": found.pending,
        "size": found.size,
        "holders": None if found.holders is None else [{"pid": one.pid, "name": one.name} for one in found.holders],
        "faults": list(found.faults),
        **{name.replace(" ", "_").replace("-", "_").lower(): value for name, value in found.facts.items()},
    }


def _public_stats(found: Stats) -> dict[str, Any]:
    return {
        "tables": [
            {
                "name": one.name,
                "rows": one.rows,
                "size": one.size,
                "oldest": time_text(one.oldest) or None,
                "newest": time_text(one.newest) or None,
                "rows_per_day": one.per_day,
            }
            for one in found.tables
        ],
        "retention": [
            {
                "name": one.name,
                "setting": one.setting,
                "seconds": None if one.keep is None else int(one.keep.total_seconds()),
                "due_now": one.now,
                "next": time_text(one.next) or None,
            }
            for one in found.due
        ],
    }


def _growth(size: int | None, rows: int, per_day: float | None) -> str:
    return "" if size is None or per_day is None or not rows else _size(int(size / rows * per_day))


def _size(octets: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if octets >= size:
            return f"{octets / size:,.1f} {unit}"
    return f"{octets} B"


def _duration(keep: timedelta) -> str:
    seconds = int(keep.total_seconds())
    for unit, size in (("d", _DAY), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal for what takes long; elsewhere nothing."""
    if quiet or not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console  # noqa: PLC0415  only a terminal needs rich
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield progress
