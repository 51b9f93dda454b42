"""The C++ kernel of `trellis.native`: one call a group of linears, at the memory's speed."""

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.segments import Segments
from trellis.native.build import available
from trellis.native.lora import DTYPES
from trellis.native.lora import add_lora as add

NAME = "native"


def supports(device: torch.device, dtype: torch.dtype) -> bool:
    """On a CPU with a compiler."""
    return device.type == "cpu" and dtype in DTYPES and available()


def add_lora(y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
    """y += scale · (x Aᵀ) B for each segment's rows and each part's columns, in place."""
    add(y_TO, x_TI, bank.operands, segments.native)
