"""A thousand registered adapters, called at random."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bench.serving_rig.finding import Finding
from tests.bench.serving_rig.fleet import Model
from tests.bench.serving_rig.system import System
from tests.bench.serving_rig.workload import EVEN, draw

RESIDENT = "all in the bank"
EVICTING = "64 in the bank"
FROM_DISK = "64 in the bank and in memory"
_CLAIMS: Mapping[str, str] = {
    RESIDENT: "adapters1000_over_16",
    EVICTING: "adapters1000_over_16_evicting",
    FROM_DISK: "adapters1000_over_16_from_disk",
}
_FEW = 16
_FLAT_CALLS = 12


@dataclass(frozen=True, slots=True)
class Many:
    """Engines with the same registered adapters and different room for them."""

    engines: Mapping[str, System]
    model: Model
    adapters: int
    at_once: int
    requests: int

    def run(self, rounds: int, say: Callable[[str], None]) -> list[Finding]:
        """Few adapters and all of them, in turn, on each engine; then whether memory stays as it is."""
        found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in self.engines}
        for name, engine in self.engines.items():
            for start in range(0, self.adapters, self.requests):
                self._answer(engine, f"warm {start}", range(start, min(start + self.requests, self.adapters)))
            say(f"{name}: {engine.ask('usage')}")
        for number in range(rounds):
            for name, rates in found.items():
                for which, values in zip((range(self.adapters), range(_FEW)), rates, strict=True):
                    values.append(self._answer(self.engines[name], f"{number}", which))
                say(f"round {number + 1}: {name}: {rates[0][-1]:.0f} tok/s, {rates[1][-1]:.0f} with {_FEW} adapters")
        growth = self._growth(self.engines[EVICTING], say)
        return [*(Finding.of(_CLAIMS[name], *rates) for name, rates in found.items()), growth]

    def _answer(self, engine: System, seed: str, which: range) -> float:
        adapters = list(which)
        workload = draw(f"many {seed}", self.requests, EVEN, adapters, self.model.tokens, self.at_once)
        return engine.run(workload).rate

    def _growth(self, engine: System, say: Callable[[str], None]) -> Finding:
        """The most memory of the later calls over the most of the first ones."""
        sizes = []
        for number in range(_FLAT_CALLS):
            self._answer(engine, f"flat {number}", range(self.adapters))
            sizes.append(float(engine.ask("usage")["memory_mib"]))
        say(f"memory in MiB: {', '.join(f'{size:.0f}' for size in sizes)}")
        cut = _FLAT_CALLS // 3
        return Finding.of("adapters1000_memory_growth", [max(sizes[cut:])], [max(sizes[:cut])])
