"""What a tenant may have at once, of a cohort and over a period, case by case."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from trellis.server.domain.quota import Budget, BudgetMeter, Period, Quota
from trellis.server.domain.trainer import TrainerBase
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.domain.tuning_job import QueueCode
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.policy import decide, plan_of, would_start
from trellis.server.scheduler.reasons import reasons_of
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
SECONDS, TOKENS = BudgetMeter.ACCELERATOR_SECONDS, BudgetMeter.TOKENS
BASE = TrainerBase("baseModels/small", "/models/small", "r1", "0" * 64, "auto")


def queued(name: str, gpus: float = 1, **more: object) -> QueuedJob:
    """The job `a1` is tenant a's, made at second 1."""
    made = NOW + timedelta(seconds=float(name[1:]) - 100)
    return QueuedJob(name, name[0], made, Alone(Resources(1, gpus)), **more)  # type: ignore[arg-type]


def seen(jobs: list[QueuedJob], tenants: Mapping[str, TenantShare], running: str = "", gpus: float = 100) -> Snapshot:
    """`running` has words such as `a4`: a job of tenant a with 4 GPUs."""
    active = [ActiveJob(f"r{n}", word[0], Resources(1, float(word[1:]))) for n, word in enumerate(running.split())]
    return Snapshot(tuple(jobs), tuple(active), Resources(100, gpus), 100, NOW, tenants=tenants)


def share(
    nominal: float | None, borrow: float | None = None, lend: float | None = None, cohort: str = "x"
) -> TenantShare:
    quota = Quota(accelerators=nominal, borrowing_limit=borrow, lending_limit=lend)
    return TenantShare(quota=quota, cohort=cohort)


@pytest.mark.parametrize(
    ("a", "b", "running", "asks", "code"),
    [
        pytest.param(share(4, cohort=""), share(4), "a3", 1, None, id="up to the nominal quota"),
        pytest.param(share(4, cohort=""), share(4), "a3", 2, QueueCode.QUOTA, id="no further without a cohort"),
        pytest.param(share(None), share(4), "a90", 10, None, id="without a quota the platform is the limit"),
        pytest.param(share(4), share(4), "a4", 4, None, id="all that the others don't use"),
        pytest.param(share(4), share(4), "a4 b1", 4, QueueCode.COHORT, id="not what they use"),
        pytest.param(share(4), share(4), "b8", 1, QueueCode.COHORT, id="its own is lent"),
        pytest.param(share(4, borrow=2), share(4), "a4", 3, QueueCode.QUOTA, id="no more than it may borrow"),
        pytest.param(share(4), share(4, lend=1), "a4", 2, QueueCode.COHORT, id="no more than they lend"),
        pytest.param(share(4), share(4, lend=1), "a4", 1, None, id="as much as they lend"),
        pytest.param(share(4, lend=0), share(4), "b4", 4, None, id="what is kept is never lent"),
        pytest.param(share(4), share(4, cohort="y"), "a4", 1, QueueCode.NEVER_FITS, id="nobody else in the cohort"),
        pytest.param(share(4, cohort=""), share(4), "", 5, QueueCode.NEVER_FITS, id="more than it ever has"),
    ],
)
def test_accelerators_of_quotas_and_cohorts(
    a: TenantShare, b: TenantShare, running: str, asks: float, code: QueueCode | None
) -> None:
    never = code is QueueCode.NEVER_FITS and running == "a4"
    decisions = decide(seen([queued("a1", asks + 4 * never)], {"a": a, "b": b}, running))
    assert (decisions.waiting["a1"].code if decisions.waiting else None) is code


def test_what_is_said_of_quotas() -> None:
    tenants = {"a": share(4, borrow=2), "b": share(4)}
    said = decide(seen([queued("a1", 3)], tenants, "a4")).waiting["a1"].message
    assert said == (
        "It takes 3 accelerators, and its tenant may have 6 at once, with what it may borrow; others of its jobs have "
        "them or go before it."
    )
    said = decide(seen([queued("a1", 1)], tenants, "b4 b4")).waiting["a1"].message
    assert said == (
        "It takes 1 accelerator, which its tenant's quota covers; tenants of the cohort x use all 8 that they lend each "
        "other."
    )
    said = decide(seen([queued("a1", 7)], tenants)).waiting["a1"].message
    assert said == ("It takes 7 accelerators, and its tenant can have 6 at the most: ask for a larger quota.")


def test_jobs_admitted_together_pass_no_quota() -> None:
    jobs = [queued(f"a{n}", 2) for n in range(5)] + [queued(f"b{n}", 2) for n in range(10, 15)]
    decisions = decide(seen(jobs, {"a": share(4), "b": share(6)}))
    admitted = [one.uid for one in decisions.admit]
    assert len(admitted) == 5
    assert {decisions.waiting[uid].code for uid in decisions.waiting} == {QueueCode.COHORT}


