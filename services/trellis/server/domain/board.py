"""What the scheduler last decided, for whoever asks for a job's place in the queue and its predicted start."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from trellis.server.domain.tuning_job import QueueCode, StartInterval


@dataclass(frozen=True, slots=True)
class BoardLine:
    """A job that waits."""

    uid: str
    code: QueueCode
    start: StartInterval | None = None
    """None where nothing can be said."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """When a job was likely to start, as was first said when it had begun to wait; what comes of it is measured."""

    time: datetime
    """When that was said."""
    start: StartInterval


@dataclass(frozen=True, slots=True)
class Board:
    """The jobs that wait, in the order in which the scheduler looks at them."""

    time: datetime
    lines: tuple[BoardLine, ...] = ()
    foretold: Mapping[str, Foretold] = field(default_factory=dict, compare=False)
    """By uid, of jobs that wait."""
    positions: Mapping[str, int] = field(init=False, repr=False, compare=False)
    """By uid: how many jobs stand before it."""

    def __post_init__(self) -> None:
        positions = {line.uid: position for position, line in enumerate(self.lines)}
        object.__setattr__(self, "positions", positions)

    def line_of(self, uid: str) -> BoardLine | None:
        """The job's; None where the scheduler has not seen it wait."""
        position = self.positions.get(uid)
        return None if position is None else self.lines[position]
