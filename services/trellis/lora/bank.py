"""The adapters beside a base model, all in the same few tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trellis.lora.groups import LoraGroup
from trellis.lora.host import HostAdapter, split_blob
from trellis.lora.rows import RowMap
from trellis.lora.weights import LoraPair, LoraWeights
from trellis.native.lora import LoraOperands


class BankFullError(Exception):
    """No room for a further adapter, even when the gaps were closed."""


@dataclass(frozen=True)
class GroupBank:
    """The weights of all adapters at one group of linears; a rank row of B is a row of B transposed."""

    group: LoraGroup
    a_RPI: Tensor
    """(rank rows, parts, in-features)."""
    b_RO: Tensor
    """(rank rows, out-features of all parts)."""
    scale_SP: Tensor
    """(slots, parts), float32: alpha / rank; 0 where an adapter leaves a part alone."""

    @cached_property
    def operands(self) -> LoraOperands:
        """The tensors as the C++ kernels take them."""
        return LoraOperands(self.a_RPI, self.b_RO, self.scale_SP, self.group.out_features)


class AdapterBank:
    """Adapters of any mix of ranks and targets: each owns exactly its rank, padded to 8, as consecutive rank rows.

    An adapter has the same rows in every group. A slot is its number as long as it stays; its rows may move between
    steps, so tables of rows are made anew for each.
    """

    def __init__(
        self,
        groups: Sequence[LoraGroup],
        rows: int,
        max_slots: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rows = rows
        self.max_slots = max_slots
        self.dtype = dtype
        self.device = torch.device(device)
        self.groups: Mapping[str, GroupBank] = {group.name: self._empty(group) for group in groups}
        self._map = RowMap(rows)
        self._free_slots = list(range(max_slots))[::-1]

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one rank row in all groups together."""
        return sum(bank.group.row_values for bank in self.groups.values()) * self.dtype.itemsize

    @property
    def rows_free(self) -> int:
        """Rows that no adapter owns."""
        return self._map.free

    @property
    def slots_used(self) -> int:
        """Adapters in the bank."""
        return self.max_slots - len(self._free_slots)

    def fits(self, rows: int) -> bool:
        """Whether there is room for an adapter of so many rows now, after gaps are closed if need be."""
        return bool(self._free_slots) and self.rows_free >= rows

    def slot_rows(self, slot: int) -> tuple[int, int]:
        """The slot's first rank row, and how many it owns."""
        return self._map.of(slot)

    @torch.no_grad()
    def add(self, adapter: HostAdapter) -> int:
        """Copy an adapter in; its slot. Raises BankFullError."""
        if not self.fits(adapter.rows):
            raise BankFullError(f"The bank has {self.rows_free} rank rows free; the adapter takes {adapter.rows}.")
        start = self._map.find(adapter.rows)
        if start is None:
            self._close_gaps()
            start = self._map.find(adapter.rows)
            assert start is not None
        slot = self._free_slots.pop()
        self._map.take(slot, start, adapter.rows)
        self._copy_in(adapter, slot, start)
        return slot

    @torch.no_grad()
    def remove(self, slot: int) -> None:
        """Forget an adapter; its rows are zero afterwards, and so are their gradients."""
        start, count = self._map.give_back(slot)
        torch._foreach_zero_([side[start : start + count] for side in self.tensors()])
        torch._foreach_zero_([bank.scale_SP[slot] for bank in self.groups.values()])
        self._free_slots.append(slot)

    def require_gradients(self) -> None:
        """Make the adapters trainable: every tensor of weights gets a gradient, of zeros, that backward adds to."""
        for bank in self.groups.values():
            for side in (bank.a_RPI, bank.b_RO):
                side.requires_grad = True
                side.grad = torch.zeros_like(side)

    def read(self, slot: int, rank: int, digest: str = "") -> LoraWeights:
        """Copies of the first `rank` rank rows of a slot, by module path; the rest is padding."""
        start, count = self._map.of(slot)[0], rank
        pairs = {}
        for bank in self.groups.values():
            outs = bank.b_RO.detach()[start : start + count].split(bank.group.out_features, 1)
            for number, (part, b_Ro) in enumerate(zip(bank.group.parts, outs, strict=True)):
                scaling = float(bank.scale_SP[slot, number])
                if scaling:
                    a_RI = bank.a_RPI.detach()[start : start + count, number]
                    b_OR = b_Ro.T.clone(memory_format=torch.contiguous_format)  # of one row it would be a view
                    pairs[part] = LoraPair(a_RI.clone(), b_OR, scaling)
        return LoraWeights(digest, pairs)

    def _empty(self, group: LoraGroup) -> GroupBank:
        parts = len(group.parts)
        return GroupBank(
            group,
            torch.zeros(self.rows, parts, group.in_features, dtype=self.dtype, device=self.device),
            torch.zeros(self.rows, group.columns, dtype=self.dtype, device=self.device),
            torch.zeros(self.max_slots, parts, dtype=torch.float32, device=self.device),
        )

    def _copy_in(self, adapter: HostAdapter, slot: int, start: int) -> None:
        groups = [bank.group for bank in self.groups.values()]
        pairs = split_blob(adapter.blob.to(self.device, non_blocking=True), groups, adapter.rows)
        stop = start + adapter.rows
        targets = [side[start:stop] for bank in self.groups.values() for side in (bank.a_RPI, bank.b_RO)]
        torch._foreach_copy_(targets, [side for pair in pairs for side in pair])
        # One copy for the scales, too: on a GPU each small one would wait for the step that runs.
        scales = torch.tensor([scale for group in adapter.scales for scale in group], dtype=torch.float32)
        pieces = scales.to(self.device, non_blocking=True).split([len(group.parts) for group in groups])
        torch._foreach_copy_([bank.scale_SP[slot] for bank in self.groups.values()], pieces)

    def _close_gaps(self) -> None:
        for start, to, count in self._map.close_gaps():
            for side in self.tensors():
                # The clone: the two places may overlap. What is left behind is cleared, so that free rows are zero.
                moved = side[start : start + count].clone()
                side[start : start + count] = 0
                side[to : to + count] = moved

    def tensors(self) -> list[Tensor]:
        """Everything that an adapter owns rows of: weights, and gradients where there are any."""
        sides = [side for bank in self.groups.values() for side in (bank.a_RPI, bank.b_RO)]
        return sides + [side.grad for side in sides if side.grad is not None]
