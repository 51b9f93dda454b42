"""Which examples are held out for evaluation: the same ones whenever and wherever it is asked.

Each example has a score that depends on its content and the seed only. The `k` examples with the smallest scores are held
out, where k is the fraction of the *distinct* examples, rounded. So the split does not depend on the order of the lines,
and exact duplicates are always on the same side. With a fraction above 0 and at least two distinct examples, at least
one is held out and at least one is left to train on; with fewer than two, none is held out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The rule of one split; made by :func:`choose_held_out`, and small enough to be kept with a dataset."""

    seed: int
    threshold: int

    def holds(self, digest: int) -> bool:
        """Whether the example with this digest is held out."""
        raise NotImplementedError


def choose_held_out(digests: Iterable[int], fraction: float, seed: int) -> HeldOut:
    """The rule that holds out `fraction` (0 to less than 1) of the examples with these digests.

    Raises ValueError for a fraction outside of that.
    """
    raise NotImplementedError
