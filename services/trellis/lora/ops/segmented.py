"""Two products a segment and part, by PyTorch: any device, any dtype, and what training takes."""

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.segments import Segments

NAME = "segmented"


def supports(device: torch.device, dtype: torch.dtype) -> bool:
    """Everywhere."""
    return True


def add_lora(y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
    """y += scale · (x Aᵀ) B for each segment's rows and each part's columns, in place."""
    parts = len(bank.group.parts)
    for segment in segments.all:
        rows = segment.rank_rows
        a_QI = bank.a_RPI[rows].flatten(0, 1)
        s_tRP = (x_TI[segment.span] @ a_QI.T).unflatten(1, (segment.rows, parts))
        s_tRP = s_tRP * bank.scale_SP[segment.slot].to(s_tRP.dtype)
        outs = y_TO[segment.span].split(bank.group.out_features, 1)
        for part, (y_to, b_Ro) in enumerate(zip(outs, bank.b_RO[rows].split(bank.group.out_features, 1), strict=True)):
            y_to.addmm_(s_tRP[:, :, part], b_Ro)
