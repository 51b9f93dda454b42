"""What the scheduler decides."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from trellis.server.domain.tuning_job import QueueReason
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.seats import NewTrainer


@dataclass(frozen=True, slots=True)
class Admission:
    """A job that starts, by itself or on a trainer."""

    uid: str
    trainer: str = ""
    """The uid of a present trainer or the key of a new one; empty for by itself."""


@dataclass(frozen=True, slots=True)
class Preemption:
    """A running job that gives way."""

    victim: str
    """Its uid."""
    beneficiary: str
    """The uid of the queued job that gets what it frees."""
    reason: str
    """For the victim's user, as a sentence."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """Every queued job is in one of `admit`, `refuse` and `waiting`."""

    admit: tuple[Admission, ...]
    """Jobs to start, in the order of their turns."""
    start: tuple[NewTrainer, ...]
    """Trainers to start for them."""
    drain: tuple[str, ...]
    """The uids of trainers to be told to leave."""
    refuse: Mapping[str, str]
    """By uid: why the job can never run, as a sentence."""
    waiting: Mapping[str, QueueReason]
    """By uid: why the job waits."""
    preempt: tuple[Preemption, ...] = ()
    """Running jobs to be asked to give way."""
    reserve: Mapping[str, Resources] = field(default_factory=dict)
    """By the uid of a queued job: all that is to be kept free for it from now on; a reservation that is not here ends."""
    order: tuple[str, ...] = ()
    """The uids of the jobs that wait, in the order in which they are looked at."""
