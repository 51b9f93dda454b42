"""A claim with what was measured."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.training_rig.claims import CLAIMS, Claim, Judged


@dataclass(frozen=True, slots=True)
class Finding:
    """Ours and the peer's values, one of each a round, measured one after the other; no peer's for a value alone."""

    claim: Claim
    ours: tuple[float, ...]
    theirs: tuple[float, ...] = ()
    note: str = ""
    """How it was measured, or whether both did equal work."""

    def __post_init__(self) -> None:
        assert self.ours
        assert len(self.theirs) == (0 if self.claim.judged is Judged.VALUE else len(self.ours))

    @classmethod
    def of(cls, name: str, ours: Sequence[float], theirs: Sequence[float] = (), note: str = "") -> "Finding":
        """For the claim of this name."""
        return cls(CLAIMS[name], tuple(ours), tuple(theirs), note)

    @property
    def judged(self) -> list[float]:
        """Of each round, what is held against the bar; greater is better unless the bar says otherwise."""
        match self.claim.judged:
            case Judged.VALUE:
                return list(self.ours)
            case Judged.RATE:
                return [one / other for one, other in zip(self.ours, self.theirs, strict=True)]
            case Judged.SECONDS:
                return [other / one for one, other in zip(self.ours, self.theirs, strict=True)]

    @property
    def result(self) -> float:
        """The median of the rounds'."""
        return statistics.median(self.judged)

    @property
    def passed(self) -> bool | None:
        """Whether the bar is reached; None without one."""
        return None if self.claim.bar is None else self.claim.bar.holds(self.result)

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        claim = self.claim
        return {
            "name": claim.name,
            "value": rounded(statistics.median(self.ours)),
            "unit": claim.unit,
            "peer": claim.peer or None,
            "peer_value": rounded(statistics.median(self.theirs)) if self.theirs else None,
            "judged": claim.judged.value,
            "result": rounded(self.result),
            "result_min": rounded(min(self.judged)),
            "result_max": rounded(max(self.judged)),
            "rounds": len(self.ours),
            "bar": None if claim.bar is None else str(claim.bar),
            "passed": self.passed,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Point:
    """What one system did with so many tenants; medians of rounds."""

    part: str
    """Such as `steps` or `grid`."""
    system: str
    tenants: int
    length: str
    """Tokens of a tenant's step, or `short` or `long` lines."""
    mix: str
    """`same`, or `mixed` ranks and targets."""
    value: float
    unit: str

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self) | {"value": rounded(self.value)}


def rounded(value: float, digits: int = 5) -> float:
    """So many digits that count: more would be noise."""
    return float(f"{value:.{digits}g}")
