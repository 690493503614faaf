"""`[store] url` of a database server: what libpq calls a connection URI, checked before anything is made of it.

Nothing here repeats a part of the URL that could be the password, or a part of it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

SCHEMES = frozenset({"postgresql", "postgres"})
_NOT_HERE = frozenset(
    (
        "channel_binding",
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "replication",
        "require_auth",
        "requirepeer",
        "sslcompression",
        "sslsni",
        "tcp_user_timeout",
    )
)
"""Parameters of libpq that asyncpg would send to the server as settings."""
_FILES = frozenset({"passfile", "sslcert", "sslcrl", "sslkey", "sslrootcert"})
_ENCODE = "a user name or password has @ : / ? # in percent-encoding (@ is %40), or use [store] password_file"


@dataclass(frozen=True, slots=True)
class ServerURL:
    """A URL, read."""

    name: str
    """Hosts and database, for logs: without user, password and parameters."""
    dsn: str = field(repr=False)
    """What asyncpg is given."""
    files: tuple[tuple[str, Path], ...]
    """Parameters that name files, and the files."""
    connect_timeout: float | None
    """Seconds; None when it does not say."""


def read_server_url(url: str) -> ServerURL:
    """Take a URL apart. Raises ValueError, with what to write."""
    try:
        parts = urlsplit(url)
        parameters = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(f"not a URL: {_ENCODE}") from None
    if parts.scheme not in SCHEMES or "@" in parts.path or parts.fragment or parts.netloc.count("@") > 1:
        raise ValueError(f"not a URL: {_ENCODE}")
    if not url.startswith(f"{parts.scheme}://"):
        raise ValueError("write postgresql://USER@HOST/DATABASE")
    hosts = parts.netloc.rpartition("@")[2]
    seconds = None
    rest = []
    for key, value in parameters:
        if key in _NOT_HERE:
            raise ValueError(f"{key}: not known here; remove it")
        if key == "connect_timeout":
            if not value.isdecimal() or not int(value):
                raise ValueError("connect_timeout: whole seconds; correct the value")
            seconds = float(value)
        else:
            rest.append((key, value))
    named = dict(rest)
    hosts = hosts or named.get("host", "")
    for host in hosts.split(","):
        port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host.rpartition("]")[2] else "5432"
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"not a URL: a port is a number; {_ENCODE}")
    database = parts.path or f"/{named.get('dbname', named.get('database', ''))}"
    service = f"?service={named['service']}" if "service" in named else ""
    return ServerURL(
        name=f"postgresql://{hosts}{database}{service}",
        dsn=urlunsplit(parts._replace(query=urlencode(rest))),
        files=tuple((key, Path(value)) for key, value in rest if key in _FILES),
        connect_timeout=seconds,
    )


def without_password(text: str) -> str:
    """A text for people, in which a URL may stand: what is between : and @ is left out."""
    scheme, separator, rest = text.partition("://")
    before, at, after = rest.rpartition("@")
    user, colon, _ = before.partition(":")
    return f"{scheme}{separator}{user}{':…' if colon else ''}{at}{after}" if separator and at else text
