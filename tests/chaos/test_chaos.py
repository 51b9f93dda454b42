"""Everything dies once under load, in an order that the seed says; nothing is lost, and nothing is left over."""

import os
from typing import Final

import pytest

from tests.chaos.faults import HEAVY
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
