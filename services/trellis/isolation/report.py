"""What all checks found."""

from dataclasses import dataclass
from datetime import datetime

from trellis.isolation.finding import Finding, Outcome


@dataclass(frozen=True, slots=True)
class Report:
    """Of one run on one installation."""

    endpoint: str
    server_version: str
    time: datetime
    tenants: tuple[str, ...]
    """The two that were made for it."""
    findings: tuple[Finding, ...]
    left_behind: tuple[str, ...] = ()
    """What could not be deleted again, and why."""

    def count(self, outcome: Outcome) -> int:
        """How many checks came out so."""
        return sum(finding.outcome is outcome for finding in self.findings)

    @property
    def isolated(self) -> bool:
        """Whether no check failed, and at least one was made."""
        return not self.count(Outcome.FAILED) and self.count(Outcome.PASSED) > 0
