"""Clears away what is over: runs of ended attempts, runs that nobody knows, and uploads that were given up."""

from dataclasses import replace

import structlog

from trellis.server.app.attempts import COMPLETED
from trellis.server.app.hosts import RunStatus
from trellis.server.app.keys import upload_prefix
from trellis.server.control.context import ControlContext
from trellis.server.control.each import for_each
from trellis.server.control.late_word import hear_late_word
from trellis.server.domain.dataset import Upload
from trellis.server.domain.tuning_job import Attempt

_log = structlog.get_logger(__name__)
_BATCH = 100
_LOG_BYTES = 64 * 1024
_ALIVE = frozenset({RunStatus.PENDING, RunStatus.RUNNING})


class ReapRuns:
    """Stops the runs of ended attempts, keeps the last output of those that ended badly, and forgets them."""

    name = "reap"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One batch of ended attempts."""
        async with self._context.units(write=False) as unit:
            attempts = await unit.jobs.attempts_to_clean_up(_BATCH)
        await for_each(attempts, self._clean_up)
        return False

    async def _clean_up(self, attempt: Attempt) -> None:
        if attempt.trainer_uid:
            await self._mark(attempt, "")  # it had no run of its own
            return
        cluster = self._context.attempts
        report = await cluster.status(attempt.submission_id)
        if attempt.outcome != COMPLETED:
            await hear_late_word(self._context, attempt, report.trouble)
        if report.status in _ALIVE:
            # A process that ended well is given the time to leave by itself.
            if attempt.outcome != COMPLETED or self._overdue(attempt):
                await cluster.stop(attempt.submission_id)
            return
        output = ""
        if attempt.outcome != COMPLETED:
            output = await cluster.log_tail(attempt.submission_id, _LOG_BYTES)
        await self._mark(attempt, output)
        await cluster.forget(attempt.submission_id)

    async def _mark(self, attempt: Attempt, output: str) -> None:
        async with self._context.units() as unit:
            job = await unit.jobs.get_by_uid(attempt.job_uid, for_update=True)
            present = await unit.jobs.get_attempt(attempt.job_uid, attempt.number)
            if job is not None and present is not None and not present.cleaned_up:
                if output.strip():
                    header = f"--- the last output of attempt {attempt.number}, as the cluster kept it ---\n"
                    await unit.jobs.append_log(attempt.job_uid, attempt.number, header + output.rstrip("\n") + "\n")
                await unit.jobs.save_attempt(replace(present, cleaned_up=True))
                await unit.commit()

    def _overdue(self, attempt: Attempt) -> bool:
        assert attempt.end_time is not None
        return self._context.now() >= attempt.end_time + 2 * self._context.settings.graces.cancel


class ReapOrphans:
    """Stops runs of this installation that belong to no attempt that goes on, and drops uploads that were given up."""

    name = "reap_orphans"

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._prefix = f"trellis-{context.settings.installation}-"

    async def once(self) -> bool:
        """One look at the cluster and the uploads."""
        await self._stop_runs()
        return await self._drop_uploads()

    async def _stop_runs(self) -> None:
        # Asked before the database is read: what is submitted in between is not in this list.
        runs = [run for run in await self._context.attempts.list() if run.startswith(self._prefix)]
        await for_each(runs, self._stop_if_orphan)

    async def _stop_if_orphan(self, run: str) -> None:
        uid, _, number = run.removeprefix(self._prefix).rpartition("-")
        async with self._context.units(write=False) as unit:
            attempt = await unit.jobs.get_attempt(uid, int(number)) if number.isdecimal() else None
        # One that was cleaned up and runs was submitted too late, by a server that had been held up.
        if attempt is None or attempt.cleaned_up:
            _log.warning("orphan_run_stopped", run=run)
            await self._context.attempts.stop(run)

    async def _drop_uploads(self) -> bool:
        context = self._context
        before = context.now() - context.settings.upload_lifetime
        async with context.units(write=False) as unit:
            uploads = await unit.datasets.stale_uploads(before, _BATCH)
        await for_each(uploads, self._drop)
        return len(uploads) == _BATCH

    async def _drop(self, upload: Upload) -> None:
        key = (upload.tenant, upload.dataset_id, upload.sha256)
        async with self._context.units() as unit:
            present = await unit.datasets.get_upload(*key)
            if present is None or present.update_time != upload.update_time:
                return  # it goes on
            await unit.datasets.delete_upload(*key)
            await unit.commit()
        await self._context.objects.run("delete_prefix", upload_prefix(*key))
