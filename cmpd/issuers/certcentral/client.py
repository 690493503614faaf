"""The Services API v2 as calls: what each of them sends, and how each of them can end.

    read (GET)            repeated with growing pauses; its answer, or CallRefused, or CallFailed
    write (POST, PUT)     sent once and never again; Ordered or Done, Refused, NotDone, or Unknown

Whether a write was done is decided by two questions. Was a byte of it sent? If not, nothing was done. Is the answer one
that only the API itself gives: JSON with an id, or with errors? If so, it says; a page of a firewall or a server's
fault says nothing. Every call has a connection of its own: one that the other side has meanwhile given up would turn
an order into one whose fate is unknown.
"""

import asyncio
import base64
import json
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
from pydantic import SecretStr

from cmpd.issuers.certcentral import answers
from cmpd.issuers.certcentral.answers import (
    JSON,
    Change,
    Done,
    NotDone,
    Ordered,
    OrderInfo,
    Refused,
    Unknown,
)
from cmpd.issuers.certcentral.config import CertCentralConfig
from cmpd.issuers.certcentral.pacing import Breaker, Budget, Monotonic, Open, Overloaded, Sleep

LARGEST_ANSWER: Final = 8 << 20
"""Octets of an answer that are read: a thousand orders take about one eighth of it."""
PAGE: Final = 1000
"""Rows of a page of a list."""
LONGEST_CHANGES: Final = timedelta(days=7)
"""How far back status-changes looks (Services API, "Status change list")."""
LIMITS: Final = (100, 1000)
"""What DigiCert admits for an API key in any 5 seconds and in any 3 minutes."""
PATIENCE: Final = 30.0
"""So many seconds a write waits for its turn at most; then nothing was done."""
_CHUNK: Final = 64 * 1024
_ATTEMPTS: Final = 4
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_RATE_PAUSE: Final = 5.0
"""The pause after a 429 that does not say how long; doubled with each one more in a row."""
_LONGEST_RATE_PAUSE: Final = 180.0
"""As long as the longest of DigiCert's windows."""
_REASONS: Final = {
    "keyCompromise": "key_compromise",
    "affiliationChanged": "affiliation_changed",
    "superseded": "superseded",
    "cessationOfOperation": "cessation_of_operation",
}
"""CRLReasons, and the API's words for them; unspecified is better left out (RFC 5280 §5.3.1)."""


class CallRefused(Exception):
    """A read was refused; the text is the API's."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(str(refused))
        self.refused = refused

    @property
    def not_found(self) -> bool:
        """Whether there is no such thing."""
        return self.refused.status == 404


class CallFailed(Exception):
    """A read had no usable answer, however often it was tried; the text is for the log."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(slots=True)
class Counters:
    """What a metric shows."""

    calls: int = 0
    """Calls that were made."""
    failed: int = 0
    """Those that had no usable answer."""
    limited: int = 0
    """Those that were answered 429."""
    unknown: int = 0
    """Writes whose fate is unknown."""


@dataclass(slots=True)
class _Answer:
    """An HTTP answer, or why there is none."""

    status: int = 0
    json: JSON | None = None
    content: bytes = b""
    retry_after: str = ""
    sent: bool = False
    """Perhaps some of the call has gone out."""
    fault: str = ""
    """Why there is no answer, or none that can be used; empty when there is."""


class _Lost(aiohttp.ClientError):
    """A connection ended; not one of the errors after which aiohttp sends a PUT once more."""


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating calls of idempotent methods by itself (RFC 9112 §9.3.1)."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        reason = _phrase(error)
    raise _Lost(reason)


