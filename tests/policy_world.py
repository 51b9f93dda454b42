"""A small world for the scheduler's policy: what is decided is done, jobs run and end, those that give way come back."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from trellis.server.domain.quota import BudgetMeter
from trellis.server.domain.trainer import TrainerBase
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.decisions import Decisions
from trellis.server.scheduler.policy import decide
from trellis.server.scheduler.snapshot import (
    ActiveJob,
    Alone,
    PresentTrainer,
    QueuedJob,
    SchedulerOptions,
    Shared,
    Snapshot,
    TenantShare,
)

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
METER = BudgetMeter.ACCELERATOR_SECONDS


def base(name: str) -> TrainerBase:
    return TrainerBase(f"baseModels/{name}", name, "r1", "0" * 64, "auto")


@dataclass(slots=True)
class Run:
    """A job that runs."""

    job: QueuedJob
    start: datetime
    left: float
    """Seconds until it ends."""
    trainer: str = ""
    leaves_in: int | None = None
    """Seconds until it has given way, once it was asked."""


@dataclass
class World:
    """What control loops and jobs do, second by second."""

    capacity: Resources
    tenants: dict[str, TenantShare] = field(default_factory=dict)
    limit: int = 1000
    options: TrainerOptions = TrainerOptions()
    policy: SchedulerOptions = SchedulerOptions(least_run_seconds=2.0)
    grace: int = 1
    """Seconds that a job takes to give way."""
    budgets: dict[str, float] = field(default_factory=dict)
    """Of each tenant, for good."""
    takes: dict[str, float] = field(default_factory=dict)
    """By uid: the seconds that the job still runs, whatever was estimated."""
    queued: dict[str, QueuedJob] = field(default_factory=dict)
    running: dict[str, Run] = field(default_factory=dict)
    trainers: dict[str, PresentTrainer] = field(default_factory=dict)
    last_ends: dict[TrainerBase, datetime] = field(default_factory=dict)
    reservations: Mapping[str, Resources] = field(default_factory=dict)
    settled: Counter[str] = field(default_factory=Counter)
    now: datetime = START
    made: int = 0
    preempted: Counter[str] = field(default_factory=Counter)
    started: dict[str, datetime] = field(default_factory=dict)
    """When each job first ran."""
    awaited: set[str] = field(default_factory=set)
    """Jobs for which others leave."""

    def submit(self, job: QueuedJob, seconds: float) -> None:
        self.queued[job.uid] = job
        self.takes[job.uid] = seconds

    def step(self) -> Decisions:
        """Decide, do it, and let a second pass."""
        decisions = decide(self.snapshot())
        self._apply(decisions)
        self.check(decisions)
        self._pass()
        return decisions

    def snapshot(self) -> Snapshot:
        trainers = [replace(t, open_jobs=self._jobs_on(uid)) for uid, t in self.trainers.items()]
        shares = {
            tenant: replace(share, budget_left={METER: self.budget_left(tenant)} if tenant in self.budgets else {})
            for tenant, share in self.tenants.items()
        }
        return Snapshot(
            queued=tuple(self.queued.values()),
            active=tuple(self._active(run) for run in self.running.values()),
            capacity=self.capacity,
            tenant_running_limit=self.limit,
            now=self.now,
            trainers=tuple(trainers),
            options=self.options,
            last_ends=dict(self.last_ends),
            tenants=shares,
            reservations=self.reservations,
            policy=self.policy,
        )

    def budget_left(self, tenant: str) -> float:
        held = sum(run.job.budget_needs.get(METER, 0.0) for run in self.running.values() if run.job.tenant == tenant)
        return self.budgets[tenant] - self.settled[tenant] - held

    def used(self, tenant: str) -> float:
        """Accelerators, a seat's part of a trainer's."""
        seen = self.snapshot()
        runs = [run for run in self.running.values() if run.job.tenant == tenant]
        return sum(seen.seat if run.trainer else seen.accelerators(needs_of(run.job)) for run in runs)

    def free(self) -> Resources:
        left = self.capacity
        for needs in [needs_of(run.job) for run in self.running.values()] + [t.needs for t in self.trainers.values()]:
            left = left.minus(needs)
        return left

    def check(self, decisions: Decisions) -> None:
        """Nothing is ever passed, and what is kept by name is there when those have left that leave."""
        assert Resources().fits_into(self.free())
        for tenant, count in Counter(run.job.tenant for run in self.running.values()).items():
            quota = self.share(tenant).quota
            assert count <= (self.limit if quota.running_jobs is None else quota.running_jobs)
        for tenant in self.budgets:
            assert self.budget_left(tenant) >= -1e-6
        self._check_quotas()
        coming = self.free()
        for run in self.running.values():
            if run.leaves_in is not None:
                coming = coming.plus(needs_of(run.job))
        for trainer in self.trainers.values():
            if not trainer.takes_jobs:
                coming = coming.plus(trainer.needs)
        for kept in decisions.reserve.values():
            coming = coming.minus(kept)
        assert not decisions.reserve or Resources().fits_into(coming)

    def share(self, tenant: str) -> TenantShare:
        return self.tenants.get(tenant, TenantShare())

    def _check_quotas(self) -> None:
        cohorts: defaultdict[str, float] = defaultdict(float)
        for tenant, share in self.tenants.items():
            nominal, used = share.quota.accelerators, self.used(tenant)
            if nominal is None:
                continue
            borrowing = share.quota.borrowing_limit if share.cohort else 0
            assert borrowing is None or used <= nominal + borrowing + 1e-6
            lending = share.quota.lending_limit
            lent = nominal if lending is None else min(nominal, lending)
            if share.cohort:
                cohorts[share.cohort] += max(0.0, used - (nominal - lent)) - lent
        assert all(beyond <= 1e-6 for beyond in cohorts.values())

    def _active(self, run: Run) -> ActiveJob:
        job = run.job
        return ActiveJob(
            job.uid,
            job.tenant,
            needs_of(job),
            run.trainer,
            priority=job.priority,
            start_time=run.start,
            expected_end=None if job.seconds is None else max(self.now, run.start + timedelta(seconds=job.seconds)),
            preemption_count=self.preempted[job.uid],
            can_be_preempted=run.leaves_in is None,
            leaving=run.leaves_in is not None,
        )

    def _jobs_on(self, uid: str) -> int:
        return sum(run.trainer == uid for run in self.running.values())

    def _apply(self, decisions: Decisions) -> None:
        keys = {}
        for new in decisions.start:
            keys[new.key] = uid = f"t{self.made:04}"
            self.made += 1
            self.trainers[uid] = PresentTrainer(uid, new.base, self.snapshot().trainer_needs, self.now)
        for admission in decisions.admit:
            job = self.queued.pop(admission.uid)
            trainer = keys.get(admission.trainer, admission.trainer)
            if trainer:
                assert isinstance(job.work, Shared)
                assert self.trainers[trainer].takes_jobs
                assert self.trainers[trainer].base == job.work.base
                assert self._jobs_on(trainer) < self.options.max_jobs
            self.running[job.uid] = Run(job, self.now, self.takes[job.uid], trainer)
            self.started.setdefault(job.uid, self.now)
            self.awaited.discard(job.uid)
        for uid in decisions.drain:
            self.trainers[uid] = replace(self.trainers[uid], takes_jobs=False)
        for one in decisions.preempt:
            assert one.beneficiary in self.queued
            assert self.running[one.victim].leaves_in is None
            self.running[one.victim].leaves_in = self.grace
            self.awaited.add(one.beneficiary)
        self.reservations = decisions.reserve
        assert self.awaited == decisions.reserve.keys(), "who others leave for is kept what they free"
        leaving = any(run.leaves_in is not None for run in self.running.values())
        assert leaving or not self.awaited, "all have left, and those for whom they did don't start"

    def _pass(self) -> None:
        self.now += timedelta(seconds=1)
        for uid, run in list(self.running.items()):
            run.left -= 1
            if run.leaves_in is not None:
                run.leaves_in -= 1
            if run.left <= 0 or run.leaves_in == 0:
                del self.running[uid]
                self._settle(run)
        for uid, trainer in list(self.trainers.items()):
            if not self._jobs_on(uid) and not trainer.takes_jobs:
                del self.trainers[uid]
                self.last_ends[trainer.base] = self.now

    def _settle(self, run: Run) -> None:
        """What it used of its hold is settled, and what is left released, if it is over."""
        job, passed = run.job, (self.now - run.start).total_seconds()
        held = job.budget_needs.get(METER, 0.0)
        rate = held / (passed + max(0.0, run.left))
        self.settled[job.tenant] += rate * passed  # type: ignore[assignment]
        if run.left > 0:
            self.preempted[job.uid] += 1
            self.takes[job.uid] = run.left
            seconds = None if job.seconds is None else max(0.0, job.seconds - passed)
            self.queued[job.uid] = replace(
                job,
                queue_time=self.now,
                seconds=seconds,
                budget_needs={meter: amount - rate * passed for meter, amount in job.budget_needs.items()},
                preemption_count=self.preempted[job.uid],
            )


def needs_of(job: QueuedJob) -> Resources:
    return job.work.needs if isinstance(job.work, Alone) else Resources()
