"""The part of a job's traces that the server has: the wait in the queue, and for the attempt's process.

An attempt's trace begins with its wait, and is linked to the call that submitted the job; what a process does belongs under the
same span, whose place is kept with the attempt.
"""

from trellis.server.domain.tuning_job import Attempt, TuningJob
from trellis.tracing import ROOT, Span, Value, begin


def begin_wait(job: TuningJob) -> Span:
    """The time from when the job was submitted, or might be tried again; to be ended once its admission is committed."""
    values: dict[str, Value] = {
        "trellis.tenant": job.tenant,
        "trellis.job": job.name,
        "trellis.attempt": job.attempt_count + 1,
    }
    waits_since = max(job.create_time, job.retry_time or job.create_time)
    return begin("queue.wait", parent=ROOT, links=(job.traceparent,), values=values, start=waits_since)


def trace_start(job: TuningJob, attempt: Attempt) -> None:
    """The time from the attempt's admission to its process's first call, which is now over."""
    values: dict[str, Value] = {
        "trellis.tenant": job.tenant,
        "trellis.job": job.name,
        "trellis.attempt": attempt.number,
        "trellis.trainer": attempt.trainer_uid,
    }
    assert attempt.start_time is not None
    if attempt.traceparent:
        span = begin("job.start", parent=attempt.traceparent, values=values, start=attempt.create_time)
        span.end(attempt.start_time)
