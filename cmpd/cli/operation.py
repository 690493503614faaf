"""What commands share that work on a configuration: faults in an operator's words, store, profiles and their URLs."""

import os
import pwd
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

from cmpd import issuers
from cmpd.cli.output import OperatorError, plain
from cmpd.issuers import IssuerConfigError
from cmpd.ports import Closing, Issuer, IssuerFailure, IssuerUnavailable, ProfileAware, StoreUnavailable
from cmpd.profile import Profile, ProfileError, load_directory
from cmpd.settings import Listen, Settings, SettingsError
from cmpd.store import AdminStore, open_store


@contextmanager
def faults() -> Iterator[None]:
    """Turn what an operator can put right into a `OperatorError`."""
    try:
        yield
    except (SettingsError, ProfileError, IssuerConfigError) as error:
        raise OperatorError(str(error)) from None
    except (StoreUnavailable, IssuerUnavailable, IssuerFailure) as error:
        raise OperatorError(str(error)) from None
    except UnicodeEncodeError as error:
        raise OperatorError(f"{error.object!a}: not UTF-8; write it in UTF-8") from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        raise OperatorError(f"{where}{error.strerror or error}") from None


@asynccontextmanager
async def store_of(settings: Settings, *, migrate: bool = True) -> AsyncIterator[AdminStore]:
    """The configured store, open for one command; without `migrate` an older schema is refused (PostgreSQL)."""
    database = settings.store.database(migrate=migrate)
    store = await open_store(settings.store.url, base=settings.base, key=settings.store.key(), database=database)
    try:
        yield store
    finally:
        await store.close()


def profiles_of(settings: Settings) -> Mapping[str, Profile]:
    """The configured profiles by name. Raises ProfileError."""
    return load_directory(settings.profiles.directory)


def url_of(settings: Settings, profile: Profile) -> str:
    """The profile's own URL, which nobody can guess."""
    return f"{settings.server.url}/cmp/{profile.id}"


def well_known_url_of(settings: Settings, profile: Profile) -> str:
    """The profile's URL in the form of RFC 9811 §3.4."""
    return f"{settings.server.url}/.well-known/cmp/p/{profile.name}"


def profile_of(settings: Settings, name: str) -> Profile:
    """One profile by its name. Raises OperatorError, ProfileError."""
    known = profiles_of(settings)
    if name not in known:
        raise OperatorError(f"profile {plain(name)}: there is none; there are: {', '.join(known) or 'none'}")
    return known[name]


def reachable(listen: Listen) -> Listen:
    """An address of this machine where something that listens everywhere can be reached."""
    if not listen.wildcard:
        return listen
    return Listen("::1" if ":" in listen.host else "127.0.0.1", listen.port)


@asynccontextmanager
async def issuer_of(settings: Settings, name: str) -> AsyncIterator[Issuer]:
    """A configured issuer with the profiles that issue by it, for one command. Raises IssuerConfigError."""
    issuer = issuers.load(name, settings.issuer_table(name), base=settings.base, url=settings.server.url)
    if isinstance(issuer, ProfileAware):
        for profile in profiles_of(settings).values():
            if profile.issuer == name:
                issuer.use(profile)
    try:
        yield issuer
    finally:
        if isinstance(issuer, Closing):
            await issuer.close()


def confirm(word: str) -> bool:
    """Whether the operator types the word that was asked for."""
    sys.stderr.flush()
    try:
        return sys.stdin.readline().strip() == word
    except UnicodeDecodeError:
        return False


def who() -> str:
    """The user who has run the command, and who has become that user by sudo(8)."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        name = f"user {os.getuid()}"
    alias = plain(os.environ.get("SUDO_USER", ""))[:64]
    return f"{name} for {alias}" if alias else name


def now() -> datetime:
    """The time now: aware, UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)
