"""What becomes of a job whose attempt ended without an adapter."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from trellis.errors import Reason
from trellis.server.domain.tuning_job import EndCause, EventLevel, JobError, JobEvent, JobState, TuningJob

_ASKED = frozenset({EndCause.PAUSED, EndCause.PREEMPTED, EndCause.DECLINED})
"""Ends that are nobody's failure."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a job is tried, and how long it waits in between: `base * 2 ** (failures - 1)`, at most `longest`."""

    max_attempts: int = 4
    """So many failures of the infrastructure, with no new checkpoint in between, end a job."""
    base: timedelta = timedelta(seconds=2)
    longest: timedelta = timedelta(minutes=2)
    max_memory_halvings: int = 4
    """So many times the work of one pass is halved when the memory did not suffice."""
    max_declines: int = 10
    """So many trainers in a row that have no room for a job end it."""
    decline_pause: timedelta = timedelta(seconds=1)

    def pause(self, failures: int) -> timedelta:
        """The wait after so many failures."""
        doublings = min(max(0, failures - 1), 29)  # of a second, 17 years; more of them overflow a timedelta
        return min(self.longest, self.base * (1 << doublings))


def after_bad_end(
    job: TuningJob, error: JobError, *, cause: EndCause, now: datetime, policy: RetryPolicy
) -> tuple[TuningJob, JobEvent]:
    """The job after its newest attempt ended without an adapter or was lost, and the event that says so.

    What its user asked for comes first: a job that was being cancelled is cancelled, and one that was being paused is
    paused, unless its own data or settings make it fail.
    """
    if job.state is JobState.CANCELLING:
        moved = job.moved(JobState.CANCELLED, now)
        return moved, JobEvent(now, EventLevel.INFO, "The job was cancelled.", state=JobState.CANCELLED)
    # A process that was stopped, though nobody cancelled the job, is one that was lost.
    cause = EndCause.INFRASTRUCTURE if cause is EndCause.CANCELLED else cause
    counted = _counted(job, cause)
    if job.state is not JobState.PAUSING:
        given_up = _given_up(counted, error, cause, policy)
        return _failed(counted, given_up, now) if given_up else _queued(counted, error, cause, now, policy)
    return _failed(counted, error, now) if cause is EndCause.USER else _paused(counted, error, cause, now)


def _counted(job: TuningJob, cause: EndCause) -> TuningJob:
    return replace(
        job,
        failure_count=job.failure_count + (cause is EndCause.INFRASTRUCTURE),
        memory_halvings=job.memory_halvings + (cause is EndCause.OUT_OF_MEMORY),
        decline_count=job.decline_count + 1 if cause is EndCause.DECLINED else 0,
    )


def _given_up(job: TuningJob, error: JobError, cause: EndCause, policy: RetryPolicy) -> JobError | None:
    """Why the job, whose counts hold this end already, is not tried again; None if it is."""
    if cause is EndCause.USER:
        return error
    if cause is EndCause.INFRASTRUCTURE and job.failure_count >= policy.max_attempts:
        message = f"Gave up after {job.failure_count} attempts that failed. The last one: {error.message}"
    elif cause is EndCause.OUT_OF_MEMORY and job.memory_halvings > policy.max_memory_halvings:
        message = (
            f"The memory does not suffice, though the work of one pass was halved {policy.max_memory_halvings} times; "
            f"lower context_length or the rank, or ask for more workers. The last attempt: {error.message}"
        )
    elif cause is EndCause.DECLINED and job.decline_count >= policy.max_declines:
        message = f"{job.decline_count} trainers in a row had no room for the job. The last one: {error.message}"
    else:
        return None
    return JobError(Reason.ATTEMPTS_EXHAUSTED, message, error.metadata)


def _queued(
    job: TuningJob, error: JobError, cause: EndCause, now: datetime, policy: RetryPolicy
) -> tuple[TuningJob, JobEvent]:
    number = job.attempt_count
    if cause is EndCause.INFRASTRUCTURE:
        pause = policy.pause(job.failure_count)
        message = (
            f"Attempt {number} ended: {error.message} This was failure {job.failure_count} of {policy.max_attempts} at "
            f"the most; the job goes on from its last checkpoint in {pause.total_seconds():.0f} s."
        )
    elif cause is EndCause.OUT_OF_MEMORY:
        pause = timedelta(0)
        message = (
            f"Attempt {number} ran out of memory: {error.message} The job goes on from its last checkpoint with "
            f"1/{1 << job.memory_halvings} of the work in one pass."
        )
    elif cause is EndCause.DECLINED:
        pause = policy.decline_pause
        message = f"Attempt {number} found no room: {error.message} The job is queued again."
    else:
        pause = timedelta(0)
        message = "The job gave back its capacity and is queued again; it goes on from its last checkpoint."
    level = EventLevel.INFO if cause in _ASKED else EventLevel.WARNING
    queued = replace(job.moved(JobState.QUEUED, now), retry_time=now + pause if pause else None)
    return queued, JobEvent(now, level, message, state=JobState.QUEUED)


def _paused(job: TuningJob, error: JobError, cause: EndCause, now: datetime) -> tuple[TuningJob, JobEvent]:
    paused = job.moved(JobState.PAUSED, now)
    if cause in _ASKED:
        message = "The job is paused and holds no capacity; it goes on from its last checkpoint when it is resumed."
        return paused, JobEvent(now, EventLevel.INFO, message, state=JobState.PAUSED)
    message = f"The job is paused at its last checkpoint, as attempt {job.attempt_count} ended: {error.message}"
    return paused, JobEvent(now, EventLevel.WARNING, message, state=JobState.PAUSED)


def _failed(job: TuningJob, error: JobError, now: datetime) -> tuple[TuningJob, JobEvent]:
    moved = job.moved(JobState.FAILED, now, error)
    return moved, JobEvent(now, EventLevel.ERROR, error.message, state=JobState.FAILED)
