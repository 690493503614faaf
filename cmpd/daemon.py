"""The running service: start, reload, drain, stop; settings, issuers, profiles, store, responder and listeners joined.

    load(settings)      everything that can be checked without a store and a socket; what `cmpd check` does
    serve(path)         from start to stop; SIGHUP loads anew, SIGTERM and SIGINT stop

A reload builds everything aside and swaps it in for the next request, or keeps the old and says why.
"""

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import sdnotify
from cryptography import x509
from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from cmpd import issuers
from cmpd.admin import Outcome, Reloads, administer
from cmpd.asn1 import common_name, name_text
from cmpd.exchange import Exchange, Refusal
from cmpd.fingerprint import fingerprint
from cmpd.http_transfer import (
    NO_PROXIES,
    CMPTransfer,
    Listener,
    Proxies,
    Service,
    TLSContext,
    server_tls,
)
from cmpd.http_transfer.tls import Stamp, is_for, make_context, names_of, stamp
from cmpd.issuers import IssuerConfigError
from cmpd.limits import Limits
from cmpd.lint import LinterMissing, Previewer, preload
from cmpd.nodes import SWEEP, Configuration, Membership, issuer_lease
from cmpd.observe import Metrics, record, set_up_logging, version
from cmpd.ordering import OrderDesk
from cmpd.ports import (
    Closing,
    CMPSigner,
    CRLSource,
    Issuer,
    IssuerFailure,
    IssuerUnavailable,
    Node,
    Ordering,
    Paced,
    ProfileAware,
    RevocationSource,
    Revoker,
    Store,
    StoreUnavailable,
    Watched,
)
from cmpd.profile import Profile, ProfileError, load_directory
from cmpd.profile.access import Surroundings, access_faults
from cmpd.rates import Exchanged
from cmpd.responder import Responder, utc_now
from cmpd.revocation import Revocations
from cmpd.revoking import Fate, RevocationDesk, on_silence
from cmpd.settings import Listen, Server, Settings, SettingsError
from cmpd.store import AdminStore, Database, open_store

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 20.0
"""How long a stop waits for requests in flight."""
SWEEP_SECONDS = 5.0
"""How often overdue transactions are ended."""
FORGET_SECONDS = 3600.0
"""How often what is older than `[store] retention` and the like say is deleted."""
KEEP_COUNTERS = timedelta(days=400)
"""How long the number of certificates of a day is kept."""
SIZE_SECONDS = 300.0
"""How often the size of the store is looked at."""
TLS_SECONDS = 60.0
"""How often the files of the TLS certificate and its key are looked at."""
SERVER_CERTIFICATE_AHEAD = timedelta(days=30)
"""How long before its end `cmpd check` speaks of the TLS certificate."""
READY_SECONDS = 5.0
"""How long `/readyz` waits for the store."""
GC_THRESHOLD = 20_000
"""Objects made, less those gone, between two looks for cycles: requests leave none behind, so look seldom."""
SPARE_FILES = 64
"""Open files that are not connections: database, listeners, libraries."""

_SELF_AUTHENTICATED = frozenset({"kur", "rr"})
"""Operations in which a certificate of ours authenticates itself."""

Adjust = Callable[[Settings], Settings]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration with everything it names, checked."""

    settings: Settings
    issuers: dict[str, Issuer]
    profiles: dict[str, Profile]
    tls: TLSContext | None
    """The TLS listener's context; it asks for no client certificates before `_prepare`."""
    store_key: bytes
    database: Database


