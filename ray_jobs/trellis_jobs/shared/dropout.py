"""Dropout before adapters, drawn for each chunk from its own seed.

Shapes: T rows of the pass, t of a chunk, I in-features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trellis.lora.groups import LoraGroup
from trellis.lora.ops import Masked
from trellis_jobs.shared.chunk import Chunk


class ChunkDropout:
    """What the adapters of a pass's chunks see of their input.

    A mask depends on the chunk's seed and length, the group of linears and the place in the chunk alone, so that it is the
    same beside any neighbours, and once more when a layer is computed again for its gradients. Linears that read the same
    input share a mask, where PEFT draws one for each.
    """

    def __init__(self, chunks: Sequence[Chunk], groups: Sequence[LoraGroup]) -> None:
        self._chunks = tuple(chunks)
        self._numbers = {group.name: number for number, group in enumerate(groups)}

    def masks(self, group: LoraGroup, x_TI: Tensor) -> list[Masked]:
        """Of each chunk that has dropout: 0 for some numbers, and 1 / (1 - rate) for the rest."""
        found, start = [], 0
        for chunk in self._chunks:
            if chunk.dropout and chunk.slot is not None:
                generator = torch.Generator().manual_seed(_mixed(chunk.seed, self._numbers[group.name]))
                kept = 1.0 - chunk.dropout
                mask_tI = torch.empty(chunk.tokens, group.in_features).bernoulli_(kept, generator=generator).div_(kept)
                found.append((slice(start, start + chunk.tokens), mask_tI.to(x_TI.device, x_TI.dtype)))
            start += chunk.tokens
        return found


def _mixed(seed: int, number: int) -> int:
    """A seed of 64 bits for the group; neighbouring numbers give unlike ones (Steele's SplitMix64)."""
    mixed = (seed + (number + 1) * 0x9E3779B97F4A7C15) % (1 << 64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> shift)) * factor % (1 << 64)
    return mixed ^ (mixed >> 31)
