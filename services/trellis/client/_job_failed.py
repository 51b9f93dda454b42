"""What waiting for a job raises."""

from trellis.client.types import JobState, TuningJob
from trellis.errors import TrellisError


class JobFailed(TrellisError):
    """The job ended without an adapter; `job` says all of it, and reason and message are those of its error."""

    def __init__(self, job: TuningJob) -> None:
        error = job.error
        message = f"{job.name} failed: {error.message}" if error else f"{job.name} ended as {job.state}."
        super().__init__(
            (error.reason or error.status) if error else job.state.value,
            message,
            metadata=error.metadata if error else None,
            violations=error.violations if error else (),
        )
        self.job = job


class JobCancelled(JobFailed):
    """The job was stopped by request."""


def outcome(job: TuningJob) -> TuningJob:
    """The job, if it succeeded; raises JobFailed or JobCancelled."""
    if job.state is JobState.SUCCEEDED:
        return job
    raise (JobCancelled if job.state is JobState.CANCELLED else JobFailed)(job)
