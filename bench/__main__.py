"""`python -m bench`: measure the daemon, print the tables."""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from bench import floor, ordering
from bench.end_entity import MacCredential, Operation, want
from bench.load import LoadProcess, Measured, Work, ruler
from bench.report import ROWS, Report, Row, as_json, environment, markdown, warnings
from bench.server import (
    BOUND_PROFILE,
    MAC_PROFILE,
    PEOPLE_PROFILE,
    SIGNATURE_PROFILE,
    TLS_PROFILE,
    Daemon,
    disk_folder,
    file_system,
)
from bench.stores import KINDS, stores
from cmpd import asn1
from cmpd.asn1 import BodyType
from cmpd.limits import Limits

QUICK = 300


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [*(row.name for row in ROWS), *ordering.ROWS]
    parser.add_argument("--rows", default=",".join(names), help=f"of {','.join(names)}")
    parser.add_argument("--transactions", type=int, default=3000, help="a row and round (default 3000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--store", choices=KINDS, default=KINDS[0], help="where the server keeps its state")
    parser.add_argument(
        "--quick", action="store_true", help=f"one round of {QUICK} transactions: a smoke test, no figures"
    )
    parser.add_argument("--memory", type=int, metavar="N", help="also: resident memory after N PBM transactions")
    parser.add_argument(
        "--profile", action="store_true", help="run the rows, once each, with the server under cProfile"
    )
    parser.add_argument(
        "--dir", type=Path, help="where the server's files go (a temporary folder in it; default: on a disk)"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--markdown", action="store_true", help="print the tables only, for README")
    output.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(argv)
    chosen = options.rows.split(",")
    if unknown := set(chosen) - set(names):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if min(options.transactions, options.rounds, options.clients) < 1:
        parser.error("--transactions, --rounds and --clients must be at least 1")
    if options.quick:
        options.transactions, options.rounds = min(options.transactions, QUICK), 1
    options.ordering = [name for name in ordering.ROWS if name in chosen]
    options.rows = [row for row in ROWS if row.name in chosen]
    # what is compared with each other runs one after the other: pbm, smime and connections
    options.rows.sort(key=lambda row: (row.operation, row.kind, row.implicit))
    return options


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


TURNS = 8
"""So often a row over TLS is compared with the same where the profile does not ask for the client's certificate."""


@contextmanager
def temporary_folder(parent: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cmpd-bench-", dir=parent or disk_folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def work(row: Row, daemon: Daemon, transactions: int, clients: int) -> Work:
    """The row as work for the load client; a tenth more is run before, to warm up."""
    devices = []
    if row.kind == "known signer" or row.tls:
        devices = [daemon.manufacturer.device(f"device-{number}") for number in range(clients)]
    others = {row.person: PEOPLE_PROFILE, row.bound: BOUND_PROFILE, row.tls: TLS_PROFILE}
    profile = others.get(True, MAC_PROFILE)
    reference, secret = daemon.codes[profile]
    return Work(
        port=daemon.tls_port if row.tls else daemon.port,
        server_pid=daemon.pid,
        transactions=transactions,
        warm_up=max(clients, transactions // 10),
        clients=clients,
        operation=row.operation,
        devices=tuple(devices),
        implicit=row.implicit,
        person=row.person,
        keep_alive=row.keep_alive,
        mac_path=daemon.path(profile),
        signature_path=daemon.path(SIGNATURE_PROFILE),
        reference=reference,
        secret=secret,
        chain=daemon.chain,
        tls_root=daemon.manufacturer.root.public_bytes(Encoding.DER) if row.tls else b"",
        tls_once=row.tls,
    )


def perform(row: Row, daemon: Daemon, load: LoadProcess, transactions: int, clients: int) -> Measured:
    """Measure a row; with TLS also what a connection costs: one with a cheap request, less that request alone.

    And what it all costs when the profile does not ask for the certificate: the rest is what authentication adds.
    """
    mine = work(row, daemon, transactions, clients)
    measured = load.perform(mine)
    if row.tls:
        once = load.perform(replace(mine, operation="get"))
        request = load.perform(replace(mine, operation="get", tls_once=False))
        measured.handshake = once.cpu - request.cpu
        reference, secret = daemon.codes[MAC_PROFILE]
        unasked = replace(mine, mac_path=daemon.path(MAC_PROFILE), reference=reference, secret=secret)
        # by turns and in small parts: what is looked for is less than what the machine's speed changes in a minute
        part = max(clients, transactions // 4)
        asked_part, unasked_part = (replace(one, transactions=part, warm_up=clients) for one in (mine, unasked))
        pairs = [(load.perform(asked_part).cpu, load.perform(unasked_part).cpu) for _ in range(TURNS)]
        measured.unasked = measured.cpu - statistics.median(asked - less for asked, less in pairs)
    return measured


def perform_by_workers(
    row: Row, several: Daemon, single: Daemon, load: LoadProcess, transactions: int, clients: int
) -> Measured:
    """Measure a row at a server of several workers; by turns and in small parts also at the one without."""
    measured = load.perform(work(row, several, transactions, clients))
    part = max(clients, transactions // 4)
    ours, theirs = (
        replace(work(row, one, part, clients), transactions=part, warm_up=clients) for one in (several, single)
    )
    pairs = [(load.perform(ours).cpu, load.perform(theirs).cpu) for _ in range(TURNS)]
    measured.unasked = measured.cpu - statistics.median(more - less for more, less in pairs)
    return measured


def measure(options: argparse.Namespace, folder: Path) -> Report:
    """Rows and floor by turns, so that both see the machine in the same moods."""
    known = environment(folder, file_system(folder)) | {"store": options.store}
    report = Report(known, options.transactions, options.clients)
    report.loads.append(os.getloadavg()[0])
    size = ordering.QUICK if options.quick else ordering.Size()
    for name in options.ordering:
        report.ordering += ordering.ROWS[name](folder, size, say)
        report.rulers.append(ruler())
    if not options.rows:
        return report
    with ExitStack() as stack:
        new_store = stack.enter_context(stores(options.store, folder))
        daemon = stack.enter_context(Daemon(folder / "server", store=new_store()))
        load = stack.enter_context(LoadProcess())
        several = {
            count: stack.enter_context(Daemon(folder / f"workers-{count}", store=new_store(), workers=count))
            for count in {row.workers for row in options.rows} - {1}
        }
        for number in range(options.rounds):
            for row in options.rows:
                extent = options.transactions, options.clients
                if row.workers > 1:
                    measured = perform_by_workers(row, several[row.workers], daemon, load, *extent)
                else:
                    measured = perform(row, daemon, load, *extent)
                report.rows.setdefault(row.name, []).append(measured)
                report.rulers.append(measured.ruler)
                say(
                    f"round {number + 1}: {row.name}: {measured.cpu * 1e3:.3f} ms server CPU, "
                    f"{measured.transactions / measured.elapsed:.0f} transactions/s, "
                    f"client CPU {measured.client_cpu / measured.transactions * 1e3:.3f} ms"
                )
            measure_floor(options, report, load, folder, daemon.chain[0])
        report.decode, report.decode_octets = decoding(daemon)
    report.loads.append(os.getloadavg()[0])
    return report


def measure_floor(
    options: argparse.Namespace, report: Report, load: LoadProcess, folder: Path, certificate: bytes
) -> None:
    """One round of the floor of each row that is not compared with another, with messages as large as its own."""
    for row in options.rows:
        if row.unit != "ms":
            continue
        sizes = report.rows[row.name][-1]
        exchanges = len(sizes.request_sizes)
        costs = floor.crypto(sizes, certificate)
        commit = floor.commits(folder, sizes, groups=max(10, options.transactions // floor.GROUP))
        request = floor.http(load, sizes, exchanges * options.transactions, options.clients)
        found = floor.parts(costs, row.kind, exchanges, request, commit)
        report.floors.setdefault(row.name, []).append(found)
        served = floor.served(load, sizes, row.kind, certificate, folder, options.transactions, options.clients)
        report.served.setdefault(row.name, []).append(served)
        report.rulers.append(ruler())
        say(f"floor of {row.name}: {floor.total(found) * 1e3:.3f} ms in parts, {served * 1e3:.3f} ms at a bare server")
    report.share_floor()


def decoding(daemon: Daemon) -> tuple[float, int]:
    """CPU seconds to decode an ir, body included, and its size."""
    credential = MacCredential(*daemon.codes[MAC_PROFILE])
    message = Operation(credential, BodyType.ir, want(ready=True)).request()
    limits = Limits()

    def decode() -> None:
        asn1.decode(message, limits).decode_body()

    return floor.cpu_of(decode, 1000), len(message)


def measure_memory(options: argparse.Namespace, folder: Path, transactions: int) -> tuple[int, int, int]:
    """Resident memory of a fresh daemon before and after so many transactions."""
    with (
        stores(options.store, folder) as new_store,
        Daemon(folder / "memory", store=new_store()) as daemon,
        LoadProcess() as load,
    ):
        first = load.perform(work(ROWS[0], daemon, options.clients, options.clients))
        many = work(ROWS[0], daemon, transactions, options.clients)
        last = load.perform(many.without_preparation())
    return first.resident, last.resident, transactions


def profile(options: argparse.Namespace, folder: Path) -> None:
    """Each row against a fresh daemon under cProfile; its own time inflates Python calls, so only the order counts."""
    for name in options.ordering:
        ordering.ROWS[name](folder, ordering.Size(), say, profile=True)
    for row in options.rows:
        if row.workers > 1:  # what each of them does is what one does
            continue
        with (
            stores(options.store, folder / row.name) as new_store,
            Daemon(folder / row.name / "server", store=new_store(), profile=True) as daemon,
            LoadProcess() as load,
        ):
            daemon.start_profile()
            measured = load.perform(work(row, daemon, options.transactions, options.clients))
        transactions = options.transactions + max(options.clients, options.transactions // 10)
        say(f"{row.name}: {measured.cpu * 1e3:.3f} ms server CPU with the profiler; the event loop's thread only:")
        print(daemon.top_functions(transactions))


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    with temporary_folder(options.dir) as folder:
        if options.profile:
            profile(options, folder)
            return 0
        report = measure(options, folder)
        if options.memory:
            report.memory = measure_memory(options, folder, options.memory)
    if options.json:
        print(json.dumps(as_json(report), indent=2))
    else:
        print(markdown(report))
    for warning in warnings(report):
        say(f"warning: {warning}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
