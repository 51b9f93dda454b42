"""Paged attention on the CPU: each sequence's new tokens over its own blocks of the KV cache.

Tensors' shapes: T tokens of the step, Q query heads, H key-value heads, D head size, N blocks of the cache, t tokens a
block, B sequences, M blocks of the longest table.

The cache's tensors are (N, H, t, D) by size, but the numbers of a block and head lie as products read them: bf16 keys
as [D/2][t][2] and values as [t/2][D][2], fp32 keys as [D][t] and values as [t][D]. Whole blocks may be copied or
zeroed as tensors; anything else goes through `write` and `read`.

Measured against gathering each sequence and PyTorch's scaled_dot_product_attention (9 heads over 3, size 64, one thread
of a busy CPU with AMX; a layer's time in one run, best of 20): there is no length of chunk from which the latter is clearly ahead.

| tokens before + new | bf16 | SDPA | fp32 | SDPA |
|---|---|---|---|---|
| 4 x (0 + 64) | 0.25 ms | 0.29 | 0.35 | 0.52 |
| 0 + 256 | 0.43 | 0.50 | 1.0 | 1.4 |
| 512 + 64 | 0.36 | 0.71 | 1.0 | 1.4 |
| 512 + 512 | 7.8 | 10.9 | 35 | 46 |
| 0 + 2048 | 48 | 44 | 153 | 168 |
"""

import ctypes
import functools
from typing import Any, Final

import torch
from torch import Tensor

from trellis.native.build import library

__all__ = ["CacheOperands", "StepTable", "attend", "read", "supports", "write"]

_LANES: Final = 16


def supports(dtype: torch.dtype, block_tokens: int, key_size: int) -> bool:
    """Whether the kernels can serve such a cache."""
    pair = _pair(dtype)
    return pair > 0 and block_tokens > 0 and block_tokens % _LANES == 0 and key_size % pair == 0


def _pair(dtype: torch.dtype) -> int:
    """Numbers that lie side by side: products of bf16 take two."""
    return {torch.float32: 1, torch.bfloat16: 2}.get(dtype, 0)


class _Cache(ctypes.Structure):
    """`Cache` of paged.h."""

    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("heads", ctypes.c_int64),
        ("block_tokens", ctypes.c_int64),
        ("key_size", ctypes.c_int64),
        ("value_size", ctypes.c_int64),
    )


