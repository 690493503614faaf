"""cmpd.toml: every key, its type, its default, and one line for each thing that is wrong with it.

A model's field docstring is the key's meaning: README's table and the sample config repeat it, and a test holds them
to it. Secrets are never in the file, only the paths of files that hold them.
"""

import base64
import binascii
import difflib
import os
import re
import socket
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)

from cmpd.limits import Limits
from cmpd.profile import Duration
from cmpd.store import Database
from cmpd.store.url import SCHEMES, read_server_url, without_password

DEFAULT_PATH = Path("/etc/cmpd/cmpd.toml")
KEY_SIZE = 32
"""Octets of the store key (AES-256)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_FIELD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SHOWN = 60
_CREDENTIALS = "${CREDENTIALS_DIRECTORY}"


class SettingsError(Exception):
    """The configuration cannot be used: one line per fault, each `FILE: key: value …: reason; what to do`."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Listen:
    """A TCP address to listen on; port 0 lets the system choose one."""

    host: str
    """An IPv4 or IPv6 address without brackets, or a host name."""
    port: int

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read `127.0.0.1:8829`, `[::1]:8829` or `localhost:0`. Raises ValueError."""
        if isinstance(text, cls):
            return text
        match = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*):([0-9]{1,5})", text) if isinstance(text, str) else None
        if match is None:
            raise ValueError('not HOST:PORT; write "127.0.0.1:8829", or "[::1]:8829" for IPv6')
        host, port = match[1], int(match[2])
        if port > 65535:
            raise ValueError("no such port; ports are 0 to 65535")
        if host.startswith("["):
            try:
                return cls(str(IPv6Address(host[1:-1])), port)
            except ValueError:
                raise ValueError("not an IPv6 address between the brackets; write for instance [::1]:8829") from None
        if re.fullmatch(r"[0-9.]+", host):
            try:
                return cls(str(IPv4Address(host)), port)
            except ValueError:
                raise ValueError("not an IPv4 address; write for instance 127.0.0.1:8829") from None
        if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
            raise ValueError('not a host name; write "127.0.0.1:8829", or "[::1]:8829" for IPv6')
        return cls(host, port)

    @property
    def wildcard(self) -> bool:
        """Whether this is every address of the machine, which nobody can connect to by that name."""
        try:
            return ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def resolve(self) -> list[str]:
        """The IP addresses that the host stands for. Raises OSError when it stands for none; may ask the network."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [str(address[0]) for *_, address in found]

    def is_local(self) -> bool:
        """Whether only this machine reaches it (loopback). Raises OSError when the host stands for no address."""
        return all(ip_address(address).is_loopback for address in self.resolve())

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _resolve(path: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    if path.parts[:1] == (_CREDENTIALS,):
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise ValueError(
                "CREDENTIALS_DIRECTORY is not set; systemd sets it for a unit with LoadCredential=, "
                "elsewhere set it to the folder that holds the file"
            )
        path = Path(folder, *path.parts[1:])
    if "${" in str(path):
        raise ValueError(f"only {_CREDENTIALS}/ at the beginning is expanded; write the path out")
    return base / path.expanduser()


def _store_url(url: str, info: ValidationInfo) -> str:
    scheme, separator, rest = url.partition("://")
    if separator and scheme in SCHEMES:
        read_server_url(url)
        return url
    if not separator or scheme != "sqlite":
        raise ValueError(
            'no such store; write "sqlite:///cmpd.db" (beside this file), "sqlite:////var/lib/cmpd/cmpd.db"'
            ' or "postgresql://cmpd@db.example.com/cmpd"'
        )
    if not rest.startswith("/") or rest.strip("/") == "" or "?" in rest:
        raise ValueError('not a store URL; write "sqlite:///" and the path of the database, nothing after it')
    return f"sqlite:///{_resolve(Path(rest[1:]), info).absolute()}"


def parse_url(url: str) -> str:
    """Check a URL that clients are told, and take a slash at its end away. Raises ValueError."""
    if not url:
        raise ValueError(
            'not set, and `listen` is no address to connect to; write for instance "http://pki.example.com:8829"'
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port >= 0)
    except ValueError:
        usable = False
    if not usable or "?" in url or "#" in url or "@" in url or re.search(r"[\x00-\x20\x7f-\uffff]", url):
        raise ValueError('not a URL that clients can use; write for instance "https://pki.example.com"')
    return url.rstrip("/")


def _url_of(data: dict[str, Any]) -> str:
    listen = data["listen"]
    return "" if listen.wildcard else f"http://{listen}"


def _network(text: object) -> object:
    try:
        return ip_network(text) if isinstance(text, str) else text
    except ValueError:
        raise ValueError(
            'no IP address or network; write for instance "127.0.0.1", "10.0.0.0/8" or "fd00::/64"'
        ) from None


def _header(name: str) -> str:
    if not _FIELD_NAME.fullmatch(name):
        raise ValueError("no name of a header field; use letters, digits, - and _")
    return name


Network = IPv4Network | IPv6Network
NetworkAddress = Annotated[
    Network,
    BeforeValidator(_network),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1", "10.0.0.0/8"]}),
]
FilePath = Annotated[Path, AfterValidator(_resolve)]
"""A path; a relative one starts at the folder of cmpd.toml."""
ListenAddress = Annotated[
    Listen,
    BeforeValidator(Listen.parse),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8829", "[::1]:8829"]}),
]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=False,
        use_attribute_docstrings=True,
        validate_default=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )


