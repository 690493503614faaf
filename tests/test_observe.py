"""What an operator sees: one record per exchange that nobody can forge, and metrics that nobody can swell."""

import json
import logging
import os
import pty
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from cmpd import observe
from cmpd.exchange import Exchange
from cmpd.observe import SHOWN, Metrics, escape, record, set_up_logging

FORGED = 'x\n{"event": "exchange", "outcome": "accepted"}\r\x1b[2K\x1b[31m\u202egnp.exe\u2028\x85\x00\udcff"}'


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "aiohttp")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)


def exchange(**fields: Any) -> Exchange:
    usual: dict[str, Any] = {"operation": "ir", "profile": "device", "outcome": "accepted", "ms": 2.3456}
    return Exchange("192.0.2.7", **usual | fields)


def written(capfd: pytest.CaptureFixture[str], *, form: str = "json", level: str = "info", **fields: Any) -> str:
    record(set_up_logging(form, level), exchange(**fields))
    out, err = capfd.readouterr()
    assert out == ""
    return err


def test_the_record_of_an_exchange_has_its_fields_and_no_empty_ones(capfd: pytest.CaptureFixture[str]) -> None:
    line = written(capfd, transaction_id="ab" * 16, credential="code:device-001", serial="1f")
    entry = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", entry.pop("timestamp"))
    assert entry == {
        "event": "exchange",
        "level": "info",
        "operation": "ir",
        "profile": "device",
        "transaction_id": "ab" * 16,
        "credential": "code:device-001",
        "outcome": "accepted",
        "serial": "1f",
        "address": "192.0.2.7",
        "ms": 2.35,
    }
    assert line.count("\n") == 1


def test_a_refusal_says_to_the_operator_what_the_peer_is_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    entry = json.loads(
        written(capfd, outcome="error", fail_info="badMessageCheck", reason="protection", private="no such reference")
    )
    assert (entry["fail_info"], entry["reason"], entry["private"]) == (
        "badMessageCheck",
        "protection",
        "no such reference",
    )
    assert entry["level"] == "info"
    assert json.loads(written(capfd, outcome="error", fail_info="systemFailure"))["level"] == "error"


def test_an_internal_error_comes_with_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError(FORGED)
    except RuntimeError as error:
        caught = error
    line = written(capfd, fail_info="systemFailure", exception=caught)
    assert line.count("\n") == 1
    assert "RuntimeError" in json.loads(line)["exception"]
    shown = written(capfd, form="console", fail_info="systemFailure", exception=caught)
    assert "RuntimeError" in shown
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", shown)
    assert [line for line in shown.splitlines()[1:] if line and not line.startswith("    ")] == []


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("field", ["credential", "reason", "private", "serial", "address", "transaction_id"])
def test_a_client_cannot_forge_a_record(capfd: pytest.CaptureFixture[str], form: str, field: str) -> None:
    """Line ends, terminal escapes, bidirectional controls and broken Unicode arrive as visible escapes."""
    fields = {field: FORGED}
    address = fields.pop("address", "192.0.2.7")
    entry = exchange(**fields)
    entry.address = address
    record(set_up_logging(form), entry)
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", line)
    if form == "json":
        assert line.isascii()
        assert json.loads(line)[field] == FORGED
        assert json.loads(line)["outcome"] == "accepted"


def test_a_long_value_is_cut(capfd: pytest.CaptureFixture[str]) -> None:
    entry = json.loads(written(capfd, credential="x" * 100_000))
    assert entry["credential"] == "x" * SHOWN + "…"


def test_escape_leaves_readable_text_alone() -> None:
    assert escape("CN=Gerät 1,O=Müller & Söhne") == "CN=Gerät 1,O=Müller & Söhne"
    assert escape("a\tb\u200fc") == "a\\u0009b\\u200fc"


def test_the_level_holds_and_libraries_speak_the_same_form(capfd: pytest.CaptureFixture[str]) -> None:
    log = set_up_logging("json", "warning")
    record(log, exchange())
    logging.getLogger("asyncio").info("quiet")
    assert capfd.readouterr().err == ""
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("asyncio").exception("line one\nline two %s", "x")
    entry = json.loads(capfd.readouterr().err)
    assert (entry["event"], entry["logger"], entry["level"]) == ("line one\nline two x", "asyncio", "error")
    assert "ValueError" in entry["exception"]


def test_setting_up_twice_does_not_write_twice(capfd: pytest.CaptureFixture[str]) -> None:
    set_up_logging("json")
    set_up_logging("json")
    logging.getLogger("aiohttp").warning("once")
    assert capfd.readouterr().err.count("once") == 1


