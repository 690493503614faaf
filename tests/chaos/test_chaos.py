"""Three nodes, one store, many clients and what goes wrong: a short run of it, its seed printed.

The same again, longer or with another seed: `make chaos ARGS="--seed N --seconds 600"`.
"""

import asyncio
import secrets
import sys
from pathlib import Path

import pytest

from tests.chaos.checker import report
from tests.chaos.run import Outcome, backend, run

pytestmark = pytest.mark.long

SECONDS = {"sqlite": 25.0, "postgresql": 35.0}
NODES = 3


def enough(outcome: Outcome) -> None:
    """It was no idle run: there was work, faults came, answers were lost and asked for again, on a busy machine too."""
    attempts = outcome.history.attempts
    assert {"race", "update"} <= set(outcome.done)
    assert outcome.done["repeated when quiet"] > 0
    assert len({one.reply.serial for one in attempts if one.reply is not None and one.reply.certificate}) > 20
    assert any(one.lost.startswith("cut off") for one in attempts)
    assert {act.kind for act in outcome.history.acts} & {fault.kind for fault in outcome.faults}
    assert {one.node for one in attempts} == {str(number + 1) for number in range(NODES)}


@pytest.mark.parametrize("store", SECONDS)
def test_what_is_promised_holds_whatever_happens(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was acknowledged is kept, once, and everybody is told the same."""
    seed = secrets.randbelow(1 << 31)
    with capsys.disabled():
        sys.stderr.write(f"\nchaos: store {store}, seed {seed}\n")
    outcome = asyncio.run(run(tmp_path, backend(store, tmp_path), seed=seed, seconds=SECONDS[store], nodes=NODES))
    outcome.write(tmp_path)
    assert not outcome.violations, f"in {tmp_path}: {outcome.summary()}\n{report(outcome.history, outcome.violations)}"
    enough(outcome)
