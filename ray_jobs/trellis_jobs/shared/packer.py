"""How a batch is cut into chunks, and which chunks of all jobs share a pass."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from trellis_jobs.shared.work import Compute, Lane, Piece


def cut(items: Sequence[int], length_of: Callable[[int], int], max_tokens: int, parts: int = 1) -> Iterator[list[int]]:
    """Runs of whole items in their order, of up to so many tokens each, at least one item, and at least `parts` runs.

    It looks at nothing but the batch: what a chunk gives must not depend on who else is on the trainer.
    """
    most = -(-len(items) // parts)
    run: list[int] = []
    tokens = 0
    for item in items:
        length = length_of(item)
        if run and (tokens + length > max_tokens or len(run) == most):
            yield run
            run, tokens = [], 0
        run.append(item)
        tokens += length
    if run:
        yield run


@dataclass(frozen=True, slots=True)
class Pass:
    """Pieces that are computed together, and the lane that each is of; a lane's come in their order."""

    pieces: tuple[tuple[Lane, Piece], ...]
    gradient: bool

    @property
    def tokens(self) -> int:
        """Positions of all pieces."""
        return sum(piece.chunk.tokens for _, piece in self.pieces)


class Turns:
    """Whose turn it is, so that all get alike."""

    def __init__(self) -> None:
        self._now = 0.0

    def pick(self, lanes: Iterable[Lane]) -> Lane | None:
        """Of those with something to do, the one for which least was done."""
        lane = min((lane for lane in lanes if lane.ready), key=lambda lane: lane.served, default=None)
        if lane is not None:
            self._now = max(self._now, lane.served)
        return lane

    def join(self, lane: Lane) -> None:
        """A lane has come, or come back from waiting: nobody is owed a past, nor has to wait until others have theirs."""
        lane.served = max(lane.served, self._now)


def fill(first: Lane, lanes: Iterable[Lane], budget: int) -> Pass:
    """A pass that begins with the first lane's next piece; then, always for the one that had least, what still fits.

    A lane's pieces are taken in their order, as the order in which gradients are added up is part of the result.
    """
    assert isinstance(first.request, Compute)
    gradient = first.request.gradient
    queues = {lane: _Queue(lane) for lane in lanes if _asks(lane, gradient=gradient)}
    taken: list[tuple[Lane, Piece]] = []
    left = budget
    turn: _Queue | None = queues[first]
    while turn is not None:
        piece = turn.take()
        taken.append((turn.lane, piece))
        left -= piece.chunk.tokens
        turn = min((queue for queue in queues.values() if queue.fits(left)), key=lambda q: q.served, default=None)
    return Pass(tuple(taken), gradient)


def _asks(lane: Lane, *, gradient: bool) -> bool:
    return isinstance(lane.request, Compute) and lane.request.gradient == gradient


class _Queue:
    """A lane's pieces that are not done, while a pass is put together."""

    def __init__(self, lane: Lane) -> None:
        assert isinstance(lane.request, Compute)
        self.lane = lane
        self.served = lane.served
        self._pieces = lane.request.pieces
        self._next = len(lane.request.found)

    def fits(self, tokens: int) -> bool:
        return self._next < len(self._pieces) and self._pieces[self._next].chunk.tokens <= tokens

    def take(self) -> Piece:
        piece = self._pieces[self._next]
        self._next += 1
        self.served += self.lane.cost(piece.chunk.tokens)
        return piece