async def _mark(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.sent = True


class CertCentralClient:
    """One account's API. Safe to use concurrently from one event loop; connects nowhere until the first call."""

    def __init__(
        self,
        config: CertCentralConfig,
        key: SecretStr,
        *,
        clock: Monotonic = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._key = key
        self._proxy_credentials = config.read_proxy_credentials()
        self._tls: ssl.SSLContext | bool = config.tls() if config.url.startswith("https:") else True
        self._sleep = sleep
        self._chance = chance
        self._session: aiohttp.ClientSession | None = None
        self._limited_in_a_row = 0
        windows = ((config.requests_per_5_seconds, 5.0), (config.requests_per_3_minutes, 180.0))
        self.budget = Budget(windows, config.queue, clock=clock, sleep=sleep, limits=LIMITS)
        self.breaker = Breaker(config.failures_to_open, config.pause.total_seconds(), clock=clock)
        self.counters = Counters()

    @classmethod
    def from_config(cls, config: CertCentralConfig) -> Self:
        """With the key of the file that the configuration names. Raises `IssuerConfigError`."""
        return cls(config, config.read_api_key())

    def __repr__(self) -> str:
        return f"CertCentralClient({self._config.url!r})"

    @property
    def longest_write(self) -> float:
        """After so many seconds a write has ended in one way or another."""
        config = self._config
        return PATIENCE + (config.connect_timeout + config.read_timeout).total_seconds()

    async def close(self) -> None:
        """Let go of connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # ── orders ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def order(self, product: str, body: JSON) -> Ordered | Refused | NotDone | Unknown:
        """Place a new order, which is paid for. A caller that is cancelled must take it for Unknown."""
        return _as_ordered(await self._write("POST", f"order/certificate/{_part(product)}", body), self.counters)

    async def reissue(self, order_id: int, body: JSON) -> Ordered | Refused | NotDone | Unknown:
        """A new certificate in place of the order's. The same holds."""
        return _as_ordered(await self._write("POST", f"order/certificate/{order_id}/reissue", body), self.counters)

    async def duplicate(self, order_id: int, body: JSON) -> Ordered | Refused | NotDone | Unknown:
        """One more certificate of the order. The same holds."""
        return _as_ordered(await self._write("POST", f"order/certificate/{order_id}/duplicate", body), self.counters)

    async def cancel(self, order_id: int, note: str = "") -> Done | Refused | NotDone | Unknown:
        """Cancel an order that is pending, or the pending reissue of an issued one."""
        body = {"status": "canceled", "note": note}  # case-sensitive
        return await self._write("PUT", f"order/certificate/{order_id}/status", body)

    async def order_info(self, order: int | str) -> OrderInfo:
        """An order by its id, or by serial number or thumbprint of its primary certificate.

        Raises CallRefused, CallFailed.
        """
        found = answers.order_info(await self._read(f"order/certificate/{_part(order)}"))
        if found is None:
            raise CallFailed("the order info has no id")
        return found

    async def orders(
        self, filters: Mapping[str, str | int] | None = None, *, limit: int = 100, offset: int = 0
    ) -> list[OrderInfo]:
        """One page of the list of orders, newest first; a row has less than `order_info`. Raises the same."""
        query: dict[str, str | int] = {"limit": limit, "offset": offset, "sort": "-order_id"}
        query |= {f"filters[{name}]": value for name, value in (filters or {}).items()}
        answer = await self._read("order/certificate", query)
        found = (answers.order_info(row) for row in answers.rows(answer.get("orders")))
        return [one for one in found if one is not None]

    async def status_changes(self, since: timedelta) -> list[Change]:
        """All orders whose status has changed within the last time span, at most seven days. Raises the same."""
        seconds = int(min(since, LONGEST_CHANGES).total_seconds())
        return answers.changes(await self._read("order/certificate/status-changes", {"seconds": max(1, seconds)}))

    async def reissues(self, order_id: int) -> list[JSON]:
        """The reissued certificates of an order. Raises the same."""
        return answers.rows((await self._read(f"order/certificate/{order_id}/reissue")).get("certificates"))

    async def duplicates(self, order_id: int) -> list[JSON]:
        """The duplicates of an order. Raises the same."""
        return answers.rows((await self._read(f"order/certificate/{order_id}/duplicate")).get("certificates"))

    async def email_validations(self, order_id: int) -> list[JSON]:
        """The mailboxes of an order that must answer a mail, or have. Raises the same."""
        return answers.rows((await self._read(f"order/certificate/{order_id}/email-validation")).get("emails"))

    async def check_dcv(self, order_id: int) -> Done | Refused | NotDone | Unknown:
        """Let the order's domains be looked at now."""
        return await self._write("PUT", f"order/certificate/{order_id}/check-dcv", None)

    # ── certificates ────────────────────────────────────────────────────────────────────────────────────────────────

    async def download(self, certificate_id: int) -> tuple[bytes, ...]:
        """A certificate with its chain, DER, in whatever order; whose it is must be checked. Raises the same."""
        return _pem(await self._read_file(f"certificate/{certificate_id}/download/format/pem_all"))

    async def download_order(self, order_id: int) -> tuple[bytes, ...]:
        """The same for the order's active certificate, never a duplicate. Raises the same."""
        return _pem(await self._read_file(f"certificate/download/order/{order_id}/format/pem_all"))

    async def chain(self, certificate_id: int) -> tuple[bytes, ...]:
        """The same by another call, whose answer may be empty. Raises the same."""
        answer = await self._read(f"certificate/{certificate_id}/chain")
        return answers.chain(answer.get("intermediates")) or ()

    async def revoke(
        self, certificate: int | str, *, word: str | None = None, comments: str = ""
    ) -> Done | Refused | NotDone | Unknown:
        """Revoke a certificate by its id or serial number; Done with `asked` when somebody has to approve.

        `word` is the API's for the reason (`reason_word`); None: without a reason.
        """
        body: JSON = {"comments": comments, "skip_approval": self._config.skip_approval}
        if word is not None:
            body["revocation_reason"] = word
        return await self._write("PUT", f"certificate/{_part(certificate)}/revoke", body)

    # ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def request(self, request_id: int) -> JSON:
        """A request that is, or was, to be approved. Raises CallRefused, CallFailed."""
        return await self._read(f"request/{request_id}")

    async def approve(self, request_id: int, comment: str = "") -> Done | Refused | NotDone | Unknown:
        """Approve a request."""
        body = {"status": "approved", "processor_comment": comment}
        return await self._write("PUT", f"request/{request_id}/status", body)

    async def reject(self, request_id: int, comment: str = "") -> Done | Refused | NotDone | Unknown:
        """Reject a request."""
        body = {"status": "rejected", "processor_comment": comment}
        return await self._write("PUT", f"request/{request_id}/status", body)

    # ── the account ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def me(self) -> JSON:
        """The API key's user. Raises CallRefused, CallFailed, as all that follow."""
        return await self._read("user/me")

    async def account(self) -> JSON:
        """The account."""
        return await self._read("account")

    async def balance(self) -> JSON:
        """What is left to pay orders from; the reference does not show its answer, so that any of it may be missing."""
        return await self._read("finance/balance")

    async def products(self, container: int | None = None) -> list[JSON]:
        """The products that may be ordered."""
        return answers.rows((await self._read("product", _in(container))).get("products"))

    async def product(self, name_id: str, container: int | None = None) -> JSON:
        """A product in detail."""
        return await self._read(f"product/{_part(name_id)}", _in(container))

    async def product_limits(self, container: int) -> JSON:
        """What may be ordered in a division, and how."""
        return await self._read(f"container/{container}/product-limits")

    async def containers(self) -> list[JSON]:
        """The divisions."""
        return [row async for row in self._list("container", "containers")]

    async def organizations(self, container: int | None = None) -> list[JSON]:
        """The organizations with their validations."""
        query = {**_in(container), "include_validation": "true"}
        return [row async for row in self._list("organization", "organizations", query)]

    async def organization(self, organization_id: int) -> JSON:
        """An organization with its validations and contacts."""
        return await self._read(f"organization/{organization_id}", {"include_validation": "true"})

    async def domains(self) -> list[JSON]:
        """The domains with the state of their proof."""
        return [row async for row in self._list("domain", "domains")]

    async def custom_fields(self) -> list[JSON]:
        """The account's custom fields of orders."""
        return answers.rows((await self._read("account/metadata")).get("metadata"))

    async def _list(self, path: str, name: str, query: Mapping[str, Any] | None = None) -> AsyncIterator[JSON]:
        offset = 0
        for _ in range(100):
            answer = await self._read(path, {**(query or {}), "limit": PAGE, "offset": offset})
            found = answers.rows(answer.get(name))
            for row in found:
                yield row
            offset += len(found)
            total = answers.number(answers.table(answer.get("page")).get("total")) or 0
            if not found or offset >= total:
                return

    # ── reading and writing ─────────────────────────────────────────────────────────────────────────────────────────

    async def _read(self, path: str, query: Mapping[str, Any] | None = None) -> JSON:
        answer = await self._read_patiently(path, query, wants_json=True)
        return answer.json or {}

    async def _read_file(self, path: str) -> bytes:
        return (await self._read_patiently(path, None, wants_json=False)).content

    async def _read_patiently(self, path: str, query: Mapping[str, Any] | None, *, wants_json: bool) -> _Answer:
        reason, retry_after = "", 0.0
        for attempt in range(_ATTEMPTS):
            if attempt:
                await self._sleep(_jittered(_FIRST_PAUSE * 2 ** (attempt - 1), self._chance()))
            try:
                answer = await self._call("GET", path, query, None, wants_json=wants_json)
            except (Open, Overloaded) as blocked:
                raise CallFailed(str(blocked), self._blocked(blocked)) from None
            if not answer.fault and answer.status < 300:
                return answer
            refused = self._refused(answer)
            if refused is not None:
                raise CallRefused(refused)
            reason, retry_after = answer.fault or f"HTTP {answer.status}", self.budget.paused
        raise CallFailed(f"GET {path}: {reason}", retry_after)

    async def _write(self, method: str, path: str, body: JSON | None) -> Done | Refused | NotDone | Unknown:
        """Send once. An id in the answer or not: `_as_ordered` looks."""
        try:
            answer = await self._call(method, path, None, body, wants_json=True)
        except (Open, Overloaded) as blocked:
            return NotDone(str(blocked), self._blocked(blocked))
        if answer.status == 429:
            return NotDone("HTTP 429: too many calls for this API key", self.budget.paused)
        if not answer.sent:
            return NotDone(answer.fault, self.breaker.retry_after)
        refused = self._refused(answer)
        if refused is not None:
            return refused
        if answer.fault or not 200 <= answer.status < 300:
            self.counters.unknown += 1
            return Unknown(answer.fault or f"HTTP {answer.status}")
        return Done(answer.json or {}, asked=answer.status == 201)

    @staticmethod
    def _refused(answer: _Answer) -> Refused | None:
        """What only the API itself says: a 4xx with its errors; not a page of a firewall, and not a timeout."""
        if 400 <= answer.status < 500 and answer.status not in {408, 429} and answer.json is not None:
            return answers.refusal(answer.status, answer.json)
        return None

    async def _call(
        self, method: str, path: str, query: Mapping[str, Any] | None, body: JSON | None, *, wants_json: bool
    ) -> _Answer:
        """One call in its turn. Raises Open or Overloaded before anything is sent."""
        self.breaker.check()
        at = await self.budget.take(None if method == "GET" else PATIENCE)
        tries = self.breaker.enter()
        failed: bool | None = None
        try:
            answer = await self._send(method, path, query, body, wants_json=wants_json)
            self.counters.calls += 1
            failed = bool(answer.fault)
        finally:
            self.budget.ended(at)
            self.breaker.leave(failed=failed, tries=tries)
        self.counters.failed += failed
        if answer.status == 429:
            self.counters.limited += 1
            self._limited_in_a_row += 1
            self.budget.pause(self._pause(answer.retry_after))
        elif not answer.fault:
            self._limited_in_a_row = 0
        return answer

    def _blocked(self, blocked: Open | Overloaded) -> float:
        """After how many seconds it is worth to try again."""
        return blocked.retry_after if isinstance(blocked, Open) else max(self.budget.paused, 1.0)

    def _pause(self, retry_after: str) -> float:
        said = _seconds(retry_after)
        if said is not None:
            return min(max(said, 1.0), _LONGEST_RATE_PAUSE)
        pause = min(_RATE_PAUSE * 2 ** (self._limited_in_a_row - 1), _LONGEST_RATE_PAUSE)
        return float(pause * (1 + self._chance() / 4))

    async def _send(
        self, method: str, path: str, query: Mapping[str, Any] | None, body: JSON | None, *, wants_json: bool
    ) -> _Answer:
        answer = _Answer()
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-DC-DEVKEY": self._key.get_secret_value()}
        if method != "GET":
            headers["Content-Type"] = "application/json"
        proxy_headers = None
        if self._proxy_credentials is not None:
            encoded = base64.b64encode(self._proxy_credentials.get_secret_value().encode()).decode()
            proxy_headers = {"Proxy-Authorization": f"Basic {encoded}"}
        try:
            async with self._connected().request(
                method,
                f"{self._config.url}/{path}",
                params=None if query is None else {name: str(value) for name, value in query.items()},
                data=data,
                headers=headers,
                proxy=self._config.proxy,
                proxy_headers=proxy_headers,
                ssl=self._tls,
                allow_redirects=False,  # the key goes nowhere else
                trace_request_ctx=answer,
            ) as response:
                answer.sent = True
                answer.retry_after = response.headers.get("Retry-After", "")
                content = bytearray()
                async for chunk in response.content.iter_chunked(_CHUNK):
                    content += chunk
                    if len(content) > LARGEST_ANSWER:
                        answer.fault = f"HTTP {response.status} with an answer of more than {LARGEST_ANSWER} octets"
                        response.close()
                        return answer
                answer.status, answer.content = response.status, bytes(content)
        except TimeoutError:
            answer.fault = "it did not answer in time" if answer.sent else "no connection in time"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            answer.fault = _phrase(error)
        else:
            _judge(answer, wants_json=wants_json)
        return answer

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_mark)
            config = self._config
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "cmpd", "Accept": "application/json, */*;q=0.5"},
                middlewares=(_once,),
                timeout=aiohttp.ClientTimeout(
                    total=(config.connect_timeout + config.read_timeout).total_seconds(),
                    connect=config.connect_timeout.total_seconds(),
                    sock_read=config.read_timeout.total_seconds(),
                ),
                trace_configs=[trace],
                trust_env=False,
            )
        return self._session


