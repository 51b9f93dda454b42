"""The moves between states, and the pauses between attempts."""

from datetime import timedelta

import pytest
from hypothesis import given, strategies as st

from trellis.server.domain.retry import RetryPolicy
from trellis.server.domain.tuning_job import ACTIVE, ENDED, MOVES, JobState


def test_every_state_is_in_the_table() -> None:
    assert set(MOVES) == set(JobState)
    assert not ACTIVE & ENDED
    assert set(JobState) == {JobState.QUEUED, JobState.PAUSED} | ACTIVE | ENDED


@pytest.mark.parametrize("state", sorted(set(JobState) - ENDED))
def test_from_everywhere_a_job_can_end_and_fail(state: JobState) -> None:
    reached, todo = set(), [state]
    while todo:
        here = todo.pop()
        if here not in reached:
            reached.add(here)
            todo += MOVES[here]
    assert reached >= ENDED - {JobState.SUCCEEDED}
    assert JobState.FAILED in MOVES[state] or state is JobState.PAUSED


@pytest.mark.parametrize(("attempts", "seconds"), [(0, 2), (1, 2), (2, 4), (3, 8), (6, 64), (7, 120), (1000, 120)])
def test_pauses_double_up_to_the_longest(attempts: int, seconds: int) -> None:
    assert RetryPolicy().pause(attempts) == timedelta(seconds=seconds)


@given(st.integers(0, 10_000))
def test_pauses_never_shrink(attempts: int) -> None:
    policy = RetryPolicy()
    assert policy.base <= policy.pause(attempts) <= policy.pause(attempts + 1) <= policy.longest
