"""Ends jobs that were asked to stop and whose process did not do so by itself."""

from trellis.errors import Reason
from trellis.server.control.attempts import end_badly
from trellis.server.control.context import ControlContext
from trellis.server.control.each import for_each
from trellis.server.control.metrics import ATTEMPTS_STOPPED
from trellis.server.domain.tuning_job import Attempt, EndCause, JobError, JobState, TuningJob

_BATCH = 200


class CancelJobs:
    """A process is told by the answer to its next report; after a grace its run is stopped."""

    name = "cancel"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One look at all jobs that are being cancelled."""
        async with self._context.units(write=False) as unit:
            jobs = await unit.jobs.in_states([JobState.CANCELLING], _BATCH)
            attempts = [await unit.jobs.get_attempt(job.uid, job.attempt_count) for job in jobs]
        pairs = zip(jobs, attempts, strict=True)
        await for_each([attempt for job, attempt in pairs if attempt and self._is_due(job, attempt)], self._end)
        return False

    def _is_due(self, job: TuningJob, attempt: Attempt) -> bool:
        if attempt.start_time is None:
            return True
        begun = job.cancel_time or job.update_time
        return self._context.now() >= begun + self._context.settings.graces.cancel

    async def _end(self, attempt: Attempt) -> None:
        # Fenced first: whatever the process still says is refused. The reaper then stops what is left of the run.
        error = JobError(Reason.TRAINING_FAILED, "The job was cancelled.")
        async with self._context.units() as unit:
            if not await end_badly(unit, self._context, attempt, error, cause=EndCause.CANCELLED):
                return
            await unit.commit()
        ATTEMPTS_STOPPED.inc()
