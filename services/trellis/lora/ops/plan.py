"""Which op computes what.

| device | inference | training |
|---|---|---|
| CPU, float32 or bfloat16, with a C++ compiler | native | segmented |
| CPU else, few rows an adapter (decode) | stacked | segmented |
| CPU else | segmented | segmented |
| CUDA with Triton | triton | triton |
| CUDA else, bfloat16 | grouped | segmented |
| else | segmented | segmented |
"""

from typing import Final, Protocol

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.ops import grouped, native, segmented, stacked, triton
from trellis.lora.segments import Segments

STACKED_TOKENS: Final = 4
"""Rows an adapter up to which one product over all active rank rows is quicker than two an adapter, on a CPU."""


class Op(Protocol):
    """A way to compute LoRA for a mixed batch."""

    NAME: str

    def supports(self, _device: torch.device, _dtype: torch.dtype, /) -> bool:
        """Whether it works there."""
        ...

    def add_lora(self, y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
        """y += scale · (x Aᵀ) B, in place."""
        ...


class TrainingOp(Op, Protocol):
    """One that has gradients too."""

    def backward(
        self,
        grad_x_TI: Tensor | None,
        grad_a_RPI: Tensor,
        grad_b_RO: Tensor,
        grad_y_TO: Tensor,
        x_TI: Tensor,
        bank: GroupBank,
        segments: Segments,
    ) -> None:
        """Add to the gradients, in place."""
        ...


def choose(device: torch.device, dtype: torch.dtype, segments: Segments) -> Op:
    """The op for inference on these segments."""
    if native.supports(device, dtype):
        return native
    if triton.supports(device, dtype):
        return triton
    if device.type == "cpu":
        return stacked if segments.max_tokens <= STACKED_TOKENS else segmented
    return grouped if grouped.supports(device, dtype) else segmented


def choose_for_training(device: torch.device, dtype: torch.dtype) -> TrainingOp:
    """The op for training: a tenant's gradients are its own tokens' alone, so never `stacked`."""
    return triton if device.type == "cuda" and triton.supports(device, dtype) else segmented
