"""What every other op is tested against: a loop, in float32 or better."""

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.segments import Segments

NAME = "reference"


def supports(_device: torch.device, _dtype: torch.dtype) -> bool:
    """Everywhere."""
    return True


def add_lora(y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
    """y += scale · (x Aᵀ) B for each segment's rows and each part's columns, in place.

    https://arxiv.org/abs/2106.09685, section 4.1.
    """
    wide = torch.promote_types(x_TI.dtype, torch.float32)
    for segment in segments.all:
        x_tI = x_TI[segment.span].to(wide)
        column = 0
        for part, width in enumerate(bank.group.out_features):
            columns = slice(column, column + width)
            column += width
            pair = bank.pair(segment.slot, part)
            if pair is None:
                continue
            a_RI, b_RO = (side.to(wide) for side in pair)
            added_tO = (x_tI @ a_RI.T * bank.scale_SP[segment.slot, part].to(wide)) @ b_RO
            y_TO[segment.span, columns] = (y_TO[segment.span, columns].to(wide) + added_tO).to(y_TO.dtype)
