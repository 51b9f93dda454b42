"""Tenants in the database."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, delete, select, update

from trellis.server.app.ports import Page
from trellis.server.domain.quota import Budget, BudgetMeter, Period, Quota
from trellis.server.domain.tenant import Tenant
from trellis.server.store import tables
from trellis.server.store.failures import already_exists, expect_one
from trellis.server.store.pages import Keyset
from trellis.server.store.rows import in_batches, named
from trellis.server.store.transaction import Rows, for_update as locked

_t = tables.tenants.c
_OLDEST_FIRST = Keyset((_t.create_time, _t.tenant_id))


def read_tenant(row: Row[Any]) -> Tenant:
    """The tenant of a whole row."""
    values = named(row)
    return Tenant(**{**values, "quota": _quota(values["quota"] or {})})


def _quota(values: dict[str, Any]) -> Quota:
    budgets = (
        Budget(**{**budget, "meter": BudgetMeter(budget["meter"]), "period": Period(budget["period"])})
        for budget in values.get("budgets", ())
    )
    return Quota(**{**values, "budgets": tuple(budgets)})


class SqlTenants(Rows):
    """See ports.Tenants."""

    async def add(self, tenant: Tenant) -> None:
        if not await self._transaction.add(tables.tenants, asdict(tenant)):
            raise already_exists(f"tenants/{tenant.tenant_id}")

    async def get(self, tenant_id: str, *, for_update: bool = False) -> Tenant | None:
        statement = select(tables.tenants).where(_t.tenant_id == tenant_id)
        row = await self._transaction.row(locked(statement) if for_update else statement)
        return read_tenant(row) if row else None

    async def get_all(self, tenant_ids: Collection[str]) -> Mapping[str, Tenant]:
        found: dict[str, Tenant] = {}
        for some in in_batches(tenant_ids):
            rows = await self._transaction.rows(select(tables.tenants).where(_t.tenant_id.in_(some)))
            found |= {row.tenant_id: read_tenant(row) for row in rows}
        return found

    async def list(self, limit: int, cursor: str | None) -> Page[Tenant]:
        return await self._transaction.page(_OLDEST_FIRST, select(tables.tenants), limit, cursor, read_tenant)

    async def save(self, tenant: Tenant) -> None:
        statement = update(tables.tenants).where(_t.tenant_id == tenant.tenant_id).values(asdict(tenant))
        expect_one(await self._transaction.change(statement), f"tenants/{tenant.tenant_id}")

    async def delete(self, tenant_id: str) -> None:
        requests = tables.requests
        await self._transaction.change(delete(requests).where(requests.c.tenant == tenant_id))
        await self._transaction.change(delete(tables.tenants).where(_t.tenant_id == tenant_id))
