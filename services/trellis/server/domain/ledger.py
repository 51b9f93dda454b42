"""The ledger: what was set aside, what was used, and what is free again. Entries are only ever appended."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from trellis.statements import amount_nanos


class Meter(StrEnum):
    """What is measured, in whole units."""

    ACCELERATOR_MILLISECONDS = "ACCELERATOR_MILLISECONDS"
    TRAINED_TOKENS = "TRAINED_TOKENS"
    PROMPT_TOKENS = "PROMPT_TOKENS"
    COMPLETION_TOKENS = "COMPLETION_TOKENS"
    DATASET_BYTE_HOURS = "DATASET_BYTE_HOURS"
    ARTIFACT_BYTE_HOURS = "ARTIFACT_BYTE_HOURS"


PRICE_UNITS: Final[Mapping[Meter, int]] = {
    Meter.ACCELERATOR_MILLISECONDS: 3_600_000,
    Meter.TRAINED_TOKENS: 1_000_000,
    Meter.PROMPT_TOKENS: 1_000_000,
    Meter.COMPLETION_TOKENS: 1_000_000,
    Meter.DATASET_BYTE_HOURS: 1_000_000_000,
    Meter.ARTIFACT_BYTE_HOURS: 1_000_000_000,
}
"""For so many of the meter's units a price is given: an accelerator's hour, a million tokens, a gigabyte's hour. Of one
unit most prices would be no whole number of billionths."""


class EntryKind(StrEnum):
    """What an entry says."""

    HOLD = "HOLD"
    SETTLE = "SETTLE"
    RELEASE = "RELEASE"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One entry. Of a job, what is held is the sum of its holds less that of its settlements and releases, and never
    negative: a settlement beyond what is held comes with a hold of the rest."""

    tenant: str
    key: str
    """What makes it single in the tenant: the same thing is written once."""
    kind: EntryKind
    meter: Meter
    quantity: int
    """In the meter's units; positive."""
    time: datetime
    job_uid: str = ""
    resource: str = ""
    """The name of the tuning job or export, if it is for one."""
    adapter: str = ""
    """The name of the adapter, if it is for one."""
    base_model: str = ""
    """The name of the base model, if it is for one."""
    price_nanos: int = 0
    """Of as many units as PRICE_UNITS says, when it was settled, in billionths of the currency."""
    sequence: int = 0
    """Its place in the ledger; given by the store."""


@dataclass(frozen=True, slots=True)
class UsageSum:
    """What was settled at one price; what is not grouped by is empty."""

    meter: Meter
    price_nanos: int
    quantity: int
    tenant: str = ""
    resource: str = ""
    adapter: str = ""
    base_model: str = ""
    time: datetime | None = None
    """The beginning of the hour or day."""

    @property
    def amount_nanos(self) -> int:
        """What it costs."""
        return amount_nanos(self.quantity, self.price_nanos, PRICE_UNITS[self.meter])


class NegativeHoldError(ValueError):
    """A job would hold less than nothing: more was settled or released than was held."""
