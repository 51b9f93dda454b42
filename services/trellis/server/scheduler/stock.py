"""What jobs hold, and when they give it back: kept from one moment to the next while a queue is filled in."""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from trellis.server.domain.trainer import TrainerBase
from trellis.server.scheduler.accounts import Accounts, Claim
from trellis.server.scheduler.backfill import End, present_ends
from trellis.server.scheduler.capacity import NOTHING, Resources
from trellis.server.scheduler.fairness import foreseen_share
from trellis.server.scheduler.past_use import PastUse
from trellis.server.scheduler.snapshot import Alone, QueuedJob, Snapshot


@dataclass(eq=False, slots=True)
class _Trainer:
    base: TrainerBase
    since: float
    jobs: int = 0
    is_open: bool = True


class Stock:
    """Capacity, seats and accounts; time in seconds since the snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.now = 0.0
        self.free = snapshot.capacity.minus(snapshot.held)
        self.accounts = Accounts(snapshot)
        self._snapshot = snapshot
        self._trainers: list[_Trainer] = []
        self._ends: list[tuple[float, int, str, Claim, Resources | _Trainer]] = []
        """Of what runs: when, an order, whose, and the capacity, or the seat, that it gives back."""
        self._count = itertools.count()
        half_life = max(1.0, snapshot.policy.half_life_seconds)
        self._used = PastUse(half_life, {tenant: share.past_use for tenant, share in snapshot.tenants.items()})
        self._hold_active()

    @property
    def time(self) -> datetime:
        """Now."""
        return self._snapshot.now + timedelta(seconds=self.now)

    def needs(self, job: QueuedJob) -> Resources:
        """What must be free for a job: nothing where a trainer of its base has a seat."""
        if isinstance(job.work, Alone):
            return job.work.needs
        return NOTHING if self._open_of(job.work.base) else self._snapshot.trainer_needs

    def seconds(self, job: QueuedJob) -> float:
        """How long a job is expected to run."""
        return max(1.0, self._snapshot.policy.default_job_seconds if job.seconds is None else job.seconds)

    def start(self, job: QueuedJob, claim: Claim) -> None:
        """The job runs from now on."""
        self.accounts.of(job.tenant).take(claim)
        what = job.work.needs if isinstance(job.work, Alone) else self._seat(job.work.base)
        self._hold(job.tenant, claim, what, self.seconds(job))

    def drain(self, needs: Resources, but: TrainerBase | None) -> None:
        """Trainers of other bases that had their turn take no more jobs, as many as make room for so much, if they can."""
        sight, chosen = self.free, list[_Trainer]()
        for trainer in self._trainers:
            sight = sight if trainer.is_open else sight.plus(self._snapshot.trainer_needs)
        turn = self._snapshot.options.turn_seconds
        for trainer in sorted(self._trainers, key=lambda one: one.jobs):
            if needs.fits_into(sight):
                break
            if trainer.is_open and trainer.base != but and self.now - trainer.since >= turn:
                chosen.append(trainer)
                sight = sight.plus(self._snapshot.trainer_needs)
        if needs.fits_into(sight):
            for trainer in chosen:
                trainer.is_open = False

    def next_end(self) -> float | None:
        """When something is given back next."""
        return self._ends[0][0] if self._ends else None

    def end_of_part(self, part: float) -> float:
        """When this part of what runs has given back what it has, one job at the least; now if nothing runs."""
        count = max(1, int(part * len(self._ends)))
        return max((end[0] for end in heapq.nsmallest(count, self._ends)), default=self.now)

    def go_to(self, at: float) -> None:
        """Move on, and take back what was to be given back by then."""
        self.now = at
        while self._ends and self._ends[0][0] <= at:
            _, _, tenant, claim, what = heapq.heappop(self._ends)
            account = self.accounts.of(tenant)
            account.running -= 1
            account.line.charge(-claim.accelerators)
            account.held = account.held.minus(claim.resources)
            self._used.hold(tenant, -claim.resources.share_of(self._snapshot.capacity), at)
            self.free = self.free.plus(what if isinstance(what, Resources) else self._left(what))

    def share(self, tenant: str, foreseen: Resources) -> float:
        """The tenant's share over its weight, with what it has had and with what waits in its name."""
        account = self.accounts.of(tenant)
        held = account.held.plus(foreseen).share_of(self._snapshot.capacity)
        past = self._used.of(tenant, self.now)
        return foreseen_share(past, held, self._snapshot.policy) / max(account.share.weight, 1e-9)

    def ends(self) -> Iterator[End]:
        """All that is expected to be given back; of trainers by the seat."""
        for at, number, _, claim, what in self._ends:
            frees = what if isinstance(what, Resources) else claim.resources
            yield End(self._snapshot.now + timedelta(seconds=at), f"{number:09}", frees)

    def _hold_active(self) -> None:
        trainers = {}
        for one in self._snapshot.trainers:
            since = (one.create_time - self._snapshot.now).total_seconds()
            trainers[one.uid] = _Trainer(one.base, since, is_open=one.takes_jobs)
            if one.open_jobs:
                self._open(trainers[one.uid])
        ends = {end.uid: end.time for end in present_ends(self._snapshot)}
        default = self._snapshot.now + timedelta(seconds=self._snapshot.policy.default_job_seconds)
        for job in self._snapshot.active:
            end = job.expected_end or ends.get(job.uid) or default
            left = max(1.0, (end - self._snapshot.now).total_seconds())
            what = trainers.get(job.trainer_uid, job.needs)
            if isinstance(what, _Trainer):
                what.jobs += 1
            self._hold(job.tenant, self.accounts.of_active(job), what, left)

    def _hold(self, tenant: str, claim: Claim, what: Resources | _Trainer, seconds: float) -> None:
        if isinstance(what, Resources):
            self.free = self.free.minus(what)
        self._used.hold(tenant, claim.resources.share_of(self._snapshot.capacity), self.now)
        heapq.heappush(self._ends, (self.now + seconds, next(self._count), tenant, claim, what))

    def _open_of(self, base: TrainerBase) -> _Trainer | None:
        most = self._snapshot.options.max_jobs
        return next((one for one in self._trainers if one.base == base and one.is_open and one.jobs < most), None)

    def _seat(self, base: TrainerBase) -> _Trainer:
        """A place for a job, if need be on a new trainer."""
        trainer = self._open_of(base) or self._open(_Trainer(base, self.now))
        trainer.jobs += 1
        return trainer

    def _open(self, trainer: _Trainer) -> _Trainer:
        self._trainers.append(trainer)
        self.free = self.free.minus(self._snapshot.trainer_needs)
        return trainer

    def _left(self, trainer: _Trainer) -> Resources:
        """What comes free when a job leaves a trainer: all that it holds, if it was the last there."""
        trainer.jobs -= 1
        if trainer.jobs:
            return NOTHING
        if trainer in self._trainers:
            self._trainers.remove(trainer)
        return self._snapshot.trainer_needs
