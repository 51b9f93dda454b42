"""Who goes before the first job that waits, and that it starts no later for that."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from trellis.server.domain.tuning_job import QueueCode
from trellis.server.scheduler.backfill import Head, present_ends
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.policy import decide, plan_of
from trellis.server.scheduler.snapshot import ActiveJob, Alone, QueuedJob, Snapshot

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def queued(name: str, gpus: float, seconds: float | None) -> QueuedJob:
    return QueuedJob(name, name[0], at(float(name[1:]) - 100), Alone(Resources(1, gpus)), seconds=seconds)


def active(name: str, gpus: float, ends: float) -> ActiveJob:
    return ActiveJob(name, name[0], Resources(1, gpus), start_time=at(-500), expected_end=at(ends))


def seen(jobs: list[QueuedJob], running: list[ActiveJob], gpus: float = 8) -> Snapshot:
    return Snapshot(tuple(jobs), tuple(running), Resources(64, gpus), 99, NOW)


@pytest.mark.parametrize(
    ("gpus", "seconds", "passes"),
    [
        pytest.param(2, 60, True, id="it ends when the first one starts"),
        pytest.param(2, 61, False, id="it would end later"),
        pytest.param(2, None, False, id="nobody knows when it ends"),
        pytest.param(1, 999, True, id="it takes what the first one does not need"),
        pytest.param(1, None, True, id="it takes that for as long as it likes"),
        pytest.param(3, 1, False, id="it does not fit"),
    ],
)
def test_who_passes_the_first_job(gpus: float, seconds: float | None, passes: bool) -> None:
    """2 of 8 GPUs are free; the first job waits for 7, which are free in a minute, when all have ended but one."""
    running = [active("c1", 3, 20), active("c2", 2, 60), active("c3", 1, 500)]
    snapshot = seen([queued("a1", 6, 600), queued("b2", gpus, seconds)], running)
    decisions = decide(snapshot)
    assert [one.uid for one in decisions.admit] == (["b2"] if passes else [])
    head = plan_of(snapshot).head
    assert head is not None
    assert (head.job.uid, head.start) == ("a1", at(60))
    if not passes and gpus == 2:
        reason = decisions.waiting["b2"]
        assert (reason.code, reason.message) == (
            QueueCode.RESERVED,
            "It needs 1 CPU and 2 GPUs, which is free, and kept for a job before it.",
        )


def test_overdue_jobs_end_now() -> None:
    running = [active("c1", 4, -30), active("c2", 4, 90)]
    head = plan_of(seen([queued("a1", 4, 60)], running)).head
    assert head is not None
    assert head.start == NOW


def test_of_overdue_jobs_those_that_began_first_are_counted_on() -> None:
    """A job that passed and is overdue leaves no more for others: they would keep the first one waiting for ever."""
    old, new = active("c9", 1, 0), replace(active("c1", 6, 0), start_time=at(-5))
    decisions = decide(seen([queued("a1", 2, 60), queued("b2", 1, 60)], [old, new]))
    assert not decisions.admit


def test_those_that_pass_do_so_one_beside_the_other() -> None:
    running = [active("c1", 4, 100)]
    jobs = [
        queued("a1", 7, 100),
        queued("b2", 1, None),
        queued("b3", 1, None),
        queued("b4", 2, 90),
        queued("b5", 2, 90),
    ]
    assert [one.uid for one in decide(seen(jobs, running)).admit] == ["b2", "b4"]


sizes = st.integers(1, 6)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), sizes, st.none() | st.integers(1, 60)), min_size=1, max_size=12),
    st.lists(st.tuples(sizes, st.integers(-10, 60)), max_size=4),
)
def test_the_first_one_starts_no_later_for_those_that_pass_it(
    waiting: list[tuple[str, int, int | None]], running: list[tuple[int, int]]
) -> None:
    """With what has started, and by exact estimates, its start is where it was."""
    jobs = [queued(f"{tenant}{n}", gpus, seconds) for n, (tenant, gpus, seconds) in enumerate(waiting)]
    held = [active(f"r{n}", gpus, ends) for n, (gpus, ends) in enumerate(running)]
    snapshot = seen(jobs, held, max(8, sum(gpus for gpus, _ in running)))
    plan = plan_of(snapshot)
    if plan.head is None:
        return
    started = {one.uid for one in plan.admit}
    new = [
        active(job.uid, job.work.needs.gpus, 3600 if job.seconds is None else job.seconds)
        for job in jobs
        if job.uid in started and isinstance(job.work, Alone)
    ]
    after = replace(snapshot, active=(*held, *new))
    used = sum(job.needs.gpus for job in after.active)
    again = Head(plan.head.job, plan.head.needs)
    again.expect(NOW, Resources(64 - len(after.active), snapshot.capacity.gpus - used), present_ends(after))
    assert plan.head.start is not None
    assert again.start is not None
    assert again.start <= plan.head.start