class ServerTLS(_Section):
    """[server.tls]: a second listener with TLS; leave the section out to have none."""

    listen: ListenAddress
    """HOST:PORT of the TLS listener."""
    certificate: FilePath
    """PEM file with the server's certificate, followed by its chain."""
    key: FilePath
    """PEM file with the certificate's private key, not encrypted."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    """The oldest version of TLS that is spoken."""
    ciphers: str | None = None
    """Cipher suites of TLS 1.2 as `openssl ciphers` takes them; by default those with forward secrecy."""


def _networks(networks: list[Network]) -> list[Network]:
    if not networks:
        raise ValueError("names nobody; write the addresses of the proxies, or leave the section out")
    if any(network.prefixlen == 0 for network in networks):
        raise ValueError("everybody could speak for every client; write the addresses of the proxies")
    return networks


class ServerProxy(_Section):
    """[server.proxy]: reverse proxies that end TLS and speak for clients; leave the section out to have none."""

    addresses: Annotated[list[NetworkAddress], AfterValidator(_networks)]
    """Addresses and networks of the proxies, and of nothing else: who has one of them can be any client."""
    certificate: Literal["rfc9440", "nginx", "haproxy", "off"] = "off"
    """How they pass on the client's TLS certificate: `rfc9440` (Client-Cert), `nginx` ($ssl_client_escaped_cert),
    `haproxy` (ssl_c_der in base64), or not at all. From anybody else such a field is refused."""
    certificate_header: Annotated[str, AfterValidator(_header)] | None = None
    """The field with the certificate; by default Client-Cert, X-SSL-Client-Cert or X-SSL-Client-DER."""
    chain_header: Annotated[str, AfterValidator(_header)] | None = None
    """The field with the certificates above it; by default Client-Cert-Chain, none with nginx, or
    X-SSL-Client-Chain-DER."""
    client_address: Annotated[str, AfterValidator(lambda name: name and _header(name))] = "X-Forwarded-For"
    """The field with the client's address, of which the last one counts that is no proxy's; "" takes the proxy's."""


class Server(_Section):
    """[server]: where clients reach the CMP service."""

    listen: ListenAddress = Field(default="127.0.0.1:8829")  # type: ignore[assignment]  # validated as a default too
    """HOST:PORT of the CMP listener (HTTP); IPv6 in brackets; port 0 takes any free one."""
    url: Annotated[str, AfterValidator(parse_url)] = Field(default_factory=_url_of)
    """How clients reach the service, without a path of CMP: printed in URLs and put into certificates as the place of
    the CRL. By default http:// and `listen`."""
    allow_http: bool = False
    """Whether `listen` may be an address that other machines reach. CMP messages protect themselves, but without TLS
    everybody on the way reads names and references, and can try to guess the secrets of enrollment codes."""
    cmp_signer: str | None = None
    """The issuer whose CMP signer signs the answers for issuers that have none, such as a public CA; by default the
    only one that has one."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """So many processes serve, beside one that watches over them; 1 is a single process. `cmpd serve --workers` says
    otherwise for a run. As many as there are cores is the most that makes sense."""
    tls: ServerTLS | None = None
    """The section [server.tls]."""
    proxy: ServerProxy | None = None
    """The section [server.proxy]."""


class Admin(_Section):
    """[admin]: the operator's listener with /metrics, /healthz, /readyz, and what `cmpd reload` asks for."""

    listen: ListenAddress = Field(default="127.0.0.1:9829")  # type: ignore[assignment]  # validated as a default too
    """HOST:PORT of the admin listener; keep it where only operators and monitoring can reach it."""


