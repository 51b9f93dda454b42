"""Triton kernels for CUDA: two launches a group of linears, whatever the mix of adapters; forward and backward.

`s = x Aᵀ` and `y += scale · s B`, as in https://arxiv.org/abs/2311.03285 (S-LoRA) for any mix of ranks, but that tokens
of one adapter are one product and no weight is gathered for a token. With TRITON_INTERPRET=1 they run on CPU tensors.

Tensors' shapes: T tokens, I in-features, O out-features of all parts, P parts, V numbers of all adapters, K rank rows of the
largest adapter, Z splits of a sum.
"""

import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.ops.triton_tables import (
    LONG_BLOCK,
    RANK_BLOCK,
    DeviceTables,
    GroupTables,
    StepTables,
    group_tables,
)
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
    tables = tables_of(segments, bank)
    if len(tables.items):
        launch = Launch.of(bank, tables)
        launch.expand(y_TO, launch.shrink(x_TI))


def backward(
    grad_x_TI: Tensor | None,
    grad_V: Tensor,
    grad_y_TO: Tensor,
    x_TI: Tensor,
    bank: GroupBank,
    segments: Segments,
) -> None:
    """Add to the gradients of x, A and B in place, given y's; only those of adapters with tokens change."""
    tables = tables_of(segments, bank)
    if len(tables.items):
        launch = Launch.of(bank, tables)
        x_TI, grad_y_TO = (tensor if tensor.stride(1) == 1 else tensor.contiguous() for tensor in (x_TI, grad_y_TO))
        grad_s_ZTPK = launch.shrink_back(grad_y_TO)
        if grad_x_TI is not None:
            launch.expand_back(grad_x_TI, grad_s_ZTPK)
        launch.add_gradients(grad_V, x_TI, grad_y_TO, launch.shrink(x_TI), grad_s_ZTPK)


def tables_of(segments: Segments, bank: GroupBank) -> DeviceTables:
    """The step's pieces on the device: its own, or those that a recorded graph has in one place."""
    kept = segments.kept.get(NAME)
    if kept is None:
        kept = segments.kept[NAME] = StepTables(segments, bank.values_V.device)
    if isinstance(kept, DeviceTables):
        return kept
    assert isinstance(kept, StepTables)
    return kept.at(bank.host_ranks_SP.numpy())


@dataclass(frozen=True, slots=True)
class Launch:
    """A group's weights, how its columns are cut, and the pieces of a step."""

    bank: GroupBank
    cut: GroupTables
    tables: DeviceTables

    @classmethod
    def of(cls, bank: GroupBank, tables: DeviceTables) -> "Launch":
        """Of one group."""
        group = bank.group
        assert bank.places_SP.stride() == bank.ranks_SP.stride() == bank.scale_SP.stride(), (
            "one stride serves all three"
        )
        return cls(bank, group_tables(group.in_features, group.out_features, _COLUMNS, bank.values_V.device), tables)

    def shrink(self, x_TI: Tensor) -> Tensor:
        """x Aᵀ: (Z, T, P, K) in float32, not scaled; only what the tables' pieces reach is written."""
        return self._shrink(x_TI, self.cut.inputs, 0, self.bank.group.in_features)

    def shrink_back(self, grad_y_TO: Tensor) -> Tensor:
        """grad_y Bᵀ, likewise."""
        group = self.bank.group
        return self._shrink(grad_y_TO, self.cut.outputs, group.in_features, max(group.out_features))

    def expand(self, y_TO: Tensor, s_ZTPK: Tensor) -> None:
        """y += scale · s B, in place."""
        self._expand(y_TO, s_ZTPK, self.cut.output_tiles, self.bank.group.in_features)

    def expand_back(self, grad_x_TI: Tensor, grad_s_ZTPK: Tensor) -> None:
        """grad_x += scale · grad_s A, in place."""
        self._expand(grad_x_TI, grad_s_ZTPK, self.cut.input_tiles, 0)

    def add_gradients(
        self, grad_V: Tensor, x_TI: Tensor, grad_y_TO: Tensor, s_ZTPK: Tensor, grad_s_ZTPK: Tensor
    ) -> None:
        """grad_A += scale · grad_sᵀ x and grad_B += scale · sᵀ grad_y, in place."""
        self._outer(grad_V, x_TI, grad_s_ZTPK, self.cut.a_tiles, 0)
        self._outer(grad_V, grad_y_TO, s_ZTPK, self.cut.output_tiles, self.bank.group.in_features)

    def _shrink(self, x_TC: Tensor, parts: Tensor, skip: int, width: int) -> Tensor:
        tables, count = self.tables, len(parts)
        splits = tables.splits(count, width)
        s_ZTPK = torch.empty(splits, len(x_TC), count, tables.rank, dtype=torch.float32, device=x_TC.device)
        kernels().shrink_kernel[len(tables.items), count, splits](
            x_TC,
            self.bank.values_V,
            s_ZTPK,
            *self._slots(),
            tables.items,
            parts,
            _row_stride(x_TC),
            skip,
            *self._strides(s_ZTPK),
            splits,
            **self._blocks(64 if tables.token_block == LONG_BLOCK else 128),
        )
        return s_ZTPK

    def _expand(self, y_TC: Tensor, s_ZTPK: Tensor, tiles: Tensor, skip: int) -> None:
        kernels().expand_kernel[len(self.tables.rows), len(tiles)](
            y_TC,
            self.bank.values_V,
            s_ZTPK,
            *self._slots(),
            self.tables.rows,
            tiles,
            _row_stride(y_TC),
            skip,
            *self._strides(s_ZTPK),
            SPLITS=s_ZTPK.shape[0],
            **self._blocks(_COLUMNS),
        )

    def _outer(self, grad_V: Tensor, x_TC: Tensor, s_ZTPK: Tensor, tiles: Tensor, skip: int) -> None:
        kernels().outer_kernel[len(self.tables.owners), len(tiles)](
            grad_V,
            x_TC,
            s_ZTPK,
            *self._slots(),
            self.tables.owners,
            self.tables.rows,
            tiles,
            _row_stride(x_TC),
            skip,
            *self._strides(s_ZTPK),
            SPLITS=s_ZTPK.shape[0],
            **self._blocks(_COLUMNS),
        )

    def _slots(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.bank.places_SP, self.bank.ranks_SP, self.bank.scale_SP

    def _strides(self, s_ZTPK: Tensor) -> tuple[int, ...]:
        return *s_ZTPK.stride()[:3], self.bank.places_SP.stride(0)

    def _blocks(self, columns: int) -> dict[str, int | bool]:
        blocks = {
            "BLOCK_T": self.tables.token_block,
            "BLOCK_R": RANK_BLOCK,
            "BLOCK_C": columns,
            "ALIGN": self.cut.align,
        }
        return {**blocks, **COMPILE}


def _row_stride(tensor: Tensor) -> int:
    assert tensor.stride(1) == 1 or tensor.shape[1] == 1, "a row lies in one piece"
    return tensor.stride(0)


@cache
def kernels() -> Any:
    """The module of kernels, imported when the first is run: Triton is optional, and takes its time."""
    from trellis.lora.ops import triton_kernels  # noqa: PLC0415

    return triton_kernels
