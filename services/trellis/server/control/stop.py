"""Ends the attempts of jobs that were asked to stop and whose process did not do so by itself."""

import structlog

from trellis.errors import Reason
from trellis.server.app.attempt_end import end_attempt
from trellis.server.control.context import ControlContext
from trellis.server.control.each import for_each
from trellis.server.control.metrics import ATTEMPTS_STOPPED
from trellis.server.domain.stop import CAUSES, Stop, stop_of
from trellis.server.domain.tuning_job import (
    STOPPING,
    Attempt,
    EventLevel,
    JobError,
    JobEvent,
    StopRequest,
    TuningJob,
)

_log = structlog.get_logger(__name__)
_BATCH = 1000


class StopJobs:
    """A process is told by the answer to its next report; after a grace its attempt is ended.

    A job that was to pause or to give back its capacity then goes on later from its last checkpoint.
    """

    name = "stop"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One look at all jobs that are stopping."""
        async with self._context.units(write=False) as unit:
            jobs = await unit.jobs.in_states(sorted(STOPPING), _BATCH)
            attempts = [await unit.jobs.get_attempt(job.uid, job.attempt_count) for job in jobs]
        pairs = zip(jobs, attempts, strict=True)
        await for_each([attempt for job, attempt in pairs if attempt and self._overdue(job, attempt)], self._end)
        return False

    def _overdue(self, job: TuningJob, attempt: Attempt) -> Stop | None:
        """What the job was asked, if its process has not done so in time; one that has not begun has nothing to do."""
        stop = stop_of(job, self._context.settings.graces)
        if stop is None or (attempt.start_time is not None and self._context.now() < stop.deadline):
            return None
        return stop

    async def _end(self, seen: Attempt) -> None:
        # Fenced first: whatever the process still says is refused. The reaper then stops what is left of the run.
        context = self._context
        async with context.units() as unit:
            job = await unit.jobs.get_by_uid(seen.job_uid, for_update=True)
            attempt = await unit.jobs.get_attempt(seen.job_uid, seen.number)
            if job is None or attempt is None or attempt.ended or job.attempt_count != attempt.number:
                return
            stop = self._overdue(job, attempt)
            if stop is None:
                return  # it was asked something else meanwhile
            now = context.now()
            message = _sentence(stop, context)
            # Of a cancelled job nobody wants to know more than that.
            cancelled = stop.request is StopRequest.CANCEL
            before = () if cancelled else (JobEvent(now, EventLevel.WARNING, message),)
            error = JobError(Reason.TRAINING_FAILED, message)
            cause = CAUSES[stop.request]
            await end_attempt(
                unit,
                job,
                attempt,
                error,
                cause=cause,
                now=now,
                policy=context.settings.retry,
                prices=context.settings.prices,
                before=before,
            )
            await unit.commit()
        ATTEMPTS_STOPPED.inc()
        _log.info("attempt_stopped", tenant=attempt.tenant, run=attempt.submission_id, asked=stop.request.value)


def _sentence(stop: Stop, context: ControlContext) -> str:
    if stop.request is StopRequest.CANCEL:
        return "The job was cancelled."
    seconds = context.settings.graces.leave.total_seconds()
    return f"The process did not leave within {seconds:.0f} s, so that it was ended; what it did since its last checkpoint is lost."
