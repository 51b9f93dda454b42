"""What use cases and loops count alike: how attempts and jobs ended."""

from typing import Final

from prometheus_client import Counter

from trellis.server.domain.tuning_job import EndCause, JobState

SUCCESS: Final = "SUCCESS"
"""The cause of an end that needs none."""
_ATTEMPTS = Counter("trellis_attempts_ended_total", "Attempts that ended, by why: SUCCESS or a cause.", ["cause"])
_JOBS = Counter(
    "trellis_jobs_ended_total", "Jobs that ended, by state and by why their last attempt did.", ["state", "cause"]
)
# There from the beginning: Prometheus sees no increase in a series that begins with its first count.
for _cause in EndCause:
    _ATTEMPTS.labels(_cause.value)
    _JOBS.labels(JobState.FAILED.value, _cause.value)
for _labels in ((JobState.SUCCEEDED.value, SUCCESS), (JobState.CANCELLED.value, EndCause.CANCELLED.value)):
    _JOBS.labels(*_labels)
_ATTEMPTS.labels(SUCCESS)


def count_attempt(cause: EndCause | None) -> None:
    """An attempt ended; None for success."""
    _ATTEMPTS.labels(cause.value if cause else SUCCESS).inc()


def count_job(state: JobState, cause: EndCause | None) -> None:
    """A job ended, or another state of a job that has not is passed by.

    It is counted when it is decided: of a transaction that fails and is done again, twice.
    """
    if state in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}:
        _JOBS.labels(state.value, cause.value if cause else SUCCESS).inc()
