"""The queue, the trainers and the cluster at one moment: all that a decision depends on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from trellis.server.domain.quota import UNLIMITED, BudgetMeter, Quota
from trellis.server.domain.trainer import Room, TrainerBase
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.capacity import Resources


@dataclass(frozen=True, slots=True)
class Alone:
    """A job that runs by itself, and reserves this much."""

    needs: Resources
    workers: int = 1
    """Over which that is spread; with fewer it needs less, and takes longer."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A job that runs on a shared trainer, beside others; the trainer has reserved what it needs."""

    base: TrainerBase
    rank: int
    """Of its adapter."""
    line_tokens: int
    """Of its longest line, at most."""
    adapted_share: float = 1.0
    """See TuningJob."""

    @property
    def rank_rows(self) -> float:
        """What it takes of the trainer's adapter bank; one on all linears takes its rank."""
        return self.rank * self.adapted_share


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job that waits."""

    uid: str
    tenant: str
    create_time: datetime
    work: Alone | Shared
    report_ready: bool = True
    """Whether the reports on its datasets are there."""
    retry_time: datetime | None = None
    """Not to be admitted before."""
    queue_time: datetime | None = None
    """Since when it waits, if it has run before; None for since it was made."""
    priority: int = 0
    """Within what its tenant's quota allows."""
    seconds: float | None = None
    """How long it is expected to run from here on; None where nothing is known."""
    budget_needs: Mapping[BudgetMeter, float] = field(default_factory=dict)
    """What it still holds of each budget, in seconds or tokens."""
    preemption_count: int = 0

    @property
    def since(self) -> datetime:
        """Since when it might have run."""
        return max(time for time in (self.create_time, self.queue_time, self.retry_time) if time is not None)


@dataclass(frozen=True, slots=True)
class ActiveJob:
    """A job that runs, or is being started."""

    uid: str
    tenant: str
    needs: Resources
    """Nothing if it runs on a trainer."""
    trainer_uid: str = ""
    """Of the trainer that it runs on."""
    priority: int = 0
    start_time: datetime | None = None
    """When its present attempt was admitted."""
    saved_time: datetime | None = None
    """When it last saved a checkpoint in this attempt: what it did since is lost if it is preempted without asking."""
    expected_end: datetime | None = None
    """By its pace so far, or by its estimate."""
    preemption_count: int = 0
    can_be_preempted: bool = False
    """Whether it runs, and is not being stopped already."""
    leaving: bool = False
    """Whether it was asked to give way."""


@dataclass(frozen=True, slots=True)
class PresentTrainer:
    """A shared trainer that is not over; it holds its capacity until then."""

    uid: str
    base: TrainerBase
    needs: Resources
    create_time: datetime
    takes_jobs: bool = True
    """Not when it was told to leave."""
    room: Room | None = None
    """As it said; None until its base is loaded."""
    job_count: int = 0
    """Jobs that it had then."""
    open_jobs: int = 0
    """Jobs that were given to it and go on."""
    unseen_rows: tuple[float, ...] = ()
    """The rank rows of each of them that its room does not count yet."""

    @property
    def is_idle(self) -> bool:
        """Whether it has no job."""
        return self.open_jobs == 0


@dataclass(frozen=True, slots=True)
class TenantShare:
    """What a tenant may have, and has had."""

    weight: float = 1.0
    """Of 2: twice the share of one of 1."""
    quota: Quota = UNLIMITED
    cohort: str = ""
    past_use: float = 0.0
    """Its dominant share of the platform times the seconds that it had it, decayed with the age of each second (half after
    SchedulerOptions.half_life_seconds), as of now."""
    budget_left: Mapping[BudgetMeter, float] = field(default_factory=dict)
    """Of each hard budget, in seconds or tokens, the least over its periods: not settled, and not held for jobs that run."""
    budget_ends: Mapping[BudgetMeter, datetime] = field(default_factory=dict)
    """When the period of the tightest one ends."""
    over_soft_budget: bool = False


_NO_LIMITS = TenantShare()


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """How the scheduler weighs things."""

    half_life_seconds: float = 24 * 3600.0
    """After so long, use counts half against a tenant."""
    max_preemptions: int = 3
    """A job gives way so many times at the most, then it is left alone."""
    least_run_seconds: float = 300.0
    """So long a job runs at least before it is preempted."""
    default_job_seconds: float = 3600.0
    """How long a job is taken to run of which nothing is known."""

    def __post_init__(self) -> None:
        """Raises ValueError for what can't be."""
        for name in ("half_life_seconds", "default_job_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name):g}.")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What `decide` looks at."""

    queued: tuple[QueuedJob, ...]
    active: tuple[ActiveJob, ...]
    capacity: Resources
    """All there is, free or not."""
    tenant_running_limit: int
    """So many jobs of one tenant may run at once."""
    now: datetime
    trainers: tuple[PresentTrainer, ...] = ()
    options: TrainerOptions = TrainerOptions()
    held: Resources = Resources()
    """What the export that is being made takes of the capacity."""
    last_ends: Mapping[TrainerBase, datetime] = field(default_factory=dict)
    """When the newest trainer of a base ended, of those that had one."""
    tenants: Mapping[str, TenantShare] = field(default_factory=dict)
    """By id; one that is missing has TenantShare()."""
    reservations: Mapping[str, Resources] = field(default_factory=dict)
    """By the uid of a queued job: what is kept free for it, as others were preempted for it."""
    policy: SchedulerOptions = SchedulerOptions()

    @property
    def trainer_needs(self) -> Resources:
        """What a new trainer reserves, with all its workers."""
        options = self.options
        return Resources(options.cpus * options.workers, options.gpus * options.workers)

    def share_of(self, tenant: str) -> TenantShare:
        """The tenant's."""
        return self.tenants.get(tenant, _NO_LIMITS)

    def accelerators(self, needs: Resources) -> float:
        """How many accelerators that is: GPUs where there are any, else CPUs."""
        return needs.gpus if self.capacity.gpus else needs.cpus

    @property
    def seat(self) -> float:
        """Accelerators that a job on a shared trainer counts for."""
        return self.accelerators(self.trainer_needs) / self.options.max_jobs

    @property
    def warm(self) -> frozenset[TrainerBase]:
        """The bases that have a trainer which takes jobs."""
        return frozenset(trainer.base for trainer in self.trainers if trainer.takes_jobs)

    def waits_since(self, job: QueuedJob) -> datetime:
        """Since when the job has waited for capacity: not while its base had a trainer."""
        ended = None if isinstance(job.work, Alone) else self.last_ends.get(job.work.base)
        return max(job.since, ended or job.since)
