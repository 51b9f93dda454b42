"""Tenants."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Tenant:
    """A team that shares the platform."""

    tenant_id: str
    display_name: str
    create_time: datetime
    revision: int = 1
