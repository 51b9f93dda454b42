"""A tenant that floods the engine beside one that does not: who gets how much, and how long the light one waits."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from tests.bench.serving_rig.drive import Timing
from tests.bench.serving_rig.finding import Finding
from tests.bench.serving_rig.fleet import Model
from tests.bench.serving_rig.system import System
from tests.bench.serving_rig.workload import MIXED, Ask, Workload, draw
from trellis.engine.fairness import OUTPUT_COST, PROMPT_COST

LIGHT: Final = "light"
FLOOD: Final = "flood"
_TIMES: Final = 10
"""So many times as many requests of the flood come and wait."""
_WEIGHTS: Final = (1.0, 3.0)
"""Of the light tenant, beside the flood's 1."""


@dataclass(frozen=True, slots=True)
class Flood:
    """Systems that run few requests at once, so that both tenants have some waiting all the time."""

    engine: System
    model: Model
    requests: int
    """Of the light tenant."""
    waiting: int
    """Of the light tenant, at any time: twice as many as run."""
    peer: System | None
    """One that goes by the order in which requests came; what that gives by reckoning, when None."""

    def run(self, rounds: int, say: Callable[[str], None]) -> list[Finding]:
        """Shares by weights while both tenants have requests waiting; then waits of a light one with one at a time."""
        ours = [max(self._error(self.engine, weight, number, say) for weight in _WEIGHTS) for number in range(rounds)]
        # Once is enough for a peer that goes by nothing but the order in which requests came.
        theirs = 1 - 2 / (1 + _TIMES) if self.peer is None else self._error(self.peer, 1.0, rounds, say)
        waits = [self._waits(number, say) for number in range(rounds)]
        return [
            Finding.of("flood_share_error", ours, [theirs] * rounds),
            Finding.of("light_ttft_flood_over_alone", [beside for beside, _ in waits], [alone for _, alone in waits]),
        ]

    def _error(self, system: System, weight: float, number: int, say: Callable[[str], None]) -> float:
        workload = self.workload(f"{number}", weight, self.waiting)
        given = shares(workload, system.run(workload))
        wanted = weight / (1 + weight)
        say(f"round {number + 1}: {system.name}: the light tenant has {given[LIGHT]:.3f}, its weight is {wanted:.3f}")
        return max(abs(given[LIGHT] / wanted - 1), abs(given[FLOOD] / (1 - wanted) - 1))

    def _waits(self, number: int, say: Callable[[str], None]) -> tuple[float, float]:
        both = self.workload(f"waits {number}", 1.0, 1, self.requests // 2)
        alone = replace(both, rooms=((LIGHT, 1),))
        beside, without = (_light_wait(workload, self.engine.run(workload)) for workload in (both, alone))
        say(f"round {number + 1}: the light tenant waits {beside:.3f} s beside the flood, {without:.3f} s alone")
        return beside, without

    def workload(self, seed: str, weight: float, waiting: int, requests: int = 0) -> Workload:
        """Requests of both, until the light one's are answered."""
        count = requests or self.requests
        light = draw(f"light {seed}", count, MIXED, [None], self.model.tokens)
        flood = draw(f"flood {seed}", _TIMES * count, MIXED, [None], self.model.tokens)
        asks = [replace(ask, tenant=FLOOD) for ask in flood.asks]
        asks += [replace(ask, tenant=LIGHT, weight=weight) for ask in light.asks]
        rooms = ((FLOOD, _TIMES * self.waiting), (LIGHT, waiting))
        return Workload(tuple(asks), len(asks), rooms=rooms, until=LIGHT)


def shares(workload: Workload, timing: Timing) -> Mapping[str, float]:
    """Of what the engine did while both had requests waiting, who got which part; prompts count at their first token."""
    begin = min(when for when, _, _ in timing.pieces)
    end = min(_last(workload, timing.sent, tenant) for tenant in (LIGHT, FLOOD))
    given = {LIGHT: 0.0, FLOOD: 0.0}
    for when, number, tokens in timing.pieces:
        if begin <= when <= end:
            ask = workload.asks[number]
            given[ask.tenant] += _cost(ask, tokens, is_first=when == timing.first[number])
    whole = sum(given.values())
    return {tenant: cost / whole for tenant, cost in given.items()}


def _cost(ask: Ask, tokens: int, *, is_first: bool) -> float:
    return OUTPUT_COST * tokens + (PROMPT_COST * len(ask.prompt_ids) if is_first else 0.0)


def _last(workload: Workload, times: list[float], tenant: str) -> float:
    """When the last of a tenant's requests was sent, that is until when it always had others waiting."""
    mine = [time for ask, time in zip(workload.asks, times, strict=True) if ask.tenant == tenant]
    return float("inf") if min(mine) < 0 else max(mine)


def _light_wait(workload: Workload, timing: Timing) -> float:
    found = zip(workload.asks, timing.sent, timing.first, strict=True)
    return statistics.median(first - sent for ask, sent, first in found if ask.tenant == LIGHT)
