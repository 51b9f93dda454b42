"""Admits queued jobs, by the scheduler's decision, has trainers come and go for them, and says of others why they wait."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import structlog

from trellis.errors import Reason
from trellis.names import DatasetVersionName
from trellis.server.app.auto_settings import resolve_auto
from trellis.server.app.job_datasets import kind_obstacle
from trellis.server.app.ports import UnitOfWork
from trellis.server.control.attempts import new_attempt
from trellis.server.control.context import ControlContext
from trellis.server.control.metrics import ATTEMPTS_STARTED, QUEUE_WAIT, waited_seconds
from trellis.server.control.snapshot import take_snapshot
from trellis.server.control.trainers import new_trainer
from trellis.server.domain.dataset import ReportState
from trellis.server.domain.trainer import Trainer
from trellis.server.domain.tuning_job import (
    EventLevel,
    JobError,
    JobEvent,
    JobState,
    QueueReason,
    TuningJob,
)
from trellis.server.scheduler.policy import Decisions, decide
from trellis.spec import Method, TrainSpec

_log = structlog.get_logger(__name__)
_QUEUE = 10_000


@dataclass(frozen=True, slots=True)
class _Reading:
    """A dataset version as a job reads it."""

    dataset: str
    base_model: str
    method: Method
    replayed: bool


class AdmitJobs:
    """Snapshot, decision and outcome in one transaction, one server at a time: capacity is never given twice."""

    name = "admit"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One decision over the whole queue."""
        async with self._context.units(write=False) as unit:
            if not await unit.jobs.in_states([JobState.QUEUED], 1):
                return False
        async with self._context.units() as unit:
            await unit.jobs.lock_queue()
            queued = await self._queue(unit)
            decisions = decide(await take_snapshot(unit, self._context, queued.values()))
            started = await self._start_trainers(unit, decisions)
            admitted = await self._admit_all(unit, decisions, started)
            for uid in decisions.drain:
                await self._drain(unit, uid)
            for uid, obstacle in decisions.refuse.items():
                await self._refuse(unit, uid, JobError(Reason.TRAINING_FAILED, obstacle))
            for uid, reason in decisions.waiting.items():
                await self._wait(unit, uid, reason)
            await unit.commit()
        for job in admitted:
            self._note(job)
        for trainer in started.values():
            _log.info("trainer_admitted", trainer=trainer.uid, base_model=trainer.base_model)
        return False

    def _note(self, job: TuningJob) -> None:
        ATTEMPTS_STARTED.inc()
        QUEUE_WAIT.observe(waited_seconds(job.retry_time or job.create_time, self._context.now()))
        _log.info("job_admitted", tenant=job.tenant, job=job.name, attempt=job.attempt_count + 1)

    async def _queue(self, unit: UnitOfWork) -> Mapping[str, tuple[TuningJob, bool]]:
        """By uid: each queued job and whether its reports are there; those that can't be trained fail here."""
        queue: dict[str, tuple[TuningJob, bool]] = {}
        known: dict[_Reading, tuple[bool, str]] = {}
        for job in await unit.jobs.in_states([JobState.QUEUED], _QUEUE):
            ready, obstacle = await self._datasets(unit, job, known)
            if obstacle:
                await self._refuse(unit, job.uid, JobError(Reason.DATASET_INVALID, obstacle))
                continue
            resolved = await resolve_auto(unit, job) if ready else None
            queue[job.uid] = (resolved or job, resolved is not None)
        return queue

    @staticmethod
    async def _datasets(unit: UnitOfWork, job: TuningJob, known: dict[_Reading, tuple[bool, str]]) -> tuple[bool, str]:
        """Whether all of the job's reports are there, and a sentence on what forbids training, empty if nothing does."""
        ready = True
        for reading in _readings(job.spec):
            if reading not in known:
                known[reading] = await _finding(unit, reading)
            done, obstacle = known[reading]
            if obstacle:
                return True, obstacle
            ready = ready and done
        return ready, ""

    async def _start_trainers(self, unit: UnitOfWork, decisions: Decisions) -> Mapping[str, Trainer]:
        """By the scheduler's keys: the trainers, to be launched."""
        started = {new.key: new_trainer(self._context, new.base, self._context.now()) for new in decisions.start}
        for trainer in started.values():
            await unit.trainers.add(trainer)
        return started

    async def _admit_all(
        self, unit: UnitOfWork, decisions: Decisions, started: Mapping[str, Trainer]
    ) -> list[TuningJob]:
        """The jobs as they were in the queue, without those that have left it."""
        admitted: list[TuningJob] = []
        for one in decisions.admit:
            trainer = started[one.trainer].uid if one.trainer in started else one.trainer
            if not trainer or await self._takes_jobs(unit, trainer):
                job = await self._admit(unit, one.uid, trainer)
                admitted += [job] if job else []
        return admitted

    @staticmethod
    async def _takes_jobs(unit: UnitOfWork, uid: str) -> bool:
        # Locked from here on: a trainer leaves under the same lock, and never with an attempt.
        trainer = await unit.trainers.get(uid, for_update=True)
        return trainer is not None and trainer.takes_jobs

    async def _admit(self, unit: UnitOfWork, uid: str, trainer_uid: str) -> TuningJob | None:
        job = await unit.jobs.get_by_uid(uid, for_update=True)
        if job is None or job.state is not JobState.QUEUED:
            return None
        now = self._context.now()
        attempt = new_attempt(self._context, job, now, trainer_uid)
        await unit.jobs.add_attempt(attempt)
        starting = replace(job.moved(JobState.STARTING, now), attempt_count=attempt.number, retry_time=None)
        message = f"Capacity is there; attempt {attempt.number} is being started."
        if trainer_uid:
            message = f"Attempt {attempt.number} is given to the shared trainer {trainer_uid}."
        await unit.jobs.save(starting, [JobEvent(now, EventLevel.INFO, message, state=JobState.STARTING)])
        return job

    async def _drain(self, unit: UnitOfWork, uid: str) -> None:
        trainer = await unit.trainers.get(uid, for_update=True)
        if trainer is not None and trainer.takes_jobs:
            await unit.trainers.save(trainer.draining(self._context.now()))
            _log.info("trainer_drained", trainer=uid, base_model=trainer.base_model)

    @staticmethod
    async def _wait(unit: UnitOfWork, uid: str, reason: QueueReason) -> None:
        job = await unit.jobs.get_by_uid(uid, for_update=True)
        if job is not None and job.state is JobState.QUEUED and job.queue_reason != reason:
            await unit.jobs.save(replace(job, queue_reason=reason))

    async def _refuse(self, unit: UnitOfWork, uid: str, error: JobError) -> None:
        job = await unit.jobs.get_by_uid(uid, for_update=True)
        if job is None or job.state is not JobState.QUEUED:
            return
        now = self._context.now()
        failed = job.moved(JobState.FAILED, now, error)
        await unit.jobs.save(failed, [JobEvent(now, EventLevel.ERROR, error.message, state=JobState.FAILED)])


def _readings(spec: TrainSpec) -> Iterator[_Reading]:
    named = (spec.training_dataset, False), (spec.validation_dataset, False), (spec.replay_dataset, True)
    return (_Reading(dataset, spec.base_model, spec.method, replayed) for dataset, replayed in named if dataset)


async def _finding(unit: UnitOfWork, reading: _Reading) -> tuple[bool, str]:
    name = DatasetVersionName.parse(reading.dataset)
    report = await unit.datasets.get_report(name.tenant, name.dataset, name.version, reading.base_model)
    version = await unit.datasets.get_version(name.tenant, name.dataset, name.version)
    if report is None or version is None:
        return True, f"{reading.dataset} is gone."
    if report.state is ReportState.PENDING:
        return False, ""
    if report.state is ReportState.FAILED or not report.valid:
        return True, f"{reading.dataset} can't be trained on: {report.summary} Its report says more."
    return True, kind_obstacle(version, reading.method, replayed=reading.replayed)
