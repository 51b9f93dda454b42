"""Attention over the paged KV cache, called by transformers' models through their attention interface.

Tensors' shapes: T tokens of the step, Q query heads, H key-value heads, D head size, n new tokens of one sequence,
L tokens it reads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from trellis.engine.batch import Layout, Span
from trellis.engine.kv_cache import KVCache, LayerCache, LayerShape
from trellis.native import attention as native

IMPLEMENTATION: Final = "trellis_paged"
_CONTEXT: Final = "trellis_attention"


@dataclass(frozen=True, slots=True)
class Formula:
    """How a layer weighs what it reads."""

    scaling: float
    sliding_window: int | None
    """A token reads so many tokens, itself among them; None for all before it."""
    softcap: float | None
    """Scores are squeezed to c · tanh(score / c); None for as they are."""


class AttentionBackend(Protocol):
    """One way to compute attention over the cache; keys and values of the step's tokens are written by it too."""

    def attend(
        self, q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, cache: LayerCache, layout: Layout, formula: Formula
    ) -> Tensor:
        """Write the tokens' keys and values, then let each token read its own sequence up to itself: (T, Q, D)."""
        ...


class UnknownAttentionError(ValueError):
    """The model's attention is of a kind that the paged one does not compute."""


class Attention(Protocol):
    """What stands behind a model's attention layers."""

    def __call__(self, layer: int, q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, formula: Formula, /) -> Tensor:
        """The layer's answer, (T, Q, D)."""
        ...


class AttentionProbe:
    """Answers with zeros and notes what each attention layer keeps for a token."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.formulas: dict[int, Formula] = {}

    def __call__(self, layer: int, q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, formula: Formula) -> Tensor:
        """Note the layer; raises UnknownAttentionError for one that is asked twice."""
        if layer in self.shapes:
            raise UnknownAttentionError(f"Its layer {layer} attends more than once.")
        if len(k_THD) != len(q_TQD):
            raise UnknownAttentionError(f"Its layer {layer} attends to something else than its own tokens.")
        self.shapes[layer] = LayerShape(k_THD.shape[1], k_THD.shape[2], v_THD.shape[2])
        self.formulas[layer] = formula
        return q_TQD.new_zeros(*q_TQD.shape[:2], v_THD.shape[2])


class PagedAttention:
    """The attention of one runner: its cache, and the layout of the step in hand."""

    def __init__(self, cache: KVCache, backend: AttentionBackend) -> None:
        self._layers: Mapping[int, LayerCache] = cache.layers
        self._backend = backend
        self.layout: Layout | None = None

    @property
    def native_step(self) -> native.StepTable | None:
        """The step in hand as the C++ kernels take it; None where others compute."""
        if self.layout is None or not isinstance(self._backend, NativeBackend):
            return None
        return self.layout.native

    def cache_of(self, layer: int) -> LayerCache:
        """The keys and values of a layer."""
        return self._layers[layer]

    def __call__(self, layer: int, q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, formula: Formula) -> Tensor:
        """Write the step's keys and values of this layer and attend."""
        assert self.layout is not None, "attention outside of a step"
        return self._backend.attend(q_TQD, k_THD, v_THD, self._layers[layer], self.layout, formula)


def attach(model: nn.Module, attention: Attention) -> None:
    """Let the model's layers attend through `attention`; each model has its own, so that two never mix."""
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            setattr(module, _CONTEXT, attention)


def attention_of(module: nn.Module) -> Attention:
    """What `attach` has put behind the module."""
    attention: Attention = getattr(module, _CONTEXT)
    return attention


