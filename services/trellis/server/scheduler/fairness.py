"""Weighted dominant-resource fairness: whose turn is next (Ghodsi et al. 2011), with a decaying memory of past use."""

from trellis.server.scheduler.accounts import Accounts
from trellis.server.scheduler.capacity import NOTHING, Resources


class Shares:
    """Each tenant's share of the platform by its weight: what it holds, what it has had, and what waits in its name
    before others' jobs.

    A tenant's share is its dominant one: of CPUs or of GPUs, whichever it has the larger part of. What it has had counts
    as the mean share that it had over the time that is remembered. What waits counts so that tenants' jobs alternate
    in the queue as they will when they run.
    """

    def __init__(self, accounts: Accounts, capacity: Resources) -> None:
        self._accounts = accounts
        self._capacity = capacity
        self._foreseen: dict[str, Resources] = {}
        self._known: dict[str, float] = {}

    def of(self, tenant: str) -> float:
        """The tenant's share over its weight, as of now."""
        share = self._known.get(tenant)
        if share is None:
            account = self._accounts.of(tenant)
            held = account.held.plus(self._foreseen.get(tenant, NOTHING))
            present = held.share_of(self._capacity) + self._accounts.past_share(tenant)
            # Rounded, so that equals are equal however their parts were added.
            share = self._known[tenant] = round(present / max(account.share.weight, 1e-9), 9)
        return share

    def foresee(self, tenant: str, resources: Resources) -> None:
        """A job of the tenant waits for so much."""
        self._foreseen[tenant] = self._foreseen.get(tenant, NOTHING).plus(resources)
        self._known.pop(tenant, None)

    def changed(self, tenant: str) -> None:
        """The tenant holds something else than before."""
        self._known.pop(tenant, None)
