"""Datasets and their versions in the database."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, or_, select, update

from trellis.server.app.ports import Page
from trellis.server.domain.dataset import Dataset, DatasetVersion
from trellis.server.store import tables
from trellis.server.store.failures import already_exists, expect_one
from trellis.server.store.live_jobs import LIVE, job_name
from trellis.server.store.pages import Keyset
from trellis.server.store.reports import ReportRows
from trellis.server.store.rows import named
from trellis.server.store.transaction import for_update as locked
from trellis.server.store.uploads import UploadRows

_d = tables.datasets.c
_v = tables.dataset_versions.c
_OLDEST_FIRST = Keyset((_d.create_time, _d.dataset_id))
_NEWEST_FIRST = Keyset((_v.create_time, _v.sha256), descending=True)
_MOST_USERS = 10


def _read(row: Row[Any]) -> Dataset:
    return Dataset(**named(row))


def _read_version(row: Row[Any]) -> DatasetVersion:
    return DatasetVersion(**named(row))


def _is(tenant: str, dataset_id: str) -> ColumnElement[bool]:
    return and_(_d.tenant == tenant, _d.dataset_id == dataset_id)


def _is_version(tenant: str, dataset_id: str, sha256: str) -> ColumnElement[bool]:
    return and_(_v.tenant == tenant, _v.dataset_id == dataset_id, _v.sha256 == sha256)


class SqlDatasets(UploadRows, ReportRows):
    """See ports.Datasets."""

    async def add(self, dataset: Dataset) -> None:
        if not await self._transaction.add(tables.datasets, asdict(dataset)):
            raise already_exists(f"tenants/{dataset.tenant}/datasets/{dataset.dataset_id}")

    async def get(self, tenant: str, dataset_id: str, *, for_update: bool = False) -> Dataset | None:
        statement = select(tables.datasets).where(_is(tenant, dataset_id))
        row = await self._transaction.row(locked(statement) if for_update else statement)
        return _read(row) if row else None

    async def list(self, tenant: str, limit: int, cursor: str | None) -> Page[Dataset]:
        statement = select(tables.datasets).where(_d.tenant == tenant)
        return await self._transaction.page(_OLDEST_FIRST, statement, limit, cursor, _read)

    async def save(self, dataset: Dataset) -> None:
        statement = update(tables.datasets).where(_is(dataset.tenant, dataset.dataset_id)).values(asdict(dataset))
        name = f"tenants/{dataset.tenant}/datasets/{dataset.dataset_id}"
        expect_one(await self._transaction.change(statement), name)

    async def delete(self, tenant: str, dataset_id: str) -> None:
        await self._transaction.change(delete(tables.datasets).where(_is(tenant, dataset_id)))

    async def users(self, tenant: str, dataset_id: str) -> Sequence[str]:
        j = tables.tuning_jobs.c
        prefix = f"tenants/{tenant}/datasets/{dataset_id}/"
        reads = or_(
            j.training_dataset.startswith(prefix, autoescape=True),
            j.validation_dataset.startswith(prefix, autoescape=True),
            j.spec.contains(f'"replay_dataset":"{prefix}', autoescape=True),
        )
        statement = select(j.tenant, j.job_id).where(j.tenant == tenant, j.state.in_(LIVE), reads)
        return [job_name(row) for row in await self._transaction.rows(statement.limit(_MOST_USERS))]

    async def add_version(self, version: DatasetVersion) -> bool:
        return await self._transaction.add(tables.dataset_versions, asdict(version))

    async def get_version(self, tenant: str, dataset_id: str, sha256: str) -> DatasetVersion | None:
        statement = select(tables.dataset_versions).where(_is_version(tenant, dataset_id, sha256))
        row = await self._transaction.row(statement)
        return _read_version(row) if row else None

    async def list_versions(self, tenant: str, dataset_id: str, limit: int, cursor: str | None) -> Page[DatasetVersion]:
        statement = select(tables.dataset_versions).where(_v.tenant == tenant, _v.dataset_id == dataset_id)
        return await self._transaction.page(_NEWEST_FIRST, statement, limit, cursor, _read_version)

    async def save_version(self, version: DatasetVersion) -> None:
        where = _is_version(version.tenant, version.dataset_id, version.sha256)
        statement = update(tables.dataset_versions).where(where).values(asdict(version))
        expect_one(await self._transaction.change(statement), version.name)
