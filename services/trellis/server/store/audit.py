"""The audit trail in the database. Here are an INSERT and SELECTs; nothing else is ever done to the table."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, Select, or_, select

from trellis.server.app.ports import Page
from trellis.server.domain.audit import AuditEvent, AuditQuery
from trellis.server.store import tables
from trellis.server.store.pages import Keyset
from trellis.server.store.rows import named
from trellis.server.store.transaction import Rows

_e = tables.audit_events.c
_NEWEST_FIRST = Keyset((_e.sequence,), descending=True)
_OLDEST_FIRST = Keyset((_e.sequence,))


def _read(row: Row[Any]) -> AuditEvent:
    return AuditEvent(**named(row))


class SqlAuditTrail(Rows):
    """See ports.AuditTrail."""

    async def append(self, event: AuditEvent) -> None:
        values = asdict(event)
        del values["sequence"]
        await self._transaction.append(tables.audit_events, [values])

    async def list(self, query: AuditQuery, limit: int, cursor: str | None) -> Page[AuditEvent]:
        keyset = _NEWEST_FIRST if query.after_sequence is None else _OLDEST_FIRST
        return await self._transaction.page(keyset, _matching(query), limit, cursor, _read)


def _matching(query: AuditQuery) -> Select[Any]:
    statement = select(tables.audit_events).where(_e.sequence > (query.after_sequence or 0))
    if not query.everything:
        statement = statement.where(_e.tenant.is_(None) if query.tenant is None else _e.tenant == query.tenant)
    if query.start_time is not None:
        statement = statement.where(_e.time >= query.start_time)
    if query.end_time is not None:
        statement = statement.where(_e.time < query.end_time)
    if query.principal:
        statement = statement.where(_e.principal == query.principal)
    if query.method:
        by_last_part = _e.method.endswith(f"/{query.method}", autoescape=True)
        statement = statement.where(or_(_e.method == query.method, by_last_part))
    if query.resource:
        belongs_to_it = _e.resource.startswith(f"{query.resource}/", autoescape=True)
        statement = statement.where(or_(_e.resource == query.resource, belongs_to_it))
    return statement
