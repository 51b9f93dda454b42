"""The audit trail."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trellis.client.types.api_key import Role


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that somebody did, or was refused to do."""

    sequence: int
    """Its place in the trail: grows from event to event."""
    time: datetime | None
    tenant: str
    """Whom it touched, or for a refused call whose it was; empty for the platform's, and for callers nobody knows."""
    principal: str
    """A key's name, `oidc:{issuer}#{subject}`, or `platform` for what the platform did by itself."""
    role: Role
    method: str
    resource: str
    source: str
    """The caller's address."""
    request_id: str
    status: str
    """The gRPC status, such as `OK` or `PERMISSION_DENIED`."""
    before: Mapping[str, Any]
    """The fields that were changed, as they were."""
    after: Mapping[str, Any]
    """The fields that were changed, as they are since."""
