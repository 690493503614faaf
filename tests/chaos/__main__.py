"""By hand: python -m tests.chaos --seconds N --seed S --nodes 3 --store sqlite."""

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from tests.chaos.checker import report
from tests.chaos.run import CLIENTS, STORES, backend, run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Many clients, several nodes, one store, faults, and a checker."
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="how long clients and faults go on (600)")
    parser.add_argument("--seed", type=int, help="of the schedule of faults and of what clients do; else a new one")
    parser.add_argument("--nodes", type=int, default=3, help="processes of cmpd serve (3)")
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"clients ({CLIENTS})")
    parser.add_argument("--store", choices=STORES, default="sqlite", help="the store that the nodes share (sqlite)")
    parser.add_argument("--folder", type=Path, help="where history, schedule, report and logs go; else a new one")
    args = parser.parse_args()
    seed = secrets.randbelow(1 << 31) if args.seed is None else args.seed
    folder = args.folder or Path(tempfile.mkdtemp(prefix="cmpd-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"seed {seed}, store {args.store}, {args.nodes} nodes, {args.seconds:.0f} s, in {folder}\n")
    sys.stdout.flush()
    store = backend(args.store, folder)
    outcome = asyncio.run(run(folder, store, seed=seed, seconds=args.seconds, nodes=args.nodes, clients=args.clients))
    outcome.write(folder)
    sys.stdout.write(f"{outcome.summary()}\n")
    if outcome.violations:
        sys.stdout.write(f"{report(outcome.history, outcome.violations)}\n\nEverything is in {folder}\n")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
