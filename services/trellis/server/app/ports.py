"""What the use cases and control loops ask of the world, as Protocols; `bootstrap` says what is behind each."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from trellis.errors import Unavailable
from trellis.server.app.adapter_ports import Adapters as Adapters, Exports as Exports
from trellis.server.app.job_ports import Trainers as Trainers, TuningJobs as TuningJobs
from trellis.server.app.ledger_reading import LedgerRange, StoredBytes, Sums, UsageGroup
from trellis.server.app.queue_ports import BoardRow, FairShares, QueueFacts, Reservations
from trellis.server.app.quota_ports import RateBuckets, UsedQuota
from trellis.server.domain.audit import AuditEvent, AuditQuery
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import ApiKey
from trellis.server.domain.claim import Claim as Claim
from trellis.server.domain.dataset import Dataset, DatasetVersion, Report, Upload, UploadPart
from trellis.server.domain.derived import Derived
from trellis.server.domain.ledger import LedgerEntry, UsageSum
from trellis.server.domain.page import Page as Page
from trellis.server.domain.remembered_request import RememberedRequest
from trellis.server.domain.tenant import Tenant

T = TypeVar("T")


class RowsHeld(Unavailable):
    """The database answers, but somebody else holds rows that were wanted: other work may well succeed meanwhile."""


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


class Tenants(Protocol):
    """The tenants."""

    async def add(self, tenant: Tenant) -> None:
        """Raises AlreadyExists."""
        ...

    async def get(self, tenant_id: str, *, for_update: bool = False) -> Tenant | None: ...
    async def get_all(self, tenant_ids: Collection[str]) -> Mapping[str, Tenant]:
        """Those that there are, by id."""
        ...

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

    async def find_all(self, secret_hashes: Collection[str]) -> Mapping[str, ApiKey]:
        """The same for many, by the hash that was asked for."""
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
    async def get_all(self, base_model_ids: Collection[str]) -> Mapping[str, BaseModel]:
        """Those that there are, by id."""
        ...

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
    async def read_on(
        self, tenant: str, dataset_id: str, sha256: str | None, base_model: str
    ) -> tuple[DatasetVersion, Report | None] | None:
        """A version, the newest one for None, with its report, in one query that locks the dataset; None also where the
        dataset was changed meanwhile.
        """
        ...

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

    async def prune(self, before: datetime, limit: int) -> int:
        """Forget those that were answered before, so many at most; how many."""
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

    async def release_all(self) -> None:
        """Take every lease from its holder."""
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
