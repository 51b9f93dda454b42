"""A trace, played through `decide`: arrivals, runs, ends and preemptions, event by event."""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from trellis.server.domain.trainer import TrainerBase
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.domain.tuning_job import QueueCode
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.policy import Decisions, decide
from trellis.server.scheduler.snapshot import Alone, QueuedJob, SchedulerOptions, Shared, Snapshot
from trellis.server.scheduler.timeline import Happened, Happening, Pace, Timeline
from trellis.server.simulator.trace import Trace, TraceJob

ORIGIN = datetime(2026, 1, 1, tzinfo=UTC)
"""When the first job of every simulation could come."""


_COMPETING = {QueueCode.FAIR_SHARE, QueueCode.RESERVED, QueueCode.CAPACITY, QueueCode.PREEMPTING}
"""What jobs wait for that weights decide on; quotas, budgets and limits come before."""


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """What a trace does not say; times are in seconds of the simulated platform."""

    round: float = 120.0
    """Between two decisions, at least."""
    look: float = 600.0
    """After so long, a decision is made though nothing has happened: some depend on the time alone."""
    patience: float = 30 * 24 * 3600.0
    """With jobs that wait and nothing that happens, the simulation is given up after so long."""
    pace: Pace = Pace(start=30.0, leave=30.0, load=60.0, checkpoint=600.0, known=300.0)
    policy: SchedulerOptions = SchedulerOptions()


@dataclass(slots=True)
class JobRecord:
    """How it went for a job; times are in seconds since the beginning."""

    job: TraceJob
    starts: list[float] = field(default_factory=list)
    end: float | None = None
    lost: float = 0.0
    """Seconds of work that preemptions cost."""
    overtook: bool = False
    """Whether it started before an older job of its tenant with no lower priority, which waited on."""
    refused: bool = False

    @property
    def wait(self) -> float | None:
        """From submit to its first start; None while it has none."""
        return self.starts[0] - self.job.submit if self.starts else None


@dataclass(slots=True)
class Turnout:
    """What a tenant had while its jobs waited for capacity, in dominant share times seconds, and what it was due."""

    had: float = 0.0
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The platform at one decision."""

    at: float
    used: float
    """The part of the accelerators that jobs and trainers hold."""
    running: int
    waiting: int


@dataclass(slots=True)
class Record:
    """All that a simulation saw."""

    trace: Trace
    options: SimulationOptions
    jobs: dict[str, JobRecord]
    samples: list[Sample] = field(default_factory=list)
    turnouts: dict[str, Turnout] = field(default_factory=lambda: defaultdict(Turnout))
    decision_seconds: list[float] = field(default_factory=list)
    """Of this machine's time."""
    used_seconds: float = 0.0
    """Part of the accelerators in use, over simulated time."""
    end: float = 0.0


Watch = Callable[[Snapshot, Decisions], None]
"""Sees every decision."""


