"""A step's budget of tokens, shared between those who want some of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Demand:
    """How many tokens somebody could use, and the weight of the claim."""

    tokens: int
    weight: float = 1.0


def fair_shares(budget: int, demands: Mapping[K, Demand]) -> dict[K, int]:
    """Max-min fair shares: none gets more than it wants, what one leaves goes to the others by their weights."""
    given: dict[K, int] = {}
    left = dict(demands)
    while left:
        weight = sum(demand.weight for demand in left.values())
        modest = {key: d.tokens for key, d in left.items() if d.tokens * weight <= budget * d.weight}
        if not modest:
            return given | _cut(budget, left, weight)
        for key, tokens in modest.items():
            given[key] = tokens
            budget -= tokens
            del left[key]
    return given


def _cut(budget: int, demands: Mapping[K, Demand], weight: float) -> dict[K, int]:
    """Shares by weight, all of them less than is wanted; what rounding leaves goes to the first ones."""
    shares = {key: int(budget * demand.weight / weight) for key, demand in demands.items()}
    rest = budget - sum(shares.values())
    for key in shares:
        if rest == 0:
            break
        shares[key] += 1
        rest -= 1
    return shares