class StoreSettings(_Section):
    """[store]: the database."""

    url: Annotated[str, AfterValidator(_store_url)] = Field(default="sqlite:///cmpd.db", repr=False)
    """The database: `sqlite:///FILE` beside cmpd.toml, `sqlite:////ABSOLUTE/FILE`, or for several nodes
    `postgresql://USER@HOST/DATABASE` with the parameters that libpq knows."""
    key_file: FilePath = Path("secrets/store.key")
    """File with 32 random octets in base64 that encrypt the enrollment codes in the database; mode 0600 or 0640.
    `${CREDENTIALS_DIRECTORY}/NAME` is a systemd credential."""
    retention: Duration = Field(default="7d")  # type: ignore[assignment]  # validated as a default too
    """How long an ended transaction is kept to repeat its answer."""
    certificate_retention: Duration | None = None
    """How long a certificate is kept after it has expired; without this key for good. One that was revoked because its
    key was compromised is kept in any case, so that the key never gets another."""
    order_retention: Duration | None = None
    """How long an order is kept after it has ended, and its transaction with it; without this key for good."""
    refusals: Annotated[int, Field(ge=0, le=1_000_000)] = 500
    """How many of the last refusals are kept, for `cmpd refusals`."""

    password_file: FilePath | None = None
    """PostgreSQL: file with the role's password, so that it is not in the URL; mode 0600 or 0640.
    `${CREDENTIALS_DIRECTORY}/NAME` is a systemd credential."""
    connections: Annotated[int, Field(ge=3, le=100)] = 8
    """PostgreSQL: the most connections that this node makes."""
    statement_timeout: Duration = Field(default="5s")  # type: ignore[assignment]  # validated as a default too
    """PostgreSQL: after how long a statement is given up, and for how long a server that is gone is looked for."""
    statement_cache: bool = True
    """PostgreSQL: whether statements are prepared once for each connection; `false` by way of pgbouncer in
    transaction mode."""
    migrate: bool = True
    """PostgreSQL: whether `serve` and other commands bring an older schema up to date; `false`: it is refused."""

    @property
    def path(self) -> Path | None:
        """The SQLite database's absolute path; None for another store."""
        return Path(self.url.removeprefix("sqlite:///")) if self.url.startswith("sqlite:") else None

    def database(self, *, migrate: bool = True) -> Database:
        """What the store is told beside its URL; `migrate` False: nothing is changed. Raises SettingsError."""
        return Database(
            password=None if self.password_file is None else read_password(self.password_file),
            connections=self.connections,
            statement_timeout=self.statement_timeout.total_seconds(),
            statement_cache=self.statement_cache,
            migrate=self.migrate and migrate,
        )

    def key(self) -> bytes:
        """Read the store key: 32 octets. Raises SettingsError."""
        return read_key(self.key_file)


class ProfilesSettings(_Section):
    """[profiles]: the certificate profiles, one file each."""

    directory: FilePath = Path("profiles")
    """Folder of the profile files, NAME.toml each."""
    default: str | None = None
    """Name of the profile that /.well-known/cmp without a name stands for; without this key there is none."""


class Log(_Section):
    """[log]: what is written to standard error."""

    format: Literal["auto", "json", "console"] = "auto"
    """`json`, `console` (for people), or `auto`: console on a terminal, else json."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe record that is written."""


class IssuerSettings(_Section):
    """[issuers.NAME]: one per issuer; keys beside `type` belong to the issuer and are checked by it."""

    model_config = ConfigDict(extra="allow")

    type: str
    """The kind of issuer: a name of the entry-point group cmpd.issuers; `local` comes with cmpd."""


