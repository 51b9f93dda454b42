"""When which fault strikes: a pure function of the seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_FIRST_SECONDS: Final = 2.0
_GAPS: Final = (2.0, 4.5)
"""Seconds between two strikes, at the least and at the most."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A fault as the schedule knows it."""

    name: str
    part: str
    """What it strikes: nothing is struck twice at a time."""
    shortest: float
    """Seconds until it is mended."""
    longest: float


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault, at so many seconds after the load began, for so many seconds."""

    at: float
    kind: Kind
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.kind.name} for {self.seconds:.1f} s"


def make_schedule(seed: int, seconds: float, kinds: Sequence[Kind]) -> list[Strike]:
    """Strikes until `seconds`, in rounds: each kind comes once, in random order, before any comes again."""
    chance = random.Random(seed)
    found: list[Strike] = []
    busy: dict[str, float] = {}
    deck: list[Kind] = []
    at = _FIRST_SECONDS
    while at < seconds:
        if not deck:
            deck = chance.sample(kinds, len(kinds))
        chosen = next((kind for kind in deck if busy.get(kind.part, 0.0) <= at), None)
        if chosen is not None:
            deck.remove(chosen)
            length = round(chance.uniform(chosen.shortest, chosen.longest), 1)
            busy[chosen.part] = at + length + 1.0
            found.append(Strike(at, chosen, length))
        at = round(at + chance.uniform(*_GAPS), 1)
    return found
