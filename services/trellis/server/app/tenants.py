"""Tenants."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from trellis.errors import NotFound, Reason, error_for
from trellis.names import PLATFORM, TenantName
from trellis.server.app import keys
from trellis.server.app.context import Context
from trellis.server.app.etags import check_etag
from trellis.server.app.fields import Violations
from trellis.server.app.idempotency import RequestKey, create_once
from trellis.server.app.pages import Listed, PageQuery, read_page
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.tenant import DEFAULT_SERVING_WEIGHT, Tenant

_LEAST_WEIGHT: Final = 0.01
_MOST_WEIGHT: Final = 100.0


async def create_tenant(
    context: Context, tenant_id: str, display_name: str, key: RequestKey, *, serving_weight: float = 0.0
) -> Tenant:
    """Create a tenant; a weight of 0 stands for the default."""
    violations = Violations()
    violations.id("tenant", tenant_id, "tenant_id")
    if tenant_id == PLATFORM:
        violations.add("tenant_id", f"{PLATFORM!r} is the platform's own name.")
    violations.text(display_name, "tenant.display_name")
    _check_weight(serving_weight, violations)
    key.check(violations)
    violations.raise_any()

    async def create(unit: UnitOfWork) -> tuple[str, Tenant]:
        weight = serving_weight or DEFAULT_SERVING_WEIGHT
        tenant = Tenant(tenant_id, display_name, context.now(), serving_weight=weight)
        await unit.tenants.add(tenant)
        return _name_of(tenant), tenant

    async def read(unit: UnitOfWork, name: str) -> Tenant:
        return await present_tenant(unit, TenantName.parse(name).tenant)

    return await create_once(context, "CreateTenant", key, create, read)


async def get_tenant(context: Context, name: str) -> Tenant:
    """Read a tenant."""
    tenant_id = TenantName.parse(name).tenant
    async with context.units(write=False) as unit:
        return await present_tenant(unit, tenant_id)


async def list_tenants(context: Context, query: PageQuery) -> Listed[Tenant]:
    """All tenants, oldest first."""
    async with context.units(write=False) as unit:
        return await read_page("ListTenants", query, unit.tenants.list)


async def update_tenant(
    context: Context, name: str, etag: str, wanted: Mapping[str, Any], mask: Sequence[str]
) -> Tenant:
    """Change the fields that the mask names, or with none those that have a value; `*` is all of them."""
    tenant_id = TenantName.parse(name, "tenant.name").tenant
    changes = _changes(wanted, mask)
    async with context.units() as unit:
        tenant = await present_tenant(unit, tenant_id, for_update=True)
        check_etag(etag, name, tenant.create_time, tenant.revision)
        changed = replace(tenant, **changes)
        if changed != tenant:
            changed = replace(changed, revision=tenant.revision + 1)
            await unit.tenants.save(changed)
            await unit.commit()
    return changed


async def delete_tenant(context: Context, name: str, etag: str, *, force: bool) -> None:
    """Delete a tenant; with `force` with all that it has. Its runs are then nobody's, and the reaper stops them."""
    tenant_id = TenantName.parse(name).tenant
    async with context.units() as unit:
        tenant = await present_tenant(unit, tenant_id)
        check_etag(etag, name, tenant.create_time, tenant.revision)
        if not force:
            await _require_empty(unit, tenant_id)
        await unit.tenants.delete(tenant_id)
        await unit.commit()
    await asyncio.to_thread(context.store.delete_prefix, keys.tenant_prefix(tenant_id))


async def present_tenant(unit: UnitOfWork, tenant_id: str, *, for_update: bool = False) -> Tenant:
    """The tenant; raises NotFound."""
    tenant = await unit.tenants.get(tenant_id, for_update=for_update)
    if tenant is None:
        raise NotFound.for_resource(TenantName(tenant_id))
    return tenant


async def _require_empty(unit: UnitOfWork, tenant_id: str) -> None:
    held = {
        "datasets": (await unit.datasets.list(tenant_id, 1, None)).items,
        "tuningJobs": (await unit.jobs.list(tenant_id, (), 1, None)).items,
        "adapters": (await unit.adapters.list(tenant_id, 1, None)).items,
    }
    kinds = ", ".join(kind for kind, items in held.items() if items)
    if kinds:
        message = f"{TenantName(tenant_id)} still has {kinds}. Delete them first, or set force."
        raise error_for(Reason.RESOURCE_IN_USE, message, metadata={"used_by": kinds})


def _changes(wanted: Mapping[str, Any], mask: Sequence[str]) -> Mapping[str, Any]:
    paths = set(wanted) if "*" in mask else set(mask) or {path for path, value in wanted.items() if value}
    violations = Violations()
    for path in sorted(paths - wanted.keys()):
        violations.add("update_mask", f"{path[:50]!r} can't be changed, but {', '.join(sorted(wanted))} can.")
    changes = {path: value for path, value in wanted.items() if path in paths}
    violations.text(changes.get("display_name", ""), "tenant.display_name")
    if "serving_weight" in changes:
        _check_weight(changes["serving_weight"], violations)
        changes["serving_weight"] = changes["serving_weight"] or DEFAULT_SERVING_WEIGHT
    violations.raise_any()
    return changes


def _check_weight(weight: float, violations: Violations) -> None:
    if weight and not (math.isfinite(weight) and _LEAST_WEIGHT <= weight <= _MOST_WEIGHT):
        violations.add("tenant.serving_weight", f"{weight} is not between {_LEAST_WEIGHT} and {_MOST_WEIGHT:g}.")


def _name_of(tenant: Tenant) -> str:
    return str(TenantName(tenant.tenant_id))
