"""Calls in a closed loop: so many callers at once, each of which calls again when it has its answer."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

Call = Callable[[int], Awaitable[object]]
"""A call; the number is never given twice."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What a loop of calls took."""

    calls_per_second: float
    seconds: tuple[float, ...]
    """Of each call."""

    @property
    def p50_ms(self) -> float:
        """The median, in milliseconds."""
        return 1000 * statistics.median(self.seconds)

    @property
    def p99_ms(self) -> float:
        """Of a hundred calls the slowest but one, in milliseconds."""
        return 1000 * percentile(self.seconds, 0.99)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def together(timings: Sequence[Timing]) -> Timing:
    """Several rounds as one: the median of the rates, and all calls."""
    rate = statistics.median(timing.calls_per_second for timing in timings)
    return Timing(rate, tuple(seconds for timing in timings for seconds in timing.seconds))


class Numbers:
    """Numbers that nobody had."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """One more."""
        self._last += 1
        return self._last


async def measure(call: Call, at_once: int, seconds: float, numbers: Numbers) -> Timing:
    """So many callers at once, for so long; a call that fails ends the measurement."""
    took: list[float] = []
    begun = time.perf_counter()
    end = begun + seconds

    async def caller() -> None:
        while (now := time.perf_counter()) < end:
            await call(numbers.next())
            took.append(time.perf_counter() - now)

    async with asyncio.TaskGroup() as callers:
        for _ in range(at_once):
            callers.create_task(caller())
    return Timing(len(took) / (time.perf_counter() - begun), tuple(took))
