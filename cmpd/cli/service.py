"""`cmpd serve`, `check`, `profile list` and `ca chain`: what is served, and whether it can be."""

import asyncio
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import daemon, issuers
from cmpd.cli.operation import faults, now, profiles_of, store_of, url_of, well_known_url_of
from cmpd.cli.output import OperatorError, plain, write, write_json, write_table
from cmpd.issuers.local import LocalIssuer
from cmpd.ports import StoreUnavailable
from cmpd.profile import Profile, ProfileConfig, rules
from cmpd.profile.access import Surroundings, access_faults, access_notices
from cmpd.profile.profile import read_file
from cmpd.profile.templates import merge
from cmpd.settings import Settings
from cmpd.store import AdminStore
from cmpd.store.schema import MIGRATIONS

AHEAD = timedelta(days=60)
"""How long before a rule of public trust changes `cmpd check` speaks of it."""
REACH_SECONDS = 2.0
"""How long `cmpd check` tries to reach the place of a CRL or an OCSP responder."""


def serve(path: Path, *, workers: int | None) -> None:
    """Serve until SIGTERM or SIGINT, by so many workers, or as many as the configuration says."""
    with faults():
        settings = Settings.load(path)
        count = settings.server.workers if workers is None else workers
        if count == 1:
            daemon.serve(path)
            return
        from cmpd.workers import supervise  # noqa: PLC0415  start-up time

        supervise(path, count, settings)


@dataclass(frozen=True, slots=True)
class Look:
    """What was found of a configuration that can be loaded: one line each, which names file and key."""

    loaded: daemon.Loaded
    wrong: list[str]
    """Profiles that nobody, or everybody, could use."""
    unread: list[str]
    """Why the database was not looked at; empty when it was, or there is none."""
    issuers: dict[str, list[str]]
    """By issuer, what it says that has to be seen to."""
    soon: list[str]
    """What else changes by itself."""
    notices: list[str]
    """What is allowed, and yet an operator should know it."""


def look(path: Path) -> Look:
    """Load everything as `serve` does, and look into the database, if there is one, at who can get in.

    Raises SettingsError for what keeps it from being loaded.
    """
    loaded = daemon.check(path)
    known, unread = asyncio.run(_surroundings(loaded))
    wrong = [
        f"{_file(loaded, profile)}: {fault}"
        for profile in loaded.profiles.values()
        for fault in access_faults(profile, known[profile.name])
    ]
    return Look(loaded, wrong, unread, _issuers_notices(loaded), _soon(loaded), _notices(loaded, known))


def check(path: Path, *, json: bool) -> None:
    """Say whether it can be served, and what will be wrong with it soon."""
    with faults():
        found = look(path)
    if found.wrong:
        raise OperatorError("\n".join(found.wrong))
    loaded, others = found.loaded, [*found.unread, *found.notices]
    soon = [notice for notices in (*found.issuers.values(), found.soon) for notice in notices]
    settings = loaded.settings
    if json:
        write_json(
            {
                "config": str(settings.path),
                "listen": str(settings.server.listen),
                "tls": None if settings.server.tls is None else str(settings.server.tls.listen),
                "admin": str(settings.admin.listen),
                "issuers": sorted(loaded.issuers),
                "profiles": sorted(loaded.profiles),
                "notices": [*soon, *others],
            }
        )
        return
    write(
        f"{settings.path} can be served.",
        f"issuers   {', '.join(sorted(loaded.issuers))}",
        f"profiles  {', '.join(sorted(loaded.profiles))}",
        *(f"soon      {plain(notice)}" for notice in soon),
        *(f"note      {plain(notice)}" for notice in others),
    )


def _file(loaded: daemon.Loaded, profile: Profile) -> Path:
    return loaded.settings.profiles.directory / f"{profile.name}.toml"


async def _surroundings(loaded: daemon.Loaded) -> tuple[dict[str, Surroundings], list[str]]:
    """What is known of daemon and store, for each profile; and why the store was not asked, if it was not."""
    settings = loaded.settings
    around = {name: Surroundings.of(settings.server, loaded.profiles, name) for name in loaded.profiles}
    path = settings.store.path
    if path is not None and not path.exists():
        # what `serve` makes will be empty
        return {name: replace(one, issued=False) for name, one in around.items()}, []
    try:
        if path is not None and not is_current(path):
            return around, [f"{path}: is of another version of cmpd; `cmpd serve` brings it up to date"]
        async with store_of(settings, migrate=False) as store:
            return {name: await _ask(store, loaded.profiles[name], one) for name, one in around.items()}, []
    except (OSError, StoreUnavailable) as error:
        where = "[store]" if path is None else path
        return around, [f"{where}: cannot be read now ({error}); what is in it was not looked at"]


