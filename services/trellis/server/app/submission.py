"""The submission of a tuning job: everything is resolved into a TrainSpec before it is accepted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from trellis.bases import BaseFacts
from trellis.errors import FieldViolation
from trellis.names import TuningJobName
from trellis.server.app.audit import record
from trellis.server.app.authorisation import require_names
from trellis.server.app.auto_settings import said_of
from trellis.server.app.base_models import base_model_unavailable, find_base_model, read_facts
from trellis.server.app.budget_warnings import budget_warnings
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations
from trellis.server.app.holds import hold_anew
from trellis.server.app.idempotency import RequestKey, create_once
from trellis.server.app.initial_adapter import differences, find_start, hold_start
from trellis.server.app.job_datasets import with_datasets
from trellis.server.app.job_estimate import MeasuredSpeed, measured_speed
from trellis.server.app.job_preparation import settled
from trellis.server.app.job_request import (
    JobNames,
    NewTuningJob,
    StartName,
    check_priority,
    read_names,
    require_priority,
)
from trellis.server.app.job_spec import NO_LIMIT, asked_spec
from trellis.server.app.never_fits import cohort_of, require_possible
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.quota import is_limited, limited_tenant, require_job
from trellis.server.app.tenants import present_tenant
from trellis.server.app.tuning_jobs import present_job
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Caller
from trellis.server.domain.quota import Quota
from trellis.server.domain.tenant import Tenant
from trellis.server.domain.tuning_job import EventLevel, JobEvent, JobState, QueueCode, QueueReason, TuningJob
from trellis.spec import Lora, TrainSpec
from trellis.tracing import current_traceparent

_LIMITS: Final = ("open_jobs", "artifact_bytes")


@dataclass(frozen=True, slots=True)
class _Before:
    """What was read before the tenant is locked: what may be a moment old."""

    base: BaseModel
    speed: MeasuredSpeed | None
    members: Mapping[str, Quota]
    """The quotas of the tenant's cohort."""
    warnings: Sequence[JobEvent]
    limited: bool
    """Whether the tenant's quota bounds what is asked for here."""


@dataclass(frozen=True, slots=True)
class _Checked:
    """A request in which nothing is wrong, as far as can be told without its datasets."""

    names: JobNames
    before: _Before
    spec: TrainSpec
    adapted_share: float

    @property
    def base(self) -> BaseModel:
        return self.before.base


async def create_tuning_job(context: Context, caller: Caller, new: NewTuningJob, key: RequestKey) -> TuningJob:
    """Submit a job; it is QUEUED, and says why it waits."""
    named = (new.training_dataset, new.validation_dataset, new.replay_dataset, new.initial_adapter, new.alias)
    require_names(caller, *named)
    checked = await _checked(context, new, key)

    async def create(unit: UnitOfWork) -> tuple[str, TuningJob]:
        # From here on others of the tenant wait: each statement counts.
        tenant = await _limited(unit, checked)
        require_priority(new, tenant.quota)
        base = await unit.base_models.get(checked.base.base_model_id)
        if base is None:
            raise base_model_unavailable(checked.base.name)
        job = await _new_job(context, unit, new, checked, base)
        require_possible(tenant, checked.before.members, job, context.settings.needs)
        await require_job(unit, tenant)
        event = JobEvent(context.now(), EventLevel.INFO, "The job was submitted.", state=JobState.QUEUED)
        saved = await unit.jobs.add(job, [event, *checked.before.warnings])
        await hold_anew(unit, saved, context.now())
        await record(context, unit, None, saved)
        return job.name, saved

    async def read(unit: UnitOfWork, name: str) -> TuningJob:
        return await present_job(unit, TuningJobName.parse(name))

    return await create_once(context, f"CreateTuningJob {new.parent}", key, create, read)


async def _checked(context: Context, new: NewTuningJob, key: RequestKey) -> _Checked:
    """All wrong fields are said at once; only then what is missing."""
    violations = Violations()
    names = read_names(new, violations)
    check_priority(new, violations)
    violations.text(new.display_name, "tuning_job.display_name")
    key.check(violations)
    before = await _read_before(context, new.base_model, names, violations)
    base = before.base if before else None
    spec = asked_spec(new, base)
    violations.extend(spec.violations(base.context_length if base else NO_LIMIT))
    violations.extend(_lacking(context, spec))
    violations.extend(_unheeded(new, spec))
    facts = await _facts(base, spec) if base else None
    if base is not None and facts is not None:
        _check_modules(base, facts, spec, violations)
    violations.raise_any()
    if before is None:
        raise base_model_unavailable(new.base_model)
    assert names is not None
    if names.start is not None:
        spec = await _with_start(context, new, names.start, before.base)
        facts = await _facts(before.base, spec)
    return _Checked(names, before, spec, facts.share_of(spec.lora.target_modules) if facts else 1.0)


