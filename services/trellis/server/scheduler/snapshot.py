"""The queue and the cluster at one moment: all that a decision depends on."""

from dataclasses import dataclass
from datetime import datetime

from trellis.server.scheduler.capacity import Resources


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job that waits."""

    uid: str
    tenant: str
    create_time: datetime
    needs: Resources
    report_ready: bool = True
    """Whether the reports on its datasets are there."""
    retry_time: datetime | None = None
    """Not to be admitted before."""


@dataclass(frozen=True, slots=True)
class ActiveJob:
    """A job that holds capacity."""

    uid: str
    tenant: str
    needs: Resources


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What `decide` looks at."""

    queued: tuple[QueuedJob, ...]
    active: tuple[ActiveJob, ...]
    capacity: Resources
    """All there is, free or not."""
    tenant_running_limit: int
    """So many jobs of one tenant may hold capacity at once."""
    now: datetime
