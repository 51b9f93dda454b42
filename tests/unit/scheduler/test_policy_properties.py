"""What holds of every decision, whatever is in the queue."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, strategies as st

from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.policy import decide
from trellis.server.scheduler.snapshot import ActiveJob, Alone, QueuedJob, Snapshot

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TENANTS = "abcd"

tenants = st.sampled_from(TENANTS)
needs = st.builds(Resources, st.sampled_from([0.5, 1, 2, 4]), st.sampled_from([0, 0.25, 1, 2]))
times = st.integers(-50, 50).map(lambda seconds: NOW + timedelta(seconds=seconds))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    jobs = draw(st.lists(st.tuples(tenants, times, needs.map(Alone), st.booleans(), st.none() | times), max_size=25))
    running = draw(st.lists(st.tuples(tenants, needs), max_size=8))
    return Snapshot(
        queued=tuple(QueuedJob(f"q{n:02}", *job) for n, job in enumerate(jobs)),
        active=tuple(ActiveJob(f"r{n}", *job) for n, job in enumerate(running)),
        capacity=draw(st.builds(Resources, st.integers(0, 16), st.integers(0, 8))),
        tenant_running_limit=draw(st.integers(0, 6)),
        now=NOW,
    )


def admitted_in(seen: Snapshot) -> set[str]:
    return {admission.uid for admission in decide(seen).admit}


def needs_of(job: QueuedJob) -> Resources:
    assert isinstance(job.work, Alone)
    return job.work.needs


def total(jobs: list[Resources]) -> Resources:
    return Resources(sum(job.cpus for job in jobs), sum(job.gpus for job in jobs))


def may_start(job: QueuedJob, seen: Snapshot) -> bool:
    return job.report_ready and (job.retry_time is None or job.retry_time <= seen.now)


@given(snapshots())
def test_every_job_is_admitted_or_has_a_reason_and_a_place(seen: Snapshot) -> None:
    decisions = decide(seen)
    admitted = {admission.uid for admission in decisions.admit}
    assert len(admitted) == len(decisions.admit)
    assert admitted | set(decisions.waiting) == {job.uid for job in seen.queued}
    assert not admitted & set(decisions.waiting)
    places = sorted(reason.position for reason in decisions.waiting.values())
    assert places == list(range(len(places)))
    assert all(reason.message.endswith(".") for reason in decisions.waiting.values())


@given(snapshots())
def test_no_more_is_admitted_than_fits(seen: Snapshot) -> None:
    admitted = admitted_in(seen)
    used = [job.needs for job in seen.active]
    new = [needs_of(job) for job in seen.queued if job.uid in admitted]
    if new:
        assert total(used + new).fits_into(seen.capacity)


@given(snapshots())
def test_no_tenant_passes_its_limit(seen: Snapshot) -> None:
    admitted = admitted_in(seen)
    new = Counter(job.tenant for job in seen.queued if job.uid in admitted)
    running = Counter(job.tenant for job in seen.active)
    assert all(running[tenant] + count <= seen.tenant_running_limit for tenant, count in new.items())


@given(snapshots())
def test_nothing_starts_before_it_may(seen: Snapshot) -> None:
    admitted = admitted_in(seen)
    assert all(may_start(job, seen) for job in seen.queued if job.uid in admitted)


@given(snapshots())
def test_inside_a_tenant_the_oldest_that_may_start_goes_first_or_is_passed_by_what_needs_less(seen: Snapshot) -> None:
    admitted = admitted_in(seen)
    for tenant in TENANTS:
        able = [
            j for j in seen.queued if j.tenant == tenant and may_start(j, seen) and needs_of(j).fits_into(seen.capacity)
        ]
        in_order = sorted(able, key=lambda job: (job.create_time, job.uid))
        for n, job in enumerate(in_order):
            if job.uid not in admitted:
                after = [later for later in in_order[n + 1 :] if later.uid in admitted]
                assert not any(needs_of(job).fits_into(needs_of(later)) for later in after)


@given(snapshots(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_means_nothing(seen: Snapshot, random: st.DrawFn) -> None:
    jobs, running = list(seen.queued), list(seen.active)
    random.shuffle(jobs)  # type: ignore[attr-defined]
    random.shuffle(running)  # type: ignore[attr-defined]
    assert decide(replace(seen, queued=tuple(jobs), active=tuple(running))) == decide(seen)


@given(snapshots())
def test_room_is_left_only_when_the_next_in_turn_does_not_fit(seen: Snapshot) -> None:
    decisions = decide(seen)
    admitted = {admission.uid for admission in decisions.admit}
    running = Counter(job.tenant for job in seen.active)
    running.update(job.tenant for job in seen.queued if job.uid in admitted)
    able = [
        job
        for job in seen.queued
        if job.uid in decisions.waiting
        and may_start(job, seen)
        and running[job.tenant] < seen.tenant_running_limit
        and needs_of(job).fits_into(seen.capacity)
    ]
    used = total([job.needs for job in seen.active] + [needs_of(job) for job in seen.queued if job.uid in admitted])
    assert not able or any(not needs_of(job).fits_into(seen.capacity.minus(used)) for job in able)


@given(snapshots(), st.integers(1, 4))
def test_nobody_starves(seen: Snapshot, newcomers: int) -> None:
    """Each round the oldest run ends and tenant `a` submits more: all that was there at first is run in the end."""
    if seen.tenant_running_limit == 0:
        return
    jobs = [replace(job, report_ready=True, retry_time=None) for job in seen.queued]
    waiting = [job for job in jobs if needs_of(job).fits_into(seen.capacity)]
    first = {job.uid for job in waiting}
    running = [replace(job, start_time=NOW) for job in seen.active]
    rounds = 8 * (len(waiting) + len(running) + 1)  # a tenant at its limit waits until one of its own is the oldest
    for turn in range(rounds):
        if not first & {job.uid for job in waiting}:
            return
        now = NOW + timedelta(minutes=turn + 1)
        decisions = decide(replace(seen, queued=tuple(waiting), active=tuple(running), now=now))
        admitted = {admission.uid for admission in decisions.admit}
        running += [ActiveJob(j.uid, j.tenant, needs_of(j), start_time=now) for j in waiting if j.uid in admitted]
        waiting = [job for job in waiting if job.uid not in admitted]
        waiting += [QueuedJob(f"n{turn}.{n}", "a", now, Alone(Resources(0.5))) for n in range(newcomers)]
        running = running[1:]
    raise AssertionError(f"these were not run in {rounds} rounds: {first & {job.uid for job in waiting}}")
