from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from trellis.serving.pace import Pace


class Source:
    """Frames that a test lets go one by one."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.closed = False

    async def frames(self) -> AsyncGenerator[bytes, None]:
        try:
            while (frame := await self.queue.get()) is not None:
                if frame == b"!":
                    raise RuntimeError("it broke")
                yield frame
        finally:
            self.closed = True

    def give(self, *frames: bytes | None) -> None:
        for frame in frames:
            self.queue.put_nowait(frame)


async def test_the_first_comes_at_once_and_the_rest_together_with_the_last() -> None:
    source, pace = Source(), Pace(1)  # one message a second: the longest interval there is
    async with asyncio.timeout(10), aclosing(pace.gathered(source.frames())) as chunks:
        source.give(b"a")
        assert await anext(chunks) == b"a"
        source.give(b"b", b"c", b"d", None)
        assert await anext(chunks) == b"bcd"
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)
    assert source.closed


async def test_nothing_is_lost_or_changes_places() -> None:
    source, pace = Source(), Pace(100)
    frames = [b"%d," % number for number in range(300)]

    async def give() -> None:
        for start in range(0, len(frames), 7):
            source.give(*frames[start : start + 7])
            await asyncio.sleep(0)
        source.give(None)

    async with asyncio.timeout(20):
        giving = asyncio.create_task(give())
        assert b"".join([chunk async for chunk in pace.gathered(source.frames())]) == b"".join(frames)
        await giving


async def test_a_lone_stream_is_sent_as_it_comes() -> None:
    source, pace = Source(), Pace(1000)
    async with asyncio.timeout(10), aclosing(pace.gathered(source.frames())) as chunks:
        for frame in (b"a", b"b", b"c"):
            source.give(frame)
            assert await anext(chunks) == frame
        source.give(None)
        assert [chunk async for chunk in chunks] == []


async def test_the_interval_grows_with_the_streams_up_to_a_bound() -> None:
    pace = Pace(100)
    streams = [pace.gathered(source.frames()) for source in (Source() for _ in range(50))]
    waiting = [asyncio.create_task(anext(stream)) for stream in streams]
    await asyncio.sleep(0)
    assert pace.interval == 0.2
    for task in waiting[10:]:
        task.cancel()
    await asyncio.gather(*waiting[10:], return_exceptions=True)
    assert pace.interval == pytest.approx(0.1)
    for task in waiting[:10]:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert pace.interval == 0


async def test_who_leaves_closes_the_source_and_what_breaks_is_raised() -> None:
    source, pace = Source(), Pace(1)
    async with asyncio.timeout(10):
        async with aclosing(pace.gathered(source.frames())) as chunks:
            source.give(b"a")
            await anext(chunks)
        assert source.closed
        broken = Source()
        broken.give(b"a", b"!")
        with pytest.raises(RuntimeError, match="it broke"):
            _ = [chunk async for chunk in pace.gathered(broken.frames())]