def load(settings: Settings) -> Loaded:
    """Load what the settings name: store key, TLS certificate, issuers, profiles; the store is not opened.

    Raises SettingsError with one line for every fault.
    """
    faults: list[str] = []
    file = settings.path
    store_key, database = b"", Database()
    try:
        store_key = settings.store.key()
    except SettingsError as error:
        faults += error.faults
    try:
        database = settings.store.database()
    except SettingsError as error:
        faults += error.faults
    if (fault := http_fault(settings.server)) is not None:
        faults.append(f"{file}: server.listen: {fault}")
    context = None
    if (tls := settings.server.tls) is not None:
        try:
            context = server_tls(tls.certificate, tls.key, minimum_version=tls.minimum_version, ciphers=tls.ciphers)
        except (OSError, ValueError) as error:
            faults.append(f"{file}: server.tls: {_tls_fault(tls.certificate, tls.key, error)}")
    made: dict[str, Issuer] = {}
    for name in settings.issuers:
        try:
            made[name] = issuers.load(name, settings.issuer_table(name), base=settings.base, url=settings.server.url)
        except IssuerConfigError as error:
            faults += (f"{file}: {fault}" for fault in error.faults)
    profiles: dict[str, Profile] = {}
    directory = settings.profiles.directory
    try:
        profiles = load_directory(directory)
        if not profiles:
            faults.append(f"{file}: profiles.directory: {directory} has no profile; put a file NAME.toml there")
    except ProfileError as error:
        faults += error.faults
    for profile in profiles.values():
        where = f"{directory / profile.name}.toml"
        if profile.issuer not in settings.issuers:
            known = ", ".join(sorted(settings.issuers)) or "none"
            faults.append(
                f"{where}: issuer: {profile.issuer!r} is no section [issuers.NAME] of {file}; there are: {known}"
            )
        faults += (f"{where}: {fault}" for fault in profile_faults(profile, made))
        faults += (f"{where}: {fault}" for fault in _told(profile, made.get(profile.issuer)))
        around = Surroundings.of(settings.server, profiles, profile.name)
        faults += (f"{where}: {fault}" for fault in access_faults(profile, around))
    default = settings.profiles.default
    if default is not None and profiles and default not in profiles:
        faults.append(
            f"{file}: profiles.default: {default!r} is no profile in {directory}; there are: {', '.join(profiles)}"
        )
    if faults:
        raise SettingsError(faults)
    return Loaded(settings, made, profiles, context, store_key, database)


def _told(profile: Profile, issuer: Issuer | None) -> list[str]:
    """Tell an issuer about a profile that issues by it; what it has against it."""
    if isinstance(issuer, ProfileAware):
        return issuer.use(profile)
    if issuer is not None and profile.issuer_options:
        return [f"issuer_options: the issuer {profile.issuer!r} has no options; leave out the table"]
    return []


def http_fault(server: Server) -> str | None:
    """Say when `listen` would carry plain HTTP beyond this machine, and nobody has said that it may."""
    if server.allow_http:
        return None
    try:
        if server.listen.is_local():
            return None
    except (OSError, ValueError):
        return f"{server.listen}: no such host; write an address"
    return (
        f"{server.listen}: other machines reach it, over plain HTTP. RFC 9483 §6.1 permits that, since CMP messages "
        "protect themselves, but everybody on the way reads names and references and can try to guess the secrets of "
        "enrollment codes; listen on 127.0.0.1 behind a reverse proxy with TLS, or there and with TLS in [server.tls], "
        "or set server.allow_http = true"
    )


