"""The shared step beside plain PEFT's, in one process: one side waits while the other computes."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench.serving_rig.system import System
from tests.bench.training_rig.finding import Finding, Point
from tests.bench.training_rig.tenant import Mix

OURS: Final = "Trellis, shared step"
THEIRS: Final = "PEFT, one after another"
_SIDES: Final = {OURS: "fused", THEIRS: "sequential"}
_EQUAL: Final = 0.01
"""By so much of itself may a tenant's loss differ: both sides start from the same weights and see the same tokens."""


@dataclass(frozen=True, slots=True)
class Case:
    """So many tenants, each with one line of so many positions a step."""

    tenants: int
    tokens: int
    mix: Mix

    def __str__(self) -> str:
        return f"{self.tenants} x {self.tokens} tokens, {self.mix} adapters"


_MANY: Final = Case(32, 16, "same")
_MANY_MIXED: Final = Case(32, 16, "mixed")
_SPEEDUPS: Final = {
    "step_n32_t16_speedup": _MANY,
    "step_n8_t16_speedup": Case(8, 16, "same"),
    "step_n8_t64_speedup": Case(8, 64, "same"),
    "step_saturated_ratio": Case(8, 256, "same"),
}


@dataclass
class Timed:
    """What both sides did with a case."""

    rates: Mapping[str, list[float]] = field(default_factory=lambda: {side: [] for side in _SIDES})
    """Tokens a second, by side, one a round."""
    losses: dict[str, Sequence[float]] = field(default_factory=dict)
    """Of each tenant, by side, at the last step."""

    @property
    def apart(self) -> float:
        """The greatest relative difference of a tenant's loss."""
        pairs = zip(self.losses[OURS], self.losses[THEIRS], strict=True)
        return max(abs(one - other) / abs(other) for one, other in pairs)

    @property
    def note(self) -> str:
        """Whether both did equal work, as a sentence."""
        verdict = "equal work" if self.apart <= _EQUAL else "NOT EQUAL WORK"
        return f"{verdict}: each tenant's loss after all steps is within {self.apart:.2g} of PEFT's"


@dataclass(frozen=True, slots=True)
class Steps:
    """Every case in turn, the sides alternating within it."""

    system: System
    cases: Sequence[Case]
    steps: int
    """Timed together, in each round on each side."""
    say: Callable[[str], None]

    def run(self, rounds: int) -> tuple[list[Point], list[Finding]]:
        """The medians of each case, and what they say of the claims."""
        found: dict[Case, Timed] = {}
        for case in self.cases:
            self.system.ask("load", tenants=case.tenants, tokens=case.tokens, mix=case.mix)
            found[case] = self._case(case, rounds)
        return list(_points(found)), list(_findings(found))

    def _case(self, case: Case, rounds: int) -> Timed:
        timed = Timed()
        for number in range(-1, rounds):
            for name, side in _SIDES.items():
                count = 1 if number < 0 else self.steps
                answer = self.system.ask("step", side=side, count=count)
                if number >= 0:
                    timed.rates[name].append(case.tenants * case.tokens * count / answer["seconds"])
                timed.losses[name] = answer["losses"]
        ours, theirs = (statistics.median(timed.rates[name]) for name in _SIDES)
        self.say(f"{case}: {ours:.0f} against {theirs:.0f} tok/s: {ours / theirs:.2f}; {timed.note}")
        return timed


def _points(found: Mapping[Case, Timed]) -> Iterator[Point]:
    for case, timed in found.items():
        for name, rates in timed.rates.items():
            rate = statistics.median(rates)
            yield Point("steps", name, case.tenants, str(case.tokens), case.mix, rate, "tok/s")


def _findings(found: Mapping[Case, Timed]) -> Iterator[Finding]:
    for name, case in _SPEEDUPS.items():
        timed = found.get(case)
        if timed is not None:
            yield Finding.of(name, timed.rates[OURS], timed.rates[THEIRS], timed.note)
    mixed, same = found.get(_MANY_MIXED), found.get(_MANY)
    if mixed and same:
        yield Finding.of("step_mixed_over_same", mixed.rates[OURS], same.rates[OURS], mixed.note)
