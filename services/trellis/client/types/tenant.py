"""Tenants."""

from dataclasses import dataclass
from datetime import datetime

from trellis.client.types.quota import Quota


@dataclass(frozen=True, slots=True)
class Tenant:
    """A team that shares the platform."""

    name: str
    display_name: str
    create_time: datetime | None
    etag: str
    serving_weight: float = 1.0
    """Its share of an engine's work beside other tenants that have work there."""
    training_weight: float = 1.0
    """Its share of training beside other tenants who want it."""
    cohort: str = ""
    """Tenants of one cohort lend each other the accelerators of their quotas that they do not use; empty for none."""
    quota: Quota = Quota()
    """What it may have."""