@pytest.mark.parametrize(
    ("form", "terminal", "journal", "json_expected"),
    [
        ("auto", False, False, True),
        ("auto", True, False, False),
        ("auto", True, True, True),
        ("json", True, False, True),
        ("console", False, False, False),
    ],
)
def test_the_form_is_json_unless_a_person_is_watching(
    monkeypatch: pytest.MonkeyPatch, form: str, terminal: bool, journal: bool, json_expected: bool
) -> None:
    """Under systemd JOURNAL_STREAM is set; a real pseudo-terminal stands for the person."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if journal:
        monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    reader, writer = pty.openpty() if terminal else os.pipe()
    saved = os.dup(2)
    try:
        os.dup2(writer, 2)
        with open(2, "w", closefd=False, encoding="utf-8") as stream:
            monkeypatch.setattr("sys.stderr", stream)
            record(set_up_logging(form), exchange())
    finally:
        os.dup2(saved, 2)
        for descriptor in (saved, writer):
            os.close(descriptor)
    line = os.read(reader, 65536).decode()
    os.close(reader)
    assert line.startswith("{") == json_expected
    assert ("\x1b[" in line) == (terminal and not json_expected)
    assert "exchange" in line


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    """/dev/full stands for a full disk."""
    saved = os.dup(2)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        os.dup2(full, 2)
        record(set_up_logging("json"), exchange())
        logging.getLogger("cmpd").error("lost too")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(full)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    media_type, text = metrics.exposition()
    assert media_type.startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def labels(**values: Any) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


def test_exchanges_are_counted_and_timed() -> None:
    metrics = Metrics(CollectorRegistry(), ["device"])
    metrics.exchange(exchange(ms=3.0))
    metrics.exchange(exchange(ms=30.0, normalised=True))
    metrics.exchange(exchange(operation="certConf", outcome="confirmed", ms=0.5))
    metrics.exchange(exchange(outcome="rejection", fail_info="badPOP"))
    found = samples(metrics)
    accepted = labels(profile="device", operation="ir", outcome="accepted", fail_info="")
    assert found["cmpd_exchanges_total", accepted] == 2
    rejected = labels(profile="device", operation="ir", outcome="rejection", fail_info="badPOP")
    assert found["cmpd_exchanges_total", rejected] == 1
    timed = labels(profile="device", operation="ir")
    assert found["cmpd_exchange_seconds_count", timed] == 3
    assert found["cmpd_exchange_seconds_sum", timed] == pytest.approx(0.0353456)
    assert found["cmpd_exchange_seconds_bucket", labels(profile="device", operation="ir", le="0.005")] == 2
    assert found["cmpd_normalised_total", ()] == 1


def test_the_other_metrics() -> None:
    metrics = Metrics(CollectorRegistry())
    before = samples(metrics)
    assert before["cmpd_reloads_total", labels(result="failure")] == 0
    metrics.refusal(404)
    metrics.refusal(404)
    metrics.expired(3)
    metrics.reload(success=False)
    metrics.loaded(["device"])
    found = samples(metrics)
    assert found["cmpd_http_refusals_total", labels(status="404")] == 2
    assert found["cmpd_expired_transactions_total", ()] == 3
    assert found["cmpd_reloads_total", labels(result="failure")] == 1
    assert found["cmpd_reloads_total", labels(result="success")] == 0
    assert found["cmpd_config_loaded_timestamp_seconds", ()] > 1.7e9
    assert found["process_resident_memory_bytes", ()] > 1e6
    assert any(name == "cmpd_build_info" for name, _ in found)


def test_strangers_cannot_make_time_series() -> None:
    """Unknown names of profiles, operations, outcomes and failInfos fall together, and nothing of them is kept."""
    metrics = Metrics(CollectorRegistry(), ["device"])
    metrics.exchange(exchange(profile="", operation="unknown", outcome="other"))
    size, cached = len(samples(metrics)), len(metrics._cache)
    for number in range(1000):
        name = f"stranger{number}"
        metrics.exchange(exchange(profile=name, operation=name, outcome=name, fail_info=name))
    assert (len(samples(metrics)), len(metrics._cache)) == (size, cached)


def test_a_reload_changes_which_profiles_are_known() -> None:
    metrics = Metrics(CollectorRegistry(), ["device"])
    metrics.exchange(exchange())
    metrics.loaded(["mail"])
    metrics.exchange(exchange())
    metrics.exchange(exchange(profile="mail"))
    found = samples(metrics)
    for profile in ("device", "", "mail"):
        key = labels(profile=profile, operation="ir", outcome="accepted", fail_info="")
        assert found["cmpd_exchanges_total", key] == 1


def test_what_the_linter_has_said_is_counted() -> None:
    """By profile; a name that no profile has makes no time series of its own."""
    metrics = Metrics(CollectorRegistry(), ["device"])
    for profile in ("device", "device", "invented"):
        metrics.exchange(exchange(profile=profile, lint="warning: pkix.something"))
    metrics.exchange(exchange(profile="device"))
    found = samples(metrics)
    assert found["cmpd_linted_total", labels(profile="device")] == 2
    assert found["cmpd_linted_total", labels(profile="")] == 1


def test_the_short_way_writes_what_structlog_would(capfd: pytest.CaptureFixture[str]) -> None:
    """Records of exchanges take a way of their own to the same line."""
    log = set_up_logging("json")
    hostile = exchange(reason='a "quoted"\n\u202etext', credential="code:Gerät", serial="0a" * 400, normalised=True)
    lines = []
    for direct in (True, False):
        observe._form.direct = direct
        record(log, hostile)
        line = json.loads(capfd.readouterr().err)
        assert line.pop("timestamp").endswith("Z")
        lines.append(line)
    assert lines[0] == lines[1]
    assert list(lines[0]) == list(lines[1])
