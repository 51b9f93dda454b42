"""The little of a row by which those who wait for it see whether there is news for them."""

from dataclasses import dataclass

from trellis.server.domain.trainer import TrainerState
from trellis.server.domain.tuning_job import ENDED, JobState


@dataclass(frozen=True, slots=True)
class JobMark:
    """How far a job has come."""

    state: JobState
    event_count: int
    log_size: int
    """In characters."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class TrainerMark:
    """What a shared trainer would hear if it asked."""

    state: TrainerState
    has_attempts: bool
    """Whether it was given attempts that have not begun."""
