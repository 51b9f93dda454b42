"""The queue and what runs, moved forward in time: decisions are applied, jobs end, trainers come and go. Pure.

What is simpler than on the platform: jobs on a shared trainer take as long beside others as alone; a job that is
preempted loses what it did since its last checkpoint, though it is asked to save one; and nothing fails.
"""

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from trellis.server.domain.quota import BudgetMeter
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.decisions import Decisions
from trellis.server.scheduler.fleet import Fleet
from trellis.server.scheduler.past_use import PastUse
from trellis.server.scheduler.snapshot import ActiveJob, Alone, QueuedJob, Shared, Snapshot, TenantShare


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take that no job's length says, in seconds."""

    start: float = 0.0
    """From a job's admission to its first step."""
    leave: float = 0.0
    """From asking a job to give way to its capacity being free."""
    load: float = 0.0
    """Until a new trainer has loaded its base."""
    checkpoint: float = 0.0
    """Between two checkpoints; 0 for a job that loses nothing."""
    known: float = 0.0
    """So long after its first step a job's end is known by its pace, which before is only expected; 0 for never."""


class Happening(StrEnum):
    """What can happen to a job."""

    STARTED = "STARTED"
    ENDED = "ENDED"
    PREEMPTED = "PREEMPTED"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class Happened:
    """Something that happened to a job, so many seconds after the snapshot."""

    what: Happening
    uid: str
    at: float
    lost: float = 0.0
    """Seconds of work since the last checkpoint, of one that was preempted."""


@dataclass(slots=True)
class _Run:
    job: QueuedJob
    share: float
    active: ActiveJob
    begin: float
    """When it makes its first step."""
    work: float
    """Seconds from then to its end."""
    stop: float
    """When it ends, or is gone."""
    saved: float = 0.0
    """Checkpoints that it has saved since then."""
    is_known: bool = False
    """Whether its end is known by its pace."""


