"""Tenants."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from trellis.server.domain.quota import DEFAULT_TRAINING_WEIGHT, UNLIMITED, Quota

DEFAULT_SERVING_WEIGHT: Final = 1.0


@dataclass(frozen=True, slots=True)
class Tenant:
    """A team that shares the platform."""

    tenant_id: str
    display_name: str
    create_time: datetime
    revision: int = 1
    serving_weight: float = DEFAULT_SERVING_WEIGHT
    """Its share of an engine's work beside other tenants that have work there."""
    training_weight: float = DEFAULT_TRAINING_WEIGHT
    """Its share of training beside other tenants who want it."""
    cohort: str = ""
    """Tenants of one cohort lend each other unused accelerators; empty for none."""
    quota: Quota = UNLIMITED
