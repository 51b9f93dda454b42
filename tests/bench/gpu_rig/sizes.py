"""How much is measured, and what the hardware would allow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.bench.serving_rig.shapes import Shape
from tests.bench.serving_rig.workload import Lengths

_BYTES: Final = 2
"""Of a weight in bfloat16."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Requests on their way at once, and how many adapters they have among them."""

    at_once: int
    adapters: int

    @property
    def name(self) -> str:
        """Such as `adapters32_of_128`."""
        return f"adapters{self.adapters}_of_{self.at_once}"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of one run."""

    shape: Shape
    lengths: Lengths
    mixes: Sequence[Mix]
    registered: Sequence[int]
    """Adapters known to the engine: the least first."""
    at_once: int
    """Requests at once, over all registered adapters."""
    slots: int
    """Of the engine that has twice as many adapters."""
    slot_requests: int
    files: int
    """Adapters with weights of their own; others are registered with the same."""
    kv_mib: int
    host_mib: int
    """For adapters that are not in the bank."""

    @property
    def most_adapters(self) -> int:
        """That one engine holds."""
        return max(*self.registered, *(mix.adapters for mix in self.mixes))


LLAMA_8B: Final = Shape("llama-8b", 4096, 32, 32, 8, 14336, 128256, 4096, 16)
"""Llama 3's of that size, but that the output head is the embedding."""
TINY: Final = Shape("llama-gpu-tiny", 64, 2, 4, 2, 96, 512, 256, 8)
_MIXES: Final = tuple(Mix(*pair) for pair in ((128, 1), (128, 8), (128, 32), (128, 128), (32, 32), (8, 8)))

FULL: Final = Sizes(
    LLAMA_8B,
    Lengths((256, 256), (128, 128)),
    _MIXES,
    (8, 1000),
    32,
    32,
    128,
    files=16,
    kv_mib=16 << 10,
    host_mib=16 << 10,
)
QUICK: Final = Sizes(
    LLAMA_8B, Lengths((64, 64), (64, 64)), _MIXES[2:], (8, 128), 32, 16, 32, files=8, kv_mib=8 << 10, host_mib=16 << 10
)
ON_A_CPU: Final = Sizes(
    TINY, Lengths((8, 8), (4, 4)), (Mix(4, 1), Mix(4, 4)), (2, 8), 4, 2, 4, files=2, kv_mib=1, host_mib=64
)


def allowed_share(shape: Shape, lengths: Lengths, mix: Mix) -> float:
    """Of the base's own speed in decoding, were reading memory all that takes time: weights, cache and adapters."""
    pairs = shape.linears.values()
    base = sum(rows * columns for rows, columns in pairs) + shape.vocabulary * shape.hidden
    per_token = 2 * shape.layers * shape.kv_heads * shape.hidden // shape.heads
    tokens = sum(lengths.prompt) / 2 + sum(lengths.answer) / 4  # an answer is half done on average
    before = _BYTES * (base + mix.at_once * tokens * per_token)
    adapters = _BYTES * mix.adapters * shape.rank * sum(rows + columns for rows, columns in pairs)
    return before / (before + adapters)
