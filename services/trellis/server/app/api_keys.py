"""API keys."""

from dataclasses import dataclass, replace
from datetime import datetime

from trellis.errors import InvalidArgument, NotFound
from trellis.names import PLATFORM, ApiKeyName, PlatformApiKeyName, TenantName
from trellis.server.app.audit import record
from trellis.server.app.authentication import secret_hash
from trellis.server.app.authorisation import require_cover
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations
from trellis.server.app.pages import Listed, PageQuery, read_page
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.tenants import present_tenant
from trellis.server.domain.caller import ApiKey, Caller, Role, Scope

PREFIX_LENGTH = 8
"""So much of a secret is shown, to recognise it by."""


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key to create; `role` is None where the request names none that a key can have."""

    parent: str
    display_name: str
    role: Role | None
    expire_time: datetime | None
    scopes: frozenset[Scope] = frozenset()
    """What it is narrowed to; all that its role may when empty."""


async def create_api_key(context: Context, caller: Caller, new: NewApiKey) -> tuple[ApiKey, str]:
    """Create a key; the answer has its secret, which nobody can read again.

    Nobody gives away more than they have: neither a role above their own nor a scope that they have not.
    """
    if new.role is not None:
        require_cover(caller, new.role, new.scopes)
    tenant = _tenant_of_parent(new.parent)
    secret = context.ids.new_secret("trk")
    key = ApiKey(
        key_id=context.ids.new_id("key"),
        tenant=tenant,
        role=_checked_role(context, new, tenant),
        display_name=new.display_name,
        prefix=secret[:PREFIX_LENGTH],
        secret_hash=secret_hash(secret),
        create_time=context.now(),
        expire_time=new.expire_time,
        scopes=new.scopes,
    )
    async with context.units() as unit:
        if tenant is not None:
            await present_tenant(unit, tenant)
        await unit.api_keys.add(key)
        await record(context, unit, None, key)
        await unit.commit()
    return key, secret


async def get_api_key(context: Context, name: str) -> ApiKey:
    """Read a key."""
    async with context.units(write=False) as unit:
        return await present_key(unit, name)


async def list_api_keys(context: Context, parent: str, query: PageQuery) -> Listed[ApiKey]:
    """The keys of a tenant, or the platform's, oldest first."""
    tenant = _tenant_of_parent(parent)
    async with context.units(write=False) as unit:
        if tenant is not None:
            await present_tenant(unit, tenant)
        return await read_page(
            f"ListApiKeys {parent}", query, lambda limit, cursor: unit.api_keys.list(tenant, limit, cursor)
        )


async def revoke_api_key(context: Context, name: str) -> ApiKey:
    """Revoke a key; again changes nothing."""
    async with context.units() as unit:
        key = await present_key(unit, name, for_update=True)
        if key.revoke_time is None:
            before, key = key, replace(key, revoke_time=context.now())
            await unit.api_keys.save(key)
            await record(context, unit, before, key)
            await unit.commit()
        return key


def _checked_role(context: Context, new: NewApiKey, tenant: str | None) -> Role:
    allowed = (Role.ADMIN,) if tenant is None else (Role.MEMBER, Role.TENANT_ADMIN)
    violations = Violations()
    violations.text(new.display_name, "api_key.display_name")
    if new.role not in allowed:
        violations.add("api_key.role", f"It must be {' or '.join(role.name for role in allowed)} under {new.parent}.")
    if new.expire_time is not None and new.expire_time <= context.now():
        violations.add("api_key.expire_time", "It must lie in the future.")
    violations.raise_any()
    assert new.role is not None
    return new.role


def _tenant_of_parent(parent: str) -> str | None:
    return None if parent == PLATFORM else TenantName.parse(parent, "parent").tenant


async def present_key(unit: UnitOfWork, name: str, *, for_update: bool = False) -> ApiKey:
    """The key; raises NotFound."""
    tenant, key_id = _parts(name)
    key = await unit.api_keys.get(tenant, key_id, for_update=for_update)
    if key is None:
        raise NotFound.for_resource(name)
    return key


def _parts(name: str) -> tuple[str | None, str]:
    try:
        return None, PlatformApiKeyName.parse(name).api_key
    except InvalidArgument:
        parsed = ApiKeyName.parse(name)
        return parsed.tenant, parsed.api_key
