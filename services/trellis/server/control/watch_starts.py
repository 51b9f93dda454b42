"""Tells of starting jobs what keeps the cluster from them; only words, for a start that is late is not one that failed."""

from collections.abc import Mapping
from dataclasses import replace

import structlog

from trellis.errors import Unavailable
from trellis.server.app.hosts import RunStatus
from trellis.server.control.context import ControlContext
from trellis.server.control.each import for_each
from trellis.server.domain.run_trouble import RunTrouble
from trellis.server.domain.tuning_job import EventLevel, JobEvent, JobState, QueueCode, QueueReason, TuningJob

_log = structlog.get_logger(__name__)
_BATCH = 1000


class WatchStarts:
    """Asks the cluster of each run that some starting job waits for, and writes down what is new."""

    name = "watch_starts"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One look at all jobs that are starting."""
        async with self._context.units(write=False) as unit:
            jobs = await unit.jobs.in_states([JobState.STARTING], _BATCH)
            attempts = await unit.jobs.open_attempts(_BATCH) if jobs else []
            trainers = await unit.trainers.live() if jobs else []
        begins = {trainer.uid: trainer.submission_id for trainer in trainers if trainer.start_time is None}
        waiting = {attempt.job_uid: attempt for attempt in attempts if attempt.start_time is None}
        runs = {uid: begins.get(one.trainer_uid, "") or one.submission_id for uid, one in waiting.items()}
        asked = {runs[job.uid]: bool(waiting[job.uid].trainer_uid) for job in jobs if runs.get(job.uid)}
        troubles = await self._ask(asked)

        async def tell(job: TuningJob) -> None:
            run = runs.get(job.uid, "")
            if not run or run in troubles:
                await self._tell(job, troubles.get(run))

        await for_each(jobs, tell)
        return False

    async def _ask(self, runs: Mapping[str, bool]) -> Mapping[str, RunTrouble | None]:
        """By run, of those of which its cluster says anything; `runs` says whether it is a trainer's."""
        troubles: dict[str, RunTrouble | None] = {}

        async def ask(run: str) -> None:
            cluster = self._context.cluster if runs[run] else self._context.attempts
            try:
                report = await cluster.status(run)
            except Unavailable as error:
                _log.warning("cluster_unreachable", loop=self.name, why=str(error))
                return
            is_waiting = report.status in {RunStatus.PENDING, RunStatus.UNKNOWN}
            troubles[run] = report.trouble if is_waiting else None

        await for_each(sorted(runs), ask)
        return troubles

    async def _tell(self, seen: TuningJob, trouble: RunTrouble | None) -> None:
        reason = QueueReason(QueueCode.CLUSTER, trouble.message) if trouble else None
        if seen.queue_reason == reason:
            return
        async with self._context.units() as unit:
            job = await unit.jobs.get_by_uid(seen.uid, for_update=True)
            if job is None or job.state is not JobState.STARTING or job.attempt_count != seen.attempt_count:
                return
            now = self._context.now()
            events = [JobEvent(now, EventLevel.WARNING, f"It can't start yet: {trouble.message}")] if trouble else []
            await unit.jobs.save(replace(job, queue_reason=reason, update_time=now, revision=job.revision + 1), events)
            await unit.commit()
        if trouble:
            _log.warning("start_in_trouble", tenant=seen.tenant, job=seen.name, code=trouble.code.value)