class Timeline:
    """Time as seconds since the snapshot; who drives it asks for a snapshot, decides, applies, and advances."""

    def __init__(self, snapshot: Snapshot, pace: Pace = Pace()) -> None:
        self.now = 0.0
        self._base = snapshot
        self._pace = pace
        self._work: dict[str, float] = {}
        self._queued: dict[str, QueuedJob] = {}
        self._runs: dict[str, _Run] = {}
        self._held = Resources()
        self._stops: list[tuple[float, int, str]] = []
        self._count = itertools.count()
        self._reserved: Mapping[str, Resources] = snapshot.reservations
        self._shares = dict(snapshot.tenants)
        self._has_budgets = any(share.budget_ends for share in self._shares.values())
        self._used = PastUse(
            snapshot.policy.half_life_seconds, {tenant: share.past_use for tenant, share in self._shares.items()}
        )
        self.fleet = Fleet(snapshot.now, snapshot.trainers, snapshot.options.idle_seconds)
        self.fleet.last_ends.update(snapshot.last_ends)
        for job in snapshot.queued:
            self.add(job, self._expected(job))
        for active in snapshot.active:
            self._go_on(active)

    @property
    def queued(self) -> Mapping[str, QueuedJob]:
        """By uid: what waits."""
        return self._queued

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._runs)

    def add(self, job: QueuedJob, work: float) -> None:
        """A job comes, which takes so many seconds in truth, whatever it is expected to."""
        self._queued[job.uid] = job
        self._work[job.uid] = work

    def refuse(self, uid: str) -> Happened:
        """A job that waits leaves the queue for good."""
        del self._queued[uid]
        return Happened(Happening.REFUSED, uid, self.now)

    def snapshot(self) -> Snapshot:
        """All of it, as it is now."""
        return replace(
            self._base,
            queued=tuple(self._queued.values()),
            active=tuple(self._active(run) for run in self._runs.values()),
            now=self.time(self.now),
            trainers=self.fleet.present,
            last_ends=dict(self.fleet.last_ends),
            tenants=self._tenants(),
            reservations=self._reserved,
        )

    def apply(self, decisions: Decisions) -> list[Happened]:
        """Do what was decided about this moment's snapshot."""
        happened = [self.refuse(uid) for uid in decisions.refuse]
        self.fleet.drain(decisions.drain)
        made = self.fleet.start(decisions.start, self._base.trainer_needs, self.now, self.now + self._pace.load)
        for admission in decisions.admit:
            self._start(admission.uid, made.get(admission.trainer, admission.trainer))
            happened.append(Happened(Happening.STARTED, admission.uid, self.now))
        for preemption in decisions.preempt:
            self._ask_to_leave(preemption.victim)
        self._reserved = decisions.reserve
        return happened

    def next(self) -> float | None:
        """When something happens by itself, unless something is decided before."""
        while self._stops and not self._is_current(self._stops[0]):
            heapq.heappop(self._stops)
        times = [self._stops[0][0]] if self._stops else []
        idle = self.fleet.next_end()
        return max(self.now, min([*times, idle] if idle is not None else times)) if times or idle is not None else None

    def advance(self, to: float) -> list[Happened]:
        """Go on to this moment; what happens on the way."""
        happened = []
        while (at := self.next()) is not None and at <= to:
            self.now = at
            self.fleet.end_idle(at)
            while self._stops and self._stops[0][0] <= at:
                entry = heapq.heappop(self._stops)
                if self._is_current(entry):
                    happened.append(self._stop(entry[2]))
        self.now = max(self.now, to)
        self._renew_budgets()
        return happened

    def time(self, at: float) -> datetime:
        """The moment so many seconds after the snapshot."""
        return self._base.now + timedelta(seconds=at)

    def shares(self) -> dict[str, float]:
        """By tenant: its dominant share now."""
        return {tenant: self._used.share(tenant) for tenant in {run.job.tenant for run in self._runs.values()}}

    def held(self) -> Resources:
        """What jobs and trainers have."""
        return self.fleet.held.plus(self._held)

    def _start(self, uid: str, trainer: str) -> None:
        job = self._queued.pop(uid)
        begin = self.now + self._pace.start
        if isinstance(job.work, Shared):
            begin = max(begin, self.fleet.take(trainer, uid, job.work))
        needs = job.work.needs if isinstance(job.work, Alone) else Resources()
        active = ActiveJob(
            uid=uid,
            tenant=job.tenant,
            needs=needs,
            trainer_uid=trainer,
            priority=job.priority,
            start_time=self.time(self.now),
            expected_end=self.time(begin + self._expected(job)),
            preemption_count=job.preemption_count,
            can_be_preempted=True,
        )
        self._run(_Run(job, self._share(job), active, begin, work := self._work.pop(uid), begin + work))
        self._spend(job)

    def _go_on(self, active: ActiveJob) -> None:
        """A job that runs already: it does so until its expected end."""
        began = (active.start_time or self._base.now) - self._base.now
        default = self._base.policy.default_job_seconds
        end = (active.expected_end - self._base.now).total_seconds() if active.expected_end else default
        work = max(end, -began.total_seconds() * _OVERDUE, 1.0)
        bases = {trainer.uid: trainer.base for trainer in self._base.trainers}
        base = bases.get(active.trainer_uid)
        job = QueuedJob(
            active.uid,
            active.tenant,
            active.start_time or self._base.now,
            Alone(active.needs) if base is None else Shared(base, 0, 0),
            priority=active.priority,
            seconds=work,
            preemption_count=active.preemption_count,
        )
        share = self._seat_share() if active.trainer_uid else active.needs.share_of(self._base.capacity)
        self._run(_Run(job, share, active, 0.0, work, work))

    def _run(self, run: _Run) -> None:
        self._runs[run.job.uid] = run
        self._held = self._held.plus(run.active.needs)
        self._used.hold(run.job.tenant, run.share, self.now)
        heapq.heappush(self._stops, (run.stop, next(self._count), run.job.uid))

    def _stop(self, uid: str) -> Happened:
        """It has ended, or has given way and waits again."""
        run = self._runs.pop(uid)
        self._held = self._held.minus(run.active.needs)
        self._used.hold(run.job.tenant, -run.share, self.now)
        if run.active.trainer_uid:
            self.fleet.leave(run.active.trainer_uid, uid, self.now)
        done = max(0.0, self.now - run.begin)
        if done >= run.work or not run.active.leaving:
            return Happened(Happening.ENDED, uid, self.now)
        saved = done // self._pace.checkpoint * self._pace.checkpoint if self._pace.checkpoint else done
        left = 1 - saved / run.work
        again = replace(
            run.job,
            queue_time=self.time(self.now),
            seconds=None if run.job.seconds is None else run.job.seconds * left,
            budget_needs={meter: amount * left for meter, amount in run.job.budget_needs.items()},
            preemption_count=run.job.preemption_count + 1,
        )
        self.add(again, run.work - saved)
        return Happened(Happening.PREEMPTED, uid, self.now, done - saved)

    def _ask_to_leave(self, uid: str) -> None:
        run = self._runs[uid]
        run.active = replace(run.active, leaving=True, can_be_preempted=False)
        run.stop = min(run.stop, self.now + self._pace.leave)
        heapq.heappush(self._stops, (run.stop, next(self._count), uid))

    def _is_current(self, entry: tuple[float, int, str]) -> bool:
        run = self._runs.get(entry[2])
        return run is not None and run.stop == entry[0]

    def _active(self, run: _Run) -> ActiveJob:
        """As it is now: when it last saved, and when it ends as far as is known."""
        done, saves = self.now - run.begin, self._pace.checkpoint
        if saves and done >= saves and (saved := done // saves) > run.saved:
            run.saved = saved
            run.active = replace(run.active, saved_time=self.time(run.begin + saved * saves))
        if self._pace.known and done >= self._pace.known and not run.is_known:
            run.is_known = True
            run.active = replace(run.active, expected_end=self.time(run.begin + run.work))
        return run.active

    def _expected(self, job: QueuedJob) -> float:
        return job.seconds if job.seconds is not None else self._base.policy.default_job_seconds

    def _share(self, job: QueuedJob) -> float:
        return job.work.needs.share_of(self._base.capacity) if isinstance(job.work, Alone) else self._seat_share()

    def _seat_share(self) -> float:
        return self._base.trainer_needs.share_of(self._base.capacity) / self._base.options.max_jobs

    def _tenants(self) -> Mapping[str, TenantShare]:
        known = self._shares.keys() | {run.job.tenant for run in self._runs.values()}
        return {
            tenant: replace(self._shares.get(tenant, _UNKNOWN), past_use=self._used.of(tenant, self.now))
            for tenant in known | {job.tenant for job in self._queued.values()}
        }

    def _spend(self, job: QueuedJob) -> None:
        share = self._shares.get(job.tenant)
        if share is None or not share.budget_left:
            return
        left = {meter: room - job.budget_needs.get(meter, 0.0) for meter, room in share.budget_left.items()}
        self._shares[job.tenant] = replace(share, budget_left=left)

    def _renew_budgets(self) -> None:
        """A new period begins with the whole of the tenant's least hard limit."""
        if not self._has_budgets:
            return
        now = self.time(self.now)
        for tenant, share in self._shares.items():
            over = [meter for meter, end in share.budget_ends.items() if end <= now]
            if over:
                left = dict(share.budget_left) | {meter: _limit(share, meter) for meter in over}
                ends = {meter: end for meter, end in share.budget_ends.items() if meter not in over}
                self._shares[tenant] = replace(share, budget_left=left, budget_ends=ends)


_UNKNOWN = TenantShare()
_OVERDUE = 0.1
"""A job that has run past its expected end is taken to go on for so much of the time that it has run."""


def _limit(share: TenantShare, meter: BudgetMeter) -> float:
    limits = (one.hard_limit for one in share.quota.budgets if one.meter is meter and one.hard_limit is not None)
    return float(min(limits, default=0))
