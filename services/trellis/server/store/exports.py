"""Exports in the database."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, select, update

from trellis.server.app.ports import Page
from trellis.server.domain.export import Export, ExportFile, ExportState
from trellis.server.domain.tuning_job import JobError
from trellis.server.store import tables
from trellis.server.store.failures import already_exists, expect_one
from trellis.server.store.pages import Keyset
from trellis.server.store.rows import named
from trellis.server.store.transaction import Rows, for_update as locked

_e = tables.exports.c
_NEWEST_FIRST = Keyset((_e.create_time, _e.export_id), descending=True)


def _read(row: Row[Any]) -> Export:
    values = named(row)
    files = tuple(ExportFile(**one) for one in row.files)
    return Export(**{**values, "files": files, "error": JobError(**row.error) if row.error else None})


def _write(export: Export) -> dict[str, Any]:
    error = asdict(replace(export.error, metadata=dict(export.error.metadata))) if export.error else None
    return {**asdict(replace(export, error=None)), "error": error}


def _is(tenant: str, export_id: str) -> ColumnElement[bool]:
    return and_(_e.tenant == tenant, _e.export_id == export_id)


class SqlExports(Rows):
    """See ports.Exports."""

    async def add(self, export: Export) -> None:
        if not await self._transaction.add(tables.exports, _write(export)):
            raise already_exists(export.name)

    async def get(self, tenant: str, export_id: str, *, for_update: bool = False) -> Export | None:
        return await self._get(_is(tenant, export_id), for_update)

    async def get_by_uid(self, uid: str, *, for_update: bool = False) -> Export | None:
        return await self._get(_e.uid == uid, for_update)

    async def list(self, tenant: str, limit: int, cursor: str | None) -> Page[Export]:
        statement = select(tables.exports).where(_e.tenant == tenant)
        return await self._transaction.page(_NEWEST_FIRST, statement, limit, cursor, _read)

    async def in_state(self, state: ExportState, limit: int) -> Sequence[Export]:
        statement = select(tables.exports).where(_e.state == state).order_by(_e.create_time).limit(limit)
        return [_read(row) for row in await self._transaction.rows(statement)]

    async def to_clean_up(self, limit: int) -> Sequence[Export]:
        over = select(tables.exports).where(_e.cleaned_up.is_(False), _e.end_time.is_not(None))
        return [_read(row) for row in await self._transaction.rows(over.order_by(_e.end_time).limit(limit))]

    async def save(self, export: Export) -> None:
        statement = update(tables.exports).where(_e.uid == export.uid).values(_write(export))
        expect_one(await self._transaction.change(statement), export.name)

    async def delete(self, tenant: str, export_id: str) -> None:
        await self._transaction.change(delete(tables.exports).where(_is(tenant, export_id)))

    async def _get(self, where: ColumnElement[bool], for_update: bool) -> Export | None:
        statement = select(tables.exports).where(where)
        row = await self._transaction.row(locked(statement) if for_update else statement)
        return _read(row) if row else None
