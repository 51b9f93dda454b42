"""Adapters that tenants let others call."""

from dataclasses import replace
from typing import Final

from trellis.errors import InvalidArgument, Reason, error_for
from trellis.names import AdapterName, AliasName, TenantName, tenant_of
from trellis.server.app.adapters import get_adapter, present_adapter
from trellis.server.app.audit import record
from trellis.server.app.authorisation import require_tenant
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations
from trellis.server.app.pages import Listed, PageQuery, read_page
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.tenants import present_tenant
from trellis.server.domain.adapter import Adapter, AdapterShare
from trellis.server.domain.caller import Caller

MAX_SHARES: Final = 1000
"""With so many tenants an adapter is shared at the most, there or not."""


async def share_adapter(context: Context, name: str, guest: str) -> AdapterShare:
    """Let another tenant call the adapter; says nothing of whether there is such a tenant. Again renews the time."""
    parsed, tenant_id = _parse(name, guest)
    async with context.units() as unit:
        adapter = await present_adapter(unit, parsed, for_update=True)
        await _check_room(unit, adapter, tenant_id)
        share = AdapterShare(adapter.tenant, adapter.digest, tenant_id, context.now())
        await unit.adapters.put_share(share)
        await record(context, unit, None, share)
        await unit.commit()
    return share


async def revoke_share(context: Context, name: str, guest: str) -> None:
    """End a share, from the next call on; again changes nothing."""
    parsed, tenant_id = _parse(name, guest)
    async with context.units() as unit:
        adapter = await present_adapter(unit, parsed, for_update=True)
        ended = await unit.adapters.delete_share(adapter.tenant, adapter.digest, tenant_id)
        if ended is not None:
            await record(context, unit, ended, None)
            await unit.commit()


async def list_shares(context: Context, parent: str, query: PageQuery) -> Listed[AdapterShare]:
    """With whom an adapter is shared, oldest first."""
    parsed = AdapterName.parse(parent, "parent")
    async with context.units(write=False) as unit:
        adapter = await present_adapter(unit, parsed)
        return await read_page(
            f"ListAdapterShares {parent}",
            query,
            lambda limit, cursor: unit.adapters.shares_of(adapter.tenant, adapter.digest, limit, cursor),
        )


async def list_shared_adapters(context: Context, parent: str, query: PageQuery) -> Listed[Adapter]:
    """The adapters of others that a tenant may call, as guests see them, oldest share first."""
    tenant_id = TenantName.parse(parent, "parent").tenant
    async with context.units(write=False) as unit:
        await present_tenant(unit, tenant_id)
        page = await read_page(
            f"ListSharedAdapters {parent}",
            query,
            lambda limit, cursor: unit.adapters.shared_with(tenant_id, limit, cursor),
        )
    return replace(page, items=[seen_by_guests(adapter) for adapter in page.items])


async def visible_adapter(context: Context, caller: Caller, name: str) -> Adapter:
    """The adapter as the caller may see it: one of another tenant as guests see it. Raises NotFound, PermissionDenied."""
    owner = tenant_of(name)
    if owner is None or caller.may_touch(owner):
        return await get_adapter(context, name)
    async with context.units(write=False) as unit:
        return seen_by_guests(await shared_adapter(unit, caller, name))


async def require_shared(context: Context, caller: Caller, name: str) -> None:
    """Raise PermissionDenied unless the caller may touch what is named, or it is an adapter that is shared with it."""
    async with context.units(write=False) as unit:
        await shared_adapter(unit, caller, name)


async def shared_adapter(unit: UnitOfWork, caller: Caller, name: str) -> Adapter:
    """The adapter of another tenant that a caller means by its name or by an alias.

    Raises PermissionDenied, in the same words whether it is not shared or not there.
    """
    owner = tenant_of(name)
    adapter = await _named(unit, name)
    if adapter is None or caller.tenant is None or not await _is_shared(unit, adapter, caller.tenant):
        require_tenant(caller, owner)
        raise AssertionError(f"{name} is the caller's own, and no question of shares")
    return adapter


def seen_by_guests(adapter: Adapter) -> Adapter:
    """Without what tells of the owner's data and jobs."""
    return replace(adapter, tuning_job="", manifest_json="{}", deployment_message="")


async def _check_room(unit: UnitOfWork, adapter: Adapter, tenant: str) -> None:
    present = (await unit.adapters.shares_of(adapter.tenant, adapter.digest, MAX_SHARES, None)).items
    if len(present) >= MAX_SHARES and tenant not in {share.tenant for share in present}:
        message = f"{adapter.name} is shared with {MAX_SHARES} tenants, which is the most. End one of its shares first."
        raise error_for(Reason.INVALID_STATE, message, metadata={"resource": adapter.name})


async def _is_shared(unit: UnitOfWork, adapter: Adapter, tenant: str) -> bool:
    return await unit.adapters.is_shared(adapter.tenant, adapter.digest, tenant)


async def _named(unit: UnitOfWork, name: str) -> Adapter | None:
    try:
        if "/aliases/" not in name:
            parsed = AdapterName.parse(name)
            return await unit.adapters.get(parsed.tenant, parsed.adapter)
        alias_name = AliasName.parse(name)
    except InvalidArgument:
        return None
    alias = await unit.adapters.get_alias(alias_name.tenant, alias_name.alias)
    if alias is None:
        return None
    return await unit.adapters.get(alias.tenant, AdapterName.for_digest(alias.tenant, alias.adapter_digest).adapter)


def _parse(name: str, guest: str) -> tuple[AdapterName, str]:
    violations = Violations()
    adapter = violations.name(AdapterName, name, "name")
    tenant = violations.name(TenantName, guest, "tenant")
    if adapter and tenant and adapter.tenant == tenant.tenant:
        violations.add("tenant", f"{tenant} has the adapter; name the tenant that may call it.")
    violations.raise_any()
    assert adapter is not None
    assert tenant is not None
    return adapter, tenant.tenant
