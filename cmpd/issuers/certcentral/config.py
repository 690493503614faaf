"""The keys of `[issuers.NAME]` with type "certcentral", and the API key behind them, read and checked."""

import os
import re
import ssl
import stat
from datetime import timedelta
from pathlib import Path
from string import Formatter
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    StrictInt,
    model_validator,
)

from cmpd.issuers import IssuerConfigError
from cmpd.issuers.local.config import FilePath
from cmpd.profile import parse_duration

REGIONS: Final = {
    "us": "https://www.digicert.com/services/v2",
    "eu": "https://certcentral.digicert.eu/services/v2",
}
"""Base URLs of the Services API v2. An account lives in one of them, and so do its API keys."""
PLACEHOLDERS: Final = ("profile", "transaction", "seat", "tags", "business_unit")
"""What the text of a custom field may name in braces."""
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_LONGEST_SECRET: Final = 4096


def _base_url(url: str) -> str:
    advice = "write the URL of the API without the name of a call, for instance " + REGIONS["us"]
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or re.search(r"[^\x21-\x7e]", url) or parts.query or parts.fragment:
        raise ValueError(f"not a URL that can be called; {advice}")
    if "@" in parts.netloc:
        raise ValueError("a user name or password in a URL ends in logs; the API key is in api_key_file")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise ValueError("the API key goes with every call and must not go unencrypted; write https://")
    return url.rstrip("/")


