"""How often a stream is sent something, when there are many of them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

_LONGEST: Final = 0.2
_SHORTEST: Final = 0.005
"""Seconds; a shorter wait costs more than it saves."""


class Pace:
    """Bounds the messages of all streams together: each takes Serve's proxy a fixed time, however little is in it.

    A stream's first message is sent at once and so is its last; between, the more streams there are, the more of each
    one's pieces go together. A lone stream's go one by one.
    """

    def __init__(self, messages_per_second: int) -> None:
        self._messages_per_second = messages_per_second
        self._streams = 0

    @property
    def interval(self) -> float:
        """Seconds between two messages of one stream."""
        return min(_LONGEST, self._streams / self._messages_per_second)

    async def gathered(self, frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The same bytes in fewer pieces; `frames` is closed however it ends."""
        waiting: asyncio.Queue[bytes] = asyncio.Queue()
        pump = asyncio.create_task(_pump(frames, waiting))
        self._streams += 1
        try:
            while not pump.done() or not waiting.empty():
                first = await waiting.get()
                data = first + b"".join(waiting.get_nowait() for _ in range(waiting.qsize()))
                if data:
                    yield data
                if self.interval >= _SHORTEST:
                    await asyncio.wait({pump}, timeout=self.interval)
            pump.result()
        finally:
            self._streams -= 1
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)


async def _pump(frames: AsyncGenerator[bytes, None], waiting: asyncio.Queue[bytes]) -> None:
    try:
        async with aclosing(frames):
            async for frame in frames:
                waiting.put_nowait(frame)
    finally:
        waiting.put_nowait(b"")  # wakes who waits for more
