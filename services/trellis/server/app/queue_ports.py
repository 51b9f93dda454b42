"""What the control side of the scheduler asks of the database, beside the jobs themselves."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from trellis.server.domain.board import Board, Foretold
from trellis.server.domain.dataset import DatasetVersion, Report
from trellis.server.domain.fair_share import FairShare
from trellis.server.domain.ledger import Meter
from trellis.server.domain.tenant import Tenant
from trellis.server.domain.tuning_job import JobEvent, JobState, QueueReason


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is kept free for a queued job."""

    job_uid: str
    cpus: float
    gpus: float
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Reading:
    """A dataset version as a job of a base model reads it."""

    tenant: str
    dataset_id: str
    sha256: str
    base_model: str


@dataclass(frozen=True, slots=True)
class JobHold:
    """What the ledger holds for a job of one meter, in its units."""

    job_uid: str
    tenant: str
    meter: Meter
    quantity: int


@dataclass(frozen=True, slots=True)
class ReportedVersion:
    """A dataset version, and the report on it for a base model."""

    version: DatasetVersion
    report: Report


class FairShares(Protocol):
    """What tenants have had."""

    async def of_waiting(self) -> Mapping[str, FairShare]:
        """By tenant: of those that have a job which waits or holds capacity."""
        ...

    async def put(self, shares: Sequence[FairShare]) -> None:
        """Adds or replaces."""
        ...


class Reservations(Protocol):
    """What is kept free for queued jobs."""

    async def all(self) -> Mapping[str, Reservation]:
        """By the uid of the job."""
        ...

    async def put(self, reservations: Sequence[Reservation]) -> None:
        """Adds or replaces."""
        ...

    async def delete(self, job_uids: Collection[str]) -> None:
        """Nothing more is kept for these."""
        ...


class BoardRow(Protocol):
    """What the scheduler last decided; one row."""

    async def get(self) -> Board | None:
        """None before the first decision."""
        ...

    async def foretold(self) -> Mapping[str, Foretold]:
        """What the board that is there says of starts that were foretold; the board that `get` gives has none."""
        ...

    async def time(self) -> datetime | None:
        """Of the board that is there."""
        ...

    async def put(self, board: Board) -> None:
        """Replaces it."""
        ...


class QueueFacts(Protocol):
    """What a decision depends on, each read at once for all jobs and tenants, so that a round's queries do not grow."""

    async def tenants(self) -> Sequence[Tenant]:
        """Those that have a job which waits or holds capacity, and the members of their cohorts."""
        ...

    async def reports(self, readings: Collection[Reading]) -> Mapping[Reading, ReportedVersion]:
        """Of each of these that is there."""
        ...

    async def saved_times(self) -> Mapping[str, datetime]:
        """By the uid of a job that holds capacity: when its present attempt last saved a checkpoint."""
        ...

    async def held(self, states: Collection[JobState]) -> Sequence[JobHold]:
        """What is held in the ledger for jobs in these states."""
        ...

    async def save_reasons(self, reasons: Mapping[str, QueueReason], told: Mapping[str, JobEvent]) -> None:
        """By uid: why the job waits, and of some of these jobs what is told in their events; nothing is changed of one
        that has left the queue.
        """
        ...
