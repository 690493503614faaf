"""TLS of the CMP listener (RFC 9325, RFC 9811 §5): the context, the client's certificate, handshakes that fail.

The handshake proves that the client holds the key of its certificate, and that the certificate comes from a CA which
some profile knows. Whether it is good for anything (dates, revocation, whose it is) is for the profile of each request
to judge, with an answer in CMP that the client understands.
"""

import ssl
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography import x509

from cmpd.exchange import TLSClient

FAILURES = frozenset(
    {"certificate", "version", "parameters", "not_tls", "alert", "resumed", "timeout", "closed", "other"}
)
"""Why handshakes fail, in one word, for metrics."""

MinimumVersion = Literal["1.2", "1.3"]

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, x509_vfy.h; the ssl module has no name for it
_DER = 2  # _ssl.ENCODING_DER
_REASONS = {
    "UNSUPPORTED_PROTOCOL": "version",
    "VERSION_TOO_LOW": "version",
    "WRONG_SSL_VERSION": "version",
    "INAPPROPRIATE_FALLBACK": "version",
    "NO_SHARED_CIPHER": "parameters",
    "NO_SHARED_GROUP": "parameters",
    "NO_SHARED_SIGNATURE_ALGORITHMS": "parameters",
    "NO_SUITABLE_KEY_SHARE": "parameters",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "parameters",
    "HTTP_REQUEST": "not_tls",
    "HTTPS_PROXY_REQUEST": "not_tls",
    "WRONG_VERSION_NUMBER": "not_tls",
    "UNKNOWN_PROTOCOL": "not_tls",
    "BAD_PACKET_LENGTH": "not_tls",
    "RECORD_LAYER_FAILURE": "not_tls",
    "PACKET_LENGTH_TOO_LONG": "not_tls",
    "UNEXPECTED_EOF_WHILE_READING": "closed",
}

last_words: ContextVar[list[bytes]] = ContextVar("last_words")
"""Takes the alert with which a handshake that begins in this context fails; neither asyncio nor uvloop sends it."""

Stamp = tuple[tuple[int, ...], ...]


def stamp(*paths: Path) -> Stamp:
    """What changes when one of the files is written or replaced; never raises."""
    found: list[tuple[int, ...]] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            found.append((error.errno or 0,))
        else:
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class TLSConfig:
    """What the context of a TLS listener is made of."""

    certificate: Path
    """PEM: the server's certificate and its chain."""
    key: Path
    """PEM, not encrypted."""
    anchors: tuple[bytes, ...] = ()
    """Certificates that clients' certificates may be under, or be, DER; without any, no certificate is asked for."""
    minimum_version: MinimumVersion = "1.2"
    ciphers: str | None = None
    """Cipher suites of TLS 1.2, as OpenSSL lists them; None: Python's choice, which has forward secrecy throughout."""


class _Connection(ssl.SSLObject):
    """OpenSSL's side of one connection, which keeps the alert of a handshake that fails (RFC 8446 §6.2)."""

    outgoing: ssl.MemoryBIO | None = None
    last_words: list[bytes] | None = None

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            if self.outgoing is not None and self.last_words is not None:
                self.last_words.append(self.outgoing.read())
            raise


class TLSContext(ssl.SSLContext):
    """The context of a TLS listener, which knows what it was made of."""

    sslobject_class = _Connection
    config: TLSConfig
    files: Stamp
    """The files as they were when they were read."""
    server: x509.Certificate
    """The server's certificate."""

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any) -> ssl.SSLObject:
        """What event loops call for each connection."""
        made = super().wrap_bio(incoming, outgoing, *args, **options)
        if isinstance(made, _Connection):
            made.outgoing, made.last_words = outgoing, last_words.get(None)
        return made

    def again(self) -> "TLSContext":
        """Make another one in its place. Raises OSError or ValueError."""
        return make_context(self.config)


def make_context(config: TLSConfig) -> TLSContext:
    """Make the context of a TLS listener, TLS 1.2 or later (RFC 9325 §3.1.1). Raises OSError or ValueError."""
    context = TLSContext(ssl.PROTOCOL_TLS_SERVER)
    context.config = config
    context.files = stamp(config.certificate, config.key)
    context.minimum_version = _VERSIONS[config.minimum_version]
    context.set_alpn_protocols(["http/1.1"])
    # Each connection shall prove its client's key anew, under the trust anchors of today: no session tickets in TLS 1.3
    # nor in 1.2. The session IDs of TLS 1.2 cannot be switched off from Python; see `Listener.replace_tls`.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    if config.ciphers is not None:
        try:
            context.set_ciphers(config.ciphers)
        except ssl.SSLError:
            raise ValueError("ciphers: OpenSSL knows none of them") from None

    def passphrase() -> str:
        raise ValueError("the key is encrypted")

    context.load_cert_chain(config.certificate, config.key, passphrase)
    context.server = x509.load_pem_x509_certificate(config.certificate.read_bytes())
    if config.anchors:
        context.load_verify_locations(cadata=b"".join(config.anchors))
        context.verify_mode = ssl.CERT_OPTIONAL
        # any certificate given is an anchor, and one that has expired gets as far as the profile, which may renew it
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    return context


def server_tls(certificate: Path, key: Path, anchors: Sequence[bytes] = (), **options: Any) -> TLSContext:
    """Make the context of a TLS listener from its files; `options` are those of `TLSConfig`."""
    return make_context(TLSConfig(certificate, key, tuple(dict.fromkeys(anchors)), **options))


def client_of(connection: Any) -> TLSClient | None:
    """Take the client's certificate and what it sent with it from an `ssl.SSLObject`; None when it sent none."""
    certificate = connection.getpeercert(True)
    if not certificate:
        return None
    return TLSClient(certificate, tuple(one for one in _sent(connection) if one != certificate))


def _sent(connection: Any) -> list[bytes]:
    if hasattr(connection, "get_unverified_chain"):  # Python 3.13 and later
        return list(connection.get_unverified_chain())
    try:
        return [one.public_bytes(_DER) for one in connection._sslobj.get_unverified_chain() or ()]  # noqa: SLF001  see above
    except AttributeError:  # another implementation of Python: intermediates must come from the profile then
        return []


def why_failed(error: OSError) -> tuple[str, str]:
    """Say why a handshake failed: one of `FAILURES`, and OpenSSL's reason."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate", error.verify_message
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        text = reason.lower().replace("_", " ") or type(error).__name__
        if "_ALERT_" in reason:
            return "alert", text
        return _REASONS.get(reason, "closed" if isinstance(error, ssl.SSLEOFError) else "other"), text
    if isinstance(error, TimeoutError | ConnectionAbortedError):  # the latter is what event loops raise
        return "timeout", "the handshake took too long"
    if isinstance(error, ConnectionError):
        return "closed", "the client has closed the connection"
    return "other", error.strerror or type(error).__name__


def names_of(certificate: x509.Certificate) -> tuple[set[str], set[str]]:
    """DNS names in lower case, and IP addresses, that a server's certificate is for (RFC 9525 §6.3)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return set(), set()
    dns = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    return dns, {str(address) for address in names.get_values_for_type(x509.IPAddress)}


def is_for(certificate: x509.Certificate, host: str) -> bool:
    """Whether a server's certificate is for a host name or address; a `*` is one whole label (RFC 9525 §6.3)."""
    dns, addresses = names_of(certificate)
    host = host.lower().rstrip(".")
    return host in dns or host in addresses or f"*.{host.partition('.')[2]}" in dns