class Settings(_Section):
    """The whole of cmpd.toml."""

    path: Path
    """The file it was read from, absolute. Not a key."""
    server: Server
    admin: Admin
    store: StoreSettings
    issuers: dict[str, IssuerSettings]
    profiles: ProfilesSettings
    limits: Limits
    log: Log

    @property
    def base(self) -> Path:
        """The folder that relative paths start from."""
        return self.path.parent

    def issuer_table(self, name: str) -> dict[str, Any]:
        """The keys of `[issuers.NAME]` as written, `type` included."""
        return self.issuers[name].model_dump()

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read and check a file. Raises SettingsError naming every fault."""
        path = Path(path).absolute()
        table = read_toml(path)
        if "path" in table:
            raise SettingsError([f"{path}: path: unknown key; remove it"])
        for section in ("server", "admin", "store", "issuers", "profiles", "limits", "log"):
            table.setdefault(section, {})
        try:
            settings = cls.model_validate(table | {"path": path}, context={"base": path.parent})
        except ValidationError as error:
            raise SettingsError(describe(path, cls, error)) from None
        faults = [
            f"{path}: issuers.{name}: not a usable name; use letters, digits, - and _, starting with a letter or digit"
            for name in settings.issuers
            if not _NAME.fullmatch(name)
        ]
        if faults:
            raise SettingsError(faults)
        return settings


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file. Raises SettingsError with file and line."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise SettingsError(
            [f"{path}: no such file; make one with `cmpd init --dir DIR`, or name yours with --config or CMPD_CONFIG"]
        ) from None
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}; check path and permissions"]) from None
    except UnicodeDecodeError as error:
        raise SettingsError([f"{path}: octet {error.start} is not UTF-8; save the file as UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        text = str(error)
        place = re.search(r" \(at (line \d+, column \d+|end of document)\)$", text)
        where = f"{place[1]}: " if place else ""
        reason = text[: place.start()] if place else text
        raise SettingsError([f"{path}: {where}not TOML: {reason}; correct the line"]) from None


def read_key(path: Path) -> bytes:
    """Read a key file of 32 octets in base64. Raises SettingsError, which never shows the content."""
    text = _secret("store.key_file", path, "restore it: without it no enrollment code is readable")
    try:
        key = base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        raise SettingsError(
            [f"{path}: store.key_file: not base64; `openssl rand -base64 32` makes a new one"]
        ) from None
    if len(key) != KEY_SIZE:
        raise SettingsError(
            [f"{path}: store.key_file: {len(key)} octets, not {KEY_SIZE}; `openssl rand -base64 32` makes a new one"]
        )
    return key


def read_password(path: Path) -> str:
    """Read a file with a password. Raises SettingsError, which never shows the content."""
    text = _secret("store.password_file", path, "write the password of the database role into it")
    try:
        password = text.rstrip(b"\r\n").decode()
    except UnicodeDecodeError:
        raise SettingsError([f"{path}: store.password_file: not UTF-8; write it in UTF-8"]) from None
    if not password:
        raise SettingsError([f"{path}: store.password_file: is empty; write the password of the database role into it"])
    return password


def _secret(key: str, path: Path, advice: str) -> bytes:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_bytes()[:1024]
    except FileNotFoundError:
        raise SettingsError([f"{path}: {key}: no such file; {advice}"]) from None
    except OSError as error:
        raise SettingsError([f"{path}: {key}: cannot be read: {error.strerror}; check its permissions"]) from None
    if mode & 0o007:
        raise SettingsError([f"{path}: {key}: mode {mode:04o} opens it to every user; chmod 600 it"])
    return text


def describe(path: Path, model: type[BaseModel], error: ValidationError) -> list[str]:
    """Turn pydantic's report about a file into one line per fault; the value of an unknown key is not shown."""
    faults = []
    for fault in error.errors(include_url=False, include_context=False):
        location = [str(part) for part in fault["loc"]]
        kind = fault["type"]
        reason = fault["msg"].removeprefix("Value error, ")
        if kind == "default_factory_not_called":
            continue
        if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
            known = _keys(model, location[:-1])
            near = difflib.get_close_matches(location[-1], known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
            faults.append(f"{path}: {'.'.join(location)}: unknown key; {advice}")
        elif kind == "missing":
            faults.append(f"{path}: {'.'.join(location)}: missing; set it")
        else:
            if "; " not in reason:
                reason = f"{reason[:1].lower()}{reason[1:]}; correct the value"
            shown = "a table" if isinstance(fault["input"], Mapping) else repr(_shown(fault["input"]))
            if len(shown) > _SHOWN:
                shown = f"{shown[:_SHOWN]}…"
            value = "" if fault["input"] == "" else f"value {shown}: "
            faults.append(f"{path}: {'.'.join(location)}: {value}{reason}")
    return faults


def _shown(value: object) -> object:
    """A value for people: without the password of a URL."""
    return without_password(value) if isinstance(value, str) else value


def _keys(model: Any, location: Sequence[str]) -> list[str]:
    """The keys that the model knows at a place, for the hint at an unknown one."""
    for part in location:
        annotation = model.model_fields[part].annotation
        model = next(choice for choice in getattr(annotation, "__args__", (annotation,)) if choice is not type(None))
    fields = getattr(model, "model_fields", None) or model.__pydantic_fields__
    return [name for name in fields if name != "path"]
