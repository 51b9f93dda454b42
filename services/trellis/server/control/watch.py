"""Finds attempts whose process died or went silent. The lease decides; the cluster's word may only hasten it."""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from trellis.errors import Reason, Unavailable
from trellis.server.app.hosts import RunReport, RunStatus
from trellis.server.control.attempts import end_badly
from trellis.server.control.context import ControlContext
from trellis.server.control.each import for_each
from trellis.server.control.listening import Listening
from trellis.server.control.metrics import ATTEMPTS_LOST
from trellis.server.control.outages import Outages
from trellis.server.control.troubles import cause_of, with_trouble
from trellis.server.domain.tuning_job import Attempt, JobError

_log = structlog.get_logger(__name__)
_BATCH = 1000
_DEAD = frozenset({RunStatus.FAILED, RunStatus.STOPPED, RunStatus.SUCCEEDED})


class WatchAttempts:
    """Ends the attempts that are dead, so that their jobs are tried again or fail."""

    name = "watch"

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._listening = Listening(context.settings.lease, context.now())
        self._outages = Outages(context, context.attempts)

    async def once(self) -> bool:
        """One look at all attempts that are not over."""
        now = self._context.now()
        async with self._context.units(write=False) as unit:
            expired = await unit.jobs.expired_attempts(now, _BATCH)
            attempts = await unit.jobs.open_attempts(_BATCH)
        if not self._listening.has_listened(now):
            expired = []
        await for_each(expired, self._end_silent)
        silent = {(attempt.job_uid, attempt.number) for attempt in expired}
        # What runs on a trainer dies with it, which is watched by itself.
        by_themselves = [attempt for attempt in attempts if not attempt.trainer_uid]
        await self._ask_cluster([a for a in by_themselves if (a.job_uid, a.number) not in silent])
        return len(expired) == _BATCH

    async def _ask_cluster(self, attempts: Sequence[Attempt]) -> None:
        if not attempts:
            return
        try:
            alive = await self._outages.runs()
            await for_each([attempt for attempt in attempts if attempt.submission_id not in alive], self._judge)
        except Unavailable as error:
            # Only a hint is missing; leases are watched all the same, and without a longer pause.
            _log.warning("cluster_unreachable", loop=self.name, why=str(error))

    async def _judge(self, attempt: Attempt) -> None:
        # A process says how it ended before it ends; if the cluster calls it dead and it did not, it was killed.
        # A run that the cluster does not know, or no longer, is still to be submitted, or was lost with the cluster.
        report = await self._context.attempts.status(attempt.submission_id)
        if report.status in _DEAD:
            said = f" ({report.message.strip().splitlines()[-1]})" if report.message.strip() else ""
            message = f"The training process ended without a word; the cluster says {report.status}{said}."
            await self._end(attempt, "dead", message, report)
        elif report.status is RunStatus.UNKNOWN and attempt.start_time is not None:
            message = "The training process was lost: the cluster does not know it any more."
            await self._end(attempt, "dead", message, report)

    async def _end_silent(self, attempt: Attempt) -> None:
        if attempt.start_time is None and await self._is_loading(attempt):
            return  # no attempt is begun with while its trainer loads the base; the trainer's own lease decides
        if attempt.start_time is None and await self._prolong_start(attempt):
            return
        report = await self._heard(attempt)
        if attempt.start_time is None:
            seconds = self._context.settings.start_timeout.total_seconds()
            message = f"The training process did not start within {seconds:.0f} s."
            await self._end(attempt, "not_started", message, report)
        else:
            seconds = self._context.settings.lease.total_seconds()
            await self._end(attempt, "silent", f"The training process was silent for {seconds:.0f} s.", report)

    async def _heard(self, attempt: Attempt) -> RunReport:
        """What the cluster says of it, if it says anything: the sentence is better for it."""
        try:
            if attempt.trainer_uid:
                return RunReport(RunStatus.UNKNOWN)
            return await self._context.attempts.status(attempt.submission_id)
        except Unavailable:
            return RunReport(RunStatus.UNKNOWN)

    async def _prolong_start(self, seen: Attempt) -> bool:
        """Let an attempt that could not be submitted, as the cluster was away, begin later; it has failed in nothing."""
        deadline = await self._outages.start_deadline()
        if deadline is None:
            return False
        async with self._context.units() as unit:
            await unit.jobs.get_by_uid(seen.job_uid, for_update=True)
            attempt = await unit.jobs.get_attempt(seen.job_uid, seen.number)
            if attempt is not None and not attempt.ended and attempt.start_time is None:
                await unit.jobs.save_attempt(replace(attempt, lease_expire_time=deadline))
                await unit.commit()
        return True

    async def _is_loading(self, attempt: Attempt) -> bool:
        if not attempt.trainer_uid:
            return False
        async with self._context.units(write=False) as unit:
            trainer = await unit.trainers.get(attempt.trainer_uid)
        return trainer is not None and not trainer.is_over and trainer.room is None

    async def _end(self, attempt: Attempt, how: str, message: str, report: RunReport) -> None:
        told = with_trouble(message, report.trouble)
        error = JobError(Reason.TRAINING_FAILED, told, {"attempt": str(attempt.number)})
        async with self._context.units() as unit:
            cause = cause_of(report.trouble)
            if not await end_badly(unit, self._context, attempt, error, cause=cause, unless_renewed=True):
                return
            await unit.commit()
        ATTEMPTS_LOST.labels(how).inc()
        _log.warning("attempt_lost", tenant=attempt.tenant, run=attempt.submission_id, why=told)