def _tls_fault(certificate: Path, key: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    if reason.startswith("ciphers: "):
        return f"{reason}; `openssl ciphers -tls1_2 LIST` says what it makes of them"
    return f"{certificate} with {key}: {reason}; both must be PEM and belong together"


async def client_anchors(loaded: Loaded) -> tuple[bytes, ...]:
    """All certificates that TLS clients' certificates may be under or be, DER, each once.

    Those that profiles trust; and the issuer's chain, where our own certificates are renewed or revoked by themselves.
    """
    found: dict[bytes, None] = {}
    for profile in loaded.profiles.values():
        anchors = profile.tls_anchors
        found |= dict.fromkeys(anchors)
        if anchors or not _SELF_AUTHENTICATED.isdisjoint(profile.operations):
            found |= dict.fromkeys(await loaded.issuers[profile.issuer].chain())
    return tuple(found)


async def _ask_clients(loaded: Loaded) -> Loaded:
    """Let the TLS listener ask for the certificates that profiles take. Raises SettingsError."""
    if loaded.tls is None or not (anchors := await client_anchors(loaded)):
        return loaded
    config = replace(loaded.tls.config, anchors=anchors)
    try:
        return replace(loaded, tls=await asyncio.to_thread(make_context, config))
    except (OSError, ValueError) as error:
        raise SettingsError(
            [f"{loaded.settings.path}: server.tls: {_tls_fault(config.certificate, config.key, error)}"]
        ) from error


def proxies_of(settings: Settings) -> Proxies:
    """Who may speak for clients."""
    proxy = settings.server.proxy
    if proxy is None:
        return NO_PROXIES
    return Proxies.of(
        proxy.addresses,
        proxy.certificate,
        certificate_header=proxy.certificate_header,
        chain_header=proxy.chain_header,
        address_header=proxy.client_address,
    )


def tls_notices(loaded: Loaded, now: datetime) -> list[str]:
    """What an operator should see to about the TLS listener's certificate: it ends soon, or is for another host."""
    tls, server = loaded.tls, loaded.settings.server
    if tls is None:
        return []
    where = f"{loaded.settings.path}: server.tls: {tls.config.certificate}"
    found = []
    ends = tls.server.not_valid_after_utc
    if ends <= now + SERVER_CERTIFICATE_AHEAD:
        tense = "ended" if ends <= now else "ends"
        found.append(
            f"{where}: the certificate {tense} at {ends:%Y-%m-%dT%H:%M:%SZ}; renew it, cmpd takes it up itself"
        )
    host = urlsplit(server.url).hostname or ""
    if "url" in server.model_fields_set and not is_for(tls.server, host):
        names = ", ".join(sorted(set().union(*names_of(tls.server)))) or "no name at all"
        found.append(f"{where}: the certificate is for {names}, not for {host} of server.url; clients will refuse it")
    return found


def profile_faults(profile: Profile, issuers: Mapping[str, Issuer]) -> list[str]:
    """What a profile asks for that its issuer or this installation cannot do: `key: fault`, one line each."""
    issuer = issuers.get(profile.issuer)
    capable = getattr(issuer, "signature_algorithms", None)
    faults = [] if capable is None else profile.signature_faults(capable)
    if profile.lint == "enforce" and issuer is not None and not isinstance(issuer, Previewer):
        faults.append(
            f"lint: 'enforce' lints before signing, and the issuer {profile.issuer!r} does not show what it will sign; "
            "write 'off'"
        )
    elif profile.lint != "off":
        try:
            preload(
                profile.public_trust or "pkix", validation_type=profile.validation_type, generation=profile.generation
            )
        except LinterMissing as error:
            if profile.lint == "enforce":
                faults.append(str(error))
    return faults


def public_refusal(refusal: Refusal) -> dict[str, Any]:
    """A refusal for an operator's eyes, without the request."""
    return {
        "id": refusal.id,
        "at": f"{refusal.at:%Y-%m-%dT%H:%M:%SZ}",
        "profile": refusal.profile,
        "operation": refusal.operation,
        "transaction_id": refusal.transaction_id,
        "credential": refusal.credential,
        "address": refusal.address,
        "fail_info": refusal.fail_info,
        "reason": refusal.reason,
        "private": refusal.private,
        "findings": [
            {"rule": one.rule, "field": one.field, "ok": one.ok, "text": one.text} for one in refusal.findings
        ],
    }


def responder_of(
    loaded: Loaded,
    store: Store,
    observe: Callable[[Exchange], None],
    *,
    revocations: RevocationSource | None = None,
    before: Responder | None = None,
    desk: OrderDesk | None = None,
) -> Responder:
    """Make the responder of a configuration; it goes on with what the one `before` it remembers."""
    return Responder(
        profiles=loaded.profiles,
        default=loaded.settings.profiles.default,
        issuers=loaded.issuers,
        store=store,
        limits=loaded.settings.limits,
        observe=observe,
        revocations=revocations,
        before=before,
        desk=desk,
        signer=cmp_signer(loaded),
    )


def cmp_signer(loaded: Loaded) -> CMPSigner | None:
    """Who signs CMP answers for issuers that cannot: the named issuer, else the only one that can."""
    named = loaded.settings.server.cmp_signer
    found = [
        one for name, one in loaded.issuers.items() if isinstance(one, CMPSigner) and (named is None or name == named)
    ]
    return found[0] if len(found) == 1 else None


async def configuration_of(loaded: Loaded) -> Configuration:
    """Fingerprints of what all processes on a store should have in common: what is in use, without paths."""
    key, server, store = loaded.store_key, loaded.settings.server, loaded.settings.store
    issuers_ = {
        name: (loaded.settings.issuers[name].type, getattr(one, "config", None), await one.chain())
        for name, one in loaded.issuers.items()
    }
    whole = {
        "server": (server.url, server.allow_http, server.cmp_signer, server.proxy),
        "tls": server.tls and (server.tls.minimum_version, server.tls.ciphers),
        "store": (store.retention, store.refusals),
        "default": loaded.settings.profiles.default,
        "limits": loaded.settings.limits,
        "issuers": issuers_,
    }
    return Configuration(
        fingerprint(key, whole), {name: fingerprint(key, one) for name, one in loaded.profiles.items()}
    )


async def _prepare(responder: Responder, loaded: Loaded) -> Loaded:
    """Make what serving needs of the issuers. Raises SettingsError."""
    try:
        await responder.prepare()
    except (IssuerUnavailable, IssuerFailure) as error:
        raise SettingsError([f"{loaded.settings.path}: issuers: {error}"]) from error
    faults = [fault for profile in loaded.profiles.values() if (fault := await _other_ca(profile, loaded)) is not None]
    if faults:
        raise SettingsError(faults)
    return await _ask_clients(loaded)


async def _other_ca(profile: Profile, loaded: Loaded) -> str | None:
    """Say when the profile names a CA (issuer_ca) that is not the one which its issuer issues from."""
    if profile.issuer_ca is None:
        return None
    chain = await loaded.issuers[profile.issuer].chain()
    if not chain:  # each certificate brings its own, and the issuer knows its CAs by their names
        return None
    subject = x509.load_der_x509_certificate(chain[0]).subject.public_bytes()
    known = {name_text(subject), common_name(subject)}
    if profile.issuer_ca in known:
        return None
    file = loaded.settings.profiles.directory / f"{profile.name}.toml"
    return (
        f"{file}: issuer_ca: {profile.issuer_ca!r} is not the CA of [issuers.{profile.issuer}], which is "
        f"{name_text(subject)!r}; correct or leave out the key"
    )


def check(path: Path) -> Loaded:
    """Load a configuration file exactly as `serve` does, without opening the store. Raises SettingsError."""
    loaded = load(Settings.load(path))
    responder = responder_of(loaded, cast("Store", None), lambda _: None)
    return asyncio.run(_prepare(responder, loaded))


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a daemon listens, ports resolved."""

    cmp: Listen
    tls: Listen | None
    admin: Listen


class Daemon:
    """One running service."""

    def __init__(
        self,
        path: Path,
        *,
        adjust: Adjust | None = None,
        ready: Callable[[Addresses], None] | None = None,
        drain_seconds: float = DRAIN_SECONDS,
        sweep_seconds: float = SWEEP_SECONDS,
        tls_seconds: float = TLS_SECONDS,
        worker: int | None = None,
    ) -> None:
        self._path = path
        self._adjust = adjust
        self._ready = ready
        self._drain_seconds = drain_seconds
        self._sweep_seconds = sweep_seconds
        self._tls_seconds = tls_seconds
        self._worker = worker
        """Its number among several on the same addresses; admin listener and signals are a supervisor's then."""
        self._tls_seen: Stamp = ()
        self._systemd = sdnotify.SystemdNotifier() if "NOTIFY_SOCKET" in os.environ else None
        self._stop = asyncio.Event()
        self.reloads = Reloads(self._load_and_tell)
        self._draining = False
        self.metrics = Metrics(CollectorRegistry())
        self._closing: set[asyncio.Task[None]] = set()
        self._log: FilteringBoundLogger
        self._loaded: Loaded
        self._store: AdminStore
        self._responder: Responder
        self._revocations: Revocations
        self._desk: OrderDesk
        self._membership: Membership
        self._exchanged = Exchanged()
        self._revoking: RevocationDesk
        self._transfer: CMPTransfer
        self._admin: Listener

    async def run(self) -> None:
        """Start, serve until SIGTERM or SIGINT, stop. Raises SettingsError or StoreUnavailable when it cannot start."""
        loop = asyncio.get_running_loop()
        loaded = load(self._settings())
        settings = loaded.settings
        self._log = set_up_logging(settings.log.format, settings.log.level, worker=self._worker)
        _allow_connections(settings.limits.connections, self._log)
        self._store = await open_store(
            settings.store.url,
            base=settings.base,
            key=loaded.store_key,
            refusals=settings.store.refusals,
            database=loaded.database,
        )
        tasks: list[asyncio.Task[None]] = []
        try:
            self._membership = Membership(
                self._store, version(), share=self._share, hear=self._hear_others, differ=self._tell_differences
            )
            self._revocations = self._revocations_of(settings.limits)
            self._desk, self._revoking = self._desk_of(loaded), self._revoking_of(loaded)
            self._responder = responder_of(
                loaded, self._store, self._observe, revocations=self._revocations, desk=self._desk
            )
            self._loaded = loaded = await _prepare(self._responder, loaded)
            self._transfer = CMPTransfer(
                self._service(loaded, self._responder),
                settings.limits,
                self._refused,
                suspected=self._suspected,
                handshake_failed=self._handshake_failed,
            )
            self._transfer.proxies = proxies_of(settings)
            self._admin = Listener(functools.partial(administer, self), settings.limits, lambda *_: None)
            try:
                addresses = await self._listen(loaded)
                self.metrics.loaded(loaded.profiles)
                self._note_tls(loaded.tls)
                await self._warn_of_nobody(loaded)
                await self._join(loaded)
                self._desk.start()
                self._revoking.start()
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, self.stop)
                if self._worker is None:
                    loop.add_signal_handler(signal.SIGHUP, self.reload)
                tasks += map(
                    loop.create_task,
                    (
                        self.reloads.run(),
                        self._every(self._sweep_seconds, self._sweep),
                        self._every(FORGET_SECONDS, self._forget),
                        self._every(SIZE_SECONDS, self._measure),
                        self._every(self._tls_seconds, self._watch_tls),
                        self._membership.run(),
                        self._watchdog(),
                    ),
                )
                self._log.info(
                    "started" if self._worker is None else "worker started",
                    cmp=str(addresses.cmp),
                    tls=str(addresses.tls or ""),
                    admin=str(addresses.admin),
                    profiles=", ".join(loaded.profiles),
                )
                self._notify("READY=1")
                if self._ready is not None:
                    self._ready(addresses)
                await self._stop.wait()
                self._notify("STOPPING=1")
                if self._worker is None:
                    self._log.info("stopping")
            finally:
                self._draining = True
                if not await self._transfer.stop(self._drain_seconds):
                    self._log.warning("requests were cut off", seconds=self._drain_seconds)
                for task in (*tasks, *self._closing):
                    task.cancel()
                await asyncio.gather(*tasks, *self._closing, return_exceptions=True)
                await self._admin.stop(1.0)
                await self._desk.stop()
                await self._revoking.stop()
                await self._membership.leave()
                await self._revocations.close()
                await _close(self._loaded.issuers)
        finally:
            await self._store.close()
        self._log.info("stopped" if self._worker is None else "worker stopped")

    def stop(self) -> None:
        """Begin to stop, as SIGTERM does."""
        self._stop.set()

    def reload(self) -> None:
        """Begin to load the configuration anew, as SIGHUP does."""
        self.reloads.begin()

    def _notify(self, state: str) -> None:
        """Tell systemd (sd_notify(3)) when it has started us."""
        if self._systemd is not None:
            self._systemd.notify(state)

    def _settings(self) -> Settings:
        settings = Settings.load(self._path)
        return settings if self._adjust is None else self._adjust(settings)

    async def _warn_of_nobody(self, loaded: Loaded) -> None:
        """Say which profiles are for a service user that nobody is yet; the store may know one any moment."""
        for profile in loaded.profiles.values():
            user = profile.service_user
            if user is not None and not await self._store.service_users(user):
                self._log.warning(
                    "nobody can use the profile: its service user has no certificate",
                    profile=profile.name,
                    service_user=user,
                    advice=f"cmpd service-user add {user} --certificate FILE",
                )

    def _revocations_of(self, limits: Limits) -> Revocations:
        return Revocations(
            size=limits.crl_size,
            seconds=limits.revocation_seconds,
            entries=limits.tracked_addresses,
            limits=limits,
            observe=self.metrics.revocation,
        )

    def _desk_of(self, loaded: Loaded) -> OrderDesk:
        ordering = {name: one for name, one in loaded.issuers.items() if isinstance(one, Ordering)}
        return OrderDesk(self._store, ordering, utc_now, self.metrics.order, self._sees_to)

    def _sees_to(self, issuer: str) -> bool:
        return self._membership.holds(issuer_lease(issuer))

    # -------------------------------------------------------------------------------------- with other processes

    async def _join(self, loaded: Loaded) -> None:
        """Say what is in use, and see to what nobody else does."""
        names = [name for name, one in loaded.issuers.items() if isinstance(one, Ordering | Revoker | Watched)]
        leases = [SWEEP, *map(issuer_lease, names)]
        self._membership.configure(await configuration_of(loaded), leases)
        for name in leases:
            self.metrics.lease(name, functools.partial(self._membership.holds, name))
        try:
            await self._membership.look()
        except StoreUnavailable as error:  # it is tried again a second later
            self._log.warning("the store is not available", reason=str(error))

    def _share(self, processes: int) -> Mapping[str, float]:
        return self._exchanged.tell(self._responder.authenticator.buckets, processes, time.monotonic())

    def _hear_others(self, others: Sequence[Node]) -> None:
        """Count what others have counted."""
        authenticator = self._responder.authenticator
        # for good: who is not heard of now may have counted in the store, and may be back any moment
        authenticator.several = authenticator.several or bool(others)
        buckets = authenticator.buckets
        for one in others:
            self._exchanged.read(one.id, one.counts, buckets, time.monotonic())
        self._exchanged.keep([one.id for one in others])
        self.metrics.nodes(1 + len(others))
        _pace(self._loaded.issuers, 1 + len(others))

    def _tell_differences(self, differing: Mapping[str, str]) -> None:
        """Show where processes have different configurations; one of them says so in the log."""
        self.metrics.differs(differing)
        if not self._membership.holds(SWEEP):
            return
        for profile, who in differing.items():
            self._log.warning(
                "processes on the store have different configurations",
                profile=profile,
                fingerprints=who,
                advice="make the files the same, then cmpd reload; see cmpd node list",
            )
        if not differing:
            self._log.info("all processes on the store have the same configuration again")

    def _revoking_of(self, loaded: Loaded) -> RevocationDesk:
        return RevocationDesk(
            self._store, loaded.issuers, utc_now, self.metrics.outside_revocation, sees_to=self._sees_to
        )

    def _later(self, closing: Coroutine[Any, Any, None]) -> None:
        """Let go of what requests in flight still use, when they must have ended."""

        async def wait() -> None:
            try:
                await asyncio.sleep(self._drain_seconds)
            finally:
                await closing

        task = asyncio.get_running_loop().create_task(wait())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _service(self, loaded: Loaded, responder: Responder) -> Service:
        store = self._store
        return Service(
            responder.answer,
            frozenset(loaded.profiles),
            {profile.id: profile.name for profile in loaded.profiles.values()},
            loaded.settings.profiles.default is not None,
            {name: _crl_of(issuer, store) for name, issuer in loaded.issuers.items() if isinstance(issuer, CRLSource)},
        )

    async def _listen(self, loaded: Loaded) -> Addresses:
        """Open all listeners. Raises SettingsError naming key and address."""
        server, admin = loaded.settings.server, loaded.settings.admin

        async def open_at(key: str, listener: Listener, at: Listen, tls: TLSContext | None = None) -> Listen:
            try:
                return Listen(*await listener.listen(at.host, at.port, tls, shared=self._worker is not None))
            except OSError as error:
                raise listen_fault(loaded.settings.path, key, at, error) from None

        return Addresses(
            await open_at("server.listen", self._transfer, server.listen),
            None
            if server.tls is None
            else await open_at("server.tls.listen", self._transfer, server.tls.listen, loaded.tls),
            admin.listen if self._worker is not None else await open_at("admin.listen", self._admin, admin.listen),
        )

    # -------------------------------------------------------------------------------------- seen from outside

    def _observe(self, exchange: Exchange) -> None:
        try:
            record(self._log, exchange)
            self.metrics.exchange(exchange)
        except Exception:
            logger.exception("an exchange could not be recorded")

    def _refused(self, status: int, address: str, target: str, reason: str) -> None:
        self.metrics.refusal(status)
        self._log.info("refused", status=status, address=address, target=target[:200], reason=reason)

    def _suspected(self, status: int, address: str, target: str, reason: str) -> None:
        self.metrics.refusal(status)
        self._log.warning("refused", status=status, address=address, target=target[:200], reason=reason)

    def _handshake_failed(self, address: str, kind: str, reason: str) -> None:
        self.metrics.handshake_failure(kind)
        self._log.info("TLS handshake failed", address=address, kind=kind, reason=reason)

    # -------------------------------------------------------------------------------------- for the operator

    async def exposition(self) -> tuple[str, bytes]:
        """See `admin.Administered`."""
        return self.metrics.exposition()

    async def latest_refusals(self) -> list[dict[str, Any]]:
        """See `admin.Administered`."""
        return [public_refusal(one) for one in self._responder.refusals.latest()]

    async def unready(self) -> str | None:
        """See `admin.Administered`."""
        if self._draining:
            return "stopping"
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._store.ready()
        except TimeoutError:
            return "the store does not answer"
        except StoreUnavailable as error:
            self._log.warning("not ready", reason=str(error))
            return "the store is not available"
        return None

    # -------------------------------------------------------------------------------------- beside the requests

    async def _every(self, seconds: float, job: Callable[[], Awaitable[None]]) -> None:
        """Do a job now and again; one that fails is reported and tried again."""
        while True:
            try:
                await job()
            except StoreUnavailable as error:
                self._log.warning("the store is not available", reason=str(error))
            except Exception:
                logger.exception("a background job has failed")
            await asyncio.sleep(seconds)

    async def _load_and_tell(self) -> Outcome:
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        outcome = await self._load_anew()
        self._notify("READY=1")
        return replace(outcome, profiles=list(self._loaded.profiles))

    async def _load_anew(self) -> Outcome:
        """Load the configuration beside the one in use, and put it into use only if all of it is right."""
        revocations = self._revocations
        try:
            loaded = await asyncio.to_thread(lambda: load(self._settings()))
            if loaded.settings.limits != self._loaded.settings.limits:
                revocations = self._revocations_of(loaded.settings.limits)
            desk, revoking = self._desk_of(loaded), self._revoking_of(loaded)
            responder = responder_of(
                loaded, self._store, self._observe, revocations=revocations, before=self._responder, desk=desk
            )
            loaded = await _prepare(responder, loaded)
            await self._warn_of_nobody(loaded)
        except Exception as error:  # noqa: BLE001  whatever it is, the old configuration goes on serving
            self.metrics.reload(success=False)
            if isinstance(error, SettingsError):
                self._log.error("reload failed, the old configuration stays", faults=list(error.faults))
                return Outcome(list(error.faults))
            self._log.exception("reload failed, the old configuration stays")
            return Outcome(["an internal error occurred; the log has it"])
        old, new = self._loaded.settings, loaded.settings
        self._log = set_up_logging(new.log.format, new.log.level, worker=self._worker)
        at_next_start = []
        for key, before, after in (
            ("server.listen", old.server.listen, new.server.listen),
            ("server.tls.listen", old.server.tls and old.server.tls.listen, new.server.tls and new.server.tls.listen),
            ("admin.listen", old.admin.listen, new.admin.listen),
            ("server.workers", old.server.workers, new.server.workers),
            ("store.url", old.store.url, new.store.url),
            ("store.key_file", self._loaded.store_key, loaded.store_key),
            ("store.refusals", old.store.refusals, new.store.refusals),
            ("store.password_file", self._loaded.database.password, loaded.database.password),
            ("store.connections", old.store.connections, new.store.connections),
            ("store.statement_timeout", old.store.statement_timeout, new.store.statement_timeout),
            ("store.statement_cache", old.store.statement_cache, new.store.statement_cache),
        ):
            if before != after:
                at_next_start.append(key)
                self._log.warning("a change takes effect at the next start only", key=key)
        _pace(loaded.issuers, 1 + len(self._membership.others))
        self._transfer.service = self._service(loaded, responder)
        self._responder = responder
        await self._desk.stop()  # what it was submitting is found so, and looked for
        await self._revoking.stop()  # what it was asking for is asked for again
        self._desk, self._revoking = desk, revoking
        self._desk.start()
        self._revoking.start()
        self._later(_close(self._loaded.issuers))
        if revocations is not self._revocations:
            self._later(self._revocations.close())
            self._revocations = revocations
        self._transfer.limits = self._admin.limits = new.limits
        self._transfer.proxies = proxies_of(new)
        if loaded.tls is not None and self._transfer.tls is not None:
            self._transfer.tls = loaded.tls
        self._loaded = loaded
        self.metrics.loaded(loaded.profiles)
        self._note_tls(loaded.tls)
        self.metrics.reload(success=True)
        await self._join(loaded)
        self._log.info("reloaded", profiles=", ".join(loaded.profiles))
        return Outcome([], at_next_start)

    def _note_tls(self, context: TLSContext | None) -> None:
        """Remember which files the TLS listener's certificate is from, and show when it ends."""
        if context is not None:
            self._tls_seen = context.files
            self.metrics.tls_certificate(context.server.not_valid_after_utc)

    async def _watch_tls(self) -> None:
        """Take up a renewed TLS certificate without being asked; a pair that does not fit keeps the old in use."""
        context = self._loaded.tls
        if context is None:
            return
        config = context.config
        seen = await asyncio.to_thread(stamp, config.certificate, config.key)
        if seen == self._tls_seen:
            return
        self._tls_seen = seen  # a fault is reported once
        try:
            renewed = await asyncio.to_thread(context.again)
        except (OSError, ValueError) as error:
            fault = _tls_fault(config.certificate, config.key, error)
            self._log.error("the TLS certificate has changed and cannot be used, the old one stays", fault=fault)
            return
        if self._loaded.tls is not context:  # a reload was faster
            return
        self._loaded = replace(self._loaded, tls=renewed)
        if self._transfer.tls is not None:
            self._transfer.tls = renewed
        self._note_tls(renewed)
        self._log.info(
            "TLS certificate renewed",
            certificate=str(config.certificate),
            expires=f"{renewed.server.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        )

    async def _sweep(self) -> None:
        """End transactions whose certConf is overdue."""
        if not self._membership.holds(SWEEP):
            return
        now = datetime.now(UTC)
        fates = {name: on_silence(issuer) for name, issuer in self._loaded.issuers.items()}
        outside = {name for name, fate in fates.items() if fate is Fate.there}
        keep = {name for name, fate in fates.items() if fate is Fate.kept}
        while ended := await self._store.expire(now, outside=outside, keep=keep):  # a bounded number at a time
            for transaction in ended:
                self._log.info(
                    "transaction expired",
                    profile=transaction.profile,
                    transaction_id=transaction.transaction_id.hex(),
                    serial=", ".join(f"{serial:x}" for serial in transaction.serials),
                    **({"kept": ", ".join(f"{serial:x}" for serial in transaction.kept)} if transaction.kept else {}),
                )
            self.metrics.expired(len(ended))

    async def _forget(self) -> None:
        """Delete transactions that ended long ago."""
        if not self._membership.holds(SWEEP):
            return
        count = await self._store.forget(datetime.now(UTC) - self._loaded.settings.store.retention)
        if count:
            self._log.info("old transactions deleted", count=count)
        now, keep = datetime.now(UTC), self._loaded.settings.store
        pruned = await self._store.prune(
            certificates=None if keep.certificate_retention is None else now - keep.certificate_retention,
            orders=None if keep.order_retention is None else now - keep.order_retention,
            counters=now - KEEP_COUNTERS,
        )
        if pruned.certificates or pruned.orders:
            self._log.info("old records deleted", certificates=pruned.certificates, orders=pruned.orders)

    async def _measure(self) -> None:
        """Show how large the store is."""
        self.metrics.store_size(await self._store.size())

    async def _watchdog(self) -> None:
        """Tell systemd that the event loop turns (WatchdogSec=)."""
        interval = os.environ.get("WATCHDOG_USEC", "")
        if not interval.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return
        while True:
            self._notify("WATCHDOG=1")
            await asyncio.sleep(int(interval) / 2_000_000)


async def _close(issuers_: Mapping[str, Issuer]) -> None:
    """Let issuers let go of their connections."""
    for one in issuers_.values():
        if isinstance(one, Closing):
            await one.close()


def _pace(issuers_: Mapping[str, Issuer], processes: int) -> None:
    """Tell issuers how many processes ask them."""
    for one in issuers_.values():
        if isinstance(one, Paced):
            one.share(processes)


_LISTEN_FAULTS = {
    errno.EADDRINUSE: "address already in use; choose another, or stop what uses it",
    errno.EADDRNOTAVAIL: "no such address on this machine; choose another",
    errno.EACCES: "permission denied; choose a port above 1023, or grant CAP_NET_BIND_SERVICE",
}


def listen_fault(path: Path, key: str, at: Listen, error: OSError) -> SettingsError:
    """Say why nobody can listen there, and what to do."""
    reason = _LISTEN_FAULTS.get(error.errno or 0) or os.strerror(error.errno or 0).lower()
    if error.errno is None or error.errno < 0:
        reason = "no such host; write an address"
    return SettingsError([f"{path}: {key}: {at}: {reason}"])


def _crl_of(issuer: CRLSource, store: Store) -> Callable[[], Coroutine[Any, Any, bytes]]:
    async def crl() -> bytes:
        return await issuer.crl(store, datetime.now(UTC))

    return crl


def _allow_connections(connections: int, log: FilteringBoundLogger) -> None:
    """Raise the limit of open files to what `limits.connections` needs, as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning("fewer open files allowed than limits.connections needs", allowed=allowed, needed=needed)


def serve(path: Path, *, adjust: Adjust | None = None, ready: Callable[[Addresses], None] | None = None) -> None:
    """Serve a configuration file in this process until SIGTERM or SIGINT.

    `adjust` may change the settings of each load; `ready` is called once it listens. Raises SettingsError or
    StoreUnavailable when it cannot start.
    """
    run(Daemon(path, adjust=adjust, ready=ready).run)
    sys.stderr.flush()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run what serves in an event loop of its own, as fast as can be had."""
    os.umask(0o077)
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415  not available everywhere

        loop_factory = uvloop.new_event_loop

    async def settled() -> None:
        gc.freeze()  # what has been imported stays
        gc.set_threshold(GC_THRESHOLD, 50, 50)
        await main()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(settled())