def reason_word(config: CertCentralConfig, reason: str) -> str | None:
    """The API's word for a CRLReason; None when there is none."""
    own: Mapping[str, str] = config.revocation_reasons  # type: ignore[assignment]  # its keys are Literals
    return own.get(reason) or _REASONS.get(reason)


def reason_of(config: CertCentralConfig, word: str) -> str:
    """The CRLReason that a word of the API's stands for, in whatever spelling; unspecified for others."""
    own: Mapping[str, str] = config.revocation_reasons  # type: ignore[assignment]  # its keys are Literals
    for reason, ours in (_REASONS | dict(own)).items():
        if word in {ours, reason}:
            return reason
    return "unspecified"


def _judge(answer: _Answer, *, wants_json: bool) -> None:
    """Say of an answer that is whole whether it can be used."""
    status = answer.status
    if status == 429:
        answer.json = answers.parse(answer.content)
        return
    if status >= 500:
        answer.fault = f"HTTP {status}"
    elif status >= 300 or wants_json:
        answer.json = {} if not answer.content.strip() and status < 300 else answers.parse(answer.content)
        if answer.json is None:
            answer.fault = f"HTTP {status} with an answer that is not JSON"
        elif 300 <= status < 400:
            answer.fault = f"HTTP {status}, a redirection, which is not followed"
        elif status >= 400 and answers.refusal(status, answer.json) is None:
            answer.fault = f"HTTP {status} without an error of the API"


