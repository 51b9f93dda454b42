"""Reports on dataset versions."""

import asyncio
from dataclasses import dataclass

from trellis.names import BaseModelName, DatasetReportName
from trellis.reports import DatasetReport
from trellis.server.app.base_models import present_base_model
from trellis.server.app.context import Context
from trellis.server.app.datasets import present_version
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.dataset import DatasetVersion, Report, ReportState


@dataclass(frozen=True, slots=True)
class FoundReport:
    """A report, the version that it is on and, once it is DONE, what was found."""

    report: Report
    version: DatasetVersion
    finding: DatasetReport | None


async def get_dataset_report(context: Context, name: str, base_model: str) -> FoundReport:
    """Read the report for a base model; asks for it to be made if there is none."""
    version_name = DatasetReportName.parse(name).version_name
    if base_model:
        BaseModelName.parse(base_model, "base_model")
    async with context.units(write=False) as unit:
        version = await present_version(unit, version_name)
        wanted = base_model or version.base_model
        report = await unit.datasets.get_report(version.tenant, version.dataset_id, version.sha256, wanted)
        if report is None:
            await present_base_model(unit, wanted)
    if report is None:
        report = await _ask_for(context, version, wanted)
    return FoundReport(report, version, await _finding(context, report))


async def ensure_report(context: Context, unit: UnitOfWork, version: DatasetVersion, base_model: str) -> Report:
    """The report on the version for the base model; PENDING if there was none, or if it could not be made before."""
    fresh = pending_report(context, version, base_model)
    if await unit.datasets.add_report(fresh) or await unit.datasets.restart_report(fresh):
        return fresh
    found = await unit.datasets.get_report(version.tenant, version.dataset_id, version.sha256, base_model)
    assert found is not None, "a report that can't be added is there"
    return found


def pending_report(context: Context, version: DatasetVersion, base_model: str) -> Report:
    """A report that is to be made."""
    return Report(version.tenant, version.dataset_id, version.sha256, base_model, ReportState.PENDING, context.now())


async def _ask_for(context: Context, version: DatasetVersion, base_model: str) -> Report:
    async with context.units() as unit:
        report = await ensure_report(context, unit, version, base_model)
        await unit.commit()
    return report


async def _finding(context: Context, report: Report) -> DatasetReport | None:
    if report.state is not ReportState.DONE:
        return None
    data = await asyncio.to_thread(context.store.read_bytes, report.key)
    return await asyncio.to_thread(DatasetReport.from_json, data.decode())
