import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from trellis.native.threads import compute_alone, in_passing


def teams() -> int:
    """Threads of this process that Python did not start: OpenMP's and the like."""
    return len(list(Path("/proc/self/task").iterdir())) - threading.active_count()


def settled() -> int:
    """The threads there are when those of tests before have ended, which takes its own time: the least of many looks."""
    count = teams()
    for _ in range(10_000):
        os.sched_yield()
        count = min(count, teams())
    return count


def settles_at(count: int) -> bool:
    """Helpers that have been told to end do so in their own time."""
    for _ in range(100_000):
        if teams() == count:
            return True
        os.sched_yield()
    return False


def work() -> float:
    return float(torch.ones(1 << 20).mul(2).sum())


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """However few the run is given: a thread that computes with one has no helpers to begin with."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs Linux")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_thread_has_helpers_unless_it_is_told_otherwise() -> None:
    before = settled()
    with ThreadPoolExecutor(1) as free:
        free.submit(work).result()
        assert free.submit(teams).result() > before
    assert settles_at(before)


def test_a_thread_that_computes_alone_starts_no_helpers() -> None:
    before = settled()
    with ThreadPoolExecutor(1, initializer=compute_alone) as alone:
        assert alone.submit(work).result() == 2 << 20
        assert alone.submit(teams).result() == before


def test_helpers_of_work_in_passing_end_with_it() -> None:
    before = settled()
    assert in_passing(work) == 2 << 20
    assert settles_at(before)


def test_what_work_in_passing_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        in_passing(lambda: 1 / 0)
