"""The submission of a tuning job: everything is resolved into a TrainSpec before it is accepted."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trellis.errors import NotFound, Reason, error_for
from trellis.formats import Kind
from trellis.names import AliasName, DatasetName, DatasetVersionName, TenantName, TuningJobName
from trellis.server.app.authorisation import require_names
from trellis.server.app.base_models import base_model_unavailable, find_base_model, read_facts
from trellis.server.app.context import Context
from trellis.server.app.datasets import present_version
from trellis.server.app.fields import Violations
from trellis.server.app.idempotency import RequestKey, create_once
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.reports import ensure_report
from trellis.server.app.tenants import present_tenant
from trellis.server.app.tuning_jobs import present_job
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Caller
from trellis.server.domain.dataset import DatasetVersion, ReportState
from trellis.server.domain.tuning_job import EventLevel, JobEvent, JobState, QueueCode, QueueReason, TuningJob
from trellis.spec import MAX_RANK, Lora, TrainSpec

_NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class NewTuningJob:
    """A job to submit; `settings` and `lora` hold the fields of TrainSpec and Lora that the request sets."""

    parent: str
    training_dataset: str
    job_id: str = ""
    display_name: str = ""
    base_model: str = ""
    validation_dataset: str = ""
    alias: str = ""
    deploy: bool = False
    settings: Mapping[str, Any] | None = None
    lora: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Names:
    tenant: str
    training: DatasetVersionName
    validation: DatasetVersionName | None
    alias_id: str


async def create_tuning_job(context: Context, caller: Caller, new: NewTuningJob, key: RequestKey) -> TuningJob:
    """Submit a job; it is QUEUED, and says why it waits."""
    require_names(caller, new.training_dataset, new.validation_dataset, new.alias)
    names, base = await _checked(context, new, key)

    async def create(unit: UnitOfWork) -> tuple[str, TuningJob]:
        await present_tenant(unit, names.tenant)
        if await unit.base_models.get(base.base_model_id) is None:
            raise base_model_unavailable(base.name)
        job = await _new_job(context, unit, new, names, base)
        await unit.jobs.add(job)
        event = JobEvent(context.now(), EventLevel.INFO, "The job was submitted.", state=JobState.QUEUED)
        saved = await unit.jobs.save(job, [event])
        return job.name, saved

    async def read(unit: UnitOfWork, name: str) -> TuningJob:
        return await present_job(unit, TuningJobName.parse(name))

    return await create_once(context, f"CreateTuningJob {new.parent}", key, create, read)


async def _checked(context: Context, new: NewTuningJob, key: RequestKey) -> tuple[_Names, BaseModel]:
    """All wrong fields are said at once; only then what is missing."""
    violations = Violations()
    names = _names(new, violations)
    violations.text(new.display_name, "tuning_job.display_name")
    key.check(violations)
    base = await _find_base(context, new.base_model, violations)
    spec = _spec(new, base)
    violations.extend(spec.violations(base.context_length if base else _NO_LIMIT))
    if base is not None:
        await _check_modules(base, spec.lora, violations)
    violations.raise_any()
    if base is None:
        raise base_model_unavailable(new.base_model)
    assert names is not None
    return names, base


async def _find_base(context: Context, name: str, violations: Violations) -> BaseModel | None:
    if name and not violations.base_model(name, "tuning_job.base_model"):
        return None
    async with context.units(write=False) as unit:
        return await find_base_model(unit, name, "tuning_job.base_model")


def _names(new: NewTuningJob, violations: Violations) -> _Names | None:
    tenant = violations.name(TenantName, new.parent, "parent")
    if new.job_id:
        violations.id("tuning_job", new.job_id, "tuning_job_id")
    training = _dataset(new.training_dataset, "tuning_job.training_dataset", violations)
    validation = None
    if new.validation_dataset:
        validation = _dataset(new.validation_dataset, "tuning_job.validation_dataset", violations)
    alias = violations.name(AliasName, new.alias, "tuning_job.alias") if new.alias else None
    if tenant is None:
        return None
    named = {"training_dataset": training, "validation_dataset": validation, "alias": alias}
    for field, name in named.items():
        if name is not None and name.tenant != tenant.tenant:
            violations.add(f"tuning_job.{field}", f"{name} is not one of {new.parent}.")
    if training is None:
        return None
    return _Names(tenant.tenant, training, validation, alias.alias if alias else "")


def _dataset(name: str, field: str, violations: Violations) -> DatasetVersionName | None:
    if "/versions/" in name:
        return violations.name(DatasetVersionName, name, field)
    dataset = violations.name(DatasetName, name, field)
    return DatasetVersionName(dataset.tenant, dataset.dataset, "latest") if dataset else None


def _spec(new: NewTuningJob, base: BaseModel | None) -> TrainSpec:
    """The spec with all defaults resolved, but for the datasets."""
    shape = dict(new.lora or {})
    # Of a rank that is wrong, the rank alone is complained about.
    shape.setdefault("alpha", 2.0 * min(max(shape.get("rank", Lora().rank), 1), MAX_RANK))
    settings = {"context_length": base.context_length if base else _NO_LIMIT, **(new.settings or {})}
    return TrainSpec(
        base_model=base.name if base else "",
        base_source=base.source if base else "",
        base_revision=base.revision if base else "",
        tokenizer_digest=base.tokenizer_digest if base else "",
        training_dataset="",
        training_sha256="",
        lora=Lora(**shape),
        **settings,
    )


async def _check_modules(base: BaseModel, lora: Lora, violations: Violations) -> None:
    if not lora.target_modules:
        return
    facts = await read_facts(base)
    for name in lora.target_modules:
        if not any(path == name or path.endswith(f".{name}") for path in facts.linear_shapes):
            known = ", ".join(facts.linear_names)
            field = "tuning_job.supervised.lora.target_modules"
            violations.add(field, f"{base.name} has no linear module {name!r}; it has {known}.")


async def _new_job(context: Context, unit: UnitOfWork, new: NewTuningJob, names: _Names, base: BaseModel) -> TuningJob:
    training, waits = await _usable_version(context, unit, names.training, base)
    spec = replace(
        _spec(new, base),
        training_dataset=training.name,
        training_sha256=training.sha256,
        training_format=training.file_format,
    )
    if names.validation is not None:
        validation, also_waits = await _usable_version(context, unit, names.validation, base)
        waits = waits or also_waits
        spec = replace(
            spec,
            validation_dataset=validation.name,
            validation_sha256=validation.sha256,
            validation_format=validation.file_format,
        )
    uid = context.ids.new_id("job")
    now = context.now()
    return TuningJob(
        tenant=names.tenant,
        job_id=new.job_id or uid,
        uid=uid,
        display_name=new.display_name,
        spec=spec,
        create_time=now,
        update_time=now,
        alias_id=names.alias_id,
        deploy=new.deploy,
        queue_reason=_first_reason(waits),
    )


async def _usable_version(
    context: Context, unit: UnitOfWork, name: DatasetVersionName, base: BaseModel
) -> tuple[DatasetVersion, bool]:
    """The version, and whether its report for this base model is still to come; refuses one that has errors."""
    # Locked: a dataset that is being deleted shall not get a new reader.
    if await unit.datasets.get(name.tenant, name.dataset, for_update=True) is None:
        raise NotFound.for_resource(name.dataset_name)
    version = await present_version(unit, name)
    report = await ensure_report(context, unit, version, base.name)
    if report.state is ReportState.PENDING:
        return version, True
    if report.state is ReportState.FAILED or not report.valid:
        message = f"{version.name} can't be trained on with {base.name}: {report.summary}"
        details = {"dataset_version": version.name, "base_model": base.name}
        raise error_for(Reason.DATASET_INVALID, message, metadata=details)
    if version.kind == Kind.PREFERENCE:
        message = f"{version.name} has preferences, which supervised tuning can't learn from. Give it chat lines."
        raise error_for(Reason.DATASET_INVALID, message, metadata={"dataset_version": version.name})
    return version, False


def _first_reason(waits_for_report: bool) -> QueueReason:
    if waits_for_report:
        return QueueReason(QueueCode.DATASET_VALIDATING, "The report on its dataset is being made.")
    return QueueReason(QueueCode.NOT_CONSIDERED, "The scheduler has not looked at it yet.")
