"""The scheduler's snapshot, from the rows. Each kind of row is read once for all jobs and tenants."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from trellis.server.app.budgets import budget_needs
from trellis.server.app.job_needs import JobNeeds
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.queue_ports import JobHold, Reservation
from trellis.server.control.context import ControlContext
from trellis.server.control.export import held_by_exports
from trellis.server.control.tenant_shares import Holding, Shares, tenant_shares
from trellis.server.domain.fair_share import FairShare
from trellis.server.domain.ledger import Meter
from trellis.server.domain.quota import UNLIMITED
from trellis.server.domain.trainer import Trainer, TrainerBase
from trellis.server.domain.tuning_job import ACTIVE, STOPPING, Attempt, JobState, TuningJob
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.snapshot import (
    ActiveJob,
    Alone,
    PresentTrainer,
    QueuedJob,
    Shared,
    Snapshot,
    TenantShare,
)

_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Taken:
    """The snapshot, and what of it is kept beyond the decision."""

    snapshot: Snapshot
    grown: Sequence[FairShare]
    """What tenants have had up to now, to be remembered."""
    reservations: Mapping[str, Reservation]
    """All that are kept, those of jobs that wait no longer too."""


@dataclass(frozen=True, slots=True)
class _Active:
    job: TuningJob
    attempt: Attempt | None
    """The one that is open; None in the moment in which its end is being applied."""

    @property
    def trainer_uid(self) -> str:
        return self.attempt.trainer_uid if self.attempt else ""

    @property
    def since(self) -> datetime:
        return self.attempt.create_time if self.attempt else self.job.update_time


async def take_snapshot(unit: UnitOfWork, context: ControlContext, queued: Iterable[tuple[TuningJob, bool]]) -> Taken:
    """All at this moment; of each queued job, whether its reports are there is known."""
    settings, now = context.settings, context.now()
    needs = settings.needs
    open_attempts = {attempt.job_uid: attempt for attempt in await unit.jobs.open_attempts(_MOST)}
    jobs = await unit.jobs.in_states(sorted(ACTIVE), _MOST)
    active = [_Active(job, open_attempts.get(job.uid)) for job in jobs]
    live = await unit.trainers.live()
    saved = await unit.queue.saved_times()
    held = await unit.queue.held([JobState.QUEUED, *ACTIVE])
    reservations = await unit.reservations.all()
    shares = await _shares(unit, context, active, held)
    waiting = _Waiting(needs, shares.by_tenant, held)
    found = tuple(waiting.job(job, ready) for job, ready in queued)
    snapshot = Snapshot(
        queued=found,
        active=tuple(_active(one, needs, saved.get(one.job.uid), now, shares.by_tenant) for one in active),
        capacity=needs.capacity,
        held=await held_by_exports(unit, settings),
        tenant_running_limit=settings.tenant_running_limit,
        now=now,
        trainers=_trainers(live, active),
        options=settings.trainers,
        last_ends=await unit.trainers.last_ends({job.work.base for job in found if isinstance(job.work, Shared)}),
        tenants=shares.by_tenant,
        reservations={
            job.uid: Resources(one.cpus, one.gpus) for job in found if (one := reservations.get(job.uid)) is not None
        },
        policy=settings.scheduler,
    )
    return Taken(snapshot, shares.grown, reservations)


async def _shares(
    unit: UnitOfWork, context: ControlContext, active: Sequence[_Active], held: Sequence[JobHold]
) -> Shares:
    needs = context.settings.needs
    uids = {one.job.uid for one in active}
    seat = needs.trainer.share_of(needs.capacity) / needs.trainers.max_jobs
    holdings = [
        Holding(
            one.job.tenant,
            seat if one.trainer_uid else needs.alone(one.job.spec).share_of(needs.capacity),
            one.since,
        )
        for one in active
    ]
    of_active = [hold for hold in held if hold.job_uid in uids]
    return await tenant_shares(unit, context.now(), holdings, of_active, context.settings.scheduler.half_life_seconds)


class _Waiting:
    """Queued jobs as the scheduler sees them."""

    def __init__(self, needs: JobNeeds, tenants: Mapping[str, TenantShare], held: Sequence[JobHold]) -> None:
        self._needs = needs
        self._tenants = tenants
        self._held: dict[str, dict[Meter, int]] = defaultdict(dict)
        for hold in held:
            self._held[hold.job_uid][hold.meter] = hold.quantity

    def job(self, job: TuningJob, ready: bool) -> QueuedJob:
        return QueuedJob(
            uid=job.uid,
            tenant=job.tenant,
            create_time=job.create_time,
            work=_work(job, self._needs),
            report_ready=ready,
            retry_time=job.retry_time,
            queue_time=job.update_time,
            priority=_priority(job, self._tenants),
            seconds=seconds_left(job),
            budget_needs=budget_needs(self._held.get(job.uid, {})),
            preemption_count=job.preemption_count,
        )


def _priority(job: TuningJob, tenants: Mapping[str, TenantShare]) -> int:
    """As far as its tenant's quota allows, which may have changed since the job was submitted."""
    share = tenants.get(job.tenant)
    return min(job.priority, (share.quota if share else UNLIMITED).highest_priority)


