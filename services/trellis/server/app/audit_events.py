"""The audit trail, as it is read."""

from dataclasses import dataclass, replace

from trellis.names import ALL_TENANTS, PLATFORM, TenantName
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations
from trellis.server.app.pages import Listed, PageQuery, read_page
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.tenants import present_tenant
from trellis.server.domain.audit import AuditEvent, AuditQuery
from trellis.server.domain.caller import Caller, Role

_MAX_FILTER = 300
_PAGE = 100


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Of which parent, and which events; `query` says nothing of the tenant yet."""

    parent: str
    query: AuditQuery


async def list_audit_events(
    context: Context, caller: Caller, asked: AuditFilter, page: PageQuery
) -> Listed[AuditEvent]:
    """Events that the caller may see: a tenant's, for admins also the platform's or all."""
    _check(asked.query)
    async with context.units(write=False) as unit:
        query = await _within(unit, caller, asked)
        scope = f"ListAuditEvents {asked.parent} {asked.query}"
        listed = await read_page(
            scope, page, lambda limit, cursor: unit.audit.list(query, limit, cursor), default=_PAGE
        )
    return replace(listed, items=[_seen_by(caller, event) for event in listed.items])


def _seen_by(caller: Caller, event: AuditEvent) -> AuditEvent:
    """To tenants without the address of the platform's operators, who are no part of the tenant."""
    hides = event.role == Role.ADMIN.name and caller.role is not Role.ADMIN
    return replace(event, source="") if hides else event


def _check(query: AuditQuery) -> None:
    violations = Violations()
    for field in ("principal", "method", "resource"):
        violations.text(getattr(query, field), field, _MAX_FILTER)
    if query.after_sequence is not None and query.after_sequence < 0:
        violations.add("after_sequence", "It must not be negative.")
    violations.raise_any()


async def _within(unit: UnitOfWork, caller: Caller, asked: AuditFilter) -> AuditQuery:
    """The query, narrowed to its parent."""
    if asked.parent == ALL_TENANTS:
        return replace(asked.query, everything=True)
    if asked.parent == PLATFORM:
        return asked.query
    tenant_id = TenantName.parse(asked.parent, "parent").tenant
    query = replace(asked.query, tenant=tenant_id)
    if caller.role is Role.ADMIN:
        return query  # also of a tenant that is gone
    # An earlier tenant of the same name was somebody else.
    begin = (await present_tenant(unit, tenant_id)).create_time
    return replace(query, start_time=max(begin, query.start_time or begin))
