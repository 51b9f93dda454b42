"""Writes the board: what was decided, for whoever asks for a job's place in the queue and its likely start."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from trellis.server.control.context import ControlContext
from trellis.server.control.foretelling import Foretelling
from trellis.server.domain.board import Board, BoardLine
from trellis.server.domain.tuning_job import StartInterval
from trellis.server.scheduler.policy import Decisions
from trellis.server.scheduler.predict import Prediction, predict
from trellis.server.scheduler.snapshot import Snapshot

_PREDICTED_EVERY: Final = timedelta(seconds=10)
"""Starts are predicted so often: of a long queue that takes a second."""


class Decided:
    """What this server decided last, until it is on the board."""

    def __init__(self) -> None:
        self._latest: tuple[Snapshot, Decisions] | None = None

    def put(self, snapshot: Snapshot, decisions: Decisions) -> None:
        """Something was decided."""
        self._latest = snapshot, decisions

    def take(self) -> tuple[Snapshot, Decisions] | None:
        """What was not taken yet."""
        latest, self._latest = self._latest, None
        return latest


class KeepBoard:
    """Writes when the order or a reason is another than before, and when starts were predicted anew. One server at a time
    does, which decides as often as the others: two would write their predictions over each other's."""

    name = "board"

    def __init__(self, context: ControlContext, decided: Decided) -> None:
        self._context = context
        self._decided = decided
        self._board: Board | None = None
        self._foretelling = Foretelling(context)
        self._starts: Mapping[str, StartInterval] = {}
        self._predict_time: datetime | None = None

    async def once(self) -> bool:
        """Bring the board up to date, if it is not."""
        latest = self._decided.take()
        if latest is None:
            return False
        snapshot, decisions = latest
        await self._predict(snapshot, decisions)
        waiting = decisions.waiting
        told = await self._foretelling.told(
            snapshot.now, {uid: start for uid, start in self._starts.items() if uid in waiting}
        )
        board = Board(snapshot.now, self._lines(decisions), {uid: one for uid, one in told.items() if uid in waiting})
        if not await self._is_written(board):
            async with self._context.units() as unit:
                await unit.board.put(board)
                await unit.commit()
            self._board = board
        await self._foretelling.fulfil(board.foretold, {uid: one for uid, one in told.items() if uid not in waiting})
        return False

    async def _predict(self, snapshot: Snapshot, decisions: Decisions) -> None:
        last = self._predict_time
        if not decisions.waiting or (last is not None and snapshot.now - last < _PREDICTED_EVERY):
            return
        # In a thread: calls are answered meanwhile.
        found = await asyncio.to_thread(predict, snapshot)
        self._starts = {uid: _interval(found[uid]) for uid in decisions.waiting if uid in found}
        self._predict_time = snapshot.now

    async def _is_written(self, board: Board) -> bool:
        if self._board is None or (self._board.lines, self._board.foretold) != (board.lines, board.foretold):
            return False
        async with self._context.units(write=False) as unit:
            return await unit.board.time() == self._board.time

    def _lines(self, decisions: Decisions) -> tuple[BoardLine, ...]:
        waiting = decisions.waiting
        return tuple(BoardLine(uid, waiting[uid].code, self._starts.get(uid)) for uid in decisions.order)


def _interval(prediction: Prediction) -> StartInterval:
    return StartInterval(prediction.start, prediction.earliest, prediction.latest)
