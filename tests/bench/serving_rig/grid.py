"""Requests of mixed lengths, for every number of adapters and of requests at once."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.serving_rig import fleet
from tests.bench.serving_rig.drive import Timing
from tests.bench.serving_rig.finding import Finding, Point
from tests.bench.serving_rig.fleet import Model
from tests.bench.serving_rig.system import System
from tests.bench.serving_rig.workload import MIXED, draw

_LEAST = 2
Place = tuple[str, int, int]
"""A system, its number of adapters, and the requests at once."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Every place once a round, the systems one after another at each."""

    systems: Mapping[str, System]
    model: Model
    adapters: Sequence[int]
    at_once: Sequence[int]

    def run(self, rounds: int, say: Callable[[str], None]) -> tuple[list[Point], list[Finding]]:
        """Medians of each place, and what they say of many adapters over few."""
        found: dict[Place, list[Timing]] = {place: [] for place in self._places()}
        for number in range(rounds):
            for place, timings in found.items():
                timing = self._answer(place, number)
                timings.append(timing)
                name, adapters, at_once = place
                say(f"round {number + 1}: {name}, {adapters} adapters, {at_once} at once: {timing.rate:.0f} tok/s")
        return [_point(place, timings) for place, timings in found.items()], list(self._findings(found))

    def _places(self) -> Iterator[Place]:
        for at_once in self.at_once:
            for adapters in (0, *self.adapters):
                for name in self.systems:
                    if _can(name, adapters):
                        yield name, adapters, at_once

    def _answer(self, place: Place, number: int) -> Timing:
        name, adapters, at_once = place
        which = list(range(adapters)) if adapters else [None]
        seed = f"grid {adapters} {at_once} {number}"  # the same requests for all systems
        workload = draw(seed, max(at_once, _LEAST), MIXED, which, self.model.tokens, at_once)
        return self.systems[name].run(workload)

    def _findings(self, found: Mapping[Place, Sequence[Timing]]) -> Iterator[Finding]:
        most = max(self.at_once)
        many, one = (found.get((fleet.TRELLIS, adapters, most)) for adapters in (64, 1))
        if many and one:
            yield Finding.of("adapters64_over_adapters1", [t.rate for t in many], [t.rate for t in one])


def _can(name: str, adapters: int) -> bool:
    if name == fleet.TRELLIS:
        return True
    if name == fleet.SWITCHING:
        return adapters > 1  # one alone is what mixed batches do as well
    return (adapters == 0) == (name in {fleet.TRANSFORMERS, fleet.VLLM})


def _point(place: Place, timings: Sequence[Timing]) -> Point:
    waits = [statistics.median(timing.waits) for timing in timings if timing.first]
    rate = statistics.median(timing.rate for timing in timings)
    return Point(*place, rate, statistics.median(waits) if waits else None)
