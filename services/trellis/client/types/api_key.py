"""API keys."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    """Who a caller is allowed to be; a tenant admin may do all that a member may, an admin everything."""

    UNSPECIFIED = "UNSPECIFIED"
    MEMBER = "MEMBER"
    TENANT_ADMIN = "TENANT_ADMIN"
    ADMIN = "ADMIN"
    ATTEMPT = "ATTEMPT"
    TRAINER = "TRAINER"


class Scope(StrEnum):
    """What a key may be narrowed to; none of them has another in it."""

    UNSPECIFIED = "UNSPECIFIED"
    READ = "READ"
    """Reads what there is."""
    WRITE = "WRITE"
    """Makes, changes and deletes data, jobs, adapters and exports."""
    GENERATE = "GENERATE"
    """Calls models, and nothing else: what an application needs."""
    MANAGE = "MANAGE"
    """Manages tenants, keys, base models, quotas and sharing, and reads the audit trail."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by which a caller is known, without its secret."""

    name: str
    display_name: str
    role: Role
    prefix: str
    create_time: datetime | None
    expire_time: datetime | None
    revoke_time: datetime | None
    scopes: tuple[Scope, ...] = ()
    """What it is narrowed to; all that its role may when empty."""
    rotate_time: datetime | None = None
    """When its secret was last exchanged for a new one."""
    old_secret_expire_time: datetime | None = None
    """Until when the secret before opens."""
    last_use_time: datetime | None = None
    """To within some minutes."""


@dataclass(frozen=True, slots=True)
class CreatedApiKey:
    """A key and its fresh secret, which is shown this once and never in a repr."""

    api_key: ApiKey
    secret: str = field(repr=False)
