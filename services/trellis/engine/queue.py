"""The requests that wait, in the order in which they will run."""

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Generic, TypeVar

from trellis.engine.fairness import VirtualTokenCounters, cost
from trellis.engine.work import Work

W = TypeVar("W", bound=Work)


@dataclass(frozen=True, slots=True)
class Pick(Generic[W]):
    """Whose turn it is, and those who would be first, were their adapters resident."""

    work: W
    passed: tuple[W, ...] = ()


class WaitingQueue(Generic[W]):
    """One queue a tenant; the tenant that has had least comes first, and its requests in the order they came."""

    def __init__(self, counters: VirtualTokenCounters) -> None:
        self._counters = counters
        self._queues: dict[str, dict[W, None]] = {}  # dicts, for they keep order and forget in no time
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[W]:
        return (work for queue in self._queues.values() for work in queue)

    def __contains__(self, work: W) -> bool:
        return work in self._queues.get(work.tenant, {})

    def of(self, tenant: str) -> int:
        """How many wait for this tenant."""
        return len(self._queues.get(tenant, ()))

    def add(self, work: W, credit: float = 0.0) -> None:
        """Let it wait, behind its tenant's others; for the credit see VirtualTokenCounters.enter."""
        self._queues.setdefault(work.tenant, {})[work] = None
        self._counters.enter(work.tenant, credit)
        self._count += 1

    def remove(self, work: W) -> None:
        """It waits no longer."""
        queue = self._queues[work.tenant]
        del queue[work]
        self._count -= 1
        if not queue:
            del self._queues[work.tenant]
            self._counters.leave(work.tenant)

    def pick(
        self, is_ready: Callable[[W], bool], is_overdue: Callable[[W], bool], pledged: Mapping[str, float]
    ) -> Pick[W] | None:
        """The first that is ready; None when none is, or when it would go past one that is overdue.

        `pledged` is what each tenant will have from what it runs.
        """
        passed: list[W] = []
        for tenant in sorted(self._queues, key=lambda tenant: self._counters[tenant] + pledged.get(tenant, 0.0)):
            for work in self._queues[tenant]:
                if is_ready(work):
                    return Pick(work, tuple(passed))
                if is_overdue(work):
                    return None
                passed.append(work)
        return None

    def upcoming(self, number: int, pledged: Mapping[str, float]) -> list[W]:
        """The next ones to run, first things first, as if each took all that it may take."""
        return list(islice(self._in_turn(pledged), number))

    def _in_turn(self, pledged: Mapping[str, float]) -> Iterator[W]:
        ties = count()  # heapq must never compare queues
        heap = [
            (self._counters[tenant] + pledged.get(tenant, 0.0), next(ties), iter(queue))
            for tenant, queue in self._queues.items()
        ]
        heapq.heapify(heap)
        while heap:
            counter, tie, queue = heap[0]
            work = next(queue, None)
            if work is None:
                heapq.heappop(heap)
                continue
            yield work
            taken = cost(work.weight, prompt=work.prompt_tokens, output=work.max_tokens)
            heapq.heapreplace(heap, (counter + taken, tie, queue))
