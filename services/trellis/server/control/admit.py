"""Admits queued jobs, by the scheduler's decision, has others give way and trainers come and go for them, and says of
each job that waits why it does."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from trellis.errors import Reason
from trellis.server.app.audit import record
from trellis.server.app.job_preparation import prepare
from trellis.server.app.metrics import count_job
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.traces import begin_wait
from trellis.server.control.attempts import new_attempt
from trellis.server.control.board import Decided
from trellis.server.control.context import ControlContext
from trellis.server.control.measure_queue import DECISION_SECONDS
from trellis.server.control.metrics import ATTEMPTS_STARTED, QUEUE_WAIT, waited_seconds
from trellis.server.control.preempt import keep_reserved, preempt_all
from trellis.server.control.readiness import JobDatasetsWatch
from trellis.server.control.snapshot import Taken, take_snapshot
from trellis.server.control.trainers import new_trainer
from trellis.server.domain.trainer import Trainer
from trellis.server.domain.tuning_job import (
    EndCause,
    EventLevel,
    JobError,
    JobEvent,
    JobState,
    QueueCode,
    QueueReason,
    TuningJob,
)
from trellis.server.scheduler.export_room import trainers_in_the_way
from trellis.server.scheduler.policy import Decisions, decide
from trellis.server.scheduler.snapshot import Snapshot
from trellis.tracing import Span

_log = structlog.get_logger(__name__)
_QUEUE = 10_000
_LONG_QUEUE = 500
_REMEMBERED_EVERY = timedelta(seconds=5)
"""While nothing waits, what running jobs hold is remembered so often."""

_LIMITS = {QueueCode.BUDGET, QueueCode.TENANT_LIMIT, QueueCode.QUOTA}
_OTHERS = {QueueCode.COHORT, QueueCode.PREEMPTING, QueueCode.RESERVED, QueueCode.FAIR_SHARE, QueueCode.CAPACITY}
_KINDS = {code: code.value for code in (*_LIMITS, QueueCode.NEVER_FITS)} | dict.fromkeys(_OTHERS, "OTHERS")
"""What is told in events, by what is waited for; the report on the dataset and retries have events of their own."""

Queue = Mapping[str, tuple[TuningJob, bool]]
"""By uid: each queued job, and whether its reports are there."""


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A job that is given capacity."""

    job: TuningJob
    """As it was in the queue."""
    waiting: Span
    """Its time there, which ends when it is known that it does."""


@dataclass(frozen=True, slots=True)
class _Round:
    """What a decision led to."""

    taken: Taken
    decisions: Decisions
    admitted: tuple[_Admitted, ...]
    """Without those that have left the queue."""
    started: tuple[Trainer, ...]


