"""Why an export ends early."""

from typing import Final

from trellis.artifacts import ArtifactError
from trellis.bases import BaseModelError, BaseModelUnreachableError
from trellis.errors import Reason
from trellis.exports import ExportFailure
from trellis.objects import ObjectNotFoundError
from trellis.tensor_files import TensorFileError
from trellis.tokens import TokensError

_MOST: Final = 1000


class ExportFailedError(Exception):
    """The export can't be made; `str()` is a sentence for its user."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ExportUnwantedError(Exception):
    """The export was deleted meanwhile."""


def describe(error: BaseException) -> ExportFailure:
    """What the export's user is told of an exception, and whether another try may help."""
    match error:
        case ExportFailedError():
            return ExportFailure(error.reason, str(error))
        case ArtifactError():
            return ExportFailure(Reason.ADAPTER_INVALID, str(error))
        case BaseModelError() | TensorFileError() | TokensError():
            again = isinstance(error, BaseModelUnreachableError)
            return ExportFailure(Reason.BASE_MODEL_INVALID, str(error), again)
        case ObjectNotFoundError():
            return ExportFailure(Reason.RESOURCE_NOT_FOUND, f"{error} is gone from the object store; was it deleted?")
        case MemoryError():
            return ExportFailure(Reason.INTERNAL, "The process that makes the export ran out of memory.", again=True)
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {lines[0][:_MOST] if lines else 'no message'}"
    return ExportFailure(Reason.INTERNAL, f"The process that makes the export failed: {what}", again=True)
