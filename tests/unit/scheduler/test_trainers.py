"""Which jobs are put on which trainers, and which trainers come and go for them, case by case."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trellis.server.domain.trainer import Room, TrainerBase
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.domain.tuning_job import QueueCode
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.plan import Admission, NewTrainer
from trellis.server.scheduler.policy import Decisions, decide
from trellis.server.scheduler.snapshot import ActiveJob, Alone, PresentTrainer, QueuedJob, Shared, Snapshot

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ONE = Resources(cpus=1)


def base(name: str) -> TrainerBase:
    return TrainerBase(f"baseModels/{name}", f"/models/{name}", "r1", "0" * 64, "auto")


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def queued(name: str, model: str = "small", *, rows: int = 16, line: int = 512, ago: float = 0) -> QueuedJob:
    """The job `a1` is tenant a's."""
    return QueuedJob(name, name[0], at(-ago), Shared(base(model), rows, line))


def narrow(name: str, rank: int, share: float) -> QueuedJob:
    return QueuedJob(name, name[0], NOW, Shared(base("small"), rank, 512, share))


def alone(name: str, cpus: float = 1, *, ago: float = 0) -> QueuedJob:
    return QueuedJob(name, name[0], at(-ago), Alone(Resources(cpus)))


def trainer(uid: str, model: str = "small", *, ago: float = 60, **more: Any) -> PresentTrainer:
    return PresentTrainer(uid, base(model), ONE, at(-ago), **more)


def room(jobs: int = 8, rows: int = 256, line: int = 4096) -> Room:
    return Room(jobs, rows, line)


def seen(
    jobs: Sequence[QueuedJob],
    trainers: Sequence[PresentTrainer] = (),
    *,
    cpus: float = 1,
    active: Sequence[ActiveJob] = (),
    limit: int = 100,
    **options: object,
) -> Snapshot:
    chosen = TrainerOptions(**options)  # type: ignore[arg-type]
    return Snapshot(tuple(jobs), tuple(active), Resources(cpus), limit, NOW, tuple(trainers), chosen)


def placed(decisions: Decisions) -> str:
    return " ".join(f"{admission.uid}@{admission.trainer}" for admission in decisions.admit)


def test_the_first_job_of_a_base_starts_a_trainer_and_the_next_ones_join_it() -> None:
    decisions = decide(seen([queued("a1", ago=3), queued("b2", ago=2), queued("b3", ago=1)]))
    assert decisions.start == (NewTrainer("new-0", base("small")),)
    assert placed(decisions) == "a1@new-0 b2@new-0 b3@new-0"
    assert decisions.admit[0] == Admission("a1", "new-0")
    assert not decisions.waiting


def test_a_job_goes_on_a_warm_trainer_and_needs_no_capacity() -> None:
    decisions = decide(seen([queued("a1")], [trainer("t1", room=room())]))
    assert (placed(decisions), decisions.start) == ("a1@t1", ())


def test_another_precision_is_another_trainer() -> None:
    job = queued("a1")
    assert isinstance(job.work, Shared)
    other = replace(job, work=replace(job.work, base=replace(base("small"), precision="bf16")))
    decisions = decide(seen([other], [trainer("t1", room=room())], cpus=2))
    assert [new.base.precision for new in decisions.start] == ["bf16"]


def test_a_trainer_that_has_said_nothing_gets_as_many_as_it_may_have() -> None:
    jobs = [queued(f"a{n}", ago=9 - n) for n in range(1, 6)]
    decisions = decide(seen(jobs, [trainer("t1", open_jobs=1)], max_jobs=3))
    assert placed(decisions) == "a1@t1 a2@t1"
    assert decisions.waiting["a3"].message == (
        "The trainer of baseModels/small has no room for it and the jobs before it; it starts when others end."
    )


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        pytest.param({"room": room(jobs=1)}, True, id="room for one"),
        pytest.param({"room": room(jobs=0), "open_jobs": 3, "job_count": 3}, False, id="it has as many as it takes"),
        pytest.param({"room": room(jobs=2), "open_jobs": 2, "unseen_rows": (8, 8)}, False, id="two it did not know of"),
        pytest.param({"room": room(rows=32), "open_jobs": 1, "unseen_rows": (16,)}, True, id="rows left for it"),
        pytest.param({"room": room(rows=24), "open_jobs": 1, "unseen_rows": (16,)}, False, id="no rows left"),
        pytest.param({"room": room(line=511), "open_jobs": 1, "job_count": 1}, False, id="no memory for its lines"),
        pytest.param({"room": room(), "open_jobs": 4}, False, id="as many as any may have, whatever it says"),
    ],
)
def test_room_is_what_the_trainer_said_without_what_it_got_since(more: dict[str, Any], fits: bool) -> None:
    decisions = decide(seen([queued("a1")], [trainer("t1", **more)], max_jobs=4))
    assert placed(decisions) == ("a1@t1" if fits else "")
    assert not decisions.refuse


