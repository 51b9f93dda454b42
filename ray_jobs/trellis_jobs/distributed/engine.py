"""DeepSpeed's engine around the network: passes, steps, and whole weights out of and into their shards.

Every method is a collective: all workers call it, at the same time and with equal arguments where nothing else is said.
Shapes: N trained tokens of a worker's pass.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

from trellis.spec import TrainSpec
from trellis_jobs.batches import Batch
from trellis_jobs.distributed.network import Scored
from trellis_jobs.distributed.team import Team
from trellis_jobs.loss import TokenLosses

MOMENTS: Final = ("exp_avg", "exp_avg_sq")
_PROBE: Final = Batch(torch.ones(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.long), torch.ones(1, 8))


class Engine:
    """The network, sharded, with its optimizer."""

    def __init__(self, network: Any, spec: TrainSpec, config: Mapping[str, Any], team: Team) -> None:
        scored = Scored(network, team.device)
        trained = [parameter for parameter in scored.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)
        self._engine, *_ = deepspeed.initialize(
            model=scored, model_parameters=trained, optimizer=optimizer, config=dict(config), dist_init_required=False
        )
        self.sharding: object = None
        """What makes transformers shard weights as they are loaded; kept alive here."""
        self.stage: int = self._engine.zero_optimization_stage()
        self.network = network
        self._team = team
        self._trained = {
            name.removeprefix("network."): parameter
            for name, parameter in scored.named_parameters()
            if parameter.requires_grad
        }
        self.train(False)
        with torch.no_grad():  # makes the head's own trial, which must not be the first that DeepSpeed sees of training
            self.losses(_PROBE)

    def losses(self, batch: Batch) -> TokenLosses:
        """Of this worker's pass; with gradients while training."""
        return TokenLosses(*self._engine(batch=batch))

    def logits(self, **inputs: Any) -> torch.Tensor:
        """The network's logits, without gradients."""
        with torch.no_grad():
            return self._engine(**inputs)  # type: ignore[no-any-return]

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradients of a worker's part of the batch's loss; `last` ends the batch."""
        self._engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed takes the mean over workers, where a batch's loss is the sum of their parts.
        self._engine.backward(loss * self._team.size, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clip and step; the norm of the batch's gradients before clipping, not finite if any of them is not."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        found = float("nan") if norm is None else float(norm)
        return float("nan") if found < 0 else found  # DeepSpeed's own mark for a norm that is not finite is -1

    def train(self, mode: bool = True) -> None:
        """Dropout on, or off."""
        self._engine.train(mode)

    def trained_names(self) -> list[str]:
        """The trained weights' names, in the network's order."""
        return list(self._trained)

    def weight(self, name: str) -> torch.Tensor:
        """A trained weight, whole, in fp32."""
        return safe_get_full_fp32_param(self._trained[name])  # type: ignore[no-any-return]

    def moment(self, name: str, key: str) -> torch.Tensor:
        """One of MOMENTS of a trained weight, whole."""
        return safe_get_full_optimizer_state(self._trained[name], key)  # type: ignore[no-any-return]

    def all_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every weight, trained or not, whole, one after the other; trained ones in fp32, others as they lie."""
        for name, parameter in self._engine.module.named_parameters():
            short = name.removeprefix("network.")
            if short in self._trained:
                yield short, self.weight(short)
            else:
                with self._whole(parameter):
                    yield short, parameter.detach()

    def set_weight(self, name: str, value: torch.Tensor) -> None:
        """Replace a trained weight, on all workers by the same value."""
        parameter = self._trained[name]
        if self.stage == 3:
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                parameter.copy_(value)
            # Not the whole at once: DeepSpeed then forgets that a weight is padded to a multiple of the workers.
            safe_set_local_fp32_param(parameter, self._shard(parameter, value))
            return
        with torch.no_grad():
            parameter.copy_(value)
        safe_set_full_fp32_param(parameter, value)

    def set_moment(self, name: str, key: str, value: torch.Tensor) -> None:
        """Replace one of MOMENTS of a trained weight; `begin_moments` comes first."""
        parameter = self._trained[name]
        if self.stage == 3:
            safe_set_local_optimizer_state(parameter, self._shard(parameter, value), key)
        else:
            safe_set_full_optimizer_state(parameter, value, key)

    @contextmanager
    def bare(self) -> Iterator[None]:
        """The network without its adapter inside, and with it again afterwards."""
        kept = {name: self.weight(name) for name in self._trained if ".lora_B." in name}
        for name, weight in kept.items():
            self.set_weight(name, torch.zeros_like(weight))
        try:
            yield
        finally:
            for name, weight in kept.items():
                self.set_weight(name, weight)

    def begin_moments(self, step: int) -> None:
        """Make the optimizer's state as it is after `step` steps; AdamW makes it in its first step only."""
        zero = self._engine.optimizer
        flat = zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups
        for partition in flat:
            zero.optimizer.state[partition] = {
                "step": torch.tensor(float(step), dtype=torch.float32, device=partition.device),
                **{key: torch.zeros_like(partition) for key in MOMENTS},
            }
        if self.stage != 3:
            zero._lazy_init_hp_params_optimizer_state()  # noqa: SLF001  else the setters do not find the state

    def _whole(self, parameter: torch.nn.Parameter) -> Any:
        return deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3)

    def _shard(self, parameter: Any, value: torch.Tensor) -> torch.Tensor:
        size = parameter.ds_tensor.numel()
        padded = torch.zeros(size * self._team.size, dtype=value.dtype, device=value.device)
        padded[: value.numel()] = value.flatten()
        return padded[size * self._team.rank : size * (self._team.rank + 1)]
