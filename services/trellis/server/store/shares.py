"""Which tenants may call whose adapters, in the database."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, delete, select

from trellis.server.app.ports import Page
from trellis.server.domain.adapter import AdapterShare
from trellis.server.store import tables
from trellis.server.store.pages import Keyset
from trellis.server.store.rows import named
from trellis.server.store.transaction import Rows

_s, _t = tables.adapter_shares.c, tables.tenants.c
_OF_AN_ADAPTER = Keyset((_s.create_time, _s.tenant))
_WITH_A_TENANT = Keyset((_s.create_time, _s.owner, _s.digest))


def _read(row: Row[Any]) -> AdapterShare:
    return AdapterShare(**named(row))


def _is(owner: str, digest: str, tenant: str) -> ColumnElement[bool]:
    return and_(_s.owner == owner, _s.digest == digest, _s.tenant == tenant)


def _live() -> Select[Any]:
    """Shares with tenants that there are. One of an earlier tenant of the same name is none of the present one's."""
    guests = and_(_t.tenant_id == _s.tenant, _t.create_time <= _s.create_time)
    return select(tables.adapter_shares).join(tables.tenants, guests)


class ShareRows(Rows):
    """The part of ports.Adapters about shares."""

    async def put_share(self, share: AdapterShare) -> None:
        await self._transaction.put(tables.adapter_shares, asdict(share))

    async def delete_share(self, owner: str, digest: str, tenant: str) -> AdapterShare | None:
        row = await self._transaction.row(select(tables.adapter_shares).where(_is(owner, digest, tenant)))
        if row is None:
            return None
        await self._transaction.change(delete(tables.adapter_shares).where(_is(owner, digest, tenant)))
        return _read(row)

    async def shares_of(self, owner: str, digest: str, limit: int, cursor: str | None) -> Page[AdapterShare]:
        statement = select(tables.adapter_shares).where(_s.owner == owner, _s.digest == digest)
        return await self._transaction.page(_OF_AN_ADAPTER, statement, limit, cursor, _read)

    async def is_shared(self, owner: str, digest: str, tenant: str) -> bool:
        return await self._transaction.row(_live().where(_is(owner, digest, tenant))) is not None

    async def _shares_with(self, tenant: str, limit: int, cursor: str | None) -> Page[AdapterShare]:
        return await self._transaction.page(_WITH_A_TENANT, _live().where(_s.tenant == tenant), limit, cursor, _read)
