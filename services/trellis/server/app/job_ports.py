"""What is asked of the database about jobs and trainers."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from trellis.server.domain.claim import Claim
from trellis.server.domain.marks import JobMark, TrainerMark
from trellis.server.domain.page import Page
from trellis.server.domain.trainer import Trainer, TrainerBase
from trellis.server.domain.tuning_job import (
    Attempt,
    Checkpoint,
    JobEvent,
    JobState,
    MetricPoint,
    TenantQueue,
    TuningJob,
)


class TuningJobs(Protocol):
    """Jobs, attempts, events, metrics, logs and checkpoints. Parts are kept by the job's `uid`."""

    async def add(self, job: TuningJob, events: Sequence[JobEvent] = ()) -> TuningJob:
        """The job with its first events; raises AlreadyExists."""
        ...

    async def get(self, tenant: str, job_id: str, *, for_update: bool = False) -> TuningJob | None: ...
    async def get_by_uid(self, uid: str, *, for_update: bool = False) -> TuningJob | None: ...
    async def list(
        self, tenant: str | None, states: Sequence[JobState], limit: int, cursor: str | None
    ) -> Page[TuningJob]:
        """Newest first; `tenant` None for all tenants', `states` empty for all states."""
        ...

    async def in_states(self, states: Sequence[JobState], limit: int) -> Sequence[TuningJob]:
        """Oldest first, over all tenants."""
        ...

    async def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state, over all tenants."""
        ...

    async def queued_by_tenant(self) -> Sequence[TenantQueue]:
        """Of each tenant that has queued jobs."""
        ...

    async def save(self, job: TuningJob, events: Sequence[JobEvent] = ()) -> TuningJob:
        """Saves the job, which was read for update in this unit of work, and appends the events with the next
        sequences; returns the job with its new event_count.
        """
        ...

    async def delete(self, tenant: str, job_id: str) -> None:
        """Deletes the job with all its parts."""
        ...

    async def claim(self, states: Sequence[JobState], claim: Claim, now: datetime, limit: int) -> Sequence[TuningJob]:
        """Jobs in these states that no loop holds, oldest first, held from now on."""
        ...

    async def holds(self, uid: str, claim: Claim) -> bool:
        """Whether the claim on the job is still this one; asked in the unit of work that applies the outcome, after
        the job was read for update.
        """
        ...

    async def release(self, uid: str, claim: Claim) -> None:
        """Lets go of the job, if the claim is still this one."""
        ...

    async def lock_queue(self) -> None:
        """Waits until no other unit of work holds the queue, then holds it to the end of this one."""
        ...

    async def events(self, uid: str, after_sequence: int, limit: int) -> Sequence[JobEvent]: ...
    async def marks(self, uids: Collection[str]) -> Mapping[str, JobMark]:
        """How far each of these jobs has come, by uid; without those that are gone."""
        ...

    async def add_attempt(self, attempt: Attempt) -> None: ...
    async def get_attempt(self, uid: str, number: int) -> Attempt | None: ...
    async def find_attempt(self, token_hash: str) -> Attempt | None: ...
    async def save_attempt(self, attempt: Attempt) -> None: ...
    async def attempts_to_clean_up(self, limit: int) -> Sequence[Attempt]:
        """Attempts that are over but not cleaned up, oldest first."""
        ...

    async def expired_attempts(self, now: datetime, limit: int) -> Sequence[Attempt]:
        """Attempts that are not over and whose lease has ended, oldest first."""
        ...

    async def open_attempts(self, limit: int) -> Sequence[Attempt]:
        """Attempts that are not over, oldest first."""
        ...

    async def add_metrics(self, uid: str, points: Sequence[MetricPoint]) -> None:
        """Points of a step that is there already are ignored, value by value."""
        ...

    async def metrics(self, uid: str, limit: int, cursor: str | None) -> Page[MetricPoint]: ...
    async def add_checkpoint(self, uid: str, checkpoint: Checkpoint) -> None:
        """A checkpoint of the same step is replaced."""
        ...

    async def checkpoints(self, uid: str, limit: int, cursor: str | None) -> Page[Checkpoint]: ...
    async def latest_checkpoint(self, uid: str) -> Checkpoint | None: ...
    async def best_checkpoint(self, uid: str) -> Checkpoint | None:
        """The one that domain.retention.best_of finds among all of them."""
        ...

    async def get_checkpoint(self, uid: str, step: int) -> Checkpoint | None: ...
    async def delete_checkpoint(self, uid: str, step: int) -> None: ...
    async def checkpoint_keys_in_use(self, tenant: str) -> frozenset[str]:
        """Keys that the tenant's jobs start from, or its exports are made of, which have not ended."""
        ...

    async def append_log(self, uid: str, attempt: int, text: str) -> None: ...
    async def read_log(self, uid: str, offset: int, limit: int) -> Sequence[tuple[int, int, str]]:
        """Pieces of `(next_offset, attempt, text)` after `offset`, at most so many."""
        ...


class Trainers(Protocol):
    """Shared trainers, and the attempts that they were given."""

    async def add(self, trainer: Trainer) -> None: ...
    async def get(self, uid: str, *, for_update: bool = False) -> Trainer | None: ...
    async def find(self, token_hash: str) -> Trainer | None: ...
    async def save(self, trainer: Trainer) -> None: ...
    async def live(self) -> Sequence[Trainer]:
        """Those that are not over, oldest first."""
        ...

    async def marks(self, uids: Collection[str]) -> Mapping[str, TrainerMark]:
        """What each of these trainers would hear if it asked, by uid; without those that are gone."""
        ...

    async def prune(self, before: datetime) -> int:
        """Deletes those that ended before and are cleaned up, but for each base model's newest one that said how fast it
        trains; how many.
        """
        ...

    async def newest_measured(self, base_model: str) -> Trainer | None:
        """The newest trainer of the base model that has said how fast it trains."""
        ...

    async def to_clean_up(self, limit: int) -> Sequence[Trainer]:
        """Those that are over but not cleaned up; who ended first comes first."""
        ...

    async def ended_since(self, time: datetime, limit: int) -> Sequence[Trainer]:
        """Those that ended then or later, cleaned up or not."""
        ...

    async def last_ends(self, bases: Collection[TrainerBase]) -> dict[TrainerBase, datetime]:
        """When the newest trainer of each base ended; without those that never had one."""
        ...

    async def open_attempts(self, uids: Collection[str]) -> Sequence[Attempt]:
        """Attempts of these trainers that are not over, oldest first."""
        ...

    async def attempts_ended_since(self, uid: str, time: datetime) -> Sequence[Attempt]:
        """Attempts of this trainer that ended then or later, oldest first."""
        ...

    async def job_counts(self, uids: Collection[str]) -> Mapping[str, int]:
        """How many attempts of each of these trainers are not over; without those that have none."""
        ...
