"""What the load test found, as tables and as JSON."""

import importlib.metadata
import os
import platform
import sqlite3
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.backends.openssl import backend

from bench.floor import Kind, Part, total
from bench.load import Measured, median, percentile

FOREIGN_SHARE = 0.1
"""Of one core: more than that taken by other processes is worth a warning."""
SPEED_SPREAD = 1.15
"""Between the slowest and the quickest stretch of the run."""
P99_MOST = 0.040
"""Seconds a transaction with 16 clients."""
RESIDENT_MOST = 100_000_000
DECODE_MOST = 30e-6


Unit = Literal["ms", "+ms", "+%"]


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of transaction, and the most it may cost: server CPU, and times the floor."""

    name: str
    text: str
    most: float
    ratio_most: float | None
    operation: str = "ir"
    kind: Kind = "mac"
    implicit: bool = False
    person: bool = False
    """By the profile for e-mail certificates, with a request for all that it is about."""
    bound: bool = False
    """By a code that is good for N uses and bound to a subject, in a profile that looks at addresses and counts."""
    tls: bool = False
    """Each transaction over a new TLS 1.3 connection with a client certificate, which the profile asks for."""
    keep_alive: bool = True
    workers: int = 1
    """By a server of so many processes; the CPU time of all counts."""
    unit: Unit = "ms"
    """What `most` is: seconds; seconds more than the row `pbm`; a share more than `pbm`, whose floor it has too. Of TLS
    only what the profile's asking for the certificate adds counts in it; several workers are compared with one by
    turns."""


ROWS = (
    Row("pbm", "PBM, 500 iterations, fresh salt in every client message", 1.2e-3, 1.7),
    Row("signature", "signature", 1.0e-3, 1.9, kind="known signer"),
    Row("implicit", "PBM with implicitConfirm (one exchange)", 0.75e-3, 1.7, implicit=True),
    Row("kur", "kur, signature", 1.2e-3, 1.9, operation="kur", kind="new signer"),
    Row("smime", "PBM, full S/MIME profile and request instead of the device's", 0.15, None, person=True, unit="+%"),
    Row(
        "code",
        "PBM, a code with N uses, bound to a subject, with limits and addresses",
        0.10,
        None,
        bound=True,
        unit="+%",
    ),
    Row(
        "tls",
        "PBM over new TLS 1.3 connections: what asking for the client certificate adds",
        0.10,
        None,
        tls=True,
        unit="+%",
    ),
    Row("workers", "PBM, two workers instead of one process", 0.15, None, workers=2, unit="+%"),
    Row(
        "connections",
        "PBM, one connection per request instead of keep-alive",
        0.25e-3,
        None,
        keep_alive=False,
        unit="+ms",
    ),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the tables of certificates on order."""

    text: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None
    column: str = "measured"
    """What was measured beside others of the same text."""

    @property
    def missed(self) -> bool:
        """Whether it is not what the project has set itself."""
        return (self.most is not None and self.value > self.most) or (
            self.least is not None and self.value < self.least
        )


@dataclass(slots=True)
class Report:
    """Everything measured: by name of the row, one entry a round."""

    environment: dict[str, str]
    transactions: int
    clients: int
    rows: dict[str, list[Measured]] = field(default_factory=dict)
    floors: dict[str, list[list[Part]]] = field(default_factory=dict)
    served: dict[str, list[float]] = field(default_factory=dict)
    """The floor as one bare server does it, seconds a transaction, one entry a round."""
    rulers: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    decode: float | None = None
    decode_octets: int = 0
    memory: tuple[int, int, int] | None = None
    """Resident octets at the start, at the end, and after how many transactions."""
    ordering: list[Figure] = field(default_factory=list)

    def cpu(self, name: str) -> list[float]:
        return [measured.cpu for measured in self.rows[name]]

    def net(self, name: str) -> list[float]:
        """The same without TLS handshakes, which no floor has and no other row."""
        return [measured.cpu - measured.handshake for measured in self.rows[name]]

    def ratios(self, name: str) -> list[float]:
        """Measured over floor, round by round: both were taken within a minute of each other."""
        return [cost / total(floor) for cost, floor in zip(self.net(name), self.floors.get(name, ()), strict=False)]

    def served_ratios(self, name: str) -> list[float]:
        """Measured over what the bare server took, round by round."""
        return [cost / served for cost, served in zip(self.net(name), self.served.get(name, ()), strict=False)]

    def share_floor(self) -> None:
        """Give the rows with the floor of `pbm` the one that it has got in this round."""
        for row in ROWS:
            if row.unit == "+%" and row.name in self.rows and "pbm" in self.floors:
                self.floors.setdefault(row.name, []).append(self.floors["pbm"][-1])
                self.served.setdefault(row.name, []).append(self.served["pbm"][-1])

    def extra(self, row: Row) -> list[float]:
        """What it costs more than `pbm` in the row's unit, round by round; nothing if the row is not so compared."""
        if "pbm" not in self.rows or row.unit == "ms":
            return []
        if row.tls:
            added = [measured.cpu - measured.unasked for measured in self.rows[row.name]]
            return [more / plain for more, plain in zip(added, self.cpu("pbm"), strict=True)]
        if row.workers > 1:
            return [measured.cpu / measured.unasked - 1 for measured in self.rows[row.name]]
        pairs = list(zip(self.net(row.name), self.cpu("pbm"), strict=True))
        if row.unit == "+%":
            return [more / less - 1 for more, less in pairs]
        return [more - less for more, less in pairs]


