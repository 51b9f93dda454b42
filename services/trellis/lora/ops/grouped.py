"""Two grouped products a part by `torch.nn.functional.grouped_mm`, for devices that have it and no Triton.

It wants one rank for all, so the active adapters are gathered once a group and padded to the largest rank: once an
adapter, never once a token.
"""

import torch
from torch import Tensor
from torch.nn import functional

from trellis.lora.bank import GroupBank
from trellis.lora.ops.gathered import Gathered
from trellis.lora.segments import Segments

NAME = "grouped"
_MULTIPLE = 8
"""Strides are multiples of 16 bytes: 8 numbers of bfloat16."""


def supports(device: torch.device, dtype: torch.dtype) -> bool:
    """In bfloat16, on a CPU or a GPU of the Ampere generation or later."""
    if dtype != torch.bfloat16 or not hasattr(functional, "grouped_mm"):
        return False
    return device.type == "cpu" or torch.cuda.get_device_capability(device) >= (8, 0)


def add_lora(y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
    """y += scale · (x Aᵀ) B for each segment's rows and each part's columns, in place.

    Raises ValueError for features that are no multiple of 8.
    """
    if segments.is_empty:
        return
    if any(size % _MULTIPLE for size in (bank.group.in_features, *bank.group.out_features)):
        raise ValueError("grouped_mm takes features in multiples of 8.")
    gathered = Gathered.of(segments, bank, _MULTIPLE)
    if not gathered.rank:
        return
    tokens_K, ends_D, counts_D = _tables(segments, x_TI.device)
    x_KI = x_TI[tokens_K]
    column = 0
    for part, width in enumerate(bank.group.out_features):
        a_DRI, b_DRo = gathered.pairs(bank, part)
        s_KR = functional.grouped_mm(x_KI, a_DRI.transpose(1, 2), offs=ends_D)
        scale_K1 = bank.scale_SP[gathered.slots_D, part].repeat_interleave(counts_D).unsqueeze(1)
        # A row of inf times a padded zero would be NaN in its own row, where it is inf already; rows never mix.
        added_Ko = functional.grouped_mm((s_KR * scale_K1).to(x_KI.dtype), b_DRo, offs=ends_D)
        y_TO[:, column : column + width].index_add_(0, tokens_K, added_Ko)
        column += width


def _tables(segments: Segments, device: torch.device) -> tuple[Tensor, ...]:
    """Tokens that have an adapter, where each segment's end among them, and each segment's count."""
    kept: tuple[Tensor, ...] | None = segments.kept.get(NAME)
    if kept is None:
        tokens_K = torch.cat([torch.arange(s.token, s.token + s.tokens) for s in segments.all])
        counts_D = torch.tensor([s.tokens for s in segments.all])
        tables = (tokens_K, counts_D.cumsum(0).to(torch.int32), counts_D)
        kept = segments.kept[NAME] = tuple(table.to(device) for table in tables)
    return kept
