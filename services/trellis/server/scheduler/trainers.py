"""The arithmetic of shared trainers' room."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from trellis.server.domain.trainer import Room, TrainerBase
from trellis.server.scheduler.capacity import ROUNDING
from trellis.server.scheduler.snapshot import PresentTrainer, Shared


class Places:
    """What is left of a trainer's room while jobs are assigned to it."""

    def __init__(self, max_jobs: int, present: PresentTrainer | None = None) -> None:
        room = present.room if present else None
        unseen = present.unseen_rows if present else ()
        self._jobs = max_jobs - (present.open_jobs if present else 0)
        if room is not None:
            self._jobs = min(self._jobs, room.jobs - len(unseen))
        self._rows = None if room is None else room.rank_rows - sum(unseen)
        self._line_tokens = None if room is None else room.line_tokens

    @property
    def is_full(self) -> bool:
        """Whether it has as many jobs as it takes."""
        return self._jobs < 1

    def fits(self, work: Shared, leaving: int = 0) -> bool:
        """Whether there is room for a job when so many have left, whose rank rows count as if they stayed; before the
        trainer has said, anything fits but too many."""
        return (
            self._jobs + leaving >= 1
            and (self._rows is None or work.rank_rows <= self._rows + ROUNDING)
            and (self._line_tokens is None or work.line_tokens <= self._line_tokens)
        )

    def take(self, work: Shared) -> None:
        """A job is assigned."""
        self._jobs -= 1
        if self._rows is not None:
            self._rows -= work.rank_rows


def whole_rooms(trainers: Sequence[PresentTrainer]) -> Mapping[TrainerBase, Sequence[Room]]:
    """By base: what its trainers said when they had no job."""
    rooms: dict[TrainerBase, list[Room]] = defaultdict(list)
    for trainer in trainers:
        if trainer.room and trainer.is_idle and trainer.job_count == 0:
            rooms[trainer.base].append(trainer.room)
    return rooms


def refusal(work: Shared, rooms: Mapping[TrainerBase, Sequence[Room]]) -> str | None:
    """Why the job can't run on a trainer of its base even if no other does; None if it may."""
    for room in rooms.get(work.base, ()):
        if work.line_tokens > room.line_tokens:
            return (
                f"Its context_length is {work.line_tokens} tokens, and a trainer of {work.base.base_model} has the "
                f"memory for lines of {room.line_tokens} at the most. Lower context_length, or ask for `distributed`."
            )
        if work.rank_rows > room.rank_rows + ROUNDING:
            return (
                f"Its adapter takes {work.rank_rows:.6g} rank rows, and a trainer of {work.base.base_model} has "
                f"{room.rank_rows:.6g} in all. Lower the rank, adapt fewer linears, or ask for `distributed`."
            )
    return None
