"""How much of tenants' budgets is used and held: the sums that admissions, extensions of holds and model calls are judged by.

Of holds and settlements, holds are read first: what is settled in between is then counted twice and not forgotten.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from trellis.server.app.ledger_reading import Sums
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.ledger import Meter
from trellis.server.domain.quota import Budget, BudgetMeter, Quota

METERS: Final[Mapping[BudgetMeter, tuple[Meter, ...]]] = {
    BudgetMeter.ACCELERATOR_SECONDS: (Meter.ACCELERATOR_MILLISECONDS,),
    BudgetMeter.TOKENS: (Meter.TRAINED_TOKENS, Meter.PROMPT_TOKENS, Meter.COMPLETION_TOKENS),
}
"""What counts against a budget."""
UNITS: Final[Mapping[BudgetMeter, int]] = {BudgetMeter.ACCELERATOR_SECONDS: 1000, BudgetMeter.TOKENS: 1}
"""The ledger's units in one of a budget's limit."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget, and what of it is taken in its present period, in the ledger's units."""

    budget: Budget
    settled: int
    held: int
    """For jobs that run or are being started."""
    end_time: datetime
    """When the next period begins."""

    @property
    def left(self) -> int | None:
        """What may still be held or used; None where nothing binds, negative when the limit was lowered."""
        limit = self.budget.hard_limit
        return None if limit is None else limit * UNITS[self.budget.meter] - self.settled - self.held

    @property
    def is_over_soft(self) -> bool:
        """Whether the soft limit is reached."""
        soft = self.budget.soft_limit
        return soft is not None and self.settled >= soft * UNITS[self.budget.meter]


async def budget_states(
    unit: UnitOfWork, quotas: Mapping[str, Quota], now: datetime
) -> Mapping[str, tuple[BudgetState, ...]]:
    """By tenant: the states of its budgets, in their order; with a few queries, however many tenants there are."""
    tenants = sorted(tenant for tenant, quota in quotas.items() if quota.budgets)
    if not tenants:
        return {}
    held = await unit.ledger.held_by_active(tenants)
    periods = {budget.period for tenant in tenants for budget in quotas[tenant].budgets}
    settled = {period: await unit.ledger.settled_since(tenants, period.start(now)) for period in sorted(periods)}
    return {
        tenant: tuple(
            state_of(budget, settled[budget.period].get(tenant, {}), held.get(tenant, {}), now)
            for budget in quotas[tenant].budgets
        )
        for tenant in tenants
    }


def state_of(budget: Budget, settled: Sums, held: Sums, now: datetime) -> BudgetState:
    """A budget's state, of what was settled in its period and what is held of the ledger's meters."""
    return BudgetState(
        budget, budget_sum(budget.meter, settled), budget_sum(budget.meter, held), budget.period.end(now)
    )


def in_limits_units(meter: BudgetMeter, quantity: int) -> float:
    """A quantity of the ledger's units as the scheduler takes it, in those of the budget's limit."""
    return quantity / UNITS[meter]


def budget_needs(held: Sums) -> dict[BudgetMeter, float]:
    """What is held of the ledger's meters, as what it takes of budgets, in the units of their limits."""
    sums = {meter: budget_sum(meter, held) for meter in METERS}
    return {meter: in_limits_units(meter, quantity) for meter, quantity in sums.items() if quantity}


def budget_sum(meter: BudgetMeter, sums: Sums) -> int:
    """What of these sums counts against a budget."""
    return sum(sums.get(each, 0) for each in METERS[meter])
