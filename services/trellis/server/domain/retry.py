"""What becomes of a job whose attempt ended badly."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from trellis.errors import Reason
from trellis.server.domain.tuning_job import EventLevel, JobError, JobEvent, JobState, TuningJob


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a job is tried, and how long it waits in between: `base * 2 ** (attempts - 1)`, at most `longest`."""

    max_attempts: int = 4
    base: timedelta = timedelta(seconds=2)
    longest: timedelta = timedelta(minutes=2)

    def pause(self, attempts: int) -> timedelta:
        """The wait after so many attempts."""
        doublings = min(max(0, attempts - 1), 29)  # of a second, 17 years; more of them overflow a timedelta
        return min(self.longest, self.base * (1 << doublings))


def after_bad_end(
    job: TuningJob, error: JobError, *, retryable: bool, now: datetime, policy: RetryPolicy
) -> tuple[TuningJob, JobEvent]:
    """The job after its newest attempt failed or was lost, and the event that says so.

    It is queued again while that may help, and fails otherwise; one that was being cancelled is cancelled.
    """
    if job.state is JobState.CANCELLING:
        moved = job.moved(JobState.CANCELLED, now)
        return moved, JobEvent(now, EventLevel.INFO, "The job was cancelled.", state=JobState.CANCELLED)
    if not retryable:
        return _failed(job, error, now)
    if job.attempt_count >= policy.max_attempts:
        message = f"Gave up after {job.attempt_count} attempts. The last one: {error.message}"
        return _failed(job, JobError(Reason.ATTEMPTS_EXHAUSTED, message, error.metadata), now)
    pause = policy.pause(job.attempt_count)
    queued = replace(job.moved(JobState.QUEUED, now), retry_time=now + pause)
    message = (
        f"Attempt {job.attempt_count} of {policy.max_attempts} ended: {error.message} "
        f"The job goes on from its last checkpoint in {pause.total_seconds():.0f} s."
    )
    return queued, JobEvent(now, EventLevel.WARNING, message, state=JobState.QUEUED)


def _failed(job: TuningJob, error: JobError, now: datetime) -> tuple[TuningJob, JobEvent]:
    moved = job.moved(JobState.FAILED, now, error)
    return moved, JobEvent(now, EventLevel.ERROR, error.message, state=JobState.FAILED)
