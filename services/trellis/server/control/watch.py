"""Finds attempts whose process died or went silent. The lease decides; the cluster's word may only hasten it."""

import structlog

from trellis.errors import Reason
from trellis.server.app.ports import RunStatus
from trellis.server.control.attempts import end_badly
from trellis.server.control.context import ControlContext
from trellis.server.domain.tuning_job import Attempt, JobError

_log = structlog.get_logger(__name__)
_BATCH = 200
_DEAD = frozenset({RunStatus.FAILED, RunStatus.STOPPED, RunStatus.SUCCEEDED})


class WatchAttempts:
    """Ends the attempts that are dead, so that their jobs are tried again or fail."""

    name = "watch"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One look at all attempts that are not over."""
        context = self._context
        async with context.units(write=False) as unit:
            expired = await unit.jobs.expired_attempts(context.now(), _BATCH)
            attempts = await unit.jobs.open_attempts(_BATCH)
        for attempt in expired:
            await self._end(attempt, self._silence(attempt))
        silent = {attempt.submission_id for attempt in expired}
        for attempt in attempts:
            if attempt.submission_id not in silent:
                await self._ask_cluster(attempt)
        return len(expired) == _BATCH

    async def _ask_cluster(self, attempt: Attempt) -> None:
        # A process says how it ended before it ends; if the cluster calls it dead and it did not, it was killed.
        # A run that the cluster does not know is one that is still to be submitted, or its lease will end.
        status, word = await self._context.cluster.status(attempt.submission_id)
        if status in _DEAD:
            said = f" ({word.strip().splitlines()[-1]})" if word.strip() else ""
            await self._end(attempt, f"The training process ended without a word; Ray says {status}{said}.")

    def _silence(self, attempt: Attempt) -> str:
        if attempt.start_time is None:
            seconds = self._context.settings.start_timeout.total_seconds()
            return f"The training process did not start within {seconds:.0f} s."
        seconds = self._context.settings.lease.total_seconds()
        return f"The training process was silent for {seconds:.0f} s."

    async def _end(self, attempt: Attempt, message: str) -> None:
        error = JobError(Reason.TRAINING_FAILED, message, {"attempt": str(attempt.number)})
        async with self._context.units() as unit:
            present = await unit.jobs.get_attempt(attempt.job_uid, attempt.number)
            if present is None or present.lease_expire_time != attempt.lease_expire_time:
                return  # it reported meanwhile
            if await end_badly(unit, self._context, attempt, error, retryable=True):
                await unit.commit()
                _log.warning("attempt_lost", tenant=attempt.tenant, run=attempt.submission_id, why=message)
