"""Why a job ends early, in the words of the API."""

import sys
from dataclasses import dataclass
from typing import Final, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from trellis.artifacts import ArtifactError
from trellis.bases import BaseModelError, BaseModelUnreachableError
from trellis.errors import DOMAIN, STATUS_OF_REASON, Reason, TrellisError, Unavailable
from trellis.formats import FormatError
from trellis.tokens import TokensError
from trellis.v1.worker_pb2 import (
    END_CAUSE_CANCELLED,
    END_CAUSE_INFRASTRUCTURE,
    END_CAUSE_OUT_OF_MEMORY,
    END_CAUSE_PAUSED,
    END_CAUSE_PREEMPTED,
    END_CAUSE_USER,
    STOP_REQUEST_CANCEL,
    STOP_REQUEST_PAUSE,
    STOP_REQUEST_PREEMPT,
    EndCause,
    StopRequest,
)

Cause: TypeAlias = "EndCause.ValueType"
Stop: TypeAlias = "StopRequest.ValueType"
_BUGS: Final = (TypeError, ValueError, LookupError, AttributeError, AssertionError, NotImplementedError)
_OUT_OF_MEMORY: Final = ("out of memory", "can't allocate memory", "not enough memory")


class JobFailedError(Exception):
    """The job can't go on; `str()` is a sentence for its user."""

    def __init__(self, reason: Reason, message: str, *, cause: Cause = END_CAUSE_USER) -> None:
        super().__init__(message)
        self.reason = reason
        self.cause = cause


class JobStoppedError(Exception):
    """The server wants the job to stop: to be cancelled, to pause, or to give way to others."""

    def __init__(self, stop: Stop = STOP_REQUEST_CANCEL) -> None:
        super().__init__(_STOPS[stop][1])
        self.stop = stop

    @property
    def cause(self) -> Cause:
        """What the attempt ends with, once it has stopped."""
        return _STOPS[self.stop][0]

    def to_status(self) -> Status:
        """What the attempt's end is reported as."""
        return Status(code=Code.CANCELLED, message=str(self))


class JobCancelledError(JobStoppedError):
    """The job is cancelled."""


class ProcessStoppedError(Exception):
    """The process was told to end (SIGTERM)."""

    def __init__(self) -> None:
        super().__init__("The process was told to stop by the cluster.")


_STOPS: Final = {
    STOP_REQUEST_CANCEL: (END_CAUSE_CANCELLED, "The job was cancelled."),
    STOP_REQUEST_PAUSE: (END_CAUSE_PAUSED, "The job was paused."),
    STOP_REQUEST_PREEMPT: (END_CAUSE_PREEMPTED, "The job gave way to others."),
}
_KNOWN: Final = (
    (FormatError, Reason.DATASET_INVALID, END_CAUSE_USER),
    (TokensError, Reason.DATASET_INVALID, END_CAUSE_USER),
    (BaseModelUnreachableError, Reason.BASE_MODEL_UNAVAILABLE, END_CAUSE_INFRASTRUCTURE),
    (BaseModelError, Reason.BASE_MODEL_INVALID, END_CAUSE_USER),
    (ArtifactError, Reason.ARTIFACT_REJECTED, END_CAUSE_USER),
    (ProcessStoppedError, Reason.TRAINING_FAILED, END_CAUSE_INFRASTRUCTURE),
)
"""What foreseen errors are reported as, and why the attempt then ended: whether another may help."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as it is reported."""

    reason: Reason
    message: str
    cause: Cause

    def to_status(self) -> Status:
        """The failure as google.rpc.Status."""
        detail = AnyMessage()
        detail.Pack(ErrorInfo(reason=self.reason.value, domain=DOMAIN))
        code = Code.Value(STATUS_OF_REASON[self.reason].STATUS)
        return Status(code=code, message=self.message, details=[detail])


def describe(error: BaseException) -> Failure:
    """What to report of an exception, and why the attempt ends."""
    if isinstance(error, JobFailedError):
        return Failure(error.reason, str(error), error.cause)
    if isinstance(error, TrellisError):
        cause = END_CAUSE_INFRASTRUCTURE if isinstance(error, Unavailable) else END_CAUSE_USER
        return Failure(_known(error.reason), str(error), cause)
    for kind, reason, cause in _KNOWN:
        if isinstance(error, kind):
            return Failure(reason, str(error), cause)
    return _describe_foreign(error)


def _describe_foreign(error: BaseException) -> Failure:
    if is_out_of_memory(error):
        message = "The process ran out of memory; raise gradient_accumulation_steps or lower context_length."
        return Failure(Reason.TRAINING_FAILED, message, END_CAUSE_OUT_OF_MEMORY)
    what = f"{type(error).__name__}: {_first_line(error)}"
    if isinstance(error, (OSError, grpc.RpcError)):
        return Failure(Reason.TRAINING_FAILED, f"Reading or writing failed: {what}", END_CAUSE_INFRASTRUCTURE)
    cause = END_CAUSE_USER if isinstance(error, _BUGS) else END_CAUSE_INFRASTRUCTURE
    return Failure(Reason.TRAINING_FAILED, f"The training process failed: {what}", cause)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the device or of the host did not suffice."""
    torch = sys.modules.get("torch")  # not imported for this: a driver has none, and then no such error either
    if isinstance(error, (MemoryError, *((torch.OutOfMemoryError,) if torch else ()))):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _known(reason: str) -> Reason:
    return Reason(reason) if reason in Reason.__members__ else Reason.TRAINING_FAILED


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else "no message"
