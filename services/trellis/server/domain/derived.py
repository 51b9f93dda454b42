"""What follows from the ledger's entries: sums by the hour and day of what was settled, and what each job holds."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter

HourKey = tuple[str, datetime, Meter, int, str, str, str]
"""Tenant, hour, meter, price in billionths, resource, adapter, base model."""
DayKey = tuple[str, datetime, Meter]
HoldKey = tuple[str, Meter, str]
"""Uid of the job, meter, tenant."""


@dataclass(frozen=True, slots=True)
class Derived:
    """What follows from some entries, without sums that are 0."""

    hours: Mapping[HourKey, int]
    days: Mapping[DayKey, int]
    holds: Mapping[HoldKey, int]


def derive(entries: Iterable[LedgerEntry]) -> Derived:
    """What follows from these entries; of different entries it adds up."""
    hours: Counter[HourKey] = Counter()
    days: Counter[DayKey] = Counter()
    holds: Counter[HoldKey] = Counter()
    for entry in entries:
        if entry.kind is EntryKind.SETTLE:
            details = (entry.price_nanos, entry.resource, entry.adapter, entry.base_model)
            hours[entry.tenant, hour_of(entry.time), entry.meter, *details] += entry.quantity
            days[entry.tenant, day_of(entry.time), entry.meter] += entry.quantity
        if entry.job_uid:
            sign = 1 if entry.kind is EntryKind.HOLD else -1
            holds[entry.job_uid, entry.meter, entry.tenant] += sign * entry.quantity
    return Derived(hours, days, {key: quantity for key, quantity in holds.items() if quantity})


def hour_of(time: datetime) -> datetime:
    """The beginning of the hour, in UTC."""
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_of(time: datetime) -> datetime:
    """The beginning of the day, in UTC."""
    return hour_of(time).replace(hour=0)
