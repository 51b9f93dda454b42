"""Tuning jobs, their events and what they measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from trellis.client.types.tuning_spec import DistributedSpec, PreferenceSpec, PretrainingSpec, TrainingSettings
from trellis.errors import FieldViolation


class JobState(StrEnum):
    """Where a job is in its life."""

    UNSPECIFIED = "UNSPECIFIED"
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

    @property
    def ended(self) -> bool:
        """Whether a job in this state will not change any more."""
        return self in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


class QueueReasonCode(StrEnum):
    """Why a job waits."""

    UNSPECIFIED = "UNSPECIFIED"
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


class Placement(StrEnum):
    """What a job runs on: a trainer of its base model that it shares with others, or processes of its own."""

    UNSPECIFIED = "UNSPECIFIED"
    SHARED = "SHARED"
    DISTRIBUTED = "DISTRIBUTED"


class EventLevel(StrEnum):
    """How important an event is."""

    UNSPECIFIED = "UNSPECIFIED"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class QueueReason:
    """Why a job waits, as a code and a sentence, how many jobs stand before it, and when it is likely to start."""

    code: QueueReasonCode
    message: str
    position: int
    predicted_start_time: datetime | None = None
    """None where nothing can be said."""
    earliest_start_time: datetime | None = None
    """In 9 of 10 cases not before."""
    latest_start_time: datetime | None = None
    """In 9 of 10 cases not after."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job has come, in optimizer steps; `eta` by the pace so far."""

    step: int
    total_steps: int
    phase: str
    loss: float | None
    eta: timedelta | None
    trained_tokens: int


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
    """What went wrong with a job, as the fields of a TrellisError; `status` is a gRPC status."""

    status: str
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[FieldViolation, ...] = ()


@dataclass(frozen=True, slots=True)
class ResolvedSetting:
    """A setting that was not given: its path, such as `supervised.learning_rate`, its value, and the rule that chose it."""

    field: str
    value: str
    rule: str


@dataclass(frozen=True, slots=True)
class JobUsage:
    """What a job has used over all its attempts: tokens trained on, and seconds of a trainer or its share of them."""

    trained_tokens: int
    trainer_seconds: float


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """What a job is expected to take, which is set aside of its tenant's budgets, and how that was reckoned."""

    accelerators: float
    """That it holds while it runs; part of one on a shared trainer."""
    duration: timedelta | None
    """How long it runs."""
    trained_tokens: int
    rule: str
    accelerator_seconds: float


@dataclass(frozen=True, slots=True)
class TuningJob:
    """A job that trains an adapter, or all weights of a model."""

    name: str
    display_name: str
    base_model: str
    training_dataset: str
    validation_dataset: str
    replay_dataset: str
    initial_adapter: str
    supervised: TrainingSettings | None
    preference: PreferenceSpec | None
    pretraining: PretrainingSpec | None
    distributed: DistributedSpec | None
    alias: str
    deploy: bool
    state: JobState
    queue_reason: QueueReason | None
    progress: Progress | None
    error: JobError | None
    adapter: str
    base_evaluation: Evaluation | None
    tuned_evaluation: Evaluation | None
    warnings: tuple[str, ...]
    """What is to be known of what it made, such as that held-out loss rose; sentences with what to do."""
    resolved_settings: tuple[ResolvedSetting, ...]
    placement: Placement
    usage: JobUsage | None
    export: str
    priority: int
    """Higher ones of a tenant go first; beyond 0 also before others' jobs."""
    estimate: JobEstimate | None
    attempt_count: int
    preemption_count: int
    """How many times it gave way to others."""
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    update_time: datetime | None
    etag: str


@dataclass(frozen=True, slots=True)
class StartAlternative:
    """What would let a job start sooner: a field of it to change, such as `distributed.workers`, and its value then."""

    message: str
    field: str
    value: str
    start_time: datetime | None
    """When it would be likely to start; the time of the explanation for now."""


@dataclass(frozen=True, slots=True)
class TuningJobExplanation:
    """Why a job waits, what stands before it, when it is likely to start, and what would let it start sooner."""

    tuning_job: str
    state: JobState
    reasons: tuple[QueueReason, ...]
    """All, the first in precedence first."""
    position: int
    """How many queued jobs stand before it."""
    own_jobs_before: tuple[str, ...]
    """Those of them that are the tenant's own, the next first, at most 20."""
    other_jobs_before: int
    predicted_start_time: datetime | None
    """None where nothing can be said."""
    earliest_start_time: datetime | None
    """In 9 of 10 cases not before."""
    latest_start_time: datetime | None
    """In 9 of 10 cases not after."""
    alternatives: tuple[StartAlternative, ...]
    time: datetime | None
    """As of when."""
    warnings: tuple[str, ...] = ()
    """Of what it made, if it has ended well."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed checkpoint of a job."""

    name: str
    step: int
    attempt: int
    size_bytes: int
    create_time: datetime | None
    pinned: bool
    """Whether it is kept whatever comes after it."""
    best: bool
    """Whether its held-out loss is the least of all the job's checkpoints."""
    valid_loss: float | None


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """The measurements of one step, by name, such as `train_loss` or `tokens_per_second`."""

    step: int
    values: Mapping[str, float]
    time: datetime | None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job; `sequence` counts from one, without gaps. At most one detail is set."""

    tuning_job: str
    sequence: int
    time: datetime | None
    level: EventLevel
    message: str
    state: JobState | None
    progress: Progress | None
    metrics: MetricPoint | None
    checkpoint: Checkpoint | None


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of a job's log, in whole lines; `next_offset` resumes after it."""

    text: str
    attempt: int
    next_offset: int
