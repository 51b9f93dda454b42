"""Why each job waits, for each code; and that of other tenants only numbers are told."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trellis.server.domain.quota import Budget, BudgetMeter, Period, Quota
from trellis.server.domain.trainer import Room, TrainerBase
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.domain.tuning_job import PRECEDENCE, QueueCode
from trellis.server.scheduler.alternatives import Change
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.explain import MOST_NAMED, Explanation, explain
from trellis.server.scheduler.outlook import Outlook
from trellis.server.scheduler.snapshot import (
    ActiveJob,
    Alone,
    PresentTrainer,
    QueuedJob,
    Shared,
    Snapshot,
    TenantShare,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOUR = 3600.0
X, Y = (TrainerBase(f"baseModels/{name}", name, "r1", "0" * 64, "auto") for name in ("x", "y"))


def queued(uid: str, cpus: float = 1, of: str = "acme", age: float = 0, **changes: Any) -> QueuedJob:
    """A job that runs alone for an hour, with a worker a CPU, and came so many seconds ago."""
    job = QueuedJob(uid, of, NOW - timedelta(seconds=age), Alone(Resources(cpus), int(cpus)), seconds=HOUR)
    return replace(job, **changes)


def active(uid: str, cpus: float, of: str = "acme", left: float = HOUR, **changes: Any) -> ActiveJob:
    end = NOW + timedelta(seconds=left)
    job = ActiveJob(uid, of, Resources(cpus), start_time=NOW - timedelta(hours=1), expected_end=end)
    return replace(job, can_be_preempted=True, **changes)


def snapshot(*jobs: QueuedJob, running: tuple[ActiveJob, ...] = (), cpus: float = 4, **changes: Any) -> Snapshot:
    return replace(Snapshot(jobs, running, Resources(cpus), 100, NOW), **changes)


def explained(found: Snapshot, uid: str = "j") -> Explanation:
    return explain(Outlook(found), uid)


def budget(left: float) -> TenantShare:
    meter = BudgetMeter.ACCELERATOR_SECONDS
    quota = Quota(budgets=(Budget(meter, Period.DAY, hard_limit=9000),))
    return TenantShare(quota=quota, budget_left={meter: left}, budget_ends={meter: NOW + timedelta(hours=12)})


FULL = (active("r", 4),)
PAID = {BudgetMeter.ACCELERATOR_SECONDS: HOUR}
CASES = {
    QueueCode.NOT_CONSIDERED: snapshot(queued("j")),
    QueueCode.DATASET_VALIDATING: snapshot(queued("j", report_ready=False)),
    QueueCode.RETRY_BACKOFF: snapshot(queued("j", retry_time=NOW + timedelta(seconds=20))),
    QueueCode.NEVER_FITS: snapshot(queued("j", 5)),
    QueueCode.BUDGET: snapshot(queued("j", budget_needs=PAID), tenants={"acme": budget(1000.0)}),
    QueueCode.TENANT_LIMIT: snapshot(queued("j"), running=(active("r", 1),), tenant_running_limit=1),
    QueueCode.QUOTA: snapshot(
        queued("j"), running=(active("r", 2),), tenants={"acme": TenantShare(quota=Quota(accelerators=2))}
    ),
    QueueCode.COHORT: snapshot(
        queued("j"),
        running=(active("r", 2), active("s", 2, "globex")),
        cpus=8,
        tenants={name: TenantShare(quota=Quota(accelerators=2), cohort="lab") for name in ("acme", "globex")},
    ),
    QueueCode.PREEMPTING: snapshot(queued("j", priority=1), running=FULL),
    QueueCode.RESERVED: snapshot(
        queued("h", 4, "globex", age=60), queued("j", seconds=2 * HOUR), running=(active("r", 3, "initech"),)
    ),
    QueueCode.FAIR_SHARE: snapshot(queued("h", 4, "globex", age=60), queued("j", 4), running=FULL),
    QueueCode.CAPACITY: snapshot(queued("j"), running=FULL),
}


WAITING = tuple(code for code in PRECEDENCE if code is not QueueCode.CLUSTER)
"""Those of the queue; a job that waits for the cluster has left it."""


@pytest.mark.parametrize("code", WAITING)
def test_each_reason_is_told(code: QueueCode) -> None:
    found = explained(CASES[code])
    assert found.reasons[0].code is code
    assert found.reasons[0].message.endswith(".")
    places = [PRECEDENCE.index(reason.code) for reason in found.reasons]
    assert places == sorted(places), "not in their precedence"


@pytest.mark.parametrize("code", WAITING)
def test_what_never_fits_has_no_start_and_everything_else_has_one(code: QueueCode) -> None:
    found = explained(CASES[code]).prediction
    assert (found is None) == (code is QueueCode.NEVER_FITS)
    if found is not None:
        assert NOW <= found.earliest <= found.start <= found.latest


def test_all_reasons_are_told_not_only_the_first() -> None:
    share = TenantShare(quota=Quota(accelerators=4, running_jobs=1))
    found = explained(snapshot(queued("j", 2), running=(active("r", 3),), tenants={"acme": share}))
    assert [reason.code for reason in found.reasons] == [QueueCode.TENANT_LIMIT, QueueCode.QUOTA, QueueCode.CAPACITY]


def test_a_time_that_is_fixed_is_the_predicted_one() -> None:
    assert explained(CASES[QueueCode.RETRY_BACKOFF]).prediction.start == NOW + timedelta(seconds=20)  # type: ignore[union-attr]
    period = explained(CASES[QueueCode.BUDGET]).prediction
    assert period is not None
    assert timedelta(0) <= period.start - (NOW + timedelta(hours=12)) <= timedelta(minutes=10)
    quota = explained(CASES[QueueCode.QUOTA]).prediction
    assert quota is not None
    assert quota.start == NOW + timedelta(hours=1)


def test_own_jobs_before_it_are_named_and_others_counted() -> None:
    own = [queued(f"own-{number:02}", 4, age=900 - number) for number in range(MOST_NAMED + 5)]
    others = [queued(f"other-{number}", 4, "globex", age=1000 - number) for number in range(3)]
    found = explained(snapshot(*own, *others, queued("j", 4), running=FULL))
    assert list(found.own_before) == [f"own-{number:02}" for number in range(MOST_NAMED)]
    assert (found.position, found.others_before) == (MOST_NAMED + 5 + 3, 3)


def test_nothing_of_other_tenants_is_told() -> None:
    jobs = [queued(f"secret-{number}", 2, "globex", age=100 + number, priority=1) for number in range(4)]
    jobs += [queued("j", 2)]
    told = repr(explained(snapshot(*jobs, running=(active("secret-r", 3, "globex"),))))
    assert "globex" not in told
    assert "secret" not in told


def test_fewer_workers_are_offered_when_they_would_start_now() -> None:
    found = explained(snapshot(queued("j", 4), running=(active("r", 2),)))
    offered = [(one.change, one.value, one.message, one.start) for one in found.alternatives]
    assert offered == [(Change.WORKERS, "2", "With 2 workers instead of 4 it would start now.", NOW)]


def test_nothing_is_offered_that_would_not_start_sooner() -> None:
    assert explained(snapshot(queued("j", 4), running=FULL)).alternatives == ()
    # Two workers would be free now, and are kept for a job before it.
    kept = snapshot(queued("h", 4, "globex", age=60), queued("j", 4), running=(active("r", 2, "initech"),))
    assert explained(kept).alternatives == ()


def test_a_later_start_is_offered_too_if_it_is_sooner() -> None:
    running = (active("r", 2, left=600), active("s", 2, left=6 * HOUR))
    found = explained(snapshot(queued("j", 4), running=running))
    assert [(one.change, one.value) for one in found.alternatives] == [(Change.WORKERS, "2")]
    assert found.alternatives[0].start == NOW + timedelta(seconds=600)
    assert "instead of 2026-03-01 18:00 UTC" in found.alternatives[0].message


def test_a_priority_is_offered_as_far_as_the_quota_allows() -> None:
    jobs = (queued("h", 4, "globex", age=60), queued("j", 4))
    allowed = TenantShare(quota=Quota(max_priority=2))
    found = explained(snapshot(*jobs, running=FULL, tenants={"acme": allowed}))
    assert [(one.change, one.value) for one in found.alternatives] == [(Change.PRIORITY, "2")]
    assert explained(snapshot(*jobs, running=FULL)).alternatives == ()


def trainer(base: TrainerBase, rows: int = 64, tokens: int = 4096) -> PresentTrainer:
    made = NOW - timedelta(hours=1)
    return PresentTrainer(
        base.base_source, base, Resources(1), made, room=Room(3, rows, tokens), job_count=1, open_jobs=1
    )


def shared(rows: int = 32, tokens: int = 1024) -> QueuedJob:
    return queued("j", work=Shared(X, rows, tokens))


@pytest.mark.parametrize(
    ("room", "change", "value"),
    [((16, 4096), Change.RANK, "16"), ((64, 512), Change.CONTEXT_LENGTH, "512")],
)
def test_a_smaller_adapter_or_shorter_lines_are_offered_when_a_trainer_has_room_for_them(
    room: tuple[int, int], change: Change, value: str
) -> None:
    running = (active("r", 3), active("t", 0, trainer_uid="x"))
    found = explained(snapshot(shared(), running=running, trainers=(trainer(X, *room),), options=TrainerOptions()))
    assert [(one.change, one.value, one.start) for one in found.alternatives] == [(change, value, NOW)]


def test_a_base_that_is_warm_is_offered() -> None:
    running = (active("r", 3), active("t", 0, trainer_uid="y"))
    found = explained(snapshot(shared(), running=running, trainers=(trainer(Y),)))
    assert [(one.change, one.value) for one in found.alternatives] == [(Change.BASE_MODEL, "baseModels/y")]


def test_a_job_that_is_not_in_the_queue_is_not_explained() -> None:
    with pytest.raises(KeyError):
        explained(snapshot(queued("j")), "nobody")
