"""What the process that makes an export is told."""

import json
from dataclasses import replace

from trellis.errors import FailedPrecondition, Reason
from trellis.exports import ExportTask
from trellis.names import AdapterName, CheckpointName
from trellis.server.app.adapter_manifest import manifest_of
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.export import Export


class SourceGoneError(Exception):
    """What the export is to be made of is no longer there, or no longer sound; `str()` says what."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


async def task_of(unit: UnitOfWork, export: Export) -> ExportTask:
    """The export's task. Raises SourceGoneError."""
    base = await unit.base_models.get(export.base_model.removeprefix("baseModels/"))
    if base is None:
        raise SourceGoneError(Reason.BASE_MODEL_UNAVAILABLE, f"{export.base_model} is no longer registered.")
    task = ExportTask(
        format=export.format.value,
        base_model=base.name,
        base_source=base.source,
        base_revision=base.revision,
        tokenizer_digest=base.tokenizer_digest,
        adapter_key=export.adapter_key,
        source=export.source,
    )
    add_origin = _with_job if "/checkpoints/" in export.source else _with_adapter
    return await add_origin(unit, task)


async def _with_adapter(unit: UnitOfWork, task: ExportTask) -> ExportTask:
    name = AdapterName.parse(task.source)
    adapter = await unit.adapters.get(name.tenant, name.adapter)
    if adapter is None:
        raise SourceGoneError(Reason.RESOURCE_NOT_FOUND, f"{task.source} was deleted.")
    try:
        manifest = manifest_of(adapter)
    except FailedPrecondition as error:
        raise SourceGoneError(Reason(error.reason), str(error)) from error
    return replace(
        task,
        adapter_digest=adapter.digest,
        tuning_job=adapter.tuning_job,
        spec=manifest.spec,
        metrics=manifest.metrics,
    )


async def _with_job(unit: UnitOfWork, task: ExportTask) -> ExportTask:
    name = CheckpointName.parse(task.source)
    job = await unit.jobs.get(name.tenant, name.tuning_job)
    if job is None:
        raise SourceGoneError(Reason.RESOURCE_NOT_FOUND, f"The job of {task.source} was deleted.")
    return replace(task, tuning_job=job.name, spec=json.loads(job.spec.to_json()))
