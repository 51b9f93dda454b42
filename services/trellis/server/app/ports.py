"""What the use cases and control loops ask of the world, as Protocols; `bootstrap` says what is behind each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from trellis.server.app.ledger_reading import LedgerRange, StoredBytes, Sums, UsageGroup
from trellis.server.app.queue_ports import BoardRow, FairShares, QueueFacts, Reservations
from trellis.server.app.quota_ports import RateBuckets, UsedQuota
from trellis.server.domain.adapter import Adapter, AdapterShare, Alias
from trellis.server.domain.audit import AuditEvent, AuditQuery
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import ApiKey
from trellis.server.domain.dataset import Dataset, DatasetVersion, Report, Upload, UploadPart
from trellis.server.domain.derived import Derived
from trellis.server.domain.export import Export, ExportState
from trellis.server.domain.ledger import LedgerEntry, UsageSum
from trellis.server.domain.marks import JobMark, TrainerMark
from trellis.server.domain.remembered_request import RememberedRequest
from trellis.server.domain.tenant import Tenant
from trellis.server.domain.trainer import Trainer, TrainerBase
from trellis.server.domain.tuning_job import Attempt, Checkpoint, JobEvent, JobState, MetricPoint, TuningJob

T = TypeVar("T")


class Clock(Protocol):
    """Time."""

    def now(self) -> datetime:
        """The time, in UTC, with a time zone."""
        ...


class Ids(Protocol):
    """Randomness for names and secrets."""

    def new_id(self, prefix: str) -> str:
        """A fresh id that may end a resource name, such as `job-k3v9…`."""
        ...

    def new_secret(self, prefix: str) -> str:
        """A fresh secret of 256 random bits, such as `trk_…`."""
        ...


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A run of a list; `next_cursor` is None at the end, else what the next call's `cursor` must be."""

    items: Sequence[T]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A control loop's hold on a row, until it expires; what is done under it is applied with its token."""

    token: str
    expire_time: datetime


class Tenants(Protocol):
    """The tenants."""

    async def add(self, tenant: Tenant) -> None:
        """Raises AlreadyExists."""
        ...

    async def get(self, tenant_id: str, *, for_update: bool = False) -> Tenant | None: ...
    async def list(self, limit: int, cursor: str | None) -> Page[Tenant]: ...
    async def save(self, tenant: Tenant) -> None:
        """Writes what has changed of a tenant that was read for update."""
        ...

    async def delete(self, tenant_id: str) -> None:
        """Deletes the tenant and every row of it."""
        ...


class ApiKeys(Protocol):
    """The keys; `tenant` None means the platform's."""

    async def add(self, key: ApiKey) -> None: ...
    async def get(self, tenant: str | None, key_id: str, *, for_update: bool = False) -> ApiKey | None: ...
    async def find(self, secret_hash: str) -> ApiKey | None:
        """The key of this secret, or of this secret before."""
        ...

    async def list(self, tenant: str | None, limit: int, cursor: str | None) -> Page[ApiKey]: ...
    async def save(self, key: ApiKey) -> None: ...
    async def used(self, key_id: str, time: datetime) -> None:
        """The key was used then; changes nothing if it was used later, or is gone."""
        ...


class BaseModels(Protocol):
    """The base models. At most one is the default: adding or saving one as default takes it from the others."""

    async def add(self, base: BaseModel) -> None:
        """Raises AlreadyExists."""
        ...

    async def get(self, base_model_id: str) -> BaseModel | None: ...
    async def default(self) -> BaseModel | None: ...
    async def list(self, limit: int, cursor: str | None) -> Page[BaseModel]: ...
    async def save(self, base: BaseModel) -> None: ...
    async def delete(self, base_model_id: str) -> None: ...
    async def users(self, base_model_id: str) -> Sequence[str]:
        """Names of adapters, and of jobs and exports not ended, that need it, at most ten."""
        ...