@pytest.mark.parametrize(
    ("rank", "share", "rows", "count"),
    [(16, 1.0, 40, 2), (13, 1.0, 39, 3), (1, 1.0, 3, 3), (1, 0.125, 1, 8), (16, 0.1627, 8, 3), (3, 1 / 3, 2, 2)],
)
def test_jobs_take_their_rank_of_the_part_that_they_adapt(rank: int, share: float, rows: int, count: int) -> None:
    jobs = [narrow(f"a{n}", rank, share) for n in range(9)]
    decisions = decide(seen(jobs, [trainer("t1", room=room(16, rows))]))
    assert len(decisions.admit) == count


def test_a_high_rank_on_few_linears_is_not_refused() -> None:
    ready = trainer("t1", room=room(rows=32))
    assert placed(decide(seen([narrow("a1", 256, 0.125)], [ready]))) == "a1@t1"
    decisions = decide(seen([narrow("a1", 256, 0.1263)], [ready]))
    assert decisions.refuse["a1"] == (
        "Its adapter takes 32.3328 rank rows, and a trainer of baseModels/small has 32 in all. Lower the rank, adapt "
        "fewer linears, or ask for `distributed`."
    )


def test_a_second_trainer_of_a_base_is_started_when_the_first_is_full() -> None:
    full = trainer("t1", room=room(jobs=0), open_jobs=4, job_count=4)
    one, two = (seen([queued("a1")], [full], cpus=2, max_replicas=most) for most in (1, 2))
    assert placed(decide(one)) == ""
    assert placed(decide(two)) == "a1@new-0"


def test_a_large_job_is_not_passed_by_small_ones_of_its_base() -> None:
    busy = trainer("t1", room=room(rows=32), open_jobs=1, job_count=1)
    other = trainer("t2", "large", room=room())
    jobs = [queued("a1", rows=64, ago=9), queued("b2", rows=8, ago=1), queued("c3", "large")]
    assert placed(decide(seen(jobs, [busy, other], cpus=2))) == "c3@t2"


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (queued("a1", rows=264), "Its adapter takes 264 rank rows, and a trainer of baseModels/small has 256 in all."),
        (
            queued("a1", line=8192),
            "Its context_length is 8192 tokens, and a trainer of baseModels/small has the memory for lines of 4096 ",
        ),
    ],
)
def test_a_job_that_no_empty_trainer_can_run_is_refused_with_the_numbers(job: QueuedJob, said: str) -> None:
    decisions = decide(seen([job, queued("b2")], [trainer("t1", room=room())]))
    assert decisions.refuse["a1"].startswith(said)
    assert placed(decisions) == "b2@t1"
    assert not decisions.waiting


def test_what_a_trainer_said_while_it_had_jobs_refuses_nobody() -> None:
    stale = trainer("t1", room=room(rows=8), job_count=2)
    decisions = decide(seen([queued("a1", rows=64)], [stale]))
    assert (decisions.refuse, list(decisions.waiting)) == ({}, ["a1"])


def test_trainers_hold_their_capacity() -> None:
    decisions = decide(seen([alone("a1")], [trainer("t1", open_jobs=1)], cpus=1))
    assert placed(decisions) == ""
    assert decisions.waiting["a1"].message == (
        "It needs 1 CPU; what is free of 1 CPU is taken by jobs before it and by trainers."
    )


def test_workers_of_a_trainer_are_reserved_together() -> None:
    decisions = decide(seen([queued("a1")], cpus=3, workers=4))
    assert decisions.waiting["a1"].code is QueueCode.NEVER_FITS
    assert decisions.waiting["a1"].message == (
        "It needs a trainer of baseModels/small, which takes 4 CPUs, more than the platform has in all (3 CPUs): ask its "
        "operator."
    )


