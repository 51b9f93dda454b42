"""The audit trail: who did what to what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that somebody did, or was refused to do; it holds no secret."""

    time: datetime
    tenant: str | None
    """Whom it touched; None for what belongs to the platform."""
    principal: str
    """A key's name, `oidc:{issuer}#{subject}`, `platform` for what the platform does by itself, empty for nobody known."""
    role: str
    method: str
    resource: str
    source: str
    """The caller's address."""
    request_id: str
    status: str
    """The gRPC status, such as `OK`."""
    before: Mapping[str, Any] = field(default_factory=dict)
    """The fields that were changed, as they were."""
    after: Mapping[str, Any] = field(default_factory=dict)
    """The fields that were changed, as they are since."""
    sequence: int = 0
    """Its place in the trail; given by the store."""


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which events are asked for; what is empty or None does not narrow them."""

    tenant: str | None = None
    """None for what belongs to no tenant."""
    everything: bool = False
    """Whether it is about all tenants and the platform."""
    start_time: datetime | None = None
    end_time: datetime | None = None
    """Only before it."""
    principal: str = ""
    method: str = ""
    """Its full name or its last part."""
    resource: str = ""
    """It, and what belongs to it."""
    after_sequence: int | None = None
    """Only what comes after it, oldest first; newest first when None."""
