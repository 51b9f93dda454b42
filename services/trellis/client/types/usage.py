"""What was used, what it costs, and the ledger that says so."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class UsageMeter(StrEnum):
    """What is measured, in whole units of what the name says."""

    UNSPECIFIED = "UNSPECIFIED"
    ACCELERATOR_MILLISECONDS = "ACCELERATOR_MILLISECONDS"
    TRAINED_TOKENS = "TRAINED_TOKENS"
    PROMPT_TOKENS = "PROMPT_TOKENS"
    COMPLETION_TOKENS = "COMPLETION_TOKENS"
    DATASET_BYTE_HOURS = "DATASET_BYTE_HOURS"
    ARTIFACT_BYTE_HOURS = "ARTIFACT_BYTE_HOURS"


class UsageGroup(StrEnum):
    """By what usage is summed, beside the meter and its price."""

    TENANT = "TENANT"
    TUNING_JOB = "TUNING_JOB"
    ADAPTER = "ADAPTER"
    BASE_MODEL = "BASE_MODEL"
    HOUR = "HOUR"
    DAY = "DAY"


class LedgerEntryKind(StrEnum):
    """What an entry says: so much was set aside for a job, so much was used, so much of what was held is free again."""

    UNSPECIFIED = "UNSPECIFIED"
    HOLD = "HOLD"
    SETTLE = "SETTLE"
    RELEASE = "RELEASE"


@dataclass(frozen=True, slots=True)
class UsageRow:
    """A sum of what was used of one meter at one price; what it is not grouped by is empty."""

    meter: UsageMeter
    quantity: int
    price_nanos: int
    """What `price_units` units cost, in billionths of the currency."""
    price_units: int
    amount_nanos: int
    """What all of it costs, in billionths of the currency."""
    currency: str
    """Empty where the platform has no prices."""
    tenant: str
    tuning_job: str
    adapter: str
    base_model: str
    time: datetime | None
    """The beginning of the hour or day."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """An entry of the ledger, which is never changed."""

    sequence: int
    time: datetime
    tenant: str
    kind: LedgerEntryKind
    meter: UsageMeter
    quantity: int
    price_nanos: int
    """What `price_units` units cost when it was settled, in billionths of the currency."""
    price_units: int
    currency: str
    tuning_job: str
    """Or the export."""
    adapter: str
    base_model: str
    key: str
    """What makes it single: the same thing is written once."""


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One meter at one price."""

    meter: UsageMeter
    quantity: int
    price_nanos: int
    price_units: int
    amount_nanos: int


@dataclass(frozen=True, slots=True)
class Statement:
    """What a tenant owes for a time, from `start_time` on and before `end_time`, computed from the ledger's entries."""

    tenant: str
    start_time: datetime
    end_time: datetime
    lines: tuple[StatementLine, ...]
    amount_nanos: int
    currency: str
    entry_count: int
    entries_sha256: str
    """Over the entries in their order; `trellis usage verify` computes it anew."""
    sums_agree: bool
    """Whether the sums that usage is answered from say the same as the entries."""
