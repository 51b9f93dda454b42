"""Runs a base model, with one request's adapter at a time."""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from trellis.bases import BaseFacts
from trellis.engine.adapters import LoadedAdapter, LoraPair

Precision = Literal["auto", "fp32", "bf16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class KeyValues:
    """What the model remembers of one request's tokens; no other request ever reads it."""

    def __init__(self) -> None:
        self.cache = DynamicCache()


class Runner:
    """One copy of a base model for everybody.

    The linears of the base stay as they are; a hook on each adds what the adapter of the request in hand says, computed
    as PEFT does: `y + (x Aᵀ) Bᵀ · alpha / rank` (https://arxiv.org/abs/2106.09685). Each request is run by itself, so
    that its numbers do not depend on its neighbours, be they NaN.
    """

    def __init__(self, model: PreTrainedModel, facts: BaseFacts) -> None:
        self._model = model.eval().requires_grad_(False)
        self._active: Mapping[str, LoraPair] = {}
        self.device = model.device
        for path in facts.linear_shapes:
            model.get_submodule(path).register_forward_hook(partial(self._adapt, path))

    @classmethod
    def load(cls, facts: BaseFacts, *, precision: Precision = "auto", device: str = "cpu") -> Self:
        """Read the base's weights from its folder; `auto` is fp32 on a CPU and the base's own dtype elsewhere."""
        dtype = _DTYPES.get(precision, torch.float32 if device == "cpu" else "auto")
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(facts.path, dtype=dtype, local_files_only=True)
        move: Any = model.to  # its own stub is wrong
        return cls(move(device), facts)

    @torch.inference_mode()
    def next_logits(self, token_ids: tuple[int, ...], key_values: KeyValues, adapter: LoadedAdapter | None) -> Tensor:
        """Show the model these tokens after the ones it remembers; the logits, of shape (vocabulary,), of the next."""
        ids_BT = torch.tensor([token_ids], device=self.device)
        with self._using(adapter):
            answer = self._model(ids_BT, past_key_values=key_values.cache, use_cache=True, logits_to_keep=1)
        logits_V: Tensor = answer.logits[0, -1]
        return logits_V

    @contextlib.contextmanager
    def _using(self, adapter: LoadedAdapter | None) -> Iterator[None]:
        self._active = {} if adapter is None else adapter.pairs
        try:
            yield
        finally:
            self._active = {}

    def _adapt(self, path: str, _module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        pair = self._active.get(path)
        if pair is None:
            return None  # the output stays as it is
        x = inputs[0].to(pair.a_RI.dtype)
        added = functional.linear(functional.linear(x, pair.a_RI), pair.b_OR) * pair.scaling
        return (output + added).to(output.dtype)
