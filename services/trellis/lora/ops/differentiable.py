"""What adapters add, with gradients for training."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trellis.lora.bank import GroupBank
from trellis.lora.ops import segmented
from trellis.lora.ops.plan import TrainingOp
from trellis.lora.segments import Segments


def lora(x_TI: Tensor, bank: GroupBank, segments: Segments, op: TrainingOp = segmented) -> Tensor:
    """scale · (x Aᵀ) B of each segment's rows; (T, O), zero for rows of the base alone.

    Backward adds to `bank.a_RPI.grad` and `bank.b_RO.grad` in place, which must exist and are those of all adapters, so
    that no tensor of the bank's size is made for a step; only rank rows whose adapter has tokens here change.
    """
    added: Tensor = _Lora.apply(x_TI, bank.a_RPI, bank.b_RO, bank, segments, op)  # type: ignore[no-untyped-call]
    return added


class _Lora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, _a_RPI: Tensor, _b_RO: Tensor, bank: GroupBank, segments: Segments, op: TrainingOp
    ) -> Tensor:
        # A and B are among the inputs so that backward comes even when x needs no gradient.
        ctx.save_for_backward(x_TI)
        ctx.bank, ctx.segments, ctx.op = bank, segments, op
        added_TO = x_TI.new_zeros(len(x_TI), bank.group.columns)
        op.add_lora(added_TO, x_TI, bank, segments)
        return added_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y_TO: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        (x_TI,) = ctx.saved_tensors
        bank: GroupBank = ctx.bank
        if bank.a_RPI.grad is None or bank.b_RO.grad is None:
            raise RuntimeError("The bank's tensors have no .grad to add to: give the bank gradients first.")
        grad_x_TI = torch.zeros_like(x_TI) if ctx.needs_input_grad[0] else None
        op: TrainingOp = ctx.op
        op.backward(grad_x_TI, bank.a_RPI.grad, bank.b_RO.grad, grad_y_TO, x_TI, bank, ctx.segments)
        return grad_x_TI, None, None, None, None, None
