"""Weighted dominant-resource fairness: whose turn is next (Ghodsi et al. 2011), with a decaying memory of past use."""

from math import exp2, log

from trellis.server.scheduler.accounts import Accounts
from trellis.server.scheduler.capacity import NOTHING, Resources
from trellis.server.scheduler.snapshot import SchedulerOptions, Snapshot


def foreseen_share(past_use: float, present: float, policy: SchedulerOptions) -> float:
    """The mean share that a tenant will have had, of late, if it keeps its present one for as long as a job lasts.

    `past_use` is in seconds, as TenantShare has it. What a tenant has had fades meanwhile. So one that holds nothing just
    now is not taken for one that never had anything, and those that have had nothing yet are compared by what they hold.
    With the plain sum of both, tenants with few jobs have more than their weight: they hold nothing between two jobs.
    """
    half_life = max(1.0, policy.half_life_seconds)
    fades = exp2(-policy.default_job_seconds / half_life)
    return past_use * log(2) / half_life * fades + present * (1 - fades)


class Shares:
    """Each tenant's share of the platform by its weight: what it holds, what it has had, and what waits in its name
    before others' jobs.

    A tenant's share is its dominant one: of CPUs or of GPUs, whichever it has the larger part of. What waits counts so
    that tenants' jobs alternate in the queue as they will when they run.
    """

    def __init__(self, accounts: Accounts, snapshot: Snapshot) -> None:
        self._accounts = accounts
        self._snapshot = snapshot
        self._foreseen: dict[str, Resources] = {}
        self._known: dict[str, float] = {}

    def of(self, tenant: str) -> float:
        """The tenant's share over its weight, as of now."""
        share = self._known.get(tenant)
        if share is None:
            account = self._accounts.of(tenant)
            held = account.held.plus(self._foreseen.get(tenant, NOTHING)).share_of(self._snapshot.capacity)
            foreseen = foreseen_share(account.share.past_use, held, self._snapshot.policy)
            # Rounded, so that equals are equal however their parts were added.
            share = self._known[tenant] = round(foreseen / max(account.share.weight, 1e-9), 12)
        return share

    def foresee(self, tenant: str, resources: Resources) -> None:
        """A job of the tenant waits for so much."""
        self._foreseen[tenant] = self._foreseen.get(tenant, NOTHING).plus(resources)
        self._known.pop(tenant, None)

    def changed(self, tenant: str) -> None:
        """The tenant holds something else than before."""
        self._known.pop(tenant, None)
