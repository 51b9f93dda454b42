"""The adapters beside a base model, all in one tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise

import torch
from torch import Tensor

from trellis.lora.groups import LoraGroup
from trellis.lora.host import HostAdapter, sides
from trellis.lora.ranges import RangeMap
from trellis.lora.weights import LoraPair, LoraWeights
from trellis.native.lora import LoraOperands
from trellis.native.pages import zeros

Pair = tuple[Tensor, Tensor]
"""A (rank, in) and B transposed (rank, out) of an adapter at one part."""


class BankFullError(Exception):
    """No room for a further adapter, even when the gaps were closed."""


@dataclass(frozen=True)
class GroupBank:
    """The weights of all adapters at one group of linears. What is said of slots and parts is read by kernels: the
    tensors are views of those of all groups, with a stride of their own, and are written in place.
    """

    group: LoraGroup
    values_V: Tensor
    """All numbers of all adapters, of this group and the others."""
    places_SP: Tensor
    """(slots, parts), int64: where A begins in them; B, transposed, comes after it."""
    ranks_SP: Tensor
    """(slots, parts), int32; 0 where an adapter leaves a part alone, whose place then means nothing."""
    scale_SP: Tensor
    """(slots, parts), float32: alpha / rank; 0 where an adapter leaves a part alone."""
    host_places_SP: Tensor
    """The same places in the host's memory."""
    host_ranks_SP: Tensor
    """The same ranks in the host's memory."""

    @cached_property
    def operands(self) -> LoraOperands:
        """The tensors as the C++ kernels take them."""
        group = self.group
        tables = self.places_SP, self.ranks_SP, self.scale_SP
        return LoraOperands(self.values_V.detach(), *tables, group.in_features, group.out_features)

    def pair(self, slot: int, part: int) -> Pair | None:
        """An adapter's weights at a part, as views; None where it leaves the part alone."""
        return self.pair_of(self.values_V.detach(), slot, part)

    def grad_pair(self, slot: int, part: int) -> Pair | None:
        """Their gradients, likewise."""
        assert self.values_V.grad is not None, "this bank is not trained"
        return self.pair_of(self.values_V.grad, slot, part)

    def pair_of(self, values_V: Tensor, slot: int, part: int) -> Pair | None:
        """What lies in other numbers where the weights lie in the bank's."""
        rank, place = int(self.host_ranks_SP[slot, part]), int(self.host_places_SP[slot, part])
        return sides(values_V, place, rank, self.group.in_features, self.group.out_features[part]) if rank else None


