"""Base models in the database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, delete, select, update

from trellis.server.app.ports import Page
from trellis.server.domain.base_model import BaseModel
from trellis.server.store import tables
from trellis.server.store.failures import already_exists, expect_one
from trellis.server.store.live_jobs import LIVE, job_name
from trellis.server.store.pages import Keyset
from trellis.server.store.rows import in_batches, named
from trellis.server.store.transaction import Rows

_b = tables.base_models.c
_OLDEST_FIRST = Keyset((_b.create_time, _b.base_model_id))
_DEFAULT_LOCK = 0x7472_0001
_MOST_USERS = 10


def _read(row: Row[Any]) -> BaseModel:
    return BaseModel(**named(row))


class SqlBaseModels(Rows):
    """See ports.BaseModels."""

    async def add(self, base: BaseModel) -> None:
        if await self.get(base.base_model_id) is not None:
            raise already_exists(base.name)
        await self._make_room(base)
        if not await self._transaction.add(tables.base_models, asdict(base)):
            raise already_exists(base.name)

    async def get(self, base_model_id: str) -> BaseModel | None:
        row = await self._transaction.row(select(tables.base_models).where(_b.base_model_id == base_model_id))
        return _read(row) if row else None

    async def get_all(self, base_model_ids: Collection[str]) -> Mapping[str, BaseModel]:
        found: dict[str, BaseModel] = {}
        for some in in_batches(base_model_ids):
            rows = await self._transaction.rows(select(tables.base_models).where(_b.base_model_id.in_(some)))
            found |= {row.base_model_id: _read(row) for row in rows}
        return found

    async def default(self) -> BaseModel | None:
        row = await self._transaction.row(select(tables.base_models).where(_b.is_default))
        return _read(row) if row else None

    async def list(self, limit: int, cursor: str | None) -> Page[BaseModel]:
        return await self._transaction.page(_OLDEST_FIRST, select(tables.base_models), limit, cursor, _read)

    async def save(self, base: BaseModel) -> None:
        await self._make_room(base)
        statement = update(tables.base_models).where(_b.base_model_id == base.base_model_id).values(asdict(base))
        expect_one(await self._transaction.change(statement), base.name)

    async def delete(self, base_model_id: str) -> None:
        await self._transaction.change(delete(tables.base_models).where(_b.base_model_id == base_model_id))

    async def users(self, base_model_id: str) -> Sequence[str]:
        name = f"baseModels/{base_model_id}"
        a, e, j = tables.adapters.c, tables.exports.c, tables.tuning_jobs.c
        adapters = await self._transaction.rows(
            select(a.tenant, a.adapter_id).where(a.base_model == name).limit(_MOST_USERS)
        )
        jobs = await self._transaction.rows(
            select(j.tenant, j.job_id).where(j.state.in_(LIVE), j.base_model == name).limit(_MOST_USERS)
        )
        exports = await self._transaction.rows(
            select(e.tenant, e.export_id).where(e.base_model == name, e.end_time.is_(None)).limit(_MOST_USERS)
        )
        names = [f"tenants/{row.tenant}/adapters/{row.adapter_id}" for row in adapters]
        names += [job_name(row) for row in jobs]
        return [*names, *(f"tenants/{row.tenant}/exports/{row.export_id}" for row in exports)][:_MOST_USERS]

    async def _make_room(self, base: BaseModel) -> None:
        if not base.is_default:
            return
        await self._transaction.lock(_DEFAULT_LOCK)
        others = update(tables.base_models).where(_b.is_default, _b.base_model_id != base.base_model_id)
        await self._transaction.change(others.values(is_default=False))