def test_an_idle_trainer_makes_room_at_once() -> None:
    idle = trainer("t1", room=room(), ago=0)
    for job in (queued("a1", "large"), alone("a1")):
        decisions = decide(seen([job], [idle]))
        assert decisions.drain == ("t1",)
        assert decisions.waiting["a1"].code is QueueCode.CAPACITY


def test_no_more_trainers_leave_than_must() -> None:
    idle = [trainer("t1", "x", room=room()), trainer("t2", "y", room=room())]
    assert decide(seen([alone("a1")], idle, cpus=2)).drain == ("t1",)
    assert decide(seen([alone("a1")], idle, cpus=3)).drain == ()
    assert decide(seen([alone("a1", 2)], idle, cpus=2)).drain == ("t1", "t2")
    leaving = replace(idle[0], takes_jobs=False)
    assert decide(seen([alone("a1")], [leaving, idle[1]], cpus=2)).drain == ()


def test_no_trainer_leaves_for_what_would_not_fit_then_either() -> None:
    by_itself = ActiveJob("r1", "b", Resources(2))
    decisions = decide(seen([alone("a1", 2, ago=99)], [trainer("t1", room=room())], cpus=3, active=[by_itself]))
    assert decisions.drain == ()


def test_a_trainer_that_just_got_a_job_does_not_leave() -> None:
    jobs = [queued("a1", ago=9), queued("b2", "large", ago=5)]
    decisions = decide(seen(jobs, [trainer("t1", room=room())]))
    assert (placed(decisions), decisions.drain) == ("a1@t1", ())


@pytest.mark.parametrize(
    ("waited", "age", "leaves"),
    [
        pytest.param(14, 99, False, id="the job has not waited for a turn"),
        pytest.param(99, 14, False, id="the trainer has not had its turn"),
        pytest.param(15, 15, True, id="both"),
    ],
)
def test_a_busy_trainer_of_another_base_has_a_turn_and_leaves(waited: float, age: float, leaves: bool) -> None:
    busy = trainer("t1", room=room(), open_jobs=2, job_count=2, ago=age)
    decisions = decide(seen([queued("a1", "large", ago=waited), queued("b2")], [busy]))
    assert decisions.drain == (("t1",) if leaves else ())
    assert placed(decisions) == ("" if leaves else "b2@t1")


def test_the_trainer_with_fewest_jobs_leaves() -> None:
    few, many = (trainer(f"t{n}", f"m{n}", room=room(), open_jobs=n, job_count=n) for n in (2, 5))
    assert decide(seen([queued("a1", "large", ago=60)], [many, few], cpus=2)).drain == ("t2",)


def test_trainers_of_the_same_base_stay_though_they_are_full() -> None:
    full = trainer("t1", room=room(jobs=0), open_jobs=8, job_count=8)
    assert decide(seen([queued("a1", ago=999)], [full])).drain == ()


def test_whose_base_had_a_trainer_until_now_gives_way_to_who_has_waited() -> None:
    """Their jobs are older, and yet the other base has its turn."""
    jobs = [queued("a1", "small", ago=100), queued("b2", "large", ago=50)]
    before = replace(seen(jobs), last_ends={base("small"): at(-1)})
    assert [new.base for new in decide(before).start] == [base("large")]
    assert placed(decide(before)) == "b2@new-0"
    long_ago = replace(before, last_ends={base("small"): at(-60)})
    assert placed(decide(long_ago)) == "a1@new-0", "the other one had not come yet when it ended"


def test_a_waiting_job_keeps_its_place_under_the_limit() -> None:
    jobs = [alone("a1", ago=9), queued("a2"), queued("a3")]
    busy = trainer("t1", room=room(), open_jobs=1, job_count=1, ago=1)
    decisions = decide(seen(jobs, [busy], limit=2))
    assert placed(decisions) == "a2@t1"
    assert decisions.waiting["a3"].code is QueueCode.TENANT_LIMIT
    assert decisions.waiting["a3"].message == (
        "At most 2 of the tenant's jobs may run at once; the place that is left is kept for one before it."
    )


def test_a_tenant_at_its_limit_gets_no_trainer() -> None:
    running = ActiveJob("a9", "a", Resources())
    decisions = decide(seen([queued("a1", "large")], [trainer("t1", room=room())], limit=1, active=[running]))
    assert decisions.waiting["a1"].code is QueueCode.TENANT_LIMIT
    assert (decisions.start, decisions.drain) == ((), ())
