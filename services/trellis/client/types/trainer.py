"""Shared trainers."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class TrainerState(StrEnum):
    """Where a trainer is in its life."""

    UNSPECIFIED = "UNSPECIFIED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    DRAINING = "DRAINING"
    """It was told to leave when its jobs have ended."""


@dataclass(frozen=True, slots=True)
class TrainerRoom:
    """What a trainer has room for beside the jobs that it has."""

    jobs: int
    rank_rows: int
    line_tokens: int
    """The longest line that it can compute."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """A process that holds one base model and trains many tenants' jobs on it."""

    name: str
    base_model: str
    precision: str
    state: TrainerState
    jobs: int
    room: TrainerRoom | None
    """None until its base is loaded."""
    tokens_per_second: float
    """Over its last steps."""
    workers: int
    cpus: float
    """What it reserves, with all its workers."""
    gpus: float
    hostname: str
    create_time: datetime | None
    report_time: datetime | None
    """When it was last heard of."""
