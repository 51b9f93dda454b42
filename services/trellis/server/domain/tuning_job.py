"""Tuning jobs: their states, the lawful moves between them, their attempts and events."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from trellis.spec import TrainSpec


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    PAUSING = "PAUSING"
    PAUSED = "PAUSED"
    PREEMPTING = "PREEMPTING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_S = JobState
MOVES: Mapping[JobState, frozenset[JobState]] = {
    _S.QUEUED: frozenset({_S.STARTING, _S.PAUSED, _S.CANCELLED, _S.FAILED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.QUEUED, _S.PAUSED, _S.CANCELLING, _S.FAILED}),
    _S.RUNNING: frozenset({_S.SUCCEEDED, _S.QUEUED, _S.PAUSING, _S.PREEMPTING, _S.CANCELLING, _S.FAILED}),
    _S.PAUSING: frozenset({_S.PAUSED, _S.RUNNING, _S.SUCCEEDED, _S.CANCELLING, _S.FAILED}),
    _S.PREEMPTING: frozenset({_S.QUEUED, _S.SUCCEEDED, _S.PAUSING, _S.CANCELLING, _S.FAILED}),
    _S.PAUSED: frozenset({_S.QUEUED, _S.CANCELLED}),
    _S.CANCELLING: frozenset({_S.CANCELLED, _S.SUCCEEDED, _S.FAILED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
"""The lawful moves. QUEUED again from a state with a process is a retry or what follows a preemption; SUCCEEDED from
one that was asked to stop is a finish that was faster than the request. RUNNING from PAUSING is a job that was resumed
before its process had left: it goes on, or is queued if the process leaves after all. A STARTING job has nothing to save,
so that it is PAUSED or QUEUED at once."""

ENDED = frozenset(state for state, moves in MOVES.items() if not moves)
STOPPING = frozenset({JobState.CANCELLING, JobState.PAUSING, JobState.PREEMPTING})
"""States in which a job's process is asked to leave."""
ACTIVE = frozenset({JobState.STARTING, JobState.RUNNING}) | STOPPING
"""States in which a job holds capacity."""


class EndCause(StrEnum):
    """Why an attempt ended without an adapter; decides whether and how its job is tried again."""

    USER = "USER"
    """The job's data or settings are wrong."""
    INFRASTRUCTURE = "INFRASTRUCTURE"
    """A process, node, network or store failed."""
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    CANCELLED = "CANCELLED"
    PAUSED = "PAUSED"
    PREEMPTED = "PREEMPTED"
    DECLINED = "DECLINED"
    """The trainer that it was given to has no room for it."""


class StopRequest(StrEnum):
    """What an attempt is asked to do instead of going on."""

    CANCEL = "CANCEL"
    PAUSE = "PAUSE"
    """Save a checkpoint and leave."""
    PREEMPT = "PREEMPT"
    """Save a checkpoint and leave, as others need the capacity."""


class UnlawfulMoveError(ValueError):
    """A job can't go from its state to the other."""


class QueueCode(StrEnum):
    """Why a job waits."""

    NOT_CONSIDERED = "NOT_CONSIDERED"
    DATASET_VALIDATING = "DATASET_VALIDATING"
    TENANT_LIMIT = "TENANT_LIMIT"
    CAPACITY = "CAPACITY"
    RETRY_BACKOFF = "RETRY_BACKOFF"
    BUDGET = "BUDGET"
    QUOTA = "QUOTA"
    COHORT = "COHORT"
    FAIR_SHARE = "FAIR_SHARE"
    RESERVED = "RESERVED"
    PREEMPTING = "PREEMPTING"
    NEVER_FITS = "NEVER_FITS"
    CLUSTER = "CLUSTER"
    """It has been given capacity, and the cluster can't start it yet."""


PRECEDENCE = (
    *(QueueCode.NOT_CONSIDERED, QueueCode.DATASET_VALIDATING, QueueCode.RETRY_BACKOFF, QueueCode.NEVER_FITS),
    *(QueueCode.BUDGET, QueueCode.TENANT_LIMIT, QueueCode.QUOTA, QueueCode.COHORT, QueueCode.PREEMPTING),
    *(QueueCode.RESERVED, QueueCode.FAIR_SHARE, QueueCode.CAPACITY, QueueCode.CLUSTER),
)
"""Which of several reasons is told first: what only its own tenant or time can cure comes before what others cause."""


@dataclass(frozen=True, slots=True)
class StartInterval:
    """When a job is likely to start."""

    expected: datetime
    earliest: datetime
    """In 9 of 10 cases not before."""
    latest: datetime
    """In 9 of 10 cases not after."""


@dataclass(frozen=True, slots=True)
class QueueReason:
    """Why a job waits, in the queue or for the cluster, with a sentence for its user and the number of jobs before it."""

    code: QueueCode
    message: str
    position: int = 0
    start: StartInterval | None = None
    """Told by the board alone; not kept with the job."""


