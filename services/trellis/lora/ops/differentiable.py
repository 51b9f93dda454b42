"""What adapters add, with gradients for training: alone, or in one with the base's product."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trellis.lora.bank import GroupBank
from trellis.lora.ops import segmented
from trellis.lora.ops.plan import TrainingOp
from trellis.lora.products import TrainingProduct
from trellis.lora.segments import Segments


def lora(x_TI: Tensor, bank: GroupBank, segments: Segments, op: TrainingOp = segmented) -> Tensor:
    """scale · (x Aᵀ) B of each segment's rows; (T, O), zero for rows of the base alone.

    Backward adds to `bank.a_RPI.grad` and `bank.b_RO.grad` in place, which must exist and are those of all adapters, so
    that no tensor of the bank's size is made for a step; only rank rows whose adapter has tokens here change.
    """
    added: Tensor = _Lora.apply(x_TI, bank.a_RPI, bank.b_RO, bank, segments, op)  # type: ignore[no-untyped-call]
    return added


def adapted(
    x_TI: Tensor, product: TrainingProduct, bank: GroupBank, segments: Segments, op: TrainingOp = segmented
) -> Tensor:
    """product(x) and what `lora` adds to it: (T, O). In one, neither sum nor gradient needs a tensor of its own."""
    y_TO: Tensor = _Adapted.apply(x_TI, bank.a_RPI, bank.b_RO, product, bank, segments, op)  # type: ignore[no-untyped-call]
    return y_TO


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        _a_RPI: Tensor,
        _b_RO: Tensor,
        product: TrainingProduct,
        bank: GroupBank,
        segments: Segments,
        op: TrainingOp,
    ) -> Tensor:
        ctx.save_for_backward(x_TI)
        ctx.product, ctx.bank, ctx.segments, ctx.op = product, bank, segments, op
        y_TO = product.forth(x_TI)
        op.add_lora(y_TO, x_TI, bank, segments)
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y_TO: Tensor) -> tuple[Tensor | None, None, None, None, None, None, None]:
        (x_TI,) = ctx.saved_tensors
        product: TrainingProduct = ctx.product
        grad_x_TI = product.back(grad_y_TO) if ctx.needs_input_grad[0] else None
        _add_gradients(grad_x_TI, grad_y_TO, x_TI, ctx.bank, ctx.segments, ctx.op)
        return grad_x_TI, None, None, None, None, None, None


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
        grad_x_TI = torch.zeros_like(x_TI) if ctx.needs_input_grad[0] else None
        _add_gradients(grad_x_TI, grad_y_TO, x_TI, ctx.bank, ctx.segments, ctx.op)
        return grad_x_TI, None, None, None, None, None


def _add_gradients(
    grad_x_TI: Tensor | None, grad_y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments, op: TrainingOp
) -> None:
    if bank.a_RPI.grad is None or bank.b_RO.grad is None:
        raise RuntimeError("The bank's tensors have no .grad to add to: give the bank gradients first.")
    op.backward(grad_x_TI, bank.a_RPI.grad, bank.b_RO.grad, grad_y_TO, x_TI, bank, segments)
