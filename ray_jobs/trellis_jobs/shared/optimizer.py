"""One job's optimizer: it sees the job's own numbers in the bank and nothing else."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from trellis.lora import AdapterBank
from trellis.spec import TrainSpec
from trellis_jobs.schedule import learning_rate
from trellis_jobs.shared.moments import by_module, in_one_piece

_NORM_NUMBERS: Final = 1 << 16
"""Squares are added up over so many numbers at a time: over tens of millions in a row, float32 is off by some thousandths."""


class SlotOptimizer:
    """AdamW over one parameter: a view of all of a slot's numbers, which lie in one piece, with the slot's own clipping.

    The bank holds weights and gradients once; only the two moments are here. The few numbers that fill the piece up
    between its parts are zero, have no gradients, and stay it.
    """

    def __init__(self, bank: AdapterBank, slot: int, spec: TrainSpec) -> None:
        self._bank = bank
        self._slot = slot
        self._spec = spec
        self._start = -1
        self.parameter = nn.Parameter(bank.values_V.detach()[:0])
        """The job's weights in the bank; its `grad`, their gradients there."""
        self.follow()
        self._optimizer = torch.optim.AdamW(
            [self.parameter], lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
        )

    def follow(self) -> None:
        """See the slot's numbers where they are now; to be called whenever the bank may have moved them."""
        start, count = self._bank.slot_range(self._slot)
        if start == self._start:
            return
        gradients_V = self._bank.values_V.grad
        assert gradients_V is not None
        self._start = start
        self.parameter.data = self._bank.values_V.detach()[start : start + count]
        self.parameter.grad = gradients_V[start : start + count]

    def clip(self) -> float:
        """Scale the gradients down to the job's largest norm; the norm that they had, which may not be finite."""
        norm = nn.utils.get_total_norm(self._gradients.split(_NORM_NUMBERS))
        nn.utils.clip_grads_with_norm_(self.parameter, self._spec.max_grad_norm, norm)
        return float(norm)

    def step(self, done: int, total_steps: int) -> float:
        """Change the weights as the step after `done` steps, and clear the gradients; the learning rate."""
        rate = learning_rate(self._spec, done, total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self.clear()
        return rate

    @torch.no_grad()
    def clear(self) -> None:
        """Set the slot's gradients to zero, and no others."""
        self._gradients.zero_()

    def state(self) -> dict[str, Tensor]:
        """Copies of the moments and of the count of steps on the CPU, by module; empty before the first step."""
        state = self._optimizer.state.get(self.parameter)
        return by_module(self._bank, self._slot, state) if state else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what `state` gave. Raises LookupError where a moment is missing, ValueError for another shape."""
        found = in_one_piece(self._bank, self._slot, state)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": {0: found}, "param_groups": groups})

    @property
    def nbytes(self) -> int:
        """Bytes of the job's weights, gradients and moments, as they lie in memory."""
        moments = sum(value.nbytes for state in self._optimizer.state.values() for value in state.values())
        return 2 * self.parameter.nbytes + int(moments)

    @property
    def _gradients(self) -> Tensor:
        assert self.parameter.grad is not None
        return self.parameter.grad


def lora_parameters(bank: AdapterBank, slot: int) -> int:
    """Numbers that a slot trains: A and B of the linears that it adapts."""
    return sum(
        int(rank) * (beside.group.in_features + outs)
        for beside in bank.groups.values()
        for rank, outs in zip(beside.host_ranks_SP[slot], beside.group.out_features, strict=True)
    )


def bytes_per_lora_parameter(bank: AdapterBank, slot: int, optimizer: SlotOptimizer) -> float:
    """Resident bytes of a job for each number that it trains; Adam in float32 needs 16 at the least."""
    return optimizer.nbytes / lora_parameters(bank, slot)
