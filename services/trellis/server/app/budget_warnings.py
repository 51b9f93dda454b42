"""What a tenant is told of budgets whose soft limit is reached: among the events of the jobs that it submits."""

from datetime import datetime

from trellis.names import TenantName
from trellis.server.app.budgets import UNITS, BudgetState, budget_states
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.quota import BudgetMeter
from trellis.server.domain.tenant import Tenant
from trellis.server.domain.tuning_job import EventLevel, JobEvent

_WORDS = {BudgetMeter.ACCELERATOR_SECONDS: "accelerator-seconds", BudgetMeter.TOKENS: "tokens"}


async def budget_warnings(unit: UnitOfWork, tenant: Tenant, now: datetime) -> list[JobEvent]:
    """A warning for each budget that is over its soft limit; no query for a tenant without one."""
    soft = any(budget.soft_limit is not None for budget in tenant.quota.budgets)
    if not soft:
        return []
    states = await budget_states(unit, {tenant.tenant_id: tenant.quota}, now)
    over = [state for state in states[tenant.tenant_id] if state.is_over_soft]
    return [JobEvent(now, EventLevel.WARNING, _sentence(tenant, state)) for state in over]


def _sentence(tenant: Tenant, state: BudgetState) -> str:
    budget, period = state.budget, state.budget.period.value.lower()
    used = state.settled // UNITS[budget.meter]
    return (
        f"{TenantName(tenant.tenant_id)} has used {used:,} {_WORDS[budget.meter]} of this {period}, of which {budget.soft_limit:,}"
        f" are its soft limit: until {state.end_time:%Y-%m-%d %H:%M} UTC its jobs go after those of tenants within theirs."
    )
