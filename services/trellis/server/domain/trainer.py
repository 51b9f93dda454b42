"""Shared trainers: long-lived processes that hold one base model and train many tenants' jobs on it."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from trellis.spec import Precision


class TrainerState(StrEnum):
    """Where a trainer is in its life."""

    STARTING = "STARTING"
    """Its process is being started, or loads the base."""
    RUNNING = "RUNNING"
    DRAINING = "DRAINING"
    """It finishes the jobs that it has, and leaves."""
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class Room:
    """What a trainer said that it has room for, beside the jobs that it had then."""

    jobs: int
    rank_rows: int
    line_tokens: int
    """The longest line that it can compute."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """A shared trainer. Its token is the fence: calls with another one, or after its end, are refused."""

    uid: str
    base_model: str
    """`baseModels/…`."""
    precision: Precision
    state: TrainerState
    token_hash: str
    """sha256 of the token, in hex."""
    submission_id: str
    """The name under which the cluster runs it."""
    cpus: float
    """What it reserves, with all its workers."""
    gpus: float
    workers: int
    create_time: datetime
    lease_expire_time: datetime
    """If it does not call until then, it is taken for dead."""
    start_time: datetime | None = None
    """When its process first called."""
    busy_time: datetime | None = None
    """When it was last seen to have a job, or was made."""
    room: Room | None = None
    """None until its base is loaded."""
    room_time: datetime | None = None
    """When it said so: attempts assigned later are still to be subtracted."""
    end_time: datetime | None = None
    outcome: str = ""
    """A sentence on how it ended."""
    cleaned_up: bool = False
    """Whether the cluster was seen to run it no longer."""

    @property
    def takes_jobs(self) -> bool:
        """Whether attempts may be assigned to it."""
        return self.state in {TrainerState.STARTING, TrainerState.RUNNING}

    def ended(self, now: datetime, outcome: str) -> Self:
        """The trainer, over."""
        return replace(self, state=TrainerState.ENDED, end_time=now, outcome=outcome)
