"""Counters of bounded size for streams of any length."""

from __future__ import annotations

from collections import Counter
from typing import Final

from trellis.formats import LineError
from trellis.reports.report import Lengths, Lines

MOST_LINE_NUMBERS: Final = 1000
_MOST_KEYS: Final = 100


class Findings:
    """Errors or warnings: the first `most` of them whole, and exact counts by code."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.kept: list[LineError] = []
        self.counts: Counter[str] = Counter()

    def add(self, *findings: LineError) -> None:
        """Count some findings, and keep them while there is room."""
        self.counts.update(finding.code for finding in findings)
        self.kept += findings[: max(self._most - len(self.kept), 0)]


class LineTally:
    """Counts lines and keeps the first of their numbers."""

    def __init__(self) -> None:
        self._count = 0
        self._first: list[int] = []

    def add(self, line: int) -> None:
        """Count a line."""
        self._count += 1
        if len(self._first) < MOST_LINE_NUMBERS:
            self._first.append(line)

    def total(self) -> Lines:
        """The lines counted so far."""
        return Lines(self._count, tuple(self._first))


class LengthTally:
    """Counts lengths; as there are not many different ones, the percentiles are exact."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, length: int) -> None:
        """Count a length."""
        self._counts[length] += 1

    def total(self) -> Lengths | None:
        """The percentiles (nearest rank), or None of nothing."""
        if not self._counts:
            return None
        return Lengths(*(self._percentile(percent) for percent in (50, 90, 99, 100)))

    def _percentile(self, percent: int) -> int:
        rank = -(-self._counts.total() * percent // 100)
        for length in sorted(self._counts):
            rank -= self._counts[length]
            if rank <= 0:
                return length
        raise AssertionError("the rank is within the total")


class KeyTally:
    """Counts names, up to a number of different ones."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, keys: frozenset[str]) -> None:
        """Count each of the names once more."""
        for key in sorted(keys):
            if key[:80] in self.counts or len(self.counts) < _MOST_KEYS:
                self.counts[key[:80]] += 1
