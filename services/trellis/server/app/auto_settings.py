"""The settings of a job that rules choose, once there is a report on its dataset."""

from dataclasses import replace

from trellis.auto import Facts, resolve
from trellis.names import BaseModelName, DatasetVersionName
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.dataset import ReportState, VersionState
from trellis.server.domain.tuning_job import JobState, TuningJob
from trellis.spec import TrainSpec


async def resolve_auto(unit: UnitOfWork, job: TuningJob) -> TuningJob | None:
    """The queued job with all its settings chosen, and saved; None while that can't be, or when it left the queue."""
    if not job.spec.auto:
        return job
    present = await unit.jobs.get_by_uid(job.uid, for_update=True)
    if present is None or present.state is not JobState.QUEUED:
        return None
    spec = await resolved_spec(unit, present.spec)
    if spec.auto:
        return None
    return await unit.jobs.save(replace(present, spec=spec))


async def resolved_spec(unit: UnitOfWork, spec: TrainSpec) -> TrainSpec:
    """The spec with all settings chosen, or as it is while the report or the base model is not there."""
    name = DatasetVersionName.parse(spec.training_dataset)
    version = await unit.datasets.get_version(name.tenant, name.dataset, name.version)
    report = await unit.datasets.get_report(name.tenant, name.dataset, name.version, spec.base_model)
    base = await unit.base_models.get(BaseModelName.parse(spec.base_model).base_model)
    if version is None or report is None or base is None or report.state is not ReportState.DONE:
        return spec
    if version.state is VersionState.VALIDATING:
        return spec  # the report that counts its lines, for another base model, is still to come
    return resolve(spec, Facts(base.parameter_count, version.line_count, report.trainable_token_count))
