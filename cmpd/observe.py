"""What can be seen from outside: one log record per exchange, and Prometheus metrics.

Records go to standard error, JSON for machines or text for people. Whatever a client chose (references, subjects,
paths) is cut to a bounded length and escaped, so that it cannot forge a record; label values of metrics come from
closed sets, so that it cannot make new time series.
"""

import contextlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from cmpd.asn1 import BodyType
from cmpd.asn1.status import PKIFailureInfo
from cmpd.exchange import Exchange

SHOWN = 512
"""The longest text of a client that is logged, in characters."""
OUTCOMES = frozenset(
    {"accepted", "grantedWithMods", "rejection", "error", "confirmed", "rejected", "repeated", "waiting"}
)
"""The outcomes of exchanges that metrics know."""

_FIELDS = (
    "operation",
    "profile",
    "transaction_id",
    "credential",
    "client",
    "outcome",
    "fail_info",
    "reason",
    "private",
    "limit",
    "serial",
    "seat",
    "lint",
    "normalised",
    "address",
)
_OURS = frozenset({"systemUnavail", "systemFailure"})
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# C0, DEL, C1, line and paragraph separators, bidirectional controls, lone surrogates
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    """Replace every character that could move the cursor, end the line or turn the text around."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str):
            if key == "exception":
                event[key] = "\n".join("    " + escape(line) for line in value.split("\n"))
            elif _UNSAFE.search(value):
                event[key] = escape(value)
    return event


_encode = json.JSONEncoder(default=str).encode


def _name_worker(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if _form.worker is not None:
        event["worker"] = _form.worker
    return event


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _encode(event)  # ASCII only: every character that matters is escaped


class _StandardError:
    """Writes each record with one system call; a full disk or a closed pipe costs the record, not the exchange."""

    __slots__ = ()

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{line}\n".encode())

    debug = info = warning = error = critical = exception = fatal = log = msg


class _RecordHandler(logging.Handler):
    """Brings the records of libraries (asyncio, aiohttp) into the same form."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        extra: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        self._log.log(record.levelno, record.getMessage()[:SHOWN], logger=record.name, **extra)


@dataclass(slots=True)
class _Form:
    """How the process logs at present; structlog's own configuration is one for the process too."""

    direct: bool = False
    """Records of exchanges are written as JSON without structlog's chain, which took half of what a record costs."""
    worker: int | None = None
    """Which worker it is that writes, where there are several; a field of every record then."""


_form = _Form()
_STANDARD_ERROR = _StandardError()
_string = json.encoder.encode_basestring_ascii


def _line(exchange: Exchange) -> str:
    """The same record that structlog's chain would write at level info."""
    parts = []
    for name in _FIELDS:
        value = getattr(exchange, name)
        if value is True:
            parts.append(f'"{name}": true, ')
        elif value:
            parts.append(f'"{name}": {_string(value if len(value) <= SHOWN else f"{value[:SHOWN]}…")}, ')
    now = datetime.now(UTC).isoformat().removesuffix("+00:00")
    ms = round(exchange.ms, 2)
    if _form.worker is not None:
        parts.append(f'"worker": {_form.worker}, ')
    return f'{{{"".join(parts)}"ms": {ms}, "event": "exchange", "level": "info", "timestamp": "{now}Z"}}'


