"""Reports on dataset versions, in the database."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, select, update

from trellis.server.app.ports import Claim
from trellis.server.domain.dataset import DatasetVersion, Report, ReportState
from trellis.server.store import tables
from trellis.server.store.claims import HELD_BY_NOBODY, held_by, is_free
from trellis.server.store.rows import named
from trellis.server.store.transaction import Rows, for_update

_d = tables.datasets.c
_v = tables.dataset_versions.c
_r = tables.reports.c
_columns = [column for column in _r if not column.name.startswith("claim_")]


def _read(row: Row[Any]) -> Report:
    return Report(**named(row))


def _is(tenant: str, dataset_id: str, sha256: str, base_model: str) -> ColumnElement[bool]:
    return and_(_r.tenant == tenant, _r.dataset_id == dataset_id, _r.sha256 == sha256, _r.base_model == base_model)


def _is_report(report: Report) -> ColumnElement[bool]:
    return _is(report.tenant, report.dataset_id, report.sha256, report.base_model)


class ReportRows(Rows):
    """The part of ports.Datasets about reports."""

    async def get_report(self, tenant: str, dataset_id: str, sha256: str, base_model: str) -> Report | None:
        row = await self._transaction.row(select(*_columns).where(_is(tenant, dataset_id, sha256, base_model)))
        return _read(row) if row else None

    async def read_on(
        self, tenant: str, dataset_id: str, sha256: str | None, base_model: str
    ) -> tuple[DatasetVersion, Report | None] | None:
        wanted = _d.latest_sha256 if sha256 is None else sha256
        is_version = and_(_v.tenant == _d.tenant, _v.dataset_id == _d.dataset_id, _v.sha256 == wanted)
        is_report = and_(
            _r.tenant == _v.tenant, _r.dataset_id == _v.dataset_id, _r.sha256 == _v.sha256, _r.base_model == base_model
        )
        joined = tables.datasets.join(tables.dataset_versions, is_version).outerjoin(tables.reports, is_report)
        labelled = [column.label(f"report_{column.name}") for column in _columns]
        statement = select(*_v, *labelled).select_from(joined).where(_d.tenant == tenant, _d.dataset_id == dataset_id)
        row = await self._transaction.row(statement.with_for_update(key_share=True, of=tables.datasets))
        if row is None:
            return None
        version = DatasetVersion(**{column.name: row[place] for place, column in enumerate(_v)})
        report = {column.name: row[place] for place, column in enumerate(_columns, len(_v))}
        return version, Report(**report) if report["sha256"] is not None else None

    async def add_report(self, report: Report) -> bool:
        return await self._transaction.add(tables.reports, asdict(report))

    async def restart_report(self, report: Report) -> bool:
        statement = update(tables.reports).where(_is_report(report), _r.state == ReportState.FAILED)
        return await self._transaction.change(statement.values(asdict(report))) == 1

    async def claim_report(self, claim: Claim, now: datetime) -> Report | None:
        pending = select(*_columns).where(_r.state == ReportState.PENDING, is_free(tables.reports, now))
        row = await self._transaction.row(for_update(pending.order_by(_r.create_time), skip_locked=True))
        if row is None:
            return None
        report = _read(row)
        await self._transaction.change(update(tables.reports).where(_is_report(report)).values(held_by(claim)))
        return report

    async def renew_report(self, report: Report, claim: Claim, renewed: Claim) -> bool:
        statement = update(tables.reports).where(_is_report(report), _r.claim_token == claim.token)
        return await self._transaction.change(statement.values(held_by(renewed))) == 1

    async def save_report(self, report: Report, claim: Claim) -> bool:
        statement = update(tables.reports).where(_is_report(report), _r.claim_token == claim.token)
        return await self._transaction.change(statement.values({**asdict(report), **HELD_BY_NOBODY})) == 1
