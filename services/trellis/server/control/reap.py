"""Clears away what is over: runs of ended attempts, runs that nobody knows, and uploads that were given up."""

from dataclasses import replace

import structlog

from trellis.server.app.ports import RunStatus
from trellis.server.control.context import ControlContext
from trellis.server.domain.tuning_job import Attempt

_log = structlog.get_logger(__name__)
_BATCH = 100
_LOG_BYTES = 64 * 1024
_ALIVE = frozenset({RunStatus.PENDING, RunStatus.RUNNING})
COMPLETED = "completed"
"""The outcome of an attempt that ended well."""


class ReapRuns:
    """Stops the runs of ended attempts, keeps the last output of those that ended badly, and forgets them."""

    name = "reap"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One batch of ended attempts."""
        async with self._context.units(write=False) as unit:
            attempts = await unit.jobs.attempts_to_clean_up(_BATCH)
        for attempt in attempts:
            await self._clean_up(attempt)
        return False

    async def _clean_up(self, attempt: Attempt) -> None:
        cluster = self._context.cluster
        status, _ = await cluster.status(attempt.submission_id)
        if status in _ALIVE:
            # A process that ended well is given the time to leave by itself.
            if attempt.outcome != COMPLETED or self._overdue(attempt):
                await cluster.stop(attempt.submission_id)
            return
        output = ""
        if attempt.outcome != COMPLETED:
            output = await cluster.log_tail(attempt.submission_id, _LOG_BYTES)
        async with self._context.units() as unit:
            job = await unit.jobs.get_by_uid(attempt.job_uid, for_update=True)
            present = await unit.jobs.get_attempt(attempt.job_uid, attempt.number)
            if job is None or present is None or present.cleaned_up:
                return
            if output.strip():
                header = f"--- the last output of attempt {attempt.number}, as Ray kept it ---\n"
                await unit.jobs.append_log(attempt.job_uid, attempt.number, header + output.rstrip("\n") + "\n")
            await unit.jobs.save_attempt(replace(present, cleaned_up=True))
            await unit.commit()
        await cluster.forget(attempt.submission_id)

    def _overdue(self, attempt: Attempt) -> bool:
        assert attempt.end_time is not None
        return self._context.now() >= attempt.end_time + 2 * self._context.settings.cancel_grace


class ReapOrphans:
    """Stops runs of this installation that belong to no attempt that goes on, and drops uploads that were given up."""

    name = "reap_orphans"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One look at the cluster and the uploads."""
        await self._stop_runs()
        return await self._drop_uploads()

    async def _stop_runs(self) -> None:
        prefix = f"trellis-{self._context.settings.installation}-"
        # Asked before the database is read: what is submitted in between is not in this list.
        runs = [run for run in await self._context.cluster.list() if run.startswith(prefix)]
        for run in runs:
            uid, _, number = run.removeprefix(prefix).rpartition("-")
            async with self._context.units(write=False) as unit:
                attempt = await unit.jobs.get_attempt(uid, int(number)) if number.isdigit() else None
            if attempt is None:
                _log.warning("orphan_run_stopped", run=run)
                await self._context.cluster.stop(run)

    async def _drop_uploads(self) -> bool:
        context = self._context
        before = context.now() - context.settings.upload_lifetime
        async with context.units(write=False) as unit:
            uploads = await unit.datasets.stale_uploads(before, _BATCH)
        for upload in uploads:
            async with context.units() as unit:
                await unit.datasets.delete_upload(upload.tenant, upload.dataset_id, upload.sha256)
                await unit.commit()
            for part in upload.parts:
                await context.objects.run("delete", part.key)
        return len(uploads) == _BATCH
