"""How much of its quota a tenant uses now."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from trellis.names import TenantName
from trellis.server.app.budgets import UNITS, BudgetState, budget_states
from trellis.server.app.context import Context
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.quota_ports import Kept
from trellis.server.app.tenants import present_tenant
from trellis.server.domain.rate import RateKind
from trellis.server.domain.tenant import Tenant

_MOST_COUNTED: Final = 10_000
"""Counting stops here, or at the limit where that is higher."""


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """How much of one limit is used, in its own unit."""

    limit: str
    """Its field in the quota, or `budgets.{meter}.{period}`."""
    used: float
    allowed: float | None = None
    """None where nothing binds."""
    soft: float | None = None
    held: float = 0.0
    """Beside what is used, for what has not ended."""
    period_end: datetime | None = None


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """A tenant, whose quota it is, and each limit."""

    tenant: Tenant
    limits: tuple[LimitStatus, ...]


async def get_quota_status(context: Context, name: str) -> QuotaStatus:
    """All limits but those that nothing is used of, which are the lending limit and the highest priority."""
    tenant_id = TenantName.parse(name).tenant
    async with context.units(write=False) as unit:
        tenant = await present_tenant(unit, tenant_id)
        limits = [limit async for limit in _limits(context, unit, tenant)]
    return QuotaStatus(tenant, tuple(limits))


async def _limits(context: Context, unit: UnitOfWork, tenant: Tenant) -> AsyncIterator[LimitStatus]:
    quota, used, tenant_id = tenant.quota, unit.used, tenant.tenant_id
    accelerators = await used.accelerators(tenant_id)
    yield LimitStatus("accelerators", accelerators, quota.accelerators)
    borrowed = 0.0 if quota.accelerators is None else max(0.0, accelerators - quota.accelerators)
    yield LimitStatus("borrowing_limit", borrowed, quota.borrowing_limit)
    running = context.settings.tenant_running_limit if quota.running_jobs is None else quota.running_jobs
    yield LimitStatus("running_jobs", await used.running_jobs(tenant_id, _most(running)), running)
    yield LimitStatus("open_jobs", await used.open_jobs(tenant_id, _most(quota.open_jobs)), quota.open_jobs)
    yield _bytes("dataset_bytes", await used.dataset_bytes(tenant_id), quota.dataset_bytes)
    yield _bytes("artifact_bytes", await used.artifact_bytes(tenant_id), quota.artifact_bytes)
    deployed = await used.deployed_adapters(tenant_id, _most(quota.deployed_adapters))
    yield LimitStatus("deployed_adapters", deployed, quota.deployed_adapters)
    for limit in await _rates(context, unit, tenant):
        yield limit
    for limit in await _budgets(context, unit, tenant):
        yield limit


def _most(allowed: int | None) -> int:
    return max(_MOST_COUNTED, allowed or 0)


def _bytes(limit: str, kept: Kept, allowed: int | None) -> LimitStatus:
    return LimitStatus(limit, kept.stored, allowed, held=kept.coming)


async def _rates(context: Context, unit: UnitOfWork, tenant: Tenant) -> list[LimitStatus]:
    """What is missing of a minute's worth; more than that where calls wait for their turn."""
    now = context.now().timestamp()
    buckets = await unit.rates.get(tenant.tenant_id)
    limits = []
    for kind in RateKind:
        name = f"{kind.value}_per_minute"
        rate: int | None = getattr(tenant.quota, name)
        bucket = buckets.get(kind)
        used = 0.0 if rate is None or bucket is None else rate - bucket.at(now, rate).level
        limits.append(LimitStatus(name, round(used, 3), rate))
    return limits


async def _budgets(context: Context, unit: UnitOfWork, tenant: Tenant) -> list[LimitStatus]:
    states = await budget_states(unit, {tenant.tenant_id: tenant.quota}, context.now())
    return [_budget(state) for state in states.get(tenant.tenant_id, ())]


def _budget(state: BudgetState) -> LimitStatus:
    budget, units = state.budget, UNITS[state.budget.meter]
    return LimitStatus(
        f"budgets.{budget.meter.value.lower()}.{budget.period.value.lower()}",
        state.settled / units,
        budget.hard_limit,
        budget.soft_limit,
        state.held / units,
        state.end_time,
    )
