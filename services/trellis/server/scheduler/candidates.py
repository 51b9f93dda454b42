"""Running jobs that could be asked to give way, and what they would lose."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from trellis.server.scheduler.accounts import Account, Accounts
from trellis.server.scheduler.capacity import NOTHING, Resources
from trellis.server.scheduler.snapshot import ActiveJob, PresentTrainer, Snapshot


@dataclass(frozen=True, slots=True)
class Part:
    """One job, and what its tenant gets back."""

    job: ActiveJob
    account: Account
    accelerators: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that could give way, or all those on a trainer, which leaves with them."""

    parts: tuple[Part, ...]
    frees: Resources
    loss: float
    """What is done again: seconds since the last checkpoint, times the share of the platform."""
    place: str = ""
    """The trainer on which a place is free then."""
    trainer: str = ""
    """The trainer that leaves, if it does not already."""


def candidates(snapshot: Snapshot, accounts: Accounts) -> Sequence[Candidate]:
    """All that may be asked, those that lose least first."""
    able = [job for job in snapshot.active if _may_leave(job, snapshot)]
    found = [_one(job, snapshot, accounts) for job in able]
    found += _whole_trainers(able, snapshot, accounts)
    return sorted(found, key=lambda one: (one.loss, one.parts[0].job.uid, len(one.parts)))


def _may_leave(job: ActiveJob, snapshot: Snapshot) -> bool:
    policy = snapshot.policy
    if not job.can_be_preempted or job.leaving or job.preemption_count >= policy.max_preemptions:
        return False
    return job.start_time is not None and snapshot.now - job.start_time >= timedelta(seconds=policy.least_run_seconds)


def _one(job: ActiveJob, snapshot: Snapshot, accounts: Accounts) -> Candidate:
    return Candidate((_part(job, accounts),), job.needs, _loss(job, snapshot, accounts), place=job.trainer_uid)


def _whole_trainers(able: Iterable[ActiveJob], snapshot: Snapshot, accounts: Accounts) -> Iterator[Candidate]:
    on: dict[str, list[ActiveJob]] = defaultdict(list)
    for job in able:
        on[job.trainer_uid].append(job)
    for trainer in snapshot.trainers:
        jobs = on.get(trainer.uid, ())
        if jobs and len(jobs) == trainer.open_jobs:
            yield _whole(trainer, jobs, snapshot, accounts)


def _whole(trainer: PresentTrainer, jobs: Sequence[ActiveJob], snapshot: Snapshot, accounts: Accounts) -> Candidate:
    loss = sum(_loss(job, snapshot, accounts) for job in jobs)
    return Candidate(tuple(_part(job, accounts) for job in jobs), trainer.needs, loss, trainer=trainer.uid)


def _part(job: ActiveJob, accounts: Accounts) -> Part:
    return Part(job, accounts.of(job.tenant), accounts.of_active(job).accelerators)


def _loss(job: ActiveJob, snapshot: Snapshot, accounts: Accounts) -> float:
    since = job.saved_time or job.start_time or snapshot.now
    seconds = max(0.0, (snapshot.now - since).total_seconds())
    return seconds * accounts.of_active(job).resources.share_of(snapshot.capacity)


def coming(snapshot: Snapshot) -> Resources:
    """What comes back soon: of jobs that were asked to leave, and of trainers that have no others."""
    leaving: dict[str, int] = defaultdict(int)
    found = NOTHING
    for job in snapshot.active:
        if job.leaving:
            leaving[job.trainer_uid] += 1
            found = found.plus(job.needs)
    for trainer in snapshot.trainers:
        if not trainer.takes_jobs and leaving.get(trainer.uid, 0) == trainer.open_jobs:
            found = found.plus(trainer.needs)
    return found


def outgoing(snapshot: Snapshot) -> Resources:
    """What comes back of jobs that were asked to leave, and of trainers that take no more."""
    found = NOTHING
    for job in snapshot.active:
        if job.leaving:
            found = found.plus(job.needs)
    for trainer in snapshot.trainers:
        if not trainer.takes_jobs:
            found = found.plus(trainer.needs)
    return found
