"""What a check found."""

from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """How a check came out."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    """One tenant reached the other."""
    SKIPPED = "SKIPPED"
    """It could not be tried; `detail` says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check."""

    check: str
    """Its id, such as `names.denied`."""
    title: str
    """What must hold, as a sentence."""
    outcome: Outcome
    detail: str = ""
    """What was tried, with the numbers; of a failure the first thing that went wrong."""
    evidence: tuple[str, ...] = field(default=())
    """Of a failure: each thing that went wrong, at most twenty."""
    tries: int = 0
    """Calls that were judged."""
    seconds: float = 0.0
