"""What each tenant may have, has had, and has left of its budgets, as of a round of the scheduler."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from trellis.server.app.ports import UnitOfWork
from trellis.server.app.queue_ports import JobHold
from trellis.server.domain.fair_share import FairShare
from trellis.server.domain.ledger import Meter
from trellis.server.domain.quota import Budget, BudgetMeter, Period
from trellis.server.domain.tenant import Tenant
from trellis.server.scheduler.past_use import PastUse
from trellis.server.scheduler.snapshot import TenantShare

_REMEMBERED_EVERY: Final = timedelta(seconds=5)
"""Past use is written so often; in between it is reckoned from what is held."""
_UNITS: Final[Mapping[Meter, tuple[BudgetMeter, float]]] = {
    Meter.ACCELERATOR_MILLISECONDS: (BudgetMeter.ACCELERATOR_SECONDS, 1e-3),
    Meter.TRAINED_TOKENS: (BudgetMeter.TOKENS, 1.0),
    Meter.PROMPT_TOKENS: (BudgetMeter.TOKENS, 1.0),
    Meter.COMPLETION_TOKENS: (BudgetMeter.TOKENS, 1.0),
}
"""Which budget a meter counts against, and how much of it a unit is."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A part of the platform that a job holds."""

    tenant: str
    share: float
    """The dominant one."""
    since: datetime


@dataclass(frozen=True, slots=True)
class Shares:
    """The tenants' shares, and what of them is to be remembered."""

    by_tenant: Mapping[str, TenantShare]
    grown: Sequence[FairShare]


async def tenant_shares(
    unit: UnitOfWork,
    now: datetime,
    holdings: Collection[Holding],
    held: Sequence[JobHold],
    half_life_seconds: float,
) -> Shares:
    """Of the tenants that the decision is about; `held` is what the ledger holds for jobs that run or are started."""
    tenants = await unit.queue.tenants()
    past = await unit.fair_shares.of_waiting()
    use = _use_until(now, past, holdings, half_life_seconds)
    budgets = await _Budgets.of(unit, now, tenants, held)
    shares = {
        tenant.tenant_id: budgets.applied(
            tenant,
            TenantShare(
                weight=tenant.training_weight,
                quota=tenant.quota,
                cohort=tenant.cohort,
                past_use=use.get(tenant.tenant_id, 0.0),
            ),
        )
        for tenant in tenants
    }
    old = {holding.tenant for holding in holdings if _is_old(past.get(holding.tenant), now)}
    return Shares(shares, [FairShare(tenant, use[tenant], now) for tenant in sorted(old & shares.keys())])


def budget_needs(held: Mapping[Meter, int]) -> dict[BudgetMeter, float]:
    """What is held of the ledger's meters, as what it takes of budgets."""
    found: dict[BudgetMeter, float] = defaultdict(float)
    for meter, quantity in held.items():
        if meter in _UNITS:
            budget, unit = _UNITS[meter]
            found[budget] += quantity * unit
    return dict(found)


def _is_old(past: FairShare | None, now: datetime) -> bool:
    return past is None or now - past.time >= _REMEMBERED_EVERY


def _use_until(
    now: datetime, past: Mapping[str, FairShare], holdings: Collection[Holding], half_life_seconds: float
) -> Mapping[str, float]:
    """By tenant: what it had when it was last written, faded, with what it has held since then."""
    uses = PastUse(half_life_seconds, {tenant: share.past_use for tenant, share in past.items()})
    since = {holding.tenant: holding.since for holding in sorted(holdings, key=lambda one: one.since, reverse=True)}
    origins = since | {tenant: share.time for tenant, share in past.items()}

    def seconds(tenant: str, time: datetime) -> float:
        return max(0.0, (time - origins[tenant]).total_seconds())

    for holding in sorted(holdings, key=lambda one: one.since):
        uses.hold(holding.tenant, holding.share, seconds(holding.tenant, holding.since))
    return {tenant: uses.of(tenant, seconds(tenant, now)) for tenant in origins}


class _Budgets:
    """What is left of the budgets of those tenants that have some."""

    def __init__(
        self,
        now: datetime,
        settled: Mapping[Period, Mapping[str, Mapping[Meter, int]]],
        held: Mapping[str, Mapping[BudgetMeter, float]],
    ) -> None:
        self._now = now
        self._settled = settled
        self._held = held

    @classmethod
    async def of(
        cls, unit: UnitOfWork, now: datetime, tenants: Sequence[Tenant], held: Sequence[JobHold]
    ) -> "_Budgets":
        concerned = [tenant for tenant in tenants if tenant.quota.budgets]
        ids = [tenant.tenant_id for tenant in concerned]
        periods = {budget.period for tenant in concerned for budget in tenant.quota.budgets}
        settled = {period: await unit.ledger.settled_since(ids, period.start(now)) for period in sorted(periods)}
        sums: dict[str, dict[Meter, int]] = defaultdict(lambda: defaultdict(int))
        for hold in held:
            sums[hold.tenant][hold.meter] += hold.quantity
        return cls(now, settled, {tenant: budget_needs(of_tenant) for tenant, of_tenant in sums.items()})

    def applied(self, tenant: Tenant, share: TenantShare) -> TenantShare:
        """The share with what is left of the tenant's budgets."""
        left: dict[BudgetMeter, float] = {}
        ends: dict[BudgetMeter, datetime] = {}
        held = self._held.get(tenant.tenant_id, {})
        for budget in tenant.quota.budgets:
            if budget.hard_limit is None:
                continue
            rest = budget.hard_limit - self._used(tenant, budget) - held.get(budget.meter, 0.0)
            if rest < left.get(budget.meter, float("inf")):
                left[budget.meter], ends[budget.meter] = rest, budget.period.end(self._now)
        over = any(
            budget.soft_limit is not None and self._used(tenant, budget) >= budget.soft_limit
            for budget in tenant.quota.budgets
        )
        return replace(share, budget_left=left, budget_ends=ends, over_soft_budget=over)

    def _used(self, tenant: Tenant, budget: Budget) -> float:
        settled = self._settled[budget.period].get(tenant.tenant_id, {})
        return budget_needs(settled).get(budget.meter, 0.0)
