"""The C++ kernel of `trellis.native`: one call a group of linears, at the memory's speed."""

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.segments import Segments
from trellis.native.build import available
from trellis.native.linear import PackedLinear
from trellis.native.lora import DTYPES, adapted, adapted_gradients, add_gradients, add_lora as add

NAME = "native"


def supports(device: torch.device, dtype: torch.dtype) -> bool:
    """On a CPU with a compiler."""
    return device.type == "cpu" and dtype in DTYPES and available()


def add_lora(y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
    """y += scale · (x Aᵀ) B for each segment's rows and each part's columns, in place."""
    add(y_TO, x_TI, bank.operands, segments.native)


def backward(
    grad_x_TI: Tensor | None,
    grad_V: Tensor,
    grad_y_TO: Tensor,
    x_TI: Tensor,
    bank: GroupBank,
    segments: Segments,
) -> None:
    """Add to the gradients of x, A and B in place; float32 only."""
    grad_y_TO = grad_y_TO if grad_y_TO.stride(-1) == 1 else grad_y_TO.contiguous()
    add_gradients(grad_x_TI, grad_V, grad_y_TO, x_TI, bank.operands, segments.native)


def multiply_and_add(x_TI: Tensor, forth: PackedLinear, bank: GroupBank, segments: Segments) -> Tensor:
    """forth(x) and what the adapters add to it; float32 only."""
    x_TI = x_TI if x_TI.stride(-1) == 1 else x_TI.contiguous()
    return adapted(x_TI, forth, bank.operands, segments.native)


def multiply_back_and_add(
    grad_y_TO: Tensor, x_TI: Tensor, back: PackedLinear, bank: GroupBank, segments: Segments
) -> Tensor:
    """The gradient of x through both; those of A and B, which the bank has, are added to in place."""
    assert bank.values_V.grad is not None
    x_TI, grad_y_TO = (t if t.stride(-1) == 1 else t.contiguous() for t in (x_TI, grad_y_TO))
    return adapted_gradients(bank.values_V.grad, grad_y_TO, x_TI, back, bank.operands, segments.native)
