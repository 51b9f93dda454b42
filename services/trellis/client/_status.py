"""From a gRPC status to the exception that says it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from google.rpc import error_details_pb2, status_pb2

from trellis.errors import CLASS_OF_STATUS, FieldViolation, QuotaViolation, TrellisError

_DETAILS = "grpc-status-details-bin"
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def name_of_code(code: int) -> str:
    """The name of a gRPC status, such as `NOT_FOUND`."""
    return _NAMES.get(code, "UNKNOWN")


@dataclass(frozen=True, slots=True)
class Details:
    """What a google.rpc.Status says beside its code and message."""

    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[FieldViolation, ...] = ()
    quota_violations: tuple[QuotaViolation, ...] = ()
    retry_after: float | None = None
    request_id: str = ""


def details_of(status: Any) -> Details:
    """Read the details of a google.rpc.Status; kinds that this version does not know are left out."""
    info = _unpack(status, error_details_pb2.ErrorInfo())
    bad = _unpack(status, error_details_pb2.BadRequest())
    quota = _unpack(status, error_details_pb2.QuotaFailure())
    retry = _unpack(status, error_details_pb2.RetryInfo())
    request = _unpack(status, error_details_pb2.RequestInfo())
    return Details(
        reason=info.reason if info else "",
        metadata=dict(info.metadata) if info else {},
        violations=tuple(FieldViolation(v.field, v.description) for v in bad.field_violations) if bad else (),
        quota_violations=tuple(map(_quota_violation, quota.violations)) if quota else (),
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if retry else None,
        request_id=request.request_id if request else "",
    )


def _quota_violation(violation: Any) -> QuotaViolation:
    numbers = {name: _number(violation.quota_dimensions.get(name, "")) for name in ("allowed", "used", "asked")}
    return QuotaViolation(violation.subject, violation.quota_id, **numbers, description=violation.description)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _unpack(status: Any, kind: Any) -> Any:
    return next((kind for detail in status.details if detail.Unpack(kind)), None)


class FailedCall(Protocol):
    """What sync and async gRPC errors have in common."""

    def code(self) -> grpc.StatusCode:
        """The status."""

    def details(self) -> str | None:
        """The message."""

    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]] | None:
        """The metadata that came last."""


def error_of_call(call: Any, endpoint: str) -> TrellisError:
    """The exception for a call that failed; its reason is the status' name where the server gave none."""
    failed: FailedCall = call
    code, message = failed.code(), failed.details() or ""
    details = details_of(_rich_status(failed))
    cls = CLASS_OF_STATUS.get(code.name, TrellisError)
    return cls(
        details.reason or code.name,
        message if details.reason else _plain_message(code, message, endpoint),
        metadata=details.metadata,
        violations=details.violations,
        quota_violations=details.quota_violations,
        retry_after=details.retry_after,
        request_id=details.request_id,
    )


def _rich_status(call: FailedCall) -> Any:
    status = status_pb2.Status()
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            status.ParseFromString(value)
    return status


def _plain_message(code: grpc.StatusCode, message: str, endpoint: str) -> str:
    """A sentence for what did not come from the server itself but from gRPC, on either side."""
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"The server at {endpoint} can't be reached: {message}. Is it running, and is the endpoint right?"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"The server at {endpoint} did not answer within the call's timeout."
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"The server at {endpoint} does not know this method; it may be of another version. {message}".rstrip()
    return message or f"The call ended with {code.name}."


def lost_connection(error: TrellisError) -> bool:
    """Whether the call failed on its way, or because the server was going, so that it may be taken up again."""
    if error.STATUS == "UNAVAILABLE":
        return True
    if error.reason != error.STATUS:
        return False  # the server's own word
    reset = "RST_STREAM" in error.message or "reset" in error.message.lower()
    return error.STATUS == "CANCELLED" or (error.STATUS in {"INTERNAL", "UNKNOWN"} and reset)


def passing(error: TrellisError) -> bool:
    """Whether the same call may do better in a moment: nobody answered, or the server says that trying again helps.

    A call that nobody here has cancelled was by gRPC, as it reached a server that was just ending.
    """
    if error.STATUS == "ABORTED":
        return error.retry_after is not None
    return error.STATUS == "UNAVAILABLE" or (error.STATUS == "CANCELLED" and error.reason == error.STATUS)
