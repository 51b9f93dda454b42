"""Has exports made on the cluster, one at a time, and clears away the runs that made them."""

import asyncio
from collections.abc import Callable

import structlog

from trellis.artifacts import MANIFEST_FILE
from trellis.errors import Reason
from trellis.exports import (
    TASK_FILE,
    ExportError,
    ExportFailure,
    check_sizes,
    error_file,
    read_manifest,
)
from trellis.objects import ObjectNotFoundError, ObjectStore
from trellis.server.app.export_task import SourceGoneError, task_of
from trellis.server.app.export_usage import export_needs as needs_of_export, measured_export
from trellis.server.app.exports import files_of
from trellis.server.app.hosts import RunRequest, RunStatus
from trellis.server.app.ports import UnitOfWork
from trellis.server.control.context import ControlContext, ControlSettings
from trellis.server.control.each import for_each
from trellis.server.domain.export import Export, ExportFile, ExportState
from trellis.server.domain.tuning_job import JobError
from trellis.server.scheduler.capacity import Resources

_log = structlog.get_logger(__name__)
_BATCH = 100
_TRIES = 2
_OUTPUT_BYTES = 2000
_ENDED = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.STOPPED})


class MakeExports:
    """Submits the oldest export that waits, when none is being made, and watches the run until it has ended.

    Whether an export succeeded says its manifest in the object store; the cluster says only that a run is over. Exports
    are made one at a time: they move gigabytes, and share the store and the network with everybody.
    """

    name = "export"

    def __init__(self, context: ControlContext, store: ObjectStore) -> None:
        self._context = context
        self._store = store

    async def once(self) -> bool:
        """One look at the exports that have not ended."""
        async with self._context.units(write=False) as unit:
            waiting = await unit.exports.in_state(ExportState.PENDING, _BATCH)
            running = await unit.exports.in_state(ExportState.RUNNING, _BATCH)
        if waiting and not any(export.submission_id for export in (*waiting, *running)):
            await self._choose()
            return True
        await for_each([export for export in (*waiting, *running) if export.submission_id], self._watch)
        return False

    async def _choose(self) -> None:
        """Give the oldest export its run's name, which the next look submits; one server at a time."""
        async with self._context.units() as unit:
            await unit.jobs.lock_queue()
            running = await unit.exports.in_state(ExportState.RUNNING, 1)
            waiting = await unit.exports.in_state(ExportState.PENDING, _BATCH)
            if running or not waiting or any(export.submission_id for export in waiting):
                return
            await unit.exports.save(waiting[0].submitted(self._run_of(waiting[0], 1)))
            await unit.commit()

    async def _watch(self, export: Export) -> None:
        # Asked before the store: of a run that is over by now, all that it wrote is seen.
        status = (await self._context.cluster.status(export.submission_id)).status
        made = await self._context.objects.run("exists", f"{export.key}/{MANIFEST_FILE}")
        if made:
            await self._finish(export)
        elif status is RunStatus.UNKNOWN:
            await self._submit(export)
        elif status in _ENDED:
            await self._judge(export)
        elif status is RunStatus.RUNNING and export.state is ExportState.PENDING:
            await self._change(export, lambda present: present.started(self._context.now()))

    async def _finish(self, export: Export) -> None:
        try:
            files = await asyncio.to_thread(_files, self._store, export)
        except (ExportError, ObjectNotFoundError) as error:
            await self._fail(export, JobError(Reason.INTERNAL, f"What was made can't be used: {error}"))
            return
        await self._change(export, lambda present: present.succeeded(self._context.now(), files))
        _log.info("export_made", tenant=export.tenant, export=export.name, files=len(files))

    async def _submit(self, export: Export) -> None:
        try:
            async with self._context.units(write=False) as unit:
                task = await task_of(unit, export)
        except SourceGoneError as error:
            await self._fail(export, JobError(error.reason, str(error)))
            return
        await self._context.objects.run("put_bytes", f"{export.key}/{TASK_FILE}", task.to_json())
        if await self._is_wanted(export):
            await self._context.cluster.submit(self._request(export))
            _log.info("export_submitted", tenant=export.tenant, export=export.name, run=export.submission_id)

    async def _is_wanted(self, export: Export) -> bool:
        async with self._context.units(write=False) as unit:
            present = await unit.exports.get_by_uid(export.uid)
        return present is not None and not present.ended and present.submission_id == export.submission_id

    async def _judge(self, export: Export) -> None:
        """The run is over, and no manifest is there."""
        number = _number_of(export.submission_id)
        failure = await self._said(export, number)
        if number < _TRIES and (failure is None or failure.again):
            _log.warning(
                "export_tried_again", tenant=export.tenant, export=export.name, why=failure and failure.message
            )
            await self._change(export, lambda present: present.submitted(self._run_of(present, number + 1)))
            return
        if failure is None:
            output = await self._context.cluster.log_tail(export.submission_id, _OUTPUT_BYTES)
            message = "The process that makes the export died without a word."
            last = f" It last printed: {output.strip()}" if output.strip() else ""
            failure = ExportFailure(Reason.INTERNAL, message + last)
        await self._fail(export, JobError(failure.reason, failure.message))

    async def _said(self, export: Export, number: int) -> ExportFailure | None:
        try:
            return ExportFailure.from_json(
                await self._context.objects.run("read_bytes", f"{export.key}/{error_file(number)}")
            )
        except ObjectNotFoundError:
            return None

    async def _fail(self, export: Export, error: JobError) -> None:
        await self._change(export, lambda present: present.failed(self._context.now(), error))
        _log.warning("export_failed", tenant=export.tenant, export=export.name, why=error.message)

    async def _change(self, export: Export, change: Callable[[Export], Export]) -> None:
        """Save the change, unless somebody else has changed it meanwhile."""
        async with self._context.units() as unit:
            present = await unit.exports.get_by_uid(export.uid, for_update=True)
            if present is None or present.ended or present.submission_id != export.submission_id:
                return
            changed = change(present)
            await unit.exports.save(changed)
            if changed.end_time is not None:
                settings = self._context.settings
                await unit.ledger.append(measured_export(changed, changed.end_time, settings.needs, settings.prices))
            await unit.commit()

    def _run_of(self, export: Export, number: int) -> str:
        return f"{_prefix_of(self._context)}{export.uid}-{number}"

    def _request(self, export: Export) -> RunRequest:
        settings = self._context.settings
        environment = {
            **dict(settings.environment),
            "TRELLIS_STORE_URL": self._context.objects.url,
            "TRELLIS_EXPORT_KEY": export.key,
            "TRELLIS_EXPORT_RUN": str(_number_of(export.submission_id)),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "0",
            "TOKENIZERS_PARALLELISM": "false",
        }
        return RunRequest(
            submission_id=export.submission_id,
            entrypoint=(settings.python, "-m", "trellis_jobs.export.main"),
            environment=environment,
            cpus=export_needs(settings).cpus,
            gpus=0.0,
            metadata={"export": export.name},
        )


