"""What holds of the policy in every course of things, with quotas, cohorts, budgets, priorities and preemption."""

from datetime import timedelta

from hypothesis import Phase, given, settings, strategies as st
from tests.policy_world import METER, START, World, base

from trellis.server.domain.quota import Quota
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.snapshot import Alone, QueuedJob, SchedulerOptions, Shared, TenantShare

TENANTS = "abcd"
_QUICK = settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])

quotas = st.builds(
    Quota,
    accelerators=st.sampled_from([None, 2.0, 2.0, 4.0, 4.0, 6.0]),
    borrowing_limit=st.sampled_from([None, None, 2.0, 0.0]),
    lending_limit=st.sampled_from([None, None, 2.0, 0.0]),
    running_jobs=st.sampled_from([None, None, 2, 4]),
)
shares = st.builds(
    TenantShare, weight=st.sampled_from([0.5, 1.0, 3.0]), quota=quotas, cohort=st.sampled_from(["", "x", "x", "x"])
)
works = st.one_of(
    st.builds(Alone, st.builds(Resources, st.just(1), st.sampled_from([1, 1, 2, 4]))),
    st.builds(Shared, st.sampled_from([base("m"), base("n")]), st.just(8), st.just(512)),
)


@st.composite
def jobs(draw: st.DrawFn, count: int = 18) -> list[tuple[QueuedJob, float]]:
    """Jobs with the seconds that they really take, in the order of their submission."""
    found = []
    for n in range(draw(st.integers(count // 3, count))):
        takes = draw(st.integers(1, 12))
        seconds = draw(st.sampled_from([None, float(takes), float(takes), 1.0, 20.0]))
        job = QueuedJob(
            f"q{n:02}",
            draw(st.sampled_from(TENANTS)),
            START + timedelta(seconds=draw(st.integers(0, 8))),
            draw(works),
            priority=draw(st.sampled_from([0, 0, 0, -1, 1, 2])),
            seconds=seconds,
            budget_needs={METER: float(draw(st.integers(0, 20)))},
        )
        found.append((job, float(takes)))
    return found


@st.composite
def worlds(draw: st.DrawFn) -> World:
    options = TrainerOptions(
        cpus=1,
        gpus=1,
        max_jobs=draw(st.integers(1, 3)),
        max_replicas=draw(st.integers(1, 2)),
        turn_seconds=draw(st.sampled_from([0.0, 3.0])),
    )
    policy = SchedulerOptions(
        least_run_seconds=draw(st.sampled_from([0.0, 2.0])), max_preemptions=draw(st.sampled_from([0, 1, 3]))
    )
    budgets = draw(st.dictionaries(st.sampled_from(TENANTS), st.sampled_from([20.0, 40.0, 100.0]), max_size=3))
    return World(
        Resources(8, draw(st.sampled_from([3, 4, 6]))),
        draw(st.fixed_dictionaries(dict.fromkeys(TENANTS, shares))),
        draw(st.sampled_from([2, 4, 9])),
        options,
        policy,
        draw(st.integers(1, 3)),
        budgets,
    )


def can_ever_run(job: QueuedJob, world: World) -> bool:
    """By itself, with nobody else there."""
    alone = World(world.capacity, world.tenants, world.limit, world.options, budgets=world.budgets)
    alone.now = job.create_time
    alone.submit(job, 1)
    return bool(alone.step().admit)


@_QUICK
@given(worlds(), jobs())
def test_in_any_course_of_things_nothing_is_passed_and_all_that_can_run_does(
    world: World, submitted: list[tuple[QueuedJob, float]]
) -> None:
    """Jobs come, run, give way and come back; World.check looks at every second."""
    able = {job.uid for job, _ in submitted if can_ever_run(job, world)}
    spent = {tenant: sum(j.budget_needs[METER] for j, _ in submitted if j.tenant == tenant) for tenant in TENANTS}
    rich = {tenant for tenant in TENANTS if tenant not in world.budgets or spent[tenant] <= world.budgets[tenant]}
    due = {job.uid for job, _ in submitted if job.uid in able and job.tenant in rich}
    for _ in range(40 * len(submitted)):
        for job, takes in submitted:
            if job.create_time == world.now:
                world.submit(job, takes)
        world.step()
        if world.now > START + timedelta(seconds=8) and not due & (world.queued.keys() | world.running.keys()):
            break
    assert due <= world.started.keys()
    assert not due & (world.queued.keys() | world.running.keys()), "what ran has ended"
    assert all(count <= world.policy.max_preemptions for count in world.preempted.values())


@_QUICK
@given(worlds(), jobs(), st.lists(works, min_size=1, max_size=2))
def test_nobody_waits_for_ever_behind_jobs_that_keep_coming(
    world: World, submitted: list[tuple[QueuedJob, float]], flood: list[Alone | Shared]
) -> None:
    """Tenant `a` submits in every second: each job that is as urgent, or more, has its turn."""
    first = [job for job, _ in submitted if can_ever_run(job, world) and job.priority >= 0]
    for job, takes in submitted:
        world.submit(job, takes)
    world.now = START + timedelta(seconds=8)
    world.budgets.clear()
    for turn in range(1500):
        if all(job.uid in world.started for job in first):
            return
        for n, work in enumerate(flood):
            if len(world.queued) < 30:
                world.submit(QueuedJob(f"n{turn:04}.{n}", "a", world.now, work, seconds=1.0), 1 + turn % 4)
        world.step()
    raise AssertionError(f"these never ran: {sorted(job.uid for job in first if job.uid not in world.started)}")


@_QUICK
@given(worlds(), jobs())
def test_the_same_snapshot_has_the_same_answer(world: World, submitted: list[tuple[QueuedJob, float]]) -> None:
    other = World(world.capacity, world.tenants, world.limit, world.options, world.policy, world.grace, world.budgets)
    for job, takes in submitted:
        world.submit(job, takes)
    for job, takes in reversed(submitted):
        other.submit(job, takes)
    for _ in range(10):
        assert world.step() == other.step()
