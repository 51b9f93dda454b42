"""The end of an attempt that made no adapter, whoever ends it."""

from dataclasses import replace
from datetime import datetime

from trellis.server.app.holds import hold, release, settle
from trellis.server.app.metrics import count_attempt, count_job
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.prices import FREE, Prices
from trellis.server.domain.retry import RetryPolicy, after_bad_end
from trellis.server.domain.tuning_job import Attempt, EndCause, JobError, JobEvent, TuningJob


async def end_attempt(
    unit: UnitOfWork,
    job: TuningJob,
    attempt: Attempt,
    error: JobError,
    *,
    cause: EndCause,
    now: datetime,
    policy: RetryPolicy,
    prices: Prices = FREE,
    before: tuple[JobEvent, ...] = (),
) -> TuningJob:
    """Fence the attempt, count what it used, and move its job on, which was read for update.

    The events `before` are told first. A job that has another attempt already, or has ended, stays where it is.
    """
    await unit.jobs.save_attempt(replace(attempt, end_time=now, outcome=error.message or cause.value))
    count_attempt(cause)
    total = await settle(unit, job, attempt, now, prices)
    if job.ended or job.attempt_count != attempt.number:
        return await unit.jobs.save(total, before)
    moved, event = after_bad_end(total, error, cause=cause, now=now, policy=policy)
    count_job(moved.state, cause)
    await (release if moved.ended else hold)(unit, moved, now)
    return await unit.jobs.save(moved, [*before, event])
