"""HTTP transfer of CMP messages (RFC 9811, RFC 9483 §6.1): size, media type, path, timeout, HTTP status; no CMP.

    Listener        sockets, connections, deadlines, graceful stop; a handler answers each request
    CMPTransfer     the handler for PKIMessages and CRLs; hands octets to `Service.respond`
    tls             the TLS listener's context, and the client's certificate
    proxy           clients' certificates and addresses as reverse proxies pass them on

Only here does a request get an HTTP status other than 200. Every answer that is not CMP is one short line of text.
aiohttp brings the HTTP parser and the life of a connection. Its request and response objects are replaced by two small
ones, which saves 6 µs a request, and none of aiohttp's own pages can get out. What `Connection` touches of aiohttp
beyond its documented API is `_waiter`, `_messages`, `_drain_helper`, `_next_keepalive_close_time` and
`_resume_transport_reading`; the tests under both event loops hold a new version of aiohttp to it.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

from aiohttp import HttpVersion10, web
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from cmpd.exchange import Arrival, TLSClient, TooManyRequests
from cmpd.http_transfer.proxy import NO_PROXIES, ForbiddenFieldError, MalformedFieldError, Proxies
from cmpd.http_transfer.tls import TLSContext, client_of, last_words, server_tls, why_failed
from cmpd.limits import Limits

__all__ = [
    "NO_PROXIES",
    "OPERATIONS",
    "PKIXCMP",
    "Answer",
    "CMPTransfer",
    "Connection",
    "Endpoint",
    "Listener",
    "Proxies",
    "Request",
    "Service",
    "TLSContext",
    "segments",
    "server_tls",
    "text",
]

logger = logging.getLogger(__name__)

PKIXCMP = "application/pkixcmp"
MEDIA_TYPES = frozenset({PKIXCMP, "application/pkixcmp-poll"})
"""RFC 9811 §3.2; the second is unregistered and may be handled like the first (RFC 9811 §4)."""
OPERATIONS = frozenset(
    {
        "initialization",
        "certification",
        "keyupdate",
        "pkcs10",
        "revocation",
        "getcacerts",
        "getrootupdate",
        "getcertreqtemplate",
        "getcrls",
        "nested",
    }
)
"""The operation labels of RFC 9483 §6.1, Table 1."""

HEAD_SIZE = 16 * 1024
"""Octets of request line and header fields together; a CMP client needs a few hundred."""
PROXY_HEAD_SIZE = 64 * 1024
"""The same on a connection from a listed reverse proxy, whose header fields carry clients' certificates and chains."""
REFERENCE_SIZE = 64
"""Characters of an enrollment code's reference in a path."""
UNFINISHED_SIZE = 64 * 1024 * 1024
"""Octets that all requests which have not arrived completely may occupy together."""
LINGER_SECONDS = 2.0
"""How long the rest of a refused request is read and dropped, so that a client still sending can read the answer."""
LINGER_SIZE = 4 * 1024 * 1024
"""How much of it."""

_BACKLOG = 1024
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux only
_NO_STORE = b"Cache-Control: no-store\r\n"
_CRL_CACHE = b"Cache-Control: no-cache\r\n"
_FIELD_SIZE = 8190
"""Octets of one header field, as aiohttp has it by default."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _BodyMalformedError(Exception):
    """The HTTP framing of a request's body is broken."""


class _BodyLateError(Exception):
    """A request's body did not arrive in time."""


class _Date:
    """The Date header field's value, made once a second (RFC 9110 §6.6.1)."""

    second = 0
    text = b""

    @classmethod
    def now(cls) -> bytes:
        second = int(time.time())
        if second != cls.second:
            cls.second, cls.text = second, formatdate(second, usegmt=True).encode()
        return cls.text


