"""The queue, the trainers and the cluster at one moment: all that a decision depends on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from trellis.server.domain.trainer import Room, TrainerBase
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.capacity import Resources


@dataclass(frozen=True, slots=True)
class Alone:
    """A job that runs by itself, and reserves this much."""

    needs: Resources


@dataclass(frozen=True, slots=True)
class Shared:
    """A job that runs on a shared trainer, beside others; the trainer has reserved what it needs."""

    base: TrainerBase
    rank_rows: int
    """Of the trainer's adapter bank."""
    line_tokens: int
    """Of its longest line, at most."""


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
    unseen_rows: tuple[int, ...] = ()
    """The rank rows of each of them that its room does not count yet."""

    @property
    def is_idle(self) -> bool:
        """Whether it has no job."""
        return self.open_jobs == 0


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

    @property
    def trainer_needs(self) -> Resources:
        """What a new trainer reserves, with all its workers."""
        options = self.options
        return Resources(options.cpus * options.workers, options.gpus * options.workers)

    @property
    def warm(self) -> frozenset[TrainerBase]:
        """The bases that have a trainer which takes jobs."""
        return frozenset(trainer.base for trainer in self.trainers if trainer.takes_jobs)

    def waits_since(self, job: QueuedJob) -> datetime:
        """Since when the job has waited for capacity: not while its base had a trainer."""
        ended = None if isinstance(job.work, Alone) else self.last_ends.get(job.work.base)
        return max(job.since, ended or job.since)
