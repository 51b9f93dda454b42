"""Attention on a GPU: Triton for sequences that decode, FlashAttention (`torch.nn.attention.varlen`) for prompts, and
where that does not take them, PyTorch's SDPA one by one.

A step may hold both: each kernel leaves the other's sequences alone. Prompts' keys and values that earlier steps wrote
are copied out of the cache first, for FlashAttention reads them in one piece.

Tensors' shapes: T tokens, C tokens of pieces of more than one token, L tokens that those read, Q query heads, H key-value
heads, D head size.
"""

import itertools
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from trellis.engine.attention import Formula, attend_one
from trellis.engine.batch import Layout, Span
from trellis.engine.cuda import paged
from trellis.engine.kv_cache import LayerCache

_FLASH_DTYPES: Final = (torch.float16, torch.bfloat16)
_MOST_FLASH: Final = 256
"""The largest head that FlashAttention takes."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """The pieces of a step that are more than one token, as FlashAttention wants them; the same for every layer."""

    rows_C: Tensor
    """int64; their tokens among the step's."""
    reads_L: Tensor | None
    """int64; where the cache holds all that they read, in order; None when the step itself brings all of it."""
    spans: tuple[Span, ...]
    starts_q: Tensor
    """int32; the first of each piece's tokens, and their count."""
    starts_k: Tensor
    """int32; the first of the tokens that each reads, and their count."""
    most_q: int
    most_k: int

    @classmethod
    def of(cls, layout: Layout) -> Self:
        """Of a step in which there are such pieces."""
        chosen = [(index, span) for index, span in enumerate(layout.spans) if span.count > 1]
        device = layout.rows_T.device
        lengths = [span.length for _, span in chosen]
        reads = None
        if any(span.position for _, span in chosen):
            tokens = [torch.arange(span.length, device=device) for _, span in chosen]
            size = layout.block_tokens
            reads = torch.cat(
                [
                    layout.block_lists[index][at // size] * size + at % size
                    for (index, _), at in zip(chosen, tokens, strict=True)
                ]
            )
        return cls(
            torch.cat([torch.arange(span.start, span.stop, device=device) for _, span in chosen]),
            reads,
            tuple(span for _, span in chosen),
            _starts([span.count for _, span in chosen], device),
            _starts(lengths, device),
            max(span.count for _, span in chosen),
            max(lengths),
        )


class CudaBackend:
    """For a GPU of the Ampere generation or later, with Triton."""

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._prompts: Prompts | None = None

    def attend(
        self, q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, cache: LayerCache, layout: Layout, formula: Formula
    ) -> Tensor:
        """Write the tokens' keys and values, then let each token read its own sequence up to itself: (T, Q, D)."""
        paged.write(k_THD, v_THD, layout.rows_T, cache)
        out_TQD = q_TQD.new_empty(*q_TQD.shape[:2], v_THD.shape[2])
        if layout.most_new > 1:
            self._attend_prompts(out_TQD, q_TQD, k_THD, v_THD, cache, layout, formula)
        if any(span.count == 1 for span in layout.spans):
            paged.decode(out_TQD, q_TQD, cache, layout, formula)
        return out_TQD

    def _attend_prompts(
        self,
        out_TQD: Tensor,
        q_TQD: Tensor,
        k_THD: Tensor,
        v_THD: Tensor,
        cache: LayerCache,
        layout: Layout,
        formula: Formula,
    ) -> None:
        prompts = self._prompts_of(layout)
        if prompts.reads_L is None:
            k_LHD, v_LHD = k_THD[prompts.rows_C], v_THD[prompts.rows_C]
        else:
            k_LHD, v_LHD = (_read(side, prompts.reads_L) for side in (cache.keys_NHtD, cache.values_NHtD))
        attend = flash if flash_takes(q_TQD, v_THD, formula) else one_by_one
        out_TQD[prompts.rows_C] = attend(q_TQD[prompts.rows_C], k_LHD, v_LHD, prompts, formula)

    def _prompts_of(self, layout: Layout) -> Prompts:
        """Made by the step's first layer."""
        if self._layout is not layout or self._prompts is None:
            self._layout, self._prompts = layout, Prompts.of(layout)
        return self._prompts


def flash_takes(q_TQD: Tensor, v_THD: Tensor, formula: Formula) -> bool:
    """Whether FlashAttention computes this; PyTorch's has no soft cap."""
    size = q_TQD.shape[2]
    is_known = q_TQD.dtype in _FLASH_DTYPES and size % 8 == 0 and size <= _MOST_FLASH
    return q_TQD.is_cuda and is_known and v_THD.shape[2] == size and formula.softcap is None


def flash(q_CQD: Tensor, k_LHD: Tensor, v_LHD: Tensor, prompts: Prompts, formula: Formula) -> Tensor:
    """Each piece's tokens, the last of those that it reads: (C, Q, D)."""
    window = formula.sliding_window
    answer = varlen_attn(
        q_CQD,
        k_LHD,
        v_LHD,
        prompts.starts_q,
        prompts.starts_k,
        prompts.most_q,
        prompts.most_k,
        scale=formula.scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=q_CQD.shape[1] != k_LHD.shape[1],
    )
    assert isinstance(answer, Tensor)
    return answer


def one_by_one(q_CQD: Tensor, k_LHD: Tensor, v_LHD: Tensor, prompts: Prompts, formula: Formula) -> Tensor:
    """The same as `flash`, whatever the dtype, the sizes and the formula."""
    counts, lengths = [span.count for span in prompts.spans], [span.length for span in prompts.spans]
    answers = []
    for sides in zip(q_CQD.split(counts), k_LHD.split(lengths), v_LHD.split(lengths), strict=True):
        q_QnD, k_HLD, v_HLD = (side.transpose(0, 1) for side in sides)
        answers.append(attend_one(q_QnD, k_HLD, v_HLD, formula).transpose(0, 1))
    return torch.cat(answers)


def _read(side_NHtD: Tensor, places_L: Tensor) -> Tensor:
    size = side_NHtD.shape[2]
    return side_NHtD[places_L // size, :, places_L % size]


def _starts(counts: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(counts)], dtype=torch.int32, device=device)
