"""`cmpd doctor`: what is fine, and what holds up certificates or will; nothing is changed.

What `check` finds is here too. Beyond that every issuer that can is asked to examine itself (`ports.Examinable`):
the account of a public CA, the files and the CRL of a local one.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cmpd import issuers
from cmpd.cli import service
from cmpd.cli.operation import faults, now, profiles_of, store_of
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json, write_table
from cmpd.exchange import OrderState, OutsideState
from cmpd.issuers import IssuerConfigError
from cmpd.ports import (
    Closing,
    Diagnosis,
    DiagnosisLevel,
    Examinable,
    Issuer,
    IssuerFailure,
    IssuerUnavailable,
    Ordering,
    ProfileAware,
    Revoker,
    StoreUnavailable,
)
from cmpd.profile import ProfileError
from cmpd.settings import Settings, SettingsError
from cmpd.store import AdminStore

EXAMINE_SECONDS = 180.0
"""How long an issuer may take to be examined; a service that does not answer is called several times."""
_STYLES = {"ok": "green", "note": "dim", "warning": "yellow", "problem": "bold red"}
_SOON = timedelta(hours=1)
"""So long a revocation may be due before it is a warning: it is tried again with pauses."""
_TO_DO = {
    OutsideState.due: "they are asked for by a running daemon, whose log says what is in the way",
    OutsideState.asked: "somebody has to approve them at the issuer",
    OutsideState.held: "the issuer has refused them, and nothing happens to them by itself; see to them there, then"
    " `cmpd cert revoke SERIAL`",
}
_MANY = 1_000
"""More orders that wait for an operator are not counted."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A diagnosis, and where in the configuration what it is about stands."""

    where: str
    found: Diagnosis
    issuer: str | None = None


def show(path: Path, *, issuer: str | None, json: bool) -> None:
    """Print what was found; exit status 1 when something is a problem."""
    with faults():
        settings = Settings.load(path)
    if issuer is not None and issuer not in settings.issuers:
        known = ", ".join(sorted(settings.issuers)) or "none"
        raise OperatorError(f"--issuer {plain(issuer)}: no such issuer; there are: {known}")
    rows, made = _configuration(path, settings)
    chosen = {name: one for name, one in made.items() if issuer in {None, name}}
    rows = [*rows, *asyncio.run(_examine(settings, chosen))]
    if issuer is not None:
        rows = [row for row in rows if row.issuer == issuer or (row.issuer is None and issuer not in made)]
    problems = sum(row.found.level == "problem" for row in rows)
    if json:
        write_json({"config": str(settings.path), "problems": problems, "findings": [_public(row) for row in rows]})
    else:
        write_table(
            ("WHERE", "WHAT", "STATE", "FOUND"),
            ((plain(row.where), plain(row.found.check), row.found.level, plain(row.found.text)) for row in rows),
            empty="There is nothing to examine.",
            styles=_STYLES,
        )
        if sys.stdout.isatty():
            warnings = sum(row.found.level == "warning" for row in rows)
            write("", f"Problems: {problems}, warnings: {warnings}.")
    if problems:
        sys.exit(1)


def _public(row: _Row) -> dict[str, str | None]:
    found = row.found
    return {
        "where": row.where,
        "issuer": row.issuer,
        "profile": found.about or None,
        "check": found.check,
        "level": found.level,
        "text": found.text,
    }


def _configuration(path: Path, settings: Settings) -> tuple[list[_Row], Mapping[str, Issuer]]:
    """What `cmpd check` finds, and the issuers that can be loaded, with the profiles that can."""
    try:
        found = service.look(path)
    except SettingsError as error:
        return [_row(settings, "configuration", "problem", fault) for fault in error.faults], _loadable(settings)
    rows = [_row(settings, "configuration", "problem", fault) for fault in found.wrong]
    if not rows:
        profiles = ", ".join(found.loaded.profiles)
        rows.append(_row(settings, "configuration", "ok", f"can be served; profiles: {profiles}"))
    unexamined = [name for name, one in found.loaded.issuers.items() if not isinstance(one, Examinable)]
    soon = [notice for name in unexamined for notice in found.issuers[name]] + found.soon
    rows += [_row(settings, "configuration", "warning", notice) for notice in soon]
    rows += [_row(settings, "configuration", "note", notice) for notice in found.notices]
    rows += [_row(settings, "store", "warning", reason) for reason in found.unread]
    return rows, found.loaded.issuers


def _row(settings: Settings, check: str, level: DiagnosisLevel, text: str) -> _Row:
    return _Row(settings.path.name, Diagnosis("", check, level, text))


