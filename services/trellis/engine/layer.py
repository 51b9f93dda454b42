"""A decoder layer as one call to the native kernels, where all its parts are theirs."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trellis.engine.attention import Formula, PagedAttention, attention_of
from trellis.engine.fused import FusedAttention, FusedMlp, FusedNorm
from trellis.lora.linear import ActiveLora, FusedGroup, LoraLinear
from trellis.native.attention import StepTable
from trellis.native.decoder import AdaptedLinear, DecoderOperands, DecoderStep, Norm, Reading
from trellis.native.linear import PackedLinear
from trellis.native.lora import SegmentTable

_PARTS = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
_LINEARS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


class StepMemo:
    """The step in hand as the kernels take it: made for its first layer, and used by the others."""

    def __init__(self) -> None:
        self._known: tuple[StepTable, SegmentTable | None, Any, DecoderStep] | None = None

    def step(self, table: StepTable, segments: SegmentTable | None, rotation: tuple[Tensor, Tensor]) -> DecoderStep:
        """The same for the same three."""
        known = self._known
        if known is None or known[0] is not table or known[1] is not segments or known[2] is not rotation:
            cos_1Td, sin_1Td = rotation
            step = DecoderStep(table, segments, cos_1Td[0], sin_1Td[0])
            self._known = known = table, segments, rotation, step
        return known[3]


class FusedLayer(nn.Module):
    """x + attention(norm(x)), and to that what its feed-forward part says of its norm.

    In a step of the engine on a CPU one call computes all of it, with the same bits as its parts one by one; these are
    what runs in a forward of any other kind.
    """

    def __init__(self, layer: Any, formula: Formula, linears: tuple[FusedGroup, ...], memo: StepMemo) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = layer.input_layernorm, layer.post_attention_layernorm
        self.self_attn, self.mlp = layer.self_attn, layer.mlp
        self._formula, self._linears, self._memo = formula, linears, memo
        self._active: ActiveLora = linears[0].active
        self._attention: PagedAttention | None = None
        self._operands: DecoderOperands | None = None

    def forward(self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **named: Any) -> Tensor:
        """(1, T, features) to the same."""
        attention = attention_of(self.self_attn)
        if not isinstance(attention, PagedAttention):
            return self._by_parts(hidden_states, position_embeddings, named)
        step = attention.native_step
        if step is None or not self._active.is_native or torch.is_grad_enabled():
            return self._by_parts(hidden_states, position_embeddings, named)
        segments = self._active.segments
        table = self._memo.step(step, None if segments is None else segments.native, position_embeddings)
        if self._operands is None or self._attention is not attention:  # another has another cache
            self._operands, self._attention = self._lay_out(attention, table.rotated), attention
        return self._operands(hidden_states[0], table).unsqueeze(0)

    def _by_parts(self, x: Tensor, rotation: tuple[Tensor, Tensor], named: dict[str, Any]) -> Tensor:
        attended, _ = self.self_attn(self.input_layernorm(x), position_embeddings=rotation, **named)
        x = x + attended
        said: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + said

    def _lay_out(self, attention: PagedAttention, rotated: int) -> DecoderOperands:
        layer, formula = self.self_attn, self._formula
        reading = Reading(
            formula.scaling,
            formula.sliding_window or 0,
            formula.softcap or 0.0,
            _norm_of(layer.q_norm),
            _norm_of(layer.k_norm),
        )
        before, between = _norm_of(self.input_layernorm), _norm_of(self.post_attention_layernorm)
        assert before is not None
        assert between is not None
        linears = [AdaptedLinear(_packed(group), group.bank.operands) for group in self._linears]
        cache = attention.cache_of(layer.layer_idx).operands
        return DecoderOperands((before, between), tuple(linears), cache, reading, rotated)  # type: ignore[arg-type]


def whole_layers(module: nn.Module, formulas: Mapping[int, Formula], memo: StepMemo) -> Iterator[nn.Module]:
    """The module as one call, if it is a decoder layer of those parts."""
    if {name for name, _ in module.named_children()} != _PARTS:
        return
    attention, mlp = module.get_submodule("self_attn"), module.get_submodule("mlp")
    if not isinstance(attention, FusedAttention) or not isinstance(mlp, FusedMlp):
        return
    norms = [module.get_submodule("input_layernorm"), module.get_submodule("post_attention_layernorm")]
    norms += [norm for norm in (attention.q_norm, attention.k_norm) if norm is not None]
    groups = [_group_of(attention if names[0][0] in "qo" else mlp, names) for names in _LINEARS]
    if all(isinstance(norm, FusedNorm) for norm in norms) and all(groups):
        yield FusedLayer(module, formulas[attention.layer_idx], tuple(groups), memo)  # type: ignore[arg-type]


def _group_of(module: nn.Module, names: tuple[str, ...]) -> FusedGroup | None:
    """The one group that these linears are, if the kernels multiply by it."""
    linears = [getattr(module, name) for name in names]
    if not all(isinstance(linear, LoraLinear) for linear in linears):
        return None
    group: FusedGroup = linears[0].group
    is_whole = all(linear.group is group for linear in linears) and len(group.bank.group.parts) == len(names)
    fits = isinstance(group.product, PackedLinear) and group.product.dtype == group.bank.values_V.dtype
    return group if is_whole and fits else None


def _packed(group: FusedGroup) -> PackedLinear:
    assert isinstance(group.product, PackedLinear)
    return group.product


def _norm_of(norm: nn.Module | None) -> Norm | None:
    return norm.formula if isinstance(norm, FusedNorm) else None
