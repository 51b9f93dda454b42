"""A control loop: does one thing again and again until it is told to stop, whatever goes wrong in between."""

import asyncio
import random
import time
from typing import Protocol

import structlog
from prometheus_client import Counter, Histogram

_log = structlog.get_logger(__name__)
_SECONDS = Histogram("trellis_control_loop_seconds", "Duration of one round of a control loop.", ["loop"])
_ERRORS = Counter("trellis_control_loop_errors_total", "Rounds of a control loop that raised.", ["loop"])
_LONGEST_PAUSE = 30.0


class Step(Protocol):
    """What a loop does in a round; all of its state is in the database, so that any server may do the next round."""

    name: str

    async def once(self) -> bool:
        """One round; True if there may be more to do at once."""
        ...


class ControlLoop:
    """Runs a step every `interval` seconds, sooner when it says that there is more or somebody wakes it."""

    def __init__(self, step: Step, interval: float, rng: random.Random | None = None) -> None:
        self._step = step
        self._interval = interval
        self._rng = rng or random.Random()
        self._stopping = False
        self._wake = asyncio.Event()
        self._failures = 0

    @property
    def name(self) -> str:
        """The step's name."""
        return self._step.name

    def stop(self) -> None:
        """Ends the loop after its present round."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Rounds until `stop`."""
        while not self._stopping:
            self._wake.clear()
            more = await self._round()
            if not more and not self._stopping:
                await self._pause()

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
            _SECONDS.labels(self.name).observe(time.perf_counter() - begun)
        self._failures = 0
        return more

    async def _pause(self) -> None:
        # Servers that started together shall not knock on the database together; failures wait longer each time.
        longest = min(_LONGEST_PAUSE, self._interval * (1 << min(self._failures, 8)))
        try:
            await asyncio.wait_for(self._wake.wait(), longest * self._rng.uniform(0.8, 1.2))
        except TimeoutError:
            return