def _proxy(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port is not None
    except ValueError:
        usable = False
    if not usable or re.search(r"[^\x21-\x7e]", url) or parts.path not in {"", "/"} or parts.query:
        raise ValueError("not a proxy; write for instance http://proxy.example.com:3128")
    if "@" in parts.netloc:
        raise ValueError("a user name or password in a URL ends in logs; put USER:PASSWORD into proxy_credentials_file")
    return url


def _fields(fields: dict[str, str]) -> dict[str, str]:
    for number, text in fields.items():
        if not number.isascii() or not number.isdecimal():
            raise ValueError("a custom field is named by its number; `cmpd doctor` lists those of the account")
        try:
            names = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
        except ValueError:
            names = [text]
        if not set(names) <= set(PLACEHOLDERS):
            raise ValueError(f"only these can be in braces: {', '.join(PLACEHOLDERS)}; write other braces twice")
    return fields


_Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
_Id = Annotated[StrictInt, Field(ge=1, le=2**53)]


class CertCentralConfig(BaseModel):
    """[issuers.NAME] with type = "certcentral": DigiCert CertCentral, over its Services API v2."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, hide_input_in_errors=True
    )

    type: Literal["certcentral"] = "certcentral"
    """The kind of issuer."""
    region: Literal["us", "eu"] | None = None
    """Where the account lives: us is www.digicert.com, eu is certcentral.digicert.eu; by default us."""
    base_url: Annotated[str, AfterValidator(_base_url)] | None = None
    """The API's URL, in place of `region`; https, to this machine itself http too."""
    api_key_file: FilePath
    """File with the API key, on one line, readable by nobody else; `${CREDENTIALS_DIRECTORY}/NAME` is a systemd
    credential."""
    division: _Id | None = None
    """Number of the division (container) that orders belong to; by default that of the API key's user."""

    connect_timeout: Annotated[_Duration, Field(ge=timedelta(seconds=1), le=timedelta(minutes=2))] = timedelta(
        seconds=10
    )
    """How long making a connection may take, TLS and a proxy included."""
    read_timeout: Annotated[_Duration, Field(ge=timedelta(seconds=1), le=timedelta(minutes=10))] = timedelta(seconds=60)
    """How long a call may take from the connection to the end of its answer. An order without an answer is looked for,
    not repeated."""
    proxy: Annotated[str, AfterValidator(_proxy)] | None = None
    """URL of an HTTP proxy, e.g. http://proxy.example.com:3128; by default none, whatever the environment says."""
    proxy_credentials_file: FilePath | None = None
    """File with USER:PASSWORD for the proxy."""
    ca_file: FilePath | None = None
    """PEM file with the CAs that the API's TLS certificate may be from, in place of the system's: for a proxy that
    opens TLS connections."""

    requests_per_5_seconds: Annotated[StrictInt, Field(ge=1, le=100)] = 60
    """The most calls in any 5 seconds of all processes on the store together; DigiCert refuses more than 100 for an API
    key, whoever else uses it included. After a start there are only those that DigiCert would still admit if another
    such number had just been made: none is refused after a restart. A process that joins others makes none for about
    8 seconds."""
    requests_per_3_minutes: Annotated[StrictInt, Field(ge=1, le=1000)] = 700
    """The most calls in any 3 minutes, of all processes together; DigiCert refuses more than 1000. The same holds after
    a start, and when a process joins others: with 1000, it makes no call for 3 minutes."""
    queue: Annotated[StrictInt, Field(ge=1, le=100_000)] = 1000
    """So many calls may wait for their turn; a call beyond that is not made."""
    failures_to_open: Annotated[StrictInt, Field(ge=1, le=1000)] = 5
    """After so many failed calls in a row no call is made for a while."""
    pause: Annotated[_Duration, Field(ge=timedelta(seconds=1), le=timedelta(hours=1))] = timedelta(seconds=30)
    """How long no call is made then; after that, a single one tries."""

    payment_method: Literal["balance", "profile", "card", "wire_transfer"] | None = None
    """How orders are paid; profile is the stored card. By default what the account is set to."""
    skip_approval: StrictBool = True
    """Ask for issuance without anybody's approval; needs a key of an administrator or manager."""
    crmf_key_submission: Literal["public_key", "reject"] = "public_key"
    """CertCentral takes a CSR, and ir, cr and kur have none: send the public key alone, or reject such requests. The
    CSR of a p10cr is always sent as it is."""
    stamp_field: _Id | None = None
    """Number of a custom field (text, active) where orders carry our own mark, by which a lost order is found again;
    by default the mark stands in the order's comments."""
    custom_fields: Annotated[dict[str, str], AfterValidator(_fields)] = {}
    """Texts of other custom fields by their number, e.g. {1003 = "{business_unit}"}; {profile}, {transaction}, {seat},
    {tags} and {business_unit} are filled in, and a field that ends up empty is left out."""
    usage_words: dict[
        Literal["non_repudiation", "data_encipherment", "client_auth"],
        Annotated[str, Field(pattern=r"^[A-Za-z_]{1,64}$")],
    ] = {}
    """The API's words for additional usages of S/MIME orders, where they are not the same as ours."""
    revocation_reasons: dict[
        Literal["unspecified", "keyCompromise", "affiliationChanged", "superseded", "cessationOfOperation"],
        Annotated[str, Field(pattern=r"^[A-Za-z_]{1,64}$")],
    ] = {}
    """The API's words for reasons of revocation, where they are not those in snake case, e.g. key_compromise;
    unspecified is not said at all unless it has a word here. Should the API refuse a word, it is revoked without."""

    on_unknown: Literal["hold", "resubmit"] = "hold"
    """An order whose fate is unknown and that is not found within settle_time: hold it for a decision (`cmpd order`),
    or order again, which may cost a second certificate."""
    settle_time: Annotated[_Duration, Field(ge=timedelta(seconds=10), le=timedelta(hours=24))] = timedelta(minutes=5)
    """For so long an order whose fate is unknown is looked for."""
    poll_interval: Annotated[_Duration, Field(ge=timedelta(seconds=5), le=timedelta(hours=1))] = timedelta(seconds=60)
    """How often CertCentral is asked which orders have changed; one call for all of them."""
    sweep_interval: Annotated[_Duration, Field(ge=timedelta(minutes=10), le=timedelta(days=7))] = timedelta(hours=24)
    """How often all that is open is looked at one by one."""
    revocation_interval: Annotated[_Duration, Field(ge=timedelta(hours=1), le=timedelta(days=7))] = timedelta(hours=24)
    """How often it is found out which certificates have been revoked at CertCentral, with one call for what has
    changed and a few for each changed order of ours; CertCentral knows changes of 7 days, after a longer break all
    revoked orders are listed."""
    on_certconf_reject: Literal["revoke", "keep"] = "revoke"
    """A certificate that the client rejects: revoke it here and at CertCentral, or keep what has been paid. It is for
    the account that pays, so it is said here and not in profiles. By default it is revoked: the client has said that it
    will not use it, and has to order another one in any case."""
    on_missing_certconf: Literal["revoke", "keep"] = "keep"
    """The same for a certificate that the client never confirms. By default it is kept, for the client may use it, and
    revoked it would have to be bought again: the same request by the same client, its code good for one more, gets the
    same certificate. Until then it authenticates nobody here, and `cmpd cert list --status kept` shows it."""
    on_uncollected: Literal["revoke", "keep"] = "keep"
    """The same for a certificate that was issued after the client had stopped polling for it; kept, the client still
    gets it when it polls, or when it asks for the same again."""
    uncollected_after: Annotated[_Duration, Field(ge=timedelta(hours=1), le=timedelta(days=400))] = timedelta(days=30)
    """After so long on_uncollected counts."""

    @model_validator(mode="after")
    def _together(self) -> "CertCentralConfig":
        if self.region is not None and self.base_url is not None:
            raise ValueError("region and base_url say the same thing; leave one of them out")
        if self.proxy_credentials_file is not None and self.proxy is None:
            raise ValueError("proxy_credentials_file goes with proxy; set proxy too")
        if self.requests_per_3_minutes < self.requests_per_5_seconds:
            raise ValueError("requests_per_3_minutes is less than requests_per_5_seconds; correct one of them")
        if str(self.stamp_field) in self.custom_fields:
            raise ValueError("custom_fields has the field of stamp_field too; give our mark a field of its own")
        return self

    @property
    def url(self) -> str:
        """The API's base URL."""
        return self.base_url or REGIONS[self.region or "us"]

    def read_api_key(self) -> SecretStr:
        """The API key. Raises `IssuerConfigError`, which never shows it."""
        key = _secret("api_key_file", self.api_key_file, "the API key")
        if not re.fullmatch(r"[\x21-\x7e]{8,512}", key):
            raise _fault(
                "api_key_file", self.api_key_file, "holds more than an API key; leave only the key, on one line"
            )
        return SecretStr(key)

    def read_proxy_credentials(self) -> SecretStr | None:
        """USER:PASSWORD for the proxy, or None. Raises `IssuerConfigError`, which never shows them."""
        if self.proxy_credentials_file is None:
            return None
        text = _secret("proxy_credentials_file", self.proxy_credentials_file, "USER:PASSWORD")
        if ":" not in text:
            raise _fault("proxy_credentials_file", self.proxy_credentials_file, "has no colon; write USER:PASSWORD")
        return SecretStr(text)

    def tls(self) -> ssl.SSLContext:
        """What TLS connections to the API must satisfy. Raises `IssuerConfigError`."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except FileNotFoundError:
            raise _fault("ca_file", self.ca_file, "no such file; correct the path") from None
        except OSError as error:  # ssl.SSLError among them
            reason = "holds no readable PEM certificate" if isinstance(error, ssl.SSLError) else "cannot be read"
            raise _fault("ca_file", self.ca_file, f"{reason}; name a PEM file with CA certificates") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def readable_by_group(self) -> list[Path]:
        """The secret files that a whole group may read; systemd's credentials, protected otherwise, left out."""
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        return [
            path
            for path in (self.api_key_file, self.proxy_credentials_file)
            if path is not None
            and path.stat().st_mode & stat.S_IRGRP
            and not (credentials and path.is_relative_to(credentials))
        ]


def _fault(key: str, path: Path | None, reason: str) -> IssuerConfigError:
    return IssuerConfigError(f"{key}: {path}: {reason}")


def _secret(key: str, path: Path, what: str) -> str:
    """The first line of a secret file. Raises `IssuerConfigError`."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_LONGEST_SECRET + 1)
    except FileNotFoundError:
        raise _fault(key, path, f"no such file; write {what} into it") from None
    except OSError as error:
        raise _fault(
            key, path, f"cannot be read: {error.strerror}; check owner and permissions of file and folders"
        ) from None
    if mode & 0o007:
        raise _fault(key, path, f"mode {mode:04o} opens it to every user; chmod 600 it, and get a new one")
    text = data.decode("ascii", "replace").strip()
    if not text:
        raise _fault(key, path, f"is empty; write {what} into it")
    if len(data) > _LONGEST_SECRET or not text.isprintable() or "\ufffd" in text:
        raise _fault(key, path, f"holds something else; leave only {what}, on one line")
    return text
