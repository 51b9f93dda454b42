"""Modules of a loaded model replaced by faster ones, each only when it says the same on what the model shows it.

Tensors' shapes: T tokens of the step, Q query heads, H key-value heads, D head size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trellis.engine.attention import IMPLEMENTATION, Formula, attach, attention_of
from trellis.lora.products import MakeProduct, exact_product, packed_product
from trellis.native import layers, training
from trellis.native.build import available
from trellis.native.decoder import Norm

_TOLERANCE: Final[Mapping[torch.dtype, float]] = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""How far apart, as a share of the length of all that is said: fp32 sums in another order, bf16 rounds elsewhere."""

Kind = Callable[[nn.Module, Mapping[int, Formula]], Iterator[nn.Module]]
"""What may stand for a module, given the attention layers' formulas; the first that says the same does."""


class PackedHead(nn.Module):
    """The output head with its weight as a product wants it: in bfloat16 half the time for the few rows that are wanted.

    Where the head is tied to the embedding this is a second copy, for the embedding is read by rows.
    """

    def __init__(self, head: nn.Linear, make: MakeProduct) -> None:
        super().__init__()
        self._product = make(head.weight.data, getattr(head.bias, "data", None))

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the rows."""
        return self._product(x)


class FusedNorm(nn.Module):
    """RMSNorm (https://arxiv.org/abs/1910.07467) in one pass."""

    def __init__(self, weight: Tensor, eps: float, offset: float) -> None:
        super().__init__()
        self._weight, self._eps, self._offset = weight, eps, offset

    @property
    def formula(self) -> Norm:
        """As the kernels take it."""
        return Norm(self._weight, self._eps, self._offset)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Each row by itself."""
        norm = training.rms_norm if _learns(hidden_states) else layers.rms_norm
        return norm(hidden_states, self._weight, self._eps, offset=self._offset)


class GatedMlp(nn.Module, ABC):
    """A gated feed-forward layer: the gate is applied in one pass, each row by itself."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """Raises ValueError for a dtype that the gate does not take."""
        down: Tensor = self.down_proj(self.gated(self.gate_proj(x), self.up_proj(x)))
        return down

    @abstractmethod
    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """What goes down."""


class FusedMlp(GatedMlp):
    """With SiLU."""

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) · up."""
        gated: Tensor = (training if _learns(gate) else layers).silu_mul(gate, up)
        return gated


class FusedAttention(nn.Module):
    """An attention layer whose queries and keys are turned in place, and go to the cache from where they lie.

    While the model is told to attend in another way than Trellis's, the layer is as it was.
    """

    layer_idx: int
    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    o_proj: nn.Module
    q_norm: nn.Module | None
    k_norm: nn.Module | None

    def __init__(self, attention: Any, formula: Formula) -> None:
        super().__init__()
        self.layer_idx, self._size, self._formula = attention.layer_idx, attention.head_dim, formula
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.o_proj = attention.o_proj
        self.q_norm, self.k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self._plain = (attention,)  # in a tuple, so that its linears are not there a second time

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **named: Any
    ) -> tuple[Tensor, Any]:
        """(1, T, features) to the same."""
        if self._plain[0].config._attn_implementation != IMPLEMENTATION:  # noqa: SLF001 - there is no other way to ask
            plain: tuple[Tensor, Any] = self._plain[0](hidden_states, position_embeddings=position_embeddings, **named)
            return plain
        q_TQD = self.q_proj(hidden_states)[0].unflatten(-1, (-1, self._size))
        k_THD = self.k_proj(hidden_states)[0].unflatten(-1, (-1, self._size))
        v_THD = self.v_proj(hidden_states)[0].unflatten(-1, (-1, self._size))
        if self.q_norm is not None and self.k_norm is not None:
            q_TQD, k_THD = self.q_norm(q_TQD), self.k_norm(k_THD)
        cos_1Td, sin_1Td = position_embeddings
        if _learns(q_TQD):
            q_TQD, k_THD, v_THD = training.rotary(q_TQD, k_THD, v_THD, cos_1Td[0], sin_1Td[0])
        else:
            layers.rotary(q_TQD, k_THD, cos_1Td[0], sin_1Td[0])
        attended_TQD = attention_of(self)(self.layer_idx, q_TQD, k_THD, v_THD, self._formula)
        return self.o_proj(attended_TQD.flatten(1).unsqueeze(0)), None


