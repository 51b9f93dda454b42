"""Adapters and aliases."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from trellis.artifacts import MANIFEST_FILE, FileFacts
from trellis.errors import NotFound, Reason, error_for
from trellis.names import AdapterName, AliasName, TenantName
from trellis.server.app import keys
from trellis.server.app.adapter_manifest import manifest_of
from trellis.server.app.audit import record, unchanged
from trellis.server.app.authorisation import require_names
from trellis.server.app.context import Context
from trellis.server.app.etags import check_etag
from trellis.server.app.fields import Violations
from trellis.server.app.pages import Listed, PageQuery, read_page
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.quota import limited_tenant, require_deployment
from trellis.server.app.reading import read_pieces
from trellis.server.app.tenants import present_tenant
from trellis.server.domain.adapter import Adapter, Alias, Deployment
from trellis.server.domain.caller import Caller
from trellis.server.domain.tenant import Tenant


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A file of an adapter, and its bytes."""

    name: str
    facts: FileFacts
    pieces: AsyncIterator[bytes]


def alias_name(alias: Alias) -> str:
    """The alias's resource name."""
    return str(AliasName(alias.tenant, alias.alias_id))


async def get_adapter(context: Context, name: str) -> Adapter:
    """Read an adapter."""
    parsed = AdapterName.parse(name)
    async with context.units(write=False, snapshot=False) as unit:
        return await present_adapter(unit, parsed)


async def list_adapters(context: Context, parent: str, query: PageQuery) -> Listed[Adapter]:
    """A tenant's adapters, newest first."""
    tenant = TenantName.parse(parent, "parent").tenant
    async with context.units(write=False, snapshot=False) as unit:
        await present_tenant(unit, tenant)
        return await read_page(
            f"ListAdapters {parent}", query, lambda limit, cursor: unit.adapters.list(tenant, limit, cursor)
        )


async def download_adapter(context: Context, name: str) -> AsyncIterator[AdapterFile]:
    """An adapter's files, the manifest first."""
    adapter = await get_adapter(context, name)
    manifest = manifest_of(adapter)
    size = len(adapter.manifest_json.encode())
    files = {MANIFEST_FILE: FileFacts(adapter.digest, size), **manifest.files}
    for file, facts in files.items():
        yield AdapterFile(file, facts, read_pieces(context.store, f"{adapter.key}/{file}"))


async def delete_adapter(context: Context, name: str, etag: str) -> None:
    """Delete an adapter that nobody can call, with its files."""
    parsed = AdapterName.parse(name)
    async with context.units() as unit:
        adapter = await present_adapter(unit, parsed, for_update=True)
        check_etag(etag, name, adapter.create_time, adapter.revision)
        await _require_unused(unit, adapter)
        await unit.adapters.delete(adapter.tenant, adapter.adapter_id)
        await record(context, unit, adapter, None)
        await unit.commit()
    await asyncio.to_thread(context.store.delete_prefix, adapter.key)


async def deploy_adapter(context: Context, name: str) -> Adapter:
    """Want the adapter to be callable; the control loops make it so."""
    parsed = AdapterName.parse(name)
    async with context.units() as unit:
        tenant = await limited_tenant(unit, parsed.tenant, "deployed_adapters")
        adapter = await want_deployed(context, unit, tenant, await present_adapter(unit, parsed, for_update=True))
        await unit.commit()
    return adapter


async def undeploy_adapter(context: Context, name: str) -> Adapter:
    """Want the adapter not to be callable, from now on."""
    parsed = AdapterName.parse(name)
    async with context.units() as unit:
        adapter = await present_adapter(unit, parsed, for_update=True)
        if adapter.deployment is not Deployment.UNDEPLOYED:
            changed = replace(adapter, deployment=Deployment.UNDEPLOYED, deployment_message="")
            adapter = await _save(context, unit, adapter, changed)
            await unit.commit()
    return adapter


async def want_deployed(context: Context, unit: UnitOfWork, tenant: Tenant, adapter: Adapter) -> Adapter:
    """The adapter, wanted from now on, which was read for update, after its tenant. Raises QUOTA_EXCEEDED."""
    if adapter.deployment is not Deployment.UNDEPLOYED:
        unchanged()
        return adapter
    await require_deployment(unit, tenant)
    return await _save(context, unit, adapter, replace(adapter, deployment=Deployment.DEPLOYING))


