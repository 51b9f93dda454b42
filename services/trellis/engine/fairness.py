"""Fairness between tenants: who has had how much."""

from collections.abc import Set as AbstractSet
from typing import Final

PROMPT_COST: Final = 1.0
OUTPUT_COST: Final = 2.0
"""An answer's token takes a pass of its own, a prompt's tokens share one."""
_SWEEP_ABOVE: Final = 256


class VirtualTokenCounters:
    """What each tenant has had, in tokens over its weight; who has had least comes first.

    After "Fairness in Serving Large Language Models" (https://arxiv.org/abs/2401.00588): a tenant that comes back is
    lifted to the least of those who wait, so that nobody saves up for a flood, and the difference between two tenants
    that both have requests waiting stays bounded by what runs at once.
    """

    def __init__(self) -> None:
        self._counters: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._parked: frozenset[str] = frozenset()
        self._floor = 0.0
        self.served = 0.0
        """Everything that all tenants have had, in their virtual tokens: time as the order of requests knows it."""

    def __getitem__(self, tenant: str) -> float:
        return self._counters.get(tenant, 0.0)

    def __len__(self) -> int:
        return len(self._counters)

    def enter(self, tenant: str, credit: float = 0.0) -> None:
        """Requests of this tenant wait from now on; it may have had so much less than those who waited before it.

        A tenant that was away has no credit. One whose requests still run was merely short of new ones for a moment.
        """
        if tenant in self._waiting:
            return
        self._lift(tenant, credit)
        self._waiting.add(tenant)
        if len(self._counters) > 2 * len(self._waiting | self._parked) + _SWEEP_ABOVE:
            self._sweep()

    def leave(self, tenant: str) -> None:
        """None of this tenant's requests waits any more; they may still run."""
        if tenant in self._waiting:
            self._waiting.remove(tenant)
            self._drop(tenant)

    def park(self, tenants: AbstractSet[str], credit: float = 0.0) -> None:
        """These tenants, and no others, have answers that run but wait for a slot: it is waiting, too."""
        gone = self._parked - tenants
        for tenant in tenants - self._parked:
            self._lift(tenant, credit)
        self._parked = frozenset(tenants)
        for tenant in gone:
            self._drop(tenant)

    def charge(self, tenant: str, weight: float, *, prompt: int = 0, output: int = 0) -> None:
        """Count what the tenant was given."""
        tokens = cost(weight, prompt=prompt, output=output)
        self._counters[tenant] = self[tenant] + tokens
        self.served += tokens

    def _lift(self, tenant: str, credit: float) -> None:
        if tenant not in self._waiting and tenant not in self._parked:
            self._counters[tenant] = max(self[tenant], self._least() - credit)

    def _drop(self, tenant: str) -> None:
        if tenant not in self._waiting and tenant not in self._parked:
            self._floor = max(self._floor, self[tenant])

    def _least(self) -> float:
        """The least counter of those who wait; when nobody does, that of the last one who did."""
        return min((self[tenant] for tenant in self._waiting | self._parked), default=self._floor)

    def _sweep(self) -> None:
        """Forget who would be lifted anyway."""
        least = min(self._least(), self._floor)
        self._counters = {
            t: c for t, c in self._counters.items() if c > least or t in self._waiting or t in self._parked
        }


def cost(weight: float, *, prompt: int = 0, output: int = 0) -> float:
    """What so many tokens count for a tenant of this weight."""
    return (prompt * PROMPT_COST + output * OUTPUT_COST) / weight