class Datasets(Protocol):
    """Datasets, versions, uploads and reports."""

    async def add(self, dataset: Dataset) -> None:
        """Raises AlreadyExists."""
        ...

    async def get(self, tenant: str, dataset_id: str, *, for_update: bool = False) -> Dataset | None: ...
    async def list(self, tenant: str, limit: int, cursor: str | None) -> Page[Dataset]: ...
    async def save(self, dataset: Dataset) -> None: ...
    async def delete(self, tenant: str, dataset_id: str) -> None:
        """Deletes the dataset with its versions, uploads and reports."""
        ...

    async def users(self, tenant: str, dataset_id: str) -> Sequence[str]:
        """Names of jobs not ended that read a version of it, at most ten."""
        ...

    async def add_version(self, version: DatasetVersion) -> bool:
        """False, and nothing changes, if the dataset has this sha256 already."""
        ...

    async def get_version(self, tenant: str, dataset_id: str, sha256: str) -> DatasetVersion | None: ...
    async def list_versions(
        self, tenant: str, dataset_id: str, limit: int, cursor: str | None
    ) -> Page[DatasetVersion]: ...
    async def save_version(self, version: DatasetVersion) -> None: ...

    async def get_upload(self, tenant: str, dataset_id: str, sha256: str) -> Upload | None: ...
    async def start_upload(self, upload: Upload) -> None:
        """Adds the upload if it is not there."""
        ...

    async def add_part(self, upload: Upload, part: UploadPart, now: datetime) -> bool:
        """Appends the part if it begins where the stored ones end, else False (another stream was faster)."""
        ...

    async def delete_upload(self, tenant: str, dataset_id: str, sha256: str) -> None: ...
    async def stale_uploads(self, before: datetime, limit: int) -> Sequence[Upload]:
        """Uploads without a new part since `before`."""
        ...

    async def get_report(self, tenant: str, dataset_id: str, sha256: str, base_model: str) -> Report | None: ...
    async def add_report(self, report: Report) -> bool:
        """False, and nothing changes, if there is one for this version and base model."""
        ...

    async def restart_report(self, report: Report) -> bool:
        """Makes a report that FAILED as `report`, which is PENDING; False, and nothing changes, if it did not fail."""
        ...

    async def claim_report(self, claim: Claim, now: datetime) -> Report | None:
        """The oldest PENDING report that nobody holds, held from now on."""
        ...

    async def renew_report(self, report: Report, claim: Claim, renewed: Claim) -> bool:
        """Holds the report by `renewed` instead of `claim`; False, and nothing changes, if the claim was lost."""
        ...

    async def save_report(self, report: Report, claim: Claim) -> bool:
        """Saves and lets go; False, and nothing changes, if the claim was lost."""
        ...


