"""What a tenant may have, and how much of it is used."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class BudgetMeter(StrEnum):
    """What a budget counts: seconds of accelerators that jobs hold, or tokens trained on, read and written."""

    UNSPECIFIED = "UNSPECIFIED"
    ACCELERATOR_SECONDS = "ACCELERATOR_SECONDS"
    TOKENS = "TOKENS"


class BudgetPeriod(StrEnum):
    """Over what time a budget counts, in UTC; weeks begin on Monday."""

    UNSPECIFIED = "UNSPECIFIED"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit over a period, which begins anew with each; None does not bind."""

    meter: BudgetMeter
    period: BudgetPeriod
    soft_limit: int | None = None
    """From here on the tenant is warned, and its queued jobs go after those of tenants within theirs."""
    hard_limit: int | None = None
    """What would pass it waits for the next period."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may have at once, and over time. None does not bind; 0 allows nothing."""

    accelerators: float | None = None
    """GPUs, or CPUs where jobs have no GPUs, that its jobs may hold for sure."""
    borrowing_limit: float | None = None
    """So many more it may borrow from what others of its cohort do not use; any number when None."""
    lending_limit: float | None = None
    """So many of its own it lends to others of the cohort while it does not use them; all when None."""
    running_jobs: int | None = None
    open_jobs: int | None = None
    """Jobs that have not ended."""
    dataset_bytes: int | None = None
    artifact_bytes: int | None = None
    """Of adapters, exports and kept checkpoints."""
    deployed_adapters: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_priority: int | None = None
    budgets: tuple[Budget, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """How much of one limit is used."""

    limit: str
    """The limit's field in `Quota`, such as `running_jobs`, or `budgets.accelerator_seconds.month`."""
    allowed: float | None
    """None where nothing binds."""
    soft: float | None
    used: float
    held: float
    """Beside that, for what has not ended."""
    period_end_time: datetime | None
    """When the present period of a budget ends."""


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """A tenant's quota, and what is used of it."""

    tenant: str
    quota: Quota
    limits: tuple[LimitStatus, ...]
