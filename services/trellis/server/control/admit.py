"""Admits queued jobs, by the scheduler's decision, and says of the others why they wait."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import structlog

from trellis.errors import Reason
from trellis.names import DatasetVersionName
from trellis.server.app.auto_settings import resolve_auto
from trellis.server.app.ports import UnitOfWork
from trellis.server.control.attempts import new_attempt
from trellis.server.control.context import ControlContext
from trellis.server.control.metrics import ATTEMPTS_STARTED, QUEUE_WAIT, waited_seconds
from trellis.server.domain.dataset import ReportState
from trellis.server.domain.tuning_job import (
    ACTIVE,
    EventLevel,
    JobError,
    JobEvent,
    JobState,
    QueueReason,
    TuningJob,
)
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.policy import decide
from trellis.server.scheduler.snapshot import ActiveJob, QueuedJob, Snapshot

_log = structlog.get_logger(__name__)
_QUEUE = 10_000


class AdmitJobs:
    """Snapshot, decision and outcome in one transaction, one server at a time: capacity is never given twice."""

    name = "admit"

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        settings = context.settings
        self._needs = Resources(settings.job_cpus, settings.job_gpus)
        self._capacity = Resources(settings.capacity_cpus, settings.capacity_gpus)

    async def once(self) -> bool:
        """One decision over the whole queue."""
        async with self._context.units(write=False) as unit:
            if not await unit.jobs.in_states([JobState.QUEUED], 1):
                return False
        async with self._context.units() as unit:
            await unit.jobs.lock_queue()
            queued = await self._queue(unit)
            active = await unit.jobs.in_states(sorted(ACTIVE), _QUEUE)
            decisions = decide(self._snapshot(queued.values(), active))
            admitted = [job for uid in decisions.admit if (job := await self._admit(unit, uid))]
            for uid, reason in decisions.waiting.items():
                await self._wait(unit, uid, reason)
            await unit.commit()
        for job in admitted:
            self._note(job)
        return False

    def _note(self, job: TuningJob) -> None:
        ATTEMPTS_STARTED.inc()
        QUEUE_WAIT.observe(waited_seconds(job.retry_time or job.create_time, self._context.now()))
        _log.info("job_admitted", tenant=job.tenant, job=job.name, attempt=job.attempt_count + 1)

    async def _queue(self, unit: UnitOfWork) -> Mapping[str, tuple[TuningJob, bool]]:
        """By uid: each queued job and whether its reports are there; those that can't be trained fail here."""
        queue: dict[str, tuple[TuningJob, bool]] = {}
        known: dict[tuple[str, str], tuple[bool, str]] = {}
        for job in await unit.jobs.in_states([JobState.QUEUED], _QUEUE):
            ready, obstacle = await self._datasets(unit, job, known)
            if obstacle:
                await self._refuse(unit, job.uid, obstacle)
                continue
            resolved = await resolve_auto(unit, job) if ready else None
            queue[job.uid] = (resolved or job, resolved is not None)
        return queue

    @staticmethod
    async def _datasets(
        unit: UnitOfWork, job: TuningJob, known: dict[tuple[str, str], tuple[bool, str]]
    ) -> tuple[bool, str]:
        """Whether all of the job's reports are there, and a sentence on what forbids training, empty if nothing does."""
        ready = True
        spec = job.spec
        for dataset in filter(None, (spec.training_dataset, spec.validation_dataset, spec.replay_dataset)):
            key = (dataset, job.spec.base_model)
            if key not in known:
                known[key] = await _finding(unit, *key)
            done, obstacle = known[key]
            if obstacle:
                return True, obstacle
            ready = ready and done
        return ready, ""

    def _snapshot(self, queued: Iterable[tuple[TuningJob, bool]], active: Iterable[TuningJob]) -> Snapshot:
        return Snapshot(
            queued=tuple(
                QueuedJob(job.uid, job.tenant, job.create_time, self._needs, ready, job.retry_time)
                for job, ready in queued
            ),
            active=tuple(ActiveJob(job.uid, job.tenant, self._needs) for job in active),
            capacity=self._capacity,
            tenant_running_limit=self._context.settings.tenant_running_limit,
            now=self._context.now(),
        )

    async def _admit(self, unit: UnitOfWork, uid: str) -> TuningJob | None:
        """The job as it was in the queue; None if it has left it."""
        job = await unit.jobs.get_by_uid(uid, for_update=True)
        if job is None or job.state is not JobState.QUEUED:
            return None
        now = self._context.now()
        attempt = new_attempt(self._context, job, now)
        await unit.jobs.add_attempt(attempt)
        starting = replace(job.moved(JobState.STARTING, now), attempt_count=attempt.number, retry_time=None)
        message = f"Capacity is there; attempt {attempt.number} is being started."
        await unit.jobs.save(starting, [JobEvent(now, EventLevel.INFO, message, state=JobState.STARTING)])
        return job

    @staticmethod
    async def _wait(unit: UnitOfWork, uid: str, reason: QueueReason) -> None:
        job = await unit.jobs.get_by_uid(uid, for_update=True)
        if job is not None and job.state is JobState.QUEUED and job.queue_reason != reason:
            await unit.jobs.save(replace(job, queue_reason=reason))

    async def _refuse(self, unit: UnitOfWork, uid: str, obstacle: str) -> None:
        job = await unit.jobs.get_by_uid(uid, for_update=True)
        if job is None or job.state is not JobState.QUEUED:
            return
        now = self._context.now()
        failed = job.moved(JobState.FAILED, now, JobError(Reason.DATASET_INVALID, obstacle))
        await unit.jobs.save(failed, [JobEvent(now, EventLevel.ERROR, obstacle, state=JobState.FAILED)])


async def _finding(unit: UnitOfWork, dataset: str, base_model: str) -> tuple[bool, str]:
    name = DatasetVersionName.parse(dataset)
    report = await unit.datasets.get_report(name.tenant, name.dataset, name.version, base_model)
    if report is None:
        return True, f"{dataset} is gone."
    if report.state is ReportState.PENDING:
        return False, ""
    if report.state is ReportState.FAILED or not report.valid:
        return True, f"{dataset} can't be trained on: {report.summary} Its report says more."
    return True, ""