class TuningJobs(Protocol):
    """Jobs, attempts, events, metrics, logs and checkpoints. Parts are kept by the job's `uid`."""

    async def add(self, job: TuningJob) -> None:
        """Raises AlreadyExists."""
        ...

    async def get(self, tenant: str, job_id: str, *, for_update: bool = False) -> TuningJob | None: ...
    async def get_by_uid(self, uid: str, *, for_update: bool = False) -> TuningJob | None: ...
    async def list(
        self, tenant: str | None, states: Sequence[JobState], limit: int, cursor: str | None
    ) -> Page[TuningJob]:
        """Newest first; `tenant` None for all tenants', `states` empty for all states."""
        ...

    async def in_states(self, states: Sequence[JobState], limit: int) -> Sequence[TuningJob]:
        """Oldest first, over all tenants."""
        ...

    async def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state, over all tenants."""
        ...

    async def save(self, job: TuningJob, events: Sequence[JobEvent] = ()) -> TuningJob:
        """Saves the job, which was read for update in this unit of work, and appends the events with the next
        sequences; returns the job with its new event_count.
        """
        ...

    async def delete(self, tenant: str, job_id: str) -> None:
        """Deletes the job with all its parts."""
        ...

    async def claim(self, states: Sequence[JobState], claim: Claim, now: datetime, limit: int) -> Sequence[TuningJob]:
        """Jobs in these states that no loop holds, oldest first, held from now on."""
        ...

    async def holds(self, uid: str, claim: Claim) -> bool:
        """Whether the claim on the job is still this one; asked in the unit of work that applies the outcome, after
        the job was read for update.
        """
        ...

    async def release(self, uid: str, claim: Claim) -> None:
        """Lets go of the job, if the claim is still this one."""
        ...

    async def lock_queue(self) -> None:
        """Waits until no other unit of work holds the queue, then holds it to the end of this one."""
        ...

    async def events(self, uid: str, after_sequence: int, limit: int) -> Sequence[JobEvent]: ...
    async def marks(self, uids: Collection[str]) -> Mapping[str, JobMark]:
        """How far each of these jobs has come, by uid; without those that are gone."""
        ...

    async def add_attempt(self, attempt: Attempt) -> None: ...
    async def get_attempt(self, uid: str, number: int) -> Attempt | None: ...
    async def find_attempt(self, token_hash: str) -> Attempt | None: ...
    async def save_attempt(self, attempt: Attempt) -> None: ...
    async def attempts_to_clean_up(self, limit: int) -> Sequence[Attempt]:
        """Attempts that are over but not cleaned up, oldest first."""
        ...

    async def expired_attempts(self, now: datetime, limit: int) -> Sequence[Attempt]:
        """Attempts that are not over and whose lease has ended, oldest first."""
        ...

    async def open_attempts(self, limit: int) -> Sequence[Attempt]:
        """Attempts that are not over, oldest first."""
        ...

    async def add_metrics(self, uid: str, points: Sequence[MetricPoint]) -> None:
        """Points of a step that is there already are ignored, value by value."""
        ...

    async def metrics(self, uid: str, limit: int, cursor: str | None) -> Page[MetricPoint]: ...
    async def add_checkpoint(self, uid: str, checkpoint: Checkpoint) -> None:
        """A checkpoint of the same step is replaced."""
        ...

    async def checkpoints(self, uid: str, limit: int, cursor: str | None) -> Page[Checkpoint]: ...
    async def latest_checkpoint(self, uid: str) -> Checkpoint | None: ...
    async def best_checkpoint(self, uid: str) -> Checkpoint | None:
        """The one that domain.retention.best_of finds among all of them."""
        ...

    async def get_checkpoint(self, uid: str, step: int) -> Checkpoint | None: ...
    async def delete_checkpoint(self, uid: str, step: int) -> None: ...
    async def checkpoint_keys_in_use(self, tenant: str) -> frozenset[str]:
        """Keys that the tenant's jobs start from, or its exports are made of, which have not ended."""
        ...

    async def append_log(self, uid: str, attempt: int, text: str) -> None: ...
    async def read_log(self, uid: str, offset: int, limit: int) -> Sequence[tuple[int, int, str]]:
        """Pieces of `(next_offset, attempt, text)` after `offset`, at most so many."""
        ...


class Trainers(Protocol):
    """Shared trainers, and the attempts that they were given."""

    async def add(self, trainer: Trainer) -> None: ...
    async def get(self, uid: str, *, for_update: bool = False) -> Trainer | None: ...
    async def find(self, token_hash: str) -> Trainer | None: ...
    async def save(self, trainer: Trainer) -> None: ...
    async def live(self) -> Sequence[Trainer]:
        """Those that are not over, oldest first."""
        ...

    async def marks(self, uids: Collection[str]) -> Mapping[str, TrainerMark]:
        """What each of these trainers would hear if it asked, by uid; without those that are gone."""
        ...

    async def prune(self, before: datetime) -> int:
        """Deletes those that ended before and are cleaned up, but for each base model's newest one that said how fast it
        trains; how many.
        """
        ...

    async def newest_measured(self, base_model: str) -> Trainer | None:
        """The newest trainer of the base model that has said how fast it trains."""
        ...

    async def to_clean_up(self, limit: int) -> Sequence[Trainer]:
        """Those that are over but not cleaned up; who ended first comes first."""
        ...

    async def last_ends(self, bases: Collection[TrainerBase]) -> dict[TrainerBase, datetime]:
        """When the newest trainer of each base ended; without those that never had one."""
        ...

    async def open_attempts(self, uids: Collection[str]) -> Sequence[Attempt]:
        """Attempts of these trainers that are not over, oldest first."""
        ...