class Answer:
    """An HTTP response, written with one call; takes the place of aiohttp's Response."""

    __slots__ = ("body", "fields", "keep_alive", "reason", "status", "suspicious", "unread")

    def __init__(self, status: int, media_type: bytes, body: bytes, fields: bytes = _NO_STORE) -> None:
        self.status = status
        self.body = body
        self.fields = b"Content-Type: " + media_type + b"\r\n" + fields
        self.reason = ""
        """What is logged about a refusal."""
        self.keep_alive = True
        self.suspicious = False
        """The request was an attempt at what nobody does by accident: it is logged as that, and the connection ends."""
        self.unread = False
        """The request's body has not been read to its end."""

    async def prepare(self, request: "Request") -> None:
        """Write it. Raises ConnectionError when the client has gone."""
        connection = request.connection
        transport = connection.transport
        if transport is None:
            raise ConnectionResetError
        message = request.message
        if self.unread or message.should_close or connection.last:
            # pipelined requests that are here already are still answered, even when this was to be the last answer
            self.keep_alive = not (self.unread or message.should_close) and connection.queued
        old = message.version == HttpVersion10
        transport.write(
            b"HTTP/1.%d %d %b\r\n%bContent-Length: %d\r\nDate: %b\r\n%b\r\n%b"
            % (
                not old,
                self.status,
                b"OK" if self.status == HTTPStatus.OK else HTTPStatus(self.status).phrase.encode(),
                self.fields,
                len(self.body),
                _Date.now(),
                (b"Connection: keep-alive\r\n" if old else b"") if self.keep_alive else b"Connection: close\r\n",
                b"" if message.method == "HEAD" else self.body,
            )
        )
        if connection.writing_paused or not self.keep_alive:
            await connection.deliver(self)

    async def write_eof(self) -> None:
        """Nothing is left to do: everything has been written."""


def text(status: int, reason: str, fields: bytes = b"") -> Answer:
    """Answer in one line of plain text."""
    answer = Answer(status, b"text/plain; charset=utf-8", f"{reason}\n".encode(), _NO_STORE + fields)
    answer.reason = reason
    return answer


class Request:
    """A request as the parser delivers it; takes the place of aiohttp's Request."""

    __slots__ = ("_task", "connection", "message", "payload", "writer")

    def __init__(
        self, message: RawRequestMessage, payload: StreamReader, connection: "Connection", writer: object, task: object
    ) -> None:
        self.message = message
        self.payload = payload
        self.connection = connection
        self.writer = writer
        self._task = task

    def _finish(self) -> None:
        """What aiohttp calls after the handler."""

    def _cancel(self, reason: BaseException) -> None:
        """What aiohttp calls when the connection is lost."""
        self.payload.set_exception(reason)

    async def read(self, limit: int) -> bytes | None:
        """Read the body; None when it is longer than `limit`. Raises _BodyMalformedError or ConnectionError."""
        payload = self.payload
        if payload.is_eof():
            body = payload.read_nowait(-1)
            self.connection.arrived()
            return body if len(body) <= limit else None
        chunks: list[bytes] = []
        size = 0
        connection = self.connection
        if connection.ended:
            raise _BodyMalformedError
        connection.body = payload
        try:
            while True:
                try:
                    chunk = await payload.readany()
                except (RequestPayloadError, HttpProcessingError) as error:
                    raise _BodyMalformedError from error
                size += len(chunk)
                connection.hold(len(chunk))
                if size > limit:
                    return None
                if not chunk and payload.is_eof():
                    break
                chunks.append(chunk)
        finally:
            connection.body = None
            connection.hold(-size)
        connection.arrived()
        return b"".join(chunks)


