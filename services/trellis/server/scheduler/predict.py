"""When queued jobs are likely to start: the queue is played forward, with the ends and lengths that are expected.

Near starts come from the same plans that decide: each time a job is expected to end, all that wait are placed anew. The
work is bounded by the number of jobs looked at; what still waits then is filled in by a quicker guess (filling). Not
foreseen are jobs that come later, failures, and what operators and users do.

The interval: a wait is a sum of remaining times, and estimates of those are taken to be right within a factor of two; but
one job that ends early lets others pass, and jobs that come later go first where their tenants have had less. So the
earliest is a third of the predicted wait and the latest five times it, each with two minutes of slack. Those factors were
found by simulation, with estimates off by a factor of 1.6 for one job in three and new jobs at 0.9 to 2 times of what the
platform can do: 86 to 96 of 100 starts lay between.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from trellis.server.scheduler.decisions import Decisions
from trellis.server.scheduler.filling import Filling
from trellis.server.scheduler.plan import Plan
from trellis.server.scheduler.policy import plan_of
from trellis.server.scheduler.snapshot import Snapshot
from trellis.server.scheduler.timeline import Happening, Pace, Timeline

SHORTEST: Final = 1 / 3
"""Of the predicted wait: in 9 of 10 cases it is not shorter."""
LONGEST: Final = 5.0
"""Of the predicted wait: in 9 of 10 cases it is not longer."""
SLACK: Final = 120.0
"""Seconds by which any wait may be longer or shorter."""
_LOOKS: Final = 30_000
"""So many jobs are looked at in plans; a second on a slow machine at the most."""
_PACE: Final = Pace(leave=30.0)
_FINER: Final = 0.01
"""Ends that lie so close together, as a part of the time from now, are taken as one."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """When a job is likely to start."""

    start: datetime
    earliest: datetime
    """In 9 of 10 cases not before."""
    latest: datetime
    """In 9 of 10 cases not after."""


def predict(snapshot: Snapshot, looks: int = _LOOKS) -> Mapping[str, Prediction]:
    """By uid: of each queued job that is likely to start at all, when; jobs whose reports are awaited as if those came now."""
    ready = replace(snapshot, queued=tuple(replace(job, report_ready=True) for job in snapshot.queued))
    not_before = {job.uid: job.retry_time for job in snapshot.queued if job.retry_time is not None}
    starts = _starts(ready, looks)
    return {
        job.uid: _between(snapshot.now, starts[job.uid], not_before.get(job.uid))
        for job in snapshot.queued
        if job.uid in starts
    }


def _starts(snapshot: Snapshot, looks: int) -> dict[str, float]:
    """By uid: in so many seconds."""
    timeline, starts = Timeline(snapshot, _PACE), dict[str, float]()
    wakes = sorted(_wakes(snapshot))
    while timeline.queued:
        looks -= len(timeline.queued) + 2 * timeline.running + len(snapshot.tenants)
        if looks < (0 if starts else -_LOOKS // 2):
            seen = timeline.snapshot()
            later = {uid: timeline.now + at for uid, at in Filling(seen).run().items()}
            return later | starts
        for happened in timeline.apply(_acts(plan_of(timeline.snapshot()))):
            if happened.what is Happening.STARTED:
                starts.setdefault(happened.uid, happened.at)
        while wakes and wakes[0] <= timeline.now:
            wakes.pop(0)
        after = [at for at in (timeline.next(), *wakes[:1]) if at is not None]
        if not after:
            break
        timeline.advance(max(min(after), timeline.now * (1 + _FINER), timeline.now + 1.0))
    return starts


def _acts(plan: Plan) -> Decisions:
    """What a plan does, without the reasons of those that wait, which cost as much again."""
    seats = plan.seats
    return Decisions(
        tuple(plan.admit), tuple(seats.start), tuple(seats.drain), plan.refuse, {}, tuple(plan.preempt), plan.reserve
    )


def _wakes(snapshot: Snapshot) -> set[float]:
    """Seconds after which something may start though nothing ends."""
    times = {job.retry_time for job in snapshot.queued if job.retry_time is not None}
    times |= {end for share in snapshot.tenants.values() for end in share.budget_ends.values()}
    found = {(time - snapshot.now).total_seconds() for time in times}
    found |= {snapshot.options.turn_seconds, snapshot.policy.least_run_seconds}
    return {at for at in found if at > 0}


def _between(now: datetime, wait: float, not_before: datetime | None) -> Prediction:
    earliest = now + timedelta(seconds=max(0.0, wait * SHORTEST - SLACK))
    if not_before is not None:
        earliest = max(earliest, not_before)
    start = max(now + timedelta(seconds=wait), earliest)
    return Prediction(start, earliest, max(start, now + timedelta(seconds=wait * LONGEST + SLACK)))
