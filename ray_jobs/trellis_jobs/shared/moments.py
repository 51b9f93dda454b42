"""What a job's AdamW remembers, as its checkpoints have it: by module, so that it is not bound to how the bank lays weights out."""

from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from trellis.lora import AdapterBank, LoraGroup
from trellis.lora.host import sides

_MOMENTS: Final = ("exp_avg", "exp_avg_sq")
_STEP: Final = "step"


def by_module(bank: AdapterBank, slot: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AdamW's state of a slot's one parameter: copies of the moments of A and of B transposed, (rank, …), on the CPU."""
    found = {_STEP: state[_STEP].detach().to("cpu", copy=True)}
    for key in _MOMENTS:
        copy_V = state[key].detach().to("cpu", copy=True)
        found |= {f"{part}.{side}.{key}": piece for _, _, part, side, piece in _pieces(bank, slot, copy_V)}
    return found


def in_one_piece(bank: AdapterBank, slot: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `by_module` gave, or a checkpoint has that was written before ADR 0024, as AdamW wants it; on the CPU.

    Raises LookupError where a moment is missing, ValueError for another shape.
    """
    _, count = bank.slot_range(slot)
    found = {key: torch.zeros(count, dtype=bank.dtype) for key in _MOMENTS}
    steps: list[Tensor] = []
    for key, moment_V in found.items():
        for group, number, part, side, piece in _pieces(bank, slot, moment_V):
            if _STEP in state:
                given = state[f"{part}.{side}.{key}"]
            else:
                given = _of_group(state, group, number, side, key)
                steps.append(state[f"{group.name}.{side}.{_STEP}"])
            if given.shape != piece.shape:
                message = f"the moments of {part}.{side} have the shape {list(given.shape)}"
                raise ValueError(f"{message}, not {list(piece.shape)}")
            piece.copy_(given)
    return {_STEP: (state[_STEP] if _STEP in state else steps[0]).clone(), **found}


def _of_group(state: Mapping[str, Tensor], group: LoraGroup, number: int, side: str, key: str) -> Tensor:
    """From before, when each group of linears had A (rank, parts, in) and B (rank, out-features of all parts)."""
    whole = state[f"{group.name}.{side}.{key}"]
    parts: tuple[Tensor, ...] = whole.unbind(1) if side == "A" else whole.split(group.out_features, 1)
    return parts[number]


def _pieces(bank: AdapterBank, slot: int, own_V: Tensor) -> Iterator[tuple[LoraGroup, int, str, str, Tensor]]:
    """Group, number and path of each part that the slot adapts, and views of its A and B in a tensor of the slot's size."""
    start, _ = bank.slot_range(slot)
    for beside in bank.groups.values():
        group = beside.group
        for number, (part, outs) in enumerate(zip(group.parts, group.out_features, strict=True)):
            rank, place = int(beside.host_ranks_SP[slot, number]), int(beside.host_places_SP[slot, number])
            if rank:
                pair = sides(own_V, place - start, rank, group.in_features, outs)
                for side, piece in zip("AB", pair, strict=True):
                    yield group, number, part, side, piece
