"""Which queued jobs are admitted now, which trainers start and leave for them, and what each other job waits for. Pure:
the same snapshot, the same answer.

Jobs with a priority beyond 0 go first; then tenants within their soft budgets; then the tenant with the least share of the
platform by its weight, past use included (turns, fairness). What a tenant may have at once and over a period is never
passed (accounts, cohorts). The first job in turn that does not find the capacity that it needs gets a reservation, which
later ones may not delay (backfill); trainers that hold the capacity are told to leave, idle ones at once, others when
they have had their turn. Jobs that need none, as a trainer of their base has room, are admitted all the same.
"""

from dataclasses import replace

from trellis.server.scheduler.decisions import Admission, Decisions, Preemption
from trellis.server.scheduler.fairness import Shares
from trellis.server.scheduler.plan import Plan
from trellis.server.scheduler.reasons import is_ready, reasons_of
from trellis.server.scheduler.snapshot import QueuedJob, Shared, Snapshot
from trellis.server.scheduler.trainers import refusal, whole_rooms
from trellis.server.scheduler.turns import Tiers, Turns

__all__ = [
    "Admission",
    "Decisions",
    "Plan",
    "Preemption",
    "decide",
    "decisions_of",
    "order_of",
    "plan_of",
    "would_start",
]


def decide(snapshot: Snapshot) -> Decisions:
    """Say of each queued job whether it starts now, and if not, why."""
    return decisions_of(plan_of(snapshot))


def plan_of(snapshot: Snapshot, until: str = "") -> Plan:
    """The plan that the decisions are taken from: all jobs placed that can be. With `until`, it ends with the job of that
    uid: whether that one starts is known, and of those behind it nothing."""
    plan = Plan(snapshot)
    rooms = whole_rooms(snapshot.trainers)
    ready = [job for job in snapshot.queued if is_ready(job, snapshot)]
    for job in ready:
        if isinstance(job.work, Shared) and (why := refusal(job.work, rooms)):
            plan.refuse[job.uid] = why
    able = [job for job in ready if job.uid not in plan.refuse and plan.may_ever_run(job)]
    plan.tiers = Tiers(able, snapshot, plan.is_hindered)
    tier = plan.tiers.of
    reserved = [job for job in able if job.uid in snapshot.reservations]
    plan.expect_reserved(reserved)
    kept = {job.uid for job in Turns(reserved, tier, plan.shares.of) if plan.offer_reserved(job)}
    for job in Turns((job for job in able if job.uid not in kept), tier, plan.shares.of):
        plan.offer(job)
        if job.uid == until:
            break
    return plan


def would_start(snapshot: Snapshot, changed: QueuedJob) -> bool:
    """Whether a queued job would start now if it were as given; it costs less than to decide on all."""
    queued = tuple(changed if job.uid == changed.uid else job for job in snapshot.queued)
    plan = plan_of(replace(snapshot, queued=queued), changed.uid)
    return any(admission.uid == changed.uid for admission in plan.admit)


def decisions_of(plan: Plan) -> Decisions:
    """What a whole plan says of each job."""
    order = order_of(plan)
    return Decisions(
        admit=tuple(plan.admit),
        start=tuple(plan.seats.start),
        drain=tuple(plan.seats.drain),
        refuse=plan.refuse,
        waiting={job.uid: next(reasons_of(job, plan.snapshot, plan, at)) for at, job in enumerate(order)},
        preempt=tuple(plan.preempt),
        reserve=plan.reserve,
        order=tuple(job.uid for job in order),
    )


def order_of(plan: Plan) -> list[QueuedJob]:
    """The jobs that wait, in their turns from here on."""
    placed = {admission.uid for admission in plan.admit} | plan.refuse.keys()
    left = [job for job in plan.snapshot.queued if job.uid not in placed]
    shares = Shares(plan.accounts, plan.snapshot)
    order = [job for job in left if job.uid in plan.reserve]
    for job in Turns((job for job in left if job.uid not in plan.reserve), plan.tiers.of, shares.of):
        order.append(job)
        shares.foresee(job.tenant, plan.accounts.claim(job).resources)
    return order
