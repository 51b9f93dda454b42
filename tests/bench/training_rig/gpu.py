"""How much is measured on a GPU, and what its arithmetic and its memory would allow."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tests.bench.serving_rig.shapes import Shape

PEERS: Final = ("sequential", "mlora")
OURS: Final = "fused"
_BYTES: Final = 2
"""Of a weight in bfloat16."""
_FLOPS: Final = 790e12
"""A second: an H200's bfloat16 products, at four fifths of what its maker says."""
_BANDWIDTH: Final = 4.8e12
"""Bytes of an H200's memory a second."""
_LAUNCHES: Final = 30e-3
"""Seconds in which the host tells the GPU of one forward and backward of 32 layers: about 190 kernels a layer at 5 µs."""
_SLICE_LAUNCHES: Final = 8
"""Kernels, forward and backward together, that one adapter's slice of one linear takes."""
_LAUNCH: Final = 5e-6
_LAYERS: Final = 32
_LINEARS: Final = 7


@dataclass(frozen=True, slots=True)
class Load:
    """What each tenant brings to a step."""

    name: str
    lines: int
    low: int
    high: int
    """Positions of a line: the least and the greatest, drawn evenly."""

    def draw(self, seed: str, tenants: int, tokens: range) -> list[list[Tensor]]:
        """Lines of each tenant, one id longer than the positions that are computed."""
        chance = random.Random(seed)
        lengths = [[chance.randint(self.low, self.high) for _ in range(self.lines)] for _ in range(tenants)]
        generator = torch.Generator().manual_seed(chance.getrandbits(32))
        low, high = tokens.start, tokens.stop
        return [
            [torch.randint(low, high, (length + 1,), generator=generator, device="cpu") for length in some]
            for some in lengths
        ]


@dataclass(frozen=True, slots=True)
class GpuSizes:
    """Of one run."""

    shape: Shape
    tenants: int
    loads: Sequence[Load]
    steps: int
    pass_tokens: int
    """That share a pass of the shared step; at 8B one leaves some 8 MB of activations."""


FEW: Final = Load("few", 1, 32, 128)
MIXED: Final = Load("mixed", 2, 32, 512)
FULL_LINES: Final = Load("full", 2, 512, 512)
LLAMA_8B: Final = Shape("llama-8b", 4096, 32, 32, 8, 14336, 128256, 4096, 16)
TINY: Final = Shape("llama-gpu-tiny", 64, 2, 4, 2, 96, 512, 256, 8)

FULL: Final = GpuSizes(LLAMA_8B, 8, (FEW, MIXED, FULL_LINES), 5, 8192)
QUICK: Final = GpuSizes(LLAMA_8B, 8, (FEW, MIXED), 2, 8192)
ON_A_CPU: Final = GpuSizes(TINY, 3, (Load("few", 1, 4, 9), Load("mixed", 2, 4, 20)), 1, 64)


def base_parameters(shape: Shape) -> int:
    """Of all linears and the output head, through which gradients pass."""
    return sum(rows * columns for rows, columns in shape.linears.values()) + shape.vocabulary * shape.hidden


def step_seconds(shape: Shape, tokens: float, launches: float = _LAUNCHES) -> float:
    """The longest of what arithmetic, memory and launches take for one forward and backward of a frozen base."""
    parameters = base_parameters(shape)
    arithmetic = 4 * parameters * tokens / _FLOPS
    memory = 2 * _BYTES * parameters / _BANDWIDTH
    return max(arithmetic, memory, launches)


def expected(sizes: GpuSizes, load: Load, peer: str, drawn: int = 200) -> float:
    """How many times as fast the shared step would be as a peer on an H200, on the mean of so many draws."""
    chance = random.Random(load.name)
    ours = theirs = 0.0
    for _ in range(drawn):
        lines = [[chance.randint(load.low, load.high) for _ in range(load.lines)] for _ in range(sizes.tenants)]
        ours += _passes(sizes, sum(map(sum, lines)))
        if peer == "sequential":
            theirs += sum(step_seconds(sizes.shape, len(some) * max(some)) for some in lines)
        else:
            longest = max(map(max, lines))
            slices = sizes.tenants * _LAYERS * _LINEARS * _SLICE_LAUNCHES * _LAUNCH
            theirs += step_seconds(sizes.shape, sizes.tenants * load.lines * longest, _LAUNCHES + slices)
    return theirs / ours


def _passes(sizes: GpuSizes, tokens: int) -> float:
    full, rest = divmod(tokens, sizes.pass_tokens)
    return full * step_seconds(sizes.shape, sizes.pass_tokens) + (step_seconds(sizes.shape, rest) if rest else 0.0)
