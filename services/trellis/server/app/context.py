"""What every use case works with."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from trellis.objects import ObjectStore
from trellis.server.app.board_view import BoardView
from trellis.server.app.call_gate import CallGate
from trellis.server.app.call_records import CallRecords, call_records
from trellis.server.app.hosts import EngineHost
from trellis.server.app.identities import TokenVerifier
from trellis.server.app.job_needs import JobNeeds
from trellis.server.app.key_lookup import KeyLookup, key_lookup
from trellis.server.app.key_uses import KeyUses
from trellis.server.app.lookout import Lookout
from trellis.server.app.model_lookup import ModelLookup, model_lookup
from trellis.server.app.open_calls import OpenCalls
from trellis.server.app.outlooks import Outlooks
from trellis.server.app.ports import Clock, Ids, UnitOfWorkFactory
from trellis.server.app.refusals import Refusals
from trellis.server.app.report_pace import ReportPace
from trellis.server.app.together import Together
from trellis.server.domain.marks import JobMark, TrainerMark
from trellis.server.domain.prices import FREE, Prices
from trellis.server.domain.retry import RetryPolicy
from trellis.server.domain.stop import Graces
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.capacity import Resources


@dataclass(frozen=True, slots=True)
class AppSettings:
    """How the use cases behave."""

    max_upload_bytes: int = 10 * 1024**3
    """The largest file of a dataset."""
    upload_part_bytes: int = 8 * 1024**2
    """So much of an upload is stored at a time."""
    max_adapter_bytes: int = 4 * 1024**3
    """The largest adapter that may be imported, all files together."""
    capacity_cpus: float = 1.0
    """CPUs that jobs and shared trainers may have together."""
    capacity_gpus: float = 0.0
    """GPUs that they may have together."""
    job_cpus: float = 1.0
    """What each worker reserves of a job that runs by itself; the same as the control loops'."""
    job_gpus: float = 0.0
    tenant_running_limit: int = 4
    """Jobs that a tenant may run at once whose quota does not say; the same as the control loops'."""
    lease: timedelta = timedelta(seconds=30)
    """Without a word for so long, an attempt or a trainer is taken for dead; the same as the control loops'."""
    start_timeout: timedelta = timedelta(minutes=5)
    """So long an attempt may take to its first call; the same as the control loops'."""
    server_secret: bytes = b""
    """What the tokens of attempts are derived from, which trainers are given."""
    trainers: TrainerOptions = TrainerOptions()
    retry: RetryPolicy = RetryPolicy()
    prices: Prices = FREE
    graces: Graces = Graces()
    """How long attempts that are asked to stop may take; the same as the control loops'."""

    @property
    def needs(self) -> JobNeeds:
        """What jobs and trainers reserve of the capacity."""
        capacity = Resources(self.capacity_cpus, self.capacity_gpus)
        return JobNeeds(capacity, Resources(self.job_cpus, self.job_gpus), self.trainers)


@dataclass(frozen=True, slots=True)
class Context:
    """The world as the use cases see it."""

    units: UnitOfWorkFactory
    clock: Clock
    ids: Ids
    store: ObjectStore
    """Blocks; called in threads."""
    engines: EngineHost
    wait: Callable[[], Awaitable[None]]
    """Lets a little time pass between two looks at the database; raises Unavailable when the server is stopping."""
    settings: AppSettings = AppSettings()
    claim_wait: Callable[[], Awaitable[None]] | None = None
    """The same for trainers that wait for jobs, who are not to notice it; None for `wait`."""
    tokens: TokenVerifier | None = None
    """Verifies the tokens of identity providers; None where none is trusted."""
    board: BoardView = field(default_factory=BoardView)
    """Jobs' places in the queue."""
    outlooks: Outlooks | None = None
    """Explains queued jobs; None where nobody schedules."""
    key_uses: KeyUses = field(default_factory=KeyUses)
    """The uses of API keys that are still to be written down."""
    pace: ReportPace = field(default_factory=ReportPace)
    """How often running jobs report."""
    gate: CallGate = field(default_factory=CallGate)
    """What calls of models pass."""
    open_calls: OpenCalls = field(default_factory=OpenCalls, repr=False)
    """Calls of models that have not ended."""
    keys: KeyLookup = field(init=False, repr=False)
    """Where the keys of calls are found."""
    models: ModelLookup = field(init=False, repr=False)
    """Where the models are found that calls name."""
    call_records: CallRecords = field(init=False, repr=False)
    """What writes down what calls of models took, before their answers end."""
    jobs: Lookout[JobMark] = field(init=False, repr=False)
    """Where streams wait for their jobs to go on."""
    together: Together = field(default_factory=Together, repr=False)
    """What hundreds of streams of one job read when it goes on."""
    trainers: Lookout[TrainerMark] = field(init=False, repr=False)
    """Where trainers wait to be given attempts."""
    refusals: Refusals = field(init=False, repr=False)
    """What writes refused calls into the audit trail, beside their answers."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "jobs", Lookout(self._job_marks, self.wait, self.clock))
        object.__setattr__(self, "trainers", Lookout(self._trainer_marks, self.claim_wait or self.wait, self.clock))
        object.__setattr__(self, "keys", key_lookup(self.units))
        object.__setattr__(self, "models", model_lookup(self.units))
        object.__setattr__(self, "call_records", call_records(self.units, self.clock, self.gate))
        object.__setattr__(self, "refusals", Refusals(self.units, self.clock))

    async def drain(self) -> None:
        """Wait for what calls have left to be done beside them; for when no more calls are taken."""
        await self.open_calls.drain()
        await self.gate.drain()
        await self.keys.drain()
        await self.models.drain()
        await self.call_records.drain()
        await self.jobs.drain()
        await self.trainers.drain()
        await self.together.drain()
        await self.refusals.drain()

    def now(self) -> datetime:
        """The time."""
        return self.clock.now()

    async def _job_marks(self, uids: Collection[str]) -> Mapping[str, JobMark]:
        async with self.units(write=False, snapshot=False) as unit:
            return await unit.jobs.marks(uids)

    async def _trainer_marks(self, uids: Collection[str]) -> Mapping[str, TrainerMark]:
        async with self.units(write=False, snapshot=False) as unit:
            return await unit.trainers.marks(uids)