class Adapters(Protocol):
    """Adapters and aliases."""

    async def add(self, adapter: Adapter) -> bool:
        """False, and nothing changes, if the tenant has this digest already."""
        ...

    async def get(self, tenant: str, adapter_id: str, *, for_update: bool = False) -> Adapter | None: ...
    async def list(self, tenant: str, limit: int, cursor: str | None) -> Page[Adapter]:
        """Newest first."""
        ...

    async def save(self, adapter: Adapter) -> None: ...
    async def delete(self, tenant: str, adapter_id: str) -> None: ...
    async def wanted(self) -> Sequence[Adapter]:
        """All adapters whose deployment is not UNDEPLOYED."""
        ...

    async def get_alias(self, tenant: str, alias_id: str, *, for_update: bool = False) -> Alias | None: ...
    async def put_alias(self, alias: Alias) -> None:
        """Adds or replaces."""
        ...

    async def list_aliases(self, tenant: str, limit: int, cursor: str | None) -> Page[Alias]: ...
    async def delete_alias(self, tenant: str, alias_id: str) -> None: ...
    async def aliases_of(self, tenant: str, digest: str) -> Sequence[Alias]: ...

    async def put_share(self, share: AdapterShare) -> None:
        """Adds the share; one that is there already gets the new time."""
        ...

    async def delete_share(self, owner: str, digest: str, tenant: str) -> AdapterShare | None:
        """Deletes the share and returns it; None if there was none."""
        ...

    async def shares_of(self, owner: str, digest: str, limit: int, cursor: str | None) -> Page[AdapterShare]:
        """The adapter's shares, oldest first."""
        ...

    async def is_shared(self, owner: str, digest: str, tenant: str) -> bool:
        """Whether the tenant may call the adapter: it is shared with it, since it exists."""
        ...

    async def shared_with(self, tenant: str, limit: int, cursor: str | None) -> Page[Adapter]:
        """The adapters of others that the tenant may call, oldest share first."""
        ...


class Exports(Protocol):
    """Exports."""

    async def add(self, export: Export) -> None:
        """Raises AlreadyExists."""
        ...

    async def get(self, tenant: str, export_id: str, *, for_update: bool = False) -> Export | None: ...
    async def get_by_uid(self, uid: str, *, for_update: bool = False) -> Export | None: ...
    async def list(self, tenant: str, limit: int, cursor: str | None) -> Page[Export]:
        """Newest first."""
        ...

    async def in_state(self, state: ExportState, limit: int) -> Sequence[Export]:
        """Oldest first, over all tenants."""
        ...

    async def to_clean_up(self, limit: int) -> Sequence[Export]:
        """Exports that have ended, whose run on the cluster is not known to be gone; those that ended first come first."""
        ...

    async def save(self, export: Export) -> None: ...
    async def delete(self, tenant: str, export_id: str) -> None: ...


class AuditTrail(Protocol):
    """Who did what to what: only ever added to."""

    async def append(self, event: AuditEvent) -> None:
        """The store gives the sequence."""
        ...

    async def list(self, query: AuditQuery, limit: int, cursor: str | None) -> Page[AuditEvent]: ...


