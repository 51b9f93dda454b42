"""Errors as google.rpc.Status: ErrorInfo always, and more where it says more."""

from collections.abc import Iterator, Mapping

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    QuotaFailure,
    RequestInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

from trellis.errors import (
    DOMAIN,
    STATUS_OF_REASON,
    FailedPrecondition,
    InternalError,
    QuotaViolation,
    Reason,
    TrellisError,
)
from trellis.server.rpc.convert.times import duration

# Trailing metadata has room for 8 KiB, and a character that is not ASCII may take nine bytes of it.
_MAX_MESSAGE = 600
_MAX_VIOLATIONS = 12
_MAX_DESCRIPTION = 160
_MAX_METADATA = 200


def status_code(error: TrellisError) -> grpc.StatusCode:
    """The gRPC status of the error."""
    found: grpc.StatusCode = getattr(grpc.StatusCode, error.STATUS)
    return found


def status_of(error: TrellisError, request_id: str) -> Status:
    """The whole answer."""
    details = _details(error, request_id)
    code = Code.Value(error.STATUS)
    return Status(code=code, message=_short(str(error), _MAX_MESSAGE), details=[_packed(one) for one in details])


def job_status(reason: str, message: str, metadata: Mapping[str, str]) -> Status:
    """The error that a job ended with."""
    kind = STATUS_OF_REASON[Reason(reason)] if reason in Reason.__members__ else InternalError
    info = ErrorInfo(reason=reason, domain=DOMAIN, metadata=dict(metadata))
    return Status(code=Code.Value(kind.STATUS), message=message, details=[_packed(info)])


def _details(error: TrellisError, request_id: str) -> Iterator[Message]:
    metadata = {key: _short(value, _MAX_METADATA) for key, value in error.metadata.items()}
    yield ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    if error.violations:
        yield BadRequest(
            field_violations=[
                BadRequest.FieldViolation(field=v.field, description=_short(v.description, _MAX_DESCRIPTION))
                for v in error.violations[:_MAX_VIOLATIONS]
            ]
        )
    if error.quota_violations:
        yield QuotaFailure(violations=map(_quota_violation, error.quota_violations[:_MAX_VIOLATIONS]))
    if isinstance(error, FailedPrecondition):
        subject = next(iter(error.metadata.values()), "")
        violation = PreconditionFailure.Violation(
            type=error.reason,
            subject=_short(subject, _MAX_METADATA),
            description=_short(str(error), _MAX_DESCRIPTION),
        )
        yield PreconditionFailure(violations=[violation])
    if error.retry_after is not None:
        yield RetryInfo(retry_delay=duration(error.retry_after))
    yield RequestInfo(request_id=request_id)


def _quota_violation(violation: QuotaViolation) -> QuotaFailure.Violation:
    """The limit by its field; all numbers, which may be parts of one, as text, and what is allowed also as Google has it."""
    numbers = {"allowed": violation.allowed, "used": violation.used, "asked": violation.asked}
    return QuotaFailure.Violation(
        subject=violation.subject,
        description=_short(violation.description, _MAX_DESCRIPTION),
        api_service=DOMAIN,
        quota_metric=f"{DOMAIN}/{violation.limit}",
        quota_id=violation.limit,
        quota_dimensions={name: f"{number:.15g}" for name, number in numbers.items()},
        quota_value=int(violation.allowed),
    )


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