class Connection(RequestHandler):
    """One connection: aiohttp's, with a deadline for whatever is awaited from the client, and without its pages."""

    __slots__ = (
        "address",
        "answering",
        "body",
        "client",
        "ended",
        "head_limit",
        "head_size",
        "last",
        "lingering",
        "listener",
        "since",
        "tls",
        "unread",
        "wire",
    )

    def __init__(self, listener: "Listener", **options: Any) -> None:
        super().__init__(listener, **options)
        self.listener = listener
        self.address = ""
        self.client: TLSClient | None = None
        """The certificate that the client has shown in the handshake."""
        self.since = 0.0
        """Since when something is awaited from the client (rest of a request, reading of an answer); 0: nothing is."""
        self.answering = False
        """A request has arrived whole and is being answered."""
        self.last = False
        """No further request is awaited."""
        self.body: StreamReader | None = None
        """The body that is being waited for."""
        self.head_limit = HEAD_SIZE
        self.head_size = 0
        self.lingering: asyncio.Future[None] | None = None
        self.unread = 0
        self.ended = False
        """The client has closed its side."""
        self.tls = False
        self.wire: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or refuse it when there are too many."""
        self.wire = wire = cast("asyncio.Transport", transport)
        peer = wire.get_extra_info("peername")
        self.address = _address_of(peer)
        if self.listener.proxies is not NO_PROXIES and self.listener.proxies.lists(self.address):
            self.head_limit = PROXY_HEAD_SIZE
        handshake = wire.get_extra_info("ssl_object")
        if handshake is not None:
            self.tls = True
            self.client = client_of(handshake)
            if self.client is not None and handshake.version() == "TLSv1.2":
                if handshake.session_reused:
                    self.listener.handshake_failed(self.address, "resumed", "a session was resumed")
                    wire.abort()
                    return
                self.listener.replace_tls(wire.get_extra_info("sslcontext"))
        if not self.tls and not self.listener.has_room:  # with TLS it was admitted before its handshake
            self.listener.refused(503, self.address, "", "too many connections")
            wire.write(_raw(503, "too many connections"))
            wire.close()
            return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of everything; a handler at work goes on to its end."""
        self._end_lingering()
        self.since = 0.0
        super().connection_lost(exc)
        self.listener.gone()

    def data_received(self, data: bytes) -> None:
        """Hand octets to the parser, start the request's time at its first one."""
        if self.lingering is not None:
            self.unread -= len(data)
            if self.unread < 0:
                self._end_lingering()
            return
        if data:
            if not self.since:
                self.since = self._loop.time()
                self.head_size = 0
                # the time for being idle is over
                self._next_keepalive_close_time = self.since + self.listener.limits.request_seconds + 1
            self.head_size += len(data)
        super().data_received(data)
        if self._waiter is not None and not self._waiter.done():
            if self.head_size > self.head_limit:
                self.give_up(431, "request header too long")
        elif self.body is not None and self._messages and not self.body.is_eof():
            # a second message before the first has ended is the parser's report of a broken body
            self.body.set_exception(_BodyMalformedError())

    def eof_received(self) -> bool | None:  # type: ignore[override]  # aiohttp declares the None it returns
        """A client may close its side when it has sent its request, and still gets its answer."""
        self.ended = True
        if self.lingering is not None:
            self._end_lingering()
            return None
        waiting = self._waiter is not None and not self._waiter.done()
        if waiting or self.body is not None or not (self.since or self.answering) or self.tls:
            return None
        self.last = True
        return True

    @property
    def queued(self) -> bool:
        """Whether another request is here already."""
        return bool(self._messages)

    @property
    def idle(self) -> bool:
        """Whether nothing of a request is here."""
        return not (self.since or self.answering or self._messages)

    def hold(self, octets: int) -> None:
        """Count octets of an unfinished request."""
        self.listener.unfinished += octets

    def acknowledge(self) -> None:
        """Acknowledge a request's head at once when its body is still to come.

        The OpenSSL client writes head and body apart, and its system holds the body back until the head is
        acknowledged: without this it waits 40 ms before each certConf.
        """
        if _QUICKACK is not None and self.wire is not None:
            with contextlib.suppress(OSError):
                self.wire.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def arrived(self) -> None:
        """The request is here as a whole; its time is over, ours begins."""
        self.since = 0.0
        self.answering = True

    async def deliver(self, answer: Answer) -> None:
        """Wait until the client has taken enough of the answer; after the last one, drop what it is still sending."""
        self.since = self._loop.time()
        if self.writing_paused:
            await self._drain_helper()
        if answer.unread and self.transport is not None:
            await self._linger()
            self.force_close()
        elif answer.keep_alive:
            self.since = 0.0

    def _linger(self) -> asyncio.Future[None]:
        """Drop what the client still sends, for a while: a reset would take the answer away from it."""
        self.lingering = self._loop.create_future()
        self.unread = LINGER_SIZE
        if self.ended or self.transport is None:
            self._end_lingering()
            return self.lingering
        self._resume_transport_reading()  # it is paused when the body's buffer was full
        if not self.tls:
            with contextlib.suppress(OSError):
                self.transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, self._end_lingering)
        return self.lingering

    def _end_lingering(self) -> None:
        if self.lingering is not None and not self.lingering.done():
            self.lingering.set_result(None)

    def give_up(self, status: int, reason: str) -> None:
        """End a connection on which no whole request head has arrived."""
        self.listener.refused(status, self.address, "", reason)
        if self.transport is not None:
            self.transport.write(_raw(status, reason))
            self._linger().add_done_callback(lambda _: self.force_close())

    def expire(self, now: float) -> None:
        """Act on a deadline that has passed."""
        if self.answering:
            pass  # a pipelined request waits for us, not we for it
        elif self.transport is None or self.lingering is not None or self.writing_paused:
            assert self.wire is not None
            self.wire.abort()
        elif self.body is not None:
            self.body.set_exception(_BodyLateError())
        else:
            self.give_up(408, "the request did not arrive in time")
        self.since = now

    def handle_error(  # type: ignore[override]  # an Answer stands for a StreamResponse
        self, request: Request, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> Answer:
        """Answer what is not HTTP, in one line that repeats nothing of it."""
        del request, message
        if isinstance(exc, LineTooLong):
            status, reason = 431, "request header too long"
        elif isinstance(exc, BadHttpMethod) and "HTTPS" in str(exc.message):
            reason = "TLS on a port without TLS"
        elif isinstance(exc, HttpProcessingError):
            reason = "not an HTTP request"
        else:
            logger.error("request handler failed", exc_info=exc)
            status, reason = 500, "internal error"
        answer = text(status, reason)
        answer.unread = True
        self.last = True
        self.listener.refused(status, self.address, "", reason)
        return answer


def _address_of(peer: object) -> str:
    """The IP address of a socket's peer."""
    return str(peer[0]).removeprefix("::ffff:") if isinstance(peer, tuple) else ""


def _raw(status: int, reason: str) -> bytes:
    """A response for where there is no request."""
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(reason) + 1}\r\nConnection: close\r\n\r\n{reason}\n"
    ).encode()


