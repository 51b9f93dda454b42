"""Which op computes what.

| device | inference | training |
|---|---|---|
| CPU, float32 or bfloat16, with a C++ compiler | native | native in float32, else segmented |
| CPU else | segmented | segmented |
| CUDA with Triton | triton | triton |
| CUDA else, bfloat16 | grouped | segmented |
| else | segmented | segmented |

`stacked` is for comparison: since adapters lie in one piece (ADR 0024) it must copy those of a step first.

Measured on one core of an EPYC without AMX, ms for all linears of three layers of a 135 M Llama, r = 8 (D adapters x rows each):

| | 1x1 | 4x1 | 16x2 | 32x1 | 16x4 | 16x16 | 4x64 |
|---|---|---|---|---|---|---|---|
| bfloat16 native | 0.0 | 0.1 | 0.3 | 0.5 | 0.3 | 1.5 | 1.1 |
| stacked | 5.9 | 9.1 | 15.0 | 56.6 | 17.7 | 21.3 | 8.2 |
| segmented | 1.0 | 3.7 | 16.3 | 30.6 | 16.6 | 18.2 | 5.3 |
| grouped | 3.3 | 6.8 | 22.0 | 53.2 | 27.0 | 30.0 | 14.5 |
| float32 native | 0.0 | 0.1 | 0.6 | 1.1 | 0.8 | 3.0 | 2.5 |
| stacked | 2.2 | 4.5 | 16.9 | 33.0 | 19.8 | 35.9 | 11.8 |
| segmented | 0.6 | 1.6 | 7.5 | 22.6 | 13.8 | 10.9 | 5.6 |
"""

from typing import Protocol

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.ops import grouped, native, segmented, triton
from trellis.lora.segments import Segments


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


def choose(device: torch.device, dtype: torch.dtype) -> Op:
    """The op for inference."""
    if native.supports(device, dtype):
        return native
    if triton.supports(device, dtype):
        return triton
    return grouped if device.type != "cpu" and grouped.supports(device, dtype) else segmented


def choose_for_training(device: torch.device, dtype: torch.dtype) -> TrainingOp:
    """The op for training: a tenant's gradients are its own tokens' alone, so never `stacked`."""
    if device.type == "cuda" and triton.supports(device, dtype):
        return triton
    return native if dtype == torch.float32 and native.supports(device, dtype) else segmented
