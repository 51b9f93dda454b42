"""What comes after a causal model's body, computed for chosen hidden states alone.

Shapes: N chosen positions, D hidden size, V vocabulary.
"""

import copy
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from trellis_jobs.device import Device

_PROBE_TOLERANCE: Final = 1e-3

Tail = Callable[[Tensor], Tensor]
"""(N, D) hidden states to (N, V) logits."""


def tail_of(causal: Any, model: Any, device: Device) -> Tail | None:
    """The output head; or all that the model does after its body, where it scales or caps logits; or None.

    Tried out rather than listed: `model` (which may be a wrapper of `causal`) is shown a few tokens.
    """
    body, head = getattr(causal, causal.base_model_prefix, None), causal.get_output_embeddings()
    if body is None or head is None:
        return None
    training = model.training
    model.eval()
    try:
        return _first_that_says_the_same(causal, model, body, head, device)
    finally:
        model.train(training)


@torch.no_grad()
def _first_that_says_the_same(causal: Any, model: Any, body: Any, head: Any, device: Device) -> Tail | None:
    probe_BT = torch.arange(1, 9, device=device.target)[None]
    with device.autocast:
        whole_NV = model(probe_BT, use_cache=False).logits[0].float()
        hidden_ND = body(probe_BT, use_cache=False).last_hidden_state[0]
        tails: tuple[Tail, ...] = (head, _AfterBody(causal))
        for tail in tails:
            try:
                alone_NV = tail(hidden_ND).float()
            except (TypeError, AttributeError, RuntimeError):  # a model that wants more of its body than hidden states
                continue
            if alone_NV.shape == whole_NV.shape and torch.allclose(
                alone_NV, whole_NV, atol=_PROBE_TOLERANCE, rtol=_PROBE_TOLERANCE
            ):
                return tail
    return None


class _AfterBody:
    """The causal model with its body replaced by one that answers with given hidden states."""

    def __init__(self, causal: Any) -> None:
        self._given = _Given()
        self._causal = copy.copy(causal)
        modules = dict(causal._modules)  # noqa: SLF001 - a copy that shares all modules but one
        modules[causal.base_model_prefix] = self._given
        object.__setattr__(self._causal, "_modules", modules)

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """The logits."""
        self._given.hidden_1ND = hidden_ND.unsqueeze(0)
        try:
            logits_NV: Tensor = self._causal(torch.zeros(1, 1, dtype=torch.int64), use_cache=False).logits[0]
        finally:
            self._given.hidden_1ND = None
        return logits_NV


class _Given(nn.Module):
    """A body that has computed already."""

    hidden_1ND: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPast:
        """What was given."""
        return BaseModelOutputWithPast(last_hidden_state=self.hidden_1ND)
