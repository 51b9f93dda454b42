"""The submission of a tuning job: everything is resolved into a TrainSpec before it is accepted."""

from dataclasses import dataclass

from trellis.errors import FieldViolation
from trellis.names import TuningJobName
from trellis.server.app.audit import record
from trellis.server.app.authorisation import require_names
from trellis.server.app.base_models import base_model_unavailable, find_base_model, read_facts
from trellis.server.app.budget_warnings import budget_warnings
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations
from trellis.server.app.holds import hold
from trellis.server.app.idempotency import RequestKey, create_once
from trellis.server.app.initial_adapter import differences, find_start, hold_start
from trellis.server.app.job_datasets import with_datasets
from trellis.server.app.job_preparation import with_facts
from trellis.server.app.job_request import JobNames, NewTuningJob, check_priority, read_names, require_priority
from trellis.server.app.job_spec import NO_LIMIT, asked_spec
from trellis.server.app.never_fits import require_possible
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.quota import limited_tenant, require_job
from trellis.server.app.tuning_jobs import present_job
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Caller
from trellis.server.domain.tuning_job import EventLevel, JobEvent, JobState, QueueCode, QueueReason, TuningJob
from trellis.spec import TrainSpec
from trellis.tracing import current_traceparent


@dataclass(frozen=True, slots=True)
class _Checked:
    """A request in which nothing is wrong, as far as can be told without its datasets."""

    names: JobNames
    base: BaseModel
    spec: TrainSpec


async def create_tuning_job(context: Context, caller: Caller, new: NewTuningJob, key: RequestKey) -> TuningJob:
    """Submit a job; it is QUEUED, and says why it waits."""
    named = (new.training_dataset, new.validation_dataset, new.replay_dataset, new.initial_adapter, new.alias)
    require_names(caller, *named)
    checked = await _checked(context, new, key)

    async def create(unit: UnitOfWork) -> tuple[str, TuningJob]:
        tenant = await limited_tenant(unit, checked.names.tenant, "open_jobs", "artifact_bytes")
        require_priority(new, tenant.quota)
        if await unit.base_models.get(checked.base.base_model_id) is None:
            raise base_model_unavailable(checked.base.name)
        job = await _new_job(context, unit, new, checked)
        await require_possible(unit, tenant, job, context.settings.needs)
        await require_job(unit, tenant)
        await unit.jobs.add(job)
        await hold(unit, job, context.now())
        event = JobEvent(context.now(), EventLevel.INFO, "The job was submitted.", state=JobState.QUEUED)
        saved = await unit.jobs.save(job, [event, *await budget_warnings(unit, tenant, context.now())])
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
    base = await _find_base(context, new.base_model, violations)
    spec = asked_spec(new, base)
    violations.extend(spec.violations(base.context_length if base else NO_LIMIT))
    violations.extend(_lacking(context, spec))
    violations.extend(_without_adapter(new, spec))
    if base is not None:
        await _check_modules(base, spec, violations)
    violations.raise_any()
    if base is None:
        raise base_model_unavailable(new.base_model)
    assert names is not None
    return _Checked(names, base, await _with_start(context, new, names, base, spec))


async def _find_base(context: Context, name: str, violations: Violations) -> BaseModel | None:
    if name and not violations.base_model(name, "tuning_job.base_model"):
        return None
    async with context.units(write=False) as unit:
        return await find_base_model(unit, name, "tuning_job.base_model")


def _lacking(context: Context, spec: TrainSpec) -> tuple[FieldViolation, ...]:
    """What the installation does not have."""
    if spec.quantization == "none" or context.settings.capacity_gpus > 0:
        return ()
    message = "4-bit bases need a GPU with CUDA, and jobs have none here; leave quantization out."
    return (FieldViolation(f"tuning_job.{spec.settings_path}.quantization", message),)


def _without_adapter(new: NewTuningJob, spec: TrainSpec) -> tuple[FieldViolation, ...]:
    """What can't be done with the outcome of a job that trains all weights."""
    message = "All weights are trained, which gives a whole model and no adapter; leave it out."
    wanted = {"alias": new.alias, "deploy": new.deploy} if spec.full else {}
    return tuple(FieldViolation(f"tuning_job.{field}", message) for field, value in wanted.items() if value)


async def _check_modules(base: BaseModel, spec: TrainSpec, violations: Violations) -> None:
    if not spec.lora.target_modules:
        return
    facts = await read_facts(base)
    for name in spec.lora.target_modules:
        if not any(path == name or path.endswith(f".{name}") for path in facts.linear_shapes):
            known = ", ".join(facts.linear_names)
            field = f"tuning_job.{spec.settings_path}.lora.target_modules"
            violations.add(field, f"{base.name} has no linear module {name!r}; it has {known}.")


async def _with_start(
    context: Context, new: NewTuningJob, names: JobNames, base: BaseModel, spec: TrainSpec
) -> TrainSpec:
    """The spec with the shape of what the job starts from, if it starts from something."""
    if names.start is None:
        return spec
    start = await find_start(context, names.start)
    violations = Violations()
    for field, description in differences(start, new, base):
        violations.add(field, description)
    violations.raise_any()
    return asked_spec(new, base, start)


async def _new_job(context: Context, unit: UnitOfWork, new: NewTuningJob, checked: _Checked) -> TuningJob:
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
        alias_id=checked.names.alias_id,
        deploy=new.deploy,
        priority=new.priority,
        queue_reason=_first_reason(found.waits),
        traceparent=current_traceparent(),
    )
    return await with_facts(unit, job, context.settings.needs)


def _first_reason(waits_for_report: bool) -> QueueReason:
    if waits_for_report:
        return QueueReason(QueueCode.DATASET_VALIDATING, "The report on its dataset is being made.")
    return QueueReason(QueueCode.NOT_CONSIDERED, "The scheduler has not looked at it yet.")
