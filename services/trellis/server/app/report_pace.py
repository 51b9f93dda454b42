"""How often running jobs report: often while there are few, and no more than the servers can bear when there are many."""

from datetime import timedelta
from typing import Final

OFTEN: Final = 0.7
"""Seconds between two reports of a job while nothing speaks against it: about what people notice."""


class ReportPace:
    """The pause between two reports of a job, so that all jobs together make about so many a second.

    A report costs a transaction, some 3 ms of one core: without a bound four thousand jobs would take sixteen cores. No job is asked
    to report less often than a third of its lease, within which it must be heard.
    """

    def __init__(self, reports_per_second: float = 100.0, lease: timedelta = timedelta(seconds=30)) -> None:
        self._most = reports_per_second
        self._longest = lease.total_seconds() / 3
        self._running = 0

    def see(self, running: int) -> None:
        """So many jobs run at present."""
        self._running = running

    @property
    def seconds(self) -> float:
        """The pause."""
        return max(OFTEN, min(self._running / self._most, self._longest))
