"""Starts the processes of shared trainers on the cluster."""

from typing import TypeGuard

import structlog

from trellis.server.app.hosts import RunRequest, RunStatus
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.tokens import trainer_ticket
from trellis.server.control.context import ControlContext
from trellis.server.control.each import for_each
from trellis.server.control.environment import process_environment
from trellis.server.domain.trainer import Trainer

_log = structlog.get_logger(__name__)


class LaunchTrainers:
    """Submits the run of each trainer that has not called yet and that the cluster does not know.

    Submitting twice is harmless: it is one run by its name.
    """

    name = "launch_trainers"

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def once(self) -> bool:
        """One look at all trainers."""
        async with self._context.units(write=False) as unit:
            trainers = [trainer for trainer in await unit.trainers.live() if _is_to_start(trainer)]
        await for_each(trainers, self._launch)
        return False

    async def _launch(self, trainer: Trainer) -> None:
        # A run that ended before its first call is known too: ending its trainer is the watch's work.
        status = (await self._context.cluster.status(trainer.submission_id)).status
        if status is not RunStatus.UNKNOWN:
            return
        # A server that was held up must not start what another one has started, ended and forgotten meanwhile.
        async with self._context.units(write=False) as unit:
            present = await unit.trainers.get(trainer.uid)
            memory_halvings = await _memory_halvings(unit, trainer)
        if _is_to_start(present):
            await self._context.cluster.submit(self._request(present, memory_halvings))
            _log.info("run_submitted", trainer=trainer.uid, base_model=trainer.base_model, run=trainer.submission_id)

    def _request(self, trainer: Trainer, memory_halvings: int) -> RunRequest:
        settings, options = self._context.settings, self._context.settings.trainers
        cpus, gpus = trainer.cpus / trainer.workers, trainer.gpus / trainer.workers
        environment = {
            **process_environment(settings, cpus),
            "TRELLIS_TRAINER_TICKET": trainer_ticket(settings.server_secret, trainer.uid),
            **options.environment(memory_halvings),
        }
        return RunRequest(
            submission_id=trainer.submission_id,
            entrypoint=(settings.python, "-m", "trellis_jobs.shared.main"),
            environment=environment,
            # Its own share; further workers reserve theirs when it starts them.
            cpus=cpus,
            gpus=gpus,
            metadata={"trainer": trainer.uid, "base_model": trainer.base_model},
            workers=trainer.workers - 1,
            worker_cpus=cpus,
            worker_gpus=gpus,
        )


async def _memory_halvings(unit: UnitOfWork, trainer: Trainer) -> int:
    """Of its jobs' attempts that ran out of memory, the most that one had: the trainer's passes are theirs together."""
    attempts = await unit.trainers.open_attempts([trainer.uid])
    jobs = [await unit.jobs.get_by_uid(attempt.job_uid) for attempt in attempts]
    return max((job.memory_halvings for job in jobs if job is not None), default=0)


def _is_to_start(trainer: Trainer | None) -> TypeGuard[Trainer]:
    # Also one that is to leave, if it has jobs to do before; one that has none is ended by the watch.
    return trainer is not None and not trainer.is_over and trainer.start_time is None
