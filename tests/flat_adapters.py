"""Banks of one group of linears, with adapters of any rank at each part."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trellis.lora import GroupBank, LoraGroup


def group_bank(
    in_features: int,
    outs: Sequence[int],
    ranks: Sequence[Sequence[int]],
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    gap: int = 0,
) -> GroupBank:
    """Random adapters, `ranks` being those of each slot's parts; between them lie `gap` numbers of nobody, which are NaN."""
    group = LoraGroup("group", tuple(f"part{number}" for number in range(len(outs))), in_features, tuple(outs))
    random = torch.Generator().manual_seed(seed)
    ranks_SP = torch.tensor(ranks, dtype=torch.int32).reshape(-1, len(outs))
    places_SP = torch.zeros(ranks_SP.shape, dtype=torch.int64)
    pieces, end = [torch.zeros(0)], 0
    for slot, own in enumerate(ranks_SP.tolist()):
        for part, rank in enumerate(own):
            a = torch.randn(rank * in_features, generator=random) / math.sqrt(in_features)
            pieces += [torch.full((gap,), math.nan), a, torch.randn(rank * outs[part], generator=random) / 4]
            places_SP[slot, part] = end + gap
            end += gap + rank * (in_features + outs[part])
    scale_SP = torch.randn(ranks_SP.shape, generator=random)
    return GroupBank(group, torch.cat(pieces).to(dtype), places_SP, ranks_SP, scale_SP, places_SP, ranks_SP)


def fill(bank: GroupBank, slot: int, number: float, part: int | None = None) -> None:
    """Write one number all over an adapter, or its weights at a part."""
    for each in range(len(bank.group.parts)):
        pair = bank.pair(slot, each) if part in {None, each} else None
        for side in pair or ():
            side.fill_(number)


def tables(bank: GroupBank) -> tuple[Tensor, Tensor, Tensor]:
    """Places, ranks and scales."""
    return bank.places_SP, bank.ranks_SP, bank.scale_SP
