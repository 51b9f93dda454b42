"""What the scheduler last decided, in the database: one row, which whoever asks for a place in the queue reads."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from trellis.server.domain.board import Board, BoardLine, Foretold
from trellis.server.domain.tuning_job import QueueCode, StartInterval
from trellis.server.store import tables
from trellis.server.store.transaction import Rows

_ID = 1


class SqlBoard(Rows):
    """See queue_ports.BoardRow."""

    async def get(self) -> Board | None:
        row = await self._transaction.row(select(tables.scheduler_board))
        return None if row is None else Board(row.time, tuple(map(_read, row.board["lines"])))

    async def foretold(self) -> Mapping[str, Foretold]:
        row = await self._transaction.row(select(tables.scheduler_board))
        told = row.board.get("foretold", {}) if row is not None else {}  # an older server writes none
        return {uid: Foretold(_time(said), _interval(times)) for uid, (said, *times) in told.items()}

    async def time(self) -> datetime | None:
        row = await self._transaction.row(select(tables.scheduler_board.c.time))
        return None if row is None else row.time

    async def put(self, board: Board) -> None:
        values = {"id": _ID, "time": board.time, "board": _written(board)}
        await self._transaction.put(tables.scheduler_board, values)


def _written(board: Board) -> dict[str, Any]:
    told = {uid: [int(one.time.timestamp()), *_seconds(one.start)] for uid, one in board.foretold.items()}
    return {"lines": [_write(line) for line in board.lines], "foretold": told}


def _write(line: BoardLine) -> list[Any]:
    # Short, as there may be ten thousand: times are whole seconds since 1970.
    return [line.uid, line.code.value, *([] if line.start is None else _seconds(line.start))]


def _seconds(start: StartInterval) -> list[int]:
    return [int(at.timestamp()) for at in (start.expected, start.earliest, start.latest)]


def _read(values: list[Any]) -> BoardLine:
    uid, code, *times = values
    return BoardLine(uid, QueueCode(code), _interval(times) if times else None)


def _interval(times: list[int]) -> StartInterval:
    return StartInterval(*map(_time, times))


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
