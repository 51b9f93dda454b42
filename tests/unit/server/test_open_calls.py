"""A server that stops waits for what calls have left to be done, though not for ever."""

import asyncio

from trellis.server.app.open_calls import OpenCalls


async def test_the_last_thing_of_a_call_is_waited_for_though_the_call_was_cancelled_twice() -> None:
    calls, door, done = OpenCalls(), asyncio.Event(), list[str]()

    async def last() -> None:
        await door.wait()
        done.append("recorded")

    async def call() -> None:
        with calls.one():
            try:
                await asyncio.Event().wait()
            finally:
                await calls.finish(last())

    running = asyncio.create_task(call())
    for _ in range(2):
        await asyncio.sleep(0)
        running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    draining = asyncio.create_task(calls.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    door.set()
    await draining
    assert done == ["recorded"]


async def test_a_call_that_never_ends_is_given_up() -> None:
    calls = OpenCalls(patience=0.01)
    with calls.one():
        async with asyncio.timeout(20):
            await calls.drain()


async def test_without_calls_there_is_nothing_to_wait_for() -> None:
    calls = OpenCalls(patience=60)
    with calls.one():
        pass
    async with asyncio.timeout(20):
        await calls.drain()
