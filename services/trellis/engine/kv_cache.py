"""What the model remembers of every sequence: keys and values in blocks of a fixed count of tokens, for each layer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trellis.native.attention import CacheOperands
from trellis.native.pages import zeros


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer writes for each token."""

    kv_heads: int
    key_size: int
    """Of one head."""
    value_size: int
    """Of one head."""

    @property
    def values_per_token(self) -> int:
        """Numbers kept for a token."""
        return self.kv_heads * (self.key_size + self.value_size)


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values; blocks first, so that a block of one head is one stretch of memory.

    N blocks, H key-value heads, t tokens a block, D head size. In which order the numbers of a block and head lie is the
    attention backend's own business: `write` and `read` are of the one that keeps to the shape.
    """

    keys_NHtD: Tensor
    values_NHtD: Tensor

    @cached_property
    def operands(self) -> CacheOperands:
        """The tensors as the C++ kernels take them."""
        return CacheOperands(self.keys_NHtD, self.values_NHtD)

    def write(self, keys_THD: Tensor, values_THD: Tensor, blocks_T: Tensor, offsets_T: Tensor) -> None:
        """Put each token's keys and values at its offset in its block."""
        self.keys_NHtD[blocks_T, :, offsets_T] = keys_THD
        self.values_NHtD[blocks_T, :, offsets_T] = values_THD

    def read(self, blocks: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The keys and values, each (H, stop - start, D), of a sequence with this block table."""
        block_tokens = self.keys_NHtD.shape[2]
        first = start // block_tokens
        used = blocks[first : -(-stop // block_tokens)]
        inside = slice(start - first * block_tokens, stop - first * block_tokens)
        keys, values = (cache[used].transpose(0, 1).flatten(1, 2) for cache in (self.keys_NHtD, self.values_NHtD))
        return keys[:, inside], values[:, inside]


def bytes_per_block(shapes: Iterable[LayerShape], block_tokens: int, dtype: torch.dtype) -> int:
    """What one block takes in all layers together."""
    return sum(shape.values_per_token for shape in shapes) * block_tokens * dtype.itemsize


class KVCache:
    """The blocks of all layers; which sequence has which is the block pool's business.

    A sequence reads only positions that it, or one with the same adapter and the same prefix, has written, so that
    what a freed block still holds never comes into an answer.
    """

    def __init__(
        self,
        shapes: Mapping[int, LayerShape],
        blocks: int,
        block_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.blocks = blocks
        self.block_tokens = block_tokens
        self.bytes_per_block = bytes_per_block(shapes.values(), block_tokens, dtype)
        self.layers: Mapping[int, LayerCache] = {
            index: LayerCache(
                zeros((blocks, shape.kv_heads, block_tokens, shape.key_size), dtype, device),
                zeros((blocks, shape.kv_heads, block_tokens, shape.value_size), dtype, device),
            )
            for index, shape in shapes.items()
        }

    @property
    def nbytes(self) -> int:
        """What the cache takes, exactly."""
        return self.blocks * self.bytes_per_block
