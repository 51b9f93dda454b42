"""A claim with what was measured."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.serving_rig.claims import CLAIMS, Claim


@dataclass(frozen=True, slots=True)
class Finding:
    """Ours and the peer's values, one of each a round, measured one after the other."""

    claim: Claim
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    def __post_init__(self) -> None:
        assert self.ours
        assert len(self.ours) == len(self.theirs)

    @classmethod
    def of(cls, name: str, ours: Sequence[float], theirs: Sequence[float]) -> "Finding":
        """For the claim of this name."""
        return cls(CLAIMS[name], tuple(ours), tuple(theirs))

    @property
    def ratios(self) -> list[float]:
        """Of each round."""
        return [one / other for one, other in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the rounds'; of an error, the error itself."""
        return statistics.median(self.ours if self.is_error else self.ratios)

    @property
    def is_error(self) -> bool:
        """Whether the value itself is judged, and the peer's is only shown."""
        return self.claim.name.endswith("_error")

    @property
    def passed(self) -> bool | None:
        """Whether the bar is reached; None without one."""
        return None if self.claim.bar is None else self.claim.bar.holds(self.ratio)

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        judged = self.ours if self.is_error else self.ratios
        return {
            "name": self.claim.name,
            "value": _rounded(statistics.median(self.ours)),
            "unit": self.claim.unit,
            "peer": self.claim.peer,
            "peer_value": _rounded(statistics.median(self.theirs)),
            "ratio": _rounded(self.ratio),
            "ratio_min": _rounded(min(judged)),
            "ratio_max": _rounded(max(judged)),
            "rounds": len(self.ours),
            "bar": None if self.claim.bar is None else str(self.claim.bar),
            "passed": self.passed,
            "expected": self.claim.expected,
        }


@dataclass(frozen=True, slots=True)
class Point:
    """How fast one system was with so many adapters and requests at once; medians of rounds."""

    system: str
    adapters: int
    at_once: int
    rate: float
    """Tokens of answers a second."""
    wait: float | None
    """Seconds to first token; None for a system that shows nothing before the end."""

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "system": self.system,
            "adapters": self.adapters,
            "at_once": self.at_once,
            "tokens_per_second": _rounded(self.rate),
            "seconds_to_first_token": None if self.wait is None else _rounded(self.wait),
        }


def _rounded(value: float, digits: int = 5) -> float:
    return float(f"{value:.{digits}g}")
