"""Where an adapter's weights lie in its own piece of memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from trellis.bases import ALIGNMENT
from trellis.lora.groups import LoraGroup


@dataclass(frozen=True, slots=True)
class Layout:
    """For each group in order and each part that is changed: A of shape (rank, in), then B transposed, (rank, out).

    What the adapter leaves alone takes nothing. Holes between parts, of fewer than ALIGNMENT numbers, are zero.
    """

    values: int
    """Numbers in all, with the holes."""
    places: tuple[tuple[int, ...], ...]
    """Where each group's parts begin; of a part that is left alone it means nothing."""
    ranks: tuple[tuple[int, ...], ...]
    """Of each group's parts; 0 where one is left alone."""

    @classmethod
    def of(cls, ranks: Mapping[str, int], groups: Sequence[LoraGroup]) -> Self:
        """From the rank at each module that is changed."""
        end, places, found = 0, [], []
        for group in groups:
            starts = []
            for part, out_features in zip(group.parts, group.out_features, strict=True):
                starts.append(end)
                end += _aligned(ranks.get(part, 0) * (group.in_features + out_features))
            places.append(tuple(starts))
            found.append(tuple(ranks.get(part, 0) for part in group.parts))
        return cls(end, tuple(places), tuple(found))

    @property
    def rank(self) -> int:
        """The largest of all parts."""
        return max((rank for group in self.ranks for rank in group), default=0)


def _aligned(values: int) -> int:
    return -(-values // ALIGNMENT) * ALIGNMENT