class _Step(ctypes.Structure):
    """`Step` of paged.h."""

    _fields_ = (
        ("starts", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("blocks", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("sequences", ctypes.c_int64),
        ("most_blocks", ctypes.c_int64),
    )


class CacheOperands:
    """One layer's cache with its address at hand; made once, it keeps the tensors alive."""

    __slots__ = ("_keep", "address", "block_tokens", "blocks", "dtype", "heads", "is_bf16", "key_size", "value_size")

    def __init__(self, keys_NHtD: Tensor, values_NHtD: Tensor) -> None:
        """Raises ValueError for tensors that are no cache, or none that the kernels can serve."""
        blocks, heads, block_tokens, key_size = keys_NHtD.shape
        if values_NHtD.shape[:3] != (blocks, heads, block_tokens) or values_NHtD.dtype != keys_NHtD.dtype:
            raise ValueError("Keys and values are not of one cache.")
        if not supports(keys_NHtD.dtype, block_tokens, key_size):
            raise ValueError(
                "The cache is float32 or bfloat16, its blocks a multiple of 16 tokens, its head size even."
            )
        if not all(cache.is_contiguous() and cache.device.type == "cpu" for cache in (keys_NHtD, values_NHtD)):
            raise ValueError("The cache is contiguous and in the CPU's memory.")
        value_size = values_NHtD.shape[3]
        cache = _Cache(keys_NHtD.data_ptr(), values_NHtD.data_ptr(), heads, block_tokens, key_size, value_size)
        self._keep = (keys_NHtD, values_NHtD, cache)
        self.address: Final = ctypes.addressof(cache)
        self.dtype: Final = keys_NHtD.dtype
        self.is_bf16: Final = int(keys_NHtD.dtype == torch.bfloat16)
        self.blocks: Final = blocks
        self.heads: Final = heads
        self.block_tokens: Final = block_tokens
        self.key_size: Final = key_size
        self.value_size: Final = value_size


class StepTable:
    """One step's sequences, for all layers: their rows of the batch, their tokens so far, and their blocks."""

    __slots__ = ("_keep", "address", "block_tokens", "blocks", "tokens")

    def __init__(
        self, starts_B1: Tensor, positions_B: Tensor, blocks_BM: Tensor, rows_T: Tensor, block_tokens: int
    ) -> None:
        """Raises ValueError for tables that would lead the kernels out of a cache.

        The first three are int32: the first row of each sequence and the count of all, the tokens in the cache before
        the step, the blocks. `rows_T` is int64: block · block_tokens + offset of each new token.
        """
        tables = [table.contiguous() for table in (starts_B1, positions_B, blocks_BM, rows_T)]
        if [table.dtype for table in tables] != [torch.int32, torch.int32, torch.int32, torch.int64]:
            raise ValueError("Starts, positions and blocks are int32, rows int64.")
        sequences, most_blocks = blocks_BM.shape
        if starts_B1.shape != (sequences + 1,) or positions_B.shape != (sequences,):
            raise ValueError("The tables are not of the same sequences.")
        counts_B = starts_B1.diff()
        self.tokens: Final = len(rows_T)
        self.block_tokens: Final = block_tokens
        if sequences and (counts_B.min() < 0 or positions_B.min() < 0 or starts_B1[0] != 0):
            raise ValueError("Rows and positions are counted from 0.")
        if int(starts_B1[-1]) != self.tokens or (
            sequences and int((positions_B + counts_B).max()) > most_blocks * block_tokens
        ):
            raise ValueError("A block table does not cover its sequence.")
        if (blocks_BM.numel() and blocks_BM.min() < 0) or (self.tokens and rows_T.min() < 0):
            raise ValueError("Blocks and rows are counted from 0.")
        last_row = int(rows_T.max()) if self.tokens else 0
        last_block = int(blocks_BM.max()) if blocks_BM.numel() else 0
        self.blocks: Final = max(last_block, last_row // block_tokens) + 1 if sequences else 0
        step = _Step(*(table.data_ptr() for table in tables), sequences, most_blocks)
        self._keep = (tables, step)
        self.address: Final = ctypes.addressof(step)


@functools.cache
def _kernel() -> tuple[Any, Any]:
    pointer, long, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
    kernels = library()
    attend_all, write_cache = kernels.trellis_attend, kernels.trellis_write_cache
    attend_all.argtypes = (pointer,) * 3 + (long,) * 2 + (pointer, long, number, number) + (integer,) * 3
    write_cache.argtypes = (pointer,) * 3 + (long,) * 2 + (pointer,) + (long,) * 3 + (integer,) * 2
    attend_all.restype = write_cache.restype = None
    return attend_all, write_cache


def write(k_THD: Tensor, v_THD: Tensor, cache: CacheOperands, step: StepTable) -> None:
    """Put the keys and values of the step's tokens into the cache; raises ValueError if they do not fit it."""
    _check(k_THD, cache, step, (step.tokens, cache.heads, cache.key_size))
    _check(v_THD, cache, step, (step.tokens, cache.heads, cache.value_size))
    k_token, k_head, _ = k_THD.stride()
    v_token, v_head, _ = v_THD.stride()
    _kernel()[1](
        cache.address,
        step.address,
        k_THD.data_ptr(),
        k_token,
        k_head,
        v_THD.data_ptr(),
        v_token,
        v_head,
        step.tokens,
        cache.is_bf16,
        torch.get_num_threads(),
    )


def attend(
    q_TQD: Tensor, cache: CacheOperands, step: StepTable, *, scaling: float, window: int = 0, softcap: float = 0.0
) -> Tensor:
    """Each token reads its sequence up to itself, (T, Q, D); its keys and values have been written before.

    With a window it reads so many tokens, itself among them; with a softcap c scores become c · tanh(score / c). Scores
    and sums are fp32; bf16 weights are rounded to bf16 before values are multiplied with them. Raises ValueError for
    queries that do not fit the cache.
    """
    tokens, heads, _ = q_TQD.shape
    _check(q_TQD, cache, step, (step.tokens, heads, cache.key_size))
    if heads % cache.heads:
        raise ValueError("Each key-value head serves as many query heads as any other.")
    out_TQD = q_TQD.new_empty(tokens, heads, cache.value_size)
    q_token, q_head, _ = q_TQD.stride()
    _kernel()[0](
        cache.address,
        step.address,
        q_TQD.data_ptr(),
        q_token,
        q_head,
        out_TQD.data_ptr(),
        heads,
        scaling,
        softcap,
        window,
        cache.is_bf16,
        torch.get_num_threads(),
    )
    return out_TQD


def _check(tensor: Tensor, cache: CacheOperands, step: StepTable, shape: tuple[int, int, int]) -> None:
    if tensor.shape != shape or tensor.dtype != cache.dtype:
        raise ValueError(
            f"Of this cache and step are {shape} in {cache.dtype}, not {tuple(tensor.shape)} in {tensor.dtype}."
        )
    if tensor.stride(2) != 1:
        raise ValueError("The numbers of one head lie in one piece.")
    if step.blocks > cache.blocks or step.block_tokens != cache.block_tokens:
        raise ValueError("The step's blocks are not of this cache.")


def read(keys_NHtD: Tensor, values_NHtD: Tensor, blocks: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Copies of the keys and values, each (H, stop - start, D), of a sequence with this block table."""
    _, heads, block_tokens, key_size = keys_NHtD.shape
    value_size, pair = values_NHtD.shape[3], _pair(keys_NHtD.dtype)
    first = start // block_tokens
    used = blocks[first : -(-stop // block_tokens)].long()
    inside = slice(start - first * block_tokens, stop - first * block_tokens)
    keys = keys_NHtD[used].view(-1, heads, key_size // pair, block_tokens, pair).permute(1, 0, 3, 2, 4)
    values = values_NHtD[used].view(-1, heads, block_tokens // pair, value_size, pair).permute(1, 0, 2, 4, 3)
    return (
        keys.reshape(heads, -1, key_size)[:, inside],
        values.reshape(heads, -1, value_size)[:, inside],
    )
