"""Which op computes what.

| device | inference | training |
|---|---|---|
| CPU, float32 or bfloat16, with a C++ compiler | native | native in float32, else segmented |
| CPU else, few rows (decode) of several adapters | stacked | segmented |
| CPU else | segmented | segmented |
| CUDA with Triton | triton | triton |
| CUDA else, bfloat16 | grouped | segmented |
| else | segmented | segmented |

Measured on one core with AMX, when adapters did not yet lie in one piece (ADR 0024; `stacked` copies those of a step since then),
ms for all linears of three layers of a 135 M Llama, r = 8 (D adapters x rows each):

| | 1x1 | 4x1 | 16x2 | 32x1 | 16x4 | 16x16 | 4x64 |
|---|---|---|---|---|---|---|---|
| bfloat16 native | 0.1 | 0.2 | 0.7 | 1.5 | 0.9 | 5.2 | 1.6 |
| stacked | 1.2 | 1.6 | 3.5 | 4.9 | 4.1 | 8.6 | 4.0 |
| segmented | 1.0 | 4.1 | 16.6 | 33.2 | 18.2 | 19.3 | 5.7 |
| grouped | 2.5 | 6.0 | 20.3 | 43.0 | 23.5 | 34.4 | 17.9 |
| float32 native | 0.1 | 0.2 | 0.8 | 1.6 | 1.0 | 2.6 | 2.0 |
| stacked | 0.4 | 0.7 | 3.6 | 7.3 | 5.3 | 17.3 | 5.3 |
| segmented | 0.3 | 1.3 | 6.1 | 12.0 | 6.6 | 8.6 | 3.8 |
"""

from typing import Final, Protocol

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.ops import grouped, native, segmented, stacked, triton
from trellis.lora.segments import Segments

STACKED_TOKENS: Final = 4
"""Rows an adapter up to which one product with all adapters of a step is quicker than two with each, on a CPU."""


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
        grad_V: Tensor,
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
        return stacked if _stacks_well(segments) else segmented
    return grouped if grouped.supports(device, dtype) else segmented


def choose_for_training(device: torch.device, dtype: torch.dtype) -> TrainingOp:
    """The op for training: a tenant's gradients are its own tokens' alone, so never `stacked`."""
    if device.type == "cuda" and triton.supports(device, dtype):
        return triton
    return native if dtype == torch.float32 and native.supports(device, dtype) else segmented


def _stacks_well(segments: Segments) -> bool:
    return len(segments.all) > 1 and segments.max_tokens <= STACKED_TOKENS