async def set_alias(context: Context, caller: Caller, name: str, adapter: str, etag: str) -> Alias:
    """Point the alias at the adapter, from the next call on."""
    require_names(caller, adapter)
    violations = Violations()
    alias_of = violations.name(AliasName, name, "alias.name")
    points_at = violations.name(AdapterName, adapter, "alias.adapter")
    if alias_of and points_at and alias_of.tenant != points_at.tenant:
        violations.add("alias.adapter", f"{adapter} is not of the alias's tenant.")
    violations.raise_any()
    assert alias_of is not None
    assert points_at is not None
    async with context.units() as unit:
        # Locked, so that it is not deleted under the alias.
        present = await present_adapter(unit, points_at, for_update=True)
        before = await unit.adapters.get_alias(alias_of.tenant, alias_of.alias, for_update=True)
        _check_alias_etag(etag, name, before)
        alias = await point_alias(context, unit, alias_of.tenant, alias_of.alias, present.digest)
        await unit.commit()
    return alias


async def get_alias(context: Context, name: str) -> Alias:
    """Read an alias."""
    parsed = AliasName.parse(name)
    async with context.units(write=False, snapshot=False) as unit:
        return await present_alias(unit, parsed)


async def list_aliases(context: Context, parent: str, query: PageQuery) -> Listed[Alias]:
    """A tenant's aliases, by name."""
    tenant = TenantName.parse(parent, "parent").tenant
    async with context.units(write=False, snapshot=False) as unit:
        await present_tenant(unit, tenant)
        return await read_page(
            f"ListAliases {parent}", query, lambda limit, cursor: unit.adapters.list_aliases(tenant, limit, cursor)
        )


async def delete_alias(context: Context, name: str, etag: str) -> None:
    """Delete an alias; its adapter stays."""
    parsed = AliasName.parse(name)
    async with context.units() as unit:
        alias = await present_alias(unit, parsed, for_update=True)
        _check_alias_etag(etag, name, alias)
        await unit.adapters.delete_alias(alias.tenant, alias.alias_id)
        await record(context, unit, alias, None)
        await unit.commit()


async def point_alias(context: Context, unit: UnitOfWork, tenant: str, alias_id: str, digest: str) -> Alias:
    """The alias, which points at the adapter of this digest from now on."""
    before = await unit.adapters.get_alias(tenant, alias_id, for_update=True)
    revision = before.revision + 1 if before else 1
    alias = Alias(tenant, alias_id, digest, context.now(), revision)
    await unit.adapters.put_alias(alias)
    await record(context, unit, before, alias)
    return alias


async def present_adapter(unit: UnitOfWork, name: AdapterName, *, for_update: bool = False) -> Adapter:
    """The adapter; raises NotFound."""
    adapter = await unit.adapters.get(name.tenant, name.adapter, for_update=for_update)
    if adapter is None:
        raise NotFound.for_resource(name)
    return adapter


async def present_alias(unit: UnitOfWork, name: AliasName, *, for_update: bool = False) -> Alias:
    """The alias; raises NotFound."""
    alias = await unit.adapters.get_alias(name.tenant, name.alias, for_update=for_update)
    if alias is None:
        raise NotFound.for_resource(name)
    return alias


async def discard_files(context: Context, tenant: str, import_id: str) -> None:
    """Delete the files of an import that came to nothing."""
    await asyncio.to_thread(context.store.delete_prefix, keys.import_prefix(tenant, import_id))


async def _save(context: Context, unit: UnitOfWork, before: Adapter, adapter: Adapter) -> Adapter:
    changed = replace(adapter, revision=adapter.revision + 1)
    await unit.adapters.save(changed)
    await record(context, unit, before, changed)
    return changed


async def _require_unused(unit: UnitOfWork, adapter: Adapter) -> None:
    used_by = [alias_name(alias) for alias in await unit.adapters.aliases_of(adapter.tenant, adapter.digest)]
    if adapter.deployment is not Deployment.UNDEPLOYED:
        used_by.append("its deployment")
    if adapter.key in await unit.jobs.checkpoint_keys_in_use(adapter.tenant):
        used_by.append("a job that starts from it, or an export of it, which has not ended")
    if used_by:
        users = ", ".join(used_by)
        message = f"{adapter.name} is in use by {users}. Undeploy it, and move or delete its aliases first."
        raise error_for(Reason.RESOURCE_IN_USE, message, metadata={"used_by": users})


def _check_alias_etag(etag: str, name: str, alias: Alias | None) -> None:
    if etag and alias is None:
        raise NotFound.for_resource(name)
    if alias is not None:
        check_etag(etag, name, alias.update_time, alias.revision)
