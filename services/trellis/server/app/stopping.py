"""Jobs asked to leave their processes, and to come back: paused, resumed, preempted."""

from dataclasses import replace

from trellis.errors import InvalidArgument, Reason, TrellisError, error_for
from trellis.names import TuningJobName
from trellis.server.app.attempts import MAX_MESSAGE
from trellis.server.app.audit import record
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations, printable
from trellis.server.app.giving_way import give_way, withdraw
from trellis.server.app.holds import hold
from trellis.server.app.job_preparation import with_facts
from trellis.server.app.never_fits import cohort_of, require_possible
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.tenants import present_tenant
from trellis.server.app.tuning_jobs import present_job
from trellis.server.domain.tuning_job import EventLevel, JobEvent, JobState, TuningJob

_MAX_REASON = 500


async def pause_tuning_job(context: Context, name: str) -> TuningJob:
    """Ask a job to save a checkpoint and leave; what has no process yet is PAUSED at once."""
    parsed = TuningJobName.parse(name)
    async with context.units() as unit:
        job = await present_job(unit, parsed, for_update=True)
        if job.state in {JobState.PAUSED, JobState.PAUSING}:
            return job
        if job.state in {JobState.QUEUED, JobState.STARTING}:
            await withdraw(context, unit, job, "The job was paused before its process had begun.")
            paused = job.moved(JobState.PAUSED, context.now())
            message = "The job is paused and holds no capacity; it is queued again when it is resumed."
            saved = await _save(context, unit, job, paused, message)
        elif job.state in {JobState.RUNNING, JobState.PREEMPTING}:
            message = "The job was asked to pause: it saves a checkpoint and leaves."
            saved = await _save(context, unit, job, job.moved(JobState.PAUSING, context.now()), message)
        else:
            raise _wrong_state(job, "Only a job that waits or runs can be paused.")
        await unit.commit()
    return saved


async def resume_tuning_job(context: Context, name: str, workers: int | None = None) -> TuningJob:
    """Queue a paused job again, with another number of workers if one is given.

    One whose process has not left yet goes on, or is queued as soon as it has; its workers stay as many as they are.
    """
    parsed = TuningJobName.parse(name)
    async with context.units() as unit:
        job = await present_job(unit, parsed, for_update=True)
        if job.state is JobState.PAUSED:
            with_workers = job if workers is None else await _spread_anew(context, unit, job, workers)
            message = f"The job was resumed{_said_of_workers(job, with_workers)} and is queued; it goes on from its last checkpoint."
            saved = await _save(context, unit, job, with_workers.moved(JobState.QUEUED, context.now()), message)
            if with_workers is not job:
                await hold(unit, saved, context.now())
        elif job.state is JobState.PAUSING and workers is None:
            message = "The job was resumed before it had paused; it goes on, or is queued when its process has left."
            saved = await _save(context, unit, job, job.moved(JobState.RUNNING, context.now()), message)
        elif job.state is JobState.PAUSING:
            raise _wrong_state(job, "Only a job that is PAUSED can be resumed with another number of workers.")
        else:
            raise _wrong_state(job, "Only a paused job can be resumed.")
        await unit.commit()
    return saved


async def _spread_anew(context: Context, unit: UnitOfWork, job: TuningJob, workers: int) -> TuningJob:
    """The job over another number of workers, with what it is estimated to take then; what its losses follow from stays.

    Raises InvalidArgument, and NEVER_FITS as CreateTuningJob does.
    """
    distributed = job.spec.distributed
    if distributed is None:
        message = f"{job.name} runs on a trainer that it shares with other jobs, and has no workers of its own."
        raise InvalidArgument.for_field("workers", message)
    distributed = replace(distributed, workers=workers)
    violations = Violations()
    violations.extend(tuple(distributed.violations()))
    violations.raise_any()
    needs = context.settings.needs
    changed = await with_facts(unit, replace(job, spec=replace(job.spec, distributed=distributed)), needs)
    tenant = await present_tenant(unit, job.tenant)
    require_possible(tenant, await cohort_of(unit, tenant), changed, needs)
    return changed


def _said_of_workers(before: TuningJob, after: TuningJob) -> str:
    if before.spec.distributed == after.spec.distributed:
        return ""
    assert before.spec.distributed is not None
    assert after.spec.distributed is not None
    return f" with {after.spec.distributed.workers} workers, after {before.spec.distributed.workers},"


async def preempt_tuning_job(context: Context, name: str, reason: str = "") -> TuningJob:
    """Make a job give back its capacity: it saves a checkpoint, leaves, and is queued again."""
    parsed = TuningJobName.parse(name)
    violations = Violations()
    violations.text(reason, "reason", _MAX_REASON)
    violations.raise_any()
    why = printable(reason, MAX_MESSAGE) if reason.strip() else ""
    async with context.units() as unit:
        job = await present_job(unit, parsed, for_update=True)
        if job.state is JobState.PREEMPTING:
            return job
        saved = await give_way(context, unit, job, why)
        if saved is None:
            raise _wrong_state(job, "Only a job that starts or runs can be preempted.")
        await record(context, unit, job, saved)
        await unit.commit()
    return saved


async def _save(context: Context, unit: UnitOfWork, before: TuningJob, job: TuningJob, message: str) -> TuningJob:
    await record(context, unit, before, job)
    return await unit.jobs.save(job, [JobEvent(context.now(), EventLevel.INFO, message, state=job.state)])


def _wrong_state(job: TuningJob, rule: str) -> TrellisError:
    message = f"{job.name} is {job.state}. {rule}"
    return error_for(Reason.INVALID_STATE, message, metadata={"state": job.state.value})
