"""What is reported of an exception."""

import errno

import pytest
import torch
from google.rpc.error_details_pb2 import ErrorInfo

from trellis.artifacts import ArtifactError
from trellis.bases import BaseModelError, BaseModelUnreachableError
from trellis.errors import InvalidArgument, Reason
from trellis.formats import FormatError
from trellis.objects import ObjectNotFoundError, ObjectStoreUnavailableError
from trellis.tokens import TemplateError
from trellis.v1.worker_pb2 import END_CAUSE_INFRASTRUCTURE, END_CAUSE_OUT_OF_MEMORY, END_CAUSE_USER
from trellis_jobs.failure import Cause, JobFailedError, ProcessStoppedError, describe


@pytest.mark.parametrize(
    ("error", "reason", "cause"),
    [
        (JobFailedError(Reason.TRAINING_DIVERGED, "x"), Reason.TRAINING_DIVERGED, END_CAUSE_USER),
        (InvalidArgument(Reason.INVALID_FIELD, "x"), Reason.INVALID_FIELD, END_CAUSE_USER),
        (FormatError("empty_file", "x"), Reason.DATASET_INVALID, END_CAUSE_USER),
        (TemplateError("template_rejected", "x"), Reason.DATASET_INVALID, END_CAUSE_USER),
        (BaseModelError("x"), Reason.BASE_MODEL_INVALID, END_CAUSE_USER),
        (BaseModelUnreachableError("x"), Reason.BASE_MODEL_UNAVAILABLE, END_CAUSE_INFRASTRUCTURE),
        (ArtifactError("no_effect", "x"), Reason.ARTIFACT_REJECTED, END_CAUSE_USER),
        (ProcessStoppedError(), Reason.TRAINING_FAILED, END_CAUSE_INFRASTRUCTURE),
        (MemoryError(), Reason.TRAINING_FAILED, END_CAUSE_OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory."), Reason.TRAINING_FAILED, END_CAUSE_OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Reason.TRAINING_FAILED, END_CAUSE_OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "No space left"), Reason.TRAINING_FAILED, END_CAUSE_INFRASTRUCTURE),
        (ObjectNotFoundError("key"), Reason.TRAINING_FAILED, END_CAUSE_INFRASTRUCTURE),
        (ObjectStoreUnavailableError("x"), Reason.OBJECT_STORE_UNAVAILABLE, END_CAUSE_INFRASTRUCTURE),
        (RuntimeError("odd"), Reason.TRAINING_FAILED, END_CAUSE_INFRASTRUCTURE),
        (KeyError("bug"), Reason.TRAINING_FAILED, END_CAUSE_USER),
        (ValueError(), Reason.TRAINING_FAILED, END_CAUSE_USER),
    ],
    ids=repr,
)
def test_reason_and_cause(error: Exception, reason: Reason, cause: Cause) -> None:
    failure = describe(error)
    assert (failure.reason, failure.cause) == (reason, cause)
    info = ErrorInfo()
    assert failure.to_status().details[0].Unpack(info)
    assert (info.reason, info.domain) == (reason.value, "trellis.dev")
    assert failure.message
