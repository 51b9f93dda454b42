"""When enough will be free for the first job that waits, and who may go before it without delaying it.

EASY backfill (Lifka 1995): only the first job that finds too little free has a reservation, of the earliest time at which
enough is free by the ends that are expected. A later job may start now if it ends by then, or if it takes only what the
first one will not need.

Jobs that are overdue are taken to end now, those first that began first, and no more of what ends is counted than the
first job needs: what later ones get beside it is there even if estimates are wrong, so that it is never passed for ever.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from trellis.server.scheduler.capacity import NOTHING, Resources
from trellis.server.scheduler.snapshot import ActiveJob, PresentTrainer, QueuedJob, Snapshot

_FIRST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class End:
    """When a job or a trainer is expected to give back what it holds."""

    time: datetime
    uid: str
    frees: Resources
    since: datetime | None = None
    """Since when it holds it; None for before all others."""


@dataclass(slots=True)
class Head:
    """The first job that waits for capacity, and its reservation."""

    job: QueuedJob
    needs: Resources
    start: datetime | None = None
    """When enough is free for it; None where that can't be said."""
    spare: Resources = NOTHING
    """What is free then beside it."""

    def expect(self, now: datetime, room: Resources, ends: Iterable[End]) -> None:
        """Find the time, from what is free now and the ends to come."""
        self.start, self.spare, time = None, NOTHING, now
        for end in sorted(ends, key=lambda end: _in_time(end, now)):
            if self.needs.fits_into(room):
                break
            room, time = room.plus(end.frees), max(time, end.time)
        if self.needs.fits_into(room):
            self.start, self.spare = time, room.minus(self.needs)

    def lets(self, needs: Resources, end: datetime | None) -> bool:
        """Whether a later job may take so much until then; None for an end that nobody knows."""
        return self._is_before(end) or (self.start is not None and needs.fits_into(self.spare))

    def passed(self, needs: Resources, end: datetime | None) -> None:
        """A later job takes so much."""
        if not self._is_before(end):
            self.spare = self.spare.minus(needs)

    def _is_before(self, end: datetime | None) -> bool:
        return self.start is not None and end is not None and end <= self.start


def end_of(job: QueuedJob, snapshot: Snapshot) -> datetime | None:
    """When a job ends that starts now, if anything is known on it."""
    return None if job.seconds is None else snapshot.now + timedelta(seconds=job.seconds)


def likely_end_of(job: QueuedJob, snapshot: Snapshot) -> datetime:
    """When a job is taken to end that starts now."""
    return end_of(job, snapshot) or snapshot.now + _default(snapshot)


def present_ends(snapshot: Snapshot, gone: Container[str] = ()) -> list[End]:
    """The ends of all that holds capacity; those that are gone leave now."""
    ends, of_trainers = [], defaultdict[str, list[datetime]](list)
    for job in snapshot.active:
        time = _expected_end(job, snapshot, job.leaving or job.uid in gone)
        if job.trainer_uid:
            of_trainers[job.trainer_uid].append(time)
        elif job.needs != NOTHING:
            ends.append(End(time, job.uid, job.needs, None if job.leaving or job.uid in gone else job.start_time))
    ends += [End(_leaves(t, of_trainers, snapshot), t.uid, t.needs, t.create_time) for t in snapshot.trainers]
    if snapshot.held != NOTHING:
        ends.append(End(snapshot.now + _default(snapshot), "", snapshot.held))
    return ends


def _in_time(end: End, now: datetime) -> tuple[datetime, datetime, str]:
    """The order in which ends are counted on. Of those that are overdue, whatever has begun since comes last."""
    return max(end.time, now), end.since or _FIRST, end.uid


def _expected_end(job: ActiveJob, snapshot: Snapshot, leaves: bool) -> datetime:
    if leaves:
        return min(snapshot.now, job.expected_end or snapshot.now)
    return job.expected_end or (job.start_time or snapshot.now) + _default(snapshot)


def _leaves(trainer: PresentTrainer, ends: Mapping[str, list[datetime]], snapshot: Snapshot) -> datetime:
    """When it is likely to be over: after its turn, with the last of its jobs."""
    last = max(ends.get(trainer.uid, ()), default=snapshot.now)
    if not trainer.takes_jobs or trainer.is_idle:
        return last
    return max(last, trainer.create_time + timedelta(seconds=snapshot.options.turn_seconds))


def _default(snapshot: Snapshot) -> timedelta:
    return timedelta(seconds=snapshot.policy.default_job_seconds)
