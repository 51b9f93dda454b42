"""Finds trainers whose process died or went silent, and ends what they had; the lease decides, the cluster hastens."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from trellis.errors import Reason, Unavailable
from trellis.server.app.hosts import RunStatus
from trellis.server.control.attempts import end_badly
from trellis.server.control.context import ControlContext
from trellis.server.control.each import for_each
from trellis.server.control.host_ends import end_of_host, hear_late_words
from trellis.server.control.listening import Listening
from trellis.server.control.metrics import ATTEMPTS_LOST, TRAINERS_LOST
from trellis.server.control.outages import Outages
from trellis.server.control.trainers import end_trainer
from trellis.server.control.troubles import cause_of, with_trouble
from trellis.server.domain.run_trouble import RunTrouble
from trellis.server.domain.trainer import Trainer
from trellis.server.domain.tuning_job import Attempt, EndCause, JobError

_log = structlog.get_logger(__name__)
_BATCH = 1000
_DEAD = frozenset({RunStatus.FAILED, RunStatus.STOPPED, RunStatus.SUCCEEDED})
_LEAVE_SECONDS = 30.0
"""So long a trainer that was told to leave, and has no job any more, may take to do so."""


class WatchTrainers:
    """Ends the trainers that are dead, or should have left; their jobs go on elsewhere, from their checkpoints."""

    name = "watch_trainers"

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._listening = Listening(context.settings.lease, context.now())
        self._outages = Outages(context, context.cluster)

    async def once(self) -> bool:
        """One look at all trainers, and at what ended ones have left behind."""
        now = self._context.now()
        has_listened = self._listening.has_listened(now)
        async with self._context.units(write=False) as unit:
            trainers = await unit.trainers.live()
            busy = await unit.trainers.job_counts([trainer.uid for trainer in trainers])
        await for_each([t for t in trainers if has_listened and t.lease_expire_time <= now], self._end_silent)
        await for_each([t for t in trainers if t.uid not in busy and self._should_have_left(t)], self._end_lingering)
        await self._ask_cluster(trainers)
        await self._end_attempts()
        await hear_late_words(self._context)
        return False

    def _should_have_left(self, trainer: Trainer) -> bool:
        if trainer.drain_time is None:
            return False
        if trainer.start_time is None:
            return True  # nobody is there who could leave
        since = max(trainer.drain_time, trainer.busy_time or trainer.drain_time)
        return self._context.now() >= since + timedelta(seconds=_LEAVE_SECONDS)

    async def _ask_cluster(self, trainers: Sequence[Trainer]) -> None:
        if not trainers:
            return
        try:
            alive = await self._outages.runs()
            await for_each([trainer for trainer in trainers if trainer.submission_id not in alive], self._judge)
        except Unavailable as error:
            # Only a hint is missing; leases are watched all the same, and without a longer pause.
            _log.warning("cluster_unreachable", loop=self.name, why=str(error))

    async def _judge(self, trainer: Trainer) -> None:
        # A run that the cluster does not know, or no longer, is still to be submitted, or was lost with the cluster.
        report = await self._context.cluster.status(trainer.submission_id)
        if report.status in _DEAD:
            # The cluster's word may quote what the process printed about other tenants' jobs: it is for operators alone.
            _log.warning("trainer_run_ended", trainer=trainer.uid, status=report.status.value, word=report.message)
            message = f"The shared trainer's process ended without a word; the cluster says {report.status}."
            await self._end(
                trainer, "dead", with_trouble(message, report.trouble or await end_of_host(self._context, trainer))
            )
        elif report.status is RunStatus.UNKNOWN and trainer.start_time is not None:
            message = "The shared trainer was lost: the cluster does not know it any more."
            await self._end(trainer, "dead", with_trouble(message, await end_of_host(self._context, trainer)))

    async def _end_silent(self, trainer: Trainer) -> None:
        settings = self._context.settings
        if trainer.start_time is None and await self._prolong_start(trainer):
            return
        if trainer.start_time is None:
            seconds = settings.start_timeout.total_seconds()
            message = f"The shared trainer did not start within {seconds:.0f} s."
            await self._end(trainer, "not_started", with_trouble(message, await self._trouble(trainer)))
        else:
            seconds = settings.lease.total_seconds()
            message = f"The shared trainer was silent for {seconds:.0f} s."
            await self._end(trainer, "silent", with_trouble(message, await end_of_host(self._context, trainer)))

    async def _trouble(self, trainer: Trainer) -> RunTrouble | None:
        try:
            return (await self._context.cluster.status(trainer.submission_id)).trouble
        except Unavailable:
            return None

    async def _prolong_start(self, seen: Trainer) -> bool:
        """Let a trainer that could not be submitted, as the cluster was away, begin later; it has failed in nothing."""
        deadline = await self._outages.start_deadline()
        if deadline is None:
            return False
        async with self._context.units() as unit:
            trainer = await unit.trainers.get(seen.uid, for_update=True)
            if trainer is not None and not trainer.is_over and trainer.start_time is None:
                await unit.trainers.save(replace(trainer, lease_expire_time=deadline))
                await unit.commit()
        return True

    async def _end_lingering(self, trainer: Trainer) -> None:
        async with self._context.units() as unit:
            # Nothing is given to one that drains, so that what it had not then it has not now.
            if await end_trainer(unit, self._context, trainer, "It was told to leave, and was ended."):
                await unit.commit()
                _log.info("trainer_ended", trainer=trainer.uid, base_model=trainer.base_model)

    async def _end(self, trainer: Trainer, how: str, message: str) -> None:
        async with self._context.units() as unit:
            if not await end_trainer(unit, self._context, trainer, message, unless_renewed=True):
                return
            await unit.commit()
        TRAINERS_LOST.labels(how).inc()
        _log.warning("trainer_lost", trainer=trainer.uid, base_model=trainer.base_model, why=message)

    async def _end_attempts(self) -> None:
        """Of trainers that are over, whoever ended them and whoever died then; they may not be cleared away before."""
        async with self._context.units(write=False) as unit:
            over = {trainer.uid: trainer for trainer in await unit.trainers.to_clean_up(_BATCH)}
            left = await unit.trainers.open_attempts(over)

        async def end(attempt: Attempt) -> None:
            await self._end_attempt(attempt, over[attempt.trainer_uid])

        await for_each(left, end)

    async def _end_attempt(self, attempt: Attempt, trainer: Trainer) -> None:
        error = JobError(Reason.TRAINING_FAILED, trainer.outcome, {"attempt": str(attempt.number)})
        trouble = await end_of_host(self._context, trainer)
        async with self._context.units() as unit:
            job = await unit.jobs.get_by_uid(attempt.job_uid)
            # Whose of its jobs' memory it was nobody knows, so that none is given up for it alone.
            may_halve = job is not None and job.memory_halvings < self._context.settings.retry.max_memory_halvings
            is_told = trouble is not None and trouble.message in trainer.outcome
            cause = cause_of(trouble) if is_told and may_halve else EndCause.INFRASTRUCTURE
            if not await end_badly(unit, self._context, attempt, error, cause=cause):
                return
            await unit.commit()
        ATTEMPTS_LOST.labels("trainer").inc()
        _log.warning("attempt_lost", tenant=attempt.tenant, trainer=trainer.uid, why=trainer.outcome)
