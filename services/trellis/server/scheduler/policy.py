"""Which queued jobs are admitted now, and what each of the others waits for. Pure: the same snapshot, the same answer.

Tenants take turns: the one that runs fewest jobs goes first, of equals the one whose job is oldest. Inside a tenant
the oldest job that may start goes first. When the next job in turn does not fit, nothing behind it is admitted either,
so that small jobs can't keep a large one waiting for ever.
"""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC

from trellis.server.domain.tuning_job import QueueCode, QueueReason
from trellis.server.scheduler.capacity import Ledger
from trellis.server.scheduler.snapshot import QueuedJob, Snapshot


@dataclass(frozen=True, slots=True)
class Decisions:
    """Every queued job is in one of the two."""

    admit: tuple[str, ...]
    """The uids of jobs to start, in the order of their turns."""
    waiting: Mapping[str, QueueReason]
    """By uid: why the job waits."""


def decide(snapshot: Snapshot) -> Decisions:
    """Say of each queued job whether it starts now, and if not, why."""
    ledger = Ledger(
        snapshot.capacity, snapshot.tenant_running_limit, [(job.tenant, job.needs) for job in snapshot.active]
    )
    ready = [job for job in snapshot.queued if _obstacle(job, snapshot) is None]
    admitted = tuple(_admit(ready, ledger))
    left = [job for job in snapshot.queued if job.uid not in set(admitted)]
    in_turn = _Turns(left, ledger.running)
    return Decisions(admitted, {job.uid: _reason(job, at, snapshot, ledger) for at, job in enumerate(in_turn)})


def _admit(ready: Iterable[QueuedJob], ledger: Ledger) -> Iterator[str]:
    possible = [job for job in ready if job.needs.fits_into(ledger.capacity)]
    turns = _Turns(possible, ledger.running)
    for job in turns:
        if ledger.at_limit(job.tenant):
            turns.drop(job.tenant)
        elif not job.needs.fits_into(ledger.free):
            return
        else:
            ledger.take(job.tenant, job.needs)
            yield job.uid


class _Turns:
    """Jobs in the order of their tenants' turns, as if each were admitted when its turn comes."""

    def __init__(self, jobs: Iterable[QueuedJob], running: Mapping[str, int]) -> None:
        self._running = Counter(running)
        self._waiting: dict[str, deque[QueuedJob]] = defaultdict(deque)
        for job in sorted(jobs, key=lambda job: (job.create_time, job.uid)):
            self._waiting[job.tenant].append(job)

    def drop(self, tenant: str) -> None:
        """Leave out the rest of the tenant's jobs."""
        self._waiting[tenant].clear()

    def __iter__(self) -> Iterator[QueuedJob]:
        heap = [self._turn(tenant) for tenant in self._waiting]
        heapq.heapify(heap)
        while heap:
            tenant = heapq.heappop(heap)[-1]
            yield self._waiting[tenant].popleft()
            self._running[tenant] += 1
            if self._waiting[tenant]:
                heapq.heappush(heap, self._turn(tenant))

    def _turn(self, tenant: str) -> tuple[int, object, str, str]:
        head = self._waiting[tenant][0]
        return self._running[tenant], head.create_time, head.uid, tenant


def _obstacle(job: QueuedJob, snapshot: Snapshot) -> tuple[QueueCode, str] | None:
    """What keeps the job from starting, whatever is free."""
    if not job.report_ready:
        return QueueCode.DATASET_VALIDATING, "It starts when the report on its dataset is done."
    if job.retry_time is not None and job.retry_time > snapshot.now:
        at = job.retry_time.astimezone(UTC)
        return QueueCode.RETRY_BACKOFF, f"Its last attempt ended early; it is tried again at {at:%H:%M:%S} UTC."
    return None


def _reason(job: QueuedJob, position: int, snapshot: Snapshot, ledger: Ledger) -> QueueReason:
    code, message = _obstacle(job, snapshot) or _shortage(job, ledger)
    return QueueReason(code, message, position)


def _shortage(job: QueuedJob, ledger: Ledger) -> tuple[QueueCode, str]:
    if not job.needs.fits_into(ledger.capacity):
        message = f"It needs {job.needs}, more than the platform has in all ({ledger.capacity}): ask its operator."
        return QueueCode.CAPACITY, message
    if ledger.at_limit(job.tenant):
        message = f"{ledger.running[job.tenant]} of the tenant's jobs run, and at most {ledger.limit} may run at once."
        return QueueCode.TENANT_LIMIT, message
    return QueueCode.CAPACITY, f"It needs {job.needs}; what is free of {ledger.capacity} is taken by jobs before it."
