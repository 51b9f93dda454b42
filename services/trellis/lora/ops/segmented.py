"""Two products a segment and part, by PyTorch: any device, any dtype, forward and backward; what training takes
where there are no kernels.

A row of the result, and what the gradients of an adapter get, comes from its own segment alone, bit for bit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank, Pair
from trellis.lora.segments import Segment, Segments

NAME = "segmented"


def supports(_device: torch.device, _dtype: torch.dtype) -> bool:
    """Everywhere."""
    return True


def add_lora(y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
    """y += scale · (x Aᵀ) B for each segment's rows and each part's columns, in place."""
    for segment in segments.all:
        outs = y_TO[segment.span].split(bank.group.out_features, 1)
        for part, scale, (a_RI, b_RO) in _pairs(bank, segment, x_TI.dtype):
            outs[part].addmm_(x_TI[segment.span] @ a_RI.T * scale, b_RO)


def backward(
    grad_x_TI: Tensor | None,
    grad_V: Tensor,
    grad_y_TO: Tensor,
    x_TI: Tensor,
    bank: GroupBank,
    segments: Segments,
) -> None:
    """Add to the gradients of x, A and B in place; only those of adapters that have tokens here change."""
    for segment in segments.all:
        x_tI = x_TI[segment.span]
        outs = grad_y_TO[segment.span].split(bank.group.out_features, 1)
        for part, scale, (a_RI, b_RO) in _pairs(bank, segment, x_TI.dtype):
            grads = bank.pair_of(grad_V, segment.slot, part)
            assert grads is not None
            grad_s_tR = outs[part] @ b_RO.T * scale
            grads[0].add_(grad_s_tR.T @ x_tI)
            grads[1].add_((x_tI @ a_RI.T * scale).T @ outs[part])
            if grad_x_TI is not None:
                grad_x_TI[segment.span].add_(grad_s_tR @ a_RI)


def _pairs(bank: GroupBank, segment: Segment, dtype: torch.dtype) -> Iterator[tuple[int, Tensor, Pair]]:
    """Each part that the segment's adapter changes, with its scale and its weights."""
    for part in range(len(bank.group.parts)):
        pair = bank.pair(segment.slot, part)
        if pair is not None:
            yield part, bank.scale_SP[segment.slot, part].to(dtype), (pair[0].to(dtype), pair[1].to(dtype))
