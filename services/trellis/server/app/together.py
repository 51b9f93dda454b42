"""Reads that several callers ask for at the same time, made once for all of them."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context as Variables
from typing import Any, TypeVar

T = TypeVar("T")


class Together:
    """Who asks for what somebody else is just reading gets that. It may be a moment older than the question."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def read(self, key: Hashable, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `read` gives; it goes on for the others when this caller is cancelled."""
        running: asyncio.Task[T] | None = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.create_task(read(), context=Variables())
            running.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(running)

    async def drain(self) -> None:
        """Wait for what is being read."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _forget(self, key: Hashable, done: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # whoever still waits is told; if nobody does, there is nobody to tell