class Ledger(Protocol):
    """What was held, settled and released. Entries are only appended; what is derived from them, which is sums by the hour
    and day and what each job holds, is written with them in the same transaction, and can be computed anew.
    """

    async def append(self, entries: Sequence[LedgerEntry]) -> Sequence[LedgerEntry]:
        """Those that were written; of the others the tenant has the key already, and nothing changes.

        Raises NegativeHoldError if a job would hold less than nothing.
        """
        ...

    async def held(self, job_uid: str) -> Sums:
        """What is held for the job."""
        ...

    async def held_by_active(self, tenants: Collection[str]) -> Mapping[str, Sums]:
        """By tenant: what is held for its jobs that run or are being started."""
        ...

    async def settled_since(self, tenants: Collection[str], start: datetime) -> Mapping[str, Sums]:
        """By tenant: what was settled from the beginning of a day on."""
        ...

    async def entries(self, which: LedgerRange, limit: int, cursor: str | None) -> Page[LedgerEntry]:
        """By time, then sequence."""
        ...

    async def sums(
        self, which: LedgerRange, groups: Collection[UsageGroup], limit: int, cursor: str | None
    ) -> Page[UsageSum]:
        """What was settled in the hours that begin in the range, of its tenant, by meter, price and these groups."""
        ...

    async def derived(self, tenant: str, start: datetime | None = None, end: datetime | None = None) -> Derived:
        """What is kept of the tenant: the hours that begin in the range, and all days and holds."""
        ...

    async def metered_until(self) -> datetime | None:
        """The newest hour whose storage was settled, of any tenant; None if there is none."""
        ...

    async def stored_bytes(self, before: datetime) -> Mapping[str, StoredBytes]:
        """By tenant: what was made before this time and is there."""
        ...

    async def lock_metering(self) -> None:
        """Waits until no other unit of work meters the storage, then holds the lock to the end of this one."""
        ...


class Requests(Protocol):
    """The requests that carried a request_id; scope and id are a unique index."""

    async def get(self, scope: str, request_id: str) -> RememberedRequest | None: ...
    async def add(self, request: RememberedRequest) -> None:
        """Raises AlreadyExists if another transaction was faster."""
        ...


class Leases(Protocol):
    """What one server at a time does; the claim's token says who holds a lease."""

    async def acquire(self, name: str, claim: Claim, now: datetime) -> bool:
        """Hold the lease by the claim, if nobody else does any more; whether it is held."""
        ...

    async def renew(self, name: str, claim: Claim) -> bool:
        """Hold it until the claim expires, if it is held by the claim's token; False, and nothing changes, if not."""
        ...

    async def expire_time(self, name: str) -> datetime | None:
        """Until when somebody holds it, or did; None if nobody does."""
        ...

    async def holds(self, name: str, token: str) -> bool:
        """Whether it is held by this token; it then stays so to the end of this unit of work, which writes."""
        ...

    async def release(self, name: str, token: str) -> None:
        """Let it go, if it is held by this token."""
        ...


class UnitOfWork(Protocol):
    """One transaction; what was not committed when the block ends did not happen. No network call inside."""

    tenants: Tenants
    api_keys: ApiKeys
    base_models: BaseModels
    datasets: Datasets
    jobs: TuningJobs
    trainers: Trainers
    adapters: Adapters
    exports: Exports
    ledger: Ledger
    requests: Requests
    leases: Leases
    audit: AuditTrail
    queue: QueueFacts
    fair_shares: FairShares
    reservations: Reservations
    board: BoardRow
    used: UsedQuota
    rates: RateBuckets

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    async def commit(self) -> None:
        """Makes it all true."""
        ...


class UnitOfWorkFactory(Protocol):
    """Begins units of work."""

    def __call__(self, *, write: bool = True, snapshot: bool = True) -> UnitOfWork:
        """A fresh unit of work. With `write` it may lock rows; on SQLite it takes the write lock at once, so that a
        reader never has to become a writer halfway. One that only reads sees one state of the database throughout,
        unless it can do without a snapshot, as whoever asks one query can: that is faster.
        """
        ...


class Objects(Protocol):
    """The object store, without blocking the event loop; see trellis.objects.ObjectStore."""

    url: str

    async def run(self, method: str, *args: Any) -> Any:
        """Call the store's method in a thread."""
        ...
