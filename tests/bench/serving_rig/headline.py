"""The numbers of one page: 32 requests of one length, with 16 adapters and with none."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tests.bench.serving_rig import fleet
from tests.bench.serving_rig.drive import Timing
from tests.bench.serving_rig.finding import Finding
from tests.bench.serving_rig.fleet import Model
from tests.bench.serving_rig.system import System
from tests.bench.serving_rig.workload import EVEN, draw

_PAIRS = (
    ("adapters16_over_base", (fleet.TRELLIS, 16), (fleet.TRELLIS, 0)),
    ("adapters16_over_peft_mixed", (fleet.TRELLIS, 16), (fleet.MIXED, 16)),
    ("adapters16_over_peft_switching", (fleet.TRELLIS, 16), (fleet.SWITCHING, 16)),
    ("adapters16_over_vllm_cpu", (fleet.TRELLIS, 16), (fleet.VLLM_LORA, 16)),
    ("base_over_vllm_cpu", (fleet.TRELLIS, 0), (fleet.VLLM, 0)),
    ("base_over_transformers", (fleet.TRELLIS, 0), (fleet.TRANSFORMERS, 0)),
)

Case = tuple[str, int]
"""A system and its number of adapters."""


@dataclass(frozen=True, slots=True)
class Headline:
    """Rounds in which every system answers the same number of requests, one system after another."""

    systems: Mapping[str, System]
    model: Model
    requests: int = 32
    adapters: int = 16

    def run(self, rounds: int, say: Callable[[str], None]) -> list[Finding]:
        """A round to warm up, then those that count."""
        found: dict[Case, list[float]] = {case: [] for case in self._cases()}
        for number in range(-1, rounds):
            for case, rates in found.items():
                timing = self._answer(case, number)
                say(f"round {number + 1}: {case[0]}, {case[1]} adapters: {timing.rate:.0f} tok/s")
                if number >= 0:
                    rates.append(timing.rate)
        return list(_findings(found))

    def _cases(self) -> Iterator[Case]:
        for name in self.systems:
            if name in {fleet.TRELLIS, fleet.TRANSFORMERS, fleet.VLLM}:
                yield name, 0
            if name not in {fleet.TRANSFORMERS, fleet.VLLM}:
                yield name, 16

    def _answer(self, case: Case, number: int) -> Timing:
        name, adapters = case
        which = list(range(self.adapters)) if adapters else [None]
        return self.systems[name].run(draw(f"{case} {number}", self.requests, EVEN, which, self.model.tokens))


def _findings(found: Mapping[Case, list[float]]) -> Iterator[Finding]:
    for name, ours, theirs in _PAIRS:
        if ours in found and theirs in found:
            yield Finding.of(name, found[ours], found[theirs])
