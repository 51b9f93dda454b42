"""What every control loop works with."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from trellis.server.app.hosts import EngineHost, HostEnds, JobCluster
from trellis.server.app.job_needs import JobNeeds
from trellis.server.app.ports import Claim, Clock, Ids, Objects, UnitOfWorkFactory
from trellis.server.domain.prices import FREE, Prices
from trellis.server.domain.retry import RetryPolicy
from trellis.server.domain.stop import Graces
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.snapshot import SchedulerOptions

DUTY = timedelta(seconds=10)
"""So long after its last sign of life another server takes over what one server at a time does."""


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """How the loops behave."""

    worker_endpoint: str
    """`host:port` at which jobs reach the server, after `https://` where TLS is spoken."""
    server_secret: bytes
    """What attempts' tokens are derived from."""
    installation: str
    """Part of every run's name, so that two installations on one cluster leave each other's runs alone."""
    python: str
    """The interpreter that runs jobs on the cluster."""
    capacity_cpus: float
    capacity_gpus: float
    job_cpus: float
    """What each job reserves."""
    job_gpus: float
    tenant_running_limit: int
    lease: timedelta = timedelta(seconds=30)
    """Without a report for so long, an attempt is taken for dead."""
    start_timeout: timedelta = timedelta(minutes=5)
    """So long an attempt may take from admission to its first call."""
    graces: Graces = Graces()
    """So long a process that was asked to stop may take before it is ended."""
    step_timeout: timedelta = timedelta(minutes=30)
    """So long an attempt may train without making a step before it is taken to hang."""
    phase_timeout: timedelta = timedelta(hours=3)
    """So long it may stay in any other phase, such as loading the base or evaluating."""
    trainers: TrainerOptions = TrainerOptions()
    scheduler: SchedulerOptions = SchedulerOptions()
    upload_lifetime: timedelta = timedelta(days=1)
    """So long an unfinished upload is kept after its last byte."""
    always_on: tuple[str, ...] = ()
    """Ids of base models whose engines run even when nothing is deployed."""
    retry: RetryPolicy = RetryPolicy()
    prices: Prices = FREE
    worker_ca: str = ""
    """The certificates that jobs trust when they call the server, as PEM; what gRPC trusts by itself when empty."""
    environment: tuple[tuple[str, str], ...] = ()
    """Further variables of jobs' processes."""
    duty: timedelta = DUTY
    """For so long this server acquires what one server at a time does, each time anew."""

    @property
    def needs(self) -> JobNeeds:
        """What jobs and trainers reserve of the capacity."""
        capacity = Resources(self.capacity_cpus, self.capacity_gpus)
        return JobNeeds(capacity, Resources(self.job_cpus, self.job_gpus), self.trainers)


@dataclass(frozen=True, slots=True)
class ControlContext:
    """The world as the loops see it."""

    units: UnitOfWorkFactory
    clock: Clock
    ids: Ids
    cluster: JobCluster
    engines: EngineHost
    objects: Objects
    settings: ControlSettings
    apart: JobCluster | None = None
    """Where attempts run that get nodes of their own; None where they are on `cluster` too."""
    ends: HostEnds | None = None
    """What ended the hosts of shared trainers; None where nobody says."""

    @property
    def attempts(self) -> JobCluster:
        """Where attempts run that are not on a trainer."""
        return self.apart or self.cluster

    def claim(self, lease: timedelta) -> Claim:
        """A fresh claim that lasts so long from now on."""
        return Claim(self.ids.new_secret("claim"), self.now() + lease)

    def now(self) -> datetime:
        """The time."""
        return self.clock.now()
