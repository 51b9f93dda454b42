"""One measurement beside its peer's."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """A value in a unit, and what a named peer reached in the same run, if there is one."""

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None

    def __post_init__(self) -> None:
        assert self.name
        assert self.unit
        assert math.isfinite(self.value), f"{self.name} is {self.value}"
        assert bool(self.peer) == (self.peer_value is not None), f"{self.name} needs both of peer and peer_value"

    @property
    def ratio(self) -> float | None:
        """Our value over the peer's; None without a peer, or when the peer's is zero."""
        return self.value / self.peer_value if self.peer_value else None

    def to_json(self) -> dict[str, Any]:
        """The row as it is written; what there is not is null."""
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "peer": self.peer or None,
            "peer_value": _rounded(self.peer_value),
            "ratio": _rounded(self.ratio),
        }

    def cells(self) -> tuple[str, ...]:
        """The row as it is printed."""
        return (self.name, _shown(self.value), self.unit, self.peer, _shown(self.peer_value), _shown(self.ratio))


def _rounded(value: float | None, digits: int = 6) -> float | None:
    """Six significant digits: more would be noise."""
    return None if value is None else float(f"{value:.{digits}g}")


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
