"""Why a job ends early, in the words of the API."""

from dataclasses import dataclass
from typing import Final

import grpc
import torch
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from trellis.artifacts import ArtifactError
from trellis.bases import BaseModelError, BaseModelUnreachableError
from trellis.errors import DOMAIN, STATUS_OF_REASON, Reason, TrellisError
from trellis.formats import FormatError
from trellis.tokens import TokensError

_BUGS: Final = (TypeError, ValueError, LookupError, AttributeError, AssertionError, NotImplementedError)
_OUT_OF_MEMORY: Final = ("out of memory", "can't allocate memory", "not enough memory")


class JobFailedError(Exception):
    """The job can't go on; `str()` is a sentence for its user."""

    def __init__(self, reason: Reason, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.retryable = retryable


class JobCancelledError(Exception):
    """The server wants the job to stop."""


class ProcessStoppedError(Exception):
    """The process was told to end (SIGTERM)."""

    def __init__(self) -> None:
        super().__init__("The process was told to stop by the cluster.")


_KNOWN: Final = (
    (FormatError, Reason.DATASET_INVALID, False),
    (TokensError, Reason.DATASET_INVALID, False),
    (BaseModelUnreachableError, Reason.BASE_MODEL_UNAVAILABLE, True),
    (BaseModelError, Reason.BASE_MODEL_INVALID, False),
    (ArtifactError, Reason.ARTIFACT_REJECTED, False),
    (ProcessStoppedError, Reason.TRAINING_FAILED, True),
)
"""What foreseen errors are reported as, and whether another attempt may help."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as it is reported."""

    reason: Reason
    message: str
    retryable: bool

    def to_status(self) -> Status:
        """The failure as google.rpc.Status."""
        detail = AnyMessage()
        detail.Pack(ErrorInfo(reason=self.reason.value, domain=DOMAIN))
        code = Code.Value(STATUS_OF_REASON[self.reason].STATUS)
        return Status(code=code, message=self.message, details=[detail])


def describe(error: BaseException) -> Failure:
    """What to report of an exception, and whether another attempt may help."""
    if isinstance(error, JobFailedError):
        return Failure(error.reason, str(error), error.retryable)
    if isinstance(error, TrellisError):
        return Failure(_known(error.reason), str(error), retryable=False)
    for kind, reason, retryable in _KNOWN:
        if isinstance(error, kind):
            return Failure(reason, str(error), retryable)
    return _describe_foreign(error)


def _describe_foreign(error: BaseException) -> Failure:
    if _is_out_of_memory(error):
        message = "The process ran out of memory; raise gradient_accumulation_steps or lower context_length."
        return Failure(Reason.TRAINING_FAILED, message, retryable=True)
    what = f"{type(error).__name__}: {_first_line(error)}"
    if isinstance(error, (OSError, grpc.RpcError)):
        return Failure(Reason.TRAINING_FAILED, f"Reading or writing failed: {what}", retryable=True)
    return Failure(Reason.TRAINING_FAILED, f"The training process failed: {what}", not isinstance(error, _BUGS))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _known(reason: str) -> Reason:
    return Reason(reason) if reason in Reason.__members__ else Reason.TRAINING_FAILED


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else "no message"
