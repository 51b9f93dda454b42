"""Which queued jobs are admitted now, which trainers start and leave for them, and what each other job waits for. Pure:
the same snapshot, the same answer.

Tenants take turns: the one that runs fewest jobs goes first, of equals the one whose job is oldest. Inside a tenant
the oldest job that may start goes first. When the next job in turn does not find the capacity that it needs, nothing
behind it gets any, so that small jobs can't keep a large one waiting for ever; trainers that hold the capacity are told
to leave, idle ones at once, others when they have had their turn. Jobs that need none, as a trainer of their base has
room, are admitted all the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC

from trellis.server.domain.tuning_job import QueueCode, QueueReason
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.plan import Admission, NewTrainer, Plan
from trellis.server.scheduler.snapshot import Alone, QueuedJob, Shared, Snapshot
from trellis.server.scheduler.trainers import refusal
from trellis.server.scheduler.turns import Turns, in_order


@dataclass(frozen=True, slots=True)
class Preemption:
    """A running job that gives way."""

    victim: str
    """Its uid."""
    beneficiary: str
    """The uid of the queued job that gets what it frees."""
    reason: str
    """For the victim's user, as a sentence."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """Every queued job is in one of `admit`, `refuse` and `waiting`."""

    admit: tuple[Admission, ...]
    """Jobs to start, in the order of their turns."""
    start: tuple[NewTrainer, ...]
    """Trainers to start for them."""
    drain: tuple[str, ...]
    """The uids of trainers to be told to leave."""
    refuse: Mapping[str, str]
    """By uid: why the job can never run, as a sentence."""
    waiting: Mapping[str, QueueReason]
    """By uid: why the job waits."""
    preempt: tuple[Preemption, ...] = ()
    """Running jobs to be asked to give way."""
    reserve: Mapping[str, Resources] = field(default_factory=dict)
    """By the uid of a queued job: all that is to be kept free for it from now on; a reservation that is not here ends."""
    order: tuple[str, ...] = ()
    """The uids of the jobs that wait, in the order in which they are looked at."""


def decide(snapshot: Snapshot) -> Decisions:
    """Say of each queued job whether it starts now, and if not, why."""
    plan = Plan(snapshot)
    ready = [job for job in snapshot.queued if _obstacle(job, snapshot) is None]
    refused = {job.uid: why for job in ready if (why := _refusal(job, snapshot))}
    able = [job for job in ready if job.uid not in refused and plan.can_ever(job)]
    for job in in_order(able, snapshot, plan.ledger.running):
        plan.offer(job)
    placed = {admission.uid for admission in plan.admit} | refused.keys()
    left = Turns([job for job in snapshot.queued if job.uid not in placed], plan.ledger.running)
    waiting = {job.uid: _reason(job, at, snapshot, plan) for at, job in enumerate(left)}
    return Decisions(tuple(plan.admit), tuple(plan.start), tuple(plan.drain), refused, waiting)


def _obstacle(job: QueuedJob, snapshot: Snapshot) -> tuple[QueueCode, str] | None:
    """What keeps the job from starting, whatever is free."""
    if not job.report_ready:
        return QueueCode.DATASET_VALIDATING, "It starts when the report on its dataset is done."
    if job.retry_time is not None and job.retry_time > snapshot.now:
        at = job.retry_time.astimezone(UTC)
        return QueueCode.RETRY_BACKOFF, f"Its last attempt ended early; it is tried again at {at:%H:%M:%S} UTC."
    return None


def _refusal(job: QueuedJob, snapshot: Snapshot) -> str | None:
    return refusal(job.work, snapshot.trainers) if isinstance(job.work, Shared) else None


def _reason(job: QueuedJob, position: int, snapshot: Snapshot, plan: Plan) -> QueueReason:
    code, message = _obstacle(job, snapshot) or _shortage(job, snapshot, plan)
    return QueueReason(code, message, position)


def _shortage(job: QueuedJob, snapshot: Snapshot, plan: Plan) -> tuple[QueueCode, str]:
    ledger = plan.ledger
    if not plan.can_ever(job):
        message = f"{_needs(job, snapshot)}, more than the platform has in all ({ledger.capacity}): ask its operator."
        return QueueCode.CAPACITY, message
    if ledger.at_limit(job.tenant):
        message = f"{ledger.running[job.tenant]} of the tenant's jobs run, and at most {ledger.limit} may run at once."
        return QueueCode.TENANT_LIMIT, message
    if isinstance(job.work, Shared) and (trainers := plan.seats(job.work.base)):
        which = "The trainer" if trainers == 1 else f"None of the {trainers} trainers"
        has = "has no" if trainers == 1 else "has"
        message = f"{which} of {job.work.base.base_model} {has} room for it and the jobs before it; it starts when others end."
        return QueueCode.CAPACITY, message
    takers = "jobs before it"
    if not isinstance(job.work, Alone) or snapshot.trainers:
        takers += " and by trainers"
    if snapshot.held != Resources():
        takers += " and by an export"
    return QueueCode.CAPACITY, f"{_needs(job, snapshot)}; what is free of {ledger.capacity} is taken by {takers}."


def _needs(job: QueuedJob, snapshot: Snapshot) -> str:
    if isinstance(job.work, Alone):
        return f"It needs {job.work.needs}"
    return f"It needs a trainer of {job.work.base.base_model}, which takes {snapshot.trainer_needs}"
