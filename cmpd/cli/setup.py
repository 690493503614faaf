"""`cmpd init` and `cmpd quickstart`: everything that a server needs, made where nothing was."""

import asyncio
import base64
import json as json_text
import os
import secrets
import shlex
import shutil
import socket
from datetime import timedelta
from pathlib import Path

from cmpd import daemon
from cmpd.cli import codes
from cmpd.cli.operation import faults, now, profiles_of, reachable
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json
from cmpd.issuers.local import create_ca
from cmpd.profile import device_template, new_id
from cmpd.settings import KEY_SIZE, Listen, Settings, parse_url
from cmpd.store import open_store

LISTEN = Listen("127.0.0.1", 8829)
ADMIN_LISTEN = Listen("127.0.0.1", 9829)
PROFILE = "device"
SUBJECT = "device-1"
ISSUER = "local"
QUICKSTART_EXPIRES = timedelta(days=1)

_DEFAULT_URL = '# url = "https://pki.example.com"  # how clients reach it; by default http:// and listen'
_ALLOW_HTTP = "allow_http = true  # names and references can be read on the way, and codes guessed\n"
_CONFIG = """\
# The configuration of cmpd. README, "Configuration", has every key. Relative paths start at this folder.

[server]
listen = {listen}
{allow_http}{url}

[admin]
listen = {admin_listen}

[store]
url = "sqlite:///cmpd.db"
key_file = "secrets/store.key"

[issuers.{issuer}]
{table}

[profiles]
directory = "profiles"
default = "{profile}"
"""


def init(
    directory: Path, *, listen: str | None, allow_http: bool, admin_listen: str | None, url: str | None, json: bool
) -> None:
    """Make the folder and say what comes next."""
    with faults():
        config = make(
            directory,
            listen=_listen("--listen", listen),
            allow_http=allow_http,
            admin_listen=_listen("--admin-listen", admin_listen),
            url=url,
        )
    folder = config.parent
    if json:
        write_json(
            {"directory": str(folder), "config": str(config), "root_certificate": str(folder / "ca" / "root.pem")}
        )
        return
    option = f"--config {shlex.quote(str(config))}"
    write(
        f"{folder} has a configuration, a CA, a database and the profile {PROFILE}.",
        "",
        "Next:",
        f"  cmpd check {option}",
        f"  cmpd code create {option} --profile {PROFILE}",
        f"  cmpd serve {option}",
        "",
        "Clients trust  ca/root.pem",
        "Back up        secrets/store.key and ca/",
        "Move off-line  ca/root.key, with a copy of ca/passphrase; serving does not need it",
    )


def make(
    directory: Path, *, listen: Listen | None, admin_listen: Listen | None, url: str | None, allow_http: bool = False
) -> Path:
    """Make configuration, CA, key, profile and database; the path of cmpd.toml, which is written last.

    Raises OperatorError when any of it exists, SettingsError, StoreUnavailable, OSError.
    """
    folder = directory.absolute()
    listen = listen or LISTEN
    config = folder / "cmpd.toml"
    key = folder / "secrets" / "store.key"
    profile = folder / "profiles" / f"{PROFILE}.toml"
    database = folder / "cmpd.db"
    authority = folder / "ca"
    for path in (config, key, profile, database, authority):
        if os.path.lexists(path):
            raise OperatorError(f"{path}: exists already and is not overwritten; choose another --dir")
    public = _public_url(listen, url)
    _refuse_plain_http(listen, allow_http)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key.parent.mkdir(mode=0o700, exist_ok=True)
        profile.parent.mkdir(mode=0o755, exist_ok=True)
        store_key = secrets.token_bytes(KEY_SIZE)
        _write(key, base64.b64encode(store_key).decode() + "\n", 0o600)
        made = create_ca(authority, crl_url=f"{public}/crl/{ISSUER}.crl")
        _write(profile, device_template(id=new_id(), issuer=ISSUER), 0o644)
        asyncio.run(_make_database(folder, store_key))
        text = _CONFIG.format(
            listen=_toml(str(listen)),
            allow_http=_ALLOW_HTTP if allow_http else "",
            admin_listen=_toml(str(admin_listen or ADMIN_LISTEN)),
            url=f"url = {_toml(public)}" if url else _DEFAULT_URL,
            issuer=ISSUER,
            table="\n".join(f"{name} = {_toml(value)}" for name, value in made.table(folder).items()),
            profile=PROFILE,
        )
        _write(config, text, 0o644)
    except BaseException:
        for path in (config, profile, key, *folder.glob("cmpd.db*")):  # none of them was there before
            path.unlink(missing_ok=True)
        shutil.rmtree(authority, ignore_errors=True)
        raise
    return config


