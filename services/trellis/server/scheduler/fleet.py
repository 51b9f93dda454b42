"""Shared trainers as time goes by: started and told to leave by decisions, loaded after a while, gone when idle."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from trellis.server.domain.trainer import TrainerBase
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.seats import NewTrainer
from trellis.server.scheduler.snapshot import PresentTrainer, Shared

_UNKNOWN_ROWS = 16
"""What a job is taken to have in a trainer's bank that was there before we looked."""


@dataclass(slots=True)
class _Member:
    present: PresentTrainer
    ready: float
    idle_since: float
    rows: dict[str, float] = field(default_factory=dict)
    """By uid: of each job that was given to it since we look, or None-like for those before."""


class Fleet:
    """The trainers of a timeline; times are in seconds since `origin`."""

    def __init__(self, origin: datetime, trainers: Iterable[PresentTrainer], idle_seconds: float) -> None:
        self._origin = origin
        self._idle = idle_seconds
        self._made = 0
        self._members = {one.uid: _Member(one, 0.0, 0.0) for one in trainers}
        self.last_ends: dict[TrainerBase, datetime] = {}

    def __len__(self) -> int:
        return len(self._members)

    @property
    def present(self) -> tuple[PresentTrainer, ...]:
        """As a snapshot has them."""
        return tuple(member.present for member in self._members.values())

    @property
    def held(self) -> Resources:
        """What all of them reserve."""
        found = Resources()
        for member in self._members.values():
            found = found.plus(member.present.needs)
        return found

    def start(self, new: Iterable[NewTrainer], needs: Resources, at: float, ready: float) -> Mapping[str, str]:
        """Begin trainers; their uids, by the decision's keys."""
        made = {}
        for one in new:
            self._made += 1
            made[one.key] = uid = f"simulated-{self._made}"
            self._members[uid] = _Member(PresentTrainer(uid, one.base, needs, self._time(at)), ready, at)
        return made

    def drain(self, uids: Iterable[str]) -> None:
        """Tell them to take no more jobs, and to leave."""
        for uid in uids:
            if uid in self._members:
                member = self._members[uid]
                member.present = replace(member.present, takes_jobs=False)

    def take(self, trainer: str, uid: str, work: Shared) -> float:
        """Give a job to a trainer; when it is ready for it."""
        member = self._members[trainer]
        unseen = (*member.present.unseen_rows, work.rank_rows) if member.present.room else ()
        member.rows[uid] = work.rank_rows
        member.present = replace(member.present, open_jobs=member.present.open_jobs + 1, unseen_rows=unseen)
        return member.ready

    def leave(self, trainer: str, uid: str, at: float) -> None:
        """A job's place is free again."""
        member = self._members.get(trainer)
        if member is None:
            return
        present, rows = member.present, member.rows.pop(uid, None)
        unseen, room = list(present.unseen_rows), present.room
        if rows in unseen:
            unseen.remove(rows)
        elif room is not None:
            room = replace(room, jobs=room.jobs + 1, rank_rows=room.rank_rows + (rows or _UNKNOWN_ROWS))
        member.present = replace(present, open_jobs=present.open_jobs - 1, unseen_rows=tuple(unseen), room=room)
        member.idle_since = at

    def next_end(self) -> float | None:
        """When the next trainer leaves that has no job, if none gets one."""
        return min((self._end_of(member) for member in self._members.values() if member.present.is_idle), default=None)

    def end_idle(self, at: float) -> bool:
        """Those leave whose time has come; whether any does."""
        gone = [uid for uid, member in self._members.items() if member.present.is_idle and self._end_of(member) <= at]
        for uid in gone:
            self.last_ends[self._members.pop(uid).present.base] = self._time(at)
        return bool(gone)

    def _end_of(self, member: _Member) -> float:
        return member.idle_since + (self._idle if member.present.takes_jobs else 0.0)

    def _time(self, at: float) -> datetime:
        return self._origin + timedelta(seconds=at)
