"""What a tenant owes for a time, computed from the ledger's entries."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from trellis.names import TenantName
from trellis.server.domain.ledger import PRICE_UNITS, EntryKind, LedgerEntry, Meter
from trellis.statements import amount_nanos, entry_line


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One meter at one price."""

    meter: Meter
    price_nanos: int
    quantity: int

    @property
    def amount_nanos(self) -> int:
        """What it costs."""
        return amount_nanos(self.quantity, self.price_nanos, PRICE_UNITS[self.meter])


@dataclass(frozen=True, slots=True)
class Statement:
    """What a tenant owes for a time, from `start` on and before `end`."""

    tenant: str
    start: datetime
    end: datetime
    lines: Sequence[StatementLine]
    entry_count: int
    entries_sha256: str
    sums_agree: bool
    """Whether the hourly sums say the same as the entries, of all hours that the time touches."""

    @property
    def amount_nanos(self) -> int:
        """The sum of the lines."""
        return sum(line.amount_nanos for line in self.lines)


class StatementSum:
    """A statement while its entries are read, in their order, in pieces of any size."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._sums: Counter[tuple[Meter, int]] = Counter()
        self._count = 0

    def add(self, entries: Iterable[LedgerEntry]) -> None:
        """Count further entries."""
        for entry in entries:
            self._count += 1
            self._digest.update(_line(entry))
            if entry.kind is EntryKind.SETTLE:
                self._sums[entry.meter, entry.price_nanos] += entry.quantity

    def statement(self, tenant: str, start: datetime, end: datetime, *, sums_agree: bool) -> Statement:
        """What was counted."""
        lines = [StatementLine(meter, price, self._sums[meter, price]) for meter, price in sorted(self._sums)]
        return Statement(tenant, start, end, lines, self._count, self._digest.hexdigest(), sums_agree)


def _line(entry: LedgerEntry) -> bytes:
    return entry_line(
        entry.sequence,
        entry.time,
        str(TenantName(entry.tenant)),
        entry.kind.value,
        entry.meter.value,
        entry.quantity,
        entry.price_nanos,
        entry.resource,
        entry.adapter,
        entry.base_model,
        entry.key,
    )