def quickstart(directory: Path, *, listen: str | None, allow_http: bool, admin_listen: str | None, json: bool) -> None:
    """Make the folder unless it is there, make a fresh code, serve, and say how to enroll once it is listening."""
    config = directory.absolute() / "cmpd.toml"
    at, admin_at = _listen("--listen", listen), _listen("--admin-listen", admin_listen)
    with faults():
        if not config.exists():
            url = f"http://{socket.gethostname()}:{at.port}" if at is not None and at.wildcard else None
            make(directory, listen=at, admin_listen=admin_at, url=url, allow_http=allow_http)
        settings = Settings.load(config)
        if at is not None:
            _refuse_plain_http(at, allow_http or settings.server.allow_http)
        expires = now() + QUICKSTART_EXPIRES
        code, secret, _ = asyncio.run(codes.make(settings, profile=PROFILE, uses=1, expires=expires, reference=None))
        profile = profiles_of(settings)[PROFILE]

        def adjust(settings: Settings) -> Settings:
            """The addresses of the command line hold for this run; all else is the file's, URLs in certificates too."""
            server = settings.server.model_copy(
                update={"listen": at or settings.server.listen, "allow_http": allow_http or settings.server.allow_http}
            )
            admin = settings.admin.model_copy(update={"listen": admin_at or settings.admin.listen})
            return settings.model_copy(update={"server": server, "admin": admin})

        def ready(addresses: daemon.Addresses) -> None:
            service = f"http://{reachable(addresses.cmp)}"
            admin_url = f"http://{reachable(addresses.admin)}"
            url, well_known_url = f"{service}/cmp/{profile.id}", f"{service}/.well-known/cmp/p/{profile.name}"
            enroll, renew = enroll_commands(url, code.reference, secret), renew_commands(url)
            if json:
                answer = {"url": url, "well_known_url": well_known_url, "admin_url": admin_url, "config": str(config)}
                answer |= {"reference": code.reference, "secret": secret, "expires": time_text(expires)}
                write_json(answer | {"enroll": "\n".join(enroll), "renew": "\n".join(renew)})
                return
            write(
                "",
                f"cmpd is serving  {url}",
                f"                 {well_known_url}",
                f"metrics, health  {admin_url}",
                f"configuration    {config}",
                "",
                f"Paste this into a second terminal; the enrollment code is good once, until {time_text(expires)}:",
                "",
                *enroll,
                "",
                "And this there, to renew the certificate with a new key:",
                "",
                *renew,
                "",
                "Ctrl-C stops the server.",
                "",
            )

        daemon.serve(config, adjust=adjust, ready=ready)


def enroll_commands(url: str, reference: str, secret: str) -> list[str]:
    """Lines for a shell that make a key and enroll it with stock OpenSSL 3; the answer is verified by its MAC."""
    return [
        'cd "$(mktemp -d)"',
        f"openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {SUBJECT}.key",
        f"openssl cmp -cmd ir -server {shlex.quote(url)} \\",
        f"  -ref {reference} -secret pass:{secret} \\",
        f"  -newkey {SUBJECT}.key -subject /CN={SUBJECT} -certout {SUBJECT}.pem -cacertsout ca.pem",
        f"openssl x509 -in {SUBJECT}.pem -noout -subject -issuer -dates",
    ]


def renew_commands(url: str) -> list[str]:
    """Lines for the same shell that renew the certificate with a new key; the answer is verified by its signature."""
    return [
        f"openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {SUBJECT}-new.key",
        f"openssl cmp -cmd kur -server {shlex.quote(url)} -trusted ca.pem \\",
        f"  -cert {SUBJECT}.pem -key {SUBJECT}.key -newkey {SUBJECT}-new.key -certout {SUBJECT}-new.pem",
    ]


def _public_url(listen: Listen, url: str | None) -> str:
    if url is None and listen.wildcard:
        raise OperatorError(f"--listen {listen}: does not say how clients reach the service; add --url")
    try:
        return parse_url(url or f"http://{listen}")
    except ValueError as error:
        raise OperatorError(f"--url {plain(url or '')}: {error}") from None


def _refuse_plain_http(listen: Listen, allowed: bool) -> None:
    """Let only those serve other machines over plain HTTP who say so."""
    try:
        if allowed or listen.is_local():
            return
    except (OSError, ValueError):
        raise OperatorError(f"--listen {listen}: no such host; write an address") from None
    raise OperatorError(
        f"--listen {listen}: other machines reach it, and without TLS everybody on the way reads names and references "
        "and can try to guess codes; listen on 127.0.0.1 behind a reverse proxy, or add --allow-http"
    )


def _listen(option: str, text: str | None) -> Listen | None:
    try:
        return None if text is None else Listen.parse(text)
    except ValueError as error:
        raise OperatorError(f"{option} {plain(text or '')}: {error}") from None


def _toml(text: str) -> str:
    """A string as a TOML basic string, whose escapes are those of JSON."""
    return json_text.dumps(text, ensure_ascii=False)


def _write(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


async def _make_database(folder: Path, key: bytes) -> None:
    store = await open_store("sqlite:///cmpd.db", base=folder, key=key)
    await store.close()
