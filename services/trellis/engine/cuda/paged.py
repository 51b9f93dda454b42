"""The paged KV cache on a GPU: tokens are written into it, and sequences that decode attend over it; by Triton.

`torch.nn.attention.varlen` takes a block table only with FlashAttention 3, which does not come with PyTorch; the one that
does refuses it. With TRITON_INTERPRET=1 all this runs on CPU tensors.

Tensors' shapes: T tokens, B sequences, Q query heads, H key-value heads, D head size, Z splits of a sequence.
"""

import importlib.util
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from trellis.engine.attention import Formula
from trellis.engine.batch import Layout
from trellis.engine.kv_cache import LayerCache

_MOST_TOKENS: Final = 64
_READ_BYTES: Final = 65536
"""Keys and values of a sequence read at once, at most: three such reads are under way, in 227 KB of shared memory."""
_LEAST_GROUP: Final = 16
"""Query heads of a product: the least that tensor cores take."""
_PROGRAMS: Final = 1024
"""So many at once keep the memory of a large GPU busy; sequences are split until there are so many."""
_MOST_SPLITS: Final = 16
_LEAST_SPLIT: Final = 256
COMPILE: Final = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}
"""How the kernels are compiled; fusion is named, for its default is about to change."""


@cache
def supports(device: torch.device) -> bool:
    """On a GPU of the Ampere generation or later, with Triton."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def write(k_THD: Tensor, v_THD: Tensor, rows_T: Tensor, layer: LayerCache) -> None:
    """Put each token's keys and values into its place (block · tokens a block + offset); below 0 it has none."""
    heads, key, value = k_THD.shape[1], k_THD.shape[2], v_THD.shape[2]
    k_THD, v_THD = _rows(k_THD), _rows(v_THD)
    keys, values = layer.keys_NHtD, layer.values_NHtD
    kernels().write_kernel[(len(k_THD),)](
        keys,
        values,
        k_THD,
        v_THD,
        rows_T,
        heads,
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        k_THD.stride(0),
        k_THD.stride(1),
        v_THD.stride(0),
        v_THD.stride(1),
        BLOCK_TOKENS=keys.shape[2],
        KEY=key,
        VALUE=value,
        BLOCK_H=_power(heads),
        BLOCK_K=_power(key),
        BLOCK_V=_power(value),
        **COMPILE,
    )


def decode(out_TQD: Tensor, q_TQD: Tensor, layer: LayerCache, layout: Layout, formula: Formula) -> None:
    """Write the answers of all sequences with one new token; other rows of `out_TQD` are left alone.

    Each sequence's sum is taken in an order that depends on the sizes of the layout's tensors, not on who else is there.
    """
    keys, values = layer.keys_NHtD, layer.values_NHtD
    count, heads = layout.positions_B.shape[0], keys.shape[1]
    queries, value = q_TQD.shape[1], values.shape[3]
    splits = _splits(count * heads, layout.blocks_BM.shape[1] * keys.shape[2])
    q_TQD, out = _rows(q_TQD), out_TQD
    partial, highest, weight = _partial(count * queries * splits, value, q_TQD.device)
    kernels().decode_kernel[count, heads, splits](
        q_TQD,
        keys,
        values,
        out,
        partial,
        highest,
        weight,
        layout.starts_B1,
        layout.positions_B,
        layout.blocks_BM,
        formula.scaling,
        formula.softcap or 0.0,
        formula.sliding_window or 0,
        q_TQD.stride(0),
        q_TQD.stride(1),
        out.stride(0),
        layout.blocks_BM.stride(0),
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        SPLITS=splits,
        GROUP=queries // heads,
        BLOCK_TOKENS=keys.shape[2],
        KEY=keys.shape[3],
        VALUE=value,
        BLOCK_G=max(_LEAST_GROUP, _power(queries // heads)),
        BLOCK_N=_tokens((_power(keys.shape[3]) + _power(value)) * keys.itemsize),
        BLOCK_K=_power(keys.shape[3]),
        BLOCK_V=_power(value),
        HAS_CAP=formula.softcap is not None,
        HAS_WINDOW=formula.sliding_window is not None,
        **COMPILE,
    )
    if splits > 1:
        kernels().merge_kernel[count, queries](
            out,
            partial,
            highest,
            weight,
            layout.starts_B1,
            out.stride(0),
            SPLITS=splits,
            VALUE=value,
            BLOCK_V=_power(value),
            **COMPILE,
        )


def _splits(programs: int, tokens: int) -> int:
    """A power of two; by what the block tables have room for, so that a recorded graph keeps it."""
    wanted = min(_PROGRAMS // max(1, programs), tokens // _LEAST_SPLIT, _MOST_SPLITS)
    return 1 << (max(1, wanted).bit_length() - 1)


def _tokens(token_bytes: int) -> int:
    """Tokens of a sequence that are read at once; a power of two."""
    return max(_LEAST_GROUP, min(_MOST_TOKENS, 1 << ((_READ_BYTES // token_bytes).bit_length() - 1)))


def _partial(rows: int, value: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    sums = torch.empty(rows, value, dtype=torch.float32, device=device)
    both = torch.empty(2, rows, dtype=torch.float32, device=device)
    return sums, both[0], both[1]


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _power(count: int) -> int:
    """The least power of two that is no less; products need 16."""
    return max(_LEAST_GROUP, 1 << (count - 1).bit_length())


@cache
def kernels() -> Any:
    """The module of kernels, imported when the first is run: Triton is optional, and takes its time."""
    from trellis.engine.cuda import paged_kernels  # noqa: PLC0415

    return paged_kernels
