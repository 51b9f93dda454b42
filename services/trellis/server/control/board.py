"""Writes the board: what was decided, for whoever asks for a job's place in the queue."""

from datetime import timedelta
from typing import Final

from trellis.server.control.context import ControlContext
from trellis.server.domain.board import Board, BoardLine
from trellis.server.scheduler.policy import Decisions
from trellis.server.scheduler.snapshot import Snapshot

_SHORTEST: Final = timedelta(seconds=1)
"""The board is written so often at most."""


class BoardKeeper:
    """Writes when the order or a reason is another than before, by this server's or another one's decision."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._board: Board | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on the board that this server wrote."""
        return self._board is None or not self._board.lines

    async def keep(self, snapshot: Snapshot, decisions: Decisions) -> None:
        """Bring the board up to date, if it is not, and not a moment ago was."""
        if self._board is not None and snapshot.now - self._board.time < _SHORTEST:
            return
        board = Board(snapshot.now, _lines(decisions))
        async with self._context.units(write=False) as unit:
            written = await unit.board.time()
        is_ours = self._board is not None and written == self._board.time
        if is_ours and self._board is not None and self._board.lines == board.lines:
            return
        async with self._context.units() as unit:
            await unit.board.put(board)
            await unit.commit()
        self._board = board


def _lines(decisions: Decisions) -> tuple[BoardLine, ...]:
    order = decisions.order or tuple(sorted(decisions.waiting, key=lambda uid: decisions.waiting[uid].position))
    return tuple(BoardLine(uid, decisions.waiting[uid].code) for uid in order if uid in decisions.waiting)
