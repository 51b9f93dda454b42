"""Names for tenants in metrics: of the busiest ones, and never more than so many."""

from typing import Final

OTHER: Final = "other"


class TenantLabels:
    """A tenant gets its name as label once it has had some tokens, while there are labels left; the rest are `other`.

    A label is for the replica's life, as Prometheus keeps every series that it has seen. Before, tenants are counted by
    the space-saving algorithm (Metwally, Agrawal, El Abbadi 2005), so that passers-by neither take labels nor memory.
    """

    def __init__(self, labels: int = 50, worth: int = 10_000) -> None:
        self._labels = labels
        self._worth = worth
        self._named: set[str] = set()
        self._counts: dict[str, int] = {}

    def of(self, tenant: str, tokens: int) -> str:
        """The label under which a tenant's further tokens are counted."""
        if tenant in self._named:
            return tenant
        if len(self._named) >= self._labels:
            return OTHER
        if self._count(tenant, tokens) < self._worth:
            return OTHER
        del self._counts[tenant]
        self._named.add(tenant)
        return tenant

    def _count(self, tenant: str, tokens: int) -> int:
        if tenant not in self._counts and len(self._counts) >= 4 * self._labels:
            least = min(self._counts, key=self._counts.__getitem__)
            self._counts[tenant] = self._counts.pop(least)
        self._counts[tenant] = self._counts.get(tenant, 0) + tokens
        return self._counts[tenant]
