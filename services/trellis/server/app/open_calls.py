"""Calls of models that have not ended, for a server that stops: gRPC's own stop does not wait for those that it has cut off."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog

_log = structlog.get_logger(__name__)
_PATIENCE: Final = 10.0
"""Seconds; a call that was cut off has nothing left to do but to let go of its engine, and to record what it took."""


class OpenCalls:
    """Counts the calls under way, and what they have left to be done when they are gone."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._open: set[object] = set()
        self._ended = asyncio.Event()

    @contextmanager
    def one(self) -> Iterator[None]:
        """A call, from its beginning to its end."""
        call = object()
        self._open.add(call)
        try:
            yield
        finally:
            self._end(call)

    async def finish(self, last: Coroutine[Any, Any, None]) -> None:
        """Do the last thing of a call; it is done though the call is cancelled meanwhile."""
        task = asyncio.create_task(last)
        self._open.add(task)
        task.add_done_callback(self._end)
        await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait for all of it, though not for ever."""
        try:
            async with asyncio.timeout(self._patience):
                while self._open:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            _log.warning("calls_left_open", calls=len(self._open))

    def _end(self, call: object) -> None:
        self._open.discard(call)
        self._ended.set()
