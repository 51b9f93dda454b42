"""Two products a segment and part, by PyTorch: any device, any dtype, forward and backward; what training takes
where there are no kernels.

A row of the result, and a rank row of the gradients, comes from its own segment alone, bit for bit.
"""

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.segments import Segment, Segments

NAME = "segmented"


def supports(_device: torch.device, _dtype: torch.dtype) -> bool:
    """Everywhere."""
    return True


def add_lora(y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
    """y += scale · (x Aᵀ) B for each segment's rows and each part's columns, in place."""
    for segment in segments.all:
        s_tRP = _scaled(_shrink(x_TI, bank, segment), bank, segment)
        outs = y_TO[segment.span].split(bank.group.out_features, 1)
        for part, (y_to, b_Ro) in enumerate(zip(outs, _b_parts(bank, segment, x_TI.dtype), strict=True)):
            y_to.addmm_(s_tRP[:, :, part], b_Ro)


def backward(
    grad_x_TI: Tensor | None,
    grad_a_RPI: Tensor,
    grad_b_RO: Tensor,
    grad_y_TO: Tensor,
    x_TI: Tensor,
    bank: GroupBank,
    segments: Segments,
) -> None:
    """Add to the gradients of x, A and B in place; only rank rows whose adapter has tokens here change."""
    for segment in segments.all:
        x_tI, rows = x_TI[segment.span], segment.rank_rows
        s_tRP = _scaled(_shrink(x_TI, bank, segment), bank, segment)
        outs = grad_y_TO[segment.span].split(bank.group.out_features, 1)
        grads_b = grad_b_RO[rows].split(bank.group.out_features, 1)
        grad_s = []
        for part, (y_to, b_Ro) in enumerate(zip(outs, _b_parts(bank, segment, x_TI.dtype), strict=True)):
            grad_s.append(y_to @ b_Ro.T)
            grads_b[part].add_(s_tRP[:, :, part].T @ y_to)
        grad_s_tQ = _scaled(torch.stack(grad_s, -1), bank, segment).flatten(1)
        grad_a_RPI[rows].add_((grad_s_tQ.T @ x_tI).view_as(grad_a_RPI[rows]))
        if grad_x_TI is not None:
            grad_x_TI[segment.span].add_(grad_s_tQ @ _a_flat(bank, segment, x_TI.dtype))


def _shrink(x_TI: Tensor, bank: GroupBank, segment: Segment) -> Tensor:
    """x Aᵀ: (t, rank rows, parts)."""
    s_tQ = x_TI[segment.span] @ _a_flat(bank, segment, x_TI.dtype).T
    return s_tQ.view(-1, segment.rows, len(bank.group.parts))


def _a_flat(bank: GroupBank, segment: Segment, dtype: torch.dtype) -> Tensor:
    a_QI: Tensor = bank.a_RPI[segment.rank_rows].flatten(0, 1).to(dtype)
    return a_QI


def _b_parts(bank: GroupBank, segment: Segment, dtype: torch.dtype) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = bank.b_RO[segment.rank_rows].to(dtype).split(bank.group.out_features, 1)
    return parts


def _scaled(s_tRP: Tensor, bank: GroupBank, segment: Segment) -> Tensor:
    return s_tRP * bank.scale_SP[segment.slot].to(s_tRP.dtype)
