"""A base's product and what adapters add to it, in one step with gradients for training."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trellis.lora.bank import GroupBank
from trellis.lora.ops import native, segmented
from trellis.lora.ops.plan import TrainingOp
from trellis.lora.products import TrainingProduct
from trellis.lora.segments import Segments
from trellis.native.linear import DifferentiableLinear

Masked = tuple[slice, Tensor]
"""Rows t of x, and what each of their numbers is multiplied by before an adapter sees it: (t, I)."""


def adapted(
    x_TI: Tensor,
    product: TrainingProduct,
    bank: GroupBank,
    segments: Segments,
    op: TrainingOp = segmented,
    masked: Sequence[Masked] = (),
) -> Tensor:
    """product(x) + scale · (x Aᵀ) B of each segment's rows: (T, O). In one, neither sum nor gradient needs a tensor of its
    own; rows that are masked change nothing for the others, not by a bit.

    Backward adds to `bank.values_V.grad` in place, which must exist and is that of all adapters, so that no tensor of the
    bank's size is made for a step; only the numbers of adapters that have tokens here change.
    """
    y_TO: Tensor = _Adapted.apply(x_TI, bank.values_V, product, bank, segments, op, masked)  # type: ignore[no-untyped-call]
    return y_TO


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        _values_V: Tensor,
        product: TrainingProduct,
        bank: GroupBank,
        segments: Segments,
        op: TrainingOp,
        masked: Sequence[Masked],
    ) -> Tensor:
        # The weights are among the inputs so that backward comes even when x needs no gradient.
        seen_TI = x_TI.clone() if masked else x_TI
        for rows, mask_tI in masked:
            seen_TI[rows] *= mask_tI
        ctx.save_for_backward(seen_TI)
        ctx.product, ctx.bank, ctx.segments, ctx.op, ctx.masked = product, bank, segments, op, masked
        if not masked and op is native and isinstance(product, DifferentiableLinear):
            return native.multiply_and_add(x_TI, product.forth, bank, segments)
        y_TO = product.forth(x_TI)
        op.add_lora(y_TO, seen_TI, bank, segments)
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y_TO: Tensor) -> tuple[Tensor | None, *tuple[None, ...]]:
        (seen_TI,) = ctx.saved_tensors
        bank: GroupBank = ctx.bank
        if bank.values_V.grad is None:
            raise RuntimeError("The bank has no .grad to add to: give it gradients first.")
        product: TrainingProduct = ctx.product
        op: TrainingOp = ctx.op
        if not ctx.masked and ctx.needs_input_grad[0] and op is native and isinstance(product, DifferentiableLinear):
            grad_x = native.multiply_back_and_add(grad_y_TO, seen_TI, product.back, bank, ctx.segments)
            return grad_x, *(None,) * 6
        grad_x_TI = product.back(grad_y_TO) if ctx.needs_input_grad[0] else None
        masked: Sequence[Masked] = ctx.masked if grad_x_TI is not None else ()
        base = [grad_x_TI[rows].clone() for rows, _ in masked] if grad_x_TI is not None else []
        for rows, _ in masked:
            grad_x_TI[rows] = 0.0  # type: ignore[index]
        op.backward(grad_x_TI, bank.values_V.grad, grad_y_TO, seen_TI, bank, ctx.segments)
        for (rows, mask_tI), base_tI in zip(masked, base, strict=True):
            grad_x_TI[rows] = torch.addcmul(base_tI, grad_x_TI[rows], mask_tI)  # type: ignore[index]
        return grad_x_TI, *(None,) * 6
