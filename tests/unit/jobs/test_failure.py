"""What is reported of an exception."""

import errno

import pytest
import torch
from google.rpc.error_details_pb2 import ErrorInfo

from trellis.artifacts import ArtifactError
from trellis.bases import BaseModelError, BaseModelUnreachableError
from trellis.errors import InvalidArgument, Reason
from trellis.formats import FormatError
from trellis.objects import ObjectNotFoundError
from trellis.tokens import TemplateError
from trellis_jobs.failure import JobFailedError, ProcessStoppedError, describe


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (JobFailedError(Reason.TRAINING_DIVERGED, "x"), Reason.TRAINING_DIVERGED, False),
        (InvalidArgument(Reason.INVALID_FIELD, "x"), Reason.INVALID_FIELD, False),
        (FormatError("empty_file", "x"), Reason.DATASET_INVALID, False),
        (TemplateError("template_rejected", "x"), Reason.DATASET_INVALID, False),
        (BaseModelError("x"), Reason.BASE_MODEL_INVALID, False),
        (BaseModelUnreachableError("x"), Reason.BASE_MODEL_UNAVAILABLE, True),
        (ArtifactError("no_effect", "x"), Reason.ARTIFACT_REJECTED, False),
        (ProcessStoppedError(), Reason.TRAINING_FAILED, True),
        (MemoryError(), Reason.TRAINING_FAILED, True),
        (torch.OutOfMemoryError("CUDA out of memory."), Reason.TRAINING_FAILED, True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Reason.TRAINING_FAILED, True),
        (OSError(errno.ENOSPC, "No space left"), Reason.TRAINING_FAILED, True),
        (ObjectNotFoundError("key"), Reason.TRAINING_FAILED, True),
        (RuntimeError("odd"), Reason.TRAINING_FAILED, True),
        (KeyError("bug"), Reason.TRAINING_FAILED, False),
        (ValueError(), Reason.TRAINING_FAILED, False),
    ],
    ids=repr,
)
def test_reason_and_whether_to_try_again(error: Exception, reason: Reason, retryable: bool) -> None:
    failure = describe(error)
    assert (failure.reason, failure.retryable) == (reason, retryable)
    info = ErrorInfo()
    assert failure.to_status().details[0].Unpack(info)
    assert (info.reason, info.domain) == (reason.value, "trellis.dev")
    assert failure.message
