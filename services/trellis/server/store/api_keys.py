"""API keys in the database."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Row, or_, select, update

from trellis.server.app.ports import Page
from trellis.server.domain.caller import ApiKey, Scope
from trellis.server.store import tables
from trellis.server.store.failures import already_exists, expect_one
from trellis.server.store.pages import Keyset
from trellis.server.store.rows import in_batches, named
from trellis.server.store.transaction import Rows, for_update as locked

_k = tables.api_keys.c
_OLDEST_FIRST = Keyset((_k.create_time, _k.key_id))


def _read(row: Row[Any]) -> ApiKey:
    values = named(row)
    return ApiKey(**{**values, "scopes": frozenset(Scope[name] for name in values["scopes"] or ())})


def _write(key: ApiKey) -> dict[str, Any]:
    return {**asdict(key), "scopes": sorted(scope.name for scope in key.scopes)}


class SqlApiKeys(Rows):
    """See ports.ApiKeys."""

    async def add(self, key: ApiKey) -> None:
        if not await self._transaction.add(tables.api_keys, _write(key)):
            raise already_exists(key.name)

    async def get(self, tenant: str | None, key_id: str, *, for_update: bool = False) -> ApiKey | None:
        statement = select(tables.api_keys).where(_k.key_id == key_id, _k.tenant.is_not_distinct_from(tenant))
        row = await self._transaction.row(locked(statement) if for_update else statement)
        return _read(row) if row else None

    async def find(self, secret_hash: str) -> ApiKey | None:
        keys = select(tables.api_keys)
        row = await self._transaction.row(keys.where(_k.secret_hash == secret_hash))
        if row is None:  # few callers still have the secret before
            row = await self._transaction.row(keys.where(_k.old_secret_hash == secret_hash))
        return _read(row) if row else None

    async def find_all(self, secret_hashes: Collection[str]) -> Mapping[str, ApiKey]:
        found = await self._by(_k.secret_hash, secret_hashes)
        # Few callers still have the secret before.
        return await self._by(_k.old_secret_hash, set(secret_hashes) - found.keys()) | found

    async def list(self, tenant: str | None, limit: int, cursor: str | None) -> Page[ApiKey]:
        # `= NULL` would find nothing, and IS NOT DISTINCT FROM would not use PostgreSQL's index.
        of_tenant = _k.tenant.is_(None) if tenant is None else _k.tenant == tenant
        statement = select(tables.api_keys).where(of_tenant)
        return await self._transaction.page(_OLDEST_FIRST, statement, limit, cursor, _read)

    async def save(self, key: ApiKey) -> None:
        statement = update(tables.api_keys).where(_k.key_id == key.key_id).values(_write(key))
        expect_one(await self._transaction.change(statement), key.name)

    async def used(self, key_id: str, time: datetime) -> None:
        earlier = or_(_k.last_use_time.is_(None), _k.last_use_time < time)
        await self._transaction.change(
            update(tables.api_keys).where(_k.key_id == key_id, earlier).values(last_use_time=time)
        )

    async def _by(self, column: Column[Any], secret_hashes: Collection[str]) -> dict[str, ApiKey]:
        found: dict[str, ApiKey] = {}
        for some in in_batches(secret_hashes):
            rows = await self._transaction.rows(select(tables.api_keys).where(column.in_(some)))
            found |= {getattr(row, column.name): _read(row) for row in rows}
        return found
