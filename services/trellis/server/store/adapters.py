"""Adapters and aliases in the database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, exists, literal, or_, select, tuple_, update

from trellis.names import AdapterName, AliasName
from trellis.server.app.ports import Page
from trellis.server.domain.adapter import Adapter, Deployment
from trellis.server.store import tables
from trellis.server.store.aliases import AliasRows
from trellis.server.store.failures import expect_one
from trellis.server.store.pages import Keyset
from trellis.server.store.rows import in_batches, named
from trellis.server.store.shares import ShareRows
from trellis.server.store.transaction import for_update as locked
from trellis.wanted_adapters import WantedAdapter

_a = tables.adapters.c
_l = tables.aliases.c
_NEWEST_FIRST = Keyset((_a.create_time, _a.adapter_id), descending=True)
_NAMES = ("adapter_id", "alias_id")
"""Which follow from the digest, or are another thing's."""
_PAIRS_AT_ONCE = 32
"""Neither database finds pairs by an index: what is made of them crosswise is looked for too, and not taken."""
_WANTED = tuple(deployment for deployment in Deployment if deployment is not Deployment.UNDEPLOYED)


def _read(row: Row[Any]) -> Adapter:
    values = {name: value for name, value in named(row).items() if name not in _NAMES}
    return Adapter(**{**values, "target_modules": tuple(row.target_modules)})


def _write(adapter: Adapter) -> dict[str, Any]:
    return {**asdict(adapter), "adapter_id": adapter.adapter_id}


def _is(tenant: str, adapter_id: str) -> ColumnElement[bool]:
    return and_(_a.tenant == tenant, _a.adapter_id == adapter_id)


def _is_news(base_model: str, deployment: Deployment, message: str) -> ColumnElement[bool]:
    """That a wanted adapter of the base model does not say this."""
    says_another: ColumnElement[bool] = _a.deployment.in_([other for other in _WANTED if other is not deployment])
    if deployment is not Deployment.DEPLOYED:  # which has no message: those that are so are not looked at
        says_another = or_(says_another, and_(_a.deployment == deployment, _a.deployment_message != message))
    return and_(_a.base_model == base_model, says_another)


class SqlAdapters(AliasRows, ShareRows):
    """See ports.Adapters."""

    async def add(self, adapter: Adapter) -> bool:
        return await self._transaction.add(tables.adapters, _write(adapter))

    async def get(self, tenant: str, adapter_id: str, *, for_update: bool = False) -> Adapter | None:
        statement = select(tables.adapters).where(_is(tenant, adapter_id))
        row = await self._transaction.row(locked(statement) if for_update else statement)
        return _read(row) if row else None

    async def get_all(self, names: Collection[AdapterName]) -> Mapping[AdapterName, Adapter]:
        found: dict[AdapterName, Adapter] = {}
        for some in in_batches(names, _PAIRS_AT_ONCE):
            where = and_(
                _a.tenant.in_({name.tenant for name in some}), _a.adapter_id.in_({name.adapter for name in some})
            )
            rows = await self._transaction.rows(select(tables.adapters).where(where))
            found |= {AdapterName(row.tenant, row.adapter_id): _read(row) for row in rows}
        return {name: found[name] for name in names if name in found}

    async def get_aliased(self, names: Collection[AliasName]) -> Mapping[AliasName, Adapter]:
        found: dict[AliasName, Adapter] = {}
        points_at = and_(_a.tenant == _l.tenant, _a.digest == _l.adapter_digest)
        aliased = select(tables.adapters, _l.alias_id).join(tables.aliases, points_at)
        for some in in_batches(names, _PAIRS_AT_ONCE):
            where = and_(_l.tenant.in_({name.tenant for name in some}), _l.alias_id.in_({name.alias for name in some}))
            rows = await self._transaction.rows(aliased.where(where))
            found |= {AliasName(row.tenant, row.alias_id): _read(row) for row in rows}
        return {name: found[name] for name in names if name in found}

    async def list(self, tenant: str, limit: int, cursor: str | None) -> Page[Adapter]:
        statement = select(tables.adapters).where(_a.tenant == tenant)
        return await self._transaction.page(_NEWEST_FIRST, statement, limit, cursor, _read)

    async def save(self, adapter: Adapter) -> None:
        where = _is(adapter.tenant, adapter.adapter_id)
        statement = update(tables.adapters).where(where).values(_write(adapter))
        expect_one(await self._transaction.change(statement), adapter.name)

    async def delete(self, tenant: str, adapter_id: str) -> None:
        await self._transaction.change(delete(tables.adapters).where(_is(tenant, adapter_id)))

    async def wanted_bases(self) -> Sequence[str]:
        # A look into the index for each base, of which there are few, instead of one at every adapter.
        name = literal("baseModels/") + tables.base_models.c.base_model_id
        is_wanted = exists().where(_a.base_model == name, _a.deployment.in_(_WANTED))
        rows = await self._transaction.rows(select(name.label("name")).where(is_wanted).order_by(name))
        return [row.name for row in rows]

    async def newest_wanted(self, base_model: str, limit: int) -> Sequence[WantedAdapter]:
        found: list[Row[Any]] = []
        for deployment in _WANTED:  # one look into the index each
            of_base = select(_a.digest, _a.key, _a.create_time).where(_a.base_model == base_model)
            newest = of_base.order_by(_a.create_time.desc(), _a.digest.desc()).limit(limit)
            found += await self._transaction.rows(newest.where(_a.deployment == deployment))
        found.sort(key=lambda row: (row.create_time, row.digest), reverse=True)
        return [WantedAdapter(row.digest, row.key) for row in found[:limit]]

    async def is_told(self, base_model: str, deployment: Deployment, message: str) -> bool:
        news = select(_a.digest).where(_is_news(base_model, deployment, message)).limit(1)
        return await self._transaction.row(news) is None

    async def tell_deployment(self, base_model: str, deployment: Deployment, message: str) -> int:
        changes = {"deployment": deployment, "deployment_message": message, "revision": _a.revision + 1}
        where = _is_news(base_model, deployment, message)
        return await self._transaction.change(update(tables.adapters).where(where).values(changes))

    async def shared_with(self, tenant: str, limit: int, cursor: str | None) -> Page[Adapter]:
        shares = await self._shares_with(tenant, limit, cursor)
        keys = [(share.owner, share.digest) for share in shares.items]
        rows = await self._transaction.rows(select(tables.adapters).where(tuple_(_a.tenant, _a.digest).in_(keys)))
        found = {(adapter.tenant, adapter.digest): adapter for adapter in map(_read, rows)}
        return Page([found[key] for key in keys if key in found], shares.next_cursor)