def seconds_left(job: TuningJob) -> float | None:
    """How long the job will still run, by its estimate and the steps that it has done; None where nothing is known."""
    if job.estimate is None:
        return None
    total = job.progress.total_steps
    done = min(job.progress.step / total, 1.0) if total else 0.0
    return job.estimate.seconds * (1.0 - done)


def _work(job: TuningJob, needs: JobNeeds) -> Alone | Shared:
    if job.spec.distributed is None:
        return _shared(job)
    return Alone(needs.alone(job.spec), max(1, job.spec.distributed.workers))


def _shared(job: TuningJob) -> Shared:
    spec = job.spec
    return Shared(TrainerBase.of(spec), spec.lora.rank, spec.context_length, job.adapted_share)


def _active(
    one: _Active, needs: JobNeeds, saved: datetime | None, now: datetime, tenants: Mapping[str, TenantShare]
) -> ActiveJob:
    job = one.job
    return ActiveJob(
        uid=job.uid,
        tenant=job.tenant,
        needs=Resources() if one.trainer_uid else needs.alone(job.spec),
        trainer_uid=one.trainer_uid,
        priority=_priority(job, tenants),
        start_time=one.since,
        saved_time=saved,
        expected_end=_expected_end(one, now),
        preemption_count=job.preemption_count,
        can_be_preempted=job.state is JobState.RUNNING,
        leaving=job.state in STOPPING,
    )


def _expected_end(one: _Active, now: datetime) -> datetime | None:
    """By the pace that it reports, or by its estimate; never in the past."""
    job = one.job
    if job.state is JobState.RUNNING and job.progress.eta_seconds is not None and job.update_time > one.since:
        return max(now, job.update_time + timedelta(seconds=job.progress.eta_seconds))
    left = seconds_left(job)
    return None if left is None else max(now, one.since + timedelta(seconds=left))


def _trainers(live: Sequence[Trainer], active: Sequence[_Active]) -> tuple[PresentTrainer, ...]:
    given: dict[str, list[_Active]] = defaultdict(list)
    for one in active:
        given[one.trainer_uid].append(one)
    return tuple(_present(trainer, given[trainer.uid]) for trainer in live)


def _present(trainer: Trainer, given: Sequence[_Active]) -> PresentTrainer:
    unseen = [one.job for one in given if not _is_seen(one.attempt, trainer)]
    return PresentTrainer(
        uid=trainer.uid,
        base=trainer.base,
        needs=Resources(trainer.cpus, trainer.gpus),
        create_time=trainer.create_time,
        takes_jobs=trainer.takes_jobs,
        room=trainer.room,
        job_count=trainer.job_count,
        open_jobs=len(given),
        unseen_rows=tuple(_shared(job).rank_rows for job in unseen),
    )


def _is_seen(attempt: Attempt | None, trainer: Trainer) -> bool:
    """Whether the trainer's word on its room counts the attempt: it had begun with it by then."""
    if attempt is None or attempt.start_time is None or trainer.room_time is None:
        return False
    return attempt.start_time <= trainer.room_time
