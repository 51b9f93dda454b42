"""Starts the processes of admitted jobs on the cluster, of those that run by themselves."""

from datetime import timedelta
from typing import TypeGuard

import structlog

from trellis.server.app.hosts import RunRequest, RunStatus
from trellis.server.app.ports import Claim
from trellis.server.app.tokens import attempt_ticket
from trellis.server.control.context import ControlContext
from trellis.server.control.each import for_each
from trellis.server.control.environment import process_environment
from trellis.server.domain.tuning_job import Attempt, JobState, TuningJob

_log = structlog.get_logger(__name__)
_CLAIM = timedelta(seconds=15)
_BATCH = 1000


class LaunchJobs:
    """Submits the run of each STARTING job that the cluster does not know yet; submitting twice is harmless."""

    name = "launch"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One look at all jobs that are starting."""
        context = self._context
        async with context.units(write=False) as unit:
            if not await unit.jobs.in_states([JobState.STARTING], 1):
                return False
        claim = context.claim(_CLAIM)
        async with context.units() as unit:
            jobs = await unit.jobs.claim([JobState.STARTING], claim, context.now(), _BATCH)
            attempts = [await unit.jobs.get_attempt(job.uid, job.attempt_count) for job in jobs]
            await unit.commit()
        try:
            pairs = [(job, attempt) for job, attempt in zip(jobs, attempts, strict=True) if _is_to_start(attempt)]
            await for_each(pairs, lambda pair: self._launch(*pair, claim))
        finally:
            async with context.units() as unit:
                for job in jobs:
                    await unit.jobs.release(job.uid, claim)
                await unit.commit()
        return False

    async def _launch(self, job: TuningJob, attempt: Attempt, claim: Claim) -> None:
        # A run that ended before its first call is known too: ending its attempt is the watch's work.
        status = (await self._context.attempts.status(attempt.submission_id)).status
        if status is not RunStatus.UNKNOWN or not await self._is_still_ours(attempt, claim):
            return
        await self._context.attempts.submit(self._request(job, attempt))
        _log.info("run_submitted", tenant=job.tenant, job=job.name, run=attempt.submission_id)

    async def _is_still_ours(self, attempt: Attempt, claim: Claim) -> bool:
        # A server that was held up must not start what another one has started, ended and forgotten meanwhile.
        async with self._context.units(write=False) as unit:
            job = await unit.jobs.get_by_uid(attempt.job_uid)
            present = await unit.jobs.get_attempt(attempt.job_uid, attempt.number)
            held = await unit.jobs.holds(attempt.job_uid, claim)
        return held and job is not None and job.state is JobState.STARTING and _is_to_start(present)

    def _request(self, job: TuningJob, attempt: Attempt) -> RunRequest:
        settings = self._context.settings
        environment = {
            **process_environment(settings, settings.job_cpus),
            "TRELLIS_ATTEMPT_TICKET": attempt_ticket(settings.server_secret, job.uid, attempt.number),
            "TRELLIS_WORKER_CPUS": f"{settings.job_cpus:g}",
            "TRELLIS_WORKER_GPUS": f"{settings.job_gpus:g}",
            "TRELLIS_WORKERS_START_SECONDS": f"{settings.start_timeout.total_seconds():g}",
        }
        return RunRequest(
            submission_id=attempt.submission_id,
            entrypoint=(settings.python, "-m", "trellis_jobs.distributed.main"),
            environment=environment,
            # It only drives its workers, which reserve for themselves what the job was admitted with.
            cpus=0.0,
            gpus=0.0,
            metadata={"tuning_job": job.name, "attempt": str(attempt.number)},
            workers=job.spec.distributed.workers if job.spec.distributed else 1,
            worker_cpus=settings.job_cpus,
            worker_gpus=settings.job_gpus,
            own_cluster=True,
        )


def _is_to_start(attempt: Attempt | None) -> TypeGuard[Attempt]:
    """Whether it is a run of its own that has not begun."""
    if attempt is None or attempt.trainer_uid:
        return False
    return not attempt.ended and attempt.start_time is None
