"""A statement computed anew from the ledger's entries, by whoever gets it."""

import hashlib
from collections import Counter
from collections.abc import Iterable

from trellis.client.types import LedgerEntry, LedgerEntryKind, Statement, UsageMeter
from trellis.statements import amount_nanos, entry_line

Key = tuple[UsageMeter, int, int]
"""Meter, price in billionths, and for how many units."""


class StatementCheck:
    """Reads entries, in their order, and holds a statement against them."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._sums: Counter[Key] = Counter()
        self.count = 0

    @property
    def sha256(self) -> str:
        """Of the entries that were read."""
        return self._digest.hexdigest()

    def read(self, entries: Iterable[LedgerEntry]) -> None:
        """Count entries."""
        for entry in entries:
            self.count += 1
            self._digest.update(_line(entry))
            if entry.kind is LedgerEntryKind.SETTLE:
                self._sums[entry.meter, entry.price_nanos, entry.price_units] += entry.quantity

    def differences(self, statement: Statement) -> list[str]:
        """In sentences: where the statement says something else than the entries; nothing where it agrees."""
        found = []
        if statement.entry_count != self.count:
            found.append(
                f"The statement is made of {statement.entry_count:,} entries, and the ledger has {self.count:,}."
            )
        if statement.entries_sha256 != self.sha256:
            found.append(
                f"The statement's sha256 is {statement.entries_sha256}, and that of the entries {self.sha256}."
            )
        said = {(line.meter, line.price_nanos, line.price_units): line for line in statement.lines}
        for key in sorted({*said, *self._sums}):
            line, quantity = said.get(key), self._sums[key]
            if line is None or line.quantity != quantity or line.amount_nanos != amount_nanos(quantity, *key[1:]):
                stated = "nothing" if line is None else f"{line.quantity:,} for {line.amount_nanos:,} billionths"
                found.append(
                    f"Of {key[0]} at {key[1]:,} the statement says {stated}, and the entries say {quantity:,}."
                )
        if statement.amount_nanos != sum(line.amount_nanos for line in statement.lines):
            found.append("The statement's lines do not add up to its amount.")
        if not statement.sums_agree:
            found.append("The server's hourly sums, from which usage is shown, differ from the entries.")
        return found


def _line(entry: LedgerEntry) -> bytes:
    return entry_line(
        entry.sequence,
        entry.time,
        entry.tenant,
        entry.kind.value,
        entry.meter.value,
        entry.quantity,
        entry.price_nanos,
        entry.tuning_job,
        entry.adapter,
        entry.base_model,
        entry.key,
    )
