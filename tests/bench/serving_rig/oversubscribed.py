"""Time to first token with twice as many adapters as slots, over that with as many as slots."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.serving_rig.drive import Timing
from tests.bench.serving_rig.finding import Finding
from tests.bench.serving_rig.fleet import Model
from tests.bench.serving_rig.system import System
from tests.bench.serving_rig.workload import EVEN, Workload, draw

_LOAD = 0.67
"""Of what the engine does with as many requests on their way as slots: of a busy engine that keeps up."""


@dataclass(frozen=True, slots=True)
class Oversubscribed:
    """An engine with `slots` places for adapters."""

    engine: System
    model: Model
    slots: int
    requests: int

    def run(self, rounds: int, say: Callable[[str], None]) -> list[Finding]:
        """Open traffic at two thirds of the engine's throughput, then twice as many requests on their way as slots."""
        self._answer("warm", 2 * self.slots)
        alone = self._workload("rate", self.slots, self.slots)
        rate = _LOAD * self.engine.run(alone).rate / EVEN.mean_answer
        say(f"{self.slots} slots: {rate:.2f} requests a second come")
        open_, closed = ([self._pair(number, way, say) for number in range(rounds)] for way in (rate, 0.0))
        return [
            _finding("ttft_oversubscribed_over_resident", open_),
            _finding("ttft_oversubscribed_over_resident_saturated", closed),
        ]

    def _pair(self, number: int, rate: float, say: Callable[[str], None]) -> tuple[float, float]:
        found = []
        for adapters in (2 * self.slots, self.slots):
            self._answer(f"before {number}", adapters)  # so that the bank holds what it would hold
            mean = statistics.fmean(self._answer(f"{number} {rate > 0}", adapters, rate).waits)
            say(f"round {number + 1}: {adapters} adapters, {'open' if rate else 'closed'}: {mean:.3f} s to first token")
            found.append(mean)
        return found[0], found[1]

    def _answer(self, seed: str, adapters: int, rate: float = 0.0) -> Timing:
        workload = self._workload(seed, adapters, 2 * self.slots)
        return self.engine.run(workload.arriving(rate, seed) if rate else workload)

    def _workload(self, seed: str, adapters: int, at_once: int) -> Workload:
        return draw(seed, self.requests, EVEN, list(range(adapters)), self.model.tokens, at_once)


def _finding(name: str, pairs: list[tuple[float, float]]) -> Finding:
    return Finding.of(name, [many for many, _ in pairs], [few for _, few in pairs])
