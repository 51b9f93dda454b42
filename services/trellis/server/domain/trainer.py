"""Shared trainers: long-lived processes that hold one base model and train many tenants' jobs on it."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from trellis.spec import Precision, TrainSpec


class TrainerState(StrEnum):
    """Where a trainer is in its life."""

    STARTING = "STARTING"
    """Its process is being started, or loads the base."""
    RUNNING = "RUNNING"
    DRAINING = "DRAINING"
    """It finishes the jobs that it has, and leaves."""
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class TrainerBase:
    """What a trainer holds: only jobs on exactly this base model, in this precision, can run on it."""

    base_model: str
    """`baseModels/…`."""
    base_source: str
    """Its folder or hub id."""
    base_revision: str
    tokenizer_digest: str
    precision: Precision

    @classmethod
    def of(cls, spec: TrainSpec) -> Self:
        """The base that a job of this spec needs."""
        return cls(spec.base_model, spec.base_source, spec.base_revision, spec.tokenizer_digest, spec.precision)


@dataclass(frozen=True, slots=True)
class Room:
    """What a trainer said that it has room for, beside the jobs that it had then."""

    jobs: int
    rank_rows: float
    """Of all linears; a trainer says how many whole ones are left."""
    line_tokens: int
    """The longest line that it can compute."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """A shared trainer. Its token is the fence: calls with another one, or after its end, are refused."""

    uid: str
    base_model: str
    """`baseModels/…`."""
    base_source: str
    """Its folder or hub id."""
    base_revision: str
    tokenizer_digest: str
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
    hostname: str = ""
    """Where its process runs, as it said."""
    busy_time: datetime | None = None
    """When it was last seen to have a job, or was made."""
    room: Room | None = None
    """None until its base is loaded."""
    room_time: datetime | None = None
    """When it said so: attempts begun later are still to be subtracted."""
    job_count: int = 0
    """Jobs that it had then, as it said."""
    tokens_per_second: float = 0.0
    """Over its last steps, as it said."""
    drain_time: datetime | None = None
    """When it was told to leave."""
    end_time: datetime | None = None
    outcome: str = ""
    """A sentence on how it ended."""
    cleaned_up: bool = False
    """Whether the cluster was seen to run it no longer."""

    @property
    def base(self) -> TrainerBase:
        """What it holds."""
        return TrainerBase(self.base_model, self.base_source, self.base_revision, self.tokenizer_digest, self.precision)

    @property
    def takes_jobs(self) -> bool:
        """Whether attempts may be assigned to it."""
        return self.state in {TrainerState.STARTING, TrainerState.RUNNING}

    @property
    def is_over(self) -> bool:
        """Whether its calls are refused."""
        return self.state is TrainerState.ENDED

    def draining(self, now: datetime) -> Self:
        """The trainer, told to leave."""
        return replace(self, state=TrainerState.DRAINING, drain_time=now)

    def ended(self, now: datetime, outcome: str) -> Self:
        """The trainer, over."""
        return replace(self, state=TrainerState.ENDED, end_time=now, outcome=outcome)

    def told(self, message: str) -> Self:
        """The trainer, with a further sentence on how it ended."""
        return replace(self, outcome=f"{self.outcome} {message}")
