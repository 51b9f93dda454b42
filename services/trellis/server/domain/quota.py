"""What a tenant may have: at once, and over a period."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

DEFAULT_TRAINING_WEIGHT: Final = 1.0


class BudgetMeter(StrEnum):
    """What a budget counts."""

    ACCELERATOR_SECONDS = "ACCELERATOR_SECONDS"
    TOKENS = "TOKENS"
    """Trained on, and of prompts and answers."""


class Period(StrEnum):
    """Over what time a budget counts, in UTC."""

    DAY = "DAY"
    WEEK = "WEEK"
    """From Monday."""
    MONTH = "MONTH"

    def start(self, now: datetime) -> datetime:
        """The beginning of the period that `now` is in."""
        day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self is Period.WEEK:
            return day - timedelta(days=day.weekday())
        return day.replace(day=1) if self is Period.MONTH else day

    def end(self, now: datetime) -> datetime:
        """The beginning of the next one."""
        start = self.start(now)
        if self is Period.MONTH:
            return (start + timedelta(days=32)).replace(day=1)
        return start + timedelta(days=7 if self is Period.WEEK else 1)


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit over a period, in whole seconds or tokens; None does not bind."""

    meter: BudgetMeter
    period: Period
    soft_limit: int | None = None
    """From here on the tenant is warned, and its queued jobs go after those of tenants within theirs."""
    hard_limit: int | None = None
    """What would pass it waits for the next period."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may have; None does not bind, 0 allows nothing."""

    accelerators: float | None = None
    """Nominal: so many its jobs may hold for sure. GPUs, or CPUs where jobs have no GPUs."""
    borrowing_limit: float | None = None
    """So many beyond those, of what others of the cohort leave."""
    lending_limit: float | None = None
    """So many of the nominal ones are lent while unused."""
    running_jobs: int | None = None
    open_jobs: int | None = None
    """Jobs that have not ended."""
    dataset_bytes: int | None = None
    artifact_bytes: int | None = None
    deployed_adapters: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_priority: int | None = None
    budgets: tuple[Budget, ...] = ()

    @property
    def highest_priority(self) -> int:
        """That a job may have; 0 where nothing is said."""
        return 0 if self.max_priority is None else self.max_priority


UNLIMITED: Final = Quota()
