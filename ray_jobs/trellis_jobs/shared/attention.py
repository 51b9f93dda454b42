"""Attention of a packed pass: each sequence to itself, with gradients.

Short sequences are computed by a kernel of our own in float32 on a CPU. Others are grouped by a length that depends on the
sequence alone, its own rounded up, and each group is one call of PyTorch's attention, which computes every sequence of a
call by itself. So a sequence's numbers are the same bits whatever else is in the pass (float32 on a CPU).

Shapes: T rows of the pass, n sequences of a group, L their rounded length, Q query heads, H key-value heads, D head size,
G rows of all groups.
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

from trellis.engine.attention import Formula, attend_one
from trellis.native.build import available
from trellis.native.packed_attention import HEAD_MULTIPLE, packed_attention

_STEPS: Final = ((128, 16), (1024, 64))
"""Lengths up to the first are rounded up to a multiple of the second."""
_LAST_STEP: Final = 256
SHORT: Final = 128
"""Tokens of a sequence up to which our own kernel is quicker than PyTorch's."""
_HALVES: Final = (torch.float16, torch.bfloat16)


def rounded_length(length: int) -> int:
    """The length as which a sequence of so many tokens is computed."""
    step = next((step for most, step in _STEPS if length <= most), _LAST_STEP)
    return -(-length // step) * step


@dataclass(frozen=True)
class SequenceGroups:
    """Where the rows of each sequence lie, in the pass and in groups of one length."""

    lengths: tuple[int, ...]
    rows: int
    """Of the pass, with those that belong to no sequence."""
    device: torch.device
    firsts: tuple[int, ...] | None = None
    """The first row of each sequence; None where one follows the other from the first row on."""
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(n, L) of each group."""
        rounded = [rounded_length(length) for length in self.lengths]
        return tuple((rounded.count(size), size) for size in sorted(set(rounded)))

    @cached_property
    def gather(self) -> "Gather":
        """The rows of the groups, one group after another, from those of the pass."""
        firsts = self._firsts
        rounded = [rounded_length(length) for length in self.lengths]
        order = sorted(range(len(rounded)), key=lambda number: rounded[number])
        to_G = np.full(sum(rounded), -1, dtype=np.int64)
        to_T = np.full(self.rows, -1, dtype=np.int64)
        at = 0
        for number in order:
            length, first = self.lengths[number], firsts[number]
            to_G[at : at + length] = np.arange(first, first + length)
            to_T[first : first + length] = np.arange(at, at + length)
            at += rounded[number]
        return Gather.of(to_G, to_T, self.device)

    @property
    def _firsts(self) -> tuple[int, ...]:
        return (0, *accumulate(self.lengths))[: len(self.lengths)] if self.firsts is None else self.firsts

    @cached_property
    def short(self) -> Tensor:
        """(S, 2) int32: first row and rows of each sequence of at most SHORT tokens."""
        spans = [span for span in zip(self._firsts, self.lengths, strict=True) if span[1] <= SHORT]
        return torch.tensor(spans, dtype=torch.int32).reshape(-1, 2)

    @cached_property
    def long(self) -> "SequenceGroups":
        """The other sequences."""
        spans = [span for span in zip(self._firsts, self.lengths, strict=True) if span[1] > SHORT]
        return SequenceGroups(
            tuple(length for _, length in spans), self.rows, self.device, tuple(first for first, _ in spans)
        )

    def mask(self, length: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """(L, L), 0 where a token reads and -inf elsewhere, one for all layers; None where all before it is read."""
        if window is None or window >= length:
            return None
        if (length, window) not in self._masks:
            reads_LL = torch.ones(length, length, dtype=torch.bool, device=self.device).tril().triu(1 - window)
            mask_LL = torch.full((length, length), -torch.inf, dtype=dtype, device=self.device)
            self._masks[length, window] = mask_LL.masked_fill_(reads_LL, 0.0)
        return self._masks[length, window]

    @cached_property
    def borders(self) -> Tensor:
        """(sequences + 2) int32: where each sequence starts in the pass; the padding is one more."""
        return torch.tensor([0, *accumulate(self.lengths), self.rows], dtype=torch.int32, device=self.device)


@dataclass(frozen=True, slots=True)
class Gather:
    """Which row each row comes from, forth and back; rows that come from none are zeros."""

    forth: Tensor
    back: Tensor
    empty_forth: Tensor
    empty_back: Tensor

    @classmethod
    def of(cls, forth: np.ndarray, back: np.ndarray, device: torch.device) -> Self:
        """From row numbers, -1 for none."""
        empty = [torch.from_numpy((numbers < 0).nonzero()[0]).to(device) for numbers in (forth, back)]
        filled = [torch.from_numpy(numbers.clip(0)).to(device) for numbers in (forth, back)]
        return cls(*filled, *empty)

    @property
    def inverse(self) -> "Gather":
        """The way back."""
        return Gather(self.back, self.forth, self.empty_back, self.empty_forth)

    def __call__(self, x: Tensor) -> Tensor:
        """The rows of x in the other order, differentiable."""
        moved: Tensor = _Move.apply(x, self)  # type: ignore[no-untyped-call]
        return moved

    def move(self, x: Tensor) -> Tensor:
        """The same without gradients."""
        moved = x.index_select(0, self.forth)
        # Overwritten, not multiplied: what lay there may be somebody's NaN.
        return moved.index_fill_(0, self.empty_forth, 0) if self.empty_forth.numel() else moved


class _Move(torch.autograd.Function):
    """No row is taken twice, so backward is the way back: nothing is added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather: Gather) -> Tensor:
        ctx.gather = gather
        return gather.move(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.gather.inverse.move(grad), None


class PackedAttention:
    """Stands behind the attention layers of one model while it computes packed passes."""

    def __init__(self) -> None:
        self.groups: SequenceGroups | None = None
        """Of the pass in hand."""

    def __call__(self, _layer: int, q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, formula: Formula) -> Tensor:
        """Each token reads its own sequence up to itself: (T, Q, D); zeros, or numbers of no use, for the padding."""
        assert self.groups is not None, "attention outside of a pass"
        if formula.softcap is not None or v_THD.shape[-1] != q_TQD.shape[-1]:
            return _one_by_one(q_TQD, k_THD, v_THD, formula, self.groups)
        if q_TQD.is_cuda and q_TQD.dtype in _HALVES:
            return _varlen(q_TQD, k_THD, v_THD, formula, self.groups)
        if len(self.groups.short) == 0 or not _serves(q_TQD):
            return _grouped(q_TQD, k_THD, v_THD, formula, self.groups)
        short_TQD = packed_attention(
            q_TQD, k_THD, v_THD, self.groups.short, scale=formula.scaling, window=formula.sliding_window
        )
        if not self.groups.long.lengths:
            return short_TQD
        # Each row is zero in one of the two.
        return short_TQD + _grouped(q_TQD, k_THD, v_THD, formula, self.groups.long)


def _serves(q_TQD: Tensor) -> bool:
    is_float = q_TQD.device.type == "cpu" and q_TQD.dtype is torch.float32
    return is_float and q_TQD.shape[2] % HEAD_MULTIPLE == 0 and available()


def _grouped(q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, formula: Formula, groups: SequenceGroups) -> Tensor:
    sizes = [count * length for count, length in groups.shapes]
    q_parts, k_parts, v_parts = (groups.gather(x).split(sizes) for x in (q_TQD, k_THD, v_THD))
    done = [
        _group(q_GQD.unflatten(0, shape), k_GHD.unflatten(0, shape), v_GHD.unflatten(0, shape), formula, groups)
        for q_GQD, k_GHD, v_GHD, shape in zip(q_parts, k_parts, v_parts, groups.shapes, strict=True)
    ]
    return groups.gather.inverse(torch.cat(done) if len(done) > 1 else done[0])


def _group(q_nLQD: Tensor, k_nLHD: Tensor, v_nLHD: Tensor, formula: Formula, groups: SequenceGroups) -> Tensor:
    """(n · L, Q, D); what comes behind a sequence's end is read by nothing of it."""
    mask_LL = groups.mask(q_nLQD.shape[1], formula.sliding_window, q_nLQD.dtype)
    attended_nQLD = functional.scaled_dot_product_attention(
        q_nLQD.transpose(1, 2),
        k_nLHD.transpose(1, 2),
        v_nLHD.transpose(1, 2),
        attn_mask=mask_LL,
        is_causal=mask_LL is None,
        scale=formula.scaling,
        enable_gqa=q_nLQD.shape[2] != k_nLHD.shape[2],
    )
    return attended_nQLD.transpose(1, 2).flatten(0, 1)


def _one_by_one(q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, formula: Formula, groups: SequenceGroups) -> Tensor:
    """For what PyTorch's attention has no kernel: products of one sequence's sizes, so that no other counts."""
    lengths = [length for length in (*groups.lengths, groups.rows - sum(groups.lengths)) if length]
    parts = zip(q_TQD.split(lengths), k_THD.split(lengths), v_THD.split(lengths), strict=True)
    done = [attend_one(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), formula) for q, k, v in parts]
    return torch.cat([attended_QnD.transpose(0, 1) for attended_QnD in done])


def _varlen(q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, formula: Formula, groups: SequenceGroups) -> Tensor:
    """All sequences in one call; on a GPU a sequence's bits may depend on the others."""
    longest = max(*groups.lengths, groups.rows - sum(groups.lengths))
    attended = varlen_attn(
        q_TQD.contiguous(),
        k_THD.contiguous(),
        v_THD.contiguous(),
        groups.borders,
        groups.borders,
        longest,
        longest,
        scale=formula.scaling,
        window_size=(-1 if formula.sliding_window is None else formula.sliding_window - 1, 0),
        enable_gqa=q_TQD.shape[1] != k_THD.shape[1],
    )
    assert isinstance(attended, Tensor)
    return attended
