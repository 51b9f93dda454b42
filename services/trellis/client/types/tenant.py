"""Tenants and their keys."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Tenant:
    """A team that shares the platform."""

    name: str
    display_name: str
    create_time: datetime | None
    etag: str
    serving_weight: float = 1.0
    """Its share of an engine's work beside other tenants that have work there."""


class Role(StrEnum):
    """Who a caller is allowed to be; a tenant admin may do all that a member may, an admin everything."""

    UNSPECIFIED = "UNSPECIFIED"
    MEMBER = "MEMBER"
    TENANT_ADMIN = "TENANT_ADMIN"
    ADMIN = "ADMIN"
    ATTEMPT = "ATTEMPT"
    TRAINER = "TRAINER"


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


@dataclass(frozen=True, slots=True)
class CreatedApiKey:
    """A fresh key and its secret, which is shown this once and never in a repr."""

    api_key: ApiKey
    secret: str = field(repr=False)