def is_current(path: Path) -> bool:
    """Whether a database is of this version, by its header without opening it (SQLite file format §1.3.17)."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(64)[60:]) == len(MIGRATIONS)


async def _ask(store: AdminStore, profile: Profile, around: Surroundings) -> Surroundings:
    """Ask the store what it knows of a profile."""
    users = {}
    if profile.service_user is not None:
        users[profile.service_user] = await store.service_users(profile.service_user)
    moment = now()
    usable = None
    if profile.authentication_method == "enrollment_code":
        usable = any(code.refusal(moment) is None for code in await store.codes(profile.name))
    return replace(
        around,
        issued=bool(await store.certificates(1, profile=profile.name)),
        service_users=users,
        devices=None if profile.vendor is None else bool(await store.devices(profile.name, 1)),
        usable_code=usable,
    )


def _issuers_notices(loaded: daemon.Loaded) -> dict[str, list[str]]:
    """What issuers say of their own certificates and secrets."""
    asked = {name: getattr(loaded.issuers[name], "notices", None) for name in sorted(loaded.issuers)}
    return {name: [] if notices is None else notices(now()) for name, notices in asked.items()}


def _soon(loaded: daemon.Loaded) -> list[str]:
    """What changes by itself: certificates that end, rules of public trust; and URLs that are local."""
    moment = now()
    found = daemon.tls_notices(loaded, moment)
    for profile in loaded.profiles.values():
        if profile.public_trust is not None:
            path = _file(loaded, profile)
            config = ProfileConfig.model_validate(merge(path, read_file(path)).table)
            issuer = loaded.issuers[profile.issuer]
            if isinstance(issuer, LocalIssuer):
                urls = rules.url_notices(config, issuer.crl_url, issuer.config.ca_issuers_url)
                found += [f"{path}: {notice}" for notice in urls]
            if config.validity.on_exceed == "shorten":  # what gets too long is shortened then
                later = (moment + AHEAD).date()
                cap = rules.max_validity(profile.public_trust, profile.generation, later)
                shorter = {"default": min(config.validity.default, cap)}
                config = config.model_copy(update={"validity": config.validity.model_copy(update=shorter)})
            found += [f"{path}: {notice}" for notice in rules.notices(config, moment.date(), AHEAD)]
    return found


def _notices(loaded: daemon.Loaded, known: Mapping[str, Surroundings]) -> list[str]:
    """What is allowed, and yet an operator should know it."""
    moment, server = now(), loaded.settings.server
    found = []
    if server.allow_http and not server.listen.is_local():
        found.append(
            f"{loaded.settings.path}: server.allow_http: {server.listen} serves other machines over plain HTTP: names "
            "and references can be read on the way"
        )
    for profile in loaded.profiles.values():
        notices = access_notices(profile, known[profile.name], moment)
        found += [f"{_file(loaded, profile)}: {notice}" for notice in [*notices, *_unheard(profile)]]
    return found


def _unheard(profile: Profile) -> Iterator[str]:
    """The places of CRLs and the OCSP responder that the profile names, and that cannot be reached from here."""
    rules = profile.revocation
    places = [("crls", one, rules.crl) for one in rules.crls if "://" in one]
    if rules.ocsp_url is not None:
        places.append(("ocsp_url", rules.ocsp_url, rules.ocsp))
    for key, place, wanted in places:
        if wanted == "off":
            continue
        parts = urlsplit(place)
        try:
            at = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
            socket.create_connection(at, REACH_SECONDS).close()
        except (OSError, ValueError) as error:
            outcome = (
                "a certificate whose state is not known then counts as good"
                if wanted == "best_effort"
                else "no certificate is accepted then"
            )
            yield f"enrollment.revocation.{key}: {place} cannot be reached from here ({error}); {outcome}"


def profiles(path: Path, *, json: bool) -> None:
    """Print the profiles and their URLs."""
    with faults():
        settings = Settings.load(path)
        known = profiles_of(settings)
    rows: list[dict[str, Any]] = [
        {
            "name": profile.name,
            "url": url_of(settings, profile),
            "well_known_url": well_known_url_of(settings, profile),
            "issuer": profile.issuer,
            "display_name": profile.display_name,
            "business_unit": profile.business_unit,
            "tags": list(profile.tags),
        }
        for profile in known.values()
    ]
    if json:
        write_json(rows)
    else:
        write_table(
            ("NAME", "ISSUER", "URL", "WELL-KNOWN URL"),
            ((row["name"], row["issuer"], row["url"], row["well_known_url"]) for row in rows),
            empty=f"There are no profiles in {settings.profiles.directory}.",
        )


def chain(path: Path, *, issuer: str | None, json: bool) -> None:
    """Print an issuer's CA certificates, issuing CA first, root last."""
    with faults():
        settings = Settings.load(path)
        names = sorted(settings.issuers)
        if issuer is None:
            if len(names) != 1:
                there_are = f"there are {', '.join(names)}; choose one with --issuer" if names else "there is none"
                raise OperatorError(f"{settings.path}: issuers: {there_are}")
            issuer = names[0]
        elif issuer not in names:
            raise OperatorError(f"--issuer {plain(issuer)}: no such issuer; there are: {', '.join(names) or 'none'}")
        loaded = issuers.load(issuer, settings.issuer_table(issuer), base=settings.base, url=settings.server.url)
        certificates = asyncio.run(loaded.chain())
    pems = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode() for der in certificates]
    if json:
        write_json({"issuer": issuer, "certificates": pems})
    else:
        write("".join(pems).rstrip())
