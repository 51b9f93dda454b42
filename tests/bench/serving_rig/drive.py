"""Sends a workload to an engine that is stepped, and keeps the times. Standard library only."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

from tests.bench.serving_rig.workload import Ask, Workload


class Stepped(Protocol):
    """An engine as it is driven."""

    def submit(self, number: int, ask: Ask) -> None:
        """Take this request on."""
        ...

    def step(self) -> Iterable[tuple[int, int, bool]]:
        """Go on a little: the numbers of requests, how many tokens came for each, and whether it is complete."""
        ...

    def cancel(self, number: int) -> None:
        """Drop this request, which is not complete."""
        ...


@dataclass(slots=True)
class Timing:
    """When what happened, in seconds from the start; of requests that were dropped, -1."""

    seconds: float = 0.0
    tokens: int = 0
    """Of all answers together."""
    sent: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """The first token of each request; empty for a system that shows none before the end."""
    ended: list[float] = field(default_factory=list)
    pieces: list[tuple[float, int, int]] = field(default_factory=list)
    """(when, which request, how many tokens came)."""

    @property
    def rate(self) -> float:
        """Tokens of answers a second."""
        return self.tokens / self.seconds

    @property
    def waits(self) -> list[float]:
        """The time to first token of each request that had one."""
        return [first - sent for sent, first in zip(self.sent, self.first, strict=True) if first >= 0]

    def to_json(self) -> dict[str, Any]:
        """As it goes through a pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(**{**values, "pieces": [(when, number, tokens) for when, number, tokens in values["pieces"]]})


@dataclass(slots=True)
class Lane:
    """Requests that are sent one after another, so many at once."""

    numbers: list[int]
    """Those that are not sent yet, the last one first."""
    room: int


def lanes(workload: Workload) -> Sequence[Lane]:
    """One for all, or one for each tenant that has a room of its own."""
    everyone = range(len(workload.asks))
    if not workload.rooms:
        return [Lane(list(reversed(everyone)), workload.at_once)]
    return [
        Lane([number for number in reversed(everyone) if workload.asks[number].tenant == tenant], room)
        for tenant, room in workload.rooms
    ]


class Drive:
    """One run of a workload."""

    def __init__(
        self,
        engine: Stepped,
        workload: Workload,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        count = len(workload.asks)
        self._engine = engine
        self._asks = workload.asks
        self._until = workload.until
        self._due = workload.arrivals or (0.0,) * count
        self._lanes = lanes(workload)
        self._flying: dict[int, Lane] = {}
        self._clock = clock
        self._sleep = sleep
        self._start = 0.0
        self._timing = Timing(sent=[-1.0] * count, first=[-1.0] * count, ended=[-1.0] * count)

    def run(self) -> Timing:
        """Send all requests and wait for the last token of the last one; then drop what is left, if anything may be."""
        self._start = self._clock()
        while not self._is_enough():
            self._send()
            if self._flying:
                self._note(list(self._engine.step()))
            else:
                self._sleep(
                    max(0.0, min(self._due[lane.numbers[-1]] for lane in self._lanes if lane.numbers) - self._now())
                )
        self._timing.seconds = self._now()
        for number in self._flying:
            self._engine.cancel(number)
        return self._timing

    def _is_enough(self) -> bool:
        left = [*self._flying, *(number for lane in self._lanes for number in lane.numbers)]
        return not any(self._asks[number].tenant == self._until for number in left) if self._until else not left

    def _now(self) -> float:
        return self._clock() - self._start

    def _send(self) -> None:
        now = self._now()
        for lane in self._lanes:
            while lane.numbers and lane.room and self._due[lane.numbers[-1]] <= now:
                number = lane.numbers.pop()
                lane.room -= 1
                self._flying[number] = lane
                self._timing.sent[number] = self._due[number] or now
                self._engine.submit(number, self._asks[number])

    def _note(self, news: Sequence[tuple[int, int, bool]]) -> None:
        now, timing = self._now(), self._timing
        for number, tokens, is_complete in news:
            if tokens:
                timing.tokens += tokens
                timing.pieces.append((now, number, tokens))
                if timing.first[number] < 0:
                    timing.first[number] = now
            if is_complete:
                timing.ended[number] = now
                self._flying.pop(number).room += 1
