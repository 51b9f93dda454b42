"""Sends a workload through calls that stream, and keeps the times."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from tests.bench.serving_rig.drive import Timing
from tests.bench.serving_rig.workload import Ask, Workload

Call = Callable[[Ask], AsyncIterator[int]]
"""Sends a request; yields how many tokens came with each piece of its answer."""


async def answer(workload: Workload, call: Call) -> Timing:
    """All requests, `at_once` of them on their way."""
    count = len(workload.asks)
    timing = Timing(sent=[-1.0] * count, first=[-1.0] * count, ended=[-1.0] * count)
    places = asyncio.Semaphore(workload.at_once)
    start = time.perf_counter()

    async def one(number: int, ask: Ask) -> None:
        async with places:
            timing.sent[number] = time.perf_counter() - start
            async for tokens in call(ask):
                if tokens and timing.first[number] < 0:
                    timing.first[number] = time.perf_counter() - start
                timing.tokens += tokens
            timing.ended[number] = time.perf_counter() - start

    await asyncio.gather(*(one(number, ask) for number, ask in enumerate(workload.asks)))
    timing.seconds = time.perf_counter() - start
    assert timing.tokens == sum(ask.answer_tokens for ask in workload.asks), "answers are not complete"
    return timing