class ReapExports:
    """Stops and forgets the runs of exports that have ended, and stops those of exports that are gone."""

    name = "reap_exports"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One batch of ended exports, and one look at the cluster."""
        async with self._context.units(write=False) as unit:
            over = await unit.exports.to_clean_up(_BATCH)
        await for_each(over, self._clean_up)
        # Asked before the database is read: what is submitted in between is not in this list.
        prefix = _prefix_of(self._context)
        runs = [run for run in await self._context.cluster.list() if run.startswith(prefix)]
        await for_each(runs, self._stop_if_orphan)
        return False

    async def _clean_up(self, export: Export) -> None:
        cluster = self._context.cluster
        runs = _runs_of(export)
        statuses = [(await cluster.status(run)).status for run in runs]
        alive = [run for run, status in zip(runs, statuses, strict=True) if status not in {*_ENDED, RunStatus.UNKNOWN}]
        if alive:
            # A process that ended well is given the time to leave by itself.
            if export.state is not ExportState.SUCCEEDED or self._overdue(export):
                for run in alive:
                    await cluster.stop(run)
            return
        for run in runs:
            await cluster.forget(run)
        async with self._context.units() as unit:
            present = await unit.exports.get_by_uid(export.uid, for_update=True)
            if present is not None:
                await unit.exports.save(present.reaped())
                await unit.commit()

    def _overdue(self, export: Export) -> bool:
        assert export.end_time is not None
        return self._context.now() >= export.end_time + 2 * self._context.settings.graces.cancel

    async def _stop_if_orphan(self, run: str) -> None:
        uid = run.removeprefix(_prefix_of(self._context)).rpartition("-")[0]
        async with self._context.units(write=False) as unit:
            export = await unit.exports.get_by_uid(uid)
        if export is None or export.cleaned_up or (not export.ended and export.submission_id != run):
            _log.warning("orphan_run_stopped", run=run)
            await self._context.cluster.stop(run)


def export_needs(settings: ControlSettings) -> Resources:
    """What the run of an export reserves: it reads, adds and writes, for which one CPU is enough."""
    return needs_of_export(settings.needs)


async def held_by_exports(unit: UnitOfWork, settings: ControlSettings) -> Resources:
    """What the export that is being made holds of the platform's capacity; while Ray has no room for it, what is kept
    for it, so that it does not wait for ever.
    """
    running = await unit.exports.in_state(ExportState.RUNNING, 1)
    oldest = running or await unit.exports.in_state(ExportState.PENDING, 1)
    return export_needs(settings) if oldest and oldest[0].submission_id else Resources()


def _prefix_of(context: ControlContext) -> str:
    # Not that of attempts' runs, which are told apart by their beginning.
    return f"trellis-export-{context.settings.installation}-"


def _number_of(run: str) -> int:
    return int(run.rpartition("-")[2])


def _runs_of(export: Export) -> list[str]:
    """All runs that the export has had."""
    if not export.submission_id:
        return []
    name = export.submission_id.rpartition("-")[0]
    return [f"{name}-{number}" for number in range(1, _number_of(export.submission_id) + 1)]


def _files(store: ObjectStore, export: Export) -> tuple[ExportFile, ...]:
    """The files that the manifest names, and itself, once they were seen to be there; blocks."""
    manifest = read_manifest(store, export.key)
    said = (manifest.format, manifest.base_model, manifest.source)
    if said != (export.format.value, export.base_model, export.source):
        raise ExportError("Its manifest is that of another export.")
    check_sizes(store, export.key, manifest)
    return files_of(manifest)
