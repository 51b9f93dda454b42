"""What a tenant has had of the platform, as it is remembered between two decisions."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class FairShare:
    """A tenant's past use: see scheduler.past_use for how it grows and fades."""

    tenant: str
    past_use: float
    """Its dominant share of the platform times the seconds that it had it, each second faded with its age."""
    time: datetime
    """As of when."""
