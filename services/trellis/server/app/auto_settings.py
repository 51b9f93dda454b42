"""The settings of a job that rules choose, once there is a report on its dataset."""

from dataclasses import dataclass

from trellis.auto import Facts, resolve
from trellis.names import BaseModelName, DatasetVersionName
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.dataset import DatasetVersion, Report, ReportState, VersionState
from trellis.spec import TrainSpec


@dataclass(frozen=True, slots=True)
class ReportedData:
    """What is known of a job's data and base model once the report is there."""

    version: DatasetVersion
    report: Report
    base: BaseModel


async def reported_data(unit: UnitOfWork, spec: TrainSpec) -> ReportedData | None:
    """What the job trains on; None while the report or the base model is not there."""
    name = DatasetVersionName.parse(spec.training_dataset)
    version = await unit.datasets.get_version(name.tenant, name.dataset, name.version)
    report = await unit.datasets.get_report(name.tenant, name.dataset, name.version, spec.base_model)
    base = await unit.base_models.get(BaseModelName.parse(spec.base_model).base_model)
    return None if version is None or report is None or base is None else said_of(version, report, base)


def said_of(version: DatasetVersion, report: Report, base: BaseModel) -> ReportedData | None:
    """The three together; None while the report is not there."""
    if report.state is not ReportState.DONE:
        return None
    if version.state is VersionState.VALIDATING:
        return None  # the report that counts its lines, for another base model, is still to come
    return ReportedData(version, report, base)


def resolved(spec: TrainSpec, data: ReportedData) -> TrainSpec:
    """The spec with all settings chosen."""
    if not spec.auto:
        return spec
    return resolve(spec, Facts(data.base.parameter_count, data.version.line_count, data.report.trainable_token_count))
