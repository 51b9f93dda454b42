"""What is decided so far, and what that leaves, while one job after the other is looked at."""

from collections.abc import Iterable

from trellis.server.domain.trainer import TrainerBase
from trellis.server.domain.tuning_job import QueueCode
from trellis.server.scheduler.accounts import Account, Accounts, Claim
from trellis.server.scheduler.backfill import End, Head, end_of, likely_end_of, present_ends
from trellis.server.scheduler.candidates import coming, outgoing
from trellis.server.scheduler.capacity import NOTHING, Resources
from trellis.server.scheduler.decisions import Admission as Admission, Preemption
from trellis.server.scheduler.fairness import Shares
from trellis.server.scheduler.lines import Lines
from trellis.server.scheduler.preemption import Victims, preemptions
from trellis.server.scheduler.prospect import Prospect, Wish
from trellis.server.scheduler.seats import NewTrainer as NewTrainer, Seat, Seats
from trellis.server.scheduler.snapshot import Alone, QueuedJob, Shared, Snapshot
from trellis.server.scheduler.turns import Tiers


class Plan:
    """Jobs are offered in their order; each is placed, or keeps what it waits for from those behind it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.capacity, self.trainer_needs = snapshot.capacity, snapshot.trainer_needs
        self.accounts = Accounts(snapshot)
        self.shares = Shares(self.accounts, snapshot)
        self.seats = Seats(snapshot)
        self.lines = Lines()
        self.tiers = Tiers((), snapshot, self.is_hindered)
        self.admit: list[Admission] = []
        self.refuse: dict[str, str] = {}
        self.preempt: list[Preemption] = []
        self.reserve: dict[str, Resources] = {}
        """What is kept by name."""
        self.head: Head | None = None
        """The first job that waits for capacity."""
        self.free = self._present_free()
        self._kept = NOTHING
        """The sum of what is kept by name, and not placed yet."""
        self._coming = coming(snapshot)
        """What comes back soon, as those were asked to leave that have it."""
        self._outgoing = outgoing(snapshot)
        """What comes back, some of it when jobs have ended that are not asked to leave."""
        self._victims = Victims(snapshot, self.accounts)
        self._held_up: set[TrainerBase] = set()
        """Bases whose trainers have no room for an earlier job."""
        self._started: list[End] = []

    @property
    def room(self) -> Resources:
        """What others may take of what is free: not what is kept by name and does not come from those that leave."""
        return self.free.minus(self._kept.beyond(self._coming))

    def may_ever_run(self, job: QueuedJob) -> bool:
        """Whether the platform has as much in all, and its tenant may have as much."""
        return self.fits_platform(job) and self.accounts.of(job.tenant).ever_allows(self.accounts.claim(job))

    def fits_platform(self, job: QueuedJob) -> bool:
        """Whether there is as much in all as the job needs."""
        if isinstance(job.work, Shared) and self.seats.count(job.work.base) > 0:
            return True
        return self.needs(job).fits_into(self.capacity)

    def needs(self, job: QueuedJob) -> Resources:
        """What must be free for it if no trainer takes it."""
        return job.work.needs if isinstance(job.work, Alone) else self.trainer_needs

    def is_hindered(self, job: QueuedJob) -> bool:
        """Whether its tenant's own limits, or its cohort's, keep the job from starting, whatever is free."""
        return any(self.accounts.of(job.tenant).obstacles(job.uid, self.accounts.claim(job)))

    def offer(self, job: QueuedJob) -> None:
        """Place the job if it can be."""
        account, claim = self.accounts.of(job.tenant), self.accounts.claim(job)
        obstacle = next(account.obstacles(job.uid, claim), None)
        if obstacle is None and self._place(job):
            account.take(claim)
            self.shares.changed(job.tenant)
        elif obstacle is not QueueCode.BUDGET and not self._displace(job, account, claim, obstacle):
            account.promise(job.uid, claim, obstacle)
            if obstacle is None:
                self._wait(job)
                self.shares.foresee(job.tenant, claim.resources)

    def expect_reserved(self, jobs: Iterable[QueuedJob]) -> None:
        """Keep what is reserved until each of these is offered."""
        for job in jobs:
            self._kept = self._kept.plus(self.snapshot.reservations[job.uid])

    def offer_reserved(self, job: QueuedJob) -> bool:
        """Place a job that has a reservation, or go on to keep it; whether that is of use still."""
        self._kept = self._kept.minus(self.snapshot.reservations[job.uid])
        account, claim = self.accounts.of(job.tenant), self.accounts.claim(job)
        if next(account.obstacles(job.uid, claim), None) is None and self._place(job):
            account.take(claim)
            self.shares.changed(job.tenant)
            return True
        wish = Wish(job, account, claim, NOTHING if self._place_comes(job) else self.needs(job))
        if self._is_held_up(job) or not Prospect(wish, self._in_sight).is_enough():
            return False
        self._keep(wish)
        return True

    def _displace(self, job: QueuedJob, account: Account, claim: Claim, obstacle: QueueCode | None) -> bool:
        """Have others give way to it, if it has a right to that; whether they do."""
        by_reclaim = account.line.cohort is not None and account.line.is_within(claim.accelerators)
        by_reclaim = by_reclaim and obstacle in {None, QueueCode.COHORT}
        if not (by_reclaim or job.priority > 0) or self._is_held_up(job):
            return False
        if (wish := self._wish(job, account, claim)) is None or (obstacle is None and self._idle_ones_do(wish)):
            return False
        soon = self.free.plus(self._coming).minus(self._kept)
        victims = self._victims.give_way_to(wish, soon, self.seats.used)
        for one in victims:
            self._coming, self._outgoing = self._coming.plus(one.frees), self._outgoing.plus(one.frees)
            if one.trainer:
                self.seats.leave(one.trainer)
        if victims:
            self.preempt += preemptions(wish, victims)
            self._keep(wish)
            self._expect()
        return bool(victims)

    def _wish(self, job: QueuedJob, account: Account, claim: Claim) -> Wish | None:
        """What the job lacks: a place on a trainer where others are in the way, or capacity; None if neither would do."""
        if isinstance(job.work, Shared):
            seats = self.seats.of(job.work.base)
            if places := frozenset(seat.key for seat in seats if seat.places.fits(job.work, leaving=1)):
                return Wish(job, account, claim, NOTHING, places)
            if not self.seats.may_open(job.work.base):
                return None
        return Wish(job, account, claim, self.needs(job))

    def _place_comes(self, job: QueuedJob) -> bool:
        """Whether a job leaves a trainer on which there is a place for this one then."""
        if isinstance(job.work, Alone):
            return False
        leaving = {active.trainer_uid for active in self.snapshot.active if active.leaving}
        seats = self.seats.of(job.work.base)
        return any(seat.key in leaving and seat.places.fits(job.work, leaving=1) for seat in seats)

    def _idle_ones_do(self, wish: Wish) -> bool:
        """Whether trainers without a job make room for it, if they are told to."""
        if wish.trainers or self.head is not None:
            return False
        room = self._in_sight
        if isinstance(wish.job.work, Shared):
            idle = self.seats.idle(wish.job.work.base)
        else:
            idle = self.seats.idle(None)
        for seat in idle:
            room = room.plus(seat.needs)
        return not wish.needs.fits_into(self._in_sight) and wish.needs.fits_into(room)

    def _keep(self, wish: Wish) -> None:
        """Keep by name what the job needs until it starts."""
        job = wish.job
        wish.account.take(wish.claim)
        self.shares.changed(job.tenant)
        self.lines.join(job, None)
        self.reserve[job.uid] = wish.needs
        self._kept = self._kept.plus(wish.needs)
        if isinstance(job.work, Shared):
            self._held_up.add(job.work.base)
            self.seats.keep(job.work.base)
        else:
            self._started.append(End(likely_end_of(job, self.snapshot), job.uid, wish.needs))

    def _is_held_up(self, job: QueuedJob) -> bool:
        return isinstance(job.work, Shared) and job.work.base in self._held_up

    def lets(self, job: QueuedJob) -> bool:
        """Whether the job would not delay the first one that waits for capacity."""
        if self.head is None:
            return True
        end = end_of(job, self.snapshot) if isinstance(job.work, Alone) else None
        return self.head.lets(self.needs(job), end)

    def _place(self, job: QueuedJob) -> bool:
        if isinstance(job.work, Alone):
            if not self._may_take(job):
                return False
            self._take(job)
            self.admit.append(Admission(job.uid))
            return True
        if job.work.base in self._held_up:
            return False
        seat = self.seats.free(job.work) or self._opened(job, job.work)
        if seat is None:
            return False
        self.seats.give(seat, job.work)
        self.admit.append(Admission(job.uid, seat.key))
        return True

    def _opened(self, job: QueuedJob, work: Shared) -> Seat | None:
        if not self.seats.may_open(work.base) or not self._may_take(job):
            return None
        self._take(job)
        return self.seats.open(work.base)

    def _may_take(self, job: QueuedJob) -> bool:
        return self.needs(job).fits_into(self.room) and self.lets(job)

    def _take(self, job: QueuedJob) -> None:
        needs, is_alone = self.needs(job), isinstance(job.work, Alone)
        end = end_of(job, self.snapshot) if is_alone else None
        if self.head is not None:
            self.head.passed(needs, end)
        if is_alone:
            self._started.append(End(end or likely_end_of(job, self.snapshot), job.uid, needs))
        self.free = self.free.minus(needs)

    def _wait(self, job: QueuedJob) -> None:
        if isinstance(job.work, Alone):
            self._wait_for_capacity(job, None)
            return
        base, has_trainer = job.work.base, self.seats.count(job.work.base) > 0
        is_first = base not in self._held_up
        self._held_up.add(base)
        if not has_trainer:
            self._wait_for_capacity(job, base)
            return
        self.lines.join(job, base)
        if is_first and self.head is None and self.seats.may_open(base):
            # It has a trainer, though a full one: for a second one, idle ones make room, and nobody is kept waiting.
            self.seats.make_room(self.trainer_needs, self._in_sight, self.seats.idle(base))

    def _wait_for_capacity(self, job: QueuedJob, base: TrainerBase | None) -> None:
        self.lines.join(job, None)
        if self.head is not None:
            return
        self.head = Head(job, self.needs(job))
        leave = [*self.seats.idle(base), *self.seats.used_up(job, base)]
        self.seats.make_room(self.head.needs, self._in_sight, leave)
        self._expect()

    def _expect(self) -> None:
        """Reckon when the head can start, as far as is known now."""
        if self.head is not None:
            ends = [*present_ends(self.snapshot, self._victims.gone), *self._started]
            self.head.expect(self.snapshot.now, self.free.minus(self._kept), ends)

    @property
    def _in_sight(self) -> Resources:
        """What will be free, and not kept by name, when those have left that were asked to."""
        return self.free.plus(self._outgoing).minus(self._kept)

    def _present_free(self) -> Resources:
        holders = [*(job.needs for job in self.snapshot.active), *(t.needs for t in self.snapshot.trainers)]
        used = Resources(sum(one.cpus for one in holders), sum(one.gpus for one in holders))
        return self.capacity.minus(self.snapshot.held).minus(used)
