"""PEFT as the shared step's peer: every tenant's step, one after another, each on modules of its own.

Shapes: B lines, T positions, V vocabulary.
"""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from tests.bench.training_rig.tenant import Hyperparameters, Tenant

Lines = Sequence[Tensor]
"""Token ids (T + 1) of a tenant's lines; the first is only read, all others are learnt."""
_IGNORED = -100


def padded(lines: Lines) -> tuple[Tensor, Tensor]:
    """Lines as inputs and targets (B, T), padded on the right, where causal attention needs no mask."""
    inputs = pad_sequence([ids_T[:-1] for ids_T in lines], batch_first=True)
    return inputs, pad_sequence([ids_T[1:] for ids_T in lines], batch_first=True, padding_value=_IGNORED)


def mean_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Of all tokens that are learnt, in nats."""
    return functional.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), ignore_index=_IGNORED)


@dataclass
class PlainStep:
    """One tenant's model and optimizer; the base's weights are those of all tenants, so that nothing is switched."""

    model: Any
    parameters: Sequence[Tensor]
    optimizer: torch.optim.Optimizer
    max_grad_norm: float
    autocast: AbstractContextManager[Any]

    @classmethod
    def of(cls, base: Any, tenant: Tenant, told: Hyperparameters, autocast: AbstractContextManager[Any]) -> Self:
        """With a new adapter, made by the tenant's seed."""
        own = copy.deepcopy(base, {id(tensor): tensor for tensor in [*base.parameters(), *base.buffers()]})
        torch.manual_seed(tenant.seed)
        config = LoraConfig(
            r=tenant.rank,
            lora_alpha=tenant.alpha,
            lora_dropout=0.0,
            target_modules=list(tenant.targets) or "all-linear",
            task_type="CAUSAL_LM",
        )
        model: Any = get_peft_model(own, config)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=told.learning_rate, weight_decay=0.0, fused=True)
        return cls(model.train(), parameters, optimizer, told.max_grad_norm, autocast)

    def step(self, lines: Lines) -> Tensor:
        """One step; the mean loss, in nats."""
        inputs_BT, targets_BT = padded(lines)
        with self.autocast:
            loss = mean_loss(self.model(inputs_BT, use_cache=False).logits, targets_BT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def weights(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Copies of A (R, I) and B (O, R), by the linear's path."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self.model.named_parameters():
            path, side, rest = name.removeprefix("base_model.model.").partition(".lora_")
            if side:
                found.setdefault(path, {})[rest[0]] = parameter.detach().clone()
        return {path: (sides["A"], sides["B"]) for path, sides in found.items()}


@dataclass
class Sequential:
    """All tenants' steps, one after another."""

    steps: Sequence[PlainStep]

    @classmethod
    def of(
        cls,
        base: Any,
        tenants: Sequence[Tenant],
        told: Hyperparameters,
        autocast: AbstractContextManager[Any] | None = None,
    ) -> Self:
        """On one base, whose numbers are left as they are unless there is an `autocast`."""
        return cls([PlainStep.of(base, tenant, told, autocast or nullcontext()) for tenant in tenants])

    def step(self, batches: Sequence[Lines]) -> list[float]:
        """One step of each tenant on its lines; their losses."""
        losses = [one.step(lines) for one, lines in zip(self.steps, batches, strict=True)]
        return [float(loss) for loss in losses]
