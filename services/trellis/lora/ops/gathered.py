"""The adapters of a step side by side, padded to one rank: for ops that multiply by all of them at once."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.segments import Segments


@dataclass(frozen=True, slots=True)
class Gathered:
    """Which adapters, in the order of their segments, and how many rank rows of each; made for a group of linears.

    Tensors' shapes: D segments, R rank rows, I in-features, o out-features of one part.
    """

    slots_D: Tensor
    rank: int
    """The largest, rounded up."""

    @classmethod
    def of(cls, segments: Segments, bank: GroupBank, multiple: int = 1) -> Self:
        """The adapters of these segments, whose ranks at any group may be the largest."""
        slots = torch.tensor([segment.slot for segment in segments.all])
        rank = -(-int(bank.host_ranks_SP[slots].max()) // multiple) * multiple
        return cls(slots.to(bank.values_V.device), rank)

    def pairs(self, bank: GroupBank, part: int) -> tuple[Tensor, Tensor]:
        """Copies of A (D, R, I) and B transposed (D, R, o); rows beyond an adapter's rank are zero."""
        inputs, outputs = bank.group.in_features, bank.group.out_features[part]
        ranks_D, places_D = bank.ranks_SP[self.slots_D, part], bank.places_SP[self.slots_D, part]
        b_D = places_D + ranks_D * inputs
        return self._rows(bank, places_D, ranks_D, inputs), self._rows(bank, b_D, ranks_D, outputs)

    def _rows(self, bank: GroupBank, places_D: Tensor, ranks_D: Tensor, size: int) -> Tensor:
        values_V = bank.values_V.detach()
        rows_R = torch.arange(self.rank, device=values_V.device)
        own_DR1 = (rows_R < ranks_D[:, None])[..., None]
        starts_DR1 = (places_D[:, None] + rows_R * size)[..., None]
        columns = torch.arange(size, device=values_V.device)
        return torch.where(own_DR1, values_V[torch.where(own_DR1, starts_DR1 + columns, 0)], 0)
