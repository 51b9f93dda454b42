"""Training: the loop, its budgeted schedule and its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from recipe import Recipe
from stream import TokenStream

Clock = Callable[[], float]


@dataclass(slots=True)
class Progress:
    """How far the training is; `seconds` counts the time of all runs that were resumed into one."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def fraction(self, recipe: Recipe) -> float:
        """Return the share of the budget (of time or tokens, whichever is further) that is used, 0 to 1."""
        return min(1.0, max(self.tokens / recipe.tokens, self.seconds / (60 * recipe.minutes)))


def learning_rate(recipe: Recipe, fraction: float) -> float:
    """Return the learning rate at `fraction` of the training: linear warm-up, then cosine."""
    if fraction < recipe.warmup:
        return recipe.learning_rate * max(fraction / recipe.warmup, 0.01)
    cosine = 0.5 * (1 + math.cos(math.pi * (fraction - recipe.warmup) / (1 - recipe.warmup)))
    low = recipe.final_learning_rate_ratio
    return recipe.learning_rate * (low + (1 - low) * cosine)


def row_tokens(recipe: Recipe, fraction: float) -> int:
    """Return the length of rows, in tokens, at `fraction` of the training."""
    return max((stage for stage in recipe.stages if stage.start <= fraction), key=lambda s: s.start).row_tokens


class Trainer:
    """Trains a model on a stream until the recipe's budget is used up."""

    def __init__(
        self, model: LlamaForCausalLM, stream: TokenStream, recipe: Recipe, device: torch.device, clock: Clock
    ) -> None:
        self.model, self._stream, self._recipe, self._device, self._clock = model, stream, recipe, device, clock
        self.progress = Progress()
        self._optimizer = _optimizer(model, recipe)
        # Compiled once for each row length; 1.4 times as fast on a CPU with bf16.
        self._forward = torch.compile(model, dynamic=False) if recipe.compiled else model

    def steps(self) -> Iterator[float]:
        """Train; yield the loss in nats a token after each step."""
        self.model.train()
        last = self._clock()
        while (fraction := self.progress.fraction(self._recipe)) < 1.0:
            loss = self._step(self._batch(row_tokens(self._recipe, fraction)), learning_rate(self._recipe, fraction))
            now = self._clock()
            self.progress.step += 1
            self.progress.tokens += self._recipe.batch_tokens
            self.progress.seconds += now - last
            last = now
            yield loss

    def _batch(self, length: int) -> Tensor:
        """Return the next (rows, length) token ids."""
        tokens = self._stream.take(self._recipe.batch_tokens).astype(np.int64)
        return torch.from_numpy(tokens).view(-1, length).to(self._device)

    def _step(self, ids_RL: Tensor, rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self._device.type, torch.bfloat16):
            loss: Tensor = self._forward(input_ids=ids_RL, labels=ids_RL, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.gradient_clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def save(self, file: Path) -> None:
        """Write a checkpoint, replacing the last one at once."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "progress": (self.progress.step, self.progress.tokens, self.progress.seconds),
            "stream": (self._stream.epoch, self._stream.offset),
        }
        torch.save(state, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)

    def load(self, file: Path) -> None:
        """Go on from a checkpoint; raises RuntimeError where its shapes are not this model's."""
        state = torch.load(file, map_location=self._device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(*state["progress"])
        self._stream.seek(*state["stream"])


def _optimizer(model: LlamaForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW that decays matrices and leaves norms alone."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)
