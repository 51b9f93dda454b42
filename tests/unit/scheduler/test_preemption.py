"""Who gives way to whom, what is kept of it and for whom, case by case; and that nobody preempts back."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trellis.server.domain.quota import Quota
from trellis.server.domain.trainer import TrainerBase
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.domain.tuning_job import QueueCode
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.policy import Decisions, decide
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
BASE = TrainerBase("baseModels/small", "/models/small", "r1", "0" * 64, "auto")
OPTIONS = TrainerOptions(cpus=1, gpus=1, max_jobs=2)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def queued(name: str, gpus: float = 1, priority: int = 0) -> QueuedJob:
    return QueuedJob(name, name[0], ago(100 - float(name[1:])), Alone(Resources(1, gpus)), priority=priority)


def active(name: str, gpus: float = 1, *, ran: float = 1000, saved: float | None = None, **more: Any) -> ActiveJob:
    saved_time = None if saved is None else ago(saved)
    found = ActiveJob(name, name[0], Resources(1, gpus), start_time=ago(ran), saved_time=saved_time)
    return replace(found, can_be_preempted=True, **more) if "can_be_preempted" not in more else replace(found, **more)


def seen(jobs: Sequence[QueuedJob], running: Sequence[ActiveJob], gpus: float = 4, **more: Any) -> Snapshot:
    return Snapshot(tuple(jobs), tuple(running), Resources(64, gpus), 99, NOW, options=OPTIONS, **more)


def share(nominal: float | None, cohort: str = "x") -> TenantShare:
    return TenantShare(quota=Quota(accelerators=nominal), cohort=cohort)


def victims(decisions: Decisions) -> str:
    return " ".join(sorted(one.victim for one in decisions.preempt))


def test_a_higher_priority_displaces_who_loses_least_since_its_checkpoint() -> None:
    running = [active("b1", saved=50), active("b2", saved=5), active("b3"), active("b4", saved=20)]
    decisions = decide(seen([queued("a1", 2, priority=1)], running))
    assert victims(decisions) == "b2 b4"
    assert decisions.reserve == {"a1": Resources(1, 2)}
    assert decisions.waiting["a1"].code is QueueCode.PREEMPTING
    assert decisions.preempt[0].beneficiary == "a1"
    assert decisions.preempt[0].reason == (
        "It gives way to a job with a higher priority, and goes on when there is capacity again."
    )


def test_nobody_leaves_that_can_be_spared() -> None:
    running = [active("b1", 1, saved=1), active("b2", 3, saved=2)]
    assert victims(decide(seen([queued("a1", 3, priority=1)], running))) == "b2"


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"priority": 1}, id="of equal priority"),
        pytest.param({"ran": 299}, id="has not run for long"),
        pytest.param({"preemption_count": 3}, id="has given way often enough"),
        pytest.param({"can_be_preempted": False}, id="does not run yet, or stops"),
    ],
)
def test_who_is_left_alone(more: dict[str, Any]) -> None:
    decisions = decide(seen([queued("a1", 4, priority=1)], [active("b1", 1, **more), active("b2", 3)]))
    assert not decisions.preempt, "without it the others would leave for nothing"
    assert not decisions.reserve


def test_without_a_priority_nobody_gives_way_for_fairness() -> None:
    tenants = {"b": TenantShare(past_use=1e9)}
    assert not decide(seen([queued("a1")], [active("b1", 4)], tenants=tenants)).preempt


def test_borrowers_give_back_what_the_owner_wants() -> None:
    tenants = {"a": share(2), "b": share(2)}
    running = [active("b1", saved=9), active("b2", saved=1, priority=5), active("b3", saved=5), active("b4", saved=7)]
    decisions = decide(seen([queued("a1", 2)], running, tenants=tenants))
    assert victims(decisions) == "b2 b3"
    assert decisions.preempt[0].reason == (
        "It gives back accelerators that its tenant has borrowed, and goes on when there is capacity again."
    )


@pytest.mark.parametrize(
    ("a", "b", "gpus"),
    [
        pytest.param(share(2), share(2), 3, id="what is beyond its own it can't claim"),
        pytest.param(share(2), share(4), 2, id="who is within its quota has not borrowed"),
        pytest.param(share(2), share(2, "y"), 2, id="who is of another cohort has not borrowed of it"),
        pytest.param(share(2, ""), share(2, ""), 2, id="without a cohort nobody has"),
        pytest.param(share(2), share(None), 2, id="who has no quota has not borrowed"),
    ],
)
def test_when_nothing_is_reclaimed(a: TenantShare, b: TenantShare, gpus: float) -> None:
    running = [active(f"b{n}") for n in range(4)]
    assert not decide(seen([queued("a1", gpus)], running, tenants={"a": a, "b": b})).preempt


def test_no_more_is_reclaimed_than_was_borrowed() -> None:
    tenants = {"a": share(4), "b": share(3)}
    running = [active(f"b{n}") for n in range(4)]
    assert not decide(seen([queued("a1", 2)], running, tenants=tenants)).preempt, "b would be at 2 of its 3"
    assert len(decide(seen([queued("a1", 1)], running, tenants=tenants)).preempt) == 1


def test_a_priority_displaces_nobody_within_a_quota_unless_it_is_too() -> None:
    running = [active("b1", 4)]
    within, none = share(4, ""), TenantShare()
    job = queued("a1", 4, priority=9)
    assert not decide(seen([job], running, tenants={"b": within, "a": none})).preempt
    assert decide(seen([job], running, tenants={"b": within, "a": within})).preempt
    assert decide(seen([replace(job, tenant="b")], running, gpus=8, tenants={"b": within})).preempt, "its own"


def test_what_was_freed_for_a_job_is_given_to_nobody_else() -> None:
    """B's job has left; others want its GPUs, one with a higher priority."""
    jobs = [queued("c1", 2), queued("d2", 4, priority=1), queued("a9", 4)]
    kept = seen(jobs, [active("e1", 4)], gpus=8, reservations={"a9": Resources(1, 4)})
    decisions = decide(kept)
    assert [one.uid for one in decisions.admit] == ["a9"]
    leaving = replace(kept, active=(active("e1", 4), active("b1", 4, leaving=True)))
    decisions = decide(leaving)
    assert not decisions.admit
    assert decisions.reserve["a9"] == Resources(1, 4)
    assert decisions.order == ("d2", "a9", "c1")
    assert [(one.victim, one.beneficiary) for one in decisions.preempt] == [("e1", "d2")], (
        "b1's are a9's, though d2 is first"
    )
    assert decisions.waiting["c1"].code is not QueueCode.PREEMPTING


