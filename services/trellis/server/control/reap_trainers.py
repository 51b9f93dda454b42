"""Clears away the runs of trainers that are over, and of trainers that nobody knows."""

from dataclasses import replace

import structlog

from trellis.server.app.hosts import RunStatus
from trellis.server.app.trainers import LEFT
from trellis.server.control.context import ControlContext
from trellis.server.control.each import for_each
from trellis.server.control.trainers import trainer_run_prefix
from trellis.server.domain.trainer import Trainer

_log = structlog.get_logger(__name__)
_BATCH = 100
_LOG_BYTES = 16 * 1024
_ALIVE = frozenset({RunStatus.PENDING, RunStatus.RUNNING})


class ReapTrainers:
    """Stops what is left of trainers that are over, puts the last output of lost ones into the server's log, and forgets
    them.
    """

    name = "reap_trainers"

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._prefix = trainer_run_prefix(context.settings.installation)

    async def once(self) -> bool:
        """One batch of trainers that are over, and one look at the cluster."""
        async with self._context.units(write=False) as unit:
            over = await unit.trainers.to_clean_up(_BATCH)
            busy = await unit.trainers.job_counts([trainer.uid for trainer in over])
        # The watch ends a trainer's attempts as long as it is not cleared away.
        await for_each([trainer for trainer in over if trainer.uid not in busy], self._clean_up)
        # Asked before the database is read: what is submitted in between is not in this list.
        runs = [run for run in await self._context.cluster.list() if run.startswith(self._prefix)]
        async with self._context.units(write=False) as unit:
            known = {f"{self._prefix}{trainer.uid}" for trainer in await unit.trainers.live()} if runs else set()
        await for_each([run for run in runs if run not in known], self._stop_if_orphan)
        return False

    async def _clean_up(self, trainer: Trainer) -> None:
        cluster = self._context.cluster
        status = (await cluster.status(trainer.submission_id)).status
        if status in _ALIVE:
            # A process that was let go is given the time to leave by itself.
            if trainer.outcome != LEFT or self._overdue(trainer):
                await cluster.stop(trainer.submission_id)
            return
        output = "" if trainer.outcome == LEFT else await cluster.log_tail(trainer.submission_id, _LOG_BYTES)
        async with self._context.units() as unit:
            present = await unit.trainers.get(trainer.uid, for_update=True)
            if present is None or present.cleaned_up:
                return
            await unit.trainers.save(replace(present, cleaned_up=True))
            await unit.commit()
        if output.strip():
            _log.warning("trainer_output", trainer=trainer.uid, why=trainer.outcome, output=output)
        await cluster.forget(trainer.submission_id)

    def _overdue(self, trainer: Trainer) -> bool:
        assert trainer.end_time is not None
        return self._context.now() >= trainer.end_time + 2 * self._context.settings.graces.cancel

    async def _stop_if_orphan(self, run: str) -> None:
        async with self._context.units(write=False) as unit:
            trainer = await unit.trainers.get(run.removeprefix(self._prefix))
        # One that was cleaned up and runs was submitted too late, by a server that had been held up.
        if trainer is None or trainer.cleaned_up:
            _log.warning("orphan_run_stopped", run=run)
            await self._context.cluster.stop(run)