class AdapterBank:
    """Adapters of any mix of ranks and targets: each owns exactly its own numbers, in one piece.

    A slot is its number as long as it stays; its numbers may move between steps.
    """

    def __init__(
        self,
        groups: Sequence[LoraGroup],
        rows: int,
        max_slots: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        """Room for adapters whose ranks are `rows` in all, if each adapts every linear; for more if they adapt fewer."""
        self.rows = rows
        self.max_slots = max_slots
        self.dtype = dtype
        self.device = torch.device(device)
        self.row_values = sum(group.row_values for group in groups)
        """Numbers of one rank row of every linear."""
        self.values_V = zeros((rows * self.row_values,), dtype, self.device)
        parts = sum(len(group.parts) for group in groups)
        self._host_places_SQ = torch.zeros(max_slots, parts, dtype=torch.int64)
        self._host_ranks_SQ = torch.zeros(max_slots, parts, dtype=torch.int32)
        self._places_SQ = self._host_places_SQ.to(self.device)  # the same tensor on a CPU
        self._ranks_SQ = self._host_ranks_SQ.to(self.device)
        self._scales_SQ = torch.zeros(max_slots, parts, dtype=torch.float32, device=self.device)
        self.groups: Mapping[str, GroupBank] = self._by_name(groups)
        self._map = RangeMap(self.size)
        self._free_slots = list(range(max_slots))[::-1]
        self._slot_ranks = [0] * max_slots

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one rank row of every linear."""
        return self.row_values * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Numbers in all."""
        return self.values_V.numel()

    @property
    def values_free(self) -> int:
        """Numbers that no adapter owns."""
        return self._map.free

    @property
    def slots_used(self) -> int:
        """Adapters in the bank."""
        return self.max_slots - len(self._free_slots)

    @property
    def rows_used(self) -> int:
        """What adapters own, in rank rows of every linear, rounded up."""
        return -(-(self.size - self.values_free) // self.row_values)

    def fits(self, values: int) -> bool:
        """Whether there is room for an adapter of so many numbers now, after gaps are closed if need be."""
        return bool(self._free_slots) and self.values_free >= values

    def slot_range(self, slot: int) -> tuple[int, int]:
        """The slot's first number, and how many it owns."""
        return self._map.of(slot)

    def slot_rank(self, slot: int) -> int:
        """The largest rank of its parts."""
        return self._slot_ranks[slot]

    @torch.no_grad()
    def add(self, adapter: HostAdapter) -> int:
        """Copy an adapter in; its slot. Raises BankFullError."""
        if not self.fits(adapter.values):
            message = f"The bank has room for {self.values_free} more numbers; the adapter has {adapter.values}."
            raise BankFullError(message)
        start = self._map.find(adapter.values)
        if start is None:
            self._close_gaps()
            start = self._map.find(adapter.values)
            assert start is not None
        slot = self._free_slots.pop()
        self._map.take(slot, start, adapter.values)
        self.values_V[start : start + adapter.values].copy_(adapter.blob, non_blocking=True)
        self._slot_ranks[slot] = adapter.layout.rank
        self._host_places_SQ[slot] = torch.tensor([*chain(*adapter.layout.places)]) + start
        self._host_ranks_SQ[slot] = torch.tensor([*chain(*adapter.layout.ranks)], dtype=torch.int32)
        self._scales_SQ[slot].copy_(torch.tensor([*chain(*adapter.scales)]), non_blocking=True)
        self._publish(slot)
        return slot

    @torch.no_grad()
    def remove(self, slot: int) -> None:
        """Forget an adapter; its numbers are zero afterwards, and so are their gradients."""
        start, count = self._map.give_back(slot)
        for values_V in self._tensors():
            values_V[start : start + count] = 0
        self._slot_ranks[slot] = 0
        self._host_ranks_SQ[slot] = 0
        self._scales_SQ[slot] = 0
        self._publish(slot)
        self._free_slots.append(slot)

    def require_gradients(self) -> None:
        """Make the adapters trainable: the numbers get a gradient, of zeros, that backward adds to."""
        self.values_V.requires_grad = True
        self.values_V.grad = zeros(self.values_V.shape, self.dtype, self.device)

    def read(self, slot: int, digest: str = "") -> LoraWeights:
        """Copies of a slot's weights, by module path."""
        pairs = {}
        for bank in self.groups.values():
            for number, part in enumerate(bank.group.parts):
                pair = bank.pair(slot, number)
                if pair is not None:
                    b_OR = pair[1].T.clone(memory_format=torch.contiguous_format)  # of one row it would be a view
                    pairs[part] = LoraPair(pair[0].clone(), b_OR, float(bank.scale_SP[slot, number]))
        return LoraWeights(digest, pairs)

    def _by_name(self, groups: Sequence[LoraGroup]) -> dict[str, GroupBank]:
        tables = self._places_SQ, self._ranks_SQ, self._scales_SQ, self._host_places_SQ, self._host_ranks_SQ
        ends = pairwise(accumulate((len(group.parts) for group in groups), initial=0))
        return {
            group.name: GroupBank(group, self.values_V, *(table[:, first:end] for table in tables))
            for group, (first, end) in zip(groups, ends, strict=True)
        }

    def _publish(self, slot: int) -> None:
        if self.device.type != "cpu":
            self._places_SQ[slot].copy_(self._host_places_SQ[slot], non_blocking=True)
            self._ranks_SQ[slot].copy_(self._host_ranks_SQ[slot], non_blocking=True)

    def _close_gaps(self) -> None:
        for slot, start, to, count in self._map.close_gaps():
            for values_V in self._tensors():
                # The clone: the two places may overlap. What is left behind is cleared, so that free numbers are zero.
                moved = values_V[start : start + count].clone()
                values_V[start : start + count] = 0
                values_V[to : to + count] = moved
            self._host_places_SQ[slot] += to - start
            self._publish(slot)

    def _tensors(self) -> list[Tensor]:
        """Weights, and gradients where there are any."""
        values_V = self.values_V.detach()
        return [values_V] if self.values_V.grad is None else [values_V, self.values_V.grad]