Handler = Callable[[Request], Awaitable[Answer]]
Refusal = Callable[[int, str, str, str], None]
"""Called with status, client's address, request target and reason; the target is as the client wrote it."""
HandshakeFailure = Callable[[str, str, str], None]
"""Called with the client's address, one of `tls.FAILURES`, and OpenSSL's reason."""


class Listener(web.Server):
    """An HTTP server with bounds: `limits.connections`, `limits.request_seconds`, `limits.idle_seconds`."""

    def __init__(
        self,
        handler: Handler,
        limits: Limits,
        refused: Refusal,
        *,
        suspected: Refusal | None = None,
        handshake_failed: HandshakeFailure = lambda *_: None,
    ) -> None:
        super().__init__(
            cast("Any", self._handle), request_factory=cast("Any", Request), loop=asyncio.get_running_loop()
        )
        self._handler = handler
        self.tls: TLSContext | None = None
        """The context of TLS listeners; another one counts from the next handshake on."""
        self.proxies = NO_PROXIES
        """Who may speak for clients; may be replaced at any time."""
        self.limits = limits
        """May be replaced at any time; deadlines of open connections change too, their idle time does not."""
        self.refused = refused
        self.suspected = suspected or refused
        """The same for what somebody should look at."""
        self.handshake_failed = handshake_failed
        self.unfinished = 0
        """Octets of requests that have not arrived completely."""
        self._servers: list[asyncio.Server] = []
        self._acceptors: list[asyncio.Task[None]] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None
        self._stopping = False

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(
            self,
            loop=self._loop,
            keepalive_timeout=self.limits.idle_seconds,
            access_log=None,
            logger=logger,
            auto_decompress=False,
            lingering_time=0,
            max_field_size=_FIELD_SIZE if self.proxies is NO_PROXIES else PROXY_HEAD_SIZE,
            read_bufsize=max(self.limits.body_size, 2**16),
        )

    async def _handle(self, request: Request) -> Answer:
        connection = request.connection
        try:
            answer = await self._handler(request)
        except _BodyMalformedError:
            answer = text(400, "the body is not framed as HTTP asks")
        except _BodyLateError:
            answer = text(408, "the request did not arrive in time")
        except ConnectionError:
            connection.last = True
            connection.answering = False
            return text(400, "the connection was lost")  # to nobody
        except Exception:
            logger.exception("request handler failed")
            answer = text(500, "internal error")
        if answer.status >= HTTPStatus.BAD_REQUEST:
            report = self.suspected if answer.suspicious else self.refused
            report(answer.status, connection.address, request.message.path, answer.reason)
            answer.unread = answer.suspicious or not request.payload.is_eof()
            connection.since = 0.0
        connection.answering = False
        return answer

    @property
    def connections(self) -> list[Connection]:  # type: ignore[override]  # aiohttp's are of the base class
        """The open connections, and those whose handler is still at work."""
        return [cast("Connection", connection) for connection in self._connections]

    async def listen(
        self, host: str, port: int, tls: TLSContext | None = None, *, shared: bool = False
    ) -> tuple[str, int]:
        """Listen on an address, `shared` with other processes; port 0 lets the system choose.

        Returns address and port. Raises OSError.
        """
        if self._sweeper is None:
            self._sweep()
        if tls is None:
            server = await self._loop.create_server(self, host, port, backlog=_BACKLOG, reuse_port=shared or None)
            self._servers.append(server)
            sockets = list(server.sockets)
        else:
            sockets = await self._bind(host, port, shared=shared)
            self.tls = tls
            for sock in sockets:
                self._acceptors.append(self._loop.create_task(self._accept(sock)))
        address: tuple[str, int] = sockets[0].getsockname()[:2]
        return address

    async def _bind(self, host: str, port: int, *, shared: bool) -> list[socket.socket]:
        sockets: list[socket.socket] = []
        try:
            for family, kind, protocol, _, address in await self._loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                sock = socket.socket(family, kind, protocol)
                sockets.append(sock)
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if shared:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(address)
                sock.listen(_BACKLOG)
        except OSError:
            for sock in sockets:
                sock.close()
            raise
        return sockets

    async def _accept(self, sock: socket.socket) -> None:
        """Accept for TLS: a connection counts from its first octet on, not only when its handshake is done."""
        with sock:
            while True:
                try:
                    accepted, peer = await self._loop.sock_accept(sock)
                except OSError as error:
                    logger.warning("cannot accept connections: %s", error.strerror)
                    await asyncio.sleep(0.5)
                    continue
                if not self.has_room:
                    accepted.close()
                    self.refused(503, _address_of(peer), "", "too many connections")
                    continue
                task = self._loop.create_task(self._handshake(accepted, _address_of(peer)))
                self._handshakes.add(task)
                task.add_done_callback(self._handshakes.discard)

    async def _handshake(self, accepted: socket.socket, address: str) -> None:
        alert: list[bytes] = []
        last_words.set(alert)
        try:
            spare = accepted.dup()  # the event loop closes its own when the handshake fails
        except OSError as error:  # too many open files
            accepted.close()
            self.handshake_failed(address, *why_failed(error))
            return
        with spare:
            try:
                await self._loop.connect_accepted_socket(
                    self, accepted, ssl=self.tls, ssl_handshake_timeout=self.limits.request_seconds
                )
            except OSError as error:  # ssl.SSLError and a time-out are OSErrors
                self.handshake_failed(address, *why_failed(error))
                if alert:
                    await self._say(spare, alert[0])

    async def _say(self, sock: socket.socket, alert: bytes) -> None:
        """Send a TLS alert, and drop for a while what the client still sends: a reset would take it away again."""
        with contextlib.suppress(OSError):  # TimeoutError is one
            sock.setblocking(False)
            sock.send(alert)
            sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(LINGER_SECONDS):
                while await self._loop.sock_recv(sock, 65536):
                    pass

    def replace_tls(self, used: object) -> None:
        """Give the next handshake another context than the one that was used.

        With TLS 1.2 a client could resume a session by its ID and so show a certificate without a new proof of its key.
        The session is in the context's cache, which Python cannot switch off.
        """
        if self.tls is not None and used is self.tls:
            try:
                self.tls = self.tls.again()
            except (OSError, ValueError) as error:  # sessions that are resumed are cut off then
                logger.error("the TLS context cannot be made anew: %s", error)  # noqa: TRY400  where it was says nothing

    @property
    def has_room(self) -> bool:
        """Whether there is room for one more connection."""
        return not self._stopping and len(self._connections) + len(self._handshakes) < self.limits.connections

    def gone(self) -> None:
        """A connection has ended; its handler may still be at work."""
        if self._stopping:
            self._loop.call_soon(self._check_empty)

    def _check_empty(self) -> None:
        if not self._connections:
            self._empty.set()
        elif not any(connection.transport for connection in self._connections):
            self._loop.call_later(0.01, self._check_empty)

    def _sweep(self) -> None:
        """End what is overdue; one timer for all connections costs a request nothing."""
        now = self._loop.time()
        overdue = now - self.limits.request_seconds
        for connection in self.connections:
            if connection.since and connection.since < overdue:
                connection.expire(now)
        self._sweeper = self._loop.call_later(min(1.0, self.limits.request_seconds / 4), self._sweep)

    async def stop(self, seconds: float) -> bool:
        """Stop listening, answer the requests that are here, end idle connections; False if it took too long."""
        self._stopping = True
        for server in self._servers:
            server.close()
        for task in (*self._acceptors, *self._handshakes):
            task.cancel()
        await asyncio.sleep(0)
        for connection in self.connections:
            if connection.idle:
                connection.force_close()
            else:
                connection.last = True
        self._check_empty()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            for connection in self.connections:
                if connection.wire is not None:
                    connection.wire.abort()
            await self.shutdown(0.1)
            return False
        finally:
            if self._sweeper is not None:
                self._sweeper.cancel()
        return True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a path names (RFC 9811 §3.4)."""

    profile: str | None
    operation: str | None
    code: str | None = None
    """Reference of an enrollment code."""


CRL = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Service:
    """What is behind the paths; replaced as a whole when the configuration is loaded anew."""

    respond: Callable[[bytes, Arrival], Awaitable[bytes | TooManyRequests]]
    """Answers a PKIMessage with a PKIMessage, or says that nothing is answered for a while."""
    names: frozenset[str] = frozenset()
    """The profiles of `/.well-known/cmp/p/<name>`."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """Profile names by the id in `/cmp/<id>`."""
    default: bool = False
    """Whether `/.well-known/cmp` without a name is served."""
    crls: Mapping[str, CRL] = field(default_factory=dict)
    """The CRLs of `/crl/<issuer>.crl`, DER."""

    def endpoint(self, path: list[str]) -> Endpoint | str:
        """Find what a path's segments name; a text says why there is nothing."""
        code: str | None = None
        match path:
            case [".well-known", "cmp", *rest]:
                match rest:
                    case ["p", name, *rest]:
                        if name not in self.names:
                            return "no such profile"
                        profile: str | None = name
                    case _:
                        profile = None
            case ["cmp", identifier, *rest]:
                profile = self.ids.get(identifier)
                if profile is None:
                    return "no such profile"
                if rest and (
                    len(rest) == 2 or rest[0] not in OPERATIONS
                ):  # a label wins over a reference spelled like it
                    code, *rest = rest
                    if not 0 < len(code) <= REFERENCE_SIZE:
                        return "no such enrollment code"
            case _:
                return "no such path; CMP is at /.well-known/cmp/p/<profile>"
        if len(rest) > 1 or (rest and rest[0] not in OPERATIONS):
            return "no such operation"
        if profile is None and not self.default:
            return "there is no default profile; use /.well-known/cmp/p/<profile>"
        return Endpoint(profile, rest[0] if rest else None, code)


