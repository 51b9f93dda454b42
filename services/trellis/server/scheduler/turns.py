"""The order in which jobs are looked at."""

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from trellis.server.domain.trainer import TrainerBase
from trellis.server.scheduler.snapshot import Alone, QueuedJob, Snapshot

Tier = tuple[int, bool, bool]
"""What comes before fairness: the priority beyond 0, the highest first; then tenants within their soft budgets; then bases
that others have not waited for."""


class Turns:
    """Jobs in the order of their tenants' turns.

    Of the jobs of a tier, the tenant with the least weighted share has the next turn, of equals the one whose job is
    oldest; inside a tenant the job of the highest priority, of equals the oldest. Whoever takes jobs from here says, by
    what `share` answers from then on, what each counts for.
    """

    def __init__(
        self, jobs: Iterable[QueuedJob], tier: Callable[[QueuedJob], Tier], share: Callable[[str], float]
    ) -> None:
        self._share = share
        self._waiting: dict[tuple[Tier, str], deque[QueuedJob]] = defaultdict(deque)
        for job in sorted(jobs, key=_in_tenant):
            self._waiting[tier(job), job.tenant].append(job)

    def __iter__(self) -> Iterator[QueuedJob]:
        heap = [self._turn(tier, tenant) for tier, tenant in self._waiting]
        heapq.heapify(heap)
        while heap:
            tier, share, *_, tenant = heap[0]
            jobs = self._waiting[tier, tenant]
            if share == self._share(tenant):
                yield jobs.popleft()
            if jobs:
                heapq.heapreplace(heap, self._turn(tier, tenant))
            else:
                heapq.heappop(heap)

    def _turn(self, tier: Tier, tenant: str) -> tuple[Tier, float, datetime, str, str]:
        head = self._waiting[tier, tenant][0]
        return tier, self._share(tenant), head.create_time, head.uid, tenant


class Tiers:
    """The tier of each job."""

    def __init__(self, jobs: Iterable[QueuedJob], snapshot: Snapshot, is_hindered: Callable[[QueuedJob], bool]) -> None:
        """Of each job: whether its own tenant's quota keeps it from starting, whatever is free."""
        self._gives_way = _GivingWay(jobs, snapshot, is_hindered)
        self._over = frozenset(tenant for tenant, share in snapshot.tenants.items() if share.over_soft_budget)

    def of(self, job: QueuedJob) -> Tier:
        """The job's."""
        return -max(0, job.priority), job.tenant in self._over, self._gives_way(job)


class _GivingWay:
    """Jobs whose base had a trainer until lately come after those that have waited for capacity since before it ended:
    bases alternate, though one base's jobs may be the oldest again and again.

    They don't give way to jobs that go after others of their own tenants anyway.
    """

    def __init__(self, jobs: Iterable[QueuedJob], snapshot: Snapshot, is_hindered: Callable[[QueuedJob], bool]) -> None:
        self._warm, self._ends = snapshot.warm, snapshot.last_ends
        oldest: dict[TrainerBase | None, datetime] = {}
        for job in _first_of_each(jobs, is_hindered) if self._ends else ():
            base = _base_of(job)
            if base not in self._warm:  # it waits for capacity
                since = snapshot.waits_since(job)
                oldest[base] = min(since, oldest.get(base, since))
        self._two_oldest = heapq.nsmallest(2, ((since, base) for base, since in oldest.items()), key=lambda one: one[0])

    def __call__(self, job: QueuedJob) -> bool:
        base = _base_of(job)
        ended = self._ends.get(base) if base is not None and base not in self._warm else None
        return ended is not None and any(since < ended for since, other in self._two_oldest if other != base)


def _first_of_each(jobs: Iterable[QueuedJob], is_hindered: Callable[[QueuedJob], bool]) -> Iterator[QueuedJob]:
    """Of each tenant, the first of its jobs that may start."""
    seen = set()
    for job in sorted(jobs, key=_in_tenant):
        if job.tenant not in seen and not is_hindered(job):
            seen.add(job.tenant)
            yield job


def _in_tenant(job: QueuedJob) -> tuple[int, datetime, str]:
    """The order of a tenant's jobs."""
    return -job.priority, job.create_time, job.uid


def _base_of(job: QueuedJob) -> TrainerBase | None:
    return None if isinstance(job.work, Alone) else job.work.base
