"""What is decided so far, and what that leaves, while one job after the other is looked at."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from trellis.server.domain.trainer import TrainerBase
from trellis.server.scheduler.capacity import Ledger, Resources
from trellis.server.scheduler.snapshot import Alone, PresentTrainer, QueuedJob, Shared, Snapshot
from trellis.server.scheduler.trainers import Places


@dataclass(frozen=True, slots=True)
class Admission:
    """A job that starts, by itself or on a trainer."""

    uid: str
    trainer: str = ""
    """The uid of a present trainer or the key of a new one; empty for by itself."""


@dataclass(frozen=True, slots=True)
class NewTrainer:
    """A trainer to start."""

    key: str
    """By which admissions name it."""
    base: TrainerBase


@dataclass
class _Seat:
    """A trainer that takes jobs, present or new."""

    key: str
    base: TrainerBase
    places: Places
    present: PresentTrainer | None = None
    given: int = field(default=0)

    @property
    def jobs(self) -> int:
        return self.given + (self.present.open_jobs if self.present else 0)


class Plan:
    """Jobs are offered in their order; each is placed, or holds up those that want what it waits for."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.admit: list[Admission] = []
        self.start: list[NewTrainer] = []
        self.drain: list[str] = []
        self.ledger = Ledger(snapshot.capacity, snapshot.tenant_running_limit)
        self._snapshot = snapshot
        self._reserved = False
        """Whether an earlier job waits for capacity: nothing later may take it, so that small ones can't keep a large
        one waiting for ever."""
        self._held_up: set[TrainerBase] = set()
        """Bases whose trainers have no room for an earlier job."""
        self.ledger.hold(snapshot.held)
        for job in snapshot.active:
            self.ledger.take(job.tenant, job.needs)
        for trainer in snapshot.trainers:
            self.ledger.hold(trainer.needs)
        takers = sorted((t for t in snapshot.trainers if t.takes_jobs), key=lambda t: (t.create_time, t.uid))
        self._seats = [_Seat(t.uid, t.base, Places(snapshot.options.max_jobs, t), t) for t in takers]

    def seats(self, base: TrainerBase) -> int:
        """How many trainers of the base take jobs."""
        return sum(seat.base == base for seat in self._seats)

    def can_ever(self, job: QueuedJob) -> bool:
        """Whether there is as much in all as the job needs."""
        if isinstance(job.work, Alone):
            return job.work.needs.fits_into(self.ledger.capacity)
        return self.seats(job.work.base) > 0 or self._snapshot.trainer_needs.fits_into(self.ledger.capacity)

    def offer(self, job: QueuedJob) -> None:
        """Place the job if it can be."""
        if not self.ledger.may_run(job.tenant):
            return
        if isinstance(job.work, Alone):
            self._place_alone(job, job.work.needs)
        elif job.work.base not in self._held_up:
            self._place_shared(job, job.work)

    def _place_alone(self, job: QueuedJob, needs: Resources) -> None:
        if self._reserved or not needs.fits_into(self.ledger.free):
            self._wait_for_capacity(job, needs)
            return
        self.ledger.take(job.tenant, needs)
        self.admit.append(Admission(job.uid))

    def _place_shared(self, job: QueuedJob, work: Shared) -> None:
        seat = next((s for s in self._seats if s.base == work.base and s.places.fits(work)), None) or self._new(work)
        if seat is None:
            self._held_up.add(work.base)
            self._wait_for_room(job, work)
            return
        seat.places.take(work)
        seat.given += 1
        self.ledger.take(job.tenant, Resources())
        self.admit.append(Admission(job.uid, seat.key))

    def _new(self, work: Shared) -> _Seat | None:
        needs = self._snapshot.trainer_needs
        is_one_more = self.seats(work.base) < self._snapshot.options.max_replicas
        if self._reserved or not is_one_more or not needs.fits_into(self.ledger.free):
            return None
        self.ledger.hold(needs)
        new = NewTrainer(f"new-{len(self.start)}", work.base)
        self.start.append(new)
        seat = _Seat(new.key, work.base, Places(self._snapshot.options.max_jobs))
        self._seats.append(seat)
        return seat

    def _wait_for_room(self, job: QueuedJob, work: Shared) -> None:
        if self.seats(work.base) == 0:
            self._wait_for_capacity(job, self._snapshot.trainer_needs)
        elif not self._reserved and self.seats(work.base) < self._snapshot.options.max_replicas:
            # It has a trainer, though a full one: for a second one, idle ones make room, and nobody is kept waiting.
            self._make_room(self._snapshot.trainer_needs, self._idle(work.base))

    def _wait_for_capacity(self, job: QueuedJob, needs: Resources) -> None:
        self.ledger.promise(job.tenant)
        if self._reserved:
            return
        self._reserved = True
        base = job.work.base if isinstance(job.work, Shared) else None
        self._make_room(needs, self._idle(base), self._used_up(job, base))

    def _make_room(self, needs: Resources, idle: Iterable[_Seat], used_up: Iterable[_Seat] = ()) -> None:
        """Tell as many trainers to leave as are needed; none if that would not do."""
        room = self.ledger.free
        for trainer in self._snapshot.trainers:
            if not trainer.takes_jobs:
                room = room.plus(trainer.needs)
        chosen = []
        for seat in (*idle, *used_up):
            if needs.fits_into(room):
                break
            assert seat.present is not None
            room = room.plus(seat.present.needs)
            chosen.append(seat)
        if needs.fits_into(room):
            self.drain += [seat.key for seat in chosen]
            self._seats = [seat for seat in self._seats if seat not in chosen]

    def _idle(self, but: TrainerBase | None) -> Iterator[_Seat]:
        return (s for s in self._seats if s.present and s.jobs == 0 and s.base != but)

    def _used_up(self, job: QueuedJob, but: TrainerBase | None) -> list[_Seat]:
        """Trainers with jobs that had their turn, those with fewest jobs first, if the job has waited for a turn too."""
        turn, now = timedelta(seconds=self._snapshot.options.turn_seconds), self._snapshot.now
        if now - self._snapshot.waits_since(job) < turn:
            return []
        busy = [
            s for s in self._seats if s.present and s.jobs and s.base != but and now - s.present.create_time >= turn
        ]
        return sorted(busy, key=lambda seat: (seat.jobs, seat.key))
