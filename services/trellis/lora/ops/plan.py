"""Which op computes a step."""

from typing import Protocol

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.ops import native, segmented
from trellis.lora.segments import Segments


class Op(Protocol):
    """A way to compute LoRA for a mixed batch."""

    NAME: str

    def supports(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether it works there."""
        ...

    def add_lora(self, y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
        """y += scale · (x Aᵀ) B, in place."""
        ...


def choose(device: torch.device, dtype: torch.dtype) -> Op:
    """The fastest op for inference there."""
    op: Op = native if native.supports(device, dtype) else segmented
    return op
