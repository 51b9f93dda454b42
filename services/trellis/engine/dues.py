"""What tenants have had, as it counts for the order of their turns."""

from collections.abc import Collection
from typing import Final

from trellis.engine.fairness import VirtualTokenCounters, cost
from trellis.engine.work import Work

_MOST_LEAD: Final = 2.0
"""In fairness windows: a tenant that has had still more than others waits for them as if it were no more than this."""


class Dues:
    """The counters of those who want slots in this step, and what turns that were given already will add to them.

    Without these a tenant that is due one more slot would be given all that are free at the moment.
    """

    def __init__(self, counters: VirtualTokenCounters, window: float) -> None:
        self._counters = counters
        self._most = _MOST_LEAD * window
        self._pledged: dict[str, float] = {}
        self._least = 0.0

    def pledge(self, works: Collection[Work], steps: int) -> None:
        """They will run for so many steps."""
        for work in works:
            more = cost(work.weight, output=steps)
            self._pledged[work.tenant] = self._pledged.get(work.tenant, 0.0) + more

    def compare(self, works: Collection[Work]) -> None:
        """These are all that take part: what the one has had that has had least is what `lead` counts from."""
        self._least = min(self._of(work) for work in works)

    def lead(self, works: Collection[Work]) -> float:
        """How much more the one of these works' tenants has had that has had least, up to two fairness windows."""
        return min(min(self._of(work) for work in works) - self._least, self._most)

    def _of(self, work: Work) -> float:
        return self._counters[work.tenant] + self._pledged.get(work.tenant, 0.0)
