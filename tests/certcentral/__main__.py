"""python -m tests.certcentral: the simulator in a process of its own."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import tests.certcentral as package
from tests.certcentral.central import CertCentral


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.certcentral",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    made.add_argument("--port", type=int, default=8840, help="port, 0 for a free one (default: %(default)s)")
    made.add_argument("--region", choices=("us", "eu"), default="us", help="the host that /services/v2 is")
    made.add_argument("--at", metavar="TIME", help="freeze the clock at this time, e.g. 2027-03-01T12:00:00Z")
    made.add_argument(
        "--set",
        metavar="NAME=JSON",
        action="append",
        default=[],
        help="a switch, e.g. --set delay=60 --set approval='\"auto\"'",
    )
    made.add_argument("--seed", type=int, default=1, help="of the random faults")
    made.add_argument("--faults", metavar="PROBABILITY", type=float, default=0.0, help="random faults, e.g. 0.1")
    return made


async def run(options: argparse.Namespace, stop: asyncio.Event) -> None:
    """Serve until told to stop; the first line of the output is the base URL."""
    at = datetime.fromisoformat(options.at) if options.at else None
    central = CertCentral(region=options.region, at=at.replace(tzinfo=at.tzinfo or UTC) if at else None)
    central.set(**dict(_switch(text) for text in options.set))
    if options.faults:
        central.faults.randomly(options.seed, options.faults)
    await central.start(options.host, options.port)
    sys.stdout.write(central.url + "\n")
    sys.stdout.flush()
    try:
        await stop.wait()
    finally:
        await central.stop()


def _switch(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


async def _until_signal(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(options, stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulator."""
    asyncio.run(_until_signal(parser().parse_args(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
