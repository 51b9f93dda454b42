"""Which jobs start, and what the others are told, case by case."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from trellis.server.domain.tuning_job import QueueCode
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.policy import Decisions, decide
from trellis.server.scheduler.snapshot import ActiveJob, Alone, QueuedJob, Snapshot

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ONE, TWO = Resources(cpus=1), Resources(cpus=2)


def queued(name: str, seconds: float | None = None, needs: Resources = ONE, **more: object) -> QueuedJob:
    """The job `a1` is tenant a's; by default it was made at second 1."""
    time = NOW + timedelta(seconds=float(name[1:]) if seconds is None else seconds)
    return QueuedJob(name, name[0], time, Alone(needs), **more)  # type: ignore[arg-type]


def active(name: str, needs: Resources = ONE) -> ActiveJob:
    return ActiveJob(name, name[0], needs)


def snapshot(
    jobs: list[QueuedJob], running: list[ActiveJob] | None = None, capacity: Resources = TWO, limit: int = 10
) -> Snapshot:
    return Snapshot(tuple(jobs), tuple(running or []), capacity, limit, NOW)


def admitted_by(decisions: Decisions) -> tuple[str, ...]:
    assert not any(admission.trainer for admission in decisions.admit)
    return tuple(admission.uid for admission in decisions.admit)


@pytest.mark.parametrize(
    ("jobs", "running", "capacity", "limit", "admitted"),
    [
        pytest.param("", "", 2, 2, "", id="an empty queue"),
        pytest.param("a1 a2 a3", "", 2, 9, "a1 a2", id="as many as fit"),
        pytest.param("a2 a1", "", 1, 9, "a1", id="the oldest of a tenant first"),
        pytest.param("a1 b2", "a8", 2, 9, "b2", id="the tenant that runs fewest first"),
        pytest.param("b1 a2", "a8 b9", 3, 9, "b1", id="of equals the oldest first"),
        pytest.param("a1 a2 a3 b4", "", 3, 9, "a1 b4 a2", id="tenants take turns"),
        pytest.param("a1 a2 b3", "", 9, 1, "a1 b3", id="no more than the limit"),
        pytest.param("a1 b2", "a8 a9", 9, 2, "b2", id="a tenant at its limit holds nobody up"),
        pytest.param("a1 b2", "a7 b8 b9", 3, 9, "", id="nothing is free"),
        pytest.param("a1", "b7 b8 b9", 2, 9, "", id="less than nothing is free"),
        pytest.param("a1", "", 1, 0, "", id="a limit of nothing"),
    ],
)
def test_who_is_admitted(jobs: str, running: str, capacity: float, limit: int, admitted: str) -> None:
    seen = snapshot(
        [queued(name) for name in jobs.split()],
        [active(name) for name in running.split()],
        Resources(capacity),
        limit,
    )
    decisions = decide(seen)
    assert admitted_by(decisions) == tuple(admitted.split())
    assert set(decisions.waiting) == {job.uid for job in seen.queued} - set(admitted.split())


def test_a_job_waits_for_its_report_and_holds_nobody_up() -> None:
    decisions = decide(snapshot([queued("a1", report_ready=False), queued("a2")]))
    assert admitted_by(decisions) == ("a2",)
    reason = decisions.waiting["a1"]
    assert (reason.code, reason.position) == (QueueCode.DATASET_VALIDATING, 0)
    assert reason.message == "It starts when the report on its dataset is done."


def test_a_job_waits_for_its_next_try() -> None:
    later, due = NOW + timedelta(seconds=1), NOW
    decisions = decide(snapshot([queued("a1", retry_time=later), queued("a2", retry_time=due)]))
    assert admitted_by(decisions) == ("a2",)
    assert decisions.waiting["a1"].code is QueueCode.RETRY_BACKOFF
    assert decisions.waiting["a1"].message == "Its last attempt ended early; it is tried again at 12:00:01 UTC."


def test_a_tenant_at_its_limit_is_told_so() -> None:
    decisions = decide(snapshot([queued("a1")], [active("a8"), active("a9")], Resources(9), limit=2))
    assert decisions.waiting["a1"].code is QueueCode.TENANT_LIMIT
    assert decisions.waiting["a1"].message == "2 of the tenant's jobs run, and at most 2 may run at once."


def test_who_finds_no_room_is_told_its_place() -> None:
    decisions = decide(snapshot([queued("a1"), queued("a2"), queued("b3")], [active("c9")], Resources(1)))
    assert {uid: reason.position for uid, reason in decisions.waiting.items()} == {"a1": 0, "b3": 1, "a2": 2}
    assert {uid: reason.code for uid, reason in decisions.waiting.items()} == {
        "a1": QueueCode.CAPACITY,
        "b3": QueueCode.FAIR_SHARE,
        "a2": QueueCode.FAIR_SHARE,
    }
    assert decisions.order == ("a1", "b3", "a2")
    assert decisions.waiting["b3"].message == (
        "It needs 1 CPU; jobs of other tenants go first, by priority or as their tenants have had less of their share."
    )
    assert decisions.waiting["a1"].message == "It needs 1 CPU; what is free of 1 CPU is taken by jobs before it."


def test_what_an_export_takes_is_not_given_to_jobs() -> None:
    seen = replace(snapshot([queued("a1"), queued("b2")]), held=ONE)
    decisions = decide(seen)
    assert admitted_by(decisions) == ("a1",)
    assert decisions.waiting["b2"].message == (
        "It needs 1 CPU; what is free of 2 CPUs is taken by jobs before it and by an export."
    )
    alone = decide(replace(snapshot([queued("a1")], capacity=ONE), held=ONE))
    assert admitted_by(alone) == ()
    assert "what is free of 1 CPU is taken" in alone.waiting["a1"].message


def test_what_can_never_fit_is_told_so_and_holds_nobody_up() -> None:
    large = queued("a1", needs=Resources(1, 8))
    decisions = decide(snapshot([large, queued("a2"), queued("b3")], capacity=Resources(2, 4)))
    assert admitted_by(decisions) == ("a2", "b3")
    assert decisions.waiting["a1"].code is QueueCode.NEVER_FITS
    assert decisions.waiting["a1"].message == (
        "It needs 1 CPU and 8 GPUs, more than the platform has in all (2 CPUs and 4 GPUs): ask its operator."
    )


def test_small_jobs_do_not_pass_a_large_one_in_turn() -> None:
    large = queued("a1", needs=Resources(2))
    decisions = decide(snapshot([large, queued("b2")], [active("c9")], Resources(2)))
    assert admitted_by(decisions) == ()
    assert decisions.waiting["b2"].position == 1


def test_parts_of_a_cpu_add_up() -> None:
    tenth = Resources(0.1)
    decisions = decide(snapshot([queued(f"a{n}", needs=tenth) for n in range(10)], capacity=Resources(1)))
    assert len(admitted_by(decisions)) == 10


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        (Resources(1), "1 CPU"),
        (Resources(0.5, 1), "0.5 CPUs and 1 GPU"),
        (Resources(0, 2), "2 GPUs"),
        (Resources(), "nothing"),
    ],
)
def test_resources_say_what_they_are(resources: Resources, said: str) -> None:
    assert str(resources) == said