async def _read_before(
    context: Context, base_model: str, names: JobNames | None, violations: Violations
) -> _Before | None:
    """None where there is no such base model."""
    if base_model and not violations.base_model(base_model, "tuning_job.base_model"):
        return None
    async with context.units(write=False) as unit:
        base = await find_base_model(unit, base_model, "tuning_job.base_model")
        if base is None:
            return None
        tenant = await unit.tenants.get(names.tenant) if names else None
        if tenant is None:
            return _Before(base, None, {}, (), limited=False)  # what is wrong is said when the request is checked
        return _Before(
            base,
            await measured_speed(unit, base.name, context.settings.needs),
            await cohort_of(unit, tenant),
            await budget_warnings(unit, tenant, context.now()),
            limited=is_limited(tenant, *_LIMITS),
        )


async def _limited(unit: UnitOfWork, checked: _Checked) -> Tenant:
    """The tenant, locked where its quota bounds jobs."""
    if checked.before.limited:
        return await present_tenant(unit, checked.names.tenant, for_update=True)
    return await limited_tenant(unit, checked.names.tenant, *_LIMITS)


def _lacking(context: Context, spec: TrainSpec) -> tuple[FieldViolation, ...]:
    """What the installation does not have."""
    if spec.quantization == "none" or context.settings.capacity_gpus > 0:
        return ()
    message = "4-bit bases need a GPU with CUDA, and jobs have none here; leave quantization out."
    return (FieldViolation(f"tuning_job.{spec.settings_path}.quantization", message),)


def _unheeded(new: NewTuningJob, spec: TrainSpec) -> tuple[FieldViolation, ...]:
    """What was given and is the default, which the spec can't tell from what was not given."""
    if not spec.full or not new.lora or spec.lora != Lora():
        return ()
    message = "All weights are trained, so there is no adapter to shape; leave it out."
    return (FieldViolation(f"tuning_job.{spec.settings_path}.lora", message),)


async def _facts(base: BaseModel, spec: TrainSpec) -> BaseFacts | None:
    """What the base's files say, where the job's linears are to be looked for in it."""
    return await read_facts(base) if spec.lora.target_modules else None


def _check_modules(base: BaseModel, facts: BaseFacts, spec: TrainSpec, violations: Violations) -> None:
    for name in spec.lora.target_modules:
        if name and not facts.linears(name):
            known = ", ".join(facts.linear_names)
            field = f"tuning_job.{spec.settings_path}.lora.target_modules"
            violations.add(field, f"{base.name} has no linear module {name!r}; it has {known}.")


async def _with_start(context: Context, new: NewTuningJob, name: StartName, base: BaseModel) -> TrainSpec:
    """The spec with the shape of what the job starts from."""
    start = await find_start(context, name)
    violations = Violations()
    for field, description in differences(start, new, base):
        violations.add(field, description)
    violations.raise_any()
    return asked_spec(new, base, start)


async def _new_job(
    context: Context, unit: UnitOfWork, new: NewTuningJob, checked: _Checked, base: BaseModel
) -> TuningJob:
    if checked.spec.initial_adapter:
        await hold_start(unit, checked.spec.initial_adapter)
    found = await with_datasets(context, unit, checked.spec, checked.names, checked.base)
    uid = context.ids.new_id("job")
    now = context.now()
    job = TuningJob(
        tenant=checked.names.tenant,
        job_id=new.job_id or uid,
        uid=uid,
        display_name=new.display_name,
        spec=found.spec,
        create_time=now,
        update_time=now,
        adapted_share=checked.adapted_share,
        alias_id=checked.names.alias_id,
        deploy=new.deploy,
        priority=new.priority,
        queue_reason=_first_reason(found.waits),
        traceparent=current_traceparent(),
    )
    data = said_of(found.version, found.report, base)
    return settled(job, data, context.settings.needs, checked.before.speed) if data else job


def _first_reason(waits_for_report: bool) -> QueueReason:
    if waits_for_report:
        return QueueReason(QueueCode.DATASET_VALIDATING, "The report on its dataset is being made.")
    return QueueReason(QueueCode.NOT_CONSIDERED, "The scheduler has not looked at it yet.")
