"""`cmpd serve`, `check`, `profile list` and `ca chain`: what is served, and whether it can be."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import daemon, issuers
from cmpd.cli.operation import faults, now, profiles_of, url_of, well_known_url_of
from cmpd.cli.output import OperatorError, plain, write, write_json, write_table
from cmpd.issuers.local import LocalIssuer
from cmpd.profile import ProfileConfig, rules
from cmpd.profile.profile import read_file
from cmpd.profile.templates import merge
from cmpd.settings import Settings

AHEAD = timedelta(days=60)
"""How long before a rule of public trust changes `cmpd check` speaks of it."""


def serve(path: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    with faults():
        daemon.serve(path)


def check(path: Path, *, json: bool) -> None:
    """Load everything as `serve` does."""
    with faults():
        loaded = daemon.check(path)
        soon = _notices(loaded)
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
                "notices": soon,
            }
        )
        return
    write(
        f"{settings.path} can be served.",
        f"issuers   {', '.join(sorted(loaded.issuers))}",
        f"profiles  {', '.join(sorted(loaded.profiles))}",
        *(f"soon      {plain(notice)}" for notice in soon),
    )


def _notices(loaded: daemon.Loaded) -> list[str]:
    """What an operator should see to: certificates that end, rules of public trust that change, URLs that are local."""
    moment = now()
    found: list[str] = []
    for name in sorted(loaded.issuers):
        notices = getattr(loaded.issuers[name], "notices", None)
        found += [] if notices is None else notices(moment)
    for profile in loaded.profiles.values():
        if profile.public_trust is not None:
            path = loaded.settings.profiles.directory / f"{profile.name}.toml"
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