def environment(folder: Path, file_system: str) -> dict[str, str]:
    """What the figures depend on."""
    packages = ("cryptography", "aiohttp", "uvloop")
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "OpenSSL": f"{ssl.OPENSSL_VERSION} (Python), {backend.openssl_version_text()} (cryptography)",
        "SQLite": f"{sqlite3.sqlite_version}, synchronous=FULL, on {file_system}",
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages),
        "folder": str(folder.parent),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def warnings(report: Report) -> list[str]:
    """What makes these figures worse than they need be: other processes, an uneven machine."""
    found = []
    for name, rounds in report.rows.items():
        share = max(measured.foreign_cpu / measured.elapsed for measured in rounds)
        if share > FOREIGN_SHARE:
            found.append(f"{name}: other processes or the host took up to {share:.0%} of a core meanwhile")
        busy = max(measured.client_cpu / measured.elapsed for measured in rounds)
        if busy > 0.95:
            found.append(f"{name}: the load client itself was busy {busy:.0%} of the time")
    if report.rulers and max(report.rulers) > SPEED_SPREAD * min(report.rulers):
        slow, quick = max(report.rulers) * 1e6, min(report.rulers) * 1e6
        found.append(f"the machine's speed varied: 500 chained SHA-256 took {quick:.0f} to {slow:.0f} µs")
    if report.loads and report.loads[0] > 0.5:
        found.append(f"load average {report.loads[0]:.2f} before the run")
    return found


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(lines[0]), line(rule), *(line(each) for each in lines[1:])])


def _ms(seconds: float, sign: str = "") -> str:
    return f"{seconds * 1e3:{sign}.2f} ms"


def _quantity(value: float, unit: Unit) -> str:
    return f"{value * 100:+.1f} %" if unit == "+%" else _ms(value, unit.removesuffix("ms"))


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.0f}"


def _over(value: float, most: float | None) -> str:
    return "" if most is None or value <= most else " (over)"


def _measured(value: float, unit: str) -> str:
    shown = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"
    return f"{shown} {unit}".rstrip()


def _ordering(figures: Sequence[Figure]) -> str:
    """A table of certificates on order; what is before the colon is the same in all texts, and stands above them."""
    columns = list(dict.fromkeys(one.column for one in figures))
    head, rows = "", []
    for text in dict.fromkeys(one.text for one in figures):
        found = {one.column: one for one in figures if one.text == text}
        first = next(iter(found.values()))
        bound = f"at most {_measured(first.most, first.unit)}" if first.most is not None else ""
        bound = bound if first.least is None else f"at least {_measured(first.least, first.unit)}"
        head, _, shown = text.partition(": ")
        rows.append([shown, bound, *(_figure(found.get(column)) for column in columns)])
    return _table([head, "wanted", *columns], rows)


def _figure(one: Figure | None) -> str:
    return "" if one is None else f"{_measured(one.value, one.unit)}{' (missed)' if one.missed else ''}"


def _results(report: Report) -> list[list[str]]:
    lines = []
    for row in ROWS:
        if row.name not in report.rows:
            continue
        floors = [total(floor) for floor in report.floors.get(row.name, ())]
        ratio = median(report.ratios(row.name)) if floors else None
        extra = report.extra(row)
        costs = extra or report.net(row.name)
        cost, compared = median(costs), bool(extra) or row.unit == "ms"
        lines.append(
            [
                row.text,
                _quantity(row.most, row.unit),
                f"{_quantity(cost, row.unit if compared else 'ms')}{_over(cost, row.most if compared else None)}",
                _quantity(min(costs), row.unit if compared else "ms"),
                _ms(median(floors)) if floors else "",
                "" if ratio is None else f"{ratio:.2f}{_over(ratio, row.ratio_most)}",
                _ms(median(report.served[row.name])) if row.name in report.served else "",
                f"{median(report.served_ratios(row.name)):.2f}" if row.name in report.served else "",
                "" if row.ratio_most is None or ratio is None else f"{row.ratio_most:.1f}",
            ]
        )
    if "tls" in report.rows:
        costs = [measured.handshake for measured in report.rows["tls"]]
        text = "a TLS 1.3 connection with a client certificate, handshake to end"
        lines.append([text, "", _ms(median(costs)), _ms(min(costs)), *[""] * 5])
        whole = [measured.cpu for measured in report.rows["tls"]]
        text = "the PBM transaction with such a connection, all in all"
        lines.append([text, "", _ms(median(whole)), _ms(min(whole)), *[""] * 5])
    if "pbm" in report.rows:
        p99 = [percentile(measured.latencies, 0.99) for measured in report.rows["pbm"]]
        text = f"p99 latency of a PBM transaction, {report.clients} clients"
        shown = f"{_ms(median(p99))}{_over(median(p99), P99_MOST)}"
        lines.append([text, _ms(P99_MOST), shown, _ms(min(p99)), *[""] * 5])
    if report.memory is not None:
        start, end, transactions = report.memory
        shown = f"{end / 1e6:.0f} MB{_over(end, RESIDENT_MOST)}"
        text = f"resident memory after {transactions:,} transactions (at the start {start / 1e6:.0f} MB)"
        lines.append([text, f"{RESIDENT_MOST / 1e6:.0f} MB", shown, *[""] * 6])
    if report.decode is not None:
        text = f"decoding an ir of {report.decode_octets} octets, header and body"
        shown = f"{report.decode * 1e6:.1f} µs{_over(report.decode, DECODE_MOST)}"
        lines.append([text, f"{DECODE_MOST * 1e6:.0f} µs", shown, *[""] * 6])
    return lines


