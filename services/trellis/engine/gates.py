"""Feed-forward layers whose gate PyTorch would round in another way at the end of a thread's share; in float32 alone."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trellis.engine.attention import Formula
from trellis.engine.fused import GatedMlp
from trellis.native import layers


class GeluMlp(GatedMlp):
    """With GELU by its approximation, as Gemma has it."""

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """gelu(gate) · up."""
        return layers.gelu_mul(gate, up)


class GateUpMlp(nn.Module):
    """A feed-forward layer with SiLU whose gate and up are one linear, as Phi-3 has it."""

    gate_up_proj: nn.Module
    down_proj: nn.Module

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = mlp.gate_up_proj, mlp.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """Each row by itself; raises ValueError for another dtype."""
        if x.dtype != torch.float32:
            raise ValueError("This layer is for float32.")
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        down: Tensor = self.down_proj(layers.silu_mul(gate, up))
        return down


def gated_layers(module: nn.Module, _: Mapping[int, Formula]) -> Iterator[nn.Module]:
    """What may stand for a feed-forward layer that is not trained through, if it says the same."""
    if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj")):
        yield GeluMlp(module)
    if all(hasattr(module, name) for name in ("gate_up_proj", "down_proj")):
        yield GateUpMlp(module)
