"""What a job asks of the trainer, bit by bit, so that the loop can mix the work of many."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from trellis_jobs.loss import TokenLosses
from trellis_jobs.shared.chunk import Chunk


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk, and what is made of its token losses: for one with gradients the loss, and in any case a finding."""

    chunk: Chunk
    finish: Callable[[TokenLosses], tuple[Tensor | None, Any]]
    turn: int = 0
    """Which of several processes computes it: a number that depends on the job and the chunk's place in its batch."""


@dataclass(slots=True)
class Compute:
    """Pieces to be computed in this order, in one pass or in several; the lane is sent their findings."""

    pieces: Sequence[Piece]
    gradient: bool = False
    found: list[Any] = field(default_factory=list)
    """Of the pieces that are done."""

    @property
    def next(self) -> Piece:
        """The first piece that is not done."""
        return self.pieces[len(self.found)]


@dataclass(frozen=True, slots=True)
class Slice:
    """Something short to be done with the whole model; the lane is sent what it returned."""

    run: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that happens on another thread; the lane is sent its result."""

    future: Future[Any]


Request = Compute | Slice | Wait
Script = Generator[Request, Any, Any]
"""A job's work, read from top to bottom; what it yields is done when its turn comes."""


class Lane:
    """A script on its way, and how much was done for it so far."""

    def __init__(self, script: Script, weight: float = 1.0) -> None:
        self._script = script
        self._weight = weight
        self.request: Request | None = None
        """What it waits for; None once it has ended."""
        self.served = 0.0
        """Tokens that were computed for it, divided by its weight."""

    def start(self) -> None:
        """Run up to the first request."""
        self.send(None)

    def send(self, value: Any) -> None:
        """Give it what it asked for, and run it up to its next request. Raises what the script raises."""
        try:
            self.request = self._script.send(value)
        except StopIteration:
            self.request = None

    def throw(self, error: BaseException) -> None:
        """What it asked for can't be had."""
        try:
            self.request = self._script.throw(error)
        except StopIteration:
            self.request = None

    def close(self) -> None:
        """Give it up where it stands."""
        self._script.close()
        self.request = None

    def cost(self, tokens: float) -> float:
        """What so many tokens count for it."""
        return tokens / self._weight

    def charge(self, tokens: float) -> None:
        """So many tokens were computed for it."""
        self.served += self.cost(tokens)

    @property
    def ready(self) -> bool:
        """Whether there is something to compute for it now."""
        return isinstance(self.request, Compute | Slice)
