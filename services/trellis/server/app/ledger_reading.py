"""What of the ledger is asked for, and what is answered."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from trellis.server.domain.ledger import Meter

Sums = Mapping[Meter, int]
"""By meter, in its units; what is missing is 0."""


class UsageGroup(StrEnum):
    """By what usage is summed, beside the meter and its price."""

    TENANT = "TENANT"
    TUNING_JOB = "TUNING_JOB"
    ADAPTER = "ADAPTER"
    BASE_MODEL = "BASE_MODEL"
    HOUR = "HOUR"
    DAY = "DAY"


@dataclass(frozen=True, slots=True)
class LedgerRange:
    """Which entries are meant; None and empty for all."""

    tenant: str | None = None
    start: datetime | None = None
    """From this time on."""
    end: datetime | None = None
    """Before this time."""
    resource: str = ""
    """The name of a tuning job or export."""


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """What a tenant keeps."""

    dataset: int = 0
    artifact: int = 0
    """Of adapters, exports and checkpoints."""
