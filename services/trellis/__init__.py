"""Trellis: fine-tune and serve many teams' LoRA adapters on shared base models.

>>> import trellis
>>> client = trellis.Client(tenant="acme")
>>> version = client.datasets.upload("support.jsonl", dataset="support")
>>> job = client.jobs.create("support", alias="support", deploy=True)
>>> for event in client.jobs.watch(job.name):
...     print(event.message)
>>> print(client.generate("support", "Where is my parcel?").text)
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trellis.client import (
        AsyncClient as AsyncClient,
    )
    from trellis.client import (
        Client as Client,
    )
    from trellis.client import (
        DatasetCheck as DatasetCheck,
    )
    from trellis.client import (
        ExportFailed as ExportFailed,
    )
    from trellis.client import (
        InvalidDataset as InvalidDataset,
    )
    from trellis.client import (
        JobCancelled as JobCancelled,
    )
    from trellis.client import (
        JobFailed as JobFailed,
    )
    from trellis.client import (
        Profile as Profile,
    )
    from trellis.client import (
        ProfileError as ProfileError,
    )
    from trellis.client import (
        Retry as Retry,
    )
    from trellis.client import (
        Stream as Stream,
    )
    from trellis.client import (
        check_dataset as check_dataset,
    )
    from trellis.client.types import (
        Adapter as Adapter,
    )
    from trellis.client.types import (
        AdapterShare as AdapterShare,
    )
    from trellis.client.types import (
        Alias as Alias,
    )
    from trellis.client.types import (
        Alternative as Alternative,
    )
    from trellis.client.types import (
        Answer as Answer,
    )
    from trellis.client.types import (
        ApiKey as ApiKey,
    )
    from trellis.client.types import (
        AuditEvent as AuditEvent,
    )
    from trellis.client.types import (
        BaseModel as BaseModel,
    )
    from trellis.client.types import (
        Budget as Budget,
    )
    from trellis.client.types import (
        BudgetMeter as BudgetMeter,
    )
    from trellis.client.types import (
        BudgetPeriod as BudgetPeriod,
    )
    from trellis.client.types import (
        ChatMessage as ChatMessage,
    )
    from trellis.client.types import (
        Checkpoint as Checkpoint,
    )
    from trellis.client.types import (
        CodeCount as CodeCount,
    )
    from trellis.client.types import (
        CreatedApiKey as CreatedApiKey,
    )
    from trellis.client.types import (
        Dataset as Dataset,
    )
    from trellis.client.types import (
        DatasetReport as DatasetReport,
    )
    from trellis.client.types import (
        DatasetVersion as DatasetVersion,
    )
    from trellis.client.types import (
        DatasetVersionState as DatasetVersionState,
    )
    from trellis.client.types import (
        Deployment as Deployment,
    )
    from trellis.client.types import (
        DistributedSpec as DistributedSpec,
    )
    from trellis.client.types import (
        Evaluation as Evaluation,
    )
    from trellis.client.types import (
        EventLevel as EventLevel,
    )
    from trellis.client.types import (
        ExampleKind as ExampleKind,
    )
    from trellis.client.types import (
        Export as Export,
    )
    from trellis.client.types import (
        ExportFile as ExportFile,
    )
    from trellis.client.types import (
        ExportFormat as ExportFormat,
    )
    from trellis.client.types import (
        ExportState as ExportState,
    )
    from trellis.client.types import (
        FileFormat as FileFormat,
    )
    from trellis.client.types import (
        FinishReason as FinishReason,
    )
    from trellis.client.types import (
        Generation as Generation,
    )
    from trellis.client.types import (
        GenerationChunk as GenerationChunk,
    )
    from trellis.client.types import (
        JobError as JobError,
    )
    from trellis.client.types import (
        JobEstimate as JobEstimate,
    )
    from trellis.client.types import (
        JobEvent as JobEvent,
    )
    from trellis.client.types import (
        JobState as JobState,
    )
    from trellis.client.types import (
        JobUsage as JobUsage,
    )
    from trellis.client.types import (
        LearningRateSchedule as LearningRateSchedule,
    )
    from trellis.client.types import (
        LedgerEntry as LedgerEntry,
    )
    from trellis.client.types import (
        LedgerEntryKind as LedgerEntryKind,
    )
    from trellis.client.types import (
        Lengths as Lengths,
    )
    from trellis.client.types import (
        LimitStatus as LimitStatus,
    )
    from trellis.client.types import (
        LineError as LineError,
    )
    from trellis.client.types import (
        LogChunk as LogChunk,
    )
    from trellis.client.types import (
        LoraSpec as LoraSpec,
    )
    from trellis.client.types import (
        MetricPoint as MetricPoint,
    )
    from trellis.client.types import (
        Offload as Offload,
    )
    from trellis.client.types import (
        Placement as Placement,
    )
    from trellis.client.types import (
        Precision as Precision,
    )
    from trellis.client.types import (
        PreferenceLoss as PreferenceLoss,
    )
    from trellis.client.types import (
        PreferenceSpec as PreferenceSpec,
    )
    from trellis.client.types import (
        PretrainingSpec as PretrainingSpec,
    )
    from trellis.client.types import (
        Preview as Preview,
    )
    from trellis.client.types import (
        Progress as Progress,
    )
    from trellis.client.types import (
        Quantization as Quantization,
    )
    from trellis.client.types import (
        QueueReason as QueueReason,
    )
    from trellis.client.types import (
        QueueReasonCode as QueueReasonCode,
    )
    from trellis.client.types import (
        Quota as Quota,
    )
    from trellis.client.types import (
        QuotaStatus as QuotaStatus,
    )
    from trellis.client.types import (
        ReportState as ReportState,
    )
    from trellis.client.types import (
        ResolvedSetting as ResolvedSetting,
    )
    from trellis.client.types import (
        Role as Role,
    )
    from trellis.client.types import (
        Scope as Scope,
    )
    from trellis.client.types import (
        Segment as Segment,
    )
    from trellis.client.types import (
        StartAlternative as StartAlternative,
    )
    from trellis.client.types import (
        Statement as Statement,
    )
    from trellis.client.types import (
        StatementLine as StatementLine,
    )
    from trellis.client.types import (
        Tenant as Tenant,
    )
    from trellis.client.types import (
        TokenLogprob as TokenLogprob,
    )
    from trellis.client.types import (
        Trainer as Trainer,
    )
    from trellis.client.types import (
        TrainerRoom as TrainerRoom,
    )
    from trellis.client.types import (
        TrainerState as TrainerState,
    )
    from trellis.client.types import (
        TrainingSettings as TrainingSettings,
    )
    from trellis.client.types import (
        TuningJob as TuningJob,
    )
    from trellis.client.types import (
        TuningJobExplanation as TuningJobExplanation,
    )
    from trellis.client.types import (
        Upload as Upload,
    )
    from trellis.client.types import (
        Usage as Usage,
    )
    from trellis.client.types import (
        UsageGroup as UsageGroup,
    )
    from trellis.client.types import (
        UsageMeter as UsageMeter,
    )
    from trellis.client.types import (
        UsageRow as UsageRow,
    )
    from trellis.errors import (
        Aborted as Aborted,
    )
    from trellis.errors import (
        AlreadyExists as AlreadyExists,
    )
    from trellis.errors import (
        Cancelled as Cancelled,
    )
    from trellis.errors import (
        DataLoss as DataLoss,
    )
    from trellis.errors import (
        DeadlineExceeded as DeadlineExceeded,
    )
    from trellis.errors import (
        FailedPrecondition as FailedPrecondition,
    )
    from trellis.errors import (
        FieldViolation as FieldViolation,
    )
    from trellis.errors import (
        InternalError as InternalError,
    )
    from trellis.errors import (
        InvalidArgument as InvalidArgument,
    )
    from trellis.errors import (
        NotFound as NotFound,
    )
    from trellis.errors import (
        PermissionDenied as PermissionDenied,
    )
    from trellis.errors import (
        QuotaViolation as QuotaViolation,
    )
    from trellis.errors import (
        Reason as Reason,
    )
    from trellis.errors import (
        ResourceExhausted as ResourceExhausted,
    )
    from trellis.errors import (
        TrellisError as TrellisError,
    )
    from trellis.errors import (
        Unauthenticated as Unauthenticated,
    )
    from trellis.errors import (
        Unavailable as Unavailable,
    )

__version__ = "0.1.0"

__all__ = [
    "Aborted",
    "Adapter",
    "AdapterShare",
    "Alias",
    "AlreadyExists",
    "Alternative",
    "Answer",
    "ApiKey",
    "AsyncClient",
    "AuditEvent",
    "BaseModel",
    "Budget",
    "BudgetMeter",
    "BudgetPeriod",
    "Cancelled",
    "ChatMessage",
    "Checkpoint",
    "Client",
    "CodeCount",
    "CreatedApiKey",
    "DataLoss",
    "Dataset",
    "DatasetCheck",
    "DatasetReport",
    "DatasetVersion",
    "DatasetVersionState",
    "DeadlineExceeded",
    "Deployment",
    "DistributedSpec",
    "Evaluation",
    "EventLevel",
    "ExampleKind",
    "Export",
    "ExportFailed",
    "ExportFile",
    "ExportFormat",
    "ExportState",
    "FailedPrecondition",
    "FieldViolation",
    "FileFormat",
    "FinishReason",
    "Generation",
    "GenerationChunk",
    "InternalError",
    "InvalidArgument",
    "InvalidDataset",
    "JobCancelled",
    "JobError",
    "JobEstimate",
    "JobEvent",
    "JobFailed",
    "JobState",
    "JobUsage",
    "LearningRateSchedule",
    "LedgerEntry",
    "LedgerEntryKind",
    "Lengths",
    "LimitStatus",
    "LineError",
    "LogChunk",
    "LoraSpec",
    "MetricPoint",
    "NotFound",
    "Offload",
    "PermissionDenied",
    "Placement",
    "Precision",
    "PreferenceLoss",
    "PreferenceSpec",
    "PretrainingSpec",
    "Preview",
    "Profile",
    "ProfileError",
    "Progress",
    "Quantization",
    "QueueReason",
    "QueueReasonCode",
    "Quota",
    "QuotaStatus",
    "QuotaViolation",
    "Reason",
    "ReportState",
    "ResolvedSetting",
    "ResourceExhausted",
    "Retry",
    "Role",
    "Scope",
    "Segment",
    "StartAlternative",
    "Statement",
    "StatementLine",
    "Stream",
    "Tenant",
    "TokenLogprob",
    "Trainer",
    "TrainerRoom",
    "TrainerState",
    "TrainingSettings",
    "TrellisError",
    "TuningJob",
    "TuningJobExplanation",
    "Unauthenticated",
    "Unavailable",
    "Upload",
    "Usage",
    "UsageGroup",
    "UsageMeter",
    "UsageRow",
    "check_dataset",
]


def __getattr__(name: str) -> object:
    """Load the SDK when it is first asked for: much of Trellis imports this package and needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for home in ("trellis.errors", "trellis.client.types", "trellis.client"):
        module = importlib.import_module(home)
        if name in vars(module):
            return globals().setdefault(name, vars(module)[name])
    raise AssertionError(name)


def __dir__() -> list[str]:
    """What there is, loaded or not."""
    return sorted({*globals(), *__all__})
