"""Tuning jobs, their events, metrics and checkpoints."""

from typing import Any

from trellis.names import AdapterName, AliasName, CheckpointName, ExportName
from trellis.server.app.etags import etag_of
from trellis.server.app.job_request import NewTuningJob
from trellis.server.domain.tuning_job import (
    Checkpoint,
    Estimate,
    Evaluation,
    JobError,
    JobEvent,
    JobState,
    MetricPoint,
    Progress,
    QueueReason,
    TuningJob,
)
from trellis.server.rpc.convert.enums import from_wire, to_wire
from trellis.server.rpc.convert.method import chosen_method, method_fields
from trellis.server.rpc.convert.times import duration, timestamp
from trellis.server.rpc.statuses import job_status
from trellis.v1 import tuning_job_pb2 as pb


def tuning_job(value: TuningJob) -> pb.TuningJob:
    """The job on the wire."""
    alias = str(AliasName(value.tenant, value.alias_id)) if value.alias_id else ""
    return pb.TuningJob(
        name=value.name,
        display_name=value.display_name,
        base_model=value.spec.base_model,
        training_dataset=value.spec.training_dataset,
        validation_dataset=value.spec.validation_dataset,
        replay_dataset=value.spec.replay_dataset,
        initial_adapter=value.spec.initial_adapter,
        alias=alias,
        deploy=value.deploy,
        state=state(value.state),
        queue_reason=queue_reason(value.queue_reason),
        progress=progress(value.progress),
        error=_error(value.error),
        adapter=str(AdapterName.for_digest(value.tenant, value.adapter_digest)) if value.adapter_digest else "",
        base_evaluation=_evaluation(value.base_evaluation),
        tuned_evaluation=_evaluation(value.tuned_evaluation),
        attempt_count=value.attempt_count,
        create_time=timestamp(value.create_time),
        start_time=timestamp(value.start_time),
        end_time=timestamp(value.end_time),
        update_time=timestamp(value.update_time),
        etag=etag_of(value.name, value.create_time, value.revision),
        usage=pb.TuningJob.Usage(trained_tokens=value.used_tokens, trainer_seconds=value.used_seconds),
        export=str(ExportName(value.tenant, value.export_id)) if value.export_id else "",
        priority=value.priority,
        estimate=_estimate(value.estimate),
        preemption_count=value.preemption_count,
        warnings=value.warnings,
        **method_fields(value.spec),
    )


def state(value: JobState | None) -> Any:
    """The state on the wire."""
    return to_wire(pb.TuningJob.State, "STATE_", value)


def states(request: pb.ListTuningJobsRequest) -> tuple[JobState, ...]:
    """The states that are asked for."""
    found = (from_wire(pb.TuningJob.State, "STATE_", JobState, number, "states") for number in request.states)
    return tuple(one for one in found if one is not None)


def progress(value: Progress) -> pb.TuningJob.Progress:
    """How far a job has come, on the wire."""
    return pb.TuningJob.Progress(
        step=value.step,
        total_steps=value.total_steps,
        phase=value.phase,
        loss=value.loss,
        eta=duration(value.eta_seconds),
        trained_tokens=value.trained_tokens,
    )


def metric_point(value: MetricPoint) -> pb.MetricPoint:
    """The measurements of a step, on the wire."""
    return pb.MetricPoint(step=value.step, values=dict(value.values), time=timestamp(value.time))


def checkpoint(job_name: str, value: Checkpoint, *, best: bool = False) -> pb.Checkpoint:
    """A checkpoint of the job, on the wire."""
    _, tenant, _, job_id = job_name.split("/")
    return pb.Checkpoint(
        name=str(CheckpointName(tenant, job_id, str(value.step))),
        step=value.step,
        attempt=value.attempt,
        size_bytes=value.size_bytes,
        create_time=timestamp(value.create_time),
        pinned=value.pinned,
        best=best,
        valid_loss=value.valid_loss,
    )


def event(job: TuningJob, value: JobEvent) -> pb.TuningJobEvent:
    """Something that happened to the job, on the wire."""
    message = pb.TuningJobEvent(
        tuning_job=job.name,
        sequence=value.sequence,
        time=timestamp(value.time),
        level=to_wire(pb.TuningJobEvent.Level, "LEVEL_", value.level),
        message=value.message,
    )
    if value.state is not None:
        message.state = state(value.state)
    elif value.progress is not None:
        message.progress.CopyFrom(progress(value.progress))
    elif value.metrics is not None:
        message.metrics.CopyFrom(metric_point(value.metrics))
    elif value.checkpoint is not None:
        message.checkpoint.CopyFrom(checkpoint(job.name, value.checkpoint))
    return message


def new_tuning_job(request: pb.CreateTuningJobRequest) -> NewTuningJob:
    """The job to submit."""
    job = request.tuning_job
    return NewTuningJob(
        parent=request.parent,
        training_dataset=job.training_dataset,
        job_id=request.tuning_job_id,
        display_name=job.display_name,
        base_model=job.base_model,
        validation_dataset=job.validation_dataset,
        replay_dataset=job.replay_dataset,
        initial_adapter=job.initial_adapter,
        alias=job.alias,
        deploy=job.deploy,
        priority=job.priority,
        **chosen_method(job),
    )


def queue_reason(value: QueueReason | None) -> pb.TuningJob.QueueReason | None:
    """Why a job waits, on the wire."""
    if value is None:
        return None
    code = to_wire(pb.TuningJob.QueueReason.Code, "CODE_", value.code)
    start = value.start
    return pb.TuningJob.QueueReason(
        code=code,
        message=value.message,
        position=value.position,
        predicted_start_time=timestamp(start.expected) if start else None,
        earliest_start_time=timestamp(start.earliest) if start else None,
        latest_start_time=timestamp(start.latest) if start else None,
    )


def _estimate(value: Estimate | None) -> pb.TuningJob.Estimate | None:
    if value is None:
        return None
    return pb.TuningJob.Estimate(
        accelerators=value.accelerators,
        duration=duration(value.seconds),
        trained_tokens=value.trained_tokens,
        rule=value.rule,
        accelerator_seconds=value.accelerator_seconds,
    )


def _evaluation(value: Evaluation | None) -> pb.TuningJob.Evaluation | None:
    if value is None:
        return None
    return pb.TuningJob.Evaluation(
        loss=value.loss,
        token_accuracy=value.token_accuracy,
        exact_match=value.exact_match,
        line_count=value.line_count,
        answered_line_count=value.answered_line_count,
    )


def _error(value: JobError | None) -> Any:
    return None if value is None else job_status(value.reason, value.message, value.metadata)
