"""By hand: python -m tests.chaos --seconds N --seed S --nodes 3 --store sqlite."""

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.checker import report
from tests.chaos.run import CLIENTS, STORES, backend, run


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Several nodes on one store, many clients, all that can go wrong, and a checker. Exit status 1 when"
        " something is not as promised: then history, schedule, report and logs are kept.",
    )
    made.add_argument("--seconds", type=float, default=600.0, help="how long clients and faults go on (600)")
    made.add_argument("--seed", type=int, help="of the schedule of faults and of what clients do; else a new one")
    made.add_argument("--nodes", type=int, default=3, help="processes of cmpd serve (3)")
    made.add_argument("--clients", type=int, default=CLIENTS, help=f"clients ({CLIENTS})")
    made.add_argument(
        "--store", choices=STORES, help="what the nodes share; else each of them for its share of the time"
    )
    made.add_argument("--folder", type=Path, help="where all of it is kept in any case")
    return made


def one(args: argparse.Namespace, store: str, seconds: float, seed: int) -> bool:
    """One run; whether all was as promised."""
    folder = Path(tempfile.mkdtemp(prefix="cmpd-chaos-")) if args.folder is None else args.folder / store
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{store}, seed {seed}, {args.nodes} nodes, {seconds:.0f} s, in {folder}\n")
    sys.stdout.flush()
    made = backend(store, folder)
    outcome = asyncio.run(run(folder, made, seed=seed, seconds=seconds, nodes=args.nodes, clients=args.clients))
    outcome.write(folder)
    sys.stdout.write(f"{outcome.summary()}\n")
    if outcome.violations:
        again = f"--store {store} --seed {seed} --seconds {seconds:.0f}"
        sys.stdout.write(f"{report(outcome.history, outcome.violations)}\n\nin {folder}; again with {again}\n")
    elif args.folder is None:
        shutil.rmtree(folder)
    return not outcome.violations


def main() -> int:
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the nodes end with it
    stores = [args.store] if args.store else list(STORES)
    seed = secrets.randbelow(1 << 31) if args.seed is None else args.seed
    well = [one(args, store, args.seconds / len(stores), seed) for store in stores]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