class Simulation:
    """One run; `clock` measures decisions, in seconds of this machine."""

    def __init__(
        self,
        trace: Trace,
        options: SimulationOptions,
        clock: Callable[[], float],
        progress: Callable[[float], None] = lambda _: None,
        watch: Watch = lambda _snapshot, _decisions: None,
    ) -> None:
        self._trace, self._options, self._clock = trace, options, clock
        self._progress, self._watch = progress, watch
        self._coming = deque(trace.jobs)
        self._timeline = Timeline(_empty(trace, options), options.pace)
        self._jobs = {job.job: job for job in trace.jobs}
        self._weights = {tenant.tenant: tenant.weight for tenant in trace.tenants}
        self._ended = 0
        self._decided = -math.inf
        self._stirred = 0.0
        """When something last happened."""
        self._is_dirty = False
        self._seen: Sample | None = None
        self._backlog: Mapping[str, float] = {}
        """The shares of the tenants whose jobs wait for capacity, as of the last decision."""
        self.record = Record(trace, options, {job.job: JobRecord(job) for job in trace.jobs})

    def run(self) -> Record:
        """Until every job has ended, or nothing moves any more."""
        while self._coming or self._timeline.queued or self._timeline.running:
            at = self._next()
            if at is None:
                break  # what is left waits for ever
            self._go_to(at)
            if self._timeline.queued and self._timeline.now >= self._due():
                self._decide()
        self.record.end = self._timeline.now
        return self.record

    def _next(self) -> float | None:
        """The next moment at which something is to be done."""
        timeline, options = self._timeline, self._options
        times = [self._coming[0].submit] if self._coming else []
        happens = timeline.next()
        times += [] if happens is None else [happens]
        if timeline.queued:
            if not times and timeline.now - self._stirred > options.patience:
                return None
            times.append(self._due())
        return max(timeline.now, min(times)) if times else None

    def _go_to(self, at: float) -> None:
        self._measure(at)
        for happened in self._timeline.advance(at):
            self._note(happened)
        while self._coming and self._coming[0].submit <= at:
            self._submit(self._coming.popleft())

    def _due(self) -> float:
        """When the next decision is to be made."""
        return self._decided + (self._options.round if self._is_dirty else self._options.look)

    def _submit(self, job: TraceJob) -> None:
        work: Alone | Shared = Alone(Resources(0.0, job.accelerators), max(1, round(job.accelerators)))
        if job.base:
            work = Shared(base_of(job.base), job.rank, job.context_length)
        estimate = job.seconds if job.estimate is None else job.estimate
        at = ORIGIN + timedelta(seconds=job.submit)
        queued = QueuedJob(job.job, job.tenant, at, work, priority=job.priority, seconds=estimate)
        self._timeline.add(queued, job.seconds)
        self._stir()

    def _stir(self) -> None:
        self._is_dirty, self._stirred = True, self._timeline.now

    def _note(self, happened: Happened) -> None:
        self._stir()
        record = self.record.jobs[happened.uid]
        match happened.what:
            case Happening.STARTED:
                record.starts.append(happened.at)
            case Happening.PREEMPTED:
                record.lost += happened.lost
            case Happening.REFUSED:
                record.refused = True
            case Happening.ENDED:
                record.end = happened.at
                self._ended += 1
                self._progress(self._ended / len(self._jobs))

    def _decide(self) -> None:
        snapshot = self._timeline.snapshot()
        began = self._clock()
        decisions = decide(snapshot)
        self.record.decision_seconds.append(self._clock() - began)
        self._watch(snapshot, decisions)
        self._is_dirty, self._decided = False, self._timeline.now
        for happened in self._timeline.apply(decisions):
            self._note(happened)
        for uid, reason in decisions.waiting.items():
            if reason.code is QueueCode.NEVER_FITS:  # the platform refuses it at submit
                self._note(self._timeline.refuse(uid))
        if decisions.preempt:
            self._stir()
        self._note_overtaking(decisions)
        self._sample(decisions)

    def _note_overtaking(self, decisions: Decisions) -> None:
        oldest: dict[str, tuple[int, float]] = {}
        for uid in self._timeline.queued:
            job = self._jobs[uid]
            rank = (-job.priority, job.submit)
            oldest[job.tenant] = min(rank, oldest.get(job.tenant, rank))
        for admission in decisions.admit:
            job = self._jobs[admission.uid]
            if job.tenant in oldest and oldest[job.tenant] < (-job.priority, job.submit):
                self.record.jobs[job.job].overtook = True

    def _sample(self, decisions: Decisions) -> None:
        timeline = self._timeline
        used = timeline.held().gpus / self._trace.platform.accelerators
        self._seen = Sample(timeline.now, used, timeline.running, len(timeline.queued))
        self.record.samples.append(self._seen)
        waiting = {self._jobs[uid].tenant for uid, reason in decisions.waiting.items() if reason.code in _COMPETING}
        shares = timeline.shares()
        self._backlog = {tenant: shares.get(tenant, 0.0) for tenant in waiting}

    def _measure(self, to: float) -> None:
        """Add up what was in use until this moment."""
        passed = to - self._timeline.now
        if self._seen is None or passed <= 0:
            return
        self.record.used_seconds += passed * self._timeline.held().gpus / self._trace.platform.accelerators
        total, weights = sum(self._backlog.values()), sum(self._weights[tenant] for tenant in self._backlog)
        if len(self._backlog) < 2 or total <= 0:
            return
        for tenant, share in self._backlog.items():
            turnout = self.record.turnouts[tenant]
            turnout.had += share * passed
            turnout.due += total * self._weights[tenant] / weights * passed


def base_of(name: str) -> TrainerBase:
    """The base model of a trace."""
    return TrainerBase(f"baseModels/{name}", name, "simulated", "0" * 64, "auto")


def _empty(trace: Trace, options: SimulationOptions) -> Snapshot:
    platform = trace.platform
    trainers = TrainerOptions(
        cpus=0.0, gpus=platform.trainer_accelerators, workers=1, max_jobs=platform.trainer_jobs, max_replicas=1_000
    )
    return Snapshot(
        queued=(),
        active=(),
        capacity=Resources(0.0, platform.accelerators),
        tenant_running_limit=platform.tenant_running_limit,
        now=ORIGIN,
        options=trainers,
        tenants={tenant.tenant: tenant.share for tenant in trace.tenants},
        policy=options.policy,
    )
