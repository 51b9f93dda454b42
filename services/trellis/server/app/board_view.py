"""Jobs' places in the queue and predicted starts, from what the scheduler last wrote down."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.board import Board
from trellis.server.domain.tuning_job import JobState, TuningJob

_FRESH: Final = timedelta(seconds=1)
"""So long a board that was read is shown to others too; the scheduler writes no oftener."""


class BoardView:
    """The board, read once a second at most however many ask."""

    def __init__(self) -> None:
        self._board: Board | None = None
        self._read_time: datetime | None = None

    async def board(self, unit: UnitOfWork, now: datetime) -> Board:
        """The newest, or one that was so a moment ago."""
        if self._board is None or self._read_time is None or not timedelta(0) <= now - self._read_time < _FRESH:
            self._board, self._read_time = await unit.board.get() or Board(now), now
        return self._board

    async def placed(self, unit: UnitOfWork, jobs: Sequence[TuningJob], now: datetime) -> Sequence[TuningJob]:
        """The jobs, those that wait with their places and predicted starts."""
        if not any(job.state is JobState.QUEUED for job in jobs):
            return jobs
        board = await self.board(unit, now)
        return [_placed(job, board) for job in jobs]


def _placed(job: TuningJob, board: Board) -> TuningJob:
    line = board.line_of(job.uid)
    if line is None or job.queue_reason is None:
        return job
    reason = replace(job.queue_reason, position=board.positions[job.uid], start=line.start)
    return replace(job, queue_reason=reason)