def _loadable(settings: Settings) -> dict[str, Issuer]:
    """The issuers that are right in a configuration that is not; what is wrong has been said."""
    made: dict[str, Issuer] = {}
    for name in settings.issuers:
        try:
            made[name] = issuers.load(name, settings.issuer_table(name), base=settings.base, url=settings.server.url)
        except IssuerConfigError:
            continue
    try:
        profiles = profiles_of(settings)
    except ProfileError:
        return made
    for profile in profiles.values():
        one = made.get(profile.issuer)
        if isinstance(one, ProfileAware):
            one.use(profile)
    return made


async def _examine(settings: Settings, chosen: Mapping[str, Issuer]) -> list[_Row]:
    """Have the issuers examine themselves, side by side."""
    rows: list[_Row] = []
    async with _store(settings, rows) as store:
        found = await asyncio.gather(*(_examine_one(settings, name, chosen[name], store) for name in sorted(chosen)))
    return [*rows, *(row for some in found for row in some)]


@asynccontextmanager
async def _store(settings: Settings, rows: list[_Row]) -> AsyncIterator[AdminStore | None]:
    """The store, if there is one of this version that can be opened; what was found of it becomes a row."""
    path = settings.store.path
    where = "the database server" if path is None else str(path)
    if path is not None and not path.exists():
        rows.append(_row(settings, "store", "note", f"{path} is not there yet; `cmpd serve` makes it"))
        yield None
        return
    try:
        if path is not None and not service.is_current(path):
            yield None
            return
        async with store_of(settings, migrate=False) as store:
            await store.ready()
            rows.append(_row(settings, "store", "ok", f"{where} can be written to"))
            yield store
    except (SettingsError, StoreUnavailable, OSError) as error:
        todo = "see README, PostgreSQL" if path is None else "see to its permissions, and that the disk is not full"
        rows.append(_row(settings, "store", "problem", f"{where} cannot be used ({error}); {todo}"))
        yield None


async def _examine_one(settings: Settings, name: str, issuer: Issuer, store: AdminStore | None) -> list[_Row]:
    found: list[Diagnosis] = []
    try:
        if isinstance(issuer, Examinable):
            async with asyncio.timeout(EXAMINE_SECONDS):
                found += await issuer.examine(store, now())
        else:
            found.append(Diagnosis("", "issuer", "note", "cannot examine itself"))
        if isinstance(issuer, Ordering) and store is not None:
            found += await _orders(store, name)
        if isinstance(issuer, Revoker) and store is not None:
            found += await _revocations(store, name, now())
    except TimeoutError:
        text = f"was not examined within {EXAMINE_SECONDS:.0f} s; see whether it answers at all, and try again"
        found.append(Diagnosis("", "issuer", "problem", text))
    except (IssuerUnavailable, IssuerFailure, StoreUnavailable) as error:
        found.append(Diagnosis("", "issuer", "problem", f"cannot be examined: {error}; try again"))
    finally:
        if isinstance(issuer, Closing):
            await issuer.close()
    return [_Row(_where(settings, name, one), one, name) for one in found]


def _where(settings: Settings, name: str, found: Diagnosis) -> str:
    """The section or the file to correct."""
    if not found.about:
        return f"{settings.path.name}: issuers.{name}"
    file = settings.profiles.directory / f"{found.about}.toml"
    return str(file.relative_to(settings.base) if file.is_relative_to(settings.base) else file)


async def _orders(store: AdminStore, name: str) -> Sequence[Diagnosis]:
    """Orders that wait for an operator."""
    held = len(await store.orders(_MANY, [OrderState.held], issuer=name))
    if not held:
        return [Diagnosis("", "orders", "ok", "none waits for an operator")]
    shown = f"{held} or more" if held == _MANY else str(held)
    text = f"{shown} held, and nothing happens to them by itself; `cmpd order list --state held` shows them"
    return [Diagnosis("", "orders", "warning", text)]


async def _revocations(store: AdminStore, name: str, at: datetime) -> Sequence[Diagnosis]:
    """Certificates that are revoked here, and not yet by their issuer."""
    rows = [
        Diagnosis(
            "",
            "revocations",
            "note" if one.state is OutsideState.due and at - one.oldest < _SOON else "warning",
            f"{one.certificates} {one.state}, the oldest since {time_text(one.oldest)}: {_TO_DO[one.state]};"
            " `cmpd cert list --status revoked` shows them",
        )
        for one in await store.outside_waiting(name)
    ]
    return rows or [Diagnosis("", "revocations", "ok", "none waits to be done at the issuer")]
