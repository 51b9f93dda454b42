"""Triton kernels for CUDA: two launches a group of linears, whatever the mix of adapters; forward and backward.

`s = x Aᵀ` and `y += scale · s B`, as in https://arxiv.org/abs/2311.03285 (S-LoRA) for any mix of ranks, but that tokens
of one adapter are one product and no weight is gathered for a token. With TRITON_INTERPRET=1 they run on CPU tensors.

Tensors' shapes: T tokens, I in-features, O out-features of all parts, P parts, R rank rows of the bank, K rank rows of
the largest adapter, Z splits of a sum.
"""

import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.ops.triton_tables import LONG_BLOCK, RANK_BLOCK, DeviceTables, GroupTables, WorkTables, group_tables
from trellis.lora.segments import Segments

NAME = "triton"

_DTYPES: Final = (torch.bfloat16, torch.float16, torch.float32)
_COLUMNS: Final = 128
COMPILE: Final = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}
"""How the kernels are compiled; fusion is named, for its default is about to change."""


@cache
def supports(device: torch.device, dtype: torch.dtype) -> bool:
    """On a GPU of the Ampere generation or later; on a CPU where Triton interprets."""
    if dtype not in _DTYPES or importlib.util.find_spec("triton") is None:
        return False
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


def add_lora(y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
    """y += scale · (x Aᵀ) B for each segment's rows and each part's columns, in place."""
    tables = tables_of(segments, x_TI.device)
    if len(tables.items):
        expand(y_TO, shrink(x_TI, bank, tables), bank, tables)


def tables_of(segments: Segments, device: torch.device) -> DeviceTables:
    """The step's pieces on the device, made once for all layers."""
    tables = segments.kept.get(NAME)
    if tables is None:
        tables = segments.kept[NAME] = DeviceTables.of(WorkTables.of(segments.all), device)
    assert isinstance(tables, DeviceTables)
    return tables


@dataclass(frozen=True, slots=True)
class Launch:
    """A group's tensors as the kernels take them, and how its columns are cut."""

    a_RQ: Tensor
    """Q = P · I: each rank row of A, part after part."""
    b_RO: Tensor
    scale_SP: Tensor
    cut: GroupTables

    @classmethod
    def of(cls, bank: GroupBank) -> "Launch":
        """Of one group."""
        cut = group_tables(bank.group.in_features, bank.group.out_features, _COLUMNS, bank.a_RPI.device)
        return cls(bank.a_RPI.flatten(1), bank.b_RO, bank.scale_SP, cut)


def shrink(x_TI: Tensor, bank: GroupBank, tables: DeviceTables) -> Tensor:
    """x Aᵀ: (Z, T, P, K) in float32, not scaled; only what the tables' pieces reach is written."""
    launch = Launch.of(bank)
    return _shrink(x_TI, launch.a_RQ, launch, launch.cut.inputs, bank.group.in_features, tables)


def expand(y_TO: Tensor, s_ZTPK: Tensor, bank: GroupBank, tables: DeviceTables) -> None:
    """y += scale · s B, in place."""
    launch = Launch.of(bank)
    _expand(y_TO, launch.b_RO, s_ZTPK, launch, launch.cut.output_tiles, 0, tables)


def backward(
    grad_x_TI: Tensor | None,
    grad_a_RPI: Tensor,
    grad_b_RO: Tensor,
    grad_y_TO: Tensor,
    x_TI: Tensor,
    bank: GroupBank,
    segments: Segments,
) -> None:
    """Add to the gradients of x, A and B in place, given y's; only rank rows of adapters with tokens change."""
    tables = tables_of(segments, x_TI.device)
    if not len(tables.items):
        return
    launch = Launch.of(bank)
    in_features, widest = bank.group.in_features, max(bank.group.out_features)
    x_TI, grad_y_TO = (tensor if tensor.stride(1) == 1 else tensor.contiguous() for tensor in (x_TI, grad_y_TO))
    grad_s_ZTPK = _shrink(grad_y_TO, launch.b_RO, launch, launch.cut.outputs, widest, tables)
    if grad_x_TI is not None:
        _expand(grad_x_TI, launch.a_RQ, grad_s_ZTPK, launch, launch.cut.input_tiles, in_features, tables)
    _outer(grad_a_RPI.flatten(1), x_TI, grad_s_ZTPK, launch, launch.cut.a_tiles, tables)
    s_ZTPK = shrink(x_TI, bank, tables)
    _outer(grad_b_RO, grad_y_TO, s_ZTPK, launch, launch.cut.output_tiles, tables)


def _shrink(x_TC: Tensor, w_RC: Tensor, launch: Launch, parts: Tensor, width: int, tables: DeviceTables) -> Tensor:
    count = len(parts)
    splits = tables.splits(count, width)
    s_ZTPK = torch.empty(splits, len(x_TC), count, tables.rank, dtype=torch.float32, device=x_TC.device)
    kernels().shrink_kernel[len(tables.items), count, splits](
        x_TC,
        w_RC,
        s_ZTPK,
        launch.scale_SP,
        tables.items,
        parts,
        _row_stride(x_TC),
        _row_stride(w_RC),
        s_ZTPK.stride(0),
        s_ZTPK.stride(1),
        tables.rank,
        count,
        splits,
        **_blocks(tables, launch, 64 if tables.token_block == LONG_BLOCK else 128),
    )
    return s_ZTPK


def _expand(
    y_TC: Tensor, w_RC: Tensor, s_ZTPK: Tensor, launch: Launch, tiles: Tensor, w_part: int, tables: DeviceTables
) -> None:
    kernels().expand_kernel[len(tables.rows), len(tiles)](
        y_TC,
        w_RC,
        s_ZTPK,
        launch.scale_SP,
        tables.rows,
        tiles,
        _row_stride(y_TC),
        _row_stride(w_RC),
        w_part,
        s_ZTPK.stride(0),
        s_ZTPK.stride(1),
        tables.rank,
        s_ZTPK.shape[2],
        SPLITS=s_ZTPK.shape[0],
        **_blocks(tables, launch, _COLUMNS),
    )


def _outer(grad_RC: Tensor, x_TC: Tensor, s_ZTPK: Tensor, launch: Launch, tiles: Tensor, tables: DeviceTables) -> None:
    kernels().outer_kernel[len(tables.owners), len(tiles)](
        grad_RC,
        x_TC,
        s_ZTPK,
        launch.scale_SP,
        tables.owners,
        tables.rows,
        tiles,
        _row_stride(grad_RC),
        _row_stride(x_TC),
        s_ZTPK.stride(0),
        s_ZTPK.stride(1),
        tables.rank,
        s_ZTPK.shape[2],
        SPLITS=s_ZTPK.shape[0],
        **_blocks(tables, launch, _COLUMNS),
    )


def _blocks(tables: DeviceTables, launch: Launch, columns: int) -> dict[str, int | bool]:
    blocks = {"BLOCK_T": tables.token_block, "BLOCK_R": RANK_BLOCK, "BLOCK_C": columns, "ALIGN": launch.cut.align}
    return {**blocks, **COMPILE}


def _row_stride(tensor: Tensor) -> int:
    assert tensor.stride(1) == 1 or tensor.shape[1] == 1, "a row lies in one piece"
    return tensor.stride(0)


@cache
def kernels() -> Any:
    """The module of kernels, imported when the first is run: Triton is optional, and takes its time."""
    from trellis.lora.ops import triton_kernels  # noqa: PLC0415

    return triton_kernels
