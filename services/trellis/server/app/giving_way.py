"""Jobs that give back their capacity to others: asked to by an admin, or by the scheduler."""

from dataclasses import replace

from trellis.server.app.audit import Timed
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.tuning_job import EventLevel, JobEvent, JobState, TuningJob


async def give_way(context: Timed, unit: UnitOfWork, job: TuningJob, why: str = "") -> TuningJob | None:
    """Have a job that starts or runs, which was read for update, leave and be queued again; None if it does neither.

    One that runs saves a checkpoint first; one whose process has not called yet has nothing to save. `why` is a sentence
    for its user.
    """
    now, said = context.now(), f" {why}" if why else ""
    if job.state is JobState.STARTING:
        await withdraw(context, unit, job, "The job was preempted before its process had begun.")
        message = f"The job gave back its capacity before it had begun, and is queued again.{said}"
        moved = job.moved(JobState.QUEUED, now)
    elif job.state is JobState.RUNNING:
        message = f"The job was asked to give back its capacity: it saves a checkpoint and is queued again.{said}"
        moved = job.moved(JobState.PREEMPTING, now)
    else:
        return None
    counted = replace(moved, preemption_count=job.preemption_count + 1)
    return await unit.jobs.save(counted, [JobEvent(now, EventLevel.INFO, message, state=moved.state)])


async def withdraw(context: Timed, unit: UnitOfWork, job: TuningJob, outcome: str) -> None:
    """End the attempt of a STARTING job: its process has not called, so there is nothing to save."""
    if job.state is JobState.STARTING:
        attempt = await unit.jobs.get_attempt(job.uid, job.attempt_count)
        assert attempt is not None, "a STARTING job has an attempt"
        await unit.jobs.save_attempt(replace(attempt, end_time=context.now(), outcome=outcome))