@dataclass(frozen=True, slots=True)
class TenantQueue:
    """The queued jobs of one tenant."""

    tenant: str
    jobs: int
    oldest: datetime
    """When the first of them was submitted."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job is expected to take: held in the ledger at submit, and what its start is predicted from."""

    accelerators: float
    """Of its quota that it takes while it runs; a seat's part of a shared trainer."""
    seconds: float
    """How long it runs."""
    accelerator_seconds: float
    """What is held of its budget: on a shared trainer its share of the steps times the trainer's accelerators, which does
    not depend on how many others are there."""
    trained_tokens: int
    rule: str = ""
    """How it was reckoned, as a sentence."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job has come; steps are optimizer steps, times are in seconds."""

    step: int = 0
    total_steps: int = 0
    phase: str = ""
    loss: float | None = None
    eta_seconds: float | None = None
    trained_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What held-out data says of a model; loss in nats a trainable token."""

    loss: float
    token_accuracy: float
    exact_match: float
    line_count: int
    answered_line_count: int


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: a value of trellis.errors.Reason, and a sentence."""

    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class EventLevel(StrEnum):
    """How important an event is."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """The measurements of one optimizer step."""

    step: int
    values: Mapping[str, float]
    time: datetime


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed checkpoint, under `key` in the object store."""

    step: int
    attempt: int
    key: str
    size_bytes: int
    create_time: datetime
    valid_loss: float | None = None
    """The held-out loss at its step, in nats, if it was measured."""
    pinned: bool = False
    """Whether it is kept whatever comes after it."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job; at most one of the details is set."""

    time: datetime
    level: EventLevel
    message: str
    state: JobState | None = None
    progress: Progress | None = None
    metrics: MetricPoint | None = None
    checkpoint: Checkpoint | None = None
    sequence: int = 0
    """From one, without gaps, in the job; given by the store when it is appended."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job's process. Its token is the fence: reports with another one are refused."""

    tenant: str
    job_uid: str
    number: int
    """From one."""
    token_hash: str
    """sha256 of the token, in hex."""
    submission_id: str
    """The name under which the cluster runs it: made of job and number, so that starting it twice is harmless."""
    create_time: datetime
    lease_expire_time: datetime
    """If no report comes until then, the attempt is taken for dead."""
    next_report: int = 1
    start_time: datetime | None = None
    """When its process first called."""
    end_time: datetime | None = None
    """When it was decided that it is over; its reports are refused from then on."""
    outcome: str = ""
    """A sentence on how it ended."""
    cleaned_up: bool = False
    """Whether the cluster was seen to run it no longer and its last output was kept."""
    trainer_uid: str = ""
    """The shared trainer that it was given to; empty for a run of its own."""
    step: int = 0
    """The optimizer steps done that it last reported; less than the job's while it does some again."""
    step_time: datetime | None = None
    """When it was last heard to have come further: a step, a phase, a measurement or a checkpoint."""
    used_tokens: int = 0
    """Tokens that it trained on, as last reported."""
    used_seconds: float = 0.0
    """Seconds of a trainer that it took, or its share of them, as last reported."""
    accelerators: float = 0.0
    """What its used_seconds are multiplied by to settle: one worker's, as its seconds are those of all its workers together;
    or all of its trainer's, of whose steps the seconds are its share."""
    traceparent: str = ""
    """Of the span that its trace begins with, its wait in the queue; empty when nothing is traced."""

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.end_time is not None


@dataclass(frozen=True, slots=True)
class TuningJob:
    """A job that trains an adapter."""

    tenant: str
    job_id: str
    uid: str
    """Never used again, unlike job_id."""
    display_name: str
    spec: TrainSpec
    create_time: datetime
    update_time: datetime
    state: JobState = JobState.QUEUED
    adapted_share: float = 1.0
    """The part that its adapter's numbers are of those of one of the same rank on all linears."""
    alias_id: str = ""
    """The alias to point at the adapter on success."""
    deploy: bool = False
    """Whether to deploy the adapter on success."""
    queue_reason: QueueReason | None = None
    progress: Progress = field(default_factory=Progress)
    error: JobError | None = None
    adapter_digest: str = ""
    base_evaluation: Evaluation | None = None
    tuned_evaluation: Evaluation | None = None
    warnings: tuple[str, ...] = ()
    """Of what it made, as sentences with what to do."""
    attempt_count: int = 0
    """The number of its newest attempt."""
    failure_count: int = 0
    """Attempts that ended by a failure of the infrastructure since the job last came further, by a checkpoint; preemptions
    and pauses are none."""
    memory_halvings: int = 0
    """How many times attempts ran out of memory: each halves the work of one pass."""
    decline_count: int = 0
    """Attempts in a row that trainers had no room for, up to its newest one."""
    used_tokens: int = 0
    """Tokens trained on, over all attempts that are over."""
    used_seconds: float = 0.0
    """Seconds of a trainer, over all attempts that are over."""
    export_id: str = ""
    """The export that a job which trains all weights made."""
    priority: int = 0
    """Among the tenant's own jobs the highest goes first; beyond 0 also before others' jobs."""
    estimate: Estimate | None = None
    preemption_count: int = 0
    """How many times it gave way to others."""
    stop_time: datetime | None = None
    """When it was asked to pause or to give back its capacity, while it is asked."""
    retry_time: datetime | None = None
    """Not to be admitted before."""
    start_time: datetime | None = None
    cancel_time: datetime | None = None
    """When it was asked to stop."""
    end_time: datetime | None = None
    event_count: int = 0
    """The sequence of its newest event."""
    revision: int = 1
    """Grows with every move."""
    traceparent: str = ""
    """Of the call that submitted it, which the traces of its attempts are linked to; empty when nothing is traced."""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"tenants/{self.tenant}/tuningJobs/{self.job_id}"

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED

    def moved(self, state: JobState, now: datetime, error: JobError | None = None) -> Self:
        """The job in another state; raises UnlawfulMoveError where no such move exists."""
        if state not in MOVES[self.state]:
            raise UnlawfulMoveError(f"{self.name} can't go from {self.state} to {state}.")
        return replace(
            self,
            state=state,
            error=error,
            queue_reason=None,
            retry_time=None,
            update_time=now,
            start_time=self.start_time or (now if state is JobState.RUNNING else None),
            cancel_time=now if state is JobState.CANCELLING else self.cancel_time,
            stop_time=now if state in {JobState.PAUSING, JobState.PREEMPTING} else None,
            end_time=now if state in ENDED else None,
            revision=self.revision + 1,
        )
