"""Explanations of tuning jobs."""

from trellis.server.app.explanations import JobChange, JobExplanation
from trellis.server.rpc.convert.times import timestamp
from trellis.server.rpc.convert.tuning_job import queue_reason, state
from trellis.v1 import tuning_job_pb2 as pb


def explanation(value: JobExplanation) -> pb.TuningJobExplanation:
    """What can be said of a job, on the wire."""
    found = value.explanation
    start = found.prediction
    return pb.TuningJobExplanation(
        tuning_job=value.job.name,
        state=state(value.job.state),
        reasons=filter(None, map(queue_reason, found.reasons)),
        position=found.position,
        own_jobs_before=value.own_before,
        other_jobs_before=found.others_before,
        predicted_start_time=timestamp(start.start) if start else None,
        earliest_start_time=timestamp(start.earliest) if start else None,
        latest_start_time=timestamp(start.latest) if start else None,
        alternatives=map(_alternative, value.changes),
        time=timestamp(found.time),
        warnings=value.job.warnings,
    )


def _alternative(value: JobChange) -> pb.TuningJobExplanation.Alternative:
    return pb.TuningJobExplanation.Alternative(
        message=value.message, field=value.field, value=value.value, start_time=timestamp(value.start)
    )
