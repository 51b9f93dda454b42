"""What each tenant may have, has had, and has left of its budgets, as of a round of the scheduler."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from trellis.server.app.budgets import BudgetState, in_limits_units, state_of
from trellis.server.app.ledger_reading import Sums
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
        settled: Mapping[Period, Mapping[str, Sums]],
        held: Mapping[str, Sums],
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
        return cls(now, settled, sums)

    def applied(self, tenant: Tenant, share: TenantShare) -> TenantShare:
        """The share with what is left of the tenant's budgets."""
        states = [self._state(tenant.tenant_id, budget) for budget in tenant.quota.budgets]
        left: dict[BudgetMeter, int] = {}
        ends: dict[BudgetMeter, datetime] = {}
        for state in states:
            meter, rest = state.budget.meter, state.left
            if rest is not None and (meter not in left or rest < left[meter]):
                left[meter], ends[meter] = rest, state.end_time
        return replace(
            share,
            budget_left={meter: in_limits_units(meter, rest) for meter, rest in left.items()},
            budget_ends=ends,
            over_soft_budget=any(state.is_over_soft for state in states),
        )

    def _state(self, tenant_id: str, budget: Budget) -> BudgetState:
        settled = self._settled[budget.period].get(tenant_id, {})
        return state_of(budget, settled, self._held.get(tenant_id, {}), self._now)
