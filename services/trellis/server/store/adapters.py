"""Adapters and aliases in the database."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, select, tuple_, update

from trellis.server.app.ports import Page
from trellis.server.domain.adapter import Adapter, Deployment
from trellis.server.store import tables
from trellis.server.store.aliases import AliasRows
from trellis.server.store.failures import expect_one
from trellis.server.store.pages import Keyset
from trellis.server.store.rows import named
from trellis.server.store.shares import ShareRows
from trellis.server.store.transaction import for_update as locked

_a = tables.adapters.c
_NEWEST_FIRST = Keyset((_a.create_time, _a.adapter_id), descending=True)
_WANTED = tuple(deployment for deployment in Deployment if deployment is not Deployment.UNDEPLOYED)


def _read(row: Row[Any]) -> Adapter:
    values = {name: value for name, value in named(row).items() if name != "adapter_id"}
    return Adapter(**{**values, "target_modules": tuple(row.target_modules)})


def _write(adapter: Adapter) -> dict[str, Any]:
    return {**asdict(adapter), "adapter_id": adapter.adapter_id}


def _is(tenant: str, adapter_id: str) -> ColumnElement[bool]:
    return and_(_a.tenant == tenant, _a.adapter_id == adapter_id)


class SqlAdapters(AliasRows, ShareRows):
    """See ports.Adapters."""

    async def add(self, adapter: Adapter) -> bool:
        return await self._transaction.add(tables.adapters, _write(adapter))

    async def get(self, tenant: str, adapter_id: str, *, for_update: bool = False) -> Adapter | None:
        statement = select(tables.adapters).where(_is(tenant, adapter_id))
        row = await self._transaction.row(locked(statement) if for_update else statement)
        return _read(row) if row else None

    async def list(self, tenant: str, limit: int, cursor: str | None) -> Page[Adapter]:
        statement = select(tables.adapters).where(_a.tenant == tenant)
        return await self._transaction.page(_NEWEST_FIRST, statement, limit, cursor, _read)

    async def save(self, adapter: Adapter) -> None:
        where = _is(adapter.tenant, adapter.adapter_id)
        statement = update(tables.adapters).where(where).values(_write(adapter))
        expect_one(await self._transaction.change(statement), adapter.name)

    async def delete(self, tenant: str, adapter_id: str) -> None:
        await self._transaction.change(delete(tables.adapters).where(_is(tenant, adapter_id)))

    async def wanted(self) -> Sequence[Adapter]:
        statement = select(tables.adapters).where(_a.deployment.in_(_WANTED)).order_by(_a.create_time, _a.digest)
        return [_read(row) for row in await self._transaction.rows(statement)]

    async def shared_with(self, tenant: str, limit: int, cursor: str | None) -> Page[Adapter]:
        shares = await self._shares_with(tenant, limit, cursor)
        keys = [(share.owner, share.digest) for share in shares.items]
        rows = await self._transaction.rows(select(tables.adapters).where(tuple_(_a.tenant, _a.digest).in_(keys)))
        found = {(adapter.tenant, adapter.digest): adapter for adapter in map(_read, rows)}
        return Page([found[key] for key in keys if key in found], shares.next_cursor)
