"""Uploads on their way, in the database."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, and_, delete, select, update

from trellis.server.domain.dataset import Upload, UploadPart
from trellis.server.store import tables
from trellis.server.store.transaction import Rows

_u = tables.uploads.c
_p = tables.upload_parts.c


def _read(row: Row[Any], parts: Sequence[Row[Any]]) -> Upload:
    found = tuple(UploadPart(part.offset, part.size, part.key) for part in parts)
    return Upload(row.tenant, row.dataset_id, row.sha256, row.size_bytes, row.update_time, found)


def _is(table: Table, tenant: str, dataset_id: str, sha256: str) -> ColumnElement[bool]:
    return and_(table.c.tenant == tenant, table.c.dataset_id == dataset_id, table.c.sha256 == sha256)


class UploadRows(Rows):
    """The part of ports.Datasets about uploads."""

    async def get_upload(self, tenant: str, dataset_id: str, sha256: str) -> Upload | None:
        row = await self._transaction.row(select(tables.uploads).where(_is(tables.uploads, tenant, dataset_id, sha256)))
        return await self._with_parts(row) if row else None

    async def start_upload(self, upload: Upload) -> None:
        assert not upload.parts, "parts are added one by one"
        await self._transaction.add(
            tables.uploads,
            {
                "tenant": upload.tenant,
                "dataset_id": upload.dataset_id,
                "sha256": upload.sha256,
                "size_bytes": upload.size_bytes,
                "update_time": upload.update_time,
                "committed_bytes": 0,
            },
        )

    async def add_part(self, upload: Upload, part: UploadPart, now: datetime) -> bool:
        assert part.size > 0, "an empty part"
        key = (upload.tenant, upload.dataset_id, upload.sha256)
        # One statement checks and moves the end, so that of two streams one wins.
        moved = await self._transaction.change(
            update(tables.uploads)
            .where(_is(tables.uploads, *key), _u.committed_bytes == part.offset)
            .values(committed_bytes=part.offset + part.size, update_time=now)
        )
        if not moved:
            return False
        names = dict(zip(("tenant", "dataset_id", "sha256"), key, strict=True))
        added = {**names, "offset": part.offset, "size": part.size, "key": part.key}
        return await self._transaction.add(tables.upload_parts, added)

    async def delete_upload(self, tenant: str, dataset_id: str, sha256: str) -> None:
        await self._transaction.change(delete(tables.uploads).where(_is(tables.uploads, tenant, dataset_id, sha256)))

    async def stale_uploads(self, before: datetime, limit: int) -> Sequence[Upload]:
        statement = select(tables.uploads).where(_u.update_time < before).order_by(_u.update_time).limit(limit)
        return [await self._with_parts(row) for row in await self._transaction.rows(statement)]

    async def _with_parts(self, row: Row[Any]) -> Upload:
        where = _is(tables.upload_parts, row.tenant, row.dataset_id, row.sha256)
        parts = await self._transaction.rows(select(tables.upload_parts).where(where).order_by(_p.offset))
        return _read(row, parts)
