"""Everything dies once under load, in an order that the seed says, or comes back as a zombie; nothing is lost or left over."""

import os
from typing import Final

import pytest

from tests.chaos.faults import GIVEN_UP, HEAVY, KINDS
from tests.chaos.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
SEED: Final = int(os.environ.get("TRELLIS_CHAOS_SEED", "125"))
"""An order in which each death finds something that lives; run it with others, too."""
SECONDS: Final = 26.0
"""Enough for each death to come once."""


@pytest.mark.parametrize("seed", [SEED])  # so that it is named when this fails
async def test_whatever_dies_all_is_there_and_nothing_else(seed: int) -> None:
    run = Run(seed, SECONDS, HEAVY)
    await run.go()
    assert not run.wrong, run.verdict()


async def test_a_trainer_that_goes_on_when_others_have_its_work_changes_nothing() -> None:
    run = Run(SEED, 3.0, [kind for kind in KINDS if kind.name == GIVEN_UP])
    await run.go()
    assert not run.wrong, run.verdict()
    assert [line for line in run.lines if "trainers are given up" in line and "; 0 processes" not in line], run.lines