def _forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers' attention layers call: (1, heads, T, D) in, (1, T, heads, D) out."""
    if attention_mask is not None or s_aux is not None:
        raise UnknownAttentionError("Its attention needs a mask of its own or attention sinks.")
    formula = Formula(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    q_TQD, k_THD, v_THD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    attended_TQD = attention_of(module)(module.layer_idx, q_TQD, k_THD, v_THD, formula)
    return attended_TQD.unsqueeze(0), None


AttentionInterface.register(IMPLEMENTATION, _forward)


class SdpaBackend:
    """PyTorch's own attention, one sequence at a time: a mask over the whole batch grows with its square."""

    def attend(
        self, q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, cache: LayerCache, layout: Layout, formula: Formula
    ) -> Tensor:
        """Write the tokens' keys and values, then let each token read its own sequence up to itself: (T, Q, D)."""
        cache.write(k_THD, v_THD, layout.write_blocks, layout.write_offsets)
        attended_TQD = q_TQD.new_empty(*q_TQD.shape[:2], v_THD.shape[2])
        for index, span in enumerate(layout.spans):
            rows = slice(span.start, span.stop)
            first = _first_read(span, formula)
            if span.position == 0:  # all it reads is in hand
                keys, values = (tensor[rows].transpose(0, 1) for tensor in (k_THD, v_THD))
            else:
                keys, values = cache.read(layout.block_lists[index], first, span.length)
            attended_TQD[rows] = attend_one(q_TQD[rows].transpose(0, 1), keys, values, formula).transpose(0, 1)
        return attended_TQD


class NativeBackend:
    """The C++ kernels of `trellis.native.attention`, for a CPU."""

    def attend(
        self, q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, cache: LayerCache, layout: Layout, formula: Formula
    ) -> Tensor:
        """Write the tokens' keys and values, then let each token read its own sequence up to itself: (T, Q, D)."""
        native.write(k_THD, v_THD, cache.operands, layout.native)
        return native.attend(
            q_TQD,
            cache.operands,
            layout.native,
            scaling=formula.scaling,
            window=formula.sliding_window or 0,
            softcap=formula.softcap or 0.0,
        )


def _first_read(span: Span, formula: Formula) -> int:
    """The first token that any of the span's reads."""
    return 0 if formula.sliding_window is None else max(0, span.position + 1 - formula.sliding_window)


def attend_one(q_QnD: Tensor, k_HLD: Tensor, v_HLD: Tensor, formula: Formula) -> Tensor:
    """One sequence's new tokens, the last n of the L that it reads."""
    new, read = q_QnD.shape[1], k_HLD.shape[1]
    mask_nL = _mask(new, read, formula.sliding_window, q_QnD.device)
    if formula.softcap is not None:
        return _softcapped(q_QnD, k_HLD, v_HLD, mask_nL, formula.scaling, formula.softcap)
    is_causal = mask_nL is not None and new == read and (formula.sliding_window or read) >= read
    return functional.scaled_dot_product_attention(
        q_QnD.unsqueeze(0),
        k_HLD.unsqueeze(0),
        v_HLD.unsqueeze(0),
        attn_mask=None if is_causal else mask_nL,
        is_causal=is_causal,
        scale=formula.scaling,
        enable_gqa=q_QnD.shape[0] != k_HLD.shape[0],
    )[0]


def _mask(new: int, read: int, window: int | None, device: torch.device) -> Tensor | None:
    """True where a new token may read; None where all may read all."""
    if new == 1 and (window is None or read <= window):
        return None
    may_read = torch.ones(new, read, dtype=torch.bool, device=device).tril(read - new)
    return may_read if window is None else may_read.triu(read - new - window + 1)


def _softcapped(
    q_QnD: Tensor, k_HLD: Tensor, v_HLD: Tensor, mask_nL: Tensor | None, scaling: float, cap: float
) -> Tensor:
    """As Gemma 2 does (https://arxiv.org/abs/2408.00118): scores stay within the cap."""
    heads = (k_HLD.shape[0], q_QnD.shape[0] // k_HLD.shape[0])
    scores = q_QnD.unflatten(0, heads) @ k_HLD.unsqueeze(1).transpose(-1, -2) * scaling
    scores = cap * torch.tanh(scores / cap)
    if mask_nL is not None:
        scores = scores.masked_fill(~mask_nL, -math.inf)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q_QnD.dtype)
    return (weights @ v_HLD.unsqueeze(1)).flatten(0, 1)