def markdown(report: Report) -> str:
    """The tables, readable on a terminal as well."""
    heads = dict.fromkeys(one.text.partition(": ")[0] for one in report.ordering)
    sections = [_ordering([one for one in report.ordering if one.text.startswith(f"{head}: ")]) for head in heads]
    if report.rows:
        sections += _transactions(report)
    sections.append("\n".join(f"- {name}: {value}" for name, value in report.environment.items() if name != "folder"))
    if report.rulers:
        sections[-1] += (
            f"\n- speed of the machine meanwhile: 500 chained SHA-256 in {min(report.rulers) * 1e6:.0f} to "
            f"{max(report.rulers) * 1e6:.0f} µs"
        )
    return "\n\n".join(sections)


def _transactions(report: Report) -> list[str]:
    """What transactions cost, and the floor."""
    rounds = max((len(each) for each in report.rows.values()), default=0)
    head = ["server CPU per transaction", "at most", "median", "lowest", "floor: parts", "ratio"]
    head += ["floor: bare server", "ratio", "ratio at most"]
    sections = [
        _table(head, _results(report)),
        (
            f"{rounds} rounds of {report.transactions:,} transactions a row, {report.clients} clients, keep-alive "
            "unless said, every answer checked. Server CPU is user and system time of the server's processes over the "
            "transactions served; ratios are taken round by round. The floor is measured twice: its parts, each in a "
            "loop of its own, and all of them done for each request by a bare aiohttp server, as any server has to."
        ),
    ]
    columns = {row.name: report.floors[row.name] for row in ROWS if row.unit == "ms" and row.name in report.floors}
    if columns:
        sections.append(_floor_table(columns))
    return sections


def _floor_table(columns: dict[str, list[list[Part]]]) -> str:
    texts = list(dict.fromkeys(part.text for floors in columns.values() for part in floors[0]))

    def cell(floors: list[list[Part]], text: str) -> str:
        found = [part.seconds for floor in floors for part in floor if part.text == text]
        return _us(median(found)) if found else ""

    rows = [[text, *(cell(floors, text) for floors in columns.values())] for text in texts]
    rows.append(["sum", *(_us(median([total(floor) for floor in floors])) for floors in columns.values())])
    return _table(["the floor, CPU µs a transaction", *columns], rows)


def as_json(report: Report) -> dict[str, Any]:
    """Everything, in seconds and octets."""
    return {
        "environment": report.environment,
        "transactions": report.transactions,
        "clients": report.clients,
        "rows": {
            row.name: {
                "text": row.text,
                "most": row.most,
                "unit": row.unit,
                "extra": report.extra(row),
                "cpu": report.cpu(row.name),
                "cpu_median": median(report.cpu(row.name)),
                "floor": [{part.text: part.seconds for part in floor} for floor in report.floors.get(row.name, ())],
                "ratios": report.ratios(row.name),
                "served": report.served.get(row.name, []),
                "served_ratios": report.served_ratios(row.name),
                "ratio_most": row.ratio_most,
                "handshake": [each.handshake for each in report.rows[row.name]],
                "latency_p50": [percentile(each.latencies, 0.5) for each in report.rows[row.name]],
                "latency_p99": [percentile(each.latencies, 0.99) for each in report.rows[row.name]],
                "transactions_per_second": [each.transactions / each.elapsed for each in report.rows[row.name]],
                "client_cpu": [each.client_cpu / each.transactions for each in report.rows[row.name]],
                "foreign_cpu": [each.foreign_cpu / each.transactions for each in report.rows[row.name]],
                "ruler": [each.ruler for each in report.rows[row.name]],
                "request_sizes": report.rows[row.name][-1].request_sizes,
                "answer_sizes": report.rows[row.name][-1].answer_sizes,
            }
            for row in ROWS
            if row.name in report.rows
        },
        "ordering": [
            {
                "text": one.text,
                "column": one.column,
                "value": one.value,
                "unit": one.unit,
                "most": one.most,
                "least": one.least,
            }
            for one in report.ordering
        ],
        "decode": report.decode,
        "memory": None
        if report.memory is None
        else dict(zip(("start", "end", "transactions"), report.memory, strict=True)),
        "load_averages": report.loads,
        "warnings": warnings(report),
    }