def _as_ordered(
    outcome: Done | Refused | NotDone | Unknown, counters: Counters
) -> Ordered | Refused | NotDone | Unknown:
    if not isinstance(outcome, Done):
        return outcome
    found = answers.ordered(outcome.answer)
    if found is not None:
        return found
    counters.unknown += 1
    return Unknown("it was accepted, but the order's id is not in the answer")


def _phrase(error: BaseException) -> str:
    """What happened, without URL, headers or body."""
    if isinstance(error, _Lost):
        return str(error)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "")
        return f"the TLS certificate is not good: {answers.shown(why)}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name cannot be resolved"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered HTTP {error.status}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "the TLS connection cannot be made"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {answers.shown(error.os_error.strerror or type(error.os_error).__name__)}"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | ConnectionError):
        return "the connection was lost before the answer was whole"
    return f"the call failed: {type(error).__name__}"


def _pem(content: bytes) -> tuple[bytes, ...]:
    try:
        return answers.certificates(content.decode("ascii", "replace"))
    except ValueError:
        raise CallFailed("the download holds no readable certificates") from None


def _part(value: int | str) -> str:
    """One part of a path, whatever is in it."""
    return quote(str(value), safe="")


def _in(container: int | None) -> dict[str, int]:
    return {} if container is None else {"container_id": container}


def _jittered(pause: float, chance: float) -> float:
    """Between half of it and all of it: clients that failed together do not come back together."""
    return min(pause, _LONGEST_PAUSE) * (0.5 + chance / 2)


def _seconds(retry_after: str) -> float | None:
    """A Retry-After in seconds: a number or a date (RFC 9110 §10.2.3); None when it is neither."""
    text = retry_after.strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
