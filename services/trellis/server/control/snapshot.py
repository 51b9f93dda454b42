"""The scheduler's snapshot, from the rows."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from trellis.server.app.ports import UnitOfWork
from trellis.server.control.context import ControlContext, ControlSettings
from trellis.server.control.export import held_by_exports
from trellis.server.domain.trainer import Trainer, TrainerBase
from trellis.server.domain.tuning_job import ACTIVE, Attempt, TuningJob
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.snapshot import ActiveJob, Alone, PresentTrainer, QueuedJob, Shared, Snapshot
from trellis.server.scheduler.trainers import rank_rows_of
from trellis.spec import TrainSpec

_MOST = 10_000


async def take_snapshot(
    unit: UnitOfWork, context: ControlContext, queued: Iterable[tuple[TuningJob, bool]]
) -> Snapshot:
    """All at this moment; of each queued job, whether its reports are there is known."""
    settings = context.settings
    active = await unit.jobs.in_states(sorted(ACTIVE), _MOST)
    waiting = tuple(_queued(job, ready, settings) for job, ready in queued)
    bases = {job.work.base for job in waiting if isinstance(job.work, Shared)}
    return Snapshot(
        queued=waiting,
        active=tuple(ActiveJob(job.uid, job.tenant, _held(job.spec, settings)) for job in active),
        capacity=Resources(settings.capacity_cpus, settings.capacity_gpus),
        held=await held_by_exports(unit, settings),
        tenant_running_limit=settings.tenant_running_limit,
        now=context.now(),
        trainers=await _trainers(unit, {job.uid: job for job in active}),
        options=settings.trainers,
        last_ends=await unit.trainers.last_ends(bases),
    )


def _queued(job: TuningJob, ready: bool, settings: ControlSettings) -> QueuedJob:
    work = _work(job.spec, settings)
    return QueuedJob(job.uid, job.tenant, job.create_time, work, ready, job.retry_time, job.update_time)


def _work(spec: TrainSpec, settings: ControlSettings) -> Alone | Shared:
    if spec.distributed is None:
        return Shared(TrainerBase.of(spec), rank_rows_of(spec.lora.rank), spec.context_length)
    workers = max(1, spec.distributed.workers)
    return Alone(Resources(settings.job_cpus * workers, settings.job_gpus * workers))


def _held(spec: TrainSpec, settings: ControlSettings) -> Resources:
    work = _work(spec, settings)
    return work.needs if isinstance(work, Alone) else Resources()


async def _trainers(unit: UnitOfWork, active: Mapping[str, TuningJob]) -> tuple[PresentTrainer, ...]:
    live = await unit.trainers.live()
    attempts: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in await unit.trainers.open_attempts([trainer.uid for trainer in live]):
        attempts[attempt.trainer_uid].append(attempt)
    return tuple(_present(trainer, attempts[trainer.uid], active) for trainer in live)


def _present(trainer: Trainer, attempts: Sequence[Attempt], active: Mapping[str, TuningJob]) -> PresentTrainer:
    unseen = [attempt.job_uid for attempt in attempts if not _is_seen(attempt, trainer)]
    return PresentTrainer(
        uid=trainer.uid,
        base=trainer.base,
        needs=Resources(trainer.cpus, trainer.gpus),
        create_time=trainer.create_time,
        takes_jobs=trainer.takes_jobs,
        room=trainer.room,
        job_count=trainer.job_count,
        open_jobs=len(attempts),
        unseen_rows=tuple(rank_rows_of(active[uid].spec.lora.rank) if uid in active else 0 for uid in unseen),
    )


def _is_seen(attempt: Attempt, trainer: Trainer) -> bool:
    """Whether the trainer's word on its room counts the attempt: it had begun with it by then."""
    if attempt.start_time is None or trainer.room_time is None:
        return False
    return attempt.start_time <= trainer.room_time
