"""Requests to be answered, the same ones for every system; nothing but the standard library, for all of them read it."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: token ids in, exactly so many tokens out."""

    prompt_ids: tuple[int, ...]
    answer_tokens: int
    adapter: int | None = None
    """Which of the adapters; None for the base alone."""
    tenant: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in their order, and how they come."""

    asks: tuple[Ask, ...]
    at_once: int
    """So many are on their way at most: the next one is sent when one is answered."""
    arrivals: tuple[float, ...] = ()
    """When each comes, in seconds from the start; when empty, as soon as `at_once` lets them."""
    rooms: tuple[tuple[str, int], ...] = ()
    """Of each tenant, what takes the place of `at_once`; none waits for another's answers."""
    until: str = ""
    """The tenant with whose last answer the run ends, whatever is left of others; all of them when empty."""

    def to_json(self) -> dict[str, Any]:
        """As it goes through a pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What `to_json` gave."""
        asks = tuple(Ask(**{**ask, "prompt_ids": tuple(ask["prompt_ids"])}) for ask in values["asks"])
        rooms = tuple((tenant, room) for tenant, room in values["rooms"])
        return cls(**{**values, "asks": asks, "arrivals": tuple(values["arrivals"]), "rooms": rooms})

    def arriving(self, a_second: float, seed: str) -> Self:
        """The same requests, arriving at random (a Poisson process) at a rate, however many are on their way."""
        chance, now, arrivals = random.Random(seed), 0.0, []
        for _ in self.asks:
            arrivals.append(now)
            now += chance.expovariate(a_second)
        return replace(self, arrivals=tuple(arrivals), at_once=len(self.asks))


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long prompts and answers are, in tokens; evenly distributed from the least to the most."""

    prompt: tuple[int, int]
    answer: tuple[int, int]

    @property
    def mean_answer(self) -> float:
        """In tokens."""
        return sum(self.answer) / 2


EVEN: Final = Lengths((64, 64), (64, 64))
MIXED: Final = Lengths((16, 112), (8, 56))


def draw(
    seed: str,
    count: int,
    lengths: Lengths,
    adapters: Sequence[int | None],
    tokens: range,
    at_once: int = 0,
) -> Workload:
    """Requests with prompts of random `tokens`; no two begin alike, so that nobody gains by remembering prefixes.

    Adapters are dealt out like cards: each has as many requests as any other, give or take one.
    """
    chance = random.Random(seed)
    order = chance.sample(adapters, len(adapters))
    dealt = [order[number % len(order)] for number in range(count)]
    chance.shuffle(dealt)
    asks = tuple(
        Ask(tuple(chance.choices(tokens, k=chance.randint(*lengths.prompt))), chance.randint(*lengths.answer), adapter)
        for adapter in dealt
    )
    return Workload(asks, at_once or count)
