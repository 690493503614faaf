"""Every key of [issuers.NAME] of type certcentral: what it takes, and what is said of what it does not take."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cmpd.issuers import IssuerConfigError, validate
from cmpd.issuers.certcentral import CertCentralConfig

KEY = "0123456789ABCDEF-secret"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "api.key").write_text(f"{KEY}\n")
    (tmp_path / "api.key").chmod(0o600)
    return tmp_path


def load(base: Path, **changes: Any) -> CertCentralConfig:
    table = {"type": "certcentral", "api_key_file": "api.key", **changes}
    return validate(CertCentralConfig, {key: value for key, value in table.items() if value is not None}, base=base)


def refused(base: Path, **changes: Any) -> str:
    with pytest.raises(IssuerConfigError) as caught:
        load(base, **changes)
    (fault,) = caught.value.faults
    assert "; " in fault, "says what to do"
    return fault


def test_the_key_file_alone_is_enough(base: Path) -> None:
    config = load(base)
    assert config.url == "https://www.digicert.com/services/v2"
    assert config.read_api_key().get_secret_value() == KEY
    assert config.on_unknown == "hold"
    assert config.requests_per_5_seconds <= 80
    assert config.requests_per_3_minutes <= 800


def test_every_key_says_what_it_means() -> None:
    assert [name for name, field in CertCentralConfig.model_fields.items() if not field.description] == []


def test_regions_and_urls(base: Path) -> None:
    assert load(base, region="eu").url == "https://certcentral.digicert.eu/services/v2"
    assert load(base, base_url="https://api.example.com/services/v2/").url == "https://api.example.com/services/v2"
    assert load(base, base_url="http://127.0.0.1:8840/services/v2").url == "http://127.0.0.1:8840/services/v2"
    assert load(base, base_url="http://[::1]:1/x").url == "http://[::1]:1/x"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"api_key_file": None}, "api_key_file: missing"),
        ({"api_key": KEY}, "api_key: unknown key; did you mean api_key_file?"),
        ({"region": "ap"}, "region: "),
        ({"region": "us", "base_url": "https://x.example/v2"}, "region and base_url"),
        ({"base_url": "http://api.example.com"}, "base_url: the API key goes with every call"),
        ({"base_url": "ftp://api.example.com"}, "base_url: the API key goes with every call"),
        ({"base_url": "https://user:pw@api.example.com"}, "base_url: a user name or password"),
        ({"base_url": "https://api.example.com/?a=b"}, "base_url: not a URL"),
        ({"base_url": "https://[::1/x"}, "base_url: not a URL"),
        ({"base_url": "nonsense"}, "base_url: not a URL"),
        ({"proxy": "proxy.example.com"}, "proxy: not a proxy"),
        ({"proxy": "http://proxy.example.com"}, "proxy: not a proxy"),
        ({"proxy": "http://me:pw@proxy.example.com:3128"}, "proxy: a user name or password"),
        ({"proxy_credentials_file": "api.key"}, "proxy_credentials_file goes with proxy"),
        ({"division": 0}, "division: "),
        ({"division": "406222"}, "division: "),
        ({"connect_timeout": "0s"}, "connect_timeout: "),
        ({"read_timeout": "1h"}, "read_timeout: "),
        ({"read_timeout": "soon"}, "read_timeout: is not a duration"),
        ({"requests_per_5_seconds": 101}, "requests_per_5_seconds: "),
        ({"requests_per_3_minutes": 1001}, "requests_per_3_minutes: "),
        ({"requests_per_3_minutes": 5}, "requests_per_3_minutes is less"),
        ({"payment_method": "cash"}, "payment_method: "),
        ({"skip_approval": "yes"}, "skip_approval: "),
        ({"crmf_key_submission": "csr"}, "crmf_key_submission: "),
        ({"on_unknown": "again"}, "on_unknown: "),
        ({"on_certconf_reject": "ask"}, "on_certconf_reject: "),
        ({"custom_fields": {"label": "x"}}, "custom_fields: a custom field is named by its number"),
        ({"custom_fields": {"1003": "{password}"}}, "custom_fields: only these can be in braces"),
        ({"custom_fields": {"1003": "{"}}, "custom_fields: only these can be in braces"),
        ({"custom_fields": {"1003": "{profile.name}"}}, "custom_fields: only these can be in braces"),
        ({"custom_fields": {"1001": "x"}, "stamp_field": 1001}, "custom_fields has the field of stamp_field"),
        ({"usage_words": {"signing": "x"}}, "usage_words"),
        ({"settle_time": "1s"}, "settle_time: "),
        ({"poll_interval": "1s"}, "poll_interval: "),
        ({"sweep_interval": "1m"}, "sweep_interval: "),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(base: Path, changes: dict[str, Any], fault: str) -> None:
    text = refused(base, **changes)
    assert fault in text
    assert KEY not in text
    assert ":pw" not in text


def test_durations(base: Path) -> None:
    config = load(base, settle_time="10m", poll_interval="30s", sweep_interval="12h")
    assert (config.settle_time, config.poll_interval) == (timedelta(minutes=10), timedelta(seconds=30))


@pytest.mark.parametrize(
    ("content", "mode", "fault"),
    [
        (None, 0o600, "no such file; write the API key into it"),
        ("", 0o600, "is empty; write"),
        (f"{KEY}\n{KEY}\n", 0o600, "holds something else; leave only"),
        (f"key = {KEY}", 0o600, "holds more than an API key; leave"),
        ("kürzer als ein Schlüssel", 0o600, "holds something else; leave only"),
        ("x" * 5000, 0o600, "holds something else; leave only"),
        (KEY, 0o604, "mode 0604 opens it to every user; chmod 600 it"),
    ],
)
def test_key_files_that_cannot_be_used(base: Path, content: str | None, mode: int, fault: str) -> None:
    path = base / "api.key"
    path.unlink()
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(IssuerConfigError) as caught:
        load(base).read_api_key()
    assert fault in str(caught.value)
    assert str(caught.value).startswith(f"api_key_file: {path}: ")
    assert KEY not in str(caught.value)


def test_a_systemd_credential(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(base))
    (base / "api.key").chmod(0o640)
    config = load(Path("/nowhere"), api_key_file="${CREDENTIALS_DIRECTORY}/api.key")
    assert config.read_api_key().get_secret_value() == KEY
    assert config.readable_by_group() == []
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert config.readable_by_group() == [base / "api.key"]


def test_the_key_is_in_no_representation(base: Path) -> None:
    config = load(base)
    assert KEY not in repr(config) + str(config) + repr(config.read_api_key()) + config.model_dump_json()


def test_files_of_proxy_and_tls(base: Path) -> None:
    (base / "proxy").write_text("user:pass:word\n")
    (base / "proxy").chmod(0o600)
    config = load(base, proxy="http://proxy.example.com:3128", proxy_credentials_file="proxy")
    credentials = config.read_proxy_credentials()
    assert credentials is not None
    assert credentials.get_secret_value() == "user:pass:word"
    (base / "proxy").write_text("nothing")
    with pytest.raises(IssuerConfigError, match="has no colon; write USER:PASSWORD"):
        config.read_proxy_credentials()
    for file, fault in (("missing.pem", "no such file"), ("proxy", "holds no readable PEM")):
        with pytest.raises(IssuerConfigError, match=fault):
            load(base, ca_file=file).tls()