def test_a_large_job_is_not_passed_by_small_ones_of_its_tenant_or_cohort() -> None:
    tenants = {"a": share(4), "b": share(4)}
    decisions = decide(seen([queued("a1", 6), queued("a2", 1), queued("b3", 1)], tenants, "a1 b2"))
    assert [one.uid for one in decisions.admit] == []
    assert decisions.waiting["a2"].code is QueueCode.COHORT
    assert decisions.waiting["b3"].code is QueueCode.COHORT


def test_a_place_on_a_trainer_counts_as_its_part() -> None:
    options = TrainerOptions(cpus=1, gpus=2, max_jobs=8)
    trainer = PresentTrainer("t1", BASE, Resources(1, 2), NOW, open_jobs=3)
    active = tuple(ActiveJob(f"r{n}", "a", Resources(), "t1") for n in range(3))
    jobs = tuple(replace(queued(f"a{n}"), work=Shared(BASE, 8, 512)) for n in range(3))
    tenants = {"a": share(1, cohort="")}
    snapshot = Snapshot(jobs, active, Resources(8, 8), 9, NOW, (trainer,), options, tenants=tenants)
    decisions = decide(snapshot)
    assert [one.uid for one in decisions.admit] == ["a0"], "4 of 8 places of a trainer with 2 GPUs are 1 accelerator"
    assert decisions.waiting["a1"].code is QueueCode.QUOTA


def test_cpus_count_where_there_are_no_gpus() -> None:
    job = QueuedJob("a1", "a", NOW, Alone(Resources(3)))
    tenants = {"a": share(2, cohort="")}
    decisions = decide(Snapshot((job,), (), Resources(8), 9, NOW, tenants=tenants))
    assert decisions.waiting["a1"].code is QueueCode.NEVER_FITS


def test_running_jobs_of_the_quota_go_before_the_platforms_limit() -> None:
    quota = TenantShare(quota=Quota(running_jobs=1))
    decisions = decide(seen([queued("a1"), queued("a2"), queued("b3"), queued("b4")], {"a": quota}))
    assert [one.uid for one in decisions.admit] == ["a1", "b3", "b4"]
    assert decisions.waiting["a2"].message == "1 of the tenant's jobs run, and at most 1 may run at once."


def test_a_budget_is_shared_by_what_is_admitted_together() -> None:
    ends = datetime(2026, 4, 1, tzinfo=UTC)
    tenant = TenantShare(budget_left={SECONDS: 100.0}, budget_ends={SECONDS: ends})
    jobs = [queued(f"a{n}", budget_needs={SECONDS: 60.0, TOKENS: 5.0}) for n in (1, 2)]
    jobs.append(queued("a3", budget_needs={SECONDS: 40.0}))
    decisions = decide(seen(jobs, {"a": tenant}))
    assert [one.uid for one in decisions.admit] == ["a1", "a3"], "what is left is used by a smaller one"
    reason = decisions.waiting["a2"]
    assert reason.code is QueueCode.BUDGET
    assert reason.message == (
        "It holds 60 accelerator-seconds and 5 tokens, more than is left of its tenant's budget; the next period begins "
        "on 2026-04-01 at 00:00 UTC."
    )


def test_a_waiting_job_keeps_its_budget() -> None:
    tenant = TenantShare(budget_left={SECONDS: 100.0})
    jobs = [queued("a1", 4, budget_needs={SECONDS: 60.0}), queued("a2", budget_needs={SECONDS: 50.0}, seconds=1.0)]
    decisions = decide(seen(jobs, {"a": tenant}, "b2", gpus=4))
    assert not decisions.admit
    assert decisions.waiting["a2"].code is QueueCode.BUDGET


def test_more_than_a_whole_periods_budget_never_fits() -> None:
    budget = Budget(SECONDS, Period.DAY, hard_limit=50)
    tenant = TenantShare(quota=Quota(budgets=(budget,)), budget_left={SECONDS: 50.0})
    decisions = decide(seen([queued("a1", budget_needs={SECONDS: 60.0})], {"a": tenant}))
    assert decisions.waiting["a1"].code is QueueCode.NEVER_FITS


def test_all_reasons_are_told_in_their_precedence() -> None:
    tenants = {"a": replace(share(4, cohort=""), budget_left={SECONDS: 1.0})}
    job = queued("a1", 2, budget_needs={SECONDS: 9.0})
    snapshot = seen([job], tenants, "a3 b5", gpus=8)
    plan = plan_of(snapshot)
    assert [reason.code for reason in reasons_of(job, snapshot, plan)] == [
        QueueCode.BUDGET,
        QueueCode.QUOTA,
        QueueCode.CAPACITY,
    ]


def test_asking_again_with_a_smaller_job() -> None:
    job = queued("a2", 4)
    snapshot = seen([queued("a1", 1), job], {}, "b6", gpus=8)
    assert not would_start(snapshot, job)
    assert would_start(snapshot, queued("a2", 1))
