"""Aliases of adapters in the database."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, select

from trellis.server.app.ports import Page
from trellis.server.domain.adapter import Alias
from trellis.server.store import tables
from trellis.server.store.pages import Keyset
from trellis.server.store.rows import named
from trellis.server.store.transaction import Rows, for_update as locked

_a = tables.aliases.c
_BY_ID = Keyset((_a.alias_id,))


def _read(row: Row[Any]) -> Alias:
    return Alias(**named(row))


def _is(tenant: str, alias_id: str) -> ColumnElement[bool]:
    return and_(_a.tenant == tenant, _a.alias_id == alias_id)


class AliasRows(Rows):
    """The part of ports.Adapters about aliases."""

    async def get_alias(self, tenant: str, alias_id: str, *, for_update: bool = False) -> Alias | None:
        statement = select(tables.aliases).where(_is(tenant, alias_id))
        row = await self._transaction.row(locked(statement) if for_update else statement)
        return _read(row) if row else None

    async def put_alias(self, alias: Alias) -> None:
        await self._transaction.put(tables.aliases, asdict(alias))

    async def list_aliases(self, tenant: str, limit: int, cursor: str | None) -> Page[Alias]:
        statement = select(tables.aliases).where(_a.tenant == tenant)
        return await self._transaction.page(_BY_ID, statement, limit, cursor, _read)

    async def delete_alias(self, tenant: str, alias_id: str) -> None:
        await self._transaction.change(delete(tables.aliases).where(_is(tenant, alias_id)))

    async def aliases_of(self, tenant: str, digest: str) -> Sequence[Alias]:
        statement = select(tables.aliases).where(_a.tenant == tenant, _a.adapter_digest == digest)
        return [_read(row) for row in await self._transaction.rows(statement.order_by(_a.alias_id))]
