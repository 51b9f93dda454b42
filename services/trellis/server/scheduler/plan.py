"""What is decided so far, and what that leaves, while one job after the other is looked at."""

from trellis.server.domain.trainer import TrainerBase
from trellis.server.domain.tuning_job import QueueCode
from trellis.server.scheduler.accounts import Accounts
from trellis.server.scheduler.backfill import End, Head, end_of, present_ends
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.decisions import Admission as Admission
from trellis.server.scheduler.decisions import Preemption
from trellis.server.scheduler.fairness import Shares
from trellis.server.scheduler.lines import Lines
from trellis.server.scheduler.seats import NewTrainer as NewTrainer
from trellis.server.scheduler.seats import Seat, Seats
from trellis.server.scheduler.snapshot import Alone, QueuedJob, Shared, Snapshot


class Plan:
    """Jobs are offered in their order; each is placed, or keeps what it waits for from those behind it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.capacity, self.trainer_needs = snapshot.capacity, snapshot.trainer_needs
        self.accounts = Accounts(snapshot)
        self.shares = Shares(self.accounts, snapshot.capacity)
        self.seats = Seats(snapshot)
        self.lines = Lines()
        self.admit: list[Admission] = []
        self.refuse: dict[str, str] = {}
        self.preempt: list[Preemption] = []
        self.reserve: dict[str, Resources] = {}
        """What is kept by name."""
        self.head: Head | None = None
        """The first job that waits for capacity."""
        self.free = self._present_free()
        self._held_up: set[TrainerBase] = set()
        """Bases whose trainers have no room for an earlier job."""
        self._started: list[End] = []

    @property
    def room(self) -> Resources:
        """What jobs without a reservation may take of what is free."""
        return self.free

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

    def offer(self, job: QueuedJob) -> None:
        """Place the job if it can be."""
        account, claim = self.accounts.of(job.tenant), self.accounts.claim(job)
        obstacle = next(account.obstacles(job.uid, claim), None)
        if obstacle is None and self._place(job):
            account.take(claim)
            self.shares.changed(job.tenant)
        elif obstacle is not QueueCode.BUDGET:
            account.promise(job.uid, claim, obstacle)
            if obstacle is None:
                self._wait(job)
                self.shares.foresee(job.tenant, claim.resources)

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
        if end is not None:
            self._started.append(End(end, job.uid, needs))
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
            self.seats.make_room(self.trainer_needs, self._in_sight(), self.seats.idle(base))

    def _wait_for_capacity(self, job: QueuedJob, base: TrainerBase | None) -> None:
        self.lines.join(job, None)
        if self.head is not None:
            return
        self.head = Head(job, self.needs(job))
        leave = [*self.seats.idle(base), *self.seats.used_up(job, base)]
        self.seats.make_room(self.head.needs, self._in_sight(), leave)
        self._expect()

    def _expect(self) -> None:
        """Reckon when the head can start, as far as is known now."""
        if self.head is not None:
            self.head.expect(self.snapshot.now, self.free, [*present_ends(self.snapshot), *self._started])

    def _in_sight(self) -> Resources:
        """What will be free when those have left that were asked to."""
        sight = self.free
        for trainer in self.snapshot.trainers:
            if not trainer.takes_jobs:
                sight = sight.plus(trainer.needs)
        return sight

    def _present_free(self) -> Resources:
        holders = [*(job.needs for job in self.snapshot.active), *(t.needs for t in self.snapshot.trainers)]
        used = Resources(sum(one.cpus for one in holders), sum(one.gpus for one in holders))
        return self.capacity.minus(self.snapshot.held).minus(used)