def set_up_logging(form: str = "auto", level: str = "info", *, worker: int | None = None) -> FilteringBoundLogger:
    """Direct all records of the process to standard error and return its logger.

    `form` is "json", "console", or "auto": JSON unless standard error is a terminal that is not systemd's. `worker` is
    the number of this process where there are several.
    """
    _form.worker = worker
    console = form == "console" or (form == "auto" and "JOURNAL_STREAM" not in os.environ and sys.stderr.isatty())
    _form.direct = not console and _LEVELS[level] <= logging.INFO
    processors: list[Any] = [
        _name_worker,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if console:
        colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        processors += [_escape_values, structlog.dev.ConsoleRenderer(colors=colours, sort_keys=False)]
    else:
        processors.append(_json)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _STANDARD_ERROR,
        cache_logger_on_first_use=False,
    )
    log: FilteringBoundLogger = structlog.get_logger().bind()
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _RecordHandler):
            root.removeHandler(handler)
    root.addHandler(_RecordHandler(log))
    root.setLevel(_LEVELS[level])
    for noisy in ("asyncio", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return log


def record(log: FilteringBoundLogger, exchange: Exchange) -> None:
    """Write the record of one exchange; empty fields are left out."""
    ours = exchange.fail_info in _OURS and not exchange.limit
    if _form.direct and not exchange.exception and not ours:
        _STANDARD_ERROR.msg(_line(exchange))
        return
    fields: dict[str, Any] = {}
    for name in _FIELDS:
        value = getattr(exchange, name)
        if value:
            fields[name] = f"{value[:SHOWN]}…" if value is not True and len(value) > SHOWN else value
    fields["ms"] = round(exchange.ms, 2)
    if exchange.exception is not None:
        log.error("exchange", exc_info=exchange.exception, **fields)
    elif ours:
        log.error("exchange", **fields)
    else:
        log.info("exchange", **fields)


def version() -> str:
    """The running version."""
    try:
        return metadata.version("cmpd")
    except metadata.PackageNotFoundError:
        return "unknown"


class Metrics:
    """The Prometheus metrics of one daemon, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry, profiles: Iterable[str] = ()) -> None:
        self.registry = registry
        self.profiles = frozenset(profiles)
        """The profiles there are; every other name is counted as the empty one."""
        self._operations = {kind.name for kind in BodyType}
        self._fail_infos = {bit.name for bit in PKIFailureInfo}
        self._cache: dict[tuple[str, str, str, str], tuple[Callable[[], None], Callable[[float], None]]] = {}
        self._exchanges = Counter(
            "cmpd_exchanges",
            "Answered CMP messages.",
            ["profile", "operation", "outcome", "fail_info"],
            registry=registry,
        )
        self._seconds = Histogram(
            "cmpd_exchange_seconds",
            "Time from a CMP message's arrival to its answer.",
            ["profile", "operation"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self._normalised = Counter("cmpd_normalised", "CMP messages that were BER and not DER.", registry=registry)
        self._refusals = Counter(
            "cmpd_http_refusals", "HTTP requests refused before CMP, by status.", ["status"], registry=registry
        )
        self._handshakes = Counter(
            "cmpd_tls_handshake_failures", "TLS handshakes that failed, by reason.", ["reason"], registry=registry
        )
        self._tls_expiry: Gauge | None = None
        self._limited = Counter(
            "cmpd_limited",
            "CMP messages refused because a limit was reached, by the limit's key.",
            ["profile", "limit"],
            registry=registry,
        )
        self._orders = Counter(
            "cmpd_orders",
            "What has become of certificates on order; `unavailable` counts an issuer that could not be reached.",
            ["issuer", "outcome"],
            registry=registry,
        )
        self._outside = Counter(
            "cmpd_outside_revocations",
            "What has become of certificates of issuers over there: revoked there (done), asked, later, held; noticed"
            " as revoked there by others; kept or revoked (uncollected) when nobody collected them; `unavailable`"
            " counts an issuer that could not be reached.",
            ["issuer", "outcome"],
            registry=registry,
        )
        self._revocation = Counter(
            "cmpd_revocation_checks",
            "What CRLs and OCSP said of certificates of other PKIs, and downloads of theirs.",
            ["source", "outcome"],
            registry=registry,
        )
        self._reloads = Counter("cmpd_reloads", "Configuration reloads by result.", ["result"], registry=registry)
        self._store_size = Gauge(
            "cmpd_store_size_bytes",
            "How large the database is on the disk, as of the last five minutes.",
            registry=registry,
        )
        self._loaded = Gauge(
            "cmpd_config_loaded_timestamp_seconds",
            "When the configuration in use was loaded, in seconds since 1970.",
            registry=registry,
        )
        self._expired = Counter(
            "cmpd_expired_transactions", "Transactions ended because no certConf came.", registry=registry
        )
        self._linted = Counter(
            "cmpd_linted", "Exchanges in which the linter had something to say.", ["profile"], registry=registry
        )
        self._nodes = Gauge("cmpd_nodes", "Processes that serve from the store, this one included.", registry=registry)
        self._leases = Gauge(
            "cmpd_lease_held",
            "1 when this process is the one that sees to it: `sweep` (what is overdue), and `issuer NAME` each.",
            ["name"],
            registry=registry,
        )
        self._differs = Gauge(
            "cmpd_config_differs",
            '1 when processes have different configurations of a profile; profile "" is all the rest.',
            ["profile"],
            registry=registry,
        )
        for result in ("success", "failure"):
            self._reloads.labels(result)
        Info("cmpd_build", "The running version.", registry=registry).info({"version": version()})
        ProcessCollector(registry=registry)

    def exchange(self, exchange: Exchange) -> None:
        """Count one exchange."""
        key = (exchange.profile, exchange.operation, exchange.outcome, exchange.fail_info)
        children = self._cache.get(key)
        if children is None:
            children = self._children(*key)
        children[0]()
        children[1](exchange.ms / 1000)
        if exchange.normalised:
            self._normalised.inc()
        if exchange.limit:
            self._limited.labels(exchange.profile if exchange.profile in self.profiles else "", exchange.limit).inc()
        if exchange.lint:
            self._linted.labels(exchange.profile if exchange.profile in self.profiles else "").inc()

    def _children(
        self, profile: str, operation: str, outcome: str, fail_info: str
    ) -> tuple[Callable[[], None], Callable[[float], None]]:
        known = (
            profile if profile in self.profiles else "",
            operation if operation in self._operations else "unknown",
            outcome if outcome in OUTCOMES else "other",
            fail_info if fail_info in self._fail_infos else "",
        )
        children = self._cache.get(known)
        if children is None:
            children = self._exchanges.labels(*known).inc, self._seconds.labels(*known[:2]).observe
            self._cache[known] = children
        return children

    def refusal(self, status: int) -> None:
        """Count a request that got an HTTP status instead of a CMP answer."""
        self._refusals.labels(str(status)).inc()

    def order(self, issuer: str, outcome: str) -> None:
        """Count a step of an order."""
        self._orders.labels(issuer, outcome).inc()

    def outside_revocation(self, issuer: str, outcome: str) -> None:
        """Count a step of a certificate at an issuer over there."""
        self._outside.labels(issuer, outcome).inc()

    def revocation(self, source: str, outcome: str) -> None:
        """Count what came of asking `crl` or `ocsp`: good, revoked, unknown; fetched, failed."""
        self._revocation.labels(source, outcome).inc()

    def handshake_failure(self, reason: str) -> None:
        """Count a TLS handshake that failed; `reason` is one of `http_transfer.tls.FAILURES`."""
        self._handshakes.labels(reason).inc()

    def tls_certificate(self, ends: datetime) -> None:
        """Show when the TLS listener's certificate ends."""
        if self._tls_expiry is None:  # without a TLS listener there is no such figure
            self._tls_expiry = Gauge(
                "cmpd_tls_certificate_expiry_timestamp_seconds",
                "When the TLS listener's certificate ends, in seconds since 1970.",
                registry=self.registry,
            )
        self._tls_expiry.set(ends.timestamp())

    def nodes(self, count: int) -> None:
        """Show how many processes there are."""
        self._nodes.set(count)

    def lease(self, name: str, held: Callable[[], bool]) -> None:
        """Show whether this process sees to something, as it is when it is asked."""
        self._leases.labels(name).set_function(held)

    def differs(self, profiles: Collection[str]) -> None:
        """Show in which profiles processes differ."""
        for name in {"", *self.profiles, *profiles}:
            self._differs.labels(name).set(name in profiles)

    def store_size(self, octets: int) -> None:
        """Show how large the store is."""
        self._store_size.set(octets)

    def expired(self, count: int) -> None:
        """Count transactions that the sweep has ended."""
        self._expired.inc(count)

    def loaded(self, profiles: Iterable[str]) -> None:
        """Note that a configuration has come into use."""
        self.profiles = frozenset(profiles)
        self._cache.clear()
        self._loaded.set(time.time())

    def reload(self, success: bool) -> None:
        """Count an attempt to load the configuration anew."""
        self._reloads.labels("success" if success else "failure").inc()

    def exposition(self) -> tuple[str, bytes]:
        """The media type and text that Prometheus reads."""
        return CONTENT_TYPE_LATEST, generate_latest(self.registry)


class ServiceMetrics:
    """What the supervisor of several workers counts itself; all other metrics are theirs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._workers = Gauge("cmpd_workers", "Workers that serve, where there are several.", registry=registry)
        self._ended = Counter(
            "cmpd_worker_ends", "Workers that ended without being asked to, and were replaced.", registry=registry
        )
        self._reloads = Counter("cmpd_reloads", "Configuration reloads by result.", ["result"], registry=registry)
        for result in ("success", "failure"):
            self._reloads.labels(result)

    def workers(self, count: int) -> None:
        """Show how many serve."""
        self._workers.set(count)

    def ended(self) -> None:
        """Count a worker that has ended unasked."""
        self._ended.inc()

    def reload(self, success: bool) -> None:
        """Count an attempt to load the configuration anew, one for all workers."""
        self._reloads.labels("success" if success else "failure").inc()
