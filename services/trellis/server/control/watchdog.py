"""Ends attempts whose processes are there but make no progress."""

import structlog

from trellis.errors import Reason
from trellis.server.app.attempt_end import end_attempt
from trellis.server.control.context import ControlContext
from trellis.server.control.each import for_each
from trellis.server.control.metrics import ATTEMPTS_LOST
from trellis.server.domain.tuning_job import Attempt, EndCause, JobError, JobState, TuningJob

_log = structlog.get_logger(__name__)
_BATCH = 10_000
TRAINING = "training"
"""The phase in which steps are made."""


class WatchSteps:
    """A process that renews its lease may hang all the same: in a dead lock, a driver, a file system.

    Only an attempt that was heard of within a lease is judged: its newest report says how far it has come, so that time
    without a server, or without a network, is nobody's standstill.
    """

    name = "watch_steps"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One look at all attempts that are not over."""
        async with self._context.units(write=False) as unit:
            attempts = await unit.jobs.open_attempts(_BATCH)
        shortest = min(self._context.settings.step_timeout, self._context.settings.phase_timeout)
        await for_each(
            [found for found in attempts if self._still_seconds(found) >= shortest.total_seconds()], self._judge
        )
        return False

    def _still_seconds(self, attempt: Attempt) -> float:
        """For how long it has come no further; 0 for one that has not begun, or is silent altogether."""
        now = self._context.now()
        since = attempt.step_time or attempt.start_time
        if since is None or attempt.lease_expire_time <= now:
            return 0.0
        return (now - since).total_seconds()

    async def _judge(self, seen: Attempt) -> None:
        context = self._context
        async with context.units() as unit:
            job = await unit.jobs.get_by_uid(seen.job_uid, for_update=True)
            attempt = await unit.jobs.get_attempt(seen.job_uid, seen.number)
            if job is None or job.state is not JobState.RUNNING or attempt is None or attempt.ended:
                return
            seconds = self._still_seconds(attempt)
            if job.attempt_count != attempt.number or seconds < self._limit_seconds(job):
                return
            error = _error(job, attempt, seconds)
            await end_attempt(
                unit,
                job,
                attempt,
                error,
                cause=EndCause.INFRASTRUCTURE,
                now=context.now(),
                policy=context.settings.retry,
                prices=context.settings.prices,
            )
            await unit.commit()
        ATTEMPTS_LOST.labels("stuck").inc()
        _log.warning("attempt_stuck", tenant=attempt.tenant, run=attempt.submission_id, why=error.message)

    def _limit_seconds(self, job: TuningJob) -> float:
        settings = self._context.settings
        limit = settings.step_timeout if job.progress.phase == TRAINING else settings.phase_timeout
        return limit.total_seconds()


def _error(job: TuningJob, attempt: Attempt, seconds: float) -> JobError:
    message = (
        f"The training process still reports, but has made no progress for {seconds / 60:.0f} min; it was at step "
        f"{attempt.step} in the phase '{job.progress.phase}'."
    )
    return JobError(Reason.TRAINING_FAILED, message, {"attempt": str(attempt.number), "step": str(attempt.step)})
