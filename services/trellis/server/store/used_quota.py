"""What a tenant uses of its quota, counted in the database."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, FromClause, func, literal, select

from trellis.server.app.quota_ports import Kept
from trellis.server.domain.adapter import Deployment
from trellis.server.domain.export import ExportState, export_size
from trellis.server.domain.quota import Quota
from trellis.server.domain.tuning_job import ACTIVE
from trellis.server.store import tables
from trellis.server.store.live_jobs import LIVE
from trellis.server.store.tenants import read_tenant
from trellis.server.store.transaction import Rows

_j = tables.tuning_jobs.c
_a = tables.adapters.c
_v = tables.dataset_versions.c
_u = tables.uploads.c
_c = tables.checkpoints.c
_x = tables.exports.c
_b = tables.base_models.c
_WANTED = tuple(deployment for deployment in Deployment if deployment is not Deployment.UNDEPLOYED)


class SqlUsedQuota(Rows):
    """See quota_ports.UsedQuota."""

    async def open_jobs(self, tenant: str, most: int) -> int:
        return await self._count(tables.tuning_jobs, most, _j.tenant == tenant, _j.state.in_(LIVE))

    async def running_jobs(self, tenant: str, most: int) -> int:
        return await self._count(tables.tuning_jobs, most, _j.tenant == tenant, _j.state.in_(sorted(ACTIVE)))

    async def deployed_adapters(self, tenant: str, most: int) -> int:
        return await self._count(tables.adapters, most, _a.tenant == tenant, _a.deployment.in_(_WANTED))

    async def accelerators(self, tenant: str) -> float:
        statement = select(_j.estimate).where(_j.tenant == tenant, _j.state.in_(sorted(ACTIVE)))
        rows = await self._transaction.rows(statement)
        return float(sum(row.estimate["accelerators"] for row in rows if row.estimate))

    async def dataset_bytes(self, tenant: str) -> Kept:
        # In one statement: what becomes a version between two would be counted by neither.
        stored, coming = await self._sums((_v.size_bytes, _v.tenant == tenant), (_u.size_bytes, _u.tenant == tenant))
        return Kept(stored, coming)

    async def artifact_bytes(self, tenant: str) -> Kept:
        checkpoints = _c.job_uid.in_(select(_j.uid).where(_j.tenant == tenant))
        stored = await self._sums((_a.size_bytes, _a.tenant == tenant), (_c.size_bytes, checkpoints))
        made, coming = await self._exports(tenant)
        return Kept(sum(stored) + made, coming)

    async def cohort(self, cohort: str) -> Mapping[str, Quota]:
        t = tables.tenants.c
        members = map(read_tenant, await self._transaction.rows(select(tables.tenants).where(t.cohort == cohort)))
        return {member.tenant_id: member.quota for member in members}

    async def _count(self, table: FromClause, most: int, *where: ColumnElement[bool]) -> int:
        some = select(literal(1)).select_from(table).where(*where).limit(most).subquery()
        [row] = await self._transaction.rows(select(func.count().label("number")).select_from(some))
        return int(row.number)

    async def _sums(self, *of: tuple[ColumnElement[Any], ColumnElement[bool]]) -> list[int]:
        """The sum of each column over its rows, all at one moment."""
        sums = (select(func.coalesce(func.sum(column), 0)).where(where).scalar_subquery() for column, where in of)
        [row] = await self._transaction.rows(select(*sums))
        return [int(total) for total in row]

    async def _exports(self, tenant: str) -> tuple[int, int]:
        """Bytes of exports that are there, and of those that are being made."""
        bases = tables.exports.outerjoin(
            tables.base_models, _b.base_model_id == func.substr(_x.base_model, len("baseModels/") + 1)
        )
        statement = select(_x.state, _x.files, _b.parameter_count).select_from(bases).where(_x.tenant == tenant)
        made = coming = 0
        for row in await self._transaction.rows(statement):
            if row.state is ExportState.SUCCEEDED:
                made += sum(file["size_bytes"] for file in row.files)
            elif row.state is not ExportState.FAILED:
                coming += export_size(row.parameter_count or 0)
        return made, coming
