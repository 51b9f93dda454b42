"""Jobs asked to leave their processes, and to come back: paused, resumed, preempted."""

from trellis.errors import Reason, TrellisError, error_for
from trellis.names import TuningJobName
from trellis.server.app.attempts import MAX_MESSAGE
from trellis.server.app.audit import record
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations, printable
from trellis.server.app.giving_way import give_way, withdraw
from trellis.server.app.ports import UnitOfWork
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


async def resume_tuning_job(context: Context, name: str) -> TuningJob:
    """Queue a paused job again. One whose process has not left yet goes on, or is queued as soon as it has."""
    parsed = TuningJobName.parse(name)
    async with context.units() as unit:
        job = await present_job(unit, parsed, for_update=True)
        if job.state is JobState.PAUSED:
            message = "The job was resumed and is queued; it goes on from its last checkpoint."
            saved = await _save(context, unit, job, job.moved(JobState.QUEUED, context.now()), message)
        elif job.state is JobState.PAUSING:
            message = "The job was resumed before it had paused; it goes on, or is queued when its process has left."
            saved = await _save(context, unit, job, job.moved(JobState.RUNNING, context.now()), message)
        else:
            raise _wrong_state(job, "Only a paused job can be resumed.")
        await unit.commit()
    return saved


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