class AdmitJobs:
    """Snapshot, decision and outcome in one transaction, one server at a time: capacity is never given twice."""

    name = "admit"

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._datasets = JobDatasetsWatch()
        self.decided = Decided()
        """For the board, which has a loop of its own."""
        self._decided_at: datetime | None = None
        self._is_empty = False
        """Whether nothing waited when it was last decided."""

    async def once(self) -> bool:
        """One decision over the whole queue."""
        if not await self._is_due():
            return False
        async with self._context.units() as unit:
            await unit.jobs.lock_queue()
            done = await self._decide(unit)
            await unit.commit()
        self._decided_at, self._is_empty = done.taken.snapshot.now, not done.decisions.waiting
        for one in done.admitted:
            self._note(one)
        for trainer in done.started:
            _log.info("trainer_admitted", trainer=trainer.uid, base_model=trainer.base_model)
        self.decided.put(done.taken.snapshot, done.decisions)
        return False

    async def _is_due(self) -> bool:
        """Whether something waits, or what is held is to be remembered."""
        async with self._context.units(write=False) as unit:
            if await unit.jobs.in_states([JobState.QUEUED], 1):
                return True
            self._datasets.forget()
            if self._decided_at is None or not self._is_empty:
                return True
            is_long_ago = self._context.now() - self._decided_at >= _REMEMBERED_EVERY
            return is_long_ago and bool(await unit.jobs.open_attempts(1) or await unit.trainers.live())

    async def _decide(self, unit: UnitOfWork) -> _Round:
        queued = await self._queue(unit)
        taken = await take_snapshot(unit, self._context, queued.values())
        with DECISION_SECONDS.time():
            decisions = await _decided(taken.snapshot)
        started = await self._start_trainers(unit, decisions)
        admitted = await self._admit_all(unit, decisions, started)
        for uid in dict.fromkeys((*decisions.drain, *trainers_in_the_way(taken.snapshot))):
            await self._drain(unit, uid)
        await preempt_all(self._context, unit, decisions.preempt)
        await keep_reserved(unit, taken, decisions)
        for uid, obstacle in decisions.refuse.items():
            await self._refuse(unit, uid, JobError(Reason.TRAINING_FAILED, obstacle))
        changed = _changed(queued, decisions.waiting)
        told = {uid: one for uid, one in changed.items() if _is_news(queued[uid][0].queue_reason, one)}
        now = taken.snapshot.now
        events = {uid: JobEvent(now, EventLevel.INFO, f"The job waits. {one.message}") for uid, one in told.items()}
        await unit.queue.save_reasons(changed, events)
        await unit.fair_shares.put(taken.grown)
        return _Round(taken, decisions, tuple(admitted), tuple(started.values()))

    def _note(self, admitted: _Admitted) -> None:
        job, now = admitted.job, self._context.now()
        admitted.waiting.end(now)
        ATTEMPTS_STARTED.inc()
        QUEUE_WAIT.observe(waited_seconds(job.retry_time or job.create_time, now))
        _log.info("job_admitted", tenant=job.tenant, job=job.name, attempt=job.attempt_count + 1)

    async def _queue(self, unit: UnitOfWork) -> Queue:
        """Those that can be trained; the others fail here."""
        jobs = await unit.jobs.in_states([JobState.QUEUED], _QUEUE)
        found = await self._datasets.look(unit, jobs)
        queue: dict[str, tuple[TuningJob, bool]] = {}
        for job in jobs:
            readiness = found[job.uid]
            if readiness.obstacle:
                await self._refuse(unit, job.uid, JobError(Reason.DATASET_INVALID, readiness.obstacle))
                continue
            resolved = None
            if readiness.ready:
                resolved = await prepare(unit, job, self._context.settings.needs, self._context.now())
            queue[job.uid] = (resolved or job, resolved is not None)
        return queue

    async def _start_trainers(self, unit: UnitOfWork, decisions: Decisions) -> Mapping[str, Trainer]:
        """By the scheduler's keys: the trainers, to be launched."""
        started = {new.key: new_trainer(self._context, new.base, self._context.now()) for new in decisions.start}
        for trainer in started.values():
            await unit.trainers.add(trainer)
        return started

    async def _admit_all(
        self, unit: UnitOfWork, decisions: Decisions, started: Mapping[str, Trainer]
    ) -> list[_Admitted]:
        """The jobs, without those that have left the queue."""
        admitted: list[_Admitted] = []
        for one in decisions.admit:
            trainer = started.get(one.trainer)
            if trainer is None and one.trainer:
                # Locked from here on: a trainer leaves under the same lock, and never with an attempt.
                trainer = await unit.trainers.get(one.trainer, for_update=True)
                if trainer is None or not trainer.takes_jobs:
                    continue
            found = await self._admit(unit, one.uid, trainer)
            admitted += [found] if found else []
        return admitted

    async def _admit(self, unit: UnitOfWork, uid: str, trainer: Trainer | None) -> _Admitted | None:
        job = await unit.jobs.get_by_uid(uid, for_update=True)
        if job is None or job.state is not JobState.QUEUED:
            return None
        now = self._context.now()
        waiting = begin_wait(job)
        attempt = new_attempt(self._context, job, now, trainer, waiting.traceparent)
        await unit.jobs.add_attempt(attempt)
        starting = replace(job.moved(JobState.STARTING, now), attempt_count=attempt.number, retry_time=None)
        message = f"Capacity is there; attempt {attempt.number} is being started."
        if trainer:
            message = f"Attempt {attempt.number} is given to the shared trainer {trainer.uid}."
        await unit.jobs.save(starting, [JobEvent(now, EventLevel.INFO, message, state=JobState.STARTING)])
        return _Admitted(job, waiting)

    async def _drain(self, unit: UnitOfWork, uid: str) -> None:
        trainer = await unit.trainers.get(uid, for_update=True)
        if trainer is not None and trainer.takes_jobs:
            await unit.trainers.save(trainer.draining(self._context.now()))
            _log.info("trainer_drained", trainer=uid, base_model=trainer.base_model)

    async def _refuse(self, unit: UnitOfWork, uid: str, error: JobError) -> None:
        job = await unit.jobs.get_by_uid(uid, for_update=True)
        if job is None or job.state is not JobState.QUEUED:
            return
        now = self._context.now()
        failed = job.moved(JobState.FAILED, now, error)
        count_job(failed.state, EndCause.USER)
        await unit.jobs.save(failed, [JobEvent(now, EventLevel.ERROR, error.message, state=JobState.FAILED)])
        await record(self._context, unit, job, failed, deed="RefuseTuningJob")


async def _decided(snapshot: Snapshot) -> Decisions:
    """What is decided; over a long queue in a thread, so that calls are answered meanwhile."""
    if len(snapshot.queued) < _LONG_QUEUE:
        return decide(snapshot)
    return await asyncio.to_thread(decide, snapshot)


def _is_news(before: QueueReason | None, now: QueueReason) -> bool:
    """Whether the job waits for something of another kind than before. What changes to and fro while others come and go
    is none, nor what other events say."""
    kinds = [_KINDS.get(reason.code) if reason else None for reason in (before, now)]
    return kinds[1] is not None and kinds[0] != kinds[1]


def _changed(queued: Queue, waiting: Mapping[str, QueueReason]) -> dict[str, QueueReason]:
    """The reasons that say something else than before; a job's place is on the board, and no reason to save the job."""

    def said(reason: QueueReason | None) -> tuple[str, str] | None:
        return None if reason is None else (reason.code, reason.message)

    return {uid: reason for uid, reason in waiting.items() if said(reason) != said(queued[uid][0].queue_reason)}
