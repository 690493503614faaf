"""`cmpd` under cProfile, which begins to count at SIGUSR1: `python -m bench.profiled FILE COMMAND...`."""

import cProfile
import signal
import sys

from cmpd import cli


def main() -> None:
    file, *command = sys.argv[1:]
    profiler = cProfile.Profile()
    signal.signal(signal.SIGUSR1, lambda *_: profiler.enable())
    try:
        cli.main(command)
    finally:
        profiler.disable()
        profiler.dump_stats(file)


if __name__ == "__main__":
    main()
