"""The errors of Trellis, on both sides of the wire, and the one table of which reason has which gRPC status.

The server raises them, an interceptor writes them as `google.rpc.Status`, and the SDK raises them again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Self

DOMAIN = "trellis.dev"


class Reason(StrEnum):
    """Why a call failed; the names of the API's ErrorReason, which says more on each."""

    API_KEY_INVALID = "API_KEY_INVALID"
    API_KEY_EXPIRED = "API_KEY_EXPIRED"
    API_KEY_REVOKED = "API_KEY_REVOKED"
    ACCESS_DENIED = "ACCESS_DENIED"
    INVALID_FIELD = "INVALID_FIELD"
    INVALID_NAME = "INVALID_NAME"
    RESOURCE_NOT_FOUND = "RESOURCE_NOT_FOUND"
    RESOURCE_EXISTS = "RESOURCE_EXISTS"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
    UPLOAD_INCOMPLETE = "UPLOAD_INCOMPLETE"
    UPLOAD_OFFSET_MISMATCH = "UPLOAD_OFFSET_MISMATCH"
    FILE_TOO_LARGE = "FILE_TOO_LARGE"
    DATASET_INVALID = "DATASET_INVALID"
    BASE_MODEL_UNAVAILABLE = "BASE_MODEL_UNAVAILABLE"
    BASE_MODEL_INVALID = "BASE_MODEL_INVALID"
    ADAPTER_INVALID = "ADAPTER_INVALID"
    ADAPTER_NOT_DEPLOYED = "ADAPTER_NOT_DEPLOYED"
    INVALID_STATE = "INVALID_STATE"
    RESOURCE_IN_USE = "RESOURCE_IN_USE"
    ATTEMPT_FENCED = "ATTEMPT_FENCED"
    ENGINE_BUSY = "ENGINE_BUSY"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    CONTEXT_EXCEEDED = "CONTEXT_EXCEEDED"
    TRAINING_DIVERGED = "TRAINING_DIVERGED"
    ATTEMPTS_EXHAUSTED = "ATTEMPTS_EXHAUSTED"
    ARTIFACT_REJECTED = "ARTIFACT_REJECTED"
    TRAINING_FAILED = "TRAINING_FAILED"
    SERVER_STOPPING = "SERVER_STOPPING"
    INTERNAL = "INTERNAL"
    CONCURRENT_CHANGE = "CONCURRENT_CHANGE"
    DATABASE_BUSY = "DATABASE_BUSY"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    RATE_LIMITED = "RATE_LIMITED"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    NEVER_FITS = "NEVER_FITS"
    TOKEN_INVALID = "TOKEN_INVALID"
    ISSUER_UNAVAILABLE = "ISSUER_UNAVAILABLE"
    OBJECT_STORE_UNAVAILABLE = "OBJECT_STORE_UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request: its path from the request message, and a sentence on what it must be."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """One limit of a quota that leaves no room for a call, in the limit's own unit."""

    subject: str
    """Whose limit it is, such as `tenants/acme`."""
    limit: str
    """The limit's field in the tenant's quota, such as `open_jobs`, or `budgets.tokens.month`."""
    allowed: float
    used: float
    asked: float
    """How much the call would have added."""
    description: str
    """All that as a sentence."""


class TrellisError(Exception):
    """The root of all errors; `str()` is a sentence that says what is wrong, where, and what to do."""

    STATUS: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        reason: Reason | str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[FieldViolation, ...] = (),
        quota_violations: tuple[QuotaViolation, ...] = (),
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.reason = str(reason)
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.quota_violations = quota_violations
        """The limits that leave no room, where that is why."""
        self.retry_after = retry_after
        """Seconds to wait before trying again; None where waiting does not help."""
        self.request_id = request_id

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), str(self), self.__dict__.copy()))


def _rebuild(cls: type[TrellisError], message: str, state: dict[str, object]) -> TrellisError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class InvalidArgument(TrellisError, ValueError):
    """The request is wrong, whatever the state of the platform."""

    STATUS = "INVALID_ARGUMENT"

    @classmethod
    def for_field(cls, field: str, description: str, *, reason: Reason = Reason.INVALID_FIELD) -> Self:
        """One wrong field."""
        return cls(reason, description, violations=(FieldViolation(field, description),))

    @classmethod
    def for_fields(cls, violations: tuple[FieldViolation, ...]) -> Self:
        """All the wrong fields at once."""
        message = " ".join(f"{v.field}: {v.description}" for v in violations)
        return cls(Reason.INVALID_FIELD, message, violations=violations)


class Unauthenticated(TrellisError):
    """Who calls is not known."""

    STATUS = "UNAUTHENTICATED"


class PermissionDenied(TrellisError):
    """Who calls may not do this."""

    STATUS = "PERMISSION_DENIED"


