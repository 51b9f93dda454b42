"""A control loop: does one thing again and again until it is told to stop, whatever goes wrong in between."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Protocol

import structlog
from prometheus_client import Counter, Gauge, Histogram

_log = structlog.get_logger(__name__)
_SECONDS = Histogram("trellis_control_loop_seconds", "Duration of one round of a control loop.", ["loop"])
_ERRORS = Counter("trellis_control_loop_errors_total", "Rounds of a control loop that raised.", ["loop"])
_DONE = Gauge(
    "trellis_control_loop_done_timestamp_seconds",
    "When a round last ended without an error, in seconds since 1970.",
    ["loop"],
)
_LONGEST_PAUSE = 30.0
_SHORTEST_PAUSE = 0.05
"""Between two rounds, however often the loop is woken."""
_REST = 3.0
"""So many times as long as a round took a loop that can be woken rests before the next one, within limits."""
_LONGEST_REST = 5.0
_running: ContextVar[object] = ContextVar("trellis_control_loop", default=None)
"""The loop whose round this is: what it changes itself is no reason for another round."""


class Step(Protocol):
    """What a loop does in a round; all of its state is in the database, so that any server may do the next round."""

    name: str

    async def once(self) -> bool:
        """One round; True if there may be more to do at once."""
        ...


class ControlLoop:
    """Runs a step every `interval` seconds, sooner when it says that there is more or what it works on was changed.

    `wakes_on` names what concerns it, as app.bell does: a change by this process wakes it at once, one by another
    process is found after the interval.
    """

    def __init__(
        self,
        step: Step,
        interval: float,
        rng: random.Random | None = None,
        *,
        wakes_on: Iterable[str] = (),
        at_end: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._step = step
        self._interval = interval
        self._wakes_on = frozenset(wakes_on)
        self._at_end = at_end
        self._rng = rng or random.Random()
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._failures = 0
        self._took = 0.0
        """Seconds of the last round."""

    @property
    def name(self) -> str:
        """The step's name."""
        return self._step.name

    def pause_after(self, seconds: float) -> float:
        """From a round that took so long to the next one, when nothing wakes the loop."""
        return max(self._interval, self._rest(seconds) if self._wakes_on else 0.0)

    async def once(self) -> bool:
        """One round by itself."""
        return await self._step.once()

    def hear(self, touched: frozenset[str]) -> None:
        """Something was committed by this process; see app.bell."""
        if not self._wakes_on.isdisjoint(touched) and _running.get() is not self:
            self._wake.set()

    def stop(self) -> None:
        """Ends the loop after its present round."""
        self._stop.set()
        self._wake.set()

    async def run(self) -> None:
        """Rounds until `stop`, and at last `at_end`."""
        _running.set(self)
        while not self._stop.is_set():
            self._wake.clear()
            more = await self._round()
            if not more and not self._stop.is_set():
                await self._pause()
        if self._at_end is not None:
            await self._at_end()

    async def _round(self) -> bool:
        begun = time.perf_counter()
        try:
            more = await self._step.once()
        except Exception:  # noqa: BLE001 - the edge of a loop, which goes on and logs
            self._failures += 1
            _ERRORS.labels(self.name).inc()
            _log.exception("control_loop_failed", loop=self.name, failures=self._failures)
            return False
        finally:
            self._took = time.perf_counter() - begun
            _SECONDS.labels(self.name).observe(self._took)
        self._failures = 0
        _DONE.labels(self.name).set_to_current_time()
        return more

    async def _pause(self) -> None:
        # Servers that started together shall not knock on the database together; failures wait longer each time.
        longest = min(_LONGEST_PAUSE, self._interval * (1 << min(self._failures, 8)))
        pause = longest * self._rng.uniform(0.8, 1.2)
        if self._wakes_on and not self._failures:
            # A round over a long queue may be woken all the time; it shall leave most of the time to others.
            rest = self._rest(self._took)
            pause = max(pause, rest)
            shortest = min(max(_SHORTEST_PAUSE, rest), pause)
            await self._sleep(shortest, self._stop)
            pause -= shortest
        await self._sleep(pause, self._stop if self._failures else self._wake)

    @staticmethod
    def _rest(took: float) -> float:
        return min(_REST * took, _LONGEST_REST)

    @staticmethod
    async def _sleep(seconds: float, unless: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(unless.wait(), seconds)
        except TimeoutError:
            return
