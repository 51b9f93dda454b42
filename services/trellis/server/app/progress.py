"""An attempt's reports: applied once each, in order, in one transaction with the lease that they renew."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from trellis.errors import InvalidArgument
from trellis.server.app import keys
from trellis.server.app.attempt_usage import AttemptUsage, with_usage
from trellis.server.app.attempts import MAX_MESSAGE, current_attempt, renewed
from trellis.server.app.checkpoints import discard, keep_checkpoints
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations, printable
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.caller import Caller
from trellis.server.domain.stop import Stop, stop_of
from trellis.server.domain.tuning_job import (
    Attempt,
    Checkpoint,
    EventLevel,
    JobEvent,
    MetricPoint,
    Progress,
    TuningJob,
)

_MAX_ITEMS = 10_000
_MAX_METRIC_NAME = 100
_MAX_STEP = 10**12 - 1
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    """A sentence on what happened."""

    level: EventLevel
    message: str
    time: datetime


@dataclass(frozen=True, slots=True)
class CommittedCheckpoint:
    """A checkpoint whose commit marker is written."""

    step: int
    key: str
    size_bytes: int
    valid_loss: float | None = None
    """The held-out loss at its step, in nats, if it was measured."""


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """A report; `progress` is None if it did not change."""

    number: int
    progress: Progress | None = None
    metrics: Sequence[MetricPoint] = ()
    events: Sequence[WorkerEvent] = ()
    checkpoints: Sequence[CommittedCheckpoint] = ()
    log_text: str = ""
    usage: AttemptUsage | None = None


async def report_attempt(context: Context, caller: Caller, report: AttemptReport) -> Stop | None:
    """Apply the report, unless it was applied before; what the attempt is asked to do instead of going on."""
    released: Sequence[Checkpoint] = ()
    async with context.units() as unit:
        job, attempt = await current_attempt(unit, caller)
        _check(report, job, attempt)
        attempt = renewed(context, attempt)
        if report.number == attempt.next_report:
            released = await _apply(context, unit, report, job, attempt)
            attempt = _watched(attempt, job.progress, report, context.now())
            attempt = with_usage(replace(attempt, next_report=attempt.next_report + 1), report.usage)
        await unit.jobs.save_attempt(attempt)
        await unit.commit()
    await discard(context.store, released)
    return stop_of(job, context.settings.graces)


def _check(report: AttemptReport, job: TuningJob, attempt: Attempt) -> None:
    if not 1 <= report.number <= attempt.next_report:
        description = f"{report.number} is not a report that is due; the next one is {attempt.next_report}."
        raise InvalidArgument.for_field("report", description)
    violations = Violations()
    for field in ("metrics", "events", "checkpoints"):
        if len(getattr(report, field)) > _MAX_ITEMS:
            violations.add(field, f"A report has at most {_MAX_ITEMS}.")
    steps = [("metrics.step", point.step) for point in report.metrics]
    steps += [("checkpoints.step", checkpoint.step) for checkpoint in report.checkpoints]
    steps += [("progress.step", report.progress.step)] if report.progress else []
    for field, step in steps:
        if not 0 <= step <= _MAX_STEP:
            violations.add(field, f"{step} can't be a number of optimizer steps.")
    for name in {name for point in report.metrics for name in point.values}:
        violations.text(name, "metrics.values", _MAX_METRIC_NAME)
    prefix = keys.checkpoint_prefix(job.tenant, job.uid) + "/"
    for checkpoint in report.checkpoints:
        if not checkpoint.key.startswith(prefix) or "/." in checkpoint.key:
            violations.add("checkpoints.key", "It does not lie under the attempt's checkpoint_prefix.")
    violations.raise_any()


async def _apply(
    context: Context, unit: UnitOfWork, report: AttemptReport, job: TuningJob, attempt: Attempt
) -> Sequence[Checkpoint]:
    """The checkpoints that are not kept any more."""
    now = context.now()
    metrics = await _new_points(unit, job, report.metrics)
    checkpoints = [
        Checkpoint(c.step, attempt.number, c.key, c.size_bytes, now, _finite(c.valid_loss)) for c in report.checkpoints
    ]
    progress = _merged(job.progress, report)
    events = [JobEvent(e.time, e.level, printable(e.message, MAX_MESSAGE)) for e in report.events]
    events += [JobEvent(p.time, EventLevel.INFO, _said(p), metrics=p) for p in metrics]
    events += [JobEvent(now, EventLevel.INFO, f"Checkpoint at step {c.step}.", checkpoint=c) for c in checkpoints]
    if report.progress and _is_news(job.progress, progress):
        events.append(JobEvent(now, EventLevel.INFO, progress.phase, progress=progress))
    # Whoever comes further between failures is not given up, and neighbours of a job that kills its trainer do.
    failures = 0 if await _is_further(unit, job, checkpoints) else job.failure_count
    await unit.jobs.save(replace(job, progress=progress, update_time=now, failure_count=failures), events)
    await unit.jobs.add_metrics(job.uid, metrics)
    if report.log_text:
        await unit.jobs.append_log(job.uid, attempt.number, printable(report.log_text, len(report.log_text)))
    return await keep_checkpoints(unit, job, checkpoints) if checkpoints else []


async def _is_further(unit: UnitOfWork, job: TuningJob, fresh: Sequence[Checkpoint]) -> bool:
    if not fresh:
        return False
    latest = await unit.jobs.latest_checkpoint(job.uid)
    return latest is None or max(checkpoint.step for checkpoint in fresh) > latest.step


def _watched(attempt: Attempt, before: Progress, report: AttemptReport, now: datetime) -> Attempt:
    """The attempt, with the time at which it came further, for the watchdog."""
    after = report.progress or replace(before, step=attempt.step)
    further = (after.step, after.phase) != (attempt.step, before.phase)
    if further or report.metrics or report.checkpoints:
        return replace(attempt, step=after.step, step_time=now)
    return attempt


async def _new_points(unit: UnitOfWork, job: TuningJob, points: Sequence[MetricPoint]) -> list[MetricPoint]:
    """What was not reported before: an attempt that resumes goes over steps again that an earlier one reported."""
    if all(point.step > job.progress.step for point in points):
        return list(points)
    known = await _known_names(unit, job.uid, {point.step for point in points})
    fresh = []
    for point in points:
        values = {name: value for name, value in point.values.items() if (point.step, name) not in known}
        if values:
            fresh.append(replace(point, values=values))
    return fresh


async def _known_names(unit: UnitOfWork, uid: str, steps: set[int]) -> set[tuple[int, str]]:
    known: set[tuple[int, str]] = set()
    cursor: str | None = None
    while True:
        page = await unit.jobs.metrics(uid, _PAGE, cursor)
        known |= {(point.step, name) for point in page.items if point.step in steps for name in point.values}
        cursor = page.next_cursor
        if cursor is None or (page.items and page.items[-1].step >= max(steps)):
            return known


def _merged(before: Progress, report: AttemptReport) -> Progress:
    """The progress after the report. Steps never go back, though an attempt that resumes does a few of them again."""
    latest = report.progress or before
    return replace(
        latest,
        step=max([before.step, latest.step, *(point.step for point in report.metrics)]),
        trained_tokens=max(before.trained_tokens, latest.trained_tokens),
        phase=printable(latest.phase, 100),
        loss=_finite(latest.loss) if latest.loss is not None else before.loss,
        eta_seconds=_finite(latest.eta_seconds),
    )


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _is_news(before: Progress, after: Progress) -> bool:
    same = (after.step, after.phase, after.total_steps) == (before.step, before.phase, before.total_steps)
    return not same


def _said(point: MetricPoint) -> str:
    values = ", ".join(f"{name} {value:.4g}" for name, value in sorted(point.values.items()))
    return f"Step {point.step}: {values}."
