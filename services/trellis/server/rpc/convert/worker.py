"""What attempts and the server say to each other."""

from datetime import datetime

from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from trellis.errors import DOMAIN, Reason
from trellis.server.app.attempt_usage import AttemptUsage
from trellis.server.app.attempts import Assignment, Process
from trellis.server.app.completion import Completion
from trellis.server.app.progress import AttemptReport, CommittedCheckpoint, WorkerEvent
from trellis.server.domain.stop import Stop
from trellis.server.domain.tuning_job import EndCause, Evaluation, EventLevel, JobError, MetricPoint, Progress
from trellis.server.rpc.convert.enums import from_wire, to_wire
from trellis.server.rpc.convert.times import moment, timestamp
from trellis.v1 import tuning_job_pb2, worker_pb2 as pb


def process(request: pb.StartAttemptRequest) -> Process:
    """What the process says of itself."""
    return Process(request.code_version, request.hostname, request.pid, request.nonce)


def assignment(value: Assignment) -> pb.StartAttemptResponse:
    """The attempt's work, on the wire."""
    return pb.StartAttemptResponse(
        tuning_job=value.tuning_job,
        attempt=value.attempt,
        train_spec_json=value.train_spec_json,
        store_url=value.store_url,
        training_key=value.training_key,
        validation_key=value.validation_key,
        checkpoint_prefix=value.checkpoint_prefix,
        adapter_prefix=value.adapter_prefix,
        resume_key=value.resume_key,
        resume_step=value.resume_step,
        heartbeat_seconds=value.heartbeat_seconds,
        next_report=value.next_report,
        replay_key=value.replay_key,
        initial_key=value.initial_key,
        memory_halvings=value.memory_halvings,
        model_prefix=value.model_prefix,
        token=value.token,
        traceparent=value.traceparent,
        job_create_time=timestamp(value.job_create_time),
    )


def attempt_report(request: pb.ReportAttemptRequest, now: datetime) -> AttemptReport:
    """The report; what has no time is of `now`."""
    return AttemptReport(
        number=request.report,
        progress=_progress(request.progress) if request.HasField("progress") else None,
        metrics=[MetricPoint(p.step, dict(p.values), _time(p, "metrics.time", now)) for p in request.metrics],
        events=[WorkerEvent(_level(e), e.message, _time(e, "events.time", now)) for e in request.events],
        checkpoints=[_committed(c) for c in request.checkpoints],
        log_text=request.log_text,
        usage=attempt_usage(request),
    )


def attempt_usage(
    request: pb.ReportAttemptRequest | pb.CompleteAttemptRequest | pb.FailAttemptRequest,
) -> AttemptUsage | None:
    """What the attempt says that it has used; None if it does not say."""
    if not request.HasField("usage"):
        return None
    return AttemptUsage(request.usage.trained_tokens, request.usage.trainer_seconds)


def report_answer(stop: Stop | None, now: datetime, pause: float) -> pb.ReportAttemptResponse:
    """What the attempt is asked, and when it is to report again, on the wire."""
    if stop is None:
        return pb.ReportAttemptResponse(pause_seconds=pause)
    request = to_wire(pb.StopRequest, "STOP_REQUEST_", stop.request)
    return pb.ReportAttemptResponse(stop=request, stop_seconds=stop.seconds_left(now), pause_seconds=pause)


def end_cause(request: pb.FailAttemptRequest) -> EndCause:
    """Why the attempt ended."""
    return from_wire(pb.EndCause, "END_CAUSE_", EndCause, request.cause, "cause") or EndCause.INFRASTRUCTURE


def completion(request: pb.CompleteAttemptRequest) -> Completion:
    """What the attempt says at its good end."""
    return Completion(
        adapter_digest=request.adapter_digest,
        model_digest=request.model_digest,
        base_evaluation=_evaluation(request.base_evaluation) if request.HasField("base_evaluation") else None,
        tuned_evaluation=_evaluation(request.tuned_evaluation) if request.HasField("tuned_evaluation") else None,
        usage=attempt_usage(request),
    )


def job_error(status: Status) -> JobError:
    """Why the attempt failed, in the words of the API where it knows them."""
    for detail in status.details:
        info = ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
            return JobError(info.reason, status.message, dict(info.metadata))
    return JobError(Reason.TRAINING_FAILED, status.message or "The training process failed without saying why.")


def _committed(message: pb.CommittedCheckpoint) -> CommittedCheckpoint:
    valid_loss = message.valid_loss if message.HasField("valid_loss") else None
    return CommittedCheckpoint(message.step, message.key, message.size_bytes, valid_loss)


def _progress(message: tuning_job_pb2.TuningJob.Progress) -> Progress:
    eta = message.eta
    return Progress(
        step=message.step,
        total_steps=message.total_steps,
        phase=message.phase,
        loss=message.loss if message.HasField("loss") else None,
        eta_seconds=eta.seconds + eta.nanos / 1e9 if message.HasField("eta") else None,
        trained_tokens=message.trained_tokens,
    )


def _evaluation(message: tuning_job_pb2.TuningJob.Evaluation) -> Evaluation:
    return Evaluation(
        loss=message.loss,
        token_accuracy=message.token_accuracy,
        exact_match=message.exact_match,
        line_count=message.line_count,
        answered_line_count=message.answered_line_count,
    )


def _level(event: pb.WorkerEvent) -> EventLevel:
    levels = tuning_job_pb2.TuningJobEvent.Level
    return from_wire(levels, "LEVEL_", EventLevel, event.level, "events.level") or EventLevel.INFO


def _time(message: Message, path: str, now: datetime) -> datetime:
    return moment(message, "time", path) or now