class _Recorder:
    """Attention that keeps what it is given, and says what it is asked."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def __call__(self, layer: int, q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, formula: Formula) -> Tensor:
        numbers = (layer, formula.scaling, formula.sliding_window or 0, formula.softcap or 0)
        self.given += [q_TQD.float(), k_THD.float(), v_THD.float(), torch.tensor(numbers, dtype=torch.float32)]
        return q_TQD.contiguous()


@dataclass(frozen=True, slots=True)
class _Call:
    """What the model shows a module."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def pack_head(model: PreTrainedModel) -> None:
    """Lay the output head of a model on a CPU out anew, one that is only to infer: in bfloat16 for speed, in float32 so
    that a row's logits do not depend on its place."""
    head = model.get_output_embeddings()
    if model.device.type != "cpu" or type(head) is not nn.Linear:
        return
    if model.dtype == torch.float32:
        _replace(model, head, PackedHead(head, exact_product))
    elif model.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available():
        _replace(model, head, PackedHead(head, packed_product))


@torch.inference_mode()
def fuse(
    model: PreTrainedModel, formulas: Mapping[int, Formula], token_ids: Sequence[int], *, further: Sequence[Kind] = ()
) -> None:
    """Replace what the native kernels compute faster; other modules, and models elsewhere, stay as they are.

    `formulas` are the attention layers', `token_ids` what the modules are tried with, `further` ways to replace modules
    whose parts have been.
    """
    if model.device.type != "cpu" or model.dtype not in _TOLERANCE or not available():
        return
    recorder = _Recorder()
    attach(model, recorder)
    calls = _watch(model, token_ids)
    for kind in (_norms, _mlps, _attentions, *further):  # in this order: an attention layer has norms inside
        for module, call in calls.items():
            for fused in kind(module, formulas):
                attach(fused, recorder)
                if _say_the_same(module, fused, call, recorder, _TOLERANCE[model.dtype]):
                    _replace(model, module, fused)
                    break


def _watch(model: PreTrainedModel, token_ids: Sequence[int]) -> dict[nn.Module, _Call]:
    """Run the tokens and keep what each module is called with."""
    calls: dict[nn.Module, _Call] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[module] = _Call(args, kwargs)

    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in model.modules()]
    model(input_ids=torch.tensor([list(token_ids)]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return calls


def _learns(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


def _norms(module: nn.Module, _: Mapping[int, Formula]) -> Iterator[nn.Module]:
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if type(module).__name__.endswith("RMSNorm") and isinstance(weight, Tensor) and isinstance(eps, float):
        yield FusedNorm(weight.data, eps, 0.0)
        yield FusedNorm(weight.data, eps, 1.0)


def _mlps(module: nn.Module, _: Mapping[int, Formula]) -> Iterator[nn.Module]:
    if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj")):
        yield FusedMlp(module)


def _attentions(module: nn.Module, formulas: Mapping[int, Formula]) -> Iterator[nn.Module]:
    parts = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", "layer_idx")
    if all(hasattr(module, name) for name in parts):
        yield FusedAttention(module, formulas[module.layer_idx])  # type: ignore[index]


def _say_the_same(old: nn.Module, new: nn.Module, call: _Call, recorder: _Recorder, tolerance: float) -> bool:
    kind, said = _all_said(old, call, recorder)
    try:
        kind_anew, said_anew = _all_said(new, call, recorder)
    except (ValueError, TypeError):  # of a shape, a dtype or with an argument that the faster one does not take
        return False
    return (kind, len(said)) == (kind_anew, len(said_anew)) and all(
        a.shape == b.shape and bool((a - b).norm() <= tolerance * a.norm())
        for a, b in zip(said, said_anew, strict=True)
    )


def _all_said(module: nn.Module, call: _Call, recorder: _Recorder) -> tuple[type, list[Tensor]]:
    """What it returns, and what it shows its attention on the way."""
    recorder.given = []
    returned = module(*call.args, **call.kwargs)
    tensors = [returned] if isinstance(returned, Tensor) else [part for part in returned if isinstance(part, Tensor)]
    return type(returned), [*(tensor.float() for tensor in tensors), *recorder.given]


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    path = next(path for path, module in model.named_modules() if module is old)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)
