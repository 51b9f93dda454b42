"""The ledger: what was set aside, what was used, and what is free again. Entries are only ever appended."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Meter(StrEnum):
    """What is measured, in whole units."""

    ACCELERATOR_MILLISECONDS = "ACCELERATOR_MILLISECONDS"
    TRAINED_TOKENS = "TRAINED_TOKENS"
    PROMPT_TOKENS = "PROMPT_TOKENS"
    COMPLETION_TOKENS = "COMPLETION_TOKENS"
    DATASET_BYTE_HOURS = "DATASET_BYTE_HOURS"
    ARTIFACT_BYTE_HOURS = "ARTIFACT_BYTE_HOURS"


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
    """The name of the tuning job, if it is for one."""
    adapter: str = ""
    """The name of the adapter, if it is for one."""
    base_model: str = ""
    """The name of the base model, if it is for one."""
    price_nanos: int = 0
    """Of a unit, when it was settled, in billionths of the currency."""
    sequence: int = 0
    """Its place in the ledger; given by the store."""
