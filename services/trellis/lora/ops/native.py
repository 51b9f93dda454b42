"""The C++ kernel of `trellis.native`: one call a group of linears, at the memory's speed."""

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.segments import Segments
from trellis.native.build import available
from trellis.native.lora import DTYPES, add_gradients
from trellis.native.lora import add_lora as add

NAME = "native"


def supports(device: torch.device, dtype: torch.dtype) -> bool:
    """On a CPU with a compiler."""
    return device.type == "cpu" and dtype in DTYPES and available()


def add_lora(y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
    """y += scale · (x Aᵀ) B for each segment's rows and each part's columns, in place."""
    add(y_TO, x_TI, bank.operands, segments.native)


def backward(
    grad_x_TI: Tensor | None,
    grad_a_RPI: Tensor,
    grad_b_RO: Tensor,
    grad_y_TO: Tensor,
    x_TI: Tensor,
    bank: GroupBank,
    segments: Segments,
) -> None:
    """Add to the gradients of x, A and B in place; float32 only."""
    grad_y_TO = grad_y_TO if grad_y_TO.stride(-1) == 1 else grad_y_TO.contiguous()
    add_gradients(grad_x_TI, grad_a_RPI, grad_b_RO, grad_y_TO, x_TI, bank.operands, segments.native)
