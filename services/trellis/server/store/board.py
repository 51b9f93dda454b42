"""What the scheduler last decided, in the database: one row, which whoever asks for a place in the queue reads."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from trellis.server.domain.board import Board, BoardLine
from trellis.server.domain.tuning_job import QueueCode, StartInterval
from trellis.server.store import tables
from trellis.server.store.transaction import Rows

_ID = 1


class SqlBoard(Rows):
    """See queue_ports.BoardRow."""

    async def get(self) -> Board | None:
        row = await self._transaction.row(select(tables.scheduler_board))
        return None if row is None else Board(row.time, tuple(map(_read, row.board["lines"])))

    async def time(self) -> datetime | None:
        row = await self._transaction.row(select(tables.scheduler_board.c.time))
        return None if row is None else row.time

    async def put(self, board: Board) -> None:
        values = {"id": _ID, "time": board.time, "board": {"lines": [_write(line) for line in board.lines]}}
        await self._transaction.put(tables.scheduler_board, values)


def _write(line: BoardLine) -> list[Any]:
    # Short, as there may be ten thousand: times are whole seconds since 1970.
    start = line.start
    times = [] if start is None else [int(at.timestamp()) for at in (start.expected, start.earliest, start.latest)]
    return [line.uid, line.code.value, *times]


def _read(values: list[Any]) -> BoardLine:
    uid, code, *times = values
    start = StartInterval(*(datetime.fromtimestamp(time, UTC) for time in times)) if times else None
    return BoardLine(uid, QueueCode(code), start)
