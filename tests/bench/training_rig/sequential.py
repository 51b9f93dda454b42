"""PEFT as the shared step's peer: every tenant's step, one after another, each on modules of its own.

Shapes: B lines, T positions, V vocabulary.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional

from tests.bench.training_rig.tenant import Tenant


@dataclass
class PlainStep:
    """One tenant's model and optimizer; the base's weights are those of all tenants, so that nothing is switched."""

    model: Any
    parameters: Sequence[Tensor]
    optimizer: torch.optim.Optimizer
    max_grad_norm: float

    @classmethod
    def of(cls, base: Any, tenant: Tenant, learning_rate: float, max_grad_norm: float) -> Self:
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
        optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)
        return cls(model.train(), parameters, optimizer, max_grad_norm)

    def step(self, ids_BT: Tensor) -> float:
        """One step on lines of one length, the first token of which is only read; the mean loss, in nats."""
        logits_BTV = self.model(ids_BT[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits_BTV.float().flatten(0, 1), ids_BT[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

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
    def of(cls, base: Any, tenants: Sequence[Tenant], learning_rate: float, max_grad_norm: float) -> Self:
        """On one base."""
        return cls([PlainStep.of(base, tenant, learning_rate, max_grad_norm) for tenant in tenants])

    def step(self, batches: Sequence[Tensor]) -> list[float]:
        """One step of each tenant on its lines (B, T + 1); their losses."""
        return [one.step(ids_BT) for one, ids_BT in zip(self.steps, batches, strict=True)]