def segments(target: str) -> list[str]:
    """Split the path of a request target, percent-decoded; empty when it cannot be decoded (RFC 9112 §3.2)."""
    path = target.partition("?")[0].partition("#")[0]
    if not path.startswith("/"):
        # absolute-form, as clients send it to a proxy
        path = path.partition("://")[2]
        path = path[path.find("/") :] if "/" in path else ""
    parts = path[1:].split("/")
    if parts[-1] == "":
        parts.pop()
    if "%" in path:
        try:
            return [unquote(part, errors="strict") for part in parts]
        except UnicodeDecodeError:
            return []
    return parts


class CMPTransfer(Listener):
    """The CMP listener: `service` may be replaced at any time and counts from the next request on."""

    def __init__(self, service: Service, limits: Limits, refused: Refusal, **reports: Any) -> None:
        super().__init__(self._answer, limits, refused, **reports)
        self.service = service

    async def _answer(self, request: Request) -> Answer:
        message, payload, service = request.message, request.payload, self.service
        if message.version[0] != 1:
            return text(505, "HTTP/1.1 or HTTP/1.0 only")
        headers = message.headers
        connection = request.connection
        try:
            address, client = self.proxies.origin(connection.address, connection.client, headers)
        except ForbiddenFieldError as error:
            return _suspicious(403, error)
        except MalformedFieldError as error:
            return _suspicious(400, error)
        path = segments(message.path)
        if path and path[0] == "crl":
            return await self._crl(request, path)
        endpoint = service.endpoint(path)
        if isinstance(endpoint, str):
            return text(404, endpoint)
        if message.method != "POST":
            return text(405, "POST only", b"Allow: POST\r\n")
        media_type = headers.get("Content-Type", "")
        if media_type != PKIXCMP and media_type.partition(";")[0].strip().lower() not in MEDIA_TYPES:
            return text(415, f"the media type must be {PKIXCMP}", b"Accept: application/pkixcmp\r\n")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            return text(415, "no content encoding is supported", b"Accept-Encoding: identity\r\n")
        limit = self.limits.body_size
        expect = headers.get("Expect")
        if expect is not None and expect.lower() != "100-continue":
            return text(417, "no expectation but 100-continue is supported")
        if not payload.is_eof():
            if int(headers.get("Content-Length", 0)) > limit:
                return text(413, f"the body is larger than {limit} octets")
            if self.unfinished > UNFINISHED_SIZE:
                return text(503, "too many unfinished requests", b"Retry-After: 10\r\n")
            if expect is not None and message.version != HttpVersion10 and connection.transport is not None:
                connection.transport.write(_CONTINUE)
            connection.acknowledge()
        body = await request.read(limit)
        if body is None:
            return text(413, f"the body is larger than {limit} octets")
        if not body:
            if not message.chunked and "Content-Length" not in headers:
                return text(411, "Content-Length is missing")
            return text(400, "the body is empty")
        reply = await service.respond(
            body, Arrival(address, endpoint.profile, endpoint.operation, endpoint.code, client)
        )
        if isinstance(reply, TooManyRequests):
            return text(429, "too many requests; try again later", b"Retry-After: %d\r\n" % reply.seconds)
        return Answer(200, b"application/pkixcmp", reply)

    async def _crl(self, request: Request, path: list[str]) -> Answer:
        source = self.service.crls.get(path[1].removesuffix(".crl")) if len(path) == 2 else None
        if source is None or not path[1].endswith(".crl"):
            return text(404, "no such CRL")
        if request.message.method not in {"GET", "HEAD"}:
            return text(405, "GET only", b"Allow: GET, HEAD\r\n")
        if await request.read(0) is None:
            return text(413, "no body is expected")
        try:
            return Answer(200, b"application/pkix-crl", await source(), _CRL_CACHE)
        except Exception:
            logger.exception("CRL cannot be made")
            return text(503, "the CRL is not available now", b"Retry-After: 60\r\n")


def _suspicious(status: int, reason: Exception) -> Answer:
    answer = text(status, str(reason))
    answer.suspicious = True
    return answer
