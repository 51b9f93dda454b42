"""Tenants."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from trellis.errors import NotFound, Reason, error_for
from trellis.names import PLATFORM, TenantName
from trellis.server.app import keys
from trellis.server.app.asked_quota import AskedQuota, checked_quota
from trellis.server.app.audit import record
from trellis.server.app.context import Context
from trellis.server.app.etags import check_etag
from trellis.server.app.fields import Violations
from trellis.server.app.idempotency import RequestKey, create_once
from trellis.server.app.pages import Listed, PageQuery, read_page
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.quota import DEFAULT_TRAINING_WEIGHT
from trellis.server.domain.tenant import DEFAULT_SERVING_WEIGHT, Tenant

_DEFAULT_WEIGHTS: Final = {"serving_weight": DEFAULT_SERVING_WEIGHT, "training_weight": DEFAULT_TRAINING_WEIGHT}
_LEAST_WEIGHT: Final = 0.01
_MOST_WEIGHT: Final = 100.0


async def create_tenant(
    context: Context,
    tenant_id: str,
    display_name: str,
    key: RequestKey,
    *,
    serving_weight: float = 0.0,
    training_weight: float = 0.0,
    cohort: str = "",
    quota: AskedQuota | None = None,
) -> Tenant:
    """Create a tenant; a weight of 0 stands for the default, and without a quota nothing binds."""
    violations = Violations()
    violations.id("tenant", tenant_id, "tenant_id")
    if tenant_id == PLATFORM:
        violations.add("tenant_id", f"{PLATFORM!r} is the platform's own name.")
    wanted = {
        "display_name": display_name,
        "serving_weight": serving_weight,
        "training_weight": training_weight,
        "cohort": cohort,
        "quota": quota,
    }
    chosen = _checked(wanted, violations)
    key.check(violations)
    violations.raise_any()

    async def create(unit: UnitOfWork) -> tuple[str, Tenant]:
        tenant = Tenant(tenant_id, create_time=context.now(), **chosen)
        await unit.tenants.add(tenant)
        await record(context, unit, None, tenant)
        return _name_of(tenant), tenant

    async def read(unit: UnitOfWork, name: str) -> Tenant:
        return await present_tenant(unit, TenantName.parse(name).tenant)

    return await create_once(context, "CreateTenant", key, create, read)


async def get_tenant(context: Context, name: str) -> Tenant:
    """Read a tenant."""
    tenant_id = TenantName.parse(name).tenant
    async with context.units(write=False, snapshot=False) as unit:
        return await present_tenant(unit, tenant_id)


async def list_tenants(context: Context, query: PageQuery) -> Listed[Tenant]:
    """All tenants, oldest first."""
    async with context.units(write=False, snapshot=False) as unit:
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
            await record(context, unit, tenant, changed)
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
        await record(context, unit, tenant, None)
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
    changes = _checked({path: value for path, value in wanted.items() if path in paths}, violations)
    violations.raise_any()
    return changes


def _checked(wanted: Mapping[str, Any], violations: Violations) -> dict[str, Any]:
    """The tenant's fields, of those that are asked for; what is wrong with them is noted."""
    fields = dict(wanted)
    violations.text(fields.get("display_name", ""), "tenant.display_name")
    for name, default in _DEFAULT_WEIGHTS.items():
        if name in fields:
            _check_weight(name, fields[name], violations)
            fields[name] = fields[name] or default
    if fields.get("cohort"):
        violations.id("cohort", fields["cohort"], "tenant.cohort")
    if "quota" in fields:
        fields["quota"] = checked_quota(fields["quota"], violations)
    return fields


def _check_weight(name: str, weight: float, violations: Violations) -> None:
    if weight and not (math.isfinite(weight) and _LEAST_WEIGHT <= weight <= _MOST_WEIGHT):
        violations.add(f"tenant.{name}", f"{weight} is not between {_LEAST_WEIGHT} and {_MOST_WEIGHT:g}.")


def _name_of(tenant: Tenant) -> str:
    return str(TenantName(tenant.tenant_id))
