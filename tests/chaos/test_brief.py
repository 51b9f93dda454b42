"""What CI has time for of the chaos suite: the deaths that are soon got over, each once under load, in an order that follows
from a seed.
"""

import os
from typing import Final

import pytest

from tests.chaos.faults import BRIEF
from tests.chaos.run import Run
from tests.chaos.schedule import make_schedule

SEED: Final = int(os.environ.get("TRELLIS_CHAOS_SEED", "384"))
SECONDS: Final = 12.0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [SEED])  # so that it is named when this fails
async def test_after_a_few_deaths_all_is_there_and_nothing_else(seed: int) -> None:
    run = Run(seed, SECONDS, BRIEF)
    await run.go()
    assert not run.wrong, run.verdict()


def test_the_usual_seed_has_each_of_these_deaths_once() -> None:
    assert sorted(strike.kind.name for strike in make_schedule(384, SECONDS, BRIEF)) == sorted(k.name for k in BRIEF)
