"""What the SDK takes and gives: frozen dataclasses with the field names of the API, real enums and datetimes."""

from trellis.client.types.adapter import Adapter, Alias, Deployment
from trellis.client.types.base_model import BaseModel
from trellis.client.types.dataset import (
    Dataset,
    DatasetVersion,
    DatasetVersionState,
    ExampleKind,
    FileFormat,
    Upload,
)
from trellis.client.types.generation import (
    Alternative,
    Answer,
    ChatMessage,
    FinishReason,
    Generation,
    GenerationChunk,
    TokenLogprob,
    Usage,
)
from trellis.client.types.job import (
    Checkpoint,
    Evaluation,
    EventLevel,
    JobError,
    JobEvent,
    JobState,
    LogChunk,
    MetricPoint,
    Progress,
    QueueReason,
    QueueReasonCode,
    TuningJob,
)
from trellis.client.types.report import CodeCount, DatasetReport, Lengths, Preview, ReportState, Segment
from trellis.client.types.tenant import ApiKey, CreatedApiKey, Role, Tenant
from trellis.client.types.tuning_spec import LearningRateSchedule, LoraSpec, Precision, TrainingSettings
from trellis.formats.errors import LineError

__all__ = [
    "Adapter",
    "Alias",
    "Alternative",
    "Answer",
    "ApiKey",
    "BaseModel",
    "ChatMessage",
    "Checkpoint",
    "CodeCount",
    "CreatedApiKey",
    "Dataset",
    "DatasetReport",
    "DatasetVersion",
    "DatasetVersionState",
    "Deployment",
    "Evaluation",
    "EventLevel",
    "ExampleKind",
    "FileFormat",
    "FinishReason",
    "Generation",
    "GenerationChunk",
    "JobError",
    "JobEvent",
    "JobState",
    "LearningRateSchedule",
    "Lengths",
    "LineError",
    "LogChunk",
    "LoraSpec",
    "MetricPoint",
    "Precision",
    "Preview",
    "Progress",
    "QueueReason",
    "QueueReasonCode",
    "ReportState",
    "Role",
    "Segment",
    "Tenant",
    "TokenLogprob",
    "TrainingSettings",
    "TuningJob",
    "Upload",
    "Usage",
]
