"""Tuning jobs explained: why one waits, what stands before it, and what would let it start sooner."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from trellis.names import TuningJobName
from trellis.server.app.context import Context
from trellis.server.app.tuning_jobs import present_job
from trellis.server.domain.tuning_job import JobState, QueueReason, TuningJob
from trellis.server.scheduler.alternatives import Alternative, Change
from trellis.server.scheduler.explain import Explanation
from trellis.spec import TrainSpec


@dataclass(frozen=True, slots=True)
class JobChange:
    """What would let a job start sooner."""

    field: str
    """Of the job, such as `distributed.workers`."""
    value: str
    message: str
    start: datetime


@dataclass(frozen=True, slots=True)
class JobExplanation:
    """What can be said of a job."""

    job: TuningJob
    explanation: Explanation
    own_before: tuple[str, ...] = ()
    """The names of the tenant's own jobs that stand before it, the next to start first."""
    changes: tuple[JobChange, ...] = ()


async def explain_tuning_job(context: Context, name: str) -> JobExplanation:
    """Explain a job that waits, in the queue or for the cluster; of others there is only the state. Raises NotFound."""
    parsed = TuningJobName.parse(name)
    async with context.units(write=False) as unit:
        job = await present_job(unit, parsed)
    if job.state is not JobState.QUEUED:
        return JobExplanation(job, Explanation(context.now(), _as_kept(job.queue_reason)))
    found = await context.outlooks.explain(job.uid) if context.outlooks is not None else None
    if found is None:
        return JobExplanation(job, Explanation(context.now(), _as_kept(job.queue_reason)))
    changes = tuple(_changes(job.spec, found.explanation.alternatives))
    return JobExplanation(job, found.explanation, found.own_before, changes)


def _as_kept(reason: QueueReason | None) -> tuple[QueueReason, ...]:
    """What the scheduler last said, without a place in a queue that the job is not seen in."""
    return () if reason is None else (replace(reason, position=0, start=None),)


def _changes(spec: TrainSpec, found: tuple[Alternative, ...]) -> Iterator[JobChange]:
    fields = {
        Change.WORKERS: "distributed.workers",
        Change.RANK: f"{spec.settings_path}.lora.rank",
        Change.CONTEXT_LENGTH: f"{spec.settings_path}.context_length",
        Change.BASE_MODEL: "base_model",
        Change.PRIORITY: "priority",
    }
    # An adapter to start from has its rank and its base.
    fixed = {Change.RANK, Change.BASE_MODEL} if spec.initial_adapter else set[Change]()
    for one in found:
        if one.change not in fixed:
            yield JobChange(fields[one.change], one.value, one.message, one.start)
