"""The order in which jobs are looked at."""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from trellis.server.domain.trainer import TrainerBase
from trellis.server.scheduler.snapshot import Alone, QueuedJob, Snapshot


class Turns:
    """Jobs in the order of their tenants' turns, as if each were admitted when its turn comes.

    The tenant that runs fewest jobs goes first, of equals the one whose job is oldest; inside a tenant the oldest job.
    """

    def __init__(self, jobs: Iterable[QueuedJob], running: Mapping[str, int]) -> None:
        self._running = Counter(running)
        self._waiting: dict[str, deque[QueuedJob]] = defaultdict(deque)
        for job in sorted(jobs, key=lambda job: (job.create_time, job.uid)):
            self._waiting[job.tenant].append(job)

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


def in_order(jobs: Iterable[QueuedJob], snapshot: Snapshot, running: Mapping[str, int]) -> list[QueuedJob]:
    """The jobs by their tenants' turns. Ones whose base had a trainer until lately come after those that have waited
    for capacity since before it ended: bases alternate, though one base's jobs may be the oldest again and again.
    """
    gives_way = _GivingWay(found := list(jobs), snapshot)
    first = [job for job in found if not gives_way(job)]
    last = [job for job in found if gives_way(job)]
    return [*Turns(first, running), *Turns(last, running)]


class _GivingWay:
    def __init__(self, jobs: Iterable[QueuedJob], snapshot: Snapshot) -> None:
        self._warm, self._ends = snapshot.warm, snapshot.last_ends
        self._oldest: dict[TrainerBase | None, datetime] = {}
        for job in jobs:
            base = _base_of(job)
            if base not in self._warm:  # it waits for capacity
                since = snapshot.waits_since(job)
                self._oldest[base] = min(since, self._oldest.get(base, since))

    def __call__(self, job: QueuedJob) -> bool:
        base = _base_of(job)
        ended = self._ends.get(base) if base is not None and base not in self._warm else None
        return ended is not None and any(since < ended for other, since in self._oldest.items() if other != base)


def _base_of(job: QueuedJob) -> TrainerBase | None:
    return None if isinstance(job.work, Alone) else job.work.base
