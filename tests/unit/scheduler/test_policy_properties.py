"""What holds of every decision, whatever is in the queue."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.policy import decide
from trellis.server.scheduler.snapshot import ActiveJob, QueuedJob, Snapshot

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TENANTS = "abcd"

tenants = st.sampled_from(TENANTS)
needs = st.builds(Resources, st.sampled_from([0.5, 1, 2, 4]), st.sampled_from([0, 0.25, 1, 2]))
times = st.integers(-50, 50).map(lambda seconds: NOW + timedelta(seconds=seconds))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    jobs = draw(st.lists(st.tuples(tenants, times, needs, st.booleans(), st.none() | times), max_size=25))
    running = draw(st.lists(st.tuples(tenants, needs), max_size=8))
    return Snapshot(
        queued=tuple(QueuedJob(f"q{n:02}", *job) for n, job in enumerate(jobs)),
        active=tuple(ActiveJob(f"r{n}", *job) for n, job in enumerate(running)),
        capacity=draw(st.builds(Resources, st.integers(0, 16), st.integers(0, 8))),
        tenant_running_limit=draw(st.integers(0, 6)),
        now=NOW,
    )


def total(jobs: list[Resources]) -> Resources:
    return Resources(sum(job.cpus for job in jobs), sum(job.gpus for job in jobs))


def may_start(job: QueuedJob, seen: Snapshot) -> bool:
    return job.report_ready and (job.retry_time is None or job.retry_time <= seen.now)


@given(snapshots())
def test_every_job_is_admitted_or_has_a_reason_and_a_place(seen: Snapshot) -> None:
    decisions = decide(seen)
    assert len(set(decisions.admit)) == len(decisions.admit)
    assert set(decisions.admit) | set(decisions.waiting) == {job.uid for job in seen.queued}
    assert not set(decisions.admit) & set(decisions.waiting)
    places = sorted(reason.position for reason in decisions.waiting.values())
    assert places == list(range(len(places)))
    assert all(reason.message.endswith(".") for reason in decisions.waiting.values())


@given(snapshots())
def test_no_more_is_admitted_than_fits(seen: Snapshot) -> None:
    admitted = set(decide(seen).admit)
    used = [job.needs for job in seen.active]
    new = [job.needs for job in seen.queued if job.uid in admitted]
    if new:
        assert total(used + new).fits_into(seen.capacity)


@given(snapshots())
def test_no_tenant_passes_its_limit(seen: Snapshot) -> None:
    admitted = set(decide(seen).admit)
    new = Counter(job.tenant for job in seen.queued if job.uid in admitted)
    running = Counter(job.tenant for job in seen.active)
    assert all(running[tenant] + count <= seen.tenant_running_limit for tenant, count in new.items())


@given(snapshots())
def test_nothing_starts_before_it_may(seen: Snapshot) -> None:
    admitted = set(decide(seen).admit)
    assert all(may_start(job, seen) for job in seen.queued if job.uid in admitted)


@given(snapshots())
def test_inside_a_tenant_the_oldest_that_may_start_goes_first(seen: Snapshot) -> None:
    admitted = set(decide(seen).admit)
    for tenant in TENANTS:
        able = [
            j for j in seen.queued if j.tenant == tenant and may_start(j, seen) and j.needs.fits_into(seen.capacity)
        ]
        in_order = [job.uid in admitted for job in sorted(able, key=lambda job: (job.create_time, job.uid))]
        assert in_order == sorted(in_order, reverse=True)


@given(snapshots(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_means_nothing(seen: Snapshot, random: st.DrawFn) -> None:
    jobs, running = list(seen.queued), list(seen.active)
    random.shuffle(jobs)  # type: ignore[attr-defined]
    random.shuffle(running)  # type: ignore[attr-defined]
    assert decide(replace(seen, queued=tuple(jobs), active=tuple(running))) == decide(seen)


@given(snapshots())
def test_room_is_left_only_when_the_next_in_turn_does_not_fit(seen: Snapshot) -> None:
    decisions = decide(seen)
    admitted = set(decisions.admit)
    running = Counter(job.tenant for job in seen.active)
    running.update(job.tenant for job in seen.queued if job.uid in admitted)
    able = [
        job
        for job in seen.queued
        if job.uid in decisions.waiting
        and may_start(job, seen)
        and running[job.tenant] < seen.tenant_running_limit
        and job.needs.fits_into(seen.capacity)
    ]
    used = total([job.needs for job in seen.active] + [job.needs for job in seen.queued if job.uid in admitted])
    assert not able or any(not job.needs.fits_into(seen.capacity.minus(used)) for job in able)


@given(snapshots(), st.integers(1, 4))
def test_nobody_starves(seen: Snapshot, newcomers: int) -> None:
    """Each round the oldest run ends and tenant `a` submits more: all that was there at first is run in the end."""
    if seen.tenant_running_limit == 0:
        return
    jobs = [replace(job, report_ready=True, retry_time=None) for job in seen.queued]
    waiting = [job for job in jobs if job.needs.fits_into(seen.capacity)]
    first, running = {job.uid for job in waiting}, list(seen.active)
    rounds = len(waiting) + len(running) + 1
    for turn in range(rounds):
        now = NOW + timedelta(minutes=turn + 1)
        decisions = decide(replace(seen, queued=tuple(waiting), active=tuple(running), now=now))
        running += [ActiveJob(j.uid, j.tenant, j.needs) for j in waiting if j.uid in decisions.admit]
        waiting = [job for job in waiting if job.uid not in decisions.admit]
        waiting += [QueuedJob(f"n{turn}.{n}", "a", now, Resources(0.5)) for n in range(newcomers)]
        running = running[1:]
    assert not first & {job.uid for job in waiting}