def test_a_reservation_that_is_of_no_use_ends() -> None:
    kept = seen([queued("a1", 4), queued("b2", 1)], [active("c1", 2)], reservations={"a1": Resources(1, 4)})
    decisions = decide(kept)
    assert decisions.reserve == {}, "nobody leaves for it"
    assert decide(replace(kept, queued=(queued("b2"),))).reserve == {}, "it has left the queue"


def test_a_place_on_a_full_trainer_is_made_and_kept() -> None:
    trainer = PresentTrainer("t1", BASE, Resources(1, 1), ago(900), open_jobs=2)
    running = [active(f"{name}1", needs=Resources(), trainer_uid="t1", saved=n) for n, name in enumerate("bc")]
    urgent = replace(queued("a5", priority=1), work=Shared(BASE, 8, 512))
    other = replace(queued("d2"), work=Shared(BASE, 8, 512))
    snapshot = seen([urgent, other], running, gpus=1, trainers=(trainer,))
    decisions = decide(snapshot)
    assert victims(decisions) == "b1"
    assert decisions.reserve == {"a5": Resources()}
    later = replace(
        snapshot,
        active=(running[1],),
        trainers=(replace(trainer, open_jobs=1),),
        reservations=decisions.reserve,
    )
    assert [one.uid for one in decide(later).admit] == ["a5"]


def test_all_jobs_of_a_trainer_give_way_with_it() -> None:
    trainer = PresentTrainer("t1", BASE, Resources(1, 1), ago(900), open_jobs=2)
    running = [active(f"{name}1", needs=Resources(), trainer_uid="t1") for name in "bc"]
    snapshot = seen([queued("a5", 1, priority=1)], running, gpus=1, trainers=(trainer,))
    decisions = decide(snapshot)
    assert (victims(decisions), decisions.drain) == ("b1 c1", ("t1",))
    spared = replace(snapshot, active=(running[0], replace(running[1], priority=1)))
    assert not decide(spared).preempt


quotas = st.builds(Quota, accelerators=st.sampled_from([None, 2.0, 4.0]), lending_limit=st.sampled_from([None, 1.0]))
shares = st.builds(TenantShare, quota=quotas, cohort=st.sampled_from(["x", "x", "y", ""]))


@given(
    st.fixed_dictionaries(dict.fromkeys("abc", shares)),
    st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(-1, 3)),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(-1, 3)), min_size=1, max_size=7),
)
def test_who_was_displaced_displaces_nobody_that_displaced_it(
    tenants: dict[str, TenantShare], waiting: tuple[str, int, int], running: list[tuple[str, int, int]]
) -> None:
    """Once they have changed places, and all may be asked again, the same ones don't change back while nothing else does."""
    jobs = [
        replace(queued(f"q{n}", gpus, priority), tenant=tenant) for n, (tenant, gpus, priority) in enumerate([waiting])
    ]
    runs = [
        replace(active(f"r{n}", gpus), tenant=tenant, priority=priority)
        for n, (tenant, gpus, priority) in enumerate(running)
    ]
    lawful = seen([QueuedJob(r.uid, r.tenant, NOW, Alone(r.needs)) for r in runs], [], gpus=8, tenants=tenants)
    lawful_uids = {one.uid for one in decide(lawful).admit}
    runs = [run for run in runs if run.uid in lawful_uids]
    snapshot = seen(jobs, runs, gpus=8, tenants=tenants)
    decisions = decide(snapshot)
    displaced = {(one.victim, one.beneficiary) for one in decisions.preempt}
    gone, started = {victim for victim, _ in displaced}, {winner for _, winner in displaced}
    now_running = [run for run in runs if run.uid not in gone]
    now_running += [
        replace(active(job.uid, job.work.needs.gpus), tenant=job.tenant, priority=job.priority)
        for job in jobs
        if job.uid in started and isinstance(job.work, Alone)
    ]
    now_waiting = [
        QueuedJob(run.uid, run.tenant, ago(1000), Alone(run.needs), priority=run.priority)
        for run in runs
        if run.uid in gone
    ]
    again = decide(replace(snapshot, queued=tuple(now_waiting), active=tuple(now_running)))
    assert not {(one.beneficiary, one.victim) for one in again.preempt} & displaced