class NotFound(TrellisError, LookupError):
    """The resource does not exist."""

    STATUS = "NOT_FOUND"

    @classmethod
    def for_resource(cls, name: object) -> Self:
        """The resource of this name does not exist."""
        return cls(Reason.RESOURCE_NOT_FOUND, f"{name} does not exist.", metadata={"resource": str(name)})


class AlreadyExists(TrellisError):
    """The resource exists already."""

    STATUS = "ALREADY_EXISTS"


class FailedPrecondition(TrellisError):
    """The request is right, but not in the present state; another state must come first."""

    STATUS = "FAILED_PRECONDITION"


class Aborted(TrellisError):
    """Somebody else changed it meanwhile; read again, then retry."""

    STATUS = "ABORTED"


class DataLoss(TrellisError):
    """The bytes are not the ones that were announced."""

    STATUS = "DATA_LOSS"


class ResourceExhausted(TrellisError):
    """There is no room at present."""

    STATUS = "RESOURCE_EXHAUSTED"


class Unavailable(TrellisError, ConnectionError):
    """The server, or what it needs, can't be reached at present."""

    STATUS = "UNAVAILABLE"


class DeadlineExceeded(TrellisError, TimeoutError):
    """The call took longer than it was given."""

    STATUS = "DEADLINE_EXCEEDED"


class Cancelled(TrellisError):
    """The call was cancelled."""

    STATUS = "CANCELLED"


class InternalError(TrellisError):
    """A fault of the server itself; its logs have more under the request id."""

    STATUS = "INTERNAL"


STATUS_OF_REASON: Mapping[Reason, type[TrellisError]] = {
    Reason.API_KEY_INVALID: Unauthenticated,
    Reason.API_KEY_EXPIRED: Unauthenticated,
    Reason.API_KEY_REVOKED: Unauthenticated,
    Reason.ACCESS_DENIED: PermissionDenied,
    Reason.INVALID_FIELD: InvalidArgument,
    Reason.INVALID_NAME: InvalidArgument,
    Reason.RESOURCE_NOT_FOUND: NotFound,
    Reason.RESOURCE_EXISTS: AlreadyExists,
    Reason.REQUEST_ID_REUSED: AlreadyExists,
    Reason.ETAG_MISMATCH: Aborted,
    Reason.INVALID_PAGE_TOKEN: InvalidArgument,
    Reason.CHECKSUM_MISMATCH: DataLoss,
    Reason.UPLOAD_INCOMPLETE: Aborted,
    Reason.UPLOAD_OFFSET_MISMATCH: FailedPrecondition,
    Reason.FILE_TOO_LARGE: InvalidArgument,
    Reason.DATASET_INVALID: FailedPrecondition,
    Reason.BASE_MODEL_UNAVAILABLE: FailedPrecondition,
    Reason.BASE_MODEL_INVALID: InvalidArgument,
    Reason.ADAPTER_INVALID: InvalidArgument,
    Reason.ADAPTER_NOT_DEPLOYED: FailedPrecondition,
    Reason.INVALID_STATE: FailedPrecondition,
    Reason.RESOURCE_IN_USE: FailedPrecondition,
    Reason.ATTEMPT_FENCED: Aborted,
    Reason.ENGINE_BUSY: ResourceExhausted,
    Reason.ENGINE_UNAVAILABLE: Unavailable,
    Reason.CONTEXT_EXCEEDED: InvalidArgument,
    Reason.TRAINING_DIVERGED: FailedPrecondition,
    Reason.ATTEMPTS_EXHAUSTED: Aborted,
    Reason.ARTIFACT_REJECTED: InternalError,
    Reason.TRAINING_FAILED: InternalError,
    Reason.SERVER_STOPPING: Unavailable,
    Reason.INTERNAL: InternalError,
    Reason.CONCURRENT_CHANGE: Aborted,
    Reason.DATABASE_BUSY: Unavailable,
    Reason.DEADLINE_EXCEEDED: DeadlineExceeded,
    Reason.QUOTA_EXCEEDED: ResourceExhausted,
    Reason.RATE_LIMITED: ResourceExhausted,
    Reason.BUDGET_EXHAUSTED: ResourceExhausted,
    Reason.NEVER_FITS: FailedPrecondition,
    Reason.TOKEN_INVALID: Unauthenticated,
    Reason.ISSUER_UNAVAILABLE: Unavailable,
    Reason.OBJECT_STORE_UNAVAILABLE: Unavailable,
}
"""The one status table: which class, and so which gRPC status, an error of each reason is."""

CLASS_OF_STATUS: Mapping[str, type[TrellisError]] = {
    cls.STATUS: cls for cls in TrellisError.__subclasses__() if cls.STATUS != "UNKNOWN"
}
"""Which class an error of each gRPC status is raised as by the SDK."""


def error_for(reason: Reason, message: str, **details: object) -> TrellisError:
    """The error of this reason, as the class that the table says; `details` as for TrellisError."""
    return STATUS_OF_REASON[reason](reason, message, **details)  # type: ignore[arg-type]
