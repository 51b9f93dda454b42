"""Trainers that take jobs, present and new, and which of them leave for others."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from trellis.server.domain.trainer import TrainerBase
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.snapshot import PresentTrainer, QueuedJob, Shared, Snapshot
from trellis.server.scheduler.trainers import Places


@dataclass(frozen=True, slots=True)
class NewTrainer:
    """A trainer to start."""

    key: str
    """By which admissions name it."""
    base: TrainerBase


@dataclass(eq=False, slots=True)
class Seat:
    """A trainer that takes jobs."""

    key: str
    base: TrainerBase
    places: Places
    present: PresentTrainer | None = None
    given: int = field(default=0)

    @property
    def needs(self) -> Resources:
        """What a present one gives back when it leaves."""
        assert self.present is not None
        return self.present.needs

    @property
    def jobs(self) -> int:
        """How many it has, with those that are given to it now."""
        return self.given + (self.present.open_jobs if self.present else 0)


class Seats:
    """All of them, by base."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.start: list[NewTrainer] = []
        self.drain: list[str] = []
        self._snapshot = snapshot
        self._of: dict[TrainerBase, list[Seat]] = defaultdict(list)
        self._open: dict[TrainerBase, list[Seat]] = defaultdict(list)
        """Those that may have room."""
        self._idle: dict[str, Seat] = {}
        self.used: set[str] = set()
        """The keys of trainers that were given a job, or where a place is kept for one."""
        self._stay: set[TrainerBase] = set()
        for trainer in sorted(snapshot.trainers, key=lambda t: (t.create_time, t.uid)):
            if trainer.takes_jobs:
                self._add(Seat(trainer.uid, trainer.base, Places(snapshot.options.max_jobs, trainer), trainer))

    def count(self, base: TrainerBase) -> int:
        """How many trainers of the base take jobs."""
        return len(self._of.get(base, ()))

    def of(self, base: TrainerBase) -> Sequence[Seat]:
        """The trainers of the base that take jobs, the oldest first."""
        return self._of.get(base, ())

    def free(self, work: Shared) -> Seat | None:
        """The oldest trainer that has room for a job."""
        return next((seat for seat in self._open.get(work.base, ()) if seat.places.fits(work)), None)

    def may_open(self, base: TrainerBase) -> bool:
        """Whether one more trainer of the base may be started."""
        return self.count(base) < self._snapshot.options.max_replicas

    def open(self, base: TrainerBase) -> Seat:
        """Start one more trainer."""
        new = NewTrainer(f"new-{len(self.start)}", base)
        self.start.append(new)
        seat = Seat(new.key, base, Places(self._snapshot.options.max_jobs))
        self._add(seat)
        return seat

    def give(self, seat: Seat, work: Shared) -> None:
        """A job goes there."""
        seat.places.take(work)
        seat.given += 1
        self.used.add(seat.key)
        self._idle.pop(seat.key, None)
        if seat.places.is_full:
            self._open[seat.base].remove(seat)

    def keep(self, base: TrainerBase) -> None:
        """A place on a trainer of the base is kept for a job: none of them leaves."""
        self._stay.add(base)
        self.used.update(seat.key for seat in self.of(base))

    def idle(self, but: TrainerBase | None) -> Iterator[Seat]:
        """Trainers without a job, of other bases."""
        return (seat for seat in self._idle.values() if seat.base != but and seat.base not in self._stay)

    def used_up(self, job: QueuedJob, but: TrainerBase | None) -> list[Seat]:
        """Trainers with jobs that had their turn, those with fewest jobs first, if the job has waited for a turn too."""
        turn, now = timedelta(seconds=self._snapshot.options.turn_seconds), self._snapshot.now
        if now - self._snapshot.waits_since(job) < turn:
            return []
        busy = [
            seat
            for base, seats in self._of.items()
            for seat in seats
            if seat.present and seat.jobs and now - seat.present.create_time >= turn
            if base != but and base not in self._stay
        ]
        return sorted(busy, key=lambda seat: (seat.jobs, seat.key))

    def leave(self, key: str) -> None:
        """Tell a present trainer to leave, if it was not told yet."""
        for seat in [seat for seats in self._of.values() for seat in seats if seat.key == key]:
            self._leave(seat)

    def make_room(self, needs: Resources, room: Resources, leave: Iterable[Seat]) -> None:
        """Tell as many of the trainers to leave as are needed; none if that would not do."""
        chosen = []
        for seat in leave:
            if needs.fits_into(room):
                break
            room = room.plus(seat.needs)
            chosen.append(seat)
        if needs.fits_into(room):
            for seat in chosen:
                self._leave(seat)

    def _add(self, seat: Seat) -> None:
        self._of[seat.base].append(seat)
        if not seat.places.is_full:
            self._open[seat.base].append(seat)
        if seat.present and seat.jobs == 0:
            self._idle[seat.key] = seat

    def _leave(self, seat: Seat) -> None:
        self.drain.append(seat.key)
        self._idle.pop(seat.key, None)
        self._of[seat.base].remove(seat)
        if seat in self._open[seat.base]:
            self._open[seat.base].remove(seat)
